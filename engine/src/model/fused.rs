//! What lies between the products of a layer, in one sweep each, for a few positions on the processor.
//!
//! A step of a small model is hundreds of small operations, and most of their time is spent on beginning and ending them.
//! Everything here is computed row by row in one order, whatever the number of rows and the processor: products and sums are
//! rounded one by one, and wider instructions change no bit.

use super::layers::RopeRows;
use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Storage, Tensor, bail};
use rayon::prelude::*;

/// More positions than this are better served by products of matrices.
pub(super) const FEW: usize = 16;
/// Numbers that are summed side by side.
const LANES: usize = 16;
/// Multiplications for which threads are worth their while.
const MANY: usize = 1 << 20;
/// Numbers that a thread takes at once where each is computed by itself.
const PIECE: usize = 1 << 13;

/// Heads of a layer.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    pub(super) queries: usize,
    pub(super) keys: usize,
    pub(super) dim: usize,
}

/// Makes a function that is compiled for wider instructions too, and takes the widest there are.
macro_rules! widest {
    ($name:ident = $body:ident($($arg:ident: $kind:ty),*)) => {
        fn $name($($arg: $kind),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn avx512($($arg: $kind),*) {
                    $body($($arg),*);
                }
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $kind),*) {
                    $body($($arg),*);
                }
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                {
                    // SAFETY: the processor has the instructions.
                    return unsafe { avx512($($arg),*) };
                }
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: as above.
                    return unsafe { avx2($($arg),*) };
                }
            }
            $body($($arg),*);
        }
    };
}

/// A contiguous tensor's numbers.
fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(all), Some((from, to))) => Ok(all.get(from..to).unwrap_or_default()),
        _ => bail!("contiguous f32 on the processor expected"),
    }
}

/// e to the power of x, within 2e-7 of it. Nothing below -87, where half of all it serves is hidden by minus infinity.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // So large that adding it rounds to whole numbers, which then stand in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
    let clamped = x.clamp(-87.0, 88.0);
    let whole = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = whole - ROUND;
    let r = (clamped - n * LN_2.0) - n * LN_2.1;
    // The series of e^r to the seventh power, where r is at most ln 2 / 2.
    let mut p = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + c;
    }
    let power = f32::from_bits((whole.to_bits().wrapping_add(127)) << 23);
    if x < -87.0 { 0.0 } else { p * power }
}

/// `silu(gate) * up` for rows of gates and ups side by side, `[.., 2 * width]`: `[.., width]`.
pub(super) fn gated(both: &Tensor) -> Result<Tensor> {
    both.apply_op1_no_bwd(&Gated)
}

struct Gated;

#[inline(always)]
fn gate_rows(both: &[f32], out: &mut [f32], width: usize) {
    for (both, out) in both.chunks_exact(2 * width).zip(out.chunks_exact_mut(width)) {
        let (gates, ups) = both.split_at(width);
        for ((out, g), u) in out.iter_mut().zip(gates).zip(ups) {
            *out = g / (1.0 + exp(-g)) * u;
        }
    }
}

widest!(gate = gate_rows(both: &[f32], out: &mut [f32], width: usize));

impl CustomOp1 for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn cpu_fwd(&self, both: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let both = floats(both, layout)?;
        let mut dims = layout.dims().to_vec();
        let width = dims.pop().unwrap_or(0) / 2;
        if width == 0 || both.len() % (2 * width) != 0 {
            bail!("gated: gates and ups side by side expected, found {:?}", layout.dims());
        }
        let mut out = vec![0f32; both.len() / 2];
        let rows = (PIECE / width).max(1);
        if both.len() > 2 * rows * width {
            let pieces = out.par_chunks_mut(rows * width).zip(both.par_chunks(2 * rows * width));
            pieces.for_each(|(out, both)| gate(both, out, width));
        } else {
            gate(both, &mut out, width);
        }
        dims.push(width);
        Ok((CpuStorage::F32(out), Shape::from(dims)))
    }
}

/// Queries, keys and values `[n, all heads * dim]` head by head, `[all heads, n, dim]`: queries and keys rotated.
pub(super) fn turned(all: &Tensor, rope: &RopeRows, heads: Heads) -> Result<Tensor> {
    let (cos, sin) = rope.tables();
    all.apply_op3_no_bwd(cos, sin, &Turned(heads))
}

struct Turned(Heads);

#[inline(always)]
fn turn_row(x: &[f32], cos: &[f32], sin: &[f32], out: &mut [f32]) {
    let half = cos.len();
    let ((a, b), (left, right)) = (x.split_at(half), out.split_at_mut(half));
    for i in 0..half {
        left[i] = a[i] * cos[i] - b[i] * sin[i];
        right[i] = a[i] * sin[i] + b[i] * cos[i];
    }
}

