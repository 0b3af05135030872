//! `keybrake clock` and `keybrake clock confirm`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use keybrake_proto::clock::Deviation;
use keybrake_proto::control::{ClockState, ClockView};

use super::client::Client;
use super::{Connection, Invocation, print, print_json, table};
use crate::failure::Failure;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct ClockArguments {
    #[command(subcommand)]
    command: Option<ClockCommand>,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Subcommand)]
enum ClockCommand {
    /// Accept the system clock as it is: calls that cost money go on.
    #[command(
        after_help = "Examples:\n  keybrake clock confirm\n\nMoney then counts on the system clock's day, or on the day \
                      it counted on last, whichever is later: a day never goes back. Look at `date -u` first."
    )]
    Confirm(Connection),
}

/// `keybrake clock …`.
pub(super) fn run(invocation: &Invocation<'_>, arguments: &ClockArguments) -> Result<ExitCode, Failure> {
    let answer = match &arguments.command {
        None => Client::new(invocation, &arguments.connection)?.get("/clock")?,
        Some(ClockCommand::Confirm(connection)) => {
            Client::new(invocation, connection)?.post("/clock/confirm", b"")?
        }
    };
    if invocation.json {
        print_json(&answer.body)?;
    }
    let view: ClockView = answer.read()?;
    if !invocation.json {
        print(&table::pairs(&rows(&view)))?;
    }
    Ok(if view.state == ClockState::Ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn rows(view: &ClockView) -> Vec<(&'static str, String)> {
    let mut rows = vec![
        ("state", summary(view)),
        ("system clock", view.wall.clone()),
        ("expected", format!("{}, so it is {}", view.expected, deviation(view))),
        ("day", format!("{}, ends {}", view.day, view.resets_at)),
    ];
    if let Some(since) = &view.since {
        rows.push(("since", since.clone()));
    }
    if view.why.as_deref() == Some("seen_ahead") {
        rows.push(("latest seen", format!("{}: keys that expire before it have expired", view.latest_seen)));
    }
    rows
}

fn deviation(view: &ClockView) -> String {
    format!("{} where it should be", Deviation(view.deviation_us))
}

/// The clock in one line.
pub(super) fn summary(view: &ClockView) -> String {
    let why = match view.why.as_deref() {
        None => return "ok".to_owned(),
        Some("step_forward" | "step_back") => "the system clock was stepped",
        Some("between_midnights") => "the day is over by one of both clocks only; wait",
        Some("not_recorded") => "the new day is not on disk yet",
        Some("seen_ahead") => "the system clock was ahead once, and keys expired by it",
        Some(_) => "this version does not know why",
    };
    let what = match view.state {
        ClockState::Ok => "ok",
        ClockState::Deviating => "money goes on, but the next day does not begin",
        ClockState::Suspended => "SUSPENDED, calls that cost money are refused",
    };
    let what = if view.why.as_deref() == Some("seen_ahead") { "money goes on" } else { what };
    format!("{what}: {why}; set it right, or run `keybrake clock confirm`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_stands_in_one_line_with_what_to_do() {
        let view = |state, why: Option<&str>| ClockView {
            state,
            why: why.map(str::to_owned),
            since: None,
            wall: "2026-11-23T10:00:00Z".to_owned(),
            expected: "2026-11-21T10:00:00Z".to_owned(),
            deviation_us: 172_800_000_000,
            day: "2026-11-21".to_owned(),
            resets_at: "2026-11-22T00:00:00Z".to_owned(),
            latest_seen: "2026-11-23T10:00:00Z".to_owned(),
        };
        assert_eq!(summary(&view(ClockState::Ok, None)), "ok");
        let suspended = view(ClockState::Suspended, Some("step_forward"));
        let text = table::pairs(&rows(&suspended));
        for words in
            ["SUSPENDED", "was stepped", "`keybrake clock confirm`", "2 d 0 h ahead of where it should be"]
        {
            assert!(text.contains(words), "{words}: {text}");
        }
        let text = table::pairs(&rows(&view(ClockState::Deviating, Some("seen_ahead"))));
        assert!(text.contains("keys that expire before it have expired"), "{text}");
    }
}
