//! A file's footer, looked at before the Parquet crate reads it: that crate makes room for as many columns as a group
//! claims to have, and goes as deep as they are nested.

use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::Length;

use super::source::Source;
use super::thrift::{self, Shape};

/// What comes after a footer: its length, and "PAR1".
const TAIL: u64 = 8;
/// Rows are nested less deep: a sparse vector is a struct of lists, five levels with the root.
const DEEPEST: usize = 16;

const INT: Shape = Shape::Int(32);
const LONG: Shape = Shape::Int(64);
const EMPTY: Shape = Shape::Struct(&[]);
const UNIT: Shape = Shape::Struct(&[EMPTY, EMPTY, EMPTY]);
const PAIRS: Shape = Shape::List(&Shape::Struct(&[Shape::Bytes, Shape::Bytes]));

/// The types of text, numbers and times that say more than how they are stored.
const LOGICAL: Shape = Shape::Struct(&[
    EMPTY,
    EMPTY,
    EMPTY,
    EMPTY,
    Shape::Struct(&[INT, INT]),
    EMPTY,
    Shape::Struct(&[Shape::Bool, UNIT]),
    Shape::Struct(&[Shape::Bool, UNIT]),
    Shape::Any,
    Shape::Struct(&[Shape::Int(8), Shape::Bool]),
    EMPTY,
    EMPTY,
    EMPTY,
    EMPTY,
    EMPTY,
    Shape::Struct(&[Shape::Int(8)]),
    Shape::Struct(&[Shape::Bytes]),
    Shape::Struct(&[Shape::Bytes, INT]),
]);
/// A column or a group of columns.
const ELEMENT: Shape = Shape::Struct(&[INT, INT, INT, Shape::Bytes, INT, INT, INT, INT, INT, LOGICAL]);
const STATISTICS: Shape = Shape::Struct(&[
    Shape::Bytes,
    Shape::Bytes,
    LONG,
    LONG,
    Shape::Bytes,
    Shape::Bytes,
    Shape::Bool,
    Shape::Bool,
    LONG,
]);
const SIZES: Shape = Shape::Struct(&[LONG, Shape::List(&LONG), Shape::List(&LONG)]);
const BOX: Shape = Shape::Struct(&[
    Shape::Double,
    Shape::Double,
    Shape::Double,
    Shape::Double,
    Shape::Double,
    Shape::Double,
    Shape::Double,
    Shape::Double,
]);
/// What is said of the values of a column in a row group.
const VALUES: Shape = Shape::Struct(&[
    INT,
    Shape::List(&INT),
    Shape::List(&Shape::Bytes),
    INT,
    LONG,
    LONG,
    LONG,
    PAIRS,
    LONG,
    LONG,
    LONG,
    STATISTICS,
    Shape::List(&Shape::Struct(&[INT, INT, INT])),
    LONG,
    INT,
    SIZES,
    Shape::Struct(&[BOX, Shape::List(&INT)]),
]);
/// A column in a row group.
const CHUNK: Shape = Shape::Struct(&[Shape::Bytes, LONG, VALUES, LONG, INT, LONG, INT]);
const ROW_GROUP: Shape = Shape::Struct(&[
    Shape::List(&CHUNK),
    LONG,
    LONG,
    Shape::List(&Shape::Struct(&[INT, Shape::Bool, Shape::Bool])),
    LONG,
    LONG,
    Shape::Int(16),
]);
const FOOTER: Shape = Shape::Struct(&[
    INT,
    Shape::List(&ELEMENT),
    LONG,
    Shape::List(&ROW_GROUP),
    PAIRS,
    Shape::Bytes,
    Shape::List(&Shape::Struct(&[EMPTY, EMPTY])),
]);
/// The field of a footer that has the columns, and that of a group with the number of its columns.
const ELEMENTS: usize = 2;
const CHILDREN: usize = 5;

