//! From the names and numbers of llama.cpp to those of the published checkpoints.

use super::{Gguf, GgufError};
use crate::model::{DecoderConfig, HfDecoderConfig};
use candle_core::{DType, Device, Tensor, quantized::ggml_file::qtensor_from_ggml};
use std::collections::HashMap;

/// Names of a layer's parts: in a GGUF file, and in a checkpoint.
const LAYER: [(&str, &str); 9] = [
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The decoder that a file describes. `llama` (Llama, Mistral, SmolLM) and `qwen2` are read.
///
/// # Errors
/// Another architecture, or a number that is missing or makes no decoder.
pub fn decoder_config(file: &Gguf) -> Result<DecoderConfig, GgufError> {
    let arch = file.text("general.architecture")?;
    if !["llama", "qwen2"].contains(&arch) {
        return Err(file.error(format!("general.architecture: expected llama or qwen2, found `{arch}`")));
    }
    if file.tensors().contains_key("rope_freqs.weight") {
        return Err(file.error("tensor rope_freqs.weight: files with frequencies of their own are not read yet"));
    }
    let key = |name: &str| format!("{arch}.{name}");
    let width = file.size(&key("embedding_length"))?;
    let heads = file.size(&key("attention.head_count"))?;
    let embedding = file.tensors().get("token_embd.weight");
    let vocab = embedding.and_then(|e| e.shape.first().copied());
    let theta = file.metadata().contains_key(&key("rope.freq_base")).then(|| file.float(&key("rope.freq_base")));
    let token = |name: &str| -> Result<Option<u32>, GgufError> {
        Ok(file.size_if_present(&format!("tokenizer.ggml.{name}"))?.and_then(|id| u32::try_from(id).ok()))
    };
    let hf = HfDecoderConfig {
        model_type: Some(arch.to_owned()),
        vocab_size: vocab,
        hidden_size: Some(width),
        intermediate_size: Some(file.size(&key("feed_forward_length"))?),
        num_hidden_layers: Some(file.size(&key("block_count"))?),
        num_attention_heads: Some(heads),
        num_key_value_heads: Some(file.size_if_present(&key("attention.head_count_kv"))?.unwrap_or(heads)),
        head_dim: file.size_if_present(&key("attention.key_length"))?,
        max_position_embeddings: Some(file.size(&key("context_length"))?),
        rms_norm_eps: Some(file.float(&key("attention.layer_norm_rms_epsilon"))?),
        rope_theta: theta.transpose()?,
        tie_word_embeddings: Some(!file.tensors().contains_key("output.weight")),
        bos_token_id: token("bos_token_id")?,
        ..HfDecoderConfig::default()
    };
    let mut config = DecoderConfig::from_hf(&hf, "").map_err(|e| file.error(e.to_string()))?;
    config.eos = token("eos_token_id")?.into_iter().collect();
    Ok(config)
}

/// All tensors of the decoder in `dtype`, named as in a published checkpoint (`model.*`, `lm_head.weight`).
///
/// # Errors
/// A tensor that is missing or has another shape than the numbers say, or one of the device.
pub fn decoder_tensors(
    file: &Gguf,
    config: &DecoderConfig,
    dtype: DType,
    device: &Device,
) -> Result<HashMap<String, Tensor>, GgufError> {
    let mut tensors = HashMap::new();
    let mut add = |from: &str, to: String, shape: &[usize]| -> Result<(), GgufError> {
        tensors.insert(to, load(file, config, from, shape, dtype, device)?);
        Ok(())
    };
    let (w, m) = (config.width, config.mlp_width);
    let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    add("token_embd.weight", "model.embed_tokens.weight".into(), &[config.vocab, w])?;
    add("output_norm.weight", "model.norm.weight".into(), &[w])?;
    if !config.tied {
        add("output.weight", "lm_head.weight".into(), &[config.vocab, w])?;
    }
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
            add(&format!("blk.{layer}.{from}.weight"), format!("model.layers.{layer}.{to}.weight"), shape)?;
            if config.qkv_bias && ["attn_q", "attn_k", "attn_v"].contains(&from) {
                let bias = shape.first().copied().unwrap_or(0);
                add(&format!("blk.{layer}.{from}.bias"), format!("model.layers.{layer}.{to}.bias"), &[bias])?;
            }
        }
    }
    Ok(tensors)
}

fn load(
    file: &Gguf,
    config: &DecoderConfig,
    name: &str,
    shape: &[usize],
    dtype: DType,
    device: &Device,
) -> Result<Tensor, GgufError> {
    let Some(entry) = file.tensors().get(name) else {
        return Err(file.error(format!("tensor {name}: expected shape {shape:?}, found no such tensor")));
    };
    if entry.shape != shape {
        return Err(file.error(format!("tensor {name}: expected shape {shape:?}, found {:?}", entry.shape)));
    }
    let unpack = || -> candle_core::Result<Tensor> {
        let packed = qtensor_from_ggml(entry.dtype, file.data(entry), shape.to_vec(), &Device::Cpu)?;
        let floats = packed.dequantize(&Device::Cpu)?;
        // llama.cpp turns neighbours, the checkpoints turn halves; its `llama` files are reordered for that.
        let heads = match (name.rsplit('.').nth(1), file.text("general.architecture")) {
            (Some("attn_q"), Ok("llama")) => Some(config.heads),
            (Some("attn_k"), Ok("llama")) => Some(config.kv_heads),
            _ => None,
        };
        let floats = match heads {
            Some(heads) => halves(&floats, heads)?,
            None => floats,
        };
        floats.to_dtype(dtype)?.to_device(device)
    };
    unpack().map_err(|e| file.error(format!("tensor {name}: {e}")))
}

/// Rows of each head from `a0 b0 a1 b1 ..` to `a0 a1 .. b0 b1 ..`.
fn halves(weight: &Tensor, heads: usize) -> candle_core::Result<Tensor> {
    let (rows, width) = weight.dims2()?;
    weight.reshape((heads, rows / heads / 2, 2, width))?.transpose(1, 2)?.contiguous()?.reshape((rows, width))
}
