//! What the Parquet crate writes into: blocks of one size, handed on one by one.
//!
//! A row group leaves the encoder all at once. In one buffer it would take its size a second time, and as an allocation
//! of another size each time, which allocators keep in pieces.

use std::io::{Result, Write};

use bytes::Bytes;

/// About what storage and the hasher take at once.
const BLOCK: usize = 1 << 20;

/// Bytes in the order written, in blocks.
#[derive(Default)]
pub(super) struct Blocks {
    full: Vec<Bytes>,
    last: Vec<u8>,
}

impl Blocks {
    /// Takes out the blocks that are full.
    pub(super) fn take_full(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.full)
    }

    /// All that is left, and the end.
    pub(super) fn finish(mut self) -> Vec<Bytes> {
        if !self.last.is_empty() {
            self.full.push(self.last.into());
        }
        self.full
    }
}

impl Write for Blocks {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        if self.last.capacity() == 0 {
            self.last.reserve_exact(BLOCK);
        }
        let count = bytes.len().min(BLOCK - self.last.len());
        self.last.extend_from_slice(&bytes[..count]);
        if self.last.len() == BLOCK {
            self.full.push(std::mem::take(&mut self.last).into());
        }
        Ok(count)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_hold_what_was_written_in_order() {
        let written: Vec<u8> = (0..3 * BLOCK + 17).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let mut blocks = Blocks::default();
        for part in written.chunks(BLOCK / 3 + 1) {
            blocks.write_all(part).unwrap();
        }
        let mut handed_on = blocks.take_full();
        assert_eq!(handed_on.iter().map(Bytes::len).collect::<Vec<_>>(), [BLOCK; 3]);
        handed_on.extend(blocks.finish());
        assert_eq!(handed_on.concat(), written);
    }
}
