//! A statement's text, cut into tokens as SQLite cuts it: to see that it is one statement, and to let a scan do what
//! SQLite would do with every row.

use std::ops::Range;

/// One piece that means something: blanks and comments are none.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Token {
    kind: Kind,
    at: Range<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A name or keyword, with or without quotes, or a number.
    Word,
    /// A text in single quotes.
    Text,
    /// Everything else, one operator or sign a token.
    Sign,
}

/// Entries of the metadata that have a column of their own behind `metadata.`.
const ENTRIES: [&str; 4] = ["agent_id", "agent_name", "agent_run_id", "crew_run_id"];

/// The length of the token at the beginning of `rest`, and its kind; `None` for a blank or a comment.
fn token(rest: &[u8]) -> (usize, Option<Kind>) {
    let until = |from: usize, end: &[u8]| {
        let behind = rest.get(from..).unwrap_or_default();
        let found = behind.windows(end.len()).position(|window| window == end);
        found.map_or(rest.len(), |at| from.saturating_add(at).saturating_add(end.len()))
    };
    let run = |is_part: fn(u8) -> bool| rest.iter().take_while(|byte| is_part(**byte)).count();
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80;
    match rest {
        [b'-', b'-', ..] => (until(2, b"\n"), None),
        [b'/', b'*', ..] => (until(2, b"*/"), None),
        [b'-', b'>', b'>', ..] => (3, Some(Kind::Sign)),
        [b'-', b'>', ..] | [b'|', b'|', ..] | [b'<', b'=' | b'>' | b'<', ..] | [b'>', b'=' | b'>', ..] => {
            (2, Some(Kind::Sign))
        }
        [b'!' | b'=', b'=', ..] => (2, Some(Kind::Sign)),
        [quote @ (b'\'' | b'"' | b'`'), ..] => {
            let kind = if *quote == b'\'' { Kind::Text } else { Kind::Word };
            (quoted(rest, *quote), Some(kind))
        }
        [b'[', ..] => (until(1, b"]"), Some(Kind::Word)),
        [byte, ..] if byte.is_ascii_whitespace() || *byte == 0x0b => (1, None),
        [byte, ..] if is_word(*byte) => (run(is_word).max(1), Some(Kind::Word)),
        _ => (1, Some(Kind::Sign)),
    }
}

/// The length of a quoted text at the beginning of `rest`, in which a doubled quote is none.
fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1_usize;
    while let Some(byte) = rest.get(at) {
        at = at.saturating_add(1);
        if *byte != quote {
            continue;
        }
        if rest.get(at) != Some(&quote) {
            return at;
        }
        at = at.saturating_add(1);
    }
    rest.len()
}

fn tokens(sql: &str) -> Vec<Token> {
    let bytes = sql.as_bytes();
    let (mut tokens, mut at) = (Vec::new(), 0_usize);
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let (length, kind) = token(rest);
        let end = at.saturating_add(length).min(bytes.len());
        tokens.extend(kind.map(|kind| Token { kind, at: at..end }));
        at = end;
    }
    tokens
}

/// Whether something stands behind a semicolon.
pub(super) fn is_several(sql: &str) -> bool {
    let tokens = tokens(sql);
    let is_end = |token: &Token| sql.get(token.at.clone()) == Some(";");
    let statement = tokens.iter().skip_while(|token| is_end(token));
    statement.skip_while(|token| !is_end(token)).any(|token| !is_end(token))
}

