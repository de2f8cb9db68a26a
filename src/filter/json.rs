//! The value at a place in a JSON text, found without building the rest.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::Step;
use super::literal::Number;

/// What is at a place in a JSON text.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Found<'a> {
    /// Nothing, or `null`.
    Null,
    Bool(bool),
    Number(Number),
    Text(Cow<'a, str>),
    /// An object or an array.
    Container,
}

/// Goes down `path` in `text`. [`Found::Null`] where there is no such place, or the text is no JSON. Of keys that come
/// twice the last one counts.
pub(super) fn find<'a>(text: &'a str, path: &[Step]) -> Found<'a> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let found = Walk(path).deserialize(&mut deserializer);
    match (found, deserializer.end()) {
        (Ok(found), Ok(())) => found,
        _ => Found::Null,
    }
}

struct Walk<'p>(&'p [Step]);

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Found<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Walk<'_> {
    /// A value that is no container is found where the path ends.
    fn here(&self, found: Found<'de>) -> Found<'de> {
        if self.0.is_empty() { found } else { Found::Null }
    }

    fn container(&self) -> Found<'de> {
        self.here(Found::Container)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Found<'de>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Found<'de>, E> {
        Ok(Found::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Found<'de>, E> {
        Ok(self.here(Found::Bool(value)))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Found<'de>, E> {
        Ok(self.here(Found::Number(Number::Int(value.into()))))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Found<'de>, E> {
        Ok(self.here(Found::Number(Number::Int(value.into()))))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Found<'de>, E> {
        Ok(self.here(Found::Number(Number::Float(value))))
    }

    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<Found<'de>, E> {
        Ok(self.here(Found::Text(Cow::Borrowed(value))))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Found<'de>, E> {
        Ok(self.here(Found::Text(Cow::Owned(value.to_owned()))))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found<'de>, A::Error> {
        let (wanted, rest) = match self.0.split_first() {
            Some((Step::Key(key), rest)) => (Some(key.as_str()), rest),
            _ => (None, self.0),
        };
        let mut found = self.container();
        while let Some(is_wanted) = map.next_key_seed(IsKey(wanted))? {
            if is_wanted {
                found = map.next_value_seed(Walk(rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Found<'de>, A::Error> {
        let mut found = self.container();
        if let Some((Step::Index(index), rest)) = self.0.split_first() {
            for _ in 0..*index {
                if sequence.next_element::<IgnoredAny>()?.is_none() {
                    return Ok(found);
                }
            }
            found = sequence.next_element_seed(Walk(rest))?.unwrap_or(Found::Null);
        }
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(found)
    }
}

/// Whether a key is the wanted one.
struct IsKey<'p>(Option<&'p str>);

impl<'de> DeserializeSeed<'de> for IsKey<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for IsKey<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<bool, E> {
        Ok(self.0 == Some(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at<'a>(text: &'a str, path: &[&str]) -> Found<'a> {
        let step = |step: &&str| step.parse().map_or_else(|_| Step::Key((*step).to_owned()), Step::Index);
        find(text, &path.iter().map(step).collect::<Vec<_>>())
    }

    #[test]
    fn goes_down_objects_and_arrays() {
        let text = r#"{"a": {"b": [10, {"c": "deep"}]}, "x": 1.5, "t": true, "n": null, "big": 18446744073709551615}"#;
        assert_eq!(at(text, &["a", "b", "0"]), Found::Number(Number::Int(10)));
        assert_eq!(at(text, &["a", "b", "1", "c"]), Found::Text("deep".into()));
        assert_eq!(at(text, &["x"]), Found::Number(Number::Float(1.5)));
        assert_eq!(at(text, &["t"]), Found::Bool(true));
        assert_eq!(at(text, &["a"]), Found::Container);
        assert_eq!(at(text, &["big"]), Found::Number(Number::Int(u64::MAX.into())));
        for absent in [&["n"][..], &["gone"], &["x", "y"], &["a", "b", "9"], &["a", "0"], &["a", "b", "key"]] {
            assert_eq!(at(text, absent), Found::Null, "{absent:?}");
        }
    }

    #[test]
    fn the_last_of_two_equal_keys_counts() {
        assert_eq!(at(r#"{"a": 1, "\u0061": 2}"#, &["a"]), Found::Number(Number::Int(2)));
    }

    #[test]
    fn what_is_no_json_has_nothing() {
        for text in ["", "{", "{\"a\": 1", "{\"a\": 1} x", "nul", "{\"a\": 1, \"b\": }"] {
            assert_eq!(at(text, &["a"]), Found::Null, "{text}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(at(&deep, &["0"]), Found::Null);
    }
}
