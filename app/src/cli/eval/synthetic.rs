//! `spotter eval synthetic`: a model on synthetic sessions that training never saw, beside the blind baselines.

use crate::parallel::{in_parallel, workers};
use anyhow::{Context as _, Result};
use candle_core::Device;
use clap::Args;
use spotter_datasets::{
    baseline::{Stretch, best_metronome, score_silent},
    metric::{Timed, content::Content, timing::Timing},
    synthetic::{
        phrases::{self, Lang, SaidKind},
        session::{Session, SessionOptions, Split},
    },
};
use spotter_engine::{
    coach::{CacheChoice, CoachOptions, load::load, session::CoachSession},
    model::Policy,
};
use spotter_vision::{
    Frame,
    avatar::AvatarView,
    encoder::tosa::Tosa,
    lens::{Sight, View},
};
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

/// Score a model on held-out synthetic sessions.
#[derive(Debug, Args)]
#[command(
    after_help = "The table shows the model beside the best blind metronome (all periods from 1 to 6 s), the silent coach and the \
                        same model fed the video of another session. Times count from the frame to the first word."
)]
pub(crate) struct SyntheticArgs {
    /// Model folder.
    #[arg(long, value_name = "DIR", default_value = "assets/spotter-mini")]
    model: PathBuf,
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
    /// Which entries of a full cache stay, instead of the model's default; several make a table of combinations
    #[arg(long, value_name = "POLICY", value_delimiter = ',')]
    cache_policy: Vec<Policy>,
    /// Entries that stay in the cache, instead of the model's default; several make a table of combinations
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    cache_budget: Vec<u32>,
    /// One JSON object instead of a table; one a line for combinations.
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
}

/// What may differ from how the model ships.
#[derive(Clone, Default)]
pub(crate) struct Variation {
    pub(crate) cache: CacheChoice,
    /// How the tower skips tokens; `Some(None)` not at all.
    pub(crate) tosa: Option<Option<Tosa>>,
}

/// Runs the evaluation.
pub(crate) fn run(args: &SyntheticArgs) -> Result<()> {
    let lang = Lang::from_code(&args.lang).with_context(|| format!("--lang {}: en or ko expected", args.lang))?;
    let held = Held {
        model: args.model.clone(),
        seed: args.seed,
        sessions: args.sessions,
        lang,
        latency: args.latency,
        talkativeness: args.talkativeness,
    };
    if args.cache_policy.len() > 1 || args.cache_budget.len() > 1 {
        return combinations(args, &held);
    }
    let cache = CacheChoice {
        policy: args.cache_policy.first().copied(),
        budget: args.cache_budget.first().map(|n| *n as usize),
    };
    let played = play_all(&held, &Variation { cache, tosa: None })?;
    let report = report(&played, lang);
    if args.show
        && let Some(first) = played.first()
    {
        show(first);
    }
    if args.json { crate::cli::print_json(&report) } else { print_table(&report) }
}

/// What was given, or once the default.
fn or_default<T>(given: impl ExactSizeIterator<Item = T>) -> Vec<Option<T>> {
    if given.len() == 0 { vec![None] } else { given.map(Some).collect() }
}

/// One line for each policy at each budget.
#[expect(clippy::print_stdout, reason = "the table is the result")]
fn combinations(args: &SyntheticArgs, held: &Held) -> Result<()> {
    let policies: Vec<Option<Policy>> = or_default(args.cache_policy.iter().copied());
    let budgets: Vec<Option<usize>> = or_default(args.cache_budget.iter().map(|n| *n as usize));
    if !args.json {
        println!(
            "{:<28} {:>7} {:>7} {:>7} {:>11} {:>9} {:>9} {:>8} {:>9}",
            "policy", "budget", "T-F", "correct", "another's", "exercise", "mistakes", "counts", "unknown"
        );
    }
    for budget in budgets {
        for policy in &policies {
            let cache = CacheChoice { policy: *policy, budget };
            let report = measure(held, &Variation { cache, tosa: None })?;
            let policy = policy.map_or_else(|| "default".to_owned(), |p| p.to_string());
            if args.json {
                crate::cli::print_json(
                    &serde_json::json!({ "cache_policy": policy, "cache_budget": budget, "report": report }),
                )?;
                continue;
            }
            let [own, other] = [0, 1].map(|i| report.rows.get(i).map_or(f64::NAN, |r| r.temporal_f));
            println!(
                "{policy:<28} {:>7} {own:>7.3} {:>7.3} {other:>11.3} {:>9.3} {:>9.3} {:>8.3} {:>9}",
                budget.map_or_else(|| "default".to_owned(), |n| n.to_string()),
                report.corrective_f,
                report.exercise_accuracy.unwrap_or(f64::NAN),
                report.mistake_f1().unwrap_or(f64::NAN),
                report.count_accuracy.unwrap_or(f64::NAN),
                report.unknown_sentences
            );
        }
    }
    Ok(())
}

/// Scores of a model, varied, on held-out sessions.
pub(crate) fn measure(held: &Held, vary: &Variation) -> Result<Report> {
    Ok(report(&play_all(held, vary)?, held.lang))
}

fn play_all(held: &Held, vary: &Variation) -> Result<Vec<Played>> {
    let bar = indicatif::ProgressBar::new(held.sessions as u64);
    let played =
        in_parallel(workers(), held.sessions, |index| play(held, vary, held.seed + index as u64), |_| bar.inc(1))?;
    bar.finish_and_clear();
    Ok(played)
}

/// A session of a model folder.
fn coach(held: &Held, vary: &Variation) -> Result<(CoachSession, usize)> {
    let mut model = load(&held.model, &Device::Cpu)?;
    if let Some(tosa) = &vary.tosa {
        model.eye.encoder_mut().set_tosa(tosa.clone());
    }
    let defaults = model.manifest.defaults.clone();
    let side = model.picture_side;
    let options = CoachOptions {
        talkativeness: held.talkativeness.unwrap_or(defaults.talkativeness),
        cooldown: Duration::from_secs_f64(defaults.cooldown_seconds),
        max_tokens: defaults.max_tokens,
        temperature: defaults.temperature,
        seed: 0,
        language: held.lang.code().to_owned(),
        exercise: None,
        cache: vary.cache.clone(),
        speculation: Default::default(),
    };
    Ok((CoachSession::new(model, options)?, side))
}

fn play(held: &Held, vary: &Variation, seed: u64) -> Result<Played> {
    let (mut coach, side) = coach(held, vary)?;
    let (lang, fps) = (held.lang, coach.manifest().frame_rate);
    let session =
        Session::generate(seed, &SessionOptions { lang, split: Split::Validation, fps, ..SessionOptions::default() });
    let mut view = AvatarView::new(side);
    let (mut said, mut decide_ms) = (Vec::new(), Vec::new());
    for (seq, (t, body)) in session.noisy_bodies().into_iter().enumerate() {
        let begun = Instant::now();
        let t = Duration::from_secs_f64(t);
        let frame = Frame::from_rgb(seq as u64, t, side, side, view.draw(t, &body))
            .context("a drawn frame has the wrong size")?;
        let sight = Sight { frame, view: View::Clear, people: 1, person: 0, body: Some(body) };
        let step = coach.observe(&sight, &mut |_| true)?;
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
