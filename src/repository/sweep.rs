//! Clearing away: what dead runs left, and backups that are deleted.
//!
//! A run that dies leaves a folder without a manifest. Whoever sweeps it holds the collection's lock and first puts a
//! FAILED manifest there, only if none is there: from then on the dead writer, should it live after all, cannot commit.
//! Then the files go. What happens to the FAILED manifest (the tombstone) depends on how sure the death is:
//! - proven (the lease that was taken over named this run, and its process has ended): it goes last, and no trace stays.
//!   The proof is kept in the sweeper's own lease ([`super::holder::Record::dead`]), so that it outlives a sweeper that
//!   dies as well;
//! - not proven (another host's run, or no lease at all): it stays for a day, which no writer outlives, and goes with
//!   a later sweep. So does the one that a run puts there itself whose commit an object store did not answer: the request
//!   may still arrive.
//!
//! A deletion marks the manifest DELETING, deletes the files, and the manifest last, and only while it is as it was marked:
//! by then another may have put a copy of the backup there. Where it sees a reader, it takes the mark back. Interrupted, it
//! is finished by the next deletion of the same backup or the next sweep, which first seal the mark, so that it cannot be
//! taken back under their hands.

use chrono::{TimeDelta, Utc};
use tokio::time::{Instant, sleep};

use crate::error::{Error, Kind, Result};

use super::catalog::Repository;
use super::holder::HolderState;
use super::lease::{Lease, MISSED_BEATS, SWEEP, Standing, Terms, decode, in_progress, standing};
use super::look::{Found, Place, look, path_in};
use super::manifest::{self, Manifest, State};
use super::names::{BackupId, RelativePath, collection_folder, split_folder};
use super::store::{Store, Version};
use super::unfinished::{UNFINISHED, delete_notes, note_end};

/// How long the tombstone of a run stays whose death is not proven.
const TOMBSTONE_HOURS: i64 = 24;
/// What the tombstone of a run says that asked an object store to take its manifest, and was not told what became of that:
/// it stays for a day even where the run is known to have ended, for the request may still be in a queue.
pub(super) const UNSETTLED: &str = "the commit failed, and may still arrive";
pub(super) const READERS: &str = ".readers";

impl Repository {
    /// Clears away what dead runs left in a collection's folder. Does nothing where a live run holds the lock.
    pub async fn sweep(&self, database: &str, collection: &str) -> Result<()> {
        let folder = collection_folder(database, collection)?;
        if self.store.list(&folder).await?.is_empty() && self.store.list_folders(&folder).await?.is_empty() {
            return self.store.remove_empty_parents(&lock_path(&folder)?).await;
        }
        let terms = Terms { purpose: SWEEP, backup_id: None, entry: None, interval: self.heartbeat };
        let acquired = match Lease::acquire(&self.store, &lock_path(&folder)?, terms).await {
            Err(error) if error.kind() == Kind::InProgress => return Ok(()),
            other => other?,
        };
        let swept = async {
            let spared = self.adoptable(&folder, &acquired.dead).await?;
            self.sweep_folder_but(&folder, &acquired.dead, &spared).await
        };
        let swept = swept.await.map(drop);
        let released = acquired.lease.release().await;
        swept.and(released)
    }

    /// Deletes the backup with this id or `backup_name`, also one that is damaged or half deleted.
    /// [`Kind::BackupNotFound`] where there is none, [`Kind::InProgress`] while it is being read.
    pub async fn delete(&self, reference: &str, collection: Option<&str>, database: Option<&str>) -> Result<()> {
        let wanted = |state| matches!(state, State::Completed | State::Deleting);
        let place = self.find_place(reference, collection, database, wanted).await?;
        self.delete_place(&place).await
    }

    /// Deletes what is in a backup's folder; [`Kind::InProgress`] while it is being read.
    pub(super) async fn delete_place(&self, place: &Place) -> Result<()> {
        self.refuse_while_read(place).await?;
        // Where nothing may be deleted, nothing is marked: it would not be listed any more, and stay for good.
        if !self.store.is_local() {
            self.store.delete(&path_in(&place.folder, &place.id, ".may-be-deleted")?).await?;
        }
        if let Some(Marked { before, version }) = self.mark_deleting(place).await? {
            // A reader who came in between either sees the mark and leaves, or is seen now.
            if let Some(manifest) = before
                && let Err(error) = self.refuse_while_read(place).await
            {
                let path = path_in(&place.folder, &place.id, manifest::FILE)?;
                if self.store.replace_if(&path, &version, manifest.to_bytes()?.into()).await?.is_some() {
                    return Err(error);
                }
                // The reader had left, and a sweep has sealed the deletion.
            }
            finish_deletion(&self.store, &place.folder, &place.id, &version).await?;
        }
        self.remove_traces(&place.folder, &place.id).await
    }

