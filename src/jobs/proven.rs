//! Chunk files whose bytes are proven by their checksum before the first row is taken from them.

use std::fs::File;
use std::io::{self, Read, Write};

use super::read::blocking;
use crate::checksum::{ChecksumAlgorithm, Hasher};
use crate::error::{Error, Kind, Result};
use crate::parquet::Source;
use crate::repository::tables::ChunkEntry;
use crate::repository::{Backup, BackupFile};

/// How much of a file is read, hashed or fetched at once.
const BLOCK: usize = 1 << 20;
const FETCH_BYTES: u64 = 8 << 20;

/// Opens a chunk and proves its checksum. What is read later comes from the file that was hashed: the one on disk, held
/// open, or a copy of the object in a temporary file, which vanishes with it.
///
/// # Errors
/// [`Kind::BackupCorrupted`] with the file's name where it is missing or not as it was written; [`Kind::Storage`] where
/// it cannot be read.
pub(super) async fn open(backup: &Backup, chunk: &ChunkEntry) -> Result<Source> {
    let sums = backup.checksums().await?;
    let file = backup.open_file(&chunk.file).await?;
    let algorithm = backup.manifest().checksum_algorithm;
    let expected = sums.files.get(&chunk.file).map(|sum| sum.checksum.clone()).unwrap_or_default();
    let (opened, actual) = match file.local_path() {
        Some(path) => {
            let path = path.to_owned();
            let hashed = blocking(move || Ok(hash(&path, algorithm))).await?;
            hashed.map_err(|error| {
                Error::new(Kind::Storage, format!("{} could not be read: {error}", chunk.file))
                    .with("storage_path", backup.storage_path())
            })?
        }
        None => copy(&file, chunk, algorithm).await?,
    };
    if actual == expected {
        return Ok(opened.into());
    }
    if file.local_path().is_none() {
        // The store's answer may have been damaged, and not the object.
        let (opened, again) = copy(&file, chunk, algorithm).await?;
        if again == expected {
            return Ok(opened.into());
        }
    }
    Err(Error::new(
        Kind::BackupCorrupted,
        format!(
            "backup {} is damaged: {} does not match its checksum. Verify the backup, and read another one",
            backup.id(),
            chunk.file
        ),
    )
    .with("failed_files", vec![chunk.file.to_string()])
    .with("expected_checksum", expected)
    .with("actual_checksum", actual)
    .with("checksum_algorithm", algorithm.name())
    .with("backup_id", backup.id().as_str())
    .with("collection_name", backup.manifest().collection_name.as_str())
    .with("storage_path", backup.storage_path()))
}

fn hash(path: &std::path::Path, algorithm: ChecksumAlgorithm) -> io::Result<(File, String)> {
    let mut file = File::open(path)?;
    let mut hasher = Hasher::new(algorithm);
    let mut block = vec![0; BLOCK];
    loop {
        match file.read(&mut block) {
            Ok(0) => return Ok((file, hasher.finish())),
            Ok(count) => hasher.update(&block[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

async fn copy(file: &BackupFile, chunk: &ChunkEntry, algorithm: ChecksumAlgorithm) -> Result<(File, String)> {
    let trouble = |error: io::Error, name: &str| {
        Error::new(
            Kind::Storage,
            format!("a temporary copy of {name} cannot be written: {error}. Set TMPDIR to a folder with space"),
        )
    };
    let name = chunk.file.to_string();
    let mut copy = tempfile::tempfile().map_err(|error| trouble(error, &name))?;
    let mut hasher = Hasher::new(algorithm);
    let mut at = 0;
    while at < file.size() {
        let end = (at + FETCH_BYTES).min(file.size());
        let bytes = file.read_range(at..end).await?;
        let name = name.clone();
        (copy, hasher) = blocking(move || {
            copy.write_all(&bytes).map_err(|error| trouble(error, &name))?;
            hasher.update(&bytes);
            Ok((copy, hasher))
        })
        .await?;
        at = end;
    }
    Ok((copy, hasher.finish()))
}
