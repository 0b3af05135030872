//! What the admin process and the dataplane say to each other over the control socket.
//!
//! A frame is `length u32`, little-endian, and that many bytes of JSON. A connection carries
//! requests one after the other, each answered before the next is read. The socket file's mode is
//! the authentication: whoever may open it is the operator.

mod config;
mod master_key;
mod requests;
mod revoke;
mod tls;
mod vendors;

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::handover::TakeOver;
use crate::key::KeyId;
use crate::money::{Micros, usd};
use crate::policy::{KeyChange, KeySpec, Restrictions, Rule};
use crate::secret::SecretWriter;
pub use config::{ConfigState, ConfigView};
pub use master_key::MasterKeyRotated;
pub use requests::RequestsView;
pub use revoke::{
    NotARevoke, REVOKE_IDS_MAX, REVOKED_IDS_MAX, Revoke, RevokeSpec, Revoked, SPOOL_BYTES_MAX, SPOOL_NAME,
    SPOOL_SUFFIX, Selector, SpoolDamaged, Spooled,
};
pub use tls::TlsView;
pub use vendors::{AccountView, CredentialSet, CredentialSpec, Only, VendorView};

/// The longest frame, in bytes: [`LIST_KEYS_MAX`] keys with every text at its limit.
pub const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The bytes in front of each frame.
pub const FRAME_HEADER_BYTES: usize = 4;

/// The most keys one [`Request::ListKeys`] answers.
pub const LIST_KEYS_MAX: usize = 1000;

/// The file name of the socket, in `data.dir`.
pub const SOCKET_NAME: &str = "control.sock";

/// What the admin process asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "request", content = "body")]
pub enum Request {
    /// How the dataplane is; answered by [`Reply::Status`].
    Status,
    /// Makes a key; answered by [`Reply::Issued`] once it is durable and every shard knows it.
    IssueKey(Box<KeySpec>),
    /// Changes a key; answered by [`Reply::Changed`] once it is durable and every shard decides by it.
    ChangeKey {
        /// Which one.
        id: KeyId,
        /// The [`KeyView::version`] it must have; `None`: any.
        version: Option<u32>,
        /// What changes.
        change: Box<KeyChange>,
    },
    /// What is configured; answered by [`Reply::Config`].
    Config,
    /// Reads the configuration again; answered by [`Reply::Config`] once every worker serves by it.
    ReloadConfig,
    /// The vendors and their accounts; answered by [`Reply::Vendors`].
    Vendors,
    /// Seals a vendor's credential, a first one or another; answered by [`Reply::CredentialSet`] once it is durable and
    /// nothing is sent with the one before.
    SetCredential(Box<CredentialSpec>),
    /// The keys behind `after`, oldest first; answered by [`Reply::Keys`].
    ListKeys {
        /// The last key of the page before; `None` for the first page.
        after: Option<KeyId>,
        /// At most [`LIST_KEYS_MAX`].
        limit: usize,
    },
    /// One key; answered by [`Reply::Key`].
    ShowKey(KeyId),
    /// The key an agent holds, found by its text; answered by [`Reply::Key`].
    SelfKey {
        /// The vault key.
        vault_key: String,
    },
    /// Revokes keys; answered by [`Reply::Revoked`] once it is durable and every shard has acknowledged.
    Revoke(Revoke),
    /// What the guard of the day says; answered by [`Reply::Clock`].
    Clock,
    /// An operator says that the wall clock is right; answered by [`Reply::Clock`] once that is on disk.
    ConfirmClock,
    /// Another dataplane wants to take this one's place; answered by [`handover::Answer`](crate::handover::Answer).
    TakeOver(Box<TakeOver>),
    /// Another master key; answered by [`Reply::MasterKeyRotated`] once every data key is wrapped anew.
    RotateMasterKey,
    /// The calls in doubt; answered by [`Reply::Doubts`].
    Doubts,
    /// What a call in doubt came to; answered by [`Reply::DoubtResolved`] once that is on disk.
    ResolveDoubt {
        /// The doubt's id.
        id: String,
        /// What it cost; `None`: it moved nothing.
        #[serde(with = "usd::option")]
        charge_usd: Option<Micros>,
    },
}

