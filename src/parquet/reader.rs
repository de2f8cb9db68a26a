//! Reads a chunk file back, as input that may be damaged: whatever its bytes, it answers with rows of the schema or with
//! an error that names the file.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, RowGroupMetaData};
use parquet::schema::types::{Type, TypePtr};

use super::source::Source;
use super::{FORMAT, FORMAT_KEY, ROW_GROUPS_KEY, footer, pages, statistics};
use crate::digest::{RowDigester, SetDigest};
use crate::error::{Error, Kind, Result, internal};
use crate::filter::Filter;
use crate::schema::CollectionSchema;

/// An open chunk file: its footer is read and agrees with the schema.
pub struct ChunkReader {
    file: File,
    metadata: ArrowReaderMetadata,
    row_groups: Vec<SetDigest>,
    schema: SchemaRef,
    digester: RowDigester,
}

/// A file's bytes, and its name for errors.
#[derive(Clone)]
struct File {
    source: Source,
    name: Arc<str>,
}

impl File {
    /// Runs `decode`, and turns whatever goes wrong in it into an error that names the file. The Parquet crate panics on
    /// some damaged input; those panics end here (the panic hook still reports them).
    fn guard<T>(&self, decode: impl FnOnce() -> Result<T, String>) -> Result<T> {
        let failure = match catch_unwind(AssertUnwindSafe(decode)) {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(failure)) => failure,
            Err(_) => "its bytes make no sense".to_owned(),
        };
        Err(match self.source.failure() {
            Some(storage) => Error::new(Kind::Storage, format!("{} could not be read: {storage}", self.name)),
            None => self.damaged(&failure),
        })
    }

    fn damaged(&self, what: &str) -> Error {
        Error::new(
            Kind::BackupCorrupted,
            format!("{} is damaged: {what}. Verify the backup, and restore from another one", self.name),
        )
        .with("failed_files", vec![self.name.to_string()])
    }
}

impl ChunkReader {
    /// Opens a chunk and checks its footer against `schema`. `file` is its name in errors.
    ///
    /// # Errors
    /// [`Kind::BackupCorrupted`] with `failed_files` where it is no chunk file, is of a newer format, or holds other
    /// columns; [`Kind::Storage`] where it cannot be read; [`Kind::SchemaIncompatible`] where `schema` is the problem.
    pub fn open(source: impl Into<Source>, schema: &CollectionSchema, file: &str) -> Result<Self> {
        let file = File { source: source.into(), name: file.into() };
        let arrow = schema.arrow()?;
        let (metadata, row_groups) = file.guard(|| {
            let footer = footer::read(&file.source, PageIndexPolicy::Optional)?;
            check_format(&footer)?;
            check_names(footer.file_metadata().schema(), schema)?;
            let row_groups = promised_row_groups(&footer)?;
            let options = ArrowReaderOptions::new().with_schema(Arc::clone(&arrow));
            let metadata =
                ArrowReaderMetadata::try_new(Arc::new(footer), options).map_err(|error| error.to_string())?;
            Ok((metadata, row_groups))
        })?;
        Ok(Self { file, metadata, row_groups, schema: arrow, digester: RowDigester::new(schema)? })
    }

