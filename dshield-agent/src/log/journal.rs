//! What makes an entry durable: one write and one sync of a file that has its size from the beginning.
//!
//! Batches of rows flow in, each a frame that is on the disk when [`Journal::append`] returns; what the database
//! does not have yet flows out when the log is opened after a crash. The database takes the rows over later, many at
//! once, so that nobody waits for the pages of its trees.
//!
//! ```text
//! file   = half 0 ‖ half 1, used in turn: the next one is begun when the database has all of what it held before
//! half   = header (one page) ‖ frames, each from the beginning of a page
//! header = magic ‖ log id ‖ generation ‖ first ‖ salt ‖ SHA-256 of these
//! frame  = magic ‖ generation ‖ first ‖ rows ‖ bytes ‖ SHA-256(salt ‖ these ‖ payload) ‖ payload
//! ```
//!
//! No page holds parts of two frames, so a write that tears damages nothing that was durable before. A frame counts
//! when its hash is right: entries hold text that functions choose, so the hash is a cryptographic one, with a salt
//! that functions do not know. Only the last frame can be torn; a bad one with a good one behind it was damaged. A
//! header fits into a sector, which disks write as a whole: it is the old one, the new one, or was damaged.
use std::fmt;
use std::io;
use std::sync::Arc;

use redb::StorageBackend;
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};

use super::row::Row;

/// The size of a new file. Half of it holds any batch several times over, and some thousand small ones.
pub(super) const BYTES: u64 = 8 << 20;
const PAGE: usize = 4096;

const HEADER: &[u8; 8] = b"dsjrnlH1";
const FRAME: &[u8; 8] = b"dsjrnlF1";
const HEADER_BYTES: usize = 8 + ID + 8 + 8 + 32 + 32;
/// A log id's digits.
const ID: usize = 32;
const FRAME_HEADER: usize = 8 + 8 + 8 + 4 + 4 + 32;

/// Why the journal is of no use.
#[derive(Debug)]
pub(super) enum JournalError {
    /// The disk.
    Io(io::Error),
    /// It was changed after it was written: what is wrong.
    Damaged(String),
    /// No randomness for a salt.
    Random,
}

impl From<io::Error> for JournalError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What [`Journal::append`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Appended {
    /// The rows are durable.
    Durable,
    /// Nothing: both halves hold rows that the database has not taken over yet.
    Full,
}

/// The file, and where in it the next frame goes.
pub(super) struct Journal {
    file: Arc<dyn StorageBackend>,
    /// Of a half.
    bytes: u64,
    log_id: [u8; ID],
    /// Of the half in use.
    generation: u64,
    half: u64,
    salt: [u8; 32],
    /// Within the half; at its end before the first frame of a run, which begins a half of its own.
    offset: u64,
    /// One more than the last row that the other half holds.
    other_end: u64,
    end: u64,
    buffer: Vec<u8>,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("generation", &self.generation).field("end", &self.end).finish_non_exhaustive()
    }
}

impl Journal {
    /// Reads what `file` holds beyond the first `taken` entries, which the database has: the rows that follow. Nothing
    /// is written before the first [`Self::append`], and that overwrites nothing that the database does not have.
    pub(super) fn open(
        file: Arc<dyn StorageBackend>,
        log_id: &[u8],
        taken: u64,
    ) -> Result<(Self, Vec<Row>), JournalError> {
        let log_id = log_id.try_into().map_err(|_| JournalError::Damaged("its log has no name".to_owned()))?;
        let bytes = file.len()? / 2;
        if bytes == 0 || !bytes.is_multiple_of(PAGE as u64) {
            return Err(JournalError::Damaged("it does not have the size it was made with".to_owned()));
        }
        let read = |half| {
            let mut image = vec![0; bytes as usize];
            file.read(half * bytes, &mut image)?;
            read_half(half, &image, &log_id)
        };
        let mut halves = [read(0)?, read(1)?];
        let newest = halves.iter().map(|half| half.generation).max().unwrap_or_default();
        // The second frame of a half is written when the first one is durable, header included.
        let orphans = halves.iter().flat_map(|half| &half.orphans).filter(|generation| **generation == newest + 1);
        if orphans.count() > 1 {
            return Err(JournalError::Damaged("the header of its newest half is not readable".to_owned()));
        }
        halves.sort_by_key(|half| half.generation);
        let [older, newer] = halves;
        let found = join(taken, &older, &newer)?;
        let end = taken + found.len() as u64;
        // The next half is the one that was begun earlier: its rows are the first that the database takes over.
        let journal = Self {
            file,
            bytes,
            log_id,
            generation: newest,
            half: newer.half,
            salt: [0; 32],
            offset: bytes,
            other_end: end,
            end,
            buffer: Vec::new(),
        };
        Ok((journal, found))
    }

