//! Sums of a tile with NEON: four rows of the weight in a register.
//!
//! Where the processor has products of bytes, `sdot` multiplies and adds four columns of four rows. Where it has not, products are
//! added in 16 bits, where they would run over if there were too many: narrow codes leave room for four groups of columns, whole
//! bytes for two.

use super::{
    format::{BLOCK, Line, MIN, PLAIN, ROWS, SIX, SUPER, Strip, inner, of_each_format, strips},
    inputs::{Block, Tile},
    matrix::Group,
};
use std::arch::{aarch64::*, asm, is_aarch64_feature_detected};

/// Rows in a register, and registers of a line.
pub(super) const QUARTER: usize = ROWS / 4;

/// Whether this processor has NEON, which only very special ones have not, and numbers begin with their lowest byte as in a file.
pub(super) fn here() -> bool {
    cfg!(target_endian = "little") && is_aarch64_feature_detected!("neon")
}

/// Whether it multiplies bytes too.
pub(super) fn has_dot() -> bool {
    here() && is_aarch64_feature_detected!("dotprod")
}

/// Does something for each number below `$n`, at most four, written out: sums stay in registers so, which a loop does not promise.
macro_rules! each {
    ($i:ident < $n:ident: $body:block) => {
        each!($i, $n, $body, 0 1 2 3)
    };
    ($i:ident, $n:ident, $body:block, $($number:literal)*) => {
        $(if $number < $n {
            let $i = $number;
            $body
        })*
    };
}

/// A tile in one of both ways: its rows, how many of them at a time, and with how many quarters of the group. More at a time would take
/// more registers than there are.
macro_rules! with {
    ($way:ident, $group:ident, $x:ident, $out:ident) => {
        match $x.rows {
            8 => of_each_format!($way, ($group, $x, $out), [8, 4, 1], ($group, $x.data, $out)),
            4 => of_each_format!($way, ($group, $x, $out), [4, 4, 1], ($group, $x.data, $out)),
            2 => of_each_format!($way, ($group, $x, $out), [2, 2, 1], ($group, $x.data, $out)),
            1 => of_each_format!($way, ($group, $x, $out), [1, 1, 2], ($group, $x.data, $out)),
            _ => super::scalar::sums($group, $x, $out),
        }
    };
}

/// Sixteen sums for each row of a tile, as [`scalar::sums`](super::scalar::sums) has them.
///
/// # Safety
/// The processor must have NEON: see [`here`].
pub(super) unsafe fn sums(group: Group<'_>, x: Tile<'_>, out: &mut [[f32; ROWS]]) {
    // SAFETY: the caller's.
    unsafe { with!(plain, group, x, out) }
}

/// The same with products of bytes.
///
/// # Safety
/// The processor must have them: see [`has_dot`].
pub(super) unsafe fn sums_dot(group: Group<'_>, x: Tile<'_>, out: &mut [[f32; ROWS]]) {
    // SAFETY: the caller's.
    unsafe { with!(dot, group, x, out) }
}

#[target_feature(enable = "neon")]
fn plain<const BITS: usize, const FACTORS: u8, const N: usize, const M: usize, const Q: usize>(
    group: Group<'_>,
    x: &[Block],
    out: &mut [[f32; ROWS]],
) {
    tile::<BITS, FACTORS, N, M, Q, false>(group, x, out);
}

#[target_feature(enable = "neon,dotprod")]
fn dot<const BITS: usize, const FACTORS: u8, const N: usize, const M: usize, const Q: usize>(
    group: Group<'_>,
    x: &[Block],
    out: &mut [[f32; ROWS]],
) {
    tile::<BITS, FACTORS, N, M, Q, true>(group, x, out);
}

