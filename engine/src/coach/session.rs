//! One stream: frames are appended to the context, and after each the model stays silent or speaks.
//!
//! Training sees the same sequence (see `training::coach`): prompt, frame, frame, `<feedback>` words `</feedback>`,
//! frame, ... The action is read off the last token of a frame; `<next>` itself never enters the context.
//!
//! The context is a bounded cache. What is said is an open step of it, so a cancelled utterance leaves no trace, and
//! entries are dropped between frames and utterances only.

use super::{
    Attended, CacheChoice, CoachOptions, Feedback, Kind, Step,
    context::empty_cache,
    eye::Eye,
    gate::{Gate, Wish, ids},
    manifest::Manifest,
};
use crate::{
    model::{Commit, Decoder, DraftModel, KvCache},
    speculate::{
        Ask, Clock, Drafter, DrafterKind, ModelDrafter, Ngram, SpeculationOptions, Speculator, Stats,
        governor::{COLUMN_COST, PASS_COST},
    },
};
use candle_core::{DType, Error, Result, Tensor, bail};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use spotter_vision::{
    Frame,
    lens::{Sight, View},
};
use std::{collections::VecDeque, time::Duration};
use tokenizers::Tokenizer;

pub use super::gate::action_id;

/// A model ready to be streamed.
pub struct StreamModel {
    /// Sees.
    pub eye: Eye,
    /// Speaks.
    pub decoder: Decoder,
    /// Words.
    pub tokenizer: Tokenizer,
    /// How it is streamed.
    pub manifest: Manifest,
    /// Side of the square picture that its tower sees, in pixels.
    pub picture_side: usize,
    /// A small language model with the same tokens, which may draft for it.
    pub drafter: Option<DraftModel>,
}

/// How an utterance is drafted: what the manifest says, and what the user says instead.
fn speculation(manifest: &Manifest, options: &CoachOptions) -> SpeculationOptions {
    let mut speculation = manifest.speculation.clone();
    if let Some(drafter) = &options.speculation.drafter {
        speculation.drafter = drafter.clone();
    }
    if let Some(method) = &options.speculation.method {
        speculation.method = method.clone();
    }
    speculation
}

/// The drafter, if there is to be one. A language model is taken out of `model`.
fn speculator(model: &mut StreamModel, options: &CoachOptions) -> Result<Option<Speculator>> {
    let speculation = speculation(&model.manifest, options);
    let vocab = model.decoder.config().vocab;
    let drafter: Box<dyn Drafter> = match &speculation.drafter {
        DrafterKind::None => return Ok(None),
        DrafterKind::Lookup => Box::new(Ngram::lookup(vocab)),
        DrafterKind::Ngram => Box::new(Ngram::counts(vocab)),
        DrafterKind::Model(path) => match model.drafter.take() {
            Some(drafter) => Box::new(ModelDrafter::new(drafter, vocab, speculation.picture)?),
            None => bail!("the drafter {path} was not loaded"),
        },
    };
    let cost = drafter.parameters() as f64 / model.decoder.parameters().max(1) as f64;
    let speculator = Speculator::new(drafter, &speculation, options.seed);
    if options.sampling.is_greedy() {
        return Ok(Some(speculator));
    }
    // Whether a round is drafted decides what is drawn: by the wall a sampled session would never repeat itself.
    Ok(Some(speculator.with_clock(Clock::Counted { column: COLUMN_COST, pass: cost + PASS_COST })))
}

/// A stream with its context.
pub struct CoachSession {
    pub(super) model: StreamModel,
    pub(super) gate: Gate,
    options: CoachOptions,
    pub(super) cache: KvCache,
    /// Embeddings `[1, k, d]` of the prompt, which is never dropped.
    prompt: Tensor,
    /// The longest utterance that an open step of the cache has room for.
    longest: usize,
    last_start: Option<Duration>,
    last_frame: Option<Duration>,
    /// Number of the person it watches.
    person: u32,
    rng: ChaCha8Rng,
    pub(super) speculator: Option<Speculator>,
    /// Ids of the prompt.
    told: Vec<u32>,
    /// Tokens that are never said.
    never: Vec<u32>,
    /// Tokens that the next frame comes behind.
    pub(super) before: Vec<u32>,
}

