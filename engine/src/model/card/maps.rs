//! Addresses of a decoder's weights on a card, and the kernels that read them.

use super::SHARE;
use crate::{
    model::{decoder::Layer, layers::Weight},
    quantised::card,
};
use candle_core::{
    CudaDevice, DType, Result, Storage, Tensor, backend::BackendStorage as _, bail,
    cuda_backend::cudarc::driver::DevicePtr as _,
};
use half::{bf16, f16};
use spotter_vision::nn::card::{Kernel, Module, half_name, tiles};

/// Addresses of what makes some outputs of a linear map.
#[derive(Clone, Copy, Debug)]
pub(super) struct PartAt {
    /// How they are packed; nothing for numbers.
    pub(super) kind: Option<card::Kind>,
    /// Numbers or codes, and factors.
    pub(super) weight: u64,
    pub(super) factors: u64,
    /// Where the bias begins; 0 for none.
    pub(super) bias: u64,
    pub(super) first: usize,
    pub(super) outputs: usize,
}

/// A linear map.
#[derive(Clone, Debug)]
pub(super) struct MapAt {
    pub(super) parts: Vec<PartAt>,
    pub(super) outputs: usize,
}

impl MapAt {
    pub(super) fn is_packed(&self) -> bool {
        self.parts.iter().any(|part| part.kind.is_some())
    }

    /// Where its bias begins; 0 for none.
    pub(super) fn bias(&self) -> u64 {
        self.parts.first().map_or(0, |part| part.bias)
    }
}

/// Addresses of a layer's weights.
#[derive(Clone, Debug)]
pub(super) struct LayerAt {
    pub(super) attention_gain: u64,
    pub(super) qkv: MapAt,
    pub(super) out: MapAt,
    pub(super) mlp_gain: u64,
    pub(super) up: MapAt,
    pub(super) down: MapAt,
}

/// Address of a tensor's first number.
pub(super) fn address(tensor: &Tensor) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else { bail!("a tensor is not on the card") };
    if !layout.is_contiguous() {
        bail!("a kernel expects a contiguous tensor");
    }
    let stream = storage.device.cuda_stream();
    let start = match storage.dtype() {
        DType::F16 => storage.as_cuda_slice::<f16>()?.device_ptr(&stream).0,
        DType::BF16 => storage.as_cuda_slice::<bf16>()?.device_ptr(&stream).0,
        other => bail!("a step on a card computes in f16 or bf16, not {other:?}"),
    };
    Ok(start + (layout.start_offset() * storage.dtype().size_in_bytes()) as u64)
}

/// Of one layer, where kernels are made for it.
pub(super) fn layer(layer: &Layer, dtype: DType, dev: &CudaDevice) -> Result<Option<LayerAt>> {
    let Some(parts) = layer.parts() else { return Ok(None) };
    let same = |t: &Tensor| t.dtype() == dtype;
    let map = |(weight, bias): (&Weight, Option<&Tensor>), gated: bool| -> Result<Option<MapAt>> {
        if weight.dtype() != dtype || !bias.is_none_or(same) {
            return Ok(None);
        }
        let bias = bias.map_or(Ok(0), address)?;
        let bias_from = |first: usize| if bias == 0 { 0 } else { bias + (first * dtype.size_in_bytes()) as u64 };
        let parts = match weight {
            Weight::Dense(weight) => {
                let outputs = weight.dim(0)? / if gated { 2 } else { 1 };
                vec![PartAt { kind: None, weight: address(weight)?, factors: 0, bias, first: 0, outputs }]
            }
            Weight::Card(weight) if weight.is_gated() == gated => {
                let part = |part: &card::Part| {
                    let ([weight, factors], first) = (part.addresses(dev), part.first);
                    let (kind, outputs) = (Some(part.kind), part.outputs(gated));
                    PartAt { kind, weight, factors, bias: bias_from(first), first, outputs }
                };
                weight.parts().iter().map(part).collect()
            }
            Weight::Card(_) | Weight::Packed(_) => return Ok(None),
        };
        let outputs = parts.iter().map(|part| part.outputs).sum();
        Ok(Some(MapAt { parts, outputs }))
    };
    let maps = (map(parts.qkv, false)?, map(parts.out, false)?, map(parts.up, true)?, map(parts.down, false)?);
    let (Some(qkv), Some(out), Some(up), Some(down)) = maps else { return Ok(None) };
    if !same(parts.attention_gain) || !same(parts.mlp_gain) {
        return Ok(None);
    }
    let (attention_gain, mlp_gain) = (address(parts.attention_gain)?, address(parts.mlp_gain)?);
    Ok(Some(LayerAt { attention_gain, qkv, out, mlp_gain, up, down }))
}

/// What a map does with its outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    /// The first half gates the second.
    Gated,
}

/// `y = add + scale * (norm(x) W + b)`, as addresses; 0 for none.
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub(super) x: u64,
    pub(super) gain: u64,
    pub(super) add: u64,
    pub(super) y: u64,
    pub(super) width: usize,
    pub(super) scale: f32,
}

/// The kernels of a pass.
pub(super) struct Kernels<'a> {
    pub(super) name: &'static str,
    tiles: usize,
    pub(super) dev: &'a CudaDevice,
    pub(super) attend: Kernel,
    pub(super) combine: Kernel,
}

impl<'a> Kernels<'a> {
    pub(super) fn new(dtype: DType, n: usize, (dim, group): (usize, usize), dev: &'a CudaDevice) -> Result<Self> {
        let Some(name) = half_name(dtype) else { bail!("a step on a card computes in f16 or bf16, not {dtype:?}") };
        let kernel = |text: String| Module::Attend.kernel(&text, dev);
        Ok(Self {
            name,
            tiles: tiles(n),
            dev,
            attend: kernel(format!("attend_{name}_{dim}_{}", tiles(n * group).min(SHARE / 8)))?,
            combine: kernel(format!("combine_{name}_{dim}"))?,
        })
    }

    pub(super) fn map(&self, kind: Kind, packed: Option<card::Kind>) -> Result<Kernel> {
        let map = if kind == Kind::Plain { "linear" } else { "gated" };
        let packed = packed.map_or_else(String::new, |packed| format!("{}_", packed.name()));
        Module::Map.kernel(&format!("{map}_{packed}{}_{}", self.name, self.tiles), self.dev)
    }
}
