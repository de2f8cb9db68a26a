//! The schemas that inputs choose from: an int64 or varchar key, and a field of each type that Milvus has.

use milvault::schema::{CollectionSchema, DataType, DefaultValue, Field};

use crate::{DIMENSION, KEY, VALUE};

/// The types of the field that is not the key, and of its elements where it is an array.
pub const TYPES: [(DataType, Option<DataType>); 26] = [
    (DataType::Bool, None),
    (DataType::Int8, None),
    (DataType::Int16, None),
    (DataType::Int32, None),
    (DataType::Int64, None),
    (DataType::Float, None),
    (DataType::Double, None),
    (DataType::Varchar, None),
    (DataType::Json, None),
    (DataType::Geometry, None),
    (DataType::Timestamptz, None),
    (DataType::BinaryVector, None),
    (DataType::FloatVector, None),
    (DataType::Float16Vector, None),
    (DataType::Bfloat16Vector, None),
    (DataType::SparseFloatVector, None),
    (DataType::Int8Vector, None),
    (DataType::Array, Some(DataType::Bool)),
    (DataType::Array, Some(DataType::Int8)),
    (DataType::Array, Some(DataType::Int16)),
    (DataType::Array, Some(DataType::Int32)),
    (DataType::Array, Some(DataType::Int64)),
    (DataType::Array, Some(DataType::Float)),
    (DataType::Array, Some(DataType::Double)),
    (DataType::Array, Some(DataType::Varchar)),
    // Elements that no array has.
    (DataType::Array, Some(DataType::Json)),
];

/// How a schema differs from the plain one.
#[derive(Clone, Copy, Default)]
pub struct Marks {
    /// The key is text.
    pub text_key: bool,
    /// Values may be null.
    pub nullable: bool,
    /// A missing value has a default.
    pub default: bool,
    /// The field is `$meta`; of JSON alone.
    pub dynamic: bool,
}

/// A schema with a key, `pk`, and a field `value` of the numbered type.
#[must_use]
pub fn schema(number: u8, marks: Marks) -> CollectionSchema {
    let (data_type, element) = TYPES[usize::from(number) % TYPES.len()];
    let key = if marks.text_key { DataType::Varchar } else { DataType::Int64 };
    let key = Field { primary_key: true, ..field(KEY, "pk", key) };
    let value = Field {
        element_type: element,
        nullable: marks.nullable,
        dynamic: marks.dynamic && data_type == DataType::Json,
        default_value: marks.default.then_some(DefaultValue::Int(1)),
        ..field(VALUE, "value", data_type)
    };
    CollectionSchema {
        description: String::new(),
        enable_dynamic_field: false,
        fields: vec![key, value],
        functions: Vec::new(),
    }
}

fn field(id: i64, name: &str, data_type: DataType) -> Field {
    let params = [("dim", DIMENSION.to_string()), ("max_length", "64".to_owned())];
    Field {
        params: params.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        ..Field::new(id, name, data_type)
    }
}
