//! How many rows a binlog file holds, and from when, told while its bytes pass by.
//!
//! A file is a magic number and events; each event says how long it is. The first one tells the rows' earliest and latest
//! timestamp, the others end in a Parquet file, whose footer counts the rows. Only those are kept. A file of storage version
//! 2 is one Parquet file, and its footer tells all of it. What is not laid out so is not whole: on a local disk, Milvus
//! writes its files in place, and one may be read before its end is there.

use parquet::file::metadata::ParquetMetaData;

use crate::binlog::event;
use crate::binlog::packed::{self, Packed};
use crate::parquet::footer;
use crate::repository::Look;

const MAGIC: [u8; 4] = 0x00ff_fabc_u32.to_le_bytes();
/// Timestamp, type, length and next position.
const HEADER: usize = 17;
/// Type of the event that a file begins with, which has no rows.
const DESCRIPTOR: u8 = 0;
/// The start and end timestamps that come before an event's Parquet file.
const BEFORE_PARQUET: u64 = 16;
/// No footer of a file with one column is longer.
const LONGEST_FOOTER: u64 = 1 << 20;
/// Nor one of a file with many columns, in row groups of a megabyte.
const LONGEST_PACKED_FOOTER: usize = 4 << 20;

/// The two timestamps' place in a descriptor's data, behind the event's header.
const DESCRIPTOR_TIMES: usize = 32;

/// What a file says of its rows. Files of one segment's fields that hold the same rows say the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// How many there are.
    pub rows: u64,
    /// The earliest and latest hybrid timestamp, the widest span where the file does not tell; none in storage version 2,
    /// where one file of a segment's has them.
    pub times: Option<(u64, u64)>,
}

/// What a file says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What is the same in the files of all fields.
    pub span: Span,
    /// The latest hybrid timestamp of a row, `u64::MAX` where only the rows tell it; 0 where another file has their
    /// timestamps.
    pub end: u64,
    /// The fields that it has columns of, where they are several.
    pub fields: Option<Vec<i64>>,
}

/// Counts as bytes pass.
#[derive(Default)]
pub struct LogRows {
    /// Bytes that have passed.
    at: u64,
    /// Where the event ends that is passing.
    event_end: u64,
    event_type: u8,
    /// The magic number, or an event's header, as far as it has passed.
    head: Vec<u8>,
    /// The end of the event that is passing.
    tail: Vec<u8>,
    rows: u64,
    times: (u64, u64),
    events: u64,
    /// Whether it is a Parquet file; then all of it passes as one event without an end.
    is_packed: bool,
    wrong: Option<&'static str>,
}

impl Look for LogRows {
    fn look(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.wrong.is_none() {
            let taken = match self.step(bytes) {
                Ok(taken) => taken,
                Err(wrong) => {
                    self.wrong = Some(wrong);
                    return;
                }
            };
            self.at += taken as u64;
            bytes = &bytes[taken..];
            if self.events > 0 && self.at == self.event_end {
                self.wrong = self.end_event().err();
            }
        }
    }
}

