//! Small Parquet files: those that an input without its own timestamps or keys is given, and what seeds are made of.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, FixedSizeBinaryArray, Float32Array, Float64Array, Int8Array, Int16Array,
    Int32Array, Int64Array, RecordBatch, StringArray,
};
use arrow_schema::{Field, Schema};
use bytes::Bytes;
use milvault::schema::{DataType, FIELD_ID_KEY};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};

use crate::{DIMENSION, KEY, TIMES};

/// Timestamps and keys for each number of rows that an input's header can ask for.
pub struct Made {
    /// The timestamps: 10, 11, …
    pub times: Vec<Bytes>,
    /// The keys as numbers: 0, 1, …
    pub numbers: Vec<Bytes>,
    /// The keys as text: k0, k1, …
    pub texts: Vec<Bytes>,
}

/// Timestamps and keys, made once.
pub static MADE: LazyLock<Made> = LazyLock::new(|| {
    let all = |column: fn(usize) -> ArrayRef, id: i64| -> Vec<Bytes> {
        (0..256).map(|rows| write(&[(id, column(rows))], properties(0)).into()).collect()
    };
    Made { times: all(times, TIMES), numbers: all(numbers, KEY), texts: all(texts, KEY) }
});

/// Timestamps of rows.
#[must_use]
pub fn times(rows: usize) -> ArrayRef {
    Arc::new((10..).take(rows).collect::<Int64Array>())
}

/// Keys that are numbers.
#[must_use]
pub fn numbers(rows: usize) -> ArrayRef {
    Arc::new((0..).take(rows).collect::<Int64Array>())
}

/// Keys that are text.
#[must_use]
pub fn texts(rows: usize) -> ArrayRef {
    Arc::new((0..rows).map(|row| Some(format!("k{row}"))).collect::<StringArray>())
}

/// A Parquet file of columns, each with its field's number.
#[must_use]
pub fn write(columns: &[(i64, ArrayRef)], properties: WriterProperties) -> Vec<u8> {
    let fields = columns.iter().map(|(id, column)| {
        let metadata = HashMap::from([(FIELD_ID_KEY.to_owned(), id.to_string())]);
        Field::new(id.to_string(), column.data_type().clone(), column.null_count() > 0).with_metadata(metadata)
    });
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let arrays = columns.iter().map(|(_, column)| Arc::clone(column)).collect();
    let batch = RecordBatch::try_new(Arc::clone(&schema), arrays).expect("columns of one length");
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties)).expect("a schema that Parquet has");
    writer.write(&batch).expect("memory to write to");
    writer.into_inner().expect("memory to write to")
}

/// Ways to write a file: how many of them there are.
pub const WAYS: usize = 5;

/// One of the ways to write a file.
#[must_use]
pub fn properties(way: usize) -> WriterProperties {
    let plain = WriterProperties::builder().set_statistics_enabled(EnabledStatistics::None);
    match way {
        0 => plain.set_dictionary_enabled(false),
        1 => plain.set_compression(Compression::ZSTD(ZstdLevel::default())),
        2 => plain.set_writer_version(WriterVersion::PARQUET_2_0).set_dictionary_enabled(false),
        3 => plain.set_max_row_group_row_count(Some(2)).set_data_page_row_count_limit(1).set_write_batch_size(1),
        _ => plain
            .set_dictionary_enabled(false)
            .set_encoding(Encoding::BYTE_STREAM_SPLIT)
            .set_compression(Compression::SNAPPY),
    }
    .build()
}

/// Whether a type's values can be written so: one encoding is of numbers and bytes of fixed length alone.
#[must_use]
pub fn writable(way: usize, column: &ArrayRef) -> bool {
    use arrow_schema::DataType::{Binary, Boolean, Utf8};
    way < 4 || !matches!(column.data_type(), Boolean | Binary | Utf8)
}

/// A few values of a type as Milvus stores them, some of them null where that may be.
#[must_use]
pub fn values(data_type: DataType, element: Option<DataType>, nullable: bool) -> ArrayRef {
    let present = [true, true, !nullable, true, true];
    macro_rules! numbers {
        ($array:ty, $values:expr) => {
            Arc::new($values.into_iter().zip(present).map(|(value, is)| is.then_some(value)).collect::<$array>())
        };
    }
    let bytes = |width: usize| -> ArrayRef {
        let rows = present.iter().zip(1u8..).map(|(is, row)| is.then(|| vec![row; width]));
        let width = i32::try_from(width).expect("a small width");
        Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(rows, width).expect("rows of one width"))
    };
    let messages = |rows: [Vec<u8>; 5]| -> ArrayRef {
        Arc::new(rows.iter().zip(present).map(|(row, is)| is.then_some(row)).collect::<BinaryArray>())
    };
    match data_type {
        DataType::Bool => numbers!(BooleanArray, [true, false, true, true, false]),
        DataType::Int8 => numbers!(Int8Array, [1, -1, i8::MAX, i8::MIN, 0]),
        DataType::Int16 => numbers!(Int16Array, [1, -1, i16::MAX, i16::MIN, 0]),
        DataType::Int32 => numbers!(Int32Array, [1, -1, i32::MAX, i32::MIN, 0]),
        DataType::Int64 | DataType::Timestamptz => numbers!(Int64Array, [1, -1, i64::MAX, i64::MIN, 0]),
        DataType::Float => numbers!(Float32Array, [1.5, -1.0, f32::MAX, f32::NAN, 0.0]),
        DataType::Double => numbers!(Float64Array, [1.5, -1.0, f64::MAX, f64::NAN, 0.0]),
        DataType::Varchar => numbers!(StringArray, ["", "a", "b", "é and more", "a"]),
        DataType::Json => messages([b"{}".to_vec(), b"{\"a\":1}".to_vec(), Vec::new(), b"[1]".to_vec(), b"2".to_vec()]),
        DataType::Geometry => messages([1, 2, 3, 4, 5].map(|row| vec![row; 21])),
        DataType::BinaryVector => bytes(DIMENSION / 8),
        DataType::FloatVector => bytes(DIMENSION * 4),
        DataType::Float16Vector | DataType::Bfloat16Vector => bytes(DIMENSION * 2),
        DataType::Int8Vector => bytes(DIMENSION),
        DataType::SparseFloatVector => messages([0, 1, 2, 3, 1].map(|pairs| vec![1; 8 * pairs])),
        DataType::Array => messages([0, 1, 2, 3, 1].map(|count| message(element, count))),
    }
}

/// An array of some elements as Milvus stores it: a protobuf message of scalars.
fn message(element: Option<DataType>, count: usize) -> Vec<u8> {
    let (number, packed) = match element {
        Some(DataType::Bool) => (1, vec![1; count]),
        Some(DataType::Int64) => (3, vec![9; count]),
        Some(DataType::Float) => (4, vec![0; 4 * count]),
        Some(DataType::Double) => (5, vec![0; 8 * count]),
        Some(DataType::Varchar) => {
            let texts = [0x0a, 1, b'x'].repeat(count);
            return wrapped(6, &texts);
        }
        _ => (2, vec![7; count]),
    };
    wrapped(number, &wrapped(1, &packed))
}

fn wrapped(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(bytes.len()).expect("a short message")], bytes].concat()
}
