//! The configuration read again while requests are served: the last good one stays in force (rule Q30).
//!
//! Everything that can fail comes first. Then each shard is told and serves its next request by the new settings;
//! who issues keys here follows when all have said so.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crossbeam_channel::bounded;
use keybrake_proto::catalog::Catalog;
use keybrake_proto::catalog::book::PriceBook;
use keybrake_proto::config::{self, Reload};
use keybrake_proto::control::{ConfigState, ConfigView, Counter, Reply};

use super::issue::{after, wait_for};
use super::{Control, WAIT, refused};
use crate::clock;
use crate::open_vendor;
use crate::pool::{Credential, Vendor};
use crate::settings::Settings;
use crate::shard::Message;
use crate::source::Source;
use crate::storage::{Store, StoredCredential};

/// The file, and what became of it.
pub(crate) struct Reloads {
    source: Source,
    state: Mutex<State>,
}

struct State {
    seen: ConfigState,
    /// By the last one.
    changed: Vec<String>,
    done: u64,
    refused: u64,
}

/// Credentials under another quota, with whose they are.
type Requoted = Vec<(Arc<Vendor>, Arc<Credential>)>;

/// What a reload puts in force.
struct Renewed {
    settings: Arc<Settings>,
    reload: Reload,
    credentials: Requoted,
}

impl Reloads {
    /// Of what was read from `source` just now.
    pub(crate) fn new(source: Source) -> Reloads {
        let seen = ConfigState { read_at: clock::wall().to_string(), ..ConfigState::default() };
        let state = State { seen, changed: Vec::new(), done: 0, refused: 0 };
        Reloads { source, state: Mutex::new(state) }
    }

    /// What became of the file.
    pub(super) fn state(&self) -> ConfigState {
        self.lock().seen.clone()
    }

