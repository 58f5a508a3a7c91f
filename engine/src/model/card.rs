//! A decoder's pass over up to [`FEW`] tokens on an NVIDIA card: five or six kernels a layer, all layers one CUDA graph that is launched at
//! once. What changes from step to step (tokens, entries held, positions, who sees whom) lies in memory of the card that stays
//! where it is, so the same graph serves a whole session, through evictions and rollbacks, until the cache grows.
//!
//! Each number is summed in one order however many tokens a pass has, so a draft that is checked gets the very logits that
//! plain decoding would have had. Where nothing is checked, a pass over more tokens goes through [`wide`] instead.

mod maps;
mod wide;

use super::{
    cache::{KvCache, scorer::Watch},
    config::DecoderConfig,
    decoder::{Layer, Products},
    layers::Rope,
    memory::WIDE,
};
use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, CustomOp1, DType, Layout, Result, Shape, Tensor,
    backend::BackendStorage as _,
    bail,
    cuda_backend::{
        CudaDType, WrapErr as _,
        cudarc::driver::{CudaSlice, CudaStream, DevicePtr as _, DeviceRepr, result},
    },
};
use half::{bf16, f16};
use maps::{Kernels, Kind, LayerAt, MapAt, PartAt, Product, address, layer};
use spotter_vision::nn::card::{Argument, FEW, Graph, blocks, half_name, tall};
use std::sync::{Mutex, PoisonError};
use wide::Wide;

/// Slots of a block of the attention kernel.
const CHUNK: usize = 64;
/// Rows of queries of a block of the attention kernel.
const SHARE: usize = 32;
/// Rows of queries of a key head from which on a kernel of their own puts their parts together; for fewer the last block does.
const APART: usize = 16;
/// Numbers of [`Held::state`].
const STATE: usize = 1 + if WIDE > 3 * FEW { WIDE } else { 3 * FEW };
/// Graphs that are kept; the one that was used longest ago makes room.
const GRAPHS: usize = 48;

fn at<T>(slice: &CudaSlice<T>, stream: &CudaStream) -> u64 {
    slice.device_ptr(stream).0
}

/// Sizes that the kernels are told.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    width: usize,
    mlp: usize,
    heads: usize,
    kv: usize,
    dim: usize,
    eps: f32,
    residual: f32,
    /// On products of queries and keys.
    scale: f32,
    positions: usize,
    window: Option<usize>,
}

/// All layers of a decoder.
pub(super) struct Express {
    layers: Vec<LayerAt>,
    sizes: Sizes,
    /// Addresses of cosines and sines.
    rope: (u64, u64),
    dtype: DType,
    /// What passes over more tokens need.
    wide: Wide,
    held: Mutex<Held>,
}

/// Memory that stays where it is.
struct Held {
    /// What enters the layers and what leaves them, `[WIDE, width]`.
    x: CudaSlice<u16>,
    qkv: CudaSlice<u16>,
    mixed: CudaSlice<u16>,
    inner: CudaSlice<u16>,
    /// Entries held; positions of the new columns; what of the new columns each of them sees, where they are few.
    state: CudaSlice<u32>,
    tickets: CudaSlice<u32>,
    /// What blocks of the attention kernel leave each other.
    parts: CudaSlice<f32>,
    graphs: Vec<Captured>,
    used: u64,
    /// Columns of wide passes so far.
    met: Vec<usize>,
}

/// A graph and what it was made for.
struct Captured {
    columns: usize,
    wide: bool,
    /// Of the cache, layer by layer.
    keys: Vec<(u64, u64)>,
    rows: usize,
    graph: Graph,
    used: u64,
}

/// A pass: what the card is told of it.
pub(super) struct Step<'a> {
    /// It goes through [`wide`].
    wide: bool,
    /// Position of each new column.
    positions: &'a [u32],
    /// The new columns that each of them sees, as bits; nothing where they are a chain of many.
    sees: Vec<u64>,
    len: usize,
    /// Addresses of keys and values, layer by layer.
    keys: Vec<(u64, u64)>,
    rows: usize,
}

