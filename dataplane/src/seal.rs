//! The master key: it seals vendor credentials and keys the digest of vault keys.
//!
//! It does not know the store. Three keys are derived from the 32 bytes of the master key (HKDF-SHA256), each for one
//! purpose; the 32 bytes themselves are wiped at once.
//!
//! A sealed credential is (rule R2):
//!
//! ```text
//! format u8 | master [16] | nonce [12] | data key [32 + 16] | nonce [12] | secret [n + 16]
//! ```
//!
//! The AAD of both ciphertexts is format, master, vendor, account and version; that of the secret has no master in
//! format 2, so that another master key changes the data key's wrapping alone ([`MasterKey::rewrap`]).
//!
//! What hashes vault keys is derived from the first master key, and has to outlive it: a rotation seals it under the
//! new one, as if it were a credential.

mod error;
mod file;
mod source;

use std::fmt;
use std::path::Path;

pub(crate) use error::SealError;
pub(crate) use source::{finish_rotation, next_key, read, read_next};

use keybrake_proto::key::KeyDigest;
use keybrake_proto::secret::Secret;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::error::Unspecified;
use ring::hkdf::{self, HKDF_SHA256};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

/// What is written.
const FORMAT: u8 = 2;

/// What was written before master keys could be rotated.
const FORMAT_BOUND: u8 = 1;

/// In the place of vendor and account, for what hashes vault keys: no vendor has an empty name.
const DIGEST_KEY_PLACE: (&str, &str) = ("", "vault key digest");

const MASTER_BYTES: usize = 32;
const DIGEST_KEY_BYTES: usize = 32;
const DATA_KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
const WRAPPED_BYTES: usize = DATA_KEY_BYTES + TAG_BYTES;
const CHECK_BYTES: usize = 16;

const DIGEST_PURPOSE: &[u8] = b"keybrake vault key digest v1";
const KEK_PURPOSE: &[u8] = b"keybrake credential kek v1";
const CHECK_PURPOSE: &[u8] = b"keybrake master key check v1";

/// Whether the master key's file was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Made {
    /// It was made now: tell the operator to move it away from the data.
    New,
    /// It was there before.
    Before,
}

/// The keys derived from the master key.
pub(crate) struct MasterKey {
    /// Wraps the data keys.
    kek: LessSafeKey,
    /// What `digester` was made from.
    digest_key: Secret,
    digester: KeyDigester,
    check: [u8; CHECK_BYTES],
    random: SystemRandom,
    /// Why this is not the store's.
    sealed: Option<String>,
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[master key]")
    }
}

impl MasterKey {
    /// Reads the file; where it is missing, makes it from random bytes, with mode 0600.
    ///
    /// For a store that was never sealed. For any other a new key opens nothing: use [`read`].
    pub(crate) fn load_or_create(path: &Path) -> Result<(MasterKey, Made), SealError> {
        match MasterKey::load(path) {
            Err(SealError::Missing(_)) => {}
            other => return other.map(|master| (master, Made::Before)),
        }
        let mut bytes = Zeroizing::new([0; MASTER_BYTES]);
        fill(&SystemRandom::new(), bytes.as_mut())?;
        match file::create(path, &bytes)? {
            Made::New => Ok((MasterKey::derive(&bytes), Made::New)),
            // Another process was faster, and its key is the one that stays.
            Made::Before => MasterKey::load(path).map(|master| (master, Made::Before)),
        }
    }

    /// Reads the file, for a store that has a [`MasterKey::check_value`].
    fn load(path: &Path) -> Result<MasterKey, SealError> {
        file::read(path).map(|bytes| MasterKey::derive(&bytes))
    }

    /// In the place of the store's, which is not known: it opens nothing, and no vault key has its digests.
    pub(crate) fn unknown(why: String) -> Result<MasterKey, SealError> {
        let mut bytes = Zeroizing::new([0; MASTER_BYTES]);
        fill(&SystemRandom::new(), bytes.as_mut())?;
        let mut master = MasterKey::derive(&bytes);
        master.digester.is_sealed = true;
        master.sealed = Some(why);
        Ok(master)
    }

    /// Why this is not the store's; `None`: it is.
    pub(crate) fn why_sealed(&self) -> Option<&str> {
        self.sealed.as_deref()
    }

    fn derive(bytes: &[u8; MASTER_BYTES]) -> MasterKey {
        // The bytes are random, so HKDF needs no salt (RFC 5869 section 3.1).
        let master = hkdf::Salt::new(HKDF_SHA256, &[]).extract(bytes);
        let bound = "16 and 32 bytes are within HKDF's bound of 8160";
        let mut check = [0; CHECK_BYTES];
        master.expand(&[CHECK_PURPOSE], Check).and_then(|okm| okm.fill(&mut check)).expect(bound);
        let mut digest_key = vec![0; DIGEST_KEY_BYTES];
        master.expand(&[DIGEST_PURPOSE], Bytes32).and_then(|okm| okm.fill(&mut digest_key)).expect(bound);
        let digest_key = Secret::new(digest_key);
        let kek = UnboundKey::from(master.expand(&[KEK_PURPOSE], &AES_256_GCM).expect(bound));
        MasterKey {
            kek: LessSafeKey::new(kek),
            digester: KeyDigester::new(&digest_key),
            digest_key,
            check,
            random: SystemRandom::new(),
            sealed: None,
        }
    }

