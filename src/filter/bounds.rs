//! What a condition can come to where all that is known of values is what bounds they lie within: for skipping row
//! groups by their statistics. It may say "possible" of what does not happen, never "impossible" of what does.

use std::cmp::Ordering;

use super::evaluate::{FALSE, NULL, TRUE};
use super::literal::{Literal, Number, Set};
use super::pattern::Pattern;
use super::{Comparison, Node, Operand, Sort};

/// What is known of a field's values in some rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Bounds {
    /// No value is less; it need not occur itself, as of texts only the beginning may be known. None: unknown.
    pub lowest: Option<Bound>,
    /// No value is greater; as `lowest`.
    pub highest: Option<Bound>,
    /// Whether there are nulls.
    pub nulls: Nulls,
}

/// A bound of values. Those of floats say nothing of NaNs, which may be there all the same.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Bound {
    Bool(bool),
    Int(i64),
    Float(f64),
    /// UTF-8, in the order of its bytes.
    Text(Vec<u8>),
}

/// Whether there are nulls among some values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nulls {
    /// None is null.
    None,
    /// All are.
    All,
    /// Some may be.
    Possible,
}

/// The outcomes that are possible, a bit each.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Outcomes(u8);

impl Outcomes {
    const NONE: Self = Self(0);
    const EVERY: Self = Self(0b111);

    fn just(outcome: u8) -> Self {
        Self(1 << outcome)
    }

    fn truth(value: bool) -> Self {
        Self::just(if value { TRUE } else { FALSE })
    }

    fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn each(self) -> impl Iterator<Item = u8> {
        [FALSE, NULL, TRUE].into_iter().filter(move |outcome| self.0 & (1 << outcome) != 0)
    }

    pub(super) fn can_be_true(self) -> bool {
        self.0 & (1 << TRUE) != 0
    }

    fn combined(self, other: Self, with: fn(u8, u8) -> u8) -> Self {
        self.each()
            .flat_map(|left| other.each().map(move |right| with(left, right)))
            .fold(Self::NONE, |all, outcome| all.or(Self::just(outcome)))
    }
}

/// What a condition can come to. `fields` holds the bounds of each field that the filter names.
pub(super) fn outcomes(node: &Node, fields: &[Option<&Bounds>]) -> Outcomes {
    let combined = |nodes: &[Node], start, with: fn(u8, u8) -> u8| {
        nodes.iter().fold(Outcomes::just(start), |all, node| all.combined(outcomes(node, fields), with))
    };
    match node {
        Node::Constant(value) => Outcomes::truth(*value),
        Node::All(nodes) => combined(nodes, TRUE, u8::min),
        Node::Any(nodes) => combined(nodes, FALSE, u8::max),
        Node::Not(inner) => {
            outcomes(inner, fields).each().fold(Outcomes::NONE, |all, outcome| all.or(Outcomes::just(TRUE - outcome)))
        }
        Node::Compare { operand, comparison, literal } => {
            within(operand, fields, |bounds| compared(operand, bounds, *comparison, literal))
        }
        Node::In { operand, set } => within(operand, fields, |bounds| {
            if any_within(set, bounds) {
                Outcomes::truth(true).or(Outcomes::truth(false))
            } else {
                Outcomes::truth(false)
            }
        }),
        Node::Like { operand, pattern } => within(operand, fields, |bounds| {
            if may_begin(pattern, bounds) {
                Outcomes::truth(true).or(Outcomes::truth(false))
            } else {
                Outcomes::truth(false)
            }
        }),
        Node::IsNull(operand) => match fields[operand.field] {
            Some(bounds) if operand.path.is_empty() && bounds.nulls == Nulls::None => Outcomes::truth(false),
            Some(bounds) if bounds.nulls == Nulls::All => Outcomes::truth(true),
            _ => Outcomes::truth(true).or(Outcomes::truth(false)),
        },
        Node::CompareFields { .. } => Outcomes::EVERY,
    }
}

