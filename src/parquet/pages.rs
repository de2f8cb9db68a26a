//! A look at page headers before the Parquet crate allocates what they ask for.
//!
//! A page says how large it is unpacked, and the crate takes its word. What our writer makes stays far below the
//! ceilings here; a larger number is damage, or a trap.

use parquet::arrow::ProjectionMask;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};

use super::source::Source;
use super::thrift::{self, Shape};

/// No page is larger unpacked. The writer's pages end near 1 MiB; a single row group has about 16 MiB of rows.
const PAGE_CEILING: u64 = 512 << 20;
/// No page is so many times as long unpacked: of four bytes zstd makes 128 KiB at most.
const MOST_UNPACKED: u64 = 32 << 10;
/// How long a page header is as a rule, where pages are found one after another.
const SHORT_HEADER: u64 = 4 << 10;
/// How long it may be: statistics of vectors are in it.
const LONG_HEADER: u64 = 1 << 20;
/// Encodings of text whose pages say once more how many values they have, and are taken at their word: lengths as deltas,
/// and text as what it adds to the text before it. Milvus writes dictionaries and plain text.
const BY_OWN_COUNT: [i64; 2] = [6, 7];
const INT: Shape = Shape::Int(32);
/// A page's kind, its length unpacked and packed, a checksum, and what only one kind of page has: data, an index, a
/// dictionary, or data of the second version.
const HEADER: Shape = Shape::Struct(&[
    INT,
    INT,
    INT,
    INT,
    Shape::Struct(&[INT, INT, INT, INT, Shape::Any]),
    Shape::Struct(&[]),
    Shape::Struct(&[INT, INT, Shape::Bool]),
    Shape::Struct(&[INT, INT, INT, INT, INT, INT, Shape::Bool, Shape::Any]),
]);
/// Enough for the three numbers that a page header begins with.
const HEADER_START: u64 = 32;

/// Checks the pages that will be read of a row group, found by the offset index that reading goes by.
///
/// # Errors
/// What is wrong, for a person.
pub(super) fn check(
    source: &Source,
    metadata: &ParquetMetaData,
    row_group: usize,
    columns: &ProjectionMask,
) -> Result<(), String> {
    let index = metadata.page_index().ok_or("the file has no offset index")?;
    for (leaf, column) in metadata.row_group(row_group).columns().iter().enumerate() {
        if !columns.leaf_included(leaf) {
            continue;
        }
        let pages = index
            .page_locations(row_group, leaf)
            .ok_or_else(|| format!("column {} has no offset index", column.column_path()))?;
        let dictionary = column.dictionary_page_offset();
        for offset in dictionary.into_iter().chain(pages.iter().map(|page| page.offset)) {
            let at = u64::try_from(offset).map_err(|_| format!("a page lies at {offset}"))?;
            let start = source.read_up_to(at, HEADER_START).map_err(|error| error.to_string())?;
            let size = unpacked_size(&start).ok_or_else(|| format!("no page begins at byte {at}"))?;
            if size > PAGE_CEILING {
                return Err(format!("the page at byte {at} claims {size} bytes"));
            }
        }
    }
    Ok(())
}

/// Checks the pages of a column chunk that has no offset index, one after another: each says how long it is. `rows` is
/// how many rows the row group has.
///
/// # Errors
/// What is wrong, for a person.
pub(crate) fn check_chain(source: &Source, column: &ColumnChunkMetaData, rows: i64) -> Result<(), String> {
    let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
    let start = u64::try_from(start).map_err(|_| "has a column before its begin")?;
    let length = u64::try_from(column.compressed_size()).map_err(|_| "has a column of no length")?;
    let end = start.checked_add(length).ok_or("has a column without an end")?;
    let (mut at, mut values) = (start, 0i64);
    while at < end {
        let header = page_header(source, at, end)?.ok_or_else(|| format!("no page begins at byte {at}"))?;
        header.check().map_err(|what| format!("the page at byte {at} {what}"))?;
        values = values.saturating_add(header.values);
        at = at.saturating_add(header.length).saturating_add(header.packed);
    }
    if at != end {
        return Err(format!("the page before byte {at} reaches beyond its column's end"));
    }
    // A list has as many values as it has elements.
    if column.column_descr().max_rep_level() == 0 && values != rows {
        return Err(format!("a column has {values} values for {rows} rows"));
    }
    Ok(())
}