impl Express {
    /// For the layers of a decoder, where kernels are made for them.
    ///
    /// # Errors
    /// Those of the device.
    pub(super) fn new(
        cfg: &DecoderConfig,
        layers: &[Layer],
        rope: &Rope,
        dtype: DType,
        dev: &CudaDevice,
    ) -> Result<Option<Self>> {
        let (qkv, inner) = ((cfg.heads + 2 * cfg.kv_heads) * cfg.head_dim, cfg.heads * cfg.head_dim);
        let whole = [cfg.width, inner, cfg.mlp_width].iter().all(|n| n.is_multiple_of(32));
        if half_name(dtype).is_none() || !whole || ![64, 128].contains(&cfg.head_dim) {
            return Ok(None);
        }
        let Some(layers) = layers.iter().map(|l| layer(l, dtype, dev)).collect::<Result<Option<Vec<_>>>>()? else {
            return Ok(None);
        };
        let wide = Wide::new(cfg, &layers, dev)?;
        let (cos, sin) = rope.tables();
        let root = 1.0 / (cfg.head_dim as f64).sqrt();
        let held = Held {
            x: dev.alloc_zeros(WIDE * cfg.width)?,
            qkv: dev.alloc_zeros(WIDE * qkv)?,
            mixed: dev.alloc_zeros(WIDE * inner)?,
            inner: dev.alloc_zeros(WIDE * cfg.mlp_width)?,
            state: dev.alloc_zeros(STATE)?,
            tickets: dev.alloc_zeros(cfg.kv_heads)?,
            parts: dev.alloc_zeros(1)?,
            graphs: Vec::new(),
            used: 0,
            met: Vec::new(),
        };
        Ok(Some(Self {
            layers,
            sizes: Sizes {
                width: cfg.width,
                mlp: cfg.mlp_width,
                heads: cfg.heads,
                kv: cfg.kv_heads,
                dim: cfg.head_dim,
                eps: cfg.norm_eps as f32,
                residual: cfg.multipliers.residual as f32,
                scale: cfg.multipliers.attention.unwrap_or(root) as f32,
                positions: cfg.max_positions,
                window: cfg.window,
            },
            rope: (address(cos)?, address(sin)?),
            dtype,
            wide,
            held: Mutex::new(held),
        }))
    }

    /// What leaves the last layer, `[1, n, width]`, for what enters the first; `None` where this pass is not one for it: many
    /// columns, a cache whose policy watches attention or of another type, a window that hides something, a tree that does not
    /// see all that came before it.
    ///
    /// # Errors
    /// Those of the device.
    pub(super) fn pass(
        &self,
        x: &Tensor,
        positions: &[u32],
        cache: &mut KvCache,
        products: Products,
    ) -> Result<Option<Tensor>> {
        let (n, len) = (positions.len(), cache.len());
        let wide = products == Products::Fastest && n > self.wide.narrow();
        let fits = n <= if wide { WIDE } else { FEW }
            && x.dtype() == self.dtype
            && positions.iter().all(|p| (*p as usize) < self.sizes.positions)
            && self.sizes.window.is_none_or(|w| cache.is_contiguous() && len + n <= w);
        if !fits {
            return Ok(None);
        }
        let Some(mut sees) = cache.fresh_seen(n) else { return Ok(None) };
        if n > FEW {
            sees.clear();
        }
        let mut keys = Vec::with_capacity(self.layers.len());
        let mut rows = 0;
        for layer in cache.layers_mut() {
            let (k, v) = layer.buffers();
            if layer.watch() != Watch::default() || k.dtype() != self.dtype || v.dtype() != self.dtype {
                return Ok(None);
            }
            keys.push((address(k)?, address(v)?));
            rows = layer.rows();
        }
        let step = Step { wide, positions, sees, len, keys, rows };
        x.contiguous()?.apply_op1_no_bwd(&Pass { express: self, step: &step }).map(Some)
    }