/// Reads a file's footer, and its offset index where that is asked for.
///
/// # Errors
/// What is wrong, for a person.
pub(crate) fn read(source: &Source, offset_index: PageIndexPolicy) -> Result<ParquetMetaData, String> {
    check(source)?;
    ParquetMetaDataReader::new()
        .with_column_index_policy(PageIndexPolicy::Skip)
        .with_offset_index_policy(offset_index)
        .parse_and_finish(source)
        .map_err(|error| error.to_string())
}

/// Reads a footer of which the bytes are at hand.
///
/// # Errors
/// What is wrong, for a person.
pub(crate) fn decode(footer: &[u8]) -> Result<ParquetMetaData, String> {
    check_bytes(footer)?;
    ParquetMetaDataReader::decode_metadata(footer).map_err(|error| error.to_string())
}

fn check(source: &Source) -> Result<(), String> {
    let end = source.len().checked_sub(TAIL).ok_or("it is too short for a Parquet file")?;
    let tail = source.read_up_to(end, TAIL).map_err(|error| error.to_string())?;
    let length = tail.first_chunk().map_or(0, |bytes| u64::from(u32::from_le_bytes(*bytes)));
    let start = end.checked_sub(length).ok_or("its footer would begin before it does")?;
    check_bytes(&source.read_up_to(start, length).map_err(|error| error.to_string())?)
}

fn check_bytes(footer: &[u8]) -> Result<(), String> {
    thrift::walk(&FOOTER, footer).ok_or("its footer is none")?;
    let elements = thrift::structs(footer, ELEMENTS).ok_or("its footer tells of no columns")?;
    if is_tree(elements.iter().map(|element| thrift::number(element, &[CHILDREN]).unwrap_or(0))) {
        Ok(())
    } else {
        Err("its footer tells of columns that do not belong together".to_owned())
    }
}

/// Whether so many children of each element, one after another, make a tree that is not too deep.
fn is_tree(children: impl ExactSizeIterator<Item = i64>) -> bool {
    let mut elements = children.len() as u64;
    // How many children the groups lack that lead to the next element.
    let mut open = vec![1];
    for count in children {
        while open.last() == Some(&0) {
            open.pop();
        }
        let Some(parent) = open.last_mut() else { return false };
        *parent -= 1;
        elements -= 1;
        match u64::try_from(count) {
            Ok(0) => {}
            Ok(count) if count <= elements && open.len() < DEEPEST => open.push(count),
            _ => return false,
        }
    }
    open.iter().all(|lacking| *lacking == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_as_wide_as_it_says_and_not_too_deep() {
        for children in [&[0][..], &[2, 0, 0], &[2, 1, 0, 0], &[1, 2, 0, 1, 0]] {
            assert!(is_tree(children.iter().copied()), "{children:?}");
        }
        let deep = [vec![1; 40], vec![0]].concat();
        for children in [&[][..], &[2, 0], &[1, 0, 0], &[i64::from(i32::MAX), 0], &[-1, 0], &deep] {
            assert!(!is_tree(children.iter().copied()), "{children:?}");
        }
    }

    /// Files that the crate runs out of memory for, or does not come back from: one that claims two thousand million
    /// columns, and one with a list of as many bools, which take no bytes.
    #[test]
    fn claims_that_no_file_can_hold_are_refused() {
        let file = |footer: &[u8]| {
            let length = u32::try_from(footer.len()).unwrap().to_le_bytes();
            Source::from(bytes::Bytes::from([b"PAR1", footer, &length, b"PAR1"].concat()))
        };
        let columns =
            [0x15, 4, 0x19, 0x2c, 0x48, 1, b's', 0x15, 0xfe, 0xff, 0xff, 0xff, 0x0f, 0, 0x15, 0, 0x38, 1, b'c', 0, 0];
        let bools =
            [0x15, 4, 0x19, 0x1c, 0x48, 1, b's', 0, 0x16, 0, 0x19, 0x0c, 0xd9, 0xf1, 0xff, 0xff, 0xff, 0xff, 0x07, 0];
        for footer in [&columns[..], &bools] {
            read(&file(footer), PageIndexPolicy::Skip).unwrap_err();
        }
    }
}
