//! A look at page headers before the Parquet crate allocates what they ask for.
//!
//! A page says how large it is unpacked, and the crate takes its word. What our writer makes stays far below the
//! ceilings here; a larger number is damage, or a trap.

use parquet::arrow::ProjectionMask;
use parquet::file::metadata::ParquetMetaData;

use super::source::Source;

/// No page is larger unpacked. The writer's pages end near 1 MiB; a single row group has about 16 MiB of rows.
const PAGE_CEILING: u64 = 512 << 20;
/// How long a page header may be where pages are found one after another: statistics of vectors are in it.
const CHAINED_HEADER: u64 = 1 << 20;
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

/// Checks the pages of a column chunk that has no offset index, one after another: each says how long it is.
///
/// # Errors
/// What is wrong, for a person.
pub(crate) fn check_chain(source: &Source, start: u64, end: u64) -> Result<(), String> {
    let mut at = start;
    while at < end {
        let bytes = source.read_up_to(at, CHAINED_HEADER.min(end - at)).map_err(|error| error.to_string())?;
        let header = page_header(&bytes).ok_or_else(|| format!("no page begins at byte {at}"))?;
        if header.unpacked > PAGE_CEILING {
            return Err(format!("the page at byte {at} claims {} bytes", header.unpacked));
        }
        at = at.saturating_add(header.length).saturating_add(header.packed);
    }
    if at == end { Ok(()) } else { Err(format!("the page before byte {at} reaches beyond its column's end")) }
}

/// A page header's own length, and its page's, packed and unpacked.
struct PageHeader {
    length: u64,
    packed: u64,
    unpacked: u64,
}

/// Reads a page header, whatever it holds besides: statistics of any length that fits into what is given.
fn page_header(bytes: &[u8]) -> Option<PageHeader> {
    let size = |rest: &[u8]| {
        let (zigzag, rest) = varint(rest.strip_prefix(&[0x15])?)?;
        Some((zigzag, rest.len()))
    };
    let (_, left) = size(bytes)?;
    let (unpacked, left) = size(&bytes[bytes.len() - left..])?;
    let (packed, _) = size(&bytes[bytes.len() - left..])?;
    let rest = skip_struct(bytes, 0)?;
    let even = |zigzag: u64| (zigzag & 1 == 0).then_some(zigzag >> 1);
    Some(PageHeader { length: (bytes.len() - rest.len()) as u64, packed: even(packed)?, unpacked: even(unpacked)? })
}

/// What follows a struct of Thrift's compact protocol.
fn skip_struct(mut bytes: &[u8], depth: u32) -> Option<&[u8]> {
    if depth > 8 {
        return None;
    }
    loop {
        let (&head, rest) = bytes.split_first()?;
        if head == 0 {
            return Some(rest);
        }
        // The upper half is how much higher the field's number is than the last one's; without it the number follows.
        let rest = if head >> 4 == 0 { varint(rest)?.1 } else { rest };
        bytes = skip_value(head & 0x0f, rest, depth)?;
    }
}

fn skip_value(kind: u8, bytes: &[u8], depth: u32) -> Option<&[u8]> {
    match kind {
        1 | 2 => Some(bytes),
        3 => bytes.get(1..),
        4..=6 => varint_long(bytes),
        7 => bytes.get(8..),
        8 => {
            let (length, rest) = varint(bytes)?;
            rest.get(usize::try_from(length).ok()?..)
        }
        9 | 10 => {
            let (&head, mut rest) = bytes.split_first()?;
            let mut count = u64::from(head >> 4);
            if count == 15 {
                (count, rest) = varint(rest)?;
            }
            for _ in 0..count {
                rest = skip_value(head & 0x0f, rest, depth + 1)?;
            }
            Some(rest)
        }
        12 => skip_struct(bytes, depth + 1),
        _ => None,
    }
}

fn varint_long(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.iter().take(10).position(|byte| byte & 0x80 == 0)?;
    bytes.get(end + 1..)
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
    fn anything_else_is_no_header() {
        for bytes in
            [&[][..], &[0x15], &[0x16, 0, 0x15, 0], &[0x15, 0, 0x15, 0x01], &[0x15, 0x80, 0x80, 0x80, 0x80, 0x80]]
        {
            assert_eq!(unpacked_size(bytes), None);
        }
    }
}
