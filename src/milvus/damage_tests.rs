//! Whatever a server answers: columns that fit become arrays of the schema's type, others an error, and nothing panics.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;

use super::proto::field_data::Field as Payload;
use super::proto::scalar_field::Data as Scalars;
use super::proto::vector_field::Data as Vectors;
use super::{decode, describe, proto};
use crate::parquet::samples::every_type;

fn some_bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn scalars(deep: bool) -> BoxedStrategy<Scalars> {
    let texts = || vec(".{0,4}", 0..5).prop_map(|data| proto::StringArray { data });
    let longs = || vec(any::<i64>(), 0..5).prop_map(|data| proto::LongArray { data });
    let flat = prop_oneof![
        vec(any::<bool>(), 0..5).prop_map(|data| Scalars::BoolData(proto::BoolArray { data })),
        vec(any::<i32>(), 0..5).prop_map(|data| Scalars::IntData(proto::IntArray { data })),
        vec(-300i32..300, 0..5).prop_map(|data| Scalars::IntData(proto::IntArray { data })),
        longs().prop_map(Scalars::LongData),
        longs().prop_map(Scalars::TimestamptzData),
        some_bytes().prop_map(|data| Scalars::FloatData(proto::FloatArray { data })),
        some_bytes().prop_map(|data| Scalars::DoubleData(proto::DoubleArray { data })),
        texts().prop_map(Scalars::StringData),
        texts().prop_map(Scalars::GeometryWktData),
        vec(some_bytes(), 0..5).prop_map(|data| Scalars::JsonData(proto::BytesArray { data })),
    ];
    if !deep {
        return flat.boxed();
    }
    let rows = vec(proptest::option::of(scalars(false)), 0..5);
    let arrays = (rows, 0..30i32).prop_map(|(rows, element_type)| {
        let data = rows.into_iter().map(|data| proto::ScalarField { data }).collect();
        Scalars::ArrayData(proto::ArrayArray { data, element_type })
    });
    prop_oneof![3 => flat, 1 => arrays].boxed()
}

fn vectors() -> impl Strategy<Value = Vectors> {
    prop_oneof![
        some_bytes().prop_map(|data| Vectors::FloatVector(proto::FloatArray { data })),
        some_bytes().prop_map(Vectors::BinaryVector),
        some_bytes().prop_map(Vectors::Float16Vector),
        some_bytes().prop_map(Vectors::Bfloat16Vector),
        some_bytes().prop_map(Vectors::Int8Vector),
        (vec(some_bytes(), 0..5), any::<i64>())
            .prop_map(|(contents, dim)| Vectors::SparseFloatVector(proto::SparseFloatArray { contents, dim })),
    ]
}

fn columns() -> impl Strategy<Value = proto::FieldData> {
    let dims = prop_oneof![4 => 0i64..20, 1 => any::<i64>()];
    let payload = prop_oneof![
        proptest::option::of(scalars(true)).prop_map(|data| Some(Payload::Scalars(proto::ScalarField { data }))),
        (dims, proptest::option::of(vectors()))
            .prop_map(|(dim, data)| Some(Payload::Vectors(proto::VectorField { dim, data }))),
        Just(None),
    ];
    (payload, prop_oneof![Just(Vec::new()), vec(any::<bool>(), 0..6)])
        .prop_map(|(field, valid_data)| proto::FieldData { field, valid_data, ..Default::default() })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn any_column_fits_or_is_refused(data in columns(), rows in 0usize..6) {
        for field in &every_type().fields {
            if let Ok(array) = decode::column(field, data.clone(), rows) {
                prop_assert_eq!(array.len(), rows, "{}", &field.name);
                let arrow = field.arrow().unwrap();
                prop_assert_eq!(array.data_type(), arrow.data_type(), "{}", &field.name);
            }
        }
    }

    #[test]
    fn any_bytes_are_a_description_or_an_error(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(answer) = proto::DescribeCollectionResponse::decode(Bytes::from(bytes)) {
            let _ = describe::collection("default", answer, "c");
        }
    }

    #[test]
    fn any_schema_is_described_or_refused(
        fields in vec((any::<i64>(), ".{0,5}", -1i32..130, -1i32..130, any::<bool>(), ".{0,4}"), 0..6),
        dynamic in any::<bool>(),
    ) {
        let fields = fields.into_iter().map(|(field_id, name, data_type, element_type, mark, dim)| proto::FieldSchema {
            field_id,
            name,
            data_type,
            element_type,
            is_primary_key: mark,
            type_params: vec![proto::KeyValuePair { key: "dim".to_owned(), value: dim }],
            ..Default::default()
        });
        let schema = proto::CollectionSchema { fields: fields.collect(), enable_dynamic_field: dynamic, ..Default::default() };
        let answer = proto::DescribeCollectionResponse { schema: Some(schema), ..Default::default() };
        if let Ok(collection) = describe::collection("default", answer, "c") {
            let _ = (collection.schema.arrow(), collection.schema.primary_key());
            prop_assert!(collection.schema.estimated_row_bytes() > 0);
        }
    }
}
