//! Logs of deletes of arbitrary bytes: all deletes are read, with and without a time. The first byte of the header says
//! how the files are reached.

#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use milvault::binlog::{Deletes, LogFile};
use milvault_fuzz::files::{DELETES, assemble, log};
use milvault_fuzz::pieces::{Input, mutate};
use milvault_fuzz::{seeds, watch};

fuzz_target!(
    init: {
        watch::start();
        seeds::write_all("deletes", &seeds::deletes());
    },
    |data: &[u8]| {
        watch::run(data.len(), || read(data));
    }
);

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| { mutate(data, size, max_size, seed) });

fn read(data: &[u8]) {
    let input = Input::read(data);
    let elsewhere = input.header[0] & 1 == 1;
    let files = assemble(&input.pieces, |_| (-1, DELETES)).into_iter().enumerate();
    let files: Vec<LogFile> = files.map(|(index, (_, bytes))| log(format!("file {index}"), bytes, elsewhere)).collect();
    match (Deletes::read(&files, None), Deletes::read(&files, Some(12))) {
        (Ok(all), Ok(mut early)) => {
            assert!(early.len() <= all.len(), "{} keys were deleted early, {} ever", early.len(), all.len());
            assert!(early.latest() <= all.latest().min(12));
            for file in &files {
                early.add(file, None).expect("a file that was read before");
            }
            assert_eq!(early, all, "what was deleted early is among what was deleted");
        }
        (Err(all), Err(early)) => {
            watch::check(&all);
            watch::check(&early);
        }
        (all, early) => panic!("a time decides whether a file can be read: {:?}, {:?}", all.err(), early.err()),
    }
}
