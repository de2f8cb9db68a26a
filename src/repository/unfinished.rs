//! What an unfinished backup has finished: notes of its data files, and their adoption by the next run.
//!
//! A run notes its finished data files in `<collection's folder>/.unfinished/<id>/`, each after it is durable. The next
//! run of the same kind (the same fingerprint) adopts them, under the collection's lock: first it puts a tombstone into
//! the dead run's folder, so that its writer, should it live after all, cannot commit. Then the files are linked (on
//! object stores copied) into the new run's own folder, where that writer never writes, and hashed there: a file that
//! is not as it was noted does not count. Only once all of them are noted anew does the dead run's folder go.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::checksum::ChecksumAlgorithm;
use crate::error::{Error, Result, internal};

use super::attempt::{Attempt, Inner};
use super::catalog::Repository;
use super::integrity::{OnBytes, hash_file};
use super::look::{Found, look, path_in};
use super::manifest::State;
use super::names::{BackupId, RelativePath};
use super::store::Store;
use super::sweep::{clear_away, delete_files, put_tombstone};
use super::tables::{CEILING, ChunkEntry, FileSum, check_chunk};

/// The folder of all notes, beside the lock.
pub(super) const UNFINISHED: &str = ".unfinished";
/// For so long after its beginning is a dead run gone on with.
const ADOPTABLE_DAYS: i64 = 7;
/// Says that a run has ended for sure: its death was proven, or it said so itself.
const ENDED: &str = "ended.json";
/// Files that are adopted at once.
const AT_ONCE: usize = 4;

/// A finished data file, and what the next run needs to know to go on behind it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChunkNote {
    /// The chunk, as it goes into the chunk table.
    pub chunk: ChunkEntry,
    /// The file's checksum.
    pub checksum: String,
    /// All rows with keys above this one are in it, from the beginning where null …
    pub after: Value,
    /// … up to this one, to the end where null.
    pub upto: Value,
    /// When the run that read it had begun to read.
    pub read_since: DateTime<Utc>,
}

#[derive(Serialize, Deserialize)]
struct Notes {
    fingerprint: String,
    algorithm: ChecksumAlgorithm,
    chunks: Vec<ChunkNote>,
    /// SHA-256 of the three above as JSON: a note that was damaged is none.
    seal: String,
}

impl Notes {
    fn new(fingerprint: &str, algorithm: ChecksumAlgorithm, chunks: Vec<ChunkNote>) -> Result<Self> {
        let seal = seal(fingerprint, algorithm, &chunks)?;
        Ok(Self { fingerprint: fingerprint.to_owned(), algorithm, chunks, seal })
    }

    /// What a file says; `None` for one that is damaged or not about such a run.
    fn parse(bytes: &[u8], fingerprint: &str, algorithm: ChecksumAlgorithm) -> Option<Vec<ChunkNote>> {
        let notes: Self = serde_json::from_slice(bytes).ok()?;
        let whole = notes.seal == seal(&notes.fingerprint, notes.algorithm, &notes.chunks).ok()?;
        let same = notes.fingerprint == fingerprint && notes.algorithm == algorithm;
        (whole && same && notes.chunks.iter().all(|note| check_chunk(&note.chunk).is_ok())).then_some(notes.chunks)
    }
}

fn seal(fingerprint: &str, algorithm: ChecksumAlgorithm, chunks: &[ChunkNote]) -> Result<String> {
    let text = serde_json::to_vec(&(fingerprint, algorithm, chunks)).map_err(|error| internal(error.to_string()))?;
    Ok(ChecksumAlgorithm::Sha256.of(&text))
}

/// A dead run whose finished files are there to be adopted. It cannot be committed any more.
#[derive(Debug)]
pub(super) struct Predecessor {
    pub(super) id: BackupId,
    chunks: Vec<ChunkNote>,
    /// Whether its process has ended for sure.
    ended: bool,
}

/// What a run adopted.
#[derive(Debug, Clone)]
pub struct Adopted {
    /// Of which run.
    pub from: BackupId,
    /// The files, which are this run's own by now.
    pub chunks: Vec<ChunkNote>,
}

/// The note files of one run.
#[derive(Debug, Default)]
pub(super) struct Noted {
    files: Vec<String>,
    /// Whether it has ended for sure.
    pub(super) ended: bool,
}

