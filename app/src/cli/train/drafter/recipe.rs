//! Which drafter is trained, on what, for how long.

use super::super::recipe::OptimiserRecipe;
use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use spotter_engine::model::{
    HfDecoderConfig,
    adapter::{MOST_FRAMES, MOST_TOKENS},
};
use std::path::Path;

/// A recipe file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DrafterRecipe {
    /// Seed of weights, texts and lines.
    pub(super) seed: u64,
    /// Tokens of a line at most.
    pub(super) length: usize,
    /// The most numbers that the drafter may have.
    pub(super) most_parameters: usize,
    /// Tokens that are drafted, those that the target says most often; left out, all. A drafter of a large vocabulary is
    /// mostly its head, of which a pass then reads no more.
    #[serde(default)]
    pub(super) head: Option<usize>,
    /// Parts of `--minutes` for each stage.
    pub(super) shares: Shares,
    /// What it may see of the newest pictures; `--adapter` asks for it.
    #[serde(default)]
    pub(super) adapter: AdapterRecipe,
    /// Shape of the drafter, as in a Hugging Face `config.json`; its vocabulary is the target's.
    pub(super) text: HfDecoderConfig,
    /// What the target says.
    pub(super) distil: DistilRecipe,
    /// Reading text.
    pub(super) pretrain: ReadRecipe,
    /// Drawing the drafter towards the target.
    pub(super) tune: TuneRecipe,
}

/// What a drafter for a coach sees before an utterance.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct AdapterRecipe {
    /// Tokens to which the newest frames are pooled; 0 for a drafter that reads text only.
    pub(super) tokens: usize,
    /// Frames.
    pub(super) frames: usize,
}

impl Default for AdapterRecipe {
    fn default() -> Self {
        Self { tokens: 0, frames: 16 }
    }
}

/// Parts of the time; they are divided by their sum.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shares {
    pub(super) distil: f64,
    pub(super) pretrain: f64,
    pub(super) tune: f64,
}

/// What the target says, and of what.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DistilRecipe {
    /// Temperatures at which it speaks, in turn.
    pub(super) temperatures: Vec<f32>,
    /// Texts at a time.
    pub(super) batch: usize,
    /// Of a coach.
    pub(super) sessions: Option<SessionsRecipe>,
    /// Of any other language model.
    pub(super) prompts: Option<PromptsRecipe>,
}

/// Synthetic sessions that a coach watches.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SessionsRecipe {
    /// Sessions in all; the seed of a session is its index.
    pub(super) train: usize,
    /// Sessions of the validation split.
    pub(super) held_out: usize,
    /// Frames watched of a session at most.
    pub(super) frames: usize,
    /// Every so many sessions is Korean.
    pub(super) korean_every: usize,
    /// Share of exercises that recorded people do, where `--motion` gives recordings.
    pub(super) recorded: f64,
    /// Share of sessions of which the coach is told the exercise.
    pub(super) named: f64,
    /// Tokens kept of each of the coach's distributions.
    pub(super) top: usize,
}

/// Texts that a language model continues.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PromptsRecipe {
    /// Texts in all.
    pub(super) train: usize,
    /// Texts about topics that no other is about.
    pub(super) held_out: usize,
    /// Tokens said at most.
    pub(super) tokens: usize,
    /// Share of texts that are asked for nothing: they begin with `begin` alone. Where no text is given they are also
    /// what is read at first.
    pub(super) free: f64,
    /// The token with which a text begins.
    pub(super) begin: String,
    /// What is asked, with `{topic}` in it.
    pub(super) templates: Vec<String>,
    /// Of what.
    pub(super) topics: Vec<String>,
}

/// Reading.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReadRecipe {
    /// Lines a step.
    pub(super) batch: usize,
    pub(super) optimiser: OptimiserRecipe,
}

/// Drawing the drafter towards the target: KL first, then each loss from there.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TuneRecipe {
    /// Lines a step.
    pub(super) batch: usize,
    /// Share of them that are plain text.
    pub(super) plain: f64,
    /// KL, from which all losses begin.
    pub(super) warm: OptimiserRecipe,
    /// Each loss.
    pub(super) optimiser: OptimiserRecipe,
}

