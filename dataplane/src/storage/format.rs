//! The bytes of keys and values. All but audit rows, whose format is `proto`'s.

use keybrake_proto::catalog::amount::ObjectId;
use keybrake_proto::idempotency::{Identity, ReservationId, Share};
use keybrake_proto::journal::IntentId;
use keybrake_proto::key::KeyId;
use keybrake_proto::money::Micros;
use keybrake_proto::time::{Day, Month, UnixMicros};

use super::StoreError;
use super::batch::Family;
use super::books::{Doubt, Open};
use super::kept_objects::KeptObject;
use super::remembered::Executed;
use crate::registry::KeyRecord;
use crate::requests::OfMonth;

/// The version of all of this, in `meta`.
pub(crate) const SCHEMA: &str = "2";

/// Schemas that are read and made the present one: without doubts and journals.
pub(super) const SCHEMAS_BEFORE: [&str; 1] = ["1"];

/// The first byte of every value here but spend.
const VERSION: u8 = 1;

/// The first byte of spend.
const SPEND_VERSION: u8 = 2;

/// The first byte of spend in schema 1: day and committed only.
const SPEND_VERSION_BEFORE: u8 = 1;

/// What a key has spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spend {
    /// The last day on which anything happened.
    pub(crate) day: Day,
    /// What was settled on that day. What is held or in doubt is not part of it.
    pub(crate) settled: Micros,
    /// Requests that were sent on that day.
    pub(crate) requests: u32,
    /// What was settled ever.
    pub(crate) lifetime: Micros,
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

/// `version u8 | day u32 | settled u64 | requests u32 | lifetime u64`, little-endian.
pub(super) fn encode_spend(spend: Spend) -> Vec<u8> {
    [
        &[SPEND_VERSION][..],
        &spend.day.as_u32().to_le_bytes(),
        &spend.settled.as_u64().to_le_bytes(),
        &spend.requests.to_le_bytes(),
        &spend.lifetime.as_u64().to_le_bytes(),
    ]
    .concat()
}

pub(super) fn decode_spend(key: &[u8], value: &[u8]) -> Option<(KeyId, Spend)> {
    let (version, rest) = value.split_first()?;
    let (day, rest) = rest.split_first_chunk()?;
    let day = u32::from_le_bytes(*day);
    // A day beyond the calendar would close the key's window for centuries.
    let day = (day <= Day::MAX.as_u32()).then_some(Day::new(day))?;
    let (settled, rest) = rest.split_first_chunk()?;
    let settled = Micros::new(u64::from_le_bytes(*settled))?;
    let spend = match (*version, rest) {
        (SPEND_VERSION_BEFORE, []) => Spend { day, settled, requests: 0, lifetime: settled },
        (SPEND_VERSION, rest) => {
            let (requests, lifetime) = rest.split_first_chunk()?;
            let lifetime = Micros::new(u64::from_le_bytes(lifetime.try_into().ok()?))?;
            Spend { day, settled, requests: u32::from_le_bytes(*requests), lifetime }
        }
        _ => return None,
    };
    Some((KeyId::from_bytes(key)?, spend))
}

/// Big-endian, so that doubts are in the order of shard and time.
pub(super) fn encode_intent(id: IntentId) -> [u8; 8] {
    id.as_u64().to_be_bytes()
}

/// Version byte and postcard.
pub(super) fn encode_doubt(doubt: &Doubt) -> Vec<u8> {
    // Serializing integers and bytes to memory has no way to fail.
    postcard::to_extend(doubt, vec![VERSION]).unwrap_or_default()
}

pub(super) fn decode_doubt(key: &[u8], value: &[u8]) -> Option<(IntentId, Doubt)> {
    let id = IntentId::from_u64(u64::from_be_bytes(key.try_into().ok()?));
    Some((id, postcard::from_bytes(current(value)?).ok()?))
}

/// Version byte and postcard.
pub(super) fn encode_open(open: &Open) -> Vec<u8> {
    // Serializing integers and bytes to memory has no way to fail.
    postcard::to_extend(open, vec![VERSION]).unwrap_or_default()
}

pub(super) fn decode_open(key: &[u8], value: &[u8]) -> Option<(IntentId, Open)> {
    let id = IntentId::from_u64(u64::from_be_bytes(key.try_into().ok()?));
    Some((id, postcard::from_bytes(current(value)?).ok()?))
}

/// `vault key's id | request`.
pub(super) fn remembered_key(key: KeyId, identity: Identity) -> Vec<u8> {
    [key.as_bytes(), &identity.0[..]].concat()
}

/// `version u8 | time u64 | reservation u64`.
pub(super) fn encode_remembered(executed: Executed) -> Vec<u8> {
    let Executed { share, at, .. } = executed;
    [&[VERSION][..], &at.0.to_le_bytes(), &share.reservation.0.to_le_bytes()].concat()
}

pub(super) fn decode_remembered(key: &[u8], value: &[u8]) -> Option<Executed> {
    let (id, identity) = key.split_last_chunk()?;
    let (at, reservation) = current(value)?.split_first_chunk()?;
    let reservation = ReservationId(u64::from_le_bytes(reservation.try_into().ok()?));
    let share = Share { reservation, identity: Identity(*identity) };
    Some(Executed { key: KeyId::from_bytes(id)?, share, at: UnixMicros(u64::from_le_bytes(*at)) })
}

/// `vault key's id | object`.
pub(super) fn object_key(key: KeyId, object: &ObjectId) -> Vec<u8> {
    [key.as_bytes(), object.as_str().as_bytes()].concat()
}

/// Version byte and postcard.
pub(super) fn encode_object(kept: &KeptObject) -> Vec<u8> {
    // Serializing integers to memory has no way to fail.
    postcard::to_extend(&(kept.counted, kept.at), vec![VERSION]).unwrap_or_default()
}

