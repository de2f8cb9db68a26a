//! Arrow record batches → rows as the server wants them (columns of protobuf), the inverse of `decode`. Vectors are
//! handed over as the Arrow buffer itself, not copied.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType, UInt32Type,
};
use arrow_array::{
    Array, ArrayRef, ArrowPrimitiveType, BooleanArray, FixedSizeListArray, ListArray, RecordBatch, StructArray,
};
use arrow_buffer::Buffer;
use bytes::Bytes;
use chrono::Datelike;

use super::client::ServerKind;
use super::proto;
use super::proto::field_data::Field as Payload;
use super::proto::scalar_field::Data as Scalars;
use super::proto::vector_field::Data as Vectors;
use crate::error::{Error, Kind, Result};
use crate::schema::{CollectionSchema, DataType, Field};

#[cfg(target_endian = "big")]
compile_error!("vectors are handed to the wire as they lie in memory, which has to be little-endian");

/// The batch as `Insert` wants it: a column for each stored field of `schema`, but for a primary key that the server
/// makes.
pub(super) fn fields(
    schema: &CollectionSchema,
    batch: &RecordBatch,
    server: ServerKind,
) -> Result<Vec<proto::FieldData>> {
    let wanted = schema.stored_fields().filter(|field| !(field.primary_key && field.auto_id));
    wanted
        .map(|field| {
            let column = batch.column_by_name(&field.name).ok_or_else(|| {
                Error::new(Kind::Internal, format!("the rows to insert have no column '{}'", field.name))
            })?;
            encode(field, column, server)
        })
        .collect()
}

fn encode(field: &Field, column: &ArrayRef, server: ServerKind) -> Result<proto::FieldData> {
    let valid_data =
        if field.nullable { (0..column.len()).map(|row| column.is_valid(row)).collect() } else { Vec::new() };
    let column = &without_nulls(column)?;
    let payload = if field.data_type.is_vector() {
        let (dim, data) = vectors(field, column)?;
        Payload::Vectors(proto::VectorField { dim, data: Some(data) })
    } else {
        Payload::Scalars(proto::ScalarField { data: Some(scalars(field, column, server)?) })
    };
    Ok(proto::FieldData {
        r#type: field.data_type.number(),
        field_name: field.name.clone(),
        field: Some(payload),
        field_id: 0,
        is_dynamic: field.dynamic,
        valid_data,
    })
}

/// The values of rows that have one: servers since 2.5 take no fillers for the others, which `valid_data` tells.
fn without_nulls(column: &ArrayRef) -> Result<ArrayRef> {
    let Some(nulls) = column.nulls().filter(|nulls| nulls.null_count() > 0) else { return Ok(Arc::clone(column)) };
    let valid = BooleanArray::new(nulls.inner().clone(), None);
    arrow_select::filter::filter(column, &valid)
        .map_err(|error| Error::new(Kind::Internal, format!("nulls could not be left out: {error}")))
}

fn misfit(field: &Field, column: &ArrayRef) -> Error {
    Error::new(
        Kind::Internal,
        format!("column '{}' is {} and cannot become {:?}", field.name, column.data_type(), field.data_type),
    )
}

