//! HTTP/1.1 as bytes: strict heads, bodies and their encoding. One pass reads what is passed on, so no second
//! reading can differ from the first (rule H1-H9).
//!
//! The part knows no socket, no clock, no vendor and no policy: it is handed a connection's buffer and says what
//! stands in it. What it accepts is later encoded anew by [`encode`]; received bytes are never copied through.
//!
//! ```text
//!  agent bytes -> RequestHead -> BodyDecoder -> (judged) -> encode::request_head + body with Content-Length
//!  vendor bytes -> ReplyHead -> BodyDecoder, piece by piece -> encode::reply_head, encode::chunk
//! ```

mod body;
pub mod encode;
mod head;
mod reply;
mod request;
mod target;

pub use body::{BodyDecoder, BodyError, Progress};
pub use head::{HeadError, HeadLimits, Parsed, Span};
pub use reply::{ReplyError, ReplyFraming, ReplyHead};
pub use request::{Method, RequestHead};

/// How long a message body is, as its head says and as a head we write says it (RFC 9112 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// No framing field: a request without a body, or a reply which cannot have one (1xx, 204, 304).
    None,
    /// `Content-Length`, in bytes; may be zero.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}
