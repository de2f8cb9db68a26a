//! A backup's rows as one file that others read: Parquet, Arrow IPC, CSV, or JSON lines.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use arrow_ipc::writer::FileWriter;
use arrow_schema::{DataType as ArrowType, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Session;
use super::control::{Control, Phase, deadline};
use super::open::{OpenRequest, open};
use super::read::blocking;
use crate::error::{Error, Kind, Result, chain, internal};
use crate::output::{Copied, Output, trouble};
use crate::parquet::arrow_bytes;
use crate::text;

/// Which rows, and where to.
#[derive(Debug, Clone, Deserialize)]
pub struct ExportRequest {
    #[serde(flatten)]
    rows: OpenRequest,
    path: PathBuf,
    format: Format,
    #[serde(default)]
    overwrite: bool,
    #[serde(default, rename = "export_timeout_seconds")]
    timeout_seconds: Option<f64>,
}

/// The form of the file.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    Parquet,
    Arrow,
    Csv,
    Jsonl,
}

/// Writes a backup's rows to a file, which gets its name once it is whole.
///
/// # Errors
/// As [`open`]; [`Kind::InvalidArgument`] where there is another file, [`Kind::BackupCorrupted`] where one of the
/// backup's is damaged, [`Kind::Storage`] where the file cannot be written.
pub async fn export(session: &Session, request: &ExportRequest, control: &Control) -> Result<Value> {
    if !request.overwrite && request.path.symlink_metadata().is_ok() {
        return Err(there(&request.path));
    }
    let opened = open(session, &request.rows, control).await?;
    control.begin();
    control.enter(Phase::Reading);
    let (rows, bytes) = opened.most();
    control.expect(rows, bytes);
    let work = async {
        let mut stream = opened.stream().await?;
        let (path, format, overwrite, schema) =
            (request.path.clone(), request.format, request.overwrite, stream.schema());
        let mut writer = blocking(move || Writer::create(path, format, overwrite, &schema)).await?;
        let mut count = 0;
        loop {
            let (next, rest) = blocking(move || Ok((stream.next(), stream))).await?;
            stream = rest;
            let Some(batch) = next.transpose()? else { break };
            count += batch.num_rows() as u64;
            control.advance(batch.num_rows() as u64, arrow_bytes(&batch));
            writer = blocking(move || {
                writer.write(&batch)?;
                Ok(writer)
            })
            .await?;
        }
        let copied = blocking(move || writer.finish()).await?;
        Ok(json!({"path": copied.path, "row_count": count, "size_bytes": copied.written}))
    };
    let outcome = control.guard(deadline(request.timeout_seconds), work).await;
    let mut value = outcome?;
    value["metadata"] = opened.description()["metadata"].clone();
    opened.close().await;
    Ok(value)
}

fn there(path: &Path) -> Error {
    let what = format!("{} is there already; move it away, or allow overwriting it", path.display());
    Error::new(Kind::InvalidArgument, what).with("path", path.display().to_string())
}

/// The file in the making.
struct Writer {
    kind: WriterKind,
    path: PathBuf,
}

enum WriterKind {
    Parquet(Box<ArrowWriter<BufWriter<Output>>>),
    Arrow(Box<FileWriter<BufWriter<Output>>>),
    Text { to: BufWriter<Output>, lines: fn(&RecordBatch, &mut Vec<u8>) -> Result<()> },
}

impl Writer {
    fn create(path: PathBuf, format: Format, overwrite: bool, schema: &SchemaRef) -> Result<Self> {
        let mut to = BufWriter::with_capacity(1 << 20, Output::create(&path, overwrite)?);
        let kind = match format {
            Format::Parquet => {
                let writer = ArrowWriter::try_new(to, SchemaRef::clone(schema), Some(properties(schema)?));
                WriterKind::Parquet(Box::new(writer.map_err(|error| failed(&path, &error))?))
            }
            Format::Arrow => {
                WriterKind::Arrow(Box::new(FileWriter::try_new(to, schema).map_err(|error| failed(&path, &error))?))
            }
            Format::Csv => {
                let mut header = Vec::new();
                text::csv_header(schema, &mut header);
                to.write_all(&header).map_err(|error| trouble("written", &path, &error))?;
                WriterKind::Text { to, lines: text::csv }
            }
            Format::Jsonl => WriterKind::Text { to, lines: text::json_lines },
        };
        Ok(Self { kind, path })
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        match &mut self.kind {
            WriterKind::Parquet(writer) => {
                writer.write(batch).map_err(|error| failed(&self.path, &error))?;
                // Row groups as large as a backup's own: memory holds one.
                if writer.in_progress_size() as u64 >= crate::parquet::ROW_GROUP_BYTES {
                    writer.flush().map_err(|error| failed(&self.path, &error))?;
                }
            }
            WriterKind::Arrow(writer) => writer.write(batch).map_err(|error| failed(&self.path, &error))?,
            WriterKind::Text { to, lines } => {
                let mut text = Vec::new();
                lines(batch, &mut text)?;
                to.write_all(&text).map_err(|error| trouble("written", &self.path, &error))?;
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Copied> {
        let Self { kind, path } = self;
        let to = match kind {
            WriterKind::Parquet(writer) => writer.into_inner().map_err(|error| failed(&path, &error))?,
            WriterKind::Arrow(mut writer) => {
                writer.finish().map_err(|error| failed(&path, &error))?;
                writer.into_inner().map_err(|error| failed(&path, &error))?
            }
            WriterKind::Text { to, .. } => to,
        };
        let output = to.into_inner().map_err(|error| trouble("written", &path, error.error()))?;
        output.commit(path, 0)
    }
}

/// zstd, and no dictionary where values hardly ever repeat.
fn properties(schema: &SchemaRef) -> Result<WriterProperties> {
    let level = ZstdLevel::try_new(3).map_err(|error| internal(error.to_string()))?;
    let mut builder = WriterProperties::builder().set_compression(Compression::ZSTD(level));
    for field in schema.fields() {
        let path = match field.data_type() {
            ArrowType::FixedSizeList(..) => vec![field.name().clone(), "list".to_owned(), "element".to_owned()],
            ArrowType::FixedSizeBinary(_) => vec![field.name().clone()],
            _ => continue,
        };
        builder = builder.set_column_dictionary_enabled(ColumnPath::new(path), false);
    }
    Ok(builder.build())
}

/// The writers hide the system's error in theirs.
fn failed(path: &Path, error: &(dyn std::error::Error + 'static)) -> Error {
    let mut cause = Some(error);
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            return trouble("written", path, io);
        }
        cause = inner.source();
    }
    Error::new(Kind::Storage, format!("{} could not be written: {}", path.display(), chain(error)))
        .with("storage_path", path.display().to_string())
}
