//! The columns of a record batch as the bytes that a row digest takes in, resolved once a batch.

#[cfg(target_endian = "big")]
compile_error!("digests take Arrow's buffers as little-endian bytes; this target is big-endian");

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimestampMicrosecondType, UInt32Type,
};
use arrow_array::{Array, FixedSizeListArray, ListArray, StringArray};
use arrow_buffer::{BooleanBuffer, NullBuffer};

use super::json::Canonicalizer;
use crate::schema::{DataType, Field};

/// Added to the tag of JSON that has no canonical form and so counts as the text it is.
const RAW_JSON: u8 = 128;

/// What every NaN of a float counts as: quiet, positive, without a payload.
const ONE_NAN_32: u32 = 0x7fc0_0000;
/// The same of a double.
const ONE_NAN_64: u64 = 0x7ff8_0000_0000_0000;

/// A column of one field: how to write the value of a row.
pub(super) struct Column<'a> {
    /// What comes before every value: length of the name, name, type tag.
    head: Vec<u8>,
    /// The same with the tag for "not null" and the length, where every value has the same length.
    fixed_head: Vec<u8>,
    nulls: Option<&'a NullBuffer>,
    values: Values<'a>,
}

enum Values<'a> {
    Flat(Flat<'a>),
    Json(&'a StringArray),
    List { array: &'a ListArray, tag: u8, items: Flat<'a> },
    Sparse { indices: &'a ListArray, values: &'a ListArray, index: &'a [u32], value: &'a [f32] },
}

/// Values that lie side by side: a column of scalars or dense vectors, or the elements of arrays.
enum Flat<'a> {
    Bits(&'a BooleanBuffer),
    Fixed {
        bytes: &'a [u8],
        width: usize,
    },
    /// Numbers that may be NaN, which is taken in as one of its many bit patterns.
    Floats(&'a [f32]),
    Doubles(&'a [f64]),
    Text(&'a StringArray),
}

/// Space that rows share.
#[derive(Default)]
pub(super) struct Scratch {
    json: Canonicalizer,
    pairs: Vec<(u32, u32)>,
}

impl<'a> Column<'a> {
    /// The field's column in `array`.
    ///
    /// # Errors
    /// What is wrong with it, as words to follow the column's name.
    pub(super) fn new(field: &Field, head: &[u8], array: &'a dyn Array) -> Result<Self, String> {
        let values = Values::new(field, array)
            .ok_or_else(|| format!("is {} where {:?} was expected", array.data_type(), field.data_type))?;
        values.check(array)?;
        let mut fixed_head = head.to_vec();
        if let Values::Flat(flat) = &values
            && let Some(width) = flat.width()
        {
            fixed_head.push(1);
            push_length(&mut fixed_head, width).ok_or("has values too long to digest")?;
        }
        Ok(Self { head: head.to_vec(), fixed_head, nulls: array.nulls(), values })
    }

    /// Appends the field's part of row `row` to `out`; None where a value is 4 GiB long or longer.
    #[inline]
    pub(super) fn append(&self, row: usize, out: &mut Vec<u8>, scratch: &mut Scratch) -> Option<()> {
        if self.nulls.is_some_and(|nulls| nulls.is_null(row)) {
            out.extend_from_slice(&self.head);
            out.push(0);
            return Some(());
        }
        match &self.values {
            Values::Flat(Flat::Text(array)) => {
                out.extend_from_slice(&self.head);
                out.push(1);
                push_bytes(out, array.value(row).as_bytes())?;
            }
            Values::Flat(flat) => {
                out.extend_from_slice(&self.fixed_head);
                flat.append_range(row, row + 1, out)?;
            }
            Values::Json(array) => {
                out.extend_from_slice(&self.head);
                let tag_at = out.len() - 1;
                let length_at = begin(out);
                let text = array.value(row);
                if !scratch.json.append(text, out) {
                    out[tag_at] |= RAW_JSON;
                    out.extend_from_slice(text.as_bytes());
                }
                end(out, length_at)?;
            }
            Values::List { array, tag, items } => {
                out.extend_from_slice(&self.head);
                let length_at = begin(out);
                out.push(*tag);
                let (start, stop) = bounds(array, row);
                push_length(out, stop - start)?;
                items.append_range(start, stop, out)?;
                end(out, length_at)?;
            }
            Values::Sparse { indices, values, index, value } => {
                out.extend_from_slice(&self.head);
                let length_at = begin(out);
                let ((start, stop), (value_start, value_stop)) = (bounds(indices, row), bounds(values, row));
                scratch.pairs.clear();
                scratch.pairs.extend(
                    index[start..stop]
                        .iter()
                        .zip(&value[value_start..value_stop])
                        .map(|(index, value)| (*index, value.to_bits())),
                );
                scratch.pairs.sort_by_key(|pair| pair.0);
                push_length(out, scratch.pairs.len())?;
                for (index, value) in &scratch.pairs {
                    out.extend_from_slice(&index.to_le_bytes());
                    out.extend_from_slice(&value.to_le_bytes());
                }
                end(out, length_at)?;
            }
        }
        Some(())
    }
}

impl<'a> Values<'a> {
    fn new(field: &Field, array: &'a dyn Array) -> Option<Self> {
        Some(match field.data_type {
            DataType::Json => Self::Json(array.as_string_opt::<i32>()?),
            DataType::Array => {
                let list = array.as_list_opt::<i32>()?;
                let element = field.element_type?;
                Self::List {
                    array: list,
                    tag: u8::try_from(element.number()).ok()?,
                    items: Flat::scalars(element, list.values())?,
                }
            }
            DataType::SparseFloatVector => {
                let pairs = array.as_struct_opt()?;
                let indices = pairs.column_by_name("indices")?.as_list_opt::<i32>()?;
                let values = pairs.column_by_name("values")?.as_list_opt::<i32>()?;
                Self::Sparse {
                    indices,
                    values,
                    index: indices.values().as_primitive_opt::<UInt32Type>()?.values(),
                    value: values.values().as_primitive_opt::<Float32Type>()?.values(),
                }
            }
            DataType::FloatVector => Self::Flat(Flat::vectors::<Float32Type>(field, array)?),
            DataType::Float16Vector => Self::Flat(Flat::vectors::<Float16Type>(field, array)?),
            DataType::Int8Vector => Self::Flat(Flat::vectors::<Int8Type>(field, array)?),
            DataType::Bfloat16Vector | DataType::BinaryVector => {
                let vectors = array.as_fixed_size_binary_opt()?;
                let dimension = field.dimension().ok()?;
                let width =
                    if field.data_type == DataType::BinaryVector { dimension.div_ceil(8) } else { 2 * dimension };
                (vectors.value_size() == width)
                    .then_some(Self::Flat(Flat::Fixed { bytes: vectors.value_data(), width }))?
            }
            scalar => Self::Flat(Flat::scalars(scalar, array)?),
        })
    }

    /// Nulls inside a value (elements of an array or a vector) have no encoding; sparse vectors must be pairs.
    fn check(&self, array: &dyn Array) -> Result<(), String> {
        let valid = |row: &usize| array.nulls().is_none_or(|nulls| nulls.is_valid(*row));
        let has_null = |items: &dyn Array, start: usize, stop: usize| {
            items.nulls().is_some_and(|nulls| nulls.slice(start, stop - start).null_count() > 0)
        };
        let lists_have_null = |lists: &ListArray| {
            let nulls_anywhere = lists.values().null_count() > 0;
            nulls_anywhere
                && (0..lists.len()).filter(valid).any(|row| {
                    let (start, stop) = bounds(lists, row);
                    has_null(lists.values(), start, stop)
                })
        };
        let null_inside = match self {
            Self::Flat(_) => array.as_fixed_size_list_opt().is_some_and(|list: &FixedSizeListArray| {
                list.values().null_count() > 0
                    && (0..list.len()).filter(valid).any(|row| {
                        let start = list.value_offset_at(row);
                        has_null(list.values(), start, list.value_offset_at(row + 1))
                    })
            }),
            Self::Json(_) => false,
            Self::List { array: lists, .. } => lists_have_null(lists),
            Self::Sparse { indices, values, .. } => {
                if (0..array.len()).filter(valid).any(|row| indices.value_length(row) != values.value_length(row)) {
                    return Err("has a sparse vector with more indices than values, or fewer".to_owned());
                }
                (0..array.len()).filter(valid).any(|row| indices.is_null(row) || values.is_null(row))
                    || lists_have_null(indices)
                    || lists_have_null(values)
            }
        };
        if null_inside { Err("has a null inside a value, which no Milvus type allows".to_owned()) } else { Ok(()) }
    }
}

impl<'a> Flat<'a> {
    fn scalars(data_type: DataType, array: &'a dyn Array) -> Option<Self> {
        match data_type {
            DataType::Bool => Some(Self::Bits(array.as_boolean_opt()?.values())),
            DataType::Int8 => Self::numbers::<Int8Type>(array, 1),
            DataType::Int16 => Self::numbers::<Int16Type>(array, 1),
            DataType::Int32 => Self::numbers::<Int32Type>(array, 1),
            DataType::Int64 => Self::numbers::<Int64Type>(array, 1),
            DataType::Float => Some(Self::Floats(array.as_primitive_opt::<Float32Type>()?.values())),
            DataType::Double => Some(Self::Doubles(array.as_primitive_opt::<Float64Type>()?.values())),
            DataType::Timestamptz => Self::numbers::<TimestampMicrosecondType>(array, 1),
            DataType::Varchar | DataType::Geometry | DataType::Json => Some(Self::Text(array.as_string_opt()?)),
            _ => None,
        }
    }

    fn vectors<T: ArrowPrimitiveType>(field: &Field, array: &'a dyn Array) -> Option<Self> {
        let list = array.as_fixed_size_list_opt()?;
        let dimension = field.dimension().ok()?;
        (usize::try_from(list.value_length()).ok()? == dimension)
            .then(|| Self::numbers::<T>(list.values(), dimension))
            .flatten()
    }

    fn numbers<T: ArrowPrimitiveType>(array: &'a dyn Array, count: usize) -> Option<Self> {
        let bytes = array.as_primitive_opt::<T>()?.values().inner().as_slice();
        Some(Self::Fixed { bytes, width: count * size_of::<T::Native>() })
    }

    /// The length of every value in bytes, where all have the same.
    fn width(&self) -> Option<usize> {
        match self {
            Self::Bits(_) => Some(1),
            Self::Fixed { width, .. } => Some(*width),
            Self::Floats(_) => Some(size_of::<f32>()),
            Self::Doubles(_) => Some(size_of::<f64>()),
            Self::Text(_) => None,
        }
    }

    fn append_range(&self, start: usize, stop: usize, out: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::Bits(bits) => out.extend((start..stop).map(|index| u8::from(bits.value(index)))),
            Self::Fixed { bytes, width } => out.extend_from_slice(&bytes[start * width..stop * width]),
            Self::Floats(values) => {
                for value in &values[start..stop] {
                    let bits = if value.is_nan() { ONE_NAN_32 } else { value.to_bits() };
                    out.extend_from_slice(&bits.to_le_bytes());
                }
            }
            Self::Doubles(values) => {
                for value in &values[start..stop] {
                    let bits = if value.is_nan() { ONE_NAN_64 } else { value.to_bits() };
                    out.extend_from_slice(&bits.to_le_bytes());
                }
            }
            Self::Text(array) => {
                for index in start..stop {
                    push_bytes(out, array.value(index).as_bytes())?;
                }
            }
        }
        Some(())
    }
}

/// Where a row's elements lie among those of its column.
fn bounds(list: &ListArray, row: usize) -> (usize, usize) {
    let offsets = list.value_offsets();
    // Arrow checks when an array is built that offsets are not negative and ascend.
    #[allow(clippy::cast_sign_loss)]
    (offsets[row] as usize, offsets[row + 1] as usize)
}

/// Writes the tag for "not null" and leaves room for the length; returns where that stands.
fn begin(out: &mut Vec<u8>) -> usize {
    out.extend_from_slice(&[1, 0, 0, 0, 0]);
    out.len() - 4
}

/// Fills in the length of the value that [`begin`] began.
fn end(out: &mut [u8], length_at: usize) -> Option<()> {
    let length = u32::try_from(out.len() - length_at - 4).ok()?;
    out[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    Some(())
}

fn push_length(out: &mut Vec<u8>, length: usize) -> Option<()> {
    out.extend_from_slice(&u32::try_from(length).ok()?.to_le_bytes());
    Some(())
}

fn push_bytes(out: &mut Vec<u8>, bytes: &[u8]) -> Option<()> {
    push_length(out, bytes.len())?;
    out.extend_from_slice(bytes);
    Some(())
}
