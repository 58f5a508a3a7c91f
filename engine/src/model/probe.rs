//! What a model is and what it would say next: the ground of `spotter models inspect` and `models probe`.

use super::{llava::Llava, memory::Place, plan::Plan};
use crate::{
    prompt::{ChatTemplate, Message, Part, TemplateError},
    tokenizer::TokenizerError,
    weights::WeightsError,
};
use candle_core::{D, DType, Tensor};
use serde::Serialize;
use spotter_vision::{Frame, encoder::TensorSpec};
use std::path::Path;

/// A probe that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The conversation does not fit the template.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The text can't be turned into tokens.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Another number of pictures than the conversation shows.
    #[error("the conversation shows {expected} pictures, found {found}")]
    Pictures {
        /// In the conversation.
        expected: usize,
        /// Given.
        found: usize,
    },
    /// The model failed.
    #[error("the model failed: {0}")]
    Model(#[from] candle_core::Error),
}

/// A token that may come next.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Candidate {
    /// Its id.
    pub id: u32,
    /// As the vocabulary writes it.
    pub token: String,
    /// As text.
    pub text: String,
    /// Natural logarithm of its probability.
    pub log_prob: f32,
}

/// What a model makes of a prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Probe {
    /// The prompt text, each image as one token.
    pub prompt: String,
    /// Its ids, each image as all of its tokens.
    pub prompt_ids: Vec<u32>,
    /// Tokens that each picture takes.
    pub tokens_per_image: Vec<usize>,
    /// What comes next, likeliest first.
    pub next: Vec<Candidate>,
}

/// Runs a conversation with its pictures, in order, and lists the `top` likeliest next tokens.
pub fn probe(
    plan: &Plan,
    model: &Llava,
    template: &ChatTemplate,
    messages: &[Message],
    frames: &[Frame],
    top: usize,
) -> Result<Probe, ProbeError> {
    let expected = messages.iter().flat_map(|m| &m.content).filter(|p| **p == Part::Image).count();
    if expected != frames.len() {
        return Err(ProbeError::Pictures { expected, found: frames.len() });
    }
    let prompt = template.render(messages, true)?;
    let ids = plan.tokenizer.encode(&prompt, !template.begins(&prompt))?;
    let pictures = model.encoder.pictures(frames)?;
    let tokens_per_image: Vec<usize> = pictures.iter().map(|p| p.dim(0)).collect::<Result<_, _>>()?;
    let prompt_ids = model.expand(&ids, &tokens_per_image);
    let visual = if pictures.is_empty() { None } else { Some(Tensor::cat(&pictures, 0)?) };
    let hidden = model.decoder.forward(&model.embed(&prompt_ids, visual.as_ref())?, None)?;
    let last = hidden.narrow(1, hidden.dim(1)?.saturating_sub(1), 1)?;
    let logits = model.decoder.logits(&last)?.flatten_all()?.to_dtype(DType::F32)?;
    let next = likeliest(&logits, top)?.into_iter().map(|(id, log_prob)| {
        let text = plan.tokenizer.decode(&[id])?;
        Ok(Candidate { id, token: plan.tokenizer.token(id).unwrap_or_default(), text, log_prob })
    });
    Ok(Probe { prompt, prompt_ids, tokens_per_image, next: next.collect::<Result<_, TokenizerError>>()? })
}

/// Ids and log-probabilities of the `top` largest logits `[vocab]`.
fn likeliest(logits: &Tensor, top: usize) -> candle_core::Result<Vec<(u32, f32)>> {
    let log_probs = candle_nn::ops::log_softmax(logits, D::Minus1)?.to_vec1::<f32>()?;
    let mut ranked: Vec<(u32, f32)> = (0..).zip(log_probs).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    ranked.truncate(top);
    Ok(ranked)
}

/// Parameters by part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Parameters {
    /// Of the tower's layers that are run.
    pub vision: usize,
    /// Of the projector.
    pub projector: usize,
    /// Of the embedding, and of the head where it is not tied.
    pub embedding: usize,
    /// Of the decoder's layers.
    pub layers: usize,
    /// Of all of these.
    pub total: usize,
    /// In the files, but read by nothing.
    pub unused: usize,
}

/// What a model will take, in bytes, for weights in the type they are stored in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The weights.
    pub weights: usize,
    /// The same on a processor, which computes in f32.
    pub weights_f32: usize,
    /// Keys and values of one token.
    pub cache_per_token: usize,
    /// Weights and a full context.
    pub full_context: usize,
}

/// What lies in a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspect {
    /// Of the whole.
    pub architecture: String,
    /// `model_type` of the tower.
    pub vision: String,
    /// `model_type` of the language model.
    pub language: String,
    /// Counted.
    pub parameters: Parameters,
    /// Type of most weights.
    pub dtype: String,
    /// Bytes of the weights on disk.
    pub bytes_on_disk: usize,
    /// Estimated.
    pub memory: Memory,
    /// Side of a picture in pixels.
    pub image_size: usize,
    /// Tokens a frame takes in the context.
    pub tokens_per_frame: usize,
    /// Context in tokens.
    pub context: usize,
    /// Vocabulary of the model.
    pub vocab: usize,
    /// Tokens of the tokenizer.
    pub tokens: usize,
}

/// Describes a checkpoint after checking it; nothing is loaded.
pub fn inspect(folder: &Path) -> Result<Inspect, WeightsError> {
    let plan = Plan::open(folder)?;
    let parts = plan.parts();
    let count = |specs: &[TensorSpec]| specs.iter().map(|s| s.shape.iter().product::<usize>()).sum::<usize>();
    let (vision, projector) = (count(&parts.vision), count(&parts.projector));
    let (embedding, layers) = (count(&parts.embedding), count(&parts.layers));
    let total = vision + projector + embedding + layers;
    let stored: usize = plan.checkpoint.tensors().values().map(|t| t.elements()).sum();
    let dtype = plan.checkpoint.dtype().unwrap_or(DType::F32);
    let text = &plan.config.text;
    let cache_per_token = 2 * text.layers * text.kv_heads * text.head_dim * dtype.size_in_bytes();
    // Packed weights stay so on a processor, and what is computed with them is f32.
    let dtype = if plan.checkpoint.gguf().is_some() { DType::F32 } else { dtype };
    let weights = parts.all().iter().map(|spec| plan.checkpoint.loaded(spec, dtype, Place::Processor)).sum::<usize>();
    Ok(Inspect {
        architecture: plan.config.family.architecture().into(),
        vision: plan.config.vision.model_type().into(),
        language: text.kind.model_type().into(),
        parameters: Parameters { vision, projector, embedding, layers, total, unused: stored.saturating_sub(total) },
        dtype: plan.checkpoint.stored(),
        bytes_on_disk: plan.checkpoint.bytes(),
        memory: Memory {
            weights,
            weights_f32: total * 4,
            cache_per_token,
            full_context: weights + cache_per_token * text.max_positions,
        },
        image_size: plan.config.vision.image_size(),
        tokens_per_frame: plan.tokens_per_image(),
        context: text.max_positions,
        vocab: text.vocab,
        tokens: plan.tokenizer.len(),
    })
}
