//! What request and reply heads share: limits, the line cutter, the field grammar and the framing fields.
//!
//! The rules are narrower than RFC 9112 where the RFC lets a recipient be lenient, since every leniency is a
//! second reading somebody else may not share.

use std::fmt;

use super::BodyFraming;

/// A piece of the buffer a head was parsed from, as offsets from the head's first byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    pub(super) const EMPTY: Span = Span { start: 0, end: 0 };

    /// No head limit comes near `u32::MAX`; an offset beyond it would yield an empty span, not a wrong one.
    pub(super) fn new(start: usize, end: usize) -> Span {
        let clamp = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Span { start: clamp(start), end: clamp(end) }
    }

    /// The bytes themselves. `buf` is the slice that was given to `parse`; another one yields other bytes, or none.
    #[must_use]
    pub fn of(self, buf: &[u8]) -> &[u8] {
        buf.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    /// Offsets `from..to` inside this span.
    pub(super) fn part(self, from: usize, to: usize) -> Span {
        let base = self.start as usize;
        Span::new(base.saturating_add(from), base.saturating_add(to))
    }

    /// The span without spaces and tabs on either side (`OWS`, RFC 9110 section 5.6.3).
    fn trimmed(self, buf: &[u8]) -> Span {
        let bytes = self.of(buf);
        let solid = |byte: &u8| !matches!(byte, b' ' | b'\t');
        let from = bytes.iter().position(solid).unwrap_or(bytes.len());
        let to = bytes.iter().rposition(solid).map_or(from, |last| last.saturating_add(1));
        self.part(from, to)
    }
}

/// How much a head may hold. Bytes count with their CRLF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// The whole head with its blank line.
    pub head_bytes_max: usize,
    /// One line.
    pub line_bytes_max: usize,
    /// Field lines.
    pub fields_max: usize,
}

impl HeadLimits {
    /// For agents (H1).
    pub const REQUEST: HeadLimits =
        HeadLimits { head_bytes_max: 16_384, line_bytes_max: 8_192, fields_max: 100 };
    /// For vendors (H7); one line may fill most of the head, as `Link` and policy fields do.
    pub const REPLY: HeadLimits =
        HeadLimits { head_bytes_max: 65_536, line_bytes_max: 32_768, fields_max: 200 };
}

const _: () = assert!(HeadLimits::REQUEST.line_bytes_max <= HeadLimits::REQUEST.head_bytes_max);
const _: () = assert!(HeadLimits::REPLY.line_bytes_max <= HeadLimits::REPLY.head_bytes_max);
const _: () = assert!(HeadLimits::REPLY.head_bytes_max <= u32::MAX as usize);

impl Default for HeadLimits {
    fn default() -> HeadLimits {
        HeadLimits::REQUEST
    }
}

/// What `parse` knows after the bytes so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Parsed {
    /// Nothing wrong yet, and not all there: read more, then parse the longer buffer.
    Partial,
    /// The head is whole and valid; the body starts at `head_bytes`.
    Complete {
        /// Length of the head, its blank line included.
        head_bytes: usize,
    },
}

