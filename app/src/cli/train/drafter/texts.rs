//! What a drafter learns from: texts, and what its target says.

use super::{
    super::{
        Run,
        streams::{Film, Scenario, sessions, told},
    },
    recipe::{DrafterRecipe, PromptsRecipe, SessionsRecipe},
};
use anyhow::{Context as _, Result, anyhow, bail};
use candle_core::DType;
use rand::{Rng as _, SeedableRng as _, seq::IndexedRandom as _};
use rand_chacha::ChaCha8Rng;
use spotter_datasets::synthetic::session::Split;
use spotter_engine::{
    coach::{
        load::load_alone,
        manifest::Speaking,
        session::{StreamModel, action_id},
    },
    model::LanguageModel,
    tokenizer::Tokenizer,
    training::{
        coach::{Actions, Stream},
        lines::{Line, Lines},
        rollout::{Continuation, Dice, Wish, continue_texts},
        watch::{Pictures, Watched, Watching, watch},
    },
};
use spotter_vision::Frame;
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// A target and the words it has.
pub(super) enum Target {
    Coach(Box<StreamModel>),
    Language(Box<LanguageModel>),
}

/// Texts of all kinds.
#[derive(Clone)]
pub(super) struct Texts {
    /// Text that is read.
    pub(super) plain: Vec<Line>,
    /// What the target said.
    pub(super) said: Lines,
    /// The same that nothing is learnt from.
    pub(super) held_out: Lines,
}

impl Texts {
    /// The same for a drafter that sees nothing.
    pub(super) fn unseen(&self) -> Self {
        Self { plain: self.plain.clone(), said: self.said.unseen(), held_out: self.held_out.unseen() }
    }
}

impl Target {
    /// Opens a model folder with a `spotter.toml`, or any language model.
    pub(super) fn open(path: &Path, run: &Run) -> Result<Self> {
        if path.join("spotter.toml").exists() {
            let coach = load_alone(path, &run.device).with_context(|| format!("target {}", path.display()))?;
            return Ok(Self::Coach(Box::new(coach)));
        }
        let model = LanguageModel::open(path, DType::F32, &run.device)
            .map_err(|e| crate::cli::Hinted::new(e.into(), "SmolLM2 comes with `scripts/setup.sh smollm2`"))?;
        Ok(Self::Language(Box::new(model)))
    }

    /// Size of its vocabulary.
    pub(super) fn vocab(&self) -> usize {
        match self {
            Self::Coach(coach) => coach.decoder.config().vocab,
            Self::Language(model) => model.decoder.config().vocab,
        }
    }

    /// Width of its visual tokens, where it sees.
    pub(super) fn sight(&self) -> Option<usize> {
        match self {
            Self::Coach(coach) => Some(coach.decoder.config().width),
            Self::Language(_) => None,
        }
    }

    /// Numbers of its decoder.
    pub(super) fn parameters(&self) -> usize {
        match self {
            Self::Coach(coach) => coach.decoder.parameters(),
            Self::Language(model) => model.decoder.parameters(),
        }
    }

    /// Its tokenizer.
    pub(super) fn tokenizer(&self) -> tokenizers::Tokenizer {
        match self {
            Self::Coach(coach) => coach.tokenizer.clone(),
            Self::Language(model) => model.tokenizer.clone().into_inner(),
        }
    }

    /// Tokens that it can't say in an utterance.
    pub(super) fn never(&self) -> Result<Vec<u32>> {
        match self {
            Self::Coach(coach) => {
                let actions = actions(coach)?;
                Ok(vec![actions.next, actions.feedback])
            }
            Self::Language(_) => Ok(Vec::new()),
        }
    }

    /// Lets it speak. `given` are texts to be read instead of its own.
    pub(super) fn texts(&self, recipe: &DrafterRecipe, run: &Run, given: &[std::path::PathBuf]) -> Result<Texts> {
        let given = read_texts(given, &self.tokenizer(), recipe.length)?;
        let mut texts = match (self, &recipe.distil.sessions, &recipe.distil.prompts) {
            (Self::Coach(coach), Some(own), _) => coach_texts(coach, recipe, own, run)?,
            (Self::Language(model), _, Some(own)) => language_texts(model, recipe, own, run)?,
            (Self::Coach(_), ..) => bail!("the target is a coach: its recipe needs [distil.sessions]"),
            (Self::Language(_), ..) => bail!("the target is no coach: its recipe needs [distil.prompts]"),
        };
        if !given.is_empty() {
            texts.plain = given;
        }
        Ok(texts)
    }
}

