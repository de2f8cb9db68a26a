//! One binlog file: a descriptor and events, of which each holds a whole Parquet file as its payload.
//!
//! All numbers are little-endian. At 0 the magic number 0xfffabc (i32). Then events, each with a header of 17 bytes: u64
//! timestamp, u8 type, i32 length of the event with its header, i32 offset of the next event. The first is the
//! descriptor: collection, partition, segment and field (i64 each; −1 is no field), the timestamps of the first and last
//! row (u64), the payload's type (i32, as in [`crate::schema::DataType`]), the lengths of post-headers (u8 for each type
//! of event), and JSON. The data of inserts and deletes begins with two timestamps (u64); the payload follows. Checked on
//! files of Milvus 2.3.5. Read in the public sources of later versions: what their compaction and sorting write has −1 as the
//! offset of an event's next one, and 0 as the timestamps of the first and last row.

use std::ops::Range;

use parquet::file::reader::Length;

use crate::error::{Error, Kind, Result};
use crate::parquet::Source;

const MAGIC: u32 = 0x00ff_fabc;
const HEADER: u64 = 17;
/// Where the first event, the descriptor, begins.
const FIRST: u64 = 4;
/// Up to the lengths of post-headers.
const DESCRIPTOR_FIXED: u64 = 52;
/// The two timestamps before a payload.
const DATA_HEADER: u64 = 16;
/// More events than any writer makes; a file has one, in rare cases a few.
const MOST_EVENTS: usize = 65_536;

/// What sort of rows an event holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// Values of one field.
    Insert,
    /// Primary keys and when they were deleted.
    Delete,
}

/// What a file says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Milvus's number of the collection.
    pub collection: i64,
    /// Milvus's number of the partition; −1 for all.
    pub partition: i64,
    /// Milvus's number of the segment.
    pub segment: i64,
    /// Milvus's number of the field; −1 for deletes.
    pub field: i64,
    /// The hybrid timestamp of the earliest row, and of the latest; the widest span where the file does not tell.
    pub times: (u64, u64),
    /// The payload's type, as Milvus numbers it.
    pub payload_type: i32,
    /// The hybrid timestamp of the file's own writing.
    pub written: u64,
}

/// A file, taken apart.
#[derive(Clone)]
pub struct Binlog {
    /// What it says of itself.
    pub descriptor: Descriptor,
    /// Its payloads in order, each a Parquet file.
    pub payloads: Vec<Source>,
}

impl Binlog {
    /// Takes a file apart; `name` is its name in errors. Payloads are not read.
    ///
    /// # Errors
    /// [`Kind::BackupCorrupted`] with `failed_files` where it is no binlog of `kind`, or is cut off.
    pub fn open(source: &Source, kind: EventKind, name: &str) -> Result<Self> {
        let damaged = |what: &str| damaged(name, what);
        let read = |range: Range<u64>| read(source, range, name);
        let (descriptor, next) = Descriptor::find(source, source.len(), name)?;
        let wanted = match kind {
            EventKind::Insert => 1,
            EventKind::Delete => 2,
        };
        let (mut at, mut payloads) = (next, Vec::new());
        while at < source.len() {
            let header = if source.len() - at < HEADER { None } else { Some(read(at..at + HEADER)?) };
            let (header, next) = header
                .and_then(|bytes| Header::read(&bytes, at, source.len()))
                .filter(|(header, _)| header.length >= HEADER + DATA_HEADER)
                .ok_or_else(|| damaged(&format!("has an event at byte {at} that is cut off")))?;
            if header.kind != wanted {
                return Err(damaged(&format!("has an event of type {} at byte {at}", header.kind)));
            }
            let payload = source.part(at + HEADER + DATA_HEADER..at + header.length);
            payloads.push(payload.ok_or_else(|| damaged("has an event that reaches beyond its end"))?);
            if payloads.len() > MOST_EVENTS {
                return Err(damaged("has more events than any writer makes"));
            }
            at = next;
        }
        Ok(Self { descriptor, payloads })
    }
}

