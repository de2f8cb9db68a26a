//! From words to conditions. Grammar, loosest first: `or` (`||`), `and` (`&&`), `not` (`!`), one condition.

use crate::error::{Error, Kind, Result};
use crate::schema::{CollectionSchema, DYNAMIC_FIELD, DataType};

use super::lexer::{Token, Word, words, wrong};
use super::literal::{Literal, Number, Set};
use super::pattern::Pattern;
use super::{Comparison, MOST_BYTES, MOST_DEPTH, Node, Operand, Sort, Step};

/// Keywords are no names of fields; their case does not matter.
const KEYWORDS: [&str; 10] = ["and", "or", "not", "in", "like", "is", "null", "true", "false", "exists"];

/// Reads a filter; gives the conditions, and the fields they are about.
pub(super) fn parse(text: &str, schema: &CollectionSchema) -> Result<(Node, Vec<String>)> {
    if text.len() > MOST_BYTES {
        let what = format!("the filter is {} bytes long, over the limit of {MOST_BYTES}", text.len());
        return Err(Error::new(Kind::InvalidArgument, what));
    }
    let tokens = words(text)?;
    let mut parser = Parser { text, schema, tokens: tokens.into_iter().peekable(), fields: Vec::new(), depth: 0 };
    let root = parser.any()?;
    match parser.tokens.next() {
        None => Ok((root, parser.fields)),
        Some(token) => Err(wrong(text, token.at, "the filter should have ended here; join conditions with and, or")),
    }
}

struct Parser<'a> {
    text: &'a str,
    schema: &'a CollectionSchema,
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
    fields: Vec<String>,
    depth: usize,
}

/// One side of a comparison, before its sort is known.
enum Side {
    Operand(Operand),
    Literal(Literal),
}

