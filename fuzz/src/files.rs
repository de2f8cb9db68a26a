//! Pieces → files. Mutations rarely keep lengths and names right that a reader checks first; where a piece says so, they
//! are put right here, so that what lies behind those checks is reached too.
//!
//! | form | the piece is |
//! |---|---|
//! | 0 | a file as it is |
//! | 1 | a Parquet file, put into an event of a binlog that says the right things of itself |
//! | 2 | the pages of a Parquet file; kept until its footer comes |
//! | 3 | the footer of a Parquet file, whose length and end are added; then as 1 |

use bytes::Bytes;
use milvault::binlog::LogFile;
use milvault::parquet::Source;

use crate::SEGMENT;
use crate::pieces::{BARE, FORM, FURTHER, Piece, SLOT};

/// Events of a row each.
pub const INSERTS: u8 = 1;
/// Events of deletes.
pub const DELETES: u8 = 2;

/// As a file.
pub const WHOLE: u8 = 0 << 3;
/// As a Parquet file.
pub const PAYLOAD: u8 = 1 << 3;
/// As the pages of one.
pub const PAGES: u8 = 2 << 3;
/// As the footer of one.
pub const FOOTER: u8 = 3 << 3;

const MAGIC: u32 = 0x00ff_fabc;
const HEADER: usize = 17;
/// What a descriptor has behind its header: its numbers, the lengths of post-headers, and no JSON.
const DESCRIPTOR: usize = 52 + 12;

/// The files of pieces, each with its slot; `kind` says of a slot which field its files are of, and what their events are.
pub fn assemble(pieces: &[Piece], kind: impl Fn(u8) -> (i64, u8)) -> Vec<(u8, Vec<u8>)> {
    let mut files: Vec<(u8, Vec<u8>)> = Vec::new();
    let mut pages: &[u8] = &[];
    for piece in pieces {
        let slot = piece.head & SLOT;
        let payload = match piece.head & FORM {
            WHOLE => {
                files.push((slot, piece.bytes.clone()));
                continue;
            }
            PAGES => {
                pages = &piece.bytes;
                continue;
            }
            FOOTER => {
                let length = u32::try_from(piece.bytes.len()).unwrap_or(u32::MAX);
                [std::mem::take(&mut pages), &piece.bytes, &length.to_le_bytes(), b"PAR1"].concat()
            }
            _ => piece.bytes.clone(),
        };
        let (field, events) = kind(slot);
        let last = files.iter_mut().rev().find(|(of, _)| *of == slot);
        match last.filter(|_| piece.head & FURTHER != 0) {
            Some((_, file)) => event(file, events, &payload),
            None if piece.head & BARE != 0 => files.push((slot, payload)),
            None => files.push((slot, binlog(field, events, &payload))),
        }
    }
    files
}

/// A binlog with one event.
#[must_use]
pub fn binlog(field: i64, events: u8, payload: &[u8]) -> Vec<u8> {
    let mut file = MAGIC.to_le_bytes().to_vec();
    header(&mut file, 0, DESCRIPTOR);
    for number in [1, 2, SEGMENT, field, 10, 20] {
        file.extend(number.to_le_bytes());
    }
    file.extend(5i32.to_le_bytes());
    file.extend([0; DESCRIPTOR - 52]);
    event(&mut file, events, payload);
    file
}

fn event(file: &mut Vec<u8>, events: u8, payload: &[u8]) {
    header(file, events, 16 + payload.len());
    file.extend(10u64.to_le_bytes());
    file.extend(20u64.to_le_bytes());
    file.extend(payload);
}

fn header(file: &mut Vec<u8>, kind: u8, data: usize) {
    let number = |length: usize| i32::try_from(length).unwrap_or(i32::MAX).to_le_bytes();
    let end = file.len() + HEADER + data;
    file.extend(10u64.to_le_bytes());
    file.push(kind);
    file.extend(number(HEADER + data));
    file.extend(number(end));
}

/// A file under a name for errors, in memory or, as those in an object store are, read by ranges.
#[must_use]
pub fn log(name: String, bytes: impl Into<Bytes>, elsewhere: bool) -> LogFile {
    let bytes = bytes.into();
    let source = if elsewhere {
        Source::elsewhere(bytes.len() as u64, move |range| {
            let number = |at: u64| usize::try_from(at).map_err(std::io::Error::other);
            Ok(bytes.slice(number(range.start)?..number(range.end)?))
        })
    } else {
        bytes.into()
    };
    LogFile { path: name, source }
}
