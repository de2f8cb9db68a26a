//! Reading all rows of a partition, or of a range of its keys, in primary-key order.
//!
//! Pages are asked for by `key > last`, with the parameters that make 2.3.5 merge shards quickly (`iterator`,
//! `reduce_stop_for_best`) and that keep Milvus Lite from losing rows (without `iterator` its pages are unsorted: 12,005
//! of 21,000 came back). Nothing here trusts a server to be complete: keys must increase strictly, and the caller holds
//! the number of rows against [`Client::count`].

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, RecordBatch};
use arrow_schema::SchemaRef;
use tokio_util::task::AbortOnDropHandle;

use super::client::{Client, ServerKind, rpc};
use super::key::{Key, KeyRange};
use super::{decode, key, proto, status};
use crate::error::{Error, Kind, Result, internal};
use crate::schema::{CollectionSchema, DataType, Field};

/// What to read.
#[derive(Debug, Clone)]
pub struct ScanRequest {
    /// The collection.
    pub collection: String,
    /// Its schema; all stored fields are read.
    pub schema: Arc<CollectionSchema>,
    /// One partition, or all rows. With a partition key, 2.3.5 refuses to have partitions named.
    pub partition: Option<String>,
    /// The keys to read.
    pub range: KeyRange,
    /// Of those keys, only these, where they are named.
    pub among: Option<Arc<Vec<Key>>>,
    /// From [`Client::read_timestamp`]: the rows to be seen at least. One for all pages: measured, asking for strong
    /// consistency page by page costs two thirds of the speed.
    pub timestamp: u64,
}

impl ScanRequest {
    /// The same rows, but only their keys.
    ///
    /// # Errors
    /// [`Kind::Internal`] for a schema without a primary key.
    pub fn keys_only(&self) -> Result<Self> {
        let key = self.schema.primary_key()?.clone();
        let schema = CollectionSchema {
            description: String::new(),
            enable_dynamic_field: false,
            fields: vec![key],
            functions: Vec::new(),
        };
        Ok(Self { schema: Arc::new(schema), ..self.clone() })
    }

    /// `range` as a filter on the field `key`, and what else narrows the rows.
    fn filter(&self, key: &str, range: &KeyRange) -> String {
        let range = range.filter(key);
        match &self.among {
            None => range,
            Some(keys) if range.is_empty() => key::one_of(key, keys),
            Some(keys) => format!("{range} and ({})", key::one_of(key, keys)),
        }
    }

    fn partitions(&self) -> Vec<String> {
        self.partition.iter().cloned().collect()
    }
}

/// How many rows to ask for at once.
#[derive(Debug)]
struct PageSize {
    target_bytes: usize,
    max_rows: usize,
    row_bytes: usize,
}

impl PageSize {
    fn new(kind: ServerKind, row_bytes: usize) -> Self {
        match kind {
            // 2.3.5 refuses offset + limit above 16,384; about 4 MiB a page was fastest (8k rows of 128 floats).
            ServerKind::Server => Self { target_bytes: 4 << 20, max_rows: 16_384, row_bytes },
            // Lite walks the whole collection for each page: few and large ones, well under its 256 MiB a message.
            ServerKind::Lite => Self { target_bytes: 32 << 20, max_rows: 1 << 20, row_bytes },
        }
    }

    fn rows(&self) -> usize {
        (self.target_bytes / self.row_bytes.max(1)).clamp(1, self.max_rows)
    }

    /// Learns from a page how wide rows are. Rises at once, falls slowly, so that one narrow page does not make the
    /// next one too large.
    fn observe(&mut self, rows: usize, bytes: usize) {
        if let Some(seen) = bytes.checked_div(rows) {
            self.row_bytes = if seen > self.row_bytes { seen } else { (self.row_bytes * 3 + seen) / 4 };
        }
    }

    /// After an answer that was too large: half as many rows, and remembered as rows twice as wide.
    fn halve(&mut self, rows: usize) {
        self.row_bytes = (self.target_bytes / (rows / 2).max(1)).max(1);
    }
}

/// Reads rows page by page. While the caller works on one page, the next is on its way.
pub struct Scanner {
    client: Client,
    request: ScanRequest,
    arrow: SchemaRef,
    key: Field,
    rest: KeyRange,
    size: PageSize,
    pending: Option<(usize, AbortOnDropHandle<Result<proto::QueryResults>>)>,
    finished: bool,
}

