//! The head of an agent's request: one incremental, strict pass from bytes to method, target, fields and framing.
//!
//! It does not know which headers are forwarded, nor which paths exist: the allowlist and routing do.

use serde::{Deserialize, Serialize};

use super::head::{self, Field, FramingFields, Lines};
use super::target;
use super::{BodyFraming, HeadError, HeadLimits, Parsed, Span};

/// The methods that are served, a closed set (A3). `HEAD` and `OPTIONS` are not implied by `GET` (A2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// Reads.
    Get,
    /// Creates or acts; moves money.
    Post,
    /// Replaces.
    Put,
    /// Changes.
    Patch,
    /// Removes.
    Delete,
}

impl Method {
    /// All of them.
    pub const ALL: [Method; 5] = [Method::Get, Method::Post, Method::Put, Method::Patch, Method::Delete];
    /// The value of `Allow` in the answer to [`HeadError::Method`].
    pub const ALLOW: &str = "GET, POST, PUT, PATCH, DELETE";

    /// The method as it stands on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Patch => "PATCH",
            Method::Delete => "DELETE",
        }
    }

    /// Reads a method from the wire; case counts (RFC 9110 section 9.1).
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Method> {
        Method::ALL.into_iter().find(|method| method.as_str().as_bytes() == bytes)
    }

    /// Whether a first line that starts with `buf` can still name this method.
    fn may_begin(self, buf: &[u8]) -> bool {
        buf.iter().zip(self.as_str().bytes().chain([b' '])).all(|(&byte, wanted)| byte == wanted)
    }
}

/// How far a head has come.
#[derive(Clone, Copy, Debug)]
enum Stage {
    FirstLine,
    Fields,
    Complete,
    Refused(HeadError),
}

/// One request's head, reused for every request of a connection so that a steady connection allocates nothing.
///
/// Accessors that take `buf` want the slice given to [`RequestHead::parse`], or a longer one with the same start.
/// Before `Complete` they say nothing of use.
#[derive(Debug)]
pub struct RequestHead {
    stage: Stage,
    lines: Lines,
    method: Method,
    path: Span,
    query: Option<Span>,
    fields: Vec<Field>,
    framing: FramingFields,
    host_seen: bool,
    authorization: Option<Span>,
    content_type: Option<Span>,
    content_encoding: Option<Span>,
    idempotency_key: Option<Span>,
    expect_continue: bool,
    wants_close: bool,
    names_options: bool,
}

impl Default for RequestHead {
    fn default() -> RequestHead {
        RequestHead::new()
    }
}

impl RequestHead {
    /// An empty head, before any byte.
    #[must_use]
    pub const fn new() -> RequestHead {
        RequestHead {
            stage: Stage::FirstLine,
            lines: Lines::START,
            method: Method::Get,
            path: Span::EMPTY,
            query: None,
            fields: Vec::new(),
            framing: FramingFields::NONE,
            host_seen: false,
            authorization: None,
            content_type: None,
            content_encoding: None,
            idempotency_key: None,
            expect_continue: false,
            wants_close: false,
            names_options: false,
        }
    }

    /// Forgets the request, keeps the memory. Call it before the next request of the connection.
    pub fn reset(&mut self) {
        let mut fields = std::mem::take(&mut self.fields);
        fields.clear();
        *self = RequestHead { fields, ..RequestHead::new() };
    }

    /// Parses the head that starts at `buf[0]`. After `Partial`, call again with the same bytes and more behind
    /// them: no byte is looked at twice. Bytes behind the head (body, next request) are left alone.
    ///
    /// # Errors
    /// The first thing wrong, in the order of the bytes, as soon as its line or limit is reached; the verdict is
    /// the same however the bytes were split. An error stays until [`RequestHead::reset`].
    pub fn parse(&mut self, buf: &[u8], limits: &HeadLimits) -> Result<Parsed, HeadError> {
        let parsed = self.advance(buf, limits);
        if let Err(error) = parsed {
            self.stage = Stage::Refused(error);
        }
        parsed
    }

    fn advance(&mut self, buf: &[u8], limits: &HeadLimits) -> Result<Parsed, HeadError> {
        loop {
            match self.stage {
                Stage::Refused(error) => return Err(error),
                Stage::Complete => return Ok(Parsed::Complete { head_bytes: self.lines.head_bytes() }),
                Stage::FirstLine => begins_with_method(buf)?,
                Stage::Fields => {}
            }
            let Some(line) = self.lines.next(buf, limits)? else {
                return Ok(Parsed::Partial);
            };
            if matches!(self.stage, Stage::FirstLine) {
                self.read_request_line(buf, line)?;
                self.stage = Stage::Fields;
            } else if line.of(buf).is_empty() {
                if !self.host_seen {
                    return Err(HeadError::HostMissing);
                }
                self.stage = Stage::Complete;
            } else {
                if self.fields.len() >= limits.fields_max {
                    return Err(HeadError::TooManyFields);
                }
                self.read_field_line(buf, line)?;
            }
        }
    }

