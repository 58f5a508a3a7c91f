//! Sums of a tile with AVX2: twice eight rows of the weight.
//!
//! Products of two bytes are added in 16 bits, where they would be cut off if they were too large: codes of few bits leave room for
//! several such pairs, whole bytes for one, and that only with their sign.

use super::{
    format::{Line, MIN, PLAIN, ROWS, SIX, SUPER, Strip, inner, of_each_format, strips},
    inputs::{Block, Tile},
    matrix::Group,
};
use std::arch::x86_64::*;

/// Whether this processor can.
pub(super) fn here() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

/// Sixteen sums for each row of a tile, as [`scalar::sums`](super::scalar::sums) has them.
///
/// # Safety
/// The processor must have the instructions: see [`here`].
pub(super) unsafe fn sums(group: Group<'_>, x: Tile<'_>, out: &mut [[f32; ROWS]]) {
    // More rows at a time than two do not fit sixteen registers.
    // SAFETY: the caller's.
    unsafe {
        match x.rows.is_multiple_of(2) {
            true => of_each_format!(tile, (group, x, out), [2], (group, x, out)),
            false => of_each_format!(tile, (group, x, out), [1], (group, x, out)),
        }
    }
}

/// Rows of the input `M` at a time, halves of the group one after the other.
#[target_feature(enable = "avx2,fma,f16c")]
fn tile<const BITS: usize, const FACTORS: u8, const M: usize>(group: Group<'_>, x: Tile<'_>, out: &mut [[f32; ROWS]]) {
    for (first, out) in (0..x.rows).step_by(M).zip(out.chunks_exact_mut(M)) {
        for half in 0..2 {
            let sums = rows::<BITS, FACTORS, M>(group, half, x, first);
            for m in 0..M {
                // SAFETY: half of sixteen floats.
                unsafe { _mm256_storeu_ps(out[m].as_mut_ptr().add(8 * half), sums[m]) };
            }
        }
    }
}

/// Eight sums for each of `M` rows of a tile, from row `first` of it on.
#[target_feature(enable = "avx2,fma,f16c")]
fn rows<const BITS: usize, const FACTORS: u8, const M: usize>(
    group: Group<'_>,
    half: usize,
    x: Tile<'_>,
    first: usize,
) -> [__m256; M] {
    let (inner, many) = (inner(FACTORS), strips(FACTORS));
    let (mut sums, mut least) = ([_mm256_setzero_ps(); M], [_mm256_setzero_ps(); M]);
    let blocks = x.data.chunks_exact(x.rows * inner);
    let pieces = group.lines.as_chunks::<BITS>().0.chunks_exact(inner).zip(blocks);
    for (strips, (lines, blocks)) in group.strips.chunks_exact(many).zip(pieces) {
        let d = halves(&strips[0], half);
        let e = if FACTORS == MIN || FACTORS == SUPER { halves(&strips[1], half) } else { d };
        for i in 0..inner {
            let w = unpack(&lines[i], half);
            let (factor, second) = match FACTORS {
                SUPER => {
                    let (s, t) = bytes(&strips[2 + i], half, false);
                    (_mm256_mul_ps(d, s), _mm256_mul_ps(e, t))
                }
                SIX => {
                    let (s, t) = bytes(&strips[1 + i], half, true);
                    (_mm256_mul_ps(d, s), _mm256_mul_ps(d, t))
                }
                _ => (d, e),
            };
            for m in 0..M {
                let x = &blocks[i * x.rows + first + m];
                let (left, right) = products::<BITS>(&w, x, FACTORS == SIX);
                let scale = _mm256_set1_ps(x.scale);
                if FACTORS == SIX {
                    sums[m] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(left), _mm256_mul_ps(factor, scale), sums[m]);
                    sums[m] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(right), _mm256_mul_ps(second, scale), sums[m]);
                } else {
                    let both = _mm256_cvtepi32_ps(_mm256_add_epi32(left, right));
                    sums[m] = _mm256_fmadd_ps(both, _mm256_mul_ps(factor, scale), sums[m]);
                }
                match FACTORS {
                    MIN => least[m] = _mm256_fmadd_ps(second, _mm256_set1_ps(x.sum), least[m]),
                    SUPER => least[m] = _mm256_fnmadd_ps(second, _mm256_set1_ps(x.sum), least[m]),
                    _ => (),
                }
            }
        }
    }
    for m in 0..M {
        sums[m] = _mm256_add_ps(sums[m], least[m]);
    }
    sums
}

