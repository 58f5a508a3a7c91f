//! Trains a small language model to draft for a target (arXiv 2403.00858; specs: direct-alignment).
//!
//! First it reads text, then it is drawn towards the target's distributions at what the target itself has said. It
//! learns as it will read: texts without pictures, whatever the target saw, or with what an adapter makes of a few of its
//! visual tokens.

use super::{
    align::{self, Loss, MASKED, Rows},
    coach::{negative_log_likelihood, step_rng},
    lines::{Kept, Line, Lines, Seen},
    parts::{Batch, Part},
};
use crate::model::{Adapter, AdapterConfig, Decoder, DecoderConfig, Mode};
use candle_core::{D, DType, Device, Result, Tensor, bail};
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use spotter_vision::{
    nn::pick_rows,
    training::{AdamW, AdamWSettings, Variables, data_parallel},
};
use std::{path::PathBuf, sync::Arc};

/// The tokens that a drafter may say where these are not all (specs: speculative, section 2.5). Of a large vocabulary a
/// drafter is mostly its head, so only what ships of it is trained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    ids: Vec<u32>,
    /// Column of each id of the vocabulary; `u32::MAX` where it has none.
    places: Vec<u32>,
}

impl Head {
    /// Of these tokens of `vocab`, each once.
    ///
    /// # Errors
    /// No token, one that the vocabulary does not have, or one that is given twice.
    pub fn new(ids: Vec<u32>, vocab: usize) -> Result<Self> {
        let mut places = vec![u32::MAX; vocab];
        for (column, id) in ids.iter().enumerate() {
            match places.get_mut(*id as usize) {
                Some(place) if *place == u32::MAX => *place = column as u32,
                Some(_) => bail!("a head names token {id} twice"),
                None => bail!("a head names token {id} of a vocabulary of {vocab}"),
            }
        }
        if ids.is_empty() {
            bail!("a head needs at least one token");
        }
        Ok(Self { ids, places })
    }

    /// Its tokens, column by column.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Column of a token.
    pub fn place(&self, id: u32) -> Option<u32> {
        self.places.get(id as usize).copied().filter(|place| *place != u32::MAX)
    }
}

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
    /// The tokens that it may say, where not all.
    pub head: Option<Arc<Head>>,
    /// What it sees with while it is tuned, where it does.
    pub adapter: Option<AdapterConfig>,
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

/// Which columns are compared, and which of them can be said.
pub(super) struct Columns {
    /// Row of 0 for tokens of the vocabulary that can be said, of [`MASKED`] for others; `None` where all can.
    all: Option<Tensor>,
    /// The same of the head's tokens.
    own: Option<Tensor>,
    /// The head's tokens, where not all.
    head: Option<Tensor>,
    vocab: usize,
}

impl Columns {
    pub(super) fn new(vocab: usize, never: &[u32], head: Option<&Head>, device: &Device) -> Result<Self> {
        let head = head.map(|head| Tensor::new(head.ids(), device)).transpose()?;
        let row = (0..vocab as u32).map(|id| if never.contains(&id) { MASKED as f32 } else { 0.0 });
        let all = if never.is_empty() { None } else { Some(Tensor::from_iter(row, device)?) };
        let own = match (&all, &head) {
            (Some(all), Some(head)) => Some(all.index_select(head, 0)?),
            (all, _) => all.clone(),
        };
        Ok(Self { all, own, head, vocab })
    }

    /// Logits of the drafter, f32.
    fn masked(&self, logits: &Tensor) -> Result<Tensor> {
        masked(logits, self.own.as_ref())
    }

    /// The target's distributions at the spoken tokens of a batch, `[n, vocab]`, f32.
    fn whole(&self, teacher: Teacher<'_>, batch: &Batch) -> Result<Tensor> {
        let device = batch.ids.device();
        match teacher {
            Teacher::Model(target) => {
                let hidden =
                    batch.hidden(target, None)?.index_select(&Tensor::new(batch.spoken.as_slice(), device)?, 0)?;
                let logits = masked(&target.logits(&hidden)?, self.all.as_ref())?;
                candle_nn::ops::softmax_last_dim(&logits).map(|p| p.detach())
            }
            Teacher::Kept(kept) => {
                let said = match &self.all {
                    Some(mask) => mask.ge(0.0)?.to_dtype(DType::F32)?,
                    None => Tensor::ones(self.vocab, DType::F32, device)?,
                };
                kept.distributions(&batch.rows, &said)
            }
        }
    }

    /// Of such distributions what the drafter can say, `[n, columns]`: the rest is missed.
    fn picked(&self, whole: Tensor) -> Result<Tensor> {
        match &self.head {
            Some(head) => whole.index_select(head, 1),
            None => Ok(whole),
        }
    }
}

fn masked(logits: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
    let logits = logits.to_dtype(DType::F32)?;
    match mask {
        Some(mask) => logits.broadcast_add(mask),
        None => Ok(logits),
    }
}

/// The decoder of a drafter under training; its variables are named as in the folder that is written of it.
fn student(config: &DecoderConfig, vars: &Variables, head: Option<&Head>) -> Result<Decoder> {
    let mut decoder = Decoder::new(config, vars.builder(), Mode::Train)?;
    if let Some(head) = head {
        decoder.trim_head(head.ids())?;
    }
    Ok(decoder)
}

