//! A journal's file: a header, then frames, each with the checksum of its payload.
//!
//! ```text
//! header (64 bytes) | frame | frame | … | zeros, or frames of an earlier generation
//! frame: payload bytes u32 | crc32 u32 | sequence u64 | payload | zeros up to a multiple of 8
//! ```
//! All little-endian. The checksum covers shard, generation, boot and sequence too, so a frame that an
//! earlier use of the file left behind is never taken for one of this use; the boot, since a power cut can
//! take a header and leave its frames, and then the generation is given again. A *commit* frame says
//! that all records up to its sequence have survived what the journal promises to survive: bad bytes
//! behind the last one are a torn write, bad bytes before it are damage (rule Q12).

use std::fmt;
use std::ops::Range;

use super::PAYLOAD_BYTES_MAX;

/// The bytes in front of the first frame.
pub const HEADER_BYTES: usize = 64;

/// The bytes of a frame without its payload.
pub const FRAME_HEADER_BYTES: usize = 16;

const MAGIC: [u8; 8] = *b"KBjrnl\r\n";
/// The version of all of this, in each file's header.
pub const VERSION: u16 = 2;
const ALIGNMENT: usize = 8;

/// Generations before its own among which the earlier use of a file is looked for. It decides only
/// what an operator is told.
const EARLIER_USES_MAX: u64 = 16;

/// Places at which the end of an earlier frame is looked for: 4 KiB.
const PLACES_MAX: usize = 512;

/// Set in a frame's length: it is a commit, without a payload.
const COMMIT: u32 = 1 << 31;

/// What the journal promises that its records survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survives {
    /// The end of the process: commits follow each write.
    Process,
    /// The end of the machine: commits follow each sync.
    PowerLoss,
}

/// The beginning of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whose journal.
    pub shard: u16,
    /// Counts the segments that the shard has begun; a file that is used again gets a new one.
    pub generation: u64,
    /// The sequence of the first record. Where records of earlier generations have this one or a later
    /// one too, they were written again here (rule Q13), and the newest generation that has one holds.
    pub first_sequence: u64,
    /// The file's length.
    pub segment_bytes: u64,
    /// The kernel's boot id at the time it was begun.
    pub boot: [u8; 16],
    /// What its commits mean.
    pub survives: Survives,
}

/// Why a segment cannot be read at all. Records may be missing, so the journal is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentError {
    /// The header is none, or was changed.
    Header,
    /// Another version of keybrake wrote it.
    Version(u16),
    /// The file has another length than its header says.
    Length {
        /// What the header says.
        expected: u64,
        /// What the file has.
        found: u64,
    },
}

impl fmt::Display for SegmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SegmentError::Header => f.write_str("its header is damaged"),
            SegmentError::Version(version) => {
                write!(f, "it has version {version} and this program reads {VERSION}")
            }
            SegmentError::Length { expected, found } => {
                write!(f, "it has {found} bytes and should have {expected}")
            }
        }
    }
}

impl std::error::Error for SegmentError {}

