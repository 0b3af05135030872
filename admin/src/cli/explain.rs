//! `keybrake explain`: what was decided about one request, and why.

use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;

use super::client::Client;
use super::{Connection, Invocation, print, print_json, table};
use crate::explain::Explanation;
use crate::failure::Failure;

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The request's id, `req_…`: in the reply's Keybrake-Request-Id, or in Request-Id.
    #[arg(value_name = "REQUEST_ID")]
    id: String,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Deserialize)]
struct Explained {
    #[serde(flatten)]
    explanation: Explanation,
}

/// Prints it.
pub(super) fn run(invocation: &Invocation<'_>, arguments: &Explain) -> Result<ExitCode, Failure> {
    let is_id = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if arguments.id.is_empty() || !arguments.id.bytes().all(is_id) {
        return Err(Failure::setup(
            "the id has letters, digits and `_`, such as req_b23972728e52f3b300000002",
        ));
    }
    let client = Client::new(invocation, &arguments.connection)?;
    let answer = client.get(&format!("/audit/explain/{}", arguments.id))?;
    if invocation.json {
        print_json(&answer.body)?;
    } else {
        print(&text(&answer.read::<Explained>()?.explanation))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(explanation: &Explanation) -> String {
    let says = explanation.says.iter().map(|line| format!("{}\n", table::printable(line)));
    let unknown = explanation.unknown.iter().map(|line| format!("not known: {}\n", table::printable(line)));
    says.chain(unknown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p4_an_explanation_drives_no_terminal() {
        let explanation = Explanation { says: vec!["a\u{1b}[2J".to_owned()], unknown: vec!["b".to_owned()] };
        assert_eq!(text(&explanation), "a\u{fffd}[2J\nnot known: b\n");
    }
}
