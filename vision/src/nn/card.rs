//! Our own kernels on NVIDIA cards: where they are found, softmax in half types, and products of a few rows.

use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Storage, Tensor, bail,
    cuda_backend::{
        CudaDType, WrapErr as _,
        cudarc::driver::{
            CudaFunction, CudaGraph, CudaStream, CudaView, DeviceRepr, LaunchArgs, LaunchConfig, PushKernelArg as _,
            sys,
        },
    },
};
use half::{bf16, f16};
use std::sync::Arc;

/// The kernels of `src/kernels`, compiled by the build script.
#[allow(unreachable_pub, reason = "cudaforge writes the file")]
mod ptx {
    include!(concat!(env!("OUT_DIR"), "/ptx.rs"));
}

/// A file of kernels.
#[derive(Clone, Copy, Debug)]
pub enum Module {
    /// Attention of a decoder's step.
    Attend,
    /// Attention of a pass over many tokens.
    Flash,
    /// Scores of a cache's entries.
    KeyDiff,
    /// Products of few rows.
    Map,
    /// Softmax of half types.
    Softmax,
    /// Choosing and skipping tokens.
    Tosa,
    /// Between the products of a tower.
    Tower,
    /// Between those of a decoder's pass over many tokens.
    Wide,
}

impl Module {
    /// One of its kernels.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn kernel(self, name: &str, dev: &CudaDevice) -> Result<Kernel> {
        let (module, ptx) = match self {
            Self::Attend => ("spotter-attend", ptx::ATTEND),
            Self::Flash => ("spotter-flash", ptx::FLASH),
            Self::KeyDiff => ("spotter-keydiff", ptx::KEYDIFF),
            Self::Map => ("spotter-map", ptx::MAP),
            Self::Softmax => ("spotter-softmax", ptx::SOFTMAX),
            Self::Tosa => ("spotter-tosa", ptx::TOSA),
            Self::Tower => ("spotter-tower", ptx::TOWER),
            Self::Wide => ("spotter-wide", ptx::WIDE),
        };
        let function = dev.get_or_load_custom_func(name, module, ptx)?.into_cuda_function();
        let stream = dev.cuda_stream();
        let early = stream.context().compute_capability().w()?.0 >= 9;
        Ok(Kernel { function, stream, early })
    }
}

/// A kernel and the queue it is put into.
#[derive(Clone, Debug)]
pub struct Kernel {
    function: CudaFunction,
    stream: Arc<CudaStream>,
    /// The card has programmatic launches (compute capability 9.0).
    early: bool,
}

/// What a kernel can be given: a number, an address.
pub trait Argument {
    /// Where it lies.
    fn place(&self) -> *mut std::ffi::c_void;
}

impl<T: DeviceRepr> Argument for T {
    fn place(&self) -> *mut std::ffi::c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }
}

impl Kernel {
    /// Puts it into the queue so that, on a card that can, it may begin while the kernel before it still runs: it has to wait
    /// by itself before it reads what that one writes. `arguments` are in its own order.
    ///
    /// # Errors
    /// Those of the driver.
    ///
    /// # Safety
    /// `arguments` are those of the kernel in number, type and order, and what they point to is as large as it takes it to be.
    pub unsafe fn launch_early(&self, config: LaunchConfig, arguments: &[&dyn Argument]) -> Result<()> {
        let mut arguments: Vec<*mut std::ffi::c_void> = arguments.iter().map(|a| a.place()).collect();
        let mut attribute = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: config.grid_dim.0,
            gridDimY: config.grid_dim.1,
            gridDimZ: config.grid_dim.2,
            blockDimX: config.block_dim.0,
            blockDimY: config.block_dim.1,
            blockDimZ: config.block_dim.2,
            sharedMemBytes: config.shared_mem_bytes,
            hStream: self.stream.cu_stream(),
            attrs: &raw mut attribute,
            numAttrs: u32::from(self.early),
        };
        // SAFETY: by the promise above; the arguments live until the call returns, which copies them.
        unsafe {
            sys::cuLaunchKernelEx(&config, self.function.cu_function(), arguments.as_mut_ptr(), std::ptr::null_mut())
        }
        .result()
        .w()
    }

    /// Puts it into the queue behind the kernel before. `arguments` are in its own order.
    ///
    /// # Errors
    /// Those of the driver.
    ///
    /// # Safety
    /// As of [`Self::launch_early`].
    pub unsafe fn launch(&self, config: LaunchConfig, arguments: &[&dyn Argument]) -> Result<()> {
        // SAFETY: by the promise above.
        unsafe { Self { early: false, ..self.clone() }.launch_early(config, arguments) }
    }

    /// A launch, to be given its arguments in their order.
    pub fn call(&self) -> LaunchArgs<'_> {
        self.stream.launch_builder(&self.function)
    }
}

