//! JSON in canonical form: two texts of the same value give the same bytes, whatever their key order and white space.
//!
//! The form is binary and prefix-free, so that nothing needs escaping; [`crate::digest`] describes it. It is written
//! straight into the caller's buffer; memory is only needed for objects whose keys are out of order, and is reused.

/// Containers nested deeper than this are not canonicalised: the text counts as it is.
pub const MAX_DEPTH: usize = 128;

/// Turns JSON texts into their canonical form; keeps its scratch space between them.
#[derive(Default)]
pub struct Canonicalizer {
    members: Vec<Member>,
    scratch: Vec<u8>,
}

/// Where a member of an unfinished object lies in the output: its key, then its value.
#[derive(Clone, Copy)]
struct Member {
    start: usize,
    key_end: usize,
    end: usize,
}

impl Canonicalizer {
    /// Appends the canonical form of `text` to `out` and says so; where `text` is no JSON, nests deeper than
    /// [`MAX_DEPTH`] or has an escape that is no character, leaves `out` as it was and returns false.
    pub fn append(&mut self, text: &str, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        self.members.clear();
        let mut parser = Parser { text: text.as_bytes(), at: 0, out, work: self };
        let whole = parser.value(0).is_some() && {
            parser.skip_space();
            parser.at == parser.text.len()
        };
        if !whole {
            out.truncate(start);
        }
        whole
    }
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    out: &'a mut Vec<u8>,
    work: &'a mut Canonicalizer,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn take(&mut self, expected: u8) -> Option<()> {
        (self.peek()? == expected).then(|| self.at += 1)
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        self.skip_space();
        match self.peek()? {
            b'{' => self.object(depth + 1),
            b'[' => self.array(depth + 1),
            b'"' => self.string(),
            b'n' => self.word(b"null"),
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            _ => self.number(),
        }
    }

    /// `null`, `true` and `false`: their first letter.
    fn word(&mut self, word: &[u8]) -> Option<()> {
        self.text.get(self.at..)?.starts_with(word).then(|| {
            self.at += word.len();
            self.out.push(word[0]);
        })
    }

    /// Starts a token whose length or count is filled in later; returns where that stands.
    fn open(&mut self, tag: u8) -> usize {
        self.out.push(tag);
        self.out.extend_from_slice(&[0; 4]);
        self.out.len() - 4
    }

    fn fill(&mut self, at: usize, number: usize) -> Option<()> {
        self.out[at..at + 4].copy_from_slice(&u32::try_from(number).ok()?.to_le_bytes());
        Some(())
    }

    /// A whole number without point or exponent: `#`, length, its digits. Any other: `.` and the bits of the nearest
    /// double, since servers write the same double in different ways (Milvus Lite turns `1e-9` into `1e-09`).
    fn number(&mut self) -> Option<()> {
        let start = self.at;
        if self.peek()? == b'-' {
            self.at += 1;
        }
        if self.peek()? == b'0' {
            self.at += 1;
        } else {
            self.digits()?;
        }
        let whole_end = self.at;
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        let mut digits = &self.text[start..self.at];
        if self.at > whole_end {
            let double = std::str::from_utf8(digits).ok()?.parse::<f64>().ok()?;
            if double.is_finite() {
                self.out.push(b'.');
                self.out.extend_from_slice(&double.to_bits().to_le_bytes());
                return Some(());
            }
        }
        if digits == b"-0" {
            digits = b"0";
        }
        let length = self.open(b'#');
        self.out.extend_from_slice(digits);
        self.fill(length, digits.len())
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    /// `"`, length, and the string's UTF-8 bytes with escapes decoded.
    fn string(&mut self) -> Option<()> {
        self.take(b'"')?;
        let length = self.open(b'"');
        let start = self.out.len();
        loop {
            let rest = self.text.get(self.at..)?;
            let plain = rest.iter().position(|&byte| byte == b'"' || byte == b'\\' || byte < 0x20)?;
            self.out.extend_from_slice(&rest[..plain]);
            self.at += plain + 1;
            match rest[plain] {
                b'"' => return self.fill(length, self.out.len() - start),
                b'\\' => self.escape()?,
                _ => return None,
            }
        }
    }

    fn escape(&mut self) -> Option<()> {
        let letter = self.peek()?;
        self.at += 1;
        let byte = match letter {
            b'"' | b'\\' | b'/' => letter,
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => return self.unicode_escape(),
            _ => return None,
        };
        self.out.push(byte);
        Some(())
    }

    /// After `\u`: a character, or a pair of surrogates that makes one. A lone surrogate is no character.
    fn unicode_escape(&mut self) -> Option<()> {
        let first = self.hex4()?;
        let code = if (0xd800..0xdc00).contains(&first) {
            self.take(b'\\')?;
            self.take(b'u')?;
            let second = self.hex4().filter(|code| (0xdc00..0xe000).contains(code))?;
            0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)
        } else {
            first
        };
        let mut utf8 = [0; 4];
        self.out.extend_from_slice(char::from_u32(code)?.encode_utf8(&mut utf8).as_bytes());
        Some(())
    }

    fn hex4(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        self.at += 4;
        digits.iter().try_fold(0, |code, &digit| Some(code * 16 + char::from(digit).to_digit(16)?))
    }

    /// `[`, count, and the values.
    fn array(&mut self, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        self.take(b'[')?;
        let count_at = self.open(b'[');
        let mut count = 0;
        self.skip_space();
        if self.take(b']').is_none() {
            loop {
                self.value(depth)?;
                count += 1;
                self.skip_space();
                if self.take(b',').is_none() {
                    self.take(b']')?;
                    break;
                }
            }
        }
        self.fill(count_at, count)
    }

    /// `{`, count, and the members in order of their keys' bytes, each a string and a value; of equal keys the last.
    fn object(&mut self, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        self.take(b'{')?;
        let count_at = self.open(b'{');
        let first = self.work.members.len();
        self.skip_space();
        if self.take(b'}').is_none() {
            loop {
                self.skip_space();
                let start = self.out.len();
                self.string()?;
                let key_end = self.out.len();
                self.skip_space();
                self.take(b':')?;
                self.value(depth)?;
                self.work.members.push(Member { start, key_end, end: self.out.len() });
                self.skip_space();
                if self.take(b',').is_none() {
                    self.take(b'}')?;
                    break;
                }
            }
        }
        let count = self.order_members(first, count_at + 4);
        self.work.members.truncate(first);
        self.fill(count_at, count)
    }

    /// Brings the members from `first` on, written from `body` on, into order; returns how many are left.
    fn order_members(&mut self, first: usize, body: usize) -> usize {
        let Canonicalizer { members, scratch } = &mut *self.work;
        let members = &mut members[first..];
        let out = &mut *self.out;
        // A key's token is `"` and four bytes of length; the bytes after them are what orders.
        let key = |member: &Member| member.start + 5..member.key_end;
        if members.windows(2).all(|pair| out[key(&pair[0])] < out[key(&pair[1])]) {
            return members.len();
        }
        members.sort_by(|left, right| out[key(left)].cmp(&out[key(right)]));
        scratch.clear();
        let mut count = 0;
        for (index, member) in members.iter().enumerate() {
            // The sort is stable: of equal keys the one written last comes last.
            if members.get(index + 1).is_some_and(|next| out[key(next)] == out[key(member)]) {
                continue;
            }
            scratch.extend_from_slice(&out[member.start..member.end]);
            count += 1;
        }
        out.truncate(body);
        out.extend_from_slice(scratch);
        count
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(text: &str) -> Option<Vec<u8>> {
        let mut out = b"before".to_vec();
        let whole = Canonicalizer::default().append(text, &mut out);
        assert!(out.starts_with(b"before") && (whole || out.len() == 6));
        whole.then(|| out.split_off(6))
    }

    #[test]
    fn texts_of_the_same_value_have_the_same_form() {
        for (left, right) in [
            (r#"{"a":1,"b":[true,null]}"#, " { \"b\" : [ true , null ] ,\n\t\"a\":1 } "),
            (r#""\u0041\/\ud83d\udc0d\n""#, "\"A/🐍\\u000a\""),
            (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
            (r#"{"b":1,"a":{"z":1,"y":2},"b":3}"#, r#"{"a":{"y":2,"z":1},"b":3}"#),
            (r#"{"\"":1,"!":2}"#, r#"{"!":2,"\u0022":1}"#),
            ("[1e-9, 1.50, 1E5, 100.0]", "[1e-09,1.5,100000.0,1e2]"),
            ("-0", "0"),
            ("{ }", "{}"),
            ("[ ]", "[]"),
        ] {
            assert!(canonical(left).is_some(), "{left}");
            assert_eq!(canonical(left), canonical(right), "{left} {right}");
        }
    }

    #[test]
    fn different_values_have_different_forms() {
        let texts = [
            "1",
            "1.0",
            "10",
            "0",
            "0.0",
            "-0.0",
            "123456789012345678901234567890",
            "123456789012345678901234567891",
            "1e400",
            "1e401",
            "\"1\"",
            "null",
            "\"null\"",
            "true",
            "false",
            "[]",
            "{}",
            "[[]]",
            "[1]",
            "[1,1]",
            "[[1],1]",
            "[[1,1]]",
            r#"{"a":1}"#,
            r#"{"a":"1"}"#,
            r#"{"a":1,"b":1}"#,
            r#"{"b":1}"#,
            "\"\"",
            "\"\\u0000\"",
            r#"["a","b"]"#,
            r#"["a\",\"b"]"#,
        ];
        for (index, left) in texts.iter().enumerate() {
            for right in &texts[index + 1..] {
                assert_ne!(canonical(left).unwrap(), canonical(right).unwrap(), "{left} {right}");
            }
        }
    }

    #[test]
    fn what_is_no_json_has_no_form() {
        for text in [
            "",
            " ",
            "nul",
            "NaN",
            "Infinity",
            "-",
            "01",
            "1.",
            ".5",
            "1e",
            "+1",
            "[1,]",
            "[1",
            "[1 2]",
            "{a:1}",
            r#"{"a"}"#,
            r#"{"a":1,}"#,
            r#"{"a":1"#,
            "\"",
            "\"\n\"",
            r#""\x""#,
            r#""\ud83d""#,
            r#""\ud83d\u0041""#,
            r#""\udc0d""#,
            r#""\u12""#,
            r#""\u+123""#,
            "1 2",
            "{}{}",
            "\u{feff}1",
        ] {
            assert_eq!(canonical(text), None, "{text}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert!(canonical(&nested(MAX_DEPTH)).is_some());
        assert!(canonical(&nested(MAX_DEPTH + 1)).is_none());
        assert!(canonical(&"{\"a\":".repeat(100_000)).is_none());
    }

    #[test]
    fn the_form_is_as_documented() {
        assert_eq!(
            canonical(r#"{"b":[-7,-1.50,"x"],"a":false}"#).unwrap(),
            b"{\x02\0\0\0\"\x01\0\0\0af\"\x01\0\0\0b[\x03\0\0\0#\x02\0\0\0-7.\0\0\0\0\0\0\xf8\xbf\"\x01\0\0\0x"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

        #[test]
        fn takes_what_serde_json_takes(text in r#"[\[\]{}",:0-9a-fnrtlsu\\ .+-]{0,16}|\{("[a-c]":[1-3],?){0,3}\}|"\PC{0,6}""#) {
            match serde_json::from_str::<serde_json::Value>(&text) {
                Ok(_) => prop_assert!(canonical(&text).is_some()),
                Err(error) if error.to_string().contains("out of range") => {} // a number as text has no range
                Err(_) => prop_assert!(canonical(&text).is_none()),
            }
        }

        #[test]
        fn order_of_members_does_not_matter(
            members in proptest::collection::btree_map("\\PC{0,3}|[\"\\\\\n]{1,2}", 0u8..9, 0..8),
        ) {
            let write = |(key, value): (&String, &u8)| format!("{}: {value}", serde_json::to_string(key).unwrap());
            let forward: Vec<_> = members.iter().map(write).collect();
            let backward: Vec<_> = members.iter().rev().map(write).collect();
            let form = canonical(&format!("{{{}}}", forward.join(",")));
            prop_assert!(form.is_some());
            prop_assert_eq!(form, canonical(&format!("{{{}}}", backward.join(" , "))));
        }
    }
}
