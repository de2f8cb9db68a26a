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

impl fmt::Display for Key {
    /// The key as a literal of Milvus's filter language. Quotes, backslashes, newlines, returns and tabs are escaped and
    /// all else stands as it is, NUL and emoji too: both servers read that right. Lite knows no other escapes (nor
    /// expression templates), and 2.3.5 refuses `\ud83d` pairs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(number) => write!(f, "{number}"),
            Self::Text(text) => {
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

/// A filter that keeps rows with one of `keys`.
pub(super) fn one_of(field: &str, keys: &[Key]) -> String {
    let list = keys.iter().map(Key::to_string).collect::<Vec<_>>().join(", ");
    format!("{field} in [{list}]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_a_literal_with_emoji_and_control_characters_as_they_are() {
        assert_eq!(Key::Text("a\"b\\c\n\u{0}🐍".into()).to_string(), "\"a\\\"b\\\\c\\n\u{0}🐍\"");
    }

    #[test]
    fn the_first_page_has_no_lower_bound() {
        assert_eq!(KeyRange::default().filter("id"), "");
        let range = KeyRange { after: Some(Key::Int(-3)), upto: Some(Key::Int(7)) };
        assert_eq!(range.filter("id"), "id > -3 and id <= 7");
        assert_eq!(range.above(Key::Int(5)).filter("id"), "id > 5 and id <= 7");
    }

    #[test]
    fn the_smallest_number_is_written_whole() {
        assert_eq!(Key::Int(i64::MIN).to_string(), "-9223372036854775808");
    }
}
