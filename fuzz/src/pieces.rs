//! The form of an input: four bytes of header, then pieces, each with a head (u8), a length (u16, little-endian; what
//! is beyond the input's end is left out), and its bytes.
//!
//! A mutation that inserts a byte would change where all later pieces begin. So most mutations are of one piece's bytes,
//! and lengths are written anew.

use libfuzzer_sys::fuzzer_mutate;

/// The bytes before the first piece; what they mean is the target's.
pub const HEADER: usize = 4;
/// What a piece has before its bytes.
const HEAD: usize = 3;
/// More are not read: each may become a file.
const MOST_PIECES: usize = 24;

/// Which file a piece belongs to: the lower three bits of its head.
pub const SLOT: u8 = 0b0000_0111;
/// What a piece is: see [`crate::files`].
pub const FORM: u8 = 0b0001_1000;
/// The piece is a further event of the slot's last file, not a file of its own.
pub const FURTHER: u8 = 0b0010_0000;
/// The piece is a file without events around it, as Milvus's storage version 2 has them.
pub const BARE: u8 = 0b0100_0000;

/// A part of an input.
#[derive(Clone)]
pub struct Piece {
    /// Which file it belongs to, and what it is.
    pub head: u8,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// An input, taken apart.
pub struct Input {
    /// What the target makes of the pieces; zeros where the input is shorter.
    pub header: [u8; HEADER],
    /// The pieces in order.
    pub pieces: Vec<Piece>,
}

impl Input {
    /// Takes an input apart; any bytes are one.
    #[must_use]
    pub fn read(data: &[u8]) -> Self {
        let mut header = [0; HEADER];
        let (start, mut rest) = data.split_at(data.len().min(HEADER));
        header[..start.len()].copy_from_slice(start);
        let mut pieces = Vec::new();
        while let ([head, low, high, after @ ..], true) = (rest, pieces.len() < MOST_PIECES) {
            let length = usize::from(u16::from_le_bytes([*low, *high])).min(after.len());
            pieces.push(Piece { head: *head, bytes: after[..length].to_vec() });
            rest = &after[length..];
        }
        Self { header, pieces }
    }

    /// Puts an input together; a piece is cut where its length has no room.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let mut data = self.header.to_vec();
        for piece in &self.pieces {
            let length = u16::try_from(piece.bytes.len()).unwrap_or(u16::MAX);
            data.push(piece.head);
            data.extend(length.to_le_bytes());
            data.extend(&piece.bytes[..usize::from(length)]);
        }
        data
    }
}

/// Mutates the input in `data[..size]`, which may grow up to `most`; returns its new length.
pub fn mutate(data: &mut [u8], size: usize, most: usize, seed: u32) -> usize {
    let mut input = Input::read(&data[..size]);
    let mut chance = Chance(u64::from(seed) << 1 | 1);
    let room = most.saturating_sub(HEADER + input.pieces.iter().map(|piece| HEAD + piece.bytes.len()).sum::<usize>());
    let count = input.pieces.len();
    match chance.below(16) {
        0 => return fuzzer_mutate(data, size, most),
        1 => {
            fuzzer_mutate(&mut input.header, HEADER, HEADER);
        }
        2 if count > 0 => {
            fuzzer_mutate(std::slice::from_mut(&mut input.pieces[chance.below(count)].head), 1, 1);
        }
        3 if count > 1 => input.pieces.swap(chance.below(count), chance.below(count)),
        4 if count > 1 => {
            input.pieces.remove(chance.below(count));
        }
        5 if count > 0 => {
            let twin = input.pieces[chance.below(count)].clone();
            if HEAD + twin.bytes.len() <= room {
                input.pieces.insert(chance.below(count + 1), twin);
            }
        }
        _ if count > 0 => {
            let bytes = &mut input.pieces[chance.below(count)].bytes;
            let length = bytes.len();
            bytes.resize((length + room).min(usize::from(u16::MAX)).max(1), 0);
            let (now, limit) = (length.min(bytes.len()), bytes.len());
            let length = fuzzer_mutate(bytes, now, limit);
            bytes.truncate(length);
        }
        _ => return fuzzer_mutate(data, size, most),
    }
    let written = input.write();
    let length = written.len().min(most);
    data[..length].copy_from_slice(&written[..length]);
    length
}

/// Numbers that depend on libFuzzer's seed alone (splitmix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % count as u64).unwrap_or(0)
    }
}
