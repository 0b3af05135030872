//! The month's quota as operators see it.

use keybrake_proto::control::{Counter, RequestsView};

use super::Control;
use crate::requests::OfMonth;

impl Control {
    /// How much of the quota is used; `None` where there is none.
    pub(super) fn requests_of_month(&self) -> Option<RequestsView> {
        let monthly_max = self.settings.load().config.requests.monthly_max?;
        // The agreed day decides, also where nothing was sent yet in its month (rule Q10).
        let OfMonth { month, count } = self.requests.read().plus(self.clock.day().month(), 0);
        let resets_at = month.end().to_string();
        Some(RequestsView { month: month.to_string(), sent: count, monthly_max, resets_at })
    }

    /// For `/metrics`, where there is a quota.
    pub(super) fn request_counters(&self) -> Vec<Counter> {
        let Some(view) = self.requests_of_month() else { return Vec::new() };
        let gauge = |name: &str, help: &str, value| Counter {
            name: format!("keybrake_requests_{name}"),
            help: help.to_owned(),
            kind: "gauge".to_owned(),
            label: None,
            value,
        };
        vec![
            gauge("of_month", "Requests that were sent to vendors this UTC month.", view.sent),
            gauge("monthly_max", "The most that may be sent in a month.", view.monthly_max),
        ]
    }
}
