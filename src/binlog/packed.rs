//! Files of Milvus's storage version 2: a plain Parquet file with the columns of several fields.
//!
//! Read in the public sources of Milvus 2.6 and milvus-storage; no server that writes them could be run, so the reader is
//! checked on files that are laid out as those say. A segment's fields are split into groups, each a folder with files of
//! its own, as `insert_log/<collection>/<partition>/<segment>/<group>/<log>`: the short fields together, Milvus's own
//! among them, each vector alone. A column is known by Parquet's field id, or else by a name that is the field's number.
//! Values are stored as in version 1. Nothing in a file tells its segment, nor an envelope its times: those of its rows
//! are in the statistics of their column. Delta logs have two columns, the keys (0) and the timestamps (1).

use std::collections::BTreeMap;

use parquet::basic::Type as PhysicalType;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, RowGroupMetaData};
use parquet::file::statistics::Statistics;

use super::payload::guard;
use super::segment::TIMESTAMP_FIELD;
use crate::error::Result;
use crate::parquet::{Source, footer};

/// What such a file begins and ends with, as every Parquet file does.
pub const MAGIC: [u8; 4] = *b"PAR1";

/// What a file's footer says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Where each field's column is.
    pub columns: BTreeMap<i64, usize>,
    /// How many rows there are.
    pub rows: u64,
    /// The earliest and latest hybrid timestamp of the rows, where theirs are in this file; the widest span where its
    /// statistics are left out.
    pub times: Option<(u64, u64)>,
}

impl Packed {
    /// What `footer` says.
    ///
    /// # Errors
    /// In words that follow the file's name, where it is no such file.
    pub fn of(footer: &ParquetMetaData) -> Result<Self, &'static str> {
        let schema = footer.file_metadata().schema_descr();
        let mut columns = BTreeMap::new();
        for (place, column) in schema.root_schema().get_fields().iter().enumerate() {
            let info = column.get_basic_info();
            let field = if info.has_id() { Some(i64::from(info.id())) } else { info.name().parse().ok() };
            let field = field.filter(|field| *field >= 0).ok_or("has a column of which nothing tells the field")?;
            if columns.insert(field, place).is_some() {
                return Err("has two columns of one field");
            }
        }
        let mut rows = 0u64;
        for group in footer.row_groups() {
            let count = u64::try_from(group.num_rows()).map_err(|_| "has a negative number of rows")?;
            rows = rows.checked_add(count).ok_or("has too many rows")?;
        }
        let leaf = columns
            .get(&TIMESTAMP_FIELD)
            .and_then(|place| (0..schema.num_columns()).find(|leaf| schema.get_column_root_idx(*leaf) == *place));
        let times = leaf.map(|leaf| {
            let spans: Option<Vec<_>> = footer.row_groups().iter().map(|group| span(group, leaf)).collect();
            let spans = spans.filter(|spans| !spans.is_empty()).unwrap_or_else(|| vec![(0, u64::MAX)]);
            spans.into_iter().fold((u64::MAX, 0), |(low, high), (start, end)| (low.min(start), high.max(end)))
        });
        Ok(Self { columns, rows, times })
    }
}

/// Whether a file begins as one of these.
pub(super) fn begins(source: &Source, name: &str) -> Result<bool> {
    let start = source.read_up_to(0, MAGIC.len() as u64);
    Ok(start.map_err(|error| super::event::unreadable(name, &error.to_string()))?[..] == MAGIC)
}

/// The footer of a Parquet file, without its indexes.
pub(super) fn footer(source: &Source, name: &str) -> Result<ParquetMetaData> {
    guard(source, name, || footer::read(source, PageIndexPolicy::Skip))
}

/// The lowest and highest timestamp of a row group.
fn span(group: &RowGroupMetaData, leaf: usize) -> Option<(u64, u64)> {
    let column = group.columns().get(leaf).filter(|column| column.column_type() == PhysicalType::INT64)?;
    let Some(Statistics::Int64(values)) = column.statistics() else { return None };
    Some((u64::try_from(*values.min_opt()?).ok()?, u64::try_from(*values.max_opt()?).ok()?))
}
