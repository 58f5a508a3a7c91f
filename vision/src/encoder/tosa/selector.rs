//! Predicts the next attention map from the products of the last: two convolutions over heads, along the keys.

use crate::{encoder::TensorSpec, nn};
use candle_core::{CpuStorage, CustomOp1, D, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use candle_nn::{Init, VarBuilder};

/// A selector: as many hidden channels as heads.
#[derive(Clone, Debug)]
pub struct Selector {
    /// `[heads, heads, kernel]`, as a convolution's.
    first: (Tensor, Tensor),
    second: (Tensor, Tensor),
    kernel: usize,
}

impl Selector {
    /// `conv1.*` and `conv2.*` under `vb`, in f32 whatever the tower computes in: an order of many small sums.
    pub(super) fn new(heads: usize, kernel: usize, vb: VarBuilder) -> Result<Self> {
        let vb = vb.to_dtype(DType::F32);
        let conv = |name: &str| -> Result<(Tensor, Tensor)> {
            let init = Init::Randn { mean: 0.0, stdev: (1.0 / (heads * kernel) as f64).sqrt() };
            let weight = vb.pp(name).get_with_hints((heads, heads, kernel), "weight", init)?;
            Ok((weight, vb.pp(name).get_with_hints(heads, "bias", Init::Const(0.0))?))
        };
        Ok(Self { first: conv("conv1")?, second: conv("conv2")?, kernel })
    }

    /// What [`Self::new`] reads; `prefix` ends in a dot.
    pub(super) fn tensors(heads: usize, kernel: usize, prefix: &str) -> Vec<TensorSpec> {
        let conv = |name: &str| {
            [
                TensorSpec::new(prefix, &format!("{name}.weight"), &[heads, heads, kernel]),
                TensorSpec::new(prefix, &format!("{name}.bias"), &[heads]),
            ]
        };
        ["conv1", "conv2"].iter().flat_map(|name| conv(name)).collect()
    }

    /// Logarithms of the predicted map up to a constant a row: `[b, heads, n, n]` from products of the same shape.
    ///
    /// # Errors
    /// Those of the device.
    pub fn logits(&self, scores: &Tensor) -> Result<Tensor> {
        let hidden = self.convolve(&scores.to_dtype(DType::F32)?, &self.first)?.relu()?;
        self.convolve(&hidden, &self.second)
    }

    /// The predicted map; each row sums to 1.
    ///
    /// # Errors
    /// Those of the device.
    pub fn map(&self, scores: &Tensor) -> Result<Tensor> {
        nn::softmax(&self.logits(scores)?, 1.0, false)
    }

    /// Attention that each token receives under the predicted map, as a mean over heads: `[b, n]`. No map is ever written: each row
    /// is predicted, normalised and added up while it is in the cache, or in registers.
    ///
    /// # Errors
    /// Those of the device.
    pub fn column_sums(&self, scores: &Tensor) -> Result<Tensor> {
        let fits = scores.device().is_cpu() && scores.dtype() == DType::F32 && self.kernel == 1;
        #[cfg(feature = "cuda")]
        if self.kernel == 1 && super::card::fits(scores) {
            let sums = super::card::ColumnSums {
                convolutions: [&self.first.0, &self.first.1, &self.second.0, &self.second.1],
            };
            return scores.detach().contiguous()?.apply_op1_no_bwd(&sums);
        }
        if !fits {
            return super::Score::ColSum.of(&self.map(scores)?);
        }
        let numbers = |t: &Tensor| t.detach().flatten_all()?.to_vec1::<f32>();
        let one_sweep = OneSweep {
            first: (numbers(&self.first.0)?, numbers(&self.first.1)?),
            second: (numbers(&self.second.0)?, numbers(&self.second.1)?),
        };
        scores.detach().contiguous()?.apply_op1_no_bwd(&one_sweep)
    }

    /// One product: heads are channels, and neighbouring keys lie side by side as more of them.
    fn convolve(&self, x: &Tensor, (weight, bias): &(Tensor, Tensor)) -> Result<Tensor> {
        let (b, heads, n, m) = x.dims4()?;
        let pad = self.kernel / 2;
        let x = if pad == 0 {
            x.contiguous()?
        } else {
            let wide = x.pad_with_zeros(D::Minus1, pad, pad)?;
            let taps = (0..self.kernel).map(|t| wide.narrow(3, t, m)).collect::<Result<Vec<_>>>()?;
            Tensor::cat(&taps, 1)?.contiguous()?
        };
        let channels = heads * self.kernel;
        // Taps lie outside of heads above.
        let weight = weight.transpose(1, 2)?.contiguous()?.reshape((1, weight.dim(0)?, channels))?;
        let y = weight.broadcast_as((b, weight.dim(1)?, channels))?.contiguous()?.matmul(&x.reshape((
            b,
            channels,
            n * m,
        ))?)?;
        y.broadcast_add(&bias.reshape((1, (), 1))?)?.reshape((b, (), n, m))
    }
}

/// Weights `[heads, heads]` and biases of both convolutions.
struct OneSweep {
    first: (Vec<f32>, Vec<f32>),
    second: (Vec<f32>, Vec<f32>),
}

/// `out[c] = bias[c] + sum of weight[c, h] * rows[h]`, rows of `n` numbers.
fn mixed<'a>(out: &mut [f32], n: usize, (weight, bias): &(Vec<f32>, Vec<f32>), row: impl Fn(usize) -> &'a [f32]) {
    let heads = bias.len();
    for ((out, bias), weights) in out.chunks_exact_mut(n).zip(bias).zip(weight.chunks_exact(heads)) {
        out.fill(*bias);
        for (h, w) in weights.iter().enumerate() {
            out.iter_mut().zip(row(h)).for_each(|(o, x)| *o += w * x);
        }
    }
}

