//! Whether rows of one collection can be rows of another: into which a restore may put them, with which a deep
//! verification may compare them.

use crate::error::{Error, Kind, Result};
use crate::schema::{Collection, DataType, Field};

/// Refuses to put a backup's rows into a collection that cannot take them as they are.
///
/// # Errors
/// [`Kind::SchemaIncompatible`] with each reason in `incompatibilities`.
pub(super) fn require_same(backup: &Collection, target: &Collection) -> Result<()> {
    let mut reasons = differences(backup, target);
    reasons.extend(limits(backup, target));
    if let Ok(key) = target.schema.primary_key()
        && key.auto_id
    {
        reasons.push(format!(
            "the keys '{}' of the target are made by the server (auto_id), which would not keep the backup's",
            key.name
        ));
    }
    if reasons.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        Kind::SchemaIncompatible,
        format!(
            "the rows of the backup of '{}' do not fit into collection '{}', which was not touched: {}. Restore under another name",
            backup.name,
            target.name,
            reasons.join("; ")
        ),
    )
    .with("target_collection_name", target.name.as_str())
    .with("incompatibilities", reasons)
    .with("backup_schema", serde_json::to_value(&backup.schema).unwrap_or_default())
    .with("target_schema", serde_json::to_value(&target.schema).unwrap_or_default()))
}

/// Why rows of the two have different fields, so that they cannot be compared; nothing where they have the same.
pub(super) fn differences(backup: &Collection, other: &Collection) -> Vec<String> {
    let mut reasons = Vec::new();
    for field in backup.schema.stored_fields() {
        match other.schema.field(&field.name) {
            None => reasons.push(format!("'{}' has no field '{}'", other.name, field.name)),
            Some(theirs) => reasons.extend(field_differences(field, theirs)),
        }
    }
    for field in other.schema.stored_fields().filter(|field| backup.schema.field(&field.name).is_none()) {
        reasons.push(format!("the backup has no field '{}'", field.name));
    }
    let key = |collection: &Collection| {
        collection.schema.fields.iter().find(|field| field.partition_key).map(|field| field.name.clone())
    };
    let (ours, theirs) = (key(backup), key(other));
    if ours != theirs {
        let name = |key: Option<String>| key.map_or_else(|| "none".to_owned(), |key| format!("'{key}'"));
        reasons.push(format!(
            "the partition key is {} in the backup and {} in '{}'",
            name(ours),
            name(theirs),
            other.name
        ));
    }
    reasons
}

fn field_differences(ours: &Field, theirs: &Field) -> Vec<String> {
    let name = &ours.name;
    let mut reasons = Vec::new();
    let mut differ = |what: &str, one: String, other: String| {
        if one != other {
            reasons.push(format!("field '{name}' has {what} {one} in the backup and {other} in the collection"));
        }
    };
    differ("type", word(Some(ours.data_type)), word(Some(theirs.data_type)));
    differ("elements of type", word(ours.element_type), word(theirs.element_type));
    if ours.data_type == theirs.data_type && ours.data_type.is_vector() {
        let dim = |field: &Field| field.params.get("dim").cloned().unwrap_or_else(|| "none".to_owned());
        differ("dimension", dim(ours), dim(theirs));
    }
    if ours.primary_key != theirs.primary_key {
        reasons.push(format!("field '{name}' is the primary key of one and not of the other"));
    }
    if theirs.function_output {
        reasons.push(format!("field '{name}' is filled by a function in the collection"));
    }
    reasons
}

/// What the target's fields are too narrow for. Array lengths are told by Milvus alone: Lite forgets `max_length` there.
fn limits(backup: &Collection, target: &Collection) -> Vec<String> {
    let mut reasons = Vec::new();
    for field in backup.schema.stored_fields() {
        let Some(theirs) = target.schema.field(&field.name) else { continue };
        for limit in ["max_length", "max_capacity"] {
            let number = |field: &Field| field.params.get(limit).and_then(|text| text.parse::<u64>().ok());
            if let (Some(ours), Some(theirs)) = (number(field), number(theirs))
                && theirs < ours
            {
                reasons.push(format!(
                    "field '{}' has {limit} {ours} in the backup and only {theirs} in the collection",
                    field.name
                ));
            }
        }
        if field.nullable && !theirs.nullable {
            reasons.push(format!("field '{}' may be null in the backup and not in the collection", field.name));
        }
    }
    reasons
}

fn word(data_type: Option<DataType>) -> String {
    match data_type.map(serde_json::to_value) {
        Some(Ok(serde_json::Value::String(word))) => word,
        _ => "none".to_owned(),
    }
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

    const PLAIN: &str = r#"[{"id": 100, "name": "id", "data_type": "int64", "primary_key": true}, {"id": 101, "name": "v", "data_type": "float_vector", "params": {"dim": "8"}},
        {"id": 102, "name": "t", "data_type": "varchar", "params": {"max_length": "64"}}]"#;

    #[test]
    fn the_same_fields_under_other_ids_and_wider_limits_fit() {
        let wider = PLAIN.replace("\"64\"", "\"128\"").replace("\"id\": 10", "\"id\": 20");
        assert!(require_same(&collection(PLAIN), &collection(&wider)).is_ok());
    }

    #[test]
    fn each_reason_is_told() {
        let other = PLAIN
            .replace("\"64\"", "\"32\"")
            .replace("\"8\"", "\"16\"")
            .replace("int64\", \"primary_key\": true", "int64\", \"primary_key\": true, \"auto_id\": true")
            .replace("}]", r#"}, {"id": 109, "name": "extra", "data_type": "bool", "partition_key": true}]"#);
        let error = require_same(&collection(PLAIN), &collection(&other)).unwrap_err();
        let reasons = error.details()["incompatibilities"].as_array().unwrap();
        assert_eq!(reasons.len(), 5, "{reasons:?}");
        for word in ["max_length", "dimension", "auto_id", "extra", "partition key"] {
            assert!(error.message().contains(word), "{word}: {}", error.message());
        }
    }

    #[test]
    fn a_missing_field_and_another_type_are_told() {
        let other = PLAIN.replace("\"t\"", "\"u\"").replace("float_vector", "float16_vector");
        let reasons = differences(&collection(PLAIN), &collection(&other));
        assert_eq!(reasons.len(), 3, "{reasons:?}");
    }
}