/// Why a head is refused. For a request the agent is at fault; for a reply the vendor is ([`super::ReplyError`]).
///
/// After any of these the connection must be closed: where the message ends is no longer known (H6). A false
/// refusal costs one call; a false acceptance may let one agent's bytes be read as another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// CR or LF before the first line; RFC 9112 section 2.2 lets servers skip it, H1 does not.
    LeadingLineBreak,
    /// CR without LF (RFC 9112 section 2.2).
    BareCr,
    /// LF without CR; RFC 9112 section 2.2 allows to accept it, which is what smuggling lives on.
    BareLf,
    /// A NUL byte (RFC 9110 section 5.5).
    Nul,
    /// A request line over the line limit (RFC 9110 section 15.5.15).
    TargetTooLong,
    /// A field line over the line limit (RFC 6585 section 5).
    LineTooLong,
    /// A head over the head limit (RFC 6585 section 5).
    HeadTooLarge,
    /// More field lines than the limit (RFC 6585 section 5).
    TooManyFields,
    /// Not one of [`super::Method`] in capitals (A3): `HEAD`, `CONNECT`, `PRI`, `get`, a TLS hello.
    Method,
    /// Not `METHOD SP target SP version` (RFC 9112 section 3).
    RequestLine,
    /// An HTTP version other than 1.1 (H2; RFC 9110 section 15.6.6).
    Version,
    /// A target that does not start with `/`: absolute, authority or asterisk form (A1, E1; RFC 9112 section 3.2).
    TargetForm,
    /// A path byte outside `[A-Za-z0-9._~+-]` and `/` (A1).
    PathByte,
    /// `%` in a path (A1): an escaped byte would be matched as one text and read as another.
    PathEscape,
    /// A path segment made of dots only (A1; RFC 3986 section 5.2.4).
    PathDots,
    /// A query byte outside visible ASCII, or one of ``\ # " < > { } | ^ ` `` (A5; RFC 3986 section 3.4).
    QueryByte,
    /// `%` without two hex digits, or `%00`, in a query (A5; RFC 3986 section 2.1).
    QueryEscape,
    /// A query parameter `_method`, which some servers take as the method (A4).
    MethodOverride,
    /// A line that starts with a space or tab: obsolete line folding (RFC 9112 section 5.2).
    Fold,
    /// A field line without a colon (RFC 9112 section 5).
    FieldLine,
    /// A space or tab in a field name or before its colon (RFC 9112 section 5.1).
    FieldNameSpace,
    /// A field name that is empty, no token (RFC 9110 section 5.1), holds `_` (A4), or resembles a framing field (H3).
    FieldName,
    /// A control byte in a field value (RFC 9110 section 5.5), or a byte beyond ASCII in one that decides something.
    FieldValue,
    /// A second line of a field that decides who pays or how the body reads: Authorization, Content-Type,
    /// Content-Encoding, Idempotency-Key.
    FieldRepeated,
    /// No Host (RFC 9112 section 3.2).
    HostMissing,
    /// More than one Host (H2; RFC 9112 section 3.2).
    HostRepeated,
    /// A Host which is no `host[:port]` (H2; RFC 9110 section 7.2).
    HostInvalid,
    /// A Content-Length that is not `1*DIGIT`, lists included, or exceeds 64 bits (H3; RFC 9112 section 6.3).
    LengthInvalid,
    /// A second Content-Length, equal or not (H3).
    LengthRepeated,
    /// A Transfer-Encoding other than exactly `chunked` (H3; RFC 9112 section 6.1).
    CodingUnknown,
    /// A second Transfer-Encoding line (H3).
    CodingRepeated,
    /// Content-Length and Transfer-Encoding in one head (H3; RFC 9112 section 6.1).
    LengthAndCoding,
    /// A Connection field that is no list of tokens (RFC 9110 section 7.6.1).
    ConnectionInvalid,
    /// An Upgrade or HTTP2-Settings field, or `Connection: upgrade` (H5; RFC 9110 section 7.8).
    Upgrade,
    /// An expectation other than `100-continue` (H5; RFC 9110 section 10.1.1).
    Expectation,
}

impl HeadError {
    /// The status an agent is answered with. 405 needs `Allow: ` [`super::Method::ALLOW`] (RFC 9110 section 15.5.6).
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            HeadError::Method => 405,
            HeadError::TargetTooLong => 414,
            HeadError::Expectation => 417,
            HeadError::LineTooLong | HeadError::HeadTooLarge | HeadError::TooManyFields => 431,
            HeadError::CodingUnknown => 501,
            HeadError::Version => 505,
            HeadError::LeadingLineBreak
            | HeadError::BareCr
            | HeadError::BareLf
            | HeadError::Nul
            | HeadError::RequestLine
            | HeadError::TargetForm
            | HeadError::PathByte
            | HeadError::PathEscape
            | HeadError::PathDots
            | HeadError::QueryByte
            | HeadError::QueryEscape
            | HeadError::MethodOverride
            | HeadError::Fold
            | HeadError::FieldLine
            | HeadError::FieldNameSpace
            | HeadError::FieldName
            | HeadError::FieldValue
            | HeadError::FieldRepeated
            | HeadError::HostMissing
            | HeadError::HostRepeated
            | HeadError::HostInvalid
            | HeadError::LengthInvalid
            | HeadError::LengthRepeated
            | HeadError::CodingRepeated
            | HeadError::LengthAndCoding
            | HeadError::ConnectionInvalid
            | HeadError::Upgrade => 400,
        }
    }
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HeadError::LeadingLineBreak => "line break before the first line; start with the method",
            HeadError::BareCr => "carriage return without line feed; end every line with CRLF",
            HeadError::BareLf => "line feed without carriage return; end every line with CRLF",
            HeadError::Nul => "NUL byte in the head; remove it",
            HeadError::TargetTooLong => "request line too long; shorten the path or query",
            HeadError::LineTooLong => "header line too long; shorten it",
            HeadError::HeadTooLarge => "header section too large; send fewer or shorter headers",
            HeadError::TooManyFields => "too many header lines; send fewer",
            HeadError::Method => "method not served; use GET, POST, PUT, PATCH or DELETE in capitals",
            HeadError::RequestLine => "malformed request line; send method, target and version",
            HeadError::Version => "HTTP version not served; use HTTP/1.1",
            HeadError::TargetForm => "target must be a path; send a request target that starts with /",
            HeadError::PathByte => "path holds a character not allowed; use letters, digits and . _ ~ + -",
            HeadError::PathEscape => "path holds a percent escape; use plain identifiers",
            HeadError::PathDots => "path holds a segment of dots; send the final path",
            HeadError::QueryByte => "query holds a character not allowed; percent-encode it",
            HeadError::QueryEscape => {
                "query holds a bad percent escape; use % and two hex digits other than 00"
            }
            HeadError::MethodOverride => "query overrides the method; send the method itself",
            HeadError::Fold => "folded header line; put each header on one line",
            HeadError::FieldLine => "header line without a colon; send name, colon and value",
            HeadError::FieldNameSpace => "space in a header name; put the colon right behind the name",
            HeadError::FieldName => "malformed header name; use letters, digits and hyphens",
            HeadError::FieldValue => "control character in a header value; remove it",
            HeadError::FieldRepeated => {
                "repeated header; send Authorization, Content-Type, Content-Encoding and Idempotency-Key once"
            }
            HeadError::HostMissing => "no Host header; send one",
            HeadError::HostRepeated => "more than one Host header; send one",
            HeadError::HostInvalid => "malformed Host header; send host or host:port",
            HeadError::LengthInvalid => "malformed Content-Length; send one decimal number",
            HeadError::LengthRepeated => "more than one Content-Length; send one",
            HeadError::CodingUnknown => "transfer coding not served; use Content-Length or chunked",
            HeadError::CodingRepeated => "more than one Transfer-Encoding; send one",
            HeadError::LengthAndCoding => "Content-Length beside Transfer-Encoding; send one of them",
            HeadError::ConnectionInvalid => "malformed Connection header; send a list of tokens",
            HeadError::Upgrade => "protocol upgrade not served; use plain HTTP/1.1",
            HeadError::Expectation => "expectation not served; use 100-continue or none",
        })
    }
}

