use std::os::unix::fs::PermissionsExt as _;

use super::*;

const NOW: UnixMicros = UnixMicros::from_seconds(1_800_000_000);

const HOUR_S: u64 = 3600;

/// A data directory with its pepper beside it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("data")).unwrap();
        Place(dir)
    }

    fn data(&self) -> Data {
        Data { dir: self.0.path().join("data"), ..Data::default() }
    }

    /// As a start of the admin process does.
    fn try_open(&self) -> Result<(Tokens, Option<Secret>), Failure> {
        let data = self.data();
        let (secret, source) = token::of_server(&data, None)?;
        Ok((Tokens::open(&data, secret.as_ref(), source)?, secret))
    }

    fn open(&self) -> Tokens {
        self.try_open().unwrap().0
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.data().admin_tokens_file()).unwrap()
    }
}

fn name_of(tokens: &Tokens, token: &Secret, now: UnixMicros) -> Result<String, Wrong> {
    tokens.authenticate(token.expose(), now).map(|caller| caller.name)
}

#[test]
fn p1_a_token_is_known_by_its_digest_alone_over_restarts() {
    let place = Place::new();
    let made = place.open().create("ci", &[Scope::Revoke, Scope::Issue], None, NOW).unwrap().token;
    let tokens = place.open();
    let caller = tokens.authenticate(made.expose(), NOW).unwrap();
    assert_eq!(caller, Caller { name: "ci".to_owned(), scopes: vec![Scope::Issue, Scope::Revoke] });
    let text = place.bytes();
    let needle = made.expose();
    assert!(!text.windows(needle.len()).any(|bytes| bytes == needle));
    for wrong in [&needle[1..], &needle[..needle.len() - 1], b"", b"kbadmin_"] {
        assert_eq!(tokens.authenticate(wrong, NOW), Err(Wrong::Unknown));
    }
    for path in [place.data().admin_tokens_file(), place.data().admin_pepper_file()] {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
    }
    assert!(!place.data().admin_pepper_file().starts_with(place.data().dir), "away from the digests");
    assert_eq!(fs::read_dir(place.data().dir).unwrap().count(), 2, "nothing else is left behind");
}

#[test]
fn p1_a_token_expires_rotates_with_an_overlap_and_ends_for_good() {
    let place = Place::new();
    let tokens = place.open();
    let later = |seconds| NOW.plus_seconds(seconds);
    let first = tokens.create("ci", &[Scope::Issue], Some(later(HOUR_S)), NOW).unwrap().token;
    assert_eq!(name_of(&tokens, &first, later(HOUR_S - 1)), Ok("ci".to_owned()));
    assert_eq!(name_of(&tokens, &first, later(HOUR_S)), Err(Wrong::Expired));
    let second = tokens.rotate("ci", 60, NOW).unwrap().token;
    assert_eq!(name_of(&tokens, &first, later(59)), Ok("ci".to_owned()), "for as long as the overlap");
    assert_eq!(name_of(&tokens, &first, later(60)), Err(Wrong::Unknown));
    assert_eq!(name_of(&tokens, &second, later(60)), Ok("ci".to_owned()));
    assert_eq!(name_of(&tokens, &second, later(HOUR_S)), Err(Wrong::Expired), "a rotation prolongs nothing");
    let third = tokens.rotate("ci", 60, NOW).unwrap().token;
    tokens.revoke("ci", NOW).unwrap();
    assert_eq!(name_of(&tokens, &third, NOW), Err(Wrong::Revoked));
    assert_eq!(name_of(&tokens, &second, NOW), Err(Wrong::Unknown), "the overlap ends too");
    assert!(matches!(tokens.rotate("ci", 0, NOW), Err(NotDone::Closed)));
    assert_eq!(name_of(&place.open(), &third, NOW), Err(Wrong::Revoked), "after a restart too");
}

