//! Which rows of a batch a condition is true of.
//!
//! Outcomes are numbers such that `and` is the lesser, `or` the greater, and `not` mirrors: the logic of three values.

use std::cmp::Ordering;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use arrow_array::{Array, ArrayRef};
use arrow_schema::{DataType as ArrowType, TimeUnit};

use super::json::{Found, find};
use super::literal::{Literal, Number, Set};
use super::{Comparison, Node, Operand, Sort};
use crate::error::{Result, internal};

pub(super) const FALSE: u8 = 0;
pub(super) const NULL: u8 = 1;
pub(super) const TRUE: u8 = 2;

/// A condition's outcome for each row.
pub(super) fn node(node: &Node, columns: &[&ArrayRef], rows: usize) -> Result<Vec<u8>> {
    match node {
        Node::Constant(value) => Ok(vec![truth(*value); rows]),
        Node::All(nodes) => combined(nodes, columns, rows, TRUE, u8::min),
        Node::Any(nodes) => combined(nodes, columns, rows, FALSE, u8::max),
        Node::Not(inner) => {
            let mut outcomes = self::node(inner, columns, rows)?;
            for outcome in &mut outcomes {
                *outcome = TRUE - *outcome;
            }
            Ok(outcomes)
        }
        Node::Compare { operand, comparison, literal } => {
            each(operand, columns, |value| compare(value, *comparison, literal))
        }
        Node::In { operand, set } => each(operand, columns, |value| is_in(value, set)),
        Node::Like { operand, pattern } => each(operand, columns, |value| match value {
            Value::Text(text) => truth(pattern.matches(text)),
            _ => NULL,
        }),
        Node::IsNull(operand) if operand.path.is_empty() => {
            let column = columns[operand.field];
            Ok((0..rows).map(|row| truth(column.is_null(row))).collect())
        }
        Node::IsNull(operand) => each(operand, columns, |value| truth(matches!(value, Value::Null))),
        Node::CompareFields { left, comparison, right } => fields(left, *comparison, right, columns, rows),
    }
}

fn combined(nodes: &[Node], columns: &[&ArrayRef], rows: usize, start: u8, with: fn(u8, u8) -> u8) -> Result<Vec<u8>> {
    let mut outcomes = vec![start; rows];
    for inner in nodes {
        for (outcome, other) in outcomes.iter_mut().zip(node(inner, columns, rows)?) {
            *outcome = with(*outcome, other);
        }
    }
    Ok(outcomes)
}

fn truth(value: bool) -> u8 {
    if value { TRUE } else { FALSE }
}

/// A row's value, as conditions see it.
#[derive(Clone, Copy)]
enum Value<'a> {
    Null,
    Bool(bool),
    Number(Number),
    Text(&'a str),
    Container,
}

fn compare(value: Value, comparison: Comparison, literal: &Literal) -> u8 {
    let order = match (value, literal) {
        (Value::Null, _) => return NULL,
        (Value::Bool(left), Literal::Bool(right)) => Some(left.cmp(right)),
        (Value::Number(left), Literal::Number(right)) => left.order(*right),
        (Value::Text(left), Literal::Text(right)) => Some(left.cmp(right.as_str())),
        // JSON of another sort: not equal, and neither greater nor less.
        _ if comparison.is_ordering() => return NULL,
        _ => None,
    };
    truth(comparison.holds(order))
}

fn is_in(value: Value, set: &Set) -> u8 {
    match value {
        Value::Null => NULL,
        Value::Bool(value) => truth(set.has_bool(value)),
        Value::Number(value) => truth(set.has_number(value)),
        Value::Text(value) => truth(set.has_text(value)),
        Value::Container => FALSE,
    }
}

/// Calls `judge` with the operand's value of each row.
fn each(operand: &Operand, columns: &[&ArrayRef], judge: impl Fn(Value) -> u8) -> Result<Vec<u8>> {
    let column = columns[operand.field];
    if operand.sort == Sort::Json {
        let texts = column.as_string_opt::<i32>().ok_or_else(|| unfit(column.as_ref()))?;
        let judged = texts.iter().map(|text| match text.map_or(Found::Null, |text| find(text, &operand.path)) {
            Found::Null => judge(Value::Null),
            Found::Bool(value) => judge(Value::Bool(value)),
            Found::Number(value) => judge(Value::Number(value)),
            Found::Text(value) => judge(Value::Text(&value)),
            Found::Container => judge(Value::Container),
        });
        return Ok(judged.collect());
    }
    let column = Column::new(column.as_ref())?;
    Ok((0..column.rows()).map(|row| judge(column.value(row))).collect())
}

