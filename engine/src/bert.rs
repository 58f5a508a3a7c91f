//! BERTScore (Zhang et al., ICLR 2020): how alike two texts are, word piece by word piece, under a BERT or RoBERTa encoder.
//!
//! As QEVD scores: F1 of the greedy matching of one layer's states, no weighting by rarity, no rescaling. The reference
//! implementation takes layer 17 of roberta-large.

use crate::{
    tokenizer::{Tokenizer, TokenizerError},
    weights::{Checkpoint, WeightsError, read_json},
};
use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::{Embedding, LayerNorm, Linear, Module as _, VarBuilder};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Why there is no score.
#[derive(Debug, thiserror::Error)]
pub enum BertError {
    /// The checkpoint can't be used.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A file of it says something that is not read here.
    #[error("{}: {problem}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        problem: String,
    },
    /// A text that can't be cut into tokens.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A computation failed.
    #[error(transparent)]
    Model(#[from] candle_core::Error),
}

/// `config.json`.
#[derive(Clone, Debug, Deserialize)]
struct Config {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    layer_norm_eps: f64,
    #[serde(default)]
    pad_token_id: Option<usize>,
    #[serde(default = "gelu")]
    hidden_act: String,
}

fn gelu() -> String {
    "gelu".into()
}

impl Config {
    fn is_roberta(&self) -> bool {
        self.model_type != "bert"
    }

    /// Position of the first token.
    fn first_position(&self) -> usize {
        if self.is_roberta() { self.pad_token_id.unwrap_or(1) + 1 } else { 0 }
    }

    /// The layer that the reference implementation chose for the models of this kind and size.
    fn usual_layer(&self) -> usize {
        match (self.model_type.as_str(), self.num_hidden_layers) {
            ("roberta" | "xlm-roberta", 24) => 17,
            ("roberta", 12) => 10,
            ("bert", 24) => 18,
            ("bert" | "xlm-roberta", 12) => 9,
            (_, layers) => layers,
        }
    }

    fn problem(&self) -> Option<String> {
        let known = ["bert", "roberta", "xlm-roberta"];
        if !known.contains(&self.model_type.as_str()) {
            return Some(format!("model_type: expected bert or roberta, found `{}`", self.model_type));
        }
        if self.hidden_act != "gelu" {
            return Some(format!("hidden_act: expected gelu, found `{}`", self.hidden_act));
        }
        if self.num_attention_heads == 0 || !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let heads = self.num_attention_heads;
            return Some(format!("num_attention_heads: expected a divisor of {}, found {heads}", self.hidden_size));
        }
        (self.max_position_embeddings <= self.first_position() + 2)
            .then(|| format!("max_position_embeddings: {} is too few", self.max_position_embeddings))
    }
}

struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    out_norm: LayerNorm,
    up: Linear,
    down: Linear,
    down_norm: LayerNorm,
    heads: usize,
}

impl Layer {
    fn new(cfg: &Config, vb: VarBuilder) -> Result<Self> {
        let (d, m) = (cfg.hidden_size, cfg.intermediate_size);
        let linear = |i, o, name: &str| candle_nn::linear(i, o, vb.pp(name));
        let norm = |name: &str| candle_nn::layer_norm(d, cfg.layer_norm_eps, vb.pp(name));
        Ok(Self {
            query: linear(d, d, "attention.self.query")?,
            key: linear(d, d, "attention.self.key")?,
            value: linear(d, d, "attention.self.value")?,
            out: linear(d, d, "attention.output.dense")?,
            out_norm: norm("attention.output.LayerNorm")?,
            up: linear(d, m, "intermediate.dense")?,
            down: linear(m, d, "output.dense")?,
            down_norm: norm("output.LayerNorm")?,
            heads: cfg.num_attention_heads,
        })
    }

    /// `[1, n, d]` to the same shape.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (_, n, d) = x.dims3()?;
        let width = d / self.heads;
        let split = |t: Tensor| t.reshape((n, self.heads, width))?.transpose(0, 1)?.contiguous();
        let (q, k, v) = (split(self.query.forward(x)?)?, split(self.key.forward(x)?)?, split(self.value.forward(x)?)?);
        let scores = (q.matmul(&k.t()?)? * (1.0 / (width as f64).sqrt()))?;
        let mixed = candle_nn::ops::softmax_last_dim(&scores)?.matmul(&v)?;
        let mixed = mixed.transpose(0, 1)?.contiguous()?.reshape((1, n, d))?;
        let x = self.out_norm.forward(&(x + self.out.forward(&mixed)?)?)?;
        let hidden = self.up.forward(&x)?.gelu_erf()?;
        self.down_norm.forward(&(&x + self.down.forward(&hidden)?)?)
    }
}

/// The encoder with what scoring needs.
pub struct BertScore {
    words: Embedding,
    positions: Embedding,
    kind: Tensor,
    norm: LayerNorm,
    layers: Vec<Layer>,
    tokenizer: Tokenizer,
    config: Config,
    device: Device,
}

