//! Row and set digests: fingerprints of rows that depend on the rows alone, not on where they came from.
//!
//! Two servers number fields differently, order columns at random and know null or don't; a digest sees none of that.
//! It guards against mistakes, not against an attacker: that is what the cryptographic checksums of files are for.
//!
//! **The encoding is part of the backup format.** All numbers are little-endian; `u32` is four bytes.
//!
//! *Row digest* = XXH3-128 (seed 0) of the row's encoding, read as a 128-bit number. The encoding is, for each field in
//! order of the UTF-8 bytes of its name, outputs of functions left out:
//!
//! | bytes | what |
//! |---|---|
//! | u32 | length of the name in bytes |
//! | … | the name, UTF-8 |
//! | u8 | type tag: Milvus's number of the type (see [`crate::schema::DataType`]) |
//! | u8 | 0: null, and nothing follows for this field; 1: a value follows |
//! | u32 | length of the value in bytes |
//! | … | the value |
//!
//! Values by type:
//! - bool: one byte, 0 or 1. int8, int16, int32, int64: two's complement. float, double: IEEE 754 bits as stored, so
//!   `-0.0` differs from `0.0`, but every NaN is the quiet one without sign and payload (7fc00000, 7ff8000000000000):
//!   Milvus 2.3.5 changes the bits of NaNs. timestamptz: int64, microseconds since 1970 in UTC.
//! - varchar, geometry: the UTF-8 bytes.
//! - float vector, float16 vector, int8 vector: the elements one after the other, as stored. bfloat16 and binary vector: the bytes.
//! - sparse float vector: u32 count, then per entry u32 index and the float32 value's bits, by ascending index (entries of
//!   equal index stay in their order).
//! - array: u8 type tag of the elements, u32 count, then the elements: as above one after the other, but strings each
//!   with their u32 length before them.
//! - JSON and `$meta`: a canonical form. `null`, `true`, `false` are the byte `n`, `t`, `f`; a number without
//!   point and exponent is `#`, u32 length, its digits as written (`-0` as `0`); any other number is `.` and the bits of
//!   the nearest float64, or, where that is infinite, as before by its text (so `1` and `1.0` differ, `1.50` and `1.5`
//!   do not); a string is `"`, u32 length, its UTF-8 bytes with escapes decoded; an
//!   array is `[`, u32 count, its values; an object is `{`, u32 count, then key (as a string) and value of each member
//!   by ascending bytes of the decoded keys, of equal keys the last one written. Text that is not JSON as RFC 8259 has
//!   it, has a `\u` escape that is half of a surrogate pair, or nests containers deeper than 128 stands as the bytes it
//!   is, and its type tag is 151 instead of 23.
//!
//! *Set digest* = the number of rows, and the sum of their digests modulo 2^128, written as 32 lower-case hex digits:
//! it does not depend on order, and sets that are read in parts are added.

use std::fmt;

use arrow_array::RecordBatch;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::error::{Error, Kind, Result, internal};
use crate::schema::{CollectionSchema, Field};

mod columns;
mod json;

use columns::{Column, Scratch};

/// The digest of a set of rows: their number and the wrapping sum of their digests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SetDigest {
    /// How many rows.
    pub rows: u64,
    /// The sum of the rows' digests modulo 2^128.
    #[serde(rename = "digest", with = "hex")]
    pub sum: u128,
}

impl SetDigest {
    /// Takes in one row.
    pub fn add(&mut self, row_digest: u128) {
        self.rows += 1;
        self.sum = self.sum.wrapping_add(row_digest);
    }

    /// Takes in all rows of another set.
    pub fn merge(&mut self, other: &Self) {
        self.rows = self.rows.wrapping_add(other.rows);
        self.sum = self.sum.wrapping_add(other.sum);
    }

    /// The set of `rows` rows whose sum is written as `text`.
    ///
    /// # Errors
    /// [`Kind::BackupCorrupted`] where `text` is not 32 lower-case hex digits.
    pub fn from_hex(rows: u64, text: &str) -> Result<Self> {
        let sum = hex::parse(text).ok_or_else(|| {
            Error::new(Kind::BackupCorrupted, format!("{text:?} is no row digest: 32 lower-case hex digits are"))
        })?;
        Ok(Self { rows, sum })
    }
}

impl FromIterator<u128> for SetDigest {
    fn from_iter<I: IntoIterator<Item = u128>>(row_digests: I) -> Self {
        let mut set = Self::default();
        row_digests.into_iter().for_each(|digest| set.add(digest));
        set
    }
}

impl fmt::Display for SetDigest {
    /// The sum's 32 hex digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.sum)
    }
}

