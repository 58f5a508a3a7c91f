//! Trains projector and decoder on coached streams: the action after each frame, the words, and what is true of each
//! frame ([`super::dense`]). The tower may learn with them ([`Eyes`]).
//!
//! Silence outnumbers speech some forty to one, so `<next>` counts a tenth (QEVD, BioCoach; specs: streaming, section 2).

use super::dense::{self, FrameTruth, Heads, Kinds};
use crate::model::{
    Decoder, DecoderConfig, Mode,
    projector::{LINEAR, Projector, join_change},
};
use candle_core::{D, DType, Error, Result, Tensor, bail};
use rand::{Rng, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use spotter_vision::{
    nn::pick_rows,
    training::{AdamW, AdamWSettings, Variables, data_parallel, prefetch},
};
use std::{path::PathBuf, sync::Mutex};

/// What is said in a session, and when.
pub struct Stream {
    /// What is true of each frame.
    pub truths: Vec<FrameTruth>,
    /// Words and the frame after which they begin, in order.
    pub utterances: Vec<(usize, Vec<u32>)>,
    /// Exercises in order.
    pub exercises: Vec<Stretch>,
    /// The prompt that names none.
    pub unnamed: Vec<u32>,
}

/// One exercise of a stream, in frames.
pub struct Stretch {
    /// It is announced.
    pub announced: usize,
    /// It is first seen.
    pub begin: usize,
    /// One past its last frame.
    pub end: usize,
    /// The prompt that names it.
    pub prompt: Vec<u32>,
}

/// How the frames of streams become tower tokens.
pub trait Eyes: Sync {
    /// Frames on their way to the device.
    type Frames: Send;
    /// Width of a token.
    fn width(&self) -> usize;
    /// Frames `from .. to` of a stream; called on any thread, ahead of time.
    ///
    /// # Errors
    /// The frames can't be made.
    fn fetch(&self, stream: usize, from: usize, to: usize) -> Result<Self::Frames>;
    /// One pooled token a frame, `[frames, width]`, with gradients where the tower learns.
    ///
    /// # Errors
    /// Those of the device.
    fn see(&self, frames: Self::Frames) -> Result<Tensor>;
}

/// Frames that were encoded before: `[frames, width]` for each stream.
pub struct Encoded(pub Vec<Tensor>);

impl Eyes for Encoded {
    type Frames = Tensor;

    fn width(&self) -> usize {
        self.0.first().and_then(|t| t.dim(1).ok()).unwrap_or(0)
    }

    fn fetch(&self, stream: usize, from: usize, to: usize) -> Result<Tensor> {
        let Some(features) = self.0.get(stream) else { bail!("stream {stream} was not encoded") };
        features.narrow(0, from, to - from)
    }

    fn see(&self, frames: Tensor) -> Result<Tensor> {
        Ok(frames)
    }
}

/// Streams with the eyes that see them.
pub struct Corpus<'a, E> {
    /// What is said.
    pub streams: &'a [Stream],
    /// What is seen.
    pub eyes: &'a E,
}

/// Ids of the action tokens.
#[derive(Clone, Copy, Debug)]
pub struct Actions {
    /// Stay silent.
    pub next: u32,
    /// Speak.
    pub feedback: u32,
    /// The utterance ends.
    pub end: u32,
}

/// Settings of a training run.
#[derive(Clone, Debug)]
pub struct CoachTraining {
    /// Windows a step, over all workers.
    pub batch: usize,
    /// Threads that train, each on a share of the batch; 1 on anything but the processor.
    pub workers: usize,
    /// Threads that prepare windows.
    pub makers: usize,
    /// Frames of a window at most.
    pub frames: usize,
    /// What the truths of frames are told apart into.
    pub kinds: Kinds,
    /// Weight of `<next>` in the loss.
    pub silence_weight: f32,
    /// Optimiser.
    pub optimiser: AdamWSettings,
    /// Seed of the windows.
    pub seed: u64,
    /// Where the variables are saved.
    pub weights: PathBuf,
    /// Where the state of the optimiser is saved; the run is taken up again when both files exist.
    pub state: PathBuf,
    /// Steps between checkpoints.
    pub save_every: usize,
}

