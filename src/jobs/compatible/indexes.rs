//! Index definitions that a server does not know, and what it gets in their place: an index holds no data, so a restore
//! does not fail for it.

use std::collections::BTreeMap;

use super::Target;
use crate::schema::{Collection, DataType, Field, Index};

/// Kinds of indexes on dense vectors that Milvus Lite builds.
const LITE_DENSE: [&str; 7] = ["FLAT", "BRUTE_FORCE", "AUTOINDEX", "HNSW", "HNSW_SQ", "IVF_FLAT", "IVF_SQ8"];
/// Kinds of indexes on vectors that Milvus 2.3 knows.
const OLD_DENSE: [&str; 14] = [
    "FLAT",
    "AUTOINDEX",
    "IVF_FLAT",
    "IVF_SQ8",
    "IVF_PQ",
    "HNSW",
    "SCANN",
    "DISKANN",
    "BIN_FLAT",
    "BIN_IVF_FLAT",
    "GPU_IVF_FLAT",
    "GPU_IVF_PQ",
    "GPU_BRUTE_FORCE",
    "GPU_CAGRA",
];

/// What becomes of an index definition.
enum Fate {
    Kept,
    /// Becomes an index of this kind, with the metric that it has.
    Becomes(&'static str),
    LeftOut,
}

/// Brings the definitions into the form that the server knows, and says what changed.
pub(super) fn adapt(target: Target, collection: &Collection, indexes: &mut Vec<Index>, warnings: &mut Vec<String>) {
    indexes.retain_mut(|index| {
        let Some(field) = collection.schema.field(&index.field) else { return true };
        let kind = index.params.get("index_type").cloned().unwrap_or_default();
        let shown = format!("the index on '{}' ({kind})", field.name);
        match fate(target, field, &kind) {
            Fate::Kept => true,
            Fate::Becomes(other) => {
                let metric = index.params.remove("metric_type");
                index.params = BTreeMap::from([("index_type".to_owned(), other.to_owned())]);
                index.params.extend(metric.map(|metric| ("metric_type".to_owned(), metric)));
                warnings.push(format!("{shown} is restored as {other}: {} does not have that kind", target.name()));
                true
            }
            Fate::LeftOut => {
                warnings.push(format!("{shown} is not restored: {} has none of that kind", target.name()));
                false
            }
        }
    });
}

/// Build parameters that Milvus Lite keeps in one JSON text, or does not keep at all, as Milvus servers want them: one by
/// one, and none missing. Where Milvus Lite told none, they are those that it builds with itself.
pub(super) fn fill_parameters(collection: &Collection, indexes: &mut [Index], warnings: &mut Vec<String>) {
    for index in indexes {
        let Some(field) = collection.schema.field(&index.field) else { continue };
        let told = index.params.remove("params").unwrap_or_default();
        if let Ok(serde_json::Value::Object(told)) = serde_json::from_str(&told) {
            let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            index.params.extend(told.iter().map(|(key, value)| (key.clone(), text(value))));
        }
        let kind = index.params.get("index_type").cloned().unwrap_or_default();
        let mut filled = Vec::new();
        for (key, value) in required(&kind, field) {
            if !index.params.contains_key(key) {
                filled.push(format!("{key} {value}"));
                index.params.insert(key.to_owned(), value.to_string());
            }
        }
        if !filled.is_empty() {
            warnings.push(format!(
                "Milvus Lite told no build parameters of the index on '{}' ({kind}); it has: {}",
                field.name,
                filled.join(", ")
            ));
        }
    }
}

/// The build parameters without which Milvus refuses an index of this kind.
fn required(kind: &str, field: &Field) -> Vec<(&'static str, usize)> {
    let dim = field.dimension().unwrap_or(1);
    // Each piece of a vector gets a code: pieces of four numbers, or as few as divide it evenly.
    let pieces = [4, 3, 2].into_iter().find(|size| dim.is_multiple_of(*size)).map_or(dim, |size| dim / size);
    match kind {
        "HNSW" | "HNSW_SQ" => vec![("M", 16), ("efConstruction", 200)],
        "IVF_FLAT" | "IVF_SQ8" | "SCANN" => vec![("nlist", 128)],
        "IVF_PQ" => vec![("nlist", 128), ("m", pieces), ("nbits", 8)],
        _ => Vec::new(),
    }
}

fn fate(target: Target, field: &Field, kind: &str) -> Fate {
    let among = |known: &[&str]| known.iter().any(|other| other.eq_ignore_ascii_case(kind));
    match (target, field.data_type) {
        (Target::Lite, DataType::SparseFloatVector) if among(&["SPARSE_INVERTED_INDEX"]) => Fate::Kept,
        (Target::Lite, DataType::SparseFloatVector) => Fate::Becomes("SPARSE_INVERTED_INDEX"),
        (Target::Lite, dense) if dense.is_vector() => {
            if among(&LITE_DENSE) {
                Fate::Kept
            } else {
                Fate::Becomes("FLAT")
            }
        }
        (Target::Lite, DataType::Json | DataType::Array | DataType::Geometry) => Fate::LeftOut,
        (Target::Lite, _) if among(&["INVERTED"]) => Fate::Kept,
        (Target::Lite, _) => Fate::Becomes("INVERTED"),
        (Target::Old, DataType::BinaryVector) if !among(&OLD_DENSE) => Fate::Becomes("BIN_FLAT"),
        (Target::Old, vector) if vector.is_vector() => {
            if among(&OLD_DENSE) {
                Fate::Kept
            } else {
                Fate::Becomes("FLAT")
            }
        }
        (Target::Old, DataType::Varchar) if among(&["Trie", "marisa-trie", ""]) => Fate::Kept,
        (Target::Old, DataType::Varchar) => Fate::Becomes("Trie"),
        (Target::Old, number) if is_number(number) => {
            if among(&["STL_SORT", ""]) {
                Fate::Kept
            } else {
                Fate::Becomes("STL_SORT")
            }
        }
        (Target::Old, _) => Fate::LeftOut,
        // The name that Milvus Lite alone has for it.
        (Target::Other, _) if among(&["BRUTE_FORCE"]) => Fate::Becomes("FLAT"),
        (Target::Other, _) => Fate::Kept,
    }
}

fn is_number(data_type: DataType) -> bool {
    matches!(
        data_type,
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 | DataType::Float | DataType::Double
    )
}

/// An index that costs nothing to build: a plain scan.
pub(in crate::jobs) fn plain_index(field: &Field) -> Index {
    let (index_type, metric) = match field.data_type {
        DataType::BinaryVector => ("BIN_FLAT", "HAMMING"),
        DataType::SparseFloatVector => ("SPARSE_INVERTED_INDEX", "IP"),
        _ => ("FLAT", "L2"),
    };
    let params = BTreeMap::from([
        ("index_type".to_owned(), index_type.to_owned()),
        ("metric_type".to_owned(), metric.to_owned()),
    ]);
    Index { name: field.name.clone(), field: field.name.clone(), params }
}

#[cfg(test)]
mod tests {
    use super::super::tests::collection;
    use super::*;

