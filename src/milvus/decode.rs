//! Rows as the server sends them (columns of protobuf) → Arrow arrays. Vectors, floats and doubles are not copied
//! where the received bytes are aligned; most are not (measured: 85 %), and then one copy is made.

use std::sync::Arc;

use arrow_array::types::{Int8Type, Int16Type};
use arrow_array::{
    Array, ArrayRef, BooleanArray, FixedSizeBinaryArray, FixedSizeListArray, Float16Array, Float32Array, Float64Array,
    Int8Array, Int32Array, Int64Array, ListArray, PrimitiveArray, StringArray, StructArray, TimestampMicrosecondArray,
    UInt32Array,
};
use arrow_buffer::{ArrowNativeType, BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType as ArrowType, Field as ArrowField, FieldRef};
use bytes::Bytes;

use crate::error::{Error, Kind, Result};
use crate::proto;
use crate::proto::elements::{Elements, narrow};
use crate::proto::field_data::Field as Payload;
use crate::proto::scalar_field::Data as Scalars;
use crate::proto::vector_field::Data as Vectors;
use crate::schema::{DataType, Field};

/// The column of `field` with `rows` rows.
///
/// # Errors
/// [`Kind::Server`] where the answer does not fit the schema: another type, another number of values, text that is not
/// UTF-8.
pub(super) fn column(field: &Field, data: proto::FieldData, rows: usize) -> Result<ArrayRef> {
    let column = Column { field, rows, nulls: nulls(field, &data.valid_data, rows)? };
    match data.field {
        Some(Payload::Scalars(proto::ScalarField { data: Some(scalars) })) => column.scalars(scalars),
        Some(Payload::Vectors(proto::VectorField { data: Some(vectors), dim })) => column.vectors(vectors, dim),
        _ if rows == 0 => column.absent(),
        // 2.3.5 and Lite leave the dynamic column empty where no row has a dynamic key.
        _ if field.dynamic => column.text(std::iter::empty::<Bytes>()),
        _ => Err(column.misfit("has no values")),
    }
}

fn nulls(field: &Field, valid: &[bool], rows: usize) -> Result<Option<NullBuffer>> {
    if valid.is_empty() {
        return Ok(None);
    }
    if valid.len() != rows {
        return Err(Error::new(
            Kind::Server,
            format!("field '{}' came with {} null marks for {rows} rows", field.name, valid.len()),
        ));
    }
    let nulls = NullBuffer::new(BooleanBuffer::from(valid));
    Ok((nulls.null_count() > 0).then_some(nulls))
}

struct Column<'a> {
    field: &'a Field,
    rows: usize,
    nulls: Option<NullBuffer>,
}

