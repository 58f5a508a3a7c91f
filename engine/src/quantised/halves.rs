//! Weights of two bytes, as numbers: F16 and BF16.
//!
//! A strip holds one column of sixteen rows, so that a register widens it and a product needs one number of the input. A row is summed
//! column by column, [`SPAN`] columns by themselves and then to those before them; nothing else decides the last bits.

use super::{
    format::{ROWS, Strip},
    tiles::{self, TILES},
};
use candle_core::{Result, bail};
use half::{bf16, f16};
use rayon::prelude::*;
use std::fmt;

/// Columns that are summed by themselves: sums of many small numbers lose less so.
pub(super) const SPAN: usize = 256;
/// The most rows that are multiplied side by side.
pub(super) const MOST: usize = TILES[0];
/// Groups that share a read of the input.
pub(super) const GROUPS: usize = 2;

/// A weight `[rows, width]` of two bytes a number, its rows interleaved.
#[derive(Clone)]
pub(super) struct Halves {
    brain: bool,
    rows: usize,
    width: usize,
    strips: Vec<Strip>,
}

impl fmt::Debug for Halves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}, {}]", if self.brain { "bf16" } else { "f16" }, self.rows, self.width)
    }
}

impl Halves {
    /// Packs rows as they lie in a file, one after another; `brain` are BF16.
    ///
    /// # Errors
    /// No columns, or another number of bytes.
    pub(super) fn pack(brain: bool, (rows, width): (usize, usize), bytes: &[u8]) -> Result<Self> {
        if width == 0 || rows.checked_mul(2 * width) != Some(bytes.len()) {
            bail!("{rows} rows of {width} numbers of two bytes do not make {} bytes", bytes.len());
        }
        let mut strips = vec![Strip::ZERO; rows.div_ceil(ROWS) * width];
        strips.par_chunks_mut(width).zip(bytes.par_chunks(ROWS * 2 * width)).for_each(|(strips, rows)| {
            for (row, numbers) in rows.chunks_exact(2 * width).enumerate() {
                for (strip, number) in strips.iter_mut().zip(numbers.as_chunks::<2>().0) {
                    strip.set_half(row, *number);
                }
            }
        });
        Ok(Self { brain, rows, width, strips })
    }

    pub(super) fn is_brain(&self) -> bool {
        self.brain
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(self.strips.as_slice())
    }

    /// Some groups of sixteen rows, one after another.
    pub(super) fn groups(&self, first: usize, many: usize) -> &[Strip] {
        self.strips.get(first * self.width..(first + many) * self.width).unwrap_or_default()
    }

    /// The numbers of a row that it has, to as many.
    pub(super) fn read_row(&self, row: usize, numbers: &mut [f32]) {
        for (number, strip) in numbers.iter_mut().zip(self.groups(row / ROWS, 1)) {
            *number = number_of(strip, row % ROWS, self.brain);
        }
    }

    /// A weight of some of the rows that it has.
    pub(super) fn pick(&self, rows: &[u32]) -> Self {
        let mut strips = vec![Strip::ZERO; rows.len().div_ceil(ROWS) * self.width];
        for (rows, strips) in rows.chunks(ROWS).zip(strips.chunks_exact_mut(self.width)) {
            for (to, row) in rows.iter().enumerate() {
                let from = *row as usize % ROWS;
                for (to_strip, strip) in strips.iter_mut().zip(self.groups(*row as usize / ROWS, 1)) {
                    to_strip.set_half(to, [strip.0[2 * from], strip.0[2 * from + 1]]);
                }
            }
        }
        Self { brain: self.brain, rows: rows.len(), width: self.width, strips }
    }
}

fn number_of(strip: &Strip, row: usize, brain: bool) -> f32 {
    let bytes = [strip.0[2 * row], strip.0[2 * row + 1]];
    if brain { bf16::from_le_bytes(bytes).to_f32() } else { f16::from_le_bytes(bytes).to_f32() }
}

/// Rows of inputs in tiles. A tile of `m` rows has its numbers column by column, `m` beside one another.
pub(super) struct Numbers {
    width: usize,
    rows: usize,
    data: Vec<f32>,
}

/// Rows of a tile and its numbers.
pub(super) type Tile<'a> = tiles::Tile<'a, f32>;

impl Numbers {
    /// Of `x [rows, width]`, the width not 0.
    pub(super) fn new(x: &[f32], width: usize) -> Self {
        let mut all = Self { width, rows: x.len() / width, data: vec![0f32; x.len()] };
        let pieces = tiles::places((x, width), (&mut all.data, width));
        let turn = |(x, tile): (&[f32], &mut [f32])| {
            let rows = x.len() / width;
            for (r, x) in x.chunks_exact(width).enumerate() {
                tile.iter_mut().skip(r).step_by(rows).zip(x).for_each(|(to, x)| *to = *x);
            }
        };
        match pieces.len() {
            0 | 1 => pieces.into_iter().for_each(turn),
            _ => pieces.into_par_iter().for_each(turn),
        }
        all
    }

    /// All tiles.
    pub(super) fn tiles(&self) -> Vec<Tile<'_>> {
        tiles::tiles(self.rows, self.width, &self.data).collect()
    }
}

/// Sums of a tile with at most [`GROUPS`] groups of a weight: for each group, sixteen for each row of the tile.
pub(super) type Sums = [[[f32; ROWS]; MOST]; GROUPS];

/// The same without any special instruction: what the others must give bit for bit. `strips` are those of some groups.
pub(super) fn sums(brain: bool, strips: &[Strip], x: Tile<'_>, out: &mut Sums) {
    let width = x.data.len() / x.rows.max(1);
    for (strips, out) in strips.chunks_exact(width.max(1)).zip(out) {
        for (m, out) in out.iter_mut().take(x.rows).enumerate() {
            for (row, out) in out.iter_mut().enumerate() {
                *out = 0.0;
                for (strips, numbers) in strips.chunks(SPAN).zip(x.data.chunks(SPAN * x.rows)) {
                    let (mut part, numbers) = (0f32, numbers.iter().skip(m).step_by(x.rows));
                    for (strip, number) in strips.iter().zip(numbers) {
                        part = number_of(strip, row, brain).mul_add(*number, part);
                    }
                    *out += part;
                }
            }
        }
    }
}