/// The statement with the hidden column `"metadata.NAME"` in place of `metadata->>'NAME'`, so that the scan can compare it;
/// `None` where nothing is replaced. Only where the operator binds as the column would: not behind another operator that
/// binds as tightly, and not before `COLLATE`, which would belong to the name.
pub(super) fn with_columns(sql: &str) -> Option<String> {
    let tokens = tokens(sql);
    let text = |at: usize| tokens.get(at).and_then(|token| sql.get(token.at.clone())).unwrap_or_default();
    let (mut rewritten, mut copied) = (String::new(), 0_usize);
    for (at, token) in tokens.iter().enumerate() {
        let is_metadata = |word: &str| {
            let plain = word.trim_matches(['"', '`', '[', ']']);
            plain.eq_ignore_ascii_case("metadata")
        };
        if token.kind != Kind::Word || !is_metadata(text(at)) || text(at.saturating_add(1)) != "->>" {
            continue;
        }
        let Some(name) = tokens.get(at.saturating_add(2)).filter(|name| name.kind == Kind::Text) else {
            continue;
        };
        let path = text(at.saturating_add(2)).trim_matches('\'');
        let path = path.strip_prefix("$.").unwrap_or(path);
        let binds =
            binds_behind(&tokens, sql, at) && !text(at.saturating_add(3)).eq_ignore_ascii_case("collate");
        if let Some(entry) = ENTRIES.iter().find(|entry| **entry == path && binds) {
            rewritten.push_str(sql.get(copied..token.at.start).unwrap_or_default());
            rewritten.push_str("\"metadata.");
            rewritten.push_str(entry);
            rewritten.push('"');
            copied = name.at.end;
        }
    }
    rewritten.push_str(sql.get(copied..).unwrap_or_default());
    (copied > 0).then_some(rewritten)
}

/// Whether what stands before the name at `at`, and before the table that it may be qualified with, binds less tightly
/// than `->>`.
fn binds_behind(tokens: &[Token], sql: &str, at: usize) -> bool {
    let mut before = at.checked_sub(1);
    while let Some(dot) = before.filter(|dot| text_of(tokens, sql, *dot) == ".") {
        before = dot.checked_sub(2);
    }
    let Some(before) = before else { return true };
    let is_word = tokens.get(before).is_some_and(|token| token.kind == Kind::Word);
    is_word
        || matches!(
            text_of(tokens, sql, before),
            "(" | "," | "=" | "==" | "!=" | "<>" | "<" | ">" | "<=" | ">="
        )
}

fn text_of<'a>(tokens: &[Token], sql: &'a str, at: usize) -> &'a str {
    tokens.get(at).and_then(|token| sql.get(token.at.clone())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_statement_is_told_from_several() {
        for one in [
            "SELECT 1",
            "SELECT 1;",
            "SELECT 1 ;; -- x",
            "SELECT ';'",
            "/* ; */ SELECT \";\" -- ; 2",
            ";SELECT 1;",
        ] {
            assert!(!is_several(one), "{one}");
        }
        for several in
            ["SELECT 1; SELECT 2", "SELECT 1;2", "SELECT 'a''b'; x", "SELECT 1 /* */;--\n x", "SELECT [;];x"]
        {
            assert!(is_several(several), "{several}");
        }
    }

    #[test]
    fn entries_of_the_metadata_become_columns_where_that_means_the_same() {
        let check =
            |sql: &str, expected: Option<&str>| assert_eq!(with_columns(sql).as_deref(), expected, "{sql}");
        check(
            "SELECT ts FROM calls WHERE metadata->>'agent_run_id' = 'run_xyz' AND x;",
            Some("SELECT ts FROM calls WHERE \"metadata.agent_run_id\" = 'run_xyz' AND x;"),
        );
        check("c.Metadata /* x */ ->> '$.agent_id'", Some("c.\"metadata.agent_id\""));
        check("(\"metadata\"->>'agent_id')", Some("(\"metadata.agent_id\")"));
        check(
            "a = metadata->>'crew_run_id' AND NOT c.metadata->>'agent_name' = 'b'",
            Some("a = \"metadata.crew_run_id\" AND NOT c.\"metadata.agent_name\" = 'b'"),
        );
        for same in [
            "metadata->>'order_id' = 'x'",
            "metadata->'agent_id' = 'x'",
            "'metadata->>''agent_id'''",
            "-- metadata->>'agent_id'",
            "'a' || metadata->>'agent_id'",
            "'a' || c.metadata->>'agent_id'",
            "-metadata->>'agent_id'",
            "metadata->>'agent_id' COLLATE NOCASE = 'X'",
            "metadata->>\"agent_id\"",
            "other->>'agent_id'",
        ] {
            check(same, None);
        }
    }
}
