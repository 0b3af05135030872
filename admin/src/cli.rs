//! The command line: what there is, and which module does it.

mod audit;
mod client;
mod clock;
mod config;
mod doubt;
mod drill;
mod explain;
mod key;
mod master_key;
mod price;
mod revoke;
mod run;
mod status;
mod table;
mod token;
mod vendor;

use std::ffi::OsString;
use std::io::{self, ErrorKind, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config as configuration;
use crate::failure::Failure;
use crate::{api, supervisor};

/// The proxy between AI agents and the APIs that move money: the operator's tool.
#[derive(Debug, Parser)]
#[command(
    name = "keybrake",
    version,
    arg_required_else_help = true,
    after_help = "Examples:\n  keybrake up\n  keybrake key issue --vendor stripe --allow \"POST /v1/charges\" \
                  --daily-usd-cap 50\n  keybrake audit list --result denied --since 1h\n\nExit status: 0 done, 1 \
                  refused or failed, 2 wrong command line or configuration, 3 a revoke is pending."
)]
pub(crate) struct Cli {
    /// The configuration file.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "KEYBRAKE_CONFIG",
        default_value = "keybrake.toml"
    )]
    config: PathBuf,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the dataplane and the admin process, and keep both running.
    #[command(
        after_help = "Examples:\n  keybrake up\n  keybrake up --config /etc/keybrake/keybrake.toml\n\nSIGTERM \
                            and Ctrl-C drain and stop both; a second Ctrl-C kills them. A process that dies is \
                            started again.\nSIGUSR2 restarts both without refusing a connection: for an upgrade, or a \
                            new configuration.\n`kill -9` of this process leaves both running: stop them by their own \
                            process ids."
    )]
    Up,
    /// Serve the admin API; `keybrake up` does so already.
    #[command(
        after_help = "Examples:\n  keybrake admin\n  KEYBRAKE_ADMIN__LISTEN=127.0.0.1:9081 keybrake admin\n\n\
                            The token is KEYBRAKE_ADMIN_TOKEN, else data.dir/admin.token, made at the first start."
    )]
    Admin,
    /// Issue, list, show and revoke vault keys.
    #[command(
        subcommand,
        after_help = "Examples:\n  keybrake key issue --vendor stripe --allow \"POST /v1/charges\" --daily-usd-cap \
                      50\n  keybrake key list\n  keybrake key revoke vk_0123456789abcdef"
    )]
    Key(key::KeyCommand),
    /// Stop many keys at once, for good: by label, run, subtree, vendor or id, or all of them.
    #[command(
        after_help = "Examples:\n  keybrake revoke --label billing\n  keybrake revoke --run run_42 --cut\n  \
                            keybrake revoke --all --yes\n  keybrake revoke vk_0123456789abcdef \
                            vk_fedcba9876543210\n\nExit status: 0 revoked, acknowledged by every worker and on disk; 1 \
                            failed; 2 wrong command line; 3 pending: closed or recorded, and not acknowledged."
    )]
    Revoke(revoke::RevokeArguments),
    /// Measure a revoke on the running system with keys of its own.
    #[command(
        after_help = "Examples:\n  keybrake drill\n  keybrake drill --keys 200 --json\n\nIt issues keys that \
                            nobody can use, revokes each, and prints the microseconds until it was closed, \
                            acknowledged by every worker, and answered.\nThe exit status is 1 unless every revoke \
                            was acknowledged and is on disk."
    )]
    Drill(drill::Drill),
    /// Read the audit.
    #[command(
        subcommand,
        after_help = "Examples:\n  keybrake audit list --since 1h\n  keybrake audit query --saved spend-by-agent\n  keybrake audit tail --denied"
    )]
    Audit(audit::AuditCommand),
    /// Say what was decided about a request, by which rule, on which figures, and what its key has left.
    #[command(after_help = "Examples:\n  keybrake explain req_b23972728e52f3b300000002\n  keybrake explain \
                            req_b23972728e52f3b300000002 --json\n\nThe id is in the reply: Keybrake-Request-Id, or Request-Id \
                            of keybrake's own answers. What is not recorded is said too.")]
    Explain(explain::Explain),
    /// Show whether both processes are up, and where agents connect.
    #[command(
        after_help = "Examples:\n  keybrake status\n  keybrake status --json\n\nThe exit status is 1 unless \
                            everything is up and ready."
    )]
    Status(Connection),
    /// List calls whose outcome is not known, and say what they came to.
    #[command(
        subcommand,
        after_help = "Examples:\n  keybrake doubt list\n  keybrake doubt settle d000000000000002a --usd 12.50\n  keybrake \
                      doubt void d000000000000002a"
    )]
    Doubt(doubt::DoubtCommand),
    /// Show the system clock as the guard of the day sees it, or accept it.
    #[command(
        after_help = "Examples:\n  keybrake clock\n  keybrake clock confirm\n\nThe exit status is 1 unless the \
                            system clock is where it should be."
    )]
    Clock(clock::ClockArguments),
    /// Run a program whose SDKs use vault keys, without a change in it.
    #[command(
        after_help = "Examples:\n  keybrake run --key-file agent.key -- python agent.py\n  keybrake run --key-file \
                            stripe=billing.key --key-file twilio=sms.key -- node agent.mjs\n  keybrake run --issue \
                            policy.json -- python agent.py\n\nThe official SDKs of Stripe, Twilio and Resend for Python \
                            and Node reach the proxy: by variables, and by start-up shims in PYTHONPATH and \
                            NODE_OPTIONS.\nOther users of this machine see a key on the command line; in a file, on \
                            standard input or in KEYBRAKE_VAULT_KEY they do not.\nSignals go to the program. The exit \
                            status is the program's; 127 where it is not found, 126 where it cannot be started."
    )]
    Run(run::Run),
    /// Print the variables that `run` sets, for `eval` in a shell.
    #[command(
        after_help = "Examples:\n  eval \"$(keybrake env --key-file agent.key)\"\n  keybrake env --key-file agent.key \
                            --shims ./keybrake-shims --json\n\nThe output holds the vault keys."
    )]
    Env(run::Env),
    /// List vendors, and set or replace their credentials without touching agents.
    #[command(
        subcommand,
        after_help = "Examples:\n  keybrake vendor list\n  keybrake vendor rotate stripe < new.secret\n  keybrake vendor \
                      add stripe --account eu --credential-file eu.secret"
    )]
    Vendor(vendor::VendorCommand),
    /// Check the configuration, show its values, or have it read again.
    #[command(
        subcommand,
        after_help = "Examples:\n  keybrake config check\n  keybrake config show\n  keybrake config reload"
    )]
    Config(self::config::ConfigCommand),
    /// Show how a call would be priced.
    #[command(
        subcommand,
        after_help = "Examples:\n  keybrake price explain POST /stripe/v1/charges --body 'amount=2000&currency=gbp'"
    )]
    Price(price::PriceCommand),
    /// Replace the master key, which seals the vendors' credentials.
    #[command(subcommand, after_help = "Examples:\n  keybrake master-key rotate")]
    MasterKey(master_key::MasterKeyCommand),
    /// Say where the first admin token is; make, list, rotate and revoke others.
    #[command(
        after_help = "Examples:\n  keybrake token\n  export KEYBRAKE_ADMIN_TOKEN=$(keybrake token --show)\n  keybrake token \
                      create on-call --scope revoke --expires 30d\n  keybrake token list"
    )]
    Token(token::TokenArguments),
}