fn scalars(field: &Field, column: &ArrayRef, server: ServerKind) -> Result<Scalars> {
    let misfit = || misfit(field, column);
    Ok(match field.data_type {
        DataType::Bool => {
            let array = column.as_boolean_opt().ok_or_else(misfit)?;
            Scalars::BoolData(proto::BoolArray { data: array.values().iter().collect() })
        }
        DataType::Int8 => Scalars::IntData(proto::IntArray { data: widen::<Int8Type>(column).ok_or_else(misfit)? }),
        DataType::Int16 => Scalars::IntData(proto::IntArray { data: widen::<Int16Type>(column).ok_or_else(misfit)? }),
        DataType::Int32 => Scalars::IntData(proto::IntArray { data: widen::<Int32Type>(column).ok_or_else(misfit)? }),
        DataType::Int64 => {
            let array = column.as_primitive_opt::<Int64Type>().ok_or_else(misfit)?;
            Scalars::LongData(proto::LongArray { data: array.values().to_vec() })
        }
        DataType::Timestamptz => {
            let array = column.as_primitive_opt::<TimestampMicrosecondType>().ok_or_else(misfit)?;
            match array.values().iter().map(|micros| time(*micros)).collect() {
                Some(data) => Scalars::StringData(proto::StringArray { data }),
                None => Scalars::TimestamptzData(proto::LongArray { data: array.values().to_vec() }),
            }
        }
        DataType::Float => {
            Scalars::FloatData(proto::FloatArray { data: raw::<Float32Type>(column).ok_or_else(misfit)? })
        }
        DataType::Double => {
            Scalars::DoubleData(proto::DoubleArray { data: raw::<Float64Type>(column).ok_or_else(misfit)? })
        }
        DataType::Varchar => Scalars::StringData(proto::StringArray { data: strings(column).ok_or_else(misfit)? }),
        DataType::Geometry => {
            Scalars::GeometryWktData(proto::StringArray { data: strings(column).ok_or_else(misfit)? })
        }
        DataType::Json => {
            let array = column.as_string_opt::<i32>().ok_or_else(misfit)?;
            let quoted = server == ServerKind::Lite && !field.dynamic;
            let data = (0..array.len()).map(|row| json(array.value(row), quoted)).collect();
            Scalars::JsonData(proto::BytesArray { data })
        }
        DataType::Array => {
            let element = field.element_type.ok_or_else(misfit)?;
            let list = column.as_list_opt::<i32>().ok_or_else(misfit)?;
            let data = array_rows(element, list).ok_or_else(misfit)?;
            Scalars::ArrayData(proto::ArrayArray { data, element_type: element.number() })
        }
        _ => return Err(misfit()),
    })
}

/// JSON as a server takes it. Milvus Lite reads the text and keeps objects and lists as it writes them itself, strings
/// without their quotes, and neither bare numbers nor `null` at all. But a JSON string it keeps as the text that it
/// is: so it gets every text as a string, and gives back what was backed up.
fn json(text: &str, quoted: bool) -> Bytes {
    if quoted { serde_json::Value::from(text).to_string().into() } else { Bytes::copy_from_slice(text.as_bytes()) }
}

/// A time as Milvus takes it, such as 2026-11-21T06:30:00.250000Z: it refuses numbers, in which it keeps and tells times.
/// `None` for one that no such text says, before the year 1 or after 9999.
fn time(micros: i64) -> Option<String> {
    let time = chrono::DateTime::from_timestamp_micros(micros)?;
    (1..=9999).contains(&time.year()).then(|| time.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string())
}

fn widen<T: ArrowPrimitiveType>(column: &ArrayRef) -> Option<Vec<i32>>
where
    T::Native: Into<i32>,
{
    Some(column.as_primitive_opt::<T>()?.values().iter().map(|value| (*value).into()).collect())
}

fn strings(column: &ArrayRef) -> Option<Vec<String>> {
    let array = column.as_string_opt::<i32>()?;
    Some((0..array.len()).map(|row| array.value(row).to_owned()).collect())
}

/// A primitive array's own bytes.
fn raw<T: ArrowPrimitiveType>(column: &ArrayRef) -> Option<Bytes> {
    Some(share(column.as_primitive_opt::<T>()?.values().inner().clone()))
}

/// An Arrow buffer as `Bytes`, not copied.
fn share(buffer: Buffer) -> Bytes {
    struct Owner(Buffer);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            self.0.as_slice()
        }
    }
    Bytes::from_owner(Owner(buffer))
}

