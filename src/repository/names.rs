//! Names and paths: what may become a folder, a file or an object key, and what is refused.
//!
//! A manifest is input that somebody else may have written. A path from one becomes a [`RelativePath`] before it is
//! used, and that type cannot hold anything which leads out of the backup's folder.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDateTime, SubsecRound, Utc};
use rand::Rng;
use serde::{Deserialize, Deserializer, Serialize};

use crate::checksum::{hex, is_hex};
use crate::error::{Error, Kind, Result};

/// The database whose collections' folders carry no prefix.
pub const DEFAULT_DATABASE: &str = "default";
/// The longest name of a file or folder, in bytes, on the file systems in use.
pub const LONGEST_NAME: usize = 255;
/// The longest relative path, in bytes. Object stores stop at 1024 for the whole key.
pub const LONGEST_PATH: usize = 768;

const TIME_FORMAT: &str = "%Y%m%dT%H%M%SZ";

/// A backup's id, for instance `b20261121T063000Z_3f9a1c`: sorts by time of creation, is a folder's name, and is valid
/// as a backup name in milvus-backup.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct BackupId(String);

impl BackupId {
    /// A new id for a backup that begins at `now`; its six random hex digits keep simultaneous ones apart.
    #[must_use]
    pub fn new(now: DateTime<Utc>) -> Self {
        let random: [u8; 3] = rand::rng().random();
        Self::from_parts(now, &hex(&random))
    }

    pub(super) fn from_parts(time: DateTime<Utc>, digits: &str) -> Self {
        Self(format!("b{}_{digits}", time.format(TIME_FORMAT)))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// When the backup began, to the second.
    #[must_use]
    pub fn time(&self) -> DateTime<Utc> {
        NaiveDateTime::parse_from_str(&self.0[1..17], TIME_FORMAT)
            .map_or(DateTime::<Utc>::MIN_UTC, |time| time.and_utc())
    }

    /// Whether `text` is a well-formed id, its date and time included.
    #[must_use]
    pub fn is_valid(text: &str) -> bool {
        let Some((time, random)) = text.strip_prefix('b').and_then(|rest| rest.split_once('_')) else {
            return false;
        };
        time.len() == 16
            && time.is_ascii()
            && is_hex(random, 6)
            && NaiveDateTime::parse_from_str(time, TIME_FORMAT)
                .is_ok_and(|parsed| parsed.format(TIME_FORMAT).to_string() == time)
    }
}

impl FromStr for BackupId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if Self::is_valid(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(invalid(format!("{text:?} is not a backup id (they look like b20261121T063000Z_3f9a1c)")))
        }
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for BackupId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A path inside a folder that cannot lead out of it: `/` between segments, no empty, `.` or `..` segment, not
/// absolute, no backslash, control character or `#` (`object_store`'s mark for unfinished files), and not too long.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct RelativePath(String);

impl RelativePath {
    /// Checks `text`; [`Kind::InvalidArgument`] says what is wrong with it.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        match Self::problem(&text) {
            None => Ok(Self(text)),
            Some(problem) => Err(invalid(format!("the path {text:?} {problem}"))),
        }
    }

    fn problem(text: &str) -> Option<&'static str> {
        if text.is_empty() {
            return Some("is empty");
        }
        if text.len() > LONGEST_PATH {
            return Some("is longer than 768 bytes");
        }
        if text.starts_with('/') {
            return Some("is absolute");
        }
        for segment in text.split('/') {
            if segment.is_empty() {
                return Some("has an empty segment");
            }
            if segment == "." || segment == ".." {
                return Some("has a segment `.` or `..`");
            }
            if segment.len() > LONGEST_NAME {
                return Some("has a segment longer than 255 bytes");
            }
            if segment.chars().any(|c| c.is_control() || matches!(c, '\\' | '#')) {
                return Some("has a backslash, a `#` or a control character");
            }
        }
        None
    }

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// This path with `rest` below it.
    pub fn join(&self, rest: &str) -> Result<Self> {
        Self::new(format!("{}/{rest}", self.0))
    }

    /// The last segment.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl fmt::Display for RelativePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for RelativePath {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for RelativePath {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

