//! `keybrake config check`, `show` and `reload`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use keybrake_proto::config::Config;
use keybrake_proto::control::{ConfigState, ConfigView};
use serde_json::json;

use super::client::Client;
use super::{Connection, Invocation, print, print_json, table};
use crate::config;
use crate::failure::Failure;

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Read the configuration as every process does, and say what is wrong with it.
    #[command(
        after_help = "Examples:\n  keybrake config check\n  keybrake config check other.toml --json\n\nThe exit \
                            status is 2 if the configuration cannot be used."
    )]
    Check {
        /// The file [default: that of --config].
        file: Option<PathBuf>,
    },
    /// Print every value that the file, the environment and the defaults come to.
    #[command(
        after_help = "Examples:\n  keybrake config show\n  keybrake config show --running\n\nNo value of the \
                      configuration is a secret. --running asks the dataplane what is in force, which is another \
                      value than the file's where that was changed and not reloaded, or needs a restart."
    )]
    Show {
        /// What is in force in the running dataplane, in place of what the file says.
        #[arg(long)]
        running: bool,
        #[command(flatten)]
        connection: Connection,
    },
    /// Have the running dataplane read the configuration again, as SIGHUP does.
    #[command(
        after_help = "Examples:\n  keybrake config reload\n  keybrake config check && keybrake config reload\n\nIt \
                      answers when every worker serves its next request by the new values, and names those that need \
                      a restart. The exit status is 1 if the configuration cannot be used: then nothing has changed."
    )]
    Reload(Connection),
}

/// `keybrake config …`.
pub(super) fn run(invocation: &Invocation<'_>, command: &ConfigCommand) -> Result<ExitCode, Failure> {
    match command {
        ConfigCommand::Check { file } => {
            let path = file.as_deref().unwrap_or(invocation.config);
            let config = config::load(path)?;
            config::load_prices(&config)?;
            check(invocation, &config)
        }
        ConfigCommand::Show { running: false, .. } => show(invocation, &config::load(invocation.config)?),
        ConfigCommand::Show { running: true, connection } => {
            let answer = Client::beside_a_bad_file(invocation, connection)?.get("/config")?;
            let view: ConfigView = answer.read()?;
            let config: Config = serde_json::from_value(view.config).map_err(|error| {
                Failure::operation(format_args!(
                    "the answer cannot be read ({error}); are both of one version?"
                ))
            })?;
            show(invocation, &config)
        }
        ConfigCommand::Reload(connection) => reload(invocation, connection),
    }
}

fn check(invocation: &Invocation<'_>, config: &Config) -> Result<ExitCode, Failure> {
    if invocation.json {
        print_json(&json!({
            "ok": true,
            "proxy_listen": config.proxy.listen,
            "proxy_tls": config.proxy.tls.is_some(),
            "admin_listen": config.admin.listen,
            "data_dir": config.data.dir,
            "vendors": config.vendor_names(),
        }))?;
    } else {
        print(&checked(config))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn checked(config: &Config) -> String {
    let facts = table::pairs(&[
        ("agents", format!("{}://{}", config.proxy.scheme(), config.proxy.listen)),
        ("admin", format!("http://{}", config.admin.listen)),
        ("data", config.data.dir.display().to_string()),
        ("vendors", config.vendor_names().join(", ")),
    ]);
    format!("configuration is fine\n{facts}")
}

fn show(invocation: &Invocation<'_>, config: &Config) -> Result<ExitCode, Failure> {
    if invocation.json {
        print_json(&serde_json::to_value(config).map_err(Failure::operation)?)?;
    } else {
        print(&toml::to_string(config).map_err(Failure::operation)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn reload(invocation: &Invocation<'_>, connection: &Connection) -> Result<ExitCode, Failure> {
    // Of a file that does not even say where to ask, the line is the same and so is the status.
    let client = Client::beside_a_bad_file(invocation, connection).map_err(Failure::operation)?;
    let answer = client.post("/config/reload", b"")?;
    if invocation.json {
        print_json(&answer.body)?;
    }
    let view: ConfigView = answer.read()?;
    if !invocation.json {
        print(&reloaded(&view))?;
    }
    Ok(if view.late_workers.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn reloaded(view: &ConfigView) -> String {
    let changed = match view.changed.as_slice() {
        [] => "nothing changed".to_owned(),
        changed => format!("changed: {}", changed.join(", ")),
    };
    let restart = match view.state.needs_restart.as_slice() {
        [] => String::new(),
        fields => format!("needs a restart: {}\n", fields.join(", ")),
    };
    let late = match view.late_workers.len() {
        0 => String::new(),
        late => format!("pending: {late} workers have not answered yet\n"),
    };
    format!("{changed}\n{restart}{late}")
}

/// The configuration in one line.
pub(super) fn summary(state: &ConfigState) -> String {
    let restart = match state.needs_restart.as_slice() {
        [] => String::new(),
        fields => format!("; needs a restart: {}", fields.join(", ")),
    };
    match &state.last_error {
        Some(problem) => format!("NOT RELOADED, in force is that of {}: {problem}{restart}", state.read_at),
        None => format!("of {}{restart}", state.read_at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q30_status_and_reload_say_what_became_of_the_file() {
        let state = ConfigState {
            read_at: "2026-11-21T10:00:00Z".to_owned(),
            last_error: Some("config keybrake.toml: proxy.workers: must be at most 256".to_owned()),
            last_error_at: None,
            needs_restart: vec!["proxy.workers".to_owned(), "data.dir".to_owned()],
        };
        let line = summary(&state);
        for words in ["NOT RELOADED", "proxy.workers: must be", "needs a restart: proxy.workers, data.dir"] {
            assert!(line.contains(words), "{words}: {line}");
        }
        let view = ConfigView {
            state,
            changed: vec!["proxy.idle_timeout_s".to_owned()],
            late_workers: Vec::new(),
            config: json!({}),
        };
        assert_eq!(
            reloaded(&view),
            "changed: proxy.idle_timeout_s\nneeds a restart: proxy.workers, data.dir\n"
        );
    }
}
