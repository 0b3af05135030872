//! Revokes with shards and disks that do not answer, which no process can be made to have on demand.

use std::path::PathBuf;
use std::sync::atomic::AtomicU32;

use keybrake_proto::control::{Revoke, Revoked, Selector};
use keybrake_proto::key::{KeyDigest, KeyId};
use keybrake_proto::ledger::chain::Opening;
use keybrake_proto::money::Micros;
use keybrake_proto::policy::Policy;
use keybrake_proto::time::{Day, UnixMicros};

use super::*;
use crate::progress;
use crate::registry::{KeyEntry, KeyRecord};
use crate::seal::MasterKey;
use crate::storage::{self, Store};

struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("keybrake-control-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Directory(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

fn id(number: u8) -> KeyId {
    KeyId::from_bytes(format!("key0000000000{number:03}").as_bytes()).unwrap()
}

fn entry(number: u8, parent: Option<u8>) -> Arc<KeyEntry> {
    let record = KeyRecord {
        id: id(number),
        digest: KeyDigest([number; 32]),
        policy: Policy {
            vendor: "stripe".to_owned(),
            allowed_endpoints: vec!["POST /v1/charges".parse().unwrap()],
            daily_usd_cap: None,
            total_usd_cap: None,
            daily_request_budget: None,
            expires_at: None,
        },
        label: None,
        agent_run_label: None,
        metadata: Default::default(),
        created_at: UnixMicros(1),
        parent: parent.map(id),
        revoked_at: None,
    };
    Arc::new(KeyEntry::new(record, Opening::new(Day::new(1)), Micros::ZERO))
}

fn control(directory: &Directory, shards: usize, keys: &[Arc<KeyEntry>]) -> Control {
    let (master, _) = MasterKey::load_or_create(&directory.0.join("master.key")).unwrap();
    let store = Store::open(&directory.0.join("store")).unwrap();
    let books = store.books().unwrap();
    let (storage, _thread) = storage::start(store, books, progress::all(0, |_| 0)).unwrap();
    Control {
        shards: (0..shards).map(|_| Mailbox::new().unwrap().0).collect(),
        metrics: Vec::new(),
        storage,
        clock: Arc::new(Clock::open(&directory.0, Day::default()).unwrap()),
        digester: master.digester(),
        lease: Lease::new(),
        vendors: Vec::new(),
        proxy_listen: String::new(),
        kernel: Kernel::Epoll,
        started: Instant::now(),
        draining: AtomicBool::new(false),
        keys: Keys::new(keys),
        figures: Figures::default(),
        asked: bounded(1).0,
        left: Left::default(),
    }
}

/// Answers as a shard does, once it is told.
fn acknowledge(shard: &Mailbox<Message>, key: &KeyEntry, at_vendor: u64) {
    let message = loop {
        if let Some(message) = shard.take() {
            break message;
        }
        std::thread::yield_now();
    };
    assert!(key.account.word().closed, "closed before any shard is told");
    let Message::Revoked { keys, ack, .. } = message else { panic!("another message") };
    assert!(keys.contains(&key.record.id));
    let in_force = InForce { at_vendor, cut: 1, at: Instant::now() };
    ack.to.send((ack.shard, in_force)).unwrap();
    assert!(shard.take().is_none(), "one message an order");
}

/// Revokes key 1 with so many of the shards answering.
fn revoke(control: &Control, key: &Arc<KeyEntry>, answering: usize) -> Revoked {
    let order = Revoke { of: Selector::Ids(vec![key.record.id]), cut: false };
    let reply = std::thread::scope(|scope| {
        for shard in control.shards.iter().take(answering) {
            scope.spawn(|| acknowledge(shard, key, 3));
        }
        control.revoke(&order, Instant::now())
    });
    let Reply::Revoked(revoked) = reply else { panic!("{reply:?}") };
    *revoked
}

#[test]
fn q19_a_worker_that_is_late_is_named_and_what_the_others_said_is_kept() {
    let directory = Directory::new();
    let key = entry(1, None);
    let control = control(&directory, 3, &[Arc::clone(&key)]);
    let pending = revoke(&control, &key, 2);
    assert_eq!((pending.acknowledged, pending.durable, &pending.late_workers[..]), (false, true, &[2][..]));
    assert_eq!((pending.revoked, pending.at_vendor, pending.cut), (1, 6, 2));
    // Its first message waits in its mailbox; the next order is told it as well.
    assert!(control.shards[2].take().is_some());
    let done = revoke(&control, &key, 3);
    assert_eq!((done.acknowledged, done.durable, done.revoked, done.already_revoked), (true, true, 0, 1));
    assert_eq!(done.revoked_at, pending.revoked_at);
}

#[test]
fn q19_a_disk_that_does_not_take_it_makes_it_pending_and_the_key_stays_closed() {
    let directory = Directory::new();
    let key = entry(1, None);
    let control = control(&directory, 1, &[Arc::clone(&key)]);
    control.storage.flush_and_stop().unwrap();
    for _ in 0..2 {
        let pending = revoke(&control, &key, 1);
        assert_eq!((pending.acknowledged, pending.durable), (true, false), "also the second time");
        assert!(key.account.word().closed);
    }
}

#[test]
fn a_subtree_is_a_key_and_all_below_it() {
    let keys = [entry(1, None), entry(2, Some(1)), entry(3, Some(2)), entry(4, None), entry(5, Some(4))];
    let table = Keys::new(&keys);
    let closed = table.close(&Selector::Subtree(id(2)), UnixMicros(7));
    assert_eq!(closed.now.len(), 2);
    let shut = || keys.each_ref().map(|key| key.account.word().closed);
    assert_eq!(shut(), [false, true, true, false, false]);
    table.close(&Selector::Subtree(id(1)), UnixMicros(8));
    assert_eq!(shut(), [true, true, true, false, false]);
    assert_eq!(keys[2].revoked_at(), Some(UnixMicros(7)));
}
