//! Revokes that found no dataplane, or one whose disk owes them when it ends: files that the next one carries out
//! before it listens (rule Q22).
//!
//! One file an order, so that nobody ever changes one. The admin process writes the same ones.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use crossbeam_channel::bounded;
use keybrake_proto::config::Data;
use keybrake_proto::control::{REVOKE_IDS_MAX, Revoke, SPOOL_BYTES_MAX, SPOOL_SUFFIX, Selector, Spooled};

use super::Control;
use super::keys::Keys;
use crate::clock::wall as now;
use crate::storage::Store;

/// A recorded order.
pub(super) struct Entry(PathBuf);

impl Entry {
    /// Takes it back, since it was carried out otherwise. A dataplane that has just started may have been faster.
    pub(super) fn withdraw(self) {
        fs::remove_file(self.0).ok();
    }
}

/// Records an order; on disk when it returns. The error is one line for the operator.
pub(super) fn record(data: &Data, revoke: &Revoke) -> Result<Entry, String> {
    if !data.dir.is_dir() {
        return Err(format!(
            "no dataplane answers, and none has run here: data.dir {} does not exist; is it the right --config?",
            data.dir.display()
        ));
    }
    let dir = data.revoke_spool();
    write(&data.dir, &dir, revoke).map(Entry).map_err(|error| {
        format!(
            "NOT revoked: no dataplane answers, and the order cannot be recorded in {}: {error}",
            dir.display()
        )
    })
}

impl Control {
    /// Records the revokes that the store's disk still owes, so that the next process carries them out; waits no
    /// longer than `limit` for that. One that the store has got by then is carried out twice, which changes nothing.
    pub(crate) fn spool_owed(&self, data: &Data, limit: Duration) -> Result<(), String> {
        let owed = self.keys.owed();
        if owed.is_empty() {
            return Ok(());
        }
        let (data, (done, is_done)) = (data.clone(), bounded(1));
        let record_all = move || {
            let mut orders = owed.chunks(REVOKE_IDS_MAX).map(|ids| Selector::Ids(ids.to_vec()));
            let recorded = orders.try_for_each(|of| record(&data, &Revoke { of, cut: false }).map(drop));
            // Who asked may have stopped waiting.
            done.send(recorded).ok();
        };
        let spawned = thread::Builder::new().name("revoke-spool".to_owned()).spawn(record_all);
        spawned.map_err(|error| format!("revokes are not on disk, and cannot be recorded: {error}"))?;
        let late = || Err("revokes are not on disk, and the disk does not answer".to_owned());
        is_done.recv_timeout(limit).unwrap_or_else(|_| late())
    }
}

fn write(parent: &Path, dir: &Path, revoke: &Revoke) -> io::Result<PathBuf> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => sync_dir(parent)?,
    }
    let recorded_at = now();
    let name = format!("{}-{}", recorded_at.0, std::process::id());
    let (unfinished, path) = (dir.join(format!("{name}.tmp")), dir.join(format!("{name}{SPOOL_SUFFIX}")));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    file.write_all(&Spooled { revoke: revoke.clone(), recorded_at }.encode())?;
    file.sync_all()?;
    fs::rename(&unfinished, &path)?;
    sync_dir(dir)?;
    Ok(path)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Carries out every recorded order and then removes it. No agent may connect yet. The control socket must
/// listen: whoever records an order looks for it once more afterwards, so none falls between.
pub(crate) fn carry_out(
    _listens: &UnixListener,
    data: &Data,
    store: &mut Store,
    keys: &Keys,
) -> anyhow::Result<()> {
    let dir = data.revoke_spool();
    let orders = read_all(&dir).with_context(|| format!("revoke spool {}", dir.display()))?;
    if orders.is_empty() {
        return Ok(());
    }
    let mut records = Vec::new();
    for (_, Spooled { revoke, recorded_at }) in &orders {
        let closed = keys.close(&revoke.of, now());
        eprintln!(
            "keybrake-dataplane: carried out the revoke of {recorded_at} that was recorded: {} keys revoked, {} had been \
             before",
            closed.now.len(),
            closed.before.len()
        );
        records.extend(closed.now.iter().filter_map(|entry| entry.undurable_revoke()));
    }
    store.put_keys(&records)?;
    keys.revokes_were_stored(&records);
    let removed = orders.iter().try_for_each(|(path, _)| fs::remove_file(path)).and_then(|()| sync_dir(&dir));
    // Carried out again at a later start, an order by label would revoke keys that were issued meanwhile.
    removed.with_context(|| {
        format!("revoke spool {}: what was carried out cannot be removed; change its rights", dir.display())
    })
}

/// The finished orders, oldest first.
fn read_all(dir: &Path) -> anyhow::Result<Vec<(PathBuf, Spooled)>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        // Others are unfinished, and nobody was told that they are recorded.
        if path.to_string_lossy().ends_with(SPOOL_SUFFIX) {
            paths.push(path);
        }
    }
    paths.sort();
    let mut orders = Vec::new();
    for path in paths {
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        let order = if bytes.len() <= SPOOL_BYTES_MAX { Spooled::decode(&bytes).ok() } else { None };
        let Some(order) = order else {
            bail!(
                "{} is damaged, so the keys it revokes are not known; remove it, start, and revoke them again",
                path.display()
            );
        };
        orders.push((path, order));
    }
    Ok(orders)
}
