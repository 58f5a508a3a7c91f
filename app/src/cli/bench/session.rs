//! `spotter bench session`: hours of coaching at full speed, to see whether anything grows.

use super::{quantile, resident};
use crate::{cli::print_json, parts};
use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;
use spotter_datasets::synthetic::session::{Session, SessionOptions, Split};
use spotter_engine::{
    coach::{CacheChoice, CoachOptions, load::load, session::CoachSession},
    model::Policy,
};
use spotter_vision::{
    Frame,
    avatar::AvatarView,
    lens::{Sight, View},
};
use std::{
    io::Write as _,
    path::PathBuf,
    time::{Duration, Instant},
};

/// Coach synthetic sessions one after the other as one endless stream, at full speed.
#[derive(Debug, Args)]
#[command(
    after_help = "A step is all that happens between a drawn frame and the decision, an utterance included. Memory is \
                        that of the whole process. The cache's bytes must be those of the formula: layers x key heads \
                        x capacity x (2 x head size x bytes of a number + 4 for the position)."
)]
pub(super) struct SessionArgs {
    /// Hours of media time
    #[arg(long, default_value_t = 1.0, value_parser = hours)]
    hours: f64,
    /// Model folder, or the name of a model that ships
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Which entries of a full cache stay; left out, the model's own default
    #[arg(long, value_name = "POLICY")]
    cache_policy: Option<Policy>,
    /// Entries that stay in the cache; left out, the model's own default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    cache_budget: Option<u32>,
    /// First seed of the sessions
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// One JSON object an hour: hour, frames, utterances, step_mean_ms, step_p50_ms, step_p95_ms, resident_bytes, cache_len, position,
    /// evictions, cache_bytes, formula_bytes; and at the end one with last_to_first
    #[arg(long)]
    json: bool,
}

fn hours(text: &str) -> Result<f64, String> {
    let hours: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if hours > 0.0 && hours <= 1000.0 { Ok(hours) } else { Err(format!("{hours} is out of range: up to 1000 hours")) }
}

/// One hour of media time, or what is left of the last.
#[derive(Debug, Serialize)]
struct Hour {
    hour: usize,
    frames: usize,
    utterances: usize,
    /// Mean step.
    step_mean_ms: f64,
    /// Median step.
    step_p50_ms: f64,
    step_p95_ms: f64,
    resident_bytes: Option<u64>,
    cache_len: usize,
    position: usize,
    evictions: u64,
    cache_bytes: usize,
    formula_bytes: usize,
}

/// What the last hour took against the first.
#[derive(Debug, Serialize)]
struct End {
    /// Ratio of the median steps.
    last_to_first: f64,
    /// The same of the mean.
    last_to_first_mean: f64,
    /// Growth of the process since the end of the first hour, in bytes.
    resident_growth: Option<i64>,
    /// Allocated bytes were never above the formula's, and reached them.
    bytes_as_computed: bool,
}

/// Runs the command.
pub(super) fn run(args: &SessionArgs) -> Result<()> {
    let mut stream = Stream::new(args)?;
    let (rate, mut done) = (stream.coach.manifest().frame_rate, Vec::new());
    let total = (args.hours * 3600.0 * rate).round() as usize;
    let hour = (3600.0 * rate).round().max(1.0) as usize;
    let mut left = total.max(1);
    while left > 0 {
        let frames = left.min(hour);
        let row = stream.hour(done.len() + 1, frames)?;
        if args.json {
            print_json(&row)?
        } else {
            print(&row)?
        }
        done.push(row);
        left -= frames;
    }
    let (Some(first), Some(last)) = (done.first(), done.last()) else { return Ok(()) };
    let end = End {
        last_to_first: last.step_p50_ms / first.step_p50_ms,
        last_to_first_mean: last.step_mean_ms / first.step_mean_ms,
        resident_growth: last.resident_bytes.zip(first.resident_bytes).map(|(l, f)| l as i64 - f as i64),
        bytes_as_computed: done.iter().all(|h| h.cache_bytes == h.formula_bytes),
    };
    if args.json {
        return print_json(&end);
    }
    let growth = end.resident_growth.map_or_else(String::new, |b| format!(", memory {:+.1} MiB", mebibytes(b as f64)));
    let mut out = std::io::stdout().lock();
    writeln!(out, "last hour to first: step x {:.3} (mean x {:.3}){growth}", end.last_to_first, end.last_to_first_mean)
        .context("writing to standard output")
}

