//! The examples for agent frameworks: scripted models, no network, one vault key for each agent.
//!
//! `make test-frameworks` runs them; they need installs that are too large for `make test`.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use keybrake_tests::{Issued, Keybrake, Setup, StandIn, python};
use serde_json::{Value, json};

/// The agents of `examples/frameworks/payments.py`: name, cap in USD, charges in cents, of which the last is refused.
const AGENTS: [(&str, u64, &[u64]); 2] =
    [("billing", 50, &[2000, 2500, 3000]), ("supplies", 10, &[500, 2000])];

fn run(name: &str, keybrake: &Keybrake, keys: &[Issued]) -> Output {
    let example =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../examples/frameworks/{name}_agents.py"));
    let mut command = Command::new(python(&format!("venv-{name}")));
    command.arg("-B").arg(example).stdin(Stdio::null()).current_dir(keybrake.dir());
    command.env("KEYBRAKE_STRIPE_URL", format!("http://{}/stripe", keybrake.proxy()));
    // Settings and memory of a framework go into the test's own directory.
    command.env("HOME", keybrake.dir());
    // Whatever leaves this machine fails.
    for variable in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
        command.env(variable, "http://127.0.0.1:9");
    }
    command.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
    for ((agent, ..), key) in AGENTS.iter().zip(keys) {
        command.env(format!("{}_KEY", agent.to_uppercase()), &key.text);
    }
    command.output().unwrap()
}

/// Each agent spends under its own cap, its model is told of the refusal, and each call has a row with its name.
fn check(name: &str) {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let keybrake = Setup::new(stand_in.url()).with_admin().start();
    let issue = |(agent, cap, _): &(&str, u64, &[u64])| {
        let more = json!({"daily_usd_cap": cap, "label": agent, "metadata": {"agent_id": agent}});
        keybrake.issue_by_admin(&["POST /v1/charges"], &more)
    };
    let keys: Vec<Issued> = AGENTS.iter().map(issue).collect();
    let output = run(name, &keybrake, &keys);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
    // Some frameworks write of their own before it.
    let told: Value = serde_json::from_str(stdout.lines().last().unwrap_or_default())
        .unwrap_or_else(|error| panic!("{error}: {stdout}"));
    for ((agent, cap, charges), key) in AGENTS.iter().zip(&keys) {
        let (refused, paid) = charges.split_last().unwrap();
        let texts: Vec<&str> =
            told[agent].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
        assert_eq!(texts.len(), charges.len(), "{agent}: {texts:#?}");
        for (text, cents) in texts.iter().zip(paid) {
            assert_eq!(*text, format!("charged {cents} cents"), "{agent}");
        }
        let denial = format!(
            "keybrake: daily cap reached: this call may cost ${}.00, ${}.00 of ${cap}.00 is left today",
            refused / 100,
            cap - paid.iter().sum::<u64>() / 100
        );
        assert!(texts.last().unwrap().contains(&denial), "{agent}: {texts:#?}, not {denial}");
        let rows = keybrake.eventually_rows(&key.id, charges.len());
        let results: Vec<&Value> = rows.iter().map(|row| &row["policy_check_result"]).collect();
        assert!(rows.iter().all(|row| row["agent_id"] == *agent), "{rows:#?}");
        let denied = results.iter().filter(|result| **result == "daily_cap_exceeded").count();
        let allowed = results.iter().filter(|result| **result == "allowed").count();
        assert_eq!((allowed, denied), (paid.len(), 1), "{agent}: {results:#?}");
        assert_eq!(keybrake.committed_cents(&key.id), paid.iter().sum::<u64>(), "{agent}");
    }
    assert_eq!(stand_in.requests(), 3, "the vendor saw what was paid");
}

#[test]
fn crewai_agents_are_held_to_their_own_caps() {
    check("crewai");
}

#[test]
fn langgraph_agents_are_held_to_their_own_caps() {
    check("langgraph");
}

#[test]
fn autogen_agents_are_held_to_their_own_caps() {
    check("autogen");
}

#[test]
fn agno_agents_are_held_to_their_own_caps() {
    check("agno");
}