    /// The file's rows, as its footer has it.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.promised().rows
    }

    /// What the footer promises of each row group.
    #[must_use]
    pub fn row_groups(&self) -> &[SetDigest] {
        &self.row_groups
    }

    /// What the footer promises of all rows together.
    #[must_use]
    pub fn promised(&self) -> SetDigest {
        let mut all = SetDigest::default();
        self.row_groups.iter().for_each(|row_group| all.merge(row_group));
        all
    }

    /// All rows in order, in batches of up to `batch_rows` that never span row groups. Digests are not compared.
    #[must_use]
    pub fn batches(&self, batch_rows: usize) -> Batches {
        self.batches_of((0..self.row_groups.len()).collect(), batch_rows)
    }

    /// Some columns of some row groups, in the order of the schema and of the numbers; else as [`ChunkReader::batches`].
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] for a row group that is not there, [`Kind::Internal`] for such a column.
    pub fn select(&self, columns: &[&str], row_groups: Vec<usize>, batch_rows: usize) -> Result<Batches> {
        row_groups.iter().try_for_each(|index| self.check_row_group(*index))?;
        let indices = columns.iter().map(|name| {
            self.schema.index_of(name).map_err(|_| internal(format!("{} has no column '{name}'", self.file.name)))
        });
        let mut indices = indices.collect::<Result<Vec<_>>>()?;
        indices.sort_unstable();
        indices.dedup();
        let schema = Arc::new(self.schema.project(&indices).map_err(|error| internal(error.to_string()))?);
        let columns = ProjectionMask::roots(self.metadata.metadata().file_metadata().schema_descr(), indices);
        Ok(Batches { schema, columns, ..self.batches_of(row_groups, batch_rows) })
    }

    /// Numbers of the row groups that may have rows which the filter matches, going by the statistics in the footer.
    #[must_use]
    pub fn row_groups_that_may_match(&self, filter: &Filter) -> Vec<usize> {
        let metadata = self.metadata.metadata();
        let may_match = |index: &usize| {
            filter.may_match(&statistics::bounds(&self.schema, metadata.row_group(*index), filter.fields()))
        };
        (0..self.row_groups.len()).filter(may_match).collect()
    }

    fn check_row_group(&self, index: usize) -> Result<()> {
        if index < self.row_groups.len() {
            return Ok(());
        }
        Err(Error::new(
            Kind::InvalidArgument,
            format!("{} has {} row groups, none numbered {index}", self.file.name, self.row_groups.len()),
        ))
    }

    /// The rows of one row group.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] where there is no such row group.
    pub fn row_group(&self, index: usize, batch_rows: usize) -> Result<Batches> {
        self.check_row_group(index)?;
        Ok(self.batches_of(vec![index], batch_rows))
    }

    /// Decodes and digests a row group, and compares it with what the footer promises.
    ///
    /// # Errors
    /// [`Kind::BackupCorrupted`] where they differ or the rows cannot be decoded; else as [`ChunkReader::row_group`].
    pub fn prove_row_group(&self, index: usize) -> Result<SetDigest> {
        self.fetch_ahead(index)?;
        let mut found = SetDigest::default();
        for batch in self.row_group(index, 8192)? {
            let batch = batch?;
            let set = self.digester.set(&batch).map_err(|error| self.file.damaged(error.message()))?;
            found.merge(&set);
        }
        let promised = self.row_groups[index];
        if found == promised {
            return Ok(found);
        }
        Err(self.file.damaged(&format!(
            "row group {index} holds {} rows with digest {found} where its footer promises {} with {promised}",
            found.rows, promised.rows
        )))
    }

    /// Of a file that is elsewhere: gets the row group in one go. All its columns are read.
    fn fetch_ahead(&self, index: usize) -> Result<()> {
        let Some(columns) = self.metadata.metadata().row_groups().get(index).map(RowGroupMetaData::columns) else {
            return Ok(());
        };
        let spans = columns.iter().map(|column| {
            let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
            let (start, length) = (u64::try_from(start).ok()?, u64::try_from(column.compressed_size()).ok()?);
            Some((start, start.checked_add(length)?))
        });
        // Numbers that make no sense are the reader's to judge.
        let Some(spans) = spans.collect::<Option<Vec<_>>>() else { return Ok(()) };
        let start = spans.iter().map(|span| span.0).min().unwrap_or(0);
        let end = spans.iter().map(|span| span.1).max().unwrap_or(0);
        self.file.guard(|| self.file.source.ahead(start..end).map_err(|error| error.to_string()))
    }

    fn batches_of(&self, row_groups: Vec<usize>, batch_rows: usize) -> Batches {
        Batches {
            file: self.file.clone(),
            metadata: self.metadata.clone(),
            schema: Arc::clone(&self.schema),
            columns: ProjectionMask::all(),
            row_groups: row_groups.into_iter(),
            batch_rows: batch_rows.max(1),
            current: None,
        }
    }
}

/// Rows of a chunk file, batch by batch. After an error there are no more.
pub struct Batches {
    file: File,
    metadata: ArrowReaderMetadata,
    schema: SchemaRef,
    columns: ProjectionMask,
    row_groups: std::vec::IntoIter<usize>,
    batch_rows: usize,
    current: Option<RowGroup>,
}