/// `N` rows of the input, whose blocks lie `N` beside one another: `M` of them at a time with `Q` quarters of the group.
#[inline(always)]
fn tile<const BITS: usize, const FACTORS: u8, const N: usize, const M: usize, const Q: usize, const DOT: bool>(
    group: Group<'_>,
    x: &[Block],
    out: &mut [[f32; ROWS]],
) {
    let x = x.as_chunks::<N>().0;
    for first in (0..ROWS / QUARTER).step_by(Q) {
        for (part, out) in out.as_chunks_mut::<M>().0.iter_mut().enumerate() {
            let sums = rows::<BITS, FACTORS, N, M, Q, DOT>(group, first, x, part);
            for (m, out) in out.iter_mut().enumerate() {
                for (q, out) in out.as_chunks_mut::<QUARTER>().0[first..first + Q].iter_mut().enumerate() {
                    // SAFETY: NEON is there, as all of this needs it, and a quarter of sixteen floats are four.
                    unsafe { vst1q_f32(out.as_mut_ptr(), sums[q][m]) };
                }
            }
        }
    }
}

/// Sums of `Q` quarters from quarter `first` on, four for each of `M` rows of the input: part `part` of those in a tile.
#[inline(always)]
fn rows<const BITS: usize, const FACTORS: u8, const N: usize, const M: usize, const Q: usize, const DOT: bool>(
    group: Group<'_>,
    first: usize,
    x: &[[Block; N]],
    part: usize,
) -> [[float32x4_t; M]; Q] {
    let (inner, many) = (inner(FACTORS), strips(FACTORS));
    // SAFETY: NEON is there.
    let zero = unsafe { vdupq_n_f32(0.0) };
    let (mut sums, mut least) = ([[zero; M]; Q], [[zero; M]; Q]);
    let pieces = group.lines.as_chunks::<BITS>().0.chunks_exact(inner).zip(x.chunks_exact(inner));
    for (strips, (lines, blocks)) in group.strips.chunks_exact(many).zip(pieces) {
        let (mut d, mut e) = ([zero; Q], [zero; Q]);
        for q in 0..Q {
            d[q] = halves(&strips[0], first + q);
            e[q] = if FACTORS == MIN || FACTORS == SUPER { halves(&strips[1], first + q) } else { d[q] };
        }
        for i in 0..inner {
            let x = &blocks[i].as_chunks::<M>().0[part];
            each!(q < Q: {
                let w = unpack(&lines[i], first + q);
                let factors = match FACTORS {
                    SUPER => small(&strips[2 + i], first + q, (d[q], e[q]), false),
                    SIX => small(&strips[1 + i], first + q, (d[q], d[q]), true),
                    _ => (d[q], e[q]),
                };
                each!(m < M: {
                    let now = (sums[q][m], least[q][m]);
                    (sums[q][m], least[q][m]) = add::<BITS, FACTORS, DOT>(&w, factors, &x[m], now);
                });
            });
        }
    }
    for q in 0..Q {
        for m in 0..M {
            // SAFETY: as above.
            sums[q][m] = unsafe { vaddq_f32(sums[q][m], least[q][m]) };
        }
    }
    sums
}

/// Adds the products of four rows of a piece with a block to four sums and four smallest numbers.
#[inline(always)]
fn add<const BITS: usize, const FACTORS: u8, const DOT: bool>(
    w: &[int8x16_t; 8],
    (factor, second): (float32x4_t, float32x4_t),
    x: &Block,
    (sum, least): (float32x4_t, float32x4_t),
) -> (float32x4_t, float32x4_t) {
    let (left, right) = products::<BITS, DOT>(w, x, FACTORS == SIX);
    // SAFETY: NEON is there.
    unsafe {
        if FACTORS == SIX {
            let sum = vfmaq_f32(sum, vcvtq_f32_s32(left), vmulq_n_f32(factor, x.scale));
            return (vfmaq_f32(sum, vcvtq_f32_s32(right), vmulq_n_f32(second, x.scale)), least);
        }
        let both = vcvtq_f32_s32(vaddq_s32(left, right));
        let sum = vfmaq_f32(sum, both, vmulq_n_f32(factor, x.scale));
        let least = match FACTORS {
            MIN => vfmaq_n_f32(least, second, x.sum),
            SUPER => vfmsq_n_f32(least, second, x.sum),
            _ => least,
        };
        (sum, least)
    }
}

