//! What lies between the products of a layer, in one sweep each, for a few positions on the processor.
//!
//! A step of a small model is hundreds of small operations, and most of their time is spent on beginning and ending them.
//! Everything here is computed row by row in one order, whatever the number of rows and the processor: products and sums are
//! rounded one by one, and wider instructions change no bit.

use super::{few::floats, layers::RopeRows};
use candle_core::{CpuStorage, CustomOp1, CustomOp3, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

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

/// e to the power of x, within 2e-7 of it. Nothing below -87, where half of all it serves is hidden by minus infinity.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
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

pub(super) use widest;

/// `silu(gate) * up` for rows of gates and ups side by side, `[.., 2 * width]`: `[.., width]`. `None` where plain operations
/// serve better: another type or device, tensors that learn.
pub(super) fn gated(both: &Tensor, width: usize) -> Result<Option<Tensor>> {
    let plain = both.device().is_cpu() && both.dtype() == DType::F32 && both.is_contiguous() && !both.track_op();
    if !plain || width == 0 {
        return Ok(None);
    }
    both.apply_op1_no_bwd(&Gated { width }).map(Some)
}

struct Gated {
    width: usize,
}

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
        let (both, width) = (floats(both, layout)?, self.width);
        let mut dims = layout.dims().to_vec();
        if dims.pop() != Some(2 * width) {
            bail!("gated: {:?} does not hold {width} gates and as many ups", layout.dims());
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use candle_core::{Device, Var};

    pub(crate) fn random(shape: &[usize]) -> Tensor {
        Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
    }

    pub(crate) fn off(a: &Tensor, b: &Tensor) -> f32 {
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
            let found = gated(&both, width).unwrap().unwrap();
            let off = off(&found, &expected);
            assert!(off < 1e-6 * size, "{shape:?}: {off} of {size}");
            // A row by itself has the same numbers.
            let last = |x: &Tensor| x.narrow(1, shape[1] - 1, 1).unwrap().contiguous().unwrap();
            let alone = gated(&last(&both), width).unwrap().unwrap().to_vec3::<f32>().unwrap();
            assert_eq!(alone[0], last(&found).to_vec3::<f32>().unwrap()[0]);
        }
        assert!(gated(&random(&[2, 1]), 1).is_err());
        assert!(gated(Var::from_tensor(&random(&[2, 2])).unwrap().as_tensor(), 1).unwrap().is_none());
        assert!(gated(&random(&[2, 2]).to_dtype(DType::F64).unwrap(), 1).unwrap().is_none());
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
