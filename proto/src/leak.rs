//! Finds a vendor's credential in what that vendor sends back (rule S2): as it is, in base64, in hex, percent-encoded.
//!
//! It knows neither framing nor who reads: it is handed decoded bytes, piece by piece, and says whether a form of the
//! credential stands in them, and how many last bytes may be the beginning of one.

use std::fmt;

use aho_corasick::{AhoCorasick, Input, MatchKind};
use base64::Engine as _;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use crate::catalog::wire::Slot;
use crate::secret::Secret;

/// Forms shorter than this are not looked for: they would be found in replies that hold no secret. Vendors' secrets have
/// 32 characters and more.
pub const FORM_BYTES_MIN: usize = 8;

/// So many first bytes of each form are given to the search, which keeps copies that nobody wipes (rule S1).
const START_BYTES: usize = 4;

const _: () = assert!(START_BYTES * 2 <= FORM_BYTES_MIN);

const HEX: [&[u8; 16]; 2] = [b"0123456789abcdef", b"0123456789ABCDEF"];

/// The forms in which one credential may stand in a reply. Built once for each version of it.
#[derive(Clone)]
pub struct Forms {
    forms: Vec<Secret>,
    /// Finds where a form may begin; `None` for a credential too short to be looked for.
    starts: Option<AhoCorasick>,
    /// Bytes that a form begins with.
    firsts: Box<[bool; 256]>,
    longest: usize,
}

impl fmt::Debug for Forms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[forms of a credential]")
    }
}

impl Forms {
    /// The forms of a credential that is sent in `slot`. Of a pair it is the password, which stands in every form of
    /// the pair too; the other half is a name, as Twilio's account is, which replies have for good reasons.
    ///
    /// # Errors
    /// What the search says of forms that it cannot take; there are too few and too short ones for that.
    pub fn new(slot: &Slot, credential: &Secret) -> Result<Forms, String> {
        let whole = credential.expose();
        let password = match slot {
            Slot::Bearer | Slot::Header { .. } => None,
            Slot::Basic | Slot::Twilio => {
                let colon = whole.iter().position(|byte| *byte == b':');
                colon.and_then(|colon| whole.get(colon.saturating_add(1)..))
            }
        };
        let secret = password.filter(|password| password.len() >= FORM_BYTES_MIN).unwrap_or(whole);
        let mut forms = vec![Secret::new(secret.to_vec())];
        let encodings = [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD].into_iter();
        forms
            .extend(encodings.flat_map(|engine| (0..3).map(move |before| in_base64(secret, before, engine))));
        forms.extend(HEX.into_iter().flat_map(|digits| [in_hex(secret, digits), percent(secret, digits)]));
        forms.retain(|form| form.expose().len() >= FORM_BYTES_MIN);
        forms.sort_by(|a, b| a.expose().cmp(b.expose()));
        forms.dedup();
        let mut firsts = Box::new([false; 256]);
        for first in forms.iter().filter_map(|form| form.expose().first()) {
            if let Some(is_first) = firsts.get_mut(usize::from(*first)) {
                *is_first = true;
            }
        }
        let starts: Vec<&[u8]> = forms.iter().filter_map(|form| form.expose().get(..START_BYTES)).collect();
        let search = AhoCorasick::builder().match_kind(MatchKind::LeftmostFirst).build(&starts);
        let search = search.map_err(|error| error.to_string())?;
        let longest = forms.iter().map(|form| form.expose().len()).max().unwrap_or_default();
        Ok(Forms { starts: (!forms.is_empty()).then_some(search), firsts, longest, forms })
    }

    /// Whether a whole form stands in `bytes`. A false `false` shows an agent the credential; a false `true` withholds a
    /// reply.
    #[must_use]
    pub fn stand_in(&self, bytes: &[u8]) -> bool {
        let Some(starts) = &self.starts else { return false };
        let mut from = 0;
        while let Some(found) = starts.find(Input::new(bytes).range(from..)) {
            let behind = bytes.get(found.start()..).unwrap_or_default();
            if self.forms.iter().any(|form| behind.starts_with(form.expose())) {
                return true;
            }
            // Another one may begin inside of this one.
            from = found.start().saturating_add(1);
        }
        false
    }

    /// How many last bytes of `bytes` are the beginning of a form, which the next piece may end.
    #[must_use]
    pub fn begun(&self, bytes: &[u8]) -> usize {
        let window = self.overlap().min(bytes.len());
        let mut tail = bytes.get(bytes.len().saturating_sub(window)..).unwrap_or_default();
        while let [first, rest @ ..] = tail {
            let is_first = self.firsts.get(usize::from(*first)).copied().unwrap_or_default();
            if is_first && self.forms.iter().any(|form| form.expose().starts_with(tail)) {
                return tail.len();
            }
            tail = rest;
        }
        0
    }

    /// How many bytes before new ones must be searched with them.
    #[must_use]
    pub fn overlap(&self) -> usize {
        self.longest.saturating_sub(1)
    }
}

/// What every base64 text has in common that holds `secret` behind `before` bytes of a group of three: the characters
/// that its neighbors have no part in.
fn in_base64(secret: &[u8], before: usize, engine: &GeneralPurpose) -> Secret {
    let padded = Zeroizing::new([[0; 2].get(..before).unwrap_or_default(), secret].concat());
    let encoded = Zeroizing::new(engine.encode(&padded));
    // Six bits a character: the first ones have bits of what stands before, the last one may have bits of what follows.
    let from = before.saturating_mul(8).div_ceil(6);
    let to = padded.len().saturating_mul(8).checked_div(6).unwrap_or_default();
    Secret::new(encoded.as_bytes().get(from..to).unwrap_or_default().to_vec())
}