impl std::error::Error for HeadError {}

/// Cuts a growing buffer into lines, looking at each byte once however it arrives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lines {
    /// Where the line being read starts.
    line_start: usize,
    /// Bytes before this one hold no unread line end.
    scanned: usize,
}

impl Lines {
    pub(super) const START: Lines = Lines { line_start: 0, scanned: 0 };

    /// Where the next line starts: after the blank line, the length of the head.
    pub(super) fn head_bytes(&self) -> usize {
        self.line_start
    }

    /// Yields the next line without its CRLF, or `None` if it is not all there. Verdicts depend on the bytes
    /// alone, not on the pieces in which they came.
    pub(super) fn next(&mut self, buf: &[u8], limits: &HeadLimits) -> Result<Option<Span>, HeadError> {
        let line_end_max = self.line_start.saturating_add(limits.line_bytes_max);
        let window_end = line_end_max.min(limits.head_bytes_max);
        let window = buf.get(self.scanned..buf.len().min(window_end)).unwrap_or_default();
        let Some(offset) = first_break(window) else {
            self.scanned = self.scanned.saturating_add(window.len());
            if buf.len() < window_end {
                return Ok(None);
            }
            return Err(self.over_limit(line_end_max, limits));
        };
        let at = self.scanned.saturating_add(offset);
        self.scanned = at;
        match buf.get(at) {
            Some(b'\r') => {}
            Some(b'\n') => return Err(HeadError::BareLf),
            _ => return Err(HeadError::Nul),
        }
        let next_start = at.saturating_add(2);
        if next_start > window_end {
            return Err(self.over_limit(line_end_max, limits));
        }
        match buf.get(at.saturating_add(1)) {
            None => Ok(None),
            Some(b'\n') => {
                let line = Span::new(self.line_start, at);
                self.line_start = next_start;
                self.scanned = next_start;
                Ok(Some(line))
            }
            Some(_) => Err(HeadError::BareCr),
        }
    }

    fn over_limit(&self, line_end_max: usize, limits: &HeadLimits) -> HeadError {
        if line_end_max > limits.head_bytes_max {
            HeadError::HeadTooLarge
        } else if self.line_start == 0 {
            HeadError::TargetTooLong
        } else {
            HeadError::LineTooLong
        }
    }
}

/// One field line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) name: Span,
    pub(super) value: Span,
}

impl Field {
    /// Splits a line at its colon. The name and value are still to be judged by `is_token` and `is_field_value`.
    pub(super) fn split(buf: &[u8], line: Span) -> Result<Field, HeadError> {
        let bytes = line.of(buf);
        if matches!(bytes.first(), Some(b' ' | b'\t')) {
            return Err(HeadError::Fold);
        }
        let colon = bytes.iter().position(|&byte| byte == b':').ok_or(HeadError::FieldLine)?;
        let name = line.part(0, colon);
        if !is_token(name.of(buf)) && name.of(buf).iter().any(|byte| matches!(byte, b' ' | b'\t')) {
            return Err(HeadError::FieldNameSpace);
        }
        let value = line.part(colon.saturating_add(1), bytes.len()).trimmed(buf);
        Ok(Field { name, value })
    }

