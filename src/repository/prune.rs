//! Carrying a retention policy out: look at what is there, plan, delete.
//!
//! Nothing is locked. A backup in the making has no manifest and is in no plan; one that is read carries a marker, which a
//! deletion respects; two that prune at once delete the same backups, and each deletion can be repeated.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use crate::error::{Error, Result};

use super::catalog::Repository;
use super::holder::HolderState;
use super::lease::{Standing, decode, standing};
use super::look::{Depth, Found, Place, look};
use super::manifest::{Manifest, State};
use super::names::{BackupId, RelativePath, split_folder};
use super::retention::{Candidate, Health, Policy, plan};
use super::store::Version;
use super::sweep::{READERS, lock_path};
use super::verdict::health;

/// What a policy comes to. Every backup in the repository is in one of the three.
#[derive(Debug, Default)]
pub struct Review {
    /// What goes, in the order in which to delete it.
    pub delete: Vec<Doomed>,
    /// What stays, and why.
    pub kept: BTreeMap<BackupId, Vec<String>>,
    /// What is left alone, and why: it is being made or read, or its manifest is damaged.
    pub left_alone: BTreeMap<BackupId, String>,
    /// What somebody began to delete; it is left alone in the plan, and finished when the plan is carried out.
    pub half_deleted: Vec<HalfDeleted>,
}

/// A backup that somebody began to delete.
#[derive(Debug)]
pub struct HalfDeleted {
    /// Its id.
    pub id: BackupId,
    folder: String,
    manifest: Box<Manifest>,
    version: Version,
}

/// A backup that goes.
#[derive(Debug, Clone)]
pub struct Doomed {
    /// Its id.
    pub id: BackupId,
    /// Its name for people.
    pub backup_name: String,
    /// Its collection.
    pub collection_name: String,
    /// The collection's database.
    pub database: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// What its files take.
    pub bytes: u64,
    /// The backup that it builds on.
    pub parent: Option<BackupId>,
    folder: String,
}

impl Repository {
    /// What `policy` comes to, each collection by itself. Writes nothing.
    pub async fn review(
        &self,
        database: Option<&str>,
        collection: Option<&str>,
        policy: &Policy,
        now: DateTime<Utc>,
    ) -> Result<Review> {
        let mut folders: BTreeMap<String, Vec<Place>> = BTreeMap::new();
        let candidates = self.candidates(database, collection).await?;
        for place in self.look_at(candidates, Depth::Verification).await? {
            folders.entry(place.folder.clone()).or_default().push(place);
        }
        let mut review = Review::default();
        for (folder, places) in folders {
            self.review_folder(&folder, places, policy, now, &mut review).await?;
        }
        Ok(review)
    }

    async fn review_folder(
        &self,
        folder: &str,
        places: Vec<Place>,
        policy: &Policy,
        now: DateTime<Utc>,
        review: &mut Review,
    ) -> Result<()> {
        let mut complete = BTreeMap::new();
        for Place { id, found, verification, .. } in places {
            match found {
                Found::Manifest(manifest, version) => match manifest.state {
                    State::Completed => _ = complete.insert(id, (manifest, health(verification.as_ref()))),
                    State::Deleting => {
                        let why = "its deletion was begun and is to be finished".to_owned();
                        review.left_alone.insert(id.clone(), why);
                        review.half_deleted.push(HalfDeleted { id, folder: folder.to_owned(), manifest, version });
                    }
                    State::Failed => {}
                },
                Found::Nothing => {
                    if let Some(why) = self.unfinished(folder, &id).await? {
                        review.left_alone.insert(id, why);
                    }
                }
                Found::Damaged(error) => {
                    let why = format!("it cannot be read, and so not be judged: {}", error.message());
                    review.left_alone.insert(id, why);
                }
            }
        }
        let candidates: Vec<_> = complete.values().map(|(manifest, health)| candidate(manifest, *health)).collect();
        let plan = plan(policy, now, &candidates);
        review.kept.extend(plan.kept);
        let mut busy =
            if plan.delete.is_empty() { BTreeMap::new() } else { self.being_read(folder, &plan.delete).await? };
        for id in plan.delete {
            // What comes earlier in the plan may build on what comes later.
            let Some((manifest, _)) = complete.get(&id) else { continue };
            match busy.get(&id).cloned() {
                None => review.delete.push(Doomed::new(manifest, folder)),
                Some(why) => {
                    if let Some(parent) = &manifest.parent {
                        busy.entry(parent.clone())
                            .or_insert_with(|| format!("{id}, which builds on it, is left alone"));
                    }
                    review.left_alone.insert(id, why);
                }
            }
        }
        Ok(())
    }

