//! A language model by itself: what a drafter is, and what cache and speculation are measured on.

use super::{
    adapter::Adapter,
    config::{DecoderConfig, HfDecoderConfig},
    decoder::Decoder,
    layers::Mode,
    plan::{decoder_tensors, settle, template_folder},
};
use crate::{
    gguf::{self, Gguf},
    prompt::{ChatTemplate, Message, Role, TemplateError},
    stops::stops,
    tokenizer::{Tokenizer, TokenizerError},
    weights::{Checkpoint, WeightsError, file_of, read_json},
};
use candle_core::{DType, Device};
use std::{path::Path, sync::Arc};

/// A prompt that can't be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PromptError {
    /// The template refuses it.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The tokenizer does.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// A decoder with its tokenizer.
pub struct LanguageModel {
    /// The decoder.
    pub decoder: Decoder,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// How it is asked, where it was trained to answer.
    pub template: Option<ChatTemplate>,
    /// The tokens that it drafts, where not all: the tensor `draft_head.ids` of a folder.
    pub drafted: Option<Vec<u32>>,
    /// What it sees where it drafts for a model that sees, if it does.
    pub adapter: Option<Adapter>,
}

/// What drafts: a decoder, whose head tells of the tokens that it drafts, and what it sees with.
pub struct DraftModel {
    /// The decoder.
    pub decoder: Decoder,
    /// From the target's visual tokens to its own, where it sees.
    pub adapter: Option<Adapter>,
}

impl From<Decoder> for DraftModel {
    fn from(decoder: Decoder) -> Self {
        Self { decoder, adapter: None }
    }
}

/// Name of the tensor that lists the tokens of a drafter's head, u32 `[n]`.
pub const DRAFTED: &str = "draft_head.ids";

/// Stands for a picture in a prompt, of which there are none here.
const NO_IMAGE: &str = "<image>";

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
        let file = Arc::new(Gguf::open(path)?);
        let config = gguf::decoder_config(&file)?;
        let tokenizer = gguf::tokenizer(&file)?;
        let weights = gguf::decoder_weights(&file, &config, dtype, device)?;
        let decoder = Decoder::new(&config, weights, Mode::Infer)?;
        let template = gguf::chat_template(&file, NO_IMAGE, None)?;
        Ok(Self { decoder, tokenizer, template, drafted: None, adapter: None })
    }

    /// As a drafter: the head tells of the tokens that it drafts.
    ///
    /// # Errors
    /// A list of tokens that it does not have.
    pub fn into_drafter(self) -> Result<DraftModel, WeightsError> {
        let Self { mut decoder, drafted, adapter, .. } = self;
        if let Some(ids) = &drafted {
            decoder.trim_head(ids)?;
        }
        Ok(DraftModel { decoder, adapter })
    }

    /// Ids of a prompt that asks for an answer to `text`; of the text alone where it was not trained to answer.
    ///
    /// # Errors
    /// What the template or the tokenizer refuses.
    pub fn prompt(&self, text: &str) -> Result<Vec<u32>, PromptError> {
        let Some(template) = &self.template else { return Ok(self.tokenizer.encode(text, true)?) };
        let prompt = template.render(&[Message::text(Role::User, text)], true)?;
        Ok(self.tokenizer.encode(&prompt, false)?)
    }

    /// Tokens that end a text.
    pub fn ends(&self) -> Vec<u32> {
        stops(self.tokenizer.inner(), &self.decoder.config().eos)
    }

    fn folder(folder: &Path, dtype: DType, device: &Device) -> Result<Self, WeightsError> {
        let hf: HfDecoderConfig = read_json(&file_of(folder, "config.json"))?;
        let mut config = DecoderConfig::from_hf(&hf, "")?;
        let tokenizer = Tokenizer::from_file(&file_of(folder, "tokenizer.json"))?;
        let checkpoint = Checkpoint::open(folder)?;
        settle(&mut config, &hf, &checkpoint, "model")?;
        let (embedding, layers) = decoder_tensors(&config, "model.", "lm_head.");
        checkpoint.require(&embedding)?;
        checkpoint.require(&layers)?;
        let decoder = Decoder::new(&config, checkpoint.var_builder(dtype, device)?, Mode::Infer)?;
        // A model without a template continues texts, unless its tokens tell how it is asked.
        let template = ChatTemplate::load(&template_folder(folder), NO_IMAGE)
            .ok()
            .or_else(|| ChatTemplate::by_tokens(&tokenizer, NO_IMAGE));
        let drafted = match checkpoint.tensors().contains_key(DRAFTED) {
            true => {
                let ids = checkpoint.var_builder(DType::U32, &Device::Cpu)?.get_unchecked_dtype(DRAFTED, DType::U32)?;
                Some(ids.flatten_all()?.to_vec1::<u32>()?)
            }
            false => None,
        };
        let adapter = Adapter::load(&checkpoint, config.width, dtype, device)?;
        Ok(Self { decoder, tokenizer, template, drafted, adapter })
    }
}