impl CoachTraining {
    /// Whether an earlier run left a checkpoint.
    pub fn resumes(&self) -> bool {
        self.weights.exists() && self.state.exists()
    }
}

/// State after a step: mean losses over the weights they have.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Steps done.
    pub step: usize,
    /// Of the actions.
    pub action: f64,
    /// Of the words.
    pub text: f64,
    /// Of what is true of the frames.
    pub dense: f64,
}

/// Three losses, each a mean over its weights.
#[derive(Clone, Debug)]
pub struct Losses<T> {
    /// Of the actions.
    pub action: T,
    /// Of the words.
    pub text: T,
    /// Of what is true of the frames.
    pub dense: T,
}

/// A window as the decoder sees it: rows of a table of token embeddings followed by frame embeddings.
struct Window {
    /// For each position a token id, or the index of a frame in the window.
    items: Vec<Item>,
    /// For each position the target id and its weight; weight 0 is no target.
    targets: Vec<(u32, f32)>,
    /// What is true of its frames.
    truths: Vec<FrameTruth>,
    from: usize,
    to: usize,
}

/// Frames that may be missed at the beginning of an exercise without losing count.
const BEGIN: usize = 8;

/// A window and its frames, from one before the first (where there is one).
struct Prepared<F> {
    window: Window,
    seen: F,
}

#[derive(Clone, Copy)]
enum Item {
    Token(u32),
    Frame,
}

impl Window {
    fn new(stream: &Stream, prompt: &[u32], from: usize, to: usize, actions: Actions, silence_weight: f32) -> Self {
        let mut items: Vec<Item> = prompt.iter().map(|id| Item::Token(*id)).collect();
        let mut targets = vec![(0, 0.0); items.len()];
        let mut spoken = stream.utterances.iter().skip_while(|(at, _)| *at < from).peekable();
        for frame in from..to {
            items.push(Item::Frame);
            let Some((_, words)) = spoken.next_if(|(at, _)| *at <= frame) else {
                targets.push((actions.next, silence_weight));
                continue;
            };
            targets.push((actions.feedback, 1.0));
            let mut said = vec![actions.feedback];
            said.extend_from_slice(words);
            said.push(actions.end);
            for pair in said.windows(2) {
                items.push(Item::Token(pair[0]));
                targets.push((pair[1], 1.0));
            }
            items.push(Item::Token(actions.end));
            targets.push((0, 0.0));
        }
        Self { items, targets, truths: Self::truths(stream, from, to), from, to }
    }

    /// What can be known after each frame by whoever saw the window only.
    fn truths(stream: &Stream, from: usize, to: usize) -> Vec<FrameTruth> {
        let seen_begin = |frame: usize| {
            let now = stream.exercises.iter().rev().find(|s| s.begin <= frame);
            now.is_none_or(|s| from <= s.begin + BEGIN)
        };
        let truth = |frame: usize| {
            let truth = stream.truths.get(frame).copied().unwrap_or_default();
            FrameTruth { count: truth.count.filter(|_| seen_begin(frame)), ..truth }
        };
        (from..to).map(truth).collect()
    }
}

/// Projector and decoder under training.
pub struct CoachModel {
    projector: Projector,
    decoder: Decoder,
    heads: Heads,
    actions: Actions,
}

impl CoachModel {
    /// Names as in the checkpoint that ships, and `dense` for what ends with the training. `tower_width` is doubled for
    /// the change since the last frame.
    pub fn new(
        config: &DecoderConfig,
        tower_width: usize,
        actions: Actions,
        kinds: Kinds,
        vars: &Variables,
    ) -> Result<Self> {
        let vb = vars.builder();
        Ok(Self {
            heads: Heads::new(config.width, kinds, &vb.pp("dense"))?,
            projector: Projector::new(2 * tower_width, config.width, true, LINEAR, vb.pp("multi_modal_projector"))?,
            decoder: Decoder::new(config, vb.pp("language_model"), Mode::Train)?,
            actions,
        })
    }

