//! Thrift's compact protocol, walked before the Parquet crate reads what is in it. That crate takes a field's kind from
//! its number, whatever the field says of itself, and goes through as many elements of a list as the list claims, those
//! that take no bytes too. What passes here is as a writer makes it: it means the same to both, and holds what it claims.

/// What a value has to be.
pub(super) enum Shape {
    /// A whole number of this many bits: 8, 16, 32 or 64.
    Int(u32),
    Bool,
    Double,
    /// Bytes or text.
    Bytes,
    /// Its fields by number, the first is 1; others may follow, of any shape.
    Struct(&'static [Shape]),
    List(&'static Shape),
    /// Whatever it says it is.
    Any,
}

const INT8: u8 = 3;
const INT16: u8 = 4;
const INT32: u8 = 5;
const INT64: u8 = 6;
const DOUBLE: u8 = 7;
const BYTES: u8 = 8;
const LIST: u8 = 9;
const STRUCT: u8 = 12;

/// Nothing in a Parquet file is nested deeper.
const DEEPEST: u32 = 12;

/// What follows a struct of this shape; `None` where it is none.
pub(super) fn walk<'a>(shape: &Shape, bytes: &'a [u8]) -> Option<&'a [u8]> {
    value(shape, STRUCT, bytes, 0)
}

fn value<'a>(shape: &Shape, kind: u8, bytes: &'a [u8], depth: u32) -> Option<&'a [u8]> {
    if depth > DEEPEST {
        return None;
    }
    match (shape, kind) {
        (Shape::Bool | Shape::Any, 1 | 2) => Some(bytes),
        (Shape::Int(8) | Shape::Any, INT8) => bytes.get(1..),
        (Shape::Int(16) | Shape::Any, INT16) => int(16, bytes),
        (Shape::Int(32) | Shape::Any, INT32) => int(32, bytes),
        (Shape::Int(64) | Shape::Any, INT64) => int(64, bytes),
        (Shape::Double | Shape::Any, DOUBLE) => bytes.get(8..),
        (Shape::Bytes | Shape::Any, BYTES) => {
            let (length, rest) = varint(bytes)?;
            rest.get(usize::try_from(length).ok()?..)
        }
        (Shape::List(element), LIST) => list(element, bytes, depth),
        (Shape::Any, LIST) => list(&Shape::Any, bytes, depth),
        (Shape::Struct(fields), STRUCT) => structure(fields, bytes, depth),
        (Shape::Any, STRUCT) => structure(&[], bytes, depth),
        _ => None,
    }
}

fn int(bits: u32, bytes: &[u8]) -> Option<&[u8]> {
    let (zigzag, rest) = varint(bytes)?;
    zigzag.checked_shr(bits).is_none_or(|beyond| beyond == 0).then_some(rest)
}

fn structure<'a>(shapes: &[Shape], bytes: &'a [u8], depth: u32) -> Option<&'a [u8]> {
    let mut fields = Fields { rest: bytes, number: 0 };
    loop {
        match fields.next()? {
            Some(kind) => {
                let shape = shapes.get(fields.number - 1).unwrap_or(&Shape::Any);
                fields.rest = value(shape, kind, fields.rest, depth + 1)?;
            }
            None => return Some(fields.rest),
        }
    }
}

fn list<'a>(shape: &Shape, bytes: &'a [u8], depth: u32) -> Option<&'a [u8]> {
    let (count, kind, mut rest) = list_start(bytes)?;
    // In lists bools have a byte each, of which not every reader knows; in footers and headers there are no such lists.
    if count > rest.len() as u64 || (count > 0 && kind < INT8) {
        return None;
    }
    for _ in 0..count {
        rest = value(shape, kind, rest, depth + 1)?;
    }
    Some(rest)
}

/// A list's elements: how many, of which kind, and where they begin.
fn list_start(bytes: &[u8]) -> Option<(u64, u8, &[u8])> {
    let (&head, rest) = bytes.split_first()?;
    match head >> 4 {
        15 => varint(rest).map(|(count, rest)| (count, head & 0x0f, rest)),
        count => Some((count.into(), head & 0x0f, rest)),
    }
}

