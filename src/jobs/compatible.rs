//! What a server can hold, found out before a row is written. Facts of Milvus 2.3.5 and Milvus Lite 3.2.2.

use std::collections::BTreeMap;

use crate::error::{Error, Kind, Result};
use crate::milvus::{Client, ServerKind};
use crate::schema::{Collection, DataType, Field, Index};

/// Refuses a collection that the server cannot hold, with each reason.
///
/// # Errors
/// [`Kind::SchemaIncompatible`] with `incompatibilities`.
pub(super) fn check(client: &Client, collection: &Collection, _indexes: &[Index]) -> Result<()> {
    let reasons = reasons(client.kind(), client.version(), collection);
    if reasons.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        Kind::SchemaIncompatible,
        format!(
            "the server at {} (Milvus {}) cannot hold collection '{}': {}",
            client.label(),
            client.version(),
            collection.name,
            reasons.join("; ")
        ),
    )
    .with("incompatibilities", reasons)
    .with("backup_schema", serde_json::to_value(&collection.schema).unwrap_or_default()))
}

fn reasons(kind: ServerKind, version: &str, collection: &Collection) -> Vec<String> {
    let fields = &collection.schema.fields;
    let mut reasons = Vec::new();
    match kind {
        ServerKind::Lite => {
            let missing =
                [DataType::BinaryVector, DataType::Float16Vector, DataType::Bfloat16Vector, DataType::Int8Vector];
            for field in fields.iter().filter(|field| missing.contains(&field.data_type)) {
                reasons.push(format!(
                    "Milvus Lite has no vectors of the type of field '{}' ({:?})",
                    field.name, field.data_type
                ));
            }
        }
        ServerKind::Server if is_2_3(version) => {
            let vectors: Vec<&Field> = fields.iter().filter(|field| field.data_type.is_vector()).collect();
            if vectors.len() > 1 {
                let names = vectors.iter().map(|field| field.name.as_str()).collect::<Vec<_>>().join(", ");
                reasons.push(format!("Milvus 2.3 allows one vector field, and there are {}: {names}", vectors.len()));
            }
            let missing = [
                DataType::Bfloat16Vector,
                DataType::SparseFloatVector,
                DataType::Int8Vector,
                DataType::Timestamptz,
                DataType::Geometry,
            ];
            for field in fields.iter().filter(|field| missing.contains(&field.data_type)) {
                reasons.push(format!(
                    "Milvus 2.3 cannot store the type of field '{}' ({:?})",
                    field.name, field.data_type
                ));
            }
            for field in fields.iter().filter(|field| field.nullable) {
                reasons.push(format!("Milvus 2.3 has no null values, and field '{}' may be null", field.name));
            }
            if !collection.schema.functions.is_empty() {
                reasons.push("Milvus 2.3 has no functions".to_owned());
            }
        }
        ServerKind::Server => {}
    }
    reasons
}

fn is_2_3(version: &str) -> bool {
    version.trim_start_matches('v').starts_with("2.3")
}

/// Changes what the server would not keep as it is, and says so.
pub(super) fn adapt(client: &Client, collection: &mut Collection, warnings: &mut Vec<String>) {
    for field in collection.schema.fields.iter_mut().filter(|field| field.primary_key && field.auto_id) {
        field.auto_id = false;
        warnings.push(match client.kind() {
            ServerKind::Lite => format!(
                "'{}' was filled by the server (auto_id) and is a plain key now: Milvus Lite takes restored keys but would give the same numbers to later rows, which would overwrite them",
                field.name
            ),
            ServerKind::Server => format!("'{}' was filled by the server (auto_id) and is a plain key now: Milvus keeps given keys only in such fields", field.name),
        });
    }
    if client.kind() == ServerKind::Lite && says_what_lite_forgets(collection) {
        warnings.push(
            "Milvus Lite keeps no descriptions: those of the collection and its fields are not restored".to_owned(),
        );
    }
}

fn says_what_lite_forgets(collection: &Collection) -> bool {
    !collection.schema.description.is_empty()
        || collection.schema.fields.iter().any(|field| !field.description.is_empty())
}

/// An index that costs nothing to build: a plain scan.
pub(super) fn plain_index(field: &Field) -> Index {
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
    use super::*;

    fn collection(fields: &str) -> Collection {
        serde_json::from_str(&format!(
            r#"{{"name": "c", "database": "default", "enable_dynamic_field": false, "fields": {fields}, "partitions": [], "shards": 1, "consistency_level": 0}}"#
        ))
        .unwrap()
    }

    #[test]
    fn lite_refuses_binary_vectors_by_name() {
        let with_bits =
            collection(r#"[{"id": 100, "name": "bits", "data_type": "binary_vector", "params": {"dim": "8"}}]"#);
        assert!(reasons(ServerKind::Lite, "milvus_lite-3.2.2", &with_bits)[0].contains("'bits'"));
        assert!(reasons(ServerKind::Server, "v2.3.5-lite", &with_bits).is_empty());
    }

    #[test]
    fn each_reason_is_told() {
        let two = collection(
            r#"[{"id": 1, "name": "a", "data_type": "float_vector", "params": {"dim": "2"}}, {"id": 2, "name": "b", "data_type": "float_vector", "params": {"dim": "2"}},
                {"id": 3, "name": "n", "data_type": "int64", "nullable": true}]"#,
        );
        assert_eq!(reasons(ServerKind::Server, "2.3.5", &two).len(), 2);
        assert!(reasons(ServerKind::Server, "v2.6.0", &two).is_empty());
        assert!(reasons(ServerKind::Lite, "milvus_lite-3.2.2", &two).is_empty());
    }
}