/// The outcomes for the values that are not null, by `judge`, and for those that are.
fn within(operand: &Operand, fields: &[Option<&Bounds>], judge: impl Fn(&Bounds) -> Outcomes) -> Outcomes {
    let Some(bounds) = fields[operand.field] else { return Outcomes::EVERY };
    if bounds.nulls == Nulls::All {
        return Outcomes::just(NULL);
    }
    if operand.sort == Sort::Json {
        return Outcomes::EVERY; // bounds of the text say nothing of what is in it
    }
    let nulls = if bounds.nulls == Nulls::None { Outcomes::NONE } else { Outcomes::just(NULL) };
    judge(bounds).or(nulls)
}

fn compared(operand: &Operand, bounds: &Bounds, comparison: Comparison, literal: &Literal) -> Outcomes {
    let low = bounds.lowest.as_ref().and_then(|bound| order(bound, literal));
    let high = bounds.highest.as_ref().and_then(|bound| order(bound, literal));
    let less = low.is_none_or(Ordering::is_lt);
    let greater = high.is_none_or(Ordering::is_gt);
    let equal = low.is_none_or(Ordering::is_le) && high.is_none_or(Ordering::is_ge);
    // NaN is within no bounds, and has no order.
    let none = matches!(operand.sort, Sort::Float32 | Sort::Float64);
    let possible = [
        (less, Some(Ordering::Less)),
        (equal, Some(Ordering::Equal)),
        (greater, Some(Ordering::Greater)),
        (none, None),
    ];
    possible
        .into_iter()
        .filter(|(is_possible, _)| *is_possible)
        .fold(Outcomes::NONE, |all, (_, order)| all.or(Outcomes::truth(comparison.holds(order))))
}

/// The order of a bound and a value; `None` where they are not of one sort, and nothing is known.
fn order(bound: &Bound, literal: &Literal) -> Option<Ordering> {
    match (bound, literal) {
        (Bound::Bool(bound), Literal::Bool(value)) => Some(bound.cmp(value)),
        (Bound::Int(bound), Literal::Number(value)) => Number::Int((*bound).into()).order(*value),
        (Bound::Float(bound), Literal::Number(value)) => Number::Float(*bound).order(*value),
        (Bound::Text(bound), Literal::Text(value)) => Some(bound.as_slice().cmp(value.as_bytes())),
        _ => None,
    }
}

fn is_within(bounds: &Bounds, literal: &Literal) -> bool {
    let at_least = bounds.lowest.as_ref().and_then(|bound| order(bound, literal)).is_none_or(Ordering::is_le);
    at_least && bounds.highest.as_ref().and_then(|bound| order(bound, literal)).is_none_or(Ordering::is_ge)
}

fn any_within(set: &Set, bounds: &Bounds) -> bool {
    // Numbers are in order: the first that is not below the lowest is the only one to look at.
    let numbers = set.numbers();
    let from = bounds.lowest.as_ref().map_or(0, |bound| {
        numbers.partition_point(|number| order(bound, &Literal::Number(*number)).is_some_and(Ordering::is_gt))
    });
    numbers.get(from).is_some_and(|number| is_within(bounds, &Literal::Number(*number)))
        || [false, true].into_iter().any(|value| set.has_bool(value) && is_within(bounds, &Literal::Bool(value)))
        || set.texts().any(|text| is_within(bounds, &Literal::Text(text.to_owned())))
}

/// Whether a text within the bounds can begin as the pattern does.
fn may_begin(pattern: &Pattern, bounds: &Bounds) -> bool {
    let prefix = pattern.prefix();
    let prefix = prefix.as_bytes();
    let not_above = match &bounds.highest {
        Some(Bound::Text(highest)) => highest.as_slice() >= prefix,
        _ => true,
    };
    let not_below = match &bounds.lowest {
        // All texts with the prefix are below a text that is greater than it at the prefix's length.
        Some(Bound::Text(lowest)) => &lowest[..lowest.len().min(prefix.len())] <= prefix,
        _ => true,
    };
    not_above && not_below
}
