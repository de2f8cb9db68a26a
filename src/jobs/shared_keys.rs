//! Whether partitions of a backup share primary keys, each with a row of its own, as Milvus allows.

use std::collections::HashMap;

use xxhash_rust::xxh3::xxh3_128;

use super::load::Rows;
use super::read::EXAMPLES;
use crate::error::{Result, internal};
use crate::milvus::{Key, keys};
use crate::repository::Backup;

/// Keys that are held at once, by hashes of some 35 bytes each; more are looked at in several passes.
const MOST_KEYS: u64 = 1_800_000;
const BATCH_ROWS: usize = 16_384;

/// Some of the keys that are in several partitions, each with the names of two of them.
///
/// # Errors
/// As reading the rows.
pub(super) async fn examples(rows: &Rows, backup: &Backup, key: &str) -> Result<Vec<(Key, [String; 2])>> {
    let rows = rows.columns(&[key]);
    let passes = rows.most().div_ceil(MOST_KEYS).max(1);
    let mut found = Vec::new();
    for pass in 0..passes {
        look(&rows, backup, key, (pass, passes), &mut found).await?;
        if found.len() >= EXAMPLES {
            break;
        }
    }
    Ok(found)
}

/// Looks at the keys of one pass until enough are found.
async fn look(
    rows: &Rows,
    backup: &Backup,
    name: &str,
    (pass, passes): (u64, u64),
    found: &mut Vec<(Key, [String; 2])>,
) -> Result<()> {
    let partitions = rows.partitions();
    let mut seen = Seen { hashes: HashMap::new(), pass, passes };
    for (partition, own) in partitions.iter().enumerate() {
        for piece in rows.pieces(own) {
            let mut batches = rows.open(backup, piece, Some(BATCH_ROWS)).await?;
            while let Some(batch) = batches.next().await? {
                let column = batch.column_by_name(name).ok_or_else(|| internal("the rows have no keys"))?;
                for key in keys(column)? {
                    let Some(first) = seen.elsewhere(&key, partition) else { continue };
                    found.push((key, [partitions[first].clone(), own.clone()]));
                    if found.len() >= EXAMPLES {
                        return Ok(());
                    }
                }
            }
        }
    }
    Ok(())
}

/// The keys of one pass, and the first partition of each.
struct Seen {
    hashes: HashMap<u128, usize>,
    pass: u64,
    passes: u64,
}

impl Seen {
    /// The other partition that a key of this pass was in before.
    fn elsewhere(&mut self, key: &Key, partition: usize) -> Option<usize> {
        let hash = match key {
            Key::Int(number) => xxh3_128(&number.to_le_bytes()),
            Key::Text(text) => xxh3_128(text.as_bytes()),
        };
        if hash % u128::from(self.passes) != u128::from(self.pass) {
            return None;
        }
        Some(*self.hashes.entry(hash).or_insert(partition)).filter(|first| *first != partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shared_key_is_found_in_one_of_several_passes() {
        let text = |number: i64| Key::Text(number.to_string());
        for key in [&Key::Int as &dyn Fn(i64) -> Key, &text] {
            let mut found = Vec::new();
            for pass in 0..3 {
                let mut seen = Seen { hashes: HashMap::new(), pass, passes: 3 };
                let partitions = [0..500, 490..700, 495..496];
                for (partition, numbers) in partitions.into_iter().enumerate() {
                    found.extend(numbers.filter_map(|number| Some((number, seen.elsewhere(&key(number), partition)?))));
                }
                assert!((100..400).contains(&seen.hashes.len()), "{} of 700", seen.hashes.len());
            }
            found.sort_unstable();
            let expected: Vec<_> = (490..500).chain([495]).map(|number| (number, 0)).collect();
            assert_eq!(found.len(), 11);
            assert!(found.iter().all(|shared| expected.contains(shared)), "{found:?}");
        }
    }
}
