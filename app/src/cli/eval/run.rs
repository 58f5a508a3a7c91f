//! One run: data and a model, or predictions, to a report.

use super::{
    prepare::{Prepared, prepare},
    print_text,
    resources::MetricArgs,
};
use crate::{
    cli::{coaching::CoachArgs, print_json},
    eval::{
        html,
        report::Report,
        store::{RunInfo, Store, json, write_whole},
    },
    parallel::{in_parallel, workers},
    pipeline::Latency,
};
use anyhow::{Context as _, Result};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use spotter_datasets::qevd::{self, Prediction, Protocol};
use std::{path::PathBuf, str::FromStr};

/// Options of a run.
#[derive(Clone, Debug, Args)]
pub(super) struct RunArgs {
    /// Folders with feedbacks_long_range.json and its videos
    #[arg(value_name = "DATA", required = true)]
    pub(super) data: Vec<PathBuf>,
    /// How truths are read: fitcoach2024 or var2026
    #[arg(long, default_value = "fitcoach2024", value_parser = protocol)]
    pub(super) protocol: Protocol,
    /// Score a file of predictions, in any of the three published forms, instead of a model
    #[arg(long, value_name = "FILE")]
    pub(super) predictions: Option<PathBuf>,
    /// Folder for sessions and report
    #[arg(long, value_name = "DIR", default_value = "eval-out")]
    pub(super) out: PathBuf,
    /// Play every N-th session only, beginning with the I-th, on the I-th card; `spotter eval merge` joins the parts
    #[arg(long, value_name = "I/N", default_value = "1/1")]
    pub(super) shard: Shard,
    /// Tell the model each exercise, and begin anew with it, as QEVD's own models are run
    #[arg(long)]
    pub(super) told: bool,
    /// A control: show the model the video of the next session, while truths and what it is told stay
    #[arg(long, conflicts_with = "predictions")]
    pub(super) shuffled: bool,
    /// Time a look and a word take: measured, fixed:MS or fixed:MS,MS
    #[arg(long, default_value_t = Latency::REPLAY)]
    pub(super) latency: Latency,
    /// Pretend that looking and speaking take no time; for comparison only
    #[arg(long, conflicts_with = "latency")]
    pub(super) zero_latency: bool,
    /// Sessions played at once; left out, one a processor core
    #[arg(long, value_name = "N")]
    pub(super) jobs: Option<usize>,
    /// The report as one JSON object instead of a table
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) coach: CoachArgs,
    #[command(flatten)]
    pub(super) metrics: MetricArgs,
}

fn protocol(text: &str) -> Result<Protocol, String> {
    Protocol::from_name(text).ok_or_else(|| format!("`{text}` is no protocol: fitcoach2024 or var2026 expected"))
}

/// A part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shard {
    /// From 1.
    pub(super) part: usize,
    of: usize,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((part, of)) if part >= 1 && part <= of => Ok(Self { part, of }),
            _ => Err(format!("`{text}` is no shard: expected I/N with I from 1 to N")),
        }
    }
}

/// Runs it and prints the report.
pub(super) fn run(args: &RunArgs) -> Result<()> {
    match play(args)? {
        Some(report) if args.json => print_json(&report),
        Some(report) => {
            print_text(&report.text())?;
            let page = args.out.join("report.html");
            print_text(&format!("\n{}\n", page.display()))
        }
        None => print_text(&format!(
            "shard {}/{} is in {}; join all with `spotter eval merge`\n",
            args.shard.part,
            args.shard.of,
            args.out.display()
        )),
    }
}

/// Plays and scores what is missing; the report when all sessions are there, `None` for a shard.
pub(super) fn play(args: &RunArgs) -> Result<Option<Report>> {
    let prepared = prepare(args)?;
    let store = Store::create(&args.out, &prepared.info)?;
    let own: Vec<usize> = (0..prepared.info.sessions).filter(|i| i % args.shard.of == args.shard.part - 1).collect();
    // All is played before anything is scored: a judge that is gone costs no session.
    if prepared.plays() {
        let missing = |i: &usize| !store.has(*i) && !store.has_played(*i);
        each(args, "played", &own, missing, |i| store.put_played(i, &prepared.played(i)?))?;
        prepared.too_slow().iter().for_each(|warning| tracing::warn!("{warning}"));
    }
    each(args, "scored", &own, |i| !store.has(*i), |i| store.put(&scored(&prepared, &store, i)?))?;
    if args.shard.of > 1 { Ok(None) } else { finish(&store, &prepared.info).map(Some) }
}

fn scored(prepared: &Prepared, store: &Store, index: usize) -> Result<crate::eval::store::Session> {
    let played = || if prepared.plays() { store.get_played(index) } else { prepared.played(index) };
    prepared.scored(index, played)
}

/// Does some work for those sessions that need it, with a bar.
fn each(
    args: &RunArgs,
    what: &str,
    own: &[usize],
    needs: impl Fn(&usize) -> bool,
    work: impl Fn(usize) -> Result<()> + Sync,
) -> Result<()> {
    let missing: Vec<usize> = own.iter().copied().filter(needs).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let bar = ProgressBar::new(own.len() as u64);
    let template = format!("{{elapsed_precise}} [{{bar:30}}] {{pos}}/{{len}} sessions {what} (left: {{eta}})");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar.set_position((own.len() - missing.len()) as u64);
    // What was there already took no time.
    bar.reset_eta();
    let one = |i: usize| work(missing.get(i).copied().context("a session is missing")?);
    in_parallel(args.jobs.unwrap_or_else(workers), missing.len(), one, |_| bar.inc(1))?;
    bar.finish_and_clear();
    Ok(())
}

/// Reads all sessions of a store and writes its report.
pub(super) fn finish(store: &Store, info: &RunInfo) -> Result<Report> {
    let sessions = (0..info.sessions).map(|i| store.get(i)).collect::<Result<Vec<_>>>()?;
    let report = Report::of(info, &sessions);
    write_whole(&store.file("report.json"), &json(&report)?)?;
    write_whole(&store.file("report.csv"), report.csv().as_bytes())?;
    write_whole(&store.file("report.html"), html::report(&report, &sessions).as_bytes())?;
    let predictions: Vec<Prediction> = sessions
        .iter()
        .flat_map(|s| &s.episodes)
        .map(|e| Prediction { episode: e.id.clone(), said: e.said.clone() })
        .collect();
    if !info.pairs_only {
        qevd::write_predictions(&store.file("predictions.json"), &predictions)?;
    }
    Ok(report)
}
