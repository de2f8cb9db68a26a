//! Chunk files as a whole: what is written is read back bit by bit, and damage never passes for rows.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Int64Type};
use arrow_array::{ArrayRef, FixedSizeListArray, Int64Array, PrimitiveArray, StringArray};
use arrow_schema::Field as ArrowField;
use bytes::Bytes;
use parquet::basic::{Compression, Encoding};
use parquet::file::reader::{FileReader, SerializedFileReader};
use proptest::prelude::*;

use super::samples::{batches, every_type, field, schema, string_keys, vector};
use super::*;
use crate::digest::RowDigester;
use crate::error::{Kind, Result};
use crate::schema::{CollectionSchema, DataType};

/// Row groups so small that a few rows make several.
const SMALL: WriteOptions = WriteOptions { compression: Some(6), row_group_bytes: 2000 };

fn written(schema: &CollectionSchema, options: &WriteOptions, batches: &[RecordBatch]) -> (Bytes, ChunkSummary) {
    let mut writer = ChunkWriter::new(schema, options).unwrap();
    let mut file = Vec::new();
    for batch in batches {
        file.extend(writer.write(batch).unwrap().concat());
    }
    let (last, summary) = writer.finish().unwrap();
    file.extend(last.concat());
    assert_eq!(summary.file_bytes, file.len() as u64);
    (file.into(), summary)
}

fn opened(file: &Bytes, schema: &CollectionSchema) -> ChunkReader {
    ChunkReader::open(file.clone(), schema, "data/a-00000.parquet").unwrap()
}

/// Rows as one batch: slices are compared row by row, since how they are batched must not matter.
fn rows_of(batches: &[RecordBatch]) -> Vec<RecordBatch> {
    batches.iter().flat_map(|batch| (0..batch.num_rows()).map(|row| batch.slice(row, 1))).collect()
}

fn vectors(dim: usize, rows: usize) -> (CollectionSchema, RecordBatch) {
    let schema = schema(vec![field(100, "id", DataType::Int64), vector(101, "v", DataType::FloatVector, dim)]);
    let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(0..i64::try_from(rows).unwrap()));
    let values = PrimitiveArray::<Float32Type>::from_iter_values((0..u32::try_from(rows * dim).unwrap()).map(|n| {
        f32::from_bits(n.wrapping_mul(2_654_435_761)) // NaNs, infinities and subnormals among them
    }));
    let item = Arc::new(ArrowField::new("element", ArrowType::Float32, false));
    let dim = i32::try_from(dim).unwrap();
    let v: ArrayRef = Arc::new(FixedSizeListArray::new(item, dim, Arc::new(values), None));
    let batch = RecordBatch::try_new(schema.arrow().unwrap(), vec![keys, v]).unwrap();
    (schema, batch)
}

#[test]
fn no_rows_make_a_file_without_row_groups() {
    let schema = every_type();
    let (file, summary) = written(&schema, &WriteOptions::default(), &[]);
    assert_eq!((summary.rows, summary.row_groups, summary.lowest), (0, 0, None));
    let reader = opened(&file, &schema);
    assert_eq!((reader.rows(), reader.row_groups().len(), reader.batches(100).count()), (0, 0, 0));
    let empty = RecordBatch::new_empty(schema.arrow().unwrap());
    assert_eq!(written(&schema, &WriteOptions::default(), &[empty.clone(), empty]).0, file);
}

