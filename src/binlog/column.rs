//! A field's payload as Parquet decodes it → the Arrow column of that field.
//!
//! Numbers and text are what they are. Vectors are stored as bytes of a fixed length, and are looked at as numbers
//! without being copied. Arrays are protobuf messages of scalars, sparse vectors pairs of index and value. Types that
//! Milvus 2.3.5 holds are checked on its files; the others are read from public descriptions, and marked here.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int8Type, Int16Type, Int32Type, Int64Type};
use arrow_array::{
    Array, ArrayRef, ArrowPrimitiveType, FixedSizeBinaryArray, FixedSizeListArray, Float16Array, Float32Array,
    Int8Array, ListArray, PrimitiveArray, StringArray, StructArray, TimestampMicrosecondArray, UInt32Array,
};
use arrow_buffer::{ArrowNativeType, Buffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType as ArrowType, Field as ArrowField};
use prost::Message;

use crate::proto::ScalarField;
use crate::proto::elements::Elements;
use crate::schema::{DataType, Field};

/// The column of `field`, or what does not fit.
pub(super) fn column(field: &Field, stored: &ArrayRef) -> Result<ArrayRef, String> {
    let misfit =
        || format!("holds {:?} where field '{}' is of type {:?}", stored.data_type(), field.name, field.data_type);
    if stored.null_count() > 0 && !field.nullable {
        return Err(format!("has nulls, and field '{}' may have none", field.name));
    }
    match field.data_type {
        DataType::Bool => stored.as_boolean_opt().map(|_| Arc::clone(stored)).ok_or_else(misfit),
        DataType::Int8 => integer::<Int8Type>(stored).ok_or_else(misfit),
        DataType::Int16 => integer::<Int16Type>(stored).ok_or_else(misfit),
        DataType::Int32 => integer::<Int32Type>(stored).ok_or_else(misfit),
        DataType::Int64 => integer::<Int64Type>(stored).ok_or_else(misfit),
        DataType::Float | DataType::Double => {
            let wanted = if field.data_type == DataType::Float { ArrowType::Float32 } else { ArrowType::Float64 };
            (*stored.data_type() == wanted).then(|| Arc::clone(stored)).ok_or_else(misfit)
        }
        // Read: microseconds since 1970.
        DataType::Timestamptz => {
            let micros = stored.as_primitive_opt::<Int64Type>().ok_or_else(misfit)?;
            let times = TimestampMicrosecondArray::new(micros.values().clone(), micros.nulls().cloned());
            Ok(Arc::new(times.with_timezone("UTC")))
        }
        DataType::Varchar | DataType::Json => text(field, stored).ok_or_else(misfit)?,
        DataType::Array => arrays(field, stored).ok_or_else(misfit)?,
        DataType::FloatVector => vectors::<f32>(field, stored, |values| Arc::new(Float32Array::new(values, None))),
        // Read, and the two below.
        DataType::Float16Vector => {
            vectors::<half::f16>(field, stored, |values| Arc::new(Float16Array::new(values, None)))
        }
        DataType::Int8Vector => vectors::<i8>(field, stored, |values| Arc::new(Int8Array::new(values, None))),
        DataType::Bfloat16Vector | DataType::BinaryVector => {
            let arrow = field.arrow().map_err(|error| error.message().to_owned())?;
            let ArrowType::FixedSizeBinary(width) = *arrow.data_type() else { return Err(misfit()) };
            Ok(Arc::new(fixed(stored, width).ok_or_else(misfit)?))
        }
        DataType::SparseFloatVector => sparse(field, stored).ok_or_else(misfit)?,
        DataType::Geometry => Err(format!(
            "holds geometry ('{}') as Milvus stores it, which this version does not read: back it up as LOCAL_FILE",
            field.name
        )),
    }
}

/// Integers, in their own width or in the 32 bits that Parquet keeps small ones in.
fn integer<T: ArrowPrimitiveType>(stored: &ArrayRef) -> Option<ArrayRef>
where
    T::Native: TryFrom<i32>,
{
    if stored.as_primitive_opt::<T>().is_some() {
        return Some(Arc::clone(stored));
    }
    let wide = stored.as_primitive_opt::<Int32Type>()?;
    let values: Option<Vec<T::Native>> = wide
        .iter()
        .map(|value| value.map_or(Some(T::Native::default()), |value| T::Native::try_from(value).ok()))
        .collect();
    Some(Arc::new(PrimitiveArray::<T>::new(values?.into(), wide.nulls().cloned())))
}