    fn read_request_line(&mut self, buf: &[u8], line: Span) -> Result<(), HeadError> {
        let bytes = line.of(buf);
        let mut words = bytes.splitn(3, |&byte| byte == b' ');
        let (Some(method), Some(target), Some(version)) = (words.next(), words.next(), words.next()) else {
            return Err(HeadError::RequestLine);
        };
        self.method = Method::parse(method).ok_or(HeadError::Method)?;
        match version {
            b"HTTP/1.1" => {}
            [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
                if major.is_ascii_digit() && minor.is_ascii_digit() =>
            {
                return Err(HeadError::Version);
            }
            _ => return Err(HeadError::RequestLine),
        }
        if target.is_empty() {
            return Err(HeadError::RequestLine);
        }
        let target_start = method.len().saturating_add(1);
        let target = line.part(target_start, target_start.saturating_add(target.len()));
        (self.path, self.query) = target::split(buf, target)?;
        Ok(())
    }

    fn read_field_line(&mut self, buf: &[u8], line: Span) -> Result<(), HeadError> {
        let field = Field::split(buf, line)?;
        let (name, value) = field.pair(buf);
        // Some servers read `_` as `-`, so that `content_length` would be a second framing field (A4).
        if !head::is_token(name) || name.contains(&b'_') {
            return Err(HeadError::FieldName);
        }
        if !head::is_field_value(value) {
            return Err(HeadError::FieldValue);
        }
        self.fields.push(field);
        self.notice(buf, line, field)
    }

    /// Keeps what framing and admission need of a valid field line.
    fn notice(&mut self, buf: &[u8], line: Span, field: Field) -> Result<(), HeadError> {
        let (name, value) = field.pair(buf);
        // Tabs around a length or a coding are allowed (RFC 9110 section 5.5), and refused by llhttp: who reads such a
        // value otherwise would see another message.
        let plain = || field.value_between_spaces(buf, line);
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
        match name.len() {
            4 if is("host") => {
                if std::mem::replace(&mut self.host_seen, true) {
                    return Err(HeadError::HostRepeated);
                }
                if target::is_host(value) { Ok(()) } else { Err(HeadError::HostInvalid) }
            }
            6 if is("expect") => {
                if self.expect_continue || !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(HeadError::Expectation);
                }
                self.expect_continue = true;
                Ok(())
            }
            7 if is("upgrade") => Err(HeadError::Upgrade),
            10 if is("connection") => self.notice_connection(value),
            12 if is("content-type") => once(&mut self.content_type, field.value, value),
            13 if is("authorization") => once(&mut self.authorization, field.value, value),
            14 if is("content-length") => self.framing.length(plain()),
            14 if is("http2-settings") => Err(HeadError::Upgrade),
            15 if is("idempotency-key") => once(&mut self.idempotency_key, field.value, value),
            16 if is("content-encoding") => once(&mut self.content_encoding, field.value, value),
            17 if is("transfer-encoding") => self.framing.coding(plain()),
            // Somebody may take `Transfer---Encoding` for the field it resembles.
            _ if head::spells(name, "contentlength") || head::spells(name, "transferencoding") => {
                Err(HeadError::FieldName)
            }
            _ => Ok(()),
        }
    }

