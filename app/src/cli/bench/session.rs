//! `spotter bench session`: hours of coaching at full speed, to see whether anything grows.

use super::quantile;
use crate::{
    cli::{
        coaching::{CacheFlags, bias},
        print_json,
    },
    memory::{Memory, mebibytes},
    parts,
};
use anyhow::{Context as _, Result, bail};
use candle_core::Device;
use clap::Args;
use crossbeam_channel::{Receiver, Sender, bounded};
use serde::Serialize;
use spotter_datasets::synthetic::session::{Session, SessionOptions, Split};
use spotter_engine::{
    coach::{CoachOptions, SpeculationChoice, load::load, session::CoachSession},
    device::DeviceRequest,
    speculate::{DrafterKind, Method},
};
use spotter_vision::{Frame, avatar::AvatarView, lens::View};
use std::{
    io::Write as _,
    path::PathBuf,
    time::{Duration, Instant},
};

/// Frames that may be drawn ahead.
const AHEAD: usize = 256;

/// The control sees one frame of so many.
const CONTROL_EVERY: usize = 20;

/// Evictions before the clock starts: the first steps have little to look back at.
const WARM: u64 = 2;

/// Coach synthetic sessions one after the other as one endless stream, at full speed.
#[derive(Debug, Args)]
#[command(
    after_help = "A step is all that happens because of a drawn frame: the decision, an utterance, and evictions that come behind. Beside the coach a second \
                        one, the control, sees every 20th frame: what the machine does to its step is not the stream's doing, so the \
                        ratio of the two is given as well. Both have filled their caches before the clock starts. Memory is that of the \
                        whole process. Once anything was dropped, the cache's bytes must be those of the formula (see docs/cache.md); \
                        else the exit code is 1.\n\nA decision is what passes until the answer of a frame at which the coach \
                        stays silent; an utterance the same at one at which it speaks, its first word what passes until that is there. \
                        --talkativeness 20 lets a model that learnt nothing speak whenever it may."
)]
pub(super) struct SessionArgs {
    /// Hours of media time
    #[arg(long, default_value_t = 1.0, value_parser = hours)]
    hours: f64,
    /// Model folder, or the name of a model that ships
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    #[command(flatten)]
    cache: CacheFlags,
    /// More speaks more, less speaks less; left out, the model's own default
    #[arg(long, value_name = "BIAS", allow_negative_numbers = true, value_parser = bias)]
    talkativeness: Option<f32>,
    /// Who drafts utterances ahead, as `spotter replay --draft` takes it; left out, the model's own default
    #[arg(long, value_name = "DRAFTER")]
    draft: Option<DrafterKind>,
    /// What is drafted, as `spotter replay --draft-method` takes it; left out, the model's own default
    #[arg(long, value_name = "METHOD")]
    draft_method: Option<Method>,
    /// auto, cpu, cuda or metal
    #[arg(long, default_value = "auto")]
    device: DeviceRequest,
    /// First seed of the sessions
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// One JSON object an hour: hour, frames, utterances, step_mean_ms, step_p50_ms, step_p95_ms, decision_p50_ms, decision_p95_ms,
    /// first_word_p50_ms, utterance_p50_ms, see_p50_ms (of the decision, what the tower takes), tokens_a_round and accepted (where
    /// there is a drafter), eviction_mean_ms, control_p50_ms, to_control, resident_bytes, cache_len, position, evictions, closings, cache_bytes, formula_bytes; and at the end one with last_to_first,
    /// last_to_first_mean, last_to_first_corrected (the machine's drift taken out), resident_growth, bytes_as_computed
    #[arg(long)]
    json: bool,
}

fn hours(text: &str) -> Result<f64, String> {
    let hours: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if hours > 0.0 && hours <= 1000.0 { Ok(hours) } else { Err(format!("{hours} is out of range: up to 1000 hours")) }
}