    /// Makes `rows` durable, numbered from `first` on. `taken` says up to which number the database has them.
    ///
    /// An error leaves it unknown whether they are on the disk: [`Self::restart`] before the next attempt.
    pub(super) fn append(&mut self, first: u64, rows: &[Row], taken: u64) -> Result<Appended, JournalError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let appended = self.write(first, rows, taken, &mut buffer);
        self.buffer = buffer;
        appended
    }

    fn write(&mut self, first: u64, rows: &[Row], taken: u64, buffer: &mut Vec<u8>) -> Result<Appended, JournalError> {
        let bytes = padded(FRAME_HEADER + rows.iter().map(framed_bytes).sum::<usize>()) as u64;
        if PAGE as u64 + bytes > self.bytes {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "more rows at once than the journal holds").into());
        }
        if self.offset + bytes > self.bytes {
            if self.other_end > taken {
                return Ok(Appended::Full);
            }
            self.begin_half(first, buffer)?;
        }
        let start = buffer.len();
        frame(buffer, self.generation, first, rows, &self.salt);
        debug_assert_eq!(buffer.len() - start, bytes as usize);
        self.file.write(self.half * self.bytes + self.offset, buffer)?;
        self.file.sync_data()?;
        self.offset += buffer.len() as u64;
        self.end = first + rows.len() as u64;
        Ok(Appended::Durable)
    }

    /// Turns to the other half, whose header is written along with its first frame.
    fn begin_half(&mut self, first: u64, buffer: &mut Vec<u8>) -> Result<(), JournalError> {
        SystemRandom::new().fill(&mut self.salt).map_err(|_| JournalError::Random)?;
        self.generation += 1;
        self.half = 1 - self.half;
        self.other_end = self.end;
        self.offset = 0;
        header(buffer, &self.log_id, self.generation, first, &self.salt);
        Ok(())
    }

    /// After an error, and when the database has all rows up to `next`: begins a half with a frame of no rows. When
    /// this succeeds the disk takes writes again, and what the failed write may have left behind does not count.
    pub(super) fn restart(&mut self, next: u64) -> Result<(), JournalError> {
        self.offset = self.bytes;
        self.end = next;
        match self.append(next, &[], u64::MAX)? {
            Appended::Durable | Appended::Full => Ok(()),
        }
    }

    /// How much of the half in use is used, from 0 to 1.
    pub(super) fn used(&self) -> f32 {
        self.offset as f32 / self.bytes as f32
    }
}

fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(PAGE)
}

fn framed_bytes(row: &Row) -> usize {
    4 + 2 + row.bytes()
}

fn header(buffer: &mut Vec<u8>, log_id: &[u8; ID], generation: u64, first: u64, salt: &[u8; 32]) {
    buffer.extend_from_slice(HEADER);
    buffer.extend_from_slice(log_id);
    buffer.extend_from_slice(&generation.to_be_bytes());
    buffer.extend_from_slice(&first.to_be_bytes());
    buffer.extend_from_slice(salt);
    let digest = Sha256::digest(&buffer[..]);
    buffer.extend_from_slice(&digest);
    buffer.resize(PAGE, 0);
}

fn frame(buffer: &mut Vec<u8>, generation: u64, first: u64, rows: &[Row], salt: &[u8; 32]) {
    let start = buffer.len();
    let bytes: usize = rows.iter().map(framed_bytes).sum();
    buffer.extend_from_slice(FRAME);
    buffer.extend_from_slice(&generation.to_be_bytes());
    buffer.extend_from_slice(&first.to_be_bytes());
    // A half is smaller than 4 GiB.
    buffer.extend_from_slice(&(rows.len() as u32).to_be_bytes());
    buffer.extend_from_slice(&(bytes as u32).to_be_bytes());
    buffer.extend_from_slice(&[0; 32]);
    for row in rows {
        buffer.extend_from_slice(&((framed_bytes(row) - 4) as u32).to_be_bytes());
        row.encode(buffer);
    }
    let digest = frame_digest(salt, &buffer[start..]);
    buffer[start + FRAME_HEADER - 32..start + FRAME_HEADER].copy_from_slice(&digest);
    buffer.resize(start + padded(buffer.len() - start), 0);
}

