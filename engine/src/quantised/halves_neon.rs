//! Sums of weights of two bytes with NEON, four rows of a column in a register.

use super::{
    format::{ROWS, Strip},
    halves::{GROUPS, MOST, SPAN, Sums, Tile},
    neon::QUARTER,
};
use std::arch::aarch64::*;

/// Sums of a tile, as [`halves::sums`](super::halves::sums) has them.
///
/// # Safety
/// The processor must have NEON: see [`neon::here`](super::neon::here).
pub(super) unsafe fn sums(brain: bool, strips: &[Strip], x: Tile<'_>, out: &mut Sums) {
    let width = x.data.len() / x.rows.max(1);
    macro_rules! run {
        ($g:literal, $q:literal, $m:literal) => {
            if brain {
                tile::<$g, $q, $m, true>(strips, x.data, out)
            } else {
                tile::<$g, $q, $m, false>(strips, x.data, out)
            }
        };
    }
    // Sixteen sums at a time: two groups side by side where there are few rows of the input, half of one where there are many.
    // SAFETY: the caller's.
    unsafe {
        match (strips.len() == GROUPS * width, x.rows) {
            (true, 2) => run!(2, 4, 2),
            (true, 1) => run!(2, 4, 1),
            (false, 2) => run!(1, 4, 2),
            (false, 1) => run!(1, 4, 1),
            (_, 8) => run!(1, 2, 8),
            (_, 4) => run!(1, 4, 4),
            _ => super::halves::sums(brain, strips, x, out),
        }
    }
}

/// `M` rows of the input, with `Q` quarters of `G` groups at a time and as many of them as there are.
#[target_feature(enable = "neon")]
fn tile<const G: usize, const Q: usize, const M: usize, const BRAIN: bool>(
    strips: &[Strip],
    x: &[f32],
    out: &mut Sums,
) {
    let x = x.as_chunks::<M>().0;
    let width = x.len().max(1);
    for (strips, out) in strips.chunks_exact(G * width).zip(out.chunks_exact_mut(G)) {
        out.as_flattened_mut().iter_mut().for_each(|sums| sums.fill(0.0));
        for from in (0..width).step_by(SPAN) {
            let to = (from + SPAN).min(width);
            // The quarters of a span one after the other: it stays in the cache meanwhile.
            for first in (0..ROWS / QUARTER).step_by(Q) {
                let mut groups = [&strips[..0]; G];
                for (g, columns) in groups.iter_mut().enumerate() {
                    *columns = &strips[g * width + from..g * width + to];
                }
                span::<G, Q, M, BRAIN>(groups, first, &x[from..to], out);
            }
        }
    }
}

/// Adds the sums of some columns to those before, `Q` quarters from quarter `first` on.
#[target_feature(enable = "neon")]
fn span<const G: usize, const Q: usize, const M: usize, const BRAIN: bool>(
    groups: [&[Strip]; G],
    first: usize,
    x: &[[f32; M]],
    out: &mut [[[f32; ROWS]; MOST]],
) {
    assert!(first + Q <= ROWS / QUARTER && groups.iter().all(|columns| columns.len() == x.len()), "columns of a span");
    let mut sums = [[[vdupq_n_f32(0.0); M]; Q]; G];
    for (c, x) in x.iter().enumerate() {
        let mut w = [[vdupq_n_f32(0.0); Q]; G];
        for g in 0..G {
            for q in (0..Q).step_by(2) {
                // SAFETY: a group has as many columns as the input, and of their four quarters two are read, as was checked above.
                let eight = unsafe { vld1q_u16(groups[g].as_ptr().add(c).cast::<u16>().add(QUARTER * (first + q))) };
                (w[g][q], w[g][q + 1]) = match BRAIN {
                    true => (
                        vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(eight))),
                        vreinterpretq_f32_u32(vshll_high_n_u16::<16>(eight)),
                    ),
                    false => {
                        let eight = vreinterpretq_f16_u16(eight);
                        (vcvt_f32_f16(vget_low_f16(eight)), vcvt_high_f32_f16(eight))
                    }
                };
            }
        }
        for m in 0..M {
            for g in 0..G {
                for q in 0..Q {
                    sums[g][q][m] = vfmaq_n_f32(sums[g][q][m], w[g][q], x[m]);
                }
            }
        }
    }
    for (out, sums) in out.iter_mut().zip(sums) {
        for (q, sums) in sums.into_iter().enumerate() {
            for (out, sums) in out.iter_mut().zip(sums) {
                // SAFETY: a quarter of sixteen floats.
                unsafe {
                    let at = out.as_mut_ptr().add(QUARTER * (first + q));
                    vst1q_f32(at, vaddq_f32(vld1q_f32(at), sums));
                }
            }
        }
    }
}