fn fields(
    left: &Operand,
    comparison: Comparison,
    right: &Operand,
    columns: &[&ArrayRef],
    rows: usize,
) -> Result<Vec<u8>> {
    let left = Column::new(columns[left.field].as_ref())?;
    let right = Column::new(columns[right.field].as_ref())?;
    let order = |row| -> Option<Option<Ordering>> {
        Some(match (left.value(row), right.value(row)) {
            (Value::Bool(left), Value::Bool(right)) => Some(left.cmp(&right)),
            (Value::Number(left), Value::Number(right)) => left.order(right),
            (Value::Text(left), Value::Text(right)) => Some(left.cmp(right)),
            _ => return None,
        })
    };
    Ok((0..rows).map(|row| order(row).map_or(NULL, |order| truth(comparison.holds(order)))).collect())
}

/// A column whose type is known.
enum Column<'a> {
    Bool(&'a arrow_array::BooleanArray),
    Int8(&'a arrow_array::Int8Array),
    Int16(&'a arrow_array::Int16Array),
    Int32(&'a arrow_array::Int32Array),
    Int64(&'a arrow_array::Int64Array),
    Time(&'a arrow_array::TimestampMicrosecondArray),
    Float32(&'a arrow_array::Float32Array),
    Float64(&'a arrow_array::Float64Array),
    Text(&'a arrow_array::StringArray),
}

impl<'a> Column<'a> {
    fn new(array: &'a dyn Array) -> Result<Self> {
        Ok(match array.data_type() {
            ArrowType::Boolean => Self::Bool(array.as_boolean()),
            ArrowType::Int8 => Self::Int8(array.as_primitive::<Int8Type>()),
            ArrowType::Int16 => Self::Int16(array.as_primitive::<Int16Type>()),
            ArrowType::Int32 => Self::Int32(array.as_primitive::<Int32Type>()),
            ArrowType::Int64 => Self::Int64(array.as_primitive::<Int64Type>()),
            ArrowType::Timestamp(TimeUnit::Microsecond, _) => {
                Self::Time(array.as_primitive::<TimestampMicrosecondType>())
            }
            ArrowType::Float32 => Self::Float32(array.as_primitive::<Float32Type>()),
            ArrowType::Float64 => Self::Float64(array.as_primitive::<Float64Type>()),
            ArrowType::Utf8 => Self::Text(array.as_string::<i32>()),
            _ => return Err(unfit(array)),
        })
    }

    fn rows(&self) -> usize {
        match self {
            Self::Bool(array) => array.len(),
            Self::Int8(array) => array.len(),
            Self::Int16(array) => array.len(),
            Self::Int32(array) => array.len(),
            Self::Int64(array) => array.len(),
            Self::Time(array) => array.len(),
            Self::Float32(array) => array.len(),
            Self::Float64(array) => array.len(),
            Self::Text(array) => array.len(),
        }
    }

    fn value(&self, row: usize) -> Value<'a> {
        fn number<T: ArrowPrimitiveType>(
            array: &arrow_array::PrimitiveArray<T>,
            row: usize,
            wrap: impl Fn(T::Native) -> Number,
        ) -> Value<'static> {
            if array.is_null(row) { Value::Null } else { Value::Number(wrap(array.value(row))) }
        }
        match self {
            Self::Bool(array) if array.is_null(row) => Value::Null,
            Self::Bool(array) => Value::Bool(array.value(row)),
            Self::Int8(array) => number(array, row, |value| Number::Int(value.into())),
            Self::Int16(array) => number(array, row, |value| Number::Int(value.into())),
            Self::Int32(array) => number(array, row, |value| Number::Int(value.into())),
            Self::Int64(array) => number(array, row, |value| Number::Int(value.into())),
            Self::Time(array) => number(array, row, |value| Number::Int(value.into())),
            Self::Float32(array) => number(array, row, |value| Number::Float(value.into())),
            Self::Float64(array) => number(array, row, Number::Float),
            Self::Text(array) if array.is_null(row) => Value::Null,
            Self::Text(array) => Value::Text(array.value(row)),
        }
    }
}

fn unfit(array: &dyn Array) -> crate::error::Error {
    internal(format!("a filter met a column of type {}", array.data_type()))
}
