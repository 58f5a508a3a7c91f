//! The tokenizer inside a file, as the `tokenizer.json` it was made from.

use super::{Gguf, GgufError, Value, sentence};
use crate::{
    prompt::{ChatTemplate, TemplateError},
    tokenizer::Tokenizer,
};
use serde_json::{Map, Value as Json, json};

/// Ordinary tokens.
pub(super) const NORMAL: i64 = 1;
/// Stands for what no token can be found for.
pub(super) const UNKNOWN: i64 = 2;
/// Tokens of this kind are found as a whole in a text, and are no text themselves.
pub(super) const CONTROL: i64 = 3;
/// Tokens of this kind are found as a whole in a text.
pub(super) const USER_DEFINED: i64 = 4;
/// A row of the embedding that stands for nothing.
pub(super) const UNUSED: i64 = 5;
/// One byte of a character that has no token.
pub(super) const BYTE: i64 = 6;

/// Names of ways to cut a text, one of each.
pub(super) const PRE_TOKENIZERS: [&str; 4] = ["gpt-2", "smollm", "qwen2", "llama-bpe"];

/// How a text is cut before byte pairs are merged, by the name llama.cpp has for it.
pub(super) fn pre_tokenizer(name: &str) -> Option<Json> {
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

/// Reads the tokenizer: byte-level BPE, as SmolLM, Qwen2 and Llama 3 have it, or SentencePiece's, as Llama 2, Vicuna and Mistral do.
///
/// # Errors
/// Another kind, or lists that do not fit together.
pub fn tokenizer(file: &Gguf) -> Result<Tokenizer, GgufError> {
    tokenizer_with(file, None)
}

/// The same with one more special token behind all others.
pub(crate) fn tokenizer_with(file: &Gguf, more: Option<&str>) -> Result<Tokenizer, GgufError> {
    let model = file.text("tokenizer.ggml.model")?;
    let tokens = file.texts("tokenizer.ggml.tokens")?;
    let kinds = match file.metadata().get("tokenizer.ggml.token_type") {
        Some(Value::Integers(kinds)) if kinds.len() == tokens.len() => kinds.as_slice(),
        None => &[],
        Some(_) => {
            return Err(file.error(format!("tokenizer.ggml.token_type: expected {} numbers", tokens.len())));
        }
    };
    let mut parts = match model {
        "gpt2" => byte_pairs(file)?,
        "llama" => sentence::parts(file, tokens, kinds)?,
        _ => {
            return Err(file.error(format!(
                "tokenizer.ggml.model: expected gpt2 (byte-level BPE) or llama (SentencePiece), found `{model}`"
            )));
        }
    };
    let mut vocab = Map::new();
    let mut added = Vec::new();
    let token = |id: usize, text: &str, special: bool| {
        json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": special})
    };
    for (id, text) in tokens.iter().enumerate() {
        vocab.insert(text.clone(), id.into());
        let kind = kinds.get(id).copied().unwrap_or(NORMAL);
        if [CONTROL, USER_DEFINED].contains(&kind) || (kind == UNKNOWN && model == "llama") {
            added.push(token(id, text, kind != USER_DEFINED));
        }
    }
    added.extend(more.map(|text| token(tokens.len(), text, true)));
    parts["model"]["vocab"] = Json::Object(vocab);
    parts["added_tokens"] = added.into();
    parts["post_processor"] = beginning(file, model, tokens)?;
    Tokenizer::from_json(&parts.to_string()).map_err(|e| file.error(format!("tokenizer: {e}")))
}

/// How byte-level BPE cuts and joins, without its vocabulary.
fn byte_pairs(file: &Gguf) -> Result<Json, GgufError> {
    let pre = pre_name(file)?;
    let pre = pre_tokenizer(pre).ok_or_else(|| {
        file.error(format!("tokenizer.ggml.pre: expected default, gpt-2, smollm, qwen2 or llama-bpe, found `{pre}`"))
    })?;
    let merges = file.texts("tokenizer.ggml.merges")?;
    Ok(json!({
        "version": "1.0",
        "pre_tokenizer": pre,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "merges": merges},
    }))
}

fn pre_name(file: &Gguf) -> Result<&str, GgufError> {
    if file.metadata().contains_key("tokenizer.ggml.pre") { file.text("tokenizer.ggml.pre") } else { Ok("default") }
}

/// What is put before a text: the token that begins one, where the file says so or, as llama.cpp has it, says nothing.
fn beginning(file: &Gguf, model: &str, tokens: &[String]) -> Result<Json, GgufError> {
    let usual = model == "llama" || ["llama-bpe", "llama3"].contains(&pre_name(file)?);
    if !file.flag("tokenizer.ggml.add_bos_token", usual)? {
        return Ok(Json::Null);
    }
    let given = file.size_if_present("tokenizer.ggml.bos_token_id")?;
    let Some(id) = given.or((model == "llama").then_some(1)) else { return Ok(Json::Null) };
    let text = tokens.get(id).ok_or_else(|| {
        file.error(format!("tokenizer.ggml.bos_token_id: expected an id below {}, found {id}", tokens.len()))
    })?;
    let special = json!({"SpecialToken": {"id": text, "type_id": 0}});
    let of = |name: &str, kind: u32| json!({"Sequence": {"id": name, "type_id": kind}});
    let mut known = Map::new();
    known.insert(text.clone(), json!({"id": text, "ids": [id], "tokens": [text]}));
    Ok(json!({
        "type": "TemplateProcessing", "single": [special, of("A", 0)], "pair": [special, of("A", 0), of("B", 1)],
        "special_tokens": known,
    }))
}

/// The chat template of a file, with the tokens that it may name; `missing` where the file has none.
///
/// # Errors
/// A template that can't be read.
pub(crate) fn chat_template(
    file: &Gguf,
    image_token: &str,
    missing: Option<&str>,
) -> Result<Option<ChatTemplate>, GgufError> {
    let Some(source) = file.text("tokenizer.chat_template").ok().or(missing) else { return Ok(None) };
    let broken = |e: TemplateError| file.error(format!("tokenizer.chat_template: {e}"));
    let template = ChatTemplate::new(source, image_token).map_err(broken)?;
    let tokens = file.texts("tokenizer.ggml.tokens").unwrap_or_default();
    let token = |name: &str| -> Result<Option<String>, GgufError> {
        let id = file.size_if_present(&format!("tokenizer.ggml.{name}_token_id"))?;
        Ok(id.and_then(|id| tokens.get(id).cloned()))
    };
    Ok(Some(template.with_tokens(token("bos")?, token("eos")?, token("unknown")?)))
}