impl BertScore {
    /// Opens the folder of a checkpoint (`config.json`, `tokenizer.json`, safetensors) up to `layer`; without one, up to
    /// the published layer of models of its size.
    ///
    /// # Errors
    /// What is missing or does not fit, by name.
    pub fn open(folder: &Path, layer: Option<usize>, device: &Device) -> std::result::Result<Self, BertError> {
        let path = folder.join("config.json");
        let config: Config = read_json(&path)?;
        let wrong = |problem: String| BertError::Config { path: path.clone(), problem };
        if let Some(problem) = config.problem() {
            return Err(wrong(problem));
        }
        let depth = layer.unwrap_or_else(|| config.usual_layer());
        if depth == 0 || depth > config.num_hidden_layers {
            return Err(wrong(format!("layer {depth}: the model has 1 to {}", config.num_hidden_layers)));
        }
        let tokenizer = Tokenizer::from_file(&folder.join("tokenizer.json"))?;
        tokenizer.check(config.vocab_size, None)?;
        let checkpoint = Checkpoint::open(folder)?;
        let root = ["", "roberta.", "bert."]
            .into_iter()
            .find(|root| checkpoint.tensors().contains_key(&format!("{root}embeddings.word_embeddings.weight")));
        let Some(root) = root else {
            return Err(wrong("no tensor embeddings.word_embeddings.weight in the weights beside it".into()));
        };
        let vb = checkpoint.var_builder(DType::F32, device)?;
        let vb = if root.is_empty() { vb } else { vb.pp(root.trim_end_matches('.')) };
        Ok(Self::build(config, depth, tokenizer, vb)?)
    }

    fn build(config: Config, depth: usize, tokenizer: Tokenizer, vb: VarBuilder) -> Result<Self> {
        let (d, e) = (config.hidden_size, vb.pp("embeddings"));
        Ok(Self {
            words: candle_nn::embedding(config.vocab_size, d, e.pp("word_embeddings"))?,
            positions: candle_nn::embedding(config.max_position_embeddings, d, e.pp("position_embeddings"))?,
            // Both texts stand alone, so all tokens are of the first kind.
            kind: e.get((config.type_vocab_size, d), "token_type_embeddings.weight")?.narrow(0, 0, 1)?,
            norm: candle_nn::layer_norm(d, config.layer_norm_eps, e.pp("LayerNorm"))?,
            layers: (0..depth).map(|i| Layer::new(&config, vb.pp("encoder.layer").pp(i))).collect::<Result<_>>()?,
            device: vb.device().clone(),
            tokenizer,
            config,
        })
    }

    /// The layer that is compared.
    pub fn layer(&self) -> usize {
        self.layers.len()
    }

    /// States of a text's tokens at length 1, `[n, d]`, and which tokens are words.
    fn states(&self, text: &str) -> std::result::Result<(Tensor, Vec<bool>), BertError> {
        let text = text.trim();
        // Byte-level pieces know the beginning of a word by the space before it; XLM-RoBERTa's put a mark there themselves.
        let spaced =
            if self.config.model_type == "roberta" && !text.is_empty() { format!(" {text}") } else { text.to_owned() };
        let most = self.config.max_position_embeddings - self.config.first_position();
        let (ids, special) = self.tokenizer.encode_marked(&spaced, most)?;
        let n = ids.len();
        let first = self.config.first_position() as u32;
        let place = Tensor::arange(first, first + n as u32, &self.device)?;
        let ids = Tensor::new(ids, &self.device)?;
        let x = (self.words.forward(&ids)? + self.positions.forward(&place)?)?.broadcast_add(&self.kind)?;
        let mut x = self.norm.forward(&x.unsqueeze(0)?)?;
        for layer in &self.layers {
            x = layer.forward(&x)?;
        }
        let x = x.squeeze(0)?;
        let length = x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
        Ok((x.broadcast_div(&length)?, special.into_iter().map(|s| !s).collect()))
    }

    /// F1 of a prediction against the truth; 0 where one of them is empty.
    ///
    /// # Errors
    /// A text that can't be cut into tokens, or one of the device.
    pub fn f1(&self, truth: &str, said: &str) -> std::result::Result<f64, BertError> {
        let (truth, said) = (self.states(truth)?, self.states(said)?);
        let alike = said.0.matmul(&truth.0.t()?)?;
        // A word may match any token of the other side, also one that stands around its text.
        let mean = |best: Vec<f32>, words: &[bool]| {
            let kept: Vec<f64> = best.iter().zip(words).filter(|(_, w)| **w).map(|(b, _)| f64::from(*b)).collect();
            if kept.is_empty() { 0.0 } else { kept.iter().sum::<f64>() / kept.len() as f64 }
        };
        let words = |marks: &[bool]| marks.iter().any(|w| *w);
        if !words(&truth.1) || !words(&said.1) {
            return Ok(0.0);
        }
        let precision = mean(alike.max(1)?.to_vec1()?, &said.1);
        let recall = mean(alike.max(0)?.to_vec1()?, &truth.1);
        let sum = precision + recall;
        Ok(if sum == 0.0 { 0.0 } else { 2.0 * precision * recall / sum })
    }
}

#[cfg(test)]
mod tests {
    use super::Config;

    #[test]
    fn the_layers_of_the_reference_implementation() {
        // bert_score 0.3.13, model2layers.
        for (model_type, layers, expected) in [
            ("roberta", 24, 17),
            ("roberta", 12, 10),
            ("xlm-roberta", 24, 17),
            ("xlm-roberta", 12, 9),
            ("bert", 24, 18),
            ("bert", 12, 9),
            ("bert", 3, 3),
        ] {
            let config: Config = serde_json::from_value(serde_json::json!({
                "model_type": model_type, "vocab_size": 9, "hidden_size": 8, "num_hidden_layers": layers,
                "num_attention_heads": 2, "intermediate_size": 8, "max_position_embeddings": 16, "type_vocab_size": 1,
                "layer_norm_eps": 1e-5,
            }))
            .unwrap();
            assert_eq!(config.usual_layer(), expected, "{model_type} of {layers} layers");
        }
    }
}