impl LogRows {
    /// What the file holds, once all bytes have passed; else what is wrong with it.
    pub fn told(&self) -> Result<Told, &'static str> {
        match self.wrong {
            Some(wrong) => Err(wrong),
            None if self.is_packed => {
                let packed = Packed::of(&footer_of(&self.tail)?)?;
                let span = Span { rows: packed.rows, times: None };
                let end = packed.times.map_or(0, |(_, end)| end);
                Ok(Told { span, end, fields: Some(packed.columns.into_keys().collect()) })
            }
            None if self.events < 2 || self.at != self.event_end || !self.head.is_empty() => Err("ends too early"),
            None => {
                let span = Span { rows: self.rows, times: Some(self.times) };
                Ok(Told { span, end: self.times.1, fields: None })
            }
        }
    }

    /// Takes some of the bytes; says how many.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, &'static str> {
        if self.at < MAGIC.len() as u64 {
            let taken = self.fill_head(bytes, MAGIC.len());
            if self.head.len() == MAGIC.len() {
                self.is_packed = self.head == packed::MAGIC;
                if !self.is_packed && self.head != MAGIC {
                    return Err("does not begin as a binlog does");
                }
                self.head.clear();
            }
            return Ok(taken);
        }
        if self.is_packed {
            self.tail.extend_from_slice(bytes);
            if self.tail.len() >= 2 * LONGEST_PACKED_FOOTER {
                self.tail.drain(..self.tail.len() - LONGEST_PACKED_FOOTER);
            }
            return Ok(bytes.len());
        }
        if self.events == 0 || self.at == self.event_end || !self.head.is_empty() {
            let begun = self.head.len() as u64;
            let taken = self.fill_head(bytes, HEADER);
            if self.head.len() == HEADER {
                self.begin_event(self.at - begun)?;
            }
            return Ok(taken);
        }
        let left = self.event_end - self.at;
        let taken = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        let skipped = usize::try_from(left.saturating_sub(LONGEST_FOOTER)).unwrap_or(usize::MAX).min(taken);
        self.tail.extend_from_slice(&bytes[skipped..taken]);
        Ok(taken)
    }

    fn fill_head(&mut self, bytes: &[u8], length: usize) -> usize {
        let taken = (length - self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..taken]);
        taken
    }

    fn begin_event(&mut self, start: u64) -> Result<(), &'static str> {
        let length: [u8; 4] = self.head[9..13].try_into().map_err(|_| "has an event without a length")?;
        let length = u64::try_from(i32::from_le_bytes(length)).map_err(|_| "has an event of negative length")?;
        self.event_type = self.head[8];
        if (self.event_type == DESCRIPTOR) != (self.events == 0) {
            return Err("has an event out of place");
        }
        if length < HEADER as u64 + BEFORE_PARQUET || (self.events == 0 && length > LONGEST_FOOTER) {
            return Err("has an event of a length that none has");
        }
        self.events += 1;
        self.event_end = start + length;
        self.head.clear();
        self.tail.clear();
        Ok(())
    }

    fn end_event(&mut self) -> Result<(), &'static str> {
        if self.event_type == DESCRIPTOR {
            let time = |at: usize| self.tail.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
            let times = time(DESCRIPTOR_TIMES).zip(time(DESCRIPTOR_TIMES + 8));
            let (start, end) = times.ok_or("has a descriptor that is too short")?;
            self.times = event::told(start, end);
            return Ok(());
        }
        let footer = footer_of(&self.tail)?;
        let rows = u64::try_from(footer.file_metadata().num_rows()).map_err(|_| "has a negative number of rows")?;
        self.rows = self.rows.checked_add(rows).ok_or("has too many rows")?;
        Ok(())
    }
}

