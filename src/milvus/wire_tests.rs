//! Rows survive the way to the wire and back: every type, nulls, and slices of larger batches.

use arrow_array::{Array, RecordBatch};
use proptest::prelude::*;
use prost::Message;

use super::{ServerKind, decode, encode, proto};
use crate::error::Result;
use crate::parquet::samples::{batches, every_type, string_keys};
use crate::schema::CollectionSchema;

/// Encodes a batch as an insert, sends it through protobuf's bytes, and reads the columns as an answer's.
fn there_and_back(schema: &CollectionSchema, batch: &RecordBatch) -> Result<RecordBatch> {
    let sent =
        proto::InsertRequest { fields_data: encode::fields(schema, batch, ServerKind::Server)?, ..Default::default() };
    let received = proto::InsertRequest::decode(bytes::Bytes::from(sent.encode_to_vec())).unwrap();
    let columns = schema.stored_fields().zip(received.fields_data);
    let columns = columns.map(|(field, data)| decode::column(field, data, batch.num_rows())).collect::<Result<_>>()?;
    Ok(RecordBatch::try_new(schema.arrow()?, columns).unwrap())
}

/// How many values a scalar column holds.
fn values(data: &proto::FieldData) -> usize {
    use proto::scalar_field::Data;
    let Some(proto::field_data::Field::Scalars(proto::ScalarField { data: Some(scalars) })) = &data.field else {
        panic!("no scalars were sent: {data:?}");
    };
    match scalars {
        Data::BoolData(array) => array.data.len(),
        Data::IntData(array) => array.data.len(),
        Data::LongData(array) | Data::TimestamptzData(array) => array.data.len(),
        Data::FloatData(array) => array.data.len() / 4,
        Data::DoubleData(array) => array.data.len() / 8,
        Data::StringData(array) | Data::GeometryWktData(array) => array.data.len(),
        Data::JsonData(array) => array.data.len(),
        Data::ArrayData(array) => array.data.len(),
        other => panic!("this is not sent: {other:?}"),
    }
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
    fn null_rows_have_no_value(batch in batches(&every_type(), 1..20usize)) {
        let schema = every_type();
        let sent = encode::fields(&schema, &batch, ServerKind::Server).unwrap();
        for (field, data) in schema.stored_fields().zip(sent).filter(|(field, _)| !field.data_type.is_vector()) {
            let valid = batch.num_rows() - batch.column_by_name(&field.name).unwrap().null_count();
            prop_assert_eq!(values(&data), valid, "{}", field.name);
            let told = if field.nullable { batch.num_rows() } else { 0 };
            prop_assert_eq!(data.valid_data.len(), told);
            prop_assert!(!field.nullable || data.valid_data.iter().filter(|valid| **valid).count() == valid);
        }
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

#[test]
fn lite_gets_json_as_the_text_that_it_is() {
    let field: crate::schema::Field = serde_json::from_str(r#"{"id": 1, "name": "j", "data_type": "json"}"#).unwrap();
    let schema = CollectionSchema {
        description: String::new(),
        enable_dynamic_field: false,
        fields: vec![field],
        functions: Vec::new(),
    };
    let texts = [r#"{"n": 1.50}"#, r#""quoted""#, "null", "bare", "7"];
    let column = std::sync::Arc::new(arrow_array::StringArray::from(texts.to_vec()));
    let batch = RecordBatch::try_new(schema.arrow().unwrap(), vec![column]).unwrap();
    let sent = encode::fields(&schema, &batch, ServerKind::Lite).unwrap();
    let Some(proto::field_data::Field::Scalars(proto::ScalarField {
        data: Some(proto::scalar_field::Data::JsonData(json)),
    })) = &sent[0].field
    else {
        panic!("no JSON was sent: {sent:?}");
    };
    for (text, sent) in texts.iter().zip(&json.data) {
        assert_eq!(serde_json::from_slice::<String>(sent).unwrap(), *text);
    }
}

#[test]
fn times_that_come_as_text_are_read_as_microseconds() {
    let field: crate::schema::Field =
        serde_json::from_str(r#"{"id": 1, "name": "at", "data_type": "timestamptz", "nullable": true}"#).unwrap();
    let text = |texts: [&str; 3]| proto::FieldData {
        field: Some(proto::field_data::Field::Scalars(proto::ScalarField {
            data: Some(proto::scalar_field::Data::StringData(proto::StringArray {
                data: texts.map(str::to_owned).to_vec(),
            })),
        })),
        valid_data: vec![true, false, true],
        ..Default::default()
    };
    let times = text(["1970-01-01T00:00:01.000002Z", "", "1969-12-31T23:59:59Z"]);
    let column = decode::column(&field, times, 3).unwrap();
    let micros = arrow_array::cast::AsArray::as_primitive::<arrow_array::types::TimestampMicrosecondType>(&column);
    assert_eq!(micros.iter().collect::<Vec<_>>(), [Some(1_000_002), None, Some(-1_000_000)]);
    assert!(decode::column(&field, text(["soon", "", ""]), 3).unwrap_err().message().contains("'at'"));
}

#[test]
fn times_go_as_text_in_utc() {
    let field: crate::schema::Field =
        serde_json::from_str(r#"{"id": 1, "name": "at", "data_type": "timestamptz", "nullable": true}"#).unwrap();
    let schema = CollectionSchema {
        description: String::new(),
        enable_dynamic_field: false,
        fields: vec![field],
        functions: Vec::new(),
    };
    let sent = |micros: Vec<Option<i64>>| {
        let column = arrow_array::TimestampMicrosecondArray::from(micros).with_timezone("UTC");
        let batch = RecordBatch::try_new(schema.arrow().unwrap(), vec![std::sync::Arc::new(column)]).unwrap();
        encode::fields(&schema, &batch, ServerKind::Server).unwrap().remove(0)
    };
    let scalars = |data: proto::FieldData| match data.field {
        Some(proto::field_data::Field::Scalars(proto::ScalarField { data: Some(scalars) })) => scalars,
        other => panic!("no scalars were sent: {other:?}"),
    };
    let data = sent(vec![Some(1_000_002), None, Some(-1_000_000), Some(253_402_300_799_999_999)]);
    assert_eq!(data.valid_data, [true, false, true, true]);
    let texts = ["1970-01-01T00:00:01.000002Z", "1969-12-31T23:59:59.000000Z", "9999-12-31T23:59:59.999999Z"];
    let texts = proto::StringArray { data: texts.map(str::to_owned).to_vec() };
    assert_eq!(scalars(data), proto::scalar_field::Data::StringData(texts));
    // What no such text says is sent as it is.
    let late = 253_402_300_800_000_000;
    let numbers = proto::LongArray { data: vec![late, 0] };
    assert_eq!(scalars(sent(vec![Some(late), Some(0)])), proto::scalar_field::Data::TimestamptzData(numbers));
}