impl DrafterRecipe {
    /// Reads and checks a recipe.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| {
            format!("{}: can't be read; one lies at assets/recipes/drafter-mini.toml", path.display())
        })?;
        let recipe: Self =
            toml::from_str(&text).with_context(|| format!("{}: no recipe of a drafter", path.display()))?;
        match recipe.problem() {
            None => Ok(recipe),
            Some(problem) => bail!("{}: {problem}", path.display()),
        }
    }

    fn problem(&self) -> Option<String> {
        let share = |name: &str, v: f64| {
            (!(0.0..=1.0).contains(&v)).then(|| format!("{name} = {v}: a share from 0 to 1 expected"))
        };
        let positive = |name: &str, v: usize| (v == 0).then(|| format!("{name} must be at least 1"));
        let distil = &self.distil;
        let general = [
            positive("distil.batch", distil.batch),
            positive("pretrain.batch", self.pretrain.batch),
            positive("tune.batch", self.tune.batch),
            (self.head == Some(0)).then(|| "head must be at least 1".to_owned()),
            (self.adapter.tokens > MOST_TOKENS)
                .then(|| format!("adapter.tokens = {}: at most {MOST_TOKENS}", self.adapter.tokens)),
            (!(1..=MOST_FRAMES).contains(&self.adapter.frames))
                .then(|| format!("adapter.frames = {}: 1 to {MOST_FRAMES}", self.adapter.frames)),
            (self.length < 2).then(|| "length must be at least 2".to_owned()),
            share("tune.plain", self.tune.plain),
            distil.temperatures.is_empty().then(|| "distil.temperatures is empty".to_owned()),
            distil
                .temperatures
                .iter()
                .any(|t| !(0.0..=10.0).contains(t))
                .then(|| "distil.temperatures: 0 to 10 expected".to_owned()),
            ([self.shares.distil, self.shares.pretrain, self.shares.tune].iter().any(|s| *s <= 0.0 || !s.is_finite()))
                .then(|| "shares must be above 0".to_owned()),
            (distil.sessions.is_some() == distil.prompts.is_some())
                .then(|| "either [distil.sessions] (a coach) or [distil.prompts] (another model) is needed".to_owned()),
        ];
        let sessions = distil.sessions.as_ref().map(|s| {
            [
                positive("distil.sessions.korean_every", s.korean_every),
                positive("distil.sessions.frames", s.frames),
                positive("distil.sessions.top", s.top),
                share("distil.sessions.recorded", s.recorded),
                share("distil.sessions.named", s.named),
            ]
        });
        let prompts = distil.prompts.as_ref().map(|p| {
            [
                positive("distil.prompts.tokens", p.tokens),
                share("distil.prompts.free", p.free),
                (p.topics.len() < 2).then(|| "distil.prompts.topics: at least two, one of them is held out".to_owned()),
                p.templates.is_empty().then(|| "distil.prompts.templates is empty".to_owned()),
                p.templates
                    .iter()
                    .find(|t| !t.contains("{topic}"))
                    .map(|t| format!("distil.prompts.templates: `{t}` has no {{topic}}")),
            ]
        });
        let all = general.into_iter().chain(sessions.into_iter().flatten()).chain(prompts.into_iter().flatten());
        all.flatten().next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped(name: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/recipes").join(name);
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn recipes_that_ship_are_right_and_wrong_ones_are_named() {
        for name in ["drafter-mini.toml", "drafter-smollm2.toml"] {
            let recipe: DrafterRecipe = toml::from_str(&shipped(name)).unwrap();
            assert_eq!(recipe.problem(), None, "{name}");
        }
        let check = |from: &str, to: &str, expected: &str| {
            let text = shipped("drafter-mini.toml");
            assert!(text.contains(from), "{from}");
            let recipe: DrafterRecipe = toml::from_str(&text.replacen(from, to, 1)).unwrap();
            let problem = recipe.problem().unwrap_or_default();
            assert!(problem.contains(expected), "{problem}");
        };
        check("korean_every = 4", "korean_every = 0", "korean_every must be at least 1");
        check("frames = 32", "frames = 0", "adapter.frames = 0: 1 to 1024");
        check("frames = 32", "frames = 32\ntokens = 17", "adapter.tokens = 17: at most 16");
        check("plain = 0.1", "plain = 1.5", "tune.plain = 1.5");
        check("temperatures = [0.0, ", "temperatures = [-1.0, ", "0 to 10 expected");
        let smollm = shipped("drafter-smollm2.toml").replacen("{topic}", "it", 1);
        let recipe: DrafterRecipe = toml::from_str(&smollm).unwrap();
        assert!(recipe.problem().unwrap().contains("has no {topic}"));
    }
}
