//! KeyDiff (arXiv 2504.15364): entries stay whose keys point away from the mean key of their head.
//!
//! `score_i = -cos(mean, k_i)`, where the mean is of the keys at length 1, over all entries that compete, window and
//! pinned ones included. Neither queries nor values nor attention weights are looked at, so it goes with any kernel.

use super::{
    options::Anchor,
    scorer::{Entries, Scorer, Watch, Weights, wide},
};
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, bail};

#[cfg(feature = "cuda")]
use {
    candle_core::{
        CudaStorage,
        backend::BackendStorage as _,
        cuda_backend::{
            CudaDType, WrapErr as _,
            cudarc::driver::{DeviceRepr, PushKernelArg as _},
        },
    },
    spotter_vision::nn::card::{Module, blocks},
};

/// Keys shorter than this have no direction: their score is 0, and they add nothing to the mean.
const SHORTEST: f32 = 1e-12;

/// The scorer.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeyDiff {
    /// What the mean is taken of.
    pub anchor: Anchor,
}

impl Scorer for KeyDiff {
    fn scores(&self, entries: &Entries) -> Result<Tensor> {
        scores(entries.keys, self.anchor)
    }
}

impl Weights for KeyDiff {
    fn watch(&self) -> Watch {
        Watch::default()
    }

    /// `(1 - cos) / sum(1 - cos)`: Spotter's own way to make weights of it, with one weight for all query heads.
    fn weights(&self, entries: &Entries) -> Result<Tensor> {
        let raised = (scores(entries.keys, self.anchor)? + 1.0)?.relu()?;
        raised.broadcast_div(&raised.sum_keepdim(1)?.maximum(f64::from(f32::MIN_POSITIVE))?)?.unsqueeze(1)
    }
}

/// Scores `[heads, n]` in f32 of keys `[heads, n, dim]` (any float type, any strides). All-zero keys give 0, never NaN;
/// a NaN in a key gives NaN.
///
/// # Errors
/// Of the device.
pub fn scores(keys: &Tensor, anchor: Anchor) -> Result<Tensor> {
    let rows_in_order = keys.layout().stride().last() == Some(&1);
    let (_, _, dim) = keys.dims3()?;
    let known = match keys.device() {
        Device::Cpu => keys.dtype() == DType::F32,
        // Kernels are made for these sizes.
        Device::Cuda(_) => dim.is_multiple_of(32) && (32..=128).contains(&dim) && keys.stride().get(1) == Some(&dim),
        Device::Metal(_) => false,
    };
    if known && rows_in_order { keys.apply_op1_no_bwd(&OneSweep { anchor }) } else { composed(keys, anchor) }
}

/// The same of plain operations, for other devices and types.
pub(crate) fn composed(keys: &Tensor, anchor: Anchor) -> Result<Tensor> {
    let shortest = f64::from(SHORTEST);
    let keys = wide(&keys.contiguous()?)?;
    let norm = keys.sqr()?.sum_keepdim(2)?.sqrt()?;
    let long = norm.gt(shortest)?.to_dtype(DType::F32)?;
    // NaN is not greater than anything: it must not pass for a short key.
    let unit = keys.broadcast_mul(&(long / norm.maximum(shortest)?)?)?;
    let unit = (unit + (&norm * 0.0)?.broadcast_as(keys.shape())?)?;
    let counted = if anchor == Anchor::Raw { &keys } else { &unit };
    let mean = counted.sum_keepdim(1)?;
    let length = mean.sqr()?.sum_keepdim(2)?.sqrt()?.maximum(shortest)?;
    unit.broadcast_mul(&mean.broadcast_div(&length)?)?.sum(2)?.neg()
}

/// Two passes over the keys where they lie, without copies of them.
struct OneSweep {
    anchor: Anchor,
}

/// Lanes of a sum: independent, so that it is vectorised, and in a fixed order, so that equal rows give equal bits.
const LANES: usize = 16;

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (mut left, mut right) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    for (a, b) in left.by_ref().zip(right.by_ref()) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    let rest: f32 = left.remainder().iter().zip(right.remainder()).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}

impl OneSweep {
    /// Scores of the rows of one head.
    fn head<'a>(&self, rows: impl Iterator<Item = &'a [f32]> + Clone, dim: usize, scores: &mut [f32]) {
        let mut mean = vec![0f32; dim];
        for (row, inverse) in rows.clone().zip(scores.iter_mut()) {
            let norm = dot(row, row).sqrt();
            *inverse = if norm <= SHORTEST { 0.0 } else { 1.0 / norm };
            let weight = if self.anchor == Anchor::Raw { 1.0 } else { *inverse };
            mean.iter_mut().zip(row).for_each(|(m, v)| *m += v * weight);
        }
        let length = dot(&mean, &mean).sqrt().max(SHORTEST);
        mean.iter_mut().for_each(|m| *m /= length);
        for (row, score) in rows.zip(scores.iter_mut()) {
            *score *= -dot(row, &mean);
        }
    }
}

