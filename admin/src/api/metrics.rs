//! `/metrics`: this process's own counters, and the dataplane's as it reports them.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::StatusCode;
use keybrake_proto::control::{Counter, Status};

/// What this process counts.
#[derive(Default)]
pub(super) struct Metrics {
    /// Answers 1xx to 5xx, by the first digit.
    answers: [AtomicU64; 5],
    unauthorized: AtomicU64,
}

impl Metrics {
    /// Counts an answer.
    pub(super) fn count(&self, status: StatusCode) {
        let class = usize::from(status.as_u16()).checked_div(100).and_then(|digit| digit.checked_sub(1));
        if let Some(counter) = class.and_then(|class| self.answers.get(class)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a request whose token was missing or wrong.
    pub(super) fn count_unauthorized(&self) {
        self.unauthorized.fetch_add(1, Ordering::Relaxed);
    }

    /// All counters in Prometheus' text format; `dataplane` is its status, if it answers.
    pub(super) fn text(&self, uptime_s: u64, dataplane: Option<&Status>) -> String {
        let ready = dataplane.is_some_and(|status| status.ready);
        let mut counters = vec![
            number(
                "keybrake_admin_uptime_seconds",
                "Seconds since the admin process started.",
                "gauge",
                uptime_s,
            ),
            number(
                "keybrake_admin_unauthorized_total",
                "Requests with a missing or wrong token.",
                "counter",
                self.unauthorized.load(Ordering::Relaxed),
            ),
            number(
                "keybrake_dataplane_up",
                "Whether the dataplane answers on its control socket.",
                "gauge",
                u64::from(dataplane.is_some()),
            ),
            number(
                "keybrake_dataplane_ready",
                "Whether the dataplane admits requests.",
                "gauge",
                u64::from(ready),
            ),
        ];
        for (counter, class) in self.answers.iter().zip(["1xx", "2xx", "3xx", "4xx", "5xx"]) {
            counters.push(Counter {
                label: Some(("status".to_owned(), class.to_owned())),
                ..number(
                    "keybrake_admin_requests_total",
                    "Answers of the admin API.",
                    "counter",
                    counter.load(Ordering::Relaxed),
                )
            });
        }
        counters.extend(dataplane.into_iter().flat_map(|status| status.counters.iter().cloned()));
        render(&counters)
    }
}

fn number(name: &str, help: &str, kind: &str, value: u64) -> Counter {
    Counter { name: name.to_owned(), help: help.to_owned(), kind: kind.to_owned(), label: None, value }
}

/// The text format, version 0.0.4: all lines of one name together, behind its help and type.
fn render(counters: &[Counter]) -> String {
    let mut text = String::new();
    for (at, first) in counters.iter().enumerate() {
        if counters.iter().take(at).any(|before| before.name == first.name) {
            continue;
        }
        let help = first.help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing to a String has no way to fail.
        writeln!(text, "# HELP {} {help}\n# TYPE {} {}", first.name, first.name, first.kind)
            .unwrap_or_default();
        for counter in counters.iter().filter(|counter| counter.name == first.name) {
            let label = counter.label.as_ref().map(|(name, value)| {
                let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                format!("{{{name}=\"{value}\"}}")
            });
            writeln!(text, "{}{} {}", counter.name, label.unwrap_or_default(), counter.value)
                .unwrap_or_default();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_one_name_stand_together_behind_one_help() {
        let labelled = |name: &str, label: &str| Counter {
            label: Some(("result".to_owned(), label.to_owned())),
            ..number(name, "H\n.", "counter", 1)
        };
        let text = render(&[labelled("a", "x"), number("b", "B.", "gauge", 2), labelled("a", "\"\\")]);
        assert_eq!(
            text,
            "# HELP a H\\n.\n# TYPE a counter\na{result=\"x\"} 1\na{result=\"\\\"\\\\\"} 1\n\
             # HELP b B.\n# TYPE b gauge\nb 2\n"
        );
    }

    #[test]
    fn a_dataplane_that_is_away_is_a_zero() {
        let metrics = Metrics::default();
        metrics.count(StatusCode::NOT_FOUND);
        let text = metrics.text(5, None);
        assert!(text.contains("\nkeybrake_dataplane_up 0\n"), "{text}");
        assert!(text.contains("\nkeybrake_admin_requests_total{status=\"4xx\"} 1\n"), "{text}");
    }
}
