//! Rows as text: JSON, one object a line, and CSV.
//!
//! Numbers are the shortest that read back as the same; what JSON has no number for (NaN, infinity) is null. JSON fields
//! stand as the JSON they are, times as RFC 3339 in UTC, vectors as arrays of numbers, sparse ones as objects from index
//! to value, and vectors of bytes (binary and bfloat16) as hex. In CSV, a null is empty, an empty text is `""`, and what
//! is no single value is its JSON, in quotes.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimestampMicrosecondType, UInt32Type,
};
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType as ArrowType, Field, Schema, TimeUnit};
use serde::Serialize;
use serde::de::IgnoredAny;

use crate::checksum::hex;
use crate::error::{Result, internal};
use crate::schema::JSON_EXTENSION;

/// Appends the rows as one JSON object a line.
///
/// # Errors
/// [`crate::error::Kind::Internal`] for a column of a type that no field has.
pub fn json_lines(batch: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
    let schema = batch.schema();
    for row in 0..batch.num_rows() {
        out.push(b'{');
        for (index, (field, column)) in schema.fields().iter().zip(batch.columns()).enumerate() {
            if index > 0 {
                out.push(b',');
            }
            json(field.name(), out);
            out.push(b':');
            value(field, column.as_ref(), row, out)?;
        }
        out.extend_from_slice(b"}\n");
    }
    Ok(())
}

/// Appends CSV's first line, the names of the columns.
pub fn csv_header(schema: &Schema, out: &mut Vec<u8>) {
    for (index, field) in schema.fields().iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        cell(field.name().as_bytes(), out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the rows as lines of CSV, as RFC 4180 has it.
///
/// # Errors
/// As [`json_lines`].
pub fn csv(batch: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
    let schema = batch.schema();
    let mut scratch = Vec::new();
    for row in 0..batch.num_rows() {
        for (index, (field, column)) in schema.fields().iter().zip(batch.columns()).enumerate() {
            if index > 0 {
                out.push(b',');
            }
            if column.is_null(row) {
                continue;
            }
            if let (ArrowType::Utf8, false) = (field.data_type(), is_json(field)) {
                cell(column.as_string::<i32>().value(row).as_bytes(), out);
                continue;
            }
            scratch.clear();
            value(field, column.as_ref(), row, &mut scratch)?;
            // A time or hex is a JSON string without anything to escape.
            let plain = scratch.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\""));
            cell(plain.filter(|_| !is_json(field)).unwrap_or(&scratch), out);
        }
        out.extend_from_slice(b"\r\n");
    }
    Ok(())
}

fn cell(text: &[u8], out: &mut Vec<u8>) {
    if !text.is_empty() && !text.iter().any(|byte| matches!(byte, b'"' | b',' | b'\n' | b'\r')) {
        return out.extend_from_slice(text);
    }
    out.push(b'"');
    for byte in text {
        if *byte == b'"' {
            out.push(b'"');
        }
        out.push(*byte);
    }
    out.push(b'"');
}

fn is_json(field: &Field) -> bool {
    field.metadata().get("ARROW:extension:name").is_some_and(|name| name == JSON_EXTENSION)
}

/// Appends something that serde writes as JSON; a `Vec` takes all of it.
fn json(value: impl Serialize, out: &mut Vec<u8>) {
    let _ = serde_json::to_writer(out, &value);
}

fn value(field: &Field, array: &dyn Array, row: usize, out: &mut Vec<u8>) -> Result<()> {
    fn number<T: ArrowPrimitiveType<Native: Serialize>>(array: &dyn Array, row: usize, out: &mut Vec<u8>) {
        json(array.as_primitive::<T>().value(row), out);
    }
    if array.is_null(row) {
        out.extend_from_slice(b"null");
        return Ok(());
    }
    match array.data_type() {
        ArrowType::Boolean => json(array.as_boolean().value(row), out),
        ArrowType::Int8 => number::<Int8Type>(array, row, out),
        ArrowType::Int16 => number::<Int16Type>(array, row, out),
        ArrowType::Int32 => number::<Int32Type>(array, row, out),
        ArrowType::Int64 => number::<Int64Type>(array, row, out),
        ArrowType::UInt32 => number::<UInt32Type>(array, row, out),
        ArrowType::Float16 => json(array.as_primitive::<Float16Type>().value(row).to_f32(), out),
        ArrowType::Float32 => number::<Float32Type>(array, row, out),
        ArrowType::Float64 => number::<Float64Type>(array, row, out),
        ArrowType::Timestamp(TimeUnit::Microsecond, _) => {
            let micros = array.as_primitive::<TimestampMicrosecondType>().value(row);
            let time = chrono::DateTime::from_timestamp_micros(micros);
            json(time.map(|time| time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)), out);
        }
        ArrowType::Utf8 => text(field, array.as_string::<i32>().value(row), out),
        ArrowType::FixedSizeBinary(_) => json(hex(array.as_fixed_size_binary().value(row)), out),
        ArrowType::FixedSizeList(item, _) => list(item, array.as_fixed_size_list().value(row).as_ref(), out)?,
        ArrowType::List(item) => list(item, array.as_list::<i32>().value(row).as_ref(), out)?,
        ArrowType::Struct(_) => sparse(array, row, out)?,
        other => return Err(internal(format!("a column of type {other} cannot be written as text"))),
    }
    Ok(())
}