impl Noted {
    /// Whether the next run of its kind may go on with it.
    pub(super) fn is_adoptable(&self, id: &BackupId) -> bool {
        !self.files.is_empty() && Utc::now() - id.time() < TimeDelta::days(ADOPTABLE_DAYS)
    }
}

fn folder_of(folder: &str, id: &BackupId) -> String {
    format!("{folder}/{UNFINISHED}/{id}")
}

/// Notes that a run has ended for sure.
pub(super) async fn note_end(store: &Store, folder: &str, id: &BackupId) -> Result<()> {
    let path = RelativePath::new(format!("{}/{ENDED}", folder_of(folder, id)))?;
    store.put(&path, Bytes::from_static(b"{}\n")).await
}

/// Deletes a run's notes.
pub(super) async fn delete_notes(store: &Store, folder: &str, id: &BackupId) -> Result<()> {
    let paths: Vec<_> = store.list(&folder_of(folder, id)).await?.into_iter().map(|file| file.path).collect();
    if !paths.is_empty() {
        store.delete_all(paths).await?;
    }
    store.remove_empty_folders(&format!("{folder}/{UNFINISHED}")).await
}

impl Repository {
    /// Who left notes in a collection's folder.
    pub(super) async fn noted(&self, folder: &str) -> Result<BTreeMap<BackupId, Noted>> {
        let base = format!("{folder}/{UNFINISHED}");
        let mut all: BTreeMap<BackupId, Noted> = BTreeMap::new();
        for file in self.store.list(&base).await? {
            let rest = file.path.strip_prefix(&base).and_then(|rest| rest.strip_prefix('/'));
            let Some((id, name)) = rest.and_then(|rest| rest.split_once('/')) else { continue };
            let Ok(id) = id.parse::<BackupId>() else { continue };
            let noted = all.entry(id).or_default();
            if name == ENDED {
                noted.ended = true;
            } else if !name.contains('#') {
                noted.files.push(file.path);
            }
        }
        Ok(all)
    }

    /// The dead run with this fingerprint that got furthest, buried: nobody can commit it from here on. The caller holds
    /// the collection's lock.
    pub(super) async fn predecessor(
        &self,
        folder: &str,
        (fingerprint, algorithm): (&str, ChecksumAlgorithm),
        dead: &[BackupId],
        heir: &BackupId,
    ) -> Result<Option<Predecessor>> {
        let mut candidates = Vec::new();
        for (id, noted) in self.noted(folder).await? {
            if !noted.is_adoptable(&id) {
                continue;
            }
            let mut chunks = Vec::new();
            for file in noted.files {
                let Ok(path) = RelativePath::new(file) else { continue };
                let bytes = self.store.get(&path, CEILING).await?.unwrap_or_default();
                chunks.extend(Notes::parse(&bytes, fingerprint, algorithm).unwrap_or_default());
            }
            // Another run may have begun to adopt it, and to clear it away.
            let base = format!("{folder}/{id}");
            let there: BTreeMap<_, _> =
                self.store.list(&base).await?.into_iter().map(|file| (file.path, file.size)).collect();
            chunks.retain(|note| there.get(&format!("{base}/{}", note.chunk.file)) == Some(&note.chunk.file_bytes));
            let bytes: u64 = chunks.iter().map(|note| note.chunk.bytes).sum();
            if !chunks.is_empty() {
                let ended = noted.ended || dead.contains(&id);
                candidates.push((bytes, Predecessor { id, chunks, ended }));
            }
        }
        candidates.sort_by(|(one, a), (other, b)| (other, &b.id).cmp(&(one, &a.id)));
        for (_, predecessor) in candidates {
            let id = &predecessor.id;
            let why = format!("the run that made this backup ended before it was complete; {heir} went on with it");
            let buried = put_tombstone(&self.store, folder, id, &why).await?.is_some()
                || matches!(look(&self.store, folder, id).await?,
                    Found::Manifest(manifest, _) if manifest.state == State::Failed);
            if buried {
                // So that the proof outlives this run, should it die as well.
                if predecessor.ended {
                    note_end(&self.store, folder, id).await?;
                }
                return Ok(Some(predecessor));
            }
        }
        Ok(None)
    }
}

