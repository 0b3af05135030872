//! `keybrake run` and `keybrake env`: programs that know nothing of keybrake, with vault keys.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use keybrake_tests::{
    Chain, Guest, Keybrake, Process, SECRET, Sdk, Setup, Vendor, eventually, get, json_of, node_module,
    script, sdk_environment, whole,
};
use serde_json::json;

/// Well-formed, as the checksum says, and of no keybrake.
fn a_key() -> String {
    keybrake_proto::key::mint(|bytes| bytes.fill(7))
}

/// `keybrake run` with these arguments and the program behind them.
fn run_command(keybrake: &Keybrake, arguments: &[&str], program: &[&str]) -> Command {
    let mut command = keybrake.cli_command(&[&["run"], arguments, &["--"], program].concat());
    sdk_environment(&mut command);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A file with a key in the keybrake's own directory.
fn key_file(keybrake: &Keybrake, name: &str, content: &str) -> String {
    let path = keybrake.dir().join(name);
    std::fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

fn python_words(code: &str) -> Vec<String> {
    ["python3", "-c", code].map(str::to_owned).to_vec()
}

fn words(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// Runs `published.py` with its base URL at the relay, while `keybrake run` knows keybrake's own address: so it shows
/// which of the two counted.
fn pays_by(chain: &Chain, sdk: Sdk, line: &str) {
    let key = chain.keybrake.issue_by_admin(&["POST /v1/payment_intents"], &json!({"daily_usd_cap": 20}));
    let file = key_file(&chain.keybrake, "agent.key", &key.text);
    let program = [sdk.words("published"), vec![line.to_owned(), chain.base("/stripe/v1/")]].concat();
    let before = chain.agents.requests().len();
    let paid = json_of(&mut run_command(&chain.keybrake, &["--key-file", &file], &words(&program)));
    assert_eq!(paid, json!({"intent": 2000}), "{line} with {sdk:?}");
    assert_eq!(chain.keybrake.committed_cents(&key.id), 2000, "{line} with {sdk:?}");
    let names_a_base = !line.starts_with("default");
    let requests = chain.agents.requests();
    assert_eq!(requests.len() - before, usize::from(names_a_base), "{line} with {sdk:?}: {requests:#?}");
}

#[test]
fn the_published_lines_for_stripe_python_work_word_for_word() {
    let chain = Chain::of_stripe(Guest::localstripe);
    for (sdk, lines) in [
        (Sdk::StripePython16, &["client", "default client", "module", "default"][..]),
        (Sdk::StripePython7, &["module", "default"]),
        (Sdk::StripePython2, &["module", "default"]),
    ] {
        for line in lines {
            pays_by(&chain, sdk, line);
        }
    }
}

#[test]
fn without_the_shims_the_published_lines_do_not_reach_keybrake() {
    let chain = Chain::of_stripe(Guest::localstripe);
    let key = chain.keybrake.issue_by_admin(&["POST /v1/payment_intents"], &json!({}));
    let file = key_file(&chain.keybrake, "agent.key", &key.text);
    let base = chain.base("/stripe/v1/");
    let program = [Sdk::StripePython16.words("published"), vec!["client".to_owned(), base]].concat();
    let output = run_command(&chain.keybrake, &["--no-shims", "--key-file", &file], &words(&program))
        .output()
        .unwrap();
    assert!(!output.status.success(), "{output:?}");
    assert!(text(&output.stderr).contains("unexpected keyword argument 'base_url'"), "{output:?}");
    assert_eq!(chain.agents.requests(), Vec::<String>::new());
}

/// `pay.cjs` wants more rights than one intent.
fn node_pays(chain: &Chain, sdk: Sdk, way: &str) {
    let key = chain.keybrake.issue_by_admin(&["POST /v1/**", "GET /v1/**"], &json!({"daily_usd_cap": 40}));
    let file = key_file(&chain.keybrake, "agent.key", &key.text);
    let arguments = ["--key-file", file.as_str(), "--proxy", &chain.base("")];
    let program = [sdk.words("pay"), vec![way.to_owned(), String::new(), key.text.clone()]].concat();
    let paid = json_of(&mut run_command(&chain.keybrake, &arguments, &words(&program)));
    assert_eq!(paid["refunded"], 500, "{paid}");
    assert_eq!(chain.keybrake.committed_cents(&key.id), 4000, "{sdk:?}");
}

#[test]
fn stripe_node_reaches_keybrake_without_a_change() {
    let chain = Chain::of_stripe(Guest::localstripe);
    for sdk in [Sdk::StripeNode14, Sdk::StripeNode23] {
        node_pays(&chain, sdk, "default");
        node_pays(&chain, sdk, "default fetch");
    }
    let lines = chain.agents.requests();
    assert!(
        lines.iter().all(|line| line.contains(" /stripe/v1/") || line == "GET /vault/keys/self"),
        "{lines:#?}"
    );
}

#[test]
fn stripe_node_as_a_module_and_https_by_name_reach_keybrake() {
    let chain = Chain::of_stripe(Guest::localstripe);
    for (path, key) in
        [("stripe-14/esm/stripe.esm.node.js", "14"), ("stripe-23/esm/stripe.esm.node.js", "23")]
    {
        let stripe = node_module("sdks", path);
        assert!(stripe.exists(), "{key}: {}", stripe.display());
        let key = chain.keybrake.issue_by_admin(
            &["POST /v1/payment_intents", "GET /v1/payment_intents/*"],
            &json!({"daily_usd_cap": 20}),
        );
        let file = key_file(&chain.keybrake, "agent.key", &key.text);
        let program =
            [keybrake_tests::node(), script("esm.mjs"), stripe].map(|path| path.to_str().unwrap().to_owned());
        let program = [&program[..], std::slice::from_ref(&key.text)].concat();
        let arguments = ["--key-file", file.as_str(), "--proxy", &chain.base("")];
        let paid = json_of(&mut run_command(&chain.keybrake, &arguments, &words(&program)));
        assert_eq!(paid, json!({"intent": 2000, "status": 200}));
    }
}

/// What each of Twilio's hosts is at the proxy.
const PRODUCTS: [&str; 5] = [
    "POST /twilio/2010-04-01/Accounts/AC00000000000000000000000000000000/Messages.json",
    "POST /twilio/verify/v2/Services/VA00000000000000000000000000000000/Verifications",
    "GET /twilio/lookups/v2/PhoneNumbers/+15551234567",
    "GET /twilio/messaging/v1/Services/MG00000000000000000000000000000000",
    "GET /twilio/2010-04-01/Accounts/AC00000000000000000000000000000000/Messages/\
     SM00000000000000000000000000000000.json",
];

#[test]
fn every_product_of_twilio_reaches_the_proxy() {
    use base64::Engine as _;
    let refusal = r#"{"code": 20003, "message": "no", "more_info": "x", "status": 403}"#;
    let key = a_key();
    for sdk in [Sdk::TwilioPython9, Sdk::TwilioNode4, Sdk::TwilioNode6] {
        let proxy = Vendor::start(move |_, out| out.write_all(&whole(403, refusal)));
        let keybrake = Setup::new("http://127.0.0.1:9").prepare();
        let file = key_file(&keybrake, "twilio.key", &key);
        let (file, url) = (format!("twilio={file}"), proxy.url());
        let program = sdk.words("products");
        let mut command = run_command(&keybrake, &["--key-file", &file, "--proxy", &url], &words(&program));
        // What would lead elsewhere.
        command
            .env("TWILIO_ACCOUNT_SID", "AC11111111111111111111111111111111")
            .env("TWILIO_AUTH_TOKEN", SECRET);
        command
            .env("TWILIO_REGION", "ie1")
            .env("HTTPS_PROXY", "http://127.0.0.1:9")
            .env("HTTP_PROXY", "http://127.0.0.1:9");
        let errors = json_of(&mut command);
        assert_eq!(errors, json!(vec![("TwilioRestException", 403); 5]), "{sdk:?}");
        let seen = proxy.seen();
        let lines: Vec<String> = seen.iter().map(|one| one.line.replace("%2B", "+")).collect();
        assert_eq!(lines, PRODUCTS, "{sdk:?}");
        let basic = format!("AC00000000000000000000000000000000:{key}");
        let basic = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(basic));
        assert!(seen.iter().all(|one| one.field("authorization") == Some(&basic)), "{sdk:?}: {seen:#?}");
    }
}

#[test]
fn resends_sdks_reach_the_proxy() {
    let key = a_key();
    for sdk in [Sdk::ResendPython2, Sdk::ResendPython0, Sdk::ResendNode2, Sdk::ResendNode6] {
        let proxy = Vendor::start(|_, out| out.write_all(&whole(200, r#"{"id": "mail_1"}"#)));
        let keybrake = Setup::new("http://127.0.0.1:9").prepare();
        let file = format!("resend={}", key_file(&keybrake, "resend.key", &key));
        let program = sdk.words("mail");
        let arguments = ["--key-file", file.as_str(), "--proxy", &proxy.url()];
        let mut command = run_command(&keybrake, &arguments, &words(&program));
        let sent = json_of(command.env("RESEND_API_KEY", SECRET));
        assert_eq!(sent["id"], "mail_1", "{sdk:?}: {sent}");
        let seen = proxy.seen();
        assert_eq!(seen.len(), 1, "{sdk:?}: {seen:#?}");
        assert_eq!(seen[0].line, "POST /resend/emails", "{sdk:?}");
        assert_eq!(seen[0].field("authorization"), Some(format!("Bearer {key}").as_str()), "{sdk:?}");
    }
}

#[test]
fn the_program_gets_the_keys_and_no_other_secret() {
    let keybrake = Setup::new("http://127.0.0.1:9").prepare();
    let file = key_file(&keybrake, "keys", &format!("stripe={}\ntwilio={}\n", a_key(), a_key()));
    let code = "import json, os; print(json.dumps(dict(os.environ)))";
    let mut command = run_command(&keybrake, &["--key-file", &file], &words(&python_words(code)));
    command
        .env("KEYBRAKE_VAULT_KEY", "not read")
        .env("PYTHONPATH", "/of/the/caller")
        .env("NODE_OPTIONS", "--no-warnings");
    let environment = json_of(&mut command);
    // The whole of it stays out of messages: it is also the environment of whoever runs the tests.
    assert!(!environment.to_string().contains(SECRET), "the credential's variable holds a vault key");
    for name in ["KEYBRAKE_ADMIN_TOKEN", "KEYBRAKE_VAULT_KEY"] {
        assert!(environment[name].is_null(), "{name}");
    }
    let value = |name: &str| environment[name].as_str().unwrap_or_else(|| panic!("no {name}")).to_owned();
    assert_eq!((value("STRIPE_SECRET_KEY"), value("TWILIO_AUTH_TOKEN")), (a_key(), a_key()));
    assert_eq!(value("KEYBRAKE_STRIPE_URL"), format!("http://{}/stripe", keybrake.proxy()));
    let (shims, rest) =
        value("PYTHONPATH").split_once(':').map(|(a, b)| (PathBuf::from(a), b.to_owned())).unwrap();
    assert_eq!(rest, "/of/the/caller");
    assert_eq!(
        value("NODE_OPTIONS"),
        format!("--no-warnings --require \"{}/keybrake.cjs\"", shims.display())
    );
    assert!(!shims.exists(), "the shims go with the run");
}

#[test]
fn the_shim_runs_the_sitecustomize_that_it_stands_before() {
    let keybrake = Setup::new("http://127.0.0.1:9").prepare();
    let file = key_file(&keybrake, "key", &format!("stripe={}", a_key()));
    let own = keybrake.dir().join("own");
    std::fs::create_dir(&own).unwrap();
    std::fs::write(own.join("sitecustomize.py"), "print('of the caller')\n").unwrap();
    let code = "import sitecustomize; print(sitecustomize.__file__)";
    let output = run_command(&keybrake, &["--key-file", &file], &words(&python_words(code)))
        .env("PYTHONPATH", &own)
        .output()
        .unwrap();
    let expected = format!("of the caller\n{}\n", own.join("sitecustomize.py").display());
    assert_eq!(text(&output.stdout), expected, "{output:?}");
}

#[test]
fn exit_status_and_signals_are_the_programs() {
    let keybrake = Setup::new("http://127.0.0.1:9").prepare();
    let file = key_file(&keybrake, "key", &format!("stripe={}", a_key()));
    let run = |program: &[&str]| run_command(&keybrake, &["--key-file", &file], program);
    assert_eq!(run(&["sh", "-c", "exit 42"]).status().unwrap().code(), Some(42));
    for (program, status, words) in
        [("no-such-program", 127, "no-such-program"), (file.as_str(), 126, "denied")]
    {
        let output = run(&[program]).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        assert!(text(&output.stderr).contains(words), "{output:?}");
    }
    for signal in ["KILL", "TERM", "SEGV"] {
        let status = run(&["sh", "-c", &format!("kill -{signal} $$")]).status().unwrap();
        let number =
            [("KILL", 9), ("TERM", 15), ("SEGV", 11)].iter().find(|(name, _)| *name == signal).unwrap().1;
        assert_eq!(status.signal(), Some(number), "{signal}: {status}");
    }
    // Sent to keybrake, caught by the program.
    for (signal, number) in [("TERM", 15), ("INT", 2), ("HUP", 1), ("USR1", 10)] {
        let code = format!(
            "import signal, sys\nsignal.signal({number}, lambda *_: sys.exit(50 + {number}))\nprint('ready', \
             flush=True)\nsignal.pause()"
        );
        let mut process = Process::start("run", &keybrake.out(), &mut run(&words(&python_words(&code))));
        process.wait_until("ready", |process| process.stdout().contains("ready").then_some(()));
        let sent =
            Command::new("kill").arg(format!("-{signal}")).arg(process.pid().to_string()).status().unwrap();
        assert!(sent.success());
        assert_eq!(process.exit_code(), 50 + number, "{signal}");
    }
}

#[test]
fn what_the_caller_ignores_stays_ignored() {
    let keybrake = Setup::new("http://127.0.0.1:9").prepare();
    let file = key_file(&keybrake, "key", &format!("stripe={}", a_key()));
    let code = "import signal; print(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN)";
    let run = run_command(&keybrake, &["--key-file", &file], &words(&python_words(code)));
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).arg(run.get_program()).args(run.get_args());
    shell.env("KEYBRAKE_CONFIG", keybrake.config());
    let output = shell.current_dir(keybrake.dir()).stdin(Stdio::null()).output().unwrap();
    assert_eq!(text(&output.stdout).trim(), "True", "{output:?}");
}

#[test]
fn ctrl_c_reaches_the_program_once() {
    let keybrake = Setup::new("http://127.0.0.1:9").prepare();
    let file = key_file(&keybrake, "key", &format!("stripe={}", a_key()));
    let code = "import signal\ncount = 0\nended = False\ndef interrupt(*_):\n global count\n count += 1\n \
                print('interrupted', flush=True)\ndef end(*_):\n global ended\n ended = \
                True\nsignal.signal(signal.SIGINT, interrupt)\nsignal.signal(signal.SIGTERM, end)\nprint('ready', \
                flush=True)\nwhile not ended: signal.pause()\nprint(f'{count} end', flush=True)";
    let run = run_command(&keybrake, &["--key-file", &file], &words(&python_words(code)));
    let mut terminal = Command::new("python3");
    terminal.arg(script("terminal.py")).arg(run.get_program()).args(run.get_args());
    for (name, value) in run.get_envs() {
        match value {
            Some(value) => terminal.env(name, value),
            None => terminal.env_remove(name),
        };
    }
    let output = terminal.current_dir(keybrake.dir()).stdin(Stdio::null()).output().unwrap();
    assert_eq!(text(&output.stdout).trim(), "['1', 'end']", "{output:?}");
}

/// Runs with these arguments and this standard input; the program prints the key that it got for Stripe.
fn got(keybrake: &Keybrake, arguments: &[&str], input: &str, environment: &[(&str, &str)]) -> Output {
    let mut command = run_command(keybrake, arguments, &["sh", "-c", "echo $STRIPE_API_KEY"]);
    command
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may have refused before it read.
    drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
    child.wait_with_output().unwrap()
}

#[test]
fn a_key_comes_from_a_file_standard_input_the_environment_or_the_command_line() {
    let keybrake = Setup::new("http://127.0.0.1:9").with_admin().start();
    let key = keybrake.issue_by_admin(&["POST /v1/charges"], &json!({}));
    let file = key_file(&keybrake, "agent.key", &format!("{}\n", key.text));
    let line = format!("{}\n", key.text);
    // Without a vendor's name the proxy is asked.
    for (arguments, input, environment) in [
        (&["--key-file", file.as_str()][..], "", &[][..]),
        (&["--key", "-"], line.as_str(), &[]),
        (&["--key", &key.text], "", &[]),
        (&[], "", &[("KEYBRAKE_VAULT_KEY", key.text.as_str())]),
    ] {
        let output = got(&keybrake, arguments, input, environment);
        assert_eq!(text(&output.stdout).trim(), key.text, "{arguments:?}: {output:?}");
    }
    for (arguments, status, words) in [
        (&["--key", "sk_live_1234567890abcdef"][..], 2, "no vault key"),
        (&[], 2, "--key-file"),
        (&["--key-file", "/no/such/file"], 2, "cannot read"),
        (&["--key", &a_key()], 1, "does not know this vault key"),
        (&["--key-file", &file, "--key", &key.text], 2, "two vault keys for stripe"),
        (&["--key", &key.text, "--proxy", "http://127.0.0.1:9"], 1, "cannot reach the proxy"),
    ] {
        let output = got(&keybrake, arguments, "", &[]);
        let stderr = text(&output.stderr);
        assert!(output.status.code() == Some(status) && stderr.contains(words), "{arguments:?}: {output:?}");
        assert!(output.stdout.is_empty(), "the program did not start: {output:?}");
        assert!(!stderr.contains("sk_live") && !stderr.contains(&key.text), "{stderr}");
    }
}

#[test]
fn a_key_issued_for_a_run_is_revoked_at_its_end() {
    let keybrake = Setup::new("http://127.0.0.1:9").with_admin().start();
    let policy =
        json!({"vendor": "stripe", "allowed_endpoints": ["POST /v1/charges"], "label": "of the run"});
    let file = key_file(&keybrake, "policy.json", &policy.to_string());
    let program = ["sh", "-c", "echo $VAULT_KEY; kill -TERM $$"];
    let output = run_command(&keybrake, &["--issue", &file], &program).output().unwrap();
    assert_eq!(output.status.signal(), Some(15), "{output:?}");
    let key = text(&output.stdout).trim().to_owned();
    assert_eq!(get(keybrake.proxy(), "/stripe/v1/charges", &key).status, 401);
    let listed = keybrake.operate("GET /vault/keys?limit=10", None).expect(200);
    assert_eq!(listed["keys"][0]["status"], "revoked", "{listed}");
    assert_eq!(listed["keys"][0]["label"], "of the run", "{listed}");
    let output = run_command(&keybrake, &["--issue", &file], &["no-such-program"]).output().unwrap();
    assert_eq!(output.status.code(), Some(127), "{output:?}");
    let all_revoked = || {
        let listed = keybrake.operate("GET /vault/keys?limit=10", None).expect(200);
        let keys = listed["keys"].as_array().unwrap().clone();
        (keys.len() == 2 && keys.iter().all(|key| key["status"] == "revoked")).then_some(())
    };
    eventually("the second key to be revoked", all_revoked);
}

#[test]
fn env_prints_lines_that_a_shell_evaluates() {
    let keybrake = Setup::new("http://127.0.0.1:9").prepare();
    let file = key_file(&keybrake, "key", &format!("stripe={}", a_key()));
    let shims = keybrake.dir().join("shims");
    let binary = keybrake.cli_command(&[]).get_program().to_str().unwrap().to_owned();
    let line = format!(
        "eval \"$({binary} env --key-file {file} --shims {})\" && echo \"$STRIPE_API_KEY $PYTHONPATH \
         ${{KEYBRAKE_ADMIN_TOKEN-none}}\"",
        shims.display()
    );
    let mut command = Command::new("sh");
    command.args(["-c", &line]).env("KEYBRAKE_CONFIG", keybrake.config()).env("KEYBRAKE_ADMIN_TOKEN", "x");
    let output = command.env_remove("PYTHONPATH").env_remove("KEYBRAKE_PROXY_URL").output().unwrap();
    assert_eq!(text(&output.stdout), format!("{} {} none\n", a_key(), shims.display()), "{output:?}");
    assert!(shims.join("keybrake.cjs").is_file() && shims.join("sitecustomize.py").is_file());
    let json = json_of(&mut keybrake.cli_command(&["env", "--key-file", &file, "--json"]));
    assert_eq!(json["set"]["STRIPE_API_KEY"], a_key().as_str(), "{json}");
    assert!(json["set"]["PYTHONPATH"].is_null(), "{json}");
}
