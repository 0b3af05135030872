//! The head of a vendor's reply, read as strictly as a request's (H7, H9). A vendor is not trusted to be sane: what
//! is refused here becomes a 502 and the connection to the vendor is discarded.

use std::fmt;

use super::head::{self, Field, FramingFields, Lines};
use super::{BodyFraming, HeadError, HeadLimits, Parsed, Span};

/// How a vendor's body ends (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyFraming {
    /// The reply has no body, whatever its fields say: 1xx, 204, 304.
    None,
    /// `Content-Length`, in bytes.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// The body ends with the connection, so that a cut cannot be told from an end.
    UntilClose,
}

/// Why a vendor's head is refused: always the vendor's fault, always a 502. If the request was sent, the outcome
/// of the call is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyError {
    /// A line, field, limit or framing fault that requests and replies share.
    Head(HeadError),
    /// Not `HTTP/1.x SP 3DIGIT [SP reason]` with a status of 100 to 599 (RFC 9112 section 4).
    StatusLine,
    /// A version other than 1.1 and 1.0.
    Version,
    /// 101: nothing here asks for an upgrade (H5).
    Upgrade,
    /// Transfer-Encoding in an HTTP/1.0 reply, whose framing is faulty (RFC 9112 section 6.1).
    CodingInOldVersion,
}

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReplyError::Head(error) => write!(f, "vendor reply refused: {error}"),
            ReplyError::StatusLine => {
                f.write_str("vendor reply refused: malformed status line; check the base URL")
            }
            ReplyError::Version => {
                f.write_str("vendor reply refused: HTTP version not 1.1; check the base URL")
            }
            ReplyError::Upgrade => {
                f.write_str("vendor reply refused: it switches protocols; check the base URL")
            }
            ReplyError::CodingInOldVersion => {
                f.write_str("vendor reply refused: transfer coding in HTTP/1.0; check the base URL")
            }
        }
    }
}

impl std::error::Error for ReplyError {}

impl From<HeadError> for ReplyError {
    fn from(error: HeadError) -> ReplyError {
        ReplyError::Head(error)
    }
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    FirstLine,
    Fields,
    Complete,
    Refused(ReplyError),
}

/// One reply's head, reused for every reply of a connection to a vendor.
///
/// Accessors that take `buf` want the slice given to [`ReplyHead::parse`], or a longer one with the same start.
/// Before `Complete` they say nothing of use.
#[derive(Debug)]
pub struct ReplyHead {
    stage: Stage,
    lines: Lines,
    status: u16,
    is_old: bool,
    fields: Vec<Field>,
    lines_dropped: u32,
    framing: FramingFields,
    says_close: bool,
}

impl Default for ReplyHead {
    fn default() -> ReplyHead {
        ReplyHead::new()
    }
}

impl ReplyHead {
    /// An empty head, before any byte.
    #[must_use]
    pub const fn new() -> ReplyHead {
        ReplyHead {
            stage: Stage::FirstLine,
            lines: Lines::START,
            status: 0,
            is_old: false,
            fields: Vec::new(),
            lines_dropped: 0,
            framing: FramingFields::NONE,
            says_close: false,
        }
    }

    /// Forgets the reply, keeps the memory. Call it before the next reply, and between an interim reply and what
    /// follows it.
    pub fn reset(&mut self) {
        let mut fields = std::mem::take(&mut self.fields);
        fields.clear();
        *self = ReplyHead { fields, ..ReplyHead::new() };
    }

    /// Parses the head that starts at `buf[0]`, as [`super::RequestHead::parse`] does. Use [`HeadLimits::REPLY`].
    ///
    /// A field line with a malformed name or a control byte in its value is left out and counted (H9); it is
    /// refused only where it could change the framing.
    ///
    /// # Errors
    /// The first fault in the order of the bytes; it stays until [`ReplyHead::reset`].
    pub fn parse(&mut self, buf: &[u8], limits: &HeadLimits) -> Result<Parsed, ReplyError> {
        let parsed = self.advance(buf, limits);
        if let Err(error) = parsed {
            self.stage = Stage::Refused(error);
        }
        parsed
    }

    fn advance(&mut self, buf: &[u8], limits: &HeadLimits) -> Result<Parsed, ReplyError> {
        loop {
            match self.stage {
                Stage::Refused(error) => return Err(error),
                Stage::Complete => return Ok(Parsed::Complete { head_bytes: self.lines.head_bytes() }),
                Stage::FirstLine => begins_with_http(buf)?,
                Stage::Fields => {}
            }
            let Some(line) = self.lines.next(buf, limits)? else {
                return Ok(Parsed::Partial);
            };
            if matches!(self.stage, Stage::FirstLine) {
                self.read_status_line(line.of(buf))?;
                self.stage = Stage::Fields;
            } else if line.of(buf).is_empty() {
                if self.is_old && self.framing.framing() == BodyFraming::Chunked {
                    return Err(ReplyError::CodingInOldVersion);
                }
                self.stage = Stage::Complete;
            } else {
                let lines_seen = self.fields.len().saturating_add(self.lines_dropped as usize);
                if lines_seen >= limits.fields_max {
                    return Err(HeadError::TooManyFields.into());
                }
                self.read_field_line(buf, line)?;
            }
        }
    }

