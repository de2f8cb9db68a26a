//! Patterns of `like`: `%` is any text, `_` any one character, a backslash makes what follows mean itself.

/// A pattern, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Part>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Any,
    One,
    Just(char),
}

impl Pattern {
    /// The pattern, or `None` where it ends in the middle of an escape.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = Vec::new();
        let mut chars = text.chars();
        while let Some(char) = chars.next() {
            let part = match char {
                '%' => Part::Any,
                '_' => Part::One,
                '\\' => Part::Just(chars.next()?),
                other => Part::Just(other),
            };
            if part != Part::Any || parts.last() != Some(&Part::Any) {
                parts.push(part);
            }
        }
        Some(Self(parts))
    }

    /// Whether the whole text is as the pattern says. Line breaks are characters like any other.
    pub(super) fn matches(&self, text: &str) -> bool {
        let (mut at, mut part) = (0, 0);
        // Where to go on after a mismatch: behind the last `%`, which then takes one character more.
        let mut again: Option<(usize, usize)> = None;
        loop {
            let next = text[at..].chars().next();
            let fits = match (self.0.get(part), next) {
                (Some(Part::Any), _) => {
                    part += 1;
                    again = Some((part, at));
                    continue;
                }
                (None, None) => return true,
                (Some(Part::One), Some(_)) => true,
                (Some(Part::Just(wanted)), Some(found)) => *wanted == found,
                _ => false,
            };
            match (fits, next, &mut again) {
                (true, Some(char), _) => {
                    at += char.len_utf8();
                    part += 1;
                }
                (_, _, Some((back, from))) => {
                    let Some(skipped) = text[*from..].chars().next() else { return false };
                    *from += skipped.len_utf8();
                    (part, at) = (*back, *from);
                }
                _ => return false,
            }
        }
    }

    /// What every text that matches begins with.
    pub(super) fn prefix(&self) -> String {
        self.0.iter().map_while(|part| if let Part::Just(char) = part { Some(*char) } else { None }).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        Pattern::parse(pattern).unwrap().matches(text)
    }

    #[test]
    fn wildcards_and_escapes() {
        for (pattern, text) in [
            ("", ""),
            ("%", ""),
            ("%", "a\nb"),
            ("a%", "a"),
            ("%a", "bba"),
            ("%a%b%", "xaxbx"),
            ("a_c", "a🐍c"),
            ("a\\%b", "a%b"),
            ("a\\\\b", "a\\b"),
            ("\\a", "a"),
            ("_%", "x"),
            ("%%x%%", "x"),
            ("%aab", "aaaab"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in
            [("", "a"), ("a", ""), ("_", ""), ("_", "ab"), ("a\\%b", "axb"), ("%a_", "a"), ("A", "a")]
        {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
        assert_eq!(Pattern::parse("ends with \\"), None);
    }

    #[test]
    fn the_prefix_ends_at_the_first_wildcard() {
        assert_eq!(Pattern::parse("a\\%b%c").unwrap().prefix(), "a%b");
        assert_eq!(Pattern::parse("_a").unwrap().prefix(), "");
    }

    /// The definition, spelled out.
    fn slowly(parts: &[Part], text: &[char]) -> bool {
        match parts.split_first() {
            None => text.is_empty(),
            Some((Part::Any, rest)) => (0..=text.len()).any(|from| slowly(rest, &text[from..])),
            Some((part, rest)) => text.split_first().is_some_and(|(first, others)| {
                (*part == Part::One || *part == Part::Just(*first)) && slowly(rest, others)
            }),
        }
    }

    proptest! {
        #[test]
        fn matches_as_the_definition_says(pattern in "[ab%_\\\\é]{0,8}", text in "[abé]{0,8}") {
            if let Some(pattern) = Pattern::parse(&pattern) {
                prop_assert_eq!(pattern.matches(&text), slowly(&pattern.0, &text.chars().collect::<Vec<_>>()));
            }
        }
    }
}
