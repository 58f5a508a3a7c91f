//! CAOTE (arXiv 2504.14051): entries stay whose loss would change the attention output most.
//!
//! For weights `a` (sum 1), values `v` and output `o = sum a_j v_j`, dropping entry `j` and scaling the other weights
//! up to 1 moves the output by exactly `a_j / (1 - a_j) * |o - v_j|`. The fast form takes the plain mean of the values
//! for `o`. Several query heads share a key head: the root of the sum of squares is then exactly the change of their
//! outputs side by side.

use super::scorer::{Entries, Scorer, Watch, Weights, wide};
use candle_core::{CpuStorage, CustomOp2, D, Layout, Result, Shape, Tensor, bail};

/// The fast form keeps weights this far from 0 and 1: at 1 its factor has no bound.
const EDGE: f64 = 1e-6;

/// CAOTE around a base score.
#[derive(Debug)]
pub struct Caote {
    pub(crate) base: Box<dyn Weights>,
    pub(crate) fast: bool,
}

impl Scorer for Caote {
    fn watch(&self) -> Watch {
        self.base.watch()
    }

    fn scores(&self, entries: &Entries) -> Result<Tensor> {
        let weights = self.base.weights(entries)?;
        let changes =
            if self.fast { fast_changes(&weights, entries.values)? } else { changes(&weights, entries.values)? };
        stacked(&changes)
    }
}

/// Scores `[heads, group, n]` to `[heads, n]`: the root of the sum of squares over the group.
///
/// # Errors
/// Of the device.
pub fn stacked(changes: &Tensor) -> Result<Tensor> {
    if changes.dim(1)? == 1 { changes.squeeze(1) } else { changes.sqr()?.sum(1)?.sqrt() }
}

/// How far the output moves when an entry is dropped: `[heads, group, n]` for weights `[heads, group, n]` that sum to 1
/// and values `[heads, n, dim]`. Finite even where one weight is all but 1.
///
/// # Errors
/// Of the device.
pub fn changes(weights: &Tensor, values: &Tensor) -> Result<Tensor> {
    let values = centred(values)?;
    let output = weights.matmul(&values)?;
    let general = (weights / (1.0 - weights)?.maximum(EDGE)?)?.mul(&distances(&values, &output)?)?;
    // Where one weight has more than half, 1 - a loses its digits: there the output without that entry is summed
    // directly, and the change is a * |o' - v|.
    let heavy = weights.gt(0.5)?;
    let others = heavy.where_cond(&weights.zeros_like()?, weights)?;
    let total = others.sum_keepdim(D::Minus1)?;
    let without = others.matmul(&values)?.broadcast_div(&total.maximum(f64::from(f32::MIN_POSITIVE))?)?;
    // Where the others vanish altogether, they count alike.
    let mean = mean(&values)?.broadcast_as(without.shape())?;
    let vanished = total.le(0.0)?.broadcast_as(without.shape())?;
    let without = vanished.where_cond(&mean, &without)?;
    let direct = (weights * distances(&values, &without)?)?;
    heavy.where_cond(&direct, &general)
}

/// The fast form: the distance is to the mean of the values.
///
/// # Errors
/// Of the device.
pub fn fast_changes(weights: &Tensor, values: &Tensor) -> Result<Tensor> {
    let values = centred(values)?;
    let (heads, n, _) = values.dims3()?;
    let mean = mean(&values)?;
    let weights = weights.clamp(EDGE, 1.0 - EDGE)?;
    let factor = (&weights / (1.0 - &weights)?)?;
    factor.broadcast_mul(&distances(&values, &mean)?.reshape((heads, 1, n))?)
}

/// Values less the newest one: no score depends on a common shift, and equal values become exactly 0, so that they tie.
fn centred(values: &Tensor) -> Result<Tensor> {
    let values = wide(&values.contiguous()?)?;
    let newest = values.narrow(1, values.dim(1)? - 1, 1)?.contiguous()?;
    if values.device().is_cpu() {
        return values.apply_op2_no_bwd(&newest, &LessRow);
    }
    values.broadcast_sub(&newest)
}

/// The plain mean of values `[heads, n, dim]` over their entries: `[heads, 1, dim]`, as a product.
fn mean(values: &Tensor) -> Result<Tensor> {
    let (heads, n, _) = values.dims3()?;
    Tensor::full(1.0 / n as f32, (heads, 1, n), values.device())?.matmul(values)
}

/// `|from - v_j|` for values `[heads, n, dim]` and points `from [heads, group, dim]`: `[heads, group, n]`.
fn distances(values: &Tensor, from: &Tensor) -> Result<Tensor> {
    if values.device().is_cpu() {
        return values.contiguous()?.apply_op2_no_bwd(&from.contiguous()?, &Distances);
    }
    composed_distances(values, from)
}

/// The same of plain operations, for other devices.
fn composed_distances(values: &Tensor, from: &Tensor) -> Result<Tensor> {
    let off = values.unsqueeze(1)?.broadcast_sub(&from.unsqueeze(2)?)?;
    off.sqr()?.sum(D::Minus1)?.sqrt()
}

