//! The judge's own record: one JSON line for every request that reached the vendor, written before its reply.
//!
//! What is counted here is what the vendor did, whatever the proxy believes. Keys never stand in it: header values
//! are not written, and a secret inside a path, query or body is cut off behind its prefix.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use keybrake_proto::http1::{HeadLimits, Parsed, RequestHead};
use serde::{Deserialize, Serialize, Serializer};

use super::redact;
use super::stripe::Answer;
use crate::arrival::{Arrival, Clock};

/// Bytes of a body that stand in a line.
const BODY_BYTES_MAX: usize = 2_048;
/// Lines that `GET /__ledger` shows.
const LINES_MAX: usize = 1_000;
/// Requests that `GET /__headers` shows.
const HEADS_MAX: usize = 100;

/// What every line begins with.
const LINE_START: &[u8] = b"{\"seq\":";

/// A request's bytes, as far as they could be read.
#[derive(Clone, Copy)]
pub(crate) struct Received<'a> {
    /// When its first byte arrived.
    pub(crate) arrival: Arrival,
    /// The head as it was parsed; `None` if it could not be.
    pub(crate) head: Option<&'a RequestHead>,
    /// The bytes the head was parsed from.
    pub(crate) head_bytes: &'a [u8],
    /// The decoded body.
    pub(crate) body: &'a [u8],
    /// Why head or body could not be read.
    pub(crate) malformed: Option<&'a str>,
}

/// The record of one run.
pub(crate) struct Ledger {
    file: Option<File>,
    /// Each line reaches the disk before its reply is sent.
    is_durable: bool,
    /// The last line's number, over all runs that wrote to the file.
    seq: u64,
    totals: Totals,
    lines: VecDeque<Vec<u8>>,
    heads: VecDeque<SeenHead>,
    vault_key_seen: bool,
}

#[derive(Default, Serialize)]
struct Totals {
    requests: u64,
    accepted: u64,
    accepted_minor: u64,
    accepted_minor_by_currency: BTreeMap<String, u64>,
}

/// One line. The order is that of a reader: what came, what became of it, then the text.
#[derive(Serialize)]
struct Line<'a> {
    seq: u64,
    arrival_us: u64,
    arrival_by: Clock,
    method: &'a str,
    path: &'a str,
    query: Option<&'a str>,
    idempotency_key: Option<&'a str>,
    amount: Option<u64>,
    currency: Option<&'a str>,
    authorized: bool,
    accepted: bool,
    accepted_minor: u64,
    replayed: bool,
    /// What was asked for, by the request or by the plan.
    outcome: Option<&'a str>,
    /// The planned status; `null` if there is none.
    status: Option<u16>,
    delivery: &'static str,
    request_id: &'a str,
    malformed: Option<&'a str>,
    body_bytes: usize,
    body: &'a str,
    headers: Names<'a>,
}

/// What a later run reads of a line.
#[derive(Deserialize)]
struct Numbered {
    seq: u64,
}

/// The header names received, in order.
struct Names<'a> {
    head: Option<&'a RequestHead>,
    bytes: &'a [u8],
}

impl Serialize for Names<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = self.head.into_iter().flat_map(|head| head.fields(self.bytes));
        serializer.collect_seq(fields.map(|(name, _)| text(name)))
    }
}

/// A head as it came, credentials included: it is shown by [`Ledger::show_headers`] only.
#[derive(Default)]
struct SeenHead {
    seq: u64,
    is_authorized: bool,
    bytes: Vec<u8>,
}

/// A [`SeenHead`] as it is shown.
#[derive(Serialize)]
struct ShownHead {
    seq: u64,
    method: &'static str,
    path: String,
    headers: Vec<(String, String)>,
}

#[derive(Serialize)]
struct ShownHeads {
    vault_key_seen: bool,
    requests: Vec<ShownHead>,
}

