//! Bodies (rules H3, H4).

use keybrake_proto::http1::{BodyDecoder, BodyError, BodyFraming, Progress, encode};

/// As the default of `proxy.body_bytes_max`.
const BODY_BYTES_MAX: u64 = 1 << 20;

/// A chunked body: one verdict however it is split, the bytes that a naive decoder finds, and the same bytes when it
/// is encoded again.
pub fn chunked_body(bytes: &[u8]) {
    let whole = decode(bytes, bytes.len().max(1), BODY_BYTES_MAX);
    let piece_bytes = usize::from(bytes.first().copied().unwrap_or_default() % 7).max(1);
    assert_eq!(decode(bytes, piece_bytes, BODY_BYTES_MAX), whole, "the verdict depends on the pieces");
    let (verdict, out) = whole;
    match verdict {
        Ok(Progress { consumed, done: true }) => {
            assert_eq!(naive(bytes), Some((out.clone(), consumed)));
            let mut again = Vec::new();
            encode::chunk(&mut again, &out);
            encode::last_chunk(&mut again);
            let (verdict, same) = decode(&again, again.len(), BODY_BYTES_MAX);
            assert_eq!(verdict, Ok(Progress { consumed: again.len(), done: true }));
            assert_eq!(same, out);
            if let Some(limit) = (out.len() as u64).checked_sub(1) {
                assert_eq!(decode(bytes, bytes.len(), limit).0, Err(BodyError::TooLarge));
            }
        }
        Ok(Progress { consumed, done: false }) => {
            assert_eq!(consumed, bytes.len(), "an unfinished body takes all there is");
            assert_eq!(naive(bytes), None);
        }
        Err(error) => assert!(matches!(error.status(), 400 | 413) && !error.to_string().is_empty()),
    }
}

/// Decodes in pieces; what was decoded before a fault counts as nothing.
fn decode(bytes: &[u8], piece_bytes: usize, limit: u64) -> (Result<Progress, BodyError>, Vec<u8>) {
    let mut decoder = BodyDecoder::new(BodyFraming::Chunked, limit);
    let (mut out, mut consumed) = (Vec::new(), 0);
    for piece in bytes.chunks(piece_bytes) {
        match decoder.decode(piece, &mut out) {
            Ok(progress) => consumed += progress.consumed,
            Err(error) => {
                assert_eq!(decoder.decode(b"", &mut Vec::new()), Err(error), "a fault stays");
                return (Err(error), Vec::new());
            }
        }
        if decoder.is_done() {
            break;
        }
    }
    (Ok(Progress { consumed, done: decoder.is_done() }), out)
}

/// The body and its length on the wire; `None` where it is not whole.
fn naive(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let line = |from: usize| {
        let end = bytes.get(from..)?.windows(2).position(|two| two == b"\r\n")?;
        Some((String::from_utf8_lossy(&bytes[from..from + end]).into_owned(), from + end + 2))
    };
    let (mut out, mut at) = (Vec::new(), 0);
    loop {
        let (size, behind) = line(at)?;
        let size = usize::from_str_radix(size.split(';').next()?, 16).ok()?;
        at = behind;
        if size == 0 {
            break;
        }
        out.extend_from_slice(bytes.get(at..at.checked_add(size)?)?);
        at += size;
        if bytes.get(at..at + 2)? != b"\r\n" {
            return None;
        }
        at += 2;
    }
    loop {
        let (trailer, behind) = line(at)?;
        at = behind;
        if trailer.is_empty() {
            return Some((out, at));
        }
    }
}