    /// Removes the empty folders that are left where a backup was deleted.
    pub(super) async fn remove_traces(&self, folder: &str, id: &BackupId) -> Result<()> {
        self.store.remove_empty_folders(&format!("{folder}/{READERS}")).await?;
        // Never the folders of other backups: one that is being made has empty ones for a moment.
        self.store.remove_empty_parents(&path_in(folder, id, manifest::FILE)?).await
    }

    async fn refuse_while_read(&self, place: &Place) -> Result<()> {
        let markers = format!("{}/{READERS}", place.folder);
        for marker in self.store.list(&markers).await? {
            let Ok(path) = RelativePath::new(marker.path) else { continue };
            if !path.file_name().starts_with(place.id.as_str()) {
                continue;
            }
            match standing(&self.store, &path, self.heartbeat).await? {
                Standing::Absent => {}
                Standing::Alive(record) => {
                    let error = in_progress(&self.store, &path, &record);
                    return Err(match split_folder(&place.folder) {
                        Some((_, collection)) => error.with("collection_name", collection),
                        None => error,
                    });
                }
                Standing::Dead(_) => self.store.delete(&path).await?,
            }
        }
        Ok(())
    }

    /// Marks the manifest; `None` where there is none any more.
    async fn mark_deleting(&self, place: &Place) -> Result<Option<Marked>> {
        let path = path_in(&place.folder, &place.id, manifest::FILE)?;
        for _ in 0..5 {
            match look(&self.store, &place.folder, &place.id).await? {
                Found::Nothing => return Ok(None),
                Found::Manifest(manifest, version) if manifest.state == State::Deleting => {
                    if let Some(version) = self.seal(place, &manifest, &version).await? {
                        return Ok(Some(Marked { before: None, version }));
                    }
                }
                Found::Manifest(manifest, version) => {
                    let mut marked = manifest.clone();
                    marked.state = State::Deleting;
                    if let Some(version) = self.store.replace_if(&path, &version, marked.to_bytes()?.into()).await? {
                        return Ok(Some(Marked { before: Some(manifest), version }));
                    }
                }
                Found::Damaged(_) => {
                    let stone = tombstone(&place.folder, &place.id, State::Deleting, "it was damaged, and is deleted");
                    self.store.put(&path, stone.to_bytes()?.into()).await?;
                }
            }
        }
        Err(Error::new(Kind::InProgress, format!("backup {} is being changed by someone else; try again", place.id))
            .with("progress_percentage", serde_json::Value::Null)
            .temporary())
    }

    /// Finishes a deletion that somebody began. A backup that is being read is left alone, and so is one whose mark has
    /// been taken back since it was seen: a deletion that meets a reader does so.
    pub(super) async fn finish_begun(&self, place: &Place, manifest: &Manifest, version: &Version) -> Result<()> {
        match self.refuse_while_read(place).await {
            Err(error) if error.kind() == Kind::InProgress => return Ok(()),
            outcome => outcome?,
        }
        if let Some(sealed) = self.seal(place, manifest, version).await? {
            finish_deletion(&self.store, &place.folder, &place.id, &sealed).await?;
        }
        Ok(())
    }

    /// Finishes a deletion that somebody began, so that its place is free. [`Kind::InProgress`] where they may still be at
    /// it, which they do without a lock: something has changed within five heartbeats; or where the backup is being read.
    pub(super) async fn finish_abandoned(&self, place: &Place, manifest: &Manifest, version: &Version) -> Result<()> {
        let root = self.store.display("");
        let busy = || {
            let why = format!("backup {} is being deleted in {root}: try again when that is done", place.id);
            Error::new(Kind::InProgress, why)
                .with("progress_percentage", serde_json::Value::Null)
                .with("backup_id", place.id.as_str())
                .with("storage_path", self.store.display(&place.path()))
                .temporary()
        };
        let files = self.store.list(&place.path()).await?;
        let begun = Instant::now();
        while begun.elapsed() < self.heartbeat * MISSED_BEATS {
            sleep(self.heartbeat / 2).await;
            let found = look(&self.store, &place.folder, &place.id).await?;
            let same = matches!(found, Found::Manifest(_, now) if now.content == version.content);
            if !same || self.store.list(&place.path()).await? != files {
                return Err(busy());
            }
        }
        self.finish_begun(place, manifest, version).await?;
        match look(&self.store, &place.folder, &place.id).await? {
            Found::Nothing => Ok(()),
            Found::Manifest(..) | Found::Damaged(_) => Err(busy()),
        }
    }

