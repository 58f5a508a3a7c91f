//! The leaves of a decoder: linear maps, the norm, and rotary tables.

use super::{config::DecoderConfig, few::few_rows, rope::frequencies};
#[cfg(feature = "cuda")]
use crate::quantised::card::{CardWeight, Rows};
use crate::quantised::{Format, Matrix, Packed};
use candle_core::{CpuStorage, D, DType, Device, Result, Storage, Tensor};
use candle_nn::{Init, VarBuilder};
use spotter_vision::nn::pick_rows;

/// What the model is built for.
///
/// Fused kernels have no backward pass and drop gradients without a word, so training composes the same maths
/// from plain operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Fused kernels and joined projections.
    Infer,
    /// Differentiable operations only; weights are cast to the activations' type on the way.
    Train,
}

/// Standard deviation of new weights; projections back into the residual stream get less.
pub(crate) const INIT_STD: f64 = 0.02;

/// A weight `[out, in]`, or a table of rows.
#[derive(Clone, Debug)]
pub(crate) enum Weight {
    /// Numbers.
    Dense(Tensor),
    /// Packed as in a GGUF file; only for inference on the processor.
    Packed(Packed),
    /// The same on a card.
    #[cfg(feature = "cuda")]
    Card(CardWeight),
}

impl Weight {
    /// The tensor `weight` under `vb`: packed where the source has it so, else numbers.
    pub(crate) fn new(input: usize, output: usize, std: f64, vb: &VarBuilder) -> Result<Self> {
        if let Some(packed) = packed(input, &[("", output)], false, vb)? {
            return Ok(packed);
        }
        let init = Init::Randn { mean: 0.0, stdev: std };
        Ok(Self::Dense(vb.get_with_hints((output, input), "weight", init)?))
    }

    /// Type of what comes out.
    pub(crate) fn dtype(&self) -> DType {
        match self {
            Self::Dense(weight) => weight.dtype(),
            Self::Packed(_) => DType::F32,
            #[cfg(feature = "cuda")]
            Self::Card(weight) => weight.dtype(),
        }
    }

    /// Where it lies.
    pub(crate) fn device(&self) -> &Device {
        match self {
            Self::Dense(weight) => weight.device(),
            Self::Packed(_) => &Device::Cpu,
            #[cfg(feature = "cuda")]
            Self::Card(weight) => weight.device(),
        }
    }

    /// Whether it is packed, on the processor.
    pub(crate) fn is_packed(&self) -> bool {
        matches!(self, Self::Packed(_))
    }

    /// Rows `ids` (u32 `[n]`), `[n, in]`.
    pub(crate) fn lookup(&self, ids: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(weight) => weight.index_select(ids, 0),
            Self::Packed(weight) => weight.lookup(&ids.to_vec1::<u32>()?),
            #[cfg(feature = "cuda")]
            Self::Card(weight) => weight.lookup(&ids.to_vec1::<u32>()?),
        }
    }

    /// A weight of some of its rows.
    fn rows(&self, ids: &[u32]) -> Result<Self> {
        Ok(match self {
            Self::Dense(weight) => Self::Dense(weight.index_select(&Tensor::new(ids, weight.device())?, 0)?),
            Self::Packed(weight) => Self::Packed(weight.pick(ids)?),
            #[cfg(feature = "cuda")]
            Self::Card(weight) => Self::Dense(weight.lookup(ids)?),
        })
    }

    /// `x [rows, in]` to `[rows, out]`, plus a bias.
    fn forward(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let y = match self {
            Self::Dense(weight) => {
                let weight = cast(weight, x.dtype())?;
                #[cfg(feature = "cuda")]
                if let Some(y) = spotter_vision::nn::card::few_rows(x, &weight, bias)? {
                    return Ok(y);
                }
                match few_rows(x, &weight)? {
                    Some(y) => y,
                    None => x.matmul(&weight.t()?)?,
                }
            }
            Self::Packed(weight) => cast(&weight.forward(&cast(x, DType::F32)?)?, x.dtype())?,
            #[cfg(feature = "cuda")]
            Self::Card(weight) => cast(&weight.forward(&cast(x, weight.dtype())?)?, x.dtype())?,
        };
        match bias {
            Some(bias) => y.broadcast_add(&cast(bias, x.dtype())?),
            None => Ok(y),
        }
    }
}

