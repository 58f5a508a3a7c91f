//! The tokenizer inside a file, as the `tokenizer.json` it was made from.

use super::{Gguf, GgufError, Value};
use crate::tokenizer::Tokenizer;
use serde_json::{Map, json};

/// Tokens of this kind are found as a whole in a text, and are no text themselves.
pub(super) const CONTROL: i64 = 3;
/// Tokens of this kind are found as a whole in a text.
pub(super) const USER_DEFINED: i64 = 4;

/// Names of ways to cut a text, one of each.
pub(super) const PRE_TOKENIZERS: [&str; 4] = ["gpt-2", "smollm", "qwen2", "llama-bpe"];

/// How a text is cut before byte pairs are merged, by the name llama.cpp has for it.
pub(super) fn pre_tokenizer(name: &str) -> Option<serde_json::Value> {
    let bytes =
        |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let split = |pattern: &str| {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false}, bytes(false)]})
    };
    Some(match name {
        "default" | "gpt-2" => bytes(true),
        "smollm" => json!({"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true}, bytes(true)]}),
        // Letters with what stands before them, numbers of at most so many digits, signs, line ends, spaces.
        "qwen2" => split(&words(r"\p{N}")),
        "llama-bpe" | "llama3" => split(&words(r"\p{N}{1,3}")),
        _ => return None,
    })
}

fn words(numbers: &str) -> String {
    let parts = [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        numbers,
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ];
    parts.join("|")
}

/// Reads the tokenizer: byte-level BPE, as SmolLM, Qwen2 and Llama 3 have it.
///
/// # Errors
/// Another kind, or lists that do not fit together.
pub fn tokenizer(file: &Gguf) -> Result<Tokenizer, GgufError> {
    let model = file.text("tokenizer.ggml.model")?;
    if model != "gpt2" {
        return Err(file.error(format!("tokenizer.ggml.model: expected gpt2 (byte-level BPE), found `{model}`")));
    }
    let pre =
        if file.metadata().contains_key("tokenizer.ggml.pre") { file.text("tokenizer.ggml.pre")? } else { "default" };
    let pre = pre_tokenizer(pre).ok_or_else(|| {
        file.error(format!("tokenizer.ggml.pre: expected default, gpt-2, smollm, qwen2 or llama-bpe, found `{pre}`"))
    })?;
    let tokens = file.texts("tokenizer.ggml.tokens")?;
    let merges = file.texts("tokenizer.ggml.merges")?;
    let kinds = match file.metadata().get("tokenizer.ggml.token_type") {
        Some(Value::Integers(kinds)) if kinds.len() == tokens.len() => kinds.as_slice(),
        None => &[],
        Some(_) => {
            return Err(file.error(format!("tokenizer.ggml.token_type: expected {} numbers", tokens.len())));
        }
    };
    let mut vocab = Map::new();
    let mut added = Vec::new();
    for (id, token) in tokens.iter().enumerate() {
        vocab.insert(token.clone(), id.into());
        let kind = kinds.get(id).copied().unwrap_or(1);
        if kind == CONTROL || kind == USER_DEFINED {
            added.push(json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": kind == CONTROL}));
        }
    }
    let json = json!({
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": pre,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    });
    Tokenizer::from_json(&json.to_string()).map_err(|e| file.error(format!("tokenizer: {e}")))
}
