//! `chunks.json` and `checksums.json`: the chunk table and the list of files.
//!
//! Both are input that somebody else may have written: paths are [`RelativePath`]s, counts and lengths are bounded,
//! and a key or path that comes twice is refused.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::checksum::{ChecksumAlgorithm, is_hex};
use crate::error::{Error, Kind, Result, internal};

use super::names::{RelativePath, check_name};

/// The file list's name in a backup's folder.
pub const CHECKSUMS_FILE: &str = "checksums.json";
/// The chunk table's name in a backup's folder.
pub const CHUNKS_FILE: &str = "chunks.json";
/// The schema's name in a backup's folder.
pub const SCHEMA_FILE: &str = "schema.json";
/// The name of the file with the last verification.
pub const VERIFICATION_FILE: &str = "verification.json";
/// A larger table is refused before it is read.
pub const CEILING: u64 = 256 << 20;
/// No backup has more files than this.
pub const MOST_FILES: usize = 1_000_000;
/// No chunk has more rows or bytes than this, so that those of all chunks can be added up.
pub const LARGEST_CHUNK: u64 = 1 << 40;

/// One file, as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSum {
    /// Its length.
    pub bytes: u64,
    /// Its checksum, lower-case hex.
    pub checksum: String,
}

/// `checksums.json`: every file of the backup but the manifest, itself and `verification.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksums {
    /// Which checksum.
    pub algorithm: ChecksumAlgorithm,
    /// Path → length and checksum.
    #[serde(deserialize_with = "unique_map")]
    pub files: BTreeMap<RelativePath, FileSum>,
}

impl Checksums {
    /// An empty list.
    #[must_use]
    pub fn new(algorithm: ChecksumAlgorithm) -> Self {
        Self { algorithm, files: BTreeMap::new() }
    }

    /// The file's bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        to_json(self)
    }

    /// Reads and checks the file.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let sums: Self = from_json(CHECKSUMS_FILE, bytes)?;
        for (path, sum) in &sums.files {
            if !is_hex(&sum.checksum, sums.algorithm.hex_length()) {
                return Err(damaged(CHECKSUMS_FILE, &format!("has for {path} what is no {} checksum", sums.algorithm)));
            }
            if matches!(path.as_str(), super::manifest::FILE | CHECKSUMS_FILE | VERIFICATION_FILE) {
                return Err(damaged(CHECKSUMS_FILE, &format!("lists {path}, which it cannot vouch for")));
            }
        }
        Ok(sums)
    }
}

/// One chunk: a data file, and what is in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChunkEntry {
    /// The data file, below the backup's folder.
    pub file: RelativePath,
    /// The partition that the rows belong to.
    pub partition: String,
    /// How many rows.
    pub rows: u64,
    /// Their size in Arrow, in bytes.
    pub bytes: u64,
    /// The file's length.
    pub file_bytes: u64,
    /// The lowest primary key, a number or a string; null where there are no rows.
    #[serde(default)]
    pub lowest: Value,
    /// The highest primary key.
    #[serde(default)]
    pub highest: Value,
    /// The set digest of the rows, 32 hex digits.
    pub digest: String,
}

impl ChunkEntry {
    /// The share of the file that so many of its rows take.
    #[must_use]
    pub fn weight(&self, rows: u64) -> u64 {
        self.file_bytes.saturating_mul(rows) / self.rows.max(1)
    }
}

/// `chunks.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChunkTable {
    /// All chunks.
    pub chunks: Vec<ChunkEntry>,
}

impl ChunkTable {
    /// The file's bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        to_json(self)
    }

    /// Reads and checks the file.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let table: Self = from_json(CHUNKS_FILE, bytes)?;
        if table.chunks.len() > MOST_FILES {
            return Err(damaged(CHUNKS_FILE, "has over a million chunks"));
        }
        let mut seen = HashSet::new();
        for chunk in &table.chunks {
            if !seen.insert(&chunk.file) {
                return Err(damaged(CHUNKS_FILE, &format!("lists {} twice", chunk.file)));
            }
            check_chunk(chunk)?;
        }
        Ok(table)
    }
}

/// Whether a chunk is one that a chunk table may hold.
pub(super) fn check_chunk(chunk: &ChunkEntry) -> Result<()> {
    if !chunk.file.as_str().starts_with("data/") {
        return Err(damaged(CHUNKS_FILE, &format!("has a chunk outside data/: {}", chunk.file)));
    }
    check_name("partition", &chunk.partition).map_err(|error| damaged(CHUNKS_FILE, error.message()))?;
    if [chunk.rows, chunk.bytes, chunk.file_bytes].into_iter().any(|number| number > LARGEST_CHUNK) {
        return Err(damaged(CHUNKS_FILE, &format!("has for {} a number that no chunk has", chunk.file)));
    }
    if !is_hex(&chunk.digest, 32) {
        return Err(damaged(CHUNKS_FILE, &format!("has for {} a digest that is not 32 hex digits", chunk.file)));
    }
    for key in [&chunk.lowest, &chunk.highest] {
        if !(key.is_null() || key.is_string() || key.is_i64()) {
            return Err(damaged(CHUNKS_FILE, &format!("has for {} a key that is none", chunk.file)));
        }
    }
    Ok(())
}