/// `x` times a weight `[out, in]`, plus a bias.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    weight: Weight,
    output: usize,
    bias: Option<Tensor>,
}

impl Linear {
    pub(crate) fn new(input: usize, output: usize, bias: bool, std: f64, vb: VarBuilder) -> Result<Self> {
        let weight = Weight::new(input, output, std, &vb)?;
        let bias = if bias { Some(vb.get_with_hints(output, "bias", Init::Const(0.0))?) } else { None };
        Ok(Self { weight, output, bias })
    }

    /// Without a bias, of a weight of `output` rows.
    pub(crate) fn from_weight(weight: Weight, output: usize) -> Self {
        Self { weight, output, bias: None }
    }

    pub(crate) fn from_parts(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        Ok(Self { output: weight.dim(0)?, weight: Weight::Dense(weight), bias })
    }

    /// One map whose output is those of some parts side by side: fewer and larger products. `parts` have names and outputs.
    ///
    /// Files are read straight into the whole; other sources, which hold their tensors in memory anyway, are asked for the
    /// parts. Of two parts that are `gated`, the first gates the second, see [`Self::gated`].
    pub(crate) fn joined(
        input: usize,
        parts: &[(&str, usize)],
        bias: bool,
        gated: bool,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let names: Vec<&str> = parts.iter().map(|(name, _)| *name).collect();
        let output = parts.iter().map(|(_, output)| output).sum::<usize>();
        let whole = |kind: &str| crate::weights::side_by_side(&names, kind);
        if vb.contains_tensor(&whole("weight")) {
            let weight = Weight::Dense(vb.get((output, input), &whole("weight"))?);
            return Ok(Self { weight, output, bias: if bias { Some(vb.get(output, &whole("bias"))?) } else { None } });
        }
        let tensors = |kind: &str, shape: &dyn Fn(usize) -> Vec<usize>, init: Init| -> Result<Tensor> {
            let part = |(name, n): &(&str, usize)| vb.pp(name).get_with_hints(shape(*n), kind, init);
            Tensor::cat(&parts.iter().map(part).collect::<Result<Vec<_>>>()?, 0)
        };
        let weight = match packed(input, parts, gated, vb)? {
            Some(packed) => packed,
            None => {
                let init = Init::Randn { mean: 0.0, stdev: INIT_STD };
                Weight::Dense(tensors("weight", &|n| vec![n, input], init)?)
            }
        };
        let bias = if bias { Some(tensors("bias", &|n| vec![n], Init::Const(0.0))?) } else { None };
        Ok(Self { weight, output, bias })
    }

    /// Whether its weight is packed, on the processor.
    pub(crate) fn is_packed(&self) -> bool {
        self.weight.is_packed()
    }

    /// `silu(gate) * up` of `x [.., in]`, `[.., out / 2]`, where its weight makes that in one product.
    pub(crate) fn gated(&self, x: &Tensor) -> Result<Option<Tensor>> {
        match &self.weight {
            #[cfg(feature = "cuda")]
            Weight::Card(weight) if weight.is_gated() && self.bias.is_none() => {
                let mut dims = x.dims().to_vec();
                let input = dims.pop().unwrap_or(1);
                let inner = weight.gate(&x.reshape(((), input))?)?;
                dims.push(self.output / 2);
                inner.map(|inner| inner.reshape(dims)).transpose()
            }
            _ => {
                let _ = x;
                Ok(None)
            }
        }
    }

    /// Weight and bias; nothing where the weight is packed on the processor.
    #[cfg(feature = "cuda")]
    pub(crate) fn parts(&self) -> Option<(&Weight, Option<&Tensor>)> {
        (!self.is_packed()).then_some((&self.weight, self.bias.as_ref()))
    }

    /// The map to some of its outputs only.
    pub(crate) fn rows(&self, outputs: &[u32]) -> Result<Self> {
        let bias = |b: &Tensor| b.index_select(&Tensor::new(outputs, b.device())?, 0);
        let bias = self.bias.as_ref().map(bias).transpose()?;
        Ok(Self { weight: self.weight.rows(outputs)?, output: outputs.len(), bias })
    }