/// What the dataplane answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reply", content = "body")]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::IssueKey`].
    Issued {
        /// The vault key: shown here and never again.
        vault_key: String,
        /// The key as listed.
        key: Box<KeyView>,
    },
    /// To [`Request::ChangeKey`].
    Changed {
        /// The key as it is now.
        key: Box<KeyView>,
        /// The workers that did not answer in time: it is durable, and they may still send what they decided
        /// before.
        late_workers: Vec<usize>,
    },
    /// To [`Request::Config`] and [`Request::ReloadConfig`].
    Config(Box<ConfigView>),
    /// To [`Request::Vendors`].
    Vendors(Vec<VendorView>),
    /// To [`Request::SetCredential`].
    CredentialSet(CredentialSet),
    /// To [`Request::ListKeys`].
    Keys {
        /// One page.
        keys: Vec<KeyView>,
        /// Whether there are more behind it.
        more: bool,
    },
    /// To [`Request::ShowKey`] and [`Request::SelfKey`].
    Key(Box<KeyView>),
    /// To [`Request::Revoke`].
    Revoked(Box<Revoked>),
    /// To [`Request::Clock`] and [`Request::ConfirmClock`].
    Clock(Box<ClockView>),
    /// To [`Request::RotateMasterKey`].
    MasterKeyRotated(MasterKeyRotated),
    /// To [`Request::Doubts`], oldest first of each worker.
    Doubts(Vec<DoubtView>),
    /// To [`Request::ResolveDoubt`].
    DoubtResolved(Box<DoubtResolved>),
    /// The request was understood and refused.
    Refused(Refused),
}

/// A call that was sent and whose outcome is not known. Times are RFC 3339, amounts USD.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoubtView {
    /// Its id, `d` and sixteen hexadecimal digits.
    pub id: String,
    /// Whose money.
    pub vault_key_id: KeyId,
    /// The id of the call's row in the audit, and of keybrake's reply.
    pub request_id: String,
    /// When the call came.
    pub ts: String,
    /// Since when it is in doubt.
    pub since: String,
    /// The vendor.
    pub vendor: String,
    /// What was called.
    pub method: String,
    /// The canonical path.
    pub path: String,
    /// As the agent sent it.
    pub idempotency_key: Option<String>,
    /// The vendor's id of the call, where it gave one.
    pub vendor_request_id: Option<String>,
    /// What counts for it until it is resolved.
    #[serde(with = "usd")]
    pub quote_usd: Micros,
    /// The UTC day on which it was booked at that, an hour after it came in doubt; `None`: it is held.
    pub booked_on: Option<String>,
}

/// What a doubt came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoubtResolved {
    /// Its id.
    pub id: String,
    /// Whose money.
    pub vault_key_id: KeyId,
    /// What was counted for it.
    #[serde(with = "usd")]
    pub quote_usd: Micros,
    /// What counts for it from now on.
    #[serde(with = "usd")]
    pub charge_usd: Micros,
}

/// A refused request, in the words of an HTTP answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The HTTP status that fits.
    pub status: u16,
    /// A stable code.
    pub code: String,
    /// The field of the request that is wrong, where one is.
    pub field: Option<String>,
    /// What is wrong and what to do.
    pub message: String,
}

