//! `spotter eval synthetic`: a model on synthetic sessions that training never saw, beside the blind baselines.

mod table;

use crate::{
    parallel::{in_parallel_with, workers},
    parts,
};
use anyhow::{Context as _, Result};
use candle_core::Device;
use clap::Args;
use spotter_datasets::{
    baseline::{Stretch, best_metronome, score_silent},
    metric::{Timed, content::Content, timing::Timing},
    synthetic::{
        motion::MotionLibrary,
        phrases::{self, Lang, SaidKind},
        session::{Session, SessionOptions, Split},
    },
};
use spotter_engine::{
    coach::{CacheChoice, CoachOptions, load::load_for, session::CoachSession},
    device::DeviceRequest,
    model::{Policy, cache::Setting},
};
use spotter_vision::{
    Frame,
    avatar::AvatarView,
    encoder::tosa::Tosa,
    lens::{Sight, View},
};
use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

/// Score a model on held-out synthetic sessions.
#[derive(Debug, Args)]
#[command(
    after_help = "The table shows the model beside the best blind metronome (all periods from 1 to 6 s), the silent coach and the \
                        same model fed the video of another session. Times count from the frame to the first word.\n\n                        Several cache policies, budgets or parts make a table of all combinations instead, beside the same model with an \
                        unbounded cache and the best metronome. Each session is seen once for all rows. METEOR and ROUGE-L are means \
                        over the pairs that the timing matched; ranges are 95 % of paired drawings of sessions, against `window` at the \
                        same budget.\n\n                        Examples:\n  \
                        spotter eval synthetic --sessions 48 --seed 3000\n  \
                        spotter eval synthetic --cache-table --sessions 48 --seed 4000\n  \
                        spotter eval synthetic --cache-policy window,keydiff --cache-part 4 --cache-said 0,0.25 --cache positions=shrink"
)]
pub(crate) struct SyntheticArgs {
    /// Model folder, or the name of a model that ships.
    #[arg(long, value_name = "DIR", default_value = parts::MODEL)]
    model: PathBuf,
    /// Folder of recorded motion (`ui_prmd_25hz.safetensors` and `cmu/`): half of the exercises that it has are done by
    /// people of it that no training saw
    #[arg(long, value_name = "DIR")]
    motion: Option<PathBuf>,
    /// Sessions of at least three minutes each.
    #[arg(long, default_value_t = 50)]
    sessions: usize,
    /// First seed; the sessions' people and seeds never occur in training.
    #[arg(long, default_value_t = 1000)]
    seed: u64,
    /// Language of the coach.
    #[arg(long, default_value = "en")]
    lang: String,
    /// Added to the model's wish to speak, instead of its default.
    #[arg(long, allow_negative_numbers = true)]
    talkativeness: Option<f32>,
    /// Seconds from a frame to the first word that are counted.
    #[arg(long, default_value_t = 0.1)]
    latency: f64,
    /// Which entries of a full cache stay, instead of the model's default; several make a table
    #[arg(long, value_name = "POLICY", value_delimiter = ',')]
    cache_policy: Vec<Policy>,
    /// Entries that stay in the cache, instead of the model's default; several make a table
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    cache_budget: Vec<u32>,
    /// Budgets as one part of so many of each session's positions; a table. 1 is the unbounded cache, which is always in it
    #[arg(long, value_name = "PARTS", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=64))]
    cache_part: Vec<u32>,
    /// Shares of the budget, from 0 to 1, that are kept for what the coach said itself; several make a table
    #[arg(long, value_name = "SHARE", value_delimiter = ',')]
    cache_said: Vec<f64>,
    /// Any other setting of the cache, in the words of spotter.toml, such as anchor=raw or positions=shrink
    #[arg(long, value_name = "KEY=VALUE")]
    cache: Vec<Setting>,
    /// The table of every policy at 1/2, 1/4 and 1/8 of each session, where nothing else is said
    #[arg(long)]
    cache_table: bool,
    /// Let the model look back further than it was trained to: so many positions. A table needs room for whole sessions
    /// [default: the model's own, 4096 for tables]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(64..=1 << 20))]
    context: Option<u32>,
    /// WordNet 3.0's dictionary files, for METEOR in tables
    #[arg(long, value_name = "DIR", default_value = "/usr/share/wordnet")]
    wordnet: PathBuf,
    /// auto, cpu, cuda or metal
    #[arg(long, default_value = "cpu")]
    device: DeviceRequest,
    /// One JSON object instead of a table; one a row for tables of caches.
    #[arg(long)]
    json: bool,
    /// Also print what was said in the first session, beside the truth.
    #[arg(long)]
    show: bool,
}

