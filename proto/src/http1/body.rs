//! Message bodies, decoded piece by piece in both directions (H3, H4). The chunk decoder is our own: httparse takes
//! an empty chunk size as zero and lets LF and NUL through in extensions.
//!
//! It allocates nothing but what the caller's `out` grows by, and stops at the body's last byte.

use std::fmt;

use super::{BodyFraming, ReplyFraming, head};

/// Hex digits of a chunk size (H4).
const SIZE_DIGITS_MAX: u8 = 8;
/// Bytes of one chunk's extensions, the first semicolon included (H4).
const EXTENSION_BYTES_MAX: u32 = 256;
/// Bytes of all extensions and trailers of one body (H4).
const OVERHEAD_BYTES_MAX: u32 = 16_384;
/// Bytes of one trailer's name.
const TRAILER_NAME_BYTES_MAX: u32 = 256;

/// Why a body is refused. Of a request the agent is at fault, of a reply the vendor. The connection must be closed:
/// where the next message starts is not known (H6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// More bytes than the decoder's limit, announced or decoded (RFC 9110 section 15.5.14).
    TooLarge,
    /// A chunk size that is not 1 to 8 hex digits behind which `;` or CRLF stands (RFC 9112 section 7.1).
    ChunkSize,
    /// A chunk extension over 256 bytes, or none of the form `;name`, `;name=token` or `;name="text"`, without blanks
    /// (RFC 9112 section 7.1.1). Recipients are to ignore what they do not know, and some give up at its grammar.
    ChunkExtension,
    /// Chunk data that is not followed by CRLF (RFC 9112 section 7.1).
    ChunkEnd,
    /// A trailer that is no field line (RFC 9112 section 7.1.2).
    Trailer,
    /// Extensions and trailers that are together over 16 KiB.
    Overhead,
    /// The peer ended the connection inside the body (RFC 9112 section 8).
    Truncated,
}

impl BodyError {
    /// The status an agent is answered with if its own body is at fault; a vendor's is always 502.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            BodyError::TooLarge => 413,
            BodyError::ChunkSize
            | BodyError::ChunkExtension
            | BodyError::ChunkEnd
            | BodyError::Trailer
            | BodyError::Overhead
            | BodyError::Truncated => 400,
        }
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BodyError::TooLarge => "body too large; send less",
            BodyError::ChunkSize => "malformed chunk size; send one to eight hex digits and CRLF",
            BodyError::ChunkExtension => "chunk extension too long or malformed; send none",
            BodyError::ChunkEnd => "chunk data does not end in CRLF; send as many bytes as announced",
            BodyError::Trailer => "malformed trailer; send none",
            BodyError::Overhead => "too many chunk extensions and trailers; send none",
            BodyError::Truncated => "body cut short; send all of it",
        })
    }
}

impl std::error::Error for BodyError {}

/// What one [`BodyDecoder::decode`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Progress {
    /// Bytes of the input that belong to the body; the rest is the next message's.
    pub consumed: usize,
    /// The body is complete.
    pub done: bool,
}

/// What the next byte must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Done,
    Failed(BodyError),
    /// Bytes of a body with a length.
    Length(u64),
    UntilClose,
    Size {
        size: u32,
        digits: u8,
    },
    Extension {
        size: u32,
        bytes: u32,
        part: Part,
    },
    /// The LF of a size line.
    SizeLf {
        size: u32,
    },
    Data {
        left: u32,
    },
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName {
        bytes: u32,
    },
    TrailerValue,
    TrailerLf,
    EndLf,
}

/// Where in a chunk extension the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    NameStart,
    Name,
    ValueStart,
    Value,
    Quoted,
    Escaped,
    QuotedEnd,
}

impl Part {
    /// The part behind `byte`; `None` where it must not stand.
    fn after(self, byte: u8) -> Option<Part> {
        let is_token = head::is_token(&[byte]);
        match (self, byte) {
            (Part::NameStart | Part::Name, _) if is_token => Some(Part::Name),
            (Part::ValueStart | Part::Value, _) if is_token => Some(Part::Value),
            (Part::Name, b'=') => Some(Part::ValueStart),
            (Part::ValueStart, b'"') => Some(Part::Quoted),
            (Part::Quoted, b'"') => Some(Part::QuotedEnd),
            (Part::Quoted, b'\\') => Some(Part::Escaped),
            (Part::Quoted | Part::Escaped, b' '..=b'~') => Some(Part::Quoted),
            (Part::Name | Part::Value | Part::QuotedEnd, b';') => Some(Part::NameStart),
            _ => None,
        }
    }

