//! From the numbers of llama.cpp to those of the published checkpoints.

use super::{Gguf, GgufError, names::ROPE_FACTORS};
use crate::model::{
    DecoderConfig, HfDecoderConfig,
    rope::{HfRope, RopeScaling},
};
use candle_core::quantized::GgmlDType;

/// The decoder that a file describes. `llama` (Llama, Mistral, SmolLM) and `qwen2` are read.
///
/// # Errors
/// Another architecture, or a number that is missing or makes no decoder.
pub fn decoder_config(file: &Gguf) -> Result<DecoderConfig, GgufError> {
    let arch = file.text("general.architecture")?;
    if !["llama", "qwen2"].contains(&arch) {
        return Err(file.error(format!("general.architecture: expected llama or qwen2, found `{arch}`")));
    }
    let key = |name: &str| format!("{arch}.{name}");
    let width = file.size(&key("embedding_length"))?;
    let heads = file.size(&key("attention.head_count"))?;
    let head_dim = file.size_if_present(&key("attention.key_length"))?;
    let turned = head_dim.unwrap_or_else(|| width.checked_div(heads).unwrap_or(0));
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
        head_dim,
        max_position_embeddings: Some(file.size(&key("context_length"))?),
        rms_norm_eps: Some(file.float(&key("attention.layer_norm_rms_epsilon"))?),
        rope_theta: theta.transpose()?,
        rope_scaling: rope(file, arch, turned)?,
        tie_word_embeddings: Some(!file.tensors().contains_key("output.weight")),
        bos_token_id: token("bos_token_id")?,
        ..HfDecoderConfig::default()
    };
    let mut config = DecoderConfig::from_hf(&hf, "").map_err(|e| file.error(e.to_string()))?;
    config.eos = token("eos_token_id")?.into_iter().collect();
    Ok(config)
}

/// How the rotations of heads of `head_dim` numbers are stretched: by one number, or each pair by its own (Llama 3.1 and later).
fn rope(file: &Gguf, arch: &str, head_dim: usize) -> Result<Option<HfRope>, GgufError> {
    let key = |name: &str| format!("{arch}.rope.{name}");
    if let Some(turned) = file.size_if_present(&key("dimension_count"))?.filter(|turned| *turned != head_dim) {
        let what = key("dimension_count");
        return Err(file.error(format!("{what}: expected {head_dim}, all of a head's numbers, found {turned}")));
    }
    let kind = key("scaling.type");
    let names = [key("scaling.factor"), key("scale_linear")];
    let factor =
        names.iter().find(|name| file.metadata().contains_key(*name)).map(|name| file.float(name)).transpose()?;
    // Files of llama.cpp say 0 or 1 for positions as they are.
    let factor = match file.text_or(&kind, "linear")? {
        "none" => None,
        "linear" => factor.filter(|factor| ![0.0, 1.0].contains(factor)),
        other => return Err(file.error(format!("{kind}: expected none or linear, found `{other}`"))),
    };
    let Some(entry) = file.tensors().get(ROPE_FACTORS) else {
        let linear = |factor| HfRope { rope_type: Some("linear".into()), factor: Some(factor), ..HfRope::default() };
        return Ok(factor.map(linear));
    };
    if let Some(factor) = factor {
        return Err(file.error(format!("{}: expected none beside the tensor {ROPE_FACTORS}, found {factor}", names[0])));
    }
    if entry.shape != [head_dim / 2] || entry.dtype != GgmlDType::F32 {
        return Err(file.error(format!(
            "tensor {ROPE_FACTORS}: expected {} numbers in f32, half of a head's, found {:?} of shape {:?}",
            head_dim / 2,
            entry.dtype,
            entry.shape
        )));
    }
    let number = |bytes: &[u8]| bytes.try_into().map_or(f32::NAN, f32::from_le_bytes);
    let factors: Vec<f32> = file.data(entry).chunks_exact(4).map(number).collect();
    if let Some((expected, found)) = RopeScaling::Factors(factors.clone()).problem(head_dim) {
        return Err(file.error(format!("tensor {ROPE_FACTORS}: expected {expected}, found {found}")));
    }
    Ok(Some(HfRope { rope_type: Some("factors".into()), factors: Some(factors), ..HfRope::default() }))
}
