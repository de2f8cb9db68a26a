//! Schemas and rows for tests: every type, with the values that tend to break things.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::types::{
    ArrowPrimitiveType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimestampMicrosecondType, UInt32Type,
};
use arrow_array::{
    ArrayRef, BooleanArray, FixedSizeBinaryArray, FixedSizeListArray, ListArray, PrimitiveArray, RecordBatch,
    StringArray, StructArray,
};
use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer};
use arrow_schema::{DataType as ArrowType, FieldRef};
use half::f16;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::schema::{CollectionSchema, DataType, Field};

/// A plain field.
pub fn field(id: i64, name: &str, data_type: DataType) -> Field {
    Field::new(id, name, data_type)
}

/// A vector field of dimension `dim`.
pub fn vector(id: i64, name: &str, data_type: DataType, dim: usize) -> Field {
    Field { params: BTreeMap::from([("dim".to_owned(), dim.to_string())]), ..field(id, name, data_type) }
}

/// An array field.
pub fn array(id: i64, name: &str, element: DataType) -> Field {
    Field { element_type: Some(element), ..field(id, name, DataType::Array) }
}

/// The schema of those fields, the first of them the primary key.
pub fn schema(mut fields: Vec<Field>) -> CollectionSchema {
    fields[0].primary_key = true;
    CollectionSchema { description: String::new(), enable_dynamic_field: false, fields, functions: Vec::new() }
}

/// A schema with every type, everything but the key also nullable, and names that sort unlike their ids.
pub fn every_type() -> CollectionSchema {
    let mut fields = vec![
        field(100, "key", DataType::Int64),
        field(101, "b.ool", DataType::Bool),
        field(102, "int8", DataType::Int8),
        field(103, "int16", DataType::Int16),
        field(104, "int32", DataType::Int32),
        field(105, "größe", DataType::Int64),
        field(106, "Float", DataType::Float),
        field(107, "double", DataType::Double),
        field(108, "text", DataType::Varchar),
        field(109, "json", DataType::Json),
        field(110, "geometry", DataType::Geometry),
        field(111, "time", DataType::Timestamptz),
        vector(112, "vector", DataType::FloatVector, 3),
        vector(113, "half", DataType::Float16Vector, 2),
        vector(114, "brain", DataType::Bfloat16Vector, 2),
        vector(115, "bits", DataType::BinaryVector, 16),
        vector(116, "bytes", DataType::Int8Vector, 5),
        field(117, "sparse", DataType::SparseFloatVector),
        array(118, "bools", DataType::Bool),
        array(119, "ints", DataType::Int32),
        array(120, "doubles", DataType::Double),
        array(121, "texts", DataType::Varchar),
    ];
    let nullable: Vec<_> = fields[1..]
        .iter()
        .map(|field| Field { id: field.id + 100, name: format!("{}?", field.name), nullable: true, ..field.clone() })
        .collect();
    fields.extend(nullable);
    fields.push(Field { dynamic: true, ..field(300, "$meta", DataType::Json) });
    CollectionSchema { enable_dynamic_field: true, ..schema(fields) }
}

/// A schema with a string key and a few columns.
pub fn string_keys() -> CollectionSchema {
    schema(vec![field(100, "key", DataType::Varchar), vector(101, "v", DataType::FloatVector, 4)])
}

/// Batches of `rows` rows of any content.
pub fn batches(
    schema: &CollectionSchema,
    rows: impl Into<proptest::collection::SizeRange>,
) -> BoxedStrategy<RecordBatch> {
    let schema = schema.clone();
    vec(Just(()), rows)
        .prop_flat_map(move |rows| {
            let rows = rows.len();
            let arrow = schema.arrow().unwrap();
            let columns: Vec<_> = schema
                .stored_fields()
                .zip(arrow.fields())
                .map(|(field, column)| self::column(field, column, rows))
                .collect();
            columns.prop_map(move |columns| RecordBatch::try_new(Arc::clone(&arrow), columns).unwrap())
        })
        .boxed()
}

fn text() -> BoxedStrategy<String> {
    prop_oneof![
        Just(String::new()),
        Just("\0".to_owned()),
        Just("🐍 \"quoted\" \\ \n\t".to_owned()),
        "\\PC{0,12}",
        "[a-z]{0,80}",
    ]
    .boxed()
}

fn json() -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("1.50".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        text().prop_map(|t| serde_json::to_string(&t).unwrap()),
    ];
    let value = leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(" , "))),
            vec((text(), inner), 0..4).prop_map(|members| {
                let members = members.iter().map(|(k, v)| format!("{}: {v}", serde_json::to_string(k).unwrap()));
                format!("{{{}}}", members.collect::<Vec<_>>().join(","))
            }),
        ]
    });
    prop_oneof![4 => value, 1 => text()].boxed()
}

