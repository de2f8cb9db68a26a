//! The collection schema: Milvault's one model of it, what `schema.json` holds, and its form in Arrow.
//!
//! Knows nothing of gRPC or files: `milvus` translates it from and to the wire, `parquet` writes what Arrow says.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::{DataType as ArrowType, Field as ArrowField, Schema as ArrowSchema, SchemaRef};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};

/// The metadata key under which Parquet writers and readers look for a column's field id.
pub const FIELD_ID_KEY: &str = "PARQUET:field_id";
/// The Arrow canonical extension type of JSON text.
pub const JSON_EXTENSION: &str = "arrow.json";
/// The name of the dynamic field, which Milvus adds where `enable_dynamic_field` is on.
pub const DYNAMIC_FIELD: &str = "$meta";
/// Milvus numbers users' fields from here; Milvus Lite tells no ids, so its fields are numbered the same way.
pub const FIRST_FIELD_ID: i64 = 100;

/// A field's type. Numbers are those of Milvus's protocol (`schema.DataType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum DataType {
    Bool = 1,
    Int8 = 2,
    Int16 = 3,
    Int32 = 4,
    Int64 = 5,
    Float = 10,
    Double = 11,
    Varchar = 21,
    Array = 22,
    Json = 23,
    Geometry = 24,
    Timestamptz = 26,
    BinaryVector = 100,
    FloatVector = 101,
    Float16Vector = 102,
    Bfloat16Vector = 103,
    SparseFloatVector = 104,
    Int8Vector = 105,
}

impl DataType {
    const ALL: [Self; 18] = [
        Self::Bool,
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::Float,
        Self::Double,
        Self::Varchar,
        Self::Array,
        Self::Json,
        Self::Geometry,
        Self::Timestamptz,
        Self::BinaryVector,
        Self::FloatVector,
        Self::Float16Vector,
        Self::Bfloat16Vector,
        Self::SparseFloatVector,
        Self::Int8Vector,
    ];

    /// The type that Milvus's protocol numbers so, if it is one we know. 20, the old `String`, is read as varchar.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        if number == 20 {
            return Some(Self::Varchar);
        }
        Self::ALL.into_iter().find(|data_type| data_type.number() == number)
    }

    /// The type's number in Milvus's protocol.
    #[must_use]
    pub fn number(self) -> i32 {
        self as i32
    }

    /// Whether it is one of the vector types.
    #[must_use]
    pub fn is_vector(self) -> bool {
        self.number() >= 100
    }
}

/// One field of a collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools)] // the marks that Milvus knows of a field
pub struct Field {
    /// Milvus's number of the field; differs between servers, so rows are compared by name.
    pub id: i64,
    /// The field's name.
    pub name: String,
    /// What its creator wrote of it; Milvus Lite does not keep it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The type of its values.
    pub data_type: DataType,
    /// The type of an array's elements.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub element_type: Option<DataType>,
    /// Whether it is the primary key.
    #[serde(default, skip_serializing_if = "is_false")]
    pub primary_key: bool,
    /// Whether the server makes the keys.
    #[serde(default, skip_serializing_if = "is_false")]
    pub auto_id: bool,
    /// Whether rows are spread over partitions by this field.
    #[serde(default, skip_serializing_if = "is_false")]
    pub partition_key: bool,
    /// Whether it is the clustering key.
    #[serde(default, skip_serializing_if = "is_false")]
    pub clustering_key: bool,
    /// Whether a value may be null.
    #[serde(default, skip_serializing_if = "is_false")]
    pub nullable: bool,
    /// Whether it is the dynamic field `$meta`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub dynamic: bool,
    /// Whether a function makes its values: neither digested nor restored, made anew.
    #[serde(default, skip_serializing_if = "is_false")]
    pub function_output: bool,
    /// The value that a missing one gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_value: Option<DefaultValue>,
    /// Milvus's type parameters: `dim`, `max_length`, `max_capacity`, analyzers and the like.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, String>,
}

/// A field's default value, by its form on the wire. Floats are kept by their bits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum DefaultValue {
    Bool(bool),
    Int(i32),
    Long(i64),
    FloatBits(u32),
    DoubleBits(u64),
    String(String),
    Bytes(Vec<u8>),
    Timestamptz(i64),
}

/// A function of the schema, such as BM25.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Function {
    /// The function's name.
    pub name: String,
    /// What its creator wrote of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Milvus's number of the function's type (1 is BM25).
    pub function_type: i32,
    /// Names of the fields it reads.
    pub inputs: Vec<String>,
    /// Names of the fields it fills.
    pub outputs: Vec<String>,
    /// Its parameters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, String>,
}

