//! Where master keys come from: a file, a variable of the environment, or a program (rule R2).

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use keybrake_proto::config::KeySource;
use keybrake_proto::secret::Secret;
use ring::rand::SystemRandom;
use zeroize::Zeroizing;

use super::{MASTER_BYTES, MasterKey, SealError, file, fill};
use crate::environment;

/// More than a key has, so that a program that prints something else is told.
const OUTPUT_BYTES_MAX: u64 = 1024;

/// Between two looks whether a program has ended.
const PAUSE: Duration = Duration::from_millis(5);

/// Reads a master key; a program may take as long as `timeout`.
pub(crate) fn read(source: &KeySource, timeout: Duration) -> Result<MasterKey, SealError> {
    match source {
        KeySource::File(path) => MasterKey::load(path),
        KeySource::Env(name) => {
            let value = environment::secret(name).ok_or_else(|| SealError::NotSet(name.clone()))?;
            parse(&value, name)
        }
        KeySource::Command(command) => run(command, timeout),
    }
}

fn parse(text: &Secret, place: &str) -> Result<MasterKey, SealError> {
    let bytes = file::from_hex(text.expose().trim_ascii());
    bytes.map(|bytes| MasterKey::derive(&bytes)).ok_or_else(|| SealError::NotAKey(place.to_owned()))
}

fn run(command: &[String], timeout: Duration) -> Result<MasterKey, SealError> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(SealError::NotAKey("data.master_key_command".to_owned()));
    };
    let failed = |problem: String| SealError::Program { program: program.clone(), problem };
    let until = Instant::now().checked_add(timeout).unwrap_or_else(Instant::now);
    let child = Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| failed(format!("it does not start: {error}")))?;
    let stdout = child.stdout.take();
    let (sender, printed) = bounded(1);
    let reader = move || {
        // It never grows, so no copy is left behind.
        let mut text = Vec::with_capacity(2048);
        let read = stdout.map(|stdout| stdout.take(OUTPUT_BYTES_MAX).read_to_end(&mut text));
        let text = Secret::new(text);
        sender.try_send(read.is_some_and(|read| read.is_ok()).then_some(text)).ok();
    };
    // One that hangs is killed, which ends the thread; what it has started itself may keep it.
    thread::Builder::new()
        .name("master-key".to_owned())
        .spawn(reader)
        .map_err(|error| failed(error.to_string()))?;
    let text = printed.recv_deadline(until).ok().flatten();
    let status = ended(&mut child, until);
    let late = || failed(format!("it took longer than {} s", timeout.as_secs()));
    let status = status.ok_or_else(late)?;
    if !status.success() {
        return Err(failed(format!("it ended with {status}")));
    }
    parse(&text.ok_or_else(late)?, &format!("the program {program}"))
}

/// How it ended; `None`: not in time, and it was killed.
fn ended(child: &mut Child, until: Instant) -> Option<std::process::ExitStatus> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < until => thread::sleep(PAUSE),
            Ok(None) | Err(_) => {
                child.kill().ok();
                child.wait().ok();
                return None;
            }
        }
    }
}

/// Where the next master key of a file waits.
fn next_path(path: &Path) -> PathBuf {
    with_suffix(path, ".next")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(suffix);
    PathBuf::from(name)
}

/// The master key that a rotation of the one in `path` left waiting, or that an operator put there.
pub(crate) fn read_next(path: &Path) -> Result<MasterKey, SealError> {
    MasterKey::load(&next_path(path))
}

/// The next master key for `path`, on disk beside it: the one that waits there, or one made now.
pub(crate) fn next_key(path: &Path) -> Result<MasterKey, SealError> {
    match read_next(path) {
        Err(SealError::Missing(next)) => {
            let mut bytes = Zeroizing::new([0; MASTER_BYTES]);
            fill(&SystemRandom::new(), bytes.as_mut())?;
            file::create(&next, &bytes)?;
            // As it is on disk.
            read_next(path)
        }
        other => other,
    }
}

/// Puts the next key in the place of the one in `path`, which is kept under its id; where that is.
///
/// At every moment `path` has one of both, so whoever starts finds the store's key in it or behind `.next`.
pub(crate) fn finish_rotation(path: &Path, id_before: &str) -> Result<PathBuf, SealError> {
    let kept = with_suffix(path, &format!(".old-{id_before}"));
    let io = |error: std::io::Error| file::io_error(path, &error);
    match fs::hard_link(path, &kept) {
        Err(error)
            if !matches!(error.kind(), std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::NotFound) =>
        {
            return Err(io(error));
        }
        Ok(()) | Err(_) => {}
    }
    fs::rename(next_path(path), path).map_err(io)?;
    File::open(file::directory_of(path)).and_then(|directory| directory.sync_all()).map_err(io)?;
    Ok(kept)
}