#[test]
fn float_bits_keys_and_bytes_handed_over_survive() {
    let (schema, batch) = vectors(1022, 1000);
    let options = WriteOptions { compression: None, row_group_bytes: 1 << 20 };
    let mut writer = ChunkWriter::new(&schema, &options).unwrap();
    let mut early = 0;
    let mut file = Vec::new();
    for start in (0..1000).step_by(300) {
        let bytes = writer.write(&batch.slice(start, 300.min(1000 - start))).unwrap().concat();
        early += bytes.len();
        file.extend(bytes);
    }
    assert!(early >= 2 << 20, "only {early} bytes before the end");
    assert_eq!((writer.rows(), writer.arrow_bytes()), (1000, 1000 * 4096));
    let (last, summary) = writer.finish().unwrap();
    file.extend(last.concat());
    assert_eq!((summary.lowest.clone(), summary.highest.clone()), (Some(0.into()), Some(999.into())));
    assert_eq!((summary.arrow_bytes, summary.row_groups), (4_096_000, 4)); // 1 MiB holds 256 rows
    let reader = opened(&file.into(), &schema);
    let read: Vec<_> = reader.batches(64).map(Result::unwrap).collect();
    assert_eq!(rows_of(&read), rows_of(&[batch]));
    assert_eq!(reader.promised(), summary.digest);
    assert!(read.iter().all(|batch| batch.schema() == schema.arrow().unwrap() && batch.num_rows() <= 64));
}

#[test]
fn string_keys_are_ordered_by_their_bytes() {
    let schema = schema(vec![field(100, "key", DataType::Varchar)]);
    let keys: ArrayRef = Arc::new(StringArray::from(vec!["b", "", "\u{ffff}", "🐍", "a\"\\\0"]));
    let batch = RecordBatch::try_new(schema.arrow().unwrap(), vec![keys]).unwrap();
    let (file, summary) = written(&schema, &SMALL, std::slice::from_ref(&batch));
    assert_eq!((summary.lowest, summary.highest), (Some("".into()), Some("🐍".into())));
    assert_eq!(opened(&file, &schema).batches(10).next().unwrap().unwrap(), batch);
}

#[test]
fn a_row_larger_than_a_row_group_is_written_all_the_same() {
    let (schema, batch) = vectors(64, 5);
    let (file, summary) = written(&schema, &WriteOptions { row_group_bytes: 1, ..SMALL }, std::slice::from_ref(&batch));
    assert_eq!(summary.row_groups, 5);
    let read: Vec<_> = opened(&file, &schema).batches(10).map(Result::unwrap).collect();
    assert_eq!(rows_of(&read), rows_of(&[batch]));
}

#[test]
fn columns_are_laid_out_as_the_design_says() {
    let (mut schema, batch) = vectors(16, 100);
    schema.fields.push(field(102, "text.name", DataType::Varchar));
    let text: ArrayRef = Arc::new(StringArray::from(vec!["same"; 100]));
    let columns = [batch.columns(), &[text]].concat();
    let batch = RecordBatch::try_new(schema.arrow().unwrap(), columns).unwrap();
    for (compression, zstd) in [(Some(9), true), (None, false)] {
        let (file, _) = written(&schema, &WriteOptions { compression, ..SMALL }, std::slice::from_ref(&batch));
        let reader = SerializedFileReader::new(file).unwrap();
        let columns = reader.metadata().row_group(0).columns();
        let [key, vector, text] = columns else { panic!("three columns, not {}", columns.len()) };
        for column in columns {
            assert_eq!(matches!(column.compression(), Compression::ZSTD(_)), zstd, "{}", column.column_path());
        }
        let ids: Vec<_> =
            reader.metadata().file_metadata().schema().get_fields().iter().map(|f| f.get_basic_info().id()).collect();
        assert_eq!(ids, [100, 101, 102]);
        assert!(vector.encodings().any(|encoding| encoding == Encoding::BYTE_STREAM_SPLIT));
        assert!(vector.statistics().is_none() && vector.column_index_range().is_none());
        assert!(vector.dictionary_page_offset().is_none() && key.dictionary_page_offset().is_none());
        assert!(text.dictionary_page_offset().is_some());
        assert!([key, text].iter().all(|c| c.statistics().is_some() && c.column_index_range().is_some()));
    }
}

