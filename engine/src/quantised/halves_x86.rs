//! Sums of weights of two bytes with AVX-512, a column of sixteen rows in a register, and with AVX2, where it takes two.

use super::{
    format::Strip,
    halves::{GROUPS, SPAN, Sums, Tile},
};
use std::arch::x86_64::*;

/// Sums of a tile, as [`halves::sums`](super::halves::sums) has them.
///
/// # Safety
/// The processor must have the instructions: see [`avx512::here`](super::avx512::here).
pub(super) unsafe fn sums_avx512(brain: bool, strips: &[Strip], x: Tile<'_>, out: &mut Sums) {
    let width = x.data.len() / x.rows.max(1);
    macro_rules! run {
        ($g:literal, $m:literal) => {
            if brain { wide::<$g, $m, true>(strips, x.data, out) } else { wide::<$g, $m, false>(strips, x.data, out) }
        };
    }
    // SAFETY: the caller's.
    unsafe {
        match (strips.len() == GROUPS * width, x.rows) {
            (true, 8) => run!(2, 8),
            (true, 4) => run!(2, 4),
            (true, 2) => run!(2, 2),
            (true, 1) => run!(2, 1),
            (false, 8) => run!(1, 8),
            (false, 4) => run!(1, 4),
            (false, 2) => run!(1, 2),
            (false, 1) => run!(1, 1),
            _ => super::halves::sums(brain, strips, x, out),
        }
    }
}

/// `G` groups with `M` rows of the input.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn wide<const G: usize, const M: usize, const BRAIN: bool>(strips: &[Strip], x: &[f32], out: &mut Sums) {
    let x = x.as_chunks::<M>().0;
    let width = x.len();
    assert!(strips.len() >= G * width, "groups shorter than the input");
    let mut totals = [[_mm512_setzero_ps(); M]; G];
    for from in (0..width).step_by(SPAN) {
        let to = (from + SPAN).min(width);
        let mut sums = [[_mm512_setzero_ps(); M]; G];
        for (c, x) in (from..to).zip(&x[from..to]) {
            let mut w = [_mm512_setzero_ps(); G];
            for (g, w) in w.iter_mut().enumerate() {
                // SAFETY: there are `G` times `width` strips, as was checked above; each is 32 bytes, aligned so.
                let column = unsafe { _mm256_load_si256(strips.as_ptr().add(g * width + c).cast()) };
                *w = match BRAIN {
                    true => _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(column), 16)),
                    false => _mm512_cvtph_ps(column),
                };
            }
            for m in 0..M {
                let x = _mm512_set1_ps(x[m]);
                for g in 0..G {
                    sums[g][m] = _mm512_fmadd_ps(w[g], x, sums[g][m]);
                }
            }
        }
        for g in 0..G {
            for m in 0..M {
                totals[g][m] = _mm512_add_ps(totals[g][m], sums[g][m]);
            }
        }
    }
    for g in 0..G {
        for m in 0..M {
            // SAFETY: sixteen floats are 64 bytes.
            unsafe { _mm512_storeu_ps(out[g][m].as_mut_ptr(), totals[g][m]) };
        }
    }
}

/// Sums of a tile, as [`halves::sums`](super::halves::sums) has them.
///
/// # Safety
/// The processor must have the instructions: see [`avx2::here`](super::avx2::here).
pub(super) unsafe fn sums_avx2(brain: bool, strips: &[Strip], x: Tile<'_>, out: &mut Sums) {
    let width = x.data.len() / x.rows.max(1);
    macro_rules! run {
        ($strips:expr, $m:literal, $first:expr, $out:expr) => {
            if brain {
                narrow::<$m, true>($strips, x, $first, $out)
            } else {
                narrow::<$m, false>($strips, x, $first, $out)
            }
        };
    }
    for (strips, out) in strips.chunks_exact(width.max(1)).zip(out) {
        // More rows at a time than four do not fit sixteen registers.
        // SAFETY: the caller's.
        unsafe {
            match x.rows {
                8 => {
                    run!(strips, 4, 0, out);
                    run!(strips, 4, 4, out);
                }
                4 => run!(strips, 4, 0, out),
                2 => run!(strips, 2, 0, out),
                _ => run!(strips, 1, 0, out),
            }
        }
    }
}

/// A group with `M` rows of a tile, from row `first` of it on.
#[target_feature(enable = "avx2,fma,f16c")]
fn narrow<const M: usize, const BRAIN: bool>(
    strips: &[Strip],
    x: Tile<'_>,
    first: usize,
    out: &mut [[f32; super::format::ROWS]; super::halves::MOST],
) {
    let mut totals = [[_mm256_setzero_ps(); 2]; M];
    for (strips, x_part) in strips.chunks(SPAN).zip(x.data.chunks(SPAN * x.rows)) {
        let mut sums = [[_mm256_setzero_ps(); 2]; M];
        for (strip, x) in strips.iter().zip(x_part.chunks_exact(x.rows)) {
            let w = [0, 1].map(|half| {
                // SAFETY: a strip is twice 16 bytes, aligned so.
                let column = unsafe { _mm_load_si128(strip.0.as_ptr().add(16 * half).cast()) };
                match BRAIN {
                    true => _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(column), 16)),
                    false => _mm256_cvtph_ps(column),
                }
            });
            for m in 0..M {
                let x = _mm256_set1_ps(x[first + m]);
                for half in 0..2 {
                    sums[m][half] = _mm256_fmadd_ps(w[half], x, sums[m][half]);
                }
            }
        }
        for m in 0..M {
            for half in 0..2 {
                totals[m][half] = _mm256_add_ps(totals[m][half], sums[m][half]);
            }
        }
    }
    for (out, totals) in out[first..].iter_mut().zip(totals) {
        for (half, total) in totals.into_iter().enumerate() {
            // SAFETY: half of sixteen floats.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr().add(8 * half), total) };
        }
    }
}
