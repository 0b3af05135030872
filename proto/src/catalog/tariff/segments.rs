//! Into how many segments a text message is divided, which is what carriers bill.
//!
//! 3GPP TS 23.038 section 6.2.1 names the characters of GSM-7, TS 23.040 the header that takes seven septets (or three
//! code units) of each segment of a longer message. A wrong count spends money that nobody held.

/// The longest text that Twilio takes, in characters (Twilio's API reference, Message, `Body`).
pub(super) const BODY_CHARACTERS_MAX: usize = 1600;

/// Segments of a text that is not in the request: the longest one, in UCS-2.
pub(super) const MOST: u64 = (BODY_CHARACTERS_MAX as u64).div_ceil(UCS2_PART);

/// Septets of one message, and of each part of a longer one.
const GSM_WHOLE: u64 = 160;
const GSM_PART: u64 = 153;

/// UTF-16 code units of one message, and of each part of a longer one.
const UCS2_WHOLE: u64 = 70;
const UCS2_PART: u64 = 67;

/// The basic alphabet beside ASCII letters, digits and the punctuation of [`is_basic`].
const BASIC: &str = "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ ¤¡ÄÖÑÜ§¿äöñüà";

/// The extension table, of which each character takes an escape and itself. The form feed is left out: whoever does not
/// know it sends UCS-2, which is dearer.
const EXTENSION: &str = "^{}\\[~]|€";

/// In what a message is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Seven bits a character.
    Gsm7,
    /// Sixteen bits a code unit; an emoji has two.
    Ucs2,
}

impl Encoding {
    /// For messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Encoding::Gsm7 => "GSM-7",
            Encoding::Ucs2 => "UCS-2",
        }
    }
}

/// A text as carriers divide it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    /// In what it is written.
    pub encoding: Encoding,
    /// Septets or code units.
    pub units: u64,
    /// How many messages it becomes; one for an empty text.
    pub count: u64,
}

/// Divides `text`.
pub fn segments(text: &str) -> Segments {
    match text.chars().map(septets).sum::<Option<u64>>() {
        Some(units) if units <= GSM_WHOLE => Segments { encoding: Encoding::Gsm7, units, count: 1 },
        Some(units) => {
            let count = parts(text.chars().filter_map(septets), GSM_PART);
            Segments { encoding: Encoding::Gsm7, units, count }
        }
        None => {
            let width = |character: char| if u32::from(character) > 0xFFFF { 2 } else { 1 };
            let units = text.chars().map(width).sum();
            // A surrogate pair stays in one part too.
            let count = if units <= UCS2_WHOLE { 1 } else { parts(text.chars().map(width), UCS2_PART) };
            Segments { encoding: Encoding::Ucs2, units, count }
        }
    }
}

/// Fills parts of `room` units with characters that are not divided.
fn parts(widths: impl Iterator<Item = u64>, room: u64) -> u64 {
    let (mut count, mut used) = (1_u64, 0_u64);
    for width in widths {
        used = used.saturating_add(width);
        if used > room {
            count = count.saturating_add(1);
            used = width;
        }
    }
    count
}

/// How many septets a character takes; `None` if GSM-7 does not have it.
fn septets(character: char) -> Option<u64> {
    if is_basic(character) {
        return Some(1);
    }
    EXTENSION.contains(character).then_some(2)
}