    /// Queues all layers over what lies in `held`.
    fn enqueue(&self, held: &Held, step: &Step<'_>, kernels: &Kernels<'_>, stream: &CudaStream) -> Result<()> {
        if step.wide {
            return self.enqueue_wide(held, step, kernels, stream);
        }
        let Sizes { width, mlp, heads, dim, residual, .. } = self.sizes;
        let n = step.positions.len();
        let [x, qkv, mixed, inner] = [&held.x, &held.qkv, &held.mixed, &held.inner].map(|s| at(s, stream));
        for (layer, (keys, values)) in self.layers.iter().zip(&step.keys) {
            let read = Product { x, gain: layer.attention_gain, add: 0, y: qkv, width, scale: 1.0 };
            self.linear(kernels, Kind::Plain, &layer.qkv, read, n)?;
            self.attend(kernels, held, [qkv, *keys, *values, mixed], step, stream)?;
            let back = Product { x: mixed, gain: 0, add: x, y: x, width: heads * dim, scale: residual };
            self.linear(kernels, Kind::Plain, &layer.out, back, n)?;
            let up = Product { x, gain: layer.mlp_gain, add: 0, y: inner, width, scale: 1.0 };
            self.linear(kernels, Kind::Gated, &layer.up, up, n)?;
            let down = Product { x: inner, gain: 0, add: x, y: x, width: mlp, scale: residual };
            self.linear(kernels, Kind::Plain, &layer.down, down, n)?;
        }
        Ok(())
    }

    /// Rotation, the cache and attention of one layer: `qkv` to `mixed`.
    fn attend(
        &self,
        kernels: &Kernels<'_>,
        held: &Held,
        [qkv, keys, values, mixed]: [u64; 4],
        step: &Step<'_>,
        stream: &CudaStream,
    ) -> Result<()> {
        let Sizes { heads, kv, dim, scale, .. } = &self.sizes;
        let (n, chunks) = (step.positions.len(), step.rows.div_ceil(CHUNK));
        let rows = n * heads / kv;
        let (state, parts, tickets) = (at(&held.state, stream), at(&held.parts, stream), at(&held.tickets, stream));
        let tickets = if rows < APART { tickets } else { 0 };
        let [h, k, count, capacity, most] = [*heads, *kv, n, step.rows, chunks].map(|n| n as i32);
        let (cos, sin) = &self.rope;
        let mut grid = blocks([chunks, *kv], [128, 1], 0);
        grid.grid_dim.2 = rows.div_ceil(SHARE) as u32;
        // SAFETY: the kernel's own arguments; keys and values are [kv, rows, dim], `parts` was made for this grid.
        unsafe {
            kernels.attend.launch_early(
                grid,
                &[&qkv, cos, sin, &keys, &values, &state, &parts, &tickets, &mixed, &h, &k, &count, &capacity, scale],
            )
        }?;
        if rows < APART {
            return Ok(());
        }
        // SAFETY: the kernel's own arguments; `parts` are those of the kernel before.
        unsafe {
            let grid = blocks([rows, *kv], [*dim as u32, 1], 0);
            kernels.combine.launch_early(grid, &[&state, &parts, &mixed, &h, &k, &count, &most])
        }
    }

    fn linear(&self, kernels: &Kernels<'_>, kind: Kind, map: &MapAt, product: Product, n: usize) -> Result<()> {
        let Product { x, gain, add, y, width, scale } = product;
        // Outputs of a block where it is not taller.
        let share = if kind == Kind::Plain { 16 } else { 8 };
        for part in &map.parts {
            let [inputs, outputs, across, count] = [width, part.outputs, map.outputs, n].map(|n| n as i32);
            let beyond = (part.first * self.dtype.size_in_bytes()) as u64;
            let (y, add) = (y + beyond, if add == 0 { 0 } else { add + beyond });
            let PartAt { weight, factors, bias, .. } = part;
            let mut arguments: Vec<&dyn Argument> = vec![&x, &gain, weight];
            if part.kind.is_some() {
                arguments.push(factors);
            }
            arguments.extend([bias as &dyn Argument, &add, &y, &inputs, &outputs, &across, &count]);
            arguments.extend([&self.sizes.eps as &dyn Argument, &scale]);
            let grid = blocks([part.outputs.div_ceil(share * tall(n)), 1], [256, 1], 0);
            // SAFETY: the kernel's own arguments; addresses are of this decoder's weights and of `held`, as large as `FEW` rows.
            unsafe { kernels.map(kind, part.kind)?.launch_early(grid, &arguments) }?;
        }
        Ok(())
    }