/// One hour of media time, or what is left of the last.
#[derive(Clone, Debug, Serialize)]
struct Hour {
    hour: usize,
    frames: usize,
    utterances: usize,
    /// Mean step.
    step_mean_ms: f64,
    /// Median step.
    step_p50_ms: f64,
    step_p95_ms: f64,
    /// Steps of frames at which nothing was said.
    decision_p50_ms: f64,
    decision_p95_ms: f64,
    /// Median time until the first word of a frame at which something was said.
    first_word_p50_ms: Option<f64>,
    /// Median step of such frames.
    utterance_p50_ms: Option<f64>,
    /// Median time of the tower.
    see_p50_ms: f64,
    /// Tokens of a speculative round, over the whole stream.
    tokens_a_round: Option<f64>,
    /// Share of drafted tokens that were accepted.
    accepted: Option<f64>,
    /// Mean time of an eviction, over the whole stream.
    eviction_mean_ms: Option<f64>,
    /// Median step of the control.
    control_p50_ms: f64,
    /// Median step over that of the control.
    to_control: f64,
    resident_bytes: Option<u64>,
    cache_len: usize,
    position: usize,
    evictions: u64,
    /// How often positions were closed up.
    closings: u64,
    cache_bytes: usize,
    formula_bytes: usize,
}

/// What the last hour took against the first.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct End {
    /// Ratio of the median steps.
    last_to_first: f64,
    /// The same of the mean.
    last_to_first_mean: f64,
    /// Ratio of the medians over that of the control's: the machine's drift taken out.
    last_to_first_corrected: f64,
    /// Growth of the process since the end of the first hour, in bytes.
    resident_growth: Option<i64>,
    /// Allocated bytes were those of the formula in every hour that dropped anything.
    bytes_as_computed: bool,
}

impl End {
    fn of(hours: &[Hour]) -> Option<Self> {
        let (first, last) = (hours.first()?, hours.last()?);
        Some(Self {
            last_to_first: last.step_p50_ms / first.step_p50_ms,
            last_to_first_mean: last.step_mean_ms / first.step_mean_ms,
            last_to_first_corrected: last.to_control / first.to_control,
            resident_growth: last.resident_bytes.zip(first.resident_bytes).map(|(l, f)| l as i64 - f as i64),
            bytes_as_computed: hours.iter().all(|h| h.evictions == 0 || h.cache_bytes == h.formula_bytes),
        })
    }
}

/// Runs the command.
pub(super) fn run(args: &SessionArgs) -> Result<()> {
    let device = parts::chosen_device(args.device)?;
    let mut stream =
        Stream { coach: Timed::new(args, &device)?, control: Timed::new(args, &device)?, device, frames: 0 };
    let (side, rate, seed) = (stream.coach.side, stream.coach.session.manifest().frame_rate, args.seed);
    let hours = std::thread::scope(|scope| {
        let (sender, frames) = bounded(AHEAD);
        scope.spawn(move || draw(&sender, side, rate, seed));
        stream.all(args, rate, &frames)
    })?;
    let Some(end) = End::of(&hours) else { return Ok(()) };
    if args.json {
        print_json(&end)?
    } else {
        print_end(&end)?
    }
    if !end.bytes_as_computed {
        bail!("the cache's bytes are not those of the formula");
    }
    Ok(())
}

/// Draws people who train one after the other until nobody takes the frames any more.
fn draw(frames: &Sender<Frame>, side: usize, rate: f64, first_seed: u64) {
    let options = SessionOptions { split: Split::Validation, fps: rate, ..SessionOptions::default() };
    let mut seq = 0u64;
    for seed in first_seed.. {
        let mut view = AvatarView::new(side);
        for (_, body) in Session::generate(seed, &options).noisy_bodies() {
            let t = Duration::from_secs_f64(seq as f64 / rate);
            let Some(frame) = Frame::from_rgb(seq, t, side, side, view.draw(t, &body)) else { return };
            if frames.send(frame).is_err() {
                return;
            }
            seq += 1;
        }
    }
}

/// Times in milliseconds.
#[derive(Debug, Default)]
struct Times {
    steps: Vec<f64>,
    /// Of the tower.
    seeing: Vec<f64>,
    /// Steps without words.
    decisions: Vec<f64>,
    /// Steps with words, and their first words.
    utterances: Vec<f64>,
    first_words: Vec<f64>,
}

/// A coach and the times of its steps.
struct Timed {
    session: CoachSession,
    side: usize,
    /// Frames it saw: its own time, so that a frame left out is no gap.
    seen: u64,
    times: Times,
}

