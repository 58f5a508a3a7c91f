//! Trains a small language model to draft for a target (arXiv 2403.00858; specs: direct-alignment).
//!
//! First it reads text, then it is drawn towards the target's distributions at what the target itself has said. It
//! learns as it will read: texts without pictures, whatever the target saw.

use super::{
    align::{self, Loss, MASKED, Rows},
    coach::{negative_log_likelihood, step_rng},
    lines::{Kept, Line, Lines},
};
use crate::model::{Decoder, DecoderConfig, Mode};
use candle_core::{DType, Device, Result, Tensor, bail};
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use spotter_vision::{
    nn::pick_rows,
    training::{AdamW, AdamWSettings, Variables, data_parallel},
};
use std::path::PathBuf;

/// Settings of one stage.
#[derive(Clone, Debug)]
pub struct DrafterTraining {
    /// Lines a step, over all workers.
    pub batch: usize,
    /// Threads that train, each on a share of the batch; 1 on anything but the processor.
    pub workers: usize,
    /// Tokens of a line at most; of a longer one a part is read.
    pub length: usize,
    /// Share of the lines of a step that are plain text, against forgetting.
    pub plain: f64,
    /// Optimiser.
    pub optimiser: AdamWSettings,
    /// Seed of the lines.
    pub seed: u64,
    /// Where the variables are saved.
    pub weights: PathBuf,
    /// Where the state of the optimiser is saved; the run is taken up again when both files exist.
    pub state: PathBuf,
    /// Steps between checkpoints.
    pub save_every: usize,
}

impl DrafterTraining {
    /// Whether an earlier run left a checkpoint.
    pub fn resumes(&self) -> bool {
        self.weights.exists() && self.state.exists()
    }
}

/// Who knows the target's distributions.
#[derive(Clone, Copy)]
pub enum Teacher<'a> {
    /// The target, which reads the same texts.
    Model(&'a Decoder),
    /// What was kept when it spoke, for a target that saw more than the texts.
    Kept(&'a Kept),
}

/// State after a step.
#[derive(Clone, Copy, Debug)]
pub struct DrafterProgress {
    /// Steps done.
    pub step: usize,
    /// Loss of the stage.
    pub loss: f64,
    /// Mean chance that a draft is accepted at temperature 1; not a number where only text is read.
    pub acceptance: f64,
}

/// A target and what of its texts is compared.
#[derive(Clone, Copy)]
pub struct Lesson<'a> {
    /// The measure.
    pub loss: Loss,
    /// What the target said.
    pub lines: &'a Lines,
    /// Its distributions.
    pub teacher: Teacher<'a>,
    /// Text that is read beside it, where [`DrafterTraining::plain`] asks for it.
    pub plain: &'a [Line],
    /// Tokens that can't be said: masked out of both.
    pub never: &'a [u32],
}

/// Lines as a decoder reads them, all as long as the longest.
pub(super) struct Batch {
    /// `[lines, tokens]`.
    ids: Tensor,
    /// Rows of hidden states, over all lines, before the tokens that are compared with the target.
    spoken: Vec<u32>,
    /// For each of these the row of the target's distribution, where it was kept, and the line.
    pub(super) rows: Vec<usize>,
    pub(super) lines: Vec<u32>,
    /// Rows before tokens that are read, and these tokens.
    read: Vec<u32>,
    next: Vec<u32>,
}

/// A line from one token to another, and whether the target's words in it are compared or all are read.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) line: &'a Line,
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) compared: bool,
}

impl<'a> Part<'a> {
    pub(super) fn whole(line: &'a Line, compared: bool) -> Self {
        Self { line, from: 0, to: line.ids.len(), compared }
    }

