//! Orders a revoke: over the control socket, or into the spool where no dataplane listens there (rule Q22).

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use keybrake_proto::control::{Refused, Reply, Request, Revoke, Revoked, SPOOL_NAME, SPOOL_SUFFIX, Spooled};
use keybrake_proto::key::KeyId;
use keybrake_proto::time::UnixMicros;
use serde::{Deserialize, Serialize};

use crate::control::{Control, ControlError};

/// What came of an order.
#[derive(Debug)]
pub(crate) enum Ordered {
    /// The dataplane has carried it out.
    Answered(Box<Revoked>),
    /// The dataplane has refused it.
    Refused(Refused),
    /// The dataplane is down; it carries the order out at its next start, before it listens.
    Recorded,
    /// The order is in the dataplane's socket, and it does not answer.
    Silent,
}

/// Why there is nothing to say of an order.
#[derive(Debug)]
pub(crate) enum OrderError {
    /// The dataplane cannot be asked.
    Control(ControlError),
    /// The dataplane is down, and the order cannot be recorded either.
    Spool(PathBuf, io::Error),
}

impl std::fmt::Display for OrderError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OrderError::Control(error) => write!(f, "NOT revoked: {error}"),
            OrderError::Spool(dir, error) => write!(
                f,
                "NOT revoked: the dataplane is down, and the order cannot be recorded in {}: {error}",
                dir.display()
            ),
        }
    }
}

/// The JSON of an answer. Numbers are absent where the dataplane has not answered.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// Where one key was named in the path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<KeyId>,
    /// `revoked`, or `pending`.
    pub(crate) status: String,
    pub(crate) revoked: Option<u64>,
    pub(crate) already_revoked: Option<u64>,
    pub(crate) ids: Vec<KeyId>,
    pub(crate) unknown_ids: Vec<KeyId>,
    revoked_at: Option<String>,
    acknowledged: bool,
    late_workers: Vec<usize>,
    durable: bool,
    recorded: bool,
    pub(crate) closed_us: Option<u64>,
    pub(crate) acknowledged_us: Option<u64>,
    pub(crate) at_vendor: Option<u64>,
    pub(crate) cut: Option<u64>,
    /// Why it is pending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
}

impl Answer {
    /// The answer to an order, or the dataplane's refusal.
    pub(crate) fn of(ordered: Ordered) -> Result<Answer, Refused> {
        let pending = |recorded, message: &str| {
            let (status, message) = ("pending".to_owned(), Some(message.to_owned()));
            Answer { status, recorded, message, ..Answer::default() }
        };
        match ordered {
            Ordered::Answered(revoked) => Ok(Answer::of_revoked(*revoked)),
            Ordered::Refused(refused) => Err(refused),
            Ordered::Recorded => Ok(pending(
                true,
                "recorded: the dataplane is down, and carries the order out before it listens; nothing is sent meanwhile",
            )),
            Ordered::Silent => Ok(pending(
                false,
                "not acknowledged: the dataplane did not answer in time. It reads the order before it sends anything \
                 else, unless it is killed: ask again until it is acknowledged",
            )),
        }
    }

    fn of_revoked(revoked: Revoked) -> Answer {
        let message = late(&revoked);
        Answer {
            id: None,
            status: if message.is_none() { "revoked" } else { "pending" }.to_owned(),
            revoked: Some(revoked.revoked),
            already_revoked: Some(revoked.already_revoked),
            ids: revoked.ids,
            unknown_ids: revoked.unknown_ids,
            revoked_at: Some(revoked.revoked_at.to_string()),
            acknowledged: revoked.acknowledged,
            late_workers: revoked.late_workers,
            durable: revoked.durable,
            recorded: false,
            closed_us: Some(revoked.closed_us),
            acknowledged_us: Some(revoked.acknowledged_us),
            at_vendor: Some(revoked.at_vendor),
            cut: Some(revoked.cut),
            message,
        }
    }
}

/// Who has not answered in time; `None` where all have.
fn late(revoked: &Revoked) -> Option<String> {
    let workers = revoked.late_workers.iter().map(|worker| format!("worker {worker}"));
    let disk = (!revoked.durable).then(|| "the disk".to_owned());
    let late: Vec<String> = workers.chain(disk).collect();
    (!late.is_empty()).then(|| {
        format!(
            "closed: nothing is admitted any more; no answer in time from {}, so ask again",
            late.join(", ")
        )
    })
}

/// Orders `revoke`.
pub(crate) async fn order(control: &Control, revoke: &Revoke) -> Result<Ordered, OrderError> {
    match ask(control, revoke).await {
        // It dies, or has died in this moment.
        Err(ControlError::NotRunning | ControlError::Broken(_)) => {}
        Err(ControlError::Silent) => return Ok(Ordered::Silent),
        other => return other.map_err(OrderError::Control),
    }
    let (data_dir, order) = (control.data_dir().to_owned(), revoke.clone());
    let dir = data_dir.join(SPOOL_NAME);
    let recording = tokio::task::spawn_blocking(move || record(&data_dir, &order)).await;
    let recorded = recording.map_err(io::Error::other).flatten();
    let path = recorded.map_err(|error| OrderError::Spool(dir, error))?;
    // A dataplane listens first and reads the spool then: one that listens only now may have missed it.
    match ask(control, revoke).await {
        Ok(ordered) => {
            // A dataplane that has just started may have been faster.
            std::fs::remove_file(path).ok();
            Ok(ordered)
        }
        Err(ControlError::Silent) => Ok(Ordered::Silent),
        Err(_) => Ok(Ordered::Recorded),
    }
}

async fn ask(control: &Control, revoke: &Revoke) -> Result<Ordered, ControlError> {
    match control.call(&Request::Revoke(revoke.clone())).await? {
        Reply::Revoked(revoked) => Ok(Ordered::Answered(revoked)),
        Reply::Refused(refused) => Ok(Ordered::Refused(refused)),
        Reply::Status(_)
        | Reply::Issued { .. }
        | Reply::Changed { .. }
        | Reply::Vendors(_)
        | Reply::CredentialSet(_)
        | Reply::MasterKeyRotated(_)
        | Reply::Keys { .. }
        | Reply::Key(_)
        | Reply::Clock(_)
        | Reply::Doubts(_)
        | Reply::Config(_)
        | Reply::DoubtResolved(_) => Err(ControlError::Unexpected),
    }
}

/// Writes an order into the spool of `data_dir`; on disk when it returns.
fn record(data_dir: &Path, revoke: &Revoke) -> io::Result<PathBuf> {
    static RECORDED: AtomicU64 = AtomicU64::new(0);
    let dir = data_dir.join(SPOOL_NAME);
    match DirBuilder::new().mode(0o700).create(&dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => sync_dir(data_dir)?,
    }
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let recorded_at = UnixMicros(u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX));
    let number = RECORDED.fetch_add(1, Ordering::Relaxed);
    let name = format!("{}-{}-{number}", recorded_at.0, std::process::id());
    let (unfinished, path) = (dir.join(format!("{name}.tmp")), dir.join(format!("{name}{SPOOL_SUFFIX}")));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    file.write_all(&Spooled { revoke: revoke.clone(), recorded_at }.encode())?;
    file.sync_all()?;
    std::fs::rename(&unfinished, &path)?;
    sync_dir(&dir)?;
    Ok(path)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