/// How a client command reaches the admin API.
#[derive(Debug, Clone, Args)]
struct Connection {
    /// The admin API [default: admin.listen of the configuration].
    #[arg(long, value_name = "http://HOST:PORT")]
    url: Option<String>,
    /// The file with the admin token; KEYBRAKE_ADMIN_TOKEN goes before it [default: data.dir/admin.token].
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// What holds for every command.
struct Invocation<'a> {
    config: &'a std::path::Path,
    json: bool,
}

/// Reads the command line. Help and version are printed here, and end the process.
pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Cli, Failure> {
    Cli::try_parse_from(arguments).map_err(|error| {
        if !error.use_stderr()
            || error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        {
            error.exit();
        }
        let text = error.render().to_string();
        // clap's own text, without the usage behind it, in one line as every other error.
        let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
        let said = lines.filter(|line| !line.is_empty() && !line.starts_with("For more information"));
        let said = said.collect::<Vec<&str>>().join(" ");
        Failure::setup(format_args!("{}; see --help", said.trim_start_matches("error: ")))
    })
}

/// Carries out the command; its exit status.
pub(crate) fn run(cli: &Cli) -> Result<ExitCode, Failure> {
    let invocation = Invocation { config: &cli.config, json: cli.json };
    match &cli.command {
        Command::Up => supervisor::up(&cli.config, &configuration::load(&cli.config)?),
        Command::Admin => api::serve(&configuration::load(&cli.config)?).map(|()| ExitCode::SUCCESS),
        Command::Key(command) => key::run(&invocation, command),
        Command::Revoke(arguments) => revoke::run(&invocation, arguments),
        Command::Drill(arguments) => drill::run(&invocation, arguments),
        Command::Audit(command) => audit::run(&invocation, command),
        Command::Explain(arguments) => explain::run(&invocation, arguments),
        Command::Status(connection) => status::status(&invocation, connection),
        Command::Doubt(command) => doubt::run(&invocation, command),
        Command::Clock(arguments) => clock::run(&invocation, arguments),
        Command::Run(arguments) => run::run(&invocation, arguments),
        Command::Env(arguments) => run::env(&invocation, arguments),
        Command::Vendor(command) => vendor::run(&invocation, command),
        Command::Config(command) => self::config::run(&invocation, command),
        Command::Price(command) => price::run(&invocation, command),
        Command::MasterKey(command) => master_key::run(&invocation, command),
        Command::Token(arguments) => token::run(&invocation, arguments),
    }
}