fn is_basic(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '!'..='?') || BASIC.contains(character)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, encoding: Encoding, units: u64, count: u64) {
        assert_eq!(segments(text), Segments { encoding, units, count }, "{text}");
    }

    #[test]
    fn m5_gsm_texts_have_160_septets_or_153_in_each_part() {
        check("", Encoding::Gsm7, 0, 1);
        check(&"a".repeat(160), Encoding::Gsm7, 160, 1);
        check(&"a".repeat(161), Encoding::Gsm7, 161, 2);
        check(&"a".repeat(306), Encoding::Gsm7, 306, 2);
        check(&"a".repeat(307), Encoding::Gsm7, 307, 3);
        check(&"a".repeat(459), Encoding::Gsm7, 459, 3);
        check(&"a".repeat(460), Encoding::Gsm7, 460, 4);
    }

    #[test]
    fn m5_a_character_of_the_extension_table_counts_two_and_is_not_divided() {
        check(&"€".repeat(80), Encoding::Gsm7, 160, 1);
        check(&"€".repeat(81), Encoding::Gsm7, 162, 2);
        // 76 pairs are 152 septets: the 77th does not fit into the one that is left.
        check(&"{".repeat(152), Encoding::Gsm7, 304, 2);
        check(&"{".repeat(153), Encoding::Gsm7, 306, 3);
        check(&format!("{}{}", "a".repeat(152), "€a"), Encoding::Gsm7, 155, 1);
        check(&format!("{}€{}", "a".repeat(152), "a".repeat(152)), Encoding::Gsm7, 306, 3);
        check(&format!("{}€{}", "a".repeat(151), "a".repeat(153)), Encoding::Gsm7, 306, 2);
    }

    #[test]
    fn m5_any_other_character_makes_the_whole_text_ucs2() {
        check(&"é".repeat(160), Encoding::Gsm7, 160, 1);
        check(&"ё".repeat(70), Encoding::Ucs2, 70, 1);
        check(&"ё".repeat(71), Encoding::Ucs2, 71, 2);
        check(&"ё".repeat(134), Encoding::Ucs2, 134, 2);
        check(&"ё".repeat(135), Encoding::Ucs2, 135, 3);
        check(&format!("{}ё", "a".repeat(160)), Encoding::Ucs2, 161, 3);
        // Typographic quotes and the backtick are none of GSM-7's.
        check("“", Encoding::Ucs2, 1, 1);
        check("`", Encoding::Ucs2, 1, 1);
        check("ç", Encoding::Ucs2, 1, 1);
    }

    #[test]
    fn m5_an_emoji_counts_two_and_is_not_divided() {
        check("🎉", Encoding::Ucs2, 2, 1);
        check(&"🎉".repeat(35), Encoding::Ucs2, 70, 1);
        // 33 of them are 66 code units: one stays empty in each part.
        check(&"🎉".repeat(67), Encoding::Ucs2, 134, 3);
        check(&format!("{}🎉", "a".repeat(69)), Encoding::Ucs2, 71, 2);
    }

    #[test]
    fn the_longest_text_has_24_segments() {
        assert_eq!(MOST, 24);
        check(&"ё".repeat(1600), Encoding::Ucs2, 1600, 24);
    }

    #[test]
    fn the_alphabet_has_the_127_characters_of_its_table() {
        let characters = (0..=0xFFFF_u32).filter_map(char::from_u32);
        assert_eq!(characters.clone().filter(|of| is_basic(*of)).count(), 127);
        assert_eq!(characters.filter(|of| septets(*of) == Some(2)).count(), 9);
    }

    /// The same, one character after the other, as a list of parts.
    fn naive(text: &str) -> u64 {
        let gsm = text.chars().all(|of| septets(of).is_some());
        let width =
            |of: char| if gsm { septets(of).unwrap() } else { u64::try_from(of.len_utf16()).unwrap() };
        let (whole, room) = if gsm { (160, 153) } else { (70, 67) };
        if text.chars().map(width).sum::<u64>() <= whole {
            return 1;
        }
        let mut list: Vec<Vec<char>> = vec![Vec::new()];
        for of in text.chars() {
            let used: u64 = list.last().unwrap().iter().map(|of| width(*of)).sum();
            if used + width(of) > room {
                list.push(Vec::new());
            }
            list.last_mut().unwrap().push(of);
        }
        u64::try_from(list.len()).unwrap()
    }

    proptest! {
        #[test]
        fn m5_segments_agree_with_a_naive_model(text in "[a-z€{é]{0,700}|[a-zё🎉]{0,300}|.{0,200}") {
            let found = segments(&text);
            prop_assert_eq!(found.count, naive(&text));
            let room = if found.encoding == Encoding::Gsm7 { 153 } else { 67 };
            prop_assert!(found.count >= found.units.div_ceil(room).max(1) || found.count == 1);
        }
    }
}