impl Ledger {
    /// A record kept in memory, and appended to `path` if there is one. Numbers go on where the file ends.
    ///
    /// # Errors
    /// The file cannot be opened for appending, or is no ledger.
    pub(crate) fn open(path: Option<&Path>, is_durable: bool) -> io::Result<Ledger> {
        let file =
            path.map(|path| File::options().read(true).append(true).create(true).open(path)).transpose()?;
        Ok(Ledger {
            seq: file.as_ref().map_or(Ok(0), last_seq)?,
            file,
            is_durable,
            totals: Totals::default(),
            lines: VecDeque::new(),
            heads: VecDeque::new(),
            vault_key_seen: false,
        })
    }

    /// The number that the next line will have.
    pub(crate) fn next_seq(&self) -> u64 {
        self.seq.saturating_add(1)
    }

    /// Records a request and what it came to. The reply may be sent afterwards, not before.
    ///
    /// # Errors
    /// The line could not be written: the run proves nothing from then on, and must end.
    pub(crate) fn record(&mut self, received: &Received<'_>, answer: &Answer) -> io::Result<()> {
        self.seq = self.next_seq();
        self.count(received, answer);
        let is_full = self.lines.len() >= LINES_MAX;
        let mut line = self.lines.pop_front_if(|_| is_full).unwrap_or_default();
        line.clear();
        write_line(&mut line, self.seq, received, answer)?;
        if let Some(file) = &mut self.file {
            file.write_all(&line)?;
            if self.is_durable {
                file.sync_data()?;
            }
        }
        self.lines.push_back(line);
        Ok(())
    }

    fn count(&mut self, received: &Received<'_>, answer: &Answer) {
        let entry = &answer.entry;
        let totals = &mut self.totals;
        totals.requests = totals.requests.saturating_add(1);
        if entry.accepted {
            totals.accepted = totals.accepted.saturating_add(1);
            totals.accepted_minor = totals.accepted_minor.saturating_add(entry.committed_minor);
            if let Some(currency) = entry.currency.as_deref().filter(|_| entry.committed_minor > 0) {
                let sums = &mut totals.accepted_minor_by_currency;
                match sums.get_mut(currency) {
                    Some(sum) => *sum = sum.saturating_add(entry.committed_minor),
                    None => drop(sums.insert(currency.to_owned(), entry.committed_minor)),
                }
            }
        }
        self.vault_key_seen |= entry.vault_key_presented
            || redact::holds_vault_key(received.head_bytes)
            || redact::holds_vault_key(received.body);
        if received.head.is_some() {
            let is_full = self.heads.len() >= HEADS_MAX;
            let mut head = self.heads.pop_front_if(|_| is_full).unwrap_or_default();
            head.seq = self.seq;
            head.is_authorized = entry.authorized;
            head.bytes.clear();
            head.bytes.extend_from_slice(received.head_bytes);
            self.heads.push_back(head);
        }
    }

    /// Brings what was written to the disk.
    ///
    /// # Errors
    /// The disk refused.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), File::sync_data)
    }

    /// The body of `GET /__ledger`: the totals and the last lines.
    ///
    /// # Errors
    /// None in memory.
    pub(crate) fn show(&self) -> io::Result<Vec<u8>> {
        let mut out = serde_json::to_vec(&self.totals)?;
        // The totals are an object: it is reopened for the lines, which are JSON already.
        out.pop();
        out.extend_from_slice(b",\"lines\":[");
        for (index, line) in self.lines.iter().enumerate() {
            out.extend_from_slice(if index == 0 { b"\n" } else { b",\n" });
            out.extend_from_slice(line.trim_ascii_end());
        }
        out.extend_from_slice(b"]}\n");
        Ok(out)
    }

    /// The body of `GET /__headers`: the heads of the last requests, without their keys.
    ///
    /// # Errors
    /// None in memory.
    pub(crate) fn show_headers(&self) -> io::Result<Vec<u8>> {
        let requests = self.heads.iter().map(SeenHead::shown).collect();
        let shown = ShownHeads { vault_key_seen: self.vault_key_seen, requests };
        let mut out = serde_json::to_vec(&shown)?;
        out.push(b'\n');
        Ok(out)
    }
}

