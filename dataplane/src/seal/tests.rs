use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use keybrake_proto::config::KeySource;

use super::*;

/// A directory of this test's own, gone at its end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("keybrake-seal-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    fn key_file(&self) -> PathBuf {
        self.0.join("new").join("master.key")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn master(byte: u8) -> MasterKey {
    MasterKey::derive(&[byte; MASTER_BYTES])
}

fn secret() -> Secret {
    Secret::new(b"sk_live_51H".to_vec())
}

#[test]
fn the_file_is_made_once_and_then_read() {
    let directory = Directory::new();
    let path = directory.key_file();
    assert_eq!(MasterKey::load(&path).unwrap_err(), SealError::Missing(path.clone()));
    let (first, made) = MasterKey::load_or_create(&path).unwrap();
    assert_eq!(made, Made::New);
    let (second, made) = MasterKey::load_or_create(&path).unwrap();
    assert_eq!(made, Made::Before);
    assert_eq!(first.check_value(), second.check_value());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.len(), 65, "64 digits and a newline");
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "the temporary file is gone");
}

#[test]
fn a_file_that_is_there_is_never_written_over() {
    let directory = Directory::new();
    let path = directory.key_file();
    assert_eq!(file::create(&path, &[1; MASTER_BYTES]), Ok(Made::New));
    assert_eq!(file::create(&path, &[2; MASTER_BYTES]), Ok(Made::Before));
    assert_eq!(file::read(&path).unwrap(), Zeroizing::new([1; MASTER_BYTES]));
}