    /// The value with the tabs around it: all of `line`, whose field this is, behind its colon but for spaces.
    pub(super) fn value_between_spaces<'b>(&self, buf: &'b [u8], line: Span) -> &'b [u8] {
        let behind = self.name.of(buf).len().saturating_add(1);
        let mut value = line.of(buf).get(behind..).unwrap_or_default();
        while let [b' ', rest @ ..] | [rest @ .., b' '] = value {
            value = rest;
        }
        value
    }

    pub(super) fn is_named(&self, buf: &[u8], name: &str) -> bool {
        self.name.of(buf).eq_ignore_ascii_case(name.as_bytes())
    }

    pub(super) fn pair<'b>(&self, buf: &'b [u8]) -> (&'b [u8], &'b [u8]) {
        (self.name.of(buf), self.value.of(buf))
    }
}

/// The framing fields of one head (H3).
#[derive(Clone, Copy, Debug)]
pub(super) struct FramingFields {
    length: Option<u64>,
    chunked: bool,
}

impl FramingFields {
    pub(super) const NONE: FramingFields = FramingFields { length: None, chunked: false };

    /// Takes a Content-Length value.
    pub(super) fn length(&mut self, value: &[u8]) -> Result<(), HeadError> {
        let length = decimal(value).ok_or(HeadError::LengthInvalid)?;
        if self.length.replace(length).is_some() {
            return Err(HeadError::LengthRepeated);
        }
        self.agree()
    }

    /// Takes a Transfer-Encoding value.
    pub(super) fn coding(&mut self, value: &[u8]) -> Result<(), HeadError> {
        if self.chunked {
            return Err(HeadError::CodingRepeated);
        }
        if !value.eq_ignore_ascii_case(b"chunked") {
            return Err(HeadError::CodingUnknown);
        }
        self.chunked = true;
        self.agree()
    }

    fn agree(&self) -> Result<(), HeadError> {
        if self.chunked && self.length.is_some() { Err(HeadError::LengthAndCoding) } else { Ok(()) }
    }

    pub(super) fn framing(&self) -> BodyFraming {
        match (self.chunked, self.length) {
            (true, _) => BodyFraming::Chunked,
            (false, Some(length)) => BodyFraming::Length(length),
            (false, None) => BodyFraming::None,
        }
    }
}

/// `1*DIGIT` that fits 64 bits.
fn decimal(bytes: &[u8]) -> Option<u64> {
    // `parse` alone would take a leading plus sign.
    if !bytes.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// The options of a Connection value: empty list elements are skipped (RFC 9110 section 5.6.1.2).
pub(super) fn connection_options(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|option| !option.is_empty())
}

/// Where the first CR, LF or NUL is. Sixteen bytes at a time as long as none is below 14, which is one vector
/// comparison: most of a head is text.
fn first_break(bytes: &[u8]) -> Option<usize> {
    let (chunks, _) = bytes.as_chunks::<16>();
    let is_text = |chunk: &&[u8; 16]| chunk.iter().copied().fold(u8::MAX, u8::min) > b'\r';
    let start = chunks.iter().take_while(is_text).count().saturating_mul(16);
    let offset = bytes.get(start..)?.iter().position(|byte| matches!(byte, b'\r' | b'\n' | 0))?;
    Some(start.saturating_add(offset))
}

/// The bytes of a token.
#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler; a byte is below 256")]
const TOKEN_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut rest: &[u8] = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    while let [byte, tail @ ..] = rest {
        table[*byte as usize] = true;
        rest = tail;
    }
    table
};

/// A non-empty token (RFC 9110 section 5.6.2).
pub(super) fn is_token(bytes: &[u8]) -> bool {
    let tchar = |&byte: &u8| TOKEN_BYTES.get(usize::from(byte)).copied().unwrap_or_default();
    !bytes.is_empty() && bytes.iter().all(tchar)
}

/// Whether the letters of `name` are these, in any case. Most names differ in the first.
pub(super) fn spells(name: &[u8], letters: &str) -> bool {
    let own = name.iter().filter(|byte| byte.is_ascii_alphabetic()).map(u8::to_ascii_lowercase);
    own.eq(letters.bytes())
}

/// A field value: no control bytes but tabs (RFC 9110 section 5.5). Bytes over 127 are opaque and allowed, since
/// SDKs put host names into their client fields; [`super::encode`] leaves such a field out.
pub(super) fn is_field_value(bytes: &[u8]) -> bool {
    bytes.iter().fold(true, |clean, &byte| clean & (byte == b'\t' || !byte.is_ascii_control()))
}