    /// The same, each output once, so that the weight's gradient comes back.
    pub(crate) fn picked(&self, outputs: &[u32]) -> Result<Self> {
        let Weight::Dense(weight) = &self.weight else { candle_core::bail!("packed weights do not learn") };
        let bias = self.bias.as_ref().map(|b| pick_rows(&b.unsqueeze(1)?, outputs)?.squeeze(1)).transpose()?;
        Ok(Self { weight: Weight::Dense(pick_rows(weight, outputs)?), output: outputs.len(), bias })
    }

    /// `x [.., in]` (contiguous) to `[.., out]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut dims = x.dims().to_vec();
        let input = dims.pop().unwrap_or(1);
        let rows: usize = dims.iter().product();
        let y = self.weight.forward(&x.reshape((rows, input))?, self.bias.as_ref())?;
        dims.push(self.output);
        y.reshape(dims)
    }
}

/// A weight of parts, by names and outputs, that lie packed in the source of `vb`; nothing where one does not.
fn packed(input: usize, parts: &[(&str, usize)], gated: bool, vb: &VarBuilder) -> Result<Option<Weight>> {
    let mut found = Vec::with_capacity(parts.len());
    for (name, output) in parts {
        let vb = if name.is_empty() { vb.clone() } else { vb.pp(name) };
        let there = |format: &Format| vb.contains_tensor(&format.tensor("weight"));
        let Some(format) = Format::ALL.into_iter().find(there) else { return Ok(None) };
        found.push((format, *output, vb.get_unchecked_dtype(&format.tensor("weight"), DType::U8)?));
    }
    let held: Vec<_> = found.iter().map(|(_, _, bytes)| bytes.storage_and_layout()).collect();
    let mut lying = Vec::with_capacity(parts.len());
    for ((format, output, _), (storage, layout)) in found.iter().zip(&held) {
        match (&**storage, layout.contiguous_offsets()) {
            (Storage::Cpu(CpuStorage::U8(bytes)), Some((from, to))) => {
                lying.push((*format, *output, bytes.get(from..to).unwrap_or_default()));
            }
            _ => candle_core::bail!("packed weights are read by the processor"),
        }
    }
    #[cfg(feature = "cuda")]
    if vb.device().is_cuda() {
        let rows: Vec<_> = lying.into_iter().map(|(format, rows, bytes)| Rows { format, rows, bytes }).collect();
        return Ok(CardWeight::new(&rows, input, gated, vb.dtype(), vb.device())?.map(Weight::Card));
    }
    let _ = gated;
    let matrices = lying.into_iter().map(|(format, output, bytes)| Matrix::pack(format, (output, input), bytes));
    Packed::new(matrices.collect::<Result<_>>()?).map(|packed| Some(Weight::Packed(packed)))
}

fn cast(tensor: &Tensor, dtype: DType) -> Result<Tensor> {
    if tensor.dtype() == dtype { Ok(tensor.clone()) } else { tensor.to_dtype(dtype) }
}

/// Root mean square norm.
#[derive(Clone, Debug)]
pub(crate) struct RmsNorm {
    weight: Tensor,
    eps: f64,
    mode: Mode,
}

impl RmsNorm {
    pub(crate) fn new(width: usize, eps: f64, mode: Mode, vb: VarBuilder) -> Result<Self> {
        Ok(Self { weight: vb.get_with_hints(width, "weight", Init::Const(1.0))?, eps, mode })
    }

    /// The gain.
    #[cfg(feature = "cuda")]
    pub(crate) fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// `x [.., width]`, contiguous.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self.mode {
            Mode::Infer => candle_nn::ops::rms_norm(x, &self.weight, self.eps as f32),
            Mode::Train if x.dtype() == DType::F32 => spotter_vision::nn::rms_norm(x, &self.weight, self.eps as f32),
            Mode::Train => {
                // The squares are summed in f32: half types lose them.
                let wide = cast(x, DType::F32)?;
                let mean = (wide.sqr()?.sum_keepdim(D::Minus1)? / x.dim(D::Minus1)? as f64)?;
                let scaled = wide.broadcast_div(&(mean + self.eps)?.sqrt()?)?;
                cast(&scaled.broadcast_mul(&cast(&self.weight, DType::F32)?)?, x.dtype())
            }
        }
    }
}

