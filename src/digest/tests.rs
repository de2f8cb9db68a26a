//! Known answers come from `tests/data/row_digest.py`, which reads the encoding's description on its own.

use std::sync::Arc;

use arrow_array::types::{Float16Type, Float32Type, Int32Type, Int64Type};
use arrow_array::{
    Array, ArrayRef, BooleanArray, FixedSizeBinaryArray, FixedSizeListArray, Float32Array, Float64Array, Int8Array,
    Int16Array, Int32Array, Int64Array, ListArray, PrimitiveArray, StringArray, StructArray, TimestampMicrosecondArray,
    UInt32Array,
};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_schema::{DataType as ArrowType, Field as ArrowField};
use half::f16;
use proptest::prelude::*;

use super::*;
use crate::parquet::samples::{array, batches, every_type, field, schema, vector};
use crate::schema::DataType;

const NAN: f32 = f32::from_bits(0x7fc0_0001);
/// Without a payload; as Go has it; negative and signalling.
const NANS: [u64; 3] = [0x7ff8_0000_0000_0000, 0x7ff8_0000_0000_0001, 0xfff0_0000_0000_0007];

fn batch(schema: &CollectionSchema, columns: Vec<ArrayRef>) -> RecordBatch {
    RecordBatch::try_new(schema.arrow().unwrap(), columns).unwrap()
}

fn digests(schema: &CollectionSchema, batch: &RecordBatch) -> Vec<u128> {
    let mut digests = Vec::new();
    RowDigester::new(schema).unwrap().digest_batch(batch, &mut digests).unwrap();
    digests
}

fn hex(digests: &[u128]) -> Vec<String> {
    digests.iter().map(|digest| format!("{digest:032x}")).collect()
}

fn item(data_type: ArrowType) -> Arc<ArrowField> {
    Arc::new(ArrowField::new("element", data_type, false))
}

fn vectors(dim: i32, values: impl Array + 'static) -> ArrayRef {
    Arc::new(FixedSizeListArray::new(item(values.data_type().clone()), dim, Arc::new(values), None))
}

fn list(values: impl Array + 'static) -> ArrayRef {
    let offsets = OffsetBuffer::from_lengths([values.len()]);
    Arc::new(ListArray::new(item(values.data_type().clone()), offsets, Arc::new(values), None))
}

fn sparse(index: Vec<u32>, values: Vec<f32>) -> ArrayRef {
    let columns = [list(UInt32Array::from(index)), list(Float32Array::from(values))];
    let ArrowType::Struct(fields) = field(1, "", DataType::SparseFloatVector).arrow().unwrap().data_type().clone()
    else {
        unreachable!()
    };
    Arc::new(StructArray::new(fields, columns.into(), None))
}

#[test]
fn known_answer_key_and_vector() {
    let schema = schema(vec![field(100, "id", DataType::Int64), vector(101, "v", DataType::FloatVector, 3)]);
    let rows = batch(
        &schema,
        vec![
            Arc::new(Int64Array::from(vec![1, -2, 1 << 62])),
            vectors(3, Float32Array::from([1.0, -0.0, NAN].repeat(3))),
        ],
    );
    assert_eq!(
        hex(&digests(&schema, &rows)),
        ["e52684683730170d6b7952e14b580342", "723b701a2ccdbedeb405fc3cde02e836", "bbfcbd6dd29fd5b9595e61a954d43314"]
    );
    let set = RowDigester::new(&schema).unwrap().set(&rows).unwrap();
    assert_eq!((set.rows, set.to_string().as_str()), (3, "135eb1f0369daba578ddb0c77e2f1e8c"));
}

