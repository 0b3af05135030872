//! Forms, and bodies that are none: one reading of what a call costs and does (rules A4, A5, M2).

use super::play::{Case, FORM, get, length, post, refused, sent};

const CHARGES: &str = "/stripe/v1/charges";
const SENT: &str = "POST /v1/charges";

pub(crate) fn cases() -> Vec<Case> {
    [amounts(), parameters(), types(), kept()].into_iter().flatten().collect()
}

const AMOUNTS: [&str; 56] = [
    "amount=1000&amount=1&currency=usd",
    "amount=1&currency=usd&amount=1000",
    "amount=1000&currency=usd&currency=jpy",
    "amount[]=1000&currency=usd",
    "amount[0]=1000&currency=usd",
    "amount[a]=1&amount=1000&currency=usd",
    "%61mount=1000&currency=usd",
    "amoun%74=1&amount=1000&currency=usd",
    "amount%00=1&amount=1000&currency=usd",
    "amount%5B%5D=1&amount=1000&currency=usd",
    "AMOUNT=1&amount=1000&currency=usd",
    "Amount=1000&currency=usd",
    "amount;=1&amount=1000&currency=usd",
    "amount=1000;currency=usd",
    "amount=1000;amount=1&currency=usd",
    "+amount=1&amount=1000&currency=usd",
    "amount+=1&amount=1000&currency=usd",
    "amount%20=1&amount=1000&currency=usd",
    "amount=&currency=usd",
    "amount&currency=usd",
    "amount==1000&currency=usd",
    "amount=+1000&currency=usd",
    "amount=-1000&currency=usd",
    "amount=01000&currency=usd",
    "amount=0&currency=usd",
    "amount=1000.0&currency=usd",
    "amount=1e3&currency=usd",
    "amount=0x3e8&currency=usd",
    "amount=1_000&currency=usd",
    "amount=1,000&currency=usd",
    "amount=1%2C000&currency=usd",
    "amount=1%30%30%30&currency=usd",
    "amount=1000%20&currency=usd",
    "amount= 1000&currency=usd",
    "amount=1000 &currency=usd",
    "amount=1000%00&currency=usd",
    "amount=1000\u{0}&currency=usd",
    "amount=1000\r\n&currency=usd",
    "amount=1000\n&currency=usd",
    "amount=NaN&currency=usd",
    "amount=Infinity&currency=usd",
    "amount=null&currency=usd",
    "amount=\u{b2}&currency=usd",
    "amount=1000000000000&currency=usd",
    "amount=99999999999999999999999999&currency=usd",
    "amount=18446744073709551617&currency=usd",
    "currency=usd",
    "amount=1000&currency=usd&description=\u{e9}",
    "amount=1000",
    "amount=1000&currency=",
    "amount=1000&currency=us",
    "amount=1000&currency=usd%00",
    "amount=1000&currency[]=usd",
    "amount=1000&%63urrency=usd",
    "?amount=1000&currency=usd",
    "\u{ef}\u{bb}\u{bf}amount=1000&currency=usd",
];

fn amounts() -> Vec<Case> {
    AMOUNTS
        .into_iter()
        .map(|form| refused(400, &format!("m2 form {form:?}"), post(CHARGES, "", form)))
        .chain([
            refused(400, "m2 an amount in the query", post("/stripe/v1/charges?amount=1", "", FORM)),
            refused(
                400,
                "m2 an amount in the query alone",
                post("/stripe/v1/charges?amount=1&currency=usd", "", "x=1"),
            ),
            refused(400, "m2 any query", post("/stripe/v1/charges?x=1", "", FORM)),
            refused(403, "m2 a currency that nobody knows", post(CHARGES, "", "amount=1000&currency=xyz")),
        ])
        .collect()
}

