//! What a decoder looks like: the `config.json` of a checkpoint, and the resolved numbers the maths uses.
//!
//! [`HfDecoderConfig`] mirrors the file, where nearly every field may be absent; [`DecoderConfig`] has no options
//! left open. A checkpoint of a known kind may leave out what equals that kind's defaults, as published LLaVA
//! checkpoints do.

use super::rope::{HfRope, RopeScaling};
use serde::{Deserialize, Serialize};

/// A field of a configuration that can't be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("config field `{field}`: expected {expected}, found {found}")]
pub struct ConfigError {
    /// Path of the field in `config.json`, with dots.
    pub field: String,
    /// What would be right.
    pub expected: String,
    /// What is there.
    pub found: String,
}

impl ConfigError {
    /// An error that names a field, what it should hold and what it holds.
    pub fn new(field: impl Into<String>, expected: impl Into<String>, found: impl ToString) -> Self {
        Self { field: field.into(), expected: expected.into(), found: found.to_string() }
    }
}

/// The decoder families that one code path serves; they differ in bias, window and defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecoderKind {
    /// Llama 1 to 3, Vicuna, TinyLlama, SmolLM.
    Llama,
    /// Qwen 2 and 2.5: biases on q, k and v.
    Qwen2,
    /// Mistral: sliding attention window.
    Mistral,
    /// HyperCLOVA X SEED Think: multipliers and norms behind attention and MLP.
    HyperClovaX,
}

impl DecoderKind {
    /// The `model_type` of a `config.json`.
    pub fn from_model_type(model_type: &str, field: &str) -> Result<Self, ConfigError> {
        match model_type {
            "llama" => Ok(Self::Llama),
            "qwen2" => Ok(Self::Qwen2),
            "mistral" => Ok(Self::Mistral),
            "hyperclovax" => Ok(Self::HyperClovaX),
            other => Err(ConfigError::new(
                field,
                "a decoder of type llama, qwen2, mistral or hyperclovax",
                format!("`{other}`"),
            )),
        }
    }

    /// The `model_type` that a `config.json` uses for this kind.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Mistral => "mistral",
            Self::HyperClovaX => "hyperclovax",
        }
    }
}

/// One token id or several, as `eos_token_id` may be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TokenIds {
    /// A single id.
    One(u32),
    /// Any of these.
    Many(Vec<u32>),
}

impl TokenIds {
    /// All ids.
    pub fn to_vec(&self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![*id],
            Self::Many(ids) => ids.clone(),
        }
    }
}

/// The decoder's part of a Hugging Face `config.json`, field by field.
#[allow(missing_docs, reason = "the fields are those of the file; DecoderConfig documents them")]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HfDecoderConfig {
    pub model_type: Option<String>,
    pub vocab_size: Option<usize>,
    pub hidden_size: Option<usize>,
    pub intermediate_size: Option<usize>,
    pub num_hidden_layers: Option<usize>,
    pub num_attention_heads: Option<usize>,
    pub num_key_value_heads: Option<usize>,
    pub head_dim: Option<usize>,
    pub max_position_embeddings: Option<usize>,
    pub rms_norm_eps: Option<f64>,
    pub rope_theta: Option<f64>,
    pub rope_scaling: Option<HfRope>,
    pub rope_parameters: Option<HfRope>,
    pub hidden_act: Option<String>,
    pub attention_bias: Option<bool>,
    pub mlp_bias: Option<bool>,
    pub use_sliding_window: Option<bool>,
    pub sliding_window: Option<usize>,
    pub tie_word_embeddings: Option<bool>,
    pub bos_token_id: Option<u32>,
    pub eos_token_id: Option<TokenIds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedding_multiplier: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub residual_multiplier: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention_multiplier: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logits_scaling: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_post_norm: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub padded_vocab_size: Option<usize>,
}

/// Factors of a `hyperclovax` decoder (specs: hyperclovax, section 4); all are 1 in the other kinds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Multipliers {
    /// On what enters the first layer, visual tokens too.
    pub embedding: f64,
    /// On what attention and MLP add.
    pub residual: f64,
    /// On products of queries and keys, in the place of one over the root of `head_dim`; `None` is that root.
    pub attention: Option<f64>,
    /// On the logits.
    pub logits: f64,
}

impl Default for Multipliers {
    fn default() -> Self {
        Self { embedding: 1.0, residual: 1.0, attention: None, logits: 1.0 }
    }
}

