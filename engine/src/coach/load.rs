//! From a model folder to a [`StreamModel`].

use super::{
    eye::Eye,
    manifest::{Manifest, ManifestError},
    session::StreamModel,
};
use crate::{
    device,
    model::{
        ConfigError, Decoder, DecoderConfig, HfDecoderConfig, LanguageModel, Mode, Plan,
        projector::{Projector, TokenGrid},
    },
    speculate::{DrafterKind, language::VocabularyMismatch, same_vocabulary},
    weights::WeightsError,
};
use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use serde::Deserialize;
use spotter_vision::encoder::vit::{Vit, VitConfig};
use std::path::{Path, PathBuf};
use tokenizers::Tokenizer;

/// A model folder that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A LLaVA checkpoint as others publish them.
    #[error(transparent)]
    Checkpoint(#[from] WeightsError),
    /// `spotter.toml`.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A file that is missing or broken.
    #[error("{path}: {problem}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A drafter of another vocabulary.
    #[error("{path}: {source}")]
    Drafter {
        /// The drafter.
        path: PathBuf,
        /// The first difference.
        source: VocabularyMismatch,
    },
    /// A field of `config.json`.
    #[error("{path}: {source}")]
    Config {
        /// The file.
        path: PathBuf,
        /// The field.
        source: ConfigError,
    },
}

/// `config.json` of a streamed LLaVA model with Spotter's own tower.
#[derive(Deserialize)]
struct Config {
    vision_config: serde_json::Value,
    text_config: HfDecoderConfig,
}

/// Loads a model folder: a LLaVA checkpoint with a CLIP or SigLIP tower, or one with Spotter's own; and its drafter,
/// where `spotter.toml` names one.
pub fn load(folder: &Path, device: &Device) -> Result<StreamModel, LoadError> {
    let mut model = load_target(folder, device)?;
    if let DrafterKind::Model(path) = &model.manifest.speculation.drafter {
        model.drafter = Some(load_drafter(&folder.join(path), &model.tokenizer, device)?);
    }
    Ok(model)
}

/// Loads a language model (a GGUF file or a folder) that drafts for a target with this tokenizer.
///
/// # Errors
/// A model that can't be used, or one with other tokens.
pub fn load_drafter(path: &Path, target: &Tokenizer, device: &Device) -> Result<Decoder, LoadError> {
    let drafter = LanguageModel::open(path, DType::F32, device)?;
    same_vocabulary(&target.get_vocab(true), &drafter.tokenizer.vocabulary())
        .map_err(|source| LoadError::Drafter { path: path.to_owned(), source })?;
    Ok(drafter.decoder)
}

fn load_target(folder: &Path, device: &Device) -> Result<StreamModel, LoadError> {
    let manifest = Manifest::read(folder)?;
    let broken = |file: &str, problem: String| LoadError::File { path: folder.join(file), problem };
    let text = std::fs::read_to_string(folder.join("config.json")).map_err(|e| broken("config.json", e.to_string()))?;
    let config: Config = serde_json::from_str(&text).map_err(|e| broken("config.json", e.to_string()))?;
    let kind = config.vision_config.get("model_type").and_then(|v| v.as_str()).unwrap_or("nothing");
    if kind != "spotter_vit" {
        return load_llava(folder, manifest, device);
    }
    let vision: VitConfig = serde_json::from_value(config.vision_config)
        .map_err(|e| broken("config.json", format!("vision_config: {e}")))?;
    let decoder_config = DecoderConfig::from_hf(&config.text_config, "text_config.")
        .map_err(|source| LoadError::Config { path: folder.join("config.json"), source })?;
    let tokenizer =
        Tokenizer::from_file(folder.join("tokenizer.json")).map_err(|e| broken("tokenizer.json", e.to_string()))?;
    if tokenizer.get_vocab_size(true) > decoder_config.vocab {
        let problem = format!(
            "{} tokens, but config.json has text_config.vocab_size {}: the two belong to different models",
            tokenizer.get_vocab_size(true),
            decoder_config.vocab
        );
        return Err(broken("tokenizer.json", problem));
    }
    let weights = folder.join("model.safetensors");
    let unusable = |e: candle_core::Error| broken("model.safetensors", e.to_string());
    // SAFETY: the map is read-only and private; a file changed underneath while it is mapped is the one risk, which
    // every memory-mapped loader shares.
    let vb = unsafe { VarBuilder::from_mmaped_safetensors(&[weights], DType::F32, device) }.map_err(unusable)?;
    let vit = Vit::new(&vision, vb.pp("vision_tower")).map_err(unusable)?;
    let joined = if manifest.vision.delta { 2 } else { 1 };
    let inputs = vision.hidden_size * joined;
    let projector =
        Projector::new(inputs, decoder_config.width, true, vb.pp("multi_modal_projector")).map_err(unusable)?;
    let decoder = Decoder::new(&decoder_config, vb.pp("language_model"), Mode::Infer).map_err(unusable)?;
    let grid = TokenGrid { side: vision.image_size / vision.patch_size, class: true, keep_class: false };
    manifest
        .vision
        .pooling
        .check(grid)
        .map_err(|source| LoadError::Config { path: folder.join("spotter.toml"), source })?;
    let eye = Eye::new(Box::new(vit), projector, grid, manifest.vision.clone());
    Ok(StreamModel { eye, decoder, tokenizer, manifest, picture_side: vision.image_size, drafter: None })
}

fn load_llava(folder: &Path, manifest: Manifest, device: &Device) -> Result<StreamModel, LoadError> {
    if manifest.vision.delta {
        let problem = "vision.delta: only models that were trained on change have it; leave it out".to_owned();
        return Err(LoadError::File { path: folder.join("spotter.toml"), problem });
    }
    let plan = Plan::open(folder)?;
    let choice = device::Choice { device: device.clone(), dtype: DType::F32, reason: String::new() };
    let llava = plan.build(&choice)?;
    let picture_side = plan.config.vision.tower().image_size;
    let tokenizer = Tokenizer::from_file(folder.join("tokenizer.json"))
        .map_err(|e| LoadError::File { path: folder.join("tokenizer.json"), problem: e.to_string() })?;
    Ok(StreamModel {
        eye: Eye::of_encoder(Box::new(llava.encoder)),
        decoder: llava.decoder,
        tokenizer,
        manifest,
        picture_side,
        drafter: None,
    })
}
