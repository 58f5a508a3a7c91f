//! Sums of a tile with AVX-512 and its products of bytes (VNNI): sixteen rows of the weight in a register.

use super::{
    format::{Line, MIN, PLAIN, ROWS, SIX, SUPER, Strip, inner, of_each_format, strips},
    inputs::{Block, Tile},
    matrix::Group,
};
use std::arch::x86_64::*;

/// Whether this processor can.
pub(super) fn here() -> bool {
    super::avx2::here()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
}

/// Sixteen sums for each row of a tile, as [`scalar::sums`](super::scalar::sums) has them.
///
/// # Safety
/// The processor must have the instructions: see [`here`].
pub(super) unsafe fn sums(group: Group<'_>, x: Tile<'_>, out: &mut [[f32; ROWS]]) {
    // SAFETY: the caller's.
    unsafe {
        match x.rows {
            8 => of_each_format!(tile, (group, x, out), [8], (group, x.data, out)),
            4 => of_each_format!(tile, (group, x, out), [4], (group, x.data, out)),
            2 => of_each_format!(tile, (group, x, out), [2], (group, x.data, out)),
            1 => of_each_format!(tile, (group, x, out), [1], (group, x.data, out)),
            _ => super::scalar::sums(group, x, out),
        }
    }
}

/// `M` rows of the input, whose blocks lie `M` beside one another.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
fn tile<const BITS: usize, const FACTORS: u8, const M: usize>(group: Group<'_>, x: &[Block], out: &mut [[f32; ROWS]]) {
    let (inner, many) = (inner(FACTORS), strips(FACTORS));
    let (mut sums, mut least) = ([_mm512_setzero_ps(); M], [_mm512_setzero_ps(); M]);
    let pieces = group.lines.as_chunks::<BITS>().0.chunks_exact(inner).zip(x.as_chunks::<M>().0.chunks_exact(inner));
    for (strips, (lines, blocks)) in group.strips.chunks_exact(many).zip(pieces) {
        let d = halves(&strips[0]);
        let e = if FACTORS == MIN || FACTORS == SUPER { halves(&strips[1]) } else { d };
        for i in 0..inner {
            let w = unpack(&lines[i]);
            let (factor, second) = match FACTORS {
                SUPER => {
                    let (s, t) = bytes(&strips[2 + i], false);
                    (_mm512_mul_ps(d, s), _mm512_mul_ps(e, t))
                }
                SIX => {
                    let (s, t) = bytes(&strips[1 + i], true);
                    (_mm512_mul_ps(d, s), _mm512_mul_ps(d, t))
                }
                _ => (d, e),
            };
            for m in 0..M {
                let x = &blocks[i][m];
                let (left, right) = products(&w, x, FACTORS == SIX);
                let scale = _mm512_set1_ps(x.scale);
                if FACTORS == SIX {
                    sums[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(left), _mm512_mul_ps(factor, scale), sums[m]);
                    sums[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(right), _mm512_mul_ps(second, scale), sums[m]);
                } else {
                    let both = _mm512_cvtepi32_ps(_mm512_add_epi32(left, right));
                    sums[m] = _mm512_fmadd_ps(both, _mm512_mul_ps(factor, scale), sums[m]);
                }
                match FACTORS {
                    MIN => least[m] = _mm512_fmadd_ps(second, _mm512_set1_ps(x.sum), least[m]),
                    SUPER => least[m] = _mm512_fnmadd_ps(second, _mm512_set1_ps(x.sum), least[m]),
                    _ => (),
                }
            }
        }
    }
    for m in 0..M {
        // SAFETY: sixteen floats are 64 bytes.
        unsafe { _mm512_storeu_ps(out[m].as_mut_ptr(), _mm512_add_ps(sums[m], least[m])) };
    }
}

/// Sums of products of both halves of a piece. In two chains, so that one does not wait for the other.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn products(w: &[__m512i; 8], x: &Block, apart: bool) -> (__m512i, __m512i) {
    let four = |i: usize| {
        // SAFETY: eight groups of four bytes.
        _mm512_set1_epi32(unsafe { x.codes.as_ptr().add(4 * i).cast::<i32>().read_unaligned() })
    };
    let mut left = _mm512_set1_epi32(x.starts[0]);
    let mut right = if apart { _mm512_set1_epi32(x.starts[1]) } else { _mm512_setzero_si512() };
    for i in 0..4 {
        left = _mm512_dpbusd_epi32(left, w[i], four(i));
        right = _mm512_dpbusd_epi32(right, w[4 + i], four(4 + i));
    }
    (left, right)
}