impl Timed {
    fn new(args: &SessionArgs, device: &Device) -> Result<Self> {
        let folder = parts::model_folder(args.model.as_deref())?;
        let model = load(&folder, device).with_context(|| format!("model {}", folder.display()))?;
        let defaults = model.manifest.defaults.clone();
        let side = model.picture_side;
        let options = CoachOptions {
            talkativeness: args.talkativeness.unwrap_or(defaults.talkativeness),
            cooldown: Duration::from_secs_f64(defaults.cooldown_seconds),
            max_tokens: defaults.max_tokens,
            sampling: defaults.sampling(),
            seed: args.seed,
            language: "en".to_owned(),
            exercise: None,
            cache: args.cache.choice(),
            speculation: SpeculationChoice { drafter: args.draft.clone(), method: args.draft_method.clone() },
        };
        let session = CoachSession::new(model, options).with_context(|| format!("model {}", folder.display()))?;
        Ok(Self { session, side, seen: 0, times: Times::default() })
    }

    fn observe(&mut self, frame: &Frame, device: &Device) -> Result<()> {
        let t = Duration::from_secs_f64(self.seen as f64 / self.session.manifest().frame_rate);
        self.seen += 1;
        let begun = Instant::now();
        let passed = || begun.elapsed().as_secs_f64() * 1e3;
        let seen = self.session.see(frame)?;
        device.synchronize()?;
        self.times.seeing.push(passed());
        let mut first_word = None;
        let step = self.session.observe_seen(&seen, t, View::Clear, &mut |_| {
            first_word.get_or_insert_with(passed);
            true
        })?;
        device.synchronize()?;
        let step_ms = passed();
        self.session.rest()?;
        device.synchronize()?;
        self.times.steps.push(passed());
        if step.feedback.is_some() {
            self.times.utterances.push(step_ms);
            self.times.first_words.extend(first_word);
        } else {
            self.times.decisions.push(step_ms);
        }
        Ok(())
    }

    /// Until the cache has dropped something a few times, unless it never will.
    fn warm(&mut self, frames: &Receiver<Frame>, device: &Device) -> Result<()> {
        while self.session.cache().budget().is_some() && self.session.cache().evictions() < WARM {
            self.observe(&frames.recv().context("no more frames are drawn")?, device)?;
        }
        self.times = Times::default();
        Ok(())
    }
}

/// A coach, its control, and the frames they saw.
struct Stream {
    coach: Timed,
    control: Timed,
    device: Device,
    frames: usize,
}

impl Stream {
    fn all(&mut self, args: &SessionArgs, rate: f64, frames: &Receiver<Frame>) -> Result<Vec<Hour>> {
        self.coach.warm(frames, &self.device)?;
        self.control.warm(frames, &self.device)?;
        let hour = (3600.0 * rate).round().max(1.0) as usize;
        let mut left = ((args.hours * 3600.0 * rate).round() as usize).max(1);
        let mut done = Vec::new();
        while left > 0 {
            let row = self.hour(done.len() + 1, left.min(hour), frames)?;
            if args.json {
                print_json(&row)?
            } else {
                print(&row)?
            }
            left -= row.frames;
            done.push(row);
        }
        Ok(done)
    }

    fn hour(&mut self, hour: usize, n: usize, frames: &Receiver<Frame>) -> Result<Hour> {
        for _ in 0..n {
            let frame = frames.recv().context("no more frames are drawn")?;
            self.coach.observe(&frame, &self.device)?;
            if self.frames.is_multiple_of(CONTROL_EVERY) {
                self.control.observe(&frame, &self.device)?;
            }
            self.frames += 1;
        }
        let mut times = std::mem::take(&mut self.coach.times);
        let mut control = std::mem::take(&mut self.control.times);
        let (session, cache) = (&self.coach.session, self.coach.session.cache());
        let drafted = session.speculation().filter(|stats| stats.rounds > 0);
        let step_p50_ms = quantile(&mut times.steps, 0.5);
        let control_p50_ms = quantile(&mut control.steps, 0.5);
        let some = |times: &mut [f64]| (!times.is_empty()).then(|| quantile(times, 0.5));
        Ok(Hour {
            hour,
            frames: n,
            utterances: times.utterances.len(),
            step_mean_ms: times.steps.iter().sum::<f64>() / n.max(1) as f64,
            step_p50_ms,
            step_p95_ms: quantile(&mut times.steps, 0.95),
            decision_p50_ms: quantile(&mut times.decisions, 0.5),
            decision_p95_ms: quantile(&mut times.decisions, 0.95),
            first_word_p50_ms: some(&mut times.first_words),
            utterance_p50_ms: some(&mut times.utterances),
            see_p50_ms: quantile(&mut times.seeing, 0.5),
            tokens_a_round: drafted.as_ref().map(|stats| stats.committed as f64 / stats.rounds as f64),
            accepted: drafted.as_ref().map(|stats| stats.accepted as f64 / stats.proposed.max(1) as f64),
            eviction_mean_ms: (cache.evictions() > 0)
                .then(|| cache.time_evicting().as_secs_f64() * 1e3 / cache.evictions() as f64),
            control_p50_ms,
            to_control: step_p50_ms / control_p50_ms,
            resident_bytes: Memory::now().resident_bytes,
            cache_len: cache.len(),
            position: cache.position(),
            evictions: cache.evictions(),
            closings: cache.closings(),
            cache_bytes: cache.bytes(),
            formula_bytes: cache.bytes_at_capacity(self.coach.session.dtype()),
        })
    }
}