/// What was queued once, to be launched again as a whole. One thread at a time may launch it.
pub struct Graph(CudaGraph);

// SAFETY: the driver does not bind a graph to a thread, and whoever shares one keeps it behind a mutex, since it is not `Sync`.
unsafe impl Send for Graph {}

impl Graph {
    /// Of what `queue` puts into the queue, which is not run by that. `None` where the driver makes no graph of it.
    ///
    /// # Errors
    /// Where it does not even begin.
    pub fn captured(dev: &CudaDevice, queue: impl FnOnce() -> Result<()>) -> Result<Option<Self>> {
        let stream = dev.cuda_stream();
        stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).w()?;
        let queued = queue();
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        match (queued, stream.end_capture(flags)) {
            (Ok(()), Ok(Some(graph))) => Ok(Some(Self(graph))),
            (queued, made) => {
                tracing::debug!(?queued, made = made.is_ok(), "no CUDA graph");
                // What was begun in the capture that failed has been given up with it.
                let _ = stream.context().check_err();
                Ok(None)
            }
        }
    }

    /// Puts all of it into the queue.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn launch(&self) -> Result<()> {
        self.0.launch().w()
    }
}

/// Blocks of threads, `[x, y]` each, and bytes of shared memory.
pub fn blocks([x, y]: [usize; 2], threads: [u32; 2], shared: usize) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (x as u32, y as u32, 1),
        block_dim: (threads[0], threads[1], 1),
        shared_mem_bytes: shared as u32,
    }
}

/// The numbers of a contiguous tensor.
///
/// # Errors
/// Another type, or a tensor that is not contiguous.
pub(crate) fn numbers<'a, T: CudaDType>(storage: &'a CudaStorage, layout: &Layout) -> Result<CudaView<'a, T>> {
    let Some((from, to)) = layout.contiguous_offsets() else { bail!("a kernel expects a contiguous tensor") };
    Ok(storage.as_cuda_slice::<T>()?.slice(from..to))
}

/// Softmax over the last dimension of f16 or bf16, added up in f32. It drops gradients.
pub(super) struct HalfSoftmax;

impl HalfSoftmax {
    fn run<T: CudaDType + DeviceRepr>(kernel: &str, storage: &CudaStorage, layout: &Layout) -> Result<CudaStorage> {
        let n = layout.dims().last().copied().unwrap_or(1).max(1);
        let (dev, x) = (&storage.device, numbers::<T>(storage, layout)?);
        let rows = layout.shape().elem_count() / n;
        // SAFETY: every number is written by the kernel below.
        let y = unsafe { dev.alloc::<T>(rows * n)? };
        let function = Module::Softmax.kernel(kernel, dev)?;
        let (count, width) = (rows as i64, n as i32);
        let mut call = function.call();
        call.arg(&x).arg(&y).arg(&count).arg(&width);
        // SAFETY: the kernel's own arguments; `x` and `y` have `rows * n` numbers.
        unsafe { call.launch(blocks([rows.div_ceil(8), 1], [32, 8], 0)) }.w()?;
        Ok(CudaStorage::wrap_cuda_slice(y, dev.clone()))
    }
}

impl CustomOp1 for HalfSoftmax {
    fn name(&self) -> &'static str {
        "half-softmax"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("half-softmax is a kernel of cards")
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        use candle_core::backend::BackendStorage as _;
        let y = match storage.dtype() {
            DType::F16 => Self::run::<f16>("softmax_f16", storage, layout)?,
            DType::BF16 => Self::run::<bf16>("softmax_bf16", storage, layout)?,
            other => bail!("half-softmax: f16 or bf16 expected, not {other:?}"),
        };
        Ok((y, layout.shape().clone()))
    }
}

/// The most rows that [`few_rows`] multiplies.
pub const FEW: usize = 64;

