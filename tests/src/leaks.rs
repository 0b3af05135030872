//! Every keybrake of a test run is searched for secrets when it ends, and so is every reply (rule I8).
//!
//! Whoever makes a secret registers it here. When a keybrake ends, its data directory, what lies beside that, and all
//! that its processes wrote are searched for each secret in each form; replies are searched as they come, but for what
//! is answered once by design. A hit fails the test, with the place and not the secret. What was searched is added to a
//! file beside the binaries, which `scripts/test.sh` sums up.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use aho_corasick::AhoCorasick;
use keybrake_proto::key;

use crate::process;
use crate::scan::forms_of_bytes;

/// The name of the file that is summed up.
const SUMMARY: &str = "secrets-scan.tsv";

/// Read at once.
const CHUNK_BYTES: usize = 1024 * 1024;

/// What every vault key begins with: one is found without being registered.
const VAULT_KEY: &[u8] = b"vault_";

/// Secrets of one process that are looked for in every form. A clear vault key is found all the same, and a test that
/// issues thousands would search for nothing else.
const SECRETS_MAX: usize = 256;

/// A kind of secret, which says where it may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A vendor's.
    Credential,
    /// An agent's.
    VaultKey,
    /// An operator's.
    AdminToken,
    /// What seals credentials.
    MasterKey,
    /// What hashes admin tokens.
    Pepper,
}

impl Kind {
    /// Whether a file may hold it.
    fn may_be_in(self, path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match self {
            Kind::Credential | Kind::VaultKey => false,
            Kind::AdminToken => name == "admin.token",
            Kind::MasterKey => name.starts_with("master.key"),
            Kind::Pepper => name.ends_with(".pepper"),
        }
    }

    /// Whether a reply may hold it: some are shown once.
    fn may_be_answered(self) -> bool {
        matches!(self, Kind::VaultKey | Kind::AdminToken)
    }
}

#[derive(Default)]
struct Registry {
    secrets: Vec<(Kind, Vec<u8>)>,
    /// Of all of them; made when it is needed.
    searcher: Option<Arc<Searcher>>,
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry { secrets: Vec::new(), searcher: None });

static REPLIES: AtomicU64 = AtomicU64::new(0);
static REPLY_BYTES: AtomicU64 = AtomicU64::new(0);

/// From now on this must not be found. Short ones would be found in anything.
pub fn register(kind: Kind, secret: impl AsRef<[u8]>) {
    let secret = secret.as_ref();
    let mut registry = REGISTRY.lock().unwrap_or_else(PoisonError::into_inner);
    let is_one_too_many = kind == Kind::VaultKey && registry.secrets.len() >= SECRETS_MAX;
    if secret.len() < 12 || is_one_too_many || registry.secrets.iter().any(|(_, known)| known == secret) {
        return;
    }
    registry.secrets.push((kind, secret.to_vec()));
    registry.searcher = None;
}

/// Finds every form of every secret in one pass.
struct Searcher {
    automaton: AhoCorasick,
    kinds: Vec<Kind>,
    secrets: usize,
    longest: usize,
}

/// A secret that was found: what, and where.
#[derive(Debug, PartialEq, Eq)]
struct Hit {
    kind: Kind,
    at: usize,
}

impl Searcher {
    fn now() -> Arc<Searcher> {
        let mut registry = REGISTRY.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(searcher) = &registry.searcher {
            return Arc::clone(searcher);
        }
        let searcher = Arc::new(Searcher::of(&registry.secrets));
        registry.searcher = Some(Arc::clone(&searcher));
        searcher
    }

    fn of(secrets: &[(Kind, Vec<u8>)]) -> Searcher {
        let (mut forms, mut kinds) = (vec![VAULT_KEY.to_vec()], vec![Kind::VaultKey]);
        for (kind, secret) in secrets {
            for form in forms_of_bytes(secret) {
                forms.push(form);
                kinds.push(*kind);
            }
        }
        let longest = forms.iter().map(Vec::len).max().unwrap_or_default().max(key::VAULT_KEY_BYTES_MAX);
        Searcher { automaton: AhoCorasick::new(&forms).unwrap(), kinds, secrets: secrets.len(), longest }
    }