/// The header of an event.
struct Header {
    time: u64,
    kind: u8,
    length: u64,
}

impl Header {
    /// Reads the header of the event at `at`, and where the next one begins: behind it, and within the file.
    fn read(bytes: &[u8], at: u64, file_length: u64) -> Option<(Self, u64)> {
        let length = u64::try_from(i32::from_le_bytes(bytes.get(9..13)?.try_into().ok()?)).ok()?;
        let next = at.checked_add(length)?;
        let said = i32::from_le_bytes(bytes.get(13..17)?.try_into().ok()?);
        let agrees = said == -1 || u64::try_from(said) == Ok(next);
        let whole = length >= HEADER && agrees && next <= file_length;
        let time = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
        whole.then_some((Self { time, kind: *bytes.get(8)?, length }, next))
    }
}

impl Descriptor {
    /// Reads the descriptor of a file of `length` bytes, of which only the start is at hand.
    ///
    /// # Errors
    /// [`Kind::BackupCorrupted`] with `failed_files` where it is no binlog.
    pub fn of_start(start: &Source, length: u64, name: &str) -> Result<Self> {
        Self::find(start, length, name).map(|(descriptor, _)| descriptor)
    }

    /// Reads the descriptor of a file of `length` bytes, and where the next event begins.
    fn find(source: &Source, length: u64, name: &str) -> Result<(Self, u64)> {
        let damaged = |what: &str| damaged(name, what);
        let read = |range: Range<u64>| read(source, range, name);
        let start = read(0..FIRST)?;
        if *start != MAGIC.to_le_bytes() {
            return Err(damaged("does not begin as one of Milvus's binlogs does"));
        }
        let (header, next) = Header::read(&read(FIRST..FIRST + HEADER)?, FIRST, length)
            .ok_or_else(|| damaged("has a first event that reaches beyond its end"))?;
        if header.kind != 0 || header.length < HEADER + DESCRIPTOR_FIXED {
            return Err(damaged("has no descriptor"));
        }
        let fixed = read(FIRST + HEADER..FIRST + HEADER + DESCRIPTOR_FIXED)?;
        let descriptor = Self::read(&fixed).ok_or_else(|| damaged("has no whole descriptor"))?;
        Ok((Self { written: header.time, ..descriptor }, next))
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let long = |at: usize| Some(i64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let time = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        Some(Self {
            collection: long(0)?,
            partition: long(8)?,
            segment: long(16)?,
            field: long(24)?,
            times: told(time(32)?, time(40)?),
            payload_type: i32::from_le_bytes(bytes.get(48..52)?.try_into().ok()?),
            written: 0,
        })
    }
}

/// The timestamps that a descriptor tells; the widest span where they are none that a row can have.
#[must_use]
pub fn told(start: u64, end: u64) -> (u64, u64) {
    const LOGICAL_BITS: u32 = 18;
    if end >> LOGICAL_BITS == 0 { (0, u64::MAX) } else { (start, end) }
}

fn read(source: &Source, range: Range<u64>, name: &str) -> Result<bytes::Bytes> {
    let length = range.end - range.start;
    let bytes = source.read_up_to(range.start, length).map_err(|error| unreadable(name, &error.to_string()))?;
    if bytes.len() as u64 == length { Ok(bytes) } else { Err(damaged(name, "is cut off")) }
}

pub(super) fn unreadable(name: &str, why: &str) -> Error {
    Error::new(Kind::Storage, format!("{name} could not be read: {why}"))
}

pub(super) fn damaged(name: &str, what: &str) -> Error {
    Error::new(
        Kind::BackupCorrupted,
        format!("{name} is damaged: it {what}. Verify the backup, and restore from another one"),
    )
    .with("failed_files", vec![name])
}
