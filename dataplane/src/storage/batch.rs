//! Puts that are written together or not at all.

/// A column family. All of them are made with the store: a reader in another process cannot follow
/// one that is made later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Family {
    /// Key id → record.
    Keys,
    /// Vendor and account → sealed credential.
    Credentials,
    /// Sequence → row; rows never change.
    Audit,
    /// Key id → what it has committed.
    Spend,
    /// Key id and vendor object → what the key counted for it.
    Objects,
    /// Intent → exchange that runs longer than its journal's segment may stay.
    Intents,
    /// Intent → exchange in doubt.
    Doubts,
    /// Key id and request → when it was executed, so that a repeat is free.
    Idempotency,
    /// Schema version and the like.
    Meta,
}

impl Family {
    pub(crate) const ALL: [Family; 9] = [
        Family::Keys,
        Family::Credentials,
        Family::Audit,
        Family::Spend,
        Family::Objects,
        Family::Intents,
        Family::Doubts,
        Family::Idempotency,
        Family::Meta,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Family::Keys => "keys",
            Family::Credentials => "credentials",
            Family::Audit => "audit",
            Family::Spend => "spend",
            Family::Objects => "objects",
            Family::Intents => "intents",
            Family::Doubts => "doubts",
            Family::Idempotency => "idempotency",
            Family::Meta => "meta",
        }
    }
}

/// One change of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change<'a> {
    /// This value, over any before it.
    Put(&'a [u8]),
    /// No entry.
    Delete,
}

/// The changes, in order. It knows nothing of RocksDB, so it can be written again after a failure.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Keys and values, one behind the other.
    bytes: Vec<u8>,
    /// Family, length of the key, length of the value; none where the entry is deleted.
    lengths: Vec<(Family, usize, Option<usize>)>,
}

impl Batch {
    pub(crate) fn put(&mut self, family: Family, key: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        self.lengths.push((family, key.len(), Some(value.len())));
    }

    pub(crate) fn delete(&mut self, family: Family, key: &[u8]) {
        self.bytes.extend_from_slice(key);
        self.lengths.push((family, key.len(), None));
    }

    pub(crate) fn changes(&self) -> impl Iterator<Item = (Family, &[u8], Change<'_>)> {
        let mut rest = self.bytes.as_slice();
        self.lengths.iter().map_while(move |(family, key_bytes, value_bytes)| {
            let (key, behind) = rest.split_at_checked(*key_bytes)?;
            let (value, behind) = behind.split_at_checked(value_bytes.unwrap_or_default())?;
            rest = behind;
            let change = if value_bytes.is_some() { Change::Put(value) } else { Change::Delete };
            Some((*family, key, change))
        })
    }

    /// Adds the changes of `later` behind these.
    pub(crate) fn append(&mut self, later: Batch) {
        self.bytes.extend_from_slice(&later.bytes);
        self.lengths.extend(later.lengths);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// Changes in `family`.
    pub(crate) fn count(&self, family: Family) -> usize {
        self.lengths.iter().filter(|(of, ..)| *of == family).count()
    }
}
