//! The words of a filter.

use crate::error::{Error, Kind, Result};

/// One word, and where it begins (in bytes).
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) at: usize,
    pub(super) word: Word,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Word {
    /// A keyword or a field's name.
    Name(String),
    /// A whole number without its sign, up to 2^63.
    Int(u64),
    Float(f64),
    Text(String),
    /// An operator or a bracket.
    Sign(&'static str),
}

/// Longer signs before those that they begin with.
const SIGNS: [&str; 17] = ["==", "!=", "<=", ">=", "&&", "||", "<", ">", "!", "(", ")", "[", "]", ",", "+", "-", "."];

/// An error at a byte of the text; people count characters from 1.
pub(super) fn wrong(text: &str, at: usize, what: &str) -> Error {
    let position = text.get(..at).map_or(at, |before| before.chars().count()) + 1;
    let message = format!("the filter is not right at character {position}: {what}");
    Error::new(Kind::InvalidArgument, message).with("position", position)
}

/// Takes a filter apart into words.
pub(super) fn words(text: &str) -> Result<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(char) = text[at..].chars().next() {
        if char.is_whitespace() {
            at += char.len_utf8();
            continue;
        }
        let rest = &text[at..];
        let starts_number = |digits: &str| digits.starts_with(|first: char| first.is_ascii_digit());
        let (word, length) = if char == '"' || char == '\'' {
            string(text, at, char)?
        } else if starts_number(rest) || (char == '.' && starts_number(&rest[1..])) {
            number(text, at)?
        } else if is_name(char) {
            let length = rest.find(|char| !is_name(char)).unwrap_or(rest.len());
            (Word::Name(rest[..length].to_owned()), length)
        } else if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            (Word::Sign(sign), sign.len())
        } else {
            return Err(wrong(text, at, unknown(char)));
        };
        tokens.push(Token { at, word });
        at += length;
    }
    Ok(tokens)
}

/// Names are letters, digits and `_`, also of other alphabets; `$` for `$meta`.
fn is_name(char: char) -> bool {
    char.is_alphanumeric() || char == '_' || char == '$'
}

fn unknown(char: char) -> &'static str {
    match char {
        '=' => "'=' is no comparison; write ==",
        '&' => "write && or and",
        '|' => "write || or or",
        '%' | '*' | '/' => "there is no arithmetic here; compare the field itself",
        _ => "no word of a filter begins like this; text has to stand in quotes",
    }
}

fn number(text: &str, at: usize) -> Result<(Word, usize)> {
    let rest = &text[at..];
    let is_hex = rest.len() > 2 && rest.is_char_boundary(2) && rest[..2].eq_ignore_ascii_case("0x");
    let mut length = 0;
    let mut exponent = false;
    for char in rest.chars() {
        let is_sign = matches!(char, '+' | '-') && exponent && rest[..length].ends_with(['e', 'E']);
        if !(is_name(char) || char == '.' || is_sign) {
            break;
        }
        exponent |= !is_hex && matches!(char, 'e' | 'E');
        length += char.len_utf8();
    }
    let digits = &rest[..length];
    if is_hex {
        let value = u64::from_str_radix(&digits[2..], 16).ok().filter(|_| !digits.contains('+'));
        return value.map(|value| (Word::Int(value), length)).ok_or_else(|| wrong(text, at, "this is no number"));
    }
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        if digits.len() > 1 && digits.starts_with('0') {
            return Err(wrong(text, at, "a number with a leading zero is read as octal by some; leave the zero out"));
        }
        let value = digits.parse().map_err(|_| wrong(text, at, "this number does not fit an int64"))?;
        return Ok((Word::Int(value), length));
    }
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'));
    match digits.parse::<f64>() {
        Ok(value) if plain && value.is_finite() => Ok((Word::Float(value), length)),
        Ok(_) if plain => Err(wrong(text, at, "this number does not fit a double")),
        _ => Err(wrong(text, at, "this is no number")),
    }
}

fn string(text: &str, start: usize, quote: char) -> Result<(Word, usize)> {
    let body = &text[start + 1..];
    let mut value = String::new();
    let mut chars = body.char_indices();
    while let Some((index, char)) = chars.next() {
        if char == quote {
            return Ok((Word::Text(value), 1 + index + 1));
        }
        if char != '\\' {
            value.push(char);
            continue;
        }
        let escaped = escape(&body[index + 1..])
            .ok_or_else(|| wrong(text, start + 1 + index, "there is no such escape; a backslash itself is \\\\"))?;
        value.push(escaped.0);
        // The escape's bytes are ASCII: as many characters.
        for _ in 0..escaped.1 {
            chars.next();
        }
    }
    Err(wrong(text, start, "this text has no closing quote"))
}

/// What the bytes behind a backslash stand for, and how many they are.
fn escape(rest: &str) -> Option<(char, usize)> {
    let hex = |from: usize, digits: usize| {
        let text = rest.get(from..from + digits)?;
        text.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u32::from_str_radix(text, 16).ok()).flatten()
    };
    let one = |char| Some((char, 1));
    match rest.chars().next()? {
        same @ ('"' | '\'' | '\\') => one(same),
        'n' => one('\n'),
        't' => one('\t'),
        'r' => one('\r'),
        'a' => one('\u{7}'),
        'b' => one('\u{8}'),
        'f' => one('\u{c}'),
        'v' => one('\u{b}'),
        // A byte by itself is a character only below 128.
        'x' => hex(1, 2).filter(|code| *code < 128).and_then(char::from_u32).map(|char| (char, 3)),
        'u' => match hex(1, 4)? {
            high @ 0xd800..0xdc00 => {
                let low = rest.get(5..7).filter(|mark| *mark == "\\u").and_then(|_| hex(7, 4))?;
                let low = low.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
                char::from_u32(0x10000 + ((high - 0xd800) << 10) + low).map(|char| (char, 11))
            }
            code => char::from_u32(code).map(|char| (char, 5)),
        },
        'U' => hex(1, 8).and_then(char::from_u32).map(|char| (char, 9)),
        '0'..='7' => {
            let digits = rest.get(..3).filter(|digits| digits.bytes().all(|byte| (b'0'..=b'7').contains(&byte)))?;
            let code = u32::from_str_radix(digits, 8).ok().filter(|code| *code < 128)?;
            char::from_u32(code).map(|char| (char, 3))
        }
        _ => None,
    }
}
