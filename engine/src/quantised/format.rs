//! How numbers are packed in a file, and how a [`Matrix`](super::Matrix) holds them.
//!
//! Rows are taken sixteen at a time, columns thirty-two. Such a piece is a few *lines* of 64 bytes with the codes and a few
//! *strips* of 32 bytes with the factors, in both of which the sixteen rows lie side by side: a vector register holds the same
//! four columns of all of them, so that a product of four columns is one instruction and no sum ever crosses lanes.
//!
//! A line holds four columns of each row in 8 bits. Of narrower codes, lines 0 to 3 hold the low four bits of columns 4l .. 4l+4
//! and, in the upper half of each byte, those of columns 16+4l .. 16+4l+4. The fifth bit of column group c is bit c of a fifth line,
//! bits five and six of it are two bits of a fifth (groups 0 to 3) or sixth (groups 4 to 7) line.

use candle_core::quantized::GgmlDType;
use half::f16;

/// Rows of a piece.
pub(super) const ROWS: usize = 16;
/// Columns of a piece, and numbers of the input that share a scale.
pub(super) const BLOCK: usize = 32;
/// Pieces that share factors in the formats of 256 columns.
pub(super) const INNER: usize = 8;
/// Bytes of a line.
pub(super) const LINE: usize = 64;

/// Codes of a piece, in part.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [u8; LINE]);

/// Factors of a piece, in part: sixteen half floats, or two bytes for each row.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub(super) struct Strip(pub(super) [u8; 32]);

/// What turns a sum of codes into numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Factors {
    /// `d (code - half of all codes)`, `d` for 32 columns.
    Plain,
    /// `d code + m`, both for 32 columns.
    Min,
    /// `d s code - e t`: `d` and `e` for 256 columns, small integers `s` and `t` for 32.
    Super,
    /// `d s (code - 32)`: `d` for 256 columns, a small integer `s` for 16.
    Six,
}

/// The same as numbers, for parameters of types.
pub(super) const PLAIN: u8 = Factors::Plain as u8;
pub(super) const MIN: u8 = Factors::Min as u8;
pub(super) const SUPER: u8 = Factors::Super as u8;
pub(super) const SIX: u8 = Factors::Six as u8;

/// Calls a function that is made for bits and factors with those of a group's format, and with some parameters behind them. What
/// cannot be, a format without codes, is left to the plain version.
macro_rules! of_each_format {
    ($name:ident, ($group:expr, $x:expr, $out:expr), [$($more:literal),+], $args:tt) => {
        match ($group.format.bits(), $group.format.factors() as u8) {
            (4, PLAIN) => $name::<4, PLAIN, $($more),+>$args,
            (4, MIN) => $name::<4, MIN, $($more),+>$args,
            (4, SUPER) => $name::<4, SUPER, $($more),+>$args,
            (5, PLAIN) => $name::<5, PLAIN, $($more),+>$args,
            (5, MIN) => $name::<5, MIN, $($more),+>$args,
            (5, SUPER) => $name::<5, SUPER, $($more),+>$args,
            (6, SIX) => $name::<6, SIX, $($more),+>$args,
            (8, PLAIN) => $name::<8, PLAIN, $($more),+>$args,
            _ => super::scalar::sums($group, $x, $out),
        }
    };
}
pub(super) use of_each_format;

/// A packed type of a file whose products are computed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the file format")]
pub enum Format {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
    F16,
    Bf16,
}