/// The adapter of a drafter, which must read what was kept of the pictures.
pub(super) fn sight(
    adapter: Option<AdapterConfig>,
    config: &DecoderConfig,
    vars: &Variables,
    seen: Option<&Seen>,
) -> Result<Option<Adapter>> {
    match (adapter, seen) {
        (None, None) => Ok(None),
        (Some(own), Some(seen))
            if (own.tokens, own.frames, own.from, own.width)
                == (seen.tokens, seen.frames, seen.width, config.width) =>
        {
            Adapter::new(own, vars.builder()).map(Some)
        }
        (Some(own), Some(seen)) => bail!(
            "an adapter of {} tokens of {} numbers for a drafter {} wide can't read {} of {} for one {} wide",
            own.tokens,
            own.from,
            own.width,
            seen.tokens,
            seen.width,
            config.width
        ),
        (Some(_), None) => bail!("an adapter has nothing to learn from: what the target saw was not kept"),
        (None, Some(_)) => bail!("lines with pictures can't be read without an adapter"),
    }
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

/// Lines in which the target said something.
fn spoken(lines: &[Line]) -> Vec<&Line> {
    lines.iter().filter(|l| l.spoken.iter().skip(1).any(|s| *s)).collect()
}

/// Lines with something to be guessed.
fn readable<'a>(lines: &'a [Line], head: Option<&Head>) -> Vec<&'a Line> {
    let said = |id: &u32| head.is_none_or(|head| head.place(*id).is_some());
    lines.iter().filter(|l| l.ids.iter().skip(1).any(said)).collect()
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
    let head = run.head.as_deref();
    let lines = readable(lines, head);
    if lines.is_empty() {
        bail!("no text to learn from");
    }
    let student = student(config, vars, head)?;
    let work = |rng: &mut ChaCha8Rng, share: usize| {
        let batch = loop {
            let parts: Vec<Part<'_>> =
                (0..share).map(|_| Part::random(pick(&lines, rng), false, run.length, rng)).collect();
            let batch = Batch::new(&parts, (head, None), student.device())?;
            // A cut may leave nothing that the head has.
            if !batch.read.is_empty() {
                break batch;
            }
        };
        Ok(Step { loss: reading_loss(&student, &batch.hidden(&student, None)?, &batch)?, acceptance: None })
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
    let head = run.head.as_deref();
    let (spoken, plain) = (spoken(&lesson.lines.lines), readable(lesson.plain, head));
    if spoken.is_empty() {
        bail!("the target has said nothing to learn from");
    }
    let share_plain = if plain.is_empty() { 0.0 } else { run.plain.clamp(0.0, 0.9) };
    let student = student(config, vars, head)?;
    let seen = lesson.lines.seen.as_ref();
    let adapter = sight(run.adapter, config, vars, seen)?;
    let columns = Columns::new(config.vocab, lesson.never, head, student.device())?;
    let work = |rng: &mut ChaCha8Rng, share: usize| {
        let texts = (share as f64 * share_plain).round() as usize;
        let mut parts: Vec<Part<'_>> = Vec::with_capacity(share);
        parts.extend((texts..share.max(texts + 1)).map(|_| Part::random(pick(&spoken, rng), true, run.length, rng)));
        parts.extend((0..texts).map(|_| Part::random(pick(&plain, rng), false, run.length, rng)));
        let batch = Batch::new(&parts, (head, seen), student.device())?;
        let hidden = batch.hidden(&student, adapter.as_ref())?;
        let (aligned, acceptance) = compare(&student, &hidden, &batch, (lesson, &columns), rng)?;
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
    (lesson, columns): (&Lesson<'_>, &Columns),
    rng: &mut ChaCha8Rng,
) -> Result<(Tensor, Tensor)> {
    let device = student.device();
    let target = columns.picked(columns.whole(lesson.teacher, batch)?)?;
    let logits = columns.masked(&student.logits(&pick_rows(hidden, &batch.spoken)?)?)?;
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

/// What a drafter and its target think at all spoken tokens of whole lines.
pub(super) struct Compared {
    /// Logits of the drafter `[n, columns]`, f32.
    pub(super) logits: Tensor,
    /// Distributions of the target over the same columns.
    pub(super) target: Tensor,
    /// The target's likeliest token of all.
    pub(super) likeliest: Vec<u32>,
}

/// Compares a drafter, whose head may be trimmed and which may see, with its target.
pub(super) fn compared(
    (drafter, adapter): (&Decoder, Option<&Adapter>),
    (lines, seen): (&[Line], Option<&Seen>),
    teacher: Teacher<'_>,
    columns: &Columns,
) -> Result<Compared> {
    let device = drafter.device();
    let parts: Vec<Part<'_>> = lines.iter().map(|line| Part::whole(line, true)).collect();
    let batch = Batch::new(&parts, (None, seen), device)?;
    let whole = columns.whole(teacher, &batch)?;
    let likeliest = whole.argmax(D::Minus1)?.to_vec1()?;
    let index = Tensor::new(batch.spoken.as_slice(), device)?;
    let hidden = batch.hidden(drafter, adapter)?.index_select(&index, 0)?;
    Ok(Compared { logits: columns.masked(&drafter.logits(&hidden)?)?, target: columns.picked(whole)?, likeliest })
}