    /// At most `length` tokens from anywhere in the line, with something to learn among them. Half of the cuts begin
    /// where the line does, as texts do.
    fn random(line: &'a Line, compared: bool, length: usize, rng: &mut ChaCha8Rng) -> Self {
        let spare = line.ids.len().saturating_sub(length);
        let spoken: Vec<usize> = if compared { line.utterances().iter().map(|u| u.0).collect() } else { Vec::new() };
        let first = spoken.get(rng.random_range(0..spoken.len().max(1))).copied();
        // The first spoken token has to be in it, and one before it.
        let (low, high) = match first {
            Some(first) => ((first + 1).saturating_sub(length), first.saturating_sub(1).min(spare)),
            None => (0, spare),
        };
        let from = if low == 0 && rng.random_bool(0.5) { 0 } else { rng.random_range(low..=high.max(low)) };
        Self { line, from, to: (from + length).min(line.ids.len()), compared }
    }
}

impl Batch {
    pub(super) fn new(parts: &[Part<'_>], device: &Device) -> Result<Self> {
        let tokens = parts.iter().map(|p| p.to - p.from).max().unwrap_or(0).saturating_sub(1).max(1);
        let (mut ids, mut spoken, mut rows, mut lines) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut read, mut next) = (Vec::new(), Vec::new());
        for (number, part) in parts.iter().enumerate() {
            let flags = part.line.spoken.iter().take(part.from + 1);
            let mut row = part.line.row + flags.filter(|s| **s).count();
            // Padding lies behind everything that counts, so causal attention never sees it.
            let own = part.line.ids.get(part.from..part.to).unwrap_or_default();
            ids.extend((0..tokens).map(|i| own.get(i).copied().unwrap_or(0)));
            for (i, id) in own.iter().enumerate().skip(1) {
                let place = (number * tokens + i - 1) as u32;
                let said = part.line.spoken.get(part.from + i).is_some_and(|s| *s);
                if said && part.compared {
                    spoken.push(place);
                    rows.push(row);
                    lines.push(number as u32);
                } else if !part.compared {
                    read.push(place);
                    next.push(*id);
                }
                row += usize::from(said);
            }
        }
        let ids = Tensor::from_vec(ids, (parts.len(), tokens), device)?;
        Ok(Self { ids, spoken, rows, lines, read, next })
    }

    /// Hidden states of a decoder, `[lines * tokens, width]`.
    fn hidden(&self, decoder: &Decoder) -> Result<Tensor> {
        decoder.forward(&decoder.embed(&self.ids)?, None)?.reshape(((), decoder.config().width))
    }
}

/// Row of 0 for tokens that can be said, of [`MASKED`] for others; `None` where all can.
fn mask(vocab: usize, never: &[u32], device: &Device) -> Result<Option<Tensor>> {
    if never.is_empty() {
        return Ok(None);
    }
    let row = (0..vocab as u32).map(|id| if never.contains(&id) { MASKED as f32 } else { 0.0 });
    Ok(Some(Tensor::from_iter(row, device)?))
}

fn masked(logits: Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
    let logits = logits.to_dtype(DType::F32)?;
    match mask {
        Some(mask) => logits.broadcast_add(mask),
        None => Ok(logits),
    }
}

/// The target's distributions at the spoken tokens of a batch, `[n, vocab]`, f32.
fn taught(teacher: Teacher<'_>, batch: &Batch, vocab: usize, never: &[u32]) -> Result<Tensor> {
    match teacher {
        Teacher::Model(target) => {
            let hidden =
                batch.hidden(target)?.index_select(&Tensor::new(batch.spoken.as_slice(), batch.ids.device())?, 0)?;
            let mask = mask(vocab, never, batch.ids.device())?;
            let logits = masked(target.logits(&hidden)?, mask.as_ref())?;
            candle_nn::ops::softmax_last_dim(&logits).map(|p| p.detach())
        }
        Teacher::Kept(kept) => {
            let said = (0..vocab as u32).map(|id| if never.contains(&id) { 0f32 } else { 1.0 });
            kept.distributions(&batch.rows, &Tensor::from_iter(said, batch.ids.device())?)
        }
    }
}

