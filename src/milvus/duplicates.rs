//! Why a count is higher than the rows that were read: keys that occur more than once (Insert does not deduplicate, and
//! Query shows one of each), or rows that the server hid.

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;

use super::client::Client;
use super::key::{Key, KeyRange};
use super::scan::{ScanRequest, Scanner};
use crate::error::{Result, internal};

/// What a search for duplicates found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Duplicates {
    /// Keys that occur more than once, and how often, in key order.
    pub keys: Vec<(Key, u64)>,
    /// Rows that the server counts and shows under no key.
    pub hidden: u64,
    /// Whether the search ended early, at the number of keys that was asked for.
    pub partial: bool,
}

/// Looks for duplicates in what `request` covers, up to `limit` keys. Counts each page of keys, and halves those
/// where the count is higher than the keys: a few counts for each duplicate.
pub async fn duplicates(client: &Client, request: &ScanRequest, limit: usize) -> Result<Duplicates> {
    let mut found = Duplicates::default();
    let mut scanner = Scanner::new(client.clone(), request.keys_only()?)?;
    let mut after = request.range.after.clone();
    while let Some(page) = scanner.next().await? {
        let keys = keys(page.column(0))?;
        let last = keys.last().cloned();
        search(client, request, after, &keys, limit, &mut found).await?;
        if found.partial {
            return Ok(found);
        }
        after = last;
    }
    let rest = KeyRange { after, upto: request.range.upto.clone() };
    found.hidden += client.count(request, &rest).await?;
    Ok(found)
}

/// A key column's keys.
///
/// # Errors
/// [`crate::error::Kind::Internal`] where they are neither int64 nor varchar.
pub fn keys(column: &arrow_array::ArrayRef) -> Result<Vec<Key>> {
    if let Some(array) = column.as_primitive_opt::<Int64Type>() {
        return Ok(array.values().iter().map(|key| Key::Int(*key)).collect());
    }
    let array = column.as_string_opt::<i32>().ok_or_else(|| internal("keys are neither int64 nor varchar"))?;
    Ok(array.iter().flatten().map(|key| Key::Text(key.to_owned())).collect())
}

/// Looks at `keys`, all that were shown above `after` and up to the last of them.
async fn search(
    client: &Client,
    request: &ScanRequest,
    after: Option<Key>,
    keys: &[Key],
    limit: usize,
    found: &mut Duplicates,
) -> Result<()> {
    let mut todo = vec![(after, keys)];
    while let Some((after, keys)) = todo.pop() {
        let [.., last] = keys else { continue };
        let range = KeyRange { after: after.clone(), upto: Some(last.clone()) };
        let counted = client.count(request, &range).await?;
        let shown = u64::try_from(keys.len()).unwrap_or(u64::MAX);
        if counted <= shown {
            continue;
        }
        if let [key] = keys {
            let name = &request.schema.primary_key()?.name;
            let same = client.count_where(request, format!("{name} == {key}")).await?;
            if same > 1 {
                found.keys.push((key.clone(), same));
            }
            found.hidden += counted.saturating_sub(same);
            if found.keys.len() >= limit {
                found.partial = true;
                return Ok(());
            }
            continue;
        }
        let (low, high) = keys.split_at(keys.len() / 2);
        todo.push((low.last().cloned(), high));
        todo.push((after, low));
    }
    Ok(())
}