fn in_hex(secret: &[u8], digits: &[u8; 16]) -> Secret {
    Secret::new(secret.iter().flat_map(|byte| hex(*byte, digits)).collect())
}

/// As in a URL (RFC 3986 section 2.3); the secret itself where nothing of it is escaped.
fn percent(secret: &[u8], digits: &[u8; 16]) -> Secret {
    let mut form = Vec::with_capacity(secret.len().saturating_mul(3));
    for byte in secret {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            form.push(*byte);
        } else {
            form.push(b'%');
            form.extend(hex(*byte, digits));
        }
    }
    Secret::new(form)
}

fn hex(byte: u8, digits: &[u8; 16]) -> [u8; 2] {
    let digit = |nibble: u8| digits.get(usize::from(nibble & 15)).copied().unwrap_or_default();
    [digit(byte >> 4), digit(byte)]
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};
    use proptest::prelude::*;

    use super::*;

    const SECRET: &[u8] = b"sk_live_51Hq+/9zPq2dJ?x>7~w";

    fn forms(slot: &Slot, credential: &[u8]) -> Forms {
        Forms::new(slot, &Secret::new(credential.to_vec())).unwrap()
    }

    /// Passes pieces of these sizes on as a reply's body is; answers what went out, and whether it was stopped.
    fn pass(forms: &Forms, bytes: &[u8], sizes: &[usize]) -> (Vec<u8>, bool) {
        let (mut out, mut kept, mut rest) = (Vec::new(), Vec::new(), bytes);
        let mut sizes = sizes.iter().cycle();
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at((*sizes.next().unwrap()).clamp(1, rest.len()));
            rest = behind;
            kept.extend_from_slice(piece);
            if forms.stand_in(&kept) {
                return (out, true);
            }
            let held = if rest.is_empty() { 0 } else { forms.begun(&kept) };
            out.extend(kept.drain(..kept.len() - held));
        }
        (out, false)
    }

    #[test]
    fn s2_a_credential_is_found_raw_in_base64_in_hex_and_percent_encoded() {
        let forms = forms(&Slot::Bearer, SECRET);
        for before in 0..4 {
            let text = [&b"xyz0"[..before], SECRET, b"!"].concat();
            for encoded in [
                text.clone(),
                STANDARD.encode(&text).into_bytes(),
                URL_SAFE.encode(&text).into_bytes(),
                in_hex(&text, HEX[0]).expose().to_vec(),
                in_hex(&text, HEX[1]).expose().to_vec(),
                percent(&text, HEX[0]).expose().to_vec(),
                percent(&text, HEX[1]).expose().to_vec(),
            ] {
                let reply = [b"{\"key\":\"", encoded.as_slice(), b"\"}"].concat();
                assert!(forms.stand_in(&reply), "{}", String::from_utf8_lossy(&reply));
            }
        }
        for clean in
            [&b""[..], b"sk_live_", b"sk_live_51Hq+/9zPq2dJ?x>7~", b"c2tfbGl2ZV8", b"sk_lsk_lsk_lsk_l"]
        {
            assert!(!forms.stand_in(clean), "{}", String::from_utf8_lossy(clean));
        }
    }

    #[test]
    fn s2_of_a_pair_the_password_is_looked_for_and_not_the_account() {
        let forms = forms(&Slot::Twilio, b"AC0123456789/SK0123456789:0123456789abcdef0123");
        assert!(forms.stand_in(b"token=0123456789abcdef0123"));
        assert!(forms.stand_in(STANDARD.encode("SK0123456789:0123456789abcdef0123").as_bytes()));
        assert!(!forms.stand_in(b"\"account_sid\":\"AC0123456789\",\"sid\":\"SK0123456789\""));
        // A password too short to be looked for is found with its name only.
        let forms = self::forms(&Slot::Basic, b"account:short");
        assert!(forms.stand_in(b"x account:short") && !forms.stand_in(b"short account"));
    }

    #[test]
    fn a_credential_too_short_to_be_told_from_other_text_is_not_looked_for() {
        let forms = forms(&Slot::Bearer, b"abc");
        assert!(!forms.stand_in(b"abcabcabc") && forms.begun(b"ab") == 0);
    }

    #[test]
    fn s1_nothing_shows_the_forms_and_the_search_knows_their_first_bytes_only() {
        assert_eq!(format!("{:?}", forms(&Slot::Bearer, SECRET)), "[forms of a credential]");
    }

    proptest! {
        /// Wherever a reply is cut in pieces, what goes out is what would go out of the whole, and nothing of a credential.
        #[test]
        fn s2_borders_hide_nothing_and_lose_nothing(
            before in "[ -~]{0,80}", after in "[ -~]{0,80}", form in 0usize..8, has in any::<bool>(),
            sizes in prop::collection::vec(1usize..40, 1..8),
        ) {
            let forms = forms(&Slot::Bearer, SECRET);
            let form = forms.forms[form % forms.forms.len()].expose().to_vec();
            let middle = if has { form } else { form[..form.len() - 1].to_vec() };
            let bytes = [before.as_bytes(), &middle, after.as_bytes()].concat();
            let holds = forms.stand_in(&bytes);
            prop_assert!(holds || !has);
            let (out, stopped) = pass(&forms, &bytes, &sizes);
            prop_assert_eq!(stopped, holds);
            prop_assert!(bytes.starts_with(&out));
            if has {
                prop_assert!(out.len() <= before.len(), "a beginning of the credential went out");
            } else if !stopped {
                prop_assert_eq!(out, bytes);
            }
        }
    }
}
