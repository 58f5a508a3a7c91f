//! A pass over more tokens than are drafted at once, on a card: what enters the context, a frame or a question. Its maps are cuBLAS's
//! products, which read weights once for all tokens and take about as long for a hundred tokens as for one; norms, gates and
//! attention are kernels of ours. A length that comes again becomes a graph.
//!
//! Numbers are summed in another order than in a pass over a few tokens, so nothing that is drafted goes through it.

use super::{
    Express, Held, MapAt, Sizes, Step, at,
    maps::{Kernels, LayerAt},
};
use crate::model::{
    config::DecoderConfig,
    memory::{WIDE, largest_map},
};
use candle_core::{
    CudaDevice, Error, Result, bail,
    cuda_backend::{
        WrapErr as _,
        cudarc::{
            cublas::{CudaBlas, result, sys as blas},
            driver::{CudaSlice, CudaStream, sys::CUdevice_attribute},
        },
    },
};
use spotter_vision::nn::card::{Argument, Module, blocks};
use std::{ffi::c_void, sync::Arc};

/// Up to so many tokens a pass over a few is no slower, with weights as they are and with packed ones.
const NARROW: usize = 16;
const NARROW_PACKED: usize = 48;
/// Rows of queries of a block of the attention kernel, and slots that it takes at a time, as in `kernels/flash.cu`.
const ROWS: usize = 64;
const SLOTS: usize = 64;
/// Its blocks that a multiprocessor has room for.
const RESIDENT: usize = 3;
/// Numbers of a thread, as in `kernels/wide.cu`.
const EIGHT: usize = 8;

/// What such passes need beside the others.
pub(super) struct Wide {
    blas: Arc<CudaBlas>,
    /// Rows behind a norm, `[WIDE, width]`.
    normed: CudaSlice<u16>,
    /// Gates and ups, `[WIDE, 2 * mlp]`.
    both: CudaSlice<u16>,
    /// Room for the largest map as numbers, where weights are packed.
    unpacked: Option<CudaSlice<u16>>,
    /// Blocks of the attention kernel that run at the same time.
    resident: usize,
}

/// `y = scale * x W + keep * y`, as addresses.
#[derive(Clone, Copy)]
struct Matrix {
    x: u64,
    y: u64,
    inputs: usize,
    outputs: usize,
    scale: f32,
    keep: f32,
    /// Outputs are gates and ups.
    gated: bool,
}

impl Wide {
    /// For some layers.
    ///
    /// # Errors
    /// Those of the device.
    pub(super) fn new(cfg: &DecoderConfig, layers: &[LayerAt], dev: &CudaDevice) -> Result<Self> {
        let count = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let multiprocessors = dev.cuda_stream().context().attribute(count).w()?;
        let maps = |l: &LayerAt| [&l.qkv, &l.out, &l.up, &l.down].iter().any(|map| map.is_packed());
        let is_packed = layers.iter().any(maps);
        let room = |numbers: usize| dev.alloc_zeros::<u16>(numbers);
        Ok(Self {
            blas: dev.cublas_handle(),
            normed: room(WIDE * cfg.width)?,
            both: room(WIDE * 2 * cfg.mlp_width)?,
            unpacked: if is_packed { Some(room(largest_map(cfg))?) } else { None },
            resident: RESIDENT * multiprocessors.max(1) as usize,
        })
    }

    /// Up to so many tokens a pass over a few is no slower.
    pub(super) fn narrow(&self) -> usize {
        if self.unpacked.is_some() { NARROW_PACKED } else { NARROW }
    }

    /// Shares of a cache of `rows` entries that blocks of the attention kernel go through, for `n` new columns.
    pub(super) fn shares(&self, sizes: &Sizes, n: usize, rows: usize) -> usize {
        let blocks = (n * sizes.heads / sizes.kv).div_ceil(ROWS) * sizes.kv;
        (self.resident / blocks).clamp(1, rows.div_ceil(SLOTS))
    }