impl<'de> Deserialize<'de> for RelativePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// The folder of a collection's backups: `<collection>`, or `<database>.<collection>` where the database is not
/// `default`. [`Kind::InvalidArgument`] where a name cannot be one.
pub fn collection_folder(database: &str, collection: &str) -> Result<String> {
    check_name("database", database)?;
    check_name("collection", collection)?;
    let folder = if database == DEFAULT_DATABASE { collection.to_owned() } else { format!("{database}.{collection}") };
    if folder.len() > LONGEST_NAME {
        return Err(invalid(format!(
            "the names of database {database:?} and collection {collection:?} are together too long for a folder's name"
        ))
        .with("collection_name", collection));
    }
    Ok(folder)
}

/// Database and collection of a folder that [`collection_folder`] made; `None` for any other folder.
#[must_use]
pub fn split_folder(folder: &str) -> Option<(&str, &str)> {
    let (database, collection) = folder.split_once('.').unwrap_or((DEFAULT_DATABASE, folder));
    let named = collection_folder(database, collection).ok()?;
    (named == folder).then_some((database, collection))
}

/// Refuses a name of a collection, database, partition or field that could not safely be a file's name. `what` is used
/// in the message. Milvus itself allows letters, digits and `_` (and `$`); this only keeps out what would be unsafe or
/// ambiguous: empty, over 255 bytes, `.`, `/`, `\`, `#`, control characters.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    let problem = if name.is_empty() {
        "is empty"
    } else if name.len() > LONGEST_NAME {
        "is longer than 255 bytes"
    } else if name.chars().any(|c| c.is_control() || matches!(c, '.' | '/' | '\\' | '#')) {
        "has a dot, a slash, a backslash, a `#` or a control character"
    } else {
        return Ok(());
    };
    let error = invalid(format!("the {what} name {name:?} {problem}, so it cannot name a file of a backup"));
    Err(if what == "collection" { error.with("collection_name", name) } else { error })
}

/// Refuses a `backup_name` that is empty, over 255 bytes, or has a `/` or a control character.
pub fn check_backup_name(name: &str) -> Result<()> {
    let problem = if name.is_empty() {
        "is empty"
    } else if name.len() > LONGEST_NAME {
        "is longer than 255 bytes"
    } else if name.chars().any(|c| c.is_control() || c == '/') {
        "has a slash or a control character"
    } else {
        return Ok(());
    };
    Err(invalid(format!("the backup_name {name:?} {problem}; choose another, or leave it out"))
        .with("backup_name", name))
}

/// The `backup_name` of a backup that was given none: collection and UTC time.
#[must_use]
pub fn default_backup_name(collection: &str, now: DateTime<Utc>) -> String {
    let mut end = collection.len().min(200);
    while !collection.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}_{}", &collection[..end], now.format(TIME_FORMAT))
}

/// `data/<partition>-<index, five digits>.parquet`: where a chunk's rows go. A partition whose name would make the
/// file's name too long is shortened, with a piece of its hash to keep it apart.
pub fn data_file(partition: &str, index: usize) -> Result<RelativePath> {
    check_name("partition", partition)?;
    RelativePath::new(format!("data/{}-{index:05}.parquet", shortened(partition, 200)))
}

/// `indexes/<field>.json`.
pub fn index_file(field: &str) -> Result<RelativePath> {
    check_name("field", field)?;
    RelativePath::new(format!("indexes/{}.json", shortened(field, 200)))
}

/// `name`, or its beginning and a piece of its SHA-256 where it has more than `longest` bytes.
pub(crate) fn shortened(name: &str, longest: usize) -> String {
    if name.len() <= longest {
        return name.to_owned();
    }
    let mut end = longest - 17;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    let sum = crate::checksum::ChecksumAlgorithm::Sha256.of(name.as_bytes());
    format!("{}~{}", &name[..end], &sum[..16])
}

/// The present, to the microsecond: what Python's `datetime` can hold.
#[must_use]
pub fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

