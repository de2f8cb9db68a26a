//! Arrays as Milvus sends and stores them, a message of scalars each → the values of an Arrow list.

use std::sync::Arc;

use arrow_array::types::{Int8Type, Int16Type};
use arrow_array::{
    ArrayRef, ArrowPrimitiveType, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, PrimitiveArray,
    StringArray,
};

use super::ScalarField;
use super::scalar_field::Data as Scalars;
use crate::schema::DataType;

/// Numbers in a narrower type; `None` where one is out of its range.
pub(crate) fn narrow<T: ArrowPrimitiveType>(wide: &[i32]) -> Option<Vec<T::Native>>
where
    T::Native: TryFrom<i32>,
{
    wide.iter().map(|value| T::Native::try_from(*value).ok()).collect()
}

/// The elements of many arrays end to end, and each array's length.
pub(crate) struct Elements {
    pub(crate) values: ArrayRef,
    pub(crate) lengths: Vec<usize>,
}

impl Elements {
    /// Gathers arrays of elements of a type; `None` where the messages hold others.
    pub(crate) fn gather(element: Option<DataType>, rows: Vec<ScalarField>) -> Option<Self> {
        let mut lengths = Vec::with_capacity(rows.len());
        macro_rules! collect {
            ($variant:ident) => {{
                let mut all = Vec::new();
                for row in rows {
                    match row.data {
                        Some(Scalars::$variant(array)) => {
                            lengths.push(array.data.len());
                            all.extend(array.data);
                        }
                        None => lengths.push(0),
                        _ => return None,
                    }
                }
                all
            }};
        }
        macro_rules! numbers {
            ($variant:ident, $number:ty) => {{
                let mut all: Vec<$number> = Vec::new();
                for row in rows {
                    match row.data {
                        Some(Scalars::$variant(array)) => {
                            let (values, rest) = array.data.as_chunks::<{ size_of::<$number>() }>();
                            if !rest.is_empty() {
                                return None;
                            }
                            lengths.push(values.len());
                            all.extend(values.iter().map(|bytes| <$number>::from_le_bytes(*bytes)));
                        }
                        None => lengths.push(0),
                        _ => return None,
                    }
                }
                all
            }};
        }
        let values: ArrayRef = match element? {
            DataType::Bool => Arc::new(BooleanArray::from(collect!(BoolData))),
            DataType::Int8 => {
                Arc::new(PrimitiveArray::<Int8Type>::new(narrow::<Int8Type>(&collect!(IntData))?.into(), None))
            }
            DataType::Int16 => {
                Arc::new(PrimitiveArray::<Int16Type>::new(narrow::<Int16Type>(&collect!(IntData))?.into(), None))
            }
            DataType::Int32 => Arc::new(Int32Array::from(collect!(IntData))),
            DataType::Int64 => Arc::new(Int64Array::from(collect!(LongData))),
            DataType::Float => Arc::new(Float32Array::from(numbers!(FloatData, f32))),
            DataType::Double => Arc::new(Float64Array::from(numbers!(DoubleData, f64))),
            DataType::Varchar => Arc::new(StringArray::from(collect!(StringData))),
            _ => return None,
        };
        Some(Self { values, lengths })
    }
}