impl Scanner {
    /// A reader of what `request` asks for; nothing is sent before the first [`Scanner::next`].
    pub fn new(client: Client, request: ScanRequest) -> Result<Self> {
        let size = PageSize::new(client.kind(), request.schema.estimated_row_bytes());
        Ok(Self {
            arrow: request.schema.arrow()?,
            key: request.schema.primary_key()?.clone(),
            rest: request.range.clone(),
            client,
            request,
            size,
            pending: None,
            finished: false,
        })
    }

    /// The next rows in key order, or `None` at the end.
    ///
    /// # Errors
    /// [`Kind::Server`] for what the server or the way to it does wrong: an answer that does not fit the schema, keys
    /// out of order, a row too large for any message.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        if self.finished {
            return Ok(None);
        }
        let answer = self.page().await?;
        let mut columns = answer.fields_data;
        let Some(rows) = self.row_count(&columns)? else {
            self.finished = true;
            return Ok(None);
        };
        let keys = self.take_column(&mut columns, &self.key, rows)?;
        let last = self.check_order(&keys)?;
        self.rest = self.rest.above(last.clone());
        if self.rest.upto.as_ref() == Some(&last) {
            self.finished = true;
        } else {
            self.fetch();
        }
        let mut arrays = Vec::with_capacity(self.arrow.fields().len());
        for field in self.request.schema.stored_fields() {
            arrays.push(if field.name == self.key.name {
                Arc::clone(&keys)
            } else {
                self.take_column(&mut columns, field, rows)?
            });
        }
        let batch = RecordBatch::try_new(Arc::clone(&self.arrow), arrays).map_err(|error| {
            Error::new(
                Kind::Server,
                format!("the answer does not fit the schema of '{}': {error}", self.request.collection),
            )
        })?;
        self.size.observe(rows, batch_bytes(&batch));
        Ok(Some(batch))
    }

    /// The page after the last one, asked for again with fewer rows as long as it is too large.
    async fn page(&mut self) -> Result<proto::QueryResults> {
        loop {
            if self.pending.is_none() {
                self.fetch();
            }
            let (rows, pending) = self.pending.take().ok_or_else(|| internal("no page was asked for"))?;
            match pending.await.map_err(|error| internal(format!("the task that fetches a page ended: {error}")))? {
                Err(error) if status::too_large(&error) && rows > 1 => self.size.halve(rows),
                Err(error) if status::too_large(&error) => {
                    let filter = self.rest.filter(&self.key.name);
                    return Err(error.context(format!(
                        "one row of '{}' (the first with {filter}) is larger than the server's message limit",
                        self.request.collection
                    )));
                }
                outcome => return outcome,
            }
        }
    }

    fn fetch(&mut self) {
        let limit = self.size.rows();
        let mut params = vec![("limit", limit.to_string()), ("iterator", "True".to_owned())];
        if self.client.kind() == ServerKind::Server {
            params.push(("reduce_stop_for_best", "True".to_owned()));
        }
        let names = self.request.schema.stored_fields().map(|field| field.name.clone()).collect();
        let filter = self.request.filter(&self.key.name, &self.rest);
        let query = query(&self.client, &self.request, filter, names, &params);
        let client = self.client.clone();
        let doing = format!("reading '{}'", self.request.collection);
        let task = tokio::spawn(async move { client.ask_loaded(&doing, rpc!(query, query)).await });
        self.pending = Some((limit, AbortOnDropHandle::new(task)));
    }

    /// How many rows an answer has; `None` where it has none.
    fn row_count(&self, columns: &[proto::FieldData]) -> Result<Option<usize>> {
        let Some(keys) = columns.iter().find(|column| column.field_name == self.key.name) else {
            return if columns.is_empty() { Ok(None) } else { Err(self.lacks(&self.key.name)) };
        };
        let count = match &keys.field {
            Some(proto::field_data::Field::Scalars(proto::ScalarField { data: Some(data) })) => match data {
                proto::scalar_field::Data::LongData(array) => array.data.len(),
                proto::scalar_field::Data::StringData(array) => array.data.len(),
                _ => 0,
            },
            _ => 0,
        };
        Ok((count > 0).then_some(count))
    }

    fn lacks(&self, field: &str) -> Error {
        Error::new(Kind::Server, format!("the server's answer for '{}' lacks field '{field}'", self.request.collection))
    }

    /// Takes a field's column out of the answer. By name: 2.3.5 sends columns in random order, and Lite without ids.
    fn take_column(
        &self,
        columns: &mut Vec<proto::FieldData>,
        field: &Field,
        rows: usize,
    ) -> Result<arrow_array::ArrayRef> {
        let found =
            columns.iter().position(|column| column.field_name == field.name || (field.dynamic && column.is_dynamic));
        let data = match found {
            Some(position) => columns.swap_remove(position),
            None if field.dynamic => proto::FieldData::default(),
            None => return Err(self.lacks(&field.name)),
        };
        decode::column(field, data, rows)
    }

    /// The page's last key, after a check that keys increase strictly, from the last page's on.
    fn check_order(&self, keys: &arrow_array::ArrayRef) -> Result<Key> {
        let disorder = |at: usize| {
            Error::new(Kind::Server, format!("the server sent the keys of '{}' out of order (row {at} of a page): nothing that it sent can be trusted to be complete", self.request.collection)).temporary()
        };
        let count = keys.len();
        if let Some(array) = keys.as_primitive_opt::<Int64Type>() {
            let values = array.values();
            let before = if let Some(Key::Int(key)) = self.rest.after { Some(key) } else { None };
            if before.is_some_and(|before| values[0] <= before) {
                return Err(disorder(0));
            }
            if let Some(at) = values.windows(2).position(|pair| pair[0] >= pair[1]) {
                return Err(disorder(at + 1));
            }
            return Ok(Key::Int(values[count - 1]));
        }
        let array = keys.as_string_opt::<i32>().ok_or_else(|| internal("keys are neither int64 nor varchar"))?;
        let mut before = if let Some(Key::Text(key)) = &self.rest.after { Some(key.as_str()) } else { None };
        for row in 0..count {
            let key = array.value(row);
            if before.is_some_and(|before| key.as_bytes() <= before.as_bytes()) {
                return Err(disorder(row));
            }
            before = Some(key);
        }
        Ok(Key::Text(array.value(count - 1).to_owned()))
    }
}