/// Codes of a piece, four columns a register.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn unpack<const BITS: usize>(lines: &[Line; BITS]) -> [__m512i; 8] {
    // SAFETY: a line is 64 bytes, aligned so.
    let line = |i: usize| unsafe { _mm512_load_si512(lines[i].0.as_ptr().cast()) };
    if BITS == 8 {
        return [line(0), line(1), line(2), line(3), line(4), line(5), line(6), line(7)];
    }
    let mut w = [_mm512_setzero_si512(); 8];
    let low = _mm512_set1_epi8(15);
    for i in 0..4 {
        w[i] = _mm512_and_si512(line(i), low);
        w[4 + i] = _mm512_and_si512(_mm512_srli_epi16(line(i), 4), low);
    }
    // a | b & mask, in one instruction.
    const OR_AND: i32 = 0b1111_1000;
    if BITS == 5 {
        let (bit, high) = (_mm512_set1_epi8(16), line(4));
        let mut shifted = _mm512_slli_epi16(high, 4);
        w[0] = _mm512_ternarylogic_epi32(w[0], shifted, bit, OR_AND);
        shifted = _mm512_slli_epi16(high, 3);
        w[1] = _mm512_ternarylogic_epi32(w[1], shifted, bit, OR_AND);
        shifted = _mm512_slli_epi16(high, 2);
        w[2] = _mm512_ternarylogic_epi32(w[2], shifted, bit, OR_AND);
        shifted = _mm512_slli_epi16(high, 1);
        w[3] = _mm512_ternarylogic_epi32(w[3], shifted, bit, OR_AND);
        w[4] = _mm512_ternarylogic_epi32(w[4], high, bit, OR_AND);
        shifted = _mm512_srli_epi16(high, 1);
        w[5] = _mm512_ternarylogic_epi32(w[5], shifted, bit, OR_AND);
        shifted = _mm512_srli_epi16(high, 2);
        w[6] = _mm512_ternarylogic_epi32(w[6], shifted, bit, OR_AND);
        shifted = _mm512_srli_epi16(high, 3);
        w[7] = _mm512_ternarylogic_epi32(w[7], shifted, bit, OR_AND);
    }
    if BITS == 6 {
        let bits = _mm512_set1_epi8(48);
        for half in 0..2 {
            let high = line(4 + half);
            let at = 4 * half;
            w[at] = _mm512_ternarylogic_epi32(w[at], _mm512_slli_epi16(high, 4), bits, OR_AND);
            w[at + 1] = _mm512_ternarylogic_epi32(w[at + 1], _mm512_slli_epi16(high, 2), bits, OR_AND);
            w[at + 2] = _mm512_ternarylogic_epi32(w[at + 2], high, bits, OR_AND);
            w[at + 3] = _mm512_ternarylogic_epi32(w[at + 3], _mm512_srli_epi16(high, 2), bits, OR_AND);
        }
    }
    w
}

/// Sixteen half floats.
#[inline]
#[target_feature(enable = "avx512f")]
fn halves(strip: &Strip) -> __m512 {
    // SAFETY: a strip is 32 bytes, aligned so.
    _mm512_cvtph_ps(unsafe { _mm256_load_si256(strip.0.as_ptr().cast()) })
}

/// Two bytes for each of sixteen rows.
#[inline]
#[target_feature(enable = "avx512f")]
fn bytes(strip: &Strip, signed: bool) -> (__m512, __m512) {
    // SAFETY: a strip is twice 16 bytes, aligned so.
    let half = |i: usize| unsafe { _mm_load_si128(strip.0.as_ptr().add(16 * i).cast()) };
    let wide = |bytes: __m128i| if signed { _mm512_cvtepi8_epi32(bytes) } else { _mm512_cvtepu8_epi32(bytes) };
    (_mm512_cvtepi32_ps(wide(half(0))), _mm512_cvtepi32_ps(wide(half(1))))
}
