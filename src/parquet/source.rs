//! Where a chunk's bytes come from: a file, memory, or elsewhere; read at any offset and never beyond its end.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use super::windows::Windows;

/// The bytes of a file, or of a part of one. Copies read independently: no cursor is shared, unlike in copies of a [`File`].
#[derive(Clone)]
pub struct Source {
    inner: Arc<Inner>,
    /// Where the part begins in the file, and how long it is.
    start: u64,
    length: u64,
}

struct Inner {
    kind: SourceKind,
    length: u64,
    /// The first error that was the storage's and not the content's.
    failure: Mutex<Option<String>>,
}

enum SourceKind {
    File(File),
    Memory(Bytes),
    Elsewhere(Windows),
}

impl From<Bytes> for Source {
    fn from(bytes: Bytes) -> Self {
        Self::new(bytes.len() as u64, SourceKind::Memory(bytes), None)
    }
}

impl From<File> for Source {
    fn from(file: File) -> Self {
        match file.metadata() {
            Ok(metadata) => Self::new(metadata.len(), SourceKind::File(file), None),
            Err(error) => Self::new(0, SourceKind::File(file), Some(error.to_string())),
        }
    }
}

impl Source {
    fn new(length: u64, kind: SourceKind, failure: Option<String>) -> Self {
        Self { inner: Arc::new(Inner { kind, length, failure: Mutex::new(failure) }), start: 0, length }
    }

    /// A part of it, as a file of its own; `None` where it reaches beyond the end.
    #[must_use]
    pub fn part(&self, range: Range<u64>) -> Option<Self> {
        let length = range.end.checked_sub(range.start)?;
        (range.end <= self.length).then(|| Self { start: self.start + range.start, length, ..self.clone() })
    }

    /// A file of `length` bytes that `fetch` gets ranges of. It may block; its errors are the storage's, not the content's.
    pub fn elsewhere(length: u64, fetch: impl Fn(Range<u64>) -> io::Result<Bytes> + Send + Sync + 'static) -> Self {
        Self::new(length, SourceKind::Elsewhere(Windows::new(Box::new(fetch))), None)
    }

    /// Says that this range is about to be read; one that is not within the file is passed over.
    pub(super) fn ahead(&self, range: Range<u64>) -> io::Result<()> {
        match &self.inner.kind {
            SourceKind::Elsewhere(windows) if range.end <= self.length => {
                windows.ahead(self.start + range.start..self.start + range.end).inspect_err(|error| self.failed(error))
            }
            _ => Ok(()),
        }
    }

    fn failed(&self, error: &io::Error) {
        let mut failure = self.inner.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert_with(|| error.to_string());
    }

    /// What the storage said, where it failed: then the content is not to blame for what could not be read.
    pub(crate) fn failure(&self) -> Option<String> {
        self.inner.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Up to `length` bytes from `start`, fewer at the end.
    pub(crate) fn read_up_to(&self, start: u64, length: u64) -> io::Result<Bytes> {
        let length = length.min(self.length.saturating_sub(start));
        let start = self.start + start.min(self.length);
        match &self.inner.kind {
            SourceKind::Memory(bytes) => {
                // Both are at most the length of a buffer in memory.
                let start = usize::try_from(start).map_err(io::Error::other)?;
                let length = usize::try_from(length).map_err(io::Error::other)?;
                Ok(bytes.slice(start..start + length))
            }
            SourceKind::File(file) => {
                let mut buffer = vec![0; usize::try_from(length).map_err(io::Error::other)?];
                read_exact_at(file, &mut buffer, start).inspect_err(|error| self.failed(error))?;
                Ok(buffer.into())
            }
            SourceKind::Elsewhere(windows) => {
                windows.read(start, length, self.inner.length).inspect_err(|error| self.failed(error))
            }
        }
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, buffer: &mut [u8], start: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, start)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut buffer: &mut [u8], mut start: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, start)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                buffer = &mut buffer[count..];
                start += count as u64;
            }
        }
    }
    Ok(())
}

impl Length for Source {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for Source {
    type T = SourceCursor;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(SourceCursor { source: self.clone(), at: start, buffer: Bytes::new() })
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        let wanted = length as u64;
        if start.checked_add(wanted).is_none_or(|end| end > self.length) {
            return Err(ParquetError::EOF(format!(
                "{wanted} bytes at {start} were asked for where the file has {}",
                self.length
            )));
        }
        Ok(self.read_up_to(start, wanted)?)
    }
}

/// Reads a source onwards from an offset.
pub struct SourceCursor {
    source: Source,
    at: u64,
    buffer: Bytes,
}

impl Read for SourceCursor {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.buffer.is_empty() {
            self.buffer = self.source.read_up_to(self.at, 8 << 10)?;
            self.at += self.buffer.len() as u64;
        }
        let count = into.len().min(self.buffer.len());
        self.buffer.copy_to_slice(&mut into[..count]);
        Ok(count)
    }
}