impl Header {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let survives = match self.survives {
            Survives::Process => 0u8,
            Survives::PowerLoss => 1,
        };
        let fields: [&[u8]; 8] = [
            &MAGIC,
            &VERSION.to_le_bytes(),
            &self.shard.to_le_bytes(),
            &[survives, 0, 0, 0],
            &self.generation.to_le_bytes(),
            &self.first_sequence.to_le_bytes(),
            &self.segment_bytes.to_le_bytes(),
            &self.boot,
        ];
        for (to, from) in bytes.iter_mut().zip(fields.concat()) {
            *to = from;
        }
        if let Some((fields, checksum)) = bytes.split_last_chunk_mut() {
            *checksum = crc32fast::hash(fields).to_le_bytes();
        }
        bytes
    }

    /// Reads a header; `None` where the file was never begun and is all zeros there.
    pub fn decode(bytes: &[u8]) -> Result<Option<Header>, SegmentError> {
        let bytes: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(SegmentError::Header)?;
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let (fields, checksum) = bytes.split_last_chunk().ok_or(SegmentError::Header)?;
        if crc32fast::hash(fields).to_le_bytes() != *checksum {
            return Err(SegmentError::Header);
        }
        let mut rest = Reader(fields);
        if rest.take::<8>()? != MAGIC {
            return Err(SegmentError::Header);
        }
        let version = u16::from_le_bytes(rest.take()?);
        if version != VERSION {
            return Err(SegmentError::Version(version));
        }
        let shard = u16::from_le_bytes(rest.take()?);
        let survives = match rest.take::<4>()? {
            [0, ..] => Survives::Process,
            [1, ..] => Survives::PowerLoss,
            _ => return Err(SegmentError::Header),
        };
        Ok(Some(Header {
            shard,
            survives,
            generation: u64::from_le_bytes(rest.take()?),
            first_sequence: u64::from_le_bytes(rest.take()?),
            segment_bytes: u64::from_le_bytes(rest.take()?),
            boot: rest.take()?,
        }))
    }

    fn checksum(&self, sequence: u64, length: u32, payload: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.shard.to_le_bytes());
        hasher.update(&self.generation.to_le_bytes());
        hasher.update(&self.boot);
        hasher.update(&sequence.to_le_bytes());
        hasher.update(&length.to_le_bytes());
        hasher.update(payload);
        hasher.finalize()
    }

    /// Appends the frame of a record.
    pub fn frame(&self, out: &mut Vec<u8>, sequence: u64, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.write_frame(out, sequence, length, payload);
    }

    /// Appends a commit: all records up to `sequence` have survived.
    pub fn commit(&self, out: &mut Vec<u8>, sequence: u64) {
        self.write_frame(out, sequence, COMMIT, &[]);
    }

    fn write_frame(&self, out: &mut Vec<u8>, sequence: u64, length: u32, payload: &[u8]) {
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&self.checksum(sequence, length, payload).to_le_bytes());
        out.extend_from_slice(&sequence.to_le_bytes());
        out.extend_from_slice(payload);
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    }

    /// Reads the frame at `at`; `None` where there is none of this generation.
    fn read_frame<'a>(&self, bytes: &'a [u8], at: usize) -> Option<Frame<'a>> {
        let mut rest = Reader(bytes.get(at..)?);
        let length = u32::from_le_bytes(rest.take().ok()?);
        let payload_bytes = usize::try_from(length & !COMMIT).ok()?;
        if payload_bytes > PAYLOAD_BYTES_MAX || (length & COMMIT != 0 && payload_bytes != 0) {
            return None;
        }
        let checksum = u32::from_le_bytes(rest.take().ok()?);
        let sequence = u64::from_le_bytes(rest.take().ok()?);
        let payload = rest.0.get(..payload_bytes)?;
        if self.checksum(sequence, length, payload) != checksum {
            return None;
        }
        let frame_bytes = frame_bytes(payload_bytes);
        let padding = bytes.get(at.checked_add(FRAME_HEADER_BYTES)?.checked_add(payload_bytes)?..)?;
        let padding =
            padding.get(..frame_bytes.checked_sub(FRAME_HEADER_BYTES)?.checked_sub(payload_bytes)?)?;
        let is_whole = padding.iter().all(|byte| *byte == 0);
        let is_commit = length & COMMIT != 0;
        is_whole.then_some(Frame { sequence, is_commit, payload, frame_bytes })
    }
}

/// The bytes that a record of `payload_bytes` takes in a segment.
pub const fn frame_bytes(payload_bytes: usize) -> usize {
    payload_bytes.saturating_add(FRAME_HEADER_BYTES).next_multiple_of(ALIGNMENT)
}

struct Frame<'a> {
    sequence: u64,
    is_commit: bool,
    payload: &'a [u8],
    frame_bytes: usize,
}

/// How bad bytes are taken that follow no proof of damage but precede valid records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// The machine has run on since: what was written before a commit is there.
    Strict,
    /// The machine may have lost what was not synced, in any order: a segment that
    /// [`Survives::Process`] only promises nothing then.
    Lenient,
}

