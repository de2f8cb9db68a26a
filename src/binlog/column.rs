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