impl Column<'_> {
    fn misfit(&self, why: &str) -> Error {
        Error::new(
            Kind::Server,
            format!(
                "the answer does not fit the schema: field '{}' ({:?}) {why}",
                self.field.name, self.field.data_type
            ),
        )
    }

    /// Where each row's value stands among `count` values: servers send one a row, or only those that are not null.
    fn places(&self, count: usize) -> Result<Places> {
        if count == self.rows {
            return Ok(Places::All);
        }
        match &self.nulls {
            Some(nulls) if nulls.len() - nulls.null_count() == count => Ok(Places::Valid(nulls.clone())),
            _ => Err(self.misfit(&format!("has {count} values for {} rows", self.rows))),
        }
    }

    fn scalars(self, data: Scalars) -> Result<ArrayRef> {
        match (self.field.data_type, data) {
            (DataType::Bool, Scalars::BoolData(array)) => {
                let values = self.places(array.data.len())?.spread(array.data, self.rows);
                Ok(Arc::new(BooleanArray::new(BooleanBuffer::from(values), self.nulls)))
            }
            (DataType::Int8, Scalars::IntData(array)) => self.narrow::<Int8Type>(&array.data),
            (DataType::Int16, Scalars::IntData(array)) => self.narrow::<Int16Type>(&array.data),
            (DataType::Int32, Scalars::IntData(array)) => {
                let values = self.places(array.data.len())?.spread(array.data, self.rows);
                Ok(Arc::new(Int32Array::new(values.into(), self.nulls)))
            }
            (DataType::Int64, Scalars::LongData(array)) => {
                let values = self.places(array.data.len())?.spread(array.data, self.rows);
                Ok(Arc::new(Int64Array::new(values.into(), self.nulls)))
            }
            (DataType::Timestamptz, Scalars::TimestamptzData(array) | Scalars::LongData(array)) => {
                let values = self.places(array.data.len())?.spread(array.data, self.rows);
                Ok(Arc::new(TimestampMicrosecondArray::new(values.into(), self.nulls).with_timezone("UTC")))
            }
            // Milvus Lite tells them as text, such as 2026-11-21T06:30:00.25Z.
            (DataType::Timestamptz, Scalars::StringData(array)) => {
                let texts = self.places(array.data.len())?.spread(array.data, self.rows);
                let micros = |(row, text): (usize, &String)| match &self.nulls {
                    Some(nulls) if nulls.is_null(row) => Some(0),
                    _ => chrono::DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_micros()),
                };
                let values: Option<Vec<i64>> = texts.iter().enumerate().map(micros).collect();
                let values = values.ok_or_else(|| self.misfit("has a time that is none"))?;
                Ok(Arc::new(TimestampMicrosecondArray::new(values.into(), self.nulls).with_timezone("UTC")))
            }
            (DataType::Float, Scalars::FloatData(array)) => {
                let values = self.numbers::<f32>(array.data, 1)?;
                Ok(Arc::new(Float32Array::new(values, self.nulls)))
            }
            (DataType::Double, Scalars::DoubleData(array)) => {
                let values = self.numbers::<f64>(array.data, 1)?;
                Ok(Arc::new(Float64Array::new(values, self.nulls)))
            }
            (DataType::Varchar, Scalars::StringData(array)) | (DataType::Geometry, Scalars::GeometryWktData(array)) => {
                self.text(array.data.into_iter().map(String::into_bytes))
            }
            (DataType::Json, Scalars::JsonData(array)) => self.text(array.data.into_iter()),
            (DataType::Array, Scalars::ArrayData(array)) => self.arrays(array.data),
            _ => Err(self.misfit("came as another type")),
        }
    }

    fn narrow<T: arrow_array::ArrowPrimitiveType>(self, wide: &[i32]) -> Result<ArrayRef>
    where
        T::Native: TryFrom<i32>,
    {
        let values: Vec<T::Native> = narrow::<T>(wide).ok_or_else(|| self.misfit("has a value out of its range"))?;
        let values = self.places(values.len())?.spread(values, self.rows);
        Ok(Arc::new(PrimitiveArray::<T>::new(values.into(), self.nulls)))
    }

    /// Text of any kind; a dynamic field without values gets `{}` for each row.
    fn text(self, values: impl ExactSizeIterator<Item = impl AsRef<[u8]>>) -> Result<ArrayRef> {
        let filler: &[u8] = if self.field.dynamic { b"{}" } else { b"" };
        let places = if self.field.dynamic && values.len() == 0 { Places::None } else { self.places(values.len())? };
        let mut offsets = Vec::with_capacity(self.rows + 1);
        let mut bytes: Vec<u8> = Vec::new();
        let mut values = values;
        offsets.push(0i32);
        for row in 0..self.rows {
            match if places.has(row) { values.next() } else { None } {
                Some(value) => bytes.extend_from_slice(value.as_ref()),
                None => bytes.extend_from_slice(filler),
            }
            offsets.push(i32::try_from(bytes.len()).map_err(|_| self.misfit("is larger than 2 GiB in one page"))?);
        }
        let (rows, nulls) = (self.rows, self.nulls.clone());
        let array = StringArray::try_new(OffsetBuffer::new(offsets.into()), Buffer::from_vec(bytes), nulls)
            .map_err(|_| self.misfit("holds text that is not UTF-8"))?;
        debug_assert_eq!(array.len(), rows);
        Ok(Arc::new(array))
    }

    fn arrays(self, rows: Vec<proto::ScalarField>) -> Result<ArrayRef> {
        let rows = self.places(rows.len())?.spread(rows, self.rows);
        let lists = Elements::gather(self.field.element_type, rows)
            .ok_or_else(|| self.misfit("has elements of another type"))?;
        let item: FieldRef = Arc::new(ArrowField::new("element", lists.values.data_type().clone(), false));
        let offsets = OffsetBuffer::from_lengths(lists.lengths);
        let nulls = self.nulls.clone();
        Ok(Arc::new(
            ListArray::try_new(item, offsets, lists.values, nulls)
                .map_err(|_| self.misfit("has arrays that do not fit"))?,
        ))
    }

    /// Little-endian numbers, `width` a row, not copied where they are aligned and there is one for each row.
    fn numbers<T: ArrowNativeType>(&self, bytes: Bytes, width: usize) -> Result<ScalarBuffer<T>> {
        let row_bytes = width * size_of::<T>();
        let bytes = self.row_bytes(bytes, row_bytes)?;
        Ok(if bytes.as_ptr().align_offset(align_of::<T>()) == 0 {
            ScalarBuffer::new(Buffer::from(bytes), 0, self.rows * width)
        } else {
            ScalarBuffer::new(Buffer::from(bytes.as_ref()), 0, self.rows * width)
        })
    }

    /// Bytes with `width` for each row, zeros where a row is null and was left out.
    fn row_bytes(&self, bytes: Bytes, width: usize) -> Result<Bytes> {
        if width == 0 || !bytes.len().is_multiple_of(width) {
            return Err(self.misfit(&format!("has {} bytes, no multiple of {width}", bytes.len())));
        }
        match self.places(bytes.len() / width)? {
            Places::All => Ok(bytes),
            places => {
                let mut spread = vec![0u8; self.rows * width];
                let mut next = bytes.chunks_exact(width);
                for (row, target) in spread.chunks_exact_mut(width).enumerate() {
                    if let Some(value) = if places.has(row) { next.next() } else { None } {
                        target.copy_from_slice(value);
                    }
                }
                Ok(spread.into())
            }
        }
    }

    fn vectors(self, data: Vectors, dim: i64) -> Result<ArrayRef> {
        if let Vectors::SparseFloatVector(sparse) = &data {
            return self.sparse(sparse);
        }
        let expected = self.field.dimension()?;
        if usize::try_from(dim) != Ok(expected) {
            return Err(self.misfit(&format!("came with dimension {dim} instead of {expected}")));
        }
        match (self.field.data_type, data) {
            (DataType::FloatVector, Vectors::FloatVector(array)) => {
                let values = self.numbers::<f32>(array.data, expected)?;
                self.list(Arc::new(Float32Array::new(values, None)))
            }
            (DataType::Float16Vector, Vectors::Float16Vector(bytes)) => {
                let values = self.numbers::<half::f16>(bytes, expected)?;
                self.list(Arc::new(Float16Array::new(values, None)))
            }
            (DataType::Int8Vector, Vectors::Int8Vector(bytes)) => {
                let values = self.numbers::<i8>(bytes, expected)?;
                self.list(Arc::new(Int8Array::new(values, None)))
            }
            (DataType::Bfloat16Vector, Vectors::Bfloat16Vector(bytes)) => self.binary(bytes, expected * 2),
            (DataType::BinaryVector, Vectors::BinaryVector(bytes)) => self.binary(bytes, expected.div_ceil(8)),
            _ => Err(self.misfit("came as another type")),
        }
    }

    fn list(self, values: ArrayRef) -> Result<ArrayRef> {
        let ArrowType::FixedSizeList(item, length) = self.field.arrow()?.data_type().clone() else {
            return Err(self.misfit("is no list of numbers"));
        };
        let list = FixedSizeListArray::try_new(item, length, values, self.nulls.clone());
        Ok(Arc::new(list.map_err(|_| self.misfit("has vectors that do not fit"))?))
    }

    fn binary(self, bytes: Bytes, width: usize) -> Result<ArrayRef> {
        let bytes = self.row_bytes(bytes, width)?;
        let length = i32::try_from(width).map_err(|_| self.misfit("is too wide"))?;
        let array = FixedSizeBinaryArray::try_new(length, Buffer::from(bytes), self.nulls.clone());
        Ok(Arc::new(array.map_err(|_| self.misfit("has vectors that do not fit"))?))
    }

    /// Rows of (u32 index, f32 value) pairs → a struct of two lists.
    fn sparse(self, sparse: &proto::SparseFloatArray) -> Result<ArrayRef> {
        if self.field.data_type != DataType::SparseFloatVector {
            return Err(self.misfit("came as a sparse vector"));
        }
        let places = self.places(sparse.contents.len())?;
        let (mut indices, mut values, mut lengths) = (Vec::new(), Vec::new(), Vec::with_capacity(self.rows));
        let mut contents = sparse.contents.iter();
        for row in 0..self.rows {
            let Some(content) = (if places.has(row) { contents.next() } else { None }) else {
                lengths.push(0);
                continue;
            };
            let (pairs, rest) = content.as_chunks::<8>();
            if !rest.is_empty() {
                return Err(self.misfit("has a sparse vector that is no list of pairs"));
            }
            lengths.push(pairs.len());
            for [a, b, c, d, e, f, g, h] in pairs {
                indices.push(u32::from_le_bytes([*a, *b, *c, *d]));
                values.push(f32::from_le_bytes([*e, *f, *g, *h]));
            }
        }
        let ArrowType::Struct(fields) = self.field.arrow()?.data_type().clone() else {
            return Err(self.misfit("is no struct"));
        };
        let offsets = OffsetBuffer::from_lengths(lengths);
        let list = |item: ArrowType, array: ArrayRef| {
            ListArray::new(Arc::new(ArrowField::new("element", item, false)), offsets.clone(), array, None)
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(list(ArrowType::UInt32, Arc::new(UInt32Array::from(indices)))),
            Arc::new(list(ArrowType::Float32, Arc::new(Float32Array::from(values)))),
        ];
        let array = StructArray::try_new(fields, columns, self.nulls.clone());
        Ok(Arc::new(array.map_err(|_| self.misfit("has sparse vectors that do not fit"))?))
    }

    /// The column of an answer without rows.
    fn absent(self) -> Result<ArrayRef> {
        Ok(arrow_array::new_empty_array(self.field.arrow()?.data_type()))
    }
}

enum Places {
    All,
    Valid(NullBuffer),
    None,
}

impl Places {
    fn has(&self, row: usize) -> bool {
        match self {
            Self::All => true,
            Self::Valid(nulls) => nulls.is_valid(row),
            Self::None => false,
        }
    }

    /// One value a row: those that were sent, in order, and the default where a row's was left out.
    fn spread<T: Default>(&self, values: Vec<T>, rows: usize) -> Vec<T> {
        if matches!(self, Self::All) {
            return values;
        }
        let mut next = values.into_iter();
        (0..rows).map(|row| if self.has(row) { next.next().unwrap_or_default() } else { T::default() }).collect()
    }
}