    /// The same with what hashes vault keys as it was sealed when a master key was rotated.
    pub(crate) fn with_digest_key(mut self, sealed: &[u8]) -> Result<MasterKey, SealError> {
        let (vendor, account) = DIGEST_KEY_PLACE;
        let opened = self.open(vendor, account, 0, sealed);
        if let Err(SealError::Damaged { .. }) = opened {
            return Err(SealError::DigestKeyDamaged);
        }
        let digest_key = opened?;
        self.digester = KeyDigester::new(&digest_key);
        self.digest_key = digest_key;
        Ok(self)
    }

    /// This key in the place of `before`: with what `before` hashes vault keys with; and that sealed, to be stored.
    pub(crate) fn succeed(mut self, before: &MasterKey) -> Result<(MasterKey, Vec<u8>), SealError> {
        self.digest_key = before.digest_key.clone();
        self.digester = before.digester.clone();
        let (vendor, account) = DIGEST_KEY_PLACE;
        let sealed = self.seal(vendor, account, 0, &self.digest_key)?;
        Ok((self, sealed))
    }

    /// What says which master key this is, to people.
    pub(crate) fn id(&self) -> String {
        short_id(&self.check)
    }

    /// What hashes vault keys; one clone a worker.
    pub(crate) fn digester(&self) -> KeyDigester {
        self.digester.clone()
    }

    /// What the store keeps in the clear, to tell the master key it was made with: derived for that
    /// alone, so it says nothing of the others.
    pub(crate) fn check_value(&self) -> [u8; CHECK_BYTES] {
        self.check
    }

    /// Refuses a store whose [`MasterKey::check_value`] is another.
    pub(crate) fn check(&self, stored: &[u8; CHECK_BYTES]) -> Result<(), SealError> {
        if *stored == self.check {
            return Ok(());
        }
        Err(SealError::WrongMasterKey { stored: short_id(stored), given: self.id() })
    }

    /// Seals `secret` for this vendor, account and version only.
    pub(crate) fn seal(
        &self,
        vendor: &str,
        account: &str,
        version: u32,
        secret: &Secret,
    ) -> Result<Vec<u8>, SealError> {
        let place = (vendor, account, version);
        let mut data_key = Zeroizing::new([0; DATA_KEY_BYTES]);
        fill(&self.random, data_key.as_mut())?;
        let mut sealed = self.wrap(place, &data_key)?;
        let data_key = aes(&data_key)?;
        self.append_sealed(&mut sealed, &data_key, &aad(FORMAT, None, place), secret.expose())?;
        Ok(sealed)
    }

    /// The beginning of a sealed credential, up to its wrapped data key.
    fn wrap(&self, place: Place<'_>, data_key: &[u8; DATA_KEY_BYTES]) -> Result<Vec<u8>, SealError> {
        let mut sealed = vec![FORMAT];
        sealed.extend_from_slice(&self.check);
        self.append_sealed(&mut sealed, &self.kek, &aad(FORMAT, Some(&self.check), place), data_key)?;
        Ok(sealed)
    }

    /// What `before` sealed, under this key: its data key is wrapped anew, and the secret stays as it is.
    pub(crate) fn rewrap(
        &self,
        before: &MasterKey,
        place @ (vendor, account, version): Place<'_>,
        sealed: &[u8],
    ) -> Result<Vec<u8>, SealError> {
        if sealed.first() == Some(&FORMAT_BOUND) {
            // There the secret is bound to the master key.
            return self.seal(vendor, account, version, &before.open(vendor, account, version, sealed)?);
        }
        let Unwrapped { data_key, rest, .. } = before.unwrap(place, sealed)?;
        let mut anew = self.wrap(place, &data_key)?;
        anew.extend_from_slice(rest);
        Ok(anew)
    }

