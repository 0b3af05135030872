//! The store's master key, wherever a start finds it; or why the start is sealed.

use std::time::Duration;

use keybrake_proto::config::{Config, KeySource};

use crate::seal::{self, Made, MasterKey, SealError};
use crate::storage::Store;

/// The master key that everything in the store is sealed under, and where it was.
pub(super) enum Found {
    /// Where the configuration says.
    Current(MasterKey),
    /// In the file beside it: a rotation wrote the store and did not come to rename the file.
    Next(MasterKey),
    /// Where the configuration says the one before is: the store is to be rotated to the current one.
    Old(MasterKey),
}

/// The master key, made at the first start. Where a store's own is not found it is
/// [`MasterKey::unknown`], and one line says why.
pub(super) fn open(config: &Config, store: &Store) -> anyhow::Result<MasterKey> {
    let Some(check) = store.master_check()? else { return first(config, store) };
    let found = match find(config, store, &check) {
        Ok(found) => found,
        Err(why) => {
            let why = why.to_string();
            eprintln!(
                "keybrake-dataplane: sealed: {why}; nothing is forwarded until it is restarted with the right key"
            );
            return Ok(MasterKey::unknown(why)?);
        }
    };
    match found {
        Found::Current(master) => Ok(master),
        Found::Next(master) => {
            finish(config, &master);
            Ok(master)
        }
        Found::Old(before) => {
            let (master, rewrapped) = store.rewrap(&before, current(config)?)?;
            let credentials = rewrapped.credentials;
            store.put_rewrapped(rewrapped)?;
            eprintln!(
                "keybrake-dataplane: the master key is {} from now on, {} is not needed any more; {credentials} \
                 credentials are wrapped anew",
                master.id(),
                before.id()
            );
            Ok(master)
        }
    }
}

fn first(config: &Config, store: &Store) -> anyhow::Result<MasterKey> {
    let (master, made) = match config.data.master_key() {
        KeySource::File(path) => {
            let (master, made) = MasterKey::load_or_create(&path)?;
            (master, (made == Made::New).then_some(path))
        }
        KeySource::Env(_) | KeySource::Command(_) => (current(config)?, None),
    };
    store.put_master_check(&master.check_value())?;
    if let Some(path) = made {
        eprintln!(
            "keybrake-dataplane: made the master key {}; keep a copy elsewhere, without it the stored credentials and \
             all vault keys are lost",
            path.display()
        );
    }
    Ok(master)
}

fn timeout(config: &Config) -> Duration {
    Duration::from_secs(config.data.master_key_timeout_s)
}

fn current(config: &Config) -> Result<MasterKey, SealError> {
    seal::read(&config.data.master_key(), timeout(config))
}

/// Looks for the master key with this check value; changes nothing.
pub(super) fn find(config: &Config, store: &Store, check: &[u8; 16]) -> Result<Found, SealError> {
    let is_it = |master: MasterKey| master.check(check).map(|()| master);
    let whole = |master: MasterKey| match store.digest_key() {
        Ok(Some(sealed)) => master.with_digest_key(&sealed),
        Ok(None) => Ok(master),
        Err(_) => Err(SealError::DigestKeyDamaged),
    };
    let why = match current(config).and_then(is_it) {
        Ok(master) => return Ok(Found::Current(whole(master)?)),
        Err(why) => why,
    };
    if let KeySource::File(path) = config.data.master_key()
        && let Ok(master) = seal::read_next(&path).and_then(is_it)
    {
        return Ok(Found::Next(whole(master)?));
    }
    if let Some(source) = config.data.old_master_key()
        && let Ok(before) = seal::read(&source, timeout(config)).and_then(is_it)
    {
        // What it is rotated to has to be there.
        current(config)?;
        return Ok(Found::Old(whole(before)?));
    }
    Err(why)
}

/// Ends a rotation that wrote the store and broke off.
fn finish(config: &Config, master: &MasterKey) {
    let KeySource::File(path) = config.data.master_key() else { return };
    let before = current(config).map_or("unread".to_owned(), |before| before.id());
    match seal::finish_rotation(&path, &before) {
        Ok(_) => eprintln!(
            "keybrake-dataplane: a rotation of the master key broke off and is done now: it is {}",
            master.id()
        ),
        // It is found there the next time, too.
        Err(error) => eprintln!("keybrake-dataplane: a rotation of the master key cannot be ended: {error}"),
    }
}