/// Writes to standard output. A reader that went away, such as `head`, has had enough.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| Failure::operation(format_args!("cannot write the output: {error}"))),
    }
}

/// Writes one JSON value and a line end.
fn print_json(value: &serde_json::Value) -> Result<(), Failure> {
    // On a terminal a person reads it.
    let text = if io::stdout().is_terminal() {
        serde_json::to_string_pretty(value)
    } else {
        serde_json::to_string(value)
    };
    print(&format!("{}\n", escaped(&text.map_err(Failure::operation)?)))
}

/// JSON that drives no terminal: what one would obey stands inside strings, where an escape means
/// the same to every reader. The line breaks of pretty printing stay.
fn escaped(json: &str) -> String {
    let escape = |c: char| match c {
        '\n' => c.to_string(),
        c if table::is_obeyed(c) => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    };
    json.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn p4_json_drives_no_terminal_and_reads_back() {
        let value = serde_json::json!({"user_agent": "x\u{9b}31m\u{202e}y\u{1b}[2J"});
        let text = escaped(&serde_json::to_string(&value).unwrap());
        assert!(!text.chars().any(table::is_obeyed), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    #[test]
    fn a_wrong_command_line_is_one_line() {
        let failure = |line: &str| parse(line.split(' ').map(OsString::from)).unwrap_err();
        for (line, words) in [
            ("keybrake key issue --vendor stripe", "not provided: --allow <RULE>"),
            ("keybrake key issue --vendor stripe --allow GET", "write a method"),
            ("keybrake key issue --vendr stripe", "--vendor"),
            ("keybrake key revoke vk_1", "not a key id"),
            ("keybrake key show", "not provided: <ID>"),
            ("keybrake revoke", "not provided"),
            ("keybrake revoke --label a --all", "cannot be used with"),
            ("keybrake drill --keys 0", "1..=1000"),
            ("keybrake nothing", "'nothing'"),
            ("keybrake token create ci", "--scope <SCOPE>"),
            ("keybrake token create ci --scope all", "read-audit, issue, revoke"),
            ("keybrake token create CI --scope issue", "a-z"),
            ("keybrake token create ci --scope issue --expires soon", "30d"),
            ("keybrake audit list --since tomorrow", "write 15m"),
        ] {
            let failure = failure(line);
            let text = failure.to_string();
            assert!(failure.status == 2 && text.contains(words) && text.ends_with("; see --help"), "{text}");
            assert!(!text.contains('\n') && !text.starts_with("error"), "{text}");
        }
    }

    #[test]
    fn every_command_is_sound_and_has_examples() {
        fn check(command: &clap::Command) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.starts_with("Examples:\n  "), "{}: {help}", command.get_name());
            command.get_subcommands().for_each(check);
        }
        Cli::command().debug_assert();
        check(&Cli::command());
    }
}
