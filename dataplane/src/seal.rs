//! The master key: it seals vendor credentials and keys the digest of vault keys.
//!
//! It knows neither the store nor the configuration. Three keys are derived from the 32 bytes of
//! the file (HKDF-SHA256), each for one purpose; the 32 bytes themselves are wiped at once.
//!
//! A sealed credential is, with the AAD of both ciphertexts being format, master, vendor, account
//! and version (rule R2):
//!
//! ```text
//! format u8 | master [16] | nonce [12] | data key [32 + 16] | nonce [12] | secret [n + 16]
//! ```

mod file;

use std::fmt;
use std::path::{Path, PathBuf};

use keybrake_proto::key::KeyDigest;
use keybrake_proto::secret::Secret;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::error::Unspecified;
use ring::hkdf::{self, HKDF_SHA256};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

/// The one format so far.
const FORMAT: u8 = 1;

const MASTER_BYTES: usize = 32;
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

/// Why the master key or a sealed credential cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SealError {
    /// The file is not there.
    Missing(PathBuf),
    /// The file cannot be read or made.
    Io {
        /// The file or its directory.
        path: PathBuf,
        /// The operating system's words.
        reason: String,
    },
    /// Others than the owner may use the file; `mode` is its permission bits.
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is not 64 hexadecimal digits.
    Malformed(PathBuf),
    /// The store was sealed with another master key.
    WrongMasterKey,
    /// The sealed bytes are damaged, or were sealed for another vendor, account or version.
    Damaged {
        /// Whose credential.
        vendor: String,
        /// Which of the vendor's accounts.
        account: String,
    },
    /// Sealed by a newer keybrake.
    Format(u8),
    /// The operating system gives no random bytes.
    NoRandomness,
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SealError::Missing(path) => write!(
                f,
                "the store was made with a master key, and {} is not there; put it back or set \
                 data.master_key_file to where it is",
                path.display()
            ),
            SealError::Io { path, reason } => {
                write!(f, "cannot read or make the master key {}: {reason}", path.display())
            }
            SealError::Exposed { path, mode } => write!(
                f,
                "the master key {} is open to other users (mode {mode:04o}); run: chmod 600 {}",
                path.display(),
                path.display()
            ),
            SealError::Malformed(path) => write!(
                f,
                "{} is not a master key, which is 64 hexadecimal digits; put the right file back, as the \
                 store cannot be opened without it",
                path.display()
            ),
            SealError::WrongMasterKey => f.write_str(
                "sealed: the store was made with another master key; set data.master_key_file to that one",
            ),
            SealError::Damaged { vendor, account } => write!(
                f,
                "the stored credential of {vendor}, account {account}, is damaged or not its own; set it \
                 again with `keybrake vendor set {vendor}`"
            ),
            SealError::Format(format) => {
                write!(
                    f,
                    "a credential sealed in format {format}, newer than this program; run a newer keybrake"
                )
            }
            SealError::NoRandomness => f.write_str("the operating system gives no random bytes; try again"),
        }
    }
}

impl std::error::Error for SealError {}

/// The keys derived from the master key's file.
pub(crate) struct MasterKey {
    /// Wraps the data keys.
    kek: LessSafeKey,
    digester: KeyDigester,
    check: [u8; CHECK_BYTES],
    random: SystemRandom,
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[master key]")
    }
}

impl MasterKey {
    /// Reads the file; where it is missing, makes it from random bytes, with mode 0600.
    ///
    /// For a store that was never sealed. For any other a new key opens nothing: use
    /// [`MasterKey::load`].
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
    pub(crate) fn load(path: &Path) -> Result<MasterKey, SealError> {
        file::read(path).map(|bytes| MasterKey::derive(&bytes))
    }

    fn derive(bytes: &[u8; MASTER_BYTES]) -> MasterKey {
        // The bytes are random, so HKDF needs no salt (RFC 5869 section 3.1).
        let master = hkdf::Salt::new(HKDF_SHA256, &[]).extract(bytes);
        let bound = "16 and 32 bytes are within HKDF's bound of 8160";
        let mut check = [0; CHECK_BYTES];
        master.expand(&[CHECK_PURPOSE], Check).and_then(|okm| okm.fill(&mut check)).expect(bound);
        let digester = hmac::Key::from(master.expand(&[DIGEST_PURPOSE], hmac::HMAC_SHA256).expect(bound));
        let kek = UnboundKey::from(master.expand(&[KEK_PURPOSE], &AES_256_GCM).expect(bound));
        MasterKey {
            kek: LessSafeKey::new(kek),
            digester: KeyDigester(digester),
            check,
            random: SystemRandom::new(),
        }
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
        if *stored == self.check { Ok(()) } else { Err(SealError::WrongMasterKey) }
    }

    /// Seals `secret` for this vendor, account and version only.
    pub(crate) fn seal(
        &self,
        vendor: &str,
        account: &str,
        version: u32,
        secret: &Secret,
    ) -> Result<Vec<u8>, SealError> {
        let aad = aad(&self.check, vendor, account, version);
        let mut data_key = Zeroizing::new([0; DATA_KEY_BYTES]);
        fill(&self.random, data_key.as_mut())?;
        let mut sealed = vec![FORMAT];
        sealed.extend_from_slice(&self.check);
        self.append_sealed(&mut sealed, &self.kek, &aad, data_key.as_ref())?;
        let data_key = aes(&data_key)?;
        self.append_sealed(&mut sealed, &data_key, &aad, secret.expose())?;
        Ok(sealed)
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
        let damaged = || SealError::Damaged { vendor: vendor.to_owned(), account: account.to_owned() };
        let (format, rest) = sealed.split_first().ok_or_else(damaged)?;
        if *format != FORMAT {
            return Err(SealError::Format(*format));
        }
        let (master, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
        self.check(master)?;
        let (wrap_nonce, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
        let (wrapped, rest) = rest.split_first_chunk::<WRAPPED_BYTES>().ok_or_else(damaged)?;
        let (nonce, secret) = rest.split_first_chunk().ok_or_else(damaged)?;

        let aad = aad(&self.check, vendor, account, version);
        let mut wrapped = Zeroizing::new(wrapped.to_vec());
        let data_key = open_in_place(&self.kek, *wrap_nonce, &aad, &mut wrapped).ok_or_else(damaged)?;
        let data_key = aes(data_key.first_chunk().ok_or_else(damaged)?)?;
        let mut secret = Zeroizing::new(secret.to_vec());
        let clear = open_in_place(&data_key, *nonce, &aad, &mut secret).ok_or_else(damaged)?;
        Ok(Secret::new(clear.to_vec()))
    }
}

/// Hashes vault keys (HMAC-SHA256). The key schedule is done once; a digest is two short hashes.
#[derive(Clone)]
pub(crate) struct KeyDigester(hmac::Key);

impl fmt::Debug for KeyDigester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[key digester]")
    }
}

impl KeyDigester {
    /// The digest of a vault key's text.
    pub(crate) fn digest(&self, text: &[u8]) -> KeyDigest {
        let tag = hmac::sign(&self.0, text);
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
fn aad(master: &[u8; CHECK_BYTES], vendor: &str, account: &str, version: u32) -> Vec<u8> {
    let mut aad = vec![FORMAT];
    aad.extend_from_slice(master);
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
