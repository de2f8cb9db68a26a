//! Inner loops: row digests, and chunk files written and read, on 100,000 rows of an int64 key and 128 floats.
//!
//! `cargo bench --bench inner`. Throughput is in bytes of Arrow.

use std::hint::black_box;
use std::sync::Arc;

use arrow_array::{ArrayRef, FixedSizeListArray, Float32Array, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType as ArrowType, Field as ArrowField};
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use milvault::digest::{RowDigester, SetDigest};
use milvault::parquet::{ChunkReader, ChunkWriter, WriteOptions, arrow_bytes};
use milvault::schema::CollectionSchema;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const ROWS: i64 = 100_000;
const BATCH_ROWS: usize = 8_000;
const DIM: i32 = 128;

fn schema(json: bool) -> CollectionSchema {
    let mut fields = vec![
        serde_json::json!({"id": 100, "name": "id", "data_type": "int64", "primary_key": true}),
        serde_json::json!({"id": 101, "name": "vector", "data_type": "float_vector", "params": {"dim": DIM.to_string()}}),
    ];
    if json {
        fields.push(serde_json::json!({"id": 102, "name": "$meta", "data_type": "json"}));
    }
    serde_json::from_value(serde_json::json!({"enable_dynamic_field": json, "fields": fields})).expect("a valid schema")
}

fn batches(schema: &CollectionSchema) -> Vec<RecordBatch> {
    let mut random = StdRng::seed_from_u64(7);
    let item = Arc::new(ArrowField::new("element", ArrowType::Float32, false));
    (0..ROWS)
        .collect::<Vec<_>>()
        .chunks(BATCH_ROWS)
        .map(|keys| {
            let floats = (0..keys.len() * 128).map(|_| random.random_range(-1.0f32..1.0));
            let values = Arc::new(Float32Array::from_iter_values(floats));
            let vectors = FixedSizeListArray::new(Arc::clone(&item), DIM, values, None);
            let mut columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(keys.to_vec())), Arc::new(vectors)];
            if schema.fields.len() > 2 {
                let texts =
                    keys.iter().map(|key| format!(r#"{{"title": "row {key}", "price": {key}.5, "tags": ["a", "b"]}}"#));
                columns.push(Arc::new(StringArray::from_iter_values(texts)));
            }
            RecordBatch::try_new(schema.arrow().expect("a valid schema"), columns).expect("columns of the schema")
        })
        .collect()
}

fn write(schema: &CollectionSchema, batches: &[RecordBatch]) -> Bytes {
    let mut file = Vec::new();
    let mut writer = ChunkWriter::new(schema, &WriteOptions::default()).expect("valid options");
    for batch in batches {
        file.extend(writer.write(batch).expect("rows of the schema").concat());
    }
    file.extend(writer.finish().expect("a finished file").0.concat());
    file.into()
}

fn inner_loops(criterion: &mut Criterion) {
    for (what, json) in [("vectors", false), ("vectors and $meta", true)] {
        let schema = schema(json);
        let batches = batches(&schema);
        let mut group = criterion.benchmark_group(what);
        group.sample_size(10).throughput(Throughput::Bytes(batches.iter().map(arrow_bytes).sum()));
        let digester = RowDigester::new(&schema).expect("a valid schema");
        group.bench_function("digest", |bencher| {
            bencher.iter(|| {
                let mut all = SetDigest::default();
                for batch in &batches {
                    all.merge(&digester.set(black_box(batch)).expect("rows of the schema"));
                }
                all
            });
        });
        group.bench_function("write", |bencher| bencher.iter(|| write(&schema, black_box(&batches))));
        let file = write(&schema, &batches);
        println!("{what}: {} bytes of Parquet", file.len());
        group.bench_function("read", |bencher| {
            bencher.iter(|| {
                let reader = ChunkReader::open(file.clone(), &schema, "bench").expect("our own file");
                reader.batches(BATCH_ROWS).map(|batch| batch.expect("our own rows").num_rows()).sum::<usize>()
            });
        });
        group.finish();
    }
}

criterion_group!(benches, inner_loops);
criterion_main!(benches);