    fn may_end(self) -> bool {
        matches!(self, Part::Name | Part::Value | Part::QuotedEnd)
    }
}

/// Decodes one body.
#[derive(Clone, Copy, Debug)]
pub struct BodyDecoder {
    state: State,
    /// Decoded bytes still allowed.
    allowance: u64,
    /// Extension and trailer bytes still allowed.
    overhead_left: u32,
}

impl BodyDecoder {
    /// A decoder for a request's body of at most `limit` decoded bytes.
    #[must_use]
    pub fn new(framing: BodyFraming, limit: u64) -> BodyDecoder {
        let state = match framing {
            BodyFraming::None | BodyFraming::Length(0) => State::Done,
            BodyFraming::Length(length) if length > limit => State::Failed(BodyError::TooLarge),
            BodyFraming::Length(length) => State::Length(length),
            BodyFraming::Chunked => State::Size { size: 0, digits: 0 },
        };
        BodyDecoder { state, allowance: limit, overhead_left: OVERHEAD_BYTES_MAX }
    }

    /// A decoder for a vendor's body; `u64::MAX` as the limit for a stream.
    #[must_use]
    pub fn of_reply(framing: ReplyFraming, limit: u64) -> BodyDecoder {
        let framed = match framing {
            ReplyFraming::None => BodyFraming::None,
            ReplyFraming::Length(length) => BodyFraming::Length(length),
            ReplyFraming::Chunked => BodyFraming::Chunked,
            ReplyFraming::UntilClose => {
                let state = State::UntilClose;
                return BodyDecoder { state, allowance: limit, overhead_left: OVERHEAD_BYTES_MAX };
            }
        };
        BodyDecoder::new(framed, limit)
    }

