//! Admin tokens: named, scoped, expiring, rotatable (rule P1). Their texts are shown once; what is kept is a digest of
//! each under a pepper that lies elsewhere.
//!
//! They are this process's own, so that operators can revoke with the dataplane down.

mod file;
mod guesses;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use keybrake_proto::config::Data;
use keybrake_proto::key;
use keybrake_proto::secret::Secret;
use keybrake_proto::time::UnixMicros;
use serde::{Deserialize, Serialize};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

pub(crate) use self::file::FileError;
use self::file::{Pepper, Stamp};
pub(crate) use self::guesses::{Guesses, Verdict};
use crate::failure::Failure;
use crate::scope::Scope;
use crate::token::{self, AdminToken, Source};

/// The name of the token of the first start.
pub(crate) const BOOTSTRAP: &str = "bootstrap";

/// The most tokens, revoked and expired ones included.
const TOKENS_MAX: usize = 256;

const NAME_BYTES_MAX: usize = 64;

/// Whoever shows a right token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The token's name.
    pub(crate) name: String,
    /// What it may do.
    pub(crate) scopes: Vec<Scope>,
}

/// Why a token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// It is none of ours.
    Unknown,
    /// Its time is over.
    Expired,
    /// It was revoked.
    Revoked,
}

/// Why a token was not made or changed.
#[derive(Debug)]
pub(crate) enum NotDone {
    /// The name cannot be one.
    Name,
    /// It has no scope.
    NoScope,
    /// There are too many.
    TooMany,
    /// A token of this name is in use.
    Exists,
    /// There is none of this name.
    NoSuch,
    /// It is revoked or expired.
    Closed,
    /// It is the environment's, and lives as long as the process.
    InEnvironment,
    /// It cannot be written.
    File(FileError),
}

impl From<FileError> for NotDone {
    fn from(error: FileError) -> NotDone {
        NotDone::File(error)
    }
}

/// What the file holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kept {
    tokens: Vec<Record>,
    /// When the token of the first start was revoked.
    bootstrap_revoked_at: Option<String>,
}

/// A token, but for its text.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    name: String,
    scopes: Vec<Scope>,
    digest: String,
    created_at: String,
    expires_at: Option<String>,
    rotated_at: Option<String>,
    revoked_at: Option<String>,
    /// The text before, which goes on for a while.
    before: Option<Before>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Before {
    digest: String,
    until: String,
}

/// A token as operators see it. Times are RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TokenView {
    /// Its name.
    pub(crate) name: String,
    /// `active`, `expired` or `revoked`.
    pub(crate) status: String,
    /// What it may do.
    pub(crate) scopes: Vec<Scope>,
    /// When it was made; not known of the token of the first start.
    pub(crate) created_at: Option<String>,
    /// When it expires.
    pub(crate) expires_at: Option<String>,
    /// When its text was last replaced.
    pub(crate) rotated_at: Option<String>,
    /// Until when the text before is accepted as well.
    pub(crate) overlap_until: Option<String>,
    /// When it was revoked.
    pub(crate) revoked_at: Option<String>,
}

/// A token with its text, which is shown once.
pub(crate) struct Shown {
    /// The text.
    pub(crate) token: Secret,
    /// The token as listed.
    pub(crate) view: TokenView,
}

impl Record {
    fn is_over(&self, now: UnixMicros) -> bool {
        self.expires_at.as_deref().is_some_and(|at| is_past(at, now))
    }

    fn state(&self, now: UnixMicros) -> Result<(), Wrong> {
        if self.revoked_at.is_some() {
            Err(Wrong::Revoked)
        } else if self.is_over(now) {
            Err(Wrong::Expired)
        } else {
            Ok(())
        }
    }

    fn view(&self, now: UnixMicros) -> TokenView {
        let status = match self.state(now) {
            Ok(()) => "active",
            Err(Wrong::Expired) => "expired",
            Err(Wrong::Revoked | Wrong::Unknown) => "revoked",
        };
        let overlap = self.before.as_ref().map(|before| before.until.clone());
        TokenView {
            name: self.name.clone(),
            status: status.to_owned(),
            scopes: self.scopes.clone(),
            created_at: Some(self.created_at.clone()),
            expires_at: self.expires_at.clone(),
            rotated_at: self.rotated_at.clone(),
            overlap_until: overlap.filter(|until| !is_past(until, now)),
            revoked_at: self.revoked_at.clone(),
        }
    }
}