fn print(row: &Hour) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "hour {:>3}  {:>6} frames  {:>5} utterances  step p50 {:>7.3} ms  p95 {:>7.3}  mean {:>7.3}  decision p50 {:>7.3}  p95 {:>7.3}  \
         first word p50 {}  utterance p50 {}  eviction {}  control p50 {:>7.3} (x {:.3})  \
         memory {:>7.1} MiB  cache {:>5} of position {:>6}  {:>6} evictions  {:>4} closings  {:>9} bytes (formula {})",
        row.hour,
        row.frames,
        row.utterances,
        row.step_p50_ms,
        row.step_p95_ms,
        row.step_mean_ms,
        row.decision_p50_ms,
        row.decision_p95_ms,
        or_dash(row.first_word_p50_ms),
        or_dash(row.utterance_p50_ms),
        or_dash(row.eviction_mean_ms),
        row.control_p50_ms,
        row.to_control,
        mebibytes(row.resident_bytes.unwrap_or(0) as f64),
        row.cache_len,
        row.position,
        row.evictions,
        row.closings,
        row.cache_bytes,
        row.formula_bytes,
    )
    .context("writing to standard output")
}

fn or_dash(ms: Option<f64>) -> String {
    ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.3} ms"))
}

fn print_end(end: &End) -> Result<()> {
    let growth = end.resident_growth.map_or_else(String::new, |b| format!(", memory {:+.1} MiB", mebibytes(b as f64)));
    let bytes = if end.bytes_as_computed { "those of the formula" } else { "NOT those of the formula" };
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "last hour to first: step x {:.3} (mean x {:.3}; the machine's drift taken out x {:.3}){growth}; the cache's bytes are {bytes}",
        end.last_to_first, end.last_to_first_mean, end.last_to_first_corrected
    )
    .context("writing to standard output")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hour(step: f64, control: f64, evictions: u64, bytes: usize) -> Hour {
        Hour {
            hour: 1,
            frames: 10,
            utterances: 1,
            step_mean_ms: step,
            step_p50_ms: step,
            step_p95_ms: step,
            decision_p50_ms: step,
            decision_p95_ms: step,
            first_word_p50_ms: None,
            utterance_p50_ms: None,
            see_p50_ms: step,
            tokens_a_round: None,
            accepted: None,
            eviction_mean_ms: None,
            control_p50_ms: control,
            to_control: step / control,
            resident_bytes: Some(1000),
            cache_len: 5,
            position: 7,
            evictions,
            closings: 0,
            cache_bytes: bytes,
            formula_bytes: 64,
        }
    }

    #[test]
    fn a_slower_machine_is_no_slower_stream() {
        // The whole machine got slower by half; the stream by a tenth more.
        let end = End::of(&[hour(2.0, 1.0, 3, 64), hour(3.3, 1.5, 9, 64)]).unwrap();
        assert!((end.last_to_first - 1.65).abs() < 1e-9 && (end.last_to_first_corrected - 1.1).abs() < 1e-9, "{end:?}");
        assert!(end.bytes_as_computed);
        assert_eq!(End::of(&[]), None);
    }

    #[test]
    fn bytes_that_differ_are_noticed_once_something_was_dropped() {
        assert!(End::of(&[hour(1.0, 1.0, 0, 32), hour(1.0, 1.0, 1, 64)]).unwrap().bytes_as_computed);
        assert!(!End::of(&[hour(1.0, 1.0, 1, 64), hour(1.0, 1.0, 2, 68)]).unwrap().bytes_as_computed);
        assert!(!End::of(&[hour(1.0, 1.0, 1, 32)]).unwrap().bytes_as_computed);
    }
}