fn text(field: &Field, stored: &ArrayRef) -> Option<Result<ArrayRef, String>> {
    let text = match stored.data_type() {
        ArrowType::Utf8 => stored.as_string::<i32>().clone(),
        ArrowType::Binary => {
            let bytes = stored.as_binary::<i32>();
            let checked = StringArray::try_new(bytes.offsets().clone(), bytes.values().clone(), bytes.nulls().cloned());
            match checked {
                Ok(text) => text,
                Err(_) => return Some(Err(format!("holds bytes in field '{}' that are not UTF-8", field.name))),
            }
        }
        _ => return None,
    };
    if !field.dynamic || text.iter().all(|value| value.is_some_and(|value| !value.is_empty())) {
        return Some(Ok(Arc::new(text)));
    }
    // A row without dynamic values, as every server tells it.
    let filled = text.iter().map(|value| value.filter(|value| !value.is_empty()).or(Some("{}")));
    Some(Ok(Arc::new(filled.collect::<StringArray>())))
}

/// Protobuf messages, one a row, → lists.
fn arrays(field: &Field, stored: &ArrayRef) -> Option<Result<ArrayRef, String>> {
    let bytes = stored.as_binary_opt::<i32>()?;
    let mut messages = Vec::with_capacity(bytes.len());
    for value in bytes {
        match ScalarField::decode(value.unwrap_or_default()) {
            Ok(message) => messages.push(message),
            Err(error) => return Some(Err(format!("has an array in field '{}' that is none: {error}", field.name))),
        }
    }
    let lists = Elements::gather(field.element_type, messages)?;
    let item = Arc::new(ArrowField::new("element", lists.values.data_type().clone(), false));
    let list =
        ListArray::try_new(item, OffsetBuffer::from_lengths(lists.lengths), lists.values, bytes.nulls().cloned());
    Some(list.map(|list| Arc::new(list) as ArrayRef).map_err(|error| error.to_string()))
}

/// Bytes of a fixed length looked at as numbers.
fn vectors<T: ArrowNativeType>(
    field: &Field,
    stored: &ArrayRef,
    array: impl FnOnce(ScalarBuffer<T>) -> ArrayRef,
) -> Result<ArrayRef, String> {
    let dimension = field.dimension().map_err(|error| error.message().to_owned())?;
    let width = dimension * size_of::<T>();
    let bytes = i32::try_from(width).ok().and_then(|width| fixed(stored, width)).ok_or_else(|| {
        format!("holds {:?} where vectors of '{}' have {width} bytes", stored.data_type(), field.name)
    })?;
    let count = bytes.len() * dimension;
    let buffer = values(&bytes);
    let buffer =
        if buffer.as_ptr().align_offset(align_of::<T>()) == 0 { buffer } else { Buffer::from(buffer.as_slice()) };
    let arrow = field.arrow().map_err(|error| error.message().to_owned())?;
    let ArrowType::FixedSizeList(item, length) = arrow.data_type().clone() else {
        return Err(format!("holds vectors, and field '{}' has none", field.name));
    };
    let list =
        FixedSizeListArray::try_new(item, length, array(ScalarBuffer::new(buffer, 0, count)), bytes.nulls().cloned());
    list.map(|list| Arc::new(list) as ArrayRef).map_err(|error| error.to_string())
}

/// Values of `width` bytes each, or nulls. Read: vectors that may be null are stored with their length.
fn fixed(stored: &ArrayRef, width: i32) -> Option<FixedSizeBinaryArray> {
    if let Some(bytes) = stored.as_fixed_size_binary_opt() {
        return (bytes.value_length() == width).then(|| bytes.clone());
    }
    let bytes = stored.as_binary_opt::<i32>()?;
    let blank = vec![0; usize::try_from(width).ok()?];
    let mut values = Vec::with_capacity(bytes.len() * blank.len());
    for value in bytes {
        let value = value.unwrap_or(&blank);
        if value.len() != blank.len() {
            return None;
        }
        values.extend_from_slice(value);
    }
    FixedSizeBinaryArray::try_new(width, values.into(), bytes.nulls().cloned()).ok()
}