/// Whether a time is over; one that cannot be read is.
fn is_past(text: &str, now: UnixMicros) -> bool {
    UnixMicros::parse_rfc3339(text).is_none_or(|at| at <= now)
}

/// Whether a stored digest is this one, in the same time wherever they differ.
fn is_same(stored: &str, digest: &[u8; 32]) -> Choice {
    let stored: Option<[u8; 32]> = file::from_hex(stored.as_bytes()).and_then(|bytes| bytes.try_into().ok());
    // One that cannot be read is compared too, with what it cannot be.
    let readable = Choice::from(u8::from(stored.is_some()));
    stored.unwrap_or_default().ct_eq(digest) & readable
}

/// All admin tokens.
pub(crate) struct Tokens {
    path: PathBuf,
    pepper_path: PathBuf,
    state: Mutex<State>,
}

struct State {
    bootstrap: Option<AdminToken>,
    source: Source,
    /// None before the first token is made.
    pepper: Option<Pepper>,
    kept: Kept,
    stamp: Option<Stamp>,
}

impl Tokens {
    /// The tokens of a data directory beside the one of the first start, which is `bootstrap` from `source`.
    pub(crate) fn open(data: &Data, bootstrap: Option<&Secret>, source: Source) -> Result<Tokens, Failure> {
        let tokens = Tokens {
            path: data.admin_tokens_file(),
            pepper_path: data.admin_pepper_file(),
            state: Mutex::new(State {
                bootstrap: bootstrap.map(AdminToken::new).transpose()?,
                source,
                pepper: None,
                kept: Kept::default(),
                stamp: None,
            }),
        };
        tokens.refresh(&mut tokens.lock()).map_err(Failure::setup)?;
        Ok(tokens)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the file if it is another than the one that was read: another process may have written it.
    fn refresh(&self, state: &mut State) -> Result<(), FileError> {
        let stamp = file::stamp(&self.path);
        if stamp == state.stamp {
            return Ok(());
        }
        if stamp.is_none() {
            state.kept = Kept::default();
        } else {
            let missing = || FileError::NoPepper(self.pepper_path.clone(), self.path.clone());
            let pepper = Pepper::read(&self.pepper_path)?.ok_or_else(missing)?;
            state.kept = file::read(&self.path, &pepper)?;
            state.pepper = Some(pepper);
        }
        state.stamp = stamp;
        Ok(())
    }

    /// Whose token this is.
    pub(crate) fn authenticate(&self, presented: &[u8], now: UnixMicros) -> Result<Caller, Wrong> {
        // P1: a vault key never stands for a token, whatever a file says.
        if key::is_well_formed(presented) {
            return Err(Wrong::Unknown);
        }
        let mut state = self.lock();
        if let Err(error) = self.refresh(&mut state) {
            // What was read last is as strict, or stricter.
            eprintln!("keybrake admin: admin tokens: {error}; those that were read before go on");
            state.stamp = file::stamp(&self.path);
        }
        if state.bootstrap.as_ref().is_some_and(|token| token.matches(presented)) {
            if state.kept.bootstrap_revoked_at.is_some() && state.source != Source::Environment {
                return Err(Wrong::Revoked);
            }
            return Ok(Caller { name: BOOTSTRAP.to_owned(), scopes: vec![Scope::Admin] });
        }
        let Some(pepper) = &state.pepper else { return Err(Wrong::Unknown) };
        let digest = pepper.digest(presented);
        // Every record is looked at, whichever it is.
        let mut found = u32::MAX;
        for (at, record) in (0..).zip(&state.kept.tokens) {
            let before = record.before.as_ref().filter(|before| !is_past(&before.until, now));
            let before = before.map_or(Choice::from(0), |before| is_same(&before.digest, &digest));
            found.conditional_assign(&at, is_same(&record.digest, &digest) | before);
        }
        let found =
            usize::try_from(found).ok().and_then(|at| state.kept.tokens.get(at)).ok_or(Wrong::Unknown)?;
        found.state(now)?;
        Ok(Caller { name: found.name.clone(), scopes: found.scopes.clone() })
    }

    /// Every token, the one of the first start first.
    pub(crate) fn list(&self, now: UnixMicros) -> Result<Vec<TokenView>, NotDone> {
        let mut state = self.lock();
        self.refresh(&mut state)?;
        let mut views: Vec<TokenView> = bootstrap_view(&state).into_iter().collect();
        views.extend(state.kept.tokens.iter().map(|record| record.view(now)));
        Ok(views)
    }

    /// Makes a token.
    pub(crate) fn create(
        &self,
        name: &str,
        scopes: &[Scope],
        expires_at: Option<UnixMicros>,
        now: UnixMicros,
    ) -> Result<Shown, NotDone> {
        if !is_name(name) || name == BOOTSTRAP {
            return Err(NotDone::Name);
        }
        if scopes.is_empty() {
            return Err(NotDone::NoScope);
        }
        let mut scopes = scopes.to_vec();
        scopes.sort_unstable();
        scopes.dedup();
        self.change(now, |kept, pepper, token| {
            if kept.tokens.iter().any(|record| record.name == name && record.state(now).is_ok()) {
                return Err(NotDone::Exists);
            }
            kept.tokens.retain(|record| record.name != name);
            if kept.tokens.len() >= TOKENS_MAX {
                return Err(NotDone::TooMany);
            }
            let record = Record {
                name: name.to_owned(),
                scopes,
                digest: file::to_hex(&pepper.digest(token)),
                created_at: now.to_string(),
                expires_at: expires_at.map(|at| at.to_string()),
                rotated_at: None,
                revoked_at: None,
                before: None,
            };
            kept.tokens.push(record.clone());
            Ok(record)
        })
    }

    /// Gives a token another text; the one before is accepted for `overlap_s` more seconds.
    pub(crate) fn rotate(&self, name: &str, overlap_s: u64, now: UnixMicros) -> Result<Shown, NotDone> {
        if name == BOOTSTRAP {
            return self.rotate_bootstrap();
        }
        let until = now.plus_seconds(overlap_s);
        self.change(now, |kept, pepper, token| {
            let record = kept.tokens.iter_mut().find(|record| record.name == name).ok_or(NotDone::NoSuch)?;
            record.state(now).map_err(|_| NotDone::Closed)?;
            let digest = file::to_hex(&pepper.digest(token));
            let before = std::mem::replace(&mut record.digest, digest);
            record.before = (overlap_s > 0).then(|| Before { digest: before, until: until.to_string() });
            record.rotated_at = Some(now.to_string());
            Ok(record.clone())
        })
    }

    /// Ends a token for good.
    pub(crate) fn revoke(&self, name: &str, now: UnixMicros) -> Result<TokenView, NotDone> {
        if name == BOOTSTRAP {
            return self.revoke_bootstrap(now);
        }
        let mut state = self.lock();
        self.refresh(&mut state)?;
        let mut kept = state.kept.clone();
        let record = kept.tokens.iter_mut().find(|record| record.name == name).ok_or(NotDone::NoSuch)?;
        if record.revoked_at.is_none() {
            record.revoked_at = Some(now.to_string());
            record.before = None;
        }
        let view = record.view(now);
        self.write(&mut state, kept)?;
        Ok(view)
    }

    /// Mints a token, has `enter` enter it, and brings that to the disk before anything counts.
    fn change(
        &self,
        now: UnixMicros,
        enter: impl FnOnce(&mut Kept, &Pepper, &[u8]) -> Result<Record, NotDone>,
    ) -> Result<Shown, NotDone> {
        let failed = |error| NotDone::File(FileError::Io(self.path.clone(), error));
        let token = token::mint().map_err(failed)?;
        let mut state = self.lock();
        self.refresh(&mut state)?;
        let mut kept = state.kept.clone();
        let pepper = self.pepper(&mut state)?;
        let view = enter(&mut kept, pepper, token.expose())?.view(now);
        self.write(&mut state, kept)?;
        Ok(Shown { token, view })
    }

    fn pepper<'a>(&self, state: &'a mut State) -> Result<&'a Pepper, NotDone> {
        let pepper = match state.pepper.take() {
            Some(pepper) => pepper,
            None => Pepper::read_or_make(&self.pepper_path)?,
        };
        Ok(state.pepper.insert(pepper))
    }

    fn write(&self, state: &mut State, kept: Kept) -> Result<(), NotDone> {
        let pepper = self.pepper(state)?;
        file::write(&self.path, pepper, &kept)?;
        state.kept = kept;
        state.stamp = file::stamp(&self.path);
        Ok(())
    }

    fn rotate_bootstrap(&self) -> Result<Shown, NotDone> {
        let mut state = self.lock();
        self.refresh(&mut state)?;
        let path = bootstrap_file(&state)?;
        let failed = |error| NotDone::File(FileError::Io(path.clone(), error));
        let token = token::mint().map_err(failed)?;
        let admin_token = AdminToken::new(&token)
            .map_err(|_| failed(std::io::Error::other("the system gives no random bytes")))?;
        let text = Secret::new([token.expose(), b"\n"].concat());
        file::write_new(&path, text.expose(), |from, to| fs::rename(from, to)).map_err(failed)?;
        state.bootstrap = Some(admin_token);
        let view = bootstrap_view(&state).ok_or(NotDone::NoSuch)?;
        Ok(Shown { token, view })
    }

    /// Its file goes too: a revoked text is of no use.
    fn revoke_bootstrap(&self, now: UnixMicros) -> Result<TokenView, NotDone> {
        let mut state = self.lock();
        self.refresh(&mut state)?;
        let path = match bootstrap_file(&state) {
            Err(NotDone::Closed) => return bootstrap_view(&state).ok_or(NotDone::NoSuch),
            other => other?,
        };
        let kept = Kept { bootstrap_revoked_at: Some(now.to_string()), ..state.kept.clone() };
        self.write(&mut state, kept)?;
        state.bootstrap = None;
        // It is refused as well where it stays.
        fs::remove_file(&path).ok();
        bootstrap_view(&state).ok_or(NotDone::NoSuch)
    }
}

