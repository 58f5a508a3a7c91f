//! The tensors of files under the names of a published checkpoint, read when they are asked for.

use super::{Gguf, GgufError, TensorEntry, names::DECODER};
use crate::{
    model::{DecoderConfig, memory::Place as On},
    quantised::{Format, Instructions},
    weights::TensorInfo,
};
use candle_core::{DType, Device, Result, Shape, Tensor, bail, quantized::ggml_file::qtensor_from_ggml};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};
use std::{collections::BTreeMap, sync::Arc};

/// A tensor of a file.
#[derive(Debug)]
struct Place {
    file: Arc<Gguf>,
    entry: TensorEntry,
    /// Heads whose rows the file has in llama.cpp's order.
    heads: Option<usize>,
    /// What reads it multiplies packed weights.
    packs: bool,
}

/// Tensors of one file or several by the names of a checkpoint.
#[derive(Debug, Default)]
pub(crate) struct Tensors {
    places: BTreeMap<String, Place>,
}

/// All weights of the decoder, named as in a published checkpoint (`model.*`, `lm_head.weight`). For f32 on a processor with AVX2 or NEON, and for
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
    let mut tensors = Tensors::default();
    tensors.add_decoder(file, config, "model.", "lm_head.")?;
    Ok(Arc::new(tensors).var_builder(dtype, device))
}

impl Tensors {
    /// A decoder's, under the prefixes of its body and its head, which end in a dot.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape than the numbers say.
    pub(super) fn add_decoder(
        &mut self,
        file: &Arc<Gguf>,
        config: &DecoderConfig,
        body: &str,
        head: &str,
    ) -> std::result::Result<(), GgufError> {
        let (w, m) = (config.width, config.mlp_width);
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let turned = file.text("general.architecture") == Ok("llama");
        let mut add = |from: &str, to: String, shape: &[usize], heads| self.add(file, from, to, shape, heads, true);
        add("token_embd.weight", format!("{body}embed_tokens.weight"), &[config.vocab, w], None)?;
        add("output_norm.weight", format!("{body}norm.weight"), &[w], None)?;
        if !config.tied {
            add("output.weight", format!("{head}weight"), &[config.vocab, w], None)?;
        }
        for layer in 0..config.layers {
            for &(from, to) in DECODER.parts {
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
                let name = |kind: &str| format!("{body}layers.{layer}.{to}.{kind}");
                add(&format!("blk.{layer}.{from}.weight"), name("weight"), shape, heads)?;
                if config.qkv_bias && ["attn_q", "attn_k", "attn_v"].contains(&from) {
                    let bias = shape.get(..1).unwrap_or_default();
                    add(&format!("blk.{layer}.{from}.bias"), name("bias"), bias, None)?;
                }
            }
        }
        Ok(())
    }

    /// A tensor `from` of a file as `to`.
    ///
    /// # Errors
    /// It is missing or has another shape.
    pub(super) fn add(
        &mut self,
        file: &Arc<Gguf>,
        from: &str,
        to: String,
        shape: &[usize],
        heads: Option<usize>,
        packs: bool,
    ) -> std::result::Result<(), GgufError> {
        let Some(entry) = file.tensors().get(from) else {
            return Err(file.error(format!("tensor {from}: expected shape {shape:?}, found no such tensor")));
        };
        if entry.shape != shape {
            return Err(file.error(format!("tensor {from}: expected shape {shape:?}, found {:?}", entry.shape)));
        }
        self.places.insert(to, Place { file: file.clone(), entry: entry.clone(), heads, packs });
        Ok(())
    }

