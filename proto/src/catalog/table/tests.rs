use super::*;

fn price(class: &str) -> Option<Price> {
    match class {
        "free" => Some(Price::Free),
        "unpriced" => Some(Price::Unpriced("nothing says")),
        _ => None,
    }
}

fn idempotency(method: Method, _: &str) -> Idempotency {
    if method == Method::Post { Idempotency::Day } else { Idempotency::None }
}

/// The rows of a table, or its error, in short. The table is what follows the definition of the source `a`.
fn read(text: &str) -> String {
    let text: &'static str = format!("# source a = the letter\n{text}").leak();
    let show = |row: &Operation| {
        let name = if row.escalates { " by name" } else { "" };
        format!("{:?} {} {:?} {:?}{name}", row.method, row.pattern, row.price, row.idempotency)
    };
    match operations(text, price, idempotency) {
        Ok(rows) => rows.iter().map(show).collect::<Vec<_>>().join("; "),
        Err(error) => error.to_string(),
    }
}

fn check(text: &str, expected: &str) {
    assert_eq!(read(text), expected, "{text}");
}

#[test]
fn a_row_is_method_path_class_and_source() {
    check("GET /v1/charges free a", "Get /v1/charges Free None");
    check(
        "\n# Money.\n  POST\t/v1/charges/{id}   unpriced  a  \n\n",
        "Post /v1/charges/{id} Unpriced(\"nothing says\") Day",
    );
    check(
        "DELETE /a/{Sid}.json free a\nPATCH /a/{Sid} free a",
        "Delete /a/{Sid}.json Free None; Patch /a/{Sid} Free None",
    );
}

#[test]
fn a_class_that_escalates_is_free_unless_it_says_more() {
    check("POST /v1/tokens escalates a", "Post /v1/tokens Free Day by name");
    check("POST /v1/cards escalates-unpriced a", "Post /v1/cards Unpriced(\"nothing says\") Day by name");
    let class = |name| {
        format!("line 2: `{name}` is no class of this vendor; add it to `price` in the vendor's module")
    };
    check("POST /v1/cards escalates-often a", &class("escalates-often"));
    check("POST /v1/cards escalatesunpriced a", &class("escalatesunpriced"));
    check("POST /v1/cards cheap a", &class("cheap"));
}

#[test]
fn a_row_without_a_source_that_is_defined_above_is_refused() {
    check("GET /v1/a free", "line 2: there are 3 columns; end the row with its source");
    check("GET /v1/a free b", "line 2: the source `b` is not known; define it above: `# source b = …`");
    check(
        "GET /v1/a free b\n# source b = too late",
        "line 2: the source `b` is not known; define it above: `# source b = …`",
    );
    check("# source b = other\nGET /v1/a free b", "line 1: no row cites the source `a`; take its line out");
    check("# source a = again\nGET /v1/a free a", "line 2: the source `a` is defined twice");
    check("# source b\nGET /v1/a free a", "line 2: define a source as `# source NAME = DESCRIPTION`");
    check("# source b =\nGET /v1/a free a", "line 2: define a source as `# source NAME = DESCRIPTION`");
}

#[test]
fn a_line_that_is_no_row_says_why() {
    check("GET /v1/a", "line 2: there are 2 columns; write METHOD /path class source");
    check("GET /v1/a free a b", "line 2: there are 5 columns; write METHOD /path class source");
    check("HEAD /v1/a free a", "line 2: `HEAD` is no method; write GET, POST, PUT, PATCH or DELETE");
    check("get /v1/a free a", "line 2: `get` is no method; write GET, POST, PUT, PATCH or DELETE");
    check(
        "GET /v1/{} free a",
        "line 2: `/v1/{}` is no path; write segments such as `charges`, `{id}` or `{Sid}.json`",
    );
}

#[test]
fn an_operation_has_one_row() {
    let twice = |path| format!("line 3: `{path}` has a row already, by this or another name");
    check("GET /v1/a free a\nGET /v1/a unpriced a", &twice("/v1/a"));
    check("GET /v1/a/{id} free a\nGET /v1/a/{a} free a", &twice("/v1/a/{a}"));
    check(
        "GET /v1/a/{id} free a\nGET /v1/a/{id}.json free a",
        "Get /v1/a/{id} Free None; Get /v1/a/{id}.json Free None",
    );
}
