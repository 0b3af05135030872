//! A revoke: which keys it is for, how it went, and how it is kept for a dataplane that is down.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::key::KeyId;
use crate::time::UnixMicros;

/// The most ids in one [`Selector::Ids`]: such a frame fits the buffer of a socket, so that an order to
/// a stopped dataplane is there whole or not at all.
pub const REVOKE_IDS_MAX: usize = 1000;

/// The most ids in [`Revoked::ids`].
pub const REVOKED_IDS_MAX: usize = 100;

/// The longest label in bytes, as of keys.
const LABEL_BYTES_MAX: usize = 200;

/// The directory in `data.dir` that holds what a dataplane that is down has to carry out at its next start.
pub const SPOOL_NAME: &str = "revoke-spool";

/// How the name of a finished file in it ends; others are unfinished, and nobody was told of them.
pub const SPOOL_SUFFIX: &str = ".revoke";

/// The longest file in it, in bytes.
pub const SPOOL_BYTES_MAX: usize = 64 * 1024;

/// What every such file begins with: name and version of the format.
const SPOOL_MAGIC: &str = "keybrake-revoke 1 ";

/// Which keys a revoke is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selector {
    /// These, at most [`REVOKE_IDS_MAX`].
    Ids(Vec<KeyId>),
    /// All with this label.
    Label(String),
    /// All that were made for this run.
    AgentRunLabel(String),
    /// This one and all its descendants.
    Subtree(KeyId),
    /// All for this vendor.
    Vendor(String),
    /// All.
    All,
}

impl fmt::Display for Selector {
    /// As the end of a sentence that begins with "no key".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Selector::Ids(ids) if ids.len() == 1 => f.write_str("has this id"),
            Selector::Ids(_) => f.write_str("has one of these ids"),
            Selector::Label(label) => write!(f, "has the label {label:?}"),
            Selector::AgentRunLabel(run) => write!(f, "was made for the run {run:?}"),
            Selector::Subtree(id) => write!(f, "has the id {id}"),
            Selector::Vendor(vendor) => write!(f, "is for the vendor {vendor:?}"),
            Selector::All => f.write_str("exists"),
        }
    }
}

/// An order to revoke.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoke {
    /// Which keys.
    pub of: Selector,
    /// Also cut the exchanges that are at a vendor; without it they finish.
    pub cut: bool,
}

/// The body of `POST /vault/revoke`: one selector, and whether to cut.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeSpec {
    /// Keys by id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<KeyId>>,
    /// Keys by label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Keys by the run they were made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_run_label: Option<String>,
    /// A key and its descendants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subtree: Option<KeyId>,
    /// Keys by vendor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// Every key; only `true` is a value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<bool>,
    /// Also cut the exchanges that are at a vendor.
    #[serde(default)]
    pub cut: bool,
}

/// A [`RevokeSpec`] that is no order: the field, where one is to blame, and what to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotARevoke {
    /// The field that is wrong.
    pub field: Option<&'static str>,
    /// What to write.
    pub problem: &'static str,
}

impl RevokeSpec {
    /// The order, where exactly one selector is given.
    pub fn order(self) -> Result<Revoke, NotARevoke> {
        let RevokeSpec { ids, label, agent_run_label, subtree, vendor, all, cut } = self;
        let wrong = |field, problem| Err(NotARevoke { field: Some(field), problem });
        if all == Some(false) {
            return wrong("all", "write true, or leave it out");
        }
        for (field, text) in [("label", &label), ("agent_run_label", &agent_run_label), ("vendor", &vendor)] {
            if text.as_ref().is_some_and(|text| text.is_empty() || text.len() > LABEL_BYTES_MAX) {
                return wrong(field, "write 1 to 200 bytes");
            }
        }
        if ids.as_ref().is_some_and(|ids| ids.is_empty() || ids.len() > REVOKE_IDS_MAX) {
            return wrong("ids", "give 1 to 1000 ids");
        }
        let given = [
            ids.map(Selector::Ids),
            label.map(Selector::Label),
            agent_run_label.map(Selector::AgentRunLabel),
            subtree.map(Selector::Subtree),
            vendor.map(Selector::Vendor),
            all.map(|_| Selector::All),
        ];
        let mut given = given.into_iter().flatten();
        match (given.next(), given.next()) {
            (Some(of), None) => Ok(Revoke { of, cut }),
            (_, _) => Err(NotARevoke {
                field: None,
                problem: "give exactly one of ids, label, agent_run_label, subtree, vendor and all",
            }),
        }
    }
}

/// How a revoke went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// Keys that were revoked by this order.
    pub revoked: u64,
    /// Keys that it is for as well and that had been revoked before.
    pub already_revoked: u64,
    /// The first [`REVOKED_IDS_MAX`] of both.
    pub ids: Vec<KeyId>,
    /// Ids of the order that no key has.
    pub unknown_ids: Vec<KeyId>,
    /// When the keys were closed; where all had been before, when the first of them was.
    pub revoked_at: UnixMicros,
    /// Every shard has acknowledged. `false`: closed, and a shard did not answer in time.
    pub acknowledged: bool,
    /// The workers that did not answer in time.
    pub late_workers: Vec<usize>,
    /// It is on disk. `false`: closed, and the disk did not answer in time.
    pub durable: bool,
    /// From the frame's arrival until nothing was admitted any more, in microseconds.
    pub closed_us: u64,
    /// From the frame's arrival until the last acknowledgement that came, in microseconds.
    pub acknowledged_us: u64,
    /// Exchanges that were already at a vendor, on the shards that answered. Unless they were cut they
    /// finish and are settled.
    pub at_vendor: u64,
    /// Exchanges whose connection to the vendor was shut down: what came of them is not known.
    pub cut: u64,
}