mod hex {
    //! A 128-bit number as 32 lower-case hex digits, in JSON too.

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn parse(text: &str) -> Option<u128> {
        let digits = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        digits.then(|| u128::from_str_radix(text, 16).ok()).flatten()
    }

    #[allow(clippy::trivially_copy_pass_by_ref)] // the signature that serde asks for
    pub(super) fn serialize<S: Serializer>(sum: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{sum:032x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).ok_or_else(|| D::Error::custom("a digest is 32 lower-case hex digits"))
    }
}

/// Digests the rows of one schema. Cheap to make, shared freely between threads.
#[derive(Clone, Debug)]
pub struct RowDigester {
    /// Sorted by the UTF-8 bytes of their names.
    fields: Vec<DigestField>,
    /// Columns that may be there and are passed over.
    passed_over: Vec<String>,
}

#[derive(Clone, Debug)]
struct DigestField {
    field: Field,
    /// Length of the name, name, type tag.
    head: Vec<u8>,
}

impl RowDigester {
    /// A digester of whole rows.
    ///
    /// # Errors
    /// [`Kind::SchemaIncompatible`] where a field cannot be a column, see [`CollectionSchema::arrow`].
    pub fn new(schema: &CollectionSchema) -> Result<Self> {
        Self::of(schema, |field| !field.function_output)
    }

    /// A digester that leaves the primary key out, for rows whose keys are made anew.
    ///
    /// # Errors
    /// As [`RowDigester::new`].
    pub fn without_primary_key(schema: &CollectionSchema) -> Result<Self> {
        Self::of(schema, |field| !field.function_output && !field.primary_key)
    }

    fn of(schema: &CollectionSchema, takes_in: impl Fn(&Field) -> bool) -> Result<Self> {
        let (taken, passed_over): (Vec<_>, Vec<_>) = schema.fields.iter().partition(|field| takes_in(field));
        let mut fields = taken
            .into_iter()
            .map(|field| {
                field.arrow()?; // refuses what has no column form
                let name = field.name.as_bytes();
                let length = u32::try_from(name.len()).map_err(|_| internal("a field's name is longer than 4 GiB"))?;
                let tag = u8::try_from(field.data_type.number())
                    .map_err(|_| internal(format!("the type of '{}' has no tag", field.name)))?;
                let head = [&length.to_le_bytes(), name, &[tag]].concat();
                Ok(DigestField { field: field.clone(), head })
            })
            .collect::<Result<Vec<_>>>()?;
        fields.sort_by(|left, right| left.field.name.as_bytes().cmp(right.field.name.as_bytes()));
        Ok(Self { fields, passed_over: passed_over.into_iter().map(|field| field.name.clone()).collect() })
    }

    /// Appends the digest of each row to `out`, in the rows' order. Columns are found by name.
    ///
    /// # Errors
    /// [`Kind::Internal`] where the batch lacks a field's column, has one of another type, a null inside a value, or a
    /// column that is no field of the schema.
    pub fn digest_batch(&self, batch: &RecordBatch, out: &mut Vec<u128>) -> Result<()> {
        out.reserve(batch.num_rows());
        self.each_row(batch, |digest| out.push(digest))
    }

    /// The digest of the batch's rows as a set.
    ///
    /// # Errors
    /// As [`RowDigester::digest_batch`].
    pub fn set(&self, batch: &RecordBatch) -> Result<SetDigest> {
        let mut set = SetDigest::default();
        self.each_row(batch, |digest| set.add(digest))?;
        Ok(set)
    }

    fn each_row(&self, batch: &RecordBatch, mut take: impl FnMut(u128)) -> Result<()> {
        let columns = self.columns(batch)?;
        let mut scratch = Scratch::default();
        let mut row_bytes = Vec::new();
        for row in 0..batch.num_rows() {
            row_bytes.clear();
            for column in &columns {
                column
                    .append(row, &mut row_bytes, &mut scratch)
                    .ok_or_else(|| internal("a value of 4 GiB or more cannot be digested"))?;
            }
            take(xxh3_128(&row_bytes));
        }
        Ok(())
    }

    fn columns<'a>(&self, batch: &'a RecordBatch) -> Result<Vec<Column<'a>>> {
        let schema = batch.schema_ref();
        for column in schema.fields() {
            let name = column.name();
            if !self.fields.iter().any(|known| known.field.name == *name) && !self.passed_over.contains(name) {
                return Err(internal(format!("the rows have a column '{name}' that is no field of their schema")));
            }
        }
        self.fields
            .iter()
            .map(|DigestField { field, head }| {
                let array = batch
                    .column_by_name(&field.name)
                    .ok_or_else(|| internal(format!("the rows have no column for the field '{}'", field.name)))?;
                Column::new(field, head, array.as_ref())
                    .map_err(|what| internal(format!("column '{}' {what}", field.name)))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
