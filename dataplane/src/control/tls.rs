//! What operators see of the certificate that agents are shown.

use keybrake_proto::control::{Counter, TlsView};

use crate::tls::AgentTls;

/// For `keybrake status`.
pub(super) fn view(tls: &AgentTls) -> TlsView {
    TlsView { expires_at: tls.expires_at(), failing: tls.is_failing() }
}

/// For `/metrics`.
pub(super) fn counters(tls: &AgentTls) -> Vec<Counter> {
    let number = |name: &str, kind: &str, help: &str, value: u64| Counter {
        name: format!("keybrake_tls_{name}"),
        help: help.to_owned(),
        kind: kind.to_owned(),
        label: None,
        value,
    };
    let expires = tls.expires_at().map(|at| {
        let help = "When the certificate that agents are shown expires, in seconds since 1970.";
        number("certificate_expires_seconds", "gauge", help, at.as_seconds())
    });
    let reloads = "Times the certificate was read again.";
    let failing =
        "1 while the files of the certificate cannot be used, so that what was read before is in force.";
    let others = [
        number("certificate_reloads_total", "counter", reloads, tls.reloads()),
        number("certificate_failing", "gauge", failing, u64::from(tls.is_failing())),
    ];
    expires.into_iter().chain(others).collect()
}
