//! What is stored and what processes say to each other (rules Q12, R4, I5).

use keybrake_proto::audit::AuditRow;
use keybrake_proto::control::{self, FRAME_BYTES_MAX, FRAME_HEADER_BYTES, Reply, Request, Spooled};
use keybrake_proto::handover::{Answer, Parting};
use keybrake_proto::journal::Record;
use keybrake_proto::journal::segment::{
    self, End, FRAME_HEADER_BYTES as HEAD, HEADER_BYTES, Header, Survives, Tail,
};
use keybrake_proto::mark::Mark;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A frame of the control socket: what is read is written and read again as the same message.
pub fn control_frame(bytes: &[u8]) {
    let Some((header, body)) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>() else { return };
    match control::body_bytes(*header) {
        Ok(length) => assert!(length <= FRAME_BYTES_MAX),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    framed::<Request>(body);
    framed::<Reply>(body);
    framed::<Answer>(body);
    if let Ok(parting) = Parting::decode(body) {
        let frame = parting.frame();
        let (header, again) = frame.split_first_chunk().unwrap();
        assert_eq!(control::body_bytes(*header).unwrap(), again.len());
        assert_eq!(Parting::decode(again), Ok(parting));
    }
    if let Ok(spooled) = Spooled::decode(body) {
        assert_eq!(spooled.encode(), body, "one order has one file");
    }
}

fn framed<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(body: &[u8]) {
    let Ok(message) = control::decode::<T>(body) else { return };
    let frame = control::encode(&message).unwrap();
    let (header, again) = frame.split_first_chunk().unwrap();
    assert_eq!(control::body_bytes(*header).unwrap(), again.len());
    let again: T = control::decode(again).unwrap_or_else(|error| panic!("{error}: {message:?}"));
    assert_eq!(again, message);
}

/// A journal. The bytes as a record, as a segment and as a mark; then a segment made after them, in which one byte is
/// changed: no committed record is missing without being reported as damage, and none is made up.
pub fn journal(bytes: &[u8]) {
    if let Ok(record) = Record::decode(bytes) {
        let again = record.encode(Vec::new());
        assert_eq!(Record::decode(&again), Ok(record));
    }
    if let Some(mark) = Mark::newest(bytes) {
        assert_eq!(Mark::newest(&mark.encode()), Some(mark));
    }
    for tail in [Tail::Strict, Tail::Lenient] {
        if let Ok(Some(contents)) = segment::read(bytes, |_| tail) {
            let ranges = contents.records.iter().map(|(_, range)| range);
            assert!(ranges.clone().all(|range| range.end <= bytes.len() && range.start >= HEADER_BYTES));
            assert_eq!(segment::read(bytes, |_| tail), Ok(Some(contents)));
        }
    }
    if let Ok(Some(header)) = Header::decode(bytes) {
        assert_eq!(Header::decode(&header.encode()), Ok(Some(header)));
    }
    let plan = Plan::of(bytes);
    plan.check_whole();
    plan.check_damaged();
}

/// A segment whose records are known.
struct Plan {
    header: Header,
    bytes: Vec<u8>,
    /// Each record's payload and place in the file, in order.
    records: Vec<(Vec<u8>, usize)>,
    /// The place of each commit and up to which record it vouches, counted from the first.
    commits: Vec<(usize, usize)>,
    /// Which byte is changed, and how.
    damage: (usize, u8),
}

impl Plan {
    /// Six bytes say what the header and the damage are; then each byte is a frame: a commit if it is 255, else a
    /// record of so many of the bytes behind it.
    fn of(bytes: &[u8]) -> Plan {
        let mut seed = [0; 6];
        for (to, from) in seed.iter_mut().zip(bytes) {
            *to = *from;
        }
        let [shard, generation, first, survives, at, flip] = seed;
        let mut header = Header {
            shard: u16::from(shard),
            generation: u64::from(generation),
            first_sequence: u64::from(first) + 1,
            segment_bytes: 0,
            boot: [generation; 16],
            survives: if survives % 2 == 0 { Survives::PowerLoss } else { Survives::Process },
        };
        let (mut frames, mut records, mut commits) = (Vec::new(), Vec::new(), Vec::new());
        let mut rest = bytes.get(6..).unwrap_or_default();
        while let Some((&length, behind)) = rest.split_first() {
            let place = HEADER_BYTES + frames.len();
            let next = header.first_sequence + records.len() as u64;
            if length == u8::MAX && !records.is_empty() {
                header.commit(&mut frames, next - 1);
                commits.push((place, records.len()));
                rest = behind;
                continue;
            }
            let (payload, behind) = behind.split_at(usize::from(length).min(behind.len()));
            header.frame(&mut frames, next, payload);
            records.push((payload.to_vec(), place));
            rest = behind;
        }
        let free = usize::from(survives / 2) * 8;
        header.segment_bytes = (HEADER_BYTES + frames.len() + free) as u64;
        let file = [&header.encode(), &frames[..], &vec![0; free]].concat();
        // A fraction of the file, so that a short seed reaches all of it.
        let place = file.len() * usize::from(at) / 256 + usize::from(flip) % 16;
        let damage = (place.min(file.len() - 1), flip.max(1));
        Plan { header, bytes: file, records, commits, damage }
    }

    fn committed(&self) -> usize {
        self.commits.last().map_or(0, |(_, records)| *records)
    }

    fn check_whole(&self) {
        let contents = segment::read(&self.bytes, |_| Tail::Strict).unwrap().unwrap();
        assert_eq!(contents.header, self.header);
        assert_eq!(contents.end, End::Clean);
        assert_eq!(self.payloads(&self.bytes, &contents), self.records.len());
        let committed = self.header.first_sequence + self.committed() as u64 - 1;
        assert_eq!(contents.committed, if self.commits.is_empty() { 0 } else { committed });
    }

    fn check_damaged(&self) {
        let (at, flip) = self.damage;
        let mut bytes = self.bytes.clone();
        bytes[at] ^= flip;
        let read = segment::read(&bytes, |_| Tail::Strict);
        if at < HEADER_BYTES {
            assert!(read.is_err(), "a changed header was read: {read:?}");
            return;
        }
        let contents = read.unwrap().unwrap();
        let left = self.payloads(&bytes, &contents);
        let before =
            self.records.iter().filter(|(payload, place)| place + segment::frame_bytes(payload.len()) <= at);
        assert_eq!(left, before.count(), "what stands before the damage is read, and nothing behind it");
        let is_behind = |(place, records): &&(usize, usize)| *place > at && *records > left;
        let is_damage = self.commits.iter().rev().find(is_behind).is_some();
        assert_eq!(matches!(contents.end, End::Damaged { .. }), is_damage, "{:?}", contents.end);
    }

    /// How many records are read; each is the one that was written.
    fn payloads(&self, bytes: &[u8], contents: &segment::Contents) -> usize {
        for (nth, (sequence, range)) in contents.records.iter().enumerate() {
            assert_eq!(*sequence, self.header.first_sequence + nth as u64);
            let (payload, place) = &self.records[nth];
            assert_eq!((&bytes[range.clone()], range.start), (&payload[..], place + HEAD));
        }
        contents.records.len()
    }
}

/// An audit row: what is read is written and read again as the same row.
pub fn audit_record(bytes: &[u8]) {
    match AuditRow::decode(bytes) {
        Ok(row) => {
            let again = row.encode(Vec::new());
            assert_eq!(AuditRow::decode(&again).as_ref(), Ok(&row));
            let cut = &again[..again.len() - 1];
            assert!(AuditRow::decode(cut).is_err(), "a cut row was read");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
