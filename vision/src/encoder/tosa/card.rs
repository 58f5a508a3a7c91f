//! Choosing tokens and putting them back on an NVIDIA card: nothing is read back, so the layers after it are already
//! queued while it chooses.

use crate::nn::card::{Module, blocks, numbers};
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp3, DType, Layout, Result, Shape, Storage, Tensor,
    backend::BackendStorage as _,
    bail,
    cuda_backend::{
        CudaDType, WrapErr as _,
        cudarc::driver::{DeviceRepr, PushKernelArg as _},
    },
};
use half::{bf16, f16};

/// Threads and queries of a block of `column_sums`, as in `kernels/tosa.cu`.
const THREADS: usize = 256;
const GROUP: usize = 4;

/// Numbers of heads, and for each the numbers of keys a thread may have, that kernels are made for.
const SHAPES: [(usize, &[usize]); 3] = [(6, &[1, 3]), (12, &[1, 3]), (16, &[1, 3, 5])];

/// Keys of a thread, where there is a kernel for `heads` heads and `n` tokens.
fn keys(heads: usize, n: usize) -> Option<usize> {
    let (_, keys) = SHAPES.iter().find(|(h, _)| *h == heads)?;
    keys.iter().copied().find(|keys| keys * THREADS >= n)
}

/// Tiles of sixteen keys a warp may have, that kernels on the tensor cores are made for: for sixteen heads in half types.
const TILES: [usize; 3] = [2, 5, 6];

/// The kernel for `heads` heads over `n` tokens.
fn sums_kernel(heads: usize, n: usize, name: &str) -> Option<String> {
    let tiles = TILES.into_iter().find(|tiles| tiles * THREADS / 2 >= n);
    match tiles.filter(|_| heads == 16 && name != "f32") {
        Some(tiles) => Some(format!("sums_of_16_{name}_{tiles}")),
        None => keys(heads, n).map(|keys| format!("column_sums_{name}_{heads}_{keys}")),
    }
}

/// Whether products of this shape can be added up by [`ColumnSums`].
pub(super) fn fits(scores: &Tensor) -> bool {
    let half = matches!(scores.dtype(), DType::F32 | DType::F16 | DType::BF16);
    scores.device().is_cuda() && half && scores.dims4().is_ok_and(|(_, heads, n, _)| keys(heads, n).is_some())
}

/// Attention that each token receives under the predicted map, as a mean over heads: `[b, n]` from products
/// `[b, heads, n, n]`, both convolutions, softmax and sums in one sweep over them.
pub(super) struct ColumnSums<'a> {
    /// Weights `[heads, heads, 1]` and biases `[heads]` of both convolutions, f32, contiguous.
    pub(super) convolutions: [&'a Tensor; 4],
}

impl ColumnSums<'_> {
    fn run<T: CudaDType + DeviceRepr>(&self, name: &str, x: &CudaStorage, layout: &Layout) -> Result<CudaStorage> {
        let (b, heads, n, _) = layout.shape().dims4()?;
        let Some(kernel) = sums_kernel(heads, n, name) else { bail!("no kernel for {heads} heads over {n} tokens") };
        let (dev, groups) = (&x.device, n.div_ceil(GROUP));
        let scores = numbers::<T>(x, layout)?;
        // SAFETY: both are filled by the kernels below.
        let (parts, sums) = unsafe { (dev.alloc::<f32>(b * groups * n)?, dev.alloc::<f32>(b * n)?) };
        let held = self.convolutions.map(Tensor::storage_and_layout);
        let mut weights = Vec::with_capacity(held.len());
        for (storage, layout) in &held {
            let Storage::Cuda(storage) = &**storage else { bail!("a selector's weights are not on the card") };
            weights.push(numbers::<f32>(storage, layout)?);
        }
        let function = Module::Tosa.kernel(&kernel, dev)?;
        let (count, width) = (groups as i32, n as i32);
        let mut call = function.call();
        call.arg(&scores);
        weights.iter().for_each(|w| {
            call.arg(w);
        });
        call.arg(&parts).arg(&width);
        // SAFETY: the kernel's own arguments; shapes as its file has them.
        unsafe { call.launch(blocks([groups, b], [THREADS as u32, 1], 0)) }.w()?;
        let function = Module::Tosa.kernel("add_parts", dev)?;
        let mut call = function.call();
        call.arg(&parts).arg(&sums).arg(&count).arg(&width);
        // SAFETY: as above.
        unsafe { call.launch(blocks([n.div_ceil(64), b], [64, 1], 0)) }.w()?;
        Ok(CudaStorage::wrap_cuda_slice(sums, dev.clone()))
    }
}

