//! A language model by itself: what a drafter is, and what cache and speculation are measured on.

use super::{
    config::{DecoderConfig, HfDecoderConfig},
    decoder::Decoder,
    layers::Mode,
    plan::decoder_tensors,
};
use crate::{
    gguf::{self, Gguf},
    tokenizer::Tokenizer,
    weights::{Checkpoint, WeightsError, read_json},
};
use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use std::path::Path;

/// A decoder with its tokenizer.
pub struct LanguageModel {
    /// The decoder.
    pub decoder: Decoder,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
}

impl LanguageModel {
    /// Opens a GGUF file, or a folder with `config.json`, `tokenizer.json` and safetensors.
    ///
    /// # Errors
    /// What is missing or does not fit, by name.
    pub fn open(path: &Path, dtype: DType, device: &Device) -> Result<Self, WeightsError> {
        let model = if path.is_dir() { Self::folder(path, dtype, device)? } else { Self::gguf(path, dtype, device)? };
        model.tokenizer.check(model.decoder.config().vocab, None)?;
        Ok(model)
    }

    fn gguf(path: &Path, dtype: DType, device: &Device) -> Result<Self, WeightsError> {
        if !path.exists() {
            return Err(WeightsError::missing(path, "a language model is a GGUF file, or a folder with safetensors"));
        }
        let file = Gguf::open(path)?;
        let config = gguf::decoder_config(&file)?;
        let tokenizer = gguf::tokenizer(&file)?;
        let tensors = gguf::decoder_tensors(&file, &config, dtype, device)?;
        let decoder = Decoder::new(&config, VarBuilder::from_tensors(tensors, dtype, device), Mode::Infer)?;
        Ok(Self { decoder, tokenizer })
    }

    fn folder(folder: &Path, dtype: DType, device: &Device) -> Result<Self, WeightsError> {
        let hf: HfDecoderConfig = read_json(&folder.join("config.json"))?;
        let config = DecoderConfig::from_hf(&hf, "")?;
        let tokenizer = Tokenizer::from_file(&folder.join("tokenizer.json"))?;
        let checkpoint = Checkpoint::open(folder)?;
        let (embedding, layers) = decoder_tensors(&config, "model.", "lm_head.");
        checkpoint.require(&embedding)?;
        checkpoint.require(&layers)?;
        let decoder = Decoder::new(&config, checkpoint.var_builder(dtype, device)?, Mode::Infer)?;
        Ok(Self { decoder, tokenizer })
    }
}