#[test]
fn p1_the_token_of_the_first_start_is_rotated_and_revoked_like_any_other() {
    let place = Place::new();
    let (tokens, first) = place.try_open().unwrap();
    let first = first.unwrap();
    assert_eq!(tokens.authenticate(first.expose(), NOW).unwrap().scopes, [Scope::Admin]);
    let second = tokens.rotate(BOOTSTRAP, 0, NOW).unwrap().token;
    assert_eq!(name_of(&tokens, &first, NOW), Err(Wrong::Unknown));
    assert_eq!(name_of(&tokens, &second, NOW), Ok(BOOTSTRAP.to_owned()));
    let (reopened, read) = place.try_open().unwrap();
    assert_eq!(read.as_ref(), Some(&second), "it is in the file");
    let view = reopened.revoke(BOOTSTRAP, NOW).unwrap();
    assert_eq!((view.name.as_str(), view.status.as_str()), (BOOTSTRAP, "revoked"));
    assert_eq!(name_of(&reopened, &second, NOW), Err(Wrong::Unknown));
    assert!(!place.data().admin_token_file().exists());
    // Neither a start nor a copy of the file brings it back.
    fs::write(place.data().admin_token_file(), second.expose()).unwrap();
    let (again, none) = place.try_open().unwrap();
    assert_eq!((none, name_of(&again, &second, NOW)), (None, Err(Wrong::Unknown)));
    assert!(matches!(again.rotate(BOOTSTRAP, 0, NOW), Err(NotDone::Closed)));
    // The environment's is for whoever has locked themselves out.
    let env = Secret::new(b"an-operators-own-token".to_vec());
    let by_env = Tokens::open(&place.data(), Some(&env), Source::Environment).unwrap();
    assert_eq!(name_of(&by_env, &env, NOW), Ok(BOOTSTRAP.to_owned()));
    assert!(matches!(by_env.revoke(BOOTSTRAP, NOW), Err(NotDone::InEnvironment)));
}

#[test]
fn p1_every_flipped_bit_and_every_cut_of_the_file_is_a_clear_error() {
    let place = Place::new();
    let made = place.open().create("ci", &[Scope::Issue], None, NOW).unwrap().token;
    let (path, whole) = (place.data().admin_tokens_file(), place.bytes());
    let refused = |bytes: &[u8], what: &str| {
        fs::write(&path, bytes).unwrap();
        let failure = place.try_open().map(|_| ()).unwrap_err();
        assert!(failure.status == 2 && failure.to_string().contains("admin.tokens"), "{what}: {failure}");
    };
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        refused(&flipped, &format!("byte {at}"));
    }
    for end in [0, 1, whole.len() / 2, whole.len() - 1] {
        refused(&whole[..end], &format!("cut at {end}"));
    }
    let newer = String::from_utf8(whole.clone()).unwrap().replacen("tokens 1 ", "tokens 2 ", 1);
    refused(newer.as_bytes(), "a newer version");
    assert!(place.try_open().map(|_| ()).unwrap_err().to_string().contains("newer"));
    fs::write(&path, &whole).unwrap();
    assert_eq!(name_of(&place.open(), &made, NOW), Ok("ci".to_owned()));
}

#[test]
fn p1_without_its_pepper_the_file_is_refused_and_another_pepper_opens_nothing() {
    let place = Place::new();
    place.open().create("ci", &[Scope::Issue], None, NOW).unwrap();
    let pepper = place.data().admin_pepper_file();
    let right = fs::read(&pepper).unwrap();
    let said = || place.try_open().map(|_| ()).unwrap_err().to_string();
    fs::remove_file(&pepper).unwrap();
    assert!(said().contains("is not there"), "{}", said());
    fs::write(&pepper, "00".repeat(32)).unwrap();
    fs::set_permissions(&pepper, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(said().contains("another pepper"), "{}", said());
    fs::write(&pepper, "no pepper").unwrap();
    assert!(said().contains("64 hexadecimal digits"), "{}", said());
    fs::write(&pepper, right).unwrap();
    fs::set_permissions(&pepper, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(said().contains("chmod 600"), "{}", said());
}

#[test]
fn p1_what_another_process_has_written_counts_at_once() {
    let place = Place::new();
    let (here, elsewhere) = (place.open(), place.open());
    let made = elsewhere.create("ci", &[Scope::Issue], None, NOW).unwrap().token;
    assert_eq!(name_of(&here, &made, NOW), Ok("ci".to_owned()));
    here.create("other", &[Scope::Issue], None, NOW).unwrap();
    elsewhere.revoke("ci", NOW).unwrap();
    assert_eq!(name_of(&here, &made, NOW), Err(Wrong::Revoked));
    assert_eq!(here.list(NOW).unwrap().len(), 3);
    // A file that cannot be read any more opens nothing that was closed.
    fs::write(place.data().admin_tokens_file(), "damaged").unwrap();
    assert_eq!(name_of(&here, &made, NOW), Err(Wrong::Revoked));
}

#[test]
fn p1_a_vault_key_is_never_an_admin_token() {
    let place = Place::new();
    let vault_key = Secret::new(key::mint(|bytes| bytes.fill(7)).into_bytes());
    // Not even where one has come into the place of the token.
    let tokens = Tokens::open(&place.data(), Some(&vault_key), Source::Environment).unwrap();
    assert_eq!(name_of(&tokens, &vault_key, NOW), Err(Wrong::Unknown));
    let made = tokens.create("ci", &[Scope::Admin], None, NOW).unwrap().token;
    assert!(!key::is_well_formed(made.expose()), "nor the reverse");
}