/// What a page header says.
#[derive(Clone, Copy)]
struct PageHeader {
    /// Its own length.
    length: u64,
    /// Its page's length.
    packed: u64,
    /// Its page's length unpacked.
    unpacked: u64,
    /// The values of a page of data; 0 for another page.
    values: i64,
    /// How they are encoded.
    encoding: i64,
    /// The values of a dictionary; 0 for another page.
    words: u64,
}

/// Reads the header of the page at `at` of a column chunk that ends at `end`; `None` where it is none.
fn page_header(source: &Source, at: u64, end: u64) -> Result<Option<PageHeader>, String> {
    for most in [SHORT_HEADER, LONG_HEADER] {
        let bytes = source.read_up_to(at, most.min(end - at)).map_err(|error| error.to_string())?;
        if let Some(header) = PageHeader::parse(&bytes) {
            return Ok(Some(header));
        }
    }
    Ok(None)
}

impl PageHeader {
    /// Reads a header, whatever it holds besides: statistics of any length that fits into what is given.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let rest = thrift::walk(&HEADER, bytes)?;
        let number = |path: &[usize]| thrift::number(bytes, path);
        let data = |field: usize| number(&[5, field]).or_else(|| number(&[8, if field == 2 { 4 } else { field }]));
        Some(Self {
            length: (bytes.len() - rest.len()) as u64,
            unpacked: u64::try_from(number(&[2])?).ok()?,
            packed: u64::try_from(number(&[3])?).ok()?,
            values: data(1).unwrap_or(0),
            encoding: data(2).unwrap_or(0),
            words: u64::try_from(number(&[7, 1]).unwrap_or(0)).ok()?,
        })
    }

    /// Refuses what the page cannot hold, and what is taken at its word once it is unpacked.
    fn check(&self) -> Result<(), String> {
        if self.unpacked > PAGE_CEILING.min(self.packed.saturating_mul(MOST_UNPACKED)) {
            return Err(format!("claims {} bytes", self.unpacked));
        }
        if self.words > self.unpacked {
            return Err(format!("claims to be a dictionary of {} values", self.words));
        }
        if BY_OWN_COUNT.contains(&self.encoding) {
            return Err("is encoded in a way that Milvus does not write".to_owned());
        }
        Ok(())
    }
}

/// `uncompressed_page_size` of a page header in Thrift's compact protocol: field 2, an i32, after field 1, the page type.
/// 0x15 introduces both: the next field, of type i32. None where it is not so, or the size is negative.
fn unpacked_size(header: &[u8]) -> Option<u64> {
    let (_, header) = varint(header.strip_prefix(&[0x15])?)?;
    let (zigzag, _) = varint(header.strip_prefix(&[0x15])?)?;
    (zigzag & 1 == 0).then_some(zigzag >> 1)
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0;
    for (index, byte) in bytes.iter().take(5).enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((number, &bytes[index + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_is_the_second_number() {
        assert_eq!(unpacked_size(&[0x15, 0x00, 0x15, 0x80, 0x01, 0x15, 0x02]), Some(64));
        assert_eq!(unpacked_size(&[0x15, 0x00, 0x15, 0xfe, 0xff, 0xff, 0xff, 0x0f]), Some(0x7fff_ffff));
    }

    #[test]
    fn a_page_claims_no_more_than_it_can_hold() {
        let data = [0x15, 0, 0x15, 80, 0x15, 60, 0x2c, 0x15, 10, 0x15, 0, 0x15, 6, 0x15, 6, 0, 0, 7, 7];
        let header = PageHeader::parse(&data).unwrap();
        assert_eq!((header.length, header.unpacked, header.packed), (17, 40, 30));
        assert_eq!((header.values, header.encoding, header.words), (5, 0, 0));
        header.check().unwrap();
        let dictionary = [0x15, 4, 0x15, 80, 0x15, 60, 0x4c, 0x15, 82, 0x15, 0, 0, 0];
        let dictionary = PageHeader::parse(&dictionary).unwrap();
        for refused in [
            dictionary,
            PageHeader { unpacked: 30 << 20, ..header },
            PageHeader { encoding: 6, ..header },
            PageHeader { encoding: 7, ..header },
        ] {
            refused.check().unwrap_err();
        }
        PageHeader { words: 40, ..dictionary }.check().unwrap();
    }

    #[test]
    fn anything_else_is_no_header() {
        for bytes in
            [&[][..], &[0x15], &[0x16, 0, 0x15, 0], &[0x15, 0, 0x15, 0x01], &[0x15, 0x80, 0x80, 0x80, 0x80, 0x80]]
        {
            assert_eq!(unpacked_size(bytes), None);
        }
    }
}
