//! What is trained, on what, for how long.

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use spotter_engine::{coach::manifest::Manifest, model::HfDecoderConfig};
use spotter_vision::{
    encoder::{tosa::TosaOptions, vit::VitConfig},
    training::AdamWSettings,
};
use std::{path::Path, time::Instant};

/// A recipe file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recipe {
    /// Seed of weights, samples and sessions.
    pub(crate) seed: u64,
    /// Shape of the encoder.
    pub(crate) vision: VitConfig,
    /// Share of exercises that recorded people do, where `--motion` gives recordings.
    pub(crate) recorded: f64,
    /// Training of the encoder.
    pub(crate) encoder: StageRecipe,
    /// Shape of the decoder, as in a Hugging Face `config.json`.
    pub(crate) text: HfDecoderConfig,
    /// Training of the decoder on what coaches say.
    pub(crate) words: StageRecipe,
    /// Training of projector and decoder.
    pub(crate) coach: CoachRecipe,
    /// Training of all three.
    pub(crate) joint: JointRecipe,
    /// Training of the selectors.
    #[serde(default)]
    pub(crate) selectors: SelectorsRecipe,
    /// Training of the tower with skipping.
    #[serde(default)]
    pub(crate) skipping: SkippingRecipe,
    /// The manifest of the model folder.
    pub(crate) manifest: Manifest,
}

/// Training of one part.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StageRecipe {
    /// Pictures, or lines, a step.
    pub(crate) batch: usize,
    pub(crate) optimiser: OptimiserRecipe,
}

/// Training of the whole model.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JointRecipe {
    /// Frames of a window.
    pub(crate) frames: usize,
    /// Windows a step.
    pub(crate) batch: usize,
    pub(crate) optimiser: OptimiserRecipe,
}

/// Training of the selectors.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SelectorsRecipe {
    /// Pictures a step.
    pub(crate) batch: usize,
    pub(crate) tosa: TosaOptions,
    pub(crate) optimiser: OptimiserRecipe,
}

impl Default for SelectorsRecipe {
    fn default() -> Self {
        let optimiser = OptimiserRecipe { learning_rate: 1e-2, weight_decay: 0.0, warmup: 10, steps: 400, clip: 1.0 };
        Self { batch: 32, tosa: TosaOptions::default(), optimiser }
    }
}

/// Training of the tower with skipping.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SkippingRecipe {
    /// Pictures a step.
    pub(crate) batch: usize,
    /// Shares of the tokens, one after another.
    pub(crate) ratios: Vec<f64>,
    /// Weight of the selectors' divergence.
    pub(crate) selector_weight: f64,
    /// Weight of the squared distance from the dense tower's tokens, relative to their own square.
    pub(crate) distil_weight: f64,
    pub(crate) optimiser: OptimiserRecipe,
    /// Fitting of heads to the dense tower, where there are none of its own: what the task's loss is taken from.
    pub(crate) heads: OptimiserRecipe,
}

impl Default for SkippingRecipe {
    fn default() -> Self {
        Self {
            batch: 32,
            ratios: vec![0.7, 0.5, 0.9, 0.3, 0.8],
            selector_weight: 0.1,
            distil_weight: 1.0,
            optimiser: OptimiserRecipe { learning_rate: 2e-4, weight_decay: 0.01, warmup: 50, steps: 400, clip: 1.0 },
            heads: OptimiserRecipe { learning_rate: 1e-2, weight_decay: 0.0, warmup: 10, steps: 300, clip: 1.0 },
        }
    }
}

/// What the training of selectors and of skipping takes from a recipe; without one, the defaults.
#[derive(Clone, Debug)]
pub(crate) struct TosaRecipe {
    pub(crate) seed: u64,
    pub(crate) recorded: f64,
    pub(crate) selectors: SelectorsRecipe,
    pub(crate) skipping: SkippingRecipe,
}

impl TosaRecipe {
    /// Reads a recipe, if one is named.
    pub(crate) fn read(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else {
            let (selectors, skipping) = Default::default();
            return Ok(Self { seed: 1, recorded: 0.35, selectors, skipping });
        };
        let Recipe { seed, recorded, selectors, skipping, .. } = Recipe::read(path)?;
        Ok(Self { seed, recorded, selectors, skipping })
    }
}

/// Training of the coach.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CoachRecipe {
    /// Sessions in all; the seed of a session is its index.
    pub(crate) sessions: usize,
    /// Every so many sessions is Korean.
    pub(crate) korean_every: usize,
    /// Sessions held out for the validation losses.
    pub(crate) validation_sessions: usize,
    /// Frames of a window.
    pub(crate) frames: usize,
    /// Windows a step.
    pub(crate) batch: usize,
    /// Weight of `<next>`.
    pub(crate) silence_weight: f32,
    pub(crate) optimiser: OptimiserRecipe,
}

/// Settings of AdamW.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OptimiserRecipe {
    pub(crate) learning_rate: f64,
    pub(crate) weight_decay: f64,
    pub(crate) warmup: usize,
    pub(crate) steps: usize,
    pub(crate) clip: f64,
}

impl OptimiserRecipe {
    pub(crate) fn settings(&self, until: Option<Instant>) -> AdamWSettings {
        AdamWSettings {
            learning_rate: self.learning_rate,
            weight_decay: self.weight_decay,
            warmup: self.warmup,
            steps: self.steps,
            clip: self.clip,
            until,
        }
    }
}

impl Recipe {
    /// Reads and checks a recipe.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("{}: can't be read; a recipe lies at assets/recipes/mini.toml", path.display()))?;
        let recipe: Self = toml::from_str(&text).with_context(|| format!("{}: not a recipe", path.display()))?;
        if let Some(problem) = recipe.vision.problem() {
            bail!("{}: vision: {problem}", path.display());
        }
        let batches = [
            recipe.encoder.batch,
            recipe.words.batch,
            recipe.coach.batch,
            recipe.joint.batch,
            recipe.selectors.batch,
            recipe.skipping.batch,
        ];
        if recipe.vision.tosa.is_some() {
            bail!("{}: vision.tosa: how tokens are skipped belongs into [selectors]", path.display());
        }
        if let Some(problem) = recipe.selectors.tosa.problem(recipe.vision.num_hidden_layers) {
            bail!("{}: selectors.{problem}", path.display());
        }
        if recipe.skipping.ratios.is_empty() || recipe.skipping.ratios.iter().any(|r| !(*r > 0.0 && *r <= 1.0)) {
            bail!("{}: skipping.ratios: shares above 0 and at most 1 expected", path.display());
        }
        if recipe.coach.korean_every == 0 || batches.contains(&0) {
            bail!("{}: every batch and korean_every must be at least 1", path.display());
        }
        if !(0.0..=1.0).contains(&recipe.recorded) {
            bail!("{}: recorded = {}: a share from 0 to 1 expected", path.display(), recipe.recorded);
        }
        Ok(recipe)
    }
}
