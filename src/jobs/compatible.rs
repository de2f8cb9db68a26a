//! What a server can hold, found out before a row is written. Facts of Milvus 2.3.5 and Milvus Lite 3.2.2.
//!
//! What it cannot hold is refused with each reason. What it holds otherwise is changed, and said: [`lost`] is about
//! schemas, [`indexes`] about index definitions.

mod indexes;
mod lost;

pub(super) use indexes::plain_index;
pub(super) use lost::in_describing;

use crate::error::{Error, Kind, Result};
use crate::milvus::{Client, ServerKind};
use crate::schema::{Collection, DataType, Field, Index};

/// The longest name of a collection, partition, alias or field that Milvus takes, in bytes.
const LONGEST_NAME: usize = 255;
/// The largest dimension of a vector that Milvus takes; Milvus Lite knows no limit.
const LARGEST_DIMENSION: usize = 32_768;

/// The kinds of servers that differ in what they hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Lite,
    /// Milvus 2.3.
    Old,
    /// Any other Milvus server.
    Other,
}

impl Target {
    fn of(client: &Client) -> Self {
        match client.kind() {
            ServerKind::Lite => Self::Lite,
            ServerKind::Server if client.version().trim_start_matches('v').starts_with("2.3") => Self::Old,
            ServerKind::Server => Self::Other,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Lite => "Milvus Lite",
            Self::Old => "Milvus 2.3",
            Self::Other => "this Milvus",
        }
    }
}

/// Whether a backup's `milvus_version` is that of Milvus Lite.
fn is_lite(version: &str) -> bool {
    version.starts_with("milvus_lite")
}