/// A4: what changes the method, the account or the version, in any spelling.
fn parameters() -> Vec<Case> {
    [
        "_method=DELETE",
        "_METHOD=DELETE",
        "_method[]=DELETE",
        "%5fmethod=DELETE",
        "_%6Dethod=DELETE",
        "_method",
        "_stripe_account=acct_1",
        "%5Fstripe_account=acct_1",
        "_stripe_context=acct_1",
        "_stripe_version=2010-01-01",
        "key=sk_live_1",
        "%6bey=sk_live_1",
        "x=1;_method=DELETE",
    ]
    .into_iter()
    .map(|more| refused(400, &format!("a4 parameter {more:?}"), post(CHARGES, "", &format!("{FORM}&{more}"))))
    .collect()
}

/// M2: the one type that the vendor speaks, in clear text.
fn types() -> Vec<Case> {
    let with = |lines: &str, body: &str| {
        format!("POST {CHARGES} HTTP/1.1\r\n{{auth}}{lines}Content-Length: {}\r\n\r\n{body}", length(body))
    };
    let mut cases = Vec::new();
    for lines in [
        "",
        "Content-Type:\r\n",
        "Content-Type: text/plain\r\n",
        "Content-Type: application/json\r\n",
        "Content-Type: multipart/form-data; boundary=x\r\n",
        "Content-Type: multipart/form-data\r\n",
        "Content-Type: application/x-www-form-urlencoded, text/plain\r\n",
        "Content-Type: application/x-www-form-urlencoded; charset=utf-7\r\n",
        "Content-Type: application/x-www-form-urlencoded; charset=utf-16\r\n",
        "Content-Type: application/x-www-form-urlencoded; charset=ibm037\r\n",
        "Content-Type: application/x-www-form-urlencoded; boundary=x\r\n",
        "Content-Type: application/x-www-form-urlencodedx\r\n",
        "Content-Type: xapplication/x-www-form-urlencoded\r\n",
        "Content-Type: application/x-www-form\r\n",
        "Content-Type: */*\r\n",
        "Content-Type: application/xml\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\nContent-Encoding: gzip\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\nContent-Encoding: identity\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\nContent-Encoding: deflate, gzip\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\nContent-Encoding:\r\n",
    ] {
        cases.push(refused(415, &format!("m2 type {lines:?}"), with(lines, FORM)));
    }
    let json = r#"{"amount":1000,"currency":"usd"}"#;
    cases.push(refused(415, "m2 json to a form", with("Content-Type: application/json\r\n", json)));
    let parts = "--x\r\nContent-Disposition: form-data; name=\"amount\"\r\n\r\n1000\r\n--x--\r\n";
    cases.push(refused(415, "m2 parts", with("Content-Type: multipart/form-data; boundary=x\r\n", parts)));
    for kind in [
        "application/x-www-form-urlencoded",
        "APPLICATION/X-WWW-FORM-URLENCODED",
        "application/x-www-form-urlencoded; charset=utf-8",
    ] {
        let request = with(&format!("Content-Type: {kind}\r\n"), FORM);
        cases.push(sent(SENT, FORM, &format!("m2 type {kind}"), request));
    }
    cases
}

/// Q26: what no price reads may be written as SDKs write it.
fn kept() -> Vec<Case> {
    [
        "amount=1000&currency=usd&metadata[a%26b]=c",
        "amount=1000&currency=usd&metadata%5Bx%5D=y&expand[]=customer",
        "currency=usd&description=a+b%20c&amount=1000",
        "amount=1000&currency=USD",
        "amount=1&currency=usd",
        "&amount=1000&currency=usd&",
        "amount=1000&currency=usd&metadata[amount]=1",
        "amount=1000&currency=usd&description=amount%3D1",
    ]
    .into_iter()
    .map(|form| sent(SENT, form, &format!("q26 form {form:?}"), post(CHARGES, "", form)))
    .chain([
        sent(
            "GET /v1/charges/ch_1",
            "",
            "m2 a type without a body",
            get("/stripe/v1/charges/ch_1", "Content-Type: x\r\n"),
        ),
        sent(
            "GET /v1/charges/ch_1",
            "",
            "m2 an encoding without a body",
            get("/stripe/v1/charges/ch_1", "Content-Encoding: gzip\r\n"),
        ),
    ])
    .collect()
}