impl CustomOp3 for Turned {
    fn name(&self) -> &'static str {
        "turned"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        cos: &CpuStorage,
        lc: &Layout,
        sin: &CpuStorage,
        ls: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let Heads { queries, keys, dim } = self.0;
        let (x, cos, sin) = (floats(x, lx)?, floats(cos, lc)?, floats(sin, ls)?);
        let (n, width) = lx.shape().dims2()?;
        let all = queries + 2 * keys;
        if width != all * dim || dim % 2 != 0 || cos.len() != n * dim / 2 || sin.len() != cos.len() || n == 0 {
            bail!("turned: {n} x {width} is not {all} heads of {dim} at {} angles", cos.len());
        }
        let mut out = vec![0f32; x.len()];
        for (head, out) in out.chunks_exact_mut(n * dim).enumerate() {
            let angles = cos.chunks_exact(dim / 2).zip(sin.chunks_exact(dim / 2));
            let rows = x.chunks_exact(width).map(|row| &row[head * dim..(head + 1) * dim]);
            for ((out, x), (cos, sin)) in out.chunks_exact_mut(dim).zip(rows).zip(angles) {
                if head < queries + keys { turn_row(x, cos, sin, out) } else { out.copy_from_slice(x) }
            }
        }
        Ok((CpuStorage::F32(out), Shape::from((all, n, dim))))
    }
}

/// Attention of queries `[heads, n, dim]` to keys and values `[key heads, seen, dim]`, whose heads may lie apart:
/// `[n, heads * dim]`. `mask [n, seen]` is added to the products times `scale`.
pub(super) fn attend(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>, scale: f32) -> Result<Tensor> {
    let mask = mask.map(Tensor::contiguous).transpose()?;
    q.apply_op3_no_bwd(k, v, &Attend { mask, scale })
}

struct Attend {
    mask: Option<Tensor>,
    scale: f32,
}

/// What a query head reads.
#[derive(Clone, Copy)]
struct Head<'a> {
    /// `[n, dim]`.
    queries: &'a [f32],
    /// `[seen, dim]` each.
    keys: &'a [f32],
    values: &'a [f32],
    /// `[n, seen]`.
    mask: Option<&'a [f32]>,
    scale: f32,
    dim: usize,
}

widest!(head = head_rows(head: Head<'_>, out: &mut [f32]));

#[inline(always)]
fn head_rows(head: Head<'_>, out: &mut [f32]) {
    let seen = head.keys.len() / head.dim;
    // What is beyond the last is hidden: it adds nothing, so that a row's sums are the same whatever comes behind it.
    let mut weights = vec![f32::NEG_INFINITY; seen.next_multiple_of(LANES)];
    for (i, (query, out)) in head.queries.chunks_exact(head.dim).zip(out.chunks_exact_mut(head.dim)).enumerate() {
        for (weight, key) in weights.iter_mut().zip(head.keys.chunks_exact(head.dim)) {
            *weight = dot(query, key) * head.scale;
        }
        if let Some(mask) = head.mask {
            weights.iter_mut().zip(&mask[i * seen..(i + 1) * seen]).for_each(|(w, m)| *w += m);
        }
        let sum = exponents(&mut weights);
        mix(&weights, head.values, head.dim, out);
        out.iter_mut().for_each(|o| *o /= sum);
        weights[seen..].fill(f32::NEG_INFINITY);
    }
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, tail_a), (b, tail_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            sums[i] += a[i] * b[i];
        }
    }
    tail_a.iter().zip(tail_b).fold(halves(sums), |sum, (a, b)| sum + a * b)
}

/// Sums pairs, then pairs of these.
#[inline(always)]
fn halves(mut lanes: [f32; LANES]) -> f32 {
    let mut n = LANES / 2;
    while n > 0 {
        for i in 0..n {
            lanes[i] += lanes[i + n];
        }
        n /= 2;
    }
    lanes[0]
}

/// Scores to powers of e, the largest of which is 1; returns their sum.
#[inline(always)]
fn exponents(scores: &mut [f32]) -> f32 {
    let chunks = scores.as_chunks_mut::<LANES>().0;
    let mut most = [f32::NEG_INFINITY; LANES];
    for chunk in chunks.iter() {
        for i in 0..LANES {
            // Written so that a NaN stays, and is seen in what comes out.
            most[i] = if chunk[i] <= most[i] { most[i] } else { chunk[i] };
        }
    }
    let most = most.iter().fold(f32::NEG_INFINITY, |a, b| if *b <= a { a } else { *b });
    let mut sums = [0f32; LANES];
    for chunk in chunks {
        for i in 0..LANES {
            chunk[i] = exp(chunk[i] - most);
            sums[i] += chunk[i];
        }
    }
    halves(sums)
}