fn array_rows(element: DataType, list: &ListArray) -> Option<Vec<proto::ScalarField>> {
    (0..list.len())
        .map(|row| {
            let values = list.value(row);
            let data = match element {
                DataType::Bool => {
                    Scalars::BoolData(proto::BoolArray { data: values.as_boolean_opt()?.values().iter().collect() })
                }
                DataType::Int8 => Scalars::IntData(proto::IntArray { data: widen::<Int8Type>(&values)? }),
                DataType::Int16 => Scalars::IntData(proto::IntArray { data: widen::<Int16Type>(&values)? }),
                DataType::Int32 => Scalars::IntData(proto::IntArray { data: widen::<Int32Type>(&values)? }),
                DataType::Int64 => Scalars::LongData(proto::LongArray {
                    data: values.as_primitive_opt::<Int64Type>()?.values().to_vec(),
                }),
                DataType::Float => Scalars::FloatData(proto::FloatArray { data: raw::<Float32Type>(&values)? }),
                DataType::Double => Scalars::DoubleData(proto::DoubleArray { data: raw::<Float64Type>(&values)? }),
                DataType::Varchar => Scalars::StringData(proto::StringArray { data: strings(&values)? }),
                _ => return None,
            };
            Some(proto::ScalarField { data: Some(data) })
        })
        .collect()
}

fn vectors(field: &Field, column: &ArrayRef) -> Result<(i64, Vectors)> {
    let misfit = || misfit(field, column);
    if field.data_type == DataType::SparseFloatVector {
        let sparse = sparse(column.as_struct_opt().ok_or_else(misfit)?).ok_or_else(misfit)?;
        return Ok((sparse.dim, Vectors::SparseFloatVector(sparse)));
    }
    let dim = i64::try_from(field.dimension()?).map_err(|_| misfit())?;
    let list = column.as_fixed_size_list_opt();
    let bytes = |list: Option<&FixedSizeListArray>| list.and_then(list_bytes).ok_or_else(misfit);
    Ok((
        dim,
        match field.data_type {
            DataType::FloatVector => Vectors::FloatVector(proto::FloatArray { data: bytes(list)? }),
            DataType::Float16Vector => Vectors::Float16Vector(bytes(list)?),
            DataType::Int8Vector => Vectors::Int8Vector(bytes(list)?),
            DataType::Bfloat16Vector => Vectors::Bfloat16Vector(fixed_bytes(column).ok_or_else(misfit)?),
            DataType::BinaryVector => Vectors::BinaryVector(fixed_bytes(column).ok_or_else(misfit)?),
            _ => return Err(misfit()),
        },
    ))
}

/// The bytes of all vectors end to end.
fn list_bytes(list: &FixedSizeListArray) -> Option<Bytes> {
    let width = list.values().data_type().primitive_width()?;
    let row = usize::try_from(list.value_length()).ok()? * width;
    let data = list.values().to_data();
    let start = (data.offset() + list.value_offset_at(0)) * width;
    let all = data.buffers().first()?.slice_with_length(start, list.len() * row);
    Some(share(all))
}

fn fixed_bytes(column: &ArrayRef) -> Option<Bytes> {
    Some(share(Buffer::from(column.as_fixed_size_binary_opt()?.value_data())))
}

fn sparse(array: &StructArray) -> Option<proto::SparseFloatArray> {
    let indices = array.column_by_name("indices")?.as_list_opt::<i32>()?;
    let values = array.column_by_name("values")?.as_list_opt::<i32>()?;
    let mut dim = 0;
    let mut contents = Vec::with_capacity(array.len());
    for row in 0..array.len() {
        let (index, value) = (indices.value(row), values.value(row));
        let (index, value) = (index.as_primitive_opt::<UInt32Type>()?, value.as_primitive_opt::<Float32Type>()?);
        let mut bytes = Vec::with_capacity(index.len() * 8);
        for (index, value) in index.values().iter().zip(value.values()) {
            dim = dim.max(i64::from(*index) + 1);
            bytes.extend_from_slice(&index.to_le_bytes());
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        contents.push(Bytes::from(bytes));
    }
    Some(proto::SparseFloatArray { contents, dim })
}
