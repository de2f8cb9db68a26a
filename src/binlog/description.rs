//! A collection as milvus-backup's metadata describes it ⇄ our model of it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message;

use super::metadata::{CollectionInfo, FieldInfo, FunctionInfo, IndexInfo, Pair, SchemaInfo};
use crate::error::{Error, Kind, Result};
use crate::proto::{ValueField, read_default, write_default};
use crate::schema::{Collection, CollectionSchema, DataType, Field, Function, Index};

/// The collection that the metadata describes.
///
/// # Errors
/// [`Kind::SchemaIncompatible`] for a type that this version does not know, with the reason.
pub fn collection(info: &CollectionInfo) -> Result<Collection> {
    let wire = &info.schema;
    let refused = |reason: String| {
        Error::new(Kind::SchemaIncompatible, format!("collection '{}': {reason}", info.collection_name))
            .with("collection_name", info.collection_name.as_str())
            .with("incompatibilities", vec![reason])
    };
    if !wire.struct_array_fields.is_empty() {
        return Err(refused("it has an array of structs, which this version does not read".to_owned()));
    }
    let outputs: Vec<&String> = wire.functions.iter().flat_map(|function| &function.output_field_names).collect();
    let mut fields = Vec::with_capacity(wire.fields.len() + 1);
    for field in &wire.fields {
        let known = |number| {
            DataType::from_number(number).ok_or_else(|| {
                refused(format!("field '{}' has type number {number}, which this version does not know", field.name))
            })
        };
        let data_type = known(field.data_type)?;
        let default =
            BASE64.decode(&field.default_value_base64).ok().and_then(|bytes| ValueField::decode(&*bytes).ok());
        fields.push(Field {
            id: field.field_id,
            name: field.name.clone(),
            description: field.description.clone(),
            data_type,
            element_type: if data_type == DataType::Array { Some(known(field.element_type)?) } else { None },
            primary_key: field.is_primary_key,
            auto_id: field.auto_id,
            partition_key: field.is_partition_key,
            clustering_key: false,
            nullable: field.nullable,
            dynamic: field.is_dynamic,
            function_output: field.is_function_output || outputs.contains(&&field.name),
            default_value: default.and_then(read_default),
            params: field.type_params.iter().map(|pair| (pair.key.clone(), pair.value.clone())).collect(),
        });
    }
    if wire.enable_dynamic_field && !fields.iter().any(|field| field.dynamic) {
        fields.push(Field::dynamic_after(&fields));
    }
    let mut partitions: Vec<String> = info.partition_backups.iter().map(|part| part.partition_name.clone()).collect();
    partitions.sort_unstable_by_key(|name| (name != "_default", name.clone()));
    Ok(Collection {
        name: info.collection_name.clone(),
        database: database(info).to_owned(),
        schema: CollectionSchema {
            description: wire.description.clone(),
            enable_dynamic_field: wire.enable_dynamic_field,
            fields,
            functions: wire.functions.iter().map(function).collect(),
        },
        partitions,
        shards: info.shards_num.max(1),
        consistency_level: info.consistency_level,
        properties: info.properties.iter().map(|pair| (pair.key.clone(), pair.value.clone())).collect(),
        aliases: info.aliases.clone(),
    })
}

/// The collection's database; older versions name none.
#[must_use]
pub fn database(info: &CollectionInfo) -> &str {
    if info.db_name.is_empty() { "default" } else { &info.db_name }
}

/// The definitions of its indexes.
#[must_use]
pub fn indexes(info: &CollectionInfo) -> Vec<Index> {
    let index = |index: &IndexInfo| {
        let mut params = index.params.clone();
        if !index.index_type.is_empty() {
            params.entry("index_type".to_owned()).or_insert_with(|| index.index_type.clone());
        }
        Index { name: index.index_name.clone(), field: index.field_name.clone(), params }
    };
    info.index_infos.iter().map(index).collect()
}

/// What the metadata says of a collection, but for its number, its partitions and its files.
#[must_use]
pub fn describe(collection: &Collection, indexes: &[Index]) -> CollectionInfo {
    let schema = &collection.schema;
    CollectionInfo {
        db_name: collection.database.clone(),
        collection_name: collection.name.clone(),
        schema: SchemaInfo {
            name: collection.name.clone(),
            description: schema.description.clone(),
            auto_id: schema.fields.iter().any(|field| field.auto_id),
            fields: schema.fields.iter().filter(|field| !field.dynamic).map(describe_field).collect(),
            enable_dynamic_field: schema.enable_dynamic_field,
            functions: schema.functions.iter().map(describe_function).collect(),
            ..Default::default()
        },
        shards_num: collection.shards,
        consistency_level: collection.consistency_level,
        has_index: !indexes.is_empty(),
        index_infos: indexes.iter().map(describe_index).collect(),
        properties: pairs(&collection.properties),
        aliases: collection.aliases.clone(),
        ..Default::default()
    }
}