/// Sums of products of both halves of a piece.
#[inline]
#[target_feature(enable = "avx2")]
fn products<const BITS: usize>(w: &[__m256i; 8], x: &Block, apart: bool) -> (__m256i, __m256i) {
    let four = |i: usize| {
        // SAFETY: eight groups of four bytes.
        _mm256_set1_epi32(unsafe { x.codes.as_ptr().add(4 * i).cast::<i32>().read_unaligned() })
    };
    let ones = _mm256_set1_epi16(1);
    let mut halves = [_mm256_setzero_si256(); 2];
    for (h, half) in halves.iter_mut().enumerate() {
        let group = |i: usize| {
            let (w, x) = (w[4 * h + i], four(4 * h + i));
            if BITS == 8 {
                // From 0 .. 256 back to -128 .. 128, whose size is multiplied by the input with its sign.
                let signed = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
                return _mm256_madd_epi16(
                    _mm256_maddubs_epi16(_mm256_abs_epi8(signed), _mm256_sign_epi8(x, signed)),
                    ones,
                );
            }
            _mm256_maddubs_epi16(w, x)
        };
        let [a, b, c, d] = [group(0), group(1), group(2), group(3)];
        *half = match BITS {
            8 => _mm256_add_epi32(_mm256_add_epi32(a, b), _mm256_add_epi32(c, d)),
            6 => {
                let (a, b) = (_mm256_add_epi16(a, b), _mm256_add_epi16(c, d));
                _mm256_add_epi32(_mm256_madd_epi16(a, ones), _mm256_madd_epi16(b, ones))
            }
            _ => {
                let all = _mm256_add_epi16(_mm256_add_epi16(a, b), _mm256_add_epi16(c, d));
                _mm256_madd_epi16(all, ones)
            }
        };
    }
    let [mut left, mut right] = halves;
    // Whole bytes have their sign already.
    if BITS != 8 {
        left = _mm256_add_epi32(left, _mm256_set1_epi32(x.starts[0]));
    }
    if apart {
        right = _mm256_add_epi32(right, _mm256_set1_epi32(x.starts[1]));
    }
    (left, right)
}

/// Codes of eight rows of a piece, four columns a register.
#[inline]
#[target_feature(enable = "avx2")]
fn unpack<const BITS: usize>(lines: &[Line; BITS], half: usize) -> [__m256i; 8] {
    // SAFETY: a line is twice 32 bytes, aligned so.
    let line = |i: usize| unsafe { _mm256_load_si256(lines[i].0.as_ptr().add(32 * half).cast()) };
    if BITS == 8 {
        return [line(0), line(1), line(2), line(3), line(4), line(5), line(6), line(7)];
    }
    let mut w = [_mm256_setzero_si256(); 8];
    let low = _mm256_set1_epi8(15);
    for i in 0..4 {
        w[i] = _mm256_and_si256(line(i), low);
        w[4 + i] = _mm256_and_si256(_mm256_srli_epi16(line(i), 4), low);
    }
    let mut add = |i: usize, bits: __m256i, mask: __m256i| w[i] = _mm256_or_si256(w[i], _mm256_and_si256(bits, mask));
    if BITS == 5 {
        let (bit, high) = (_mm256_set1_epi8(16), line(4));
        add(0, _mm256_slli_epi16(high, 4), bit);
        add(1, _mm256_slli_epi16(high, 3), bit);
        add(2, _mm256_slli_epi16(high, 2), bit);
        add(3, _mm256_slli_epi16(high, 1), bit);
        add(4, high, bit);
        add(5, _mm256_srli_epi16(high, 1), bit);
        add(6, _mm256_srli_epi16(high, 2), bit);
        add(7, _mm256_srli_epi16(high, 3), bit);
    }
    if BITS == 6 {
        let bits = _mm256_set1_epi8(48);
        for half in 0..2 {
            let high = line(4 + half);
            add(4 * half, _mm256_slli_epi16(high, 4), bits);
            add(4 * half + 1, _mm256_slli_epi16(high, 2), bits);
            add(4 * half + 2, high, bits);
            add(4 * half + 3, _mm256_srli_epi16(high, 2), bits);
        }
    }
    w
}

/// Eight of sixteen half floats.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn halves(strip: &Strip, half: usize) -> __m256 {
    // SAFETY: a strip is twice 16 bytes, aligned so.
    _mm256_cvtph_ps(unsafe { _mm_load_si128(strip.0.as_ptr().add(16 * half).cast()) })
}

/// Two bytes for each of eight rows.
#[inline]
#[target_feature(enable = "avx2")]
fn bytes(strip: &Strip, half: usize, signed: bool) -> (__m256, __m256) {
    // SAFETY: four times 8 bytes in a strip.
    let eight = |i: usize| unsafe { _mm_loadl_epi64(strip.0.as_ptr().add(16 * i + 8 * half).cast()) };
    let wide = |bytes: __m128i| if signed { _mm256_cvtepi8_epi32(bytes) } else { _mm256_cvtepu8_epi32(bytes) };
    (_mm256_cvtepi32_ps(wide(eight(0))), _mm256_cvtepi32_ps(wide(eight(1))))
}