/// The sum of values `[seen, dim]` times their weights.
#[inline(always)]
fn mix(weights: &[f32], values: &[f32], dim: usize, out: &mut [f32]) {
    const WIDE: usize = 64;
    let mut first = 0;
    while first + WIDE <= dim {
        let mut sums = [0f32; WIDE];
        for (w, value) in weights.iter().zip(values.chunks_exact(dim)) {
            let Some((value, _)) = value[first..].split_first_chunk::<WIDE>() else { continue };
            for i in 0..WIDE {
                sums[i] += w * value[i];
            }
        }
        out[first..first + WIDE].copy_from_slice(&sums);
        first += WIDE;
    }
    let out = &mut out[first..];
    out.fill(0.0);
    for (w, value) in weights.iter().zip(values.chunks_exact(dim)) {
        out.iter_mut().zip(&value[first..]).for_each(|(o, v)| *o += w * v);
    }
}

/// Heads of a buffer `[heads, seen, dim]` whose heads may lie apart.
fn apart<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<impl Fn(usize) -> &'a [f32] + use<'a>> {
    let (CpuStorage::F32(all), (_, seen, dim)) = (storage, layout.shape().dims3()?) else {
        bail!("attend: f32 on the processor expected");
    };
    let (start, stride) = (layout.start_offset(), layout.stride().to_vec());
    match stride.as_slice() {
        [heads, d, 1] if *d == dim => {
            let heads = *heads;
            Ok(move |head| {
                let first = start + head * heads;
                all.get(first..first + seen * dim).unwrap_or_default()
            })
        }
        _ => bail!("attend: rows that lie behind one another expected"),
    }
}

impl CustomOp3 for Attend {
    fn name(&self) -> &'static str {
        "attend"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        lq: &Layout,
        k: &CpuStorage,
        lk: &Layout,
        v: &CpuStorage,
        lv: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (queries, (heads, n, dim)) = (floats(q, lq)?, lq.shape().dims3()?);
        let (kv_heads, seen, _) = lk.shape().dims3()?;
        if lk.shape() != lv.shape() || kv_heads == 0 || heads % kv_heads != 0 || n * dim * seen == 0 {
            bail!("attend: {:?}, {:?} and {:?} do not fit together", lq.dims(), lk.dims(), lv.dims());
        }
        let (keys, values) = (apart(k, lk)?, apart(v, lv)?);
        let mask = self.mask.as_ref().map(Tensor::storage_and_layout);
        let mask = match &mask {
            Some((storage, layout)) => match &**storage {
                Storage::Cpu(mask) if layout.dims() == [n, seen] => Some(floats(mask, layout)?),
                _ => bail!("attend: a mask {:?}, expected [{n}, {seen}]", layout.dims()),
            },
            None => None,
        };
        let mut by_head = vec![0f32; queries.len()];
        let group = heads / kv_heads;
        let one = |(i, out): (usize, &mut [f32])| {
            let queries = &queries[i * n * dim..(i + 1) * n * dim];
            let (keys, values) = (keys(i / group), values(i / group));
            head(Head { queries, keys, values, mask, scale: self.scale, dim }, out);
        };
        if heads * n * seen * dim > MANY {
            by_head.par_chunks_mut(n * dim).enumerate().for_each(one);
        } else {
            by_head.chunks_mut(n * dim).enumerate().for_each(one);
        }
        let shape = Shape::from((n, heads * dim));
        if n == 1 {
            return Ok((CpuStorage::F32(by_head), shape));
        }
        let mut out = vec![0f32; by_head.len()];
        for (h, rows) in by_head.chunks_exact(n * dim).enumerate() {
            for (row, out) in rows.chunks_exact(dim).zip(out.chunks_exact_mut(heads * dim)) {
                out[h * dim..(h + 1) * dim].copy_from_slice(row);
            }
        }
        Ok((CpuStorage::F32(out), shape))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{D, DType, Device};

    fn random(shape: &[usize]) -> Tensor {
        Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
    }