#[test]
fn a_level_outside_one_to_nine_is_refused() {
    for level in [0, 10, 255] {
        let options = WriteOptions { compression: Some(level), ..SMALL };
        assert_eq!(ChunkWriter::new(&string_keys(), &options).err().unwrap().kind(), Kind::InvalidArgument);
    }
}

#[test]
fn another_schema_than_the_files_is_named_and_refused() {
    let (schema, batch) = vectors(16, 10);
    let (file, _) = written(&schema, &SMALL, &[batch]);
    let mut renamed = schema.clone();
    renamed.fields[1].name = "w".to_owned();
    let mut renumbered = schema.clone();
    renumbered.fields[1].id = 7;
    let mut wider = schema.clone();
    wider.fields[1] = vector(101, "v", DataType::FloatVector, 8);
    let mut retyped = schema.clone();
    retyped.fields[0].data_type = DataType::Varchar;
    let mut longer = schema.clone();
    longer.fields.push(field(102, "x", DataType::Bool));
    for other in [renamed, renumbered, wider, retyped, longer] {
        let outcome = ChunkReader::open(file.clone(), &other, "data/a.parquet")
            .and_then(|reader| reader.batches(10).collect::<Result<Vec<_>>>());
        let error = outcome.expect_err("the file's rows are not of that schema");
        assert_eq!(error.kind(), Kind::BackupCorrupted);
        assert_eq!(error.details()["failed_files"], serde_json::json!(["data/a.parquet"]));
    }
}

