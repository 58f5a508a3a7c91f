//! CAOTE (arXiv 2504.14051): entries stay whose loss would change the attention output most.
//!
//! For weights `a` (sum 1), values `v` and output `o = sum a_j v_j`, dropping entry `j` and scaling the other weights
//! up to 1 moves the output by exactly `a_j / (1 - a_j) * |o - v_j|`. The fast form takes the plain mean of the values
//! for `o`. Several query heads share a key head: the root of the sum of squares is then exactly the change of their
//! outputs side by side.

use super::scorer::{Entries, Scorer, Watch, Weights, wide};
use candle_core::{D, DType, Result, Tensor};

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
        let changes = if self.fast {
            fast_changes(&weights, entries.values, entries.valid)?
        } else {
            changes(&weights, entries.values, entries.valid)?
        };
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
pub fn changes(weights: &Tensor, values: &Tensor, valid: Option<&Tensor>) -> Result<Tensor> {
    let values = centred(values, valid)?;
    let output = weights.matmul(&values)?;
    let general = (weights / (1.0 - weights)?.maximum(EDGE)?)?.mul(&distances(&values, &output)?)?;
    // Where one weight has more than half, 1 - a loses its digits: there the output without that entry is summed
    // directly, and the change is a * |o' - v|.
    let heavy = weights.gt(0.5)?;
    let others = heavy.where_cond(&weights.zeros_like()?, weights)?;
    let total = others.sum_keepdim(D::Minus1)?;
    let without = others.matmul(&values)?.broadcast_div(&total.maximum(f64::from(f32::MIN_POSITIVE))?)?;
    // Where the others vanish altogether, they count alike.
    let mean = values.mean_keepdim(1)?.broadcast_as(without.shape())?;
    let vanished = total.le(0.0)?.broadcast_as(without.shape())?;
    let without = vanished.where_cond(&mean, &without)?;
    let direct = (weights * distances(&values, &without)?)?;
    heavy.where_cond(&direct, &general)
}

/// The fast form: the distance is to the mean of the valid values.
///
/// # Errors
/// Of the device.
pub fn fast_changes(weights: &Tensor, values: &Tensor, valid: Option<&Tensor>) -> Result<Tensor> {
    let values = centred(values, valid)?;
    let (heads, n, _) = values.dims3()?;
    let mean = match valid {
        None => values.mean_keepdim(1)?,
        Some(valid) => {
            let count = valid.sum_keepdim(1)?.maximum(1.0)?.reshape((heads, 1, 1))?;
            values.broadcast_mul(&valid.unsqueeze(2)?)?.sum_keepdim(1)?.broadcast_div(&count)?
        }
    };
    let weights = weights.clamp(EDGE, 1.0 - EDGE)?;
    let factor = (&weights / (1.0 - &weights)?)?;
    factor.broadcast_mul(&distances(&values, &mean)?.reshape((heads, 1, n))?)
}

/// Values less the newest valid one: no score depends on a common shift, and equal values become exactly 0, so that
/// they tie. Slots that are not valid become 0.
fn centred(values: &Tensor, valid: Option<&Tensor>) -> Result<Tensor> {
    let values = wide(&values.contiguous()?)?;
    let (heads, n, dim) = values.dims3()?;
    let Some(valid) = valid else {
        return values.broadcast_sub(&values.narrow(1, n - 1, 1)?);
    };
    let slots = Tensor::arange(1f32, n as f32 + 1.0, values.device())?.unsqueeze(0)?;
    let newest = valid.broadcast_mul(&slots)?.argmax_keepdim(1)?.reshape((heads, 1, 1))?;
    let newest = values.gather(&newest.broadcast_as((heads, 1, dim))?.contiguous()?, 1)?;
    let mask = valid.ne(0.0)?.to_dtype(DType::U8)?.unsqueeze(2)?.broadcast_as(values.shape())?;
    let shifted = values.broadcast_sub(&newest)?;
    mask.where_cond(&shifted, &shifted.zeros_like()?)
}

/// `|from - v_j|` for values `[heads, n, dim]` and points `from [heads, group, dim]`: `[heads, group, n]`.
fn distances(values: &Tensor, from: &Tensor) -> Result<Tensor> {
    let off = values.unsqueeze(1)?.broadcast_sub(&from.unsqueeze(2)?)?;
    off.sqr()?.sum(D::Minus1)?.sqrt()
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