/// The fields of a struct, one after another: their numbers ascend.
struct Fields<'a> {
    rest: &'a [u8],
    number: usize,
}

impl Fields<'_> {
    /// The kind of the next field, whose value then begins at `rest`; nothing at the struct's end.
    #[allow(clippy::option_option)] // an end, or bytes that make no sense
    fn next(&mut self) -> Option<Option<u8>> {
        let (&head, rest) = self.rest.split_first()?;
        self.rest = rest;
        if head == 0 {
            return Some(None);
        }
        // The upper half is how much higher the number is than the last one's. Zero would be followed by any number.
        let higher = usize::from(head >> 4);
        self.number += higher;
        (higher > 0).then_some(Some(head & 0x0f))
    }
}

/// A field's value in a struct that was walked; `None` where it is not there.
fn find(bytes: &[u8], number: usize) -> Option<&[u8]> {
    let mut fields = Fields { rest: bytes, number: 0 };
    loop {
        let kind = fields.next()??;
        if fields.number == number {
            return Some(fields.rest);
        }
        fields.rest = value(&Shape::Any, kind, fields.rest, 0)?;
    }
}

/// A number in a struct that was walked, by the numbers of the fields that lead to it.
pub(super) fn number(bytes: &[u8], path: &[usize]) -> Option<i64> {
    let at = path.iter().try_fold(bytes, |bytes, number| find(bytes, *number))?;
    let (zigzag, _) = varint(at)?;
    Some((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed())
}

/// The structs of a list in a struct that was walked: where each begins.
pub(super) fn structs(bytes: &[u8], number: usize) -> Option<Vec<&[u8]>> {
    let (count, _, mut rest) = list_start(find(bytes, number)?)?;
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(rest);
        rest = structure(&[], rest, 0)?;
    }
    Some(all)
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0u64;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        let part = u64::from(byte & 0x7f);
        if index == 9 && part > 1 {
            return None;
        }
        number |= part << (7 * index);
        if byte & 0x80 == 0 {
            return Some((number, &bytes[index + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape::Struct(&[Shape::Int(32), Shape::List(&Shape::Struct(&[Shape::Bytes, Shape::Int(64)]))]);

    #[test]
    fn numbers_are_found_where_they_lie() {
        let bytes = [0x15, 0x03, 0x19, 0x2c, 0x18, 1, b'x', 0x16, 0x04, 0, 0x26, 0x80, 0x01, 0, 0, 9];
        assert_eq!(walk(&SHAPE, &bytes), Some(&[9][..]));
        assert_eq!(number(&bytes, &[1]), Some(-2));
        let structs = structs(&bytes, 2).unwrap();
        assert_eq!(structs.iter().map(|each| number(each, &[2])).collect::<Vec<_>>(), [Some(2), Some(64)]);
        assert_eq!((number(&bytes, &[3]), number(&bytes, &[2, 7])), (None, None));
    }

    #[test]
    fn what_two_readers_would_understand_differently_is_refused() {
        for (bytes, what) in [
            (&[0x25, 2, 0][..], "a number where a list has to be"),
            (&[0x15, 2, 0x05, 2, 4, 0], "a field's number that goes back"),
            (&[0x15, 0x80, 0x80, 0x80, 0x80, 0x10, 0], "a number of more bits than its kind has"),
            (&[0x15, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02, 0], "a number of more than 64 bits"),
            (&[0x39, 0xf1, 0xff, 0xff, 0xff, 0xff, 0x07, 0], "a list of bools, with more of them than there are bytes"),
            (&[0x39, 0x11, 1, 0], "a list of bools"),
            (&[0x39, 0x65, 2, 0], "a list that goes beyond the end"),
            (&[0x38, 9, 0], "bytes that go beyond the end"),
            (&[0x3b, 0, 0], "a map"),
            (&[0x3c; 40], "structs in structs, deeper than any"),
            (&[0x15, 2], "a struct without an end"),
        ] {
            assert_eq!(walk(&SHAPE, bytes), None, "{what}");
        }
        assert!(walk(&SHAPE, &[0x39, 0x09, 0]).is_some(), "a list without elements");
    }
}