    fn losses<E: Eyes>(&self, eyes: &E, windows: Vec<Prepared<E::Frames>>) -> Result<Losses<Tensor>> {
        let device = self.decoder.device();
        let (mut ids, mut frames, mut rows) = (Vec::new(), Vec::new(), 0usize);
        let windows = windows.into_iter().map(|prepared| {
            let Prepared { window, seen } = prepared;
            ids.extend(window.items.iter().filter_map(|i| match i {
                Item::Token(id) => Some(*id),
                Item::Frame => None,
            }));
            let first = window.from.saturating_sub(1);
            let joined = join_change(&eyes.see(seen)?.unsqueeze(1)?, None)?.squeeze(1)?;
            frames.push(joined.narrow(0, window.from - first, window.to - window.from)?);
            rows = rows.max(window.items.len());
            Ok(window)
        });
        let windows = windows.collect::<Result<Vec<_>>>()?;
        let tokens = self.decoder.embed(&Tensor::new(ids.as_slice(), device)?.unsqueeze(0)?)?.squeeze(0)?;
        let table =
            Tensor::cat(&[&tokens, &self.projector.forward(&Tensor::cat(&frames, 0)?.unsqueeze(0)?)?.squeeze(0)?], 0)?;
        let (mut token, mut frame) = (0u32, ids.len() as u32);
        let (mut index, mut places, mut truths, mut weights) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut after_frames = Vec::new();
        for (b, window) in windows.iter().enumerate() {
            for (i, (item, (truth, weight))) in window.items.iter().zip(&window.targets).enumerate() {
                let next = match item {
                    Item::Token(_) => &mut token,
                    Item::Frame => &mut frame,
                };
                index.push(*next);
                *next += 1;
                if matches!(item, Item::Frame) {
                    after_frames.push((b * rows + i) as u32);
                }
                if *weight > 0.0 {
                    places.push((b * rows + i) as u32);
                    truths.push(*truth);
                    weights.push((*weight, matches!(item, Item::Frame)));
                }
            }
            // Padding lies behind everything that counts, so causal attention never sees it.
            index.extend(std::iter::repeat_n(0, rows - window.items.len()));
        }
        let width = self.decoder.config().width;
        let x = pick_rows(&table, &index)?.reshape((windows.len(), rows, width))?;
        let hidden = self.decoder.forward(&x, None)?.reshape(((), width))?;
        let logits = self.decoder.logits(&pick_rows(&hidden, &places)?)?;
        let nll = negative_log_likelihood(&logits, &Tensor::new(truths, device)?)?;
        let part = |frames: bool| -> Result<Tensor> {
            let w: Vec<f32> = weights.iter().map(|(w, f)| if *f == frames { *w } else { 0.0 }).collect();
            let total = w.iter().sum::<f32>().max(1.0);
            (&nll * Tensor::new(w, device)?)?.sum_all()? / f64::from(total)
        };
        let seen: Vec<FrameTruth> = windows.iter().flat_map(|w| w.truths.iter().copied()).collect();
        let dense = self.heads.loss(&pick_rows(&hidden, &after_frames)?, &seen)?;
        Ok(Losses { action: part(true)?, text: part(false)?, dense })
    }