/// The bytes of an array's own rows; it may be a slice of a longer one.
fn values(bytes: &FixedSizeBinaryArray) -> Buffer {
    let data = bytes.to_data();
    let width = usize::try_from(bytes.value_length()).unwrap_or_default();
    data.buffers()[0].slice_with_length(data.offset() * width, data.len() * width)
}

/// Read: rows of (u32 index, f32 value) pairs → a struct of two lists.
fn sparse(field: &Field, stored: &ArrayRef) -> Option<Result<ArrayRef, String>> {
    let bytes = stored.as_binary_opt::<i32>()?;
    let (mut indices, mut values, mut lengths) = (Vec::new(), Vec::new(), Vec::with_capacity(bytes.len()));
    for row in bytes {
        let (pairs, rest) = row.unwrap_or_default().as_chunks::<8>();
        if !rest.is_empty() {
            return Some(Err(format!("has a sparse vector in field '{}' that is no list of pairs", field.name)));
        }
        lengths.push(pairs.len());
        for [a, b, c, d, e, f, g, h] in pairs {
            indices.push(u32::from_le_bytes([*a, *b, *c, *d]));
            values.push(f32::from_le_bytes([*e, *f, *g, *h]));
        }
    }
    let ArrowType::Struct(fields) = field.arrow().ok()?.data_type().clone() else { return None };
    let offsets = OffsetBuffer::from_lengths(lengths);
    let list = |item: ArrowType, array: ArrayRef| -> ArrayRef {
        Arc::new(ListArray::new(Arc::new(ArrowField::new("element", item, false)), offsets.clone(), array, None))
    };
    let columns = vec![
        list(ArrowType::UInt32, Arc::new(UInt32Array::from(indices))),
        list(ArrowType::Float32, Arc::new(Float32Array::from(values))),
    ];
    let array = StructArray::try_new(fields, columns, bytes.nulls().cloned());
    Some(array.map(|array| Arc::new(array) as ArrayRef).map_err(|error| error.to_string()))
}

#[cfg(test)]
mod tests {
    use arrow_array::{BinaryArray, Float64Array, Int64Array};
    use serde_json::{Value, json};

    use super::*;

    fn field(data_type: &str, more: &Value) -> Field {
        let mut described = json!({"id": 100, "name": "f", "data_type": data_type});
        for (key, value) in more.as_object().into_iter().flatten() {
            described[key] = value.clone();
        }
        serde_json::from_value(described).unwrap()
    }

    fn vectors_of(data_type: &str, dim: usize, nullable: bool) -> Field {
        field(data_type, &json!({"params": {"dim": dim.to_string()}, "nullable": nullable}))
    }

    /// Values as bytes, of a fixed length and each with its own.
    fn both(values: &[&[u8]]) -> [ArrayRef; 2] {
        let fixed = FixedSizeBinaryArray::try_from_iter(values.iter().copied()).unwrap();
        [Arc::new(fixed), Arc::new(BinaryArray::from_iter_values(values))]
    }

    #[test]
    fn vectors_are_the_numbers_that_their_bytes_are() {
        for stored in both(&[&[0x00, 0x3c, 0x00, 0xc0], &[0x00, 0x7c, 0x01, 0x00]]) {
            let halves = column(&vectors_of("float16_vector", 2, false), &stored).unwrap();
            let halves =
                halves.as_fixed_size_list().values().as_primitive::<arrow_array::types::Float16Type>().values();
            assert_eq!(halves.iter().map(|half| half.to_bits()).collect::<Vec<_>>(), [0x3c00, 0xc000, 0x7c00, 1]);
        }
        for stored in both(&[&[1, 255, 128], &[127, 0, 2]]) {
            let small = column(&vectors_of("int8_vector", 3, false), &stored).unwrap();
            assert_eq!(
                small.as_fixed_size_list().values().as_primitive::<Int8Type>().values()[..],
                [1, -1, -128, 127, 0, 2]
            );
        }
        for (data_type, dim) in [("bfloat16_vector", 1), ("binary_vector", 16)] {
            for stored in both(&[&[1, 2], &[3, 4]]) {
                let bytes = column(&vectors_of(data_type, dim, false), &stored).unwrap();
                assert_eq!((bytes.as_fixed_size_binary().value(1), bytes.len()), (&[3u8, 4][..], 2));
            }
        }
        let [stored, _] = both(&[&[0; 6]]);
        for (data_type, dim) in
            [("float16_vector", 2), ("bfloat16_vector", 4), ("binary_vector", 8), ("float_vector", 2)]
        {
            assert!(column(&vectors_of(data_type, dim, false), &stored).is_err(), "{data_type}");
        }
    }