#[test]
fn a_parquet_file_that_is_not_ours_or_newer_is_refused() {
    let (schema, batch) = vectors(4, 10);
    let mut foreign = Vec::new();
    let mut writer = ::parquet::arrow::ArrowWriter::try_new(&mut foreign, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let error = ChunkReader::open(Bytes::from(foreign), &schema, "f").err().unwrap();
    assert!(error.message().contains("Milvault"), "{error}");
    let (file, _) = written(&schema, &SMALL, &[batch]);
    let at = file.windows(FORMAT_KEY.len()).rposition(|window| window == FORMAT_KEY.as_bytes()).unwrap();
    let mut newer = file.to_vec();
    let value = at + FORMAT_KEY.len() + 2; // a Thrift field header and the length 1 come before the value
    assert_eq!(newer[value], b'1');
    newer[value] = b'2';
    let error = ChunkReader::open(Bytes::from(newer), &schema, "f").err().unwrap();
    assert!(error.message().contains("format \"2\""), "{error}");
}

#[test]
fn files_are_read_without_a_shared_cursor_and_their_errors_are_the_storages() {
    let (schema, batch) = vectors(16, 1000);
    let (bytes, _) = written(&schema, &SMALL, std::slice::from_ref(&batch));
    let path = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(path.path(), &bytes).unwrap();
    let reader = ChunkReader::open(std::fs::File::open(path.path()).unwrap(), &schema, "f").unwrap();
    let (mut left, mut right) = (reader.batches(7), reader.batches(11));
    let (mut from_left, mut from_right) = (Vec::new(), Vec::new());
    loop {
        let (l, r) = (left.next(), right.next());
        if l.is_none() && r.is_none() {
            break;
        }
        from_left.extend(l.map(Result::unwrap));
        from_right.extend(r.map(Result::unwrap));
    }
    assert_eq!(rows_of(&from_left), rows_of(&[batch]));
    assert_eq!(rows_of(&from_left), rows_of(&from_right));
    // A file opened for writing cannot be read: that is the storage's fault, not damage.
    let blind = std::fs::OpenOptions::new().append(true).open(path.path()).unwrap();
    assert_eq!(ChunkReader::open(blind, &schema, "f").err().unwrap().kind(), Kind::Storage);
}

#[test]
fn every_row_group_is_proven_against_its_own_digest() {
    let (schema, batch) = vectors(16, 200);
    let (file, summary) = written(&schema, &SMALL, &[batch]);
    let reader = opened(&file, &schema);
    let mut all = crate::digest::SetDigest::default();
    for index in 0..summary.row_groups {
        all.merge(&reader.prove_row_group(index).unwrap());
    }
    assert_eq!(all, summary.digest);
    assert_eq!(reader.prove_row_group(summary.row_groups).unwrap_err().kind(), Kind::InvalidArgument);
    // Uncompressed, so that a flipped bit in a vector is decoded without complaint: only the digest tells.
    let (schema, batch) = vectors(16, 200);
    let (file, _) = written(&schema, &WriteOptions { compression: None, ..SMALL }, &[batch]);
    let mut flipped = file.to_vec();
    let vector_page = SerializedFileReader::new(file).unwrap().metadata().row_group(0).column(1).byte_range();
    flipped[usize::try_from(vector_page.0 + vector_page.1).unwrap() - 1] ^= 1;
    let error = opened(&flipped.into(), &schema).prove_row_group(0).unwrap_err();
    assert_eq!(error.kind(), Kind::BackupCorrupted);
    assert!(error.message().contains("row group 0 holds"), "{error}");
}

/// Reads and proves all of a file that may be damaged.
fn proven(file: Bytes, schema: &CollectionSchema) -> Result<SetDigest> {
    let reader = ChunkReader::open(file, schema, "data/a.parquet")?;
    let mut all = SetDigest::default();
    for index in 0..reader.row_groups().len() {
        all.merge(&reader.prove_row_group(index)?);
    }
    Ok(all)
}

#[test]
fn a_changed_byte_is_an_error_or_changes_nothing() {
    let schema = every_type();
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let batch = batches(&schema, 12).new_tree(&mut runner).unwrap().current();
    let mut caught = 0;
    for compression in [None, Some(6)] {
        let options = WriteOptions { compression, ..WriteOptions::default() };
        let (file, summary) = written(&schema, &options, std::slice::from_ref(&batch));
        // A stride that is prime to everything: pages, footer and index are all hit.
        for (at, mask) in (0..file.len()).step_by(37).zip([1u8, 0x80, 0xff].into_iter().cycle()) {
            let mut damaged = file.to_vec();
            damaged[at] ^= mask;
            match proven(damaged.into(), &schema) {
                Err(error) => {
                    assert_eq!(error.kind(), Kind::BackupCorrupted, "byte {at}: {error}");
                    caught += 1;
                }
                Ok(digest) => assert_eq!(digest, summary.digest, "byte {at} ^ {mask:#x}"),
            }
        }
    }
    assert!(caught > 100, "{caught}");
}

#[test]
fn a_file_cut_short_and_no_file_at_all_are_errors() {
    let (schema, batch) = vectors(4, 50);
    let (file, _) = written(&schema, &SMALL, &[batch]);
    for length in (0..file.len()).step_by(7) {
        assert_eq!(proven(file.slice(..length), &schema).unwrap_err().kind(), Kind::BackupCorrupted);
    }
    for garbage in [&b""[..], b"PAR1", b"PAR1PAR1", b"PAR1\xff\xff\xff\x7fPAR1", &[0; 1000]] {
        assert_eq!(proven(Bytes::from_static(garbage), &schema).unwrap_err().kind(), Kind::BackupCorrupted);
    }
}

#[test]
fn the_size_of_a_batch_is_that_of_its_slices() {
    let (_, batch) = vectors(16, 10);
    assert_eq!(arrow_bytes(&batch), 10 * (8 + 64));
    assert_eq!(arrow_bytes(&batch.slice(3, 4)), 4 * (8 + 64));
    assert_eq!(batch.slice(3, 4).column(0).as_primitive::<Int64Type>().len(), 4);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_rows_are_read_back_equal(
        rows in batches(&every_type(), 0..40),
        cut in any::<prop::sample::Index>(),
        compressed in any::<bool>(),
        batch_rows in 1usize..50,
    ) {
        let schema = every_type();
        let cut = cut.index(rows.num_rows() + 1);
        let options = WriteOptions { compression: compressed.then_some(3), ..SMALL };
        let parts = [rows.slice(0, cut), rows.slice(cut, rows.num_rows() - cut)];
        let (file, summary) = written(&schema, &options, &parts);
        let digester = RowDigester::new(&schema).unwrap();
        prop_assert_eq!(summary.digest, digester.set(&rows).unwrap());
        prop_assert_eq!(summary.arrow_bytes, arrow_bytes(&rows));
        let reader = opened(&file, &schema);
        prop_assert_eq!(reader.promised(), summary.digest);
        let read: Vec<_> = reader.batches(batch_rows).map(Result::unwrap).collect();
        prop_assert_eq!(rows_of(&read), rows_of(&[rows]));
        prop_assert_eq!(proven(file, &schema).unwrap(), summary.digest);
    }

    #[test]
    fn string_keyed_rows_are_read_back_equal(rows in batches(&string_keys(), 0..60)) {
        let (file, summary) = written(&string_keys(), &SMALL, std::slice::from_ref(&rows));
        let keys: Vec<&str> = rows.column(0).as_string::<i32>().iter().flatten().collect();
        prop_assert_eq!(summary.lowest, keys.iter().min().map(|key| Value::from(*key)));
        prop_assert_eq!(summary.highest, keys.iter().max().map(|key| Value::from(*key)));
        let read: Vec<_> = opened(&file, &string_keys()).batches(1000).map(Result::unwrap).collect();
        prop_assert_eq!(rows_of(&read), rows_of(&[rows]));
    }

    #[test]
    fn garbage_between_the_magic_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let length = u32::try_from(bytes.len()).unwrap().to_le_bytes();
        let file = [b"PAR1", &bytes[..], &length, b"PAR1"].concat();
        prop_assert!(ChunkReader::open(Bytes::from(file), &string_keys(), "f").is_err());
    }
}