/// An order in the spool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spooled {
    /// The order.
    pub revoke: Revoke,
    /// When it was recorded.
    pub recorded_at: UnixMicros,
}

/// A file of the spool that is not as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpoolDamaged;

impl fmt::Display for SpoolDamaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("is damaged, so that the keys it revokes are not known")
    }
}

impl std::error::Error for SpoolDamaged {}

impl Spooled {
    /// The bytes of a file: magic, checksum and order, one line.
    pub fn encode(&self) -> Vec<u8> {
        let order = serde_json::to_string(self).unwrap_or_default();
        format!("{SPOOL_MAGIC}{:08x} {order}\n", crc32fast::hash(order.as_bytes())).into_bytes()
    }

    /// The order in a file. Whatever is not exactly what [`Spooled::encode`] writes is damage: a label
    /// with one wrong letter would revoke other keys.
    pub fn decode(bytes: &[u8]) -> Result<Spooled, SpoolDamaged> {
        let text = std::str::from_utf8(bytes).map_err(|_| SpoolDamaged)?;
        let line = text.strip_prefix(SPOOL_MAGIC).and_then(|rest| rest.strip_suffix('\n'));
        let (_, order) = line.and_then(|line| line.split_once(' ')).ok_or(SpoolDamaged)?;
        let spooled: Spooled = serde_json::from_str(order).map_err(|_| SpoolDamaged)?;
        if spooled.encode() == bytes { Ok(spooled) } else { Err(SpoolDamaged) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> KeyId {
        KeyId::from_bytes(b"0123456789abcdef").unwrap()
    }

    fn check(body: &str, expected: Result<Selector, Option<&str>>) {
        let spec: RevokeSpec = serde_json::from_str(body).unwrap();
        assert_eq!(spec.order().map(|order| order.of).map_err(|error| error.field), expected, "{body}");
    }

    #[test]
    fn exactly_one_selector_is_an_order() {
        check(r#"{"label": "a"}"#, Ok(Selector::Label("a".to_owned())));
        check(r#"{"agent_run_label": "a", "cut": true}"#, Ok(Selector::AgentRunLabel("a".to_owned())));
        check(r#"{"subtree": "vk_0123456789abcdef"}"#, Ok(Selector::Subtree(id())));
        check(r#"{"ids": ["vk_0123456789abcdef"]}"#, Ok(Selector::Ids(vec![id()])));
        check(r#"{"vendor": "stripe"}"#, Ok(Selector::Vendor("stripe".to_owned())));
        check(r#"{"all": true}"#, Ok(Selector::All));
        check("{}", Err(None));
        check(r#"{"cut": true}"#, Err(None));
        check(r#"{"all": true, "label": "a"}"#, Err(None));
        check(r#"{"all": false, "label": "a"}"#, Err(Some("all")));
        check(r#"{"label": ""}"#, Err(Some("label")));
        check(r#"{"ids": []}"#, Err(Some("ids")));
        check(&serde_json::json!({"ids": vec![id(); REVOKE_IDS_MAX + 1]}).to_string(), Err(Some("ids")));
        assert!(serde_json::from_str::<RevokeSpec>(r#"{"lable": "a"}"#).is_err());
    }

    #[test]
    fn q22_a_spooled_order_reads_back_and_no_changed_byte_goes_unnoticed() {
        for of in [Selector::Label("billing \"x\"\n".to_owned()), Selector::Ids(vec![id()]), Selector::All] {
            let spooled = Spooled { revoke: Revoke { of, cut: true }, recorded_at: UnixMicros(7) };
            let bytes = spooled.encode();
            assert_eq!(Spooled::decode(&bytes).as_ref(), Ok(&spooled));
            for at in 0..bytes.len() {
                for bit in 0..8 {
                    let mut changed = bytes.clone();
                    changed[at] ^= 1 << bit;
                    assert_eq!(Spooled::decode(&changed), Err(SpoolDamaged), "bit {bit} of byte {at}");
                }
                assert_eq!(Spooled::decode(&bytes[..at]), Err(SpoolDamaged), "cut at {at}");
            }
            assert_eq!(Spooled::decode(&[&bytes[..], b"x"].concat()), Err(SpoolDamaged));
        }
    }

    #[test]
    fn the_largest_order_fits_the_spool() {
        let of = Selector::Ids(vec![id(); REVOKE_IDS_MAX]);
        let spooled = Spooled { revoke: Revoke { of, cut: true }, recorded_at: UnixMicros(u64::MAX) };
        assert!(spooled.encode().len() < SPOOL_BYTES_MAX);
    }
}