    #[test]
    fn a_vector_that_is_null_stays_so_and_others_beside_it_stay_what_they_are() {
        let bytes = 1.5f32.to_le_bytes();
        let stored: ArrayRef = Arc::new(BinaryArray::from_opt_vec(vec![Some(&bytes), None, Some(&bytes)]));
        let read = column(&vectors_of("float_vector", 1, true), &stored).unwrap();
        assert_eq!((read.is_null(0), read.is_null(1), read.is_null(2)), (false, true, false));
        let values = read.as_fixed_size_list().values().as_primitive::<arrow_array::types::Float32Type>().values();
        assert_eq!((values[0].to_bits(), values[2].to_bits()), (1.5f32.to_bits(), 1.5f32.to_bits()));
        assert!(column(&vectors_of("float_vector", 1, false), &stored).unwrap_err().contains("nulls"));
        let short: ArrayRef = Arc::new(BinaryArray::from_vec(vec![&[1, 2, 3]]));
        assert!(column(&vectors_of("float_vector", 1, true), &short).is_err());
    }

    #[test]
    fn sparse_vectors_are_pairs_of_index_and_value() {
        let pair = |index: u32, value: f32| [index.to_le_bytes(), value.to_le_bytes()].concat();
        let rows = [[pair(3, 0.5), pair(70_000, -2.0)].concat(), Vec::new()];
        let stored: ArrayRef = Arc::new(BinaryArray::from_iter_values(&rows));
        let read = column(&field("sparse_float_vector", &json!({})), &stored).unwrap();
        let (indices, values) = (read.as_struct().column(0), read.as_struct().column(1));
        assert_eq!(indices.as_list::<i32>().value_offsets(), [0, 2, 2]);
        let first = indices.as_list::<i32>().value(0);
        assert_eq!(first.as_primitive::<arrow_array::types::UInt32Type>().values()[..], [3, 70_000]);
        let first = values.as_list::<i32>().value(0);
        assert_eq!(first.as_primitive::<arrow_array::types::Float32Type>().values()[1].to_bits(), (-2.0f32).to_bits());
        let odd: ArrayRef = Arc::new(BinaryArray::from_vec(vec![&[0; 7]]));
        assert!(column(&field("sparse_float_vector", &json!({})), &odd).unwrap_err().contains("no list of pairs"));
    }

    #[test]
    fn times_are_microseconds_and_nulls_are_nulls_where_they_may_be() {
        let stored: ArrayRef = Arc::new(Int64Array::from(vec![Some(1_500_000), None]));
        let read = column(&field("timestamptz", &json!({"nullable": true})), &stored).unwrap();
        assert_eq!(*read.data_type(), ArrowType::Timestamp(arrow_schema::TimeUnit::Microsecond, Some("UTC".into())));
        assert!(read.is_null(1));
        let narrow: ArrayRef = Arc::new(arrow_array::Int32Array::from(vec![Some(-7), None]));
        let read = column(&field("int16", &json!({"nullable": true})), &narrow).unwrap();
        assert_eq!((read.as_primitive::<Int16Type>().value(0), read.is_null(1)), (-7, true));
        assert!(column(&field("int16", &json!({})), &narrow).unwrap_err().contains("nulls"));
        let wide: ArrayRef = Arc::new(arrow_array::Int32Array::from(vec![40_000]));
        assert!(column(&field("int16", &json!({})), &wide).is_err());
        let other: ArrayRef = Arc::new(Float64Array::from(vec![1.0]));
        assert!(column(&field("int64", &json!({})), &other).unwrap_err().contains("'f' is of type"));
    }
}