    /// All of them, to build a model of.
    pub(crate) fn var_builder(self: &Arc<Self>, dtype: DType, device: &Device) -> VarBuilder<'static> {
        let on = On::of(device);
        let source = Source { tensors: self.clone(), on, packed: packed(dtype, on) };
        VarBuilder::from_backend(Box::new(source), dtype, device.clone())
    }

    /// What lies in the files, by name.
    pub(crate) fn infos(&self) -> BTreeMap<String, TensorInfo> {
        let info = |entry: &TensorEntry| TensorInfo {
            shape: entry.shape.clone(),
            stored: format!("{:?}", entry.dtype).to_uppercase(),
            bytes: entry.bytes,
            start: 0,
            file: 0,
        };
        self.places.iter().map(|(name, place)| (name.clone(), info(&place.entry))).collect()
    }

    /// Bytes of a tensor that stays packed when it is loaded; nothing for one that does not.
    pub(crate) fn packed_bytes(&self, name: &str, dtype: DType, on: On) -> Option<usize> {
        let place = self.places.get(name).filter(|place| packed(dtype, on) && place.format(on).is_some())?;
        Some(place.entry.bytes)
    }
}

/// Whether weights stay packed.
fn packed(dtype: DType, on: On) -> bool {
    match on {
        On::Processor => dtype == DType::F32 && Instructions::best() != Instructions::Scalar,
        On::Cuda => matches!(dtype, DType::F16 | DType::BF16),
        On::Metal => false,
    }
}

impl Place {
    /// How its products are computed while it is packed. A card computes with half types anyway.
    fn format(&self, on: On) -> Option<Format> {
        let format = Format::of(self.entry.dtype).filter(|_| self.packs && self.entry.shape.len() == 2)?;
        (on == On::Processor || !matches!(format, Format::F16 | Format::Bf16)).then_some(format)
    }

    fn load(&self, dtype: DType, device: &Device) -> Result<Tensor> {
        let entry = &self.entry;
        let packed = qtensor_from_ggml(entry.dtype, self.file.data(entry), entry.shape.clone(), &Device::Cpu)?;
        let mut floats = packed.dequantize(&Device::Cpu)?;
        if let Some(heads) = self.heads {
            floats = halves(&floats, heads)?;
        }
        self.file.give_back(entry);
        floats.to_dtype(dtype)?.to_device(device)
    }

    /// The bytes of a tensor, row by row: u8 `[rows, bytes of a row]`.
    fn rows(&self) -> Result<Tensor> {
        let (entry, bytes) = (&self.entry, self.file.data(&self.entry));
        let rows = entry.shape.first().copied().unwrap_or(0).max(1);
        let mut tensor = Tensor::from_slice(bytes, (rows, bytes.len() / rows), &Device::Cpu)?;
        if let Some(heads) = self.heads {
            tensor = halves(&tensor, heads)?;
        }
        self.file.give_back(entry);
        Ok(tensor)
    }
}

struct Source {
    tensors: Arc<Tensors>,
    on: On,
    /// Weights are given packed, where their products are computed so.
    packed: bool,
}

impl Source {
    /// A tensor that is there packed in just this format: `NAME:FORMAT`.
    fn packed(&self, name: &str) -> Option<&Place> {
        let (name, format) = name.rsplit_once(':')?;
        let place = self.tensors.places.get(name)?;
        (self.packed && place.format(self.on)?.name() == format).then_some(place)
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
        let of = |place: &Place, found: Result<Tensor>| {
            found.map_err(|e| candle_core::Error::Msg(format!("{}: tensor {name}: {e}", place.file.path().display())))
        };
        match (self.tensors.places.get(name), self.packed(name)) {
            (Some(place), _) => of(place, place.load(dtype, device)),
            (None, Some(place)) => of(place, place.rows()),
            (None, None) => bail!("there is no tensor for `{name}`"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.tensors.places.contains_key(name) || self.packed(name).is_some()
    }
}

/// Rows of each head from `a0 b0 a1 b1 ..` to `a0 a1 .. b0 b1 ..`.
fn halves(weight: &Tensor, heads: usize) -> Result<Tensor> {
    let (rows, width) = weight.dims2()?;
    weight.reshape((heads, rows / heads / 2, 2, width))?.transpose(1, 2)?.contiguous()?.reshape((rows, width))
}