/// The decoder of a drafter under training; its variables are named as in the folder that is written of it.
fn student(config: &DecoderConfig, vars: &Variables) -> Result<Decoder> {
    Decoder::new(config, vars.builder(), Mode::Train)
}

/// A step's loss, with its backward pass, and acceptance.
struct Step {
    loss: Tensor,
    acceptance: Option<Tensor>,
}

/// Takes steps until the optimiser is done; `work` makes the loss of a share of a batch.
fn descend(
    vars: &Variables,
    run: &DrafterTraining,
    device: &Device,
    work: impl Fn(&mut ChaCha8Rng, usize) -> Result<Step> + Sync,
    progress: &mut dyn FnMut(&DrafterProgress),
) -> Result<usize> {
    let mut optimiser = AdamW::new(vars.all(), run.optimiser.clone())?;
    if run.resumes() {
        optimiser.restore(&run.state, device)?;
    }
    let workers = run.workers.max(1);
    let share = (run.batch / workers).max(1);
    let save = |optimiser: &AdamW| {
        vars.save(&run.weights, DType::F32)?;
        optimiser.save(&run.state)
    };
    while !optimiser.over() {
        let step = optimiser.step;
        let (values, grads) = data_parallel(workers, |worker| {
            let mut rng = step_rng(run.seed, step * workers + worker);
            let Step { loss, acceptance } = work(&mut rng, share)?;
            let store = loss.backward()?;
            let number = |t: &Tensor| Ok::<_, candle_core::Error>(f64::from(t.to_scalar::<f32>()?));
            let acceptance = acceptance.map_or(Ok(f64::NAN), |a| number(&a))?;
            Ok((vec![number(&loss)?, acceptance], optimiser.gradients(&store)?))
        })?;
        optimiser.step(&grads)?;
        let [loss, acceptance] = values[..] else { bail!("a step without a loss") };
        progress(&DrafterProgress { step: optimiser.step, loss, acceptance });
        if optimiser.step.is_multiple_of(run.save_every.max(1)) {
            save(&optimiser)?;
        }
    }
    save(&optimiser)?;
    Ok(optimiser.step)
}

/// Mean of `-ln p` of all tokens that a batch reads.
fn reading_loss(student: &Decoder, hidden: &Tensor, batch: &Batch) -> Result<Tensor> {
    let logits = student.logits(&pick_rows(hidden, &batch.read)?)?;
    negative_log_likelihood(&logits, &Tensor::new(batch.next.as_slice(), batch.ids.device())?)?.mean_all()
}

/// Lines of which something can be learnt, by their place.
fn usable(lines: &[Line], spoken: bool) -> Vec<&Line> {
    let fits = |l: &&Line| l.ids.len() > 1 && (!spoken || l.spoken.iter().skip(1).any(|s| *s));
    lines.iter().filter(fits).collect()
}

/// Teaches a drafter to read: next-token prediction on all of `lines`. Returns the steps taken.
///
/// # Errors
/// No text, a variable without gradient, a gradient that is not finite, or those of device and files.
pub fn pretrain(
    config: &DecoderConfig,
    vars: &Variables,
    run: &DrafterTraining,
    lines: &[Line],
    progress: &mut dyn FnMut(&DrafterProgress),
) -> Result<usize> {
    let lines = usable(lines, false);
    if lines.is_empty() {
        bail!("no text to learn from");
    }
    let student = student(config, vars)?;
    let work = |rng: &mut ChaCha8Rng, share: usize| {
        let parts: Vec<Part<'_>> =
            (0..share).map(|_| Part::random(pick(&lines, rng), false, run.length, rng)).collect();
        let batch = Batch::new(&parts, student.device())?;
        Ok(Step { loss: reading_loss(&student, &batch.hidden(&student)?, &batch)?, acceptance: None })
    };
    descend(vars, run, student.device(), work, progress)
}