/// One session with what the model said.
struct Played {
    session: Session,
    said: Vec<Timed>,
    decide_ms: Vec<f64>,
}

/// Which sessions a model is measured on.
pub(crate) struct Held {
    /// Model folder.
    pub(crate) model: PathBuf,
    /// First seed.
    pub(crate) seed: u64,
    /// Sessions.
    pub(crate) sessions: usize,
    pub(crate) lang: Lang,
    /// Seconds from a frame to the first word that are counted.
    pub(crate) latency: f64,
    /// Instead of the model's default.
    pub(crate) talkativeness: Option<f32>,
    /// Recorded motion; without it all motion is keyed.
    pub(crate) library: Option<Arc<MotionLibrary>>,
}

/// What may differ from how the model ships.
#[derive(Clone, Default)]
pub(crate) struct Variation {
    pub(crate) cache: CacheChoice,
    /// How the tower skips tokens; `Some(None)` not at all.
    pub(crate) tosa: Option<Option<Tosa>>,
    /// Positions of the context, where more than the model was trained on.
    pub(crate) context: Option<usize>,
    /// Where it runs, if not on the processor.
    pub(crate) device: Option<Device>,
}

/// Runs the evaluation.
pub(crate) fn run(args: &SyntheticArgs) -> Result<()> {
    let lang = Lang::from_code(&args.lang).with_context(|| format!("--lang {}: en or ko expected", args.lang))?;
    let held = Held {
        model: parts::model_folder(Some(&args.model))?,
        seed: args.seed,
        sessions: args.sessions,
        lang,
        latency: args.latency,
        talkativeness: args.talkativeness,
        library: args.motion.as_deref().map(MotionLibrary::load).transpose()?.map(Arc::new),
    };
    let device = Some(parts::chosen_device(args.device)?);
    if args.is_table() {
        return table::run(args, &held, device);
    }
    let said = args.cache_said.first().map(|share| Setting::new("said", *share));
    let cache = CacheChoice {
        policy: args.cache_policy.first().copied(),
        budget: args.cache_budget.first().map(|n| *n as usize),
        settings: args.cache.iter().cloned().chain(said).collect(),
    };
    let context = args.context.map(|n| n as usize);
    let played = play_all(&held, &Variation { cache, tosa: None, context, device })?;
    let report = report(&played, lang);
    if args.show
        && let Some(first) = played.first()
    {
        show(first);
    }
    if args.json { crate::cli::print_json(&report) } else { print_table(&report) }
}

impl SyntheticArgs {
    fn is_table(&self) -> bool {
        let several = [self.cache_policy.len(), self.cache_budget.len(), self.cache_said.len()].iter().any(|n| *n > 1);
        self.cache_table || several || !self.cache_part.is_empty()
    }
}

/// Scores of a model, varied, on held-out sessions.
pub(crate) fn measure(held: &Held, vary: &Variation) -> Result<Report> {
    Ok(report(&play_all(held, vary)?, held.lang))
}

fn play_all(held: &Held, vary: &Variation) -> Result<Vec<Played>> {
    let bar = progress(held.sessions as u64, "sessions");
    let play = |coach: &mut Coach, index: usize| play(coach, held, held.seed + index as u64);
    let played = in_parallel_with(threads(vary), held.sessions, || Coach::new(held, vary), play, |_| bar.inc(1))?;
    bar.finish_and_clear();
    Ok(played)
}

/// Sessions played at once. All work on a card is one thread's.
fn threads(vary: &Variation) -> usize {
    if vary.device.as_ref().is_none_or(Device::is_cpu) { workers() } else { 1 }
}

/// A bar with the time that is left.
fn progress(steps: u64, what: &str) -> indicatif::ProgressBar {
    let bar = indicatif::ProgressBar::new(steps);
    let template = format!("{{elapsed_precise}} [{{bar:30}}] {{pos}}/{{len}} {what} (left: {{eta}})");
    if let Ok(style) = indicatif::ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar
}

/// A coach that is loaded once for many sessions.
struct Coach {
    session: CoachSession,
    /// Side of its pictures.
    side: usize,
}

impl Coach {
    fn new(held: &Held, vary: &Variation) -> Result<Self> {
        let device = vary.device.clone().unwrap_or(Device::Cpu);
        let mut model = load_for(&held.model, &device, vary.context)?;
        if let Some(tosa) = &vary.tosa {
            model.eye.encoder_mut().set_tosa(tosa.clone());
        }
        let defaults = model.manifest.defaults.clone();
        let side = model.picture_side;
        let options = CoachOptions {
            talkativeness: held.talkativeness.unwrap_or(defaults.talkativeness),
            cooldown: Duration::from_secs_f64(defaults.cooldown_seconds),
            max_tokens: defaults.max_tokens,
            sampling: defaults.sampling(),
            seed: 0,
            language: held.lang.code().to_owned(),
            exercise: None,
            cache: vary.cache.clone(),
            speculation: Default::default(),
        };
        Ok(Self { session: CoachSession::new(model, options)?, side })
    }