/// Refuses a collection that the server cannot hold under the name `name`, with each reason. `made_by` is the version
/// of the server that it was backed up from.
///
/// # Errors
/// [`Kind::SchemaIncompatible`] with `incompatibilities`.
pub(super) fn check(client: &Client, collection: &Collection, name: &str, made_by: &str) -> Result<()> {
    let reasons = reasons(Target::of(client), collection, name, made_by);
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

/// Makes keys that the server would make into plain ones, so that all are kept, and says so.
pub(super) fn keep_keys(client: &Client, collection: &mut Collection, warnings: &mut Vec<String>) {
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
}

/// Changes what else the server would not keep as it is, index definitions included, and says so.
pub(super) fn adapt(
    client: &Client,
    collection: &mut Collection,
    indexes: &mut Vec<Index>,
    made_by: &str,
    warnings: &mut Vec<String>,
) {
    let target = Target::of(client);
    if target != Target::Lite && is_lite(made_by) {
        lost::fill_limits(collection, warnings);
    }
    indexes::adapt(target, collection, indexes, warnings);
    if target != Target::Lite && is_lite(made_by) {
        indexes::fill_parameters(collection, indexes, warnings);
    }
    warnings.extend(lost::on(target, collection, indexes));
}

fn reasons(target: Target, collection: &Collection, name: &str, made_by: &str) -> Vec<String> {
    match target {
        Target::Lite => lite_reasons(collection, made_by),
        Target::Old => {
            let mut reasons = old_reasons(collection);
            reasons.extend(limit_reasons(collection));
            reasons.extend(name_reasons(collection, name));
            reasons
        }
        Target::Other => name_reasons(collection, name),
    }
}

fn lite_reasons(collection: &Collection, made_by: &str) -> Vec<String> {
    let missing = [DataType::BinaryVector, DataType::Float16Vector, DataType::Bfloat16Vector, DataType::Int8Vector];
    let mut reasons = Vec::new();
    for field in &collection.schema.fields {
        if missing.contains(&field.data_type) {
            reasons.push(format!(
                "Milvus Lite has no vectors of the type of field '{}' ({:?})",
                field.name, field.data_type
            ));
        } else if field.data_type.is_vector() && field.nullable && !is_lite(made_by) {
            reasons.push(format!("Milvus Lite has no null vectors, and field '{}' may be null", field.name));
        }
    }
    reasons
}

fn old_reasons(collection: &Collection) -> Vec<String> {
    let fields = &collection.schema.fields;
    let mut reasons = Vec::new();
    let vectors: Vec<&Field> = fields.iter().filter(|field| field.data_type.is_vector()).collect();
    if vectors.len() > 1 {
        let names = vectors.iter().map(|field| field.name.as_str()).collect::<Vec<_>>().join(", ");
        reasons.push(format!("Milvus 2.3 allows one vector field, and there are {}: {names}", vectors.len()));
    }
    // It takes a collection with some of these, and dies when it loads it.
    let missing = [
        DataType::Bfloat16Vector,
        DataType::SparseFloatVector,
        DataType::Int8Vector,
        DataType::Timestamptz,
        DataType::Geometry,
    ];
    for field in fields.iter().filter(|field| missing.contains(&field.data_type)) {
        reasons.push(format!("Milvus 2.3 cannot store the type of field '{}' ({:?})", field.name, field.data_type));
    }
    for field in fields.iter().filter(|field| field.nullable) {
        reasons.push(format!("Milvus 2.3 has no null values, and field '{}' may be null", field.name));
    }
    if !collection.schema.functions.is_empty() {
        reasons.push("Milvus 2.3 has no functions".to_owned());
    }
    reasons
}

fn limit_reasons(collection: &Collection) -> Vec<String> {
    let wide =
        |field: &&Field| field.data_type.is_vector() && field.dimension().is_ok_and(|dim| dim > LARGEST_DIMENSION);
    let reason = |field: &Field| {
        let dim = field.params.get("dim").map_or("", String::as_str);
        format!("Milvus 2.3 takes vectors of at most {LARGEST_DIMENSION} dimensions, and '{}' has {dim}", field.name)
    };
    collection.schema.fields.iter().filter(wide).map(reason).collect()
}

/// Names that Milvus Lite takes and a Milvus server does not. The collection's would only come up when the filled
/// staging collection is renamed.
fn name_reasons(collection: &Collection, name: &str) -> Vec<String> {
    let mut reasons = Vec::new();
    let mut refuse = |what: &str, name: &str, way_out: &str| {
        if !is_name(name) {
            reasons.push(format!(
                "Milvus takes no {what} named {name:?}: names begin with a letter or _, and have letters, digits and _ only, {LONGEST_NAME} bytes at most{way_out}"
            ));
        }
    };
    refuse("collection", name, "; restore under another one with target_collection_name");
    for partition in &collection.partitions {
        refuse("partition", partition, "");
    }
    for alias in &collection.aliases {
        refuse("alias", alias, "");
    }
    for field in collection.schema.fields.iter().filter(|field| !field.dynamic) {
        refuse("field", &field.name, "");
    }
    reasons
}

fn is_name(name: &str) -> bool {
    name.len() <= LONGEST_NAME
        && name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '$'))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn collection(fields: &str) -> Collection {
        serde_json::from_str(&format!(
            r#"{{"name": "c", "database": "default", "enable_dynamic_field": false, "fields": {fields}, "partitions": [], "shards": 1, "consistency_level": 0}}"#
        ))
        .unwrap()
    }

    fn on(target: Target, fields: &str) -> Vec<String> {
        reasons(target, &collection(fields), "c", "v2.6.0")
    }

    #[test]
    fn lite_refuses_binary_vectors_by_name() {
        let bits = r#"[{"id": 100, "name": "bits", "data_type": "binary_vector", "params": {"dim": "8"}}]"#;
        assert!(on(Target::Lite, bits)[0].contains("'bits'"));
        assert!(on(Target::Old, bits).is_empty());
    }

    #[test]
    fn each_reason_is_told() {
        let two = r#"[{"id": 1, "name": "a", "data_type": "float_vector", "params": {"dim": "2"}}, {"id": 2, "name": "b", "data_type": "float_vector", "params": {"dim": "2"}},
                {"id": 3, "name": "n", "data_type": "int64", "nullable": true}]"#;
        assert_eq!(on(Target::Old, two).len(), 2);
        assert!(on(Target::Other, two).is_empty());
        assert!(on(Target::Lite, two).is_empty());
    }

    #[test]
    fn types_that_end_a_2_3_are_refused() {
        for data_type in ["timestamptz", "geometry", "bfloat16_vector", "int8_vector", "sparse_float_vector"] {
            let fields =
                format!(r#"[{{"id": 1, "name": "odd", "data_type": "{data_type}", "params": {{"dim": "8"}}}}]"#);
            assert!(on(Target::Old, &fields)[0].contains("'odd'"), "{data_type}");
        }
    }

    #[test]
    fn null_vectors_are_refused_by_lite_unless_it_described_them_itself() {
        let fields = r#"[{"id": 1, "name": "v", "data_type": "sparse_float_vector", "nullable": true}]"#;
        assert!(on(Target::Lite, fields)[0].contains("'v'"));
        assert!(reasons(Target::Lite, &collection(fields), "c", "milvus_lite-3.2.2").is_empty());
    }

    #[test]
    fn names_that_only_lite_takes_are_refused_by_servers() {
        let mut odd = collection(r#"[{"id": 1, "name": "größe", "data_type": "int64"}]"#);
        odd.partitions = vec!["_default".to_owned(), "a-b".to_owned()];
        odd.aliases = vec!["1st".to_owned()];
        let told = reasons(Target::Old, &odd, "my-collection", "milvus_lite-3.2.2");
        assert_eq!(told.len(), 4);
        assert!(told[0].contains("my-collection") && told[0].contains("target_collection_name"));
        assert!(reasons(Target::Lite, &odd, "my-collection", "v2.3.5").is_empty());
    }

    #[test]
    fn vectors_wider_than_2_3_takes_are_refused() {
        let fields = r#"[{"id": 1, "name": "v", "data_type": "float_vector", "params": {"dim": "40000"}}]"#;
        assert!(on(Target::Old, fields)[0].contains("32768"));
    }
}
