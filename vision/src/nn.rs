//! The few layers that training would otherwise pay for dearly: normalisation and softmax in one pass, forward and
//! backward, on the CPU. On another device they are composed of operations whose backward pass is fast there: sums over
//! rows are products, and rows are picked without atomics. One path serves training and use: unlike candle's own fused
//! operations these never drop a gradient.

#[cfg(feature = "cuda")]
pub mod card;
mod pick;
mod repeated;

pub use pick::{pick_rows, put_rows};
pub use repeated::Repeated;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, D, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// Contiguous f32 data behind a tensor of the CPU.
fn f32s<'a>(storage: &'a CpuStorage, layout: &Layout, op: &str) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(data), Some((from, to))) => Ok(&data[from..to]),
        (CpuStorage::F32(_), None) => bail!("{op}: the tensor must be contiguous"),
        _ => bail!("{op}: f32 expected"),
    }
}

fn fused(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// Whether candle's own fused operation does as well: on a card, and in half types, where a composed one would round its
/// sums. It drops gradients, so none may have to pass.
fn ready_made(tensors: &[&Tensor]) -> bool {
    let half = |t: &Tensor| matches!(t.dtype(), DType::F16 | DType::BF16);
    tensors.iter().all(|t| !t.track_op() && (half(t) || !t.device().is_cpu()))
}

/// Numbers from which on rows are shared out among cores.
pub(crate) const SHARED: usize = 1 << 17;

/// Calls `f` with the number of each row of `x`, the row, and its place in `y`; rows of `d` numbers. Each row is worked on
/// by itself, so that the number of cores changes no bit.
fn rows(x: &[f32], y: &mut [f32], d: usize, f: impl Fn(usize, &[f32], &mut [f32]) + Sync) {
    let d = d.max(1);
    if y.len() < SHARED {
        return x.chunks_exact(d).zip(y.chunks_exact_mut(d)).enumerate().for_each(|(i, (x, y))| f(i, x, y));
    }
    let least = (SHARED / 4).div_ceil(d);
    let pairs = x.par_chunks_exact(d).zip(y.par_chunks_exact_mut(d)).with_min_len(least);
    pairs.enumerate().for_each(|(i, (x, y))| f(i, x, y));
}

/// Softmax over the last dimension. With `causal`, row `i` of the last two dimensions `[n, m]` sees columns
/// `0 ..= i + m - n` only. Scores are multiplied by `scale` first.
pub fn softmax(x: &Tensor, scale: f32, causal: bool) -> Result<Tensor> {
    if fused(x) {
        return x.contiguous()?.apply_op1(Softmax { scale, causal });
    }
    #[cfg(feature = "cuda")]
    if scale == 1.0 && !causal && x.device().is_cuda() && ready_made(&[x]) && card::half_name(x.dtype()).is_some() {
        return x.contiguous()?.apply_op1_no_bwd(&card::HalfSoftmax);
    }
    if ready_made(&[x]) && !causal {
        let x = if scale == 1.0 { x.contiguous()? } else { (x * f64::from(scale))? };
        return candle_nn::ops::softmax_last_dim(&x);
    }
    let x = (x * f64::from(scale))?;
    let x = if causal { x.broadcast_add(&causal_mask(&x)?)? } else { x };
    let max = x.max_keepdim(D::Minus1)?.detach();
    let e = x.broadcast_sub(&max)?.exp()?;
    e.broadcast_div(&e.sum_keepdim(D::Minus1)?)
}

/// `softmax(scale * q k^T) v` for `q: [.., n, w]`, `k` and `v: [.., m, w]`, all contiguous; `causal` as in [`softmax`].
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f32, causal: bool) -> Result<Tensor> {
    if fused(q) {
        return softmax(&q.matmul(&k.t()?)?, scale, causal)?.matmul(v);
    }
    // Every pass over n x m numbers counts: the scale goes to the queries, and the sums divide the mixture.
    let scores = (q * f64::from(scale))?.matmul(&k.t()?)?;
    let scores = if causal { scores.broadcast_add(&causal_mask(&scores)?)? } else { scores };
    let e = scores.broadcast_sub(&scores.detach().max_keepdim(D::Minus1)?)?.exp()?;
    e.matmul(v)?.broadcast_div(&e.sum_keepdim(D::Minus1)?)
}