    fn append_sealed(
        &self,
        sealed: &mut Vec<u8>,
        key: &LessSafeKey,
        aad: &[u8],
        clear: &[u8],
    ) -> Result<(), SealError> {
        let mut nonce = [0; NONCE_LEN];
        fill(&self.random, &mut nonce)?;
        // With room for the tag: a buffer that moves would leave the clear bytes behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(clear.len().saturating_add(TAG_BYTES)));
        bytes.extend_from_slice(clear);
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut *bytes)
            // Only above 64 GiB (NIST SP 800-38D section 5.2.1.1).
            .map_err(|Unspecified| SealError::NoRandomness)?;
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&bytes);
        Ok(())
    }

    /// Opens what [`MasterKey::seal`] sealed for the same vendor, account and version.
    pub(crate) fn open(
        &self,
        vendor: &str,
        account: &str,
        version: u32,
        sealed: &[u8],
    ) -> Result<Secret, SealError> {
        let place = (vendor, account, version);
        let damaged = || SealError::Damaged { vendor: vendor.to_owned(), account: account.to_owned() };
        let Unwrapped { format, data_key, rest } = self.unwrap(place, sealed)?;
        let (nonce, secret) = rest.split_first_chunk().ok_or_else(damaged)?;
        let bound_to = (format == FORMAT_BOUND).then_some(&self.check);
        let mut secret = Zeroizing::new(secret.to_vec());
        let aad = aad(format, bound_to, place);
        let clear = open_in_place(&aes(&data_key)?, *nonce, &aad, &mut secret).ok_or_else(damaged)?;
        Ok(Secret::new(clear.to_vec()))
    }

    fn unwrap<'a>(
        &self,
        place @ (vendor, account, _): Place<'_>,
        sealed: &'a [u8],
    ) -> Result<Unwrapped<'a>, SealError> {
        let damaged = || SealError::Damaged { vendor: vendor.to_owned(), account: account.to_owned() };
        let (format, rest) = sealed.split_first().ok_or_else(damaged)?;
        if !matches!(*format, FORMAT | FORMAT_BOUND) {
            return Err(SealError::Format(*format));
        }
        let (master, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
        self.check(master)?;
        let (nonce, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
        let (wrapped, rest) = rest.split_first_chunk::<WRAPPED_BYTES>().ok_or_else(damaged)?;
        let mut wrapped = Zeroizing::new(wrapped.to_vec());
        let aad = aad(*format, Some(&self.check), place);
        let clear = open_in_place(&self.kek, *nonce, &aad, &mut wrapped).ok_or_else(damaged)?;
        let data_key = Zeroizing::new(*clear.first_chunk().ok_or_else(damaged)?);
        Ok(Unwrapped { format: *format, data_key, rest })
    }
}

/// Vendor, account and version of a credential.
type Place<'a> = (&'a str, &'a str, u32);

/// A sealed credential whose data key is known; `rest` is nonce and secret.
struct Unwrapped<'a> {
    format: u8,
    data_key: Zeroizing<[u8; DATA_KEY_BYTES]>,
    rest: &'a [u8],
}

/// Hashes vault keys (HMAC-SHA256). The key schedule is done once; a digest is two short hashes.
#[derive(Clone)]
pub(crate) struct KeyDigester {
    key: hmac::Key,
    is_sealed: bool,
}

impl fmt::Debug for KeyDigester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[key digester]")
    }
}

impl KeyDigester {
    fn new(digest_key: &Secret) -> KeyDigester {
        KeyDigester { key: hmac::Key::new(hmac::HMAC_SHA256, digest_key.expose()), is_sealed: false }
    }

    /// Whether the store's master key is not known, so that no digest is any key's.
    pub(crate) fn is_sealed(&self) -> bool {
        self.is_sealed
    }

    /// The digest of a vault key's text.
    pub(crate) fn digest(&self, text: &[u8]) -> KeyDigest {
        let tag = hmac::sign(&self.key, text);
        let mut digest = [0; 32];
        digest.copy_from_slice(tag.as_ref());
        KeyDigest(digest)
    }
}

/// The length HKDF is asked for by the check value.
#[derive(Clone, Copy)]
struct Check;

impl hkdf::KeyType for Check {
    fn len(&self) -> usize {
        CHECK_BYTES
    }
}

/// The length HKDF is asked for by the key that hashes vault keys: that of the hash.
#[derive(Clone, Copy)]
struct Bytes32;

impl hkdf::KeyType for Bytes32 {
    fn len(&self) -> usize {
        DIGEST_KEY_BYTES
    }
}

/// The beginning of a check value, in hexadecimal digits.
fn short_id(check: &[u8; CHECK_BYTES]) -> String {
    check.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

fn aes(key: &[u8; DATA_KEY_BYTES]) -> Result<LessSafeKey, SealError> {
    // The length is the algorithm's, so there is nothing to refuse.
    let key = UnboundKey::new(&AES_256_GCM, key).map_err(|Unspecified| SealError::NoRandomness)?;
    Ok(LessSafeKey::new(key))
}

fn open_in_place<'a>(
    key: &LessSafeKey,
    nonce: [u8; NONCE_LEN],
    aad: &[u8],
    bytes: &'a mut [u8],
) -> Option<&'a [u8]> {
    key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad), bytes).ok().map(|clear| &*clear)
}

/// Lengths stand before the texts, so that no other vendor and account give the same bytes.
fn aad(format: u8, master: Option<&[u8; CHECK_BYTES]>, (vendor, account, version): Place<'_>) -> Vec<u8> {
    let mut aad = vec![format];
    aad.extend(master.into_iter().flatten());
    for text in [vendor, account] {
        aad.extend_from_slice(&(text.len() as u64).to_le_bytes());
        aad.extend_from_slice(text.as_bytes());
    }
    aad.extend_from_slice(&version.to_le_bytes());
    aad
}

fn fill(random: &SystemRandom, bytes: &mut [u8]) -> Result<(), SealError> {
    random.fill(bytes).map_err(|Unspecified| SealError::NoRandomness)
}

#[cfg(test)]
mod tests;
