//! Instants as SQL writes them, and their order.
//!
//! `ts` is a text, so that it can be read, cut and grouped. Texts of instants do not always sort by time: a fraction
//! stands before the `Z`, SQLite's own functions write a blank in place of the `T`, and a person writes the date alone.
//! So the column has a collation of its own, under which such texts are compared as the instants that they mean.

use std::cmp::Ordering;

use keybrake_proto::time::UnixMicros;

/// The name of the collation.
pub(super) const COLLATION: &str = "keybrake_time";

/// The length of what [`canonical`] writes.
const CANONICAL_BYTES: usize = "2026-11-22T00:00:00.000000Z".len();

/// RFC 3339 in UTC, always with six decimals.
pub(super) fn canonical(ts: UnixMicros) -> String {
    let text = ts.to_string();
    match text.strip_suffix('Z') {
        Some(seconds) if !seconds.contains('.') => format!("{seconds}.000000Z"),
        Some(_) | None => text,
    }
}

/// The instant that `text` means: RFC 3339 in UTC, with a blank for the `T`, without the `Z`, or only the first parts
/// of it, such as `2026-11-22` or `2026-11`, which mean their beginning.
pub(super) fn parse(text: &str) -> Option<UnixMicros> {
    let text = text.strip_suffix(['Z', 'z']).unwrap_or(text);
    let (date, time) = text.split_once(['T', 't', ' ']).unwrap_or((text, "00:00:00"));
    let date = match date.len() {
        4 => format!("{date}-01-01"),
        7 => format!("{date}-01"),
        _ => date.to_owned(),
    };
    let time = if time.len() == "00:00".len() { format!("{time}:00") } else { time.to_owned() };
    UnixMicros::parse_rfc3339(&format!("{date}T{time}Z"))
}

/// Which of two texts is the earlier instant. Texts that mean none come after all that do.
pub(super) fn compare(left: &str, right: &str) -> Ordering {
    let is_canonical = |text: &str| {
        text.len() == CANONICAL_BYTES && text.ends_with('Z') && text.as_bytes().get(10) == Some(&b'T')
    };
    if is_canonical(left) && is_canonical(right) {
        return left.cmp(right);
    }
    match (parse(left), parse(right)) {
        (Some(left), Some(right)) => left.cmp(&right),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => left.cmp(right),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_compared_as_the_instants_they_mean() {
        let rising = [
            "2026",
            "2026-11",
            "2026-11-21 23:59:59",
            "2026-11-22",
            "2026-11-22T00:00:00.000001Z",
            "2026-11-22T00:00:00.5Z",
            "2026-11-22 00:00:01",
            "2026-11-22T00:01",
            "soon",
        ];
        for (at, left) in rising.iter().enumerate() {
            for (other, right) in rising.iter().enumerate() {
                assert_eq!(compare(left, right), at.cmp(&other), "{left} and {right}");
            }
        }
        assert_eq!(compare("2026-11-22", "2026-11-22T00:00:00Z"), Ordering::Equal);
    }

    #[test]
    fn a_written_instant_reads_back_and_has_one_length() {
        for micros in [0, 1, 1_795_305_600_000_000, 1_795_305_600_500_000] {
            let text = canonical(UnixMicros(micros));
            assert_eq!((text.len(), parse(&text)), (CANONICAL_BYTES, Some(UnixMicros(micros))));
        }
    }
}
