//! From a `tokenizer.json` to the keys of a file: the way back from [`super::tokenizer()`].

use super::{
    Value,
    tokenizer::{CONTROL, PRE_TOKENIZERS, USER_DEFINED, pre_tokenizer},
};
use crate::weights::WeightsError;
use serde_json::Value as Json;
use std::{collections::BTreeMap, path::Path};

/// An ordinary token.
const NORMAL: i64 = 1;
/// A row of the embedding that stands for nothing.
const UNUSED: i64 = 5;

/// Keys `tokenizer.ggml.*` of byte-level BPE with `vocab` ids, from the text of the `tokenizer.json` at `path`.
///
/// # Errors
/// Another kind of tokenizer, or one that cuts texts in a way that llama.cpp has no name for here.
pub(super) fn keys(path: &Path, json: &Json, vocab: usize) -> Result<Vec<(String, Value)>, WeightsError> {
    let wrong = |problem: String| WeightsError::file(path, problem);
    let model = &json["model"];
    if model["type"] != "BPE" || model["byte_fallback"] == true {
        return Err(wrong(format!(
            "model.type: expected BPE over bytes, as SmolLM, Qwen2 and Llama 3 have it; found {}",
            if model["type"] == "BPE" { "BPE with byte_fallback".to_owned() } else { model["type"].to_string() }
        )));
    }
    let cut = plain(&json["pre_tokenizer"]);
    let pre = PRE_TOKENIZERS.into_iter().find(|name| pre_tokenizer(name).is_some_and(|known| plain(&known) == cut));
    let pre = pre.ok_or_else(|| {
        wrong("pre_tokenizer: expected that of GPT-2, SmolLM, Qwen2 or Llama 3, found another".into())
    })?;
    let mut tokens: BTreeMap<usize, (String, i64)> = BTreeMap::new();
    let id = |value: &Json| value.as_u64().and_then(|id| usize::try_from(id).ok());
    for (token, number) in model["vocab"].as_object().into_iter().flatten() {
        let number = id(number).ok_or_else(|| wrong(format!("model.vocab: token {token:?} has no id")))?;
        tokens.insert(number, (token.clone(), NORMAL));
    }
    for token in json["added_tokens"].as_array().into_iter().flatten() {
        let (Some(number), Some(text)) = (id(&token["id"]), token["content"].as_str()) else {
            return Err(wrong("added_tokens: expected an id and a content of each".into()));
        };
        let kind = if token["special"] == true { CONTROL } else { USER_DEFINED };
        tokens.insert(number, (text.to_owned(), kind));
    }
    if let Some((last, _)) = tokens.last_key_value().filter(|(last, _)| **last >= vocab) {
        return Err(wrong(format!("expected ids below the model's {vocab}, found {last}")));
    }
    let all = (0..vocab).map(|id| tokens.remove(&id).unwrap_or_else(|| (format!("[PAD{id}]"), UNUSED)));
    let (tokens, kinds): (Vec<String>, Vec<i64>) = all.unzip();
    let merges = model["merges"].as_array().into_iter().flatten().map(|merge| match merge {
        Json::String(pair) => Some(pair.clone()),
        Json::Array(pair) => Some(format!("{} {}", pair.first()?.as_str()?, pair.get(1)?.as_str()?)),
        _ => None,
    });
    let merges: Option<Vec<String>> = merges.collect();
    let merges = merges.ok_or_else(|| wrong("model.merges: expected pairs of tokens".into()))?;
    Ok([
        ("model", Value::Text("gpt2".into())),
        ("pre", Value::Text(pre.into())),
        ("tokens", Value::Texts(tokens)),
        ("token_type", Value::Integers(kinds)),
        ("merges", Value::Texts(merges)),
    ]
    .map(|(name, value)| (format!("tokenizer.ggml.{name}"), value))
    .to_vec())
}

/// How texts are cut, without what changes no token.
fn plain(json: &Json) -> Json {
    match json {
        Json::Object(fields) => {
            let fields = fields.iter().filter(|(name, _)| *name != "trim_offsets");
            Json::Object(fields.map(|(name, value)| (name.clone(), plain(value))).collect())
        }
        Json::Array(all) => Json::Array(all.iter().map(plain).collect()),
        other => other.clone(),
    }
}