    fn search(&self, bytes: &[u8], may_hold: impl Fn(Kind) -> bool) -> Option<Hit> {
        self.automaton.find_overlapping_iter_or_none(bytes, |pattern, at| {
            let kind = self.kinds[pattern];
            if may_hold(kind) || (pattern == 0 && !is_vault_key(&bytes[at..])) {
                return None;
            }
            Some(Hit { kind, at })
        })
    }
}

/// What `AhoCorasick` calls by a longer name.
trait FindFirst {
    fn find_overlapping_iter_or_none(
        &self,
        bytes: &[u8],
        judge: impl FnMut(usize, usize) -> Option<Hit>,
    ) -> Option<Hit>;
}

impl FindFirst for AhoCorasick {
    fn find_overlapping_iter_or_none(
        &self,
        bytes: &[u8],
        mut judge: impl FnMut(usize, usize) -> Option<Hit>,
    ) -> Option<Hit> {
        self.find_overlapping_iter(bytes).find_map(|found| judge(found.pattern().as_usize(), found.start()))
    }
}

/// Whether a vault key begins here: `vault_`, a slug, and digits whose checksum is right.
fn is_vault_key(bytes: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let bytes = &bytes[..bytes.len().min(key::VAULT_KEY_BYTES_MAX)];
    let end = bytes.iter().position(|byte| !is_part(byte)).unwrap_or(bytes.len());
    (40..=end).any(|end| key::is_well_formed(&bytes[..end]))
}

/// Searches a reply as it came.
pub(crate) fn reply(bytes: &[u8]) {
    REPLIES.fetch_add(1, Ordering::Relaxed);
    REPLY_BYTES.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    if let Some(hit) = Searcher::now().search(bytes, Kind::may_be_answered) {
        panic!("I8: a {:?} is in a reply, at byte {}", hit.kind, hit.at);
    }
}

/// What was searched.
#[derive(Debug, Default)]
struct Searched {
    files: u64,
    bytes: u64,
    hits: Vec<String>,
}

/// Searches files and directories that a keybrake leaves; fails the test where anything is found.
pub(crate) fn search(name: &str, places: &[PathBuf]) {
    let searcher = Searcher::now();
    let mut searched = Searched::default();
    for place in places {
        search_place(&searcher, place, &mut searched);
    }
    let replies = (REPLIES.swap(0, Ordering::Relaxed), REPLY_BYTES.swap(0, Ordering::Relaxed));
    let line = format!(
        "{name}\t{}\t{}\t{}\t{}\t{}\t{}\n",
        searched.files,
        searched.bytes,
        searcher.secrets,
        replies.0,
        replies.1,
        searched.hits.len()
    );
    let summary = process::binary("keybrake-dataplane").with_file_name(SUMMARY);
    // One write, so that lines of several tests do not mix.
    drop(
        OpenOptions::new()
            .append(true)
            .create(true)
            .open(summary)
            .and_then(|mut file| file.write_all(line.as_bytes())),
    );
    let hits = searched.hits.join("\n");
    if hits.is_empty() {
        return;
    }
    if std::thread::panicking() {
        eprintln!("I8: {hits}");
        return;
    }
    panic!("I8: {hits}");
}

fn search_place(searcher: &Searcher, place: &Path, searched: &mut Searched) {
    let Ok(found) = fs::symlink_metadata(place) else { return };
    if found.is_dir() {
        let entries = fs::read_dir(place).into_iter().flatten().flatten();
        entries.for_each(|entry| search_place(searcher, &entry.path(), searched));
    } else if found.is_file() {
        searched.files += 1;
        // A file that goes meanwhile holds nothing.
        let hit = search_file(searcher, place, &mut searched.bytes).unwrap_or_default();
        let hit = hit.map(|Hit { kind, at }| format!("a {kind:?} is in {}, at byte {at}", place.display()));
        searched.hits.extend(hit);
    }
}

