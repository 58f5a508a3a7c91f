//! Attention of a few positions on the processor, in one sweep over the keys for each query.

use super::{
    few::{floats, halves},
    fused::{exp, widest},
};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use std::ops::Range;

/// More positions than this are better served by products of matrices. No draft is as long.
pub(super) const FEW: usize = 64;
/// Numbers that are summed side by side.
const LANES: usize = 16;
/// Multiplications for which threads are worth their while.
const MANY: usize = 1 << 20;

/// What attention gave.
pub(super) struct Attended {
    /// `[n, heads * dim]`.
    pub(super) mixed: Tensor,
    /// Where they are asked for, `[heads, n, seen]`.
    pub(super) weights: Option<Tensor>,
}

/// How queries look at keys.
pub(super) struct Look<'a> {
    /// On the products.
    pub(super) scale: f32,
    /// `[n, seen]`: minus infinity hides; `None` where a single query sees all but the `hidden` oldest.
    pub(super) mask: Option<&'a Tensor>,
    /// See `mask`.
    pub(super) hidden: usize,
    /// Whether the weights are asked for.
    pub(super) weights: bool,
}

/// Attention of queries `[heads, n, dim]` to keys and values `[key heads, seen, dim]`, whose heads may lie apart.
///
/// A query's numbers are those of the keys that it sees, one behind another: what is hidden between or behind them changes no bit, be
/// it the rest of a tree of drafts or what a draft of several tokens has behind this one.
pub(super) fn attend(q: &Tensor, k: &Tensor, v: &Tensor, look: &Look<'_>) -> Result<Attended> {
    let ((heads, n, dim), seen) = (q.dims3()?, k.dim(1)?);
    let op = Attend { runs: runs(look, n, seen)?, scale: look.scale, weights: look.weights };
    let all = q.apply_op3_no_bwd(k, v, &op)?;
    let numbers = n * heads * dim;
    Ok(Attended {
        mixed: all.narrow(0, 0, numbers)?.reshape((n, heads * dim))?,
        weights: match look.weights {
            true => Some(all.narrow(0, numbers, heads * n * seen)?.reshape((heads, n, seen))?),
            false => None,
        },
    })
}

/// The keys that each query sees, as runs.
fn runs(look: &Look<'_>, n: usize, seen: usize) -> Result<Vec<Vec<Range<usize>>>> {
    let Some(mask) = look.mask else {
        return if n == 1 && look.hidden < seen {
            Ok(vec![vec![look.hidden..seen]])
        } else {
            bail!("attend: {n} positions to {seen} without a mask")
        };
    };
    if mask.dims() != [n, seen] {
        bail!("attend: a mask {:?}, expected [{n}, {seen}]", mask.dims());
    }
    let row = |row: Vec<f32>| {
        let mut runs = Vec::with_capacity(2);
        let mut at = 0;
        for run in row.chunk_by(|a, b| (*a == f32::NEG_INFINITY) == (*b == f32::NEG_INFINITY)) {
            if run.first() != Some(&f32::NEG_INFINITY) {
                runs.push(at..at + run.len());
            }
            at += run.len();
        }
        runs
    };
    Ok(mask.to_vec2::<f32>()?.into_iter().map(row).collect())
}

struct Attend {
    runs: Vec<Vec<Range<usize>>>,
    scale: f32,
    weights: bool,
}

/// What a query head reads.
#[derive(Clone, Copy)]
struct Head<'a> {
    /// `[n, dim]`.
    queries: &'a [f32],
    /// `[seen, dim]` each.
    keys: &'a [f32],
    values: &'a [f32],
    /// Keys that each query sees.
    runs: &'a [Vec<Range<usize>>],
    scale: f32,
    dim: usize,
}