    /// A map's product with `n` rows. What is packed is unpacked first, part by part.
    fn product(&self, kernels: &Kernels<'_>, map: &MapAt, m: Matrix, n: usize, stream: &CudaStream) -> Result<()> {
        for part in &map.parts {
            let rows = if map.parts.len() == 1 { m.outputs } else { part.outputs };
            let weight = match (part.kind, &self.unpacked) {
                (None, _) => part.weight,
                (Some(kind), Some(room)) => {
                    let (to, ids) = (at(room, stream), 0u64);
                    let kernel =
                        Module::Map.kernel(&format!("unpack_{}_{}", kind.name(), kernels.name), kernels.dev)?;
                    let grid = blocks([rows, m.inputs.div_ceil(4 * 128)], [128, 1], 0);
                    let [inputs, outputs, gated] = [m.inputs, part.outputs, usize::from(m.gated)].map(|n| n as i32);
                    // SAFETY: the kernel's own arguments; there is room for the largest map.
                    unsafe {
                        let of: [&dyn Argument; 7] =
                            [&part.weight, &part.factors, &ids, &to, &inputs, &outputs, &gated];
                        kernel.launch(grid, &of)?;
                    }
                    to
                }
                (Some(_), None) => bail!("no room to unpack a weight"),
            };
            self.multiplied(weight, (part.first, rows), m, n, kernels.name)?;
        }
        Ok(())
    }

    /// Some outputs of a product: `(first, rows)`, whose weight lies at an address.
    fn multiplied(&self, weight: u64, (first, rows): (usize, usize), m: Matrix, n: usize, name: &str) -> Result<()> {
        let kind = match name {
            "f16" => blas::cudaDataType_t::CUDA_R_16F,
            _ => blas::cudaDataType_t::CUDA_R_16BF,
        };
        let to = m.y + (first * size_of::<u16>()) as u64;
        let [rows, outputs, inputs, n] = [rows, m.outputs, m.inputs, n].map(|n| n as i32);
        let pointer = |number: &f32| std::ptr::from_ref(number).cast::<c_void>();
        // SAFETY: the weight is [rows, inputs], x [n, inputs] and y [n, outputs], row by row, which to cuBLAS are columns.
        unsafe {
            result::gemm_ex(
                *self.blas.handle(),
                blas::cublasOperation_t::CUBLAS_OP_T,
                blas::cublasOperation_t::CUBLAS_OP_N,
                rows,
                n,
                inputs,
                pointer(&m.scale),
                weight as *const c_void,
                kind,
                inputs,
                m.x as *const c_void,
                kind,
                inputs,
                pointer(&m.keep),
                to as *mut c_void,
                kind,
                outputs,
                blas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                blas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT_TENSOR_OP,
            )
        }
        .map_err(Error::wrap)
    }
}

impl Express {
    /// Queues all layers over what lies in `held`.
    pub(super) fn enqueue_wide(
        &self,
        held: &Held,
        step: &Step<'_>,
        kernels: &Kernels<'_>,
        stream: &CudaStream,
    ) -> Result<()> {
        let Sizes { width, mlp, heads, kv, dim, residual, .. } = self.sizes;
        let (n, inner_width, qkv_width) = (step.positions.len(), heads * dim, (heads + 2 * kv) * dim);
        let [x, qkv, mixed, inner] = [&held.x, &held.qkv, &held.mixed, &held.inner].map(|s| at(s, stream));
        let [normed, both] = [&self.wide.normed, &self.wide.both].map(|s| at(s, stream));
        for (layer, (keys, values)) in self.layers.iter().zip(&step.keys) {
            let plain =
                Matrix { x: normed, y: qkv, inputs: width, outputs: qkv_width, scale: 1.0, keep: 0.0, gated: false };
            let added = Matrix { y: x, outputs: width, scale: residual, keep: 1.0, ..plain };
            let back = Matrix { x: mixed, inputs: inner_width, ..added };
            let up = Matrix { y: both, outputs: 2 * mlp, gated: true, ..plain };
            let down = Matrix { x: inner, inputs: mlp, ..added };
            self.norm(kernels, [x, layer.attention_gain, normed], n)?;
            self.mapped(kernels, &layer.qkv, plain, n, stream)?;
            self.flash(kernels, held, [qkv, *keys, *values, mixed], step, stream)?;
            self.mapped(kernels, &layer.out, back, n, stream)?;
            self.norm(kernels, [x, layer.mlp_gain, normed], n)?;
            self.mapped(kernels, &layer.up, up, n, stream)?;
            self.swept(kernels, "gate", n * mlp, &[&both, &inner, &((n * mlp) as i64), &(mlp as i32)])?;
            self.mapped(kernels, &layer.down, down, n, stream)?;
        }
        Ok(())
    }