    /// Makes sure that nobody takes the mark of a deletion back any more; `None` where somebody has.
    async fn seal(&self, place: &Place, marked: &Manifest, version: &Version) -> Result<Option<Version>> {
        let mut sealed = marked.clone();
        sealed.error_message = Some("its deletion is being finished".to_owned());
        let path = path_in(&place.folder, &place.id, manifest::FILE)?;
        self.store.replace_if(&path, version, sealed.to_bytes()?.into()).await
    }

    /// Dead runs that the next backup may go on with: only a backup of the collection clears them away. That they are
    /// dead is noted where it is proven, since the lock that proves it goes.
    pub(super) async fn adoptable(&self, folder: &str, dead: &[BackupId]) -> Result<Vec<BackupId>> {
        let mut adoptable = Vec::new();
        for (id, noted) in self.noted(folder).await? {
            if noted.is_adoptable(&id) {
                if dead.contains(&id) && !noted.ended {
                    note_end(&self.store, folder, &id).await?;
                }
                adoptable.push(id);
            }
        }
        Ok(adoptable)
    }

    /// Sweeps a collection's folder but for what is of the runs `spared`. The caller holds its lock; `dead` are the runs
    /// that are proven dead. Returns the backups that there are: ids and names.
    pub(super) async fn sweep_folder_but(
        &self,
        folder: &str,
        dead: &[BackupId],
        spared: &[BackupId],
    ) -> Result<Vec<(BackupId, String)>> {
        let store = &self.store;
        let noted = self.noted(folder).await?;
        let dead: Vec<_> =
            dead.iter().chain(noted.iter().filter(|(_, noted)| noted.ended).map(|(id, _)| id)).cloned().collect();
        store.delete_unfinished(folder).await?;
        self.sweep_readers(folder).await?;
        let (database, collection) = split_folder(folder).unwrap_or_default();
        let mut complete = Vec::new();
        for Place { id, found, .. } in self.places(Some(database), Some(collection)).await? {
            match found {
                Found::Manifest(manifest, version) if manifest.state == State::Completed || !spared.contains(&id) => {
                    self.sweep_found(folder, &id, (&manifest, &version), &dead).await?;
                    if manifest.state == State::Completed {
                        complete.push((id, manifest.backup_name));
                    }
                }
                _ if spared.contains(&id) => {}
                Found::Nothing => self.bury(folder, &id, &dead).await?,
                // Not ours to judge: whoever wants it gone deletes it.
                Found::Manifest(..) | Found::Damaged(_) => {}
            }
        }
        // Notes go last: that a run has ended is in them.
        for id in noted.keys() {
            if !spared.contains(id) || complete.iter().any(|(whole, _)| whole == id) {
                delete_notes(store, folder, id).await?;
            }
        }
        store.remove_empty_folders(&format!("{folder}/{UNFINISHED}")).await?;
        Ok(complete)
    }

    async fn sweep_found(
        &self,
        folder: &str,
        id: &BackupId,
        (manifest, version): (&Manifest, &Version),
        dead: &[BackupId],
    ) -> Result<()> {
        match manifest.state {
            State::Completed => self.store.delete_unfinished(&format!("{folder}/{id}")).await,
            State::Deleting => self.finish_begun(&Place::at(folder, id), manifest, version).await,
            State::Failed => {
                let age = Utc::now() - manifest.completed_at.unwrap_or(manifest.created_at);
                let may_arrive = manifest.error_message.as_deref() == Some(UNSETTLED);
                if (dead.contains(id) && !may_arrive) || age > TimeDelta::hours(TOMBSTONE_HOURS) {
                    finish_deletion(&self.store, folder, id, version).await
                } else {
                    delete_files(&self.store, folder, id).await
                }
            }
        }
    }