    fn window<E: Eyes>(
        &self,
        corpus: &Corpus<'_, E>,
        run: &CoachTraining,
        rng: &mut ChaCha8Rng,
    ) -> Result<Prepared<E::Frames>> {
        if corpus.streams.is_empty() {
            bail!("no training sessions");
        }
        let index = rng.random_range(0..corpus.streams.len());
        let stream = &corpus.streams[index];
        let n = stream.truths.len();
        if n == 0 {
            bail!("a training session has no frames");
        }
        let stretch =
            (!stream.exercises.is_empty()).then(|| &stream.exercises[rng.random_range(0..stream.exercises.len())]);
        let (from, to, prompt) = match stretch {
            // Told the exercise, from a little before it or from anywhere in it.
            Some(s) if rng.random_bool(0.4) => {
                let low = s.announced.saturating_sub(rng.random_range(0..24));
                let from = if rng.random_bool(0.6) { low } else { rng.random_range(low..s.end.max(low + 1)) };
                (from, s.end, &s.prompt)
            }
            // Untold, and in the middle of it from the first frame on, as recordings are cut.
            Some(s) if rng.random_bool(0.5) => {
                let from = s.begin + rng.random_range(0..8);
                (from, from + run.frames, &stream.unnamed)
            }
            _ => {
                let from = rng.random_range(0..n.saturating_sub(run.frames).max(1));
                (from, from + run.frames, &stream.unnamed)
            }
        };
        let from = from.min(n - 1);
        let to = to.min(from + run.frames).clamp(from + 1, n);
        let window = Window::new(stream, prompt, from, to, self.actions, run.silence_weight);
        Ok(Prepared { window, seen: corpus.eyes.fetch(index, from.saturating_sub(1), to)? })
    }

    /// Mean losses over fixed windows of a corpus.
    pub fn evaluate<E: Eyes>(
        &self,
        corpus: &Corpus<'_, E>,
        run: &CoachTraining,
        windows: usize,
    ) -> Result<Losses<f64>> {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut mean = Losses { action: 0.0, text: 0.0, dense: 0.0 };
        for _ in 0..windows {
            let Losses { action, text, dense } = self.losses(corpus.eyes, vec![self.window(corpus, run, &mut rng)?])?;
            for (sum, loss) in [(&mut mean.action, action), (&mut mean.text, text), (&mut mean.dense, dense)] {
                *sum += f64::from(loss.to_scalar::<f32>()?) / windows as f64;
            }
        }
        Ok(mean)
    }
}

/// `-log p(truth)` for each row of `logits: [n, vocab]`.
pub(super) fn negative_log_likelihood(logits: &Tensor, truth: &Tensor) -> Result<Tensor> {
    let max = logits.max_keepdim(D::Minus1)?.detach();
    let shifted = logits.broadcast_sub(&max)?;
    let log_sum = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    (log_sum - shifted.gather(&truth.unsqueeze(1)?, 1)?)?.squeeze(1)
}

/// Mean of `-log p` of each next token of `lines`; the first token of a line is given.
fn line_loss(decoder: &Decoder, lines: &[&[u32]]) -> Result<Tensor> {
    let device = decoder.device();
    let rows = lines.iter().map(|l| l.len()).max().unwrap_or(0).saturating_sub(1);
    let (mut ids, mut places, mut truths) = (Vec::new(), Vec::new(), Vec::new());
    for (b, line) in lines.iter().enumerate() {
        for i in 0..rows {
            ids.push(line.get(i).copied().unwrap_or(0));
            if let Some(truth) = line.get(i + 1) {
                places.push((b * rows + i) as u32);
                truths.push(*truth);
            }
        }
    }
    let x = decoder.embed(&Tensor::from_vec(ids, (lines.len(), rows), device)?)?;
    let hidden = decoder.forward(&x, None)?.reshape(((), decoder.config().width))?;
    let logits = decoder.logits(&pick_rows(&hidden, &places)?)?;
    negative_log_likelihood(&logits, &Tensor::new(truths, device)?)?.mean_all()
}

/// Steps whose losses are averaged.
const RECENT: usize = 50;