    /// Rotation, the cache and attention of one layer: `qkv`, in which queries are turned where they lie, to `mixed`.
    fn flash(
        &self,
        kernels: &Kernels<'_>,
        held: &Held,
        [qkv, keys, values, mixed]: [u64; 4],
        step: &Step<'_>,
        stream: &CudaStream,
    ) -> Result<()> {
        let Sizes { heads, kv, dim, scale, .. } = &self.sizes;
        let (n, shares) = (step.positions.len(), self.wide.shares(&self.sizes, step.positions.len(), step.rows));
        let rows = n * heads / kv;
        let (state, parts) = (at(&held.state, stream), at(&held.parts, stream));
        let [h, k, count, capacity, parted] = [*heads, *kv, n, step.rows, shares].map(|n| n as i32);
        let kernel = |name: &str| Module::Flash.kernel(&format!("{name}_{}_{dim}", kernels.name), kernels.dev);
        let (cos, sin) = &self.rope;
        let mut grid = blocks([shares, rows.div_ceil(ROWS)], [128, 1], 0);
        grid.grid_dim.2 = *kv as u32;
        // SAFETY: the kernels' own arguments; keys and values are [kv, rows, dim], `parts` was made for this grid.
        unsafe {
            let turned: [&dyn Argument; 9] = [&qkv, cos, sin, &keys, &values, &state, &h, &k, &capacity];
            kernel("turn")?.launch_early(blocks([n, 1], [256, 1], 0), &turned)?;
            let seen: [&dyn Argument; 11] =
                [&qkv, &keys, &values, &state, &parts, &mixed, &h, &k, &count, &capacity, scale];
            kernel("flash")?.launch_early(grid, &seen)?;
            if shares > 1 {
                let grid = blocks([rows, *kv], [*dim as u32, 1], 0);
                kernel("join")?.launch_early(grid, &[&parts, &mixed, &h, &k, &count, &parted])?;
            }
        }
        Ok(())
    }

    /// A map and its bias.
    fn mapped(&self, kernels: &Kernels<'_>, map: &MapAt, m: Matrix, n: usize, stream: &CudaStream) -> Result<()> {
        self.wide.product(kernels, map, m, n, stream)?;
        let bias = map.bias();
        if bias == 0 {
            return Ok(());
        }
        let count = n * m.outputs;
        self.swept(kernels, "shift", count, &[&m.y, &bias, &(count as i64), &(m.outputs as i32), &m.scale])
    }

    /// Root mean square norm of `n` rows.
    fn norm(&self, kernels: &Kernels<'_>, [x, gain, y]: [u64; 3], n: usize) -> Result<()> {
        let kernel = Module::Wide.kernel(&format!("norm_{}", kernels.name), kernels.dev)?;
        let width = self.sizes.width as i32;
        // SAFETY: the kernel's own arguments; x and y are [n, width] of eights.
        unsafe { kernel.launch_early(blocks([n, 1], [256, 1], 0), &[&x, &gain, &y, &width, &self.sizes.eps]) }
    }

    /// One of the kernels that take `count` numbers by eights.
    fn swept(&self, kernels: &Kernels<'_>, name: &str, count: usize, arguments: &[&dyn Argument]) -> Result<()> {
        let kernel = Module::Wide.kernel(&format!("{name}_{}", kernels.name), kernels.dev)?;
        // SAFETY: the kernel's own arguments, whose rows are of a whole number of eights.
        unsafe { kernel.launch_early(blocks([count.div_ceil(256 * EIGHT), 1], [256, 1], 0), arguments) }
    }
}
