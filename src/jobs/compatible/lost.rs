//! What of a schema is lost without harm to a row: by a server that keeps less, or by one that told less.

use super::{Target, is_lite};
use crate::schema::{Collection, DataType, Index};

/// The longest string that Milvus takes, in bytes.
const LONGEST_STRING: u64 = 65_535;
/// The most elements of an array that Milvus takes.
const LARGEST_ARRAY: u64 = 4_096;
/// UTF-8 needs at most this many bytes for a character.
const BYTES_A_CHARACTER: u64 = 4;
/// Into how many partitions Milvus Lite spreads rows by a partition key.
const LITE_PARTITIONS: usize = 16;

/// What Milvus Lite did not tell of a collection, where that is certain.
pub(in crate::jobs) fn in_describing(made_by: &str, collection: &Collection) -> Option<String> {
    let arrays: Vec<String> = collection
        .schema
        .fields
        .iter()
        .filter(|field| field.element_type == Some(DataType::Varchar) && !field.params.contains_key("max_length"))
        .map(|field| format!("'{}'", field.name))
        .collect();
    (is_lite(made_by) && !arrays.is_empty()).then(|| {
        format!(
            "Milvus Lite does not tell the max_length of array elements, so the backup does not hold it: {}",
            arrays.join(", ")
        )
    })
}

/// Limits that Milvus Lite does not tell, or counts in characters, as a Milvus server wants them, which counts bytes.
pub(super) fn fill_limits(collection: &mut Collection, warnings: &mut Vec<String>) {
    let (mut widened, mut filled) = (Vec::new(), Vec::new());
    for field in &mut collection.schema.fields {
        let is_array = field.data_type == DataType::Array;
        if field.data_type == DataType::Varchar {
            let limit = field.params.get("max_length").and_then(|limit| limit.parse::<u64>().ok());
            let bytes = limit.unwrap_or(LONGEST_STRING).saturating_mul(BYTES_A_CHARACTER).min(LONGEST_STRING);
            if limit != Some(bytes) {
                field.params.insert("max_length".to_owned(), bytes.to_string());
                widened.push(format!("'{}' ({bytes})", field.name));
            }
        }
        if is_array && field.element_type == Some(DataType::Varchar) && !field.params.contains_key("max_length") {
            field.params.insert("max_length".to_owned(), LONGEST_STRING.to_string());
            filled.push(format!("'{}' (max_length {LONGEST_STRING})", field.name));
        }
        if is_array && !field.params.contains_key("max_capacity") {
            field.params.insert("max_capacity".to_owned(), LARGEST_ARRAY.to_string());
            filled.push(format!("'{}' (max_capacity {LARGEST_ARRAY})", field.name));
        }
    }
    if !widened.is_empty() {
        warnings.push(format!(
            "Milvus Lite counts a string's characters and Milvus its bytes, up to {BYTES_A_CHARACTER} each: max_length is larger now in {}",
            widened.join(", ")
        ));
    }
    if !filled.is_empty() {
        warnings.push(format!(
            "Milvus Lite did not tell the limits of array fields; they have Milvus's largest: {}",
            filled.join(", ")
        ));
    }
}

/// What the server will not keep of the collection, in one sentence.
pub(super) fn on(target: Target, collection: &Collection, indexes: &[Index]) -> Option<String> {
    let mut lost = Vec::new();
    let fields = &collection.schema.fields;
    if target != Target::Other
        && let Some(field) = fields.iter().find(|field| field.clustering_key)
    {
        lost.push(format!("the clustering key '{}'", field.name));
    }
    if target == Target::Lite {
        let described = fields.iter().any(|field| !field.description.is_empty());
        if described || !collection.schema.description.is_empty() {
            lost.push("descriptions".to_owned());
        }
        for field in fields.iter().filter(|field| field.data_type == DataType::Array) {
            if let Some(limit) = field.params.get("max_length") {
                lost.push(format!("the elements' max_length of '{}' ({limit})", field.name));
            }
        }
        if collection.shards != 1 {
            lost.push(format!("the number of shards ({})", collection.shards));
        }
        let level = ["Strong", "Session", "Bounded", "Eventually", "Customized"];
        if let Some(level) = usize::try_from(collection.consistency_level).ok().and_then(|at| level.get(at))
            && *level != "Strong"
        {
            lost.push(format!("the consistency level ({level}; every read is strong)"));
        }
        let spread = collection.partitions.iter().filter(|name| *name != "_default").count();
        if collection.has_partition_key() && spread != LITE_PARTITIONS {
            lost.push(format!(
                "the number of partitions of the partition key ({spread}; it is always {LITE_PARTITIONS})"
            ));
        }
        for index in indexes.iter().filter(|index| index.name != index.field) {
            lost.push(format!("the name of index '{}' (it is '{}' now)", index.name, index.field));
        }
    }
    (!lost.is_empty()).then(|| format!("{} does not keep {}", target.name(), lost.join(", ")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::tests::collection;
    use super::*;

    #[test]
    fn everything_that_lite_drops_is_in_one_sentence() {
        let mut all = collection(
            r#"[{"id": 1, "name": "k", "data_type": "int64", "partition_key": true, "description": "d"},
                {"id": 2, "name": "words", "data_type": "array", "element_type": "varchar", "params": {"max_length": "9", "max_capacity": "3"}},
                {"id": 3, "name": "c", "data_type": "int64", "clustering_key": true}]"#,
        );
        (all.shards, all.consistency_level) = (2, 2);
        all.partitions = (0..7).map(|at| format!("_default_{at}")).collect();
        let index = Index { name: "mine".into(), field: "k".into(), params: BTreeMap::new() };
        let told = on(Target::Lite, &all, std::slice::from_ref(&index)).unwrap();
        for word in ["descriptions", "'words' (9)", "clustering key 'c'", "(2)", "Bounded", "(7;", "'mine'"] {
            assert!(told.contains(word), "{word} in {told}");
        }
        assert_eq!(on(Target::Old, &all, &[index]).unwrap(), "Milvus 2.3 does not keep the clustering key 'c'");
    }

    #[test]
    fn what_lite_keeps_is_not_warned_of() {
        let plain = collection(r#"[{"id": 1, "name": "k", "data_type": "int64", "primary_key": true}]"#);
        assert_eq!(on(Target::Lite, &plain, &[]), None);
    }

    #[test]
    fn limits_of_lite_become_bytes_and_are_filled_in() {
        let mut from_lite = collection(
            r#"[{"id": 1, "name": "short", "data_type": "varchar", "params": {"max_length": "10"}},
                {"id": 2, "name": "open", "data_type": "varchar"},
                {"id": 3, "name": "full", "data_type": "varchar", "params": {"max_length": "65535"}},
                {"id": 4, "name": "words", "data_type": "array", "element_type": "varchar"}]"#,
        );
        assert!(in_describing("milvus_lite-3.2.2", &from_lite).unwrap().contains("'words'"));
        assert_eq!(in_describing("v2.3.5", &from_lite), None);
        let mut warnings = Vec::new();
        fill_limits(&mut from_lite, &mut warnings);
        let limits: Vec<_> = from_lite.schema.fields.iter().map(|field| field.params["max_length"].as_str()).collect();
        assert_eq!(limits, ["40", "65535", "65535", "65535"]);
        assert_eq!(from_lite.schema.fields[3].params["max_capacity"], "4096");
        assert!(warnings[0].contains("'short' (40)") && !warnings[0].contains("'full'"), "{warnings:?}");
        assert!(warnings[1].contains("'words' (max_length 65535)"), "{warnings:?}");
    }
}