fn search_file(searcher: &Searcher, path: &Path, searched: &mut u64) -> std::io::Result<Option<Hit>> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; CHUNK_BYTES + searcher.longest];
    let (mut kept, mut at) = (0, 0);
    loop {
        // Journals are as long from the start as they may become.
        let Some(from) = next_data(&file, at) else { return Ok(None) };
        if from > at {
            (kept, at) = (0, from);
        }
        file.seek(SeekFrom::Start(at))?;
        let read = file.read(&mut buffer[kept..kept + CHUNK_BYTES])?;
        if read == 0 {
            return Ok(None);
        }
        *searched += read as u64;
        let bytes = &buffer[..kept + read];
        if bytes.iter().any(|byte| *byte != 0)
            && let Some(hit) = searcher.search(bytes, |kind| kind.may_be_in(path))
        {
            let start = usize::try_from(at).unwrap() - kept;
            return Ok(Some(Hit { at: start + hit.at, ..hit }));
        }
        at += read as u64;
        // What begins here may end in the next chunk.
        let rest = bytes.len().min(searcher.longest);
        let end = bytes.len();
        buffer.copy_within(end - rest..end, 0);
        kept = rest;
    }
}

/// Where the file has data again at or behind `at`: there, where the file system does not know; `None`: nowhere.
fn next_data(file: &File, at: u64) -> Option<u64> {
    let offset = libc::off_t::try_from(at).unwrap();
    // SAFETY: `lseek` takes no pointers.
    let found = unsafe { libc::lseek(file.as_raw_fd(), offset, libc::SEEK_DATA) };
    if found < 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::ENXIO) {
        return None;
    }
    Some(u64::try_from(found).unwrap_or(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREDENTIAL: &str = "sk_test_0123456789abcdef";

    fn searcher() -> Searcher {
        Searcher::of(&[
            (Kind::Credential, CREDENTIAL.into()),
            (Kind::MasterKey, vec![0x5a; 32]),
            (Kind::AdminToken, b"kbadmin_0123456789".to_vec()),
        ])
    }

    /// What is found in a file of these bytes.
    fn found(name: &str, bytes: &[u8]) -> Option<Hit> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        search_file(&searcher(), &path, &mut 0).unwrap()
    }

    #[test]
    fn i8_a_secret_is_found_across_chunks_behind_holes_and_at_the_end() {
        for at in [0, 1, CHUNK_BYTES - 5, CHUNK_BYTES, 3 * CHUNK_BYTES - 1] {
            let mut bytes = vec![b'x'; at];
            bytes.extend_from_slice(CREDENTIAL.as_bytes());
            assert_eq!(found("LOG", &bytes), Some(Hit { kind: Kind::Credential, at }), "{at}");
            bytes.iter_mut().take(at).for_each(|byte| *byte = 0);
            assert_eq!(found("LOG", &bytes), Some(Hit { kind: Kind::Credential, at }), "behind zeros, {at}");
        }
        assert_eq!(found("LOG", &CREDENTIAL.as_bytes()[1..]), None);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sparse");
        let mut file = File::create(&path).unwrap();
        file.set_len(64 * 1024 * 1024).unwrap();
        file.seek(SeekFrom::Start(40 * 1024 * 1024)).unwrap();
        file.write_all(CREDENTIAL.as_bytes()).unwrap();
        let mut searched = 0;
        let hit = search_file(&searcher(), &path, &mut searched).unwrap().unwrap();
        assert_eq!(hit.at, 40 * 1024 * 1024);
    }

    #[test]
    fn i8_each_secret_may_be_where_it_belongs_and_nowhere_else() {
        let text = "5a".repeat(32);
        assert_eq!(found("master.key", text.as_bytes()), None);
        assert_eq!(found("master.key.old-01020304", text.as_bytes()), None);
        assert_eq!(found("dataplane.1.stderr", text.as_bytes()).unwrap().kind, Kind::MasterKey);
        assert_eq!(found("CURRENT", &[0x5a; 40]).unwrap().kind, Kind::MasterKey);
        assert_eq!(found("admin.token", b"kbadmin_0123456789\n"), None);
        assert_eq!(found("admin.tokens", b"kbadmin_0123456789\n").unwrap().kind, Kind::AdminToken);
        assert_eq!(found("admin.token", CREDENTIAL.as_bytes()).unwrap().kind, Kind::Credential);
    }

    #[test]
    fn i8_a_vault_key_is_found_though_nobody_has_registered_it() {
        let key = key::mint(|bytes| bytes.fill(7));
        let line = format!("issued {key}: for an agent");
        assert_eq!(found("out", line.as_bytes()), Some(Hit { kind: Kind::VaultKey, at: 7 }));
        let slug = line.replace("vault_key_", "vault_billing-2_");
        assert!(found("out", slug.as_bytes()).is_some());
        assert_eq!(found("out", b"vault_key_ and vault_key_0123456789"), None);
    }
}