/// What stands in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Its header.
    pub header: Header,
    /// Sequence and payload of each record, in order and without gaps from `first_sequence` on.
    pub records: Vec<(u64, Range<usize>)>,
    /// The last sequence that a commit vouches for; 0 where there is none.
    pub committed: u64,
    /// What stands behind the last record.
    pub end: End,
}

/// What stands behind the last record that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Nothing.
    Clean,
    /// Bytes that nothing vouches for: a write that broke off.
    Torn,
    /// A record that was committed and is not what was written.
    Damaged {
        /// Where in the file.
        at: usize,
    },
}

impl Contents {
    /// The sequence behind the last record that can be read.
    pub fn next_sequence(&self) -> u64 {
        self.records.last().map_or(self.header.first_sequence, |(last, _)| last.saturating_add(1))
    }
}

/// Reads a whole segment; `None` for one that was never begun.
///
/// A wrong [`End`] that is not damage forgets money that was spent; a wrong damage seals a journal that is whole.
pub fn read(bytes: &[u8], tail: impl Fn(&Header) -> Tail) -> Result<Option<Contents>, SegmentError> {
    // Also one whose preparation broke off.
    if bytes.len() < HEADER_BYTES && bytes.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let Some(header) = Header::decode(bytes)? else { return Ok(None) };
    let found = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if found != header.segment_bytes {
        return Err(SegmentError::Length { expected: header.segment_bytes, found });
    }
    let (mut at, mut next, mut committed) = (HEADER_BYTES, header.first_sequence, 0u64);
    let mut records = Vec::new();
    while let Some(frame) = header.read_frame(bytes, at) {
        if frame.is_commit && frame.sequence < next {
            committed = committed.max(frame.sequence);
        } else if !frame.is_commit && frame.sequence == next {
            let start = at.saturating_add(FRAME_HEADER_BYTES);
            records.push((next, start..start.saturating_add(frame.payload.len())));
            next = next.saturating_add(1);
        } else {
            break;
        }
        at = at.saturating_add(frame.frame_bytes);
    }
    let later = latest_commit_behind(&header, bytes, at);
    let is_lenient = header.survives == Survives::Process && tail(&header) == Tail::Lenient;
    let next_bytes = bytes.get(at..at.saturating_add(FRAME_HEADER_BYTES)).unwrap_or_default();
    let end = if later >= next && !is_lenient {
        End::Damaged { at }
    } else if next_bytes.iter().any(|byte| *byte != 0) && !is_of_earlier_use(&header, bytes, at) {
        End::Torn
    } else {
        End::Clean
    };
    Ok(Some(Contents { header, records, committed, end }))
}

/// Whether a frame stands at `at` that an earlier use of the file left there, or the rest of one.
fn is_of_earlier_use(header: &Header, bytes: &[u8], at: usize) -> bool {
    let from = header.generation.saturating_sub(EARLIER_USES_MAX);
    (from..header.generation).rev().any(|generation| {
        let earlier = Header { generation, ..*header };
        // Frames of both uses need not end at the same place: the next one that begins is looked for.
        let mut places = (at..bytes.len()).step_by(ALIGNMENT).take(PLACES_MAX);
        places.any(|at| earlier.read_frame(bytes, at).is_some())
    })
}

/// The highest sequence of a valid commit at or behind `at`; 0 where there is none.
fn latest_commit_behind(header: &Header, bytes: &[u8], at: usize) -> u64 {
    let mut latest = 0;
    let mut at = at;
    while at < bytes.len() {
        // Commits have no payload, so most places are ruled out by their first four bytes.
        if bytes.get(at..at.saturating_add(4)) == Some(&COMMIT.to_le_bytes())
            && let Some(frame) = header.read_frame(bytes, at)
        {
            latest = latest.max(frame.sequence);
        }
        at = at.saturating_add(ALIGNMENT);
    }
    latest
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], SegmentError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(SegmentError::Header)?;
        self.0 = rest;
        Ok(*taken)
    }
}

#[cfg(test)]
mod tests;