fn describe_field(field: &Field) -> FieldInfo {
    let default = field.default_value.as_ref().map(|value| BASE64.encode(write_default(value).encode_to_vec()));
    FieldInfo {
        field_id: field.id,
        name: field.name.clone(),
        is_primary_key: field.primary_key,
        description: field.description.clone(),
        data_type: field.data_type.number(),
        type_params: pairs(&field.params),
        auto_id: field.auto_id,
        element_type: field.element_type.map_or(0, DataType::number),
        is_dynamic: field.dynamic,
        is_partition_key: field.partition_key,
        nullable: field.nullable,
        is_function_output: field.function_output,
        default_value_base64: default.unwrap_or_default(),
    }
}

fn describe_index(index: &Index) -> IndexInfo {
    IndexInfo {
        field_name: index.field.clone(),
        index_name: index.name.clone(),
        index_type: index.params.get("index_type").cloned().unwrap_or_default(),
        params: index.params.clone(),
        ..Default::default()
    }
}

fn function(info: &FunctionInfo) -> Function {
    Function {
        name: info.name.clone(),
        description: info.description.clone(),
        function_type: info.function_type,
        inputs: info.input_field_names.clone(),
        outputs: info.output_field_names.clone(),
        params: info.params.iter().map(|pair| (pair.key.clone(), pair.value.clone())).collect(),
    }
}

fn describe_function(function: &Function) -> FunctionInfo {
    FunctionInfo {
        name: function.name.clone(),
        description: function.description.clone(),
        function_type: function.function_type,
        input_field_names: function.inputs.clone(),
        output_field_names: function.outputs.clone(),
        params: pairs(&function.params),
        ..Default::default()
    }
}

fn pairs(map: &std::collections::BTreeMap<String, String>) -> Vec<Pair> {
    map.iter().map(|(key, value)| Pair { key: key.clone(), value: value.clone() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::DefaultValue;

    #[test]
    fn a_collection_comes_back_from_its_own_description() {
        let json = serde_json::json!({
            "name": "films", "database": "shop", "description": "d", "enable_dynamic_field": true,
            "fields": [
                {"id": 100, "name": "pk", "data_type": "int64", "primary_key": true, "auto_id": true},
                {"id": 101, "name": "tags", "data_type": "array", "element_type": "varchar", "params": {"max_capacity": "4", "max_length": "8"}},
                {"id": 102, "name": "year", "data_type": "int32", "default_value": {"int": 1999}},
                {"id": 103, "name": "v", "data_type": "float_vector", "params": {"dim": "4"}},
            ],
            "partitions": ["_default", "new"], "shards": 2, "consistency_level": 1,
            "properties": {"collection.ttl.seconds": "60"}, "aliases": ["movies"],
        });
        let mut films: Collection = serde_json::from_value(json).unwrap();
        films.schema.fields.push(Field::dynamic_after(&films.schema.fields));
        let index = Index {
            name: "v".to_owned(),
            field: "v".to_owned(),
            params: [("index_type".to_owned(), "FLAT".to_owned())].into(),
        };
        let mut info = describe(&films, std::slice::from_ref(&index));
        for name in ["new", "_default"] {
            let partition =
                super::super::metadata::PartitionInfo { partition_name: name.to_owned(), ..Default::default() };
            info.partition_backups.push(partition);
        }
        assert_eq!(films.schema.fields[2].default_value, Some(DefaultValue::Int(1999)));
        assert_eq!(collection(&info).unwrap(), films);
        assert_eq!(indexes(&info), [index]);
    }

    #[test]
    fn a_type_that_is_not_known_is_refused_by_name() {
        let field = FieldInfo { name: "odd".to_owned(), data_type: 777, ..Default::default() };
        let info =
            CollectionInfo { schema: SchemaInfo { fields: vec![field], ..Default::default() }, ..Default::default() };
        assert!(collection(&info).unwrap_err().message().contains("'odd'"));
    }
}