fn text(field: &Field, text: &str, out: &mut Vec<u8>) {
    if !is_json(field) || serde_json::from_str::<IgnoredAny>(text).is_err() {
        return json(text, out);
    }
    // A line break in JSON is white space: within strings it is escaped.
    out.extend(text.bytes().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }));
}

fn list(item: &Field, values: &dyn Array, out: &mut Vec<u8>) -> Result<()> {
    out.push(b'[');
    for index in 0..values.len() {
        if index > 0 {
            out.push(b',');
        }
        value(item, values, index, out)?;
    }
    out.push(b']');
    Ok(())
}

fn sparse(array: &dyn Array, row: usize, out: &mut Vec<u8>) -> Result<()> {
    let parts = array.as_struct();
    let column = |name| parts.column_by_name(name).and_then(|list| list.as_list_opt::<i32>());
    let (Some(indices), Some(values)) = (column("indices"), column("values")) else {
        return Err(internal("a struct that is no sparse vector cannot be written as text"));
    };
    let (indices, values) = (indices.value(row), values.value(row));
    let indices = indices.as_primitive::<UInt32Type>();
    let item = Field::new("element", ArrowType::Float32, false);
    out.push(b'{');
    for index in 0..indices.len().min(values.len()) {
        if index > 0 {
            out.push(b',');
        }
        json(indices.value(index).to_string(), out);
        out.push(b':');
        value(&item, values.as_ref(), index, out)?;
    }
    out.push(b'}');
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Float32Array, Int64Array, StringArray};
    use proptest::prelude::*;

    use super::*;
    use crate::parquet::samples::{batches, every_type};

    fn awkward() -> RecordBatch {
        let marked = |name: &str, mark: bool| {
            let field = Field::new(name, ArrowType::Utf8, true);
            let metadata = HashMap::from([("ARROW:extension:name".to_owned(), JSON_EXTENSION.to_owned())]);
            if mark { field.with_metadata(metadata) } else { field }
        };
        let schema = Schema::new(vec![
            Field::new("id", ArrowType::Int64, false),
            Field::new("x", ArrowType::Float32, false),
            marked("text", false),
            marked("meta", true),
        ]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![i64::MIN, 2, 3])),
            Arc::new(Float32Array::from(vec![0.1, f32::NAN, 1e-40])),
            Arc::new(StringArray::from(vec![Some("a \"b\",\n"), Some(""), None])),
            Arc::new(StringArray::from(vec![Some("{\"a\":\n 1}"), Some("no json"), Some("\"text\"")])),
        ];
        RecordBatch::try_new(Arc::new(schema), columns).unwrap()
    }

    #[test]
    fn json_lines_are_json() {
        let mut out = Vec::new();
        json_lines(&awkward(), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "{\"id\":-9223372036854775808,\"x\":0.1,\"text\":\"a \\\"b\\\",\\n\",\"meta\":{\"a\":  1}}\n\
             {\"id\":2,\"x\":null,\"text\":\"\",\"meta\":\"no json\"}\n\
             {\"id\":3,\"x\":1e-40,\"text\":null,\"meta\":\"text\"}\n"
        );
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        let mut out = Vec::new();
        csv_header(&awkward().schema(), &mut out);
        csv(&awkward(), &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "id,x,text,meta\r\n-9223372036854775808,0.1,\"a \"\"b\"\",\n\",\"{\"\"a\"\":  1}\"\r\n\
             2,null,\"\",\"\"\"no json\"\"\"\r\n3,1e-40,,\"\"\"text\"\"\"\r\n"
        );
    }

    proptest! {
        #[test]
        fn rows_of_every_type_are_lines_of_json(batch in batches(&every_type(), 1..10)) {
            let mut out = Vec::new();
            json_lines(&batch, &mut out).unwrap();
            let text = String::from_utf8(out).unwrap();
            prop_assert_eq!(text.matches('\n').count(), batch.num_rows());
            for line in text.split_terminator('\n') {
                prop_assert!(serde_json::from_str::<IgnoredAny>(line).is_ok(), "{}", line);
            }
            csv(&batch, &mut Vec::new()).unwrap();
        }
    }
}
