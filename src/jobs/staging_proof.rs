//! What a staging collection holds, held against what it is to hold: read from the files that the server has written, or
//! loaded and queried.

use serde_json::json;

use super::control::{Control, Phase};
use super::staging::{Failure, Keys, Proof, Staged, Staging};
use super::{native, read};
use crate::digest::{RowDigester, SetDigest};
use crate::error::{Error, Kind, Result};
use crate::milvus::ServerKind;
use crate::schema::{Collection, Index};

/// What a partition is to hold, and what it was found to hold.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Comparison {
    pub expected: SetDigest,
    /// The digest of its rows, read back.
    pub found: Option<SetDigest>,
    /// How many rows the server says it has.
    pub counted: Option<u64>,
}

impl Comparison {
    pub(super) fn agrees(&self) -> bool {
        self.found.is_none_or(|found| found == self.expected)
            && self.counted.is_none_or(|counted| counted == self.expected.rows)
    }

    /// Rows in a partition that is to hold none.
    fn unexpected(found: SetDigest) -> Self {
        Self { found: Some(found), ..Self::default() }
    }
}

impl Staging {
    /// Loads the collection for the proof. Milvus loads nothing without an index on its vectors: where there is none,
    /// plain ones are made, which cost nothing to build; they are the result.
    pub(super) async fn load(&self, made: &Collection, control: &Control) -> Result<Vec<Index>> {
        let mut borrowed = Vec::new();
        if self.client.kind() == ServerKind::Server {
            for field in made.schema.fields.iter().filter(|field| field.data_type.is_vector()) {
                if !self.indexes.iter().any(|index| index.field == field.name) {
                    let index = super::compatible::plain_index(field);
                    self.client.create_index(&made.name, &index).await?;
                    borrowed.push(index);
                }
            }
        }
        control.check()?;
        self.client.load(&made.name, super::LOAD_LIMIT).await?;
        Ok(borrowed)
    }

    /// Holds what the server has written into its files against what was inserted, with nothing loaded; false where that
    /// proves nothing. Of inserted rows only a proof counts: files come and go while Milvus compacts them, and what it
    /// answers of its rows decides. Imported rows are in files as soon as the import is complete, or they are wrong.
    pub(super) async fn prove_by_files(&self, staged: &mut Staged, control: &Control) -> Result<bool, Failure> {
        let Some(storage) = self.storage.as_ref().filter(|_| self.client.kind() == ServerKind::Server) else {
            return Ok(false);
        };
        control.enter(Phase::Proving);
        let digester = self.digester(&staged.made)?;
        let mut found = match native::stored::digests(&self.client, storage, &staged.made, digester).await {
            Ok(found) => found,
            Err(error) if self.import.is_none() => {
                tracing::info!(%error, "the server's files prove nothing: the rows are loaded and read");
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        };
        // Of a partition that is not told of, no row was found.
        for (name, partition) in &mut staged.partitions {
            partition.found = Some(found.remove(name).unwrap_or_default());
        }
        staged.partitions.extend(found.into_iter().map(|(name, found)| (name, Comparison::unexpected(found))));
        control.check()?;
        if self.import.is_none() && !staged.partitions.values().all(Comparison::agrees) {
            tracing::info!("the server's files do not hold all rows yet: they are loaded and read");
            staged.partitions.values_mut().for_each(|partition| partition.found = None);
            return Ok(false);
        }
        self.compare(staged)?;
        Ok(true)
    }

    fn digester(&self, made: &Collection) -> Result<RowDigester> {
        match self.options.keys {
            Keys::Preserve => RowDigester::new(&made.schema),
            Keys::Regenerate => RowDigester::without_primary_key(&made.schema),
        }
    }

    /// Holds what staging holds against what was inserted.
    pub(super) async fn prove(&self, staged: &mut Staged) -> Result<(), Failure> {
        if self.options.proof == Proof::Digest {
            let digester = self.digester(&staged.made)?;
            let reading = read::digest_by(&self.client, &staged.made, &[], 2, digester, &Control::default()).await?;
            for (name, read) in reading.partitions {
                let partition = staged.partitions.entry(name).or_default();
                (partition.found, partition.counted) = (Some(read.set), Some(read.after));
            }
        } else {
            let reader = read::Reader::new(&self.client, &staged.made, 2).await?;
            for (name, counted) in reader.counts(&reader.partitions(&[])).await? {
                staged.partitions.entry(name).or_default().counted = Some(counted);
            }
        }
        self.compare(staged)
    }

    /// Whether each partition was found to hold what it is to hold.
    fn compare(&self, staged: &Staged) -> Result<(), Failure> {
        let wrong = staged.partitions.iter().find(|(_, partition)| !partition.agrees());
        let Some((name, partition)) = wrong.filter(|_| !self.options.tell_differences) else { return Ok(()) };
        let error = Error::new(
            Kind::Restore,
            format!("{}. The target was not touched; please report this", difference(name, partition)),
        );
        Err(Failure { partition: Some(name.clone()), error })
    }

    /// Releases what is not to stay loaded, and drops indexes that were made for loading alone.
    pub(super) async fn leave_as_wanted(
        &self,
        name: &str,
        borrowed: &[Index],
        warnings: &mut Vec<String>,
    ) -> Result<()> {
        if self.options.keep_loaded {
            if !borrowed.is_empty() {
                let fields = borrowed.iter().map(|index| format!("'{}'", index.field)).collect::<Vec<_>>().join(", ");
                warnings.push(format!(
                    "the backup brings no index for {fields}, and Milvus loads nothing without one: a FLAT index was made"
                ));
            }
        } else if self.client.kind() == ServerKind::Server {
            self.client.release(name).await?;
            for index in borrowed {
                self.client.drop_index(name, index).await?;
            }
        }
        Ok(())
    }
}

/// What a partition was found to hold instead of the backup's rows.
pub(super) fn difference(name: &str, partition: &Comparison) -> String {
    let expected = partition.expected;
    match (partition.found, partition.counted) {
        (Some(found), _) if found != expected => format!(
            "partition {name} was restored as {} rows with digest {found}, and the backup promises {} rows with digest {expected}",
            found.rows, expected.rows
        ),
        (_, counted) => format!(
            "the server counts {} rows in partition {name} after the restore, and the backup promises {}",
            json!(counted),
            expected.rows
        ),
    }
}
