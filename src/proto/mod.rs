//! Milvus's protobuf messages, as the compiler made them of `proto/milvus.proto`, and what both its wire and its files
//! make of them. [`crate::milvus`] and [`crate::binlog`] alone see this.

pub(crate) mod elements;

#[allow(clippy::all, clippy::pedantic, missing_docs, dead_code)]
mod messages {
    tonic::include_proto!("milvus.proto.milvus");
}

pub(crate) use messages::*;

use crate::schema::DefaultValue;

/// A field's default value; `None` where the message holds none.
pub(crate) fn read_default(wire: ValueField) -> Option<DefaultValue> {
    use value_field::Data;
    Some(match wire.data? {
        Data::BoolData(value) => DefaultValue::Bool(value),
        Data::IntData(value) => DefaultValue::Int(value),
        Data::LongData(value) => DefaultValue::Long(value),
        Data::FloatData(value) => DefaultValue::FloatBits(value.to_bits()),
        Data::DoubleData(value) => DefaultValue::DoubleBits(value.to_bits()),
        Data::StringData(value) => DefaultValue::String(value),
        Data::BytesData(value) => DefaultValue::Bytes(value.to_vec()),
        Data::TimestamptzData(value) => DefaultValue::Timestamptz(value),
    })
}

/// The message of a default value.
pub(crate) fn write_default(value: &DefaultValue) -> ValueField {
    use value_field::Data;
    let data = match value {
        DefaultValue::Bool(value) => Data::BoolData(*value),
        DefaultValue::Int(value) => Data::IntData(*value),
        DefaultValue::Long(value) => Data::LongData(*value),
        DefaultValue::FloatBits(bits) => Data::FloatData(f32::from_bits(*bits)),
        DefaultValue::DoubleBits(bits) => Data::DoubleData(f64::from_bits(*bits)),
        DefaultValue::String(value) => Data::StringData(value.clone()),
        DefaultValue::Bytes(value) => Data::BytesData(value.clone().into()),
        DefaultValue::Timestamptz(value) => Data::TimestamptzData(*value),
    };
    ValueField { data: Some(data) }
}
