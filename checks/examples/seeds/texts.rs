//! Seeds that are text: heads, bodies, paths, amounts and policies. Accepted ones, and one for each rule that refuses.

use super::Seed;

pub(super) fn seeds() -> Vec<Seed> {
    [requests(), replies(), bodies(), paths(), amounts(), policies()].concat()
}

fn all(target: &'static str, seeds: &[(&str, &str)]) -> Vec<Seed> {
    let seed = |(name, text): &(&str, &str)| (target, (*name).to_owned(), text.as_bytes().to_vec());
    seeds.iter().map(seed).collect()
}

fn requests() -> Vec<Seed> {
    let post = |fields: &str| format!("POST /stripe/v1/charges HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
    let long = format!("X: {}\r\n", "a".repeat(8_200));
    let many = (0..101).map(|at| format!("X{at}: a\r\n")).collect::<String>();
    let seeds = [
        (
            "stripe_python",
            post(
                "User-Agent: Stripe/v1 PythonBindings/12\r\nAccept: */*\r\nConnection: keep-alive\r\n\
                 Authorization: Bearer vault_key_x\r\nStripe-Version: 2025-01-27\r\nIdempotency-Key: 5f1b\r\n\
                 Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 24\r\n",
            ),
        ),
        ("chunked", post("Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n")),
        ("query", get("/v1/charges?expand[0]=data.customer&created[gte]=1&DateSent%3E=2026")),
        ("bytes_behind_the_head", format!("{}GET /b HTTP/1.1\r\n", get("/a"))),
        ("not_all_there", "DELETE /v1/customers/cus_1 HTTP/1.1\r\nHost: a\r\nAcc".to_owned()),
        ("connection_names_fields", post("Connection: close, X-A, Stripe-Account\r\nX-A: b\r\n")),
        ("length_and_coding", post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n")),
        ("two_lengths", post("Content-Length: 5\r\nContent-Length: 5\r\n")),
        ("length_list", post("Content-Length: 5, 5\r\n")),
        ("length_plus", post("Content-Length: +5\r\n")),
        ("two_codings", post("Transfer-Encoding: gzip, chunked\r\n")),
        ("bare_lf", "GET / HTTP/1.1\nHost: a\r\n\r\n".to_owned()),
        ("bare_cr", post("X: a\rb\r\n")),
        ("nul", post("X: a\0b\r\n")),
        ("fold", post("X: a\r\n b\r\n")),
        ("space_before_colon", post("Content-Length : 5\r\n")),
        ("underscore", post("Content_Length: 5\r\n")),
        ("two_hosts", post("Host: b\r\n")),
        ("no_host", "GET / HTTP/1.1\r\n\r\n".to_owned()),
        ("ipv6_host", "GET / HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n\r\n".to_owned()),
        ("old_version", "GET / HTTP/1.0\r\nHost: a\r\n\r\n".to_owned()),
        ("upgrade", post("Connection: upgrade\r\nUpgrade: h2c\r\n")),
        ("absolute", get("http://evil.test/v1/charges")),
        ("path_escape", get("/v1/%2e%2e/refunds")),
        ("path_dots", get("/v1/../refunds")),
        ("method_override", get("/v1/a?%5fmethod=DELETE")),
        ("lower_case_method", "get / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        ("high_bytes", post("X-Client: b\u{fc}ro\r\n")),
        ("long_line", post(&long)),
        ("many_fields", post(&many)),
    ];
    let seeds = seeds.each_ref().map(|(name, text)| (*name, text.as_str()));
    all("request_head", &seeds)
}

fn replies() -> Vec<Seed> {
    all(
        "reply_head",
        &[
            (
                "json",
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nRequest-Id: req_1\r\n\r\n{}",
            ),
            ("chunked", "HTTP/1.1 402 Payment Required\r\nTransfer-Encoding: chunked\r\nServer: x\r\n\r\n"),
            ("until_close", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nbody"),
            ("old_version", "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n"),
            ("old_version_chunked", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
            ("interim", "HTTP/1.1 100 Continue\r\n\r\n"),
            ("no_content", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"),
            ("not_modified", "HTTP/1.1 304\r\n\r\n"),
            ("upgrade", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n"),
            (
                "length_and_coding",
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            ),
            ("two_lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n"),
            (
                "bad_field_is_left_out",
                "HTTP/1.1 200 OK\r\nX Y: a\u{1}\r\nA: b\u{1}c\r\nContent-Length: 0\r\n\r\n",
            ),
            (
                "redirect",
                "HTTP/1.1 302 Found\r\nLocation: https://evil.test/\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n",
            ),
            ("bare_lf", "HTTP/1.1 200 OK\nContent-Length: 1\r\n\r\n"),
            ("not_http", "SSH-2.0-OpenSSH\r\n"),
            ("status_of_two_digits", "HTTP/1.1 20 OK\r\n\r\n"),
        ],
    )
}

fn bodies() -> Vec<Seed> {
    all(
        "chunked_body",
        &[
            ("two_chunks", "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"),
            ("size_of_two_digits", "1c\r\namount=2000&currency=usd&a=b\r\n0\r\n\r\n"),
            ("empty", "0\r\n\r\n"),
            ("extensions", "5;a=b;c=\"d\"\r\nhello\r\n0;x\r\n\r\n"),
            ("quoted_extension", "5;a=\"b;\\\"c\"\r\nhello\r\n0\r\n\r\n"),
            ("empty_extension", "5\r\nhello\r\n0;\r\n\r\n"),
            ("trailers", "1\r\na\r\n0\r\nX: y\r\nZ:\r\n\r\nnext"),
            ("capital_digits", "A\r\n0123456789\r\n00000000\r\n\r\n"),
            ("no_size", "\r\nhello\r\n0\r\n\r\n"),
            ("nine_digits", "000000005\r\nhello\r\n0\r\n\r\n"),
            ("bare_lf", "5\nhello\n0\n\n"),
            ("sign", "+5\r\nhello\r\n0\r\n\r\n"),
            ("prefix", "0x5\r\nhello\r\n0\r\n\r\n"),
            ("blank_behind_the_size", "5 \r\nhello\r\n0\r\n\r\n"),
            ("data_too_long", "4\r\nhello\r\n0\r\n\r\n"),
            ("huge", "ffffffff\r\n"),
            ("control_in_extension", "5;a\u{1}\r\nhello\r\n0\r\n\r\n"),
            ("bad_trailer", "0\r\nX Y: z\r\n\r\n"),
            ("cut", "5\r\nhel"),
        ],
    )
}

fn paths() -> Vec<Seed> {
    all(
        "path_match",
        &[
            ("literal", "POST /stripe/v1/charges\nPOST /v1/charges\nPOST /v1/**"),
            ("parameter", "GET /stripe/v1/customers/cus_1\nGET /v1/customers/*\nGET /v1/customers/cus_1"),
            (
                "literal_beside_parameter",
                "GET /v1/customers/search\nGET /v1/customers/*\nGET /v1/customers/search",
            ),
            ("folded", "GET /stripe//v1/v1/charges/ch_1\nGET /v1/charges/*\nGET /v1/**"),
            ("escalates", "POST /v1/ephemeral_keys\nPOST /v1/**\nPOST /v1/ephemeral_keys"),
            (
                "ending",
                "POST /twilio/2010-04-01/Accounts/AC1/Messages.json\nPOST /2010-04-01/Accounts/*/Messages.json\nPOST /2010-04-01/**",
            ),
            (
                "ending_of_a_parameter",
                "GET /twilio/2010-04-01/Accounts/AC1/Messages/SM1.json\nGET /2010-04-01/Accounts/*/Messages/*.json\nGET /2010-04-01/Accounts/*/Messages/*",
            ),
            (
                "nothing_before_the_ending",
                "GET /twilio/2010-04-01/Accounts/AC1/Messages/.json\nGET /2010-04-01/Accounts/*/Messages/*.json\nGET /2010-04-01/**",
            ),
            ("unknown", "DELETE /resend/not/in/the/table\nDELETE /not/*/the/table\nDELETE /**"),
            ("mail", "POST /resend/emails\nPOST /emails\nGET /emails"),
            ("two_slashes", "GET /stripe/v1//charges\nGET /v1/**"),
            ("dots", "GET /stripe/v1/.../charges\nGET /v1/*/charges"),
            ("own_paths", "GET /vault/keys\nGET /vault/**"),
            ("no_rule", "GET /v1/charges\nGET /v1/*x\nget /v1/charges"),
        ],
    )
}

fn amounts() -> Vec<Seed> {
    let forms = [
        ("amount", "amount=2000&currency=usd&source=tok_visa"),
        ("nested", "transfer_data[amount]=5&transfer_data[destination]=acct_1"),
        ("both", "amount=5&transfer_data[amount]=4"),
        ("signed", "amount=-500"),
        ("twice", "amount=1&amount=2"),
        ("escaped_name", "%61mount=1"),
        ("brackets", "amount[]=1&amount[0]=2"),
        ("rack", "[amount]=1"),
        ("case", "Amount=1"),
        ("blank", " amount=1&+amount=2"),
        ("semicolon", "a=b;amount=5"),
        ("leading_zero", "amount=0100"),
        ("thirteen_digits", "amount=1000000000000"),
        ("point", "amount=1.50"),
        ("exponent", "amount=1e3"),
        ("escaped_value", "amount=%31"),
        ("bad_escape", "a=%zz&amount=1"),
        ("nul", "amount%00=1"),
        ("metadata", "metadata[agent_id]=a1&metadata[b]=%C3%BC&amount=7"),
    ];
    let bodies = [
        ("amount", r#"{"amount": 2000, "currency": "usd"}"#),
        ("nested_is_a_decoy", r#"{"a": {"amount": 1}, "amount": 2}"#),
        ("twice", r#"{"amount": 1, "amount": 2}"#),
        ("escaped_name", "{\"\\u0061mount\": 1}"),
        ("case", r#"{"Amount": 1, "amount": 2}"#),
        ("text", r#"{"amount": "2000"}"#),
        ("float", r#"{"amount": 20.00, "currency": null}"#),
        ("exponent", r#"{"amount": 2e3}"#),
        ("negative", r#"{"amount": -0}"#),
        ("large", r#"{"amount": 18446744073709551616}"#),
        ("list", r#"{"amount": [1, 2], "currency": ["usd"]}"#),
        ("array", r#"[{"to": "a@x.test"}, {"to": ["b@x.test", "c@x.test"]}]"#),
        ("recipients", r#"{"to": ["a@x.test", "B <b@x.test>"], "cc": "c@x.test", "amount": true}"#),
        ("behind", r#"{"amount": 1} x"#),
        ("mark", "\u{feff}{\"amount\": 1}"),
        (
            "private_number",
            r#"{"$serde_json::private::Number": "1", "amount": {"$serde_json::private::Number": "5"}}"#,
        ),
    ];
    [all("form_amount", &forms), all("json_amount", &bodies)].concat()
}

fn policies() -> Vec<Seed> {
    let parent = r#"{"vendor": "stripe", "allowed_endpoints": ["POST /v1/charges", "GET /v1/**"], "daily_usd_cap": 50, "total_usd_cap": 500, "daily_request_budget": 100, "expires_in": "24h", "max_usd_per_call": 10.5, "rate_limit_rps": 2.5, "stripe_accounts": ["acct_1"], "params": [{"name": "currency", "in": ["usd", "eur"], "required": true, "endpoints": ["POST /v1/charges"]}, {"name": "amount", "max": 5000}]}"#;
    let seeds = [
        ("inherits_all", format!("{parent}\n{{}}\n{{\"daily_usd_cap\": 5}}\namount=5&currency=usd")),
        (
            "narrower",
            format!("{parent}\n{{\"allowed_endpoints\": [\"GET /v1/charges/*\"], \"daily_usd_cap\": 0, \"expires_in\": \"1h\"}}\n{{\"expires_in\": 60, \"label\": \"x\"}}\n"),
        ),
        (
            "narrower_parameters",
            format!("{parent}\n{{\"params\": [{{\"name\": \"currency\", \"in\": [\"usd\"], \"required\": true, \"endpoints\": [\"POST /v1/charges\"]}}, {{\"name\": \"amount\", \"equals\": 500}}]}}\n{{\"total_usd_cap\": null}}\namount=500&currency=usd"),
        ),
        ("wider_cap", format!("{parent}\n{{\"daily_usd_cap\": 51}}\n{{}}\n")),
        ("wider_rule", format!("{parent}\n{{\"allowed_endpoints\": [\"POST /v1/**\"]}}\n{{}}\n")),
        ("other_vendor", format!("{parent}\n{{\"vendor\": \"twilio\"}}\n")),
        (
            "twilio",
            "{\"vendor\": \"twilio\", \"allowed_endpoints\": [\"POST /2010-04-01/Accounts/*/Messages.json\"], \"params\": [{\"name\": \"To\", \"prefix\": [\"+1\", \"+44\"]}, {\"name\": \"MediaUrl\", \"absent\": true}]}\n{\"params\": [{\"name\": \"To\", \"in\": [\"+15005550006\"]}, {\"name\": [\"MediaUrl\"], \"absent\": true}]}\n{\"daily_request_budget\": 5}\nTo=%2B15005550006&Body=x".to_owned(),
        ),
        (
            "resend",
            "{\"vendor\": \"resend\", \"allowed_endpoints\": [\"POST /emails\"], \"params\": [{\"name\": [\"to\", \"cc\"], \"domain\": \"example.com\"}]}\n{\"allowed_endpoints\": [\"POST /emails\"]}\n{\"allowed_endpoints\": [\"POST /emails/*\"]}\n{\"to\": [\"a@example.com\"]}".to_owned(),
        ),
        ("no_endpoints", "{\"vendor\": \"stripe\", \"allowed_endpoints\": []}".to_owned()),
        ("not_json", "vendor=stripe".to_owned()),
    ];
    all("policy", &seeds.each_ref().map(|(name, text)| (*name, text.as_str())))
}