impl Parser<'_> {
    fn any(&mut self) -> Result<Node> {
        let first = self.all()?;
        let mut nodes = vec![first];
        while self.take_word("or") || self.take_sign("||") {
            nodes.push(self.all()?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::Any(nodes) })
    }

    fn all(&mut self) -> Result<Node> {
        let first = self.one()?;
        let mut nodes = vec![first];
        while self.take_word("and") || self.take_sign("&&") {
            nodes.push(self.one()?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::All(nodes) })
    }

    fn one(&mut self) -> Result<Node> {
        let at = self.at();
        let is_not = self.take_word("not") || self.take_sign("!");
        if !is_not && !self.take_sign("(") {
            return self.condition();
        }
        self.depth += 1;
        if self.depth > MOST_DEPTH {
            return Err(self.wrong(at, &format!("parentheses and not are nested deeper than {MOST_DEPTH}")));
        }
        let node = if is_not {
            Node::Not(Box::new(self.one()?))
        } else {
            let inner = self.any()?;
            self.expect_sign(")")?;
            inner
        };
        self.depth -= 1;
        Ok(node)
    }

    fn condition(&mut self) -> Result<Node> {
        let at = self.at();
        let left = self.side()?;
        if let Some(comparison) = self.comparison() {
            return self.compared(left, at, comparison);
        }
        let operand = match left {
            Side::Operand(operand) => operand,
            Side::Literal(Literal::Bool(value)) => return Ok(Node::Constant(value)),
            Side::Literal(_) => return Err(self.wrong(at, "a value by itself is no condition; compare it to a field")),
        };
        let next = self.at();
        if self.take_word("is") {
            let negated = self.take_word("not");
            if !self.take_word("null") {
                return Err(self.here("behind is comes null or not null"));
            }
            return Ok(negate(Node::IsNull(operand), negated));
        }
        let negated = self.take_word("not");
        if self.take_word("in") {
            return Ok(negate(self.set(operand)?, negated));
        }
        if self.take_word("like") {
            return Ok(negate(self.pattern(operand, next)?, negated));
        }
        if negated {
            return Err(self.here("behind a field's not comes in or like"));
        }
        if operand.sort == Sort::Bool {
            let literal = Literal::Bool(true);
            return Ok(Node::Compare { operand, comparison: Comparison::Equal, literal });
        }
        Err(self.about(&operand, next, "a comparison is missing here: ==, !=, <, <=, >, >=, in, like, is null"))
    }

    /// What follows the first comparison: one more side, or two for a range.
    fn compared(&mut self, left: Side, at: usize, first: Comparison) -> Result<Node> {
        let middle_at = self.at();
        let middle = self.side()?;
        let second_at = self.at();
        let Some(second) = self.comparison() else { return self.pair(left, first, middle, at, middle_at) };
        let right_at = self.at();
        let right = self.side()?;
        let up = |comparison| matches!(comparison, Comparison::Less | Comparison::LessOrEqual);
        let both = first.is_ordering() && second.is_ordering() && up(first) == up(second);
        match (left, middle, right) {
            (left @ Side::Literal(_), Side::Operand(operand), right @ Side::Literal(_)) if both => Ok(Node::All(vec![
                self.pair(left, first, Side::Operand(operand.clone()), at, middle_at)?,
                self.pair(Side::Operand(operand), second, right, middle_at, right_at)?,
            ])),
            _ => Err(self.wrong(second_at, "a range is written 1 < field <= 9, both comparisons in one direction")),
        }
    }

    fn pair(&self, left: Side, comparison: Comparison, right: Side, at: usize, right_at: usize) -> Result<Node> {
        match (left, right) {
            (Side::Operand(operand), Side::Literal(literal)) => {
                let literal = self.fitting(&operand, literal, right_at)?;
                Ok(Node::Compare { operand, comparison, literal })
            }
            (Side::Literal(literal), Side::Operand(operand)) => {
                let literal = self.fitting(&operand, literal, at)?;
                Ok(Node::Compare { operand, comparison: comparison.mirrored(), literal })
            }
            (Side::Operand(left), Side::Operand(right)) => {
                let group = |sort| match sort {
                    Sort::Int | Sort::Float32 | Sort::Float64 => Some(0),
                    Sort::Text => Some(1),
                    Sort::Bool => Some(2),
                    Sort::Time => Some(3),
                    Sort::Json | Sort::Opaque => None,
                };
                if group(left.sort).is_none() || group(left.sort) != group(right.sort) {
                    return Err(self.about(&left, right_at, "these two cannot be compared with each other"));
                }
                Ok(Node::CompareFields { left, comparison, right })
            }
            (Side::Literal(_), Side::Literal(_)) => {
                Err(self.wrong(at, "two values are compared and no field; name a field"))
            }
        }
    }

    fn side(&mut self) -> Result<Side> {
        let at = self.at();
        let Some(token) = self.tokens.next() else {
            return Err(self.wrong(at, "something is missing at the end: a field or a value"));
        };
        match token.word {
            Word::Name(name) if name.eq_ignore_ascii_case("iso") && matches!(self.word(), Some(Word::Text(_))) => {
                self.side() // ISO "2026-01-31T06:00:00Z", a time as Milvus writes it
            }
            Word::Name(name) => match name.to_ascii_lowercase().as_str() {
                "true" => Ok(Side::Literal(Literal::Bool(true))),
                "false" => Ok(Side::Literal(Literal::Bool(false))),
                "exists" => Err(self.wrong(at, "servers disagree about exists; write: field is not null")),
                keyword if KEYWORDS.contains(&keyword) => {
                    Err(self.wrong(at, &format!("'{keyword}' stands where a field or a value should")))
                }
                _ => Ok(Side::Operand(self.operand(&name, at)?)),
            },
            Word::Text(text) => Ok(Side::Literal(Literal::Text(text))),
            Word::Float(value) => Ok(Side::Literal(Literal::Number(Number::Float(value)))),
            Word::Int(value) => self.int(value, false, at),
            Word::Sign("-" | "+") => self.signed(token.word == Word::Sign("-"), at),
            Word::Sign("[") => Err(self.wrong(at, "lists stand behind in only")),
            Word::Sign(sign) => Err(self.wrong(at, &format!("'{sign}' stands where a field or a value should"))),
        }
    }

    fn signed(&mut self, mut minus: bool, at: usize) -> Result<Side> {
        loop {
            match self.tokens.next().map(|token| token.word) {
                Some(Word::Sign("-")) => minus = !minus,
                Some(Word::Sign("+")) => {}
                Some(Word::Int(value)) => return self.int(value, minus, at),
                Some(Word::Float(value)) => {
                    return Ok(Side::Literal(Literal::Number(Number::Float(if minus { -value } else { value }))));
                }
                _ => return Err(self.wrong(at, "a number has to follow the sign")),
            }
        }
    }

    fn int(&self, value: u64, minus: bool, at: usize) -> Result<Side> {
        let value = if minus { -i128::from(value) } else { i128::from(value) };
        if i64::try_from(value).is_err() {
            return Err(self.wrong(at, "this number does not fit an int64"));
        }
        Ok(Side::Literal(Literal::Number(Number::Int(value))))
    }

    /// A field, or a place in a JSON field, by its name and the path behind it.
    fn operand(&mut self, name: &str, at: usize) -> Result<Operand> {
        let mut path = Vec::new();
        let known = self.schema.field(name);
        let (field, sort) = match known {
            Some(field) => {
                if field.function_output {
                    let what = "a function makes this field; a backup does not hold it";
                    return Err(self.wrong(at, what).with("field", name));
                }
                (field.name.clone(), sort_of(field.data_type))
            }
            None if self.schema.enable_dynamic_field => {
                path.push(Step::Key(name.to_owned()));
                (DYNAMIC_FIELD.to_owned(), Sort::Json)
            }
            None => {
                let fields: Vec<_> = self.schema.stored_fields().map(|field| field.name.as_str()).collect();
                let what = format!("there is no field '{name}'; there are {}", fields.join(", "));
                return Err(self.wrong(at, &what).with("field", name));
            }
        };
        if matches!(self.word(), Some(Word::Sign("("))) {
            return Err(self.wrong(at, "there are no functions here; compare the field itself").with("field", name));
        }
        if matches!(self.word(), Some(Word::Sign("+" | "-"))) {
            return Err(self.here("there is no arithmetic here; compare the field itself"));
        }
        while sort == Sort::Json && self.take_sign("[") {
            let step_at = self.at();
            path.push(match self.tokens.next().map(|token| token.word) {
                Some(Word::Text(key)) => Step::Key(key),
                Some(Word::Int(index)) => {
                    Step::Index(usize::try_from(index).map_err(|_| self.wrong(step_at, "this index is too large"))?)
                }
                _ => return Err(self.wrong(step_at, "in the brackets stands a key in quotes, or an index")),
            });
            self.expect_sign("]")?;
        }
        if matches!(self.word(), Some(Word::Sign("["))) {
            let what = "only JSON fields have places in brackets, and this is none";
            return Err(self.here(what).with("field", name));
        }
        let index = self.fields.iter().position(|known| *known == field).unwrap_or_else(|| {
            self.fields.push(field);
            self.fields.len() - 1
        });
        Ok(Operand { field: index, sort, path })
    }

    /// The literal as the operand's sort has it, as servers do: beside a float field a number becomes a float.
    fn fitting(&self, operand: &Operand, literal: Literal, at: usize) -> Result<Literal> {
        match (operand.sort, literal) {
            (Sort::Json, _) if operand.path.is_empty() => {
                Err(self.about(operand, at, "a JSON field has no order; name a place in it, such as field[\"key\"]"))
            }
            (Sort::Opaque, _) => Err(self.about(operand, at, "this field's type cannot be compared; only is null can")),
            (Sort::Float32, Literal::Number(number)) => {
                #[allow(clippy::cast_possible_truncation)] // to the field's own precision, or 0.1 would equal no row
                let float = f64::from(number.to_f64() as f32);
                Ok(Literal::Number(Number::Float(float)))
            }
            (Sort::Float64, Literal::Number(number)) => Ok(Literal::Number(Number::Float(number.to_f64()))),
            (Sort::Time, Literal::Text(text)) => {
                let time = chrono::DateTime::parse_from_rfc3339(&text).map_err(|_| {
                    self.about(operand, at, "this is no time with a zone; write it like \"2026-01-31T06:00:00Z\"")
                })?;
                Ok(Literal::Number(Number::Int(time.timestamp_micros().into())))
            }
            (Sort::Json, literal)
            | (Sort::Bool, literal @ Literal::Bool(_))
            | (Sort::Int, literal @ Literal::Number(_))
            | (Sort::Text, literal @ Literal::Text(_)) => Ok(literal),
            (sort, _) => {
                let wanted = match sort {
                    Sort::Bool => "true or false",
                    Sort::Text => "text in quotes",
                    Sort::Time => "a time in quotes",
                    _ => "a number",
                };
                Err(self.about(operand, at, &format!("this field is compared with {wanted}")))
            }
        }
    }

    fn set(&mut self, operand: Operand) -> Result<Node> {
        self.expect_sign("[")?;
        let mut literals = Vec::new();
        while !self.take_sign("]") {
            let at = self.at();
            let Side::Literal(literal) = self.side()? else {
                return Err(self.wrong(at, "a list holds values, no fields"));
            };
            literals.push(self.fitting(&operand, literal, at)?);
            if !self.take_sign(",") {
                self.expect_sign("]")?;
                break;
            }
        }
        Ok(Node::In { operand, set: literals.into_iter().collect::<Set>() })
    }

    fn pattern(&mut self, operand: Operand, at: usize) -> Result<Node> {
        if !(operand.sort == Sort::Text || (operand.sort == Sort::Json && !operand.path.is_empty())) {
            return Err(self.about(&operand, at, "like is for text"));
        }
        let pattern_at = self.at();
        match self.tokens.next().map(|token| token.word) {
            Some(Word::Text(text)) => {
                let pattern = Pattern::parse(&text).ok_or_else(|| {
                    self.wrong(pattern_at, "the pattern ends in a backslash; in quotes one is written \\\\\\\\")
                })?;
                Ok(Node::Like { operand, pattern })
            }
            _ => Err(self.wrong(pattern_at, "behind like comes a pattern in quotes")),
        }
    }

    fn comparison(&mut self) -> Option<Comparison> {
        let found = match self.word()? {
            Word::Sign("==") => Comparison::Equal,
            Word::Sign("!=") => Comparison::NotEqual,
            Word::Sign("<") => Comparison::Less,
            Word::Sign("<=") => Comparison::LessOrEqual,
            Word::Sign(">") => Comparison::Greater,
            Word::Sign(">=") => Comparison::GreaterOrEqual,
            _ => return None,
        };
        self.tokens.next();
        Some(found)
    }

    fn word(&mut self) -> Option<&Word> {
        self.tokens.peek().map(|token| &token.word)
    }

    /// Where the next word begins.
    fn at(&mut self) -> usize {
        self.tokens.peek().map_or(self.text.len(), |token| token.at)
    }

    fn take_word(&mut self, keyword: &str) -> bool {
        self.tokens
            .next_if(|token| matches!(&token.word, Word::Name(name) if name.eq_ignore_ascii_case(keyword)))
            .is_some()
    }

    fn take_sign(&mut self, sign: &str) -> bool {
        self.tokens.next_if(|token| matches!(token.word, Word::Sign(found) if found == sign)).is_some()
    }

    fn expect_sign(&mut self, sign: &str) -> Result<()> {
        if self.take_sign(sign) {
            return Ok(());
        }
        Err(self.here(&format!("'{sign}' is missing here")))
    }

    fn wrong(&self, at: usize, what: &str) -> Error {
        wrong(self.text, at, what)
    }

    /// As [`Parser::wrong`], at the next word.
    fn here(&mut self, what: &str) -> Error {
        let at = self.at();
        self.wrong(at, what)
    }

    fn about(&self, operand: &Operand, at: usize, what: &str) -> Error {
        let field = &self.fields[operand.field];
        wrong(self.text, at, &format!("{what} (field '{field}')")).with("field", field.as_str())
    }
}

fn negate(node: Node, negated: bool) -> Node {
    if negated { Node::Not(Box::new(node)) } else { node }
}

fn sort_of(data_type: DataType) -> Sort {
    match data_type {
        DataType::Bool => Sort::Bool,
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => Sort::Int,
        DataType::Float => Sort::Float32,
        DataType::Double => Sort::Float64,
        DataType::Varchar => Sort::Text,
        DataType::Timestamptz => Sort::Time,
        DataType::Json => Sort::Json,
        _ => Sort::Opaque,
    }
}
