use proptest::prelude::*;

use super::*;
use crate::http1::encode;
use BodyError::*;

const LIMIT: u64 = 64;

/// Feeds `input` in pieces; returns the decoded bytes and how many input bytes the body took.
fn decode(
    mut decoder: BodyDecoder,
    input: &[u8],
    piece_bytes: usize,
) -> Result<(Vec<u8>, usize, bool), BodyError> {
    let mut out = Vec::new();
    let mut consumed = 0;
    for piece in input.chunks(piece_bytes.max(1)) {
        let progress = decoder.decode(piece, &mut out)?;
        consumed += progress.consumed;
        if progress.done {
            break;
        }
        assert_eq!(progress.consumed, piece.len(), "an unfinished body takes every byte");
    }
    Ok((out, consumed, decoder.is_done()))
}

fn chunked() -> BodyDecoder {
    BodyDecoder::new(BodyFraming::Chunked, LIMIT)
}

/// Checks a whole chunked body, at once and byte by byte; what stands behind `|` must be left alone.
#[track_caller]
fn check(body: &str, expected: Result<&str, BodyError>) {
    let (body, behind) = body.split_once('|').unwrap_or((body, ""));
    let input = [body.as_bytes(), behind.as_bytes()].concat();
    let expected = expected.map(|text| (text.as_bytes().to_vec(), body.len(), true));
    assert_eq!(decode(chunked(), &input, usize::MAX), expected, "{body:?}");
    assert_eq!(decode(chunked(), &input, 1), expected, "{body:?}, byte by byte");
}

#[test]
fn chunked_bodies_are_decoded_up_to_their_last_byte() {
    check("0\r\n\r\n", Ok(""));
    check("3\r\nabc\r\n0\r\n\r\n|GET / HTTP/1.1", Ok("abc"));
    check("1\r\na\r\n2\r\nbc\r\n00000000\r\n\r\n|0\r\n\r\n", Ok("abc"));
    check("A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", Ok("01234567890123456789"));
    check("00000003\r\n\r\n0\r\n0\r\n\r\n", Ok("\r\n0"));
    check("3;name=value;q=\"a b\"\r\nabc\r\n0;last\r\n\r\n", Ok("abc"));
    check("3\r\nabc\r\n0\r\nDigest: x\r\nX-Y:\r\n\r\n|x", Ok("abc"));
}

#[test]
fn hostile_chunked_bodies_are_refused() {
    let long = "x".repeat(256);
    for (rule, body, expected) in [
        ("H4", "\r\n\r\n", ChunkSize),
        ("H4", ";a=b\r\n\r\n", ChunkSize),
        ("H4", " 3\r\nabc\r\n", ChunkSize),
        ("H4", "3 \r\nabc\r\n", ChunkSize),
        ("H4", "3\t\r\nabc\r\n", ChunkSize),
        ("H4", "0x3\r\nabc\r\n", ChunkSize),
        ("H4", "+3\r\nabc\r\n", ChunkSize),
        ("H4", "-3\r\nabc\r\n", ChunkSize),
        ("H4", "3_0\r\nabc\r\n", ChunkSize),
        ("H4", "g\r\nabc\r\n", ChunkSize),
        ("H4", "000000003\r\nabc\r\n", ChunkSize),
        ("H4", "100000003\r\nabc\r\n", ChunkSize),
        ("H4", "ffffffffffffffff3\r\nabc\r\n", ChunkSize),
        ("H4", "3\nabc\r\n", ChunkSize),
        ("H4", "3\rabc\r\n", ChunkSize),
        ("H4", "3\r\r\nabc\r\n", ChunkSize),
        ("H4", "3\0\r\nabc\r\n", ChunkSize),
        ("H4", "3;a\nabc\r\n", ChunkExtension),
        ("H4", "3;a\0b\r\nabc\r\n", ChunkExtension),
        ("H4", "3;a\tb\r\nabc\r\n", ChunkExtension),
        ("H4", "3;a\u{7f}\r\nabc\r\n", ChunkExtension),
        ("H4", "3;\u{e9}\r\nabc\r\n", ChunkExtension),
        ("H4", "3;\r\nabc\r\n", ChunkExtension),
        ("H4", "3; a\r\nabc\r\n", ChunkExtension),
        ("H4", "3;a=\r\nabc\r\n", ChunkExtension),
        ("H4", "3;a=\"b\r\nabc\r\n", ChunkExtension),
        ("H4", "3;a=\"b\"c\r\nabc\r\n", ChunkExtension),
        ("H4", "3;a;\r\nabc\r\n", ChunkExtension),
        ("H4", "3;a\rabc\r\n", ChunkSize),
        ("H4", &format!("3;{long}\r\nabc\r\n"), ChunkExtension),
        ("H4", "3\r\nabcd\r\n", ChunkEnd),
        ("H4", "3\r\nabc\n", ChunkEnd),
        ("H4", "3\r\nabc\rx", ChunkEnd),
        ("H4", "3\r\nabc0\r\n\r\n", ChunkEnd),
        ("H4", "0\r\n\n", Trailer),
        ("H4", "0\r\n\rx", Trailer),
        ("H4", "0\r\nX\r\n\r\n", Trailer),
        ("H4", "0\r\n: a\r\n\r\n", Trailer),
        ("H4", "0\r\nX : a\r\n\r\n", Trailer),
        ("H4", "0\r\n X: a\r\n\r\n", Trailer),
        ("H4", "0\r\nX: a\n\r\n", Trailer),
        ("H4", "0\r\nX: a\rb\r\n\r\n", Trailer),
        ("H4", "0\r\nX: a\0\r\n\r\n", Trailer),
        ("H4", "0\r\nX: a\r\n b\r\n\r\n", Trailer),
        ("H4", &format!("0\r\n{long}x: a\r\n\r\n"), Trailer),
        ("H4", "0\r\nGET / HTTP/1.1\r\n\r\n", Trailer),
        ("H3", "41\r\n", TooLarge),
        ("H3", "ffffffff\r\n", TooLarge),
    ] {
        assert!(rule.starts_with('H'));
        check(body, Err(expected));
        assert!(expected.to_string().contains("; "));
    }
}

