//! From a `tokenizer.json` to the keys of a file: the way back from [`super::tokenizer()`].

use super::{
    Value,
    sentence::{self, SPACE},
    tokenizer::{BYTE, CONTROL, NORMAL, PRE_TOKENIZERS, UNKNOWN, UNUSED, USER_DEFINED, pre_tokenizer},
};
use crate::weights::WeightsError;
use serde_json::{Value as Json, json};
use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

/// Keys `tokenizer.ggml.*` of a tokenizer with `vocab` ids, from the text of the `tokenizer.json` at `path`: byte-level BPE, or that
/// of Llama 2.
///
/// # Errors
/// Another kind of tokenizer, or one that cuts texts in a way that llama.cpp has no name for here.
pub(super) fn keys(path: &Path, json: &Json, vocab: usize) -> Result<Vec<(String, Value)>, WeightsError> {
    let wrong = |problem: String| WeightsError::file(path, problem);
    let model = &json["model"];
    if model["type"] != "BPE" {
        return Err(wrong(format!("model.type: expected BPE, found {}", model["type"])));
    }
    let (tokens, kinds) = tokens(json, vocab).map_err(wrong)?;
    let merges = merges(model).ok_or_else(|| wrong("model.merges: expected pairs of tokens".into()))?;
    let keys = match model["byte_fallback"] == true {
        true => sentence_keys(json, tokens, kinds, &merges),
        false => byte_pair_keys(json, tokens, kinds, &merges),
    };
    let named = |(name, value): (&str, Value)| (format!("tokenizer.ggml.{name}"), value);
    Ok(keys.map_err(wrong)?.into_iter().map(named).collect())
}

