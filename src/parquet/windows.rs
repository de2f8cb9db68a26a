//! Bytes of a file that is elsewhere, fetched piece by piece as they are read, and kept for as long as they are needed.
//!
//! A Parquet reader asks for eight bytes here and a page there. Each miss fetches whole blocks; what is known to be
//! wanted, such as a row group, is fetched in one go before.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// A miss fetches whole blocks of this size.
const BLOCK: u64 = 256 << 10;
/// More than this is not fetched in advance: what our writer makes is far smaller.
const LONGEST_AHEAD: u64 = 64 << 20;
/// When more than this is kept, it goes before more is fetched.
const MOST_KEPT: u64 = 128 << 20;

/// Fetches a range of the file; it may block.
pub(super) type Fetch = Box<dyn Fn(Range<u64>) -> io::Result<Bytes> + Send + Sync>;

/// The file's bytes, as far as they were needed.
pub(super) struct Windows {
    fetch: Fetch,
    kept: Mutex<BTreeMap<u64, Bytes>>,
}

impl Windows {
    pub(super) fn new(fetch: Fetch) -> Self {
        Self { fetch, kept: Mutex::default() }
    }

    /// `length` bytes from `start`; the caller has seen to it that the file, `file` bytes long, has them.
    pub(super) fn read(&self, start: u64, length: u64, file: u64) -> io::Result<Bytes> {
        if length == 0 {
            return Ok(Bytes::new());
        }
        let mut kept = self.lock();
        if let Some(found) = within(&kept, start, length)? {
            return Ok(found);
        }
        let end = start + length;
        self.get(&mut kept, start - start % BLOCK..end.next_multiple_of(BLOCK).min(file))?;
        within(&kept, start, length)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Fetches a range that will be read, unless it is too long for that.
    pub(super) fn ahead(&self, range: Range<u64>) -> io::Result<()> {
        let mut kept = self.lock();
        let length = range.end.saturating_sub(range.start);
        if length == 0 || length > LONGEST_AHEAD || within(&kept, range.start, length)?.is_some() {
            return Ok(());
        }
        self.get(&mut kept, range)
    }

    fn get(&self, kept: &mut BTreeMap<u64, Bytes>, range: Range<u64>) -> io::Result<()> {
        if kept.values().map(|bytes| bytes.len() as u64).sum::<u64>() > MOST_KEPT {
            kept.clear();
        }
        let start = range.start;
        let bytes = (self.fetch)(range)?;
        // Of two that begin at the same place the longer stays.
        if kept.get(&start).is_none_or(|old| old.len() < bytes.len()) {
            kept.insert(start, bytes);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Bytes>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bytes, where one piece has them all.
fn within(kept: &BTreeMap<u64, Bytes>, start: u64, length: u64) -> io::Result<Option<Bytes>> {
    for (at, bytes) in kept.range(..=start).rev() {
        let skip = start - at;
        if skip + length <= bytes.len() as u64 {
            let skip = usize::try_from(skip).map_err(io::Error::other)?;
            let length = usize::try_from(length).map_err(io::Error::other)?;
            return Ok(Some(bytes.slice(skip..skip + length)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use proptest::prelude::*;

    fn part(bytes: &Bytes, range: Range<u64>) -> Bytes {
        bytes.slice(usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap())
    }

    fn file(length: u64) -> (Bytes, Windows, Arc<Mutex<Vec<Range<u64>>>>) {
        let bytes: Bytes = (0..length).map(|at| (at % 251).to_le_bytes()[0]).collect::<Vec<_>>().into();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (copy, log) = (bytes.clone(), Arc::clone(&asked));
        let fetch = move |range: Range<u64>| {
            log.lock().unwrap().push(range.clone());
            Ok(part(&copy, range))
        };
        (bytes, Windows::new(Box::new(fetch)), asked)
    }

    #[test]
    fn what_was_fetched_ahead_is_not_fetched_again() {
        let (bytes, windows, asked) = file(3 << 20);
        windows.ahead(1000..2_000_000).unwrap();
        for start in (1000..1_900_000).step_by(8192) {
            assert_eq!(windows.read(start, 8192, 3 << 20).unwrap(), part(&bytes, start..start + 8192));
        }
        windows.ahead(1000..2_000_000).unwrap();
        assert_eq!(asked.lock().unwrap()[..], vec![1000..2_000_000]);
    }

    #[test]
    fn small_reads_close_to_each_other_are_one_fetch() {
        let (_, windows, asked) = file(3 << 20);
        for at in [8, 100, 4, 200_000] {
            windows.read((3 << 20) - at, 4, 3 << 20).unwrap();
        }
        assert_eq!(asked.lock().unwrap().len(), 1);
    }

    #[test]
    fn a_range_that_is_absurdly_long_is_not_fetched_ahead() {
        let (_, windows, asked) = file(100);
        windows.ahead(0..u64::MAX).unwrap();
        assert!(asked.lock().unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn every_read_gives_the_files_bytes(reads in proptest::collection::vec((0_u64..1_000_000, 0_u64..600_000, any::<bool>()), 1..20)) {
            let (bytes, windows, _) = file(1_000_000);
            for (start, length, ahead) in reads {
                let length = length.min(1_000_000 - start);
                if ahead {
                    windows.ahead(start..start + length).unwrap();
                }
                let expected = part(&bytes, start..start + length);
                prop_assert_eq!(windows.read(start, length, 1_000_000).unwrap(), expected);
            }
        }
    }
}
