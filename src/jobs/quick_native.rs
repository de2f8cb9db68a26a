//! QUICK verification of a native backup: a sample of its segments, decoded whole. A segment's fields have to have the
//! same rows; where all are looked at, those that live have to be as many as the manifest says.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::agree::Contradiction;
use super::control::Control;
use super::pieces::{Piece, Pieces, Wanted};
use super::quick::Sample;
use super::read::blocking;
use crate::error::{Error, Kind, Result};
use crate::repository::Backup;
use crate::schema::Collection;

/// Segments that are decoded at once.
const AT_ONCE: usize = 2;
/// Rows that are decoded at once.
const BATCH_ROWS: usize = 8192;

/// Looks at a sample of the segments; the numbers for the outcome's details, and what is wrong.
///
/// # Errors
/// What kept it from looking; damage is none.
pub(super) async fn look(
    backup: &Backup,
    collection: &Collection,
    sample: Sample,
    fail_fast: bool,
    control: &Control,
) -> Result<(BTreeMap<String, Value>, Vec<Contradiction>)> {
    let Pieces { all: pieces, promised, .. } = match Pieces::of(backup, collection, None).await {
        Err(error) if error.kind() == Kind::BackupCorrupted => return Ok((BTreeMap::new(), contradictions(&error))),
        pieces => pieces?,
    };
    let wanted = Arc::new(Wanted { schema: collection.schema.clone(), columns: None, filter: None });
    let (all, chosen) = (pieces.len(), choose(pieces, sample));
    let checked = chosen.len();
    let mut living: BTreeMap<String, u64> = BTreeMap::new();
    let mut wrong = Vec::new();
    let mut proofs = futures::stream::iter(chosen)
        .map(|piece| {
            let wanted = Arc::clone(&wanted);
            async move { (piece.partition.clone(), prove(backup, &piece, wanted).await) }
        })
        .buffer_unordered(AT_ONCE);
    while let Some((partition, found)) = proofs.next().await {
        match found {
            Ok(rows) => {
                control.advance(rows, 0);
                *living.entry(partition).or_default() += rows;
            }
            Err(error) if error.kind() == Kind::BackupCorrupted => {
                wrong.extend(contradictions(&error));
                if fail_fast {
                    break;
                }
            }
            Err(error) => return Err(error),
        }
    }
    if wrong.is_empty() && checked == all {
        for (partition, promise) in &promised {
            let found = living.get(partition).copied().unwrap_or_default();
            if let Some(rows) = promise.rows.filter(|rows| *rows != found) {
                wrong.push(Contradiction {
                    file: "metadata.json".to_owned(),
                    error: format!(
                        "{found} rows of partition {partition} live in the files where the manifest promises {rows}"
                    ),
                });
            }
        }
    }
    let rows: u64 = living.values().sum();
    let details = [
        ("segments", json!(all)),
        ("segments_checked", json!(checked)),
        ("rows_checked", json!(rows)),
        ("sample_size", json!(sample.percent)),
        ("seed", json!(sample.seed)),
    ];
    Ok((details.map(|(name, value)| (name.to_owned(), value)).into(), wrong))
}

/// Decodes all rows of a segment; how many of them live.
async fn prove(backup: &Backup, piece: &Piece, wanted: Arc<Wanted>) -> Result<u64> {
    let opened = piece.open(backup, &wanted, false).await?;
    blocking(move || {
        let mut rows = 0;
        for batch in opened.rows(&wanted, BATCH_ROWS)? {
            rows += batch?.num_rows() as u64;
        }
        Ok(rows)
    })
    .await
}

fn contradictions(error: &Error) -> Vec<Contradiction> {
    let files = error.details().get("failed_files").and_then(Value::as_array).cloned().unwrap_or_default();
    let named = files.iter().filter_map(Value::as_str);
    named.map(|file| Contradiction { file: file.to_owned(), error: error.message().to_owned() }).collect()
}

/// A sample, at least one where there are any: those whose hash with the seed is lowest.
fn choose(mut pieces: Vec<Piece>, sample: Sample) -> Vec<Piece> {
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // far from 2^53
    let wanted = (pieces.len() as f64 * sample.percent / 100.0).ceil().max(1.0) as usize;
    pieces.sort_by_cached_key(|piece| xxh3_64_with_seed(piece.name().as_bytes(), sample.seed));
    pieces.truncate(wanted);
    pieces
}