    /// The session of a seed and its frames as the coach is shown them.
    fn shown(&self, held: &Held, seed: u64) -> (Session, impl Iterator<Item = Result<Sight>> + use<>) {
        let (side, fps) = (self.side, self.session.manifest().frame_rate);
        let options = SessionOptions {
            lang: held.lang,
            split: Split::Validation,
            fps,
            library: held.library.clone(),
            ..SessionOptions::default()
        };
        let session = Session::generate(seed, &options);
        let mut view = AvatarView::new(side);
        let sights = session.noisy_bodies().into_iter().enumerate().map(move |(seq, (t, body))| {
            let t = Duration::from_secs_f64(t);
            let frame = Frame::from_rgb(seq as u64, t, side, side, view.draw(t, &body))
                .context("a drawn frame has the wrong size")?;
            Ok(Sight { frame, view: View::Clear, people: 1, person: 0, body: Some(body) })
        });
        (session, sights)
    }
}

fn play(coach: &mut Coach, held: &Held, seed: u64) -> Result<Played> {
    let (session, mut sights) = coach.shown(held, seed);
    coach.session.reset()?;
    let (mut said, mut decide_ms) = (Vec::new(), Vec::new());
    loop {
        let begun = Instant::now();
        let Some(sight) = sights.next().transpose()? else { break };
        let step = coach.session.observe(&sight, &mut |_| true)?;
        match step.feedback {
            Some(feedback) => said.push(Timed::new(feedback.t_ready.as_secs_f64() + held.latency, feedback.text)),
            None => decide_ms.push(begun.elapsed().as_secs_f64() * 1e3),
        }
    }
    Ok(Played { session, said, decide_ms })
}

/// What the model was measured at.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Report {
    sessions: usize,
    hours: f64,
    utterances_true: usize,
    utterances_model: usize,
    pub(crate) exercise_accuracy: Option<f64>,
    mistake_precision: Option<f64>,
    mistake_recall: Option<f64>,
    pub(crate) count_accuracy: Option<f64>,
    unknown_sentences: usize,
    corrective_f: f64,
    rows: Vec<Row>,
    decide_p50_ms: f64,
    decide_p95_ms: f64,
}

impl Report {
    /// Of mistakes that were named.
    pub(crate) fn mistake_f1(&self) -> Option<f64> {
        let (p, r) = (self.mistake_precision?, self.mistake_recall?);
        Some(if p + r > 0.0 { 2.0 * p * r / (p + r) } else { 0.0 })
    }

    /// The model's temporal F-score.
    pub(crate) fn temporal_f(&self) -> Option<f64> {
        self.rows.first().map(|r| r.temporal_f)
    }
}

#[derive(Debug, serde::Serialize)]
struct Row {
    coach: String,
    precision: f64,
    recall: f64,
    temporal_f: f64,
}

impl Row {
    fn new(coach: impl Into<String>, timing: &Timing) -> Self {
        Self {
            coach: coach.into(),
            precision: timing.precision(),
            recall: timing.recall(),
            temporal_f: timing.f_score(),
        }
    }
}

/// Truths of a session, cut at the announcements as QEVD cuts episodes: start, end, what was said in it.
fn episodes(session: &Session, keep: impl Fn(SaidKind) -> bool) -> Vec<(f64, f64, Vec<Timed>)> {
    let ends = session.segments.iter().skip(1).map(|s| s.announced).chain([session.duration]);
    let truth = |from: f64, to: f64| {
        let events = session.events.iter().filter(|e| !e.is_transition && keep(e.kind) && e.t >= from && e.t < to);
        events.map(|e| Timed::new(e.t, e.text.clone())).collect()
    };
    session.segments.iter().zip(ends).map(|(s, end)| (s.announced, end, truth(s.announced, end))).collect()
}

fn within(said: &[Timed], from: f64, to: f64) -> Vec<Timed> {
    said.iter().filter(|s| s.t >= from && s.t < to).cloned().collect()
}

fn score(pairs: &[(&Session, &[Timed])], keep: impl Fn(SaidKind) -> bool + Copy) -> Timing {
    let mut sum = Timing::default();
    for (session, said) in pairs {
        for (from, to, truth) in episodes(session, keep) {
            sum += Timing::of(&truth, &within(said, from, to));
        }
    }
    sum
}