/// A key as operators see it. Times are RFC 3339, amounts USD.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyView {
    /// The public id.
    pub id: KeyId,
    /// `active`, `expired` or `revoked`.
    pub status: KeyStatus,
    /// Counts its changes.
    #[serde(default)]
    pub version: u32,
    /// The key above it, which it draws on too and may not go beyond.
    #[serde(default)]
    pub parent_key_id: Option<KeyId>,
    /// Keys directly below it, closed ones included.
    #[serde(default)]
    pub children: u64,
    /// The vendor.
    pub vendor: String,
    /// Which of its accounts.
    #[serde(default)]
    pub account: String,
    /// A name for people.
    pub label: Option<String>,
    /// The run it was made for.
    pub agent_run_label: Option<String>,
    /// What it may call.
    pub allowed_endpoints: Vec<Rule>,
    /// The most per UTC day.
    #[serde(with = "usd::option")]
    pub daily_usd_cap: Option<Micros>,
    /// Settled + held + in doubt today.
    #[serde(with = "usd")]
    pub committed_usd: Micros,
    /// The part of it whose outcome is not known yet.
    #[serde(with = "usd")]
    pub held_usd: Micros,
    /// The most in its whole life.
    #[serde(with = "usd::option")]
    pub total_usd_cap: Option<Micros>,
    /// Settled + held + in doubt since it was made; only counted for a key with such a cap.
    #[serde(with = "usd::option")]
    pub total_committed_usd: Option<Micros>,
    /// The part of what is held whose calls were sent and whose outcome is not known: `keybrake doubt list`.
    #[serde(with = "usd", default)]
    pub in_doubt_usd: Micros,
    /// What may still be committed today: what is left of the caps, the smaller one counts.
    #[serde(with = "usd::option")]
    pub remaining_usd: Option<Micros>,
    /// The same with every key above it: what a call may cost at most.
    #[serde(with = "usd::option", default)]
    pub chain_remaining_usd: Option<Micros>,
    /// The most requests per UTC day.
    pub daily_request_budget: Option<u32>,
    /// Requests that were sent today, or are about to be; only counted for a key with such a budget.
    pub requests_today: Option<u64>,
    /// When the daily window resets.
    pub resets_at: String,
    /// When it was made.
    pub created_at: String,
    /// When it expires.
    pub expires_at: Option<String>,
    /// When it was revoked.
    pub revoked_at: Option<String>,
    /// The texts of its audit rows.
    pub metadata: std::collections::BTreeMap<String, String>,
    /// What its policy restricts besides.
    #[serde(flatten)]
    pub restrictions: Restrictions,
}

/// Whether a key admits anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyStatus {
    /// It does.
    Active,
    /// Its time is over.
    Expired,
    /// It was revoked.
    Revoked,
}

/// What the guard of the day sees (rule M10). Times are RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockView {
    /// Whether money counts.
    pub state: ClockState,
    /// `step_forward`, `step_back`, `between_midnights`, `not_recorded` or `seen_ahead`; `None` where all is well.
    pub why: Option<String>,
    /// Since when, by the clock that cannot be set.
    pub since: Option<String>,
    /// What the wall clock says.
    pub wall: String,
    /// Where it should be.
    pub expected: String,
    /// How far the wall clock is ahead of that, in microseconds; negative is behind.
    pub deviation_us: i64,
    /// The UTC day that money counts on, such as `2026-11-22`.
    pub day: String,
    /// When it ends.
    pub resets_at: String,
    /// The latest time that either clock has shown: a key that expires before it has expired (rule Q10).
    pub latest_seen: String,
}

/// Whether money counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockState {
    /// It does, and the clocks agree.
    Ok,
    /// It does, on the day it counted on before; the next day does not begin while the clocks differ.
    Deviating,
    /// It does not: calls that cost money are refused with 503 `clock`.
    Suspended,
}

/// How the dataplane is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// The process id.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// It admits requests: storage writes, and it is neither stopping nor sealed.
    pub ready: bool,
    /// Why it is sealed: it forwards nothing until it is restarted with the right master key (rule R2).
    #[serde(default)]
    pub sealed: Option<String>,
    /// Where agents reach it.
    pub proxy_listen: String,
    /// `io_uring` or `epoll`.
    pub driver: String,
    /// Worker threads.
    pub workers: usize,
    /// The configured vendors.
    pub vendors: Vec<String>,
    /// Keys, revoked and expired ones included.
    pub keys: usize,
    /// What became of the configuration since it was read.
    #[serde(default)]
    pub config: ConfigState,
    /// How much of the month's quota is used; `None`: there is none.
    #[serde(default)]
    pub requests: Option<RequestsView>,
    /// What the guard of the day sees.
    pub clock: ClockView,
    /// The certificate that agents are shown; absent where they connect with plain HTTP.
    #[serde(default)]
    pub proxy_tls: Option<TlsView>,
    /// Counters by name, as in `/metrics`.
    pub counters: Vec<Counter>,
}

