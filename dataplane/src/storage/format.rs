//! The bytes of keys and values. All but audit rows, whose format is `proto`'s.

use keybrake_proto::key::KeyId;
use keybrake_proto::money::Micros;
use keybrake_proto::time::Day;

use super::StoreError;
use super::batch::Family;
use crate::registry::KeyRecord;

/// The version of all of this, in `meta`.
pub(super) const SCHEMA: &str = "1";

/// The first byte of every value here.
const VERSION: u8 = 1;

/// What a key has committed on a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spend {
    /// The last day on which the key committed anything.
    pub(crate) day: Day,
    /// What it committed on that day.
    pub(crate) committed: Micros,
}

/// A credential as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredCredential {
    /// Counts the credentials this account has had; the seal covers it.
    pub(crate) version: u32,
    /// The sealed secret.
    pub(crate) sealed: Vec<u8>,
}

/// Version byte and JSON.
pub(super) fn encode_key(record: &KeyRecord) -> Result<Vec<u8>, StoreError> {
    let mut value = vec![VERSION];
    // Writing a record to memory has no way to fail, and a value that is cut must not be stored.
    serde_json::to_writer(&mut value, record).map_err(|_| StoreError::DamagedEntry(Family::Keys.name()))?;
    Ok(value)
}

pub(super) fn decode_key(key: &[u8], value: &[u8]) -> Option<KeyRecord> {
    let record: KeyRecord = serde_json::from_slice(current(value)?).ok()?;
    (record.id.as_bytes() == key).then_some(record)
}

/// `version u8 | day u32 | committed u64`, little-endian.
pub(super) fn encode_spend(spend: Spend) -> [u8; 13] {
    let mut value = [VERSION; 13];
    let (day, committed) = (spend.day.as_u32().to_le_bytes(), spend.committed.as_u64().to_le_bytes());
    for (to, from) in value.iter_mut().skip(1).zip(day.into_iter().chain(committed)) {
        *to = from;
    }
    value
}

pub(super) fn decode_spend(key: &[u8], value: &[u8]) -> Option<(KeyId, Spend)> {
    let (day, committed) = current(value)?.split_first_chunk()?;
    let day = u32::from_le_bytes(*day);
    let committed = Micros::new(u64::from_le_bytes(committed.try_into().ok()?))?;
    // A day beyond the calendar would close the key's window for centuries.
    let day = (day <= Day::MAX.as_u32()).then_some(Day::new(day))?;
    Some((KeyId::from_bytes(key)?, Spend { day, committed }))
}

/// `length of vendor u32 | vendor | account`.
pub(super) fn credential_key(vendor: &str, account: &str) -> Vec<u8> {
    let mut key = u32::try_from(vendor.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
    key.extend_from_slice(vendor.as_bytes());
    key.extend_from_slice(account.as_bytes());
    key
}

/// `version u8 | credential's version u32 | sealed`.
pub(super) fn encode_credential(credential: &StoredCredential) -> Vec<u8> {
    let mut value = vec![VERSION];
    value.extend_from_slice(&credential.version.to_le_bytes());
    value.extend_from_slice(&credential.sealed);
    value
}

pub(super) fn decode_credential(value: &[u8]) -> Option<StoredCredential> {
    let (version, sealed) = current(value)?.split_first_chunk()?;
    Some(StoredCredential { version: u32::from_le_bytes(*version), sealed: sealed.to_vec() })
}

/// Big-endian, so that rows are in order.
pub(super) fn encode_sequence(sequence: u64) -> [u8; 8] {
    sequence.to_be_bytes()
}

pub(super) fn decode_sequence(key: &[u8]) -> Option<u64> {
    key.try_into().ok().map(u64::from_be_bytes)
}

fn current(value: &[u8]) -> Option<&[u8]> {
    value.split_first().filter(|(version, _)| **version == VERSION).map(|(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn spend_reads_back_as_written(day in 0..=Day::MAX.as_u32(), micros in 0..=Micros::MAX.as_u64()) {
            let key = KeyId::from_bytes(b"0123456789abcdef").unwrap();
            let spend = Spend { day: Day::new(day), committed: Micros::new(micros).unwrap() };
            let value = encode_spend(spend);
            proptest::prop_assert_eq!(decode_spend(key.as_bytes(), &value), Some((key, spend)));
        }

        #[test]
        fn arbitrary_bytes_never_panic(key: Vec<u8>, value: Vec<u8>) {
            let _read = (decode_key(&key, &value), decode_spend(&key, &value), decode_credential(&value));
        }
    }

    #[test]
    fn values_outside_their_bounds_are_refused() {
        let key = b"0123456789abcdef";
        let value = encode_spend(Spend { day: Day::MAX, committed: Micros::MAX });
        for (at, byte) in [(0, 2), (3, 0x02), (12, 0x80)] {
            let mut wrong = value;
            wrong[at] = byte;
            assert_eq!(decode_spend(key, &wrong), None, "byte {at}");
        }
        assert_eq!(decode_spend(b"short", &value), None);
        assert_eq!(decode_spend(key, &value[..12]), None);
    }

    #[test]
    fn vendor_and_account_do_not_run_together() {
        assert_ne!(credential_key("a", "bc"), credential_key("ab", "c"));
    }
}
