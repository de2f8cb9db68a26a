//! A filter on rows, written in Milvus's expression style: `price < 10 and title like "The %"`.
//!
//! A filter is parsed against a collection's schema, and then says of a batch which rows match
//! ([`Filter::mask`]), and of a row group's statistics whether any row of it can ([`Filter::may_match`]).
//!
//! Logic has three values: a comparison with null is neither true nor false, `not` leaves it so, and only rows for which
//! the whole is true match. A key that a JSON value does not have counts as null. `docs/reading.md` describes the
//! language, and where servers differ from it and from each other.

use std::collections::HashMap;

use arrow_array::{BooleanArray, RecordBatch};

use crate::error::{Result, internal};
use crate::schema::CollectionSchema;

mod bounds;
mod evaluate;
mod json;
mod lexer;
mod literal;
mod parser;
mod pattern;
#[cfg(test)]
mod tests;

pub use bounds::{Bound, Bounds, Nulls};
use literal::{Literal, Set};
use pattern::Pattern;

/// A longer filter is refused: the longest that is of use is a list of keys.
pub const MOST_BYTES: usize = 16 << 20;
/// Parentheses and `not` nested deeper than this are refused.
pub const MOST_DEPTH: usize = 100;

/// A filter on the rows of one schema. Cheap to share, and never changes.
#[derive(Debug)]
pub struct Filter {
    root: Node,
    fields: Vec<String>,
}

/// One condition, or several.
#[derive(Debug)]
enum Node {
    Constant(bool),
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Compare { operand: Operand, comparison: Comparison, literal: Literal },
    CompareFields { left: Operand, comparison: Comparison, right: Operand },
    In { operand: Operand, set: Set },
    Like { operand: Operand, pattern: Pattern },
    IsNull(Operand),
}

/// What a condition looks at: a field, or a place in a JSON field.
#[derive(Debug, Clone, PartialEq)]
struct Operand {
    /// The field's place in [`Filter::fields`].
    field: usize,
    sort: Sort,
    /// Where in a JSON value; empty for the field itself.
    path: Vec<Step>,
}

/// What sort of values an operand has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Bool,
    Int,
    Float32,
    Float64,
    Text,
    /// Microseconds since 1970.
    Time,
    Json,
    /// Nothing but null tests: arrays, vectors, geometry.
    Opaque,
}

/// A step into a JSON value.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    /// Whether it holds of two values in this order; `None` where they have none, as NaN has with any number.
    fn holds(self, order: Option<std::cmp::Ordering>) -> bool {
        match self {
            Self::Equal => order.is_some_and(std::cmp::Ordering::is_eq),
            Self::NotEqual => order.is_none_or(std::cmp::Ordering::is_ne),
            Self::Less => order.is_some_and(std::cmp::Ordering::is_lt),
            Self::LessOrEqual => order.is_some_and(std::cmp::Ordering::is_le),
            Self::Greater => order.is_some_and(std::cmp::Ordering::is_gt),
            Self::GreaterOrEqual => order.is_some_and(std::cmp::Ordering::is_ge),
        }
    }

    /// Whether it asks which of the two is greater.
    fn is_ordering(self) -> bool {
        !matches!(self, Self::Equal | Self::NotEqual)
    }

    /// The same with its sides swapped.
    fn mirrored(self) -> Self {
        match self {
            Self::Less => Self::Greater,
            Self::LessOrEqual => Self::GreaterOrEqual,
            Self::Greater => Self::Less,
            Self::GreaterOrEqual => Self::LessOrEqual,
            same => same,
        }
    }
}

impl Filter {
    /// Reads a filter on rows of `schema`.
    ///
    /// # Errors
    /// [`crate::error::Kind::InvalidArgument`] where it is no filter, names what the schema does not have, or compares
    /// what cannot be compared; the message and `position` (a character, counted from 1) say where, `field` of which
    /// field. It never repeats a value.
    pub fn parse(text: &str, schema: &CollectionSchema) -> Result<Self> {
        let (root, fields) = parser::parse(text, schema)?;
        Ok(Self { root, fields })
    }

    /// Names of the fields that [`Filter::mask`] needs, `$meta` among them where a key of the dynamic field is named.
    #[must_use]
    pub fn fields(&self) -> &[String] {
        &self.fields
    }

    /// Which rows match: true or false for each, never null. Columns are found by name.
    ///
    /// # Errors
    /// [`crate::error::Kind::Internal`] where a field of [`Filter::fields`] has no column, or one of another type.
    pub fn mask(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        let columns = self.fields.iter().map(|name| {
            batch
                .column_by_name(name)
                .ok_or_else(|| internal(format!("the rows have no column for the field '{name}'")))
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let outcomes = evaluate::node(&self.root, &columns, batch.num_rows())?;
        Ok(outcomes.into_iter().map(|outcome| Some(outcome == evaluate::TRUE)).collect())
    }

    /// Whether any row can match where all values lie within these bounds, by the name of the field. A field without
    /// bounds can have any value. True where in doubt.
    #[must_use]
    pub fn may_match(&self, bounds: &HashMap<String, Bounds>) -> bool {
        let bounds: Vec<_> = self.fields.iter().map(|name| bounds.get(name)).collect();
        bounds::outcomes(&self.root, &bounds).can_be_true()
    }
}
