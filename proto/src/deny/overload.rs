//! Refusals because too much is asked at once: of this process, under one key, or from one address.

use std::fmt;

/// Too much at once (rules G2, G3, G5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overload {
    /// All memory for bodies is in use.
    Memory,
    /// So many requests of the key, or of one above it, run already.
    Key {
        /// The most at once.
        most: u64,
    },
    /// Too many requests without a valid key came from the address.
    WrongKeys,
}

impl Overload {
    /// The HTTP status: only a lack of memory is the process' own.
    pub(super) fn status(self) -> u16 {
        match self {
            Overload::Memory => 503,
            Overload::Key { .. } | Overload::WrongKeys => 429,
        }
    }

    /// The stable code.
    pub(super) fn code(self) -> &'static str {
        match self {
            Overload::Memory => "memory_exhausted",
            Overload::Key { .. } => "too_many_requests_at_once",
            Overload::WrongKeys => "too_many_wrong_keys",
        }
    }
}

impl fmt::Display for Overload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Overload::Memory => f.write_str(
                "keybrake: the memory for request bodies is in use. Nothing was sent to the vendor; try again.",
            ),
            Overload::Key { most } => write!(
                f,
                "keybrake: {most} requests of this key, or of one above it, run already. Nothing was sent to the \
                 vendor; try again when one has ended."
            ),
            Overload::WrongKeys => f.write_str(
                "keybrake: too many requests without a valid vault key came from this address. Ask the operator for \
                 a new key.",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deny::Deny;
    use crate::time::UnixMicros;

    fn check(overload: Overload, expected: (u16, &str, Option<u64>), never_retry: bool, name: &str) {
        let denial = Deny::Overload(overload).denial(UnixMicros(0), "");
        assert_eq!((denial.status, denial.code, denial.retry_after_s), expected);
        assert_eq!(denial.never_retry, never_retry, "rule Q25");
        let mut body = Vec::new();
        denial.write_body(&mut body);
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["name"], name, "{body}");
    }

    #[test]
    fn g2_g3_g5_each_overload_has_its_status_and_code_and_says_when_to_come_again() {
        check(Overload::Memory, (503, "memory_exhausted", Some(1)), false, "application_error");
        let rate = "rate_limit_exceeded";
        check(Overload::Key { most: 7 }, (429, "too_many_requests_at_once", Some(1)), true, rate);
        check(Overload::WrongKeys, (429, "too_many_wrong_keys", Some(1)), true, rate);
    }
}
