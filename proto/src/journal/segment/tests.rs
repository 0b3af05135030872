use proptest::prelude::*;

use super::*;

const SEGMENT_BYTES: usize = 4096;

fn header(survives: Survives) -> Header {
    Header {
        shard: 3,
        generation: 7,
        first_sequence: 100,
        segment_bytes: SEGMENT_BYTES as u64,
        boot: [9; 16],
        survives,
    }
}

fn payload(sequence: u64) -> Vec<u8> {
    vec![u8::try_from(sequence % 251).unwrap(); 5 + usize::try_from(sequence % 11).unwrap()]
}

/// A segment with records 100, 101, … and a commit where `commits` says so.
fn segment(header: &Header, commits: &[Option<u64>]) -> Vec<u8> {
    let mut bytes = header.encode().to_vec();
    for (sequence, commit) in (100..).zip(commits) {
        header.frame(&mut bytes, sequence, &payload(sequence));
        if let Some(commit) = commit {
            header.commit(&mut bytes, *commit);
        }
    }
    bytes.resize(SEGMENT_BYTES, 0);
    bytes
}

fn strict(bytes: &[u8]) -> Result<Option<Contents>, SegmentError> {
    read(bytes, |_| Tail::Strict)
}

/// The sequences and the last commit that are read.
fn check(bytes: &[u8], records: usize, committed: u64, end: End) {
    let contents = strict(bytes).unwrap().unwrap();
    assert_eq!((contents.records.len(), contents.committed, contents.end), (records, committed, end));
    for (sequence, at) in contents.records {
        assert_eq!(bytes[at], payload(sequence), "{sequence}");
    }
}

#[test]
fn what_was_written_is_read() {
    check(&segment(&header(Survives::PowerLoss), &[]), 0, 0, End::Clean);
    check(&segment(&header(Survives::PowerLoss), &[None, Some(100), None, Some(102)]), 4, 102, End::Clean);
    assert_eq!(strict(&vec![0; SEGMENT_BYTES]), Ok(None));
    assert_eq!(strict(&[0; 10]), Ok(None), "its preparation broke off");
    assert_eq!(strict(&[]), Ok(None));
}

#[test]
fn frames_of_an_earlier_boot_are_not_read() {
    let old = header(Survives::PowerLoss);
    let mut bytes = segment(&old, &[None, Some(101)]);
    // A power cut took the header, and the generation was given again.
    let new = Header { boot: [8; 16], ..old };
    bytes[..HEADER_BYTES].copy_from_slice(&new.encode());
    check(&bytes, 0, 0, End::Torn);
}

#[test]
fn frames_of_an_earlier_generation_are_not_read() {
    let old = header(Survives::PowerLoss);
    let new = Header { generation: 8, first_sequence: 104, ..old };
    let mut bytes = segment(&old, &[None, Some(101), None, Some(103)]);
    bytes[..HEADER_BYTES].copy_from_slice(&new.encode());
    let contents = strict(&bytes).unwrap().unwrap();
    assert_eq!((contents.header, contents.records.len(), contents.end), (new, 0, End::Clean));
}

#[test]
fn q12_bad_bytes_behind_the_last_commit_are_torn_and_before_it_damage() {
    let header = header(Survives::PowerLoss);
    let whole = segment(&header, &[None, Some(101), None, None, None]);
    // 100 and 101 are committed: their frames and the commit's take the first bytes.
    let contents = strict(&whole).unwrap().unwrap();
    let first_uncommitted = contents.records[2].1.start - FRAME_HEADER_BYTES;
    let end = contents.records[4].1.end;
    for bit in HEADER_BYTES * 8..end * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let read = strict(&flipped);
        if bit / 8 < first_uncommitted {
            // A commit that is hit itself only no longer vouches.
            let contents = read.unwrap().unwrap();
            let is_noticed = matches!(contents.end, End::Damaged { .. }) || contents.records.len() >= 2;
            assert!(is_noticed, "bit {bit}: {contents:?}");
        } else {
            assert!(read.unwrap().unwrap().records.len() >= 2, "bit {bit}");
        }
    }
}

#[test]
fn a_journal_that_survives_the_process_notices_every_flipped_bit_of_a_record() {
    let header = header(Survives::Process);
    let whole = segment(&header, &[Some(100), Some(101), Some(102)]);
    let contents = strict(&whole).unwrap().unwrap();
    for (_, at) in &contents.records {
        for bit in (at.start - FRAME_HEADER_BYTES) * 8..at.end * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let end = |contents: Option<Contents>| contents.unwrap().end;
            assert!(matches!(end(strict(&flipped).unwrap()), End::Damaged { .. }), "bit {bit}");
            // After a power cut it promises nothing, and starts with what is there.
            assert_eq!(end(read(&flipped, |_| Tail::Lenient).unwrap()), End::Torn);
        }
    }
}

#[test]
fn a_write_that_broke_off_is_torn_at_every_byte() {
    let header = header(Survives::PowerLoss);
    let whole = segment(&header, &[Some(100), None, None]);
    let contents = strict(&whole).unwrap().unwrap();
    let last = contents.records[2].1.clone();
    for end in last.start - FRAME_HEADER_BYTES..last.end {
        let mut cut = whole.clone();
        cut[end..].fill(0);
        let torn = if end > last.start - FRAME_HEADER_BYTES { End::Torn } else { End::Clean };
        let contents = strict(&cut).unwrap().unwrap();
        assert_eq!(contents.records.len(), 2, "cut at {end}");
        assert_eq!(contents.end, torn, "cut at {end}");
    }
}

#[test]
fn every_change_of_the_header_and_of_the_length_is_noticed() {
    let whole = segment(&header(Survives::PowerLoss), &[Some(100)]);
    for bit in 0..HEADER_BYTES * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(strict(&flipped).is_err(), "bit {bit}");
    }
    assert!(matches!(strict(&whole[..SEGMENT_BYTES - 1]), Err(SegmentError::Length { .. })));
    assert_eq!(strict(&whole[..10]), Err(SegmentError::Header));
}

proptest! {
    #[test]
    fn arbitrary_bytes_behind_a_header_never_panic(tail: Vec<u8>) {
        let header = Header { segment_bytes: (HEADER_BYTES + tail.len()) as u64, ..header(Survives::Process) };
        let bytes = [&header.encode()[..], &tail].concat();
        let _contents = strict(&bytes);
    }
}
