//! SentencePiece's tokenizer of Llama 2: pieces with scores instead of merges.
//!
//! A text is taken apart into characters, and of all neighbours that are a piece together, those with the highest score are joined, until
//! none are left; characters without a piece become bytes. That is BPE whose merges are all ways of cutting a piece in two
//! pieces, in the order of their scores. Pieces with the very same score, which a trained model does not have, are told apart by their
//! lengths here and by their place in the text there.

use super::{
    Gguf, GgufError, Value,
    tokenizer::{NORMAL, UNKNOWN},
};
use serde_json::{Value as Json, json};
use std::{cmp::Reverse, collections::HashMap};

/// Stands for a space.
pub(super) const SPACE: &str = "\u{2581}";
/// Bytes of the longest piece that others are joined to: SentencePiece makes none of more than a few characters.
const LONGEST: usize = 256;

/// How a text is cut and joined, without the vocabulary.
///
/// # Errors
/// Scores that are missing or none.
pub(super) fn parts(file: &Gguf, tokens: &[String], kinds: &[i64]) -> Result<Json, GgufError> {
    let scores = match file.metadata().get("tokenizer.ggml.scores") {
        Some(Value::Floats(scores)) if scores.len() == tokens.len() && scores.iter().all(|s| s.is_finite()) => scores,
        _ => return Err(file.error(format!("tokenizer.ggml.scores: expected {} numbers", tokens.len()))),
    };
    let merges = merges(tokens, scores, kinds);
    let unknown = file.size_if_present("tokenizer.ggml.unknown_token_id")?.unwrap_or(0);
    let unknown = tokens.get(unknown).filter(|_| kinds.get(unknown).is_none_or(|kind| *kind == UNKNOWN));
    let prefix = file.flag("tokenizer.ggml.add_space_prefix", true)?;
    Ok(json!({
        "version": "1.0",
        "normalizer": normalizer(prefix),
        "decoder": decoder(prefix),
        "model": {"type": "BPE", "unk_token": unknown, "fuse_unk": true, "byte_fallback": true, "merges": merges},
    }))
}

/// Spaces become [`SPACE`], and one stands before each piece of text between special tokens.
pub(super) fn normalizer(prefix: bool) -> Json {
    let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    match prefix {
        true => json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, spaces]}),
        false => spaces,
    }
}

fn decoder(prefix: bool) -> Json {
    let mut all = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        all.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": all})
}

/// Pairs of pieces that are joined, first those that are joined first. Only ordinary tokens are.
pub(super) fn merges<'a>(tokens: &'a [String], scores: &[f64], kinds: &[i64]) -> Vec<(&'a str, &'a str)> {
    let ordinary = |id: usize| kinds.get(id).is_none_or(|kind| *kind == NORMAL);
    let pieces = tokens.iter().enumerate().filter(|(id, text)| ordinary(*id) && text.len() <= LONGEST);
    let known: HashMap<&str, usize> = pieces.map(|(id, text)| (text.as_str(), id)).collect();
    let mut found = Vec::new();
    for (text, id) in &known {
        let score = scores.get(*id).copied().unwrap_or_default();
        let (mut left, all) = (0, text.chars().count());
        for (at, _) in text.char_indices().skip(1) {
            left += 1;
            let (a, b) = text.split_at(at);
            if known.contains_key(a) && known.contains_key(b) {
                found.push((score, left, all - left, *id, a, b));
            }
        }
    }
    // Longer left parts first, then longer right ones, as the published converter has it.
    found.sort_unstable_by(|a, b| {
        let key = |m: &(f64, usize, usize, usize, &str, &str)| (Reverse(m.1), Reverse(m.2), m.3);
        b.0.total_cmp(&a.0).then_with(|| key(a).cmp(&key(b)))
    });
    found.into_iter().map(|(.., a, b)| (a, b)).collect()
}