/// The bytes that a batch's values take, whatever larger buffers they are slices of.
fn batch_bytes(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(|column| column.to_data().get_slice_memory_size().unwrap_or(0)).sum()
}

fn query(
    client: &Client,
    request: &ScanRequest,
    expr: String,
    output_fields: Vec<String>,
    params: &[(&str, String)],
) -> proto::QueryRequest {
    proto::QueryRequest {
        db_name: client.db(),
        collection_name: request.collection.clone(),
        expr,
        output_fields,
        partition_names: request.partitions(),
        guarantee_timestamp: request.timestamp,
        query_params: params
            .iter()
            .map(|(key, value)| proto::KeyValuePair { key: (*key).to_owned(), value: value.clone() })
            .collect(),
        ..Default::default()
    }
}

impl Client {
    /// How many rows there are in the request's partition and in `range`, by the server's own `count(*)`, which counts
    /// duplicates of a key too (2.3.5).
    pub async fn count(&self, request: &ScanRequest, range: &KeyRange) -> Result<u64> {
        let key = request.schema.primary_key()?;
        let mut filter = range.filter(&key.name);
        if filter.is_empty() && self.kind() == ServerKind::Lite {
            // Without a filter, Lite counts all partitions, whichever are named. This one is always true.
            let least = if key.data_type == DataType::Int64 { i64::MIN.to_string() } else { "\"\"".to_owned() };
            filter = format!("{} >= {least}", key.name);
        }
        self.count_where(request, filter).await
    }

    pub(super) async fn count_where(&self, request: &ScanRequest, filter: String) -> Result<u64> {
        let query = query(self, request, filter, vec!["count(*)".to_owned()], &[]);
        let doing = format!("counting the rows of '{}'", request.collection);
        let answer = self.ask_loaded(&doing, rpc!(query, query)).await?;
        let count = answer.fields_data.into_iter().next().and_then(|column| match column.field {
            Some(proto::field_data::Field::Scalars(proto::ScalarField {
                data: Some(proto::scalar_field::Data::LongData(array)),
            })) => array.data.first().copied(),
            _ => None,
        });
        count.and_then(|count| u64::try_from(count).ok()).ok_or_else(|| {
            Error::new(
                Kind::Server,
                format!("the server counted the rows of '{}' but told no number", request.collection),
            )
        })
    }
}

