//! milvus-backup's metadata of arbitrary bytes, as one file or as four: read, made into our model of collections, and
//! written again. A piece is a file; its slot says which one.

#![no_main]

use std::hint::black_box;

use bytes::Bytes;
use futures::executor::block_on;
use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use milvault::binlog::description;
use milvault::binlog::metadata::BackupInfo;
use milvault::error::Result;
use milvault_fuzz::pieces::{Input, SLOT, mutate};
use milvault_fuzz::seeds::NAMES;
use milvault_fuzz::{seeds, watch};

fuzz_target!(
    init: {
        watch::start();
        seeds::write_all("metadata", &seeds::metadata());
    },
    |data: &[u8]| {
        watch::run(data.len(), || read(data));
    }
);

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| { mutate(data, size, max_size, seed) });

fn read(data: &[u8]) {
    let input = Input::read(data);
    let file = async |name: &'static str| {
        let piece = input.pieces.iter().find(|piece| NAMES.get(usize::from(piece.head & SLOT)) == Some(&name));
        Ok(piece.map(|piece| Bytes::from(piece.bytes.clone())))
    };
    match block_on(BackupInfo::read(file)) {
        Ok(info) => look(&info),
        Err(error) => watch::check(&error),
    }
}

fn look(info: &BackupInfo) {
    for collection in &info.collection_backups {
        black_box((description::database(collection), description::indexes(collection)));
        fair(description::collection(collection).and_then(|collection| {
            black_box(collection.schema.estimated_row_bytes());
            collection.schema.arrow()
        }));
        let partitions = collection.partition_backups.iter().flat_map(|partition| &partition.segment_backups);
        for segment in partitions.chain(&collection.l0_segments) {
            black_box(segment.rows());
            fair(segment.require_known());
            for files in [segment.inserts(), segment.deletes()] {
                if let Some(files) = fair(files) {
                    assert!(files.is_sorted_by_key(|file| (file.field, file.number)), "files out of order");
                }
            }
        }
    }
    // What is written says the same as what was read.
    let files = info.to_files().expect("metadata that JSON has");
    let written = async |name: &'static str| {
        Ok(files.iter().find(|(known, _)| *known == name).map(|(_, bytes)| Bytes::from(bytes.clone())))
    };
    let again = block_on(BackupInfo::read(written)).expect("our own metadata");
    assert_eq!(&again, info, "what was written is not what was read");
}

fn fair<T>(read: Result<T>) -> Option<T> {
    read.inspect_err(watch::check).ok()
}
