//! One exchange's line in `calls`, and its bytes in the store.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::http1::Method;
use crate::key::KeyId;
use crate::money::Micros;
use crate::time::UnixMicros;

/// The encoding this version writes; older ones stay readable.
const VERSION: u8 = 3;

/// Rows without `account` and `parent_key_id`.
const VERSION_WITHOUT_ACCOUNT: u8 = 2;

/// Rows without `amends`.
const VERSION_WITHOUT_AMENDS: u8 = 1;

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The vendor's reply was delivered, or would have been to an agent that hung up.
    Forwarded,
    /// keybrake refused it; the vendor saw nothing.
    Denied,
    /// It was admitted and nothing was sent.
    Failed,
    /// It was sent and how it ended is not known: its amount stays counted.
    Unknown,
    /// The reply broke off while it was being delivered; what it cost is known.
    Cut,
    /// No call: an operator said what one in doubt came to. Its amount holds over that row's.
    Amendment,
    /// No call of the agent's: keybrake read an object to price the call whose id this row's begins with.
    LookUp,
}

impl Outcome {
    /// As written in rows and filters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Forwarded => "forwarded",
            Outcome::Denied => "denied",
            Outcome::Failed => "failed",
            Outcome::Unknown => "unknown",
            Outcome::Cut => "cut",
            Outcome::Amendment => "amendment",
            Outcome::LookUp => "look_up",
        }
    }
}

/// One row of `calls`. Texts borrow from the exchange or from the stored bytes.
///
/// The encoding is by position: a change of fields needs a new [`VERSION`]. What a later version has added is skipped
/// by the row itself and stands behind it, in the order of [`AuditRow::encode`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRow<'a> {
    /// When the request's head had arrived.
    pub ts: UnixMicros,
    /// The request's id, `req_…`: also in the reply's `Request-Id` where the vendor sent none.
    pub id: &'a str,
    /// The key; absent where none was recognized.
    pub vault_key_id: Option<KeyId>,
    /// The key's label.
    pub label: Option<&'a str>,
    /// The run the key was made for.
    pub agent_run_label: Option<&'a str>,
    /// The vendor.
    pub vendor: &'a str,
    /// The method.
    pub method: Method,
    /// The catalog's pattern, such as `/v1/charges/{charge}`, or the path where no row fits.
    pub endpoint: &'a str,
    /// The canonical path as sent to the vendor.
    pub path: &'a str,
    /// The status the agent got.
    pub status: u16,
    /// `allowed`, or the code of the refusal.
    pub policy_check_result: &'a str,
    /// How it ended.
    pub outcome: Outcome,
    /// What it counts: the charge, the quote while in doubt, 0 for a denial.
    pub amount: Micros,
    /// What was kept aside before the call, or would have been.
    pub quote: Micros,
    /// ISO 4217, lower case.
    pub currency: Option<&'a str>,
    /// The amount of the request in the currency's minor unit.
    pub amount_minor: Option<u64>,
    /// The vendor's own request id.
    pub vendor_request_id: Option<&'a str>,
    /// As the agent sent it.
    pub idempotency_key: Option<&'a str>,
    /// From the head's arrival to the reply's last byte, in microseconds.
    pub latency_us: u64,
    /// The part of it that was keybrake's own, in microseconds.
    pub overhead_us: u64,
    /// The agent's address.
    pub client_addr: &'a str,
    /// The agent's `User-Agent`.
    pub user_agent: Option<&'a str>,
    /// The key's metadata.
    pub metadata: Vec<(&'a str, &'a str)>,
    /// The id of the row whose amount this one replaces: rows never change (rule Q16).
    #[serde(skip)]
    pub amends: Option<&'a str>,
    /// Which of the vendor's accounts the key acts on; absent where no key was recognized, and in older rows.
    #[serde(skip)]
    pub account: Option<&'a str>,
    /// The key directly above the key; absent where there is none, and in older rows.
    #[serde(skip)]
    pub parent_key_id: Option<KeyId>,
}

