//! Milvault's core: it backs up, proves and restores Milvus collections.
//!
//! Uses go one way: `py → jobs → milvus, parquet, repository → filter, digest, checksum → schema → error`.
//! `jobs` never sees protobuf, `repository` never sees rows, `milvus` never sees files, and only `py` knows Python.

#![warn(clippy::pedantic)]
#![allow(clippy::module_name_repetitions, clippy::missing_errors_doc)]
#![deny(unsafe_code)]

pub mod checksum;
pub mod compression;
pub mod digest;
pub mod error;
pub mod filter;
pub mod jobs;
pub mod milvus;
pub mod output;
pub mod parquet;
#[cfg(feature = "python")]
mod py;
pub mod repository;
pub mod schema;
pub mod text;
