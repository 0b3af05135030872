//! Who may call what: every route against every kind of token (rule P1).

use super::*;
use crate::scope;
use crate::tokens::BOOTSTRAP;

const HOUR_S: u64 = 3600;

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// A token with these scopes, made beside the server.
fn made(server: &Server, name: &str, scopes: &[Scope]) -> String {
    let shown = tokens(server.dir.path()).create(name, scopes, None, now()).unwrap();
    String::from_utf8(shown.token.expose().to_vec()).unwrap()
}

/// An answer to the request of this route, which may have no meaning.
fn ask(server: &Server, route: &Route, headers: &[(&str, &str)]) -> Answer {
    let path = with_id(route.path).replace("{name}", "nobody").replace("{vendor}", "stripe");
    let json = [headers, &[("content-type", "application/json")]].concat();
    let body = if matches!(route.method, "get") { "" } else { "{}" };
    server.send(&route.method.to_uppercase(), &path.replace("{account}", "default"), &json, body.as_bytes())
}

/// The scopes that a route asks for.
fn scopes_of(route: &Route) -> Option<&'static [Scope]> {
    match route.access {
        Access::Token(scopes) => Some(scopes),
        Access::Issuer => Some(&[Scope::Issue]),
        Access::Open | Access::KeyHolder => None,
    }
}

#[test]
fn p1_no_route_of_operators_answers_without_a_right_token() {
    let server = Server::start(Some(Behavior::Answers));
    let (expired, revoked) = {
        let tokens = tokens(server.dir.path());
        let long_ago = UnixMicros::from_seconds(now().as_seconds() - HOUR_S);
        let expired = tokens.create("expired", &[Scope::Admin], Some(long_ago), now()).unwrap();
        let revoked = tokens.create("revoked", &[Scope::Admin], None, now()).unwrap();
        tokens.revoke("revoked", now()).unwrap();
        let text = |secret: &Secret| bearer(std::str::from_utf8(secret.expose()).unwrap());
        (text(&expired.token), text(&revoked.token))
    };
    let mut refused = 0_u64;
    for route in routes().iter().filter(|route| scopes_of(route).is_some()) {
        let vault_key = bearer(&vault_key());
        let doubled = bearer(&format!("{TOKEN}x"));
        for (headers, words) in [
            (&[][..], "send an admin token"),
            (&[("authorization", "Bearer wrong")], "not an admin token"),
            (&[("authorization", "Basic dXNlcjpwYXNzd29yZA==")], "send an admin token"),
            (&[("authorization", TOKEN)], "send an admin token"),
            (&[("authorization", doubled.as_str())], "not an admin token"),
            (&[("authorization", vault_key.as_str())], "a vault key is not an admin token"),
            (&[("authorization", expired.as_str())], "has expired"),
            (&[("authorization", revoked.as_str())], "was revoked"),
            (&[("cookie", "token=x"), ("x-api-key", TOKEN)], "send an admin token"),
        ] {
            let answer = ask(&server, route, headers);
            let message = answer.refused(401, "unauthorized");
            assert!(message.contains(words), "{}: {message}", route.path);
            refused += 1;
            assert!(answer.header("www-authenticate").starts_with("Bearer"), "{}", route.path);
        }
    }
    let answer = server.send("GET", "/metrics", &[], b"");
    let counted = format!("\nkeybrake_admin_unauthorized_total {refused}\n");
    assert!(refused > 0 && answer.text.contains(&counted), "{}", answer.text);
}

#[test]
fn p1_each_scope_opens_its_own_routes_and_no_other() {
    let server = Server::start(Some(Behavior::Answers));
    let texts = Scope::ALL.map(|scope| (scope, bearer(&made(&server, scope.as_str(), &[scope]))));
    for route in routes() {
        let Some(needed) = scopes_of(&route) else { continue };
        for (scope, text) in &texts {
            let answer = ask(&server, &route, &[("authorization", text)]);
            let is_open = needed.contains(scope) || *scope == Scope::Admin;
            if is_open {
                assert!(!matches!(answer.status, 401 | 403), "{scope} {}: {}", route.path, answer.text);
            } else {
                let message = answer.refused(403, "scope_missing");
                assert!(message.contains(&scope::listed(needed)), "{}: {message}", route.path);
            }
        }
    }
}

#[test]
fn p1_a_token_for_incidents_revokes_and_does_nothing_else() {
    let server = Server::start(Some(Behavior::Answers));
    let text = bearer(&made(&server, "on-call", &[Scope::Revoke]));
    let mut opened = Vec::new();
    for route in routes().iter().filter(|route| scopes_of(route).is_some()) {
        if ask(&server, route, &[("authorization", &text)]).status != 403 {
            opened.push(route.path);
        }
    }
    assert_eq!(opened, ["/vault/keys/{id}/revoke", "/vault/revoke"]);
    let revoked = server.send("POST", &with_id("/vault/keys/{id}/revoke"), &[("authorization", &text)], b"");
    assert_eq!(revoked.status, 200, "{}", revoked.text);
    // The dataplane may be down when it is needed.
    let down = Server::start(None);
    let text = bearer(&made(&down, "on-call", &[Scope::Revoke]));
    let recorded = down.send("POST", &with_id("/vault/keys/{id}/revoke"), &[("authorization", &text)], b"");
    assert_eq!((recorded.status, &recorded.json()["recorded"]), (202, &json!(true)));
}