impl CustomOp1 for OneSweep {
    fn name(&self) -> &'static str {
        "keydiff"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (CpuStorage::F32(data), [heads, n, dim], [by_head, by_row, 1]) = (storage, layout.dims(), layout.stride())
        else {
            bail!("keydiff: f32 keys [heads, n, dim] with whole rows expected");
        };
        let (heads, n, dim) = (*heads, *n, *dim);
        let mut scores = vec![0f32; heads * n];
        for (head, scores) in scores.chunks_exact_mut(n.max(1)).enumerate() {
            let start = layout.start_offset() + head * by_head;
            let rows = (0..n).map(|i| data.get(start + i * by_row..start + i * by_row + dim).unwrap_or(&[]));
            self.head(rows, dim, scores);
        }
        Ok((CpuStorage::F32(scores), Shape::from((heads, n))))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let scores = match storage.dtype() {
            DType::F32 => self.on_card::<f32>("f32", storage, layout),
            DType::F16 => self.on_card::<half::f16>("f16", storage, layout),
            DType::BF16 => self.on_card::<half::bf16>("bf16", storage, layout),
            other => bail!("keydiff: keys of a card in f32, f16 or bf16 expected, not {other:?}"),
        }?;
        let (heads, n, _) = layout.shape().dims3()?;
        Ok((scores, Shape::from((heads, n))))
    }
}

#[cfg(feature = "cuda")]
impl OneSweep {
    fn on_card<T: CudaDType + DeviceRepr>(
        &self,
        name: &str,
        storage: &CudaStorage,
        layout: &Layout,
    ) -> Result<CudaStorage> {
        let ((heads, n, dim), dev) = (layout.shape().dims3()?, &storage.device);
        let [by_head, by_row, 1] = layout.stride() else { bail!("keydiff: whole rows of keys expected") };
        if *by_row != dim || !dim.is_multiple_of(32) {
            bail!("keydiff: keys [{heads}, {n}, {dim}] with rows {by_row} numbers apart");
        }
        let keys = storage.as_cuda_slice::<T>()?.slice(layout.start_offset()..);
        // SAFETY: every number is written by the kernel below.
        let scores = unsafe { dev.alloc::<f32>(heads * n) }?;
        let kernel = Module::KeyDiff.kernel(&format!("keydiff_{name}_{}", dim / 32), dev)?;
        let (count, apart, raw) = (n as i32, *by_head as i64, i32::from(self.anchor == Anchor::Raw));
        let mut call = kernel.call();
        call.arg(&keys).arg(&scores).arg(&count).arg(&apart).arg(&raw);
        // SAFETY: the kernel's own arguments; heads lie `apart` numbers from one another, `scores` is [heads, n].
        unsafe { call.launch(blocks([heads, 1], [512, 1], 0)) }.w()?;
        Ok(CudaStorage::wrap_cuda_slice(scores, dev.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{D, Device};

    #[test]
    fn one_sweep_equals_plain_operations() {
        sweeps(&Device::Cpu, DType::F32);
    }

    #[test]
    #[ignore = "needs an NVIDIA card"]
    fn one_sweep_of_a_card_equals_plain_operations() {
        let card = Device::new_cuda(0).unwrap();
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            sweeps(&card, dtype);
        }
    }

    fn sweeps(device: &Device, dtype: DType) {
        for (heads, rows, n, dim) in [(1, 5, 5, 8), (3, 40, 33, 32), (2, 20, 17, 100), (1, 1, 1, 4), (4, 900, 801, 128)]
        {
            let keys = Tensor::randn(0.3f32, 1.0, (heads, rows, dim), device).unwrap().to_dtype(dtype).unwrap();
            let keys = keys.narrow(1, 0, n).unwrap();
            for anchor in [Anchor::Normalised, Anchor::Raw] {
                let (a, b) = (scores(&keys, anchor).unwrap(), composed(&keys, anchor).unwrap());
                let off = (a - b).unwrap().abs().unwrap().max(D::Minus1).unwrap().max(0).unwrap();
                assert!(off.to_scalar::<f32>().unwrap() < 2e-6, "{heads} x {n} x {dim} in {dtype:?}");
            }
        }
    }

    #[test]
    fn zero_keys_score_nothing_and_nan_shows() {
        let zero = Tensor::zeros((2, 3, 8), DType::F32, &Device::Cpu).unwrap();
        for s in [scores(&zero, Anchor::Raw).unwrap(), composed(&zero, Anchor::Normalised).unwrap()] {
            assert!(s.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().all(|s| *s == 0.0));
        }
        let mut rows: Vec<f32> = (0..6 * 4).map(|i| ((i * 7 + 3) % 11) as f32 - 4.0).collect();
        rows[8..12].fill(f32::NAN);
        let keys = Tensor::from_vec(rows, (1, 6, 4), &Device::Cpu).unwrap();
        for s in [scores(&keys, Anchor::Raw), composed(&keys, Anchor::Normalised)] {
            assert!(s.unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()[2].is_nan());
        }
    }
}