impl OneSweep {
    /// Adds the predicted map's rows of one query to `sums`.
    fn query(&self, scores: &[f32], n: usize, q: usize, (hidden, out): (&mut [f32], &mut [f32]), sums: &mut [f32]) {
        mixed(hidden, n, &self.first, |h| scores.get((h * n + q) * n..(h * n + q + 1) * n).unwrap_or_default());
        hidden.iter_mut().for_each(|v| *v = v.max(0.0));
        let hidden = &*hidden;
        mixed(out, n, &self.second, |h| hidden.get(h * n..(h + 1) * n).unwrap_or_default());
        for row in out.chunks_exact_mut(n) {
            let max = row.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
            row.iter_mut().for_each(|v| *v = nn::exp(*v - max));
            let share = 1.0 / row.iter().sum::<f32>();
            sums.iter_mut().zip(&*row).for_each(|(s, v)| *s += v * share);
        }
    }
}

impl CustomOp1 for OneSweep {
    fn name(&self) -> &'static str {
        "tosa-column-sums"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (CpuStorage::F32(data), [b, heads, n, _], Some((from, to))) =
            (storage, layout.dims(), layout.contiguous_offsets())
        else {
            bail!("tosa: contiguous f32 products [b, heads, n, n] expected");
        };
        let (b, heads, n) = (*b, *heads, *n);
        let size = heads * n * n;
        let data = data.get(from..to).unwrap_or_default();
        if n == 0 || heads != self.first.1.len() {
            bail!("tosa: products of {heads} heads, but the selector has {}", self.first.1.len());
        }
        // Queries are summed in fixed groups, so that the number of threads changes no bit.
        const GROUP: usize = 32;
        let groups: Vec<(usize, usize)> = (0..b).flat_map(|i| (0..n).step_by(GROUP).map(move |q| (i, q))).collect();
        let one = |(i, first): &(usize, usize)| {
            let picture = data.get(i * size..(i + 1) * size).unwrap_or_default();
            let (mut hidden, mut out, mut sums) = (vec![0f32; heads * n], vec![0f32; heads * n], vec![0f32; n]);
            for q in *first..(first + GROUP).min(n) {
                self.query(picture, n, q, (&mut hidden, &mut out), &mut sums);
            }
            sums
        };
        // A small map is done before another core is awake.
        let parts: Vec<Vec<f32>> =
            if b * size < nn::SHARED { groups.iter().map(one).collect() } else { groups.par_iter().map(one).collect() };
        let mut all = vec![0f32; b * n];
        for ((i, _), part) in groups.iter().zip(parts) {
            if let Some(sums) = all.get_mut(i * n..(i + 1) * n) {
                sums.iter_mut().zip(part).for_each(|(s, v)| *s += v / heads as f32);
            }
        }
        Ok((CpuStorage::F32(all), Shape::from((b, n))))
    }
}
