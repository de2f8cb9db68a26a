//! A file that gets its name only once it is whole and on the disk: an interrupted run leaves nothing under that name.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};

/// How much is read at once.
const BLOCK: usize = 256 << 10;

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// The new file.
    pub path: PathBuf,
    /// Bytes read.
    pub read: u64,
    /// Bytes written.
    pub written: u64,
}

/// A file in the making: without a name of its own until it is whole.
pub(crate) struct Output {
    file: tempfile::NamedTempFile,
    /// Where it goes: where a link points, if it is one.
    to: PathBuf,
    overwrite: bool,
    written: u64,
}

impl Output {
    /// A file that is to be `path`, or what that link points at.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] for what is there and no file, such as a folder or a device.
    pub(crate) fn create(path: &Path, overwrite: bool) -> Result<Self> {
        let to = if path.is_symlink() {
            path.canonicalize().map_err(|error| trouble("written", path, &error))?
        } else {
            path.to_owned()
        };
        if to.metadata().is_ok_and(|there| !there.is_file()) {
            let why = format!("{} is there and is no file; name another place", path.display());
            return Err(Error::new(Kind::InvalidArgument, why));
        }
        let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        builder.prefix(".milvault-").suffix(".part");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(std::fs::Permissions::from_mode(0o666)); // the user's umask decides
        }
        let file = builder.tempfile_in(folder).map_err(|error| trouble("written", path, &error))?;
        Ok(Self { file, to, overwrite, written: 0 })
    }

    /// Makes the bytes durable, and gives them their name.
    pub(crate) fn commit(self, path: PathBuf, read: u64) -> Result<Copied> {
        self.file.as_file().sync_all().map_err(|error| trouble("written", &path, &error))?;
        let written = self.written;
        let named = if self.overwrite { self.file.persist(&self.to) } else { self.file.persist_noclobber(&self.to) };
        if let Err(failed) = named {
            let is_there = failed.error.kind() == io::ErrorKind::AlreadyExists;
            if !is_there {
                return Err(trouble("written", &path, &failed.error));
            }
            if !same(failed.file.path(), &path).unwrap_or(false) {
                return Err(there(&path));
            }
        }
        Ok(Copied { path, read, written })
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Whether two files have the same bytes.
fn same(left: &Path, right: &Path) -> io::Result<bool> {
    let (mut left, mut right) = (File::open(left)?, File::open(right)?);
    if left.metadata()?.len() != right.metadata()?.len() {
        return Ok(false);
    }
    let (mut one, mut other) = (vec![0; BLOCK], vec![0; BLOCK]);
    loop {
        let count = fill(&mut left, &mut one)?;
        if fill(&mut right, &mut other)? != count || one[..count] != other[..count] {
            return Ok(false);
        }
        if count == 0 {
            return Ok(true);
        }
    }
}

/// Reads until the buffer is full or the end is there; how much that is.
pub(crate) fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match from.read(&mut buffer[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

fn there(path: &Path) -> Error {
    Error::new(
        Kind::InvalidArgument,
        format!("{} is there already, with other bytes; move it away, or allow overwriting it", path.display()),
    )
}

/// An error of the system about a file.
pub(crate) fn trouble(verb: &str, path: &Path, error: &io::Error) -> Error {
    let refused = error.kind() == io::ErrorKind::PermissionDenied;
    let kind = if error.kind() == io::ErrorKind::StorageFull { Kind::InsufficientStorage } else { Kind::Storage };
    Error::new(kind, format!("{} could not be {verb}: {error}", path.display()))
        .with("storage_path", path.display().to_string())
        .with("permissions_issue", refused)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_followed_and_what_is_no_file_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link, nowhere) =
            (folder.path().join("a"), folder.path().join("link"), folder.path().join("nowhere"));
        std::fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let write = |to: &Path, overwrite: bool| {
            let mut output = Output::create(to, overwrite)?;
            output.write_all(b"new").unwrap();
            output.commit(to.to_owned(), 0)
        };
        assert_eq!(write(&link, false).unwrap_err().kind(), Kind::InvalidArgument);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "old");
        assert_eq!(write(&link, true).unwrap().written, 3);
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "new");
        std::os::unix::fs::symlink(folder.path().join("gone"), &nowhere).unwrap();
        assert_eq!(write(&nowhere, true).unwrap_err().kind(), Kind::Storage);
        for other in [folder.path(), Path::new("/dev/null")] {
            let error = write(other, true).unwrap_err();
            assert!(error.kind() == Kind::InvalidArgument && error.message().contains("no file"), "{error}");
        }
        assert!(std::fs::metadata("/dev/null").is_ok_and(|null| !null.is_file()));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
    }
}