fn causal_mask(x: &Tensor) -> Result<Tensor> {
    let (n, m) = (x.dim(D::Minus2)?, x.dim(D::Minus1)?);
    let mask: Vec<f32> =
        (0..n).flat_map(|i| (0..m).map(move |j| if j + n <= i + m { 0.0 } else { f32::NEG_INFINITY })).collect();
    Tensor::from_vec(mask, (n, m), x.device())?.to_dtype(x.dtype())
}

struct Softmax {
    scale: f32,
    causal: bool,
}

impl Softmax {
    fn width(&self, row: usize, n: usize, m: usize) -> usize {
        if self.causal { (row % n + m + 1).saturating_sub(n).clamp(1, m) } else { m }
    }
}

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = f32s(storage, layout, self.name())?;
        let dims = layout.dims();
        let (m, n) = (dims[dims.len() - 1], if dims.len() > 1 { dims[dims.len() - 2] } else { 1 });
        let mut y = vec![0f32; x.len()];
        rows(x, &mut y, m, |row, x, y| {
            let width = self.width(row, n, m);
            let (x, y) = (&x[..width], &mut y[..width]);
            let max = x.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
            for (y, x) in y.iter_mut().zip(x) {
                *y = exp((x - max) * self.scale);
            }
            let inverse = 1.0 / y.iter().sum::<f32>();
            y.iter_mut().for_each(|y| *y *= inverse);
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(y.apply_op2_no_bwd(&grad.contiguous()?, &SoftmaxBackward { scale: self.scale })?))
    }
}

/// `exp` for arguments up to 0, accurate to 2e-7 relative, and 0 below -87, what is masked among it; plain enough for the
/// compiler to vectorise.
#[inline]
pub fn exp(x: f32) -> f32 {
    let scale = if x < -87.0 { 0.0 } else { 1.0 };
    let x = x.max(-87.0) * std::f32::consts::LOG2_E;
    let whole = (x + 12_582_912.0) - 12_582_912.0;
    let f = (x - whole) * std::f32::consts::LN_2;
    let p = 1.0
        + f * (1.0 + f * (0.5 + f * (1.666_666_6e-1 + f * (4.166_666_6e-2 + f * (8.333_333e-3 + f * 1.388_889e-3)))));
    scale * p * f32::from_bits(((whole as i32 + 127) << 23) as u32)
}

struct SoftmaxBackward {
    scale: f32,
}

impl CustomOp2 for SoftmaxBackward {
    fn name(&self) -> &'static str {
        "softmax-backward"
    }

    fn cpu_fwd(&self, y: &CpuStorage, ly: &Layout, g: &CpuStorage, lg: &Layout) -> Result<(CpuStorage, Shape)> {
        let (y, g) = (f32s(y, ly, self.name())?, f32s(g, lg, self.name())?);
        let m = ly.dims()[ly.dims().len() - 1];
        let mut dx = vec![0f32; y.len()];
        for ((y, g), dx) in y.chunks_exact(m).zip(g.chunks_exact(m)).zip(dx.chunks_exact_mut(m)) {
            let dot: f32 = y.iter().zip(g).map(|(y, g)| y * g).sum();
            for ((dx, y), g) in dx.iter_mut().zip(y).zip(g) {
                *dx = y * (g - dot) * self.scale;
            }
        }
        Ok((CpuStorage::F32(dx), ly.shape().clone()))
    }
}

