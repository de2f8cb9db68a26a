//! Milvus's own files without a server.
pub mod description;
pub mod metadata;
