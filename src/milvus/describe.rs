//! The wire's description of a collection ⇄ our model of it.

use std::collections::BTreeMap;

use super::client::ServerKind;
use crate::error::{Error, Kind, Result};
use crate::proto::{self, read_default, write_default};
use crate::schema::{Collection, CollectionSchema, DataType, Field, Function, Index};

/// Reads a description. Partitions and aliases are the caller's to add where the answer lacks them.
pub(super) fn collection(database: &str, answer: proto::DescribeCollectionResponse, name: &str) -> Result<Collection> {
    let wire = answer.schema.ok_or_else(|| {
        Error::new(Kind::Server, format!("the server described collection '{name}' without a schema"))
    })?;
    if let Some(array) = wire.struct_array_fields.first() {
        return Err(incompatible(
            name,
            format!("field '{}' is an array of structs, which this version does not read", array.name),
        ));
    }
    let outputs: Vec<String> = wire.functions.iter().flat_map(|function| function.output_field_names.clone()).collect();
    let mut fields = Vec::with_capacity(wire.fields.len() + 1);
    for (position, field) in wire.fields.into_iter().enumerate() {
        fields.push(read_field(name, position, field, &outputs)?);
    }
    if wire.enable_dynamic_field && !fields.iter().any(|field| field.dynamic) {
        fields.push(Field::dynamic_after(&fields));
    }
    Ok(Collection {
        name: name.to_owned(),
        database: database.to_owned(),
        schema: CollectionSchema {
            description: wire.description,
            enable_dynamic_field: wire.enable_dynamic_field,
            fields,
            functions: wire.functions.into_iter().map(read_function).collect(),
        },
        partitions: Vec::new(),
        shards: answer.shards_num.max(1),
        consistency_level: answer.consistency_level,
        properties: pairs(answer.properties),
        aliases: answer.aliases,
    })
}

fn incompatible(collection: &str, reason: String) -> Error {
    Error::new(Kind::SchemaIncompatible, format!("collection '{collection}': {reason}"))
        .with("collection_name", collection)
        .with("incompatibilities", vec![reason])
}

fn read_field(collection: &str, position: usize, wire: proto::FieldSchema, outputs: &[String]) -> Result<Field> {
    let unknown = |number| {
        incompatible(
            collection,
            format!("field '{}' has type number {number}, which this version does not know", wire.name),
        )
    };
    let data_type = DataType::from_number(wire.data_type).ok_or_else(|| unknown(wire.data_type))?;
    let element_type = match data_type {
        DataType::Array => Some(DataType::from_number(wire.element_type).ok_or_else(|| unknown(wire.element_type))?),
        _ => None,
    };
    let id = if wire.field_id > 0 {
        wire.field_id
    } else {
        crate::schema::FIRST_FIELD_ID + i64::try_from(position).unwrap_or(0)
    };
    Ok(Field {
        id,
        function_output: wire.is_function_output || outputs.contains(&wire.name),
        name: wire.name,
        description: wire.description,
        data_type,
        element_type,
        primary_key: wire.is_primary_key,
        auto_id: wire.auto_id,
        partition_key: wire.is_partition_key,
        clustering_key: wire.is_clustering_key,
        nullable: wire.nullable,
        dynamic: wire.is_dynamic,
        default_value: wire.default_value.and_then(read_default),
        params: pairs(wire.type_params),
    })
}

fn read_function(wire: proto::FunctionSchema) -> Function {
    Function {
        name: wire.name,
        description: wire.description,
        function_type: wire.r#type,
        inputs: wire.input_field_names,
        outputs: wire.output_field_names,
        params: pairs(wire.params),
    }
}

/// The schema as `CreateCollection` wants it: without `$meta`, which the server adds itself.
pub(super) fn schema_to_wire(name: &str, schema: &CollectionSchema) -> proto::CollectionSchema {
    let fields = schema.fields.iter().filter(|field| !field.dynamic);
    proto::CollectionSchema {
        name: name.to_owned(),
        description: schema.description.clone(),
        auto_id: schema.fields.iter().any(|field| field.auto_id),
        enable_dynamic_field: schema.enable_dynamic_field,
        fields: fields.map(field_to_wire).collect(),
        functions: schema.functions.iter().map(function_to_wire).collect(),
        ..Default::default()
    }
}

fn field_to_wire(field: &Field) -> proto::FieldSchema {
    proto::FieldSchema {
        field_id: field.id,
        name: field.name.clone(),
        is_primary_key: field.primary_key,
        description: field.description.clone(),
        data_type: field.data_type.number(),
        type_params: pairs_to_wire(&field.params),
        auto_id: field.auto_id,
        element_type: field.element_type.map_or(0, DataType::number),
        default_value: field.default_value.as_ref().map(write_default),
        is_partition_key: field.partition_key,
        is_clustering_key: field.clustering_key,
        nullable: field.nullable,
        is_function_output: field.function_output,
        ..Default::default()
    }
}

fn function_to_wire(function: &Function) -> proto::FunctionSchema {
    proto::FunctionSchema {
        name: function.name.clone(),
        description: function.description.clone(),
        r#type: function.function_type,
        input_field_names: function.inputs.clone(),
        output_field_names: function.outputs.clone(),
        params: pairs_to_wire(&function.params),
    }
}

pub(super) fn index(wire: proto::IndexDescription) -> Index {
    Index { name: wire.index_name, field: wire.field_name, params: pairs(wire.params) }
}

/// An index's parameters as the server wants them. Milvus takes build parameters one by one, as it tells them itself;
/// Milvus Lite overlooks those and takes them in one JSON text `params`, numbers as numbers.
pub(super) fn index_params_to_wire(params: &BTreeMap<String, String>, kind: ServerKind) -> Vec<proto::KeyValuePair> {
    let own = ["index_type", "metric_type", "params", "search_params"];
    let built: serde_json::Map<String, serde_json::Value> = params
        .iter()
        .filter(|(key, _)| !own.contains(&key.as_str()) && !key.contains('.'))
        .map(|(key, value)| (key.clone(), value.parse::<i64>().map_or_else(|_| value.as_str().into(), Into::into)))
        .collect();
    if kind != ServerKind::Lite || built.is_empty() || params.contains_key("params") {
        return pairs_to_wire(params);
    }
    let mut told: BTreeMap<String, String> = params.clone();
    told.retain(|key, _| !built.contains_key(key));
    told.insert("params".to_owned(), serde_json::Value::Object(built).to_string());
    pairs_to_wire(&told)
}

fn pairs(wire: Vec<proto::KeyValuePair>) -> BTreeMap<String, String> {
    wire.into_iter().map(|pair| (pair.key, pair.value)).collect()
}

pub(super) fn pairs_to_wire(pairs: &BTreeMap<String, String>) -> Vec<proto::KeyValuePair> {
    pairs.iter().map(|(key, value)| proto::KeyValuePair { key: key.clone(), value: value.clone() }).collect()
}