impl SeenHead {
    fn shown(&self) -> ShownHead {
        let mut head = RequestHead::new();
        // It was parsed before, so it parses again.
        let parsed = head.parse(&self.bytes, &HeadLimits::REQUEST);
        debug_assert!(matches!(parsed, Ok(Parsed::Complete { .. })), "a kept head is whole");
        let key = if self.is_authorized { "[key ok]" } else { "[key wrong]" };
        let headers = head.fields(&self.bytes).map(|(name, value)| {
            let value = if name.eq_ignore_ascii_case(b"authorization") {
                key.to_owned()
            } else {
                redact::redacted(&String::from_utf8_lossy(value)).into_owned()
            };
            (text(name).to_owned(), value)
        });
        ShownHead {
            seq: self.seq,
            method: head.method().as_str(),
            path: redact::redacted(text(head.path(&self.bytes))).into_owned(),
            headers: headers.collect(),
        }
    }
}

fn write_line(out: &mut Vec<u8>, seq: u64, received: &Received<'_>, answer: &Answer) -> io::Result<()> {
    let Received { arrival, head, head_bytes, body, malformed } = *received;
    let entry = &answer.entry;
    let path = redact::redacted(text(head.map_or(b"", |head| head.path(head_bytes))));
    let query = head.and_then(|head| head.query(head_bytes)).map(|query| redact::redacted(text(query)));
    let key = head.and_then(|head| head.idempotency_key(head_bytes));
    let key = key.map(String::from_utf8_lossy);
    let key = key.as_deref().map(redact::redacted);
    let start = String::from_utf8_lossy(body.get(..BODY_BYTES_MAX).unwrap_or(body));
    let start = redact::redacted(&start);
    let line = Line {
        seq,
        arrival_us: arrival.us,
        arrival_by: arrival.by,
        method: head.map_or("", |head| head.method().as_str()),
        path: &path,
        query: query.as_deref(),
        idempotency_key: key.as_deref(),
        amount: entry.amount,
        currency: entry.currency.as_deref(),
        authorized: entry.authorized,
        accepted: entry.accepted,
        accepted_minor: entry.committed_minor,
        replayed: answer.original_request.is_some(),
        outcome: entry.outcome,
        status: answer.delivery.has_answer().then_some(answer.status),
        delivery: answer.delivery.name(),
        request_id: &answer.request_id,
        malformed,
        body_bytes: body.len(),
        body: &start,
        headers: Names { head, bytes: head_bytes },
    };
    serde_json::to_writer(&mut *out, &line)?;
    out.push(b'\n');
    Ok(())
}

/// The number of a file's last line; 0 if it is empty. A line that was not finished was not answered: it is cut off.
fn last_seq(file: &File) -> io::Result<u64> {
    let mut reader = BufReader::new(file);
    let (mut last, mut line, mut whole_bytes) = (Vec::new(), Vec::new(), 0_u64);
    while reader.read_until(b'\n', &mut line)? > 0 && line.ends_with(b"\n") {
        whole_bytes = whole_bytes.saturating_add(line.len() as u64);
        std::mem::swap(&mut last, &mut line);
        line.clear();
    }
    let no_entry =
        |why: String| io::Error::new(io::ErrorKind::InvalidData, format!("its last line is no entry{why}"));
    let seq = if last.is_empty() {
        0
    } else {
        serde_json::from_slice::<Numbered>(&last).map_err(|error| no_entry(format!(": {error}")))?.seq
    };
    if !line.is_empty() {
        // Some other file must not lose its end.
        let is_entry = line.starts_with(LINE_START) || LINE_START.starts_with(&line);
        if !is_entry {
            return Err(no_entry(String::new()));
        }
        file.set_len(whole_bytes)?;
    }
    Ok(seq)
}

/// Names, paths and queries are ASCII once they are parsed.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}