/// Sums of products of both halves of a piece.
#[inline(always)]
fn products<const BITS: usize, const DOT: bool>(w: &[int8x16_t; 8], x: &Block, apart: bool) -> (int32x4_t, int32x4_t) {
    // SAFETY: NEON is there, and a block has twice sixteen codes.
    unsafe {
        let x_codes = [vld1q_s8(x.codes.as_ptr()), vld1q_s8(x.codes.as_ptr().add(BLOCK / 2))];
        // Whole bytes have their sign already.
        let left = vdupq_n_s32(if BITS == 8 { 0 } else { x.starts[0] });
        let right = vdupq_n_s32(if apart { x.starts[1] } else { 0 });
        let [w0, w1, w2, w3, w4, w5, w6, w7] = *w;
        if DOT {
            // In two chains, so that one does not wait for the other.
            let (left, right) = (dot_four::<0>(left, w0, x_codes[0]), dot_four::<0>(right, w4, x_codes[1]));
            let (left, right) = (dot_four::<1>(left, w1, x_codes[0]), dot_four::<1>(right, w5, x_codes[1]));
            let (left, right) = (dot_four::<2>(left, w2, x_codes[0]), dot_four::<2>(right, w6, x_codes[1]));
            return (dot_four::<3>(left, w3, x_codes[0]), dot_four::<3>(right, w7, x_codes[1]));
        }
        let left = plain_half::<BITS>(left, [w0, w1, w2, w3], x_codes[0]);
        (left, plain_half::<BITS>(right, [w4, w5, w6, w7], x_codes[1]))
    }
}

/// Adds products of four columns with four codes of the input, those of group `LANE`.
///
/// # Safety
/// The processor must have `sdot`.
#[inline(always)]
unsafe fn dot_four<const LANE: i32>(mut sums: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // The library's own name for it is not stable yet.
    // SAFETY: it reads and writes these registers only, and is there, says the caller.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
            sums = inout(vreg) sums,
            w = in(vreg) w,
            x = in(vreg) x,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// Adds products of sixteen columns, four a register of `w`, without `sdot`.
#[inline(always)]
fn plain_half<const BITS: usize>(sums: int32x4_t, w: [int8x16_t; 4], x: int8x16_t) -> int32x4_t {
    // SAFETY: NEON is there.
    unsafe {
        let four = vreinterpretq_s32_s8(x);
        let x = [
            vreinterpretq_s8_s32(vdupq_laneq_s32::<0>(four)),
            vreinterpretq_s8_s32(vdupq_laneq_s32::<1>(four)),
            vreinterpretq_s8_s32(vdupq_laneq_s32::<2>(four)),
            vreinterpretq_s8_s32(vdupq_laneq_s32::<3>(four)),
        ];
        // Of two rows each, in 16 bits: 4 * 63 * 127 and 2 * 128 * 127 go into them, with their signs.
        let first = |i: usize| (vmull_s8(vget_low_s8(w[i]), vget_low_s8(x[i])), vmull_high_s8(w[i], x[i]));
        let more = |(low, high): (int16x8_t, int16x8_t), i: usize| {
            (vmlal_s8(low, vget_low_s8(w[i]), vget_low_s8(x[i])), vmlal_high_s8(high, w[i], x[i]))
        };
        let widened = |sums: int32x4_t, (low, high): (int16x8_t, int16x8_t)| {
            vaddq_s32(sums, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)))
        };
        if BITS == 8 {
            return widened(widened(sums, more(first(0), 1)), more(first(2), 3));
        }
        widened(sums, more(more(more(first(0), 1), 2), 3))
    }
}

