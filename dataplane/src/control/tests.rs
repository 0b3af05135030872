//! Revokes with shards and disks that do not answer, which no process can be made to have on demand.

use std::path::PathBuf;
use std::sync::atomic::AtomicU32;

use arc_swap::ArcSwap;
use keybrake_proto::catalog::Catalog;
use keybrake_proto::catalog::book::PriceBook;
use keybrake_proto::config::{Config, Data};
use keybrake_proto::control::{Revoke, Revoked, Selector};
use keybrake_proto::http1::Method;
use keybrake_proto::key::{KeyDigest, KeyId};
use keybrake_proto::ledger::chain::Opening;
use keybrake_proto::money::Micros;
use keybrake_proto::policy::Policy;
use keybrake_proto::time::{Day, UnixMicros};

use super::*;
use crate::progress;
use crate::registry::{Epoch, KeyEntry, KeyRecord};
use crate::requests::OfMonth;
use crate::seal::MasterKey;
use crate::source::Source;
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

fn entry(number: u8, parent: Option<&Arc<KeyEntry>>) -> Arc<KeyEntry> {
    let record = KeyRecord {
        id: id(number),
        digest: KeyDigest([number; 32]),
        policy: Policy {
            vendor: "stripe".to_owned(),
            account: "default".to_owned(),
            allowed_endpoints: vec!["POST /v1/charges".parse().unwrap()],
            daily_usd_cap: None,
            total_usd_cap: None,
            daily_request_budget: None,
            expires_at: None,
            restrictions: Default::default(),
        },
        label: Some(format!("label-{number}")),
        agent_run_label: Some("run".to_owned()),
        metadata: Default::default(),
        created_at: UnixMicros(1),
        parent: parent.map(|parent| parent.id),
        version: 0,
        revoked_at: None,
    };
    Arc::new(KeyEntry::new(record, Opening::new(Day::new(1)), Micros::ZERO, parent.map(Arc::clone)))
}

fn settings() -> Arc<Settings> {
    let text = "[[vendor]]\nname = \"stripe\"\nbase_url = \"https://api.stripe.com\"\n";
    let config = Config::parse(text, std::iter::empty()).unwrap();
    let book = PriceBook::load(&config.prices, |path| fs::read_to_string(path)).unwrap();
    Settings::new(config, Vec::new(), Arc::new(book))
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
        master: Arc::new(ArcSwap::from_pointee(master)),
        data: Data { dir: directory.0.clone(), ..Data::default() },
        sealing: Sealing::default(),
        limits: crate::limits::Limits::of_tests(),
        lease: Lease::new(),
        settings: ArcSwap::new(settings()),
        requests: Arc::new(Requests::new(OfMonth::default())),
        reloads: Reloads::new(Source { path: directory.0.join("keybrake.toml"), driver: None }),
        proxy_listen: String::new(),
        kernel: Kernel::Epoll,
        started: Instant::now(),
        draining: AtomicBool::new(false),
        keys: Keys::new(keys),
        changes: Mutex::new(()),
        figures: Figures::default(),
        asked: bounded(1).0,
        left: Left::default(),
        agent_tls: None,
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
    assert!(keys.contains(&key.id));
    let in_force = InForce { at_vendor, cut: 1, at: Instant::now() };
    ack.to.send((ack.shard, in_force)).unwrap();
    assert!(shard.take().is_none(), "one message an order");
}