fn frame_digest(salt: &[u8; 32], frame: &[u8]) -> [u8; 32] {
    let (head, payload) = frame.split_at(FRAME_HEADER);
    Sha256::new().chain_update(salt).chain_update(&head[..FRAME_HEADER - 32]).chain_update(payload).finalize().into()
}

/// What one half holds.
#[derive(Debug, Default)]
struct Half {
    half: u64,
    /// 0 where it has no header that counts.
    generation: u64,
    /// How many entries were durable when it was begun.
    first: u64,
    frames: Vec<(u64, Vec<Row>)>,
    /// Of which generations the frames behind a header that does not count say they are.
    orphans: Vec<u64>,
}

fn read_half(half: u64, image: &[u8], log_id: &[u8; ID]) -> Result<Half, JournalError> {
    let (page, mut rest) = image.split_at(PAGE);
    let Some((of, generation, first, salt)) = parse_header(page) else {
        if page.iter().any(|byte| *byte != 0) {
            return Err(JournalError::Damaged(format!("the header of half {half} is not readable")));
        }
        let orphans = rest.chunks(PAGE).filter_map(generation_of).collect();
        return Ok(Half { half, orphans, ..Half::default() });
    };
    if of != *log_id {
        return Err(JournalError::Damaged("it belongs to another log; move it away together with that".to_owned()));
    }
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let bytes = match parse_frame(rest, generation, &salt) {
            Some((first, rows, bytes)) => {
                frames.push((first, rows));
                bytes
            }
            // Torn, of an earlier generation, or damaged: what is missing then is seen when they are joined.
            None => PAGE,
        };
        rest = &rest[bytes..];
    }
    Ok(Half { half, generation, first, frames, orphans: Vec::new() })
}

/// What both halves hold beyond the first `taken` entries. The newer one was begun when all before it were durable: what
/// the older one has from there on was never acknowledged.
fn join(taken: u64, older: &Half, newer: &Half) -> Result<Vec<Row>, JournalError> {
    let mut found = Vec::new();
    let missing = |from: u64, to: u64| {
        Err(JournalError::Damaged(format!("entries {from} to {} are not readable", to.saturating_sub(1))))
    };
    for (half, end) in [(older, newer.first), (newer, u64::MAX)] {
        for (first, rows) in &half.frames {
            let next = taken + found.len() as u64;
            let rows = &rows[..rows.len().min(end.saturating_sub(*first) as usize)];
            let known = next.saturating_sub(*first) as usize;
            if *first > next && !rows.is_empty() {
                return missing(next, *first);
            }
            found.extend(rows.iter().skip(known).cloned());
        }
        let next = taken + found.len() as u64;
        if newer.first > next {
            return missing(next, newer.first);
        }
    }
    Ok(found)
}

fn parse_header(page: &[u8]) -> Option<([u8; ID], u64, u64, [u8; 32])> {
    let (header, digest) = page.get(..HEADER_BYTES)?.split_at(HEADER_BYTES - 32);
    if Sha256::digest(header)[..] != *digest {
        return None;
    }
    let fields = header.strip_prefix(HEADER)?;
    let (log_id, fields) = fields.split_first_chunk()?;
    let (generation, fields) = fields.split_first_chunk()?;
    let (first, salt) = fields.split_first_chunk()?;
    Some((*log_id, u64::from_be_bytes(*generation), u64::from_be_bytes(*first), salt.try_into().ok()?))
}

fn generation_of(page: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*page.strip_prefix(FRAME)?.first_chunk()?))
}

/// The frame at the beginning of `bytes`: the number of its first row, its rows, and how long it is with its padding.
fn parse_frame(bytes: &[u8], generation: u64, salt: &[u8; 32]) -> Option<(u64, Vec<Row>, usize)> {
    let fields = bytes.strip_prefix(FRAME)?;
    let (of, fields) = fields.split_first_chunk()?;
    let (first, fields) = fields.split_first_chunk()?;
    let (count, fields) = fields.split_first_chunk()?;
    let (length, fields) = fields.split_first_chunk()?;
    if u64::from_be_bytes(*of) != generation {
        return None;
    }
    let length = FRAME_HEADER + u32::from_be_bytes(*length) as usize;
    let whole = bytes.get(..length)?;
    if frame_digest(salt, whole)[..] != *fields.get(..32)? {
        return None;
    }
    let mut rows = Vec::new();
    let mut payload = &whole[FRAME_HEADER..];
    while let Some((length, rest)) = payload.split_first_chunk() {
        let (row, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        rows.push(Row::decode(row)?);
        payload = rest;
    }
    (rows.len() == u32::from_be_bytes(*count) as usize).then_some((u64::from_be_bytes(*first), rows, padded(length)))
}