/// The footer at the end of a Parquet file, of which these are the last bytes.
fn footer_of(tail: &[u8]) -> Result<ParquetMetaData, &'static str> {
    let (rest, magic) = tail.split_last_chunk::<4>().ok_or("is too short for a Parquet file")?;
    let (rest, length) = rest.split_last_chunk::<4>().ok_or("is too short for a Parquet file")?;
    if *magic != packed::MAGIC {
        return Err("does not end as Parquet does");
    }
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let start = rest.len().checked_sub(length).ok_or("has a Parquet footer that is too long")?;
    footer::decode(&rest[start..]).map_err(|_| "has a Parquet footer that cannot be read")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(event_type: u8, data: &[u8]) -> Vec<u8> {
        let length = i32::try_from(HEADER + data.len()).unwrap();
        let mut bytes = vec![0; 8];
        bytes.push(event_type);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(data);
        bytes
    }

    fn parquet(rows: i64) -> Vec<u8> {
        use arrow_array::{Int64Array, RecordBatch};
        use std::sync::Arc;
        let column: Arc<dyn arrow_array::Array> = Arc::new(Int64Array::from_iter_values(0..rows));
        let batch = RecordBatch::try_from_iter([("val", column)]).unwrap();
        let mut writer = parquet::arrow::ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.into_inner().unwrap()
    }

    /// A file with an event for each of these numbers of rows.
    fn file(rows: &[i64]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        let mut descriptor = [0; 70];
        descriptor[32..40].copy_from_slice(&(7_u64 << 18).to_le_bytes());
        descriptor[40..48].copy_from_slice(&(9_u64 << 18).to_le_bytes());
        bytes.extend(event(DESCRIPTOR, &descriptor));
        for rows in rows {
            bytes.extend(event(1, &[&[0; 16][..], &parquet(*rows)].concat()));
        }
        bytes
    }

    fn count(bytes: &[u8], portion: usize) -> Result<u64, &'static str> {
        let mut rows = LogRows::default();
        bytes.chunks(portion).for_each(|bytes| rows.look(bytes));
        rows.told().map(|told| told.span.rows)
    }

    #[test]
    fn rows_are_counted_in_whatever_portions_the_bytes_come() {
        let bytes = file(&[3, 70_000, 1]);
        for portion in [1, 7, 4096, usize::MAX] {
            assert_eq!(count(&bytes, portion), Ok(70_004), "{portion}");
        }
    }

    #[test]
    fn timestamps_are_those_of_the_descriptor() {
        let mut rows = LogRows::default();
        rows.look(&file(&[3]));
        let span = Span { rows: 3, times: Some((7 << 18, 9 << 18)) };
        assert_eq!(rows.told(), Ok(Told { span, end: 9 << 18, fields: None }));
    }

    /// A file of storage version 2 with these fields, of which 1 holds the numbers from 0 on.
    fn packed_file(fields: &[i64], rows: i64) -> Vec<u8> {
        use arrow_array::{Int64Array, RecordBatch};
        use std::sync::Arc;
        let column: Arc<dyn arrow_array::Array> = Arc::new(Int64Array::from_iter_values(0..rows));
        let named = fields.iter().map(|field| (field.to_string(), Arc::clone(&column)));
        let batch = RecordBatch::try_from_iter(named).unwrap();
        let mut writer = parquet::arrow::ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.into_inner().unwrap()
    }

    #[test]
    fn a_file_of_several_fields_tells_them_its_rows_and_the_latest_of_their_times() {
        for portion in [1, 7, 4096, usize::MAX] {
            let mut rows = LogRows::default();
            packed_file(&[0, 1, 100], 300_000).chunks(portion).for_each(|bytes| rows.look(bytes));
            let span = Span { rows: 300_000, times: None };
            assert_eq!(rows.told(), Ok(Told { span, end: 299_999, fields: Some(vec![0, 1, 100]) }));
        }
        let mut vectors = LogRows::default();
        vectors.look(&packed_file(&[101], 4));
        let told = vectors.told().unwrap();
        assert_eq!((told.span.rows, told.end, told.fields), (4, 0, Some(vec![101])));
        let whole = packed_file(&[0, 1], 3);
        for length in 4..whole.len() {
            assert!(count(&whole[..length], 64).is_err(), "{length}");
        }
    }

    #[test]
    fn every_file_that_is_cut_short_is_found() {
        let bytes = file(&[3, 5]);
        let whole_events = file(&[3]).len();
        for length in 0..bytes.len() {
            // Cut between two events it looks whole: then its rows are too few.
            let expected = if length == whole_events { Ok(3) } else { Err(()) };
            assert_eq!(count(&bytes[..length], 64).map_err(|_| ()), expected, "{length}");
        }
    }

    #[test]
    fn what_is_no_binlog_is_refused_without_a_panic() {
        assert_eq!(count(b"PAR2 and more", 5), Err("does not begin as a binlog does"));
        assert_eq!(count(b"PAR1 and more", 5), Err("does not end as Parquet does"));
        let mut no_descriptor = MAGIC.to_vec();
        no_descriptor.extend(event(1, &[0; 40]));
        assert_eq!(count(&no_descriptor, 5), Err("has an event out of place"));
        let bytes = file(&[3]);
        for at in 0..bytes.len() {
            for value in [0, 0x7f, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                let _ = count(&damaged, 1000);
            }
        }
    }
}
