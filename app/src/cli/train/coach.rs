//! The coach of a recipe: words, then sessions seen through the trained tower, then everything together.

use super::{
    Meter, Run,
    recipe::{OptimiserRecipe, Recipe},
    streams::{self, Scenario},
    vocabulary,
};
use anyhow::{Context as _, Result, anyhow};
use spotter_datasets::synthetic::{Exercise, Mistake, session::Split};
use spotter_engine::{
    coach::{manifest::Speaking, session::action_id},
    model::DecoderConfig,
    training::{
        coach::{Actions, CoachTraining, Corpus, Eyes, Stream, train, train_text},
        dense::Kinds,
    },
};
use spotter_vision::{encoder::vit::Vit, training::Variables};
use std::path::{Path, PathBuf};
use tokenizers::Tokenizer;

/// Steps between checkpoints.
const SAVE_EVERY: usize = 500;

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

/// What all three stages share.
struct Stage<'a> {
    recipe: &'a Recipe,
    run: &'a Run,
    tokenizer: Tokenizer,
    config: DecoderConfig,
    actions: Actions,
    settings: CoachTraining,
}

impl<'a> Stage<'a> {
    fn new(recipe: &'a Recipe, run: &'a Run, part: &str, batch: usize, optimiser: &OptimiserRecipe) -> Result<Self> {
        let tokenizer = tokenizer(recipe, &run.out)?;
        let Speaking::Actions { next, feedback, end } = &recipe.manifest.speaking else {
            anyhow::bail!("recipe: a coach is trained with speaking.kind = \"actions\"");
        };
        let id = |token: &str| action_id(&tokenizer, token);
        let actions = Actions { next: id(next)?, feedback: id(feedback)?, end: id(end)? };
        let settings = CoachTraining {
            batch,
            workers: run.workers,
            makers: run.makers,
            frames: recipe.coach.frames,
            kinds: Kinds { exercises: 1 + Exercise::ALL.len(), mistakes: Mistake::ALL.len() },
            silence_weight: recipe.coach.silence_weight,
            optimiser: optimiser.settings(run.until),
            seed: recipe.seed,
            weights: run.out.join(format!("{part}.safetensors")),
            state: run.out.join(format!("{part}-optimiser.safetensors")),
            save_every: SAVE_EVERY,
        };
        Ok(Self { recipe, run, config: decoder_config(recipe, &tokenizer)?, tokenizer, actions, settings })
    }

    /// The variables of this stage: its own when it is taken up again, else those of `before`.
    fn variables(&self, before: &[PathBuf]) -> Result<Variables> {
        let (seed, device) = (self.recipe.seed, &self.run.device);
        let own = [self.settings.weights.clone()];
        let files = if self.settings.resumes() { &own[..] } else { before };
        Ok(Variables::load_all(&files.iter().map(PathBuf::as_path).collect::<Vec<_>>(), seed, device)?)
    }

    fn train<E: Eyes>(&self, vars: &Variables, seen: &(Vec<Stream>, E), held_out: &(Vec<Stream>, E)) -> Result<()> {
        let mut meter = Meter::new(self.settings.optimiser.steps, 100);
        let mut smooth: Option<[f64; 3]> = None;
        let losses = train(
            &self.config,
            self.actions,
            vars,
            &self.settings,
            &Corpus { streams: &seen.0, eyes: &seen.1 },
            &Corpus { streams: &held_out.0, eyes: &held_out.1 },
            &mut |p| {
                let now = [p.action, p.text, p.dense];
                let mean = smooth.get_or_insert(now);
                mean.iter_mut().zip(now).for_each(|(m, n)| *m += 0.05 * (n - *m));
                let [action, text, dense] = mean;
                meter.at(p.step, &format!("action {action:.4}, text {text:.4}, dense {dense:.3}"));
            },
        )?;
        super::super::print_json(&serde_json::json!({
            "validation_action_loss": losses.action,
            "validation_text_loss": losses.text,
            "validation_dense_loss": losses.dense,
        }))
    }

    fn splits(&self) -> [(Split, usize); 2] {
        let coach = &self.recipe.coach;
        [(Split::Train, coach.sessions), (Split::Validation, coach.validation_sessions)]
    }
}

/// A checkpoint of an earlier part, which must be there.
pub(super) fn earlier(run: &Run, part: &str) -> Result<PathBuf> {
    let file = run.out.join(format!("{part}.safetensors"));
    if !file.exists() {
        anyhow::bail!("{}: not there; run `spotter train {part}` with the same --out first", file.display());
    }
    Ok(file)
}

/// Trains the decoder on what coaches say, without pictures; prints its loss.
pub(super) fn words(recipe: &Recipe, run: &Run) -> Result<()> {
    let stage = Stage::new(recipe, run, "words", recipe.words.batch, &recipe.words.optimiser)?;
    let mut lines = Vec::new();
    let Actions { feedback, end, .. } = stage.actions;
    streams::sessions(
        Scenario::of(recipe),
        run,
        stage.splits()[0],
        &stage.tokenizer,
        |_, _, _| Ok(()),
        |stream, _, ()| {
            for stretch in &stream.exercises {
                let own = stream.utterances.iter().filter(|(at, _)| (stretch.announced..stretch.end).contains(at));
                lines.push(streams::told(&stretch.prompt, own, feedback, end));
            }
            Ok(true)
        },
    )?;
    let vars = stage.variables(&[])?;
    let mut meter = Meter::new(stage.settings.optimiser.steps, 100);
    let loss = train_text(&stage.config, &vars, &stage.settings, &lines, &mut |step, loss| {
        meter.at(step, &format!("text {loss:.4}"));
    })?;
    super::super::print_json(&serde_json::json!({ "lines": lines.len(), "text_loss": loss }))
}

/// Trains projector and decoder on sessions seen through the trained tower; prints the validation losses.
pub(super) fn coach(recipe: &Recipe, run: &Run) -> Result<()> {
    let stage = Stage::new(recipe, run, "coach", recipe.coach.batch, &recipe.coach.optimiser)?;
    let tower = Variables::load(&earlier(run, "encoder")?, recipe.seed, &run.device)?;
    let vit = Vit::new(&recipe.vision, tower.builder().pp("vision_tower"))?;
    let vars = stage.variables(&[earlier(run, "words")?])?;
    let [seen, held_out] = stage.splits().map(|split| streams::encoded(recipe, run, split, &vit, &stage.tokenizer));
    stage.train(&vars, &seen?, &held_out?)
}

/// Trains tower, projector and decoder on the same sessions; prints the validation losses.
pub(super) fn joint(recipe: &Recipe, run: &Run) -> Result<()> {
    let mut stage = Stage::new(recipe, run, "joint", recipe.joint.batch, &recipe.joint.optimiser)?;
    stage.settings.frames = recipe.joint.frames;
    let vars = stage.variables(&[earlier(run, "encoder")?, earlier(run, "coach")?])?;
    let vit = Vit::new(&recipe.vision, vars.builder().pp("vision_tower"))?;
    let [seen, held_out] = stage.splits().map(|split| streams::drawn(recipe, run, split, &vit, &stage.tokenizer));
    stage.train(&vars, &seen?, &held_out?)
}