/// Teaches the decoder alone what coaches say: next-token prediction on `lines` (prompt and utterances of sessions).
/// Returns the mean loss over the last steps.
pub fn train_text(
    config: &DecoderConfig,
    vars: &Variables,
    run: &CoachTraining,
    lines: &[Vec<u32>],
    progress: &mut dyn FnMut(usize, f64),
) -> Result<f64> {
    let lines: Vec<&[u32]> = lines.iter().map(Vec::as_slice).filter(|l| l.len() > 1).collect();
    if lines.is_empty() {
        bail!("no text to learn from");
    }
    let decoder = Decoder::new(config, vars.builder().pp("language_model"), Mode::Train)?;
    let mut optimiser = AdamW::new(vars.all(), run.optimiser.clone())?;
    if run.resumes() {
        optimiser.restore(&run.state, decoder.device())?;
    }
    let workers = run.workers.max(1);
    let share = (run.batch / workers).max(1);
    let mut recent = std::collections::VecDeque::new();
    while !optimiser.over() {
        let step = optimiser.step;
        let (losses, grads) = data_parallel(workers, |worker| {
            let mut rng = step_rng(run.seed, step * workers + worker);
            let batch: Vec<&[u32]> = (0..share).map(|_| lines[rng.random_range(0..lines.len())]).collect();
            let loss = line_loss(&decoder, &batch)?;
            let store = loss.backward()?;
            Ok((vec![f64::from(loss.to_scalar::<f32>()?)], optimiser.gradients(&store)?))
        })?;
        optimiser.step(&grads)?;
        let loss = losses.first().copied().unwrap_or(f64::NAN);
        recent.push_back(loss);
        if recent.len() > RECENT {
            recent.pop_front();
        }
        progress(optimiser.step, loss);
        if optimiser.step.is_multiple_of(run.save_every) || optimiser.over() {
            vars.save(&run.weights, DType::F32)?;
            optimiser.save(&run.state)?;
        }
    }
    Ok(recent.iter().sum::<f64>() / recent.len().max(1) as f64)
}

pub(super) fn step_rng(seed: u64, step: usize) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed ^ (step as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

/// Trains all variables of `vars` until `optimiser.steps`; `progress` hears of each step. Returns validation losses, not
/// a number where nothing is held out.
pub fn train<E: Eyes>(
    config: &DecoderConfig,
    actions: Actions,
    vars: &Variables,
    run: &CoachTraining,
    corpus: &Corpus<'_, E>,
    held_out: &Corpus<'_, E>,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Losses<f64>> {
    let model = CoachModel::new(config, corpus.eyes.width(), actions, run.kinds, vars)?;
    let mut optimiser = AdamW::new(vars.all(), run.optimiser.clone())?;
    if run.resumes() {
        optimiser.restore(&run.state, model.decoder.device())?;
    }
    let workers = run.workers.max(1);
    let share = (run.batch / workers).max(1);
    let make = |step: usize| -> Result<Vec<Mutex<Vec<_>>>> {
        let one = |worker: usize| {
            let mut rng = step_rng(run.seed, step * workers + worker);
            (0..share).map(|_| model.window(corpus, run, &mut rng)).collect::<Result<Vec<_>>>().map(Mutex::new)
        };
        (0..workers).map(one).collect()
    };
    prefetch(optimiser.step..run.optimiser.steps, run.makers, make, |_, shares| {
        let (losses, grads) = data_parallel(workers, |worker| {
            let windows = shares.get(worker).and_then(|s| s.lock().ok().map(|mut w| std::mem::take(&mut *w)));
            let Losses { action, text, dense } = model.losses(corpus.eyes, windows.unwrap_or_default())?;
            let store = ((&action + &text)? + (&dense * dense::WEIGHT)?)?.backward()?;
            let values =
                Tensor::stack(&[action, text, dense], 0)?.to_vec1::<f32>()?.into_iter().map(f64::from).collect();
            Ok((values, optimiser.gradients(&store)?))
        })?;
        optimiser.step(&grads)?;
        let [action, text, dense] = losses[..] else { return Ok(false) };
        progress(&Progress { step: optimiser.step, action, text, dense });
        let over = optimiser.over();
        if optimiser.step.is_multiple_of(run.save_every) || over {
            vars.save(&run.weights, DType::F32)?;
            optimiser.save(&run.state)?;
        }
        Ok::<_, Error>(!over)
    })?;
    if held_out.streams.is_empty() {
        return Ok(Losses { action: f64::NAN, text: f64::NAN, dense: f64::NAN });
    }
    model.evaluate(held_out, run, 64)
}
