//! The loaders that are fed with broken files, by `tests/tests/fuzz.rs` and by the targets of cargo-fuzz in `fuzz/`. Each says
//! whether it took the input; it may refuse, but not panic.
#![allow(dead_code, reason = "a target of cargo-fuzz has one of them")]

use candle_core::{DType, Device};
use spotter_engine::{
    coach::manifest::Manifest,
    gguf::{self, Gguf},
    model::{
        DecoderConfig, HfDecoderConfig, Plan,
        connector::Connector,
        llava_config::{HfLlavaConfig, LlavaConfig},
        plan::decoder_tensors,
        projector::VisionManifest,
    },
    prompt::{ChatTemplate, Message},
    tokenizer::Tokenizer,
    weights::{Checkpoint, read_header},
};
use std::{path::Path, sync::Arc};

/// A GGUF file: directory, tokenizer, decoder and all its weights.
pub(crate) fn gguf(path: &Path) -> bool {
    let Ok(file) = Gguf::open(path) else { return false };
    let tokenizer = gguf::tokenizer(&file);
    let Ok(config) = gguf::decoder_config(&file) else { return false };
    let Ok(weights) = gguf::decoder_weights(&Arc::new(file), &config, DType::F32, &Device::Cpu) else {
        return false;
    };
    let (embedding, layers) = decoder_tensors(&config, "model.", "lm_head.");
    embedding.iter().chain(&layers).all(|t| weights.get(t.shape.as_slice(), &t.name).is_ok()) && tokenizer.is_ok()
}

/// `model.safetensors` of a folder: header and some tensors.
pub(crate) fn safetensors(folder: &Path) -> bool {
    let Ok(header) = read_header(&folder.join("model.safetensors")) else { return false };
    let Ok(checkpoint) = Checkpoint::open(folder) else { return false };
    let Ok(weights) = checkpoint.var_builder(DType::F32, &Device::Cpu) else { return false };
    for (name, info) in header.iter().take(4) {
        let _ = weights.get(info.shape.as_slice(), name);
    }
    header.values().map(|info| info.elements()).max().is_some()
}

/// A `config.json`, of a language model or of one that sees, and what follows from its numbers.
pub(crate) fn config(bytes: &[u8]) -> bool {
    let text = serde_json::from_slice::<HfDecoderConfig>(bytes).ok();
    let text = text.and_then(|hf| DecoderConfig::from_hf(&hf, "").ok());
    let decoder = text.inspect(|cfg| drop(decoder_tensors(cfg, "model.", "lm_head."))).is_some();
    let llava = serde_json::from_slice::<HfLlavaConfig>(bytes).ok();
    let Some(config) = llava.and_then(|hf| LlavaConfig::from_hf(&hf).ok()) else { return decoder };
    let vision = VisionManifest::default();
    let specs = config.vision.tensors(config.vision_depth, "v.").len()
        + Connector::tensors(&config.connector, &vision, config.vision.hidden_size(), config.text.width, "p").len()
        + decoder_tensors(&config.text, "m.", "h.").1.len();
    let tokens = config.tiling.map_or(1, |tiling| tiling.tokens((640, 3), 5));
    specs > 0 && tokens > 0
}

/// A `tokenizer.json`, and a text there and back.
pub(crate) fn tokenizer(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(tokenizer) = Tokenizer::from_json(text) else { return false };
    let _ = tokenizer.check(288, Some(3));
    let Ok(ids) = tokenizer.encode("Bend 무릎 12 <image>", true) else { return true };
    tokenizer.decode(&ids).is_ok() || !ids.is_empty()
}

/// A `spotter.toml`.
pub(crate) fn manifest(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| Manifest::parse(text).is_ok())
}

/// A whole folder, and its chat template.
pub(crate) fn folder(folder: &Path) -> bool {
    let Ok(plan) = Plan::open(folder) else { return false };
    plan.template().is_ok_and(|t: ChatTemplate| t.render(&[Message::with_image("?")], true).is_ok())
}
