//! The coach of a recipe.

use super::{Meter, parallel::workers, recipe::Recipe, streams, vocabulary};
use anyhow::{Context as _, Result, anyhow};
use candle_core::Device;
use spotter_datasets::synthetic::session::Split;
use spotter_engine::{
    coach::{manifest::Speaking, session::action_id},
    model::DecoderConfig,
    training::coach::{Actions, CoachTraining, train as train_coach},
};
use spotter_vision::{encoder::vit::Vit, training::Variables};
use std::path::Path;
use tokenizers::Tokenizer;

/// The tokenizer of a run, learnt when there is none yet.
fn tokenizer(recipe: &Recipe, out: &Path) -> Result<Tokenizer> {
    let path = out.join("tokenizer.json");
    if !path.exists() {
        let size = recipe.text.vocab_size.context("recipe: text.vocab_size is missing")?;
        vocabulary::learn(&recipe.manifest, size, &path)?;
    }
    Tokenizer::from_file(&path).map_err(|e| anyhow!("{}: {e}", path.display()))
}

/// The shape of the decoder, its vocabulary that of the tokenizer.
pub(super) fn decoder_config(recipe: &Recipe, tokenizer: &Tokenizer) -> Result<DecoderConfig> {
    let mut config = DecoderConfig::from_hf(&recipe.text, "text.")?;
    config.vocab = tokenizer.get_vocab_size(true);
    Ok(config)
}

/// Trains the coach; prints its validation losses.
pub(super) fn train(recipe: &Recipe, out: &Path) -> Result<()> {
    let encoder = out.join("encoder.safetensors");
    if !encoder.exists() {
        anyhow::bail!("{}: not there; run `spotter train encoder` with the same --out first", encoder.display());
    }
    let vars = Variables::load(&encoder, recipe.seed, &Device::Cpu)?;
    let vit = Vit::new(&recipe.vision, vars.builder().pp("vision_tower"))?;
    let tokenizer = tokenizer(recipe, out)?;
    let Speaking::Actions { next, feedback, end } = &recipe.manifest.speaking else {
        anyhow::bail!("recipe: a coach is trained with speaking.kind = \"actions\"");
    };
    let id = |token: &str| action_id(&tokenizer, token);
    let actions = Actions { next: id(next)?, feedback: id(feedback)?, end: id(end)? };
    let sessions = streams::build(recipe, Split::Train, recipe.coach.sessions, &vit, &tokenizer, out)?;
    let held_out = streams::build(recipe, Split::Validation, recipe.coach.validation_sessions, &vit, &tokenizer, out)?;
    let run = CoachTraining {
        batch: recipe.coach.batch,
        workers: workers(),
        frames: recipe.coach.frames,
        silence_weight: recipe.coach.silence_weight,
        optimiser: recipe.coach.optimiser.settings(),
        seed: recipe.seed,
        out: out.to_owned(),
        save_every: 100,
    };
    let config = decoder_config(recipe, &tokenizer)?;
    let mut meter = Meter::new(run.optimiser.steps, 25);
    let mut smooth: Option<(f64, f64)> = None;
    let (action, text) = train_coach(&config, actions, &run, &sessions, &held_out, &mut |p| {
        let (a, t) = smooth.get_or_insert((p.action, p.text));
        *a += 0.05 * (p.action - *a);
        *t += 0.05 * (p.text - *t);
        meter.at(p.step, &format!("action {a:.4}, text {t:.4}"));
        true
    })?;
    super::super::print_json(&serde_json::json!({ "validation_action_loss": action, "validation_text_loss": text }))
}