#[test]
fn p1_a_vault_key_issues_below_itself_whatever_token_comes_with_it() {
    let server = Server::start(Some(Behavior::Answers));
    let text = bearer(&made(&server, "auditor", &[Scope::ReadAudit]));
    let body = format!(r#"{{"parent_vault_key": "{}"}}"#, vault_key());
    let headers = [("authorization", text.as_str()), ("content-type", "application/json")];
    assert_eq!(server.send("POST", "/vault/keys", &headers, body.as_bytes()).status, 201);
    let by_id = format!(r#"{{"parent_vault_key": "{KNOWN}"}}"#);
    server.send("POST", "/vault/keys", &headers, by_id.as_bytes()).refused(403, "scope_missing");
}

#[test]
fn p1_tokens_are_made_shown_once_rotated_and_revoked_over_the_api() {
    let server = Server::start(None);
    let made = server.post("/tokens", r#"{"name": "ci", "scopes": ["issue", "issue"], "expires_in": "30d"}"#);
    assert_eq!(made.status, 201, "{}", made.text);
    let text = made.json()["token"].as_str().unwrap().to_owned();
    assert!(text.starts_with("kbadmin_"), "a prefix of its own");
    assert_eq!(made.json()["scopes"], json!(["issue"]));
    let listed = server.get("/tokens");
    assert!(!listed.text.contains(&text) && !listed.text.contains("digest"), "{}", listed.text);
    let names: Vec<Value> =
        listed.json()["tokens"].as_array().unwrap().iter().map(|token| token["name"].clone()).collect();
    assert_eq!(names, [BOOTSTRAP, "ci"]);
    let status =
        |text: &str| server.send("GET", "/vault/keys", &[("authorization", &bearer(text))], b"").status;
    // 503: past the door, and there is no dataplane behind it.
    assert_eq!(status(&text), 503);
    let rotated = server.post("/tokens/ci/rotate", "{}").json()["token"].as_str().unwrap().to_owned();
    assert_eq!((status(&text), status(&rotated)), (401, 503));
    let overlapping = server.post("/tokens/ci/rotate", r#"{"overlap": "10m"}"#);
    let again = overlapping.json()["token"].as_str().unwrap().to_owned();
    assert_eq!((status(&rotated), status(&again)), (503, 503));
    assert_eq!(server.post("/tokens/ci/revoke", "").json()["status"], "revoked");
    assert_eq!((status(&rotated), status(&again)), (401, 401));

    server.post("/tokens/ci/rotate", "").refused(409, "token_closed");
    server.post("/tokens/nobody/revoke", "").refused(404, "no_such_token");
    server.post("/tokens", r#"{"name": "bootstrap", "scopes": ["issue"]}"#).refused(400, "invalid_field");
    server.post("/tokens", r#"{"name": "a b", "scopes": ["issue"]}"#).refused(400, "invalid_field");
    server.post("/tokens", r#"{"name": "x", "scopes": []}"#).refused(400, "invalid_field");
    server.post("/tokens", r#"{"name": "x", "scopes": ["all"]}"#).refused(400, "invalid_body");
    server
        .post("/tokens", r#"{"name": "x", "scopes": ["issue"], "expires_in": "0s"}"#)
        .refused(400, "invalid_field");
    assert_eq!(
        server.post("/tokens", r#"{"name": "ci", "scopes": ["issue"]}"#).status,
        201,
        "its name is free"
    );
    server.post("/tokens", r#"{"name": "ci", "scopes": ["issue"]}"#).refused(409, "token_exists");
}

#[test]
fn p1_a_flood_of_wrong_tokens_neither_locks_out_nor_slows_down_a_right_one() {
    let server = Server::start(None);
    for _ in 0..200 {
        server.send("GET", "/tokens", &[("authorization", "Bearer guess")], b"").refused(401, "unauthorized");
    }
    assert_eq!(server.get("/tokens").status, 200);
}

#[test]
fn p1_who_changed_what_is_one_line_of_a_fixed_form() {
    let line = auth::log_line("ci", "127.0.0.1", "POST /vault/keys", StatusCode::CREATED);
    assert_eq!(line, "keybrake admin: change: by=ci from=127.0.0.1 status=201 POST /vault/keys");
    let long = auth::log_line("ci", "-", &"x".repeat(1000), StatusCode::OK);
    assert!(long.len() < 300);
}

#[test]
fn p3_there_is_no_cookie_no_other_origin_and_no_change_by_a_form() {
    let server = Server::start(Some(Behavior::Answers));
    let token = bearer(TOKEN);
    for route in routes() {
        let origin = ("origin", "https://evil.test");
        let asked = ask(&server, &route, &[("authorization", &token), origin]);
        assert_eq!(asked.header("set-cookie"), "", "{}", route.path);
        assert_eq!(asked.header("access-control-allow-origin"), "", "{}", route.path);
        let preflight = server.send(
            "OPTIONS",
            &with_id(route.path),
            &[origin, ("access-control-request-method", "POST")],
            b"",
        );
        assert!(matches!(preflight.status, 404 | 405), "{}: {}", route.path, preflight.status);
        assert_eq!(preflight.header("access-control-allow-origin"), "");
    }
    let form = [("authorization", token.as_str()), ("content-type", "text/plain")];
    for path in ["/vault/keys", "/vault/revoke", "/tokens", "/tokens/ci/rotate"] {
        server.send("POST", path, &form, b"{\"all\": true}").refused(415, "unsupported_media_type");
    }
}

#[test]
fn r2_a_sealed_dataplane_is_told_from_one_that_is_not_ready() {
    let server = Server::start(Some(Behavior::Sealed));
    let message = server.send("GET", "/readyz", &[], b"").refused(503, "sealed");
    assert!(!message.contains("another master key"), "why, is for operators: {message}");
    let health = server.get("/healthz").json();
    assert_eq!((&health["status"], &health["dataplane"]["up"]), (&json!("degraded"), &json!(true)));
    assert_eq!(health["dataplane"]["sealed"], "another master key");
}
