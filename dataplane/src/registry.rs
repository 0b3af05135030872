//! The keys a shard knows.

use std::collections::BTreeMap;

use keybrake_proto::key::{KeyDigest, KeyId};
use keybrake_proto::policy::Policy;
use keybrake_proto::time::UnixMicros;
use serde::{Deserialize, Serialize};

/// A key as stored: never its text, only the digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyRecord {
    pub(crate) id: KeyId,
    pub(crate) digest: KeyDigest,
    pub(crate) policy: Policy,
    pub(crate) label: Option<String>,
    pub(crate) agent_run_label: Option<String>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) created_at: UnixMicros,
    pub(crate) revoked_at: Option<UnixMicros>,
}