/// Two ranges of about as many rows that together hold every key, for reading side by side; one range where keys are
/// text or no balanced split is found with a few counts.
pub async fn split(client: &Client, request: &ScanRequest, rows: u64) -> Result<Vec<KeyRange>> {
    let whole = vec![KeyRange::default()];
    let Some(Key::Int(lowest)) = first_key(client, request).await? else { return Ok(whole) };
    let key = request.schema.primary_key()?.name.clone();
    let (few, many) = (rows * 2 / 5, rows * 3 / 5);
    // Find the power of two within which half the keys lie, then halve that interval.
    let start = rows.max(2).ilog2();
    let (mut low, mut high) = (lowest, i64::MAX);
    for exponent in start..63 {
        let middle = lowest.saturating_add(1 << exponent);
        let below = client.count_where(request, format!("{key} <= {middle}")).await?;
        if (few..=many).contains(&below) {
            return Ok(halves(middle));
        }
        if below > many {
            high = middle;
            break;
        }
        low = middle;
    }
    for _ in 0..24 {
        let middle = low + high.saturating_sub(low) / 2;
        if middle <= low || middle >= high {
            break;
        }
        let below = client.count_where(request, format!("{key} <= {middle}")).await?;
        if (few..=many).contains(&below) {
            return Ok(halves(middle));
        }
        if below > many { high = middle } else { low = middle }
    }
    Ok(whole)
}

fn halves(middle: i64) -> Vec<KeyRange> {
    let middle = Key::Int(middle);
    vec![KeyRange { after: None, upto: Some(middle.clone()) }, KeyRange { after: Some(middle), upto: None }]
}

async fn first_key(client: &Client, request: &ScanRequest) -> Result<Option<Key>> {
    let mut scanner = Scanner::new(client.clone(), request.keys_only()?)?;
    scanner.size.max_rows = 1;
    // One page only: asking for the next is left to `next`, which `page` alone does not do.
    let answer = scanner.page().await?;
    let mut columns = answer.fields_data;
    let Some(rows) = scanner.row_count(&columns)? else { return Ok(None) };
    let keys = scanner.take_column(&mut columns, &scanner.key, rows)?;
    Ok(keys.as_primitive_opt::<Int64Type>().map(|array| Key::Int(array.value(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_for_every_key_that_is_named() {
        let request = ScanRequest {
            collection: "c".into(),
            schema: Arc::new(crate::parquet::samples::every_type()),
            partition: None,
            range: KeyRange::default(),
            among: Some(Arc::new(vec![Key::Int(i64::MIN), Key::Int(3)])),
            timestamp: 0,
        };
        let range = KeyRange { after: Some(Key::Int(i64::MIN)), upto: Some(Key::Int(3)) };
        let lowest = Key::Int(i64::MIN);
        assert_eq!(
            request.filter("id", &range),
            format!("id > {lowest} and id <= 3 and (id in [3] or id == {lowest})")
        );
    }

    #[test]
    fn pages_of_128_floats_are_about_four_mebibytes() {
        let size = PageSize::new(ServerKind::Server, 128 * 4 + 8);
        assert!((7_500..=8_200).contains(&size.rows()), "{}", size.rows());
    }

    #[test]
    fn narrow_rows_stay_under_the_limit_of_2_3_5() {
        assert_eq!(PageSize::new(ServerKind::Server, 9).rows(), 16_384);
    }

    #[test]
    fn a_row_wider_than_a_page_is_asked_for_alone() {
        assert_eq!(PageSize::new(ServerKind::Server, 100 << 20).rows(), 1);
    }

    #[test]
    fn too_large_halves_until_one() {
        let mut size = PageSize::new(ServerKind::Server, 9);
        let mut rows = size.rows();
        while rows > 1 {
            size.halve(rows);
            assert!(size.rows() <= rows.div_ceil(2).max(1), "{} after {rows}", size.rows());
            rows = size.rows();
        }
    }

    #[test]
    fn one_narrow_page_does_not_blow_up_the_next() {
        let mut size = PageSize::new(ServerKind::Server, 4_000);
        let before = size.rows();
        size.observe(100, 100);
        assert!(size.rows() < before * 2);
    }
}
