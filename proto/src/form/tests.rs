use proptest::prelude::*;

use super::*;

/// Checks what is read as the amount.
#[track_caller]
fn check(form: &str, expected: Result<Option<u64>, FormError>) {
    assert_eq!(read_amount(form.as_bytes(), "amount"), expected, "{form:?}");
}

#[test]
fn one_literal_amount_is_read() {
    check("", Ok(None));
    check("currency=usd", Ok(None));
    check("amount=2000&currency=usd&metadata[crew_run_id]=r1", Ok(Some(2000)));
    check("currency=usd&&amount=1&", Ok(Some(1)));
    check("amount=999999999999", Ok(Some(999_999_999_999)));
    check("description=My First Test Charge (docs)&amount=5", Ok(Some(5)));
}

#[test]
fn other_names_that_hold_the_word_are_no_amounts() {
    check("amount_to_capture=5&application_fee_amount=6&transfer_data[amount]=7", Ok(None));
    check("line_items[0][amount]=5&metadata[amount]=6&expand[]=amount", Ok(None));
}

#[test]
fn whatever_somebody_could_read_as_another_amount_is_refused() {
    use FormError::{Amount, Byte, Disguised, Escape, Repeated, Semicolon};
    for (rule, form, expected) in [
        ("M2", "amount=5&amount=5", Repeated),
        ("M2", "amount=5&currency=usd&amount=5000", Repeated),
        ("M2", "amount=5&amount", Repeated),
        ("M2", "amount[]=5", Disguised),
        ("M2", "amount=1&amount[]=5000", Disguised),
        ("M2", "amount[value]=5", Disguised),
        ("M2", "amount%5B%5D=5", Disguised),
        ("M2", "amount%5b0%5d=5", Disguised),
        ("M2", "%61mount=5", Disguised),
        ("M2", "amoun%74=5", Disguised),
        ("M2", "[amount]=5", Disguised),
        ("M2", "amount]=5", Disguised),
        ("M2", "+amount=5", Disguised),
        ("M2", "amount+=5", Disguised),
        ("M2", "%20amount=5", Disguised),
        ("M2", "%0Aamount=5", Disguised),
        ("M2", "amount%0D=5", Disguised),
        ("M2", "Amount=5", Disguised),
        ("M2", "AMOUNT%5B=5", Disguised),
        ("M2", " amount=5", Byte),
        ("M2", "a=1& amount=5", Byte),
        ("M2", "amount%00=5", Escape),
        ("M2", "amount=5%", Escape),
        ("M2", "amount=5&a=%4", Escape),
        ("M2", "amount=5&a=%zz", Escape),
        ("M2", "amount=5&a=%+1", Escape),
        ("M2", "amount=5;amount=6", Semicolon),
        ("M2", "a=b;amount=6", Semicolon),
        ("M2", "amount=5\n", Byte),
        ("M2", "amount=5\r\n&a=b", Byte),
        ("M2", "amount=5\0", Byte),
        ("M2", "a=\u{e9}&amount=5", Byte),
        ("M2", "\u{feff}amount=5", Byte),
        ("M1", "amount=", Amount),
        ("M1", "amount", Amount),
        ("M1", "amount=0", Amount),
        ("M1", "amount=05", Amount),
        ("M1", "amount=-5", Amount),
        ("M1", "amount=+5", Amount),
        ("M1", "amount=5.0", Amount),
        ("M1", "amount=5e3", Amount),
        ("M1", "amount=0x5", Amount),
        ("M1", "amount= 5", Amount),
        ("M1", "amount=5 ", Amount),
        ("M1", "amount=5,000", Amount),
        ("M1", "amount=5_000", Amount),
        ("M1", "amount=%35", Amount),
        ("M1", "amount=5=6", Amount),
        ("M1", "amount=%D9%A5", Amount),
        ("M1", "amount=1000000000000", Amount),
        ("M1", "amount=99999999999999999999999", Amount),
    ] {
        assert!(rule.starts_with('M'));
        check(form, Err(expected));
        assert!(expected.to_string().contains("; "));
    }
}

#[test]
fn a_name_with_brackets_has_one_spelling_too() {
    let read = |form: &str| read_amount(form.as_bytes(), "transfer_data[amount]");
    assert_eq!(read("transfer_data[amount]=5&transfer_data[destination]=a&amount=6"), Ok(Some(5)));
    assert_eq!(read("transfer_data=5&transfer_data[amounts]=6&transfer[amount]=7"), Ok(None));
    for form in [
        "transfer_data%5Bamount%5D=5",
        "transfer_data[%61mount]=5",
        "[transfer_data][amount]=5",
        "transfer_data[amount=5",
        "transfer_data[[amount]]=5",
        "transfer_data[amount][]=5",
        "transfer_data]amount=5",
        "Transfer_Data[amount]=5",
        "transfer_data[+amount]=5",
    ] {
        assert_eq!(read(form), Err(FormError::Disguised), "{form}");
    }
    let list = "payment_method_types[]";
    assert_eq!(count(b"payment_method_types[]=card&payment_method_types[]=link", list), Ok(2));
    assert_eq!(count(b"payment_method_types=card", list), Err(FormError::Disguised));
    assert_eq!(count(b"payment_method_types[0]=card", list), Err(FormError::Disguised));
}

