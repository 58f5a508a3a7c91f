//! The same products by registers of 16 numbers, where the processor has them.
//!
//! A few rows of the weight go side by side, so that a number of `x` that was read once serves all of them, and the rows
//! behind them are fetched meanwhile: they are short, and the processor's own guess begins anew with each.

use super::{LANES, Rows};
use std::arch::x86_64::*;

/// Numbers of a register.
const WIDE: usize = 16;
const _: () = assert!(WIDE == 2 * LANES);
/// Most rows of `x` whose sums stay in registers, with two rows of the weight side by side.
pub(super) const MOST: usize = 12;
/// Up to so many rows of `x`, four rows of the weight go side by side.
const NARROW: usize = 6;
/// Rows of the weight that are fetched ahead.
const AHEAD: usize = 4;

/// A register's numbers, as it wants them to lie.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Group([f32; WIDE]);

/// Some rows of `x`, group by group; the last group is filled up with zeros.
struct Tile<const R: usize> {
    groups: Vec<[Group; R]>,
    width: usize,
}

/// Whether the processor can do it.
pub(super) fn is_there() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl")
}

/// Rows of `x [rows, width]`, at most [`MOST`]; `None` for more, or where the processor can't.
pub(super) fn tile(x: &[f32], width: usize) -> Option<Box<dyn Rows>> {
    if !is_there() {
        return None;
    }
    macro_rules! tiles {
        ($($rows:literal)*) => {
            match x.len() / width {
                $($rows => Some(Box::new(Tile::<$rows>::new(x, width)) as Box<dyn Rows>),)*
                _ => None,
            }
        };
    }
    tiles!(1 2 3 4 5 6 7 8 9 10 11 12)
}

impl<const R: usize> Tile<R> {
    fn new(x: &[f32], width: usize) -> Self {
        let mut groups = vec![[Group([0.0; WIDE]); R]; width.div_ceil(WIDE)];
        for (r, row) in x.chunks_exact(width).enumerate().take(R) {
            for (group, numbers) in groups.iter_mut().zip(row.chunks(WIDE)) {
                group[r].0[..numbers.len()].copy_from_slice(numbers);
            }
        }
        Self { groups, width }
    }

    /// `weights [O, width]` with all rows: `[R][O]` numbers, the outputs side by side.
    #[target_feature(enable = "avx512f,avx512vl,avx,avx2,fma")]
    fn block<const O: usize>(&self, weights: &[f32]) -> [[f32; 4]; R] {
        let zero = _mm512_setzero_ps();
        let mut sums = [[zero; R]; O];
        let (whole, rest) = (self.width / WIDE, self.width % WIDE);
        let mask = (1u16 << rest).wrapping_sub(1);
        assert!(weights.len() >= O * self.width, "a block of {O} rows");
        for (g, x) in self.groups.iter().enumerate() {
            let mut w = [zero; O];
            for (o, w) in w.iter_mut().enumerate() {
                let at = o * self.width + g * WIDE;
                // SAFETY: the numbers lie within row `o` of `weights`, whose length was checked: groups but for the last are
                // whole, and of the last the mask reads what is left. A prefetch may name any address.
                unsafe {
                    let from = weights.as_ptr().add(at);
                    *w = if g < whole { _mm512_loadu_ps(from) } else { _mm512_maskz_loadu_ps(mask, from) };
                    _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(AHEAD * self.width).cast());
                }
            }
            for r in 0..R {
                // SAFETY: a group has as many numbers as a register, and lies as it wants.
                let x = unsafe { _mm512_load_ps(x[r].0.as_ptr()) };
                for o in 0..O {
                    sums[o][r] = _mm512_fmadd_ps(x, w[o], sums[o][r]);
                }
            }
        }
        let mut y = [[0f32; 4]; R];
        for r in 0..R {
            let of = |o: usize| if o < O { sums[o][r] } else { zero };
            let all = four_sums(of(0), of(1), of(2), of(3));
            // SAFETY: four numbers have room in an array of four.
            unsafe { _mm_storeu_ps(y[r].as_mut_ptr(), all) };
        }
        y
    }

    /// Blocks of `O` rows of the weight, as long as there are any; how many rows they were.
    #[target_feature(enable = "avx512f,avx512vl,avx,avx2,fma")]
    fn blocks<const O: usize>(
        &self,
        weights: &[f32],
        y: &mut [f32],
        (first, outputs, done): (usize, usize, usize),
    ) -> usize {
        let mut at = done;
        while at + O <= outputs {
            let Some(rows) = weights.get(at * self.width..(at + O) * self.width) else { break };
            for (r, sums) in self.block::<O>(rows).iter().enumerate() {
                if let Some(to) = y.get_mut((first + r) * outputs + at..(first + r) * outputs + at + O) {
                    to.copy_from_slice(&sums[..O]);
                }
            }
            at += O;
        }
        at
    }

    #[target_feature(enable = "avx512f,avx512vl,avx,avx2,fma")]
    fn all(&self, weights: &[f32], y: &mut [f32], first: usize) {
        let outputs = weights.len() / self.width;
        let mut done = 0;
        if R <= NARROW {
            done = self.blocks::<4>(weights, y, (first, outputs, done));
        }
        done = self.blocks::<2>(weights, y, (first, outputs, done));
        self.blocks::<1>(weights, y, (first, outputs, done));
    }
}

/// The sums of four registers, each in the same order whatever the others hold.
#[target_feature(enable = "avx512f,avx512vl,avx,avx2,fma")]
fn four_sums(a: __m512, b: __m512, c: __m512, d: __m512) -> __m128 {
    let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    let by_four =
        _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)), _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
    let upper = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(by_four)));
    let half = _mm256_add_ps(_mm512_castps512_ps256(by_four), upper);
    _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps::<1>(half))
}

impl<const R: usize> Rows for Tile<R> {
    fn products(&self, weights: &[f32], _: usize, y: &mut [f32], first: usize) {
        // SAFETY: tiles are made where the processor has what they need.
        unsafe { self.all(weights, y, first) }
    }
}