/// Plain texts in parts of `length` tokens.
fn read_texts(files: &[std::path::PathBuf], tokenizer: &tokenizers::Tokenizer, length: usize) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for file in files {
        let bytes = std::fs::read(file).with_context(|| format!("{}: can't be read", file.display()))?;
        let text = String::from_utf8(bytes).with_context(|| format!("{}: not UTF-8 text", file.display()))?;
        let ids = tokenizer.encode(text, false).map_err(|e| anyhow!("{}: {e}", file.display()))?;
        lines.extend(ids.get_ids().chunks(length).filter(|part| part.len() > 1).map(|part| Line::plain(part.to_vec())));
    }
    Ok(lines)
}

fn actions(coach: &StreamModel) -> Result<Actions> {
    let Speaking::Actions { next, feedback, end } = &coach.manifest.speaking else {
        bail!("a drafter can be trained for a coach with speaking.kind = \"actions\" only");
    };
    let id = |token: &str| action_id(&coach.tokenizer, token);
    Ok(Actions { next: id(next)?, feedback: id(feedback)?, end: id(end)? })
}

/// The part of a session that is watched, as drawn, and what the coach is told.
struct Part {
    prompt: Vec<u32>,
    pictures: Vec<Vec<u8>>,
}

/// Told the exercise, from its announcement on; or untold, from anywhere.
fn part(own: &SessionsRecipe, side: usize, seed: u64, stream: &Stream, film: &Film) -> Part {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let n = stream.truths.len();
    let stretch = stream.exercises.choose(&mut rng).filter(|_| rng.random_bool(own.named));
    let (prompt, from, to) = match stretch {
        Some(s) => (&s.prompt, s.announced, s.end),
        None => (&stream.unnamed, rng.random_range(0..n.saturating_sub(own.frames).max(1)), n),
    };
    let from = from.min(n.saturating_sub(1));
    let to = to.clamp(from + 1, n.max(from + 1)).min(from + own.frames);
    Part { prompt: prompt.clone(), pictures: film.draw(side, from, to) }
}

fn watched(coach: &StreamModel, part: Part) -> Result<Watched> {
    let side = coach.picture_side;
    let frames = part.pictures.into_iter().enumerate().map(|(seq, rgb)| {
        Frame::from_rgb(seq as u64, Duration::ZERO, side, side, rgb).context("a drawn frame has the wrong size")
    });
    let frames = frames.collect::<Result<Vec<_>>>()?;
    let at_once = if coach.decoder.device().is_cpu() { 32 } else { 512 };
    Ok(Watched { prompt: part.prompt, frames: coach.eye.film(&frames, at_once)?, temperature: 0.0 })
}

/// What is kept of pictures, for a drafter that sees.
pub(super) fn pictures(recipe: &DrafterRecipe) -> Option<Pictures> {
    let own = recipe.adapter;
    (own.tokens > 0).then_some(Pictures { tokens: own.tokens, frames: own.frames })
}

/// What a coach says to people of a split, and what the script says to them.
fn coach_split(
    coach: &StreamModel,
    recipe: &DrafterRecipe,
    own: &SessionsRecipe,
    run: &Run,
    (split, count, until): (Split, usize, Option<Instant>),
) -> Result<(Lines, Vec<Line>)> {
    let actions = actions(coach)?;
    let defaults = &coach.manifest.defaults;
    let how = Watching {
        actions,
        talkativeness: defaults.talkativeness,
        cooldown: (defaults.cooldown_seconds * coach.manifest.frame_rate).ceil() as usize,
        longest: defaults.max_tokens,
        top: own.top,
        pictures: pictures(recipe),
    };
    let scenario = Scenario { manifest: &coach.manifest, korean_every: own.korean_every, recorded: own.recorded };
    let (mut plain, mut waiting, mut said, mut seed) = (Vec::new(), Vec::new(), Lines::default(), recipe.seed);
    let mut speak = |waiting: &mut Vec<Watched>| -> Result<()> {
        for temperature in &recipe.distil.temperatures {
            waiting.iter_mut().for_each(|w| w.temperature = *temperature);
            seed += 1;
            said.join(watch(&coach.decoder, waiting, &how, seed)?)?;
        }
        waiting.clear();
        Ok(())
    };
    let draw = |index: usize, stream: &Stream, film: &Film| {
        Ok(part(own, coach.picture_side, recipe.seed ^ (index as u64).wrapping_mul(0x9E37_79B9), stream, film))
    };
    sessions(scenario, run, (split, count), &coach.tokenizer, draw, |stream, _, part| {
        for stretch in &stream.exercises {
            let own = stream.utterances.iter().filter(|(at, _)| (stretch.announced..stretch.end).contains(at));
            plain.push(Line::plain(told(&stretch.prompt, own, actions.feedback, actions.end)));
        }
        plain.push(Line::plain(told(&stream.unnamed, stream.utterances.iter(), actions.feedback, actions.end)));
        waiting.push(watched(coach, part)?);
        if waiting.len() == recipe.distil.batch {
            speak(&mut waiting)?;
        }
        Ok(until.is_none_or(|until| Instant::now() < until))
    })?;
    if !waiting.is_empty() {
        speak(&mut waiting)?;
    }
    Ok((said, plain))
}