/// Codes of four rows of a piece, four columns a register. Whole bytes get back their sign.
#[inline(always)]
fn unpack<const BITS: usize>(lines: &[Line; BITS], quarter: usize) -> [int8x16_t; 8] {
    assert!(quarter < ROWS / QUARTER, "a line has four quarters");
    // SAFETY: NEON is there, and a line is four times 16 bytes.
    unsafe {
        let line = |i: usize| vld1q_u8(lines[i].0.as_ptr().add(16 * quarter));
        let mut w = [vdupq_n_u8(0); 8];
        if BITS == 8 {
            let signed = |i: usize| vreinterpretq_s8_u8(veorq_u8(line(i), vdupq_n_u8(0x80)));
            return [signed(0), signed(1), signed(2), signed(3), signed(4), signed(5), signed(6), signed(7)];
        }
        for i in 0..4 {
            w[i] = vandq_u8(line(i), vdupq_n_u8(15));
            w[4 + i] = vshrq_n_u8::<4>(line(i));
        }
        if BITS == 5 {
            let (high, bit) = (line(4), vdupq_n_u8(16));
            w[0] = vbslq_u8(bit, vshlq_n_u8::<4>(high), w[0]);
            w[1] = vbslq_u8(bit, vshlq_n_u8::<3>(high), w[1]);
            w[2] = vbslq_u8(bit, vshlq_n_u8::<2>(high), w[2]);
            w[3] = vbslq_u8(bit, vshlq_n_u8::<1>(high), w[3]);
            w[4] = vbslq_u8(bit, high, w[4]);
            w[5] = vbslq_u8(bit, vshrq_n_u8::<1>(high), w[5]);
            w[6] = vbslq_u8(bit, vshrq_n_u8::<2>(high), w[6]);
            w[7] = vbslq_u8(bit, vshrq_n_u8::<3>(high), w[7]);
        }
        if BITS == 6 {
            let bits = vdupq_n_u8(48);
            for half in 0..2 {
                let (high, at) = (line(4 + half), 4 * half);
                w[at] = vbslq_u8(bits, vshlq_n_u8::<4>(high), w[at]);
                w[at + 1] = vbslq_u8(bits, vshlq_n_u8::<2>(high), w[at + 1]);
                w[at + 2] = vbslq_u8(bits, high, w[at + 2]);
                w[at + 3] = vbslq_u8(bits, vshrq_n_u8::<2>(high), w[at + 3]);
            }
        }
        w.map(|w| vreinterpretq_s8_u8(w))
    }
}

/// Four of sixteen half floats.
#[inline(always)]
fn halves(strip: &Strip, quarter: usize) -> float32x4_t {
    assert!(quarter < ROWS / QUARTER, "a strip has four quarters");
    // SAFETY: NEON is there, and a strip is four times four halves.
    unsafe {
        let four = vld1_u16(strip.0.as_ptr().add(2 * QUARTER * quarter).cast());
        vcvt_f32_f16(vreinterpret_f16_u16(four))
    }
}

/// Two bytes for each of four rows, times what belongs to the rows.
#[inline(always)]
fn small(
    strip: &Strip,
    quarter: usize,
    (d, e): (float32x4_t, float32x4_t),
    signed: bool,
) -> (float32x4_t, float32x4_t) {
    let wide = |i: usize| {
        let at = ROWS * i + QUARTER * quarter;
        let bytes = [strip.0[at], strip.0[at + 1], strip.0[at + 2], strip.0[at + 3]];
        // SAFETY: NEON is there.
        unsafe {
            let bytes = vcreate_u8(u64::from(u32::from_le_bytes(bytes)));
            if signed {
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(bytes)))))
            } else {
                vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(bytes))))
            }
        }
    };
    // SAFETY: as above.
    unsafe { (vmulq_f32(d, wide(0)), vmulq_f32(e, wide(1))) }
}
