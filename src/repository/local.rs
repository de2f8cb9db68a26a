//! The repository on a local disk: small files published atomically, and everything durable on return.
//!
//! `object_store`'s local store has no conditional update, so small files are written here: into `<name>#0` beside the
//! file, synced, then renamed (or linked, where the file must not exist yet) into place, and the folder synced, all
//! under `flock` on the repository's root. A process that dies leaves at worst `<name>#0`, which the next writer of
//! that file replaces and a sweep removes. Big files go through `object_store`'s own local store with `with_fsync`,
//! which syncs the file before it is renamed from `<name>#<n>`, and after that its folder and every folder it made.
//!
//! Below the root no symbolic link is followed: a link could lead out of the repository.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use rustix::fs::{FlockOperation, flock};

use super::names::RelativePath;
use super::store::{FileKind, FileMeta};

/// How a small file is published.
pub(super) enum Mode<'a> {
    /// Whatever is there now.
    Overwrite,
    /// Only where nothing is.
    Create,
    /// Only where exactly these bytes are.
    Replace(&'a [u8]),
}

/// A folder on a local disk. All functions block.
pub(super) struct Local {
    root: PathBuf,
    big_files: Mutex<Option<Arc<LocalFileSystem>>>,
}

impl Local {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, big_files: Mutex::new(None) }
    }

    /// Where `path` is, no part of it below the root being a symbolic link.
    pub(super) fn locate(&self, path: &str) -> io::Result<PathBuf> {
        self.look_for(path).map(|(full, _)| full)
    }

    /// As [`Local::locate`], with what is there, if something is.
    fn look_for(&self, path: &str) -> io::Result<(PathBuf, Option<fs::Metadata>)> {
        let mut full = self.root.clone();
        let mut found = None;
        for segment in path.split('/').filter(|segment| !segment.is_empty()) {
            full.push(segment);
            match fs::symlink_metadata(&full) {
                Ok(meta) if meta.file_type().is_symlink() => {
                    return Err(io::Error::other(format!(
                        "{} is a symbolic link; links are not followed inside a repository",
                        full.display()
                    )));
                }
                Ok(meta) => found = Some(meta),
                Err(error) if error.kind() == ErrorKind::NotFound => found = None,
                Err(error) => return Err(error),
            }
        }
        Ok((full, found))
    }

    /// The whole file, unless it is longer than `ceiling`: then its length.
    pub(super) fn read(&self, path: &RelativePath, ceiling: u64) -> io::Result<Result<Vec<u8>, u64>> {
        let (file, length) = self.open_sized(path)?;
        if length > ceiling {
            return Ok(Err(length));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        let read = file.take(ceiling.saturating_add(1)).read_to_end(&mut bytes)? as u64;
        Ok(if read > ceiling { Err(read) } else { Ok(bytes) })
    }

    pub(super) fn read_range(&self, path: &RelativePath, range: Range<u64>) -> io::Result<Vec<u8>> {
        let mut file = self.open(path)?;
        file.seek(SeekFrom::Start(range.start))?;
        let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn size(&self, path: &RelativePath) -> io::Result<u64> {
        let meta = fs::symlink_metadata(self.locate(path.as_str())?)?;
        if meta.is_file() { Ok(meta.len()) } else { Err(io::Error::other("it is not a file")) }
    }

    pub(super) fn open(&self, path: &RelativePath) -> io::Result<File> {
        self.open_sized(path).map(|(file, _)| file)
    }

    /// The file, and its length a moment before.
    fn open_sized(&self, path: &RelativePath) -> io::Result<(File, u64)> {
        match self.look_for(path.as_str())? {
            (full, Some(meta)) if meta.is_file() => Ok((File::open(full)?, meta.len())),
            (_, Some(_)) => Err(io::Error::other("it is not a file")),
            (_, None) => Err(ErrorKind::NotFound.into()),
        }
    }

    /// Publishes a small file; `false` where `mode` forbids it.
    pub(super) fn publish(&self, path: &RelativePath, bytes: &[u8], mode: &Mode<'_>) -> io::Result<bool> {
        create_folders(&self.root)?;
        let _exclusive = self.exclusive()?;
        let target = self.locate(path.as_str())?;
        let allowed = match mode {
            Mode::Overwrite => true,
            Mode::Create => !exists(&target)?,
            Mode::Replace(expected) => match fs::read(&target) {
                Ok(present) => present == *expected,
                Err(error) if error.kind() == ErrorKind::NotFound => false,
                Err(error) => return Err(error),
            },
        };
        if !allowed {
            return Ok(false);
        }
        let folder = target.parent().unwrap_or(&self.root);
        create_folders(folder)?;
        let unfinished = unfinished_name(&target);
        let result = write_new(&unfinished, bytes).and_then(|()| match mode {
            Mode::Create => link_into_place(&unfinished, &target),
            _ => fs::rename(&unfinished, &target).map(|()| true),
        });
        if !matches!(result, Ok(true)) {
            let _ = fs::remove_file(&unfinished);
        }
        match result.and_then(|done| if done { sync_folder(folder).map(|()| true) } else { Ok(false) }) {
            // Deletions do not wait for each other: the file was there a moment ago, and its folder is gone.
            Err(error) if error.kind() == ErrorKind::NotFound && matches!(mode, Mode::Replace(_)) => Ok(false),
            outcome => outcome,
        }
    }

    /// Deletes the file where it still has exactly these bytes; `false` where it has not.
    pub(super) fn delete_if(&self, path: &RelativePath, expected: &[u8]) -> io::Result<bool> {
        let _exclusive = match self.exclusive() {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        let target = self.locate(path.as_str())?;
        match fs::read(&target) {
            Ok(present) if present == expected => {
                fs::remove_file(&target)?;
                sync_folder(target.parent().unwrap_or(&self.root))?;
                Ok(true)
            }
            Ok(_) => Ok(false),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes files (as [`Local::list`] names them), those already absent included; their folders are synced.
    pub(super) fn delete(&self, paths: &[String]) -> io::Result<()> {
        let mut folders = BTreeSet::new();
        for path in paths {
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
            let folder = self.locate(folder)?;
            match fs::remove_file(folder.join(name)) {
                Ok(()) => {
                    folders.insert(folder);
                }
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
                Err(error) => return Err(error),
            }
        }
        for folder in folders {
            sync_folder(&folder)?;
        }
        Ok(())
    }

    /// Removes unfinished small files (`<name>#0`) lying directly in `folder`. Nobody is writing one: that happens
    /// under the lock that is held here.
    pub(super) fn delete_unfinished(&self, folder: &str) -> io::Result<()> {
        let _exclusive = match self.exclusive() {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let folder = self.locate(folder)?;
        for entry in read_folder(&folder)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(|name| name.ends_with("#0")) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Gives a finished file a second name, by a link where the file system has them and else by a copy.
    pub(super) fn duplicate(&self, from: &RelativePath, to: &RelativePath) -> io::Result<()> {
        let (from, to) = (self.locate(from.as_str())?, self.locate(to.as_str())?);
        let folder = to.parent().unwrap_or(&self.root);
        {
            let _exclusive = self.exclusive()?;
            create_folders(folder)?;
        }
        match fs::remove_file(&to) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        if let Err(error) = fs::hard_link(&from, &to) {
            if error.kind() == ErrorKind::NotFound {
                return Err(error);
            }
            fs::copy(&from, &to)?;
            File::open(&to)?.sync_all()?;
        }
        sync_folder(folder)
    }

    /// Makes a folder and those that it lies in. Their names are not durable before [`Local::sync_folder`].
    pub(super) fn make_folder(&self, folder: &str) -> io::Result<()> {
        create_folders(&self.root)?;
        let _exclusive = self.exclusive()?;
        fs::create_dir_all(self.locate(folder)?)
    }

    /// Makes durable what is directly in a folder.
    pub(super) fn sync_folder(&self, folder: &str) -> io::Result<()> {
        sync_folder(&self.locate(folder)?)
    }

    /// Everything below `prefix` that is not a folder.
    pub(super) fn list(&self, prefix: &str) -> io::Result<Vec<FileMeta>> {
        let mut found = Vec::new();
        let mut folders = vec![prefix.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in read_folder(&self.locate(&folder)?)? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
                let kind = entry.file_type()?;
                if kind.is_dir() {
                    folders.push(path);
                    continue;
                }
                let size = match fs::symlink_metadata(entry.path()) {
                    Ok(meta) => meta.len(),
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                };
                let kind = if kind.is_file() { FileKind::File } else { FileKind::Link };
                found.push(FileMeta { path, size, kind });
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// The names of the folders directly in `prefix`.
    pub(super) fn list_folders(&self, prefix: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in read_folder(&self.locate(prefix)?)? {
            let entry = entry?;
            if entry.file_type()?.is_dir()
                && let Some(name) = entry.file_name().to_str()
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Removes `folder` and the folders in it, as far as they are empty.
    pub(super) fn remove_empty_folders(&self, folder: &str) -> io::Result<()> {
        let _exclusive = match self.exclusive() {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let full = self.locate(folder)?;
        remove_empty(&full)?;
        match full.parent() {
            Some(parent) if parent.is_dir() => sync_folder(parent),
            _ => Ok(()),
        }
    }

    /// Removes the folders that `path` lies in, innermost first, as far as they are empty; never the root.
    pub(super) fn remove_empty_parents(&self, path: &str) -> io::Result<()> {
        let _exclusive = match self.exclusive() {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let mut rest = path;
        while let Some((folder, _)) = rest.rsplit_once('/') {
            let full = self.locate(folder)?;
            match fs::remove_dir(&full) {
                Ok(()) => sync_folder(full.parent().unwrap_or(&self.root))?,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => return Ok(()),
                Err(error) => return Err(error),
            }
            rest = folder;
        }
        Ok(())
    }

    /// The store that writes big files, the root made first.
    pub(super) fn big_files(&self) -> io::Result<Arc<dyn ObjectStore>> {
        let mut slot = self.big_files.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(store) = slot.as_ref()
            && self.root.is_dir()
        {
            return Ok(Arc::<LocalFileSystem>::clone(store));
        }
        create_folders(&self.root)?;
        let store = LocalFileSystem::new_with_prefix(&self.root).map_err(io::Error::other)?.with_fsync(true);
        let store = Arc::new(store);
        *slot = Some(Arc::clone(&store));
        Ok(store)
    }

    /// Bytes free for us on the disk that holds the root, or will.
    pub(super) fn available_bytes(&self) -> Option<u64> {
        let mut folder = self.root.as_path();
        while !folder.exists() {
            folder = folder.parent()?;
        }
        let stat = rustix::fs::statvfs(folder).ok()?;
        stat.f_bavail.checked_mul(stat.f_frsize)
    }

    /// Keeps every other writer of small files out of this repository until it is dropped.
    fn exclusive(&self) -> io::Result<Exclusive> {
        let folder = File::open(&self.root)?;
        if lock(&folder).is_ok() {
            return Ok(Exclusive(folder));
        }
        // NFS locks only what is open for writing, and a folder cannot be.
        let path = self.root.join(".milvault.flock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        lock(&file)?;
        Ok(Exclusive(file))
    }
}

struct Exclusive(File);

impl Drop for Exclusive {
    fn drop(&mut self) {
        // Closing would do, but for a process forked meanwhile: its copy of the file would keep the lock.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

fn lock(file: &File) -> io::Result<()> {
    loop {
        match flock(file, FlockOperation::LockExclusive) {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}

fn unfinished_name(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push("#0");
    PathBuf::from(name)
}

fn exists(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes a new file and syncs it. What a dead process left there is unlinked first, not truncated: it may be a
/// second link to a file already in place.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn link_into_place(from: &Path, to: &Path) -> io::Result<bool> {
    match fs::hard_link(from, to) {
        Ok(()) => {
            let _ = fs::remove_file(from);
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        // A file system without hard links: that nothing is there was seen under the lock.
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported) => {
            fs::rename(from, to).map(|()| true)
        }
        Err(error) => Err(error),
    }
}

/// Makes a folder and its parents, each synced into its parent.
fn create_folders(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        create_folders(parent)?;
    }
    match fs::create_dir(folder) {
        Ok(()) => folder.parent().map_or(Ok(()), sync_folder),
        Err(error) if error.kind() == ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(io::Error::new(
            ErrorKind::NotADirectory,
            format!("{} is a file where a folder has to be", folder.display()),
        )),
        Err(error) => Err(error),
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder) {
        Ok(folder) => folder.sync_all(),
        // Removed meanwhile: then so is what had to be made durable.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn read_folder(folder: &Path) -> io::Result<Box<dyn Iterator<Item = io::Result<fs::DirEntry>>>> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(Box::new(entries)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Box::new(std::iter::empty())),
        Err(error) => Err(error),
    }
}

fn remove_empty(folder: &Path) -> io::Result<()> {
    for entry in read_folder(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_empty(&entry.path())?;
        }
    }
    match fs::remove_dir(folder) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => Ok(()),
        other => other,
    }
}