    fn run(&self, x: u64, step: &Step<'_>, dev: &CudaDevice) -> Result<u64> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let held = &mut *held;
        let (n, stream) = (step.positions.len(), dev.cuda_stream());
        let bytes = n * self.sizes.width * self.dtype.size_in_bytes();
        let inside = at(&held.x, &stream);
        // SAFETY: both have `n` rows.
        unsafe { result::memcpy_dtod_async(inside, x, bytes, stream.cu_stream()) }.w()?;
        let mut state = vec![0u32; 1 + n.max(3 * FEW)];
        let len = [step.len as u32];
        let (low, high): (Vec<_>, Vec<_>) = step.sees.iter().map(|bits| (*bits as u32, (bits >> 32) as u32)).unzip();
        let told = [(0, len.as_slice()), (1, step.positions), (1 + FEW, &low), (1 + 2 * FEW, &high)];
        for (from, values) in told {
            state.iter_mut().skip(from).zip(values).for_each(|(to, v)| *to = *v);
        }
        stream.memcpy_htod(&state, &mut held.state).w()?;
        held.used += 1;
        let known = held
            .graphs
            .iter_mut()
            .find(|g| g.columns == n && g.wide == step.wide && g.rows == step.rows && g.keys == step.keys);
        if let Some(known) = known {
            known.used = held.used;
            known.graph.launch()?;
            return Ok(inside);
        }
        let Sizes { heads, kv, dim, .. } = self.sizes;
        let shares = if step.wide { self.wide.shares(&self.sizes, n, step.rows) } else { step.rows.div_ceil(CHUNK) };
        let parts = heads * n * shares * (dim + 2);
        if held.parts.len() < parts {
            // Graphs know the old place.
            held.graphs.clear();
            held.parts = dev.alloc_zeros(parts)?;
        }
        let kernels = Kernels::new(self.dtype, n, (dim, heads / kv), dev)?;
        if step.wide && !held.met.contains(&n) {
            // Prompts come once: the first pass of a length is no graph.
            held.met.push(n);
            self.enqueue(held, step, &kernels, &stream)?;
            return Ok(inside);
        }
        let Some(graph) = Graph::captured(dev, || self.enqueue(held, step, &kernels, &stream))? else {
            // Another thread may have done what no capture outlives: this step goes without a graph, the next tries again.
            self.enqueue(held, step, &kernels, &stream)?;
            return Ok(inside);
        };
        graph.launch()?;
        if held.graphs.len() >= GRAPHS
            && let Some(oldest) = held.graphs.iter().enumerate().min_by_key(|(_, g)| g.used).map(|(i, _)| i)
        {
            held.graphs.swap_remove(oldest);
        }
        let (keys, rows, used) = (step.keys.clone(), step.rows, held.used);
        held.graphs.push(Captured { columns: n, wide: step.wide, keys, rows, graph, used });
        Ok(inside)
    }
}

struct Pass<'a> {
    express: &'a Express,
    step: &'a Step<'a>,
}

impl Pass<'_> {
    fn go<T: CudaDType + DeviceRepr>(&self, storage: &CudaStorage, layout: &Layout) -> Result<CudaStorage> {
        let (dev, stream) = (&storage.device, storage.device.cuda_stream());
        let count = layout.shape().elem_count();
        let start = storage.as_cuda_slice::<T>()?.slice(layout.start_offset()..);
        let inside = self.express.run(start.device_ptr(&stream).0, self.step, dev)?;
        // SAFETY: filled by the copy below.
        let y = unsafe { dev.alloc::<T>(count)? };
        // SAFETY: the memory of `x` has as many rows.
        unsafe {
            result::memcpy_dtod_async(y.device_ptr(&stream).0, inside, count * size_of::<T>(), stream.cu_stream())
        }
        .w()?;
        Ok(CudaStorage::wrap_cuda_slice(y, dev.clone()))
    }
}

impl CustomOp1 for Pass<'_> {
    fn name(&self) -> &'static str {
        "decoder-layers"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("{} is a graph of cards", self.name())
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let y = match storage.dtype() {
            DType::F16 => self.go::<f16>(storage, layout)?,
            DType::BF16 => self.go::<bf16>(storage, layout)?,
            other => bail!("a step on a card computes in f16 or bf16, not {other:?}"),
        };
        Ok((y, layout.shape().clone()))
    }
}

#[cfg(test)]
mod tests;