    /// Why a folder without a manifest is left alone; `None` where there is nothing in it.
    async fn unfinished(&self, folder: &str, id: &BackupId) -> Result<Option<String>> {
        let lock = self.store.get(&lock_path(folder)?, 1 << 20).await?.and_then(|bytes| decode(&bytes));
        if let Some(record) = lock.filter(|record| record.backup_id.as_ref() == Some(id)) {
            if record.holder_state() != HolderState::Dead {
                let (holder, percentage) = (record.holder(), record.progress_percentage);
                return Ok(Some(format!("it is being made ({holder}, {percentage:.0} % done)")));
            }
        } else if self.store.list(&format!("{folder}/{id}")).await?.is_empty() {
            return Ok(None);
        }
        Ok(Some("it is unfinished; if the run that made it has ended, the next backup clears it away".to_owned()))
    }

    /// Which of `ids` are being read, and by whom.
    async fn being_read(&self, folder: &str, ids: &[BackupId]) -> Result<BTreeMap<BackupId, String>> {
        let wanted: BTreeSet<_> = ids.iter().collect();
        let markers = self.store.list(&format!("{folder}/{READERS}")).await?.into_iter().filter_map(|marker| {
            let path = RelativePath::new(marker.path).ok()?;
            let id: BackupId = path.file_name().split('.').next()?.parse().ok()?;
            wanted.contains(&id).then_some((id, path))
        });
        let looks = markers
            .map(|(id, path)| async move { Ok::<_, Error>((id, standing(&self.store, &path, self.heartbeat).await?)) });
        let looks: Vec<_> = futures::future::try_join_all(looks.collect::<Vec<_>>()).await?;
        let alive = looks.into_iter().filter_map(|(id, standing)| match standing {
            Standing::Alive(record) => Some((id, format!("it is being read ({})", record.holder()))),
            Standing::Absent | Standing::Dead(_) => None,
        });
        Ok(alive.collect())
    }

    /// Finishes a deletion that somebody began, unless it was taken back since the review, or the backup is being read:
    /// then it is a backup like others, which the next review judges.
    pub async fn finish(&self, half: &HalfDeleted) -> Result<()> {
        self.finish_begun(&Place::at(&half.folder, &half.id), &half.manifest, &half.version).await?;
        self.remove_traces(&half.folder, &half.id).await
    }

    /// Deletes a backup that goes; `false` where it has gone already.
    /// [`crate::error::Kind::InProgress`] where it is being read by now.
    pub async fn remove(&self, doomed: &Doomed) -> Result<bool> {
        let place = Place::at(&doomed.folder, &doomed.id);
        match look(&self.store, &place.folder, &place.id).await? {
            Found::Nothing => Ok(false),
            Found::Manifest(manifest, _) if manifest.state == State::Failed => Ok(false),
            Found::Manifest(..) => self.delete_place(&place).await.map(|()| true),
            Found::Damaged(error) => Err(error),
        }
    }
}

fn candidate(manifest: &Manifest, health: Health) -> Candidate {
    Candidate {
        id: manifest.backup_id.clone(),
        created_at: manifest.created_at,
        backup_type: manifest.backup_type,
        partitions: manifest.partition_names.iter().cloned().collect(),
        tags: manifest.tags.clone(),
        parent: manifest.parent.clone(),
        health,
    }
}

impl Doomed {
    fn new(manifest: &Manifest, folder: &str) -> Self {
        let (database, collection_name) = split_folder(folder).unwrap_or_default();
        Self {
            id: manifest.backup_id.clone(),
            backup_name: manifest.backup_name.clone(),
            collection_name: collection_name.to_owned(),
            database: database.to_owned(),
            created_at: manifest.created_at,
            bytes: manifest.compressed_size_bytes,
            parent: manifest.parent.clone(),
            folder: folder.to_owned(),
        }
    }
}
