//! Where backups live: a folder or an object-store prefix, and the rules that keep what is in it whole.
//!
//! | file | its one idea |
//! |---|---|
//! | [`store`] | bytes at paths, durable on return, on local disk and on object stores alike |
//! | `again` | requests that are made again, and reads that go on where they broke off |
//! | [`names`] | names and paths that cannot point outside a backup |
//! | [`manifest`] | `metadata.json` (and [`tables`]: `chunks.json`, `checksums.json`): what a backup says of itself |
//! | [`lease`] | "someone is at work here", with a heartbeat ([`holder`]: are they alive?) |
//! | [`catalog`] | list and find ([`backup`]: one committed backup) |
//! | `look` | what is in a backup's folder, or in ten thousand |
//! | [`foreign`] | backups of milvus-backup, read where they lie |
//! | [`attempt`] | make a backup: lock, upload ([`hashed_upload`]), commit or abandon |
//! | [`unfinished`] | what a dead run had finished, and how the next one goes on with it |
//! | [`copying`] | bring a committed backup into another repository |
//! | [`incoming`] | bring another store's files into a backup |
//! | [`linking`] | … by a link instead of a copy |
//! | [`sets`] | which backups were made together |
//! | [`sweep`] | clear away what dead runs left; delete |
//! | [`retention`] | which backups a policy keeps, and why ([`prune`]: carry it out) |
//! | [`verdict`] | what `verification.json` amounts to |
//! | [`integrity`] | is every file of a backup as it was written? |
//! | [`journal`] | a restore's swap, so that the next run can finish or reverse it |
//!
//! Nothing in here knows rows, Arrow or protobuf.
//!
//! # Why a listed backup is always whole
//! A backup exists when its `metadata.json` says COMPLETED. That file is written last, after everything it vouches for
//! is durable, and only if no `metadata.json` is there yet. Whoever clears away a dead run first puts a FAILED
//! `metadata.json` in the same place, also only if none is there. So exactly one of the two wins, and a writer that
//! was only thought to be dead cannot complete a backup whose files are being deleted. The lock only saves work.

mod again;
pub mod attempt;
pub mod backup;
pub mod catalog;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod copy_tests;
pub mod copying;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod fault_tests;
pub mod foreign;
pub mod hashed_upload;
pub mod holder;
pub mod incoming;
pub mod integrity;
pub mod journal;
#[cfg(test)]
mod late_tests;
pub mod lease;
#[cfg(test)]
mod lease_tests;
pub mod linking;
mod local;
mod look;
pub mod manifest;
pub mod names;
pub mod prune;
#[cfg(test)]
mod prune_tests;
#[cfg(test)]
mod read_only_tests;
mod remote;
pub mod retention;
pub mod sets;
mod storage_error;
pub mod store;
pub mod sweep;
pub mod tables;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod unfinished;
#[cfg(test)]
mod unfinished_tests;
mod upload;
pub mod verdict;
mod writing;

pub use attempt::{Attempt, BeginRequest};
pub use backup::{Backup, BackupFile};
pub use catalog::{Damaged, Listed, Listing, Repository};
pub use copying::CopyReport;
pub use foreign::{Foreign, Owner};
pub use hashed_upload::HashedUpload;
pub use incoming::Look;
pub use integrity::{FailedFile, FileReport, Hashed, Reason};
pub use journal::{Journal, JournalEntry, Phase};
pub use lease::Lease;
pub use linking::Link;
pub use manifest::{
    BackupType, Digest, Manifest, PartitionDigest, Resumed, Snapshot, SnapshotKind, State, StorageType,
};
pub use names::{BackupId, RelativePath};
pub use prune::{Doomed, HalfDeleted, Review};
pub use retention::Policy;
pub use store::Store;
pub use tables::{Checksums, ChunkEntry, ChunkTable, FileSum};
pub use unfinished::{Adopted, ChunkNote};