#[test]
fn known_answer_scalars() {
    let schema = schema(vec![
        field(100, "key", DataType::Varchar),
        field(101, "bool", DataType::Bool),
        field(102, "int8", DataType::Int8),
        field(103, "int16", DataType::Int16),
        field(104, "int32", DataType::Int32),
        field(105, "größe", DataType::Int64),
        field(106, "Float", DataType::Float),
        field(107, "double", DataType::Double),
        field(108, "time", DataType::Timestamptz),
        field(109, "where", DataType::Geometry),
        Field { nullable: true, ..field(110, "gone", DataType::Int32) },
    ]);
    let rows = batch(
        &schema,
        vec![
            Arc::new(StringArray::from(vec!["🐍\0\"\\"])),
            Arc::new(BooleanArray::from(vec![true])),
            Arc::new(Int8Array::from(vec![-8])),
            Arc::new(Int16Array::from(vec![-16])),
            Arc::new(Int32Array::from(vec![-32])),
            Arc::new(Int64Array::from(vec![-64])),
            Arc::new(Float32Array::from(vec![NAN])),
            Arc::new(Float64Array::from(vec![-0.0])),
            Arc::new(TimestampMicrosecondArray::from(vec![-1]).with_timezone("UTC")),
            Arc::new(StringArray::from(vec!["POINT (1 2)"])),
            Arc::new(Int32Array::from(vec![None])),
        ],
    );
    assert_eq!(hex(&digests(&schema, &rows)), ["2996aa45c9c5d44577cc18edbe127355"]);
}

#[test]
fn known_answer_json() {
    let meta = Field { dynamic: true, ..field(101, "$meta", DataType::Json) };
    let schema = schema(vec![field(100, "key", DataType::Int64), meta]);
    let texts = vec![
        r#" { "b" : [ true , null, -1.50 ] , "a\u00e9\ud83d\udc0d":{"z":1e5,"y":"\n\/"},"b":[] } "#,
        "",
        "{\"a\":",
        r#""\ud83d""#,
        "[NaN]",
        "null",
    ];
    let rows = batch(&schema, vec![Arc::new(Int64Array::from(vec![0; 6])), Arc::new(StringArray::from(texts))]);
    assert_eq!(
        hex(&digests(&schema, &rows)),
        [
            "83a072dfbb06430f2ccc193fbc8d0cd3",
            "ed85fafff6b2fd8192b23869adfffbda",
            "3e27be80b1487330e7cfce49f4db4ca3",
            "de26a52ade29b78234369fb13e72b0aa",
            "2d31213d20198e1c390d3c6c7e7f7f9f",
            "b7817e3b15d6767a46bac171c62dd9fb"
        ]
    );
}

#[test]
fn known_answer_arrays() {
    let schema = schema(vec![
        field(100, "key", DataType::Int64),
        array(101, "bools", DataType::Bool),
        array(102, "ints", DataType::Int32),
        array(103, "texts", DataType::Varchar),
        array(104, "doubles", DataType::Double),
        Field { nullable: true, ..array(105, "none", DataType::Int64) },
    ]);
    let rows = batch(
        &schema,
        vec![
            Arc::new(Int64Array::from(vec![0])),
            list(BooleanArray::from(vec![true, false, true])),
            list(PrimitiveArray::<Int32Type>::from(vec![1, -1])),
            list(StringArray::from(vec!["", "é", "\0"])),
            list(Float64Array::from(NANS.map(f64::from_bits).to_vec())),
            Arc::new(ListArray::new_null(item(ArrowType::Int64), 1)),
        ],
    );
    assert_eq!(hex(&digests(&schema, &rows)), ["b79753ec49d1485934c64948bbcc5135"]);
}

#[test]
fn known_answer_vectors() {
    let schema = schema(vec![
        field(100, "key", DataType::Int64),
        vector(101, "half", DataType::Float16Vector, 2),
        vector(102, "brain", DataType::Bfloat16Vector, 2),
        vector(103, "bits", DataType::BinaryVector, 16),
        vector(104, "bytes", DataType::Int8Vector, 3),
        field(105, "sparse", DataType::SparseFloatVector),
    ]);
    let halves = PrimitiveArray::<Float16Type>::from_iter_values([0x3c00, 0x7e01].map(f16::from_bits));
    let rows = batch(
        &schema,
        vec![
            Arc::new(PrimitiveArray::<Int64Type>::from(vec![0])),
            vectors(2, halves),
            Arc::new(FixedSizeBinaryArray::try_from_iter([[1u8, 2, 3, 4]].iter()).unwrap()),
            Arc::new(FixedSizeBinaryArray::try_from_iter([[0xa5u8, 0x01]].iter()).unwrap()),
            vectors(3, Int8Array::from(vec![-1, 0, 1])),
            sparse(vec![7, 3, 4_000_000_000], vec![1.0, NAN, -0.0]),
        ],
    );
    assert_eq!(hex(&digests(&schema, &rows)), ["f82b6c808051b187128d8661c849811f"]);
}