    fn off(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    #[test]
    fn powers_of_e() {
        for i in -87_000..=88_000 {
            let x = i as f32 / 1000.0;
            let (found, expected) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((found - expected).abs() <= 3e-7 * expected, "{x}: {found}, {expected}");
        }
        assert_eq!((exp(f32::NEG_INFINITY), exp(-200.0), exp(0.0)), (0.0, 0.0, 1.0));
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn gates() {
        for shape in [[1, 1, 2], [1, 3, 34], [2, 40, 3072]] {
            let both = (random(&shape) * 3.0).unwrap();
            let width = shape[2] / 2;
            let half = |i: usize| both.narrow(2, i * width, width).unwrap();
            let expected = (half(0).silu().unwrap() * half(1)).unwrap();
            let size = expected.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            let off = off(&gated(&both).unwrap(), &expected);
            assert!(off < 1e-6 * size, "{shape:?}: {off} of {size}");
        }
        assert!(gated(&random(&[2, 1])).is_err());
    }

    #[test]
    fn attention_is_that_of_plain_operations_and_of_each_row_alone() {
        for (heads, kv, dim, seen) in [(4, 2, 16, 21), (9, 3, 64, 300), (2, 2, 20, 33), (3, 1, 128, 16)] {
            let n = 7;
            let q = random(&[heads, n, dim]);
            let buffer = |t: &Tensor| t.narrow(1, 3, seen).unwrap();
            let (k, v) = (random(&[kv, seen + 9, dim]), random(&[kv, seen + 9, dim]));
            let (k, v) = (buffer(&k), buffer(&v));
            let mask = super::super::attention::causal_mask(n, seen - n, None, &Device::Cpu).unwrap().unwrap();
            let found = attend(&q, &k, &v, Some(&mask), 0.3).unwrap();
            let each = |t: &Tensor| {
                let t = t.unsqueeze(1).unwrap().broadcast_as((kv, heads / kv, seen, dim)).unwrap();
                t.contiguous().unwrap().reshape((heads, seen, dim)).unwrap()
            };
            let scores = (q.matmul(&each(&k).t().unwrap()).unwrap() * 0.3).unwrap().broadcast_add(&mask).unwrap();
            let weights = candle_nn::ops::softmax(&scores, D::Minus1).unwrap();
            let expected = weights.matmul(&each(&v)).unwrap().transpose(0, 1).unwrap().contiguous().unwrap();
            let expected = expected.reshape((n, heads * dim)).unwrap();
            assert!(off(&found, &expected) < 2e-5, "{heads} {kv} {dim} {seen}: {}", off(&found, &expected));
            let found = found.to_vec2::<f32>().unwrap();
            for (i, found) in found.iter().enumerate() {
                let visible = seen - n + i + 1;
                let q = q.narrow(1, i, 1).unwrap().contiguous().unwrap();
                let (k, v) = (k.narrow(1, 0, visible).unwrap(), v.narrow(1, 0, visible).unwrap());
                let alone = attend(&q, &k, &v, None, 0.3).unwrap().to_vec2::<f32>().unwrap();
                assert_eq!(alone[0], *found, "row {i}");
            }
            assert!(attend(&q, &k, &v, Some(&mask.narrow(1, 1, 2).unwrap()), 0.3).is_err());
        }
        let nan = Tensor::full(f32::NAN, (1, 1, 4), &Device::Cpu).unwrap();
        let one = Tensor::ones((1, 3, 4), DType::F32, &Device::Cpu).unwrap();
        let found = attend(&nan, &one, &one, None, 1.0).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(found.iter().all(|x| x.is_nan()));
    }

    #[test]
    fn turning_is_that_of_candle() {
        let heads = Heads { queries: 4, keys: 2, dim: 10 };
        for n in [1, 5] {
            let all = random(&[n, 80]);
            let rope = RopeRows::of(random(&[n, 5]), random(&[n, 5]));
            let found = turned(&all, &rope, heads).unwrap();
            assert_eq!(found.dims(), [8, n, 10]);
            let x = all.reshape((1, n, 8, 10)).unwrap();
            let by_head = |x: &Tensor| x.squeeze(0).unwrap().transpose(0, 1).unwrap().contiguous().unwrap();
            let turned = by_head(&rope.apply(&x.narrow(2, 0, 6).unwrap().contiguous().unwrap()).unwrap());
            assert_eq!(off(&found.narrow(0, 0, 6).unwrap(), &turned), 0.0);
            assert_eq!(off(&found.narrow(0, 6, 2).unwrap(), &by_head(&x.narrow(2, 6, 2).unwrap())), 0.0);
        }
        let rope = RopeRows::of(random(&[2, 5]), random(&[2, 5]));
        assert!(turned(&random(&[2, 70]), &rope, heads).is_err() && turned(&random(&[3, 80]), &rope, heads).is_err());
    }
}
