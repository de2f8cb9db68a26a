//! Which files a segment is made of, where the server tells: Milvus does since 2.5.8, over HTTP at its own address.
//!
//! Read in the public sources of Milvus 2.5 and milvus-backup; no server that tells could be run here, so this is checked
//! on answers that are made as those say. Of other servers, what lies in a segment's folder is taken.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::client::{Client, ServerKind};
use super::http::Http;
use super::segments::Segment;
use crate::error::{Error, Kind, Result};

/// The first version that tells.
const SINCE: [u64; 3] = [2, 5, 8];
const PATH: &str = "/v2/vectordb/segments/describe";
/// Segments that are asked about at once.
const AT_ONCE: usize = 100;

/// The numbers of a segment's files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentLogs {
    /// Files of rows, by field, or by group of fields.
    pub inserts: BTreeMap<i64, Vec<i64>>,
    /// Files of deletes.
    pub deletes: Vec<i64>,
}

#[derive(Deserialize)]
struct Answer {
    code: i64,
    #[serde(default)]
    message: String,
    #[serde(default)]
    data: Data,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Data {
    segment_infos: Vec<Described>,
}

/// Its names end in capital letters where the request's do not.
#[derive(Deserialize)]
struct Described {
    #[serde(rename = "segmentID")]
    segment: i64,
    #[serde(rename = "insertLogs", default)]
    inserts: Option<Vec<Logs>>,
    #[serde(rename = "deltaLogs", default)]
    deletes: Option<Vec<Logs>>,
}

#[derive(Deserialize)]
struct Logs {
    #[serde(rename = "fieldID", default)]
    field: i64,
    #[serde(rename = "logIDs", default)]
    logs: Option<Vec<i64>>,
}

impl Client {
    /// Notes of each segment which files it is made of, if the server tells. One that ought to and does not is taken as
    /// one that does not, with a word in the log: its HTTP interface may be switched off.
    pub async fn note_files(&self, segments: &mut [Segment]) {
        if self.kind() == ServerKind::Lite || !tells_files(self.version()) || segments.is_empty() {
            return;
        }
        match self.described(segments).await {
            Ok(described) => {
                for segment in segments {
                    segment.logs = described.get(&segment.id).cloned();
                }
            }
            Err(error) => tracing::warn!(
                %error,
                "the server does not tell the files of its segments over HTTP: what lies in their folders is taken"
            ),
        }
    }

    async fn described(&self, segments: &[Segment]) -> Result<BTreeMap<i64, SegmentLogs>> {
        let http = Http::of_server(self.config()).await?;
        let mut described = BTreeMap::new();
        for some in segments.chunks(AT_ONCE) {
            let numbers: Vec<i64> = some.iter().map(|segment| segment.id).collect();
            let wanted = json!({"dbName": self.database(), "collectionId": some[0].collection, "segmentIds": numbers});
            let answer = http.ask(reqwest::Method::POST, PATH, Some(&wanted)).await?;
            let told: Answer = answer.json().ok_or_else(|| {
                Error::new(Kind::Server, format!("{}: {PATH} answers with status {}", self.label(), answer.status))
            })?;
            if told.code != 0 {
                let why = format!("{}: {PATH} answers with code {}: {}", self.label(), told.code, told.message);
                return Err(Error::new(Kind::Server, why));
            }
            described.extend(told.data.segment_infos.into_iter().map(|one| (one.segment, one.logs())));
        }
        Ok(described)
    }
}

impl Described {
    fn logs(self) -> SegmentLogs {
        let mut told = SegmentLogs::default();
        for field in self.inserts.unwrap_or_default() {
            told.inserts.entry(field.field).or_default().extend(field.logs.unwrap_or_default());
        }
        told.deletes.extend(self.deletes.into_iter().flatten().flat_map(|field| field.logs.unwrap_or_default()));
        told
    }
}

/// Whether a server of this version tells; versions are `v2.5.8`, `2.6.0-rc1` and the like.
fn tells_files(version: &str) -> bool {
    let mut numbers = version.trim_start_matches('v').split(['.', '-', '+']).map(|part| part.parse::<u64>().ok());
    let told: Option<Vec<u64>> = (0..3).map(|_| numbers.next().flatten()).collect();
    told.is_some_and(|told| told[..] >= SINCE[..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_since_2_5_8_tell_the_files() {
        for (version, tells) in [
            ("2.3.5", false),
            ("v2.5.7", false),
            ("2.5.8", true),
            ("v2.5.10-gpu", true),
            ("2.6.0-rc1", true),
            ("v3.0.0", true),
            ("2.10.0", true),
            ("milvus_lite 3.2", false),
            ("2.6", false),
            ("", false),
        ] {
            assert_eq!(tells_files(version), tells, "{version}");
        }
    }

    #[test]
    fn an_answer_is_taken_apart() {
        let text = r#"{"code": 0, "data": {"segmentInfos": [{"segmentID": 7, "numRows": 3, "state": 4,
            "insertLogs": [{"fieldID": 0, "logIDs": [1, 2]}, {"fieldID": 101, "logIDs": [3, 4]}],
            "deltaLogs": [{"logIDs": [9]}], "statsLogs": null},
            {"segmentID": 8, "insertLogs": null, "deltaLogs": null}]}}"#;
        let told: Answer = serde_json::from_str(text).unwrap();
        let logs: Vec<_> = told.data.segment_infos.into_iter().map(Described::logs).collect();
        assert_eq!(logs[0].inserts, BTreeMap::from([(0, vec![1, 2]), (101, vec![3, 4])]));
        assert_eq!((&logs[0].deletes[..], &logs[1]), (&[9][..], &SegmentLogs::default()));
    }
}