type Keys = Result<Vec<(&'static str, Value)>, String>;

fn byte_pair_keys(json: &Json, tokens: Vec<String>, kinds: Vec<i64>, merges: &[(&str, &str)]) -> Keys {
    let cut = plain(&json["pre_tokenizer"]);
    let pre = PRE_TOKENIZERS.into_iter().find(|name| pre_tokenizer(name).is_some_and(|known| plain(&known) == cut));
    let pre = pre.ok_or("pre_tokenizer: expected that of GPT-2, SmolLM, Qwen2 or Llama 3, found another")?;
    Ok(vec![
        ("model", Value::Text("gpt2".into())),
        ("pre", Value::Text(pre.into())),
        ("tokens", Value::Texts(tokens)),
        ("token_type", Value::Integers(kinds)),
        ("merges", Value::Texts(merges.iter().map(|(a, b)| format!("{a} {b}")).collect())),
    ])
}

/// Of merges that come from scores. A piece has the score of the first merge that makes it; others, which nothing makes, have the
/// lowest.
fn sentence_keys(json: &Json, tokens: Vec<String>, kinds: Vec<i64>, merges: &[(&str, &str)]) -> Keys {
    let prefix = prefix(json).ok_or(
        "normalizer: expected Llama 2's, which makes spaces `\u{2581}` and puts one before each piece of text between special \
         tokens, or none; found another",
    )?;
    let mut first: HashMap<String, usize> = HashMap::new();
    for (rank, (a, b)) in merges.iter().enumerate() {
        first.entry(format!("{a}{b}")).or_insert(rank);
    }
    let score = |(token, kind): (&String, &i64)| match *kind {
        NORMAL => -(first.get(token).copied().unwrap_or(merges.len()) as f64),
        _ => 0.0,
    };
    let scores: Vec<f64> = tokens.iter().zip(&kinds).map(score).collect();
    // What a reader makes of the scores must be what was there.
    let again = sentence::merges(&tokens, &scores, &kinds);
    let ordinary: HashMap<&str, i64> = tokens.iter().map(String::as_str).zip(kinds.iter().copied()).collect();
    let is_ordinary = |text: &str| ordinary.get(text) == Some(&NORMAL);
    let meant = merges.iter().filter(|(a, b)| [*a, *b, &format!("{a}{b}")].into_iter().all(is_ordinary));
    let (mut meant, mut again): (Vec<_>, Vec<_>) = (meant.copied().collect(), again);
    let pieces = |all: &[(&str, &str)]| all.iter().map(|(a, b)| format!("{a}{b}")).collect::<Vec<_>>();
    let same_order = pieces(&meant) == pieces(&again);
    meant.sort_unstable();
    again.sort_unstable();
    if let Some((a, b)) = meant.iter().find(|pair| again.binary_search(pair).is_err()).filter(|_| meant != again) {
        return Err(format!("model.merges: `{a}` and `{b}` make no ordinary token of at most 256 bytes"));
    }
    if meant != again || !same_order {
        let problem = "model.merges: expected all ways of cutting each token in two, token by token, as SentencePiece's scores \
                       give them; found others";
        return Err(problem.into());
    }
    let unknown = kinds.iter().position(|kind| *kind == UNKNOWN).unwrap_or(0);
    Ok(vec![
        ("model", Value::Text("llama".into())),
        ("pre", Value::Text("default".into())),
        ("unknown_token_id", Value::Integer(i64::try_from(unknown).unwrap_or_default())),
        ("add_space_prefix", Value::Bool(prefix)),
        ("tokens", Value::Texts(tokens)),
        ("scores", Value::Floats(scores)),
        ("token_type", Value::Integers(kinds)),
    ])
}

/// All tokens with their kinds, one for each row of the embedding.
fn tokens(json: &Json, vocab: usize) -> Result<(Vec<String>, Vec<i64>), String> {
    let (mut tokens, model): (BTreeMap<usize, (String, i64)>, _) = (BTreeMap::new(), &json["model"]);
    let id = |value: &Json| value.as_u64().and_then(|id| usize::try_from(id).ok());
    let falls_back = model["byte_fallback"] == true;
    for (token, number) in model["vocab"].as_object().into_iter().flatten() {
        let number = id(number).ok_or_else(|| format!("model.vocab: token {token:?} has no id"))?;
        let kind = if falls_back && is_byte(token) { BYTE } else { NORMAL };
        tokens.insert(number, (token.clone(), kind));
    }
    for token in json["added_tokens"].as_array().into_iter().flatten() {
        let (Some(number), Some(text)) = (id(&token["id"]), token["content"].as_str()) else {
            return Err("added_tokens: expected an id and a content of each".into());
        };
        let kind = if token["special"] == true { CONTROL } else { USER_DEFINED };
        tokens.insert(number, (text.to_owned(), kind));
    }
    // Newer writers leave it out.
    let unknown = model["unk_token"].as_str().unwrap_or("<unk>");
    let found = tokens.values_mut().find(|(text, _)| falls_back && text == unknown);
    found.into_iter().for_each(|(_, kind)| *kind = UNKNOWN);
    if let Some((last, _)) = tokens.last_key_value().filter(|(last, _)| **last >= vocab) {
        return Err(format!("expected ids below the model's {vocab}, found {last}"));
    }
    let all = (0..vocab).map(|id| tokens.remove(&id).unwrap_or_else(|| (format!("[PAD{id}]"), UNUSED)));
    Ok(all.unzip())
}

/// A token for one byte.
fn is_byte(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// Pairs of tokens, written as one text or as two.
fn merges(model: &Json) -> Option<Vec<(&str, &str)>> {
    model["merges"].as_array().into_iter().flatten().map(pair).collect()
}

fn pair(merge: &Json) -> Option<(&str, &str)> {
    match merge {
        Json::String(pair) => pair.split_once(' '),
        Json::Array(pair) => Some((pair.first()?.as_str()?, pair.get(1)?.as_str()?)),
        _ => None,
    }
}

/// Whether a space is put before each piece of text; nothing where spaces are treated in a way that a file does not tell.
///
/// `always` puts none before a text that begins with one. Newer writers have it for models whose SentencePiece does, and the file says
/// what that does.
fn prefix(json: &Json) -> Option<bool> {
    let known = |prefix: bool| json["normalizer"] == sentence::normalizer(prefix) && json["pre_tokenizer"].is_null();
    if let Some(prefix) = [true, false].into_iter().find(|prefix| known(*prefix)) {
        return Some(prefix);
    }
    let metaspace = |scheme: &str| {
        json["normalizer"].is_null()
            && json["pre_tokenizer"]
                == json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": false})
    };
    [("always", true), ("never", false)].into_iter().find(|(scheme, _)| metaspace(scheme)).map(|(_, prefix)| prefix)
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
