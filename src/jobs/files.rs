//! What is done with single files, apart from any server or repository: checksums, and compressed copies.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use super::control::{Control, Phase};
use crate::checksum::{ChecksumAlgorithm, Hasher};
use crate::compression::{Format, compress, decompress};
use crate::error::{Error, Kind, Result};

/// How much of a file is hashed at once.
const BLOCK: usize = 256 << 10;

/// A file, and the algorithm.
#[derive(Debug, Clone, Deserialize)]
pub struct ChecksumRequest {
    path: PathBuf,
    algorithm: ChecksumAlgorithm,
}

/// A file, and what is to be made of it.
#[derive(Debug, Clone, Deserialize)]
pub struct CompressRequest {
    path: PathBuf,
    #[serde(default)]
    output_path: Option<PathBuf>,
    compression_level: u8,
    prefer_zstd: bool,
    overwrite: bool,
}

/// A compressed file, and what is to be made of it.
#[derive(Debug, Clone, Deserialize)]
pub struct DecompressRequest {
    path: PathBuf,
    #[serde(default)]
    output_path: Option<PathBuf>,
    max_output_bytes: u64,
    overwrite: bool,
}

/// A file's checksum in hex. Keeps this thread busy: a job has one of its own.
///
/// # Errors
/// [`Kind::Storage`] where the file cannot be read, [`Kind::Canceled`].
pub fn checksum(request: &ChecksumRequest, control: &Control) -> Result<Value> {
    control.enter(Phase::Verifying);
    let trouble = |error: std::io::Error| unreadable(&request.path, &error);
    let mut file = std::fs::File::open(&request.path).map_err(trouble)?;
    control.expect(0, file.metadata().map_err(trouble)?.len());
    let mut hasher = Hasher::new(request.algorithm);
    let mut block = vec![0; BLOCK];
    loop {
        match file.read(&mut block) {
            Ok(0) => return Ok(json!(hasher.finish())),
            Ok(count) => {
                hasher.update(&block[..count]);
                control.advance(0, count as u64);
                control.check()?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(trouble(error)),
        }
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::new(Kind::Storage, format!("{} could not be read: {error}", path.display()))
        .with("storage_path", path.display().to_string())
        .with("permissions_issue", error.kind() == std::io::ErrorKind::PermissionDenied)
}

/// Compresses a file; answers with the new one's path and the bytes.
///
/// # Errors
/// As [`compress`], [`Kind::Canceled`].
pub fn compress_file(request: &CompressRequest, control: &Control) -> Result<Value> {
    control.enter(Phase::Writing);
    control.expect(0, request.path.metadata().map_or(0, |metadata| metadata.len()));
    let format = if request.prefer_zstd { Format::Zstd } else { Format::Gzip };
    let target = request.output_path.as_deref();
    let copied =
        compress(&request.path, target, format, request.compression_level, request.overwrite, &watch(control))?;
    Ok(json!({"path": copied.path, "read": copied.read, "written": copied.written}))
}

/// Unpacks a file; answers as [`compress_file`].
///
/// # Errors
/// As [`decompress`], [`Kind::Canceled`].
pub fn decompress_file(request: &DecompressRequest, control: &Control) -> Result<Value> {
    control.enter(Phase::Reading);
    let target = request.output_path.as_deref();
    let copied = decompress(&request.path, target, request.max_output_bytes, request.overwrite, &watch(control))?;
    Ok(json!({"path": copied.path, "read": copied.read, "written": copied.written}))
}

fn watch(control: &Control) -> impl Fn(u64) -> Result<()> {
    |bytes| {
        control.advance(0, bytes);
        control.check()
    }
}