#[test]
fn nullability_alone_changes_nothing_but_null_does() {
    let plain = schema(vec![field(100, "key", DataType::Int64), field(101, "x", DataType::Varchar)]);
    let mut nullable = plain.clone();
    nullable.fields[1].nullable = true;
    let key: ArrayRef = Arc::new(Int64Array::from(vec![1, 1]));
    let rows = |schema, x: Vec<Option<&str>>| batch(schema, vec![Arc::clone(&key), Arc::new(StringArray::from(x))]);
    let texts = digests(&plain, &rows(&plain, vec![Some("a"), Some("")]));
    assert_eq!(texts, digests(&nullable, &rows(&nullable, vec![Some("a"), Some("")])));
    assert_ne!(texts, digests(&nullable, &rows(&nullable, vec![Some("a"), None])));
}

#[test]
fn outputs_of_functions_and_where_asked_the_key_are_left_out() {
    let mut whole = schema(vec![field(100, "key", DataType::Int64), field(101, "x", DataType::Int32)]);
    let x: ArrayRef = Arc::new(Int32Array::from(vec![5]));
    let key: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let before = digests(&whole, &batch(&whole, vec![Arc::clone(&key), Arc::clone(&x)]));
    let output = Field { function_output: true, ..field(102, "made", DataType::SparseFloatVector) };
    whole.fields.push(output);
    let with_output = RecordBatch::try_from_iter([
        ("made", sparse(vec![1], vec![1.0])),
        ("x", Arc::clone(&x)),
        ("key", Arc::clone(&key)),
    ])
    .unwrap();
    assert_eq!(digests(&whole, &with_output), before);
    let keyless = RowDigester::without_primary_key(&whole).unwrap();
    let other_key: ArrayRef = Arc::new(Int64Array::from(vec![2]));
    let set = keyless.set(&batch(&whole, vec![key, Arc::clone(&x)])).unwrap();
    assert_eq!(set, keyless.set(&batch(&whole, vec![other_key, x])).unwrap());
    assert_ne!(set.sum, before[0]);
}

#[test]
fn a_batch_that_is_not_of_the_schema_is_refused_by_column() {
    let schema = schema(vec![field(100, "key", DataType::Int64), vector(101, "v", DataType::FloatVector, 2)]);
    let digester = RowDigester::new(&schema).unwrap();
    let key: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let v = vectors(2, Float32Array::from(vec![1.0, 2.0]));
    let with_null = Float32Array::from(vec![Some(1.0), None]);
    let with_null = FixedSizeListArray::new(
        Arc::new(ArrowField::new("element", ArrowType::Float32, true)),
        2,
        Arc::new(with_null),
        None,
    );
    let cases: [(&str, Vec<(&str, ArrayRef)>); 5] = [
        ("no column for the field 'v'", vec![("key", Arc::clone(&key))]),
        ("column 'key' is Float32", vec![("key", Arc::new(Float32Array::from(vec![1.0]))), ("v", Arc::clone(&v))]),
        (
            "column 'v' is FixedSizeList",
            vec![("key", Arc::clone(&key)), ("v", vectors(1, Float32Array::from(vec![1.0])))],
        ),
        ("a column 'w'", vec![("key", Arc::clone(&key)), ("v", Arc::clone(&v)), ("w", v)]),
        ("null inside", vec![("key", key), ("v", Arc::new(with_null))]),
    ];
    for (words, columns) in cases {
        let error = digester.set(&RecordBatch::try_from_iter(columns).unwrap()).unwrap_err();
        assert!(error.message().contains(words), "{error} lacks {words}");
    }
}

