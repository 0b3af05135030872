//! Writes heads and chunks from parsed parts (N1): a forwarded message is encoded anew, received framing never
//! reaches the other side.
//!
//! What decides framing, routing or identity is written here, last, and left out if it is among the fields: an
//! allowlist that lets too much through still cannot send two lengths or two credentials (S7, H9).

use std::io::Write;

use super::{BodyFraming, Method, head};

/// Fields that concern one connection only (RFC 9110 section 7.6.1), or that this module writes itself.
const OWN_FIELDS: [&str; 15] = [
    "connection",
    "content-length",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "proxy-status",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "upgrade-insecure-requests",
];

/// The agent's own, replaced by ours.
const REQUEST_FIELDS: [&str; 2] = ["authorization", "host"];

/// A vendor's words about itself or to a browser, which an agent must not act on: an SDK that follows
/// `Location` would carry its vault key to another host (H9, S3).
const REPLY_FIELDS: [&str; 6] = ["alt-svc", "location", "refresh", "server", "set-cookie", "set-cookie2"];

/// The first line of a request to a vendor, from parts that were parsed or rewritten by routing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLine<'a> {
    /// The method.
    pub method: Method,
    /// The path, from its first `/`.
    pub path: &'a [u8],
    /// The query without its `?`.
    pub query: Option<&'a [u8]>,
}

/// Whether a request field may reach a vendor at all; the allowlist decides which of these do.
#[must_use]
pub fn may_forward(name: &[u8]) -> bool {
    head::is_token(name) && !is_among(name, &OWN_FIELDS) && !is_among(name, &REQUEST_FIELDS)
}

/// Whether a vendor's field may reach an agent.
#[must_use]
pub fn may_pass_back(name: &[u8]) -> bool {
    head::is_token(name) && !is_among(name, &OWN_FIELDS) && !is_among(name, &REPLY_FIELDS)
}

/// Appends a request head: Host, the fields, Content-Length, Authorization last (S7).
///
/// `authorization_line` is a whole line with its CRLF, prepared with the credential; empty for a call without one.
/// `out` does not grow once the credential is in it, so no freed memory keeps a copy. Write the body from another
/// buffer, or reserve for it before, and zeroize `out` after use (S1).
///
/// Fields that fail the grammar or [`may_forward`] are left out, as is a credential line that is not one line.
pub fn request_head<'a>(
    out: &mut Vec<u8>,
    line: RequestLine<'_>,
    host: &[u8],
    fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    content_length: Option<u64>,
    authorization_line: &[u8],
) {
    debug_assert!(line.path.first() == Some(&b'/'), "a path starts with a slash");
    debug_assert!(line.path.iter().all(u8::is_ascii_graphic), "a path was parsed");
    debug_assert!(
        line.query.is_none_or(|query| query.iter().all(u8::is_ascii_graphic)),
        "a query was parsed"
    );
    out.extend_from_slice(line.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(line.path);
    if let Some(query) = line.query {
        out.push(b'?');
        out.extend_from_slice(query);
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    field(out, b"Host", host);
    for (name, value) in fields {
        if may_forward(name) {
            field(out, name, value);
        }
    }
    if let Some(length) = content_length {
        decimal_field(out, "Content-Length: ", length);
    }
    let is_line = is_one_line(authorization_line);
    debug_assert!(is_line || authorization_line.is_empty(), "a credential is one line");
    let authorization_line = if is_line { authorization_line } else { &[] };
    // Two more bytes for the blank line: `out` must not move once the credential is in it.
    out.reserve(authorization_line.len().saturating_add(2));
    let capacity = out.capacity();
    out.extend_from_slice(authorization_line);
    out.extend_from_slice(b"\r\n");
    debug_assert_eq!(out.capacity(), capacity, "a move would leave a copy of the credential behind");
}

/// Appends a reply head: the fields, then the framing, then `Connection: close` if the connection ends with it.
///
/// Fields that fail the grammar or [`may_pass_back`] are left out. With [`BodyFraming::None`] no framing is
/// written, which only 1xx, 204 and 304 allow; an empty body is `Length(0)`.
pub fn reply_head<'a>(
    out: &mut Vec<u8>,
    status: u16,
    fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    framing: BodyFraming,
    close: bool,
) {
    debug_assert!((100..=599).contains(&status), "a status has three digits");
    debug_assert!(
        (framing == BodyFraming::None) == (status < 200 || matches!(status, 204 | 304)),
        "a body is framed, and only a body is"
    );
    out.extend_from_slice(b"HTTP/1.1 ");
    decimal(out, u64::from(status));
    out.push(b' ');
    out.extend_from_slice(reason(status).as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, value) in fields {
        if may_pass_back(name) {
            field(out, name, value);
        }
    }
    match framing {
        BodyFraming::None => {}
        BodyFraming::Length(length) => decimal_field(out, "Content-Length: ", length),
        BodyFraming::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
    if close {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends one chunk; nothing for no data, since an empty chunk would end the body.
pub fn chunk(out: &mut Vec<u8>, data: &[u8]) {
    // A chunk decoder may refuse sizes of more than eight digits, as ours does.
    for piece in data.chunks(u32::MAX as usize) {
        written(write!(out, "{:x}\r\n", piece.len()));
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends the end of a chunked body, without trailers.
pub fn last_chunk(out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n\r\n");
}

/// The reason phrase of a status (RFC 9110 section 15); empty for one that is not registered. A vendor's own
/// phrase is not passed on (S2).
#[must_use]
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        102 => "Processing",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "",
    }
}

fn is_among(name: &[u8], names: &[&str]) -> bool {
    names.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

fn is_one_line(line: &[u8]) -> bool {
    let Some(content) = line.strip_suffix(b"\r\n") else { return false };
    content.contains(&b':') && head::is_field_value(content)
}

/// A line that fails the grammar is not written (H9), nor one beyond ASCII: parsers differ on which of those bytes end a
/// line.
fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    if !head::is_token(name) || !head::is_field_value(value) || !value.is_ascii() {
        return;
    }
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn decimal_field(out: &mut Vec<u8>, name: &str, value: u64) {
    out.extend_from_slice(name.as_bytes());
    decimal(out, value);
    out.extend_from_slice(b"\r\n");
}

fn decimal(out: &mut Vec<u8>, value: u64) {
    written(write!(out, "{value}"));
}

/// Writing into memory does not fail.
fn written(result: std::io::Result<()>) {
    debug_assert!(result.is_ok(), "a vector takes every byte");
}

#[cfg(test)]
mod tests;