    /// A folder without a manifest: from here on nobody can commit it, and its files go.
    async fn bury(&self, folder: &str, id: &BackupId, dead: &[BackupId]) -> Result<()> {
        if self.store.list(&format!("{folder}/{id}")).await?.is_empty() {
            return self.store.remove_empty_folders(&format!("{folder}/{id}")).await;
        }
        let why = "the run that made this backup ended before it was complete";
        if let Some(stone) = put_tombstone(&self.store, folder, id, why).await? {
            if dead.contains(id) {
                return finish_deletion(&self.store, folder, id, &stone).await;
            }
            return delete_files(&self.store, folder, id).await;
        }
        // Somebody was faster: the writer, who lives after all, or another sweeper.
        match look(&self.store, folder, id).await? {
            Found::Manifest(manifest, version) => self.sweep_found(folder, id, (&manifest, &version), dead).await,
            Found::Nothing | Found::Damaged(_) => Ok(()),
        }
    }

    /// Readers' markers whose holder has ended; those of other hosts after a day of silence.
    async fn sweep_readers(&self, folder: &str) -> Result<()> {
        let markers = format!("{folder}/{READERS}");
        self.store.delete_unfinished(&markers).await?;
        for marker in self.store.list(&markers).await? {
            let Ok(path) = RelativePath::new(marker.path) else { continue };
            let Some(bytes) = self.store.get(&path, 1 << 20).await? else { continue };
            let gone = decode(&bytes).is_none_or(|record| match record.holder_state() {
                HolderState::Dead => true,
                HolderState::Alive => false,
                HolderState::Unknown => Utc::now() - record.written_at > TimeDelta::hours(TOMBSTONE_HOURS),
            });
            if gone {
                self.store.delete(&path).await?;
            }
        }
        self.store.remove_empty_folders(&markers).await
    }
}

/// The collection's lock.
pub(super) fn lock_path(folder: &str) -> Result<RelativePath> {
    RelativePath::new(format!("{folder}/.lock.json"))
}

/// A manifest that is marked DELETING.
struct Marked {
    /// What it was, where the mark is ours and may be taken back.
    before: Option<Box<Manifest>>,
    version: Version,
}

/// Puts a FAILED manifest where there is none; `None` where there is one.
pub(super) async fn put_tombstone(store: &Store, folder: &str, id: &BackupId, why: &str) -> Result<Option<Version>> {
    let bytes = tombstone(folder, id, State::Failed, why).to_bytes()?;
    let path = path_in(folder, id, manifest::FILE)?;
    store.put_if_absent(&path, bytes.into()).await
}

fn tombstone(folder: &str, id: &BackupId, state: State, why: &str) -> Manifest {
    let (database, collection) = split_folder(folder).unwrap_or_default();
    let mut manifest = Manifest::new(id.clone(), id.as_str(), database, collection);
    manifest.state = state;
    manifest.completed_at = Some(super::names::now());
    manifest.error_message = Some(why.to_owned());
    manifest
}

/// Deletes every file of a backup's folder but the manifest.
pub(super) async fn delete_files(store: &Store, folder: &str, id: &BackupId) -> Result<()> {
    let base = format!("{folder}/{id}");
    let manifest = format!("{base}/{}", manifest::FILE);
    let mut paths: Vec<_> = store.list(&base).await?.into_iter().map(|file| file.path).collect();
    paths.retain(|path| *path != manifest);
    if paths.is_empty() { Ok(()) } else { store.delete_all(paths).await }
}

/// Deletes every file of a backup's folder, the manifest last and only while it is still `seen`, and on local disk the
/// folders. Whoever has changed it since goes on with it.
pub(super) async fn finish_deletion(store: &Store, folder: &str, id: &BackupId, seen: &Version) -> Result<()> {
    delete_files(store, folder, id).await?;
    store.delete_if(&path_in(folder, id, manifest::FILE)?, seen).await?;
    store.remove_empty_folders(&format!("{folder}/{id}")).await
}

/// Deletes every file that a run of our own or a dead one left in a folder that has no manifest, but for a tombstone that
/// another may have put there, which goes too.
pub(super) async fn clear_away(store: &Store, folder: &str, id: &BackupId) -> Result<()> {
    match look(store, folder, id).await? {
        Found::Manifest(manifest, version) if manifest.state == State::Failed => {
            finish_deletion(store, folder, id, &version).await
        }
        Found::Manifest(..) | Found::Damaged(_) => Ok(()),
        Found::Nothing => {
            delete_files(store, folder, id).await?;
            store.remove_empty_folders(&format!("{folder}/{id}")).await
        }
    }
}