    /// For `/metrics`.
    pub(super) fn counters(&self) -> [Counter; 2] {
        let state = self.lock();
        let counter = |result: &str, value| Counter {
            name: "keybrake_config_reloads_total".to_owned(),
            help: "Times that the configuration was read again; a refused one changed nothing.".to_owned(),
            kind: "counter".to_owned(),
            label: Some(("result".to_owned(), result.to_owned())),
            value,
        };
        [counter("done", state.done), counter("refused", state.refused)]
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Control {
    /// What is in force, and what became of the file.
    pub(super) fn configuration(&self) -> ConfigView {
        let settings = self.settings.load_full();
        let state = self.reloads.lock();
        ConfigView {
            state: state.seen.clone(),
            changed: state.changed.clone(),
            late_workers: Vec::new(),
            config: serde_json::to_value(&settings.config).unwrap_or_default(),
        }
    }

    pub(super) fn reload_reply(&self) -> Reply {
        match self.reload() {
            Ok(view) => Reply::Config(Box::new(view)),
            Err(problem) => refused(400, "invalid_config", None, problem),
        }
    }

    /// Reads the configuration again and puts it in force, or changes nothing; says on standard error which. The
    /// error is one line with the file, the key and what to do.
    pub(crate) fn reload(&self) -> Result<ConfigView, String> {
        // One at a time, and no credential is set meanwhile.
        let _one = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::wall().to_string();
        let Renewed { settings, reload, credentials } = match self.renew() {
            Ok(renewed) => renewed,
            Err(problem) => {
                eprintln!("keybrake-dataplane: not reloaded, what was in force stays: {problem}");
                let mut state = self.reloads.lock();
                state.refused = state.refused.saturating_add(1);
                state.seen.last_error = Some(problem.clone());
                state.seen.last_error_at = Some(now);
                return Err(problem);
            }
        };
        for (vendor, credential) in credentials {
            vendor.set_credential(credential);
        }
        self.limits.renew(&settings.config);
        let acks = self.post_all(|ack| Message::Reloaded { settings: Arc::clone(&settings), ack });
        let late_workers = self.gather(&acks, after(Instant::now(), WAIT)).late;
        self.settings.store(settings);
        eprintln!("keybrake-dataplane: {}", summary(&reload));
        let mut state = self.reloads.lock();
        state.done = state.done.saturating_add(1);
        state.changed = reload.changed;
        state.seen = ConfigState {
            read_at: now,
            last_error: None,
            last_error_at: None,
            needs_restart: reload.needs_restart,
        };
        drop(state);
        Ok(ConfigView { late_workers, ..self.configuration() })
    }

    /// Everything that can fail.
    fn renew(&self) -> Result<Renewed, String> {
        if self.seals().is_err() {
            return Err("a credential or the master key is on its way to the disk; try again".to_owned());
        }
        let before = self.settings.load_full();
        let source = &self.reloads.source;
        let in_file = |problem: String| format!("config {}: {problem}", source.path.display());
        let new = source.read_settled()?;
        let reload = before.config.reload(&new).map_err(|error| in_file(error.to_string()))?;
        let book = PriceBook::load(&reload.config.prices, |path| std::fs::read_to_string(path))
            .map_err(|error| in_file(error.to_string()))?;
        let (mut vendors, mut credentials) = (Vec::new(), Vec::new());
        for vendor in &before.vendors {
            let renewed = renew_vendor(vendor, &reload, &vendors).map_err(in_file)?;
            if vendor.label.is_none() {
                credentials.extend(requota(vendor, &renewed).map_err(in_file)?);
            }
            vendors.push(renewed);
        }
        for added in &reload.config.vendors {
            if before.vendors.iter().all(|vendor| vendor.config.name != added.name) {
                vendors.extend(self.add_vendor(added).map_err(|error| in_file(format!("{error:#}")))?);
            }
        }
        // Last: it is in force at once.
        if let Some(tls) = &self.agent_tls {
            tls.reload().map_err(|error| in_file(format!("proxy.tls: {error}")))?;
        }
        let settings = Settings::new(reload.config.clone(), vendors, Arc::new(book));
        Ok(Renewed { settings, reload, credentials })
    }

    /// A vendor that was not there before, with the credentials that the store has, or its first one.
    fn add_vendor(&self, added: &config::Vendor) -> anyhow::Result<Vec<Arc<Vendor>>> {
        // Beside the storage thread, which has synced every credential that was ever acknowledged.
        let stored = Store::read(&self.data.store_dir())?.credentials(&added.name)?;
        open_vendor::open(added, stored, &self.master.load(), |account, first| {
            self.keep(&added.name, account, first)
        })
    }

    /// On disk when it returns.
    fn keep(&self, vendor: &str, account: &str, credential: &StoredCredential) -> anyhow::Result<()> {
        let (sender, stored) = bounded(1);
        let underway = self.sealing.begin();
        self.storage.put_credential((vendor, account), credential, move |result| {
            drop(underway);
            // The receiver may have stopped waiting.
            sender.try_send(result).ok();
        });
        wait_for(&stored).map_err(|problem| anyhow::anyhow!("vendor {vendor}: its credential: {problem}"))
    }
}

/// A vendor that was there before, as the configuration says it now. Its table is made anew only where that says
/// something else: each stays in memory to the end of the process.
fn renew_vendor(
    vendor: &Arc<Vendor>,
    reload: &Reload,
    renewed: &[Arc<Vendor>],
) -> Result<Arc<Vendor>, String> {
    let name = &vendor.config.name;
    let Some(config) = reload.config.vendors.iter().find(|config| config.name == *name) else {
        return Ok(Arc::clone(vendor));
    };
    let table = |config: &config::Vendor| {
        (config.operations.clone(), config.request_headers.clone(), config.free_reads)
    };
    // One table for all its hosts.
    let of_other_host = renewed.iter().find(|other| other.config.name == *name).map(|other| other.catalog);
    let catalog = match of_other_host {
        Some(catalog) => catalog,
        None if table(config) == table(&vendor.config) => vendor.catalog,
        None => Catalog::of_vendor(config).map_err(|error| error.to_string())?,
    };
    let renewed = vendor.renewed(config.clone(), catalog);
    renewed.map(Arc::new).map_err(|problem| format!("vendor {name}: {problem}"))
}

/// The credentials of a vendor whose quota is another one.
fn requota(before: &Vendor, renewed: &Arc<Vendor>) -> Result<Requoted, String> {
    if before.config.quota_rps == renewed.config.quota_rps {
        return Ok(Vec::new());
    }
    let with_quota =
        |credential: Arc<Credential>| Ok((Arc::clone(renewed), credential.with_quota(&renewed.config)?));
    before.credentials().into_iter().map(with_quota).collect()
}

/// A reload in one line.
fn summary(reload: &Reload) -> String {
    let changed = match reload.changed.is_empty() {
        true => "nothing changed".to_owned(),
        false => format!("changed {}", reload.changed.join(", ")),
    };
    match reload.needs_restart.is_empty() {
        true => format!("configuration reloaded: {changed}"),
        false => {
            format!("configuration reloaded: {changed}; needs a restart: {}", reload.needs_restart.join(", "))
        }
    }
}