/// The first fields of an [`AuditRow`], which is all that most filters look at: reading them alone costs a fraction of
/// reading the row. Every version begins with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct AuditHead<'a> {
    /// As in the row.
    pub ts: UnixMicros,
    /// As in the row.
    pub id: &'a str,
    /// As in the row.
    pub vault_key_id: Option<KeyId>,
    /// As in the row.
    pub label: Option<&'a str>,
    /// As in the row.
    pub agent_run_label: Option<&'a str>,
    /// As in the row.
    pub vendor: &'a str,
    /// As in the row.
    pub method: Method,
    /// As in the row.
    pub endpoint: &'a str,
    /// As in the row.
    pub path: &'a str,
    /// As in the row.
    pub status: u16,
    /// As in the row.
    pub policy_check_result: &'a str,
    /// As in the row.
    pub outcome: Outcome,
}

impl<'a> AuditHead<'a> {
    /// Reads the first fields of what [`AuditRow::encode`] wrote. What follows them may still be damaged.
    pub fn decode(bytes: &'a [u8]) -> Result<AuditHead<'a>, DecodeError> {
        match bytes.split_first() {
            Some((&(VERSION | VERSION_WITHOUT_ACCOUNT | VERSION_WITHOUT_AMENDS), bytes)) => {
                let (head, _) = postcard::take_from_bytes(bytes).map_err(|_| DecodeError::Damaged)?;
                Ok(head)
            }
            Some((&version, _)) => Err(DecodeError::Version(version)),
            None => Err(DecodeError::Damaged),
        }
    }
}

/// Stored bytes that are not a row of a version this program reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Written by a newer keybrake.
    Version(u8),
    /// Not a row.
    Damaged,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Version(version) => {
                write!(f, "an audit row of version {version}, newer than this program; run a newer keybrake")
            }
            DecodeError::Damaged => f.write_str("a damaged audit row"),
        }
    }
}

impl std::error::Error for DecodeError {}

impl<'a> AuditRow<'a> {
    /// Appends the row's bytes to `out`.
    pub fn encode(&self, out: Vec<u8>) -> Vec<u8> {
        let mut out = out;
        out.push(VERSION);
        // Serializing integers and texts to memory has no way to fail.
        let out = postcard::to_extend(self, out).unwrap_or_default();
        postcard::to_extend(&(self.amends, self.account, self.parent_key_id), out).unwrap_or_default()
    }

