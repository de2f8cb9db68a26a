//! The values that a filter compares with, and how numbers of two sorts compare.

use std::cmp::Ordering;
use std::collections::HashSet;

/// A value in a filter, brought to the sort of what it is compared with.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Literal {
    Bool(bool),
    Number(Number),
    Text(String),
}

/// A number. Whole ones are exact; wide enough for what JSON holds and `i64` does not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Number {
    Int(i128),
    Float(f64),
}

impl Number {
    /// The order of two numbers by their exact values: 2^53 + 1 is greater than the float 2^53. NaN has none.
    pub(super) fn order(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(left), Self::Int(right)) => Some(left.cmp(&right)),
            (Self::Float(left), Self::Float(right)) => left.partial_cmp(&right),
            (Self::Int(left), Self::Float(right)) => int_with_float(left, right),
            (Self::Float(left), Self::Int(right)) => int_with_float(right, left).map(Ordering::reverse),
        }
    }

    /// The nearest float.
    #[allow(clippy::cast_precision_loss)] // what servers do with a whole number beside a float field
    pub(super) fn to_f64(self) -> f64 {
        match self {
            Self::Int(int) => int as f64,
            Self::Float(float) => float,
        }
    }
}

fn int_with_float(int: i128, float: f64) -> Option<Ordering> {
    if float.is_nan() {
        return None;
    }
    let whole = float.floor();
    #[allow(clippy::cast_possible_truncation)] // saturates: what is beyond i128 is beyond every integer here
    let order = int.cmp(&(whole as i128));
    // Equal to the floor: what is behind the point decides.
    Some(order.then_with(|| if float > whole { Ordering::Less } else { Ordering::Equal }))
}

/// What stands behind `in`.
#[derive(Debug, Default)]
pub(super) struct Set {
    bools: [bool; 2],
    /// In order, none of them NaN.
    numbers: Vec<Number>,
    texts: HashSet<String>,
}

impl FromIterator<Literal> for Set {
    fn from_iter<I: IntoIterator<Item = Literal>>(literals: I) -> Self {
        let mut set = Self::default();
        for literal in literals {
            match literal {
                Literal::Bool(value) => set.bools[usize::from(value)] = true,
                Literal::Number(value) => set.numbers.push(value),
                Literal::Text(value) => drop(set.texts.insert(value)),
            }
        }
        set.numbers.sort_by(|left, right| left.order(*right).unwrap_or(Ordering::Equal));
        set
    }
}

impl Set {
    pub(super) fn has_bool(&self, value: bool) -> bool {
        self.bools[usize::from(value)]
    }

    pub(super) fn has_number(&self, value: Number) -> bool {
        let is_nan = matches!(value, Number::Float(float) if float.is_nan());
        !is_nan && self.numbers.binary_search_by(|number| number.order(value).unwrap_or(Ordering::Equal)).is_ok()
    }

    pub(super) fn has_text(&self, value: &str) -> bool {
        self.texts.contains(value)
    }

    pub(super) fn numbers(&self) -> &[Number] {
        &self.numbers
    }

    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        self.texts.iter().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_two_sorts_compare_exactly() {
        let big = 1 << 53;
        for (int, float, order) in [
            (big + 1, 9_007_199_254_740_992.0, Ordering::Greater),
            (big, 9_007_199_254_740_992.0, Ordering::Equal),
            (1, 1.5, Ordering::Less),
            (-1, -1.5, Ordering::Greater),
            (-2, -1.5, Ordering::Less),
            (i128::from(i64::MAX), f64::INFINITY, Ordering::Less),
            (i128::from(i64::MIN), f64::NEG_INFINITY, Ordering::Greater),
            (i128::from(u64::MAX), 1e300, Ordering::Less),
        ] {
            assert_eq!(Number::Int(int).order(Number::Float(float)), Some(order), "{int} and {float}");
            assert_eq!(Number::Float(float).order(Number::Int(int)), Some(order.reverse()));
        }
        assert_eq!(Number::Int(1).order(Number::Float(f64::NAN)), None);
    }

    #[test]
    fn a_set_finds_numbers_by_their_value() {
        let set: Set = [Number::Float(2.5), Number::Int(7), Number::Int(-1)].into_iter().map(Literal::Number).collect();
        assert!(set.has_number(Number::Float(7.0)) && set.has_number(Number::Int(-1)));
        assert!(!set.has_number(Number::Int(2)) && !set.has_number(Number::Float(f64::NAN)));
    }
}