#[test]
fn some_columns_of_some_row_groups_are_read_alone() {
    let (schema, batch) = vectors(16, 1000);
    let (file, _) = written(&schema, &WriteOptions { row_group_bytes: 10_000, ..SMALL }, std::slice::from_ref(&batch));
    let reader = opened(&file, &schema);
    let names: Vec<&str> = schema.fields.iter().map(|field| field.name.as_str()).collect();
    let key = schema.primary_key().unwrap().name.clone();
    let filter = |text: String| crate::filter::Filter::parse(&text, &schema).unwrap();
    // 10,000 bytes hold 138 rows: eight row groups.
    assert_eq!(reader.row_groups_that_may_match(&filter(format!("{key} == 140"))), [1]);
    assert_eq!(reader.row_groups_that_may_match(&filter(format!("{key} < 0"))), [0_usize; 0]);
    assert_eq!(reader.row_groups_that_may_match(&filter(format!("not ({key} in [5, 140])"))).len(), 8);
    let keys: Vec<_> = reader.select(&[&key], vec![1, 3], 50).unwrap().map(Result::unwrap).collect();
    assert!(keys.iter().all(|batch| batch.num_columns() == 1 && batch.num_rows() <= 50));
    let expected = [batch.slice(138, 138), batch.slice(3 * 138, 138)].map(|rows| rows.project(&[0]).unwrap());
    assert_eq!(rows_of(&keys), rows_of(&expected));
    let all: Vec<_> = reader.select(&names, (0..8).collect(), 1000).unwrap().map(Result::unwrap).collect();
    assert_eq!(rows_of(&all), rows_of(&[batch]));
    assert_eq!(reader.select(&[&key], vec![8], 50).err().unwrap().kind(), Kind::InvalidArgument);
    assert_eq!(reader.select(&["nope"], vec![0], 50).err().unwrap().kind(), Kind::Internal);
}
