//! Rows survive the way to the wire and back: every type, nulls, and slices of larger batches.

use arrow_array::RecordBatch;
use proptest::prelude::*;
use prost::Message;

use super::{decode, encode, proto};
use crate::error::Result;
use crate::parquet::samples::{batches, every_type, string_keys};
use crate::schema::CollectionSchema;

/// Encodes a batch as an insert, sends it through protobuf's bytes, and reads the columns as an answer's.
fn there_and_back(schema: &CollectionSchema, batch: &RecordBatch) -> Result<RecordBatch> {
    let sent = proto::InsertRequest { fields_data: encode::fields(schema, batch)?, ..Default::default() };
    let received = proto::InsertRequest::decode(bytes::Bytes::from(sent.encode_to_vec())).unwrap();
    let columns = schema.stored_fields().zip(received.fields_data);
    let columns = columns.map(|(field, data)| decode::column(field, data, batch.num_rows())).collect::<Result<_>>()?;
    Ok(RecordBatch::try_new(schema.arrow()?, columns).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_type_comes_back_as_it_was(batch in batches(&every_type(), 1..20usize), skip in 0..10usize) {
        let schema = every_type();
        let skip = skip.min(batch.num_rows() - 1);
        let slice = batch.slice(skip, batch.num_rows() - skip);
        let digester = crate::digest::RowDigester::new(&schema).unwrap();
        let returned = there_and_back(&schema, &slice).unwrap();
        prop_assert_eq!(digester.set(&slice).unwrap(), digester.set(&returned).unwrap());
        prop_assert_eq!(returned.num_rows(), slice.num_rows());
    }

    #[test]
    fn string_keys_come_back_as_they_were(batch in batches(&string_keys(), 1..20usize)) {
        let schema = string_keys();
        prop_assert_eq!(there_and_back(&schema, &batch).unwrap(), batch);
    }
}

#[test]
fn an_answer_with_too_few_values_is_refused_by_name() {
    let schema = string_keys();
    let field = schema.primary_key().unwrap();
    let scalars = proto::ScalarField {
        data: Some(proto::scalar_field::Data::StringData(proto::StringArray { data: vec!["one".to_owned()] })),
    };
    let data = proto::FieldData { field: Some(proto::field_data::Field::Scalars(scalars)), ..Default::default() };
    let error = decode::column(field, data, 2).unwrap_err();
    assert!(error.message().contains(&field.name) && error.message().contains("1 values for 2 rows"), "{error}");
}

#[test]
fn a_dynamic_field_without_values_is_an_empty_object_for_each_row() {
    let schema = every_type();
    let dynamic = schema.fields.iter().find(|field| field.dynamic).expect("the sample has a dynamic field");
    let column = decode::column(dynamic, proto::FieldData::default(), 3).unwrap();
    let texts: Vec<_> = arrow_array::cast::AsArray::as_string::<i32>(&column).iter().flatten().collect();
    assert_eq!(texts, ["{}", "{}", "{}"]);
}