/// A decoder with every number resolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecoderConfig {
    /// Family.
    pub kind: DecoderKind,
    /// Rows of the embedding, and logits.
    pub vocab: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Width inside the MLP.
    pub mlp_width: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// Largest number of positions.
    pub max_positions: usize,
    /// Added under the root of the norms.
    pub norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Stretch of the rotary frequencies.
    pub rope_scaling: RopeScaling,
    /// Biases on the q, k and v projections.
    pub qkv_bias: bool,
    /// Bias on the output projection of attention.
    pub out_bias: bool,
    /// Biases inside the MLP.
    pub mlp_bias: bool,
    /// A token sees this many positions, itself among them; `None` sees all.
    pub window: Option<usize>,
    /// Logits use the embedding's own rows.
    pub tied: bool,
    /// Factors here and there.
    #[serde(default)]
    pub multipliers: Multipliers,
    /// A norm behind attention and one behind the MLP as well (Peri-LN).
    #[serde(default)]
    pub post_norm: bool,
    /// Begins a text, where the tokenizer adds one.
    pub bos: Option<u32>,
    /// Ids that end a turn.
    pub eos: Vec<u32>,
}

/// What a kind's own `config.json` leaves out when it equals these.
struct Defaults {
    vocab: usize,
    width: usize,
    mlp_width: usize,
    heads: usize,
    kv_heads: Option<usize>,
    max_positions: usize,
    window: usize,
    eos: u32,
}

impl Defaults {
    /// `None` for a kind whose files say everything: sizes of HyperCLOVA X are not published elsewhere.
    fn of(kind: DecoderKind) -> Option<Self> {
        let llama = Self {
            vocab: 32_000,
            width: 4096,
            mlp_width: 11_008,
            heads: 32,
            kv_heads: None,
            max_positions: 2048,
            window: 0,
            eos: 2,
        };
        match kind {
            DecoderKind::Llama => Some(llama),
            DecoderKind::Qwen2 => Some(Self {
                vocab: 151_936,
                mlp_width: 22_016,
                kv_heads: Some(32),
                max_positions: 32_768,
                window: 4096,
                eos: 151_645,
                ..llama
            }),
            DecoderKind::Mistral => {
                Some(Self { mlp_width: 14_336, kv_heads: Some(8), max_positions: 131_072, window: 4096, ..llama })
            }
            DecoderKind::HyperClovaX => None,
        }
    }
}

impl DecoderConfig {
    /// Resolves what a file says; `path` is where it stood in the file ("text_config." or ""), for errors.
    pub fn from_hf(hf: &HfDecoderConfig, path: &str) -> Result<Self, ConfigError> {
        let model_type = hf.model_type.as_deref();
        let field = format!("{path}model_type");
        let model_type = model_type.ok_or_else(|| ConfigError::new(&field, "a string", "nothing"))?;
        let kind = DecoderKind::from_model_type(model_type, &field)?;
        let d = Defaults::of(kind);
        let d = d.as_ref();
        let need = |name: &str, given: Option<usize>, default: Option<usize>| {
            let missing = || ConfigError::new(format!("{path}{name}"), "a number", "nothing");
            given.or(default).ok_or_else(missing)
        };
        let width = need("hidden_size", hf.hidden_size, d.map(|d| d.width))?;
        let heads = need("num_attention_heads", hf.num_attention_heads, d.map(|d| d.heads))?;
        let max_positions = need("max_position_embeddings", hf.max_position_embeddings, d.map(|d| d.max_positions))?;
        let (rope_theta, rope_scaling) = RopeScaling::from_hf(hf, max_positions, path)?;
        if let Some(act) = hf.hidden_act.as_deref().filter(|a| *a != "silu" && *a != "swish") {
            return Err(ConfigError::new(format!("{path}hidden_act"), "silu", format!("`{act}`")));
        }
        let optional_bias = matches!(kind, DecoderKind::Llama | DecoderKind::HyperClovaX);
        let attention_bias = hf.attention_bias.unwrap_or(false) && optional_bias;
        let kv_heads = hf.num_key_value_heads.or(d.and_then(|d| d.kv_heads));
        let config = Self {
            kind,
            vocab: need("vocab_size", hf.vocab_size, d.map(|d| d.vocab))?,
            width,
            mlp_width: need("intermediate_size", hf.intermediate_size, d.map(|d| d.mlp_width))?,
            layers: need("num_hidden_layers", hf.num_hidden_layers, d.map(|_| 32))?,
            heads,
            kv_heads: need("num_key_value_heads", kv_heads, d.map(|_| heads))?,
            head_dim: hf.head_dim.unwrap_or_else(|| width.checked_div(heads).unwrap_or(0)),
            max_positions,
            norm_eps: hf.rms_norm_eps.unwrap_or(1e-6),
            rope_theta,
            rope_scaling,
            qkv_bias: attention_bias || kind == DecoderKind::Qwen2,
            out_bias: attention_bias,
            mlp_bias: hf.mlp_bias.unwrap_or(false) && optional_bias,
            window: resolve_window(hf, kind, d.map_or(0, |d| d.window)),
            tied: hf.tie_word_embeddings.unwrap_or(false),
            multipliers: resolve_multipliers(hf, kind, path)?,
            post_norm: kind == DecoderKind::HyperClovaX && hf.use_post_norm.unwrap_or(true),
            bos: hf.bos_token_id,
            eos: match (&hf.eos_token_id, d) {
                (Some(ids), _) => ids.to_vec(),
                (None, d) => d.map(|d| d.eos).into_iter().collect(),
            },
        };
        config.check(path)?;
        Ok(config)
    }

