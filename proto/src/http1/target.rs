//! The grammar of a request's target and Host (A1, A5, H2). What does not fit is refused, never normalised: the
//! bytes that were judged are the bytes that are sent.

use super::{HeadError, Span};
use crate::form;

/// Splits an origin-form target into path and query, both judged.
pub(super) fn split(buf: &[u8], target: Span) -> Result<(Span, Option<Span>), HeadError> {
    let bytes = target.of(buf);
    if bytes.first() != Some(&b'/') {
        return Err(HeadError::TargetForm);
    }
    let Some(mark) = bytes.iter().position(|&byte| byte == b'?') else {
        judge_path(bytes)?;
        return Ok((target, None));
    };
    let path = target.part(0, mark);
    let query = target.part(mark.saturating_add(1), bytes.len());
    judge_path(path.of(buf))?;
    judge_query(query.of(buf))?;
    Ok((path, Some(query)))
}

fn judge_path(path: &[u8]) -> Result<(), HeadError> {
    for &byte in path {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'~' | b'+' | b'-' | b'/' => {}
            b'%' => return Err(HeadError::PathEscape),
            _ => return Err(HeadError::PathByte),
        }
    }
    let dots_only = |segment: &[u8]| !segment.is_empty() && segment.iter().all(|&byte| byte == b'.');
    if path.split(|&byte| byte == b'/').any(dots_only) { Err(HeadError::PathDots) } else { Ok(()) }
}

fn judge_query(query: &[u8]) -> Result<(), HeadError> {
    let mut rest = query;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match byte {
            b'\\' | b'#' | b'"' | b'<' | b'>' | b'{' | b'}' | b'|' | b'^' | b'`' => {
                return Err(HeadError::QueryByte);
            }
            b'%' => {
                let [high, low, behind @ ..] = tail else {
                    return Err(HeadError::QueryEscape);
                };
                let is_hex = high.is_ascii_hexdigit() && low.is_ascii_hexdigit();
                if !is_hex || (*high == b'0' && *low == b'0') {
                    return Err(HeadError::QueryEscape);
                }
                rest = behind;
            }
            0x21..=0x7e => {}
            _ => return Err(HeadError::QueryByte),
        }
    }
    if form::mentions(query, "_method") { Err(HeadError::MethodOverride) } else { Ok(()) }
}

/// `host[:port]` with a name, an IPv4 address or a bracketed IPv6 one. The value decides nothing (E1); a strict
/// reading only keeps ambiguous requests out.
pub(super) fn is_host(value: &[u8]) -> bool {
    let (host, port) = match value {
        [b'[', inner @ ..] => {
            let Some(end) = inner.iter().position(|&byte| byte == b']') else { return false };
            let (address, behind) = inner.split_at(end);
            let text = std::str::from_utf8(address).unwrap_or_default();
            if text.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            match behind {
                [b']'] => return true,
                [b']', b':', port @ ..] => return is_port(port),
                _ => return false,
            }
        }
        _ => match value.iter().position(|&byte| byte == b':') {
            Some(colon) => {
                let (host, port) = value.split_at(colon);
                (host, port.get(1..))
            }
            None => (value, None),
        },
    };
    // `_` stands in the service names of compose files.
    let is_name_byte = |byte: &u8| byte.is_ascii_alphanumeric() || b"._~-".contains(byte);
    (1..=255).contains(&host.len()) && host.iter().all(is_name_byte) && port.is_none_or(is_port)
}

fn is_port(port: &[u8]) -> bool {
    port.iter().all(u8::is_ascii_digit)
        && std::str::from_utf8(port).is_ok_and(|text| text.parse::<u16>().is_ok())
}