/// The fields of a collection and how they belong together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionSchema {
    /// What its creator wrote of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Whether rows may carry keys that are no field: they live in the field `$meta`.
    pub enable_dynamic_field: bool,
    /// All fields in Milvus's order, `$meta` last where the dynamic field is on.
    pub fields: Vec<Field>,
    /// Functions that fill fields.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub functions: Vec<Function>,
}

/// A collection without its rows: what `schema.json` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collection {
    /// The collection's name.
    pub name: String,
    /// Its database; `default` where none was named.
    pub database: String,
    /// Its fields.
    #[serde(flatten)]
    pub schema: CollectionSchema,
    /// Names of all its partitions, `_default` included; those that a partition key makes too.
    pub partitions: Vec<String>,
    /// The number of shards.
    pub shards: i32,
    /// Milvus's number of the consistency level (0 strong, 1 session, 2 bounded, 3 eventually).
    pub consistency_level: i32,
    /// Properties such as `collection.ttl.seconds`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
    /// Other names that point at it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
}

/// The definition of an index: what `indexes/<field>.json` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// The index's name.
    pub name: String,
    /// The field that it is on.
    pub field: String,
    /// `index_type`, `metric_type`, and build parameters.
    pub params: BTreeMap<String, String>,
}

impl Collection {
    /// Whether rows are spread over partitions by a field: then no partition may be named in queries or inserts.
    #[must_use]
    pub fn has_partition_key(&self) -> bool {
        self.schema.fields.iter().any(|field| field.partition_key)
    }
}

impl CollectionSchema {
    /// The primary key's field.
    ///
    /// # Errors
    /// [`Kind::Internal`] where none is marked; Milvus allows no such collection.
    pub fn primary_key(&self) -> Result<&Field> {
        self.fields
            .iter()
            .find(|field| field.primary_key)
            .ok_or_else(|| Error::new(Kind::Internal, "the schema marks no field as primary key"))
    }

    /// The field of that name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// Fields that hold rows' own data: all but those that functions fill.
    pub fn stored_fields(&self) -> impl Iterator<Item = &Field> {
        self.fields.iter().filter(|field| !field.function_output)
    }

    /// The Arrow schema of the collection's rows: a column each for the stored fields, in their order.
    ///
    /// # Errors
    /// [`Kind::SchemaIncompatible`] for a vector without a usable dimension or an array of an unknown element.
    pub fn arrow(&self) -> Result<SchemaRef> {
        let fields = self.stored_fields().map(Field::arrow).collect::<Result<Vec<_>>>()?;
        Ok(Arc::new(ArrowSchema::new(fields)))
    }

    /// About how many bytes a row takes in Arrow, a guess for variable-length fields. For sizing pages and disks.
    #[must_use]
    pub fn estimated_row_bytes(&self) -> usize {
        self.stored_fields().map(Field::estimated_bytes).sum::<usize>().max(1)
    }
}

impl Field {
    /// A field that is a key of nothing, has no nulls and no parameters.
    #[must_use]
    pub fn new(id: i64, name: &str, data_type: DataType) -> Self {
        Self {
            id,
            name: name.to_owned(),
            description: String::new(),
            data_type,
            element_type: None,
            primary_key: false,
            auto_id: false,
            partition_key: false,
            clustering_key: false,
            nullable: false,
            dynamic: false,
            function_output: false,
            default_value: None,
            params: BTreeMap::new(),
        }
    }

    /// `$meta`, which 2.3.5 leaves out of its field list although it owns the id after the last field's.
    #[must_use]
    pub fn dynamic_after(fields: &[Self]) -> Self {
        let id = fields.iter().map(|field| field.id.saturating_add(1)).max().unwrap_or(FIRST_FIELD_ID);
        Self { dynamic: true, ..Self::new(id, DYNAMIC_FIELD, DataType::Json) }
    }

    /// The vector's dimension.
    ///
    /// # Errors
    /// [`Kind::SchemaIncompatible`] where the field has none or one that no Milvus accepts (above 262,144).
    pub fn dimension(&self) -> Result<usize> {
        self.params
            .get("dim")
            .and_then(|text| text.parse::<usize>().ok())
            .filter(|dim| (1..=262_144).contains(dim))
            .ok_or_else(|| {
                Error::new(
                    Kind::SchemaIncompatible,
                    format!("vector field '{}' has no usable dimension ({:?})", self.name, self.params.get("dim")),
                )
            })
    }

    /// The column of this field in Arrow, with its field id and, for JSON, the `arrow.json` extension type.
    ///
    /// # Errors
    /// As [`CollectionSchema::arrow`].
    pub fn arrow(&self) -> Result<ArrowField> {
        let mut metadata = HashMap::from([(FIELD_ID_KEY.to_owned(), self.id.to_string())]);
        if self.data_type == DataType::Json {
            metadata.insert("ARROW:extension:name".to_owned(), JSON_EXTENSION.to_owned());
        }
        Ok(ArrowField::new(&self.name, self.arrow_type()?, self.nullable).with_metadata(metadata))
    }

