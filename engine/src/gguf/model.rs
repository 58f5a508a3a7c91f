//! From the names and numbers of llama.cpp to those of the published checkpoints.

use super::{Gguf, GgufError};
use crate::model::{DecoderConfig, HfDecoderConfig};

/// Names of what is not in a layer: in a GGUF file, and in a checkpoint.
pub(super) const DECODER: [(&str, &str); 3] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
];

/// Names of a layer's parts: in a GGUF file, and in a checkpoint.
pub(super) const LAYER: [(&str, &str); 9] = [
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