/// Layer normalisation of the last dimension of `x: [.., d]` with `weight` and `bias: [d]`.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
    if ready_made(&[x, weight, bias]) {
        return candle_nn::ops::layer_norm(&x.contiguous()?, weight, bias, eps);
    }
    let normal = if fused(x) {
        x.contiguous()?.apply_op1(Normalise { centre: true, eps })?
    } else {
        let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        x.broadcast_div(&(x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(eps))?.sqrt()?)?
    };
    affine(&normal, weight, Some(bias))
}

/// Root-mean-square normalisation of the last dimension of `x: [.., d]` with `weight: [d]`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    let normal = if fused(x) {
        x.contiguous()?.apply_op1(Normalise { centre: false, eps })?
    } else {
        x.broadcast_div(&(x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(eps))?.sqrt()?)?
    };
    affine(&normal, weight, None)
}

fn affine(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    match bias {
        Some(bias) if fused(x) => x.apply_op3(weight, bias, Affine),
        None if fused(x) => x.apply_op3(weight, &weight.zeros_like()?, Affine),
        bias => {
            let y = if weight.is_variable() { (x * rows_like(x, weight)?)? } else { x.broadcast_mul(weight)? };
            match bias {
                Some(bias) => add_bias(&y, bias),
                None => Ok(y),
            }
        }
    }
}

/// `x + bias` where no fused operation does it.
fn add_bias(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    if bias.is_variable() { x + rows_like(x, bias)? } else { x.broadcast_add(bias) }
}

/// `row: [d]` repeated to the shape of `x: [.., d]`. It is a product, so that its backward pass, a sum over all rows,
/// is one too: broadcasting sums each column in one block on a card.
fn rows_like(x: &Tensor, row: &Tensor) -> Result<Tensor> {
    let d = row.elem_count();
    let ones = Tensor::ones((x.elem_count() / d.max(1), 1), x.dtype(), x.device())?;
    ones.matmul(&row.reshape((1, d))?)?.reshape(x.shape())
}

/// A linear layer for `x: [.., in]` with `weight: [out, in]` and `bias: [out]`; one product over all leading dimensions.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let dims = x.dims();
    let (width, out) = (dims[dims.len() - 1], weight.dim(0)?);
    let y = x.reshape(((), width))?.matmul(&weight.t()?)?;
    let y = match bias {
        Some(bias) if fused(&y) => y.apply_op2(bias, AddBias)?,
        Some(bias) => add_bias(&y, bias)?,
        None => y,
    };
    let mut shape = dims.to_vec();
    shape[dims.len() - 1] = out;
    y.reshape(shape)
}

/// A weight `[out, in]` laid out as a product on the processor reads it: a copy whose transpose is contiguous. The product
/// packs any other layout anew each time, on one core, which a few tokens feel most. Variables stay what they are.
///
/// # Errors
/// Those of the device.
pub fn laid_out(weight: Tensor) -> Result<Tensor> {
    if weight.track_op() || !weight.device().is_cpu() {
        return Ok(weight);
    }
    weight.t()?.contiguous()?.t()
}

/// Mean binary cross-entropy of logits against truths of 0 or 1 of the same shape.
pub fn binary_cross_entropy(logits: &Tensor, truth: &Tensor) -> Result<Tensor> {
    // max(x, 0) - x y + ln(1 + exp(-|x|))
    let soft = (logits.abs()?.neg()?.exp()? + 1.0)?.log()?;
    ((logits.relu()? - (logits * truth)?)? + soft)?.mean_all()
}

struct Normalise {
    centre: bool,
    eps: f32,
}

/// Mean (0 where none is taken) and inverse deviation of a row.
fn moments(row: &[f32], centre: bool, eps: f32) -> (f32, f32) {
    let d = row.len() as f32;
    let mean = if centre { row.iter().sum::<f32>() / d } else { 0.0 };
    let var = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / d;
    (mean, 1.0 / (var + eps).sqrt())
}