#[test]
fn short_texts_are_decoded() {
    let read = |form: &str| {
        read_text(form.as_bytes(), "currency").map(|text| text.map(|text| text.as_str().to_owned()))
    };
    assert_eq!(read("amount=5&currency=usd"), Ok(Some("usd".to_owned())));
    assert_eq!(read("currency=%75s+d"), Ok(Some("us d".to_owned())));
    assert_eq!(read("currency="), Ok(Some(String::new())));
    assert_eq!(read("amount=5"), Ok(None));
    assert_eq!(read("currency=usd&currency=gbp"), Err(FormError::Repeated));
    assert_eq!(read("currency[]=usd"), Err(FormError::Disguised));
    assert_eq!(read("currency=%C3%A9"), Err(FormError::Text));
    assert_eq!(read("currency=%0A"), Err(FormError::Text));
    assert_eq!(
        read(&format!("currency={}", "a".repeat(64))).map(|text| text.map(|text| text.len())),
        Ok(Some(64))
    );
    assert_eq!(read(&format!("currency={}", "a".repeat(65))), Err(FormError::Text));
}

#[test]
fn flags_are_two_words() {
    assert_eq!(read_flag(b"capture=false", "capture"), Ok(Some(false)));
    assert_eq!(read_flag(b"capture=true&a=b", "capture"), Ok(Some(true)));
    assert_eq!(read_flag(b"a=b", "capture"), Ok(None));
    for form in ["capture=False", "capture=0", "capture=", "capture=tru%65"] {
        assert_eq!(read_flag(form.as_bytes(), "capture"), Err(FormError::Flag), "{form}");
    }
}

#[test]
fn long_texts_and_repeated_names_are_read_for_their_price() {
    let form = b"To=%2B1555&Body=h%C3%A9llo+w%26rld&MediaUrl=a&MediaUrl=b";
    let mut out = Vec::new();
    assert_eq!(read_long(form, "Body", &mut out), Ok(true));
    assert_eq!(out, "h\u{e9}llo w&rld".as_bytes());
    assert_eq!(read_long(form, "From", &mut out), Ok(false));
    assert_eq!(read_long(form, "MediaUrl", &mut out), Err(FormError::Repeated));
    assert_eq!((count(form, "MediaUrl"), count(form, "From")), (Ok(2), Ok(0)));
    assert_eq!(count(b"MediaUrl[0]=a", "MediaUrl"), Err(FormError::Disguised));
}

#[test]
fn a_method_in_a_form_is_found_in_any_spelling() {
    for form in ["_method=delete", "a=b&_method", "a;_method=x", "%5fMETHOD=x", "+_method[]=x", "[_method]=x"]
    {
        assert!(mentions(form.as_bytes(), "_method"), "{form}");
    }
    for form in ["", "method=x", "a_method=x", "a=_method", "payment_method=pm_1", "_methods=x"] {
        assert!(!mentions(form.as_bytes(), "_method"), "{form}");
    }
}

fn metadata_of(form: &[u8]) -> Vec<(String, String)> {
    metadata(form).map(|(key, value)| (key.into_owned(), value.into_owned())).collect()
}

#[test]
fn metadata_is_read_leniently() {
    let form = b"amount=5&metadata[run]=r+1&metadata%5Ba%26b%5D=%C3%A9&metadata[x]&metadata[n][m]=1&metadata[]=2&metadata[y=3\
                 &metadata[bad]=%zz&metadata[utf]=%FF&metadata[raw]=\xff&metadata[a%5Bb]=1&;;metadata[z]=1";
    let expected = [("run", "r 1"), ("a&b", "\u{e9}"), ("x", "")];
    assert_eq!(metadata_of(form), expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
}

#[test]
fn metadata_is_bounded() {
    let many: String = (0..60).map(|index| format!("metadata[k{index}]=v&")).collect();
    assert_eq!(metadata_of(many.as_bytes()).len(), 50);
    let long = |key: usize, value: usize| format!("metadata[{}]={}", "k".repeat(key), "%41".repeat(value));
    assert_eq!(metadata_of(long(64, 500).as_bytes()).len(), 1);
    assert_eq!(metadata_of(long(65, 1).as_bytes()).len(), 0);
    assert_eq!(metadata_of(long(1, 501).as_bytes()).len(), 0);
}

/// The plain reading of a form: split, decode, compare. What the strict reader accepts, it must see the same way.
fn naive_amounts(form: &str) -> Vec<String> {
    let decode =
        |raw: &str| decoded(raw.as_bytes()).map(|byte| byte.unwrap_or(b'?') as char).collect::<String>();
    let pairs = form.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.filter(|(key, _)| decode(key).trim() == "amount").map(|(_, value)| decode(value)).collect()
}

proptest! {
    #[test]
    fn an_accepted_amount_is_the_only_one_there(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "amount", "%61mount", "amoun", "t", "=", "=", "&", "&", "1", "20", "0", "[", "]", "%5B", "+", " ", ";", "%", "x",
        ]), 0..14),
    ) {
        let form = pieces.concat();
        match read_amount(form.as_bytes(), "amount") {
            Ok(Some(amount)) => prop_assert_eq!(naive_amounts(&form), vec![amount.to_string()]),
            Ok(None) => prop_assert!(naive_amounts(&form).is_empty()),
            Err(_) => {}
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(form in prop::collection::vec(any::<u8>(), 0..120)) {
        let read = (read_amount(&form, "amount").is_ok(), read_text(&form, "currency").is_ok(), count(&form, "a").is_ok());
        prop_assert!(metadata(&form).count() <= 50);
        // All readers judge the whole form, so none takes what another finds malformed.
        if pairs(&form).any(|pair| pair.is_err()) {
            prop_assert_eq!(read, (false, false, false));
        }
        prop_assert!(!mentions(&form, "_method") || form.windows(6).any(|word| word.eq_ignore_ascii_case(b"method")) || form.contains(&b'%'));
    }
}
