//! Softmax over the scores of a few queries, with the mask of a pass, in one go.
//!
//! A mask that is added first goes over all scores by strides, which for nine tokens behind a few hundred costs as much as
//! the products. What is masked has weight 0 exactly, so that a column which is not seen changes nothing.

use super::floats;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use spotter_vision::nn::exp;

/// Numbers that are compared and summed side by side.
const LANES: usize = 16;
/// Numbers from which on rows are shared out among cores.
const SHARED: usize = 1 << 17;

/// `scores [.., queries, seen]`, to which `mask [n, seen]` is added: query `i` has row `i % n` of it; weights of the same
/// shape, each row of sum 1. `None` where plain operations serve better: another type or device, tensors that learn.
pub(in super::super) fn softened(scores: &Tensor, mask: Option<&Tensor>) -> Result<Option<Tensor>> {
    let plain = |t: &Tensor| t.device().is_cpu() && t.dtype() == DType::F32 && t.is_contiguous() && !t.track_op();
    match mask {
        _ if !plain(scores) => Ok(None),
        None => scores.apply_op1_no_bwd(&Softened).map(Some),
        Some(mask) if plain(mask) => scores.apply_op2_no_bwd(mask, &Softened).map(Some),
        Some(_) => Ok(None),
    }
}

struct Softened;

fn soften_all(scores: &[f32], mask: Option<&[f32]>, seen: usize) -> Vec<f32> {
    let mut weights = scores.to_vec();
    let rows = mask.map_or(1, |mask| mask.len() / seen.max(1)).max(1);
    let one = |(i, row): (usize, &mut [f32])| {
        let mask = mask.and_then(|mask| mask.get(i % rows * seen..(i % rows + 1) * seen));
        if let Some(mask) = mask {
            row.iter_mut().zip(mask).for_each(|(score, mask)| *score += mask);
        }
        soften(row);
    };
    if weights.len() < SHARED {
        weights.chunks_exact_mut(seen.max(1)).enumerate().for_each(one);
    } else {
        weights
            .par_chunks_exact_mut(seen.max(1))
            .with_min_len((SHARED / 4).div_ceil(seen.max(1)))
            .enumerate()
            .for_each(one);
    }
    weights
}

/// Scores to weights.
fn soften(row: &mut [f32]) {
    let mut most = [f32::NEG_INFINITY; LANES];
    for part in row.chunks(LANES) {
        for (most, x) in most.iter_mut().zip(part) {
            *most = if *x > *most { *x } else { *most };
        }
    }
    let most = most.iter().fold(f32::NEG_INFINITY, |a, b| if *b > a { *b } else { a });
    let mut sums = [0f32; LANES];
    let (whole, rest) = row.as_chunks_mut::<LANES>();
    for part in whole {
        for (x, sum) in part.iter_mut().zip(&mut sums) {
            *x = exp(*x - most);
            *sum += *x;
        }
    }
    for (x, sum) in rest.iter_mut().zip(&mut sums) {
        *x = exp(*x - most);
        *sum += *x;
    }
    let inverse = 1.0 / sums.iter().sum::<f32>();
    row.iter_mut().for_each(|x| *x *= inverse);
}

impl CustomOp1 for Softened {
    fn name(&self) -> &'static str {
        "softened"
    }

    fn cpu_fwd(&self, scores: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let seen = layout.dims().last().copied().unwrap_or(1);
        Ok((CpuStorage::F32(soften_all(floats(scores, layout)?, None, seen)), layout.shape().clone()))
    }
}

impl CustomOp2 for Softened {
    fn name(&self) -> &'static str {
        "softened"
    }

    fn cpu_fwd(&self, scores: &CpuStorage, ls: &Layout, mask: &CpuStorage, lm: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, seen) = lm.shape().dims2()?;
        if ls.dims().last() != Some(&seen) {
            bail!("softened: a mask {:?} for scores {:?}", lm.shape(), ls.shape());
        }
        let weights = soften_all(floats(scores, ls)?, Some(floats(mask, lm)?), seen);
        Ok((CpuStorage::F32(weights), ls.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn scores(queries: usize, seen: usize) -> Tensor {
        let numbers = (0..2 * queries * seen).map(|i| (i as f32 * 0.73).sin() * if i % 11 == 0 { 90.0 } else { 3.0 });
        Tensor::from_iter(numbers, &Device::Cpu).unwrap().reshape((2, queries, seen)).unwrap()
    }

    #[test]
    fn weights_are_those_of_plain_operations() {
        for (queries, n, seen) in [(6, 3, 40), (4, 4, 7), (3, 1, 16), (2, 2, 1)] {
            let scores = scores(queries, seen);
            let hidden = (0..n * seen).map(|i| if i % seen > 0 && (i * 7) % 3 == 0 { f32::NEG_INFINITY } else { 0.0 });
            let mask = Tensor::from_iter(hidden, &Device::Cpu).unwrap().reshape((n, seen)).unwrap();
            for mask in [None, Some(&mask)] {
                let masked = match mask {
                    Some(mask) => {
                        let apart = scores.reshape((2, queries / n, n, seen)).unwrap();
                        apart.broadcast_add(mask).unwrap().reshape((2, queries, seen)).unwrap()
                    }
                    None => scores.clone(),
                };
                let expected = candle_nn::ops::softmax_last_dim(&masked).unwrap();
                let found = softened(&scores, mask).unwrap().unwrap();
                let off = (&found - &expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(off < 1e-6, "{queries} x {seen}: {off}");
                let all = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                assert!(all(&masked).iter().zip(all(&found)).all(|(x, w)| *x > f32::NEG_INFINITY || w == 0.0));
            }
        }
    }

    /// Columns behind the last that a query sees change no bit.
    #[test]
    fn what_is_masked_changes_nothing() {
        let scores = scores(3, 37);
        let hidden = (0..37).map(|i| if i < 30 { 0.0 } else { f32::NEG_INFINITY });
        let mask = Tensor::from_iter(hidden, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let short = scores.narrow(2, 0, 30).unwrap().contiguous().unwrap();
        let (long, short) =
            (softened(&scores, Some(&mask)).unwrap().unwrap(), softened(&short, None).unwrap().unwrap());
        let seen = long.narrow(2, 0, 30).unwrap().contiguous().unwrap();
        assert_eq!(seen.to_vec3::<f32>().unwrap(), short.to_vec3::<f32>().unwrap());
        assert!(softened(&scores, Some(&Tensor::zeros((1, 36), DType::F32, &Device::Cpu).unwrap())).is_err());
        assert!(softened(Var::from_tensor(&scores).unwrap().as_tensor(), None).unwrap().is_none());
    }
}