/// Ids and embeddings `[1, k, d]` of the prompt.
fn prompt(model: &StreamModel, options: &CoachOptions) -> Result<(Vec<u32>, Tensor)> {
    let text = model.manifest.prompt.render(&options.language, options.exercise.as_deref());
    let ids = ids(&model.tokenizer, &text)?;
    if ids.is_empty() {
        bail!("spotter.toml: the prompt is empty; the model needs at least one token before the first frame");
    }
    let decoder = &model.decoder;
    let embedded = decoder.embed(&Tensor::new(ids.as_slice(), decoder.device())?.unsqueeze(0)?)?;
    Ok((ids, embedded))
}

impl CoachSession {
    /// A session at the beginning of a stream.
    pub fn new(mut model: StreamModel, options: CoachOptions) -> Result<Self> {
        let speculator = speculator(&mut model, &options)?;
        let gate = Gate::new(&model.manifest.speaking, &model.tokenizer, &model.decoder.config().eos)?;
        let (prompt_ids, prompt) = prompt(&model, &options)?;
        let tail = speculator.as_ref().map_or(0, Speculator::tail);
        let cache = empty_cache(&model, &gate, &options, prompt_ids.len(), tail)?;
        let rng = ChaCha8Rng::seed_from_u64(options.seed);
        let longest = options.max_tokens;
        let never = gate.never(&model.tokenizer, model.decoder.config().vocab);
        let mut session = Self {
            model,
            gate,
            options,
            cache,
            prompt,
            longest,
            last_start: None,
            last_frame: None,
            person: 0,
            rng,
            speculator,
            told: prompt_ids,
            never,
            before: Vec::new(),
        };
        session.reset()?;
        Ok(session)
    }

    /// Embeddings of the prompt, `[1, k, d]`.
    #[cfg(test)]
    pub(super) fn prompt(&self) -> &Tensor {
        &self.prompt
    }

    /// The manifest it runs under.
    pub fn manifest(&self) -> &Manifest {
        &self.model.manifest
    }

    /// The user's knobs; a change holds from the next frame on; the exercise has [`Self::set_exercise`].
    pub fn options_mut(&mut self) -> &mut CoachOptions {
        &mut self.options
    }

    /// Tells the model another exercise, or `None` to let it recognise; the stream begins anew under that prompt.
    ///
    /// # Errors
    /// When the prompt does not fit into the cache; the session then still has the one before.
    pub fn set_exercise(&mut self, exercise: Option<String>) -> Result<()> {
        let options = CoachOptions { exercise, ..self.options.clone() };
        let (told, prompt) = prompt(&self.model, &options)?;
        self.cache.pin(told.len())?;
        (self.options, self.told, self.prompt) = (options, told, prompt);
        self.reset()
    }

    /// Bounds the context in another way; the stream begins anew.
    ///
    /// # Errors
    /// A cache that does not fit the model; the session then still has the one before.
    pub fn set_cache(&mut self, cache: CacheChoice) -> Result<()> {
        let options = CoachOptions { cache, ..self.options.clone() };
        let tail = self.speculator.as_ref().map_or(0, Speculator::tail);
        self.cache = empty_cache(&self.model, &self.gate, &options, self.told.len(), tail)?;
        self.options = options;
        self.reset()
    }

    /// Forgets the stream.
    pub fn reset(&mut self) -> Result<()> {
        self.last_start = None;
        self.last_frame = None;
        self.before.clear();
        self.rng = ChaCha8Rng::seed_from_u64(self.options.seed);
        self.model.eye.reset();
        self.cache.clear()?;
        self.model.decoder.read(&self.prompt, Some(&mut self.cache))?;
        if let Some(speculator) = &mut self.speculator {
            speculator.clear()?;
            speculator.read(&self.told)?;
        }
        Ok(())
    }

    /// What drafting did so far, where there is a drafter.
    pub fn speculation(&self) -> Option<Stats> {
        self.speculator.as_ref().map(Speculator::stats)
    }

    /// The patches of the last frame that the tower worked on; `None` where it skips none.
    pub fn attended(&self) -> Option<Attended> {
        self.model.eye.attended()
    }

    /// Entries in the context.
    pub fn context_len(&self) -> usize {
        self.cache.len()
    }

    /// Type of the numbers it computes with.
    pub fn dtype(&self) -> DType {
        self.model.decoder.dtype()
    }

    /// What it remembers.
    pub fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// Sees one frame and decides. While it speaks, each piece of text goes to `emit`; when that answers `false` the
    /// utterance is taken back, context included.
    pub fn observe(&mut self, sight: &Sight, emit: &mut dyn FnMut(&str) -> bool) -> Result<Step> {
        if sight.person != self.person {
            // What the context tells of is another person.
            self.person = sight.person;
            self.reset()?;
        }
        self.rest()?;
        self.fill_gap(sight.frame.t)?;
        let seen = self.see(&sight.frame)?;
        self.observe_seen(&seen, sight.frame.t, sight.view, emit)
    }