/// Name of a half type in the names of kernels.
pub fn half_name(dtype: DType) -> Option<&'static str> {
    match dtype {
        DType::F16 => Some("f16"),
        DType::BF16 => Some("bf16"),
        _ => None,
    }
}

/// How many times eight rows a kernel is made for that takes `rows`.
pub fn tiles(rows: usize) -> usize {
    rows.div_ceil(8).next_power_of_two()
}

/// How many times sixteen outputs a block of that kernel has.
pub fn tall(rows: usize) -> usize {
    if tiles(rows) < 4 { 1 } else { 2 }
}

/// `x [rows, in]` times `weight [out, in]` transposed, plus a bias, `[rows, out]`, in half types on a card; each number is
/// summed in the same order however many rows there are. `None` where a matrix product serves better, or where a gradient
/// has to pass.
///
/// # Errors
/// Those of the device.
pub fn few_rows(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Option<Tensor>> {
    let (rows, width) = x.dims2()?;
    let fits = x.device().is_cuda()
        && half_name(x.dtype()).is_some()
        && weight.dtype() == x.dtype()
        && weight.is_contiguous()
        && x.is_contiguous()
        && (1..=FEW).contains(&rows)
        && width.is_multiple_of(32)
        && bias.is_none_or(|b| b.dtype() == x.dtype() && b.is_contiguous())
        && !(x.track_op() || weight.track_op());
    if fits { x.apply_op2_no_bwd(weight, &FewRows { bias }).map(Some) } else { Ok(None) }
}

struct FewRows<'a> {
    bias: Option<&'a Tensor>,
}

impl FewRows<'_> {
    fn run<T: CudaDType + DeviceRepr>(
        &self,
        (x, lx): (&CudaStorage, &Layout),
        (w, lw): (&CudaStorage, &Layout),
        name: &str,
    ) -> Result<CudaStorage> {
        let ((rows, width), (out, same)) = (lx.shape().dims2()?, lw.shape().dims2()?);
        if width != same {
            bail!("few-rows: {rows} x {width} times {out} x {same}");
        }
        let dev = &x.device;
        let (x, w) = (numbers::<T>(x, lx)?, numbers::<T>(w, lw)?);
        let held = self.bias.map(Tensor::storage_and_layout);
        let bias = match &held {
            Some((storage, layout)) => {
                let Storage::Cuda(storage) = &**storage else { bail!("few-rows: the bias is not on the card") };
                Some(numbers::<T>(storage, layout)?)
            }
            None => None,
        };
        // SAFETY: every number is written by the kernel below.
        let y = unsafe { dev.alloc::<T>(rows * out)? };
        let kernel = Module::Map.kernel(&format!("linear_{name}_{}", tiles(rows)), dev)?;
        let (none, inputs, outputs, n) = (0u64, width as i32, out as i32, rows as i32);
        let (eps, scale) = (0f32, 1f32);
        let mut call = kernel.call();
        call.arg(&x).arg(&none).arg(&w);
        match &bias {
            Some(bias) => call.arg(bias),
            None => call.arg(&none),
        };
        call.arg(&none).arg(&y).arg(&inputs).arg(&outputs).arg(&outputs).arg(&n).arg(&eps).arg(&scale);
        // SAFETY: the kernel's own arguments; `x [rows, width]`, `w [out, width]`, `bias [out]`, `y [rows, out]`.
        unsafe { call.launch(blocks([out.div_ceil(16 * tall(rows)), 1], [256, 1], 0)) }.w()?;
        Ok(CudaStorage::wrap_cuda_slice(y, dev.clone()))
    }
}

impl CustomOp2 for FewRows<'_> {
    fn name(&self) -> &'static str {
        "few-rows"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("these few-rows are a kernel of cards")
    }

    fn cuda_fwd(&self, x: &CudaStorage, lx: &Layout, w: &CudaStorage, lw: &Layout) -> Result<(CudaStorage, Shape)> {
        use candle_core::backend::BackendStorage as _;
        let y = match x.dtype() {
            DType::F16 => self.run::<f16>((x, lx), (w, lw), "f16")?,
            DType::BF16 => self.run::<bf16>((x, lx), (w, lw), "bf16")?,
            other => bail!("few-rows: f16 or bf16 expected, not {other:?}"),
        };
        Ok((y, Shape::from((lx.shape().dims2()?.0, lw.shape().dims2()?.0))))
    }
}
