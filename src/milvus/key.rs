//! Primary keys and ranges of them, and how they are written in Milvus's filter language.

use std::fmt::{self, Write};

use serde_json::Value;

/// A primary key. Order is numeric, or by UTF-8 bytes as on both servers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// An int64 key.
    Int(i64),
    /// A varchar key; may be empty and may hold any character, NUL included.
    Text(String),
}

impl Key {
    /// The key as JSON: a number or a string.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::Int(number) => Value::from(*number),
            Self::Text(text) => Value::from(text.as_str()),
        }
    }
}

impl Key {
    /// Whether it is the lowest number, of which servers read no literal.
    pub(super) fn is_lowest(&self) -> bool {
        *self == Self::Int(i64::MIN)
    }
}

impl fmt::Display for Key {
    /// The key as a literal of Milvus's filter language. Quotes, backslashes, tabs and line ends are escaped, all other
    /// characters left as they are, NUL and emoji included: what both servers read right (2.3.5 refuses `\ud83d` pairs,
    /// Lite every `\u` as well as `\b` and `\f`, and it has no expression templates).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            // 2.3.5 reads the sign apart from the digits, which for the lowest number are one too many.
            Self::Int(i64::MIN) => return write!(f, "{} - 1", i64::MIN + 1),
            Self::Int(number) => return write!(f, "{number}"),
            Self::Text(text) => text,
        };
        f.write_char('"')?;
        for character in text.chars() {
            match character {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                other => f.write_char(other)?,
            }
        }
        f.write_char('"')
    }
}

/// Keys above `after` and up to `upto`, both open where absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyRange {
    /// Exclusive lower bound. Absent at the start, since `k > ""` would miss the empty key.
    pub after: Option<Key>,
    /// Inclusive upper bound.
    pub upto: Option<Key>,
}

impl KeyRange {
    /// The range as a filter on `field`; empty where the range is everything.
    #[must_use]
    pub fn filter(&self, field: &str) -> String {
        match (&self.after, &self.upto) {
            (None, None) => String::new(),
            (Some(after), None) => format!("{field} > {after}"),
            (None, Some(upto)) => format!("{field} <= {upto}"),
            (Some(after), Some(upto)) => format!("{field} > {after} and {field} <= {upto}"),
        }
    }

    /// What is left of the range above `key`.
    #[must_use]
    pub fn above(&self, key: Key) -> Self {
        Self { after: Some(key), upto: self.upto.clone() }
    }
}

/// A filter that keeps rows with one of `keys`. The lowest number stands outside the list, where Lite does no sums.
pub(super) fn one_of(field: &str, keys: &[Key]) -> String {
    let list = keys.iter().filter(|key| !key.is_lowest()).map(Key::to_string).collect::<Vec<_>>().join(", ");
    match keys.iter().find(|key| key.is_lowest()) {
        None => format!("{field} in [{list}]"),
        Some(lowest) if list.is_empty() => format!("{field} == {lowest}"),
        Some(lowest) => format!("{field} in [{list}] or {field} == {lowest}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_is_escaped_no_more_than_both_servers_read() {
        assert_eq!(Key::Text("a\"b\\c\n\r\t\u{0}\u{8}🐍".into()).to_string(), "\"a\\\"b\\\\c\\n\\r\\t\u{0}\u{8}🐍\"");
    }

    /// What Milvus Lite's lexer makes of a literal: the escapes that it knows, and where it ends.
    fn read(literal: &str) -> Option<(String, &str)> {
        let mut characters = literal.strip_prefix('"')?.char_indices();
        let mut text = String::new();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => return Some((text, &literal[at + 2..])),
                '\n' | '\r' => return None,
                '\\' => text.push(match characters.next()?.1 {
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    same @ ('"' | '\\') => same,
                    _ => return None,
                }),
                other => text.push(other),
            }
        }
        None
    }

    proptest! {
        #[test]
        fn any_text_is_read_back_and_nothing_is_left_over(keys in proptest::collection::vec(any::<String>(), 1..4)) {
            let keys: Vec<Key> = keys.into_iter().map(Key::Text).collect();
            let list = one_of("id", &keys);
            let mut rest = list.strip_prefix("id in [").unwrap();
            for key in &keys {
                let (text, more) = read(rest).unwrap();
                prop_assert_eq!(&Key::Text(text), key);
                rest = more.strip_prefix(", ").unwrap_or(more);
            }
            prop_assert_eq!(rest, "]");
        }

        #[test]
        fn a_range_leaves_nothing_below_its_last_key(after in i64::MIN + 1.., upto in i64::MIN + 1..) {
            let range = KeyRange { after: None, upto: Some(Key::Int(upto)) }.above(Key::Int(after));
            prop_assert_eq!(range.filter("id"), format!("id > {after} and id <= {upto}"));
        }
    }

    #[test]
    fn the_first_page_has_no_lower_bound() {
        assert_eq!(KeyRange::default().filter("id"), "");
        let range = KeyRange { after: Some(Key::Int(-3)), upto: Some(Key::Int(7)) };
        assert_eq!(range.filter("id"), "id > -3 and id <= 7");
        assert_eq!(range.above(Key::Int(5)).filter("id"), "id > 5 and id <= 7");
    }

    #[test]
    fn the_lowest_number_is_a_sum_and_no_member_of_a_list() {
        let keys = [Key::Int(3), Key::Int(i64::MIN)];
        assert_eq!(keys[1].to_string(), "-9223372036854775807 - 1");
        assert_eq!(one_of("id", &keys), "id in [3] or id == -9223372036854775807 - 1");
        assert_eq!(one_of("id", &keys[1..]), "id == -9223372036854775807 - 1");
        assert_eq!(one_of("id", &keys[..1]), "id in [3]");
    }
}