fn pick<'a>(lines: &[&'a Line], rng: &mut ChaCha8Rng) -> &'a Line {
    lines[rng.random_range(0..lines.len())]
}

/// Draws a drafter towards the target. Returns the steps taken.
///
/// # Errors
/// Nothing that the target said, or those of [`pretrain`].
pub fn tune(
    config: &DecoderConfig,
    vars: &Variables,
    run: &DrafterTraining,
    lesson: &Lesson<'_>,
    progress: &mut dyn FnMut(&DrafterProgress),
) -> Result<usize> {
    let (spoken, plain) = (usable(&lesson.lines.lines, true), usable(lesson.plain, false));
    if spoken.is_empty() {
        bail!("the target has said nothing to learn from");
    }
    let share_plain = if plain.is_empty() { 0.0 } else { run.plain.clamp(0.0, 0.9) };
    let student = student(config, vars)?;
    let work = |rng: &mut ChaCha8Rng, share: usize| {
        let texts = (share as f64 * share_plain).round() as usize;
        let mut parts: Vec<Part<'_>> = Vec::with_capacity(share);
        parts.extend((texts..share.max(texts + 1)).map(|_| Part::random(pick(&spoken, rng), true, run.length, rng)));
        parts.extend((0..texts).map(|_| Part::random(pick(&plain, rng), false, run.length, rng)));
        let batch = Batch::new(&parts, student.device())?;
        let hidden = batch.hidden(&student)?;
        let (aligned, acceptance) = compare(&student, &hidden, &batch, lesson, rng)?;
        let loss = if batch.read.is_empty() {
            aligned
        } else {
            (aligned + (reading_loss(&student, &hidden, &batch)? * share_plain)?)?
        };
        Ok(Step { loss, acceptance: Some(acceptance) })
    };
    descend(vars, run, student.device(), work, progress)
}

/// Loss and acceptance at the spoken tokens of a batch.
fn compare(
    student: &Decoder,
    hidden: &Tensor,
    batch: &Batch,
    lesson: &Lesson<'_>,
    rng: &mut ChaCha8Rng,
) -> Result<(Tensor, Tensor)> {
    let (vocab, device) = (student.config().vocab, student.device());
    let target = taught(lesson.teacher, batch, vocab, lesson.never)?;
    let mask = mask(vocab, lesson.never, device)?;
    let logits = masked(student.logits(&pick_rows(hidden, &batch.spoken)?)?, mask.as_ref())?;
    let weights = Tensor::ones(batch.spoken.len(), DType::F32, device)?;
    let drawn = match lesson.loss {
        Loss::TvdPlusSampled => {
            let mut dice = super::rollout::Dice::new(rng.random(), device)?;
            Some(Tensor::new(dice.draw(&logits.detach(), &vec![1.0; batch.spoken.len()])?, device)?)
        }
        _ => None,
    };
    let rows =
        Rows { logits: &logits, target: &target, weights: &weights, sequences: &batch.lines, drawn: drawn.as_ref() };
    let done = align::align(lesson.loss, &rows)?;
    Ok((done.loss, done.acceptance))
}

/// Logits of a drafter and distributions of the target at all spoken tokens of whole lines, `[n, vocab]` each, f32.
pub(super) fn compared(
    drafter: &Decoder,
    lines: &[Line],
    teacher: Teacher<'_>,
    never: &[u32],
) -> Result<(Tensor, Tensor)> {
    let (vocab, device) = (drafter.config().vocab, drafter.device());
    let parts: Vec<Part<'_>> = lines.iter().map(|line| Part::whole(line, true)).collect();
    let batch = Batch::new(&parts, device)?;
    let target = taught(teacher, &batch, vocab, never)?;
    let index = Tensor::new(batch.spoken.as_slice(), device)?;
    let hidden = batch.hidden(drafter)?.index_select(&index, 0)?;
    let mask = mask(vocab, never, device)?;
    Ok((masked(drafter.logits(&hidden)?, mask.as_ref())?, target))
}