    /// Reads what [`AuditRow::encode`] wrote.
    pub fn decode(bytes: &'a [u8]) -> Result<AuditRow<'a>, DecodeError> {
        match bytes.split_first() {
            Some((&VERSION, bytes)) => {
                let (row, (amends, account, parent_key_id)) = parts(bytes)?;
                Ok(AuditRow { amends, account, parent_key_id, ..row })
            }
            Some((&VERSION_WITHOUT_ACCOUNT, bytes)) => {
                let (row, amends) = parts(bytes)?;
                Ok(AuditRow { amends, ..row })
            }
            Some((&VERSION_WITHOUT_AMENDS, bytes)) => parts(bytes).map(|(row, ())| row),
            Some((&version, _)) => Err(DecodeError::Version(version)),
            None => Err(DecodeError::Damaged),
        }
    }
}

/// A row and what its version has behind it.
fn parts<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<(AuditRow<'a>, T), DecodeError> {
    let (row, rest) = postcard::take_from_bytes(bytes).map_err(|_| DecodeError::Damaged)?;
    let behind = postcard::from_bytes(rest).map_err(|_| DecodeError::Damaged)?;
    Ok((row, behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> AuditRow<'static> {
        AuditRow {
            ts: UnixMicros(1),
            id: "req_1",
            vault_key_id: KeyId::from_bytes(b"0123456789abcdef"),
            label: Some("billing"),
            agent_run_label: None,
            vendor: "stripe",
            method: Method::Post,
            endpoint: "/v1/charges",
            path: "/v1/charges",
            status: 200,
            policy_check_result: "allowed",
            outcome: Outcome::Forwarded,
            amount: Micros::MAX,
            quote: Micros::ZERO,
            currency: Some("usd"),
            amount_minor: Some(2000),
            vendor_request_id: None,
            idempotency_key: None,
            latency_us: u64::MAX,
            overhead_us: 0,
            client_addr: "127.0.0.1",
            user_agent: None,
            metadata: vec![("agent_id", "a1")],
            amends: Some("req_0"),
            account: Some("eu"),
            parent_key_id: KeyId::from_bytes(b"fedcba9876543210"),
        }
    }

    #[test]
    fn a_row_reads_back_as_written() {
        let row = row();
        let bytes = row.encode(Vec::new());
        assert_eq!(AuditRow::decode(&bytes), Ok(row));
    }

    /// What versions 1 and 2 have written of [`row`], behind the byte of the version.
    const OLD: &[u8] = b"\x01\x05req_1\x010123456789abcdef\x01\x07billing\x00\x06stripe\x01\x0b/v1/charges\
        \x0b/v1/charges\xc8\x01\x07allowed\x00\xff\xff\xff\xff\xff\xff\xff?\x00\x01\x03usd\x01\xd0\x0f\x00\x00\
        \xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00\t127.0.0.1\x00\x01\x08agent_id\x02a1";

    #[test]
    fn the_head_of_a_row_is_the_rows_first_fields() {
        let row = row();
        let head = AuditHead {
            ts: row.ts,
            id: row.id,
            vault_key_id: row.vault_key_id,
            label: row.label,
            agent_run_label: row.agent_run_label,
            vendor: row.vendor,
            method: row.method,
            endpoint: row.endpoint,
            path: row.path,
            status: row.status,
            policy_check_result: row.policy_check_result,
            outcome: row.outcome,
        };
        let mut bytes = row.encode(Vec::new());
        assert_eq!(AuditHead::decode(&bytes), Ok(head));
        assert_eq!(AuditHead::decode(&bytes[..20]), Err(DecodeError::Damaged));
        bytes[0] = 9;
        assert_eq!(AuditHead::decode(&bytes), Err(DecodeError::Version(9)));
        assert_eq!(AuditHead::decode(&[]), Err(DecodeError::Damaged));
    }

    #[test]
    fn rows_of_older_versions_read_as_ones_without_what_came_later() {
        let old = AuditRow { amends: None, account: None, parent_key_id: None, ..row() };
        assert_eq!(AuditRow::decode(&[b"\x01", OLD].concat()), Ok(old.clone()));
        assert_eq!(AuditRow::decode(&[b"\x02", OLD, b"\x00"].concat()), Ok(old.clone()));
        let amending = AuditRow { amends: Some("req_0"), ..old };
        assert_eq!(AuditRow::decode(&[b"\x02", OLD, b"\x01\x05req_0"].concat()), Ok(amending));
        let now = [b"\x03", OLD, b"\x01\x05req_0\x01\x02eu\x01fedcba9876543210"].concat();
        assert_eq!(row().encode(Vec::new()), now);
        for cut in 1..now.len() {
            assert_eq!(AuditRow::decode(&now[..cut]), Err(DecodeError::Damaged), "{cut}");
        }
    }

    #[test]
    fn a_newer_or_damaged_row_is_refused_by_name() {
        let mut bytes = row().encode(Vec::new());
        assert_eq!(AuditRow::decode(&bytes[..bytes.len() - 3]), Err(DecodeError::Damaged));
        bytes[0] = 9;
        assert_eq!(AuditRow::decode(&bytes), Err(DecodeError::Version(9)));
        assert_eq!(AuditRow::decode(&[]), Err(DecodeError::Damaged));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let row = AuditRow::decode(&bytes);
            // Whoever reads the head alone sees the same row, or one that is damaged behind it.
            let head = AuditHead::decode(&bytes);
            proptest::prop_assert!(row.is_err() || head.is_ok());
        }
    }
}