fn column(field: &Field, column: &FieldRef, rows: usize) -> BoxedStrategy<ArrayRef> {
    let nulls = if field.nullable {
        vec(any::<bool>(), rows).prop_map(|valid| Some(NullBuffer::from(valid))).boxed()
    } else {
        Just(None).boxed()
    };
    let item = match column.data_type() {
        ArrowType::List(item) | ArrowType::FixedSizeList(item, _) => Some(Arc::clone(item)),
        _ => None,
    };
    let dimension = field.dimension().unwrap_or(0);
    let vectors = |values: BoxedStrategy<ArrayRef>| {
        let item = item.clone().unwrap();
        (values, nulls.clone())
            .prop_map(move |(values, nulls)| {
                let length = i32::try_from(dimension).unwrap();
                Arc::new(FixedSizeListArray::new(Arc::clone(&item), length, values, nulls)) as ArrayRef
            })
            .boxed()
    };
    let fixed = |width: usize| {
        (vec(any::<u8>(), rows * width), nulls.clone())
            .prop_map(move |(bytes, nulls)| {
                let width = i32::try_from(width).unwrap();
                Arc::new(FixedSizeBinaryArray::new(width, Buffer::from_vec(bytes), nulls)) as ArrayRef
            })
            .boxed()
    };
    match field.data_type {
        DataType::Array => {
            let element = field.element_type.unwrap();
            let item = item.clone().unwrap();
            (lengths(rows), nulls.clone())
                .prop_flat_map(move |(lengths, nulls)| {
                    let item = Arc::clone(&item);
                    scalars(element, lengths.iter().sum(), Just(None).boxed()).prop_map(move |values| {
                        let offsets = OffsetBuffer::from_lengths(lengths.iter().copied());
                        Arc::new(ListArray::new(Arc::clone(&item), offsets, values, nulls.clone())) as ArrayRef
                    })
                })
                .boxed()
        }
        DataType::FloatVector => vectors(plain::<Float32Type>(rows * dimension, any::<u32>().prop_map(f32::from_bits))),
        DataType::Float16Vector => {
            vectors(plain::<Float16Type>(rows * dimension, any::<u16>().prop_map(f16::from_bits)))
        }
        DataType::Int8Vector => vectors(plain::<Int8Type>(rows * dimension, any::<i8>())),
        DataType::Bfloat16Vector => fixed(2 * dimension),
        DataType::BinaryVector => fixed(dimension.div_ceil(8)),
        DataType::SparseFloatVector => {
            let ArrowType::Struct(fields) = column.data_type().clone() else { unreachable!() };
            (vec(proptest::collection::btree_map(any::<u32>(), any::<u32>(), 0..4), rows), nulls)
                .prop_map(move |(maps, nulls)| {
                    let indices =
                        PrimitiveArray::<UInt32Type>::from_iter_values(maps.iter().flat_map(|map| map.keys().copied()));
                    let values = PrimitiveArray::<Float32Type>::from_iter_values(
                        maps.iter().flat_map(|map| map.values().map(|bits| f32::from_bits(*bits))),
                    );
                    let offsets = OffsetBuffer::<i32>::from_lengths(maps.iter().map(BTreeMap::len));
                    let list = |index: usize, values: ArrayRef| {
                        let ArrowType::List(item) = fields[index].data_type() else { unreachable!() };
                        Arc::new(ListArray::new(Arc::clone(item), offsets.clone(), values, None)) as ArrayRef
                    };
                    let columns = vec![list(0, Arc::new(indices)), list(1, Arc::new(values))];
                    Arc::new(StructArray::new(fields.clone(), columns, nulls)) as ArrayRef
                })
                .boxed()
        }
        scalar => scalars(scalar, rows, nulls),
    }
}

fn lengths(rows: usize) -> BoxedStrategy<Vec<usize>> {
    vec(0usize..4, rows).boxed()
}

fn plain<T: ArrowPrimitiveType>(
    count: usize,
    value: impl Strategy<Value = T::Native> + 'static,
) -> BoxedStrategy<ArrayRef> {
    vec(value, count).prop_map(|v| Arc::new(PrimitiveArray::<T>::from_iter_values(v)) as ArrayRef).boxed()
}

fn numbers<T: ArrowPrimitiveType>(
    rows: usize,
    nulls: BoxedStrategy<Option<NullBuffer>>,
    value: impl Strategy<Value = T::Native> + 'static,
    data_type: ArrowType,
) -> BoxedStrategy<ArrayRef> {
    (vec(value, rows), nulls)
        .prop_map(move |(values, nulls)| {
            let array = PrimitiveArray::<T>::new(values.into(), nulls).with_data_type(data_type.clone());
            Arc::new(array) as ArrayRef
        })
        .boxed()
}

fn scalars(data_type: DataType, rows: usize, nulls: BoxedStrategy<Option<NullBuffer>>) -> BoxedStrategy<ArrayRef> {
    let texts = |text: BoxedStrategy<String>, nulls: BoxedStrategy<Option<NullBuffer>>| {
        (vec(text, rows), nulls)
            .prop_map(|(texts, nulls)| {
                let (offsets, values, _) = StringArray::from_iter_values(texts).into_parts();
                Arc::new(StringArray::new(offsets, values, nulls)) as ArrayRef
            })
            .boxed()
    };
    match data_type {
        DataType::Bool => (vec(any::<bool>(), rows), nulls)
            .prop_map(|(bits, nulls)| Arc::new(BooleanArray::new(BooleanBuffer::from(bits), nulls)) as ArrayRef)
            .boxed(),
        DataType::Int8 => numbers::<Int8Type>(rows, nulls, any::<i8>(), ArrowType::Int8),
        DataType::Int16 => numbers::<Int16Type>(rows, nulls, any::<i16>(), ArrowType::Int16),
        DataType::Int32 => numbers::<Int32Type>(rows, nulls, any::<i32>(), ArrowType::Int32),
        DataType::Int64 => numbers::<Int64Type>(rows, nulls, any::<i64>(), ArrowType::Int64),
        DataType::Float => {
            numbers::<Float32Type>(rows, nulls, any::<u32>().prop_map(f32::from_bits), ArrowType::Float32)
        }
        DataType::Double => {
            numbers::<Float64Type>(rows, nulls, any::<u64>().prop_map(f64::from_bits), ArrowType::Float64)
        }
        DataType::Timestamptz => numbers::<TimestampMicrosecondType>(
            rows,
            nulls,
            any::<i64>(),
            ArrowType::Timestamp(arrow_schema::TimeUnit::Microsecond, Some("UTC".into())),
        ),
        DataType::Json => texts(json(), nulls),
        _ => texts(text(), nulls),
    }
}