    fn arrow_type(&self) -> Result<ArrowType> {
        let list = |item, dim: usize| -> Result<ArrowType> {
            let length = i32::try_from(dim).map_err(|_| {
                Error::new(Kind::SchemaIncompatible, format!("dimension {dim} of '{}' is too large", self.name))
            })?;
            Ok(ArrowType::FixedSizeList(Arc::new(ArrowField::new("element", item, false)), length))
        };
        let bytes = |count: usize| -> Result<ArrowType> {
            let length = i32::try_from(count).map_err(|_| {
                Error::new(Kind::SchemaIncompatible, format!("vectors of '{}' are too wide", self.name))
            })?;
            Ok(ArrowType::FixedSizeBinary(length))
        };
        Ok(match self.data_type {
            DataType::Array => {
                let element = self.element_type.and_then(scalar_arrow_type).ok_or_else(|| {
                    Error::new(
                        Kind::SchemaIncompatible,
                        format!("array field '{}' has elements of an unknown type", self.name),
                    )
                })?;
                ArrowType::List(Arc::new(ArrowField::new("element", element, false)))
            }
            DataType::FloatVector => list(ArrowType::Float32, self.dimension()?)?,
            DataType::Float16Vector => list(ArrowType::Float16, self.dimension()?)?,
            DataType::Int8Vector => list(ArrowType::Int8, self.dimension()?)?,
            DataType::Bfloat16Vector => bytes(self.dimension()? * 2)?,
            DataType::BinaryVector => bytes(self.dimension()?.div_ceil(8))?,
            DataType::SparseFloatVector => ArrowType::Struct(
                vec![
                    ArrowField::new(
                        "indices",
                        ArrowType::List(Arc::new(ArrowField::new("element", ArrowType::UInt32, false))),
                        false,
                    ),
                    ArrowField::new(
                        "values",
                        ArrowType::List(Arc::new(ArrowField::new("element", ArrowType::Float32, false))),
                        false,
                    ),
                ]
                .into(),
            ),
            scalar => scalar_arrow_type(scalar).ok_or_else(|| {
                Error::new(Kind::SchemaIncompatible, format!("field '{}' has a type without a column form", self.name))
            })?,
        })
    }

    fn estimated_bytes(&self) -> usize {
        let limit =
            |key: &str, default: usize| self.params.get(key).and_then(|text| text.parse().ok()).unwrap_or(default);
        match self.data_type {
            DataType::Bool | DataType::Int8 => 1,
            DataType::Int16 => 2,
            DataType::Int32 | DataType::Float => 4,
            DataType::Int64 | DataType::Double | DataType::Timestamptz => 8,
            DataType::Varchar | DataType::Geometry => limit("max_length", 64).clamp(4, 64),
            DataType::Json => 64,
            DataType::Array => 8 * limit("max_capacity", 16).clamp(1, 16),
            DataType::SparseFloatVector => 512,
            _ => match self.arrow_type() {
                Ok(ArrowType::FixedSizeList(item, length)) => {
                    usize::try_from(length).unwrap_or(1) * item.data_type().primitive_width().unwrap_or(4)
                }
                Ok(ArrowType::FixedSizeBinary(length)) => usize::try_from(length).unwrap_or(1),
                _ => 64,
            },
        }
    }
}

/// The Arrow type of a scalar, or of an array's elements.
fn scalar_arrow_type(data_type: DataType) -> Option<ArrowType> {
    Some(match data_type {
        DataType::Bool => ArrowType::Boolean,
        DataType::Int8 => ArrowType::Int8,
        DataType::Int16 => ArrowType::Int16,
        DataType::Int32 => ArrowType::Int32,
        DataType::Int64 => ArrowType::Int64,
        DataType::Float => ArrowType::Float32,
        DataType::Double => ArrowType::Float64,
        DataType::Varchar | DataType::Json | DataType::Geometry => ArrowType::Utf8,
        DataType::Timestamptz => ArrowType::Timestamp(arrow_schema::TimeUnit::Microsecond, Some("UTC".into())),
        _ => return None,
    })
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the signature that serde's skip_serializing_if asks for
fn is_false(value: &bool) -> bool {
    !*value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_number_is_read_back_as_itself() {
        for data_type in DataType::ALL {
            assert_eq!(DataType::from_number(data_type.number()), Some(data_type));
        }
        assert_eq!(DataType::from_number(0), None);
        assert_eq!(DataType::from_number(201), None);
    }

    #[test]
    fn a_vector_without_dimension_is_refused_by_name() {
        let field = serde_json::from_str::<Field>(r#"{"id":1,"name":"v","data_type":"float_vector"}"#).unwrap();
        assert!(field.arrow().unwrap_err().message().contains("'v'"));
    }
}