impl CustomOp1 for ColumnSums<'_> {
    fn name(&self) -> &'static str {
        "tosa-column-sums"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("{} is a kernel of cards", self.name())
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (b, heads, n, _) = layout.shape().dims4()?;
        if self.convolutions[1].dim(0)? != heads {
            bail!("tosa: products of {heads} heads, but the selector has {}", self.convolutions[1].dim(0)?);
        }
        let sums = match x.dtype() {
            DType::F32 => self.run::<f32>("f32", x, layout)?,
            DType::F16 => self.run::<f16>("f16", x, layout)?,
            DType::BF16 => self.run::<bf16>("bf16", x, layout)?,
            other => bail!("tosa: products of {other:?}"),
        };
        Ok((sums, Shape::from((b, n))))
    }
}

/// The chosen tokens of a batch, on the card.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    /// Their rows among all tokens, `[b * k]`, rising.
    pub(super) rows: Tensor,
    /// Where each token lies among the chosen, `[b * n]`; `u32::MAX` where it is not.
    from: Tensor,
}

impl Chosen {
    /// The `k` tokens of each picture with the highest `scores: [b, n]`, the first `protected` always among them; of
    /// equals the first.
    pub(super) fn top(scores: &Tensor, k: usize, protected: usize) -> Result<Self> {
        let (b, n) = scores.dims2()?;
        let both = scores.contiguous()?.apply_op1_no_bwd(&Choose { k, protected })?;
        Ok(Self { rows: both.narrow(0, 0, b * k)?, from: both.narrow(0, b * k, b * n)? })
    }

    /// `flat: [b * n, d]` with the chosen rows replaced by `worked: [b * k, d]`.
    pub(super) fn put(&self, flat: &Tensor, worked: &Tensor) -> Result<Tensor> {
        flat.contiguous()?.apply_op3_no_bwd(&worked.contiguous()?, &self.from, &Put)
    }
}

struct Choose {
    k: usize,
    protected: usize,
}

impl CustomOp1 for Choose {
    fn name(&self) -> &'static str {
        "tosa-choose"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("{} is a kernel of cards", self.name())
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (b, n) = layout.shape().dims2()?;
        let (dev, k) = (&x.device, self.k.min(n));
        let scores = numbers::<f32>(x, layout)?;
        // SAFETY: filled by the kernel below.
        let both = unsafe { dev.alloc::<u32>(b * (k + n))? };
        let (rows, from) = (both.slice(..b * k), both.slice(b * k..));
        let function = Module::Tosa.kernel("choose_tokens", dev)?;
        let (width, taken, kept) = (n as i32, k as i32, self.protected.min(k) as i32);
        let mut call = function.call();
        call.arg(&scores).arg(&rows).arg(&from).arg(&width).arg(&taken).arg(&kept);
        // SAFETY: the kernel's own arguments; `rows` has b * k numbers and `from` b * n.
        unsafe { call.launch(blocks([b, 1], [n.next_multiple_of(32).min(1024) as u32, 1], 8 * n)) }.w()?;
        Ok((CudaStorage::wrap_cuda_slice(both, dev.clone()), Shape::from(b * (k + n))))
    }
}

struct Put;

impl Put {
    fn run<T: CudaDType + DeviceRepr>(
        (x, lx): (&CudaStorage, &Layout),
        (worked, lw): (&CudaStorage, &Layout),
        (from, lf): (&CudaStorage, &Layout),
    ) -> Result<CudaStorage> {
        let (rows, d) = lx.shape().dims2()?;
        let bytes = d * size_of::<T>();
        if !bytes.is_multiple_of(4) || lf.shape().elem_count() != rows || lw.shape().dims2()?.1 != d {
            bail!("tosa: {:?} can't take the place of rows of {:?}", lw.shape(), lx.shape());
        }
        let dev = &x.device;
        let (x, worked, from) = (numbers::<T>(x, lx)?, numbers::<T>(worked, lw)?, numbers::<u32>(from, lf)?);
        // SAFETY: filled by the kernel below.
        let y = unsafe { dev.alloc::<T>(rows * d)? };
        let function = Module::Tosa.kernel("put_rows", dev)?;
        let words = (bytes / 4) as i32;
        let mut call = function.call();
        call.arg(&x).arg(&worked).arg(&from).arg(&y).arg(&words);
        // SAFETY: the kernel's own arguments; a row has `words` words of four bytes, and rows begin at multiples of them.
        unsafe { call.launch(blocks([rows, 1], [words.clamp(32, 256) as u32, 1], 0)) }.w()?;
        Ok(CudaStorage::wrap_cuda_slice(y, dev.clone()))
    }
}