/// One number of `/metrics`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// The metric's name, such as `keybrake_exchanges_total`.
    pub name: String,
    /// What it counts.
    pub help: String,
    /// `counter` or `gauge`.
    pub kind: String,
    /// Its one label and that label's value, where it has one.
    pub label: Option<(String, String)>,
    /// Its value.
    pub value: u64,
}

/// Bytes that are not a frame.
#[derive(Debug)]
pub enum FrameError {
    /// Longer than [`FRAME_BYTES_MAX`].
    TooLong(usize),
    /// Not the JSON of the expected message; the versions of the two processes may differ.
    Malformed(serde_json::Error),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::TooLong(bytes) => {
                write!(f, "a control frame of {bytes} bytes; at most {FRAME_BYTES_MAX} are allowed")
            }
            FrameError::Malformed(error) => {
                write!(f, "a control frame that cannot be read ({error}); are both processes of one version?")
            }
        }
    }
}

impl std::error::Error for FrameError {}

/// The bytes of a frame.
///
/// It may hold a secret: it is wiped when it is dropped, and so is each shorter buffer on the way.
pub fn encode(message: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, FrameError> {
    let mut bytes = SecretWriter::new(&[0; FRAME_HEADER_BYTES]);
    serde_json::to_writer(&mut bytes, message).map_err(FrameError::Malformed)?;
    let mut bytes = bytes.finish();
    let length = bytes.len().saturating_sub(FRAME_HEADER_BYTES);
    let header = u32::try_from(length).ok().filter(|_| length <= FRAME_BYTES_MAX);
    let header = header.ok_or(FrameError::TooLong(length))?;
    if let Some(at) = bytes.first_chunk_mut() {
        *at = header.to_le_bytes();
    }
    Ok(bytes)
}

/// The length of the body behind this header.
pub fn body_bytes(header: [u8; FRAME_HEADER_BYTES]) -> Result<usize, FrameError> {
    let length = usize::try_from(u32::from_le_bytes(header)).unwrap_or(usize::MAX);
    if length > FRAME_BYTES_MAX { Err(FrameError::TooLong(length)) } else { Ok(length) }
}

/// The message in a frame's body.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    serde_json::from_slice(body).map_err(FrameError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Serialize + DeserializeOwned + PartialEq + fmt::Debug>(message: &T) {
        let frame = encode(message).unwrap();
        let (header, body) = frame.split_first_chunk().unwrap();
        assert_eq!(body_bytes(*header).unwrap(), body.len());
        assert_eq!(&decode::<T>(body).unwrap(), message);
    }

    #[test]
    fn messages_read_back_as_sent() {
        let id = KeyId::from_bytes(b"0123456789abcdef").unwrap();
        check(&Request::Status);
        check(&Request::ConfirmClock);
        check(&Reply::Clock(Box::new(ClockView {
            state: ClockState::Suspended,
            why: Some("step_back".to_owned()),
            since: None,
            wall: "2026-11-21T23:00:00Z".to_owned(),
            expected: "2026-11-22T00:00:00Z".to_owned(),
            deviation_us: -3_600_000_000,
            day: "2026-11-21".to_owned(),
            resets_at: "2026-11-22T00:00:00Z".to_owned(),
            latest_seen: "2026-11-22T00:00:00Z".to_owned(),
        })));
        check(&Request::ListKeys { after: Some(id), limit: 10 });
        check(&Request::IssueKey(Box::new(KeySpec {
            vendor: "stripe".to_owned(),
            daily_usd_cap: Some(Micros::MAX),
            ..KeySpec::default()
        })));
        let change = KeyChange { daily_usd_cap: Some(None), ..KeyChange::default() };
        check(&Request::ChangeKey { id, version: Some(3), change: Box::new(change) });
        check(&Request::Revoke(Revoke { of: Selector::Label("billing".to_owned()), cut: true }));
        check(&Request::Revoke(Revoke { of: Selector::All, cut: false }));
        check(&Reply::Refused(Refused {
            status: 404,
            code: "no_such_key".to_owned(),
            field: None,
            message: "no such key".to_owned(),
        }));
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_before_it_is_read() {
        assert!(matches!(body_bytes([0xff; 4]), Err(FrameError::TooLong(_))));
        assert!(matches!(decode::<Request>(b"{}"), Err(FrameError::Malformed(_))));
    }
}