    fn notice_connection(&mut self, value: &[u8]) -> Result<(), HeadError> {
        for option in head::connection_options(value) {
            if !head::is_token(option) {
                return Err(HeadError::ConnectionInvalid);
            }
            if option.eq_ignore_ascii_case(b"upgrade") {
                return Err(HeadError::Upgrade);
            }
            if option.eq_ignore_ascii_case(b"close") {
                self.wants_close = true;
            } else if !option.eq_ignore_ascii_case(b"keep-alive") {
                self.names_options = true;
            }
        }
        Ok(())
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> Method {
        self.method
    }

    /// The path: starts with `/`, holds only `[A-Za-z0-9._~+/-]`, no segment of dots; `//` is possible.
    #[must_use]
    pub fn path<'b>(&self, buf: &'b [u8]) -> &'b [u8] {
        self.path.of(buf)
    }

    /// The query behind `?`, without it, escapes as sent: well-formed, unread. `Some` of nothing for a bare `?`.
    #[must_use]
    pub fn query<'b>(&self, buf: &'b [u8]) -> Option<&'b [u8]> {
        self.query.map(|span| span.of(buf))
    }

    /// Every field line in order, as (name, value); names in the agent's case, values without outer blanks.
    pub fn fields<'a>(&'a self, buf: &'a [u8]) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone {
        self.fields.iter().map(move |field| field.pair(buf))
    }

    /// The value of the first field of that name, in any case. See [`RequestHead::repeats`].
    #[must_use]
    pub fn field<'b>(&self, buf: &'b [u8], name: &str) -> Option<&'b [u8]> {
        self.fields.iter().find(|field| field.is_named(buf, name)).map(|field| field.value.of(buf))
    }

    /// Whether more than one line has that name: a rule that reads one value must refuse such a request.
    #[must_use]
    pub fn repeats(&self, buf: &[u8], name: &str) -> bool {
        self.fields.iter().filter(|field| field.is_named(buf, name)).nth(1).is_some()
    }

    /// Authorization; never twice.
    #[must_use]
    pub fn authorization<'b>(&self, buf: &'b [u8]) -> Option<&'b [u8]> {
        self.authorization.map(|span| span.of(buf))
    }

    /// Content-Type; never twice.
    #[must_use]
    pub fn content_type<'b>(&self, buf: &'b [u8]) -> Option<&'b [u8]> {
        self.content_type.map(|span| span.of(buf))
    }

    /// Content-Encoding; never twice. A body of a priced call must have none (M2).
    #[must_use]
    pub fn content_encoding<'b>(&self, buf: &'b [u8]) -> Option<&'b [u8]> {
        self.content_encoding.map(|span| span.of(buf))
    }

    /// Idempotency-Key; never twice.
    #[must_use]
    pub fn idempotency_key<'b>(&self, buf: &'b [u8]) -> Option<&'b [u8]> {
        self.idempotency_key.map(|span| span.of(buf))
    }

    /// How the body is framed; [`super::BodyDecoder`] enforces the size limit.
    #[must_use]
    pub fn framing(&self) -> BodyFraming {
        self.framing.framing()
    }

    /// A GET whose framing announces a body: refused, but for the `{}` of Resend's SDK (H3). A chunked body counts,
    /// since its length is not known before it is read.
    #[must_use]
    pub fn is_get_with_body(&self) -> bool {
        self.method == Method::Get && !matches!(self.framing(), BodyFraming::None | BodyFraming::Length(0))
    }

    /// The agent waits for `100 Continue` before it sends the body. Answer it only if a body is awaited and
    /// [`super::BodyDecoder::fits`]; never forward it (H5).
    #[must_use]
    pub fn expect_continue(&self) -> bool {
        self.expect_continue
    }

    /// The agent asked for the connection to end after this exchange.
    #[must_use]
    pub fn wants_close(&self) -> bool {
        self.wants_close
    }

    /// Whether a Connection field names this field, which therefore is not forwarded (RFC 9110 section 7.6.1). It
    /// concerns the agent's own lines only: what the proxy adds is added behind this check (S7).
    #[must_use]
    pub fn drops(&self, buf: &[u8], name: &[u8]) -> bool {
        self.names_options
            && self
                .fields
                .iter()
                .filter(|field| field.is_named(buf, "connection"))
                .flat_map(|field| head::connection_options(field.value.of(buf)))
                .any(|option| option.eq_ignore_ascii_case(name))
    }
}

/// Keeps a field that decides something: there is one of it, and in ASCII, beyond which nothing is sent on.
fn once(slot: &mut Option<Span>, span: Span, value: &[u8]) -> Result<(), HeadError> {
    if !value.is_ascii() {
        return Err(HeadError::FieldValue);
    }
    if slot.replace(span).is_some() { Err(HeadError::FieldRepeated) } else { Ok(()) }
}

/// Refuses a first line at its first byte that fits no method, so that a TLS hello or `PRI` waits for no line end.
fn begins_with_method(buf: &[u8]) -> Result<(), HeadError> {
    if matches!(buf.first(), Some(b'\r' | b'\n')) {
        return Err(HeadError::LeadingLineBreak);
    }
    if Method::ALL.into_iter().any(|method| method.may_begin(buf)) { Ok(()) } else { Err(HeadError::Method) }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "offsets of small test inputs")]
mod tests;