fn mebibytes(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

fn print(row: &Hour) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "hour {:>3}  {:>6} frames  {:>5} utterances  step p50 {:>7.3} ms  p95 {:>7.3}  mean {:>7.3}  memory {:>7.1} MiB  \
         cache {:>5} of position {:>6}  {:>9} bytes (formula {})",
        row.hour,
        row.frames,
        row.utterances,
        row.step_p50_ms,
        row.step_p95_ms,
        row.step_mean_ms,
        mebibytes(row.resident_bytes.unwrap_or(0) as f64),
        row.cache_len,
        row.position,
        row.cache_bytes,
        row.formula_bytes,
    )
    .context("writing to standard output")
}

/// A coach and the people it watches.
struct Stream {
    coach: CoachSession,
    side: usize,
    seed: u64,
    /// Frames of the present session that are still to come, last first.
    bodies: Vec<spotter_vision::body::Body>,
    view: AvatarView,
    seq: u64,
}

impl Stream {
    fn new(args: &SessionArgs) -> Result<Self> {
        let folder = parts::model_folder(args.model.as_deref())?;
        let model = load(&folder, &parts::device()).with_context(|| format!("model {}", folder.display()))?;
        let defaults = model.manifest.defaults.clone();
        let side = model.picture_side;
        let options = CoachOptions {
            talkativeness: defaults.talkativeness,
            cooldown: Duration::from_secs_f64(defaults.cooldown_seconds),
            max_tokens: defaults.max_tokens,
            temperature: defaults.temperature,
            seed: args.seed,
            language: "en".to_owned(),
            exercise: None,
            cache: CacheChoice { policy: args.cache_policy, budget: args.cache_budget.map(|n| n as usize) },
            speculation: Default::default(),
        };
        let coach = CoachSession::new(model, options).with_context(|| format!("model {}", folder.display()))?;
        Ok(Self { coach, side, seed: args.seed, bodies: Vec::new(), view: AvatarView::new(side), seq: 0 })
    }

    /// The next frame of whoever trains now.
    fn sight(&mut self) -> Result<Sight> {
        let fps = self.coach.manifest().frame_rate;
        while self.bodies.is_empty() {
            let options = SessionOptions { split: Split::Validation, fps, ..SessionOptions::default() };
            self.bodies = Session::generate(self.seed, &options).noisy_bodies().into_iter().map(|(_, b)| b).collect();
            self.bodies.reverse();
            self.view = AvatarView::new(self.side);
            self.seed += 1;
        }
        let body = self.bodies.pop().context("a synthetic session has no frames")?;
        let t = Duration::from_secs_f64(self.seq as f64 / fps);
        let picture = self.view.draw(t, &body);
        let frame =
            Frame::from_rgb(self.seq, t, self.side, self.side, picture).context("a drawn frame has the wrong size")?;
        self.seq += 1;
        Ok(Sight { frame, view: View::Clear, people: 1, person: 0, body: Some(body) })
    }

    fn hour(&mut self, hour: usize, frames: usize) -> Result<Hour> {
        let (mut times, mut utterances) = (Vec::with_capacity(frames), 0);
        for _ in 0..frames {
            let sight = self.sight()?;
            let begun = Instant::now();
            let step = self.coach.observe(&sight, &mut |_| true)?;
            times.push(begun.elapsed().as_secs_f64() * 1e3);
            utterances += usize::from(step.feedback.is_some());
        }
        let cache = self.coach.cache();
        Ok(Hour {
            hour,
            frames,
            utterances,
            step_mean_ms: times.iter().sum::<f64>() / frames.max(1) as f64,
            step_p50_ms: quantile(&mut times, 0.5),
            step_p95_ms: quantile(&mut times, 0.95),
            resident_bytes: resident(),
            cache_len: cache.len(),
            position: cache.position(),
            evictions: cache.evictions(),
            cache_bytes: cache.bytes(),
            formula_bytes: cache.bytes_at_capacity(self.coach.dtype()),
        })
    }
}