#[test]
fn nulls_below_a_null_are_none_inside_a_value() {
    let field = Field { nullable: true, ..vector(101, "v", DataType::FloatVector, 2) };
    let schema = schema(vec![self::field(100, "key", DataType::Int64), field]);
    let values = PrimitiveArray::<Float32Type>::from(vec![Some(1.0), Some(2.0), None, None]);
    let nullable_item = Arc::new(ArrowField::new("element", ArrowType::Float32, true));
    let nulls = NullBuffer::from(vec![true, false]);
    let v = FixedSizeListArray::new(nullable_item, 2, Arc::new(values), Some(nulls));
    let key: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    let rows = RecordBatch::try_from_iter([("key", key), ("v", Arc::new(v) as ArrayRef)]).unwrap();
    assert_eq!(digests(&schema, &rows).len(), 2);
}

#[test]
fn a_set_digest_is_read_back_as_it_is_written() {
    let set: SetDigest = [u128::MAX, 3].into_iter().collect();
    assert_eq!((set.rows, set.to_string().as_str()), (2, "00000000000000000000000000000002"));
    let json = serde_json::to_string(&set).unwrap();
    assert_eq!(json, r#"{"rows":2,"digest":"00000000000000000000000000000002"}"#);
    assert_eq!(serde_json::from_str::<SetDigest>(&json).unwrap(), set);
    assert_eq!(SetDigest::from_hex(2, &set.to_string()).unwrap(), set);
    for text in [
        "",
        "2",
        "0000000000000000000000000000000G",
        "+0000000000000000000000000000002",
        "ABCDEF00000000000000000000000000",
    ] {
        assert_eq!(SetDigest::from_hex(1, text).unwrap_err().kind(), Kind::BackupCorrupted, "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn slices_add_up_to_the_whole(
        rows in batches(&every_type(), 0..12),
        cut in any::<prop::sample::Index>(),
    ) {
        let digester = RowDigester::new(&every_type()).unwrap();
        let cut = cut.index(rows.num_rows() + 1);
        let mut parts = digester.set(&rows.slice(cut, rows.num_rows() - cut)).unwrap();
        parts.merge(&digester.set(&rows.slice(0, cut)).unwrap());
        prop_assert_eq!(parts, digester.set(&rows).unwrap());
        let one_by_one: Vec<u128> =
            (0..rows.num_rows()).flat_map(|row| digests(&every_type(), &rows.slice(row, 1))).collect();
        prop_assert_eq!(one_by_one, digests(&every_type(), &rows));
    }

    #[test]
    fn order_and_ids_of_fields_do_not_matter(rows in batches(&every_type(), 1..4), seed in 0u64..1000) {
        let original = every_type();
        let mut order: Vec<usize> = (0..original.fields.len()).collect();
        order.sort_by_key(|index| xxhash_rust::xxh3::xxh3_64_with_seed(&index.to_le_bytes(), seed));
        let mut shuffled = original.clone();
        shuffled.fields = order.iter().map(|&index| Field { id: 1000 - original.fields[index].id, ..original.fields[index].clone() }).collect();
        let columns = order.iter().map(|&index| Arc::clone(rows.column(index))).collect();
        let shuffled_rows = batch(&shuffled, columns);
        prop_assert_eq!(digests(&shuffled, &shuffled_rows), digests(&original, &rows));
    }

    #[test]
    fn any_change_of_a_value_changes_the_digest(rows in batches(&every_type(), 2), column in any::<prop::sample::Index>()) {
        // Row 0 with one value of row 1: its digest stays only where the values are the same.
        let original = every_type();
        let first = rows.slice(0, 1);
        let second = rows.slice(1, 1);
        let column = column.index(rows.num_columns());
        let mut columns = first.columns().to_vec();
        columns[column] = Arc::clone(second.column(column));
        let changed = batch(&original, columns);
        let same = first.column(column) == second.column(column);
        let json = original.fields[column].data_type == DataType::Json;
        let same_digest = digests(&original, &changed) == digests(&original, &first);
        prop_assert!(same == same_digest || (json && same_digest));
    }
}
