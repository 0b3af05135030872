//! Keys below keys, and changes, as the API reads them.

use super::*;

#[test]
fn m11_a_vault_key_in_the_body_issues_below_itself_and_an_id_does_not() {
    let server = Server::start(Some(Behavior::Answers));
    let issue = |parent: &str, headers: &[(&str, &str)]| {
        let body = json!({"parent_vault_key": parent}).to_string();
        let headers = [&[("content-type", "application/json")], headers].concat();
        server.send("POST", "/vault/keys", &headers, body.as_bytes())
    };
    assert_eq!(issue(&vault_key(), &[]).status, 201);
    assert_eq!(issue(&vault_key(), &[("authorization", "Bearer wrong")]).status, 201);
    let id = KNOWN.to_string();
    issue(&id, &[]).refused(401, "unauthorized");
    issue(&vault_key().replace("vault_key_", "vault_key_x"), &[]).refused(401, "unauthorized");
    assert_eq!(issue(&id, &[("authorization", &format!("Bearer {TOKEN}"))]).status, 201);
    // A holder is told what is wrong; somebody without a key is not.
    let wrong = |body: &str| {
        server.send("POST", "/vault/keys", &[("content-type", "application/json")], body.as_bytes())
    };
    wrong(&json!({"parent_vault_key": vault_key(), "label": 1}).to_string()).refused(400, "invalid_field");
    wrong(r#"{"label": 1}"#).refused(401, "unauthorized");
    wrong("{").refused(401, "unauthorized");
}

#[test]
fn q22_a_change_names_the_version_it_is_for() {
    let server = Server::start(Some(Behavior::Answers));
    let path = with_id("/vault/keys/{id}");
    let shown = server.get(&path);
    assert_eq!(
        (shown.header("etag"), &shown.json()["version"], &shown.json()["children"]),
        ("\"7\"", &json!(7), &json!(2))
    );
    let authorization = format!("Bearer {TOKEN}");
    let change = |server: &Server, if_match: Option<&str>, body: &str| {
        let mut headers =
            vec![("authorization", authorization.as_str()), ("content-type", "application/json")];
        headers.extend(if_match.map(|tag| ("if-match", tag)));
        server.send("PATCH", &path, &headers, body.as_bytes())
    };
    for tag in ["\"7\"", "*"] {
        let changed = change(&server, Some(tag), r#"{"daily_usd_cap": 5}"#);
        assert_eq!(
            (changed.status, changed.header("etag"), &changed.json()["version"]),
            (200, "\"8\"", &json!(8))
        );
    }
    change(&server, Some("\"6\""), r#"{"label": "x"}"#).refused(412, "version_mismatch");
    let message = change(&server, None, r#"{"label": "x"}"#).refused(428, "precondition_required");
    assert!(message.contains("If-Match"), "{message}");
    for tag in ["7", "W/\"7\"", "\"x\"", "\"7\", \"8\""] {
        change(&server, Some(tag), r#"{"label": "x"}"#).refused(400, "invalid_parameter");
    }
    change(&server, Some("*"), r#"{"vendor": "stripe"}"#).refused(400, "invalid_field");
    // A worker that is late makes it pending and not done.
    let server = Server::start(Some(Behavior::NotAcknowledged));
    let pending = change(&server, Some("*"), r#"{"daily_usd_cap": 5}"#);
    assert_eq!((pending.status, &pending.json()["late_workers"]), (202, &json!([1])));
    let server = Server::start(Some(Behavior::Silent));
    let message = change(&server, Some("*"), r#"{"daily_usd_cap": 5}"#).refused(503, "dataplane_unavailable");
    assert!(message.contains("may have been changed"), "{message}");
}