impl Attempt {
    /// Notes finished files, durably on return, so that they outlive this run.
    pub async fn note(&self, chunks: Vec<ChunkNote>) -> Result<()> {
        let inner = self.inner()?;
        let number = inner.notes.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = RelativePath::new(format!("{}/{number:05}.json", folder_of(&inner.folder, &inner.id)))?;
        let notes = Notes::new(&inner.fingerprint, inner.algorithm(), chunks)?;
        let mut bytes = serde_json::to_vec(&notes).map_err(|error| internal(error.to_string()))?;
        bytes.push(b'\n');
        let (store, write) = (inner.store.clone(), std::sync::Arc::clone(&inner.writes));
        // A task of its own: given up by its caller, it still counts as under way until it is done.
        let written = tokio::spawn(async move {
            let written = store.put(&path, bytes.into()).await;
            drop(write);
            written
        });
        written.await.map_err(|error| internal(format!("the task that writes a note ended: {error}")))?
    }

    /// Takes over what a dead run of the same kind had finished, if there is one: its files that are whole are this
    /// run's own on return, and noted. `tell` hears of bytes that are hashed.
    pub async fn adopt(&self, tell: OnBytes<'_>) -> Result<Option<Adopted>> {
        let inner = self.inner()?;
        let predecessor = inner.predecessor.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(predecessor) = predecessor else { return Ok(None) };
        let from = predecessor.id;
        let adoptions = predecessor.chunks.into_iter().map(|note| inner.adopt(&from, note, tell));
        let mut adoptions = futures::stream::iter(adoptions.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
        let mut chunks = Vec::new();
        while let Some(adopted) = adoptions.next().await {
            chunks.extend(adopted?);
        }
        drop(adoptions);
        if !chunks.is_empty() {
            self.note(chunks.clone()).await?;
        }
        // What was adopted is noted anew: the dead run's folder is of no use any more.
        delete_files(&inner.store, &inner.folder, &from).await?;
        if predecessor.ended {
            clear_away(&inner.store, &inner.folder, &from).await?;
        }
        delete_notes(&inner.store, &inner.folder, &from).await?;
        Ok((!chunks.is_empty()).then_some(Adopted { from, chunks }))
    }

    /// Ends an attempt that failed, but leaves its finished files for the next run of its kind; `false` where there are
    /// none worth it, and nothing stays.
    pub async fn leave(mut self) -> bool {
        let Some(inner) = self.inner.take() else { return false };
        if inner.notes.load(std::sync::atomic::Ordering::Relaxed) == 0 || inner.lease.lost().is_cancelled() {
            inner.abandon().await;
            return false;
        }
        inner.leave().await;
        true
    }
}

impl Inner {
    /// One file; `None` where it is not as it was noted.
    async fn adopt(&self, from: &BackupId, note: ChunkNote, tell: OnBytes<'_>) -> Result<Option<ChunkNote>> {
        let file = &note.chunk.file;
        let (old, new) = (path_in(&self.folder, from, file.as_str())?, path_in(&self.folder, &self.id, file.as_str())?);
        let not_whole = |why: &str| tracing::warn!(%file, %from, why, "a file of an unfinished backup is read anew");
        match self.store.size(&old).await {
            Ok(Some(bytes)) if bytes == note.chunk.file_bytes => {}
            Ok(None) => return Ok(None),
            Ok(Some(_)) => {
                not_whole("its length is another");
                return Ok(None);
            }
            Err(error) if error.is_temporary() => return Err(error),
            Err(error) => {
                not_whole(error.message());
                return Ok(None);
            }
        }
        let registrar = self.registrar(file)?;
        self.store.duplicate(&old, &new).await?;
        let (bytes, checksum) = hash_file(&self.store, &new, self.algorithm(), tell).await?;
        if checksum != note.checksum || bytes != note.chunk.file_bytes {
            not_whole("its checksum is another");
            self.store.delete(&new).await?;
            return Ok(None);
        }
        registrar.register(FileSum { bytes, checksum });
        Ok(Some(note))
    }

    async fn leave(self) {
        let settled = self.settle().await;
        // Without the word that it has ended, its lock has to tell.
        let ended: Result<(), Error> = if settled {
            note_end(&self.store, &self.folder, &self.id).await
        } else {
            Err(internal("a write of an unfinished backup is still under way"))
        };
        match ended {
            Ok(()) => {
                if let Err(error) = self.lease.release().await {
                    tracing::warn!(%error, "the collection's lock could not be removed");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the lock of an unfinished backup stays for the next run to take over");
                self.lease.leave();
            }
        }
    }
}
