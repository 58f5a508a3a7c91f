//! Inputs of a product in eight bits: blocks of thirty-two numbers with a scale and their sum.

use super::{format::BLOCK, tiles};
use rayon::prelude::*;

/// Rows from which on they are made by all threads.
const MANY: usize = 16;

/// Thirty-two numbers of a row: `scale * code`.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(16))]
pub(super) struct Block {
    /// From -127 to 127.
    pub(super) codes: [i8; BLOCK],
    pub(super) scale: f32,
    /// Sum of all: `scale` times the sum of the codes.
    pub(super) sum: f32,
    /// Where the sums of products begin in each half: less the sum of its codes, times what is taken off each code of the weight.
    pub(super) starts: [i32; 2],
}

/// Rows of inputs in tiles. A tile of `m` rows has its blocks column by column, `m` beside one another.
#[derive(Clone, Debug)]
pub(super) struct Inputs {
    pub(super) rows: usize,
    /// Blocks of a row.
    pub(super) blocks: usize,
    data: Vec<Block>,
}

/// Rows of a tile and its blocks.
pub(super) type Tile<'a> = tiles::Tile<'a, Block>;

impl Block {
    const ZERO: Self = Self { codes: [0; BLOCK], scale: 0.0, sum: 0.0, starts: [0; 2] };

    /// Of thirty-two numbers. `starts` are sums of codes.
    #[inline(always)]
    fn of(x: &[f32; BLOCK]) -> Self {
        let mut most = [0f32; 8];
        for chunk in x.as_chunks::<8>().0 {
            for i in 0..8 {
                most[i] = if chunk[i].abs() > most[i] { chunk[i].abs() } else { most[i] };
            }
        }
        let most = most.iter().fold(0f32, |a, b| a.max(*b));
        let (scale, over) = if most > 0.0 { (most / 127.0, 127.0 / most) } else { (0.0, 0.0) };
        let mut codes = [0i8; BLOCK];
        for i in 0..BLOCK {
            // Numbers that are none become 0 here; the scale says that something is wrong.
            codes[i] = (x[i] * over).round_ties_even() as i8;
        }
        let sum = |half: &[i8]| half.iter().map(|c| i32::from(*c)).sum::<i32>();
        let starts = [sum(&codes[..BLOCK / 2]), sum(&codes[BLOCK / 2..])];
        let scale = if x.iter().all(|x| x.is_finite()) { scale } else { f32::NAN };
        Self { codes, scale, sum: scale * (starts[0] + starts[1]) as f32, starts }
    }
}

/// Writes a tile of rows `x [rows, width]`.
#[inline(always)]
fn tile(x: &[f32], width: usize, blocks: &mut [Block]) {
    let rows = x.len() / width;
    for (r, x) in x.chunks_exact(width).enumerate() {
        for (block, x) in blocks.iter_mut().skip(r).step_by(rows).zip(x.as_chunks::<BLOCK>().0) {
            *block = Block::of(x);
        }
    }
}

/// The same with wider instructions, which round alike.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn tile_avx2(x: &[f32], width: usize, blocks: &mut [Block]) {
    tile(x, width, blocks);
}

fn best_tile(x: &[f32], width: usize, blocks: &mut [Block]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the instructions.
        return unsafe { tile_avx2(x, width, blocks) };
    }
    tile(x, width, blocks);
}

impl Inputs {
    /// Of `x [rows, width]`, the width a multiple of 32 and not 0.
    pub(super) fn new(x: &[f32], width: usize) -> Self {
        let (rows, blocks) = (x.len() / width, width / BLOCK);
        let mut data = vec![Block::ZERO; rows * blocks];
        let pieces = tiles::places((x, width), (&mut data, blocks));
        if rows >= MANY {
            pieces.into_par_iter().for_each(|(numbers, tile)| best_tile(numbers, width, tile));
        } else {
            pieces.into_iter().for_each(|(numbers, tile)| best_tile(numbers, width, tile));
        }
        Self { rows, blocks, data }
    }

    /// Makes sums of codes into starts, for weights whose codes are too large by an offset. `halves` have factors of their own.
    pub(super) fn begin(&mut self, offset: i32, halves: bool) {
        for Block { starts: [a, b], .. } in &mut self.data {
            (*a, *b) = if halves { (-offset * *a, -offset * *b) } else { (-offset * (*a + *b), 0) };
        }
    }

    /// All tiles.
    pub(super) fn tiles(&self) -> impl Iterator<Item = Tile<'_>> {
        tiles::tiles(self.rows, self.blocks, &self.data)
    }
}