/// A map in which no key may come twice, of at most [`MOST_FILES`] entries.
pub(super) fn unique_map<'de, D, K, V>(deserializer: D) -> std::result::Result<BTreeMap<K, V>, D::Error>
where
    D: Deserializer<'de>,
    K: Deserialize<'de> + Ord + fmt::Debug,
    V: Deserialize<'de>,
{
    struct Unique<K, V>(PhantomData<(K, V)>);

    impl<'de, K, V> Visitor<'de> for Unique<K, V>
    where
        K: Deserialize<'de> + Ord + fmt::Debug,
        V: Deserialize<'de>,
    {
        type Value = BTreeMap<K, V>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map without repeated keys")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> std::result::Result<Self::Value, A::Error> {
            let mut map = BTreeMap::new();
            while let Some(key) = access.next_key::<K>()? {
                if map.contains_key(&key) {
                    return Err(A::Error::custom(format!("{key:?} comes twice")));
                }
                if map.len() == MOST_FILES {
                    return Err(A::Error::custom("over a million entries"));
                }
                let value = access.next_value()?;
                map.insert(key, value);
            }
            Ok(map)
        }
    }

    deserializer.deserialize_map(Unique(PhantomData))
}

fn to_json(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|error| internal(format!("a table cannot be written as JSON: {error}")))?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn from_json<T: for<'de> Deserialize<'de>>(file: &str, bytes: &[u8]) -> Result<T> {
    if bytes.len() as u64 > CEILING {
        return Err(damaged(file, "is over 256 MiB long"));
    }
    serde_json::from_slice(bytes)
        .map_err(|error| damaged(file, &format!("is truncated or not what it has to be ({error})")))
}

fn damaged(file: &str, what: &str) -> Error {
    Error::new(Kind::BackupCorrupted, format!("{file} {what}")).with("failed_files", vec![file])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sum() -> String {
        ChecksumAlgorithm::Md5.of(b"x")
    }

    #[test]
    fn tables_come_back_as_they_were_written() {
        let mut sums = Checksums::new(ChecksumAlgorithm::Md5);
        sums.files.insert("data/a.parquet".parse().unwrap(), FileSum { bytes: 7, checksum: sum() });
        assert_eq!(Checksums::parse(&sums.to_bytes().unwrap()).unwrap(), sums);
        let chunk = ChunkEntry {
            file: "data/a.parquet".parse().unwrap(),
            partition: "_default".to_owned(),
            rows: 1,
            bytes: 2,
            file_bytes: 3,
            lowest: Value::from(i64::MIN),
            highest: Value::from("\0 'quoted' \u{1f600}"),
            digest: sum(),
        };
        let table = ChunkTable { chunks: vec![chunk] };
        assert_eq!(ChunkTable::parse(&table.to_bytes().unwrap()).unwrap(), table);
    }

    #[test]
    fn paths_that_come_twice_or_lead_elsewhere_are_refused() {
        let entry = format!(r#"{{"bytes": 1, "checksum": "{}"}}"#, sum());
        let with = |files: &str| format!(r#"{{"algorithm": "MD5", "files": {{{files}}}}}"#);
        assert!(Checksums::parse(with(&format!(r#""a": {entry}, "b": {entry}"#)).as_bytes()).is_ok());
        for files in [
            format!(r#""a": {entry}, "a": {entry}"#),
            format!(r#""../a": {entry}"#),
            format!(r#""/etc/passwd": {entry}"#),
            format!(r#""metadata.json": {entry}"#),
            format!(r#""checksums.json": {entry}"#),
            r#""a": {"bytes": 1, "checksum": "xyz"}"#.to_owned(),
            format!(r#""a": {{"bytes": -1, "checksum": "{}"}}"#, sum()),
        ] {
            let error = Checksums::parse(with(&files).as_bytes()).unwrap_err();
            assert_eq!(error.kind(), Kind::BackupCorrupted, "{files}");
        }
    }

    #[test]
    fn chunks_outside_data_or_listed_twice_are_refused() {
        let chunk = |file: &str, key: &str| {
            let digest = sum();
            format!(
                r#"{{"file": "{file}", "partition": "p", "rows": 1, "bytes": 1, "file_bytes": 1, "lowest": {key}, "highest": {key}, "digest": "{digest}"}}"#
            )
        };
        let parse =
            |chunks: &[String]| ChunkTable::parse(format!(r#"{{"chunks": [{}]}}"#, chunks.join(",")).as_bytes());
        assert!(parse(&[chunk("data/a", "1"), chunk("data/b", "\"k\"")]).is_ok());
        assert!(parse(&[chunk("data/a", "1"), chunk("data/a", "1")]).is_err());
        assert!(parse(&[chunk("data/../../a", "1")]).is_err());
        assert!(parse(&[chunk("schema.json", "1")]).is_err());
        assert!(parse(&[chunk("data/a", "[1]")]).is_err());
        let many = chunk("data/a", "1").replace(r#""rows": 1"#, r#""rows": 18446744073709551615"#);
        assert!(parse(&[many]).is_err());
    }

    proptest! {
        #[test]
        fn random_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Checksums::parse(&bytes).is_err());
            prop_assert!(ChunkTable::parse(&bytes).is_err());
        }
    }
}
