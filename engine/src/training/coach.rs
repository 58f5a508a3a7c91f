//! Trains projector and decoder on coached streams: the action after each frame, and the words.
//!
//! Silence outnumbers speech some forty to one, so `<next>` counts a tenth (QEVD, BioCoach; specs: streaming, section 2).

use crate::{
    coach::eye::join_change,
    model::{Decoder, DecoderConfig, Mode, projector::Projector},
};
use candle_core::{D, DType, Device, Result, Tensor, bail};
use rand::{Rng, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use spotter_vision::training::{AdamW, AdamWSettings, Variables, data_parallel};
use std::path::PathBuf;

/// One session whose frames were encoded.
pub struct Stream {
    /// Pooled tower tokens, one a frame: `[frames, width]`.
    pub features: Tensor,
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
    /// Threads.
    pub workers: usize,
    /// Frames of a window at most.
    pub frames: usize,
    /// Weight of `<next>` in the loss.
    pub silence_weight: f32,
    /// Optimiser.
    pub optimiser: AdamWSettings,
    /// Seed of weights and windows.
    pub seed: u64,
    /// Folder of `coach.safetensors` and its optimiser state; taken up again when it exists.
    pub out: PathBuf,
    /// Steps between checkpoints.
    pub save_every: usize,
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
}

/// A window as the decoder sees it: rows of a table of token embeddings followed by frame embeddings.
struct Window {
    /// For each position a token id, or the index of a frame in the window.
    items: Vec<Item>,
    /// For each position the target id and its weight; weight 0 is no target.
    targets: Vec<(u32, f32)>,
    from: usize,
    to: usize,
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
        Self { items, targets, from, to }
    }
}

/// Projector and decoder under training.
pub struct CoachModel {
    projector: Projector,
    decoder: Decoder,
    actions: Actions,
}

impl CoachModel {
    /// Names as in the checkpoint that ships. `tower_width` is doubled for the change since the last frame.
    pub fn new(config: &DecoderConfig, tower_width: usize, actions: Actions, vars: &Variables) -> Result<Self> {
        let vb = vars.builder();
        Ok(Self {
            projector: Projector::new(2 * tower_width, config.width, true, vb.pp("multi_modal_projector"))?,
            decoder: Decoder::new(config, vb.pp("language_model"), Mode::Train)?,
            actions,
        })
    }

