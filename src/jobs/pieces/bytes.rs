//! The bytes of a backup's data files, proven by their checksums before a row is taken from them where that is wanted.

use std::fs::File;
use std::io::{self, Read, Write};

use super::super::read::blocking;
use crate::checksum::{ChecksumAlgorithm, Hasher};
use crate::error::{Error, Kind, Result};
use crate::parquet::Source;
use crate::repository::{Backup, BackupFile, RelativePath};

/// How much of a file is read, hashed or fetched at once.
const BLOCK: usize = 1 << 20;
const FETCH_BYTES: u64 = 8 << 20;

/// Opens a data file: the one on disk, or a copy of the object in a temporary file, which vanishes with it, so that memory
/// does not grow with the file. Where it is to be proven, what is read later comes from the file that was hashed.
///
/// # Errors
/// [`Kind::BackupCorrupted`] with the file's name where it is missing or not as it was written; [`Kind::Storage`] where
/// it cannot be read.
pub(super) async fn open(backup: &Backup, path: &RelativePath, proven: bool) -> Result<Source> {
    let file = backup.open_file(path).await?;
    let expected = if proven { backup.checksum_of(path).await? } else { None };
    let Some(expected) = expected else {
        return Ok(match file.local_path() {
            Some(local) => {
                let (local, name) = (local.to_owned(), path.to_string());
                blocking(move || File::open(&local).map_err(|error| unopened(&name, &error))).await?.into()
            }
            None => copy(&file, path, None).await?.0.into(),
        });
    };
    let algorithm = backup.manifest().checksum_algorithm;
    let (opened, actual) = match file.local_path() {
        Some(local) => {
            let local = local.to_owned();
            let hashed = blocking(move || Ok(hash(&local, algorithm))).await?;
            hashed.map_err(|error| {
                Error::new(Kind::Storage, format!("{path} could not be read: {error}"))
                    .with("storage_path", backup.storage_path())
            })?
        }
        None => copy(&file, path, Some(algorithm)).await?,
    };
    if actual == expected {
        return Ok(opened.into());
    }
    if file.local_path().is_none() {
        // The store's answer may have been damaged, and not the object.
        let (opened, again) = copy(&file, path, Some(algorithm)).await?;
        if again == expected {
            return Ok(opened.into());
        }
    }
    Err(Error::new(
        Kind::BackupCorrupted,
        format!(
            "backup {} is damaged: {path} does not match its checksum. Verify the backup, and read another one",
            backup.id()
        ),
    )
    .with("failed_files", vec![path.to_string()])
    .with("expected_checksum", expected)
    .with("actual_checksum", actual)
    .with("checksum_algorithm", algorithm.name())
    .with("backup_id", backup.id().as_str())
    .with("collection_name", backup.manifest().collection_name.as_str())
    .with("storage_path", backup.storage_path()))
}

/// Only a file that is not there is damage: too many open files, or a right that is lacking, is none.
fn unopened(name: &str, error: &io::Error) -> Error {
    let message = format!("{name} cannot be opened: {error}");
    match error.kind() {
        io::ErrorKind::NotFound => Error::new(Kind::BackupCorrupted, message).with("failed_files", vec![name]),
        io::ErrorKind::PermissionDenied => Error::new(Kind::Storage, message).with("permissions_issue", true),
        _ => Error::new(Kind::Storage, message),
    }
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

/// A copy in a temporary file, and its checksum where an algorithm is given.
async fn copy(file: &BackupFile, path: &RelativePath, algorithm: Option<ChecksumAlgorithm>) -> Result<(File, String)> {
    let trouble = |error: io::Error, name: &str| {
        Error::new(
            Kind::Storage,
            format!("a temporary copy of {name} cannot be written: {error}. Set TMPDIR to a folder with space"),
        )
    };
    let name = path.to_string();
    let mut copy = tempfile::tempfile().map_err(|error| trouble(error, &name))?;
    let mut hasher = algorithm.map(Hasher::new);
    let mut at = 0;
    while at < file.size() {
        let end = (at + FETCH_BYTES).min(file.size());
        let bytes = file.read_range(at..end).await?;
        let name = name.clone();
        (copy, hasher) = blocking(move || {
            copy.write_all(&bytes).map_err(|error| trouble(error, &name))?;
            if let Some(hasher) = &mut hasher {
                hasher.update(&bytes);
            }
            Ok((copy, hasher))
        })
        .await?;
        at = end;
    }
    Ok((copy, hasher.map(Hasher::finish).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_that_is_not_there_is_damage() {
        for (error, kind) in
            [(libc::ENOENT, Kind::BackupCorrupted), (libc::EACCES, Kind::Storage), (libc::EMFILE, Kind::Storage)]
        {
            let told = unopened("data/a.parquet", &io::Error::from_raw_os_error(error));
            assert!(told.kind() == kind && told.message().starts_with("data/a.parquet cannot be opened: "), "{told}");
        }
    }
}