widest!(head = head_rows(head: Head<'_>, out: &mut [f32], told: &mut [f32]));

/// Writes what is mixed to `out [n, dim]`, and the weights to `told [n, seen]` unless that is empty.
#[inline(always)]
fn head_rows(head: Head<'_>, out: &mut [f32], told: &mut [f32]) {
    let (dim, seen) = (head.dim, head.keys.len() / head.dim);
    let mut weights = Vec::with_capacity(seen.next_multiple_of(LANES));
    let rows = head.queries.chunks_exact(dim).zip(out.chunks_exact_mut(dim)).zip(head.runs);
    for (i, ((query, out), runs)) in rows.enumerate() {
        weights.clear();
        for run in runs {
            let keys = head.keys[run.start * dim..run.end * dim].chunks_exact(dim);
            weights.extend(keys.map(|key| dot(query, key) * head.scale));
        }
        // What fills the last lanes adds nothing.
        weights.resize(weights.len().next_multiple_of(LANES), f32::NEG_INFINITY);
        let sum = exponents(&mut weights);
        mix(&weights, runs, head.values, dim, out);
        out.iter_mut().for_each(|o| *o /= sum);
        if let Some(told) = told.get_mut(i * seen..(i + 1) * seen) {
            let mut first = 0;
            for run in runs {
                let part = &weights[first..first + run.len()];
                told[run.clone()].iter_mut().zip(part).for_each(|(t, w)| *t = w / sum);
                first += run.len();
            }
        }
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

/// The sum of the values `[seen, dim]` of some runs times their weights.
#[inline(always)]
fn mix(weights: &[f32], runs: &[Range<usize>], values: &[f32], dim: usize, out: &mut [f32]) {
    const WIDE: usize = 64;
    let mut first = 0;
    while first + WIDE <= dim {
        let (mut sums, mut at) = ([0f32; WIDE], 0);
        for run in runs {
            let values = values[run.start * dim..run.end * dim].chunks_exact(dim);
            for (w, value) in weights[at..].iter().zip(values) {
                let Some((value, _)) = value[first..].split_first_chunk::<WIDE>() else { continue };
                for i in 0..WIDE {
                    sums[i] += w * value[i];
                }
            }
            at += run.len();
        }
        out[first..first + WIDE].copy_from_slice(&sums);
        first += WIDE;
    }
    let (out, mut at) = (&mut out[first..], 0);
    out.fill(0.0);
    for run in runs {
        let values = values[run.start * dim..run.end * dim].chunks_exact(dim);
        for (w, value) in weights[at..].iter().zip(values) {
            out.iter_mut().zip(&value[first..]).for_each(|(o, v)| *o += w * v);
        }
        at += run.len();
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
        if self.runs.len() != n || self.runs.iter().flatten().any(|run| run.end > seen) {
            bail!("attend: {} rows of visible keys, expected {n}", self.runs.len());
        }
        let mut by_head = vec![0f32; queries.len()];
        let told = if self.weights { n * seen } else { 0 };
        let mut weights = vec![0f32; heads * told];
        let group = heads / kv_heads;
        let one = |(i, (out, told)): (usize, (&mut [f32], &mut [f32]))| {
            let queries = &queries[i * n * dim..(i + 1) * n * dim];
            let (keys, values) = (keys(i / group), values(i / group));
            head(Head { queries, keys, values, runs: &self.runs, scale: self.scale, dim }, out, told);
        };
        let mut told_by_head: Vec<&mut [f32]> = match told {
            0 => (0..heads).map(|_| Default::default()).collect(),
            _ => weights.chunks_exact_mut(told).collect(),
        };
        let out_by_head = by_head.chunks_exact_mut(n * dim).zip(told_by_head.iter_mut().map(|told| &mut **told));
        let pieces: Vec<_> = out_by_head.enumerate().collect();
        if heads * n * seen * dim > MANY {
            pieces.into_par_iter().for_each(one);
        } else {
            pieces.into_iter().for_each(one);
        }
        let mut out = by_head;
        if n > 1 {
            let by_head = std::mem::replace(&mut out, vec![0f32; heads * n * dim]);
            for (h, rows) in by_head.chunks_exact(n * dim).enumerate() {
                for (row, out) in rows.chunks_exact(dim).zip(out.chunks_exact_mut(heads * dim)) {
                    out[h * dim..(h + 1) * dim].copy_from_slice(row);
                }
            }
        }
        out.extend_from_slice(&weights);
        let numbers = out.len();
        Ok((CpuStorage::F32(out), Shape::from(numbers)))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::fused::tests::{off, random},
        *,
    };
    use candle_core::{D, DType, Device};

    #[test]
    fn attention_is_that_of_plain_operations_and_of_each_row_alone() {
        for (heads, kv, dim, seen) in [(4, 2, 16, 21), (9, 3, 64, 300), (2, 2, 20, 33), (3, 1, 128, 16)] {
            let n = 7;
            let q = random(&[heads, n, dim]);
            let buffer = |t: &Tensor| t.narrow(1, 3, seen).unwrap();
            let (k, v) = (random(&[kv, seen + 9, dim]), random(&[kv, seen + 9, dim]));
            let (k, v) = (buffer(&k), buffer(&v));
            let mask = super::super::attention::causal_mask(n, seen - n, None, &Device::Cpu).unwrap().unwrap();
            let look = |mask, weights| Look { scale: 0.3, mask, hidden: 0, weights };
            let Attended { mixed, weights: told } = attend(&q, &k, &v, &look(Some(&mask), true)).unwrap();
            let (found, told) = (mixed, told.unwrap());
            let each = |t: &Tensor| {
                let t = t.unsqueeze(1).unwrap().broadcast_as((kv, heads / kv, seen, dim)).unwrap();
                t.contiguous().unwrap().reshape((heads, seen, dim)).unwrap()
            };
            let scores = (q.matmul(&each(&k).t().unwrap()).unwrap() * 0.3).unwrap().broadcast_add(&mask).unwrap();
            let weights = candle_nn::ops::softmax(&scores, D::Minus1).unwrap();
            assert!(off(&told, &weights) < 2e-6, "{}", off(&told, &weights));
            let expected = weights.matmul(&each(&v)).unwrap().transpose(0, 1).unwrap().contiguous().unwrap();
            let expected = expected.reshape((n, heads * dim)).unwrap();
            assert!(off(&found, &expected) < 2e-5, "{heads} {kv} {dim} {seen}: {}", off(&found, &expected));
            let found = found.to_vec2::<f32>().unwrap();
            for (i, found) in found.iter().enumerate() {
                let visible = seen - n + i + 1;
                let q = q.narrow(1, i, 1).unwrap().contiguous().unwrap();
                let (k, v) = (k.narrow(1, 0, visible).unwrap(), v.narrow(1, 0, visible).unwrap());
                let alone = attend(&q, &k, &v, &look(None, false)).unwrap();
                assert!(alone.weights.is_none());
                assert_eq!(alone.mixed.to_vec2::<f32>().unwrap()[0], *found, "row {i}");
            }
            let short = mask.narrow(1, 1, 2).unwrap();
            assert!(attend(&q, &k, &v, &look(Some(&short), false)).is_err());
            assert!(attend(&q, &k, &v, &look(None, false)).is_err());
        }
        let nan = Tensor::full(f32::NAN, (1, 1, 4), &Device::Cpu).unwrap();
        let one = Tensor::ones((1, 3, 4), DType::F32, &Device::Cpu).unwrap();
        let look = Look { scale: 1.0, mask: None, hidden: 0, weights: false };
        let found = attend(&nan, &one, &one, &look).unwrap().mixed.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(found.iter().all(|x| x.is_nan()));
    }

    /// A branch of a tree is computed as if its columns stood one behind another, and a window as if there were nothing before it.
    #[test]
    fn what_is_hidden_changes_no_bit() {
        let (q, k, v) = (random(&[4, 1, 32]), random(&[2, 40, 32]), random(&[2, 40, 32]));
        let look = |mask, hidden| Look { scale: 0.2, mask, hidden, weights: false };
        let numbers = |a: Attended| a.mixed.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let sees = |i: u32| i < 19 || i == 22 || i == 30 || i == 31;
        let mask = (0..40).map(|i| if sees(i) { 0.0 } else { f32::NEG_INFINITY });
        let mask = Tensor::from_iter(mask, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let kept = Tensor::from_iter((0..40).filter(|i| sees(*i)), &Device::Cpu).unwrap();
        let [few_k, few_v] = [&k, &v].map(|t| t.index_select(&kept, 1).unwrap());
        let branch = numbers(attend(&q, &k, &v, &look(Some(&mask), 0)).unwrap());
        assert_eq!(branch, numbers(attend(&q, &few_k, &few_v, &look(None, 0)).unwrap()));
        let [new_k, new_v] = [&k, &v].map(|t| t.narrow(1, 11, 29).unwrap());
        let window = numbers(attend(&q, &k, &v, &look(None, 11)).unwrap());
        assert_eq!(window, numbers(attend(&q, &new_k, &new_v, &look(None, 0)).unwrap()));
        assert_ne!(window, branch);
        assert!(attend(&q, &k, &v, &look(None, 40)).is_err());
    }
}