impl Format {
    /// Those that are codes with factors.
    pub const CODES: [Self; 8] =
        [Self::Q4_0, Self::Q4_1, Self::Q5_0, Self::Q5_1, Self::Q8_0, Self::Q4K, Self::Q5K, Self::Q6K];

    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::F16,
        Self::Bf16,
    ];

    /// Of a type of a file; nothing where its products are not computed here.
    pub fn of(dtype: GgmlDType) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.dtype() == dtype)
    }

    /// The type in a file.
    pub fn dtype(self) -> GgmlDType {
        match self {
            Self::Q4_0 => GgmlDType::Q4_0,
            Self::Q4_1 => GgmlDType::Q4_1,
            Self::Q5_0 => GgmlDType::Q5_0,
            Self::Q5_1 => GgmlDType::Q5_1,
            Self::Q8_0 => GgmlDType::Q8_0,
            Self::Q4K => GgmlDType::Q4K,
            Self::Q5K => GgmlDType::Q5K,
            Self::Q6K => GgmlDType::Q6K,
            Self::F16 => GgmlDType::F16,
            Self::Bf16 => GgmlDType::BF16,
        }
    }

    /// As programs and files write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q8_0 => "q8_0",
            Self::Q4K => "q4_k",
            Self::Q5K => "q5_k",
            Self::Q6K => "q6_k",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// The name under which a source of weights has the bytes of a tensor in this format, u8 `[rows, bytes of a row]`.
    pub(crate) fn tensor(self, name: &str) -> String {
        format!("{name}:{}", self.name())
    }

    /// Bits of a code, and lines of a piece; of numbers, which have neither, their bits.
    pub(super) fn bits(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q4K => 4,
            Self::Q5_0 | Self::Q5_1 | Self::Q5K => 5,
            Self::Q6K => 6,
            Self::Q8_0 => 8,
            Self::F16 | Self::Bf16 => 16,
        }
    }

    pub(super) fn factors(self) -> Factors {
        match self {
            Self::Q4_0 | Self::Q5_0 | Self::Q8_0 | Self::F16 | Self::Bf16 => Factors::Plain,
            Self::Q4_1 | Self::Q5_1 => Factors::Min,
            Self::Q4K | Self::Q5K => Factors::Super,
            Self::Q6K => Factors::Six,
        }
    }

    /// What is taken off each code.
    pub(super) fn offset(self) -> i32 {
        match self.factors() {
            Factors::Plain | Factors::Six => 1 << (self.bits() - 1),
            Factors::Min | Factors::Super => 0,
        }
    }

    /// Strips of `blocks` pieces beside one another.
    pub(super) fn strips(self, blocks: usize) -> usize {
        let factors = self.factors() as u8;
        blocks / inner(factors) * strips(factors)
    }

    /// Bytes in a file of 32 columns of a row, or of 256 in the formats that group them.
    pub(super) fn unit(self) -> (usize, usize) {
        (self.dtype().type_size(), self.dtype().block_size())
    }
}

/// Pieces that share factors.
pub(super) const fn inner(factors: u8) -> usize {
    if factors == SUPER || factors == SIX { INNER } else { 1 }
}

/// Strips of such pieces. Those of a whole come first, then one for each piece.
pub(super) const fn strips(factors: u8) -> usize {
    match factors {
        PLAIN => 1,
        MIN => 2,
        SUPER => 2 + INNER,
        _ => 1 + INNER,
    }
}

impl Strip {
    pub(super) const ZERO: Self = Self([0; 32]);

    pub(super) fn half(&self, row: usize) -> f32 {
        f16::from_le_bytes([self.0[2 * row], self.0[2 * row + 1]]).to_f32()
    }

    pub(super) fn set_half(&mut self, row: usize, bytes: [u8; 2]) {
        self.0[2 * row..2 * row + 2].copy_from_slice(&bytes);
    }
}

/// What one row of a unit of a file holds: codes and factors of a run of pieces.
#[derive(Debug)]
pub(super) struct Unit {
    /// For each piece.
    pub(super) codes: [[u8; BLOCK]; INNER],
    /// Half floats: `d`, and `m` or `e`.
    pub(super) halves: [[u8; 2]; 2],
    /// For each piece `s` and `t`, or the two `s`.
    pub(super) small: [[u8; 2]; INNER],
}

impl Unit {
    /// Reads the bytes of one row of a unit, of which there are [`Format::unit`].
    pub(super) fn read(format: Format, bytes: &[u8]) -> Self {
        let mut unit = Self { codes: [[0; BLOCK]; INNER], halves: [[0; 2]; 2], small: [[0; 2]; INNER] };
        let half = |at: usize| [bytes[at], bytes[at + 1]];
        match format {
            Format::Q4_0 => {
                unit.halves[0] = half(0);
                nibbles(&bytes[2..], &mut unit.codes[0]);
            }
            Format::Q4_1 => {
                unit.halves = [half(0), half(2)];
                nibbles(&bytes[4..], &mut unit.codes[0]);
            }
            Format::Q5_0 => {
                unit.halves[0] = half(0);
                nibbles(&bytes[6..], &mut unit.codes[0]);
                fifth(&bytes[2..6], &mut unit.codes[0]);
            }
            Format::Q5_1 => {
                unit.halves = [half(0), half(2)];
                nibbles(&bytes[8..], &mut unit.codes[0]);
                fifth(&bytes[4..8], &mut unit.codes[0]);
            }
            Format::Q8_0 => {
                unit.halves[0] = half(0);
                // From -128 .. 128 to 0 .. 256.
                unit.codes[0].iter_mut().zip(&bytes[2..]).for_each(|(code, byte)| *code = byte ^ 0x80);
            }
            Format::Q4K | Format::Q5K => unit.read_super(format, bytes),
            Format::Q6K => unit.read_six(bytes),
            // Numbers have no codes.
            Format::F16 | Format::Bf16 => (),
        }
        unit
    }