impl CustomOp1 for Normalise {
    fn name(&self) -> &'static str {
        "normalise"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = f32s(storage, layout, self.name())?;
        let d = layout.dims()[layout.dims().len() - 1];
        let mut y = vec![0f32; x.len()];
        rows(x, &mut y, d, |_, x, y| {
            let (mean, inverse) = moments(x, self.centre, self.eps);
            y.iter_mut().zip(x).for_each(|(y, x)| *y = (x - mean) * inverse);
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let op = NormaliseBackward { centre: self.centre, eps: self.eps };
        Ok(Some(x.contiguous()?.apply_op3_no_bwd(y, &grad.contiguous()?, &op)?))
    }
}

struct NormaliseBackward {
    centre: bool,
    eps: f32,
}

impl CustomOp3 for NormaliseBackward {
    fn name(&self) -> &'static str {
        "normalise-backward"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        y: &CpuStorage,
        ly: &Layout,
        g: &CpuStorage,
        lg: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, y, g) = (f32s(x, lx, self.name())?, f32s(y, ly, self.name())?, f32s(g, lg, self.name())?);
        let d = lx.dims()[lx.dims().len() - 1];
        let mut dx = vec![0f32; x.len()];
        for (((x, y), g), dx) in
            x.chunks_exact(d).zip(y.chunks_exact(d)).zip(g.chunks_exact(d)).zip(dx.chunks_exact_mut(d))
        {
            let (_, inverse) = moments(x, self.centre, self.eps);
            let mean_g = if self.centre { g.iter().sum::<f32>() / d as f32 } else { 0.0 };
            let mean_gy = g.iter().zip(y).map(|(g, y)| g * y).sum::<f32>() / d as f32;
            for ((dx, g), y) in dx.iter_mut().zip(g).zip(y) {
                *dx = (g - mean_g - y * mean_gy) * inverse;
            }
        }
        Ok((CpuStorage::F32(dx), lx.shape().clone()))
    }
}

/// `x * weight + bias` along the last dimension.
struct Affine;

impl CustomOp3 for Affine {
    fn name(&self) -> &'static str {
        "affine"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w, b) = (f32s(x, lx, self.name())?, f32s(w, lw, self.name())?, f32s(b, lb, self.name())?);
        if w.len() != b.len() || w.is_empty() || x.len() % w.len() != 0 {
            bail!("affine: {:?} with {} weights", lx.shape(), w.len());
        }
        let mut y = vec![0f32; x.len()];
        rows(x, &mut y, w.len(), |_, x, y| {
            y.iter_mut().zip(x).zip(w).zip(b).for_each(|(((y, x), w), b)| *y = x * w + b);
        });
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let dx = grad.broadcast_mul(w)?;
        let d = w.elem_count();
        let dw = column_sum(&(x * &grad)?.reshape(((), d))?)?;
        let db = column_sum(&grad.reshape(((), d))?)?;
        Ok((Some(dx), Some(dw), Some(db)))
    }
}

/// Column sums of `[n, d]` as one pass.
fn column_sum(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1_no_bwd(&ColumnSum)
}

struct ColumnSum;

impl CustomOp1 for ColumnSum {
    fn name(&self) -> &'static str {
        "column-sum"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = f32s(storage, layout, self.name())?;
        let d = layout.dims()[layout.dims().len() - 1];
        let mut sum = vec![0f32; d];
        for row in x.chunks_exact(d) {
            sum.iter_mut().zip(row).for_each(|(s, v)| *s += v);
        }
        Ok((CpuStorage::F32(sum), Shape::from(d)))
    }
}

struct AddBias;

impl CustomOp2 for AddBias {
    fn name(&self) -> &'static str {
        "add-bias"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, b: &CpuStorage, lb: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, b) = (f32s(x, lx, self.name())?, f32s(b, lb, self.name())?);
        let mut y = vec![0f32; x.len()];
        rows(x, &mut y, b.len(), |_, x, y| y.iter_mut().zip(x).zip(b).for_each(|((y, x), b)| *y = x + b));
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, b: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let db = column_sum(&grad.reshape(((), b.elem_count()))?)?;
        Ok((Some(grad.clone()), Some(db)))
    }
}

#[cfg(test)]
mod tests;