    /// Visual tokens of the next frame, `[1, k, width]`. They depend on the frames alone, so a stream that is coached
    /// several times need be seen once: see [`Self::observe_seen`].
    pub fn see(&mut self, frame: &Frame) -> Result<Tensor> {
        self.model.eye.see(frame)?.to_dtype(self.model.decoder.dtype())
    }

    /// [`Self::observe`] of a frame at `t` that was [seen](Self::see) before, in a stream without gaps.
    pub fn observe_seen(
        &mut self,
        seen: &Tensor,
        t: Duration,
        view: View,
        emit: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Step> {
        self.rest()?;
        // Who is asked waits for the words, not for an eviction. Coaches that were trained to speak saw it before.
        self.cache.hold(matches!(self.gate, Gate::Verbalisers { .. }))?;
        self.look(seen).and_then(|wish| self.decide(wish, t, view, emit))
    }

    /// Does what an answer need not wait for: an eviction that became due. Without it the next frame does.
    ///
    /// # Errors
    /// Those of the device.
    pub fn rest(&mut self) -> Result<()> {
        self.cache.hold(false)
    }

    /// Whether it would speak at `t`.
    pub(super) fn wants(&self, wish: Wish, t: Duration) -> bool {
        let cooling = self.last_start.is_some_and(|last| t < last + self.options.cooldown);
        wish.margin + self.options.talkativeness > 0.0 && !cooling
    }

    /// Stays silent or speaks, after a frame at `t`.
    pub(super) fn decide(
        &mut self,
        wish: Wish,
        t: Duration,
        view: View,
        emit: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Step> {
        self.last_frame = Some(t);
        let mut step = Step { p_speak: wish.p, feedback: None, view };
        if self.wants(wish, t)
            && let Some(text) = self.speak(emit)?
        {
            self.last_start = Some(t);
            step.feedback = Some(Feedback { t_frame: t, t_ready: t, text, kind: Kind::Coaching });
        }
        self.before = self.gate.before(step.feedback.is_some()).to_vec();
        Ok(step)
    }

    /// A motion model counts time in frames: where the source is slower than its rate, or frames were dropped, the last
    /// one is seen again for each that is missing, up to a second of them.
    fn fill_gap(&mut self, t: Duration) -> Result<()> {
        let rate = self.model.manifest.frame_rate;
        let Some(before) = self.last_frame.replace(t) else { return Ok(()) };
        let missing = (t.saturating_sub(before).as_secs_f64() * rate).round() - 1.0;
        for _ in 0..missing.clamp(0.0, rate) as usize {
            let Some(again) = self.model.eye.again()? else { return Ok(()) };
            self.append_picture(&again.to_dtype(self.model.decoder.dtype())?)?;
        }
        Ok(())
    }

    /// Appends the visual tokens of a frame `[1, k, d]`.
    pub(super) fn append_picture(&mut self, picture: &Tensor) -> Result<Tensor> {
        let x = self.entering(picture)?;
        self.append(&x)
    }

    /// The visual tokens of a frame behind what stands between it and what was before; the drafter is told of them.
    pub(super) fn entering(&mut self, picture: &Tensor) -> Result<Tensor> {
        if let Some(speculator) = &mut self.speculator {
            speculator.see(picture)?;
        }
        if self.before.is_empty() {
            return Ok(picture.clone());
        }
        Tensor::cat(&[&self.embed(&self.before)?, picture], 1)
    }

    /// Appends embeddings that were not drafted to the context; the last hidden state `[1, 1, d]` comes back.
    pub(super) fn append(&mut self, x: &Tensor) -> Result<Tensor> {
        let hidden = self.model.decoder.read(x, Some(&mut self.cache))?;
        hidden.narrow(1, x.dim(1)? - 1, 1)
    }

    fn append_token(&mut self, id: u32) -> Result<Tensor> {
        let x = self.embed(&[id])?;
        self.append(&x)
    }

    pub(super) fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        self.model.decoder.embed(&Tensor::new(ids, self.model.decoder.device())?.unsqueeze(0)?)
    }

    pub(super) fn logits(&self, hidden: &Tensor) -> Result<Vec<f32>> {
        self.model.decoder.logits(hidden)?.flatten_all()?.to_dtype(DType::F32)?.to_vec1()
    }

    /// Generates an utterance; `None` when it was cancelled or has no words, and then the context is as before.
    fn speak(&mut self, emit: &mut dyn FnMut(&str) -> bool) -> Result<Option<String>> {
        if let Some(speculator) = &mut self.speculator {
            speculator.open()?;
        }
        if !self.cache.takes_step(0, self.gate.scratch(self.options.max_tokens.min(self.longest))) {
            self.cache.hold(false)?;
        }
        self.cache.begin()?;
        self.cache.set_saying(true);
        let said = self.utter(emit);
        self.cache.set_saying(false);
        let keep = matches!(said, Ok(Some(_)));
        if keep {
            self.cache.commit(Commit::All)?;
        } else {
            self.cache.rollback()?;
        }
        if let Some(speculator) = &mut self.speculator {
            speculator.close(keep)?;
        }
        said
    }

    /// The words, with the context as they leave it.
    fn utter(&mut self, emit: &mut dyn FnMut(&str) -> bool) -> Result<Option<String>> {
        let never = self.never.clone();
        let (lead, ends) = match &self.gate {
            Gate::Actions { feedback, end, .. } => (vec![*feedback], vec![*end]),
            Gate::Verbalisers { lead, ends, .. } | Gate::Separator { lead, ends, .. } => (lead.clone(), ends.clone()),
        };
        let most = self.options.max_tokens.min(self.longest);
        let (mut tokens, mut text) = (Vec::new(), String::new());
        let (mut kept, mut ended) = (true, false);
        let mut coming = VecDeque::new();
        if most > 0 {
            coming.push_back(self.first(&lead, &never)?);
        }
        while let Some(id) = coming.pop_front() {
            if ends.contains(&id) {
                ended = true;
                break;
            }
            tokens.push(id);
            let whole =
                self.model.tokenizer.decode(&tokens, true).map_err(|e| Error::Msg(format!("tokenizer: {e}")))?;
            // A character of several tokens shows as U+FFFD until it is complete.
            if !whole.ends_with('\u{FFFD}') && whole.len() > text.len() && whole.is_char_boundary(text.len()) {
                kept = emit(&whole[text.len()..]);
                text = whole;
                if !kept {
                    break;
                }
            }
            if coming.is_empty() && tokens.len() < most {
                coming.extend(self.following(id, &never, &ends, most - tokens.len())?);
            }
        }
        let words = text.trim();
        if !kept || words.is_empty() {
            return Ok(None);
        }
        self.finish(tokens.last().copied().filter(|_| !ended), ends.first().copied(), ended)?;
        Ok(Some(words.to_owned()))
    }

    /// Completes the context of an utterance: the last token where it was not ended by the model, and the end.
    fn finish(&mut self, last: Option<u32>, end: Option<u32>, ended: bool) -> Result<()> {
        for id in last.into_iter().chain(end) {
            self.append_token(id)?;
        }
        match (&mut self.speculator, end) {
            (Some(speculator), Some(end)) if !ended => speculator.read(&[end]),
            _ => Ok(()),
        }
    }

    /// The first token behind the lead.
    fn first(&mut self, lead: &[u32], never: &[u32]) -> Result<u32> {
        let x = self.embed(lead)?;
        let hidden = self.append(&x)?;
        let id = self.choose(&hidden, never)?;
        if let Some(speculator) = &mut self.speculator {
            speculator.read(lead)?;
            speculator.read(&[id])?;
        }
        Ok(id)
    }

    /// The tokens behind `anchor`, which the context does not hold yet: one, or as many as a round commits.
    fn following(&mut self, anchor: u32, never: &[u32], ends: &[u32], most: usize) -> Result<Vec<u32>> {
        let Some(speculator) = &mut self.speculator else {
            let hidden = self.append_token(anchor)?;
            return Ok(vec![self.choose(&hidden, never)?]);
        };
        let ask = Ask { sampling: self.options.sampling, never, ends, most };
        speculator.round(&self.model.decoder, &mut self.cache, anchor, &ask)
    }

    /// A token by the logits of a hidden state.
    fn choose(&mut self, hidden: &Tensor, never: &[u32]) -> Result<u32> {
        let mut logits = self.logits(hidden)?;
        for id in never {
            if let Some(l) = logits.get_mut(*id as usize) {
                *l = f32::NEG_INFINITY;
            }
        }
        Ok(self.options.sampling.draw(&logits, &mut self.rng))
    }
}
