//! The tensors of a file under the names of a published checkpoint, read when they are asked for.

use super::{Gguf, GgufError, TensorEntry, model::LAYER};
use crate::{
    model::DecoderConfig,
    quantised::{Format, Instructions},
};
use candle_core::{DType, Device, Result, Shape, Tensor, bail, quantized::ggml_file::qtensor_from_ggml};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};
use std::{collections::HashMap, sync::Arc};

/// A tensor of the file.
struct Place {
    entry: TensorEntry,
    /// Heads whose rows the file has in llama.cpp's order.
    heads: Option<usize>,
}

struct Source {
    file: Arc<Gguf>,
    places: HashMap<String, Place>,
    /// Weights are given packed, where their products are computed so.
    packed: bool,
}

/// All weights of the decoder, named as in a published checkpoint (`model.*`, `lm_head.weight`). For f32 on a processor with AVX2, and for
/// half types on a card, those whose products [`crate::quantised`] computes are there packed as well; without, unpacked weights are faster.
///
/// # Errors
/// A tensor that is missing or has another shape than the numbers say.
pub fn decoder_weights(
    file: &Arc<Gguf>,
    config: &DecoderConfig,
    dtype: DType,
    device: &Device,
) -> std::result::Result<VarBuilder<'static>, GgufError> {
    let packed = match device {
        Device::Cpu => dtype == DType::F32 && Instructions::best() != Instructions::Scalar,
        Device::Cuda(_) => matches!(dtype, DType::F16 | DType::BF16),
        Device::Metal(_) => false,
    };
    let mut source = Source { file: file.clone(), places: HashMap::new(), packed };
    let (w, m) = (config.width, config.mlp_width);
    let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    source.add("token_embd.weight", "model.embed_tokens.weight".into(), &[config.vocab, w], None)?;
    source.add("output_norm.weight", "model.norm.weight".into(), &[w], None)?;
    if !config.tied {
        source.add("output.weight", "lm_head.weight".into(), &[config.vocab, w], None)?;
    }
    let turned = file.text("general.architecture") == Ok("llama");
    for layer in 0..config.layers {
        for (from, to) in LAYER {
            let shape: &[usize] = match from {
                "attn_q" => &[q, w],
                "attn_k" | "attn_v" => &[kv, w],
                "attn_output" => &[w, q],
                "ffn_gate" | "ffn_up" => &[m, w],
                "ffn_down" => &[w, m],
                _ => &[w],
            };
            // llama.cpp turns neighbours, the checkpoints turn halves; its `llama` files are reordered for that.
            let heads = match from {
                "attn_q" if turned => Some(config.heads),
                "attn_k" if turned => Some(config.kv_heads),
                _ => None,
            };
            source.add(
                &format!("blk.{layer}.{from}.weight"),
                format!("model.layers.{layer}.{to}.weight"),
                shape,
                heads,
            )?;
            if config.qkv_bias && ["attn_q", "attn_k", "attn_v"].contains(&from) {
                let bias = shape.get(..1).unwrap_or_default();
                let name = format!("model.layers.{layer}.{to}.bias");
                source.add(&format!("blk.{layer}.{from}.bias"), name, bias, None)?;
            }
        }
    }
    Ok(VarBuilder::from_backend(Box::new(source), dtype, device.clone()))
}

impl Source {
    fn add(
        &mut self,
        from: &str,
        to: String,
        shape: &[usize],
        heads: Option<usize>,
    ) -> std::result::Result<(), GgufError> {
        let Some(entry) = self.file.tensors().get(from) else {
            return Err(self.file.error(format!("tensor {from}: expected shape {shape:?}, found no such tensor")));
        };
        if entry.shape != shape {
            return Err(self.file.error(format!("tensor {from}: expected shape {shape:?}, found {:?}", entry.shape)));
        }
        self.places.insert(to, Place { entry: entry.clone(), heads });
        Ok(())
    }

    /// A tensor that is there packed in just this format: `NAME:FORMAT`.
    fn packed(&self, name: &str) -> Option<&Place> {
        let (name, format) = name.rsplit_once(':')?;
        let place = self.places.get(name)?;
        let found = Format::of(place.entry.dtype)?;
        (self.packed && found.name() == format && place.entry.shape.len() == 2).then_some(place)
    }

    fn load(&self, place: &Place, dtype: DType, device: &Device) -> Result<Tensor> {
        let entry = &place.entry;
        let packed = qtensor_from_ggml(entry.dtype, self.file.data(entry), entry.shape.clone(), &Device::Cpu)?;
        let mut floats = packed.dequantize(&Device::Cpu)?;
        if let Some(heads) = place.heads {
            floats = halves(&floats, heads)?;
        }
        self.file.give_back(entry);
        floats.to_dtype(dtype)?.to_device(device)
    }

    /// The bytes of a tensor, row by row: u8 `[rows, bytes of a row]`.
    fn rows(&self, place: &Place) -> Result<Tensor> {
        let (entry, bytes) = (&place.entry, self.file.data(&place.entry));
        let rows = entry.shape.first().copied().unwrap_or(0).max(1);
        let mut tensor = Tensor::from_slice(bytes, (rows, bytes.len() / rows), &Device::Cpu)?;
        if let Some(heads) = place.heads {
            tensor = halves(&tensor, heads)?;
        }
        self.file.give_back(entry);
        Ok(tensor)
    }
}

impl SimpleBackend for Source {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let tensor = self.get_unchecked(name, dtype, device)?;
        if tensor.shape() != &shape {
            bail!("tensor `{name}`: expected shape {shape:?}, found {:?}", tensor.shape());
        }
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let broken = |e: candle_core::Error| {
            candle_core::Error::Msg(format!("{}: tensor {name}: {e}", self.file.path().display()))
        };
        match (self.places.get(name), self.packed(name)) {
            (Some(place), _) => self.load(place, dtype, device).map_err(broken),
            (None, Some(place)) => self.rows(place).map_err(broken),
            (None, None) => bail!("{}: there is no tensor for `{name}`", self.file.path().display()),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.places.contains_key(name) || self.packed(name).is_some()
    }
}

/// Rows of each head from `a0 b0 a1 b1 ..` to `a0 a1 .. b0 b1 ..`.
fn halves(weight: &Tensor, heads: usize) -> Result<Tensor> {
    let (rows, width) = weight.dims2()?;
    weight.reshape((heads, rows / heads / 2, 2, width))?.transpose(1, 2)?.contiguous()?.reshape((rows, width))
}