impl CustomOp3 for Put {
    fn name(&self) -> &'static str {
        "tosa-put"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        bail!("{} is a kernel of cards", self.name())
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        lx: &Layout,
        worked: &CudaStorage,
        lw: &Layout,
        from: &CudaStorage,
        lf: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let y = match x.dtype() {
            DType::F32 => Self::run::<f32>((x, lx), (worked, lw), (from, lf))?,
            DType::F16 => Self::run::<f16>((x, lx), (worked, lw), (from, lf))?,
            DType::BF16 => Self::run::<bf16>((x, lx), (worked, lw), (from, lf))?,
            other => bail!("tosa: tokens of {other:?}"),
        };
        Ok((y, lx.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::tosa::{Selector, top};
    use candle_core::Device;
    use candle_nn::{VarBuilder, VarMap};

    /// A selector with the same noise on the processor and on the card.
    fn selectors(heads: usize, card: &Device) -> [Selector; 2] {
        let map = VarMap::new();
        let cpu = Selector::new(heads, 1, VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu)).unwrap();
        let held = map.data().lock().unwrap();
        let tensors = held.iter().map(|(name, v)| (name.clone(), v.to_device(card).unwrap())).collect();
        drop(held);
        [cpu, Selector::new(heads, 1, VarBuilder::from_tensors(tensors, DType::F32, card)).unwrap()]
    }

    #[test]
    #[ignore = "needs an NVIDIA card"]
    fn the_card_chooses_what_the_processor_chooses() {
        let card = Device::new_cuda(0).unwrap();
        for (heads, n) in [(6, 65), (6, 256), (6, 257), (12, 197), (16, 577), (16, 729), (16, 1025)] {
            let [ours, theirs] = selectors(heads, &card);
            let scores = Tensor::randn(0f32, 2.0, (2, heads, n, n), &Device::Cpu).unwrap();
            for (dtype, most) in [(DType::F32, 1e-5), (DType::F16, 2e-3), (DType::BF16, 2e-2)] {
                let x = scores.to_device(&card).unwrap().to_dtype(dtype).unwrap();
                assert!(fits(&x));
                let sums = theirs.column_sums(&x).unwrap();
                let rounded = x.to_dtype(DType::F32).unwrap().to_device(&Device::Cpu).unwrap();
                let (got, expected) = (sums.to_vec2::<f32>().unwrap(), ours.column_sums(&rounded).unwrap());
                let expected = expected.to_vec2::<f32>().unwrap();
                for (got, expected) in got.iter().flatten().zip(expected.iter().flatten()) {
                    assert!(
                        (got - expected).abs() <= most * expected.abs(),
                        "{heads} x {n}, {dtype:?}: {got}, {expected}"
                    );
                }
                let k = n / 3;
                let chosen = Chosen::top(&sums, k, 1).unwrap();
                let rows = chosen.rows.to_vec1::<u32>().unwrap();
                let lists: Vec<u32> = got
                    .iter()
                    .enumerate()
                    .flat_map(|(i, s)| top(s, k, 1).into_iter().map(move |t| t + (i * n) as u32))
                    .collect();
                assert_eq!(rows, lists, "{heads} x {n}, {dtype:?}");
                let flat = Tensor::randn(0f32, 1.0, (2 * n, 48), &card).unwrap().to_dtype(dtype).unwrap();
                let worked = Tensor::randn(0f32, 1.0, (2 * k, 48), &card).unwrap().to_dtype(dtype).unwrap();
                let put = chosen.put(&flat, &worked).unwrap().to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap();
                let mut plain = flat.to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap();
                let worked = worked.to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap();
                rows.iter().zip(worked).for_each(|(row, w)| plain[*row as usize] = w);
                assert_eq!(put, plain);
            }
        }
    }

    #[test]
    #[ignore = "needs an NVIDIA card"]
    fn of_equals_the_first_is_chosen_and_protected_tokens_always() {
        let card = Device::new_cuda(0).unwrap();
        let scores = Tensor::new(&[[0f32, 3.0, 1.0, 3.0, 3.0, 2.0]], &card).unwrap();
        for (k, protected) in [(1, 0), (2, 0), (3, 1), (4, 2), (6, 1)] {
            let rows = Chosen::top(&scores, k, protected).unwrap().rows.to_vec1::<u32>().unwrap();
            assert_eq!(rows, top(&scores.to_vec2::<f32>().unwrap()[0], k, protected));
        }
    }

    #[test]
    #[ignore = "needs an NVIDIA card"]
    fn softmax_of_half_types_adds_up_in_f32() {
        let card = Device::new_cuda(0).unwrap();
        let x = (Tensor::randn(0f32, 3.0, (5, 577), &card).unwrap()).to_dtype(DType::F16).unwrap();
        let half = crate::nn::softmax(&x, 1.0, false).unwrap().to_dtype(DType::F32).unwrap();
        let full = candle_nn::ops::softmax_last_dim(&x.to_dtype(DType::F32).unwrap()).unwrap();
        let off =
            (half - &full).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
        // A unit in the last place of f16 below 1.
        assert!(off < 5e-4, "{off}");
    }
}
