//! What stands between the matrix products of a tower, on an NVIDIA card and in half types: biases, activations, residuals,
//! heads apart and together, each a kernel of its own (`kernels/tower.cu`). A picture's tokens are few to a card, so the
//! number of launches is what they cost.

use super::tower::Activation;
use crate::nn::card::{Module, blocks, half_name, numbers};
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Tensor,
    backend::BackendStorage as _,
    bail,
    cuda_backend::{
        CudaDType, WrapErr as _,
        cudarc::driver::{CudaSlice, DeviceRepr, LaunchConfig, PushKernelArg as _},
    },
};
use half::{bf16, f16};

/// Numbers of a thread, as in `kernels/tower.cu`.
const WIDE: usize = 8;

/// Whether kernels are made for these tensors, which have rows of a whole number of eights.
pub(super) fn fits(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|t| {
        let eights = t.dims().last().is_some_and(|n| n.is_multiple_of(WIDE));
        t.device().is_cuda() && half_name(t.dtype()).is_some() && t.is_contiguous() && !t.track_op() && eights
    })
}

/// `act(y + bias)` for `y [.., width]`, `bias [width]`.
pub(super) fn activate(y: &Tensor, bias: &Tensor, act: Activation) -> Result<Tensor> {
    y.apply_op2_no_bwd(bias, &Activate(act))
}

/// `x + (y + bias)` for `x` and `y [.., width]`, `bias [width]`.
pub(super) fn add(y: &Tensor, bias: &Tensor, x: &Tensor) -> Result<Tensor> {
    if y.dims() != x.dims() {
        bail!("a residual {:?} of {:?}", y.dims(), x.dims());
    }
    y.apply_op3_no_bwd(bias, x, &Add)
}

/// `y [b, n, 3 * heads * dim]` plus `bias`, its first third times `scale`, as three times `[b, heads, n, dim]`.
pub(super) fn split(y: &Tensor, bias: &Tensor, heads: usize, scale: f32) -> Result<[Tensor; 3]> {
    let all = y.apply_op2_no_bwd(bias, &Split { heads, scale })?;
    let part = |i: usize| all.get(i);
    Ok([part(0)?, part(1)?, part(2)?])
}

/// `y [b, heads, n, dim]` as `[b, n, heads * dim]`.
pub(super) fn merge(y: &Tensor) -> Result<Tensor> {
    y.apply_op1_no_bwd(&Merge)
}

/// A thread for every eight numbers.
fn spread(count: usize) -> LaunchConfig {
    blocks([count.div_ceil(256 * WIDE), 1], [256, 1], 0)
}

/// Memory for `count` numbers, all of which a kernel writes.
fn room<T: CudaDType + DeviceRepr>(storage: &CudaStorage, count: usize) -> Result<CudaSlice<T>> {
    // SAFETY: by the promise above.
    unsafe { storage.device.alloc::<T>(count) }
}

/// Runs `$run::<T>(name, ..)` for the half type of a storage.
macro_rules! in_half {
    ($storage:expr, $run:ident, $($argument:expr),*) => {
        match $storage.dtype() {
            DType::F16 => $run::<f16>("f16", $($argument),*),
            DType::BF16 => $run::<bf16>("bf16", $($argument),*),
            other => bail!("a tower's kernels compute in f16 or bf16, not {other:?}"),
        }
    };
}

struct Activate(Activation);

fn run_activate<T: CudaDType + DeviceRepr>(
    name: &str,
    (y, ly): (&CudaStorage, &Layout),
    (bias, lb): (&CudaStorage, &Layout),
    act: Activation,
) -> Result<CudaStorage> {
    let (count, width) = (ly.shape().elem_count(), lb.shape().elem_count());
    let z = room::<T>(y, count)?;
    let (data, bias) = (numbers::<T>(y, ly)?, numbers::<T>(bias, lb)?);
    let kernel = Module::Tower.kernel(&format!("activate_{name}"), &y.device)?;
    let act = match act {
        Activation::QuickGelu => 0,
        Activation::Gelu => 1,
        Activation::GeluTanh => 2i32,
    };
    let (numbers, width) = (count as i64, width as i32);
    let mut call = kernel.call();
    call.arg(&data).arg(&bias).arg(&z).arg(&numbers).arg(&width).arg(&act);
    // SAFETY: the kernel's own arguments; `data` and `z` have `count` numbers, `bias` has `width`.
    unsafe { call.launch(spread(count)) }.w()?;
    Ok(CudaStorage::wrap_cuda_slice(z, y.device.clone()))
}