/// Rows of `[heads, n, dim]` and of `[heads, m, dim]`, both contiguous f32, with the dimensions `(n, m, dim)`.
type Rows<'a> = (&'a [f32], &'a [f32], (usize, usize, usize));

fn rows<'a>(a: &'a CpuStorage, la: &Layout, b: &'a CpuStorage, lb: &Layout) -> Result<Rows<'a>> {
    let (CpuStorage::F32(a), CpuStorage::F32(b)) = (a, b) else { bail!("caote: f32 expected") };
    let (Some(at), Some(bt)) = (la.contiguous_offsets(), lb.contiguous_offsets()) else {
        bail!("caote: contiguous tensors expected");
    };
    match (la.dims(), lb.dims(), a.get(at.0..at.1), b.get(bt.0..bt.1)) {
        ([h, n, d], [k, m, e], Some(a), Some(b)) if h == k && d == e && *d > 0 => Ok((a, b, (*n, *m, *d))),
        _ => bail!("caote: {:?} and {:?} do not fit together", la.dims(), lb.dims()),
    }
}

/// `values [heads, n, dim]` less one row for each head, `[heads, 1, dim]`, in one sweep.
struct LessRow;

impl CustomOp2 for LessRow {
    fn name(&self) -> &'static str {
        "caote-centre"
    }

    fn cpu_fwd(&self, v: &CpuStorage, lv: &Layout, r: &CpuStorage, lr: &Layout) -> Result<(CpuStorage, Shape)> {
        let (values, newest, (n, _, dim)) = rows(v, lv, r, lr)?;
        let mut out = values.to_vec();
        for (head, newest) in out.chunks_exact_mut((n * dim).max(1)).zip(newest.chunks_exact(dim)) {
            for row in head.chunks_exact_mut(dim) {
                row.iter_mut().zip(newest).for_each(|(v, r)| *v -= r);
            }
        }
        Ok((CpuStorage::F32(out), lv.shape().clone()))
    }
}

/// See [`distances`]; one sweep over the values for each point.
struct Distances;

impl CustomOp2 for Distances {
    fn name(&self) -> &'static str {
        "caote-distances"
    }

    fn cpu_fwd(&self, v: &CpuStorage, lv: &Layout, p: &CpuStorage, lp: &Layout) -> Result<(CpuStorage, Shape)> {
        let (values, points, (n, group, dim)) = rows(v, lv, p, lp)?;
        let mut out = Vec::with_capacity(points.len() / dim * n);
        for (head, points) in values.chunks_exact((n * dim).max(1)).zip(points.chunks_exact(group * dim)) {
            for point in points.chunks_exact(dim) {
                out.extend(head.chunks_exact(dim).map(|v| distance(v, point)));
            }
        }
        Ok((CpuStorage::F32(out), Shape::from((lv.dims().first().copied().unwrap_or(0), group, n))))
    }
}

/// Lanes of a sum, so that it is vectorised.
const LANES: usize = 16;

fn distance(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (mut left, mut right) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    for (a, b) in left.by_ref().zip(right.by_ref()) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += (a - b) * (a - b);
        }
    }
    let rest: f32 = left.remainder().iter().zip(right.remainder()).map(|(a, b)| (a - b) * (a - b)).sum();
    (lanes.iter().sum::<f32>() + rest).sqrt()
}

/// How far the output moves when all entries of `dropped` leave at once, for one head: weights `[n]` that sum to 1 and
/// values `[n][dim]`. Greedy eviction by single scores only approximates the best such set.
pub fn joint_change(weights: &[f64], values: &[Vec<f64>], dropped: &[usize]) -> f64 {
    let dim = values.first().map_or(0, Vec::len);
    let mut output = vec![0.0; dim];
    for (a, v) in weights.iter().zip(values) {
        output.iter_mut().zip(v).for_each(|(o, v)| *o += a * v);
    }
    let (mut sum, mut mass) = (vec![0.0; dim], 0.0);
    for j in dropped {
        let (Some(a), Some(v)) = (weights.get(*j), values.get(*j)) else { continue };
        mass += a;
        sum.iter_mut().zip(v).zip(&output).for_each(|((s, v), o)| *s += a * (o - v));
    }
    sum.iter().map(|s| s * s).sum::<f64>().sqrt() / (1.0 - mass)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn one_sweep_equals_plain_operations() {
        for (heads, n, group, dim) in [(1, 5, 1, 8), (3, 33, 2, 32), (2, 17, 4, 100)] {
            let random = |rows| Tensor::randn(0.3f32, 1.0, (heads, rows, dim), &Device::Cpu).unwrap();
            let (values, points) = (random(n), random(group));
            let apart = |a: Tensor, b: Tensor| {
                (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap()
            };
            let found = distances(&values, &points).unwrap();
            assert_eq!(found.dims(), [heads, group, n]);
            assert!(apart(found, composed_distances(&values, &points).unwrap()) < 1e-5);
            let plainly = values.broadcast_sub(&values.narrow(1, n - 1, 1).unwrap()).unwrap();
            assert_eq!(apart(centred(&values).unwrap(), plainly), 0.0);
            assert!(apart(mean(&values).unwrap(), values.mean_keepdim(1).unwrap()) < 1e-6);
        }
    }
}