/// Where the text of the first start's token is, if it is in force.
fn bootstrap_file(state: &State) -> Result<PathBuf, NotDone> {
    match &state.source {
        Source::Environment => Err(NotDone::InEnvironment),
        _ if state.kept.bootstrap_revoked_at.is_some() => Err(NotDone::Closed),
        Source::File(path) | Source::Made(path) => Ok(path.clone()),
        Source::Revoked => Err(NotDone::Closed),
    }
}

fn bootstrap_view(state: &State) -> Option<TokenView> {
    let revoked_at = state.kept.bootstrap_revoked_at.clone().filter(|_| state.source != Source::Environment);
    let status = if revoked_at.is_none() { "active" } else { "revoked" };
    Some(TokenView {
        name: BOOTSTRAP.to_owned(),
        status: status.to_owned(),
        scopes: vec![Scope::Admin],
        created_at: None,
        expires_at: None,
        rotated_at: None,
        overlap_until: None,
        revoked_at,
    })
}

/// Whether the token of the first start was revoked, so that none is made again. What is wrong with the file,
/// [`Tokens::open`] says.
pub(crate) fn is_bootstrap_revoked(data: &Data) -> bool {
    let pepper = Pepper::read(&data.admin_pepper_file()).ok().flatten();
    let kept = pepper.and_then(|pepper| file::read(&data.admin_tokens_file(), &pepper).ok());
    kept.is_some_and(|kept| kept.bootstrap_revoked_at.is_some())
}

/// Whether this can be a token's name: it stands in paths and in lines of a log.
pub(crate) fn is_name(name: &str) -> bool {
    let fits =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.');
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(fits) && name != "." && name != ".."
}
