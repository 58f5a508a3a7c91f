//! From a model folder to a [`StreamModel`].

use super::{
    eye::{Eye, Projector},
    manifest::{Manifest, ManifestError},
    session::StreamModel,
};
use crate::model::{ConfigError, Decoder, DecoderConfig, HfDecoderConfig, Mode};
use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use serde::Deserialize;
use spotter_vision::encoder::vit::{Vit, VitConfig};
use std::path::{Path, PathBuf};
use tokenizers::Tokenizer;

/// A model folder that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
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

/// Loads a model folder whose tower is Spotter's own ViT.
pub fn load(folder: &Path, device: &Device) -> Result<StreamModel, LoadError> {
    let manifest = Manifest::read(folder)?;
    let broken = |file: &str, problem: String| LoadError::File { path: folder.join(file), problem };
    let text = std::fs::read_to_string(folder.join("config.json")).map_err(|e| broken("config.json", e.to_string()))?;
    let config: Config = serde_json::from_str(&text).map_err(|e| broken("config.json", e.to_string()))?;
    let kind = config.vision_config.get("model_type").and_then(|v| v.as_str()).unwrap_or("nothing");
    if kind != "spotter_vit" {
        return Err(broken("config.json", format!("vision_config.model_type: spotter_vit expected, found {kind}")));
    }
    let vision: VitConfig =
        serde_json::from_value(config.vision_config).map_err(|e| broken("config.json", format!("vision_config: {e}")))?;
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
    // every memory-mapped loader shares and which the documentation of `models` names.
    let vb = unsafe { VarBuilder::from_mmaped_safetensors(&[weights], DType::F32, device) }.map_err(unusable)?;
    let vit = Vit::new(&vision, vb.pp("vision_tower")).map_err(unusable)?;
    let joined = if manifest.vision.delta { 2 } else { 1 };
    let inputs = vision.hidden_size * joined;
    let projector = Projector::new(inputs, decoder_config.width, vb.pp("multi_modal_projector")).map_err(unusable)?;
    let decoder = Decoder::new(&decoder_config, vb.pp("language_model"), Mode::Infer).map_err(unusable)?;
    let eye = Eye::new(Box::new(vit), projector, manifest.vision.clone(), true);
    Ok(StreamModel { eye, decoder, tokenizer, manifest, picture_side: vision.image_size })
}