#[test]
fn decoded_bytes_are_limited_over_all_chunks() {
    let chunk = format!("20\r\n{}\r\n", "a".repeat(32));
    check(&format!("{chunk}{chunk}0\r\n\r\n"), Ok(&"a".repeat(64)));
    check(&format!("{chunk}{chunk}1\r\na\r\n0\r\n\r\n"), Err(TooLarge));
}

#[test]
fn extensions_and_trailers_share_one_allowance() {
    let extended = format!("1;{}\r\na\r\n", "x".repeat(255));
    check(&format!("{}0\r\n\r\n", extended.repeat(64)), Ok(&"a".repeat(64)));
    check(&format!("{}0;\r\n\r\n", extended.repeat(64)), Err(Overhead));
    check(&format!("{}0\r\nX: a\r\n\r\n", extended.repeat(64)), Err(Overhead));
    check(&format!("0\r\n{}\r\n", "X: aaaaaaaa\r\n".repeat(2_000)), Err(Overhead));
}

#[test]
fn a_body_with_a_length_ends_at_its_last_byte() {
    let decoder = BodyDecoder::new(BodyFraming::Length(3), LIMIT);
    assert_eq!(decode(decoder, b"abcGET", usize::MAX), Ok((b"abc".to_vec(), 3, true)));
    assert_eq!(decode(decoder, b"abcGET", 2), Ok((b"abc".to_vec(), 3, true)));
    assert_eq!(decode(decoder, b"ab", 1), Ok((b"ab".to_vec(), 2, false)));
}

#[test]
fn a_body_without_bytes_is_done_before_any() {
    for framing in [BodyFraming::None, BodyFraming::Length(0)] {
        let mut decoder = BodyDecoder::new(framing, LIMIT);
        assert!(decoder.is_done());
        let progress = decoder.decode(b"GET / HTTP/1.1", &mut Vec::new());
        assert_eq!(progress, Ok(Progress { consumed: 0, done: true }));
    }
}

#[test]
fn an_announced_length_over_the_limit_is_refused_before_any_byte() {
    let mut decoder = BodyDecoder::new(BodyFraming::Length(LIMIT + 1), LIMIT);
    assert!(!decoder.fits() && BodyDecoder::new(BodyFraming::Length(LIMIT), LIMIT).fits());
    assert_eq!(decoder.decode(b"", &mut Vec::new()), Err(TooLarge));
    assert_eq!(TooLarge.status(), 413);
}

#[test]
fn a_cut_body_is_an_error_unless_it_ends_by_closing() {
    let mut out = Vec::new();
    let mut closing = BodyDecoder::of_reply(ReplyFraming::UntilClose, LIMIT);
    assert_eq!(closing.decode(b"abc", &mut out), Ok(Progress { consumed: 3, done: false }));
    assert_eq!(closing.end_of_input(), Ok(()));
    assert!(closing.is_done());
    let whole = b"3;a\r\nabc\r\n0\r\nX: a\r\n\r\n";
    for cut in 0..whole.len() {
        let mut decoder = BodyDecoder::of_reply(ReplyFraming::Chunked, u64::MAX);
        assert_eq!(decoder.decode(&whole[..cut], &mut out), Ok(Progress { consumed: cut, done: false }));
        assert_eq!(decoder.end_of_input(), Err(Truncated));
        assert_eq!(decoder.decode(b"", &mut out), Err(Truncated));
    }
    let mut short = BodyDecoder::of_reply(ReplyFraming::Length(2), LIMIT);
    assert_eq!(short.decode(b"a", &mut out), Ok(Progress { consumed: 1, done: false }));
    assert_eq!(short.end_of_input(), Err(Truncated));
    assert_eq!(BodyDecoder::of_reply(ReplyFraming::None, LIMIT).end_of_input(), Ok(()));
}

#[test]
fn a_closing_body_is_limited_too() {
    let mut decoder = BodyDecoder::of_reply(ReplyFraming::UntilClose, 2);
    assert_eq!(decoder.decode(b"abc", &mut Vec::new()), Err(TooLarge));
}

proptest! {
    #[test]
    fn encoded_chunks_decode_to_the_same_bytes(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..12),
        surplus in prop::collection::vec(any::<u8>(), 0..8),
        piece_bytes in 1usize..64,
    ) {
        let mut encoded = Vec::new();
        for piece in &pieces {
            encode::chunk(&mut encoded, piece);
        }
        encode::last_chunk(&mut encoded);
        let body_bytes = encoded.len();
        encoded.extend_from_slice(&surplus);
        let decoder = BodyDecoder::new(BodyFraming::Chunked, u64::MAX);
        prop_assert_eq!(decode(decoder, &encoded, piece_bytes), Ok((pieces.concat(), body_bytes, true)));
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_get_one_verdict(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"0123af;\r\n\r\n:x".to_vec())], 0..64),
        piece_bytes in 1usize..16,
    ) {
        let whole = decode(chunked(), &bytes, usize::MAX);
        prop_assert_eq!(decode(chunked(), &bytes, piece_bytes), whole);
    }
}
