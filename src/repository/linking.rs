//! Files that two folders of one local file system share instead of a copy, where a user allows it: by a second name of
//! the same file (a hard link), or by the same blocks, which are copied when one of the two is written (a reflink).
//!
//! Milvus never writes a file of its own anew, and we never write one that is there: what is linked stays as it is. What
//! cannot be linked, on another device, say, is copied.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::Path;

use serde::Deserialize;

/// Whether files may be shared with where they come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Link {
    /// Copied.
    #[default]
    Never,
    /// The same blocks, as long as neither is written.
    Reflink,
    /// The same file by a second name.
    Hardlink,
}

impl Link {
    /// Makes `target` of the open file at `from`, without copying its bytes, and opens it to be read; `None` where that
    /// cannot be done here. There must be nothing at `target`.
    ///
    /// # Errors
    /// What went wrong with `target`, once it was made.
    pub(super) fn make(self, source: &File, from: &Path, target: &Path) -> io::Result<Option<File>> {
        match self {
            Self::Never => Ok(None),
            Self::Reflink => reflink(source, target),
            Self::Hardlink => match fs::hard_link(from, target) {
                Ok(()) => File::open(target).map(Some),
                Err(_) => Ok(None),
            },
        }
    }
}

#[cfg(target_os = "linux")]
fn reflink(source: &File, target: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(target)?;
    if rustix::fs::ioctl_ficlone(&file, source).is_ok() {
        return Ok(Some(file));
    }
    drop(file);
    fs::remove_file(target).map(|()| None)
}

#[cfg(not(target_os = "linux"))]
fn reflink(_: &File, _: &Path) -> io::Result<Option<File>> {
    Ok(None)
}

/// Makes a new file, in place of one that an earlier try may have left: never by writing into that one, which may be a
/// second name of a file that is somebody else's.
pub(super) fn create_anew(path: &Path) -> io::Result<File> {
    clear(path)?;
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// Takes a file's name away, if it is there.
pub(super) fn clear(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
