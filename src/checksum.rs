//! Cryptographic checksums of files, computed while the bytes pass by.
//!
//! They guard against damage and against someone who changes a file, as long as the manifest itself is kept safe.

use blake2::Blake2b512;
use md5::Md5;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Kind, Result};

/// Which checksum a backup's files carry. Serialised as `"SHA256"`, `"MD5"` or `"BLAKE2B"` (`BLAKE2b` with 64 bytes of output).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ChecksumAlgorithm {
    /// SHA-256, 64 hex digits.
    #[default]
    #[serde(rename = "SHA256")]
    Sha256,
    /// MD5, 32 hex digits. Finds damage; it does not stop an attacker.
    #[serde(rename = "MD5")]
    Md5,
    /// `BLAKE2b` with 64 bytes of output, 128 hex digits.
    #[serde(rename = "BLAKE2B")]
    Blake2b,
}

impl ChecksumAlgorithm {
    /// The name it has in manifests and in Python.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "SHA256",
            Self::Md5 => "MD5",
            Self::Blake2b => "BLAKE2B",
        }
    }

    /// How many hex digits its checksums have.
    #[must_use]
    pub fn hex_length(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Md5 => 32,
            Self::Blake2b => 128,
        }
    }

    /// The checksum of `bytes`, in lower-case hex.
    #[must_use]
    pub fn of(self, bytes: &[u8]) -> String {
        let mut hasher = Hasher::new(self);
        hasher.update(bytes);
        hasher.finish()
    }
}

impl std::fmt::Display for ChecksumAlgorithm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for ChecksumAlgorithm {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "SHA256" => Ok(Self::Sha256),
            "MD5" => Ok(Self::Md5),
            "BLAKE2B" => Ok(Self::Blake2b),
            other => Err(Error::new(
                Kind::InvalidArgument,
                format!("{other:?} is not a checksum algorithm: use SHA256, MD5 or BLAKE2B"),
            )),
        }
    }
}

/// A checksum in the making: feed it bytes in any portions, then [`Hasher::finish`].
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha256(Box<Sha256>),
    Md5(Box<Md5>),
    Blake2b(Box<Blake2b512>),
}

impl Hasher {
    /// A checksum of no bytes yet.
    #[must_use]
    pub fn new(algorithm: ChecksumAlgorithm) -> Self {
        Self(match algorithm {
            ChecksumAlgorithm::Sha256 => State::Sha256(Box::default()),
            ChecksumAlgorithm::Md5 => State::Md5(Box::default()),
            ChecksumAlgorithm::Blake2b => State::Blake2b(Box::default()),
        })
    }

    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(hasher) => hasher.update(bytes),
            State::Md5(hasher) => hasher.update(bytes),
            State::Blake2b(hasher) => hasher.update(bytes),
        }
    }

    /// The checksum of everything taken in, in lower-case hex.
    #[must_use]
    pub fn finish(self) -> String {
        match self.0 {
            State::Sha256(hasher) => hex(&hasher.finalize()),
            State::Md5(hasher) => hex(&hasher.finalize()),
            State::Blake2b(hasher) => hex(&hasher.finalize()),
        }
    }
}

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// Whether `text` is exactly `length` lower-case hex digits.
#[must_use]
pub fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers_for_abc() {
        assert_eq!(
            ChecksumAlgorithm::Sha256.of(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(ChecksumAlgorithm::Md5.of(b"abc"), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(
            ChecksumAlgorithm::Blake2b.of(b"abc"),
            "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1\
             7d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923"
        );
    }

    #[test]
    fn portions_do_not_matter_and_lengths_are_as_said() {
        for algorithm in [ChecksumAlgorithm::Sha256, ChecksumAlgorithm::Md5, ChecksumAlgorithm::Blake2b] {
            let mut hasher = Hasher::new(algorithm);
            for byte in b"some bytes" {
                hasher.update(&[*byte]);
            }
            let text = hasher.finish();
            assert_eq!(text, algorithm.of(b"some bytes"));
            assert!(is_hex(&text, algorithm.hex_length()));
        }
    }

    #[test]
    fn names_survive_serde_and_from_str() {
        for algorithm in [ChecksumAlgorithm::Sha256, ChecksumAlgorithm::Md5, ChecksumAlgorithm::Blake2b] {
            assert_eq!(serde_json::to_value(algorithm).unwrap(), algorithm.name());
            assert_eq!(algorithm.name().parse::<ChecksumAlgorithm>().unwrap(), algorithm);
        }
        assert_eq!("CRC32".parse::<ChecksumAlgorithm>().unwrap_err().kind(), Kind::InvalidArgument);
    }
}