impl CustomOp2 for Activate {
    fn name(&self) -> &'static str {
        "activate"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("{} is a kernel of cards", self.name())
    }

    fn cuda_fwd(&self, y: &CudaStorage, ly: &Layout, b: &CudaStorage, lb: &Layout) -> Result<(CudaStorage, Shape)> {
        Ok((in_half!(y, run_activate, (y, ly), (b, lb), self.0)?, ly.shape().clone()))
    }
}

struct Add;

fn run_add<T: CudaDType + DeviceRepr>(
    name: &str,
    (y, ly): (&CudaStorage, &Layout),
    (bias, lb): (&CudaStorage, &Layout),
    (x, lx): (&CudaStorage, &Layout),
) -> Result<CudaStorage> {
    let (count, width) = (ly.shape().elem_count(), lb.shape().elem_count());
    let z = room::<T>(y, count)?;
    let (data, bias, old) = (numbers::<T>(y, ly)?, numbers::<T>(bias, lb)?, numbers::<T>(x, lx)?);
    let kernel = Module::Tower.kernel(&format!("add_{name}"), &y.device)?;
    let (numbers, width) = (count as i64, width as i32);
    let mut call = kernel.call();
    call.arg(&data).arg(&bias).arg(&old).arg(&z).arg(&numbers).arg(&width);
    // SAFETY: the kernel's own arguments; `data`, `old` and `z` have `count` numbers, `bias` has `width`.
    unsafe { call.launch(spread(count)) }.w()?;
    Ok(CudaStorage::wrap_cuda_slice(z, y.device.clone()))
}

impl CustomOp3 for Add {
    fn name(&self) -> &'static str {
        "add-residual"
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
        y: &CudaStorage,
        ly: &Layout,
        b: &CudaStorage,
        lb: &Layout,
        x: &CudaStorage,
        lx: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        Ok((in_half!(y, run_add, (y, ly), (b, lb), (x, lx))?, ly.shape().clone()))
    }
}

struct Split {
    heads: usize,
    scale: f32,
}

fn run_split<T: CudaDType + DeviceRepr>(
    name: &str,
    (y, ly): (&CudaStorage, &Layout),
    (bias, lb): (&CudaStorage, &Layout),
    Split { heads, scale }: &Split,
) -> Result<CudaStorage> {
    let (_, n, width) = ly.shape().dims3()?;
    let (count, dim) = (ly.shape().elem_count(), width / 3 / heads);
    let z = room::<T>(y, count)?;
    let (data, bias) = (numbers::<T>(y, ly)?, numbers::<T>(bias, lb)?);
    let kernel = Module::Tower.kernel(&format!("split_{name}"), &y.device)?;
    let (numbers, n, heads, dim) = (count as i64, n as i32, *heads as i32, dim as i32);
    let mut call = kernel.call();
    call.arg(&data).arg(&bias).arg(&z).arg(&numbers).arg(&n).arg(&heads).arg(&dim).arg(scale);
    // SAFETY: the kernel's own arguments; `data` and `z` have `count` numbers, `bias` as many as a row.
    unsafe { call.launch(spread(count)) }.w()?;
    Ok(CudaStorage::wrap_cuda_slice(z, y.device.clone()))
}

impl CustomOp2 for Split {
    fn name(&self) -> &'static str {
        "split-heads"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("{} is a kernel of cards", self.name())
    }

    fn cuda_fwd(&self, y: &CudaStorage, ly: &Layout, b: &CudaStorage, lb: &Layout) -> Result<(CudaStorage, Shape)> {
        let (pictures, n, width) = ly.shape().dims3()?;
        let dim = width / 3 / self.heads.max(1);
        if dim * self.heads * 3 != width || !dim.is_multiple_of(WIDE) {
            bail!("{}: rows of {width} numbers for {} heads", self.name(), self.heads);
        }
        let shape = Shape::from(vec![3, pictures, self.heads, n, dim]);
        Ok((in_half!(y, run_split, (y, ly), (b, lb), self)?, shape))
    }
}