fn report(played: &[Played], lang: Lang) -> Report {
    let own: Vec<(&Session, &[Timed])> = played.iter().map(|p| (&p.session, p.said.as_slice())).collect();
    // Everybody is coached by what the model said to the next person.
    let shuffled: Vec<(&Session, &[Timed])> =
        (0..played.len()).map(|i| (&played[i].session, played[(i + 1) % played.len()].said.as_slice())).collect();
    let cut: Vec<_> = played.iter().flat_map(|p| episodes(&p.session, |_| true)).collect();
    let stretches: Vec<Stretch<'_>> =
        cut.iter().map(|(start, end, truth)| Stretch { start: *start, end: *end, truth }).collect();
    let mut content = Content::default();
    for p in played {
        content += Content::of(&p.session.segments, &p.session.events, &p.said, lang);
    }
    let mut rows = vec![
        Row::new("model", &score(&own, |_| true)),
        Row::new("model, another's video", &score(&shuffled, |_| true)),
    ];
    if let Some(best) = best_metronome(&stretches) {
        rows.push(Row::new(
            format!("best metronome ({:.1} s, first at {:.1} s)", best.period, best.phase),
            &best.timing,
        ));
    }
    rows.push(Row::new("silent", &score_silent(&stretches)));
    let corrective = |kind: SaidKind| kind == SaidKind::Correction;
    let corrections: Vec<Vec<Timed>> = played
        .iter()
        .map(|p| p.said.iter().filter(|s| corrective(phrases::classify(&s.text, lang).kind)).cloned().collect())
        .collect();
    let pairs: Vec<(&Session, &[Timed])> =
        played.iter().zip(&corrections).map(|(p, c)| (&p.session, c.as_slice())).collect();
    let mut decide: Vec<f64> = played.iter().flat_map(|p| p.decide_ms.iter().copied()).collect();
    decide.sort_by(f64::total_cmp);
    let quantile = |q: f64| {
        decide.get(((decide.len() as f64 * q) as usize).min(decide.len().saturating_sub(1))).copied().unwrap_or(0.0)
    };
    Report {
        sessions: played.len(),
        hours: played.iter().map(|p| p.session.duration).sum::<f64>() / 3600.0,
        utterances_true: stretches.iter().map(|s| s.truth.len()).sum(),
        utterances_model: played.iter().map(|p| p.said.len()).sum(),
        exercise_accuracy: content.exercise_accuracy(),
        mistake_precision: content.mistake_precision(),
        mistake_recall: content.mistake_recall(),
        count_accuracy: content.count_accuracy(),
        unknown_sentences: content.unknown,
        corrective_f: score(&pairs, corrective).f_score(),
        rows,
        decide_p50_ms: quantile(0.5),
        decide_p95_ms: quantile(0.95),
    }
}

#[expect(clippy::print_stderr, reason = "asked for beside the table, which goes to standard output")]
fn show(played: &Played) {
    let truth =
        played.session.events.iter().map(|e| (e.t, if e.is_transition { "plan " } else { "truth" }, e.text.as_str()));
    let mut lines: Vec<_> = truth.chain(played.said.iter().map(|s| (s.t, "model", s.text.as_str()))).collect();
    lines.sort_by(|a, b| a.0.total_cmp(&b.0));
    for (t, who, text) in lines {
        eprintln!("{t:7.1} s  {who}  {text}");
    }
}

#[expect(clippy::print_stdout, reason = "the table is the result")]
fn print_table(report: &Report) -> Result<()> {
    let percent = |v: Option<f64>| v.map_or("none".to_owned(), |v| format!("{v:.3}"));
    println!(
        "{} sessions, {:.1} h; {} utterances due, {} made",
        report.sessions, report.hours, report.utterances_true, report.utterances_model
    );
    println!("exercise accuracy  {}", percent(report.exercise_accuracy));
    println!("mistake precision  {}", percent(report.mistake_precision));
    println!("mistake recall     {}", percent(report.mistake_recall));
    println!("count accuracy     {}", percent(report.count_accuracy));
    println!("corrective T-F     {:.3}", report.corrective_f);
    println!("unknown sentences  {}", report.unknown_sentences);
    println!("\n{:<40} {:>9} {:>9} {:>9}", "coach", "precision", "recall", "T-F");
    for row in &report.rows {
        println!("{:<40} {:>9.3} {:>9.3} {:>9.3}", row.coach, row.precision, row.recall, row.temporal_f);
    }
    println!(
        "\na silent frame, encoder and decision: p50 {:.1} ms, p95 {:.1} ms",
        report.decide_p50_ms, report.decide_p95_ms
    );
    Ok(())
}