#[test]
fn a_file_open_to_others_is_refused_with_the_command_that_helps() {
    let directory = Directory::new();
    let path = directory.key_file();
    MasterKey::load_or_create(&path).unwrap();
    for mode in [0o644, 0o640, 0o602, 0o601] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = MasterKey::load_or_create(&path).unwrap_err();
        assert_eq!(error, SealError::Exposed { path: path.clone(), mode });
        assert!(error.to_string().ends_with(&format!("run: chmod 600 {}", path.display())), "{error}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    assert!(MasterKey::load(&path).is_ok());
}

#[test]
fn a_file_that_is_no_key_is_refused() {
    let directory = Directory::new();
    let path = directory.key_file();
    MasterKey::load_or_create(&path).unwrap();
    for text in ["", "\n", &"0".repeat(63), &"0".repeat(66), &"g".repeat(64), &"+0".repeat(32)] {
        fs::write(&path, text).unwrap();
        assert_eq!(
            MasterKey::load_or_create(&path).unwrap_err(),
            SealError::Malformed(path.clone()),
            "{text}"
        );
    }
    fs::write(&path, "aB".repeat(32)).unwrap();
    assert_eq!(MasterKey::load(&path).unwrap().check_value(), master(0xab).check_value());
}

#[test]
fn a_secret_opens_only_as_what_it_was_sealed_for() {
    let master = master(1);
    let sealed = master.seal("stripe", "default", 3, &secret()).unwrap();
    assert_eq!(master.open("stripe", "default", 3, &sealed), Ok(secret()));
    for (vendor, account, version) in
        [("stripe", "default", 4), ("stripe", "other", 3), ("stripede", "fault", 3), ("", "stripedefault", 3)]
    {
        let damaged = SealError::Damaged { vendor: vendor.to_owned(), account: account.to_owned() };
        assert_eq!(master.open(vendor, account, version, &sealed), Err(damaged));
    }
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let master = master(1);
    let sealed = master.seal("stripe", "default", 1, &secret()).unwrap();
    for bit in 0..sealed.len() * 8 {
        let mut flipped = sealed.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(master.open("stripe", "default", 1, &flipped).is_err(), "bit {bit}");
    }
    for end in 0..sealed.len() {
        assert!(master.open("stripe", "default", 1, &sealed[..end]).is_err(), "cut at {end}");
    }
}

#[test]
fn another_master_key_is_told_apart_from_damage() {
    let (right, wrong) = (master(1), master(2));
    let told = SealError::WrongMasterKey { stored: right.id(), given: wrong.id() };
    assert!(told.to_string().contains("another master key"), "{told}");
    let sealed = right.seal("stripe", "default", 1, &secret()).unwrap();
    assert_eq!(wrong.open("stripe", "default", 1, &sealed), Err(told.clone()));
    assert_eq!(wrong.check(&right.check_value()), Err(told));
    assert_eq!(right.check(&right.check_value()), Ok(()));
    let mut newer = sealed;
    newer[0] = 3;
    assert_eq!(right.open("stripe", "default", 1, &newer), Err(SealError::Format(3)));
}

/// As it was sealed before master keys could be rotated.
fn sealed_in_format_1(master: &MasterKey, place: Place<'_>) -> Vec<u8> {
    let aad = aad(FORMAT_BOUND, Some(&master.check), place);
    let mut sealed = vec![FORMAT_BOUND];
    sealed.extend_from_slice(&master.check);
    master.append_sealed(&mut sealed, &master.kek, &aad, &[5; DATA_KEY_BYTES]).unwrap();
    master.append_sealed(&mut sealed, &aes(&[5; DATA_KEY_BYTES]).unwrap(), &aad, secret().expose()).unwrap();
    sealed
}

#[test]
fn r2_another_master_key_wraps_data_keys_anew_and_opens_what_the_one_before_sealed() {
    let (before, after) = (master(1), master(2));
    let place = ("stripe", "default", 3);
    let (vendor, account, version) = place;
    for sealed in
        [before.seal(vendor, account, version, &secret()).unwrap(), sealed_in_format_1(&before, place)]
    {
        assert_eq!(before.open(vendor, account, version, &sealed), Ok(secret()));
        let anew = after.rewrap(&before, place, &sealed).unwrap();
        assert_eq!(after.open(vendor, account, version, &anew), Ok(secret()));
        assert!(
            before.open(vendor, account, version, &anew).is_err(),
            "the key before opens nothing any more"
        );
        let elsewhere = after.rewrap(&before, ("stripe", "other", 3), &sealed);
        assert!(elsewhere.is_err(), "it stays bound to its place");
    }
    let sealed = before.seal(vendor, account, version, &secret()).unwrap();
    let anew = after.rewrap(&before, place, &sealed).unwrap();
    let behind_the_data_key = 1 + CHECK_BYTES + NONCE_LEN + WRAPPED_BYTES;
    assert_eq!(sealed[behind_the_data_key..], anew[behind_the_data_key..], "the secret is not touched");
    assert!(after.rewrap(&master(3), place, &sealed).is_err());
}

#[test]
fn r1_vault_keys_have_the_same_digest_under_every_later_master_key() {
    let digest = |master: &MasterKey| master.digester().digest(b"vault_key_x");
    let first = master(1);
    let (second, sealed) = master(2).succeed(&first).unwrap();
    assert_eq!(digest(&second), digest(&first));
    let reopened = master(2).with_digest_key(&sealed).unwrap();
    assert_eq!(digest(&reopened), digest(&first));
    let (third, sealed) = master(3).succeed(&reopened).unwrap();
    assert_eq!(digest(&third), digest(&first));
    assert_ne!(digest(&master(3)), digest(&first), "by itself it has others");
    assert!(master(2).with_digest_key(&sealed).is_err());
    let mut flipped = sealed;
    flipped[40] ^= 1;
    assert_eq!(master(3).with_digest_key(&flipped).err(), Some(SealError::DigestKeyDamaged));
}

#[test]
fn r2_a_master_key_that_is_not_known_is_no_key_and_says_why() {
    let unknown = MasterKey::unknown("why".to_owned()).unwrap();
    assert_eq!(unknown.why_sealed(), Some("why"));
    assert!(unknown.digester().is_sealed() && !master(1).digester().is_sealed());
    let another = MasterKey::unknown(String::new()).unwrap();
    assert_ne!(unknown.check_value(), another.check_value());
}

/// A program that prints this master key, or does something else.
fn program(script: &str) -> Result<MasterKey, SealError> {
    let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    read(&KeySource::Command(command), Duration::from_secs(5))
}

#[test]
fn r2_a_program_prints_the_master_key_or_its_fault_is_told_without_its_output() {
    let key = "ab".repeat(MASTER_BYTES);
    assert_eq!(program(&format!("echo {key}")).unwrap().check_value(), master(0xab).check_value());
    for (script, words) in [
        (format!("echo {key}; exit 3"), "exit status: 3"),
        (format!("echo {key}{key}"), "64 hexadecimal digits"),
        ("true".to_owned(), "64 hexadecimal digits"),
        ("yes abcd".to_owned(), "gives no master key"),
    ] {
        let said = program(&script).unwrap_err().to_string();
        assert!(said.contains(words) && !said.contains("abab"), "{script}: {said}");
    }
    let missing = KeySource::Command(vec!["/nowhere/kms".to_owned()]);
    assert!(read(&missing, Duration::from_secs(5)).unwrap_err().to_string().contains("does not start"));
    let hangs = KeySource::Command(["/bin/sh", "-c", "exec sleep 60"].map(str::to_owned).to_vec());
    let late = read(&hangs, Duration::from_millis(50)).unwrap_err().to_string();
    assert!(late.contains("took longer"), "{late}");
}

#[test]
fn r2_at_every_step_of_a_rotation_the_files_have_both_keys() {
    let directory = Directory::new();
    let path = directory.key_file();
    let (first, _) = MasterKey::load_or_create(&path).unwrap();
    let next = next_key(&path).unwrap();
    assert_eq!(MasterKey::load(&path).unwrap().check_value(), first.check_value());
    assert_eq!(next_key(&path).unwrap().check_value(), next.check_value(), "what waits is taken");
    let kept = finish_rotation(&path, &first.id()).unwrap();
    assert_eq!(MasterKey::load(&path).unwrap().check_value(), next.check_value());
    assert_eq!(MasterKey::load(&kept).unwrap().check_value(), first.check_value());
    assert!(matches!(read_next(&path), Err(SealError::Missing(_))));
}

#[test]
fn sealing_twice_gives_different_bytes_that_show_nothing() {
    let master = master(1);
    let first = master.seal("stripe", "default", 1, &secret()).unwrap();
    let second = master.seal("stripe", "default", 1, &secret()).unwrap();
    assert_ne!(first, second);
    assert!(!first.windows(4).any(|bytes| bytes == b"sk_l"));
}

/// Rule S5: nothing is compared with a clear key, and a digest is of no use under another master key.
#[test]
fn s5_a_key_is_found_by_the_keyed_hash_of_its_whole_text() {
    let key = b"vault_key_00000000000000000000000000000000000000";
    let found = |number: u8, text: &[u8]| master(number).digester().digest(text);
    assert_eq!(found(7, key), found(7, key));
    assert_ne!(found(7, key), found(8, key), "it is keyed");
    for at in 0..key.len() {
        let mut other = *key;
        other[at] ^= 1;
        assert_ne!(found(7, key), found(7, &other), "byte {at}");
    }
    assert_ne!(found(7, key), found(7, &key[..key.len() - 1]));
}

/// These values are on disk: the test fails where a change of the derivation would lock users out.
#[test]
fn derived_values_never_change() {
    let master = master(7);
    assert_eq!(hex(&master.check_value()), CHECK_OF_SEVENS);
    assert_eq!(hex(&master.digester().digest(b"vault_key_x").0), DIGEST_OF_SEVENS);
    assert_eq!(master.digester().digest(b"vault_key_x"), master.digester().clone().digest(b"vault_key_x"));
}

/// A key is looked up by its digest alone: whatever differs in one character, or only begins alike, is another key.
#[test]
fn s5_a_digest_is_of_the_whole_text_and_of_the_master_key() {
    let digester = master(7).digester();
    let text = b"vault_key_0123456789abcdefghijklmnopqrstuvwxyz";
    let mut seen =
        std::collections::HashSet::from([digester.digest(text).0, master(8).digester().digest(text).0]);
    for at in 0..text.len() {
        let mut other = text.to_vec();
        other[at] ^= 1;
        assert!(seen.insert(digester.digest(&other).0), "a change at {at} is not seen");
        assert!(seen.insert(digester.digest(&text[..at]).0), "{at} bytes are taken for all");
    }
    assert!(seen.insert(digester.digest(&[text, &b"x"[..]].concat()).0));
}

const CHECK_OF_SEVENS: &str = "157a6be4491aecc2e9202984337267d9";
const DIGEST_OF_SEVENS: &str = "1d5dff063ac48735ca1c76a6f6b1a5b00f211aaa89cad1860f9d9adaaf8f290b";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
