//! Why a command ends: one line for the operator and an exit status.

use std::fmt;

/// What could not be done.
const STATUS_OPERATION: u8 = 1;

/// A wrong command line or configuration, or a process that cannot start with it.
pub(crate) const STATUS_SETUP: u8 = 2;

/// A revoke that is not acknowledged: closed or recorded, and to be repeated.
pub(crate) const STATUS_PENDING: u8 = 3;

/// One line that says what is wrong and what to do, and the exit status that goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The exit status.
    pub(crate) status: u8,
    message: String,
}

impl Failure {
    /// The command was understood and could not be carried out.
    pub(crate) fn operation(message: impl fmt::Display) -> Failure {
        Failure { status: STATUS_OPERATION, message: one_line(&message.to_string()) }
    }

    /// The command line, the configuration or the machine has to change first.
    pub(crate) fn setup(message: impl fmt::Display) -> Failure {
        Failure { status: STATUS_SETUP, message: one_line(&message.to_string()) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Puts a text of several lines into one.
fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_lines_become_one() {
        assert_eq!(
            one_line(
                "cannot start:
  the port is taken

"
            ),
            "cannot start:: the port is taken"
        );
        assert_eq!(one_line("plain"), "plain");
    }
}