    /// The file that [`Self::from_hf`] reads back as this.
    pub fn to_hf(&self) -> HfDecoderConfig {
        let (own, m) = (self.kind == DecoderKind::HyperClovaX, &self.multipliers);
        HfDecoderConfig {
            model_type: Some(self.kind.model_type().into()),
            vocab_size: Some(self.vocab),
            hidden_size: Some(self.width),
            intermediate_size: Some(self.mlp_width),
            num_hidden_layers: Some(self.layers),
            num_attention_heads: Some(self.heads),
            num_key_value_heads: Some(self.kv_heads),
            head_dim: Some(self.head_dim),
            max_position_embeddings: Some(self.max_positions),
            rms_norm_eps: Some(self.norm_eps),
            rope_theta: Some(self.rope_theta),
            rope_scaling: self.rope_scaling.to_hf(),
            rope_parameters: None,
            hidden_act: Some("silu".into()),
            attention_bias: Some(self.out_bias),
            mlp_bias: Some(self.mlp_bias),
            use_sliding_window: Some(self.window.is_some()),
            sliding_window: self.window,
            tie_word_embeddings: Some(self.tied),
            bos_token_id: self.bos,
            eos_token_id: Some(TokenIds::Many(self.eos.clone())),
            embedding_multiplier: own.then_some(m.embedding),
            residual_multiplier: own.then_some(m.residual),
            attention_multiplier: m.attention.filter(|_| own),
            logits_scaling: own.then_some(m.logits),
            use_post_norm: own.then_some(self.post_norm),
            padded_vocab_size: None,
        }
    }

    /// Refuses numbers that can't make a decoder; `path` as in [`Self::from_hf`].
    pub fn check(&self, path: &str) -> Result<(), ConfigError> {
        let positive = [
            ("vocab_size", self.vocab),
            ("hidden_size", self.width),
            ("intermediate_size", self.mlp_width),
            ("num_hidden_layers", self.layers),
            ("num_attention_heads", self.heads),
            ("num_key_value_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.max_positions),
        ];
        for (name, value) in positive {
            // The upper bound keeps products of two sizes far from overflow.
            if value == 0 || value > 1 << 28 {
                return Err(ConfigError::new(format!("{path}{name}"), "a number from 1 to 2^28", value));
            }
        }
        // What is made of these before a tensor is looked at must not outgrow a file that asks for much.
        for (name, value, most) in
            [("num_hidden_layers", self.layers, 1 << 10), ("max_position_embeddings", self.max_positions, 1 << 24)]
        {
            if value > most {
                return Err(ConfigError::new(format!("{path}{name}"), format!("at most {most}"), value));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let expected = format!("a divisor of num_attention_heads ({})", self.heads);
            return Err(ConfigError::new(format!("{path}num_key_value_heads"), expected, self.kv_heads));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(ConfigError::new(format!("{path}head_dim"), "an even number", self.head_dim));
        }
        if let Some((expected, found)) = self.rope_scaling.problem(self.head_dim) {
            return Err(ConfigError::new(format!("{path}rope_scaling.factors"), expected, found));
        }
        if self.window == Some(0) {
            return Err(ConfigError::new(format!("{path}sliding_window"), "a positive number or null", 0));
        }
        Ok(())
    }
}

fn resolve_multipliers(hf: &HfDecoderConfig, kind: DecoderKind, path: &str) -> Result<Multipliers, ConfigError> {
    if kind != DecoderKind::HyperClovaX {
        return Ok(Multipliers::default());
    }
    let checked = |name: &str, given: Option<f64>| match given {
        Some(value) if !value.is_finite() || value <= 0.0 => {
            Err(ConfigError::new(format!("{path}{name}"), "a positive number", value))
        }
        given => Ok(given),
    };
    Ok(Multipliers {
        embedding: checked("embedding_multiplier", hf.embedding_multiplier)?.unwrap_or(1.0),
        residual: checked("residual_multiplier", hf.residual_multiplier)?.unwrap_or(1.0),
        attention: checked("attention_multiplier", hf.attention_multiplier)?,
        logits: checked("logits_scaling", hf.logits_scaling)?.unwrap_or(1.0),
    })
}

fn resolve_window(hf: &HfDecoderConfig, kind: DecoderKind, default: usize) -> Option<usize> {
    match kind {
        DecoderKind::Llama | DecoderKind::HyperClovaX => None,
        // A Mistral file that says null means no window; one that says nothing is read the same way, since
        // every published file names its window.
        DecoderKind::Mistral => hf.sliding_window,
        DecoderKind::Qwen2 => hf.use_sliding_window.unwrap_or(false).then(|| hf.sliding_window.unwrap_or(default)),
    }
}
