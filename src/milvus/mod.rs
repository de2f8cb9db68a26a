//! A Milvus server over gRPC: connecting, describing, scanning, writing. It never sees a file. What newer servers tell
//! over HTTP alone is asked there.
//!
//! What leaves this module is [`crate::schema`]'s model and Arrow record batches; protobuf stays inside. Facts about
//! servers are named with the version that they were measured on: Milvus 2.3.5 and Milvus Lite 3.2.2.

mod access;
mod admin;
mod channel;
mod client;
#[cfg(test)]
mod damage_tests;
mod decode;
mod describe;
mod duplicates;
mod encode;
mod http;
mod import;
mod key;
mod making;
mod management;
mod scan;
mod segment_files;
mod segments;
mod status;
#[cfg(test)]
mod wire_tests;
mod write;

pub use access::{Access, Grant, Role};
pub use client::{Client, Retry, ServerConfig, ServerKind};
pub use duplicates::{Duplicates, duplicates, keys};
pub use import::{ImportRequest, ImportState};
pub use key::{Key, KeyRange};
pub use management::{Management, Ticket};
pub use scan::{ScanRequest, Scanner, split};
pub use segment_files::SegmentLogs;
pub use segments::{Identity, LoadState, PartitionIdentity, Segment, SegmentState};
pub use write::{InsertRequest, Inserted, Inserter};

use crate::proto;