fn invalid(message: String) -> Error {
    Error::new(Kind::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_new_id_is_valid_and_sorts_by_time() {
        let early = BackupId::new("2026-11-21T06:30:00Z".parse().unwrap());
        let late = BackupId::new("2026-11-21T06:30:01Z".parse().unwrap());
        assert!(early.as_str().starts_with("b20261121T063000Z_"));
        assert!(BackupId::is_valid(early.as_str()));
        assert!(early < late);
    }

    #[test]
    fn what_is_not_an_id_is_refused() {
        for text in [
            "",
            "b",
            "b20261121T063000Z",
            "b20261121T063000Z_3f9a1",
            "b20261121T063000Z_3F9A1C",
            "b20261121T063000Z_3f9a1c/",
            "b20261341T063000Z_3f9a1c",
            "b20261121T250000Z_3f9a1c",
            "a20261121T063000Z_3f9a1c",
            "b2026112 T063000Z_3f9a1c",
            "../b20261121T063000Z_3f9a1c",
        ] {
            assert!(!BackupId::is_valid(text), "{text:?}");
        }
        assert!(BackupId::is_valid("b20261121T063000Z_3f9a1c"));
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for text in
            ["", "/", "/etc/passwd", "..", "a/../b", "./a", "a//b", "a/", "a\\b", "a\0b", "a\nb", "a#1", "a/b\u{7f}"]
        {
            assert!(RelativePath::new(text).is_err(), "{text:?}");
        }
        assert!(RelativePath::new("a".repeat(256)).is_err());
        assert!(RelativePath::new(vec!["abcdefgh"; 100].join("/")).is_err());
        for text in ["metadata.json", "data/_default-00000.parquet", "a/..b/c..", "δ/数.json", "a b/$meta"] {
            assert!(RelativePath::new(text).is_ok(), "{text:?}");
        }
    }

    #[test]
    fn folders_name_database_and_collection() {
        assert_eq!(collection_folder("default", "films").unwrap(), "films");
        assert_eq!(collection_folder("shop", "films").unwrap(), "shop.films");
        assert_eq!(split_folder("shop.films"), Some(("shop", "films")));
        assert_eq!(split_folder("films"), Some(("default", "films")));
        for folder in ["default.films", ".restores", "a.b.c", "", "a."] {
            assert_eq!(split_folder(folder), None, "{folder:?}");
        }
        for name in ["", "a.b", "../x", "a/b", "a\0", &"x".repeat(256)] {
            assert!(collection_folder("default", name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn long_partition_names_still_make_different_files() {
        let first = data_file(&format!("{}a", "p".repeat(254)), 0).unwrap();
        let second = data_file(&format!("{}b", "p".repeat(254)), 0).unwrap();
        assert_ne!(first, second);
        assert_eq!(data_file("_default", 7).unwrap().as_str(), "data/_default-00007.parquet");
    }

    #[test]
    fn backup_names_are_for_people() {
        assert!(check_backup_name("before the move, 50 % done").is_ok());
        for name in ["", "a/b", "a\tb", &"é".repeat(128)] {
            assert!(check_backup_name(name).is_err(), "{name:?}");
        }
        assert!(check_backup_name(&default_backup_name(&"é".repeat(127), now())).is_ok());
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused_without_a_panic(text in ".*") {
            let _ = text.parse::<BackupId>();
            let _ = check_backup_name(&text);
            let _ = collection_folder(&text, &text);
            if let Ok(path) = RelativePath::new(text) {
                let joined = std::path::Path::new("/root").join(path.as_str());
                prop_assert!(joined.starts_with("/root"));
                prop_assert!(joined.components().all(|part| part != std::path::Component::ParentDir));
            }
        }

        #[test]
        fn folders_come_apart_as_they_were_put_together(database in "[a-z_$]{1,20}", collection in "[a-z_$]{1,20}") {
            let folder = collection_folder(&database, &collection).unwrap();
            prop_assert_eq!(split_folder(&folder), Some((database.as_str(), collection.as_str())));
        }
    }
}