    /// The body is complete; true from the start for one without bytes.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// False if the announced length is over the limit, known before any body byte: refuse instead of answering
    /// `100 Continue`.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.state != State::Failed(BodyError::TooLarge)
    }

    /// Takes the next bytes received and appends what they decode to. An empty input is allowed.
    ///
    /// # Errors
    /// The first thing wrong; it stays. `out` may then hold bytes of the piece before the fault.
    pub fn decode(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Progress, BodyError> {
        let mut rest = input;
        loop {
            if let State::Failed(error) = self.state {
                return Err(error);
            }
            if self.state == State::Done || rest.is_empty() {
                let consumed = input.len().saturating_sub(rest.len());
                return Ok(Progress { consumed, done: self.is_done() });
            }
            match self.step(rest, out) {
                Ok(behind) => rest = behind,
                Err(error) => self.state = State::Failed(error),
            }
        }
    }

    /// The peer closed its side. Ends a body that ends by closing.
    ///
    /// # Errors
    /// [`BodyError::Truncated`] if more was announced: the reply is not whole, and its outcome not known.
    pub fn end_of_input(&mut self) -> Result<(), BodyError> {
        match self.state {
            State::Done | State::UntilClose => {
                self.state = State::Done;
                Ok(())
            }
            State::Failed(error) => Err(error),
            State::Length(_)
            | State::Size { .. }
            | State::Extension { .. }
            | State::SizeLf { .. }
            | State::Data { .. }
            | State::DataCr
            | State::DataLf
            | State::TrailerStart
            | State::TrailerName { .. }
            | State::TrailerValue
            | State::TrailerLf
            | State::EndLf => {
                self.state = State::Failed(BodyError::Truncated);
                Err(BodyError::Truncated)
            }
        }
    }

    /// Takes a run of data or one byte of framing from a non-empty input; returns what is behind it.
    fn step<'i>(&mut self, input: &'i [u8], out: &mut Vec<u8>) -> Result<&'i [u8], BodyError> {
        match self.state {
            State::Length(left) => {
                let (data, behind) = split_at_most(input, left);
                self.take(data, out)?;
                let left = left.saturating_sub(data.len() as u64);
                self.state = if left == 0 { State::Done } else { State::Length(left) };
                Ok(behind)
            }
            State::Data { left } => {
                let (data, behind) = split_at_most(input, u64::from(left));
                self.take(data, out)?;
                let left = left.saturating_sub(u32::try_from(data.len()).unwrap_or(u32::MAX));
                self.state = if left == 0 { State::DataCr } else { State::Data { left } };
                Ok(behind)
            }
            State::UntilClose => {
                self.take(input, out)?;
                Ok(&[])
            }
            State::Done | State::Failed(_) => Ok(input),
            State::Size { .. }
            | State::Extension { .. }
            | State::SizeLf { .. }
            | State::DataCr
            | State::DataLf
            | State::TrailerStart
            | State::TrailerName { .. }
            | State::TrailerValue
            | State::TrailerLf
            | State::EndLf => {
                let Some((&byte, behind)) = input.split_first() else { return Ok(input) };
                self.state = self.after(byte)?;
                Ok(behind)
            }
        }
    }

    /// The state behind one byte of chunk framing.
    fn after(&mut self, byte: u8) -> Result<State, BodyError> {
        match (self.state, byte) {
            (State::Size { size, digits }, _) => self.after_size(size, digits, byte),
            (State::Extension { size, part, .. }, b'\r') if part.may_end() => Ok(State::SizeLf { size }),
            (State::Extension { size, bytes, part }, _) => {
                let part = part.after(byte).filter(|_| bytes < EXTENSION_BYTES_MAX);
                let part = part.ok_or(BodyError::ChunkExtension)?;
                self.spend_overhead()?;
                Ok(State::Extension { size, bytes: bytes.saturating_add(1), part })
            }
            (State::SizeLf { size: 0 }, b'\n') => Ok(State::TrailerStart),
            (State::SizeLf { size }, b'\n') if u64::from(size) > self.allowance => Err(BodyError::TooLarge),
            (State::SizeLf { size }, b'\n') => Ok(State::Data { left: size }),
            (State::SizeLf { .. }, _) => Err(BodyError::ChunkSize),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size { size: 0, digits: 0 }),
            (State::DataCr | State::DataLf, _) => Err(BodyError::ChunkEnd),
            (State::TrailerStart, b'\r') => Ok(State::EndLf),
            (State::EndLf, b'\n') => Ok(State::Done),
            (State::TrailerName { bytes: 1.. }, b':') => Ok(State::TrailerValue),
            (State::TrailerStart, _) => self.after_trailer_name(0, byte),
            (State::TrailerName { bytes }, _) => self.after_trailer_name(bytes, byte),
            (State::TrailerValue, b'\r') => Ok(State::TrailerLf),
            (State::TrailerValue, _) if head::is_field_value(&[byte]) => {
                self.spend_overhead()?;
                Ok(State::TrailerValue)
            }
            (State::TrailerLf, b'\n') => Ok(State::TrailerStart),
            (State::EndLf | State::TrailerValue | State::TrailerLf, _) => Err(BodyError::Trailer),
            // Not framing states; `step` never asks for them.
            (
                State::Done | State::Failed(_) | State::Length(_) | State::UntilClose | State::Data { .. },
                _,
            ) => Err(BodyError::ChunkSize),
        }
    }

    fn after_size(&mut self, size: u32, digits: u8, byte: u8) -> Result<State, BodyError> {
        match byte {
            b'\r' if digits > 0 => Ok(State::SizeLf { size }),
            b';' if digits > 0 => {
                self.spend_overhead()?;
                Ok(State::Extension { size, bytes: 1, part: Part::NameStart })
            }
            _ => {
                let digit = char::from(byte).to_digit(16).ok_or(BodyError::ChunkSize)?;
                if digits >= SIZE_DIGITS_MAX {
                    return Err(BodyError::ChunkSize);
                }
                // Eight hex digits fill 32 bits exactly, so the shift loses nothing.
                Ok(State::Size { size: (size << 4) | digit, digits: digits.saturating_add(1) })
            }
        }
    }

    fn after_trailer_name(&mut self, bytes: u32, byte: u8) -> Result<State, BodyError> {
        if bytes >= TRAILER_NAME_BYTES_MAX || !head::is_token(&[byte]) {
            return Err(BodyError::Trailer);
        }
        self.spend_overhead()?;
        Ok(State::TrailerName { bytes: bytes.saturating_add(1) })
    }

    fn take(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), BodyError> {
        self.allowance = self.allowance.checked_sub(data.len() as u64).ok_or(BodyError::TooLarge)?;
        out.extend_from_slice(data);
        Ok(())
    }

    fn spend_overhead(&mut self) -> Result<(), BodyError> {
        self.overhead_left = self.overhead_left.checked_sub(1).ok_or(BodyError::Overhead)?;
        Ok(())
    }
}

fn split_at_most(input: &[u8], at: u64) -> (&[u8], &[u8]) {
    let at = usize::try_from(at).unwrap_or(usize::MAX).min(input.len());
    input.split_at_checked(at).unwrap_or((input, &[]))
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "offsets of small test inputs")]
mod tests;
