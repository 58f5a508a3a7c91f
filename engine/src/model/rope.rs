//! How positions turn into rotations: what a `config.json` says of it, and the frequencies that follow.

use super::config::{ConfigError, DecoderConfig, HfDecoderConfig};
use serde::{Deserialize, Serialize};

/// Smaller numbers turn a pair so fast that angles leave what f32 can tell apart.
const LEAST_FACTOR: f32 = 1e-6;

/// `rope_scaling` (or, as newer files have it, `rope_parameters`) of a `config.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HfRope {
    /// `default`, `linear`, `llama3` or Spotter's own `factors`; older files call it `type`.
    #[serde(alias = "type", skip_serializing_if = "Option::is_none")]
    pub rope_type: Option<String>,
    /// Base of the frequencies, in newer files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_theta: Option<f64>,
    /// Stretch of the context.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub factor: Option<f64>,
    /// llama3: below this many turns over the old context a frequency is stretched fully.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low_freq_factor: Option<f64>,
    /// llama3: above this many turns a frequency is left alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high_freq_factor: Option<f64>,
    /// llama3: the context before stretching, in tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original_max_position_embeddings: Option<usize>,
    /// factors: what each frequency is divided by, as GGUF files tell it; `head_dim / 2` of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub factors: Option<Vec<f32>>,
}

/// How positions turn into rotations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RopeScaling {
    /// As trained.
    None,
    /// All positions divided by the factor.
    Linear(f64),
    /// Low frequencies stretched, high ones kept, a ramp between.
    Llama3 {
        /// Stretch of the context.
        factor: f64,
        /// Turns below which a frequency is stretched fully.
        low: f64,
        /// Turns above which it is kept.
        high: f64,
        /// Context before stretching, in tokens.
        original: usize,
    },
    /// Each frequency divided by a number of its own, `head_dim / 2` of them.
    Factors(Vec<f32>),
}

impl RopeScaling {
    /// What a file says: the base of the frequencies, and how they are stretched.
    pub(super) fn from_hf(hf: &HfDecoderConfig, max_positions: usize, path: &str) -> Result<(f64, Self), ConfigError> {
        let (name, rope) = match (&hf.rope_parameters, &hf.rope_scaling) {
            (Some(rope), _) => ("rope_parameters", rope.clone()),
            (None, Some(rope)) => ("rope_scaling", rope.clone()),
            (None, None) => ("rope_scaling", HfRope::default()),
        };
        let theta = rope.rope_theta.or(hf.rope_theta).unwrap_or(10_000.0);
        let need = |field: &str, value: Option<f64>| {
            let value = value.filter(|v| v.is_finite() && *v > 0.0);
            value.ok_or_else(|| ConfigError::new(format!("{path}{name}.{field}"), "a positive number", "none"))
        };
        let scaling = match rope.rope_type.as_deref() {
            None | Some("default") => Self::None,
            Some("linear") => Self::Linear(need("factor", rope.factor)?),
            Some("llama3") => Self::Llama3 {
                factor: need("factor", rope.factor)?,
                low: need("low_freq_factor", rope.low_freq_factor)?,
                high: need("high_freq_factor", rope.high_freq_factor)?,
                original: rope.original_max_position_embeddings.unwrap_or(max_positions),
            },
            Some("factors") => Self::Factors(rope.factors.unwrap_or_default()),
            Some(other) => {
                return Err(ConfigError::new(
                    format!("{path}{name}.rope_type"),
                    "default, linear, llama3 or factors",
                    format!("`{other}`"),
                ));
            }
        };
        Ok((need("rope_theta", Some(theta))?, scaling))
    }

    /// The part of a file that [`Self::from_hf`] reads back; nothing where positions are as trained.
    pub(super) fn to_hf(&self) -> Option<HfRope> {
        let rope = |name: &str| HfRope { rope_type: Some(name.into()), ..HfRope::default() };
        Some(match self {
            Self::None => return None,
            Self::Linear(factor) => HfRope { factor: Some(*factor), ..rope("linear") },
            Self::Llama3 { factor, low, high, original } => HfRope {
                factor: Some(*factor),
                low_freq_factor: Some(*low),
                high_freq_factor: Some(*high),
                original_max_position_embeddings: Some(*original),
                ..rope("llama3")
            },
            Self::Factors(factors) => HfRope { factors: Some(factors.clone()), ..rope("factors") },
        })
    }

    /// Refuses factors that fit no head of this width, with what was expected and what was found.
    pub(crate) fn problem(&self, head_dim: usize) -> Option<(String, String)> {
        let Self::Factors(factors) = self else { return None };
        if factors.len() != head_dim / 2 {
            return Some((format!("{} numbers, half of head_dim", head_dim / 2), factors.len().to_string()));
        }
        let (pair, wrong) = factors.iter().enumerate().find(|(_, f)| !f.is_finite() || **f < LEAST_FACTOR)?;
        Some((format!("numbers from {LEAST_FACTOR:e} on"), format!("{wrong} at place {pair}")))
    }
}

/// Radians a position for each pair of a head's numbers, before they are stretched.
fn plain(cfg: &DecoderConfig) -> impl Iterator<Item = f32> {
    (0..cfg.head_dim).step_by(2).map(|i| 1.0 / (cfg.rope_theta as f32).powf(i as f32 / cfg.head_dim as f32))
}

/// What each pair's frequency is divided by, `head_dim / 2` numbers; nothing where all stay as they are.
///
/// They are the same numbers for a checkpoint and for a file that was made of it, so both turn by the same angles.
pub(crate) fn factors(cfg: &DecoderConfig) -> Option<Vec<f32>> {
    match &cfg.rope_scaling {
        RopeScaling::None => None,
        RopeScaling::Linear(factor) => Some(vec![*factor as f32; cfg.head_dim / 2]),
        RopeScaling::Llama3 { factor, low, high, original } => {
            let stretch = |f: f32| {
                let turns = *original as f64 * f64::from(f) / std::f64::consts::TAU;
                let keep = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                (1.0 / ((1.0 - keep) / factor + keep)) as f32
            };
            Some(plain(cfg).map(stretch).collect())
        }
        RopeScaling::Factors(factors) => Some(factors.clone()),
    }
}

/// Radians a position for each pair of a head's numbers, `head_dim / 2` of them.
pub(crate) fn frequencies(cfg: &DecoderConfig) -> Vec<f32> {
    match factors(cfg) {
        None => plain(cfg).collect(),
        Some(factors) => plain(cfg).zip(factors).map(|(f, factor)| f / factor).collect(),
    }
}