fn coach_texts(coach: &StreamModel, recipe: &DrafterRecipe, own: &SessionsRecipe, run: &Run) -> Result<Texts> {
    let (held_out, _) = coach_split(coach, recipe, own, run, (Split::Validation, own.held_out, None))?;
    let (said, plain) = coach_split(coach, recipe, own, run, (Split::Train, own.train, run.until))?;
    Ok(Texts { plain, said, held_out })
}

/// Prompts, the last twentieth of the topics (at least one) only in those that are held out.
struct Prompts<'a> {
    model: &'a LanguageModel,
    own: &'a PromptsRecipe,
    begin: Vec<u32>,
}

impl Prompts<'_> {
    fn wish(&self, held_out: bool, temperature: f32, rng: &mut ChaCha8Rng) -> Result<Wish> {
        if !held_out && rng.random_bool(self.own.free) {
            // Free text at temperature 0 would be the same text again and again.
            return Ok(Wish { prompt: self.begin.clone(), temperature: 1.0 });
        }
        let topics = &self.own.topics;
        let (known, unknown) = topics.split_at(topics.len() - (topics.len() / 20).max(1));
        let topic = (if held_out { unknown } else { known }).choose(rng).context("recipe: no topics")?;
        let template = self.own.templates.choose(rng).context("recipe: no templates")?;
        Ok(Wish { prompt: self.model.prompt(&template.replace("{topic}", topic))?, temperature })
    }
}

/// What a language model says.
fn language_split(
    prompts: &Prompts<'_>,
    recipe: &DrafterRecipe,
    dice: &mut Dice,
    (held_out, count, until): (bool, usize, Option<Instant>),
) -> Result<Lines> {
    let (model, ends) = (prompts.model, prompts.model.ends());
    let how = Continuation { most: prompts.own.tokens, ends: &ends, at_once: recipe.distil.batch };
    let bar = indicatif::ProgressBar::new(count as u64).with_message("texts");
    let mut rng = ChaCha8Rng::seed_from_u64(recipe.seed ^ if held_out { 0x4E1D } else { 0 });
    let temperatures = recipe.distil.temperatures.iter().cycle();
    let wishes = temperatures.take(count).map(|t| prompts.wish(held_out, *t, &mut rng)).collect::<Result<Vec<_>>>()?;
    let mut more = |done: usize| {
        bar.set_position(done as u64);
        if bar.is_hidden() {
            tracing::info!("{done} of {count} texts");
        }
        until.is_none_or(|until| Instant::now() < until)
    };
    let lines = continue_texts(&model.decoder, &wishes, &how, dice, &mut more)?;
    bar.finish_and_clear();
    Ok(Lines::new(lines, None))
}

fn language_texts(model: &LanguageModel, recipe: &DrafterRecipe, own: &PromptsRecipe, run: &Run) -> Result<Texts> {
    let begin = begin(&model.tokenizer, &own.begin)?;
    let prompts = Prompts { model, own, begin };
    let mut dice = Dice::new(recipe.seed, &run.device)?;
    let held_out = language_split(&prompts, recipe, &mut dice, (true, own.held_out, None))?;
    let said = language_split(&prompts, recipe, &mut dice, (false, own.train, run.until))?;
    // A drafter reads what the target writes, if it has nothing else to read.
    let plain = said.lines.iter().map(|line| Line::plain(line.ids.clone())).collect();
    Ok(Texts { plain, said, held_out })
}

fn begin(tokenizer: &Tokenizer, token: &str) -> Result<Vec<u32>> {
    let id = tokenizer.id(token);
    Ok(vec![id.with_context(|| format!("recipe: distil.prompts.begin: the target has no token `{token}`"))?])
}