/// The row group being read.
struct RowGroup {
    rows: ParquetRecordBatchReader,
    index: usize,
    rows_left: usize,
}

impl Batches {
    fn open_row_group(&self, index: usize) -> Result<RowGroup> {
        self.file.guard(|| {
            let metadata = self.metadata.metadata();
            pages::check(&self.file.source, metadata, index, &self.columns)?;
            let rows_left = usize::try_from(metadata.row_group(index).num_rows()).map_err(|error| error.to_string())?;
            let rows =
                ParquetRecordBatchReaderBuilder::new_with_metadata(self.file.source.clone(), self.metadata.clone())
                    .with_row_groups(vec![index])
                    .with_projection(self.columns.clone())
                    .with_batch_size(self.batch_rows)
                    .build()
                    .map_err(|error| error.to_string())?;
            Ok(RowGroup { rows, index, rows_left })
        })
    }

    fn advance(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            let row_group = match &mut self.current {
                Some(row_group) => row_group,
                None => match self.row_groups.next() {
                    Some(index) => {
                        let opened = self.open_row_group(index)?;
                        self.current.insert(opened)
                    }
                    None => return Ok(None),
                },
            };
            let next = self.file.guard(|| {
                let Some(batch) = row_group.rows.next().transpose().map_err(|error| error.to_string())? else {
                    return Ok(None);
                };
                let (_, columns, _) = batch.into_parts();
                RecordBatch::try_new(Arc::clone(&self.schema), columns).map(Some).map_err(|error| error.to_string())
            })?;
            if let Some(batch) = next {
                row_group.rows_left = row_group.rows_left.checked_sub(batch.num_rows()).ok_or_else(|| {
                    self.file.damaged(&format!("row group {} has more rows than promised", row_group.index))
                })?;
                return Ok(Some(batch));
            }
            if row_group.rows_left > 0 {
                let what = format!("row group {} lacks {} of its rows", row_group.index, row_group.rows_left);
                return Err(self.file.damaged(&what));
            }
            self.current = None;
        }
    }
}

impl Iterator for Batches {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance();
        if next.is_err() {
            self.current = None;
            self.row_groups = Vec::new().into_iter();
        }
        next.transpose()
    }
}

fn footer_value<'a>(metadata: &'a ParquetMetaData, key: &str) -> Option<&'a str> {
    let pairs = metadata.file_metadata().key_value_metadata()?;
    pairs.iter().find(|pair| pair.key == key)?.value.as_deref()
}

fn check_format(metadata: &ParquetMetaData) -> Result<(), String> {
    match footer_value(metadata, FORMAT_KEY) {
        Some(FORMAT) => Ok(()),
        Some(other) => Err(format!("its footer says format {other:?}, which this version does not know")),
        None => Err("its footer does not say that Milvault wrote it".to_owned()),
    }
}

/// The columns must be the schema's, in its order, under its ids.
fn check_names(root: &Type, schema: &CollectionSchema) -> Result<(), String> {
    let wanted: Vec<_> = schema.stored_fields().map(|field| (field.name.as_str(), Some(field.id))).collect();
    let id = |column: &TypePtr| {
        let info = column.get_basic_info();
        info.has_id().then(|| i64::from(info.id()))
    };
    let found: Vec<_> = root.get_fields().iter().map(|field| (field.name(), id(field))).collect();
    if wanted == found {
        return Ok(());
    }
    Err(format!("its columns (with field ids) are {found:?} where the schema has {wanted:?}"))
}

fn promised_row_groups(metadata: &ParquetMetaData) -> Result<Vec<SetDigest>, String> {
    let text = footer_value(metadata, ROW_GROUPS_KEY).ok_or("its footer has no digests")?;
    let promised: Vec<SetDigest> =
        serde_json::from_str(text).map_err(|error| format!("the digests in its footer cannot be read: {error}"))?;
    let rows = metadata.row_groups().iter().map(|row_group| u64::try_from(row_group.num_rows()).ok());
    if rows.eq(promised.iter().map(|row_group| Some(row_group.rows))) {
        Ok(promised)
    } else {
        Err("its footer and its digests disagree about the row groups".to_owned())
    }
}