struct Merge;

fn run_merge<T: CudaDType + DeviceRepr>(name: &str, y: &CudaStorage, layout: &Layout) -> Result<CudaStorage> {
    let (_, heads, n, dim) = layout.shape().dims4()?;
    let count = layout.shape().elem_count();
    let z = room::<T>(y, count)?;
    let data = numbers::<T>(y, layout)?;
    let kernel = Module::Tower.kernel(&format!("merge_{name}"), &y.device)?;
    let (numbers, n, heads, dim) = (count as i64, n as i32, heads as i32, dim as i32);
    let mut call = kernel.call();
    call.arg(&data).arg(&z).arg(&numbers).arg(&n).arg(&heads).arg(&dim);
    // SAFETY: the kernel's own arguments; `data` and `z` have `count` numbers.
    unsafe { call.launch(spread(count)) }.w()?;
    Ok(CudaStorage::wrap_cuda_slice(z, y.device.clone()))
}

impl CustomOp1 for Merge {
    fn name(&self) -> &'static str {
        "merge-heads"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("{} is a kernel of cards", self.name())
    }

    fn cuda_fwd(&self, y: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (b, heads, n, dim) = layout.shape().dims4()?;
        Ok((in_half!(y, run_merge, y, layout)?, Shape::from((b, n, heads * dim))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn;
    use candle_core::{D, Device};

    fn noise(shape: impl Into<Shape>, dtype: DType, device: &Device) -> Tensor {
        Tensor::randn(0f32, 1.0, shape, device).unwrap().to_dtype(dtype).unwrap()
    }

    fn off(a: &Tensor, b: &Tensor) -> f32 {
        let apart = (a.to_dtype(DType::F32).unwrap() - b.to_dtype(DType::F32).unwrap()).unwrap().abs().unwrap();
        apart.flatten_all().unwrap().max(D::Minus1).unwrap().to_scalar().unwrap()
    }

    #[test]
    #[ignore = "needs an NVIDIA card"]
    fn kernels_between_products_equal_plain_operations_on_a_card() {
        let card = Device::new_cuda(0).unwrap();
        for dtype in [DType::F16, DType::BF16] {
            let (b, n, heads, dim) = (2, 37, 4, 24);
            let width = heads * dim;
            let (y, x) = (noise((b, n, width), dtype, &card), noise((b, n, width), dtype, &card));
            let bias = noise(width, dtype, &card);
            assert!(fits(&[&y, &x, &bias]));
            let wide = |t: &Tensor| t.to_dtype(DType::F32).unwrap();
            let plain = wide(&y).broadcast_add(&wide(&bias)).unwrap();
            // One step of bf16 at the size of these numbers.
            let step = 0.04;
            for act in [Activation::QuickGelu, Activation::Gelu, Activation::GeluTanh] {
                assert!(off(&activate(&y, &bias, act).unwrap(), &act.forward(&plain).unwrap()) < step, "{act:?}");
            }
            assert!(off(&add(&y, &bias, &x).unwrap(), &(wide(&x) + &plain).unwrap()) < step);
            let heads_first = y.reshape((b, n, heads, dim)).unwrap().transpose(1, 2).unwrap().contiguous().unwrap();
            assert_eq!(off(&merge(&heads_first).unwrap(), &y), 0.0);
            let (all, three) = (noise((b, n, 3 * width), dtype, &card), noise(3 * width, dtype, &card));
            let parts = split(&all, &three, heads, 0.25).unwrap();
            let plain = wide(&all).broadcast_add(&wide(&three)).unwrap();
            for (i, part) in parts.iter().enumerate() {
                let plain = plain.narrow(2, i * width, width).unwrap().reshape((b, n, heads, dim)).unwrap();
                let plain = (plain.transpose(1, 2).unwrap() * if i == 0 { 0.25 } else { 1.0 }).unwrap();
                assert!(part.is_contiguous() && off(part, &plain.contiguous().unwrap()) < step, "part {i}");
            }
            assert!(nn::linear(&merge(&parts[0]).unwrap(), &noise((8, width), dtype, &card), None).is_ok());
        }
    }
}