    /// The kind that an index of `kind` on a field of `data_type` becomes, and how many warnings tell so.
    fn becomes(target: Target, data_type: &str, kind: &str) -> (Option<String>, usize) {
        let fields = format!(r#"[{{"id": 1, "name": "f", "data_type": "{data_type}", "params": {{"dim": "8"}}}}]"#);
        let params = [("index_type", kind), ("metric_type", "IP"), ("nlist", "64")];
        let params = params.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let mut indexes = vec![Index { name: "f".into(), field: "f".into(), params: BTreeMap::from(params) }];
        let mut warnings = Vec::new();
        adapt(target, &collection(&fields), &mut indexes, &mut warnings);
        if let Some(index) = indexes.first() {
            assert_eq!(index.params["metric_type"], "IP");
            assert_eq!(index.params.contains_key("nlist"), warnings.is_empty());
        }
        (indexes.pop().and_then(|index| index.params.get("index_type").cloned()), warnings.len())
    }

    #[test]
    fn what_a_server_does_not_know_becomes_the_nearest_that_it_knows_and_is_told() {
        for (target, data_type, kind, other) in [
            (Target::Lite, "float_vector", "DISKANN", Some("FLAT")),
            (Target::Lite, "float_vector", "HNSW", None),
            (Target::Lite, "sparse_float_vector", "SPARSE_WAND", Some("SPARSE_INVERTED_INDEX")),
            (Target::Lite, "varchar", "Trie", Some("INVERTED")),
            (Target::Lite, "int64", "INVERTED", None),
            (Target::Old, "float_vector", "HNSW_SQ", Some("FLAT")),
            (Target::Old, "float_vector", "BRUTE_FORCE", Some("FLAT")),
            (Target::Old, "binary_vector", "BIN_IVF_FLAT", None),
            (Target::Old, "varchar", "INVERTED", Some("Trie")),
            (Target::Old, "varchar", "Trie", None),
            (Target::Old, "double", "INVERTED", Some("STL_SORT")),
            (Target::Other, "float_vector", "BRUTE_FORCE", Some("FLAT")),
            (Target::Other, "float_vector", "HNSW_SQ", None),
        ] {
            let wanted = (Some(other.unwrap_or(kind).to_owned()), usize::from(other.is_some()));
            assert_eq!(becomes(target, data_type, kind), wanted, "{kind} on {data_type} for {target:?}");
        }
    }

    #[test]
    fn build_parameters_of_lite_are_spread_out_and_filled_in() {
        let fields = r#"[{"id": 1, "name": "v", "data_type": "float_vector", "params": {"dim": "8"}}]"#;
        let index = |params: &[(&str, &str)]| Index {
            name: "v".into(),
            field: "v".into(),
            params: params.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        };
        let mut indexes = vec![
            index(&[("index_type", "HNSW"), ("params", r#"{"M": 12}"#)]),
            index(&[("index_type", "IVF_PQ")]),
            index(&[("index_type", "FLAT")]),
        ];
        let mut warnings = Vec::new();
        fill_parameters(&collection(fields), &mut indexes, &mut warnings);
        assert_eq!(indexes[0], index(&[("index_type", "HNSW"), ("M", "12"), ("efConstruction", "200")]));
        assert_eq!(indexes[1], index(&[("index_type", "IVF_PQ"), ("nlist", "128"), ("m", "2"), ("nbits", "8")]));
        assert_eq!(indexes[2], index(&[("index_type", "FLAT")]));
        assert_eq!(warnings.len(), 2);
        assert!(warnings[0].contains("efConstruction 200") && !warnings[0].contains("M 1"), "{warnings:?}");
    }

    #[test]
    fn what_has_no_counterpart_is_left_out_and_told() {
        assert_eq!(becomes(Target::Lite, "json", "INVERTED"), (None, 1));
        assert_eq!(becomes(Target::Old, "bool", "BITMAP"), (None, 1));
    }
}