    /// Action loss, text loss: mean over their weights.
    fn losses(&self, windows: &[(&Stream, Window)]) -> Result<(Tensor, Tensor)> {
        let device = self.decoder.device();
        let (mut ids, mut frames, mut rows) = (Vec::new(), Vec::new(), 0usize);
        for (stream, window) in windows {
            ids.extend(window.items.iter().filter_map(|i| match i {
                Item::Token(id) => Some(*id),
                Item::Frame => None,
            }));
            let first = window.from.saturating_sub(1);
            let tokens = stream.features.narrow(0, first, window.to - first)?.unsqueeze(1)?;
            let joined = join_change(&tokens, None)?.squeeze(1)?;
            frames.push(joined.narrow(0, window.from - first, window.to - window.from)?);
            rows = rows.max(window.items.len());
        }
        let tokens = self.decoder.embed(&Tensor::new(ids.as_slice(), device)?.unsqueeze(0)?)?.squeeze(0)?;
        let table =
            Tensor::cat(&[&tokens, &self.projector.forward(&Tensor::cat(&frames, 0)?.unsqueeze(0)?)?.squeeze(0)?], 0)?;
        let (mut token, mut frame) = (0u32, ids.len() as u32);
        let (mut index, mut places, mut truths, mut weights) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (b, (_, window)) in windows.iter().enumerate() {
            for (i, (item, (truth, weight))) in window.items.iter().zip(&window.targets).enumerate() {
                let next = match item {
                    Item::Token(_) => &mut token,
                    Item::Frame => &mut frame,
                };
                index.push(*next);
                *next += 1;
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
        let x = table.index_select(&Tensor::new(index, device)?, 0)?.reshape((windows.len(), rows, width))?;
        let hidden = self.decoder.forward(&x, None)?.reshape(((), width))?;
        let logits = self.decoder.logits(&hidden.index_select(&Tensor::new(places, device)?, 0)?)?;
        let nll = negative_log_likelihood(&logits, &Tensor::new(truths, device)?)?;
        let part = |frames: bool| -> Result<Tensor> {
            let w: Vec<f32> = weights.iter().map(|(w, f)| if *f == frames { *w } else { 0.0 }).collect();
            let total = w.iter().sum::<f32>().max(1.0);
            (&nll * Tensor::new(w, device)?)?.sum_all()? / f64::from(total)
        };
        Ok((part(true)?, part(false)?))
    }

    fn window<'a>(
        &self,
        streams: &'a [Stream],
        run: &CoachTraining,
        rng: &mut ChaCha8Rng,
    ) -> Result<(&'a Stream, Window)> {
        if streams.is_empty() {
            bail!("no training sessions");
        }
        let stream = &streams[rng.random_range(0..streams.len())];
        let n = stream.features.dim(0)?;
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
        Ok((stream, Window::new(stream, prompt, from, to, self.actions, run.silence_weight)))
    }

    /// Mean losses over fixed windows of `streams`.
    pub fn evaluate(&self, streams: &[Stream], run: &CoachTraining, windows: usize) -> Result<(f64, f64)> {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut sums = (0.0, 0.0);
        for _ in 0..windows {
            let (a, t) = self.losses(&[self.window(streams, run, &mut rng)?])?;
            sums.0 += f64::from(a.to_scalar::<f32>()?);
            sums.1 += f64::from(t.to_scalar::<f32>()?);
        }
        Ok((sums.0 / windows as f64, sums.1 / windows as f64))
    }
}

/// `-log p(truth)` for each row of `logits: [n, vocab]`.
fn negative_log_likelihood(logits: &Tensor, truth: &Tensor) -> Result<Tensor> {
    let max = logits.max_keepdim(D::Minus1)?.detach();
    let shifted = logits.broadcast_sub(&max)?;
    let log_sum = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    (log_sum - shifted.gather(&truth.unsqueeze(1)?, 1)?)?.squeeze(1)
}

/// Trains until `optimiser.steps`; `progress` after each step gets a closure's worth of state and may stop the run by
/// answering `false` (a checkpoint is written first). Returns validation losses (action, text).
pub fn train(
    config: &DecoderConfig,
    actions: Actions,
    run: &CoachTraining,
    streams: &[Stream],
    held_out: &[Stream],
    progress: &mut dyn FnMut(&Progress) -> bool,
) -> Result<(f64, f64)> {
    let device = Device::Cpu;
    let Some(first) = streams.first() else { bail!("no training sessions") };
    let (weights, state) = (run.out.join("coach.safetensors"), run.out.join("coach-optimiser.safetensors"));
    let resumed = weights.exists() && state.exists();
    let vars =
        if resumed { Variables::load(&weights, run.seed, &device)? } else { Variables::seeded(run.seed, &device) };
    let model = CoachModel::new(config, first.features.dim(1)?, actions, &vars)?;
    let mut optimiser = AdamW::new(vars.all(), run.optimiser.clone())?;
    if resumed {
        optimiser.restore(&state, &device)?;
    }
    let share = (run.batch / run.workers.max(1)).max(1);
    let mut going = true;
    while going && optimiser.step < run.optimiser.steps {
        let step = optimiser.step;
        let (losses, grads) = data_parallel(run.workers, |worker| {
            let mut rng = ChaCha8Rng::seed_from_u64(
                run.seed ^ ((step * run.workers + worker) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15),
            );
            let windows = (0..share).map(|_| model.window(streams, run, &mut rng)).collect::<Result<Vec<_>>>()?;
            let (action, text) = model.losses(&windows)?;
            let store = (&action + &text)?.backward()?;
            let values = vec![f64::from(action.to_scalar::<f32>()?), f64::from(text.to_scalar::<f32>()?)];
            Ok((values, optimiser.gradients(&store)?))
        })?;
        optimiser.step(&grads)?;
        going = progress(&Progress { step: optimiser.step, action: losses[0], text: losses[1] });
        if !going || optimiser.step.is_multiple_of(run.save_every) || optimiser.step == run.optimiser.steps {
            vars.save(&weights, DType::F32)?;
            optimiser.save(&state)?;
        }
    }
    if held_out.is_empty() { Ok((f64::NAN, f64::NAN)) } else { model.evaluate(held_out, run, 64) }
}