/// Cosines and sines of every position, `[max_positions, head_dim / 2]` each.
#[derive(Clone, Debug)]
pub(crate) struct Rope {
    cos: Tensor,
    sin: Tensor,
    mode: Mode,
}

impl Rope {
    pub(crate) fn new(cfg: &DecoderConfig, mode: Mode, dtype: DType, device: &Device) -> Result<Self> {
        let freqs = frequencies(cfg);
        let half = freqs.len();
        let angles = (0..cfg.max_positions).flat_map(|p| freqs.iter().map(move |f| p as f32 * f));
        let (sin, cos): (Vec<f32>, Vec<f32>) = angles.map(f32::sin_cos).unzip();
        let table = |v: Vec<f32>| {
            Tensor::from_vec(v, (cfg.max_positions, half), &Device::Cpu)?.to_dtype(dtype)?.to_device(device)
        };
        Ok(Self { cos: table(cos)?, sin: table(sin)?, mode })
    }

    /// The tables alone, in f32, for `positions` positions.
    pub(crate) fn table(cfg: &DecoderConfig, positions: usize, device: &Device) -> Result<Self> {
        Self::new(&DecoderConfig { max_positions: positions, ..cfg.clone() }, Mode::Infer, DType::F32, device)
    }

    /// Cosines and sines, `[positions, head_dim / 2]` each.
    pub(crate) fn tables(&self) -> (&Tensor, &Tensor) {
        (&self.cos, &self.sin)
    }

    /// The rows for any positions, in the type of the activations.
    pub(crate) fn rows_at(&self, positions: &[u32], dtype: DType) -> Result<RopeRows> {
        let start = positions.first().map_or(0, |p| *p as usize);
        if positions.iter().enumerate().all(|(i, p)| *p as usize == start + i) {
            return self.rows(start, positions.len(), dtype);
        }
        if let Some(past) = positions.iter().find(|p| **p as usize >= self.cos.dims()[0]) {
            candle_core::bail!("position {past} does not fit the model's {}", self.cos.dims()[0]);
        }
        let index = Tensor::new(positions, self.cos.device())?;
        Ok(RopeRows {
            cos: cast(&self.cos.index_select(&index, 0)?, dtype)?,
            sin: cast(&self.sin.index_select(&index, 0)?, dtype)?,
            mode: self.mode,
        })
    }

    /// The rows for positions `start .. start + n`, in the type of the activations.
    pub(crate) fn rows(&self, start: usize, n: usize, dtype: DType) -> Result<RopeRows> {
        let max = self.cos.dim(0)?;
        if start + n > max {
            candle_core::bail!(
                "positions {start} to {} do not fit the model's {max}: clear the cache or shorten the prompt",
                start + n
            );
        }
        Ok(RopeRows {
            cos: cast(&self.cos.narrow(0, start, n)?, dtype)?,
            sin: cast(&self.sin.narrow(0, start, n)?, dtype)?,
            mode: self.mode,
        })
    }
}

/// The rotation of a run of positions, `[n, head_dim / 2]` each.
pub(crate) struct RopeRows {
    cos: Tensor,
    sin: Tensor,
    mode: Mode,
}

impl RopeRows {
    /// Cosines and sines, `[n, head_dim / 2]` each.
    pub(crate) fn tables(&self) -> (&Tensor, &Tensor) {
        (&self.cos, &self.sin)
    }

    /// Of any angles.
    #[cfg(test)]
    pub(crate) fn of(cos: Tensor, sin: Tensor) -> Self {
        Self { cos, sin, mode: Mode::Infer }
    }

    /// Rotates `x [b, n, heads, head_dim]` (contiguous).
    pub(crate) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        if self.mode == Mode::Infer {
            return candle_nn::rotary_emb::rope_thd(x, &self.cos, &self.sin);
        }
        let half = x.dim(D::Minus1)? / 2;
        let (a, b) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
        let (cos, sin) = (self.cos.unsqueeze(1)?, self.sin.unsqueeze(1)?);
        let left = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let right = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        Tensor::cat(&[left, right], D::Minus1)
    }
}