    fn read_status_line(&mut self, line: &[u8]) -> Result<(), ReplyError> {
        // A reason phrase may be missing, with or without the space before it, as many servers have it.
        let (version, code, behind) = match line {
            [b'H', b'T', b'T', b'P', b'/', major, b'.', minor, b' ', a, b, c, behind @ ..]
                if [major, minor, a, b, c].iter().all(|byte| byte.is_ascii_digit()) =>
            {
                ((*major, *minor), [*a, *b, *c], behind)
            }
            _ => return Err(ReplyError::StatusLine),
        };
        if !matches!(behind.first(), None | Some(b' ')) {
            return Err(ReplyError::StatusLine);
        }
        self.is_old = match version {
            (b'1', b'1') => false,
            (b'1', b'0') => true,
            _ => return Err(ReplyError::Version),
        };
        let status = std::str::from_utf8(&code).ok().and_then(|text| text.parse().ok());
        self.status = status.filter(|status| (100..=599).contains(status)).ok_or(ReplyError::StatusLine)?;
        if self.status == 101 { Err(ReplyError::Upgrade) } else { Ok(()) }
    }

    fn read_field_line(&mut self, buf: &[u8], line: Span) -> Result<(), ReplyError> {
        let field = Field::split(buf, line)?;
        let (name, value) = field.pair(buf);
        // Before the grammar: a control byte in these values must refuse the reply, not drop the line.
        if name.eq_ignore_ascii_case(b"content-length") {
            self.framing.length(value)?;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.framing.coding(value)?;
        } else if name.eq_ignore_ascii_case(b"connection") {
            let mut options = head::connection_options(value);
            self.says_close |= options.any(|option| option.eq_ignore_ascii_case(b"close"));
        }
        if head::is_token(name) && head::is_field_value(value) {
            self.fields.push(field);
        } else {
            self.lines_dropped = self.lines_dropped.saturating_add(1);
        }
        Ok(())
    }

    /// The status, 100 to 599 and not 101.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// An interim reply (1xx): the final one follows on the same connection. At most 8 are to be read (H7).
    #[must_use]
    pub fn is_interim(&self) -> bool {
        self.status < 200
    }

    /// How the body ends.
    #[must_use]
    pub fn framing(&self) -> ReplyFraming {
        if self.is_interim() || matches!(self.status, 204 | 304) {
            return ReplyFraming::None;
        }
        match self.framing.framing() {
            BodyFraming::None => ReplyFraming::UntilClose,
            BodyFraming::Length(length) => ReplyFraming::Length(length),
            BodyFraming::Chunked => ReplyFraming::Chunked,
        }
    }

    /// The connection cannot be used again: the vendor says so, speaks HTTP/1.0, or ends the body by closing.
    #[must_use]
    pub fn close(&self) -> bool {
        self.says_close || self.is_old || self.framing() == ReplyFraming::UntilClose
    }

    /// Every valid field line in order, as (name, value); values without outer blanks.
    pub fn fields<'a>(&'a self, buf: &'a [u8]) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone {
        self.fields.iter().map(move |field| field.pair(buf))
    }

    /// The value of the first field of that name, in any case.
    #[must_use]
    pub fn field<'b>(&self, buf: &'b [u8], name: &str) -> Option<&'b [u8]> {
        self.fields.iter().find(|field| field.is_named(buf, name)).map(|field| field.value.of(buf))
    }

    /// Whether a Connection field names this field, which therefore is not passed on (RFC 9110 section 7.6.1).
    #[must_use]
    pub fn drops(&self, buf: &[u8], name: &[u8]) -> bool {
        self.fields
            .iter()
            .filter(|field| field.is_named(buf, "connection"))
            .flat_map(|field| head::connection_options(field.value.of(buf)))
            .any(|option| option.eq_ignore_ascii_case(name))
    }

    /// Field lines left out because their grammar is wrong.
    #[must_use]
    pub fn lines_dropped(&self) -> u32 {
        self.lines_dropped
    }
}

/// Refuses a reply at its first byte that fits no status line.
fn begins_with_http(buf: &[u8]) -> Result<(), ReplyError> {
    if matches!(buf.first(), Some(b'\r' | b'\n')) {
        return Err(HeadError::LeadingLineBreak.into());
    }
    if buf.iter().zip(b"HTTP/").all(|(byte, wanted)| byte == wanted) {
        Ok(())
    } else {
        Err(ReplyError::StatusLine)
    }
}

#[cfg(test)]
mod tests;