    /// 144 bytes (or 176): `d`, `e`, eight pairs of six bits, (a bit for each of 256 numbers,) 256 times four bits.
    fn read_super(&mut self, format: Format, bytes: &[u8]) {
        self.halves = [[bytes[0], bytes[1]], [bytes[2], bytes[3]]];
        let six = &bytes[4..16];
        for (j, small) in self.small.iter_mut().enumerate() {
            *small = if j < 4 {
                [six[j] & 63, six[j + 4] & 63]
            } else {
                [(six[j + 4] & 15) | (six[j - 4] >> 6 << 4), (six[j + 4] >> 4) | (six[j] >> 6 << 4)]
            };
        }
        let (high, low) = if format == Format::Q5K { (&bytes[16..48], &bytes[48..]) } else { (&[][..], &bytes[16..]) };
        for (j, codes) in self.codes.iter_mut().enumerate() {
            for (i, code) in codes.iter_mut().enumerate() {
                let bit = high.get(i).map_or(0, |high| high >> j & 1);
                *code = (low[j / 2 * BLOCK + i] >> (j % 2 * 4) & 15) | bit << 4;
            }
        }
    }

    /// 210 bytes: 256 times four bits, 256 times two, sixteen factors, `d`.
    fn read_six(&mut self, bytes: &[u8]) {
        let (low, high, small) = (&bytes[..128], &bytes[128..192], &bytes[192..208]);
        self.halves[0] = [bytes[208], bytes[209]];
        for (j, codes) in self.codes.iter_mut().enumerate() {
            // Halves of 128 numbers; in each, pieces 0 and 1 are in the lower four bits of 64 bytes, 2 and 3 in the upper.
            let (half, piece) = (j / 4, j % 4);
            for (i, code) in codes.iter_mut().enumerate() {
                let low = low[half * 64 + piece % 2 * BLOCK + i] >> (piece / 2 * 4) & 15;
                *code = low | (high[half * BLOCK + i] >> (2 * piece) & 3) << 4;
            }
        }
        self.small.iter_mut().zip(small.as_chunks::<2>().0).for_each(|(small, pair)| *small = *pair);
    }
}

/// Sixteen bytes to thirty-two codes: lower halves first.
fn nibbles(bytes: &[u8], codes: &mut [u8; BLOCK]) {
    for (i, byte) in bytes.iter().take(BLOCK / 2).enumerate() {
        codes[i] = byte & 15;
        codes[i + BLOCK / 2] = byte >> 4;
    }
}

/// Adds a fifth bit to codes.
fn fifth(bits: &[u8], codes: &mut [u8; BLOCK]) {
    for (i, code) in codes.iter_mut().enumerate() {
        *code |= (bits[i / 8] >> (i % 8) & 1) << 4;
    }
}

/// Writes a row's codes of a piece into its lines, as many as the codes have bits. The lines hold zeros there before.
pub(super) fn interleave(codes: &[u8; BLOCK], row: usize, lines: &mut [Line]) {
    let bits = lines.len();
    for (i, code) in codes.iter().enumerate() {
        let (group, at) = (i / 4, 4 * row + i % 4);
        match bits {
            8 => lines[group].0[at] = *code,
            _ => {
                lines[group % 4].0[at] |= (code & 15) << (group / 4 * 4);
                match bits {
                    5 => lines[4].0[at] |= (code >> 4) << group,
                    6 => lines[4 + group / 4].0[at] |= (code >> 4) << (group % 4 * 2),
                    _ => (),
                }
            }
        }
    }
}

/// A code of a piece: the way back from [`interleave`].
pub(super) fn code(lines: &[Line], row: usize, column: usize) -> u8 {
    let (group, at) = (column / 4, 4 * row + column % 4);
    if lines.len() == 8 {
        return lines[group].0[at];
    }
    let low = lines[group % 4].0[at] >> (group / 4 * 4) & 15;
    match lines.len() {
        5 => low | (lines[4].0[at] >> group & 1) << 4,
        6 => low | (lines[4 + group / 4].0[at] >> (group % 4 * 2) & 3) << 4,
        _ => low,
    }
}
