//! Why a command ends: one line for the operator and an exit status.

use std::fmt;

/// What could not be done.
const STATUS_OPERATION: u8 = 1;

/// A wrong command line or configuration, or a process that cannot start with it.
pub(crate) const STATUS_SETUP: u8 = 2;

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

/// Puts a text of several lines into one. The source excerpts of TOML's errors are left out: the
/// first line already names the line and the column.
fn one_line(text: &str) -> String {
    let is_excerpt = |line: &str| {
        let behind_number = line.trim_start().trim_start_matches(|digit: char| digit.is_ascii_digit());
        behind_number.trim_start().starts_with('|')
    };
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !is_excerpt(line))
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    lines.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_toml_error_becomes_one_line_that_names_the_place() {
        let text =
            "TOML parse error at line 2, column 1\n  |\n2 | listen_on = 1\n  | ^^^^^^^^^\nunknown field";
        assert_eq!(one_line(text), "TOML parse error at line 2, column 1: unknown field");
        assert_eq!(one_line("plain"), "plain");
    }
}