pub(super) fn decode_object(key: &[u8], value: &[u8]) -> Option<KeptObject> {
    let (id, object) = key.split_first_chunk::<16>()?;
    let (counted, at) = postcard::from_bytes(current(value)?).ok()?;
    let object = ObjectId::parse(std::str::from_utf8(object).ok()?)?;
    Some(KeptObject { key: KeyId::from_bytes(id)?, object, counted, at })
}

/// `cursor/` and the shard: entries of `meta` that say up to which record its journal is in the store.
pub(super) const CURSOR: &[u8] = b"cursor/";

/// `floor/` and the shard: up to there the store has the journal's open intents too.
pub(super) const FLOOR: &[u8] = b"floor/";

/// The sequence of the first audit row behind the floors.
pub(super) const FLOOR_ROW: &[u8] = b"floor_row";

/// Requests that were sent in a month.
pub(super) const SENT: &[u8] = b"sent";

/// `month u32 | count u64`, little-endian.
pub(super) fn encode_sent(sent: OfMonth) -> Vec<u8> {
    [&sent.month.as_u32().to_le_bytes()[..], &sent.count.to_le_bytes()].concat()
}

pub(super) fn decode_sent(value: &[u8]) -> Option<OfMonth> {
    let (month, count) = value.split_first_chunk()?;
    let month = Month::new(u32::from_le_bytes(*month));
    Some(OfMonth { month, count: u64::from_le_bytes(count.try_into().ok()?) })
}

/// The key of a shard's place in `meta`.
pub(super) fn encode_place(kind: &[u8], shard: u16) -> Vec<u8> {
    [kind, &shard.to_be_bytes()].concat()
}

pub(super) fn decode_place(kind: &[u8], key: &[u8], value: &[u8]) -> Option<(u16, u64)> {
    let shard = u16::from_be_bytes(key.strip_prefix(kind)?.try_into().ok()?);
    Some((shard, decode_sequence(value)?))
}

/// `length of vendor u32 | vendor | account`.
pub(super) fn credential_key(vendor: &str, account: &str) -> Vec<u8> {
    let mut key = u32::try_from(vendor.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
    key.extend_from_slice(vendor.as_bytes());
    key.extend_from_slice(account.as_bytes());
    key
}

/// The vendor and the account of such a key.
pub(super) fn decode_credential_key(key: &[u8]) -> Option<(String, String)> {
    let (length, rest) = key.split_first_chunk()?;
    let (vendor, account) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    Some((String::from_utf8(vendor.to_vec()).ok()?, String::from_utf8(account.to_vec()).ok()?))
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
        fn spend_reads_back_as_written(
            day in 0..=Day::MAX.as_u32(),
            settled in 0..=Micros::MAX.as_u64(),
            requests: u32,
            lifetime in 0..=Micros::MAX.as_u64(),
        ) {
            let key = KeyId::from_bytes(b"0123456789abcdef").unwrap();
            let micros = |amount| Micros::new(amount).unwrap();
            let spend =
                Spend { day: Day::new(day), settled: micros(settled), requests, lifetime: micros(lifetime) };
            let value = encode_spend(spend);
            proptest::prop_assert_eq!(decode_spend(key.as_bytes(), &value), Some((key, spend)));
        }

        #[test]
        fn arbitrary_bytes_never_panic(key: Vec<u8>, value: Vec<u8>) {
            let _read = (decode_key(&key, &value), decode_spend(&key, &value), decode_credential(&value));
            let _read = decode_remembered(&key, &value);
            let _read = (decode_doubt(&key, &value), decode_open(&key, &value), decode_place(CURSOR, &key, &value));
        }
    }

    #[test]
    fn values_outside_their_bounds_are_refused() {
        let key = b"0123456789abcdef";
        let most = Spend { day: Day::MAX, settled: Micros::MAX, requests: 7, lifetime: Micros::MAX };
        let value = encode_spend(most);
        for (at, byte) in [(0, 3), (3, 0x02), (12, 0x80), (24, 0x80)] {
            let mut wrong = value.clone();
            wrong[at] = byte;
            assert_eq!(decode_spend(key, &wrong), None, "byte {at}");
        }
        assert_eq!(decode_spend(b"short", &value), None);
        assert_eq!(decode_spend(key, &value[..24]), None);
    }

    #[test]
    fn spend_of_the_schema_before_is_read() {
        let value = [&[1][..], &5u32.to_le_bytes(), &30u64.to_le_bytes()].concat();
        let (_, spend) = decode_spend(b"0123456789abcdef", &value).unwrap();
        let settled = Micros::new(30).unwrap();
        assert_eq!(spend, Spend { day: Day::new(5), settled, requests: 0, lifetime: settled });
    }

    #[test]
    fn a_remembered_request_reads_back_as_written() {
        let share = Share { reservation: ReservationId(u64::MAX - 3), identity: Identity([7; 16]) };
        let key = KeyId::from_bytes(b"0123456789abcdef").unwrap();
        let executed = Executed { key, share, at: UnixMicros(5) };
        let (key, value) = (remembered_key(key, share.identity), encode_remembered(executed));
        assert_eq!(decode_remembered(&key, &value), Some(executed));
        assert_eq!(decode_remembered(&key[1..], &value), None);
        assert_eq!(decode_remembered(&key, &value[1..]), None);
    }

    #[test]
    fn vendor_and_account_do_not_run_together() {
        assert_ne!(credential_key("a", "bc"), credential_key("ab", "c"));
        let read = decode_credential_key(&credential_key("ab", "c"));
        assert_eq!(read, Some(("ab".to_owned(), "c".to_owned())));
        assert_eq!(decode_credential_key(&credential_key("ab", "c")[..5]), None);
    }
}