/// Revokes key 1 with so many of the shards answering.
fn revoke(control: &Control, key: &Arc<KeyEntry>, answering: usize) -> Revoked {
    let order = Revoke { of: Selector::Ids(vec![key.id]), cut: false };
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
fn q19_a_revoke_that_the_disk_owes_is_recorded_and_the_next_process_carries_it_out() {
    let directory = Directory::new();
    let keys = [entry(1, None), entry(2, None)];
    let control = control(&directory, 1, &keys);
    let data = Data { dir: directory.0.clone(), ..Data::default() };
    control.spool_owed(&data, WAIT).unwrap();
    assert_eq!(fs::read_dir(data.revoke_spool()).map_or(0, Iterator::count), 0, "nothing is owed");
    control.storage.flush_and_stop().unwrap();
    assert!(!revoke(&control, &keys[0], 1).durable);
    let nowhere = Data { dir: directory.0.join("missing"), ..Data::default() };
    assert!(control.spool_owed(&nowhere, WAIT).is_err(), "who cannot record it does not give up its place");
    control.spool_owed(&data, WAIT).unwrap();
    assert_eq!(fs::read_dir(data.revoke_spool()).unwrap().count(), 1);

    // What the next process finds: the store knows nothing of the revoke.
    let next = [entry(1, None), entry(2, None)];
    let mut store = Store::open(&directory.0.join("store")).unwrap();
    let socket = UnixListener::bind(directory.0.join("next.sock")).unwrap();
    carry_out(&socket, &data, &mut store, &Keys::new(&next)).unwrap();
    assert_eq!(next.each_ref().map(|key| key.account.word().closed), [true, false]);
    let stored = store.keys().unwrap();
    assert!(stored.len() == 1 && stored[0].id == id(1) && stored[0].revoked_at.is_some());
    assert_eq!(fs::read_dir(data.revoke_spool()).unwrap().count(), 0);
}

/// Keys 1 to 5: 3 below 2 below 1, and 5 below 4.
fn two_families() -> [Arc<KeyEntry>; 5] {
    let (root, other) = (entry(1, None), entry(4, None));
    let child = entry(2, Some(&root));
    let grandchild = entry(3, Some(&child));
    let cousin = entry(5, Some(&other));
    [root, child, grandchild, other, cousin]
}

fn check_closed(of: &Selector, revoked: [bool; 5]) {
    let keys = two_families();
    let table = Keys::new(&keys);
    let closed = table.close(of, UnixMicros(7));
    let count = revoked.iter().filter(|revoked| **revoked).count();
    assert_eq!((closed.now.len(), closed.before.len()), (count, 0), "{of:?}: each once");
    assert_eq!(keys.each_ref().map(|key| key.account.word().closed), revoked, "{of:?}");
    assert_eq!(keys.each_ref().map(|key| key.revoked_at() == Some(UnixMicros(7))), revoked, "{of:?}");
    let again = table.close(of, UnixMicros(8));
    assert_eq!((again.now.len(), again.before.len()), (0, count), "{of:?}");
}

#[test]
fn m11_whatever_closes_a_key_closes_all_below_it() {
    check_closed(&Selector::Subtree(id(2)), [false, true, true, false, false]);
    check_closed(&Selector::Ids(vec![id(1)]), [true, true, true, false, false]);
    check_closed(&Selector::Ids(vec![id(3), id(1), id(3)]), [true, true, true, false, false]);
    check_closed(&Selector::Label("label-4".to_owned()), [false, false, false, true, true]);
    check_closed(&Selector::AgentRunLabel("run".to_owned()), [true; 5]);
    check_closed(&Selector::All, [true; 5]);
}

#[test]
fn a_key_is_found_by_the_label_it_has_and_by_no_other() {
    let keys = two_families();
    let table = Keys::new(&keys);
    let before = keys[3].record();
    let after = KeyRecord { label: Some("new".to_owned()), ..(*before).clone() };
    let named =
        |label: &str| table.close(&Selector::Label(label.to_owned()), UnixMicros(7)).entries().count();
    table.also_under(&keys[3], &after);
    assert_eq!(named("new"), 0, "it has it not yet");
    keys[3].change(after);
    assert_eq!(named("label-4"), 0, "it has it no longer");
    table.no_longer_under(&keys[3], &before);
    assert_eq!(named("new"), 2, "and its child");
}

#[test]
fn q8_a_change_of_a_key_is_a_new_epoch_for_all_below_it() {
    let keys = two_families();
    let epochs = || keys.each_ref().map(|key| key.epoch());
    let changed = |before: [Epoch; 5]| -> Vec<bool> {
        before.iter().zip(epochs()).map(|(before, now)| *before != now).collect()
    };
    let before = epochs();
    keys[1].change((*keys[1].record()).clone());
    assert_eq!(changed(before), [false, true, true, false, false]);
}

#[test]
fn m11_a_key_above_that_is_narrowed_or_expires_binds_those_below() {
    let keys = two_families();
    let stripe = Catalog::of("stripe").unwrap();
    let call = stripe.recognize(Method::Post, b"/v1/charges");
    assert!(keys[2].permit(&call).is_ok() && keys[2].is_open(UnixMicros(5)));
    let mut record = (*keys[0].record()).clone();
    record.policy.allowed_endpoints = vec!["GET /v1/**".parse().unwrap()];
    record.policy.expires_at = Some(UnixMicros(9));
    keys[0].change(record);
    let (_, by) = keys[2].permit(&call).unwrap_err();
    assert_eq!(by.id, id(1), "whose rules it is");
    assert!(keys[2].is_open(UnixMicros(8)));
    assert!(!keys[2].is_open(UnixMicros(9)));
    assert!(!keys[2].is_open(UnixMicros(8)), "an expiry that was seen stays");
}
