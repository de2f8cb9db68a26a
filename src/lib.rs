//! Milvault's core: it backs up, proves and restores Milvus collections.
//!
//! Uses go one way: `py → jobs → milvus, binlog, parquet, repository → filter, digest, checksum, proto → schema → error`.
//! `jobs` never sees protobuf, `repository` never sees rows, `milvus` never sees files, `binlog` never sees a server,
//! and only `py` knows Python.

#![warn(clippy::pedantic)]
#![allow(clippy::module_name_repetitions, clippy::missing_errors_doc)]
#![deny(unsafe_code)]

pub mod binlog;
pub mod checksum;
pub mod compression;
pub mod digest;
pub mod error;
pub mod filter;
pub mod jobs;
pub mod milvus;
pub mod output;
pub mod parquet;
mod proto;
#[cfg(feature = "python")]
mod py;
pub mod repository;
pub mod schema;
pub mod text;
mod tls;
