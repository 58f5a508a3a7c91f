//! The quality of a coach under bounded caches: every policy at every budget over the same sessions.
//!
//! What is seen depends on the frames alone, so each session is drawn and encoded once, and the decoder alone runs for
//! each row, over several frames at a time for as long as nothing is said.

use super::{Coach, Held, SyntheticArgs, Variation, episodes, progress, threads, within};
use crate::{cli::print_json, eval::score::TextMetrics, parallel::in_parallel_with};
use anyhow::{Result, bail};
use candle_core::{Device, Tensor};
use indicatif::ProgressBar;
use serde::Serialize;
use spotter_datasets::{
    baseline::{Stretch, best_metronome},
    metric::{
        Timed,
        bootstrap::{Estimate, estimate},
        content::Content,
        meteor::Meteor,
        timing::{TOLERANCE, Timing, matches},
        wordnet::WordNet,
    },
    synthetic::{
        phrases::{self, SaidKind},
        session::Session,
    },
};
use spotter_engine::{
    coach::CacheChoice,
    model::{Policy, cache::Setting},
};
use spotter_vision::lens::View;
use std::{
    ops::AddAssign,
    time::{Duration, Instant},
};

/// Positions that a table's model has: whole sessions fit.
const CONTEXT: usize = 4096;

/// How many entries stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    /// All that a session has.
    All,
    /// One part of so many of a session's positions.
    Part(u32),
    /// So many in every session.
    Entries(usize),
    /// What the model's own manifest says.
    Own,
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&match self {
            Self::All => "all".to_owned(),
            Self::Part(part) => format!("1/{part}"),
            Self::Entries(n) => n.to_string(),
            Self::Own => "default".to_owned(),
        })
    }
}

/// One row: a way to bound the cache.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Way {
    /// `None` is the model's own.
    policy: Option<Policy>,
    size: Size,
    said: Option<f64>,
}

impl Way {
    const UNBOUNDED: Self = Self { policy: Some(Policy::None), size: Size::All, said: None };

    /// What to choose in a session of so many positions.
    fn choice(&self, positions: usize, settings: &[Setting]) -> CacheChoice {
        let budget = match self.size {
            Size::All | Size::Own => None,
            Size::Part(part) => Some((positions / part as usize).max(1)),
            Size::Entries(n) => Some(n),
        };
        let said = self.said.map(|share| Setting::new("said", share));
        CacheChoice { policy: self.policy, budget, settings: settings.iter().cloned().chain(said).collect() }
    }

    /// The row that this one is compared with.
    fn rival(&self) -> Self {
        Self { policy: Some(Policy::Window), size: self.size, said: None }
    }
}

/// All rows, the unbounded cache first.
fn ways(args: &SyntheticArgs) -> Vec<Way> {
    let every = || Policy::all().into_iter().filter(|p| *p != Policy::None).map(Some).collect();
    let policies: Vec<Option<Policy>> = match (args.cache_policy.as_slice(), args.cache_table) {
        ([], true) => every(),
        ([], false) => vec![None],
        (given, _) => given.iter().copied().filter(|p| *p != Policy::None).map(Some).collect(),
    };
    // A budget of all positions drops nothing: that is the unbounded cache, which is there already.
    let parts = args.cache_part.iter().filter(|part| **part > 1).map(|part| Size::Part(*part));
    let mut sizes: Vec<Size> = parts.chain(args.cache_budget.iter().map(|n| Size::Entries(*n as usize))).collect();
    if sizes.is_empty() && args.cache_part.is_empty() {
        sizes = if args.cache_table { [2, 4, 8].map(Size::Part).to_vec() } else { vec![Size::Own] };
    }
    let shares: Vec<Option<f64>> = match args.cache_said.as_slice() {
        [] => vec![None],
        given => given.iter().map(|share| Some(*share)).collect(),
    };
    let of_size = |size: Size| {
        let shares = &shares;
        policies
            .iter()
            .flat_map(move |policy| shares.iter().map(move |said| Way { policy: *policy, size, said: *said }))
    };
    std::iter::once(Way::UNBOUNDED).chain(sizes.into_iter().flat_map(of_size)).collect()
}

/// Counts of one session, or of many.
#[derive(Clone, Copy, Debug, Default)]
struct Score {
    timing: Timing,
    corrective: Timing,
    content: Content,
    /// Sums over pairs.
    meteor: f64,
    rouge_l: f64,
    pairs: usize,
    positions: usize,
    evictions: u64,
    closings: u64,
    seconds: f64,
}

impl AddAssign<&Self> for Score {
    fn add_assign(&mut self, other: &Self) {
        self.timing += other.timing;
        self.corrective += other.corrective;
        self.content += other.content;
        self.meteor += other.meteor;
        self.rouge_l += other.rouge_l;
        self.pairs += other.pairs;
        self.positions += other.positions;
        self.evictions += other.evictions;
        self.closings += other.closings;
        self.seconds += other.seconds;
    }
}

/// A session with the scores of all rows.
struct Scored {
    session: Session,
    scores: Vec<Score>,
}

/// One row of the table.
#[derive(Debug, Serialize)]
struct Row {
    policy: String,
    /// all, 1/PART, or entries.
    budget: String,
    said: Option<f64>,
    sessions: usize,
    temporal_f: f64,
    precision: f64,
    recall: f64,
    /// Temporal F less that of `window` at the same budget, with 95 % of paired drawings of sessions.
    to_window: Option<Estimate>,
    corrective_f: f64,
    exercise_accuracy: Option<f64>,
    mistake_precision: Option<f64>,
    mistake_recall: Option<f64>,
    mistake_f1: Option<f64>,
    count_accuracy: Option<f64>,
    unknown_sentences: usize,
    /// Mean over matched pairs.
    meteor: Option<f64>,
    rouge_l: Option<f64>,
    pairs: usize,
    utterances: usize,
    positions: usize,
    evictions: u64,
    closings: u64,
    /// Of one thread.
    ms_per_position: f64,
}

/// Runs all rows and prints the table.
pub(super) fn run(args: &SyntheticArgs, held: &Held, device: Option<Device>) -> Result<()> {
    if args.show {
        bail!("--show goes with a single cache");
    }
    let ways = ways(args);
    let context = args.context.map_or(CONTEXT, |n| n as usize);
    let vary = Variation { context: Some(context), device, ..Variation::default() };
    let wordnet = if args.wordnet.exists() { Some(WordNet::open(&args.wordnet)?) } else { None };
    let meteor = Meteor { punkt: None, wordnet };
    let metrics = TextMetrics { meteor, bert: None, judge: None, phrase: String::new() };
    let bar = progress((held.sessions * ways.len()) as u64, "rows of a session");
    let scene = Scene { held, ways: &ways, settings: &args.cache, metrics: &metrics, bar: &bar };
    let play = |coach: &mut Coach, index: usize| scene.session(coach, held.seed + index as u64);
    let scored = in_parallel_with(threads(&vary), held.sessions, || Coach::new(held, &vary), play, |_| {})?;
    bar.finish_and_clear();
    let rows: Vec<Row> = (0..ways.len()).map(|i| row(&ways, i, &scored)).collect();
    if args.json {
        return rows.iter().try_for_each(print_json).and_then(|()| print_json(&metronome(&scored)));
    }
    print(&rows, &metronome(&scored), metrics.meteor.name(), args);
    Ok(())
}

/// What all sessions share.
struct Scene<'a> {
    held: &'a Held,
    ways: &'a [Way],
    settings: &'a [Setting],
    metrics: &'a TextMetrics,
    bar: &'a ProgressBar,
}

/// A session as it was seen.
struct Seen {
    session: Session,
    /// Time and visual tokens of each frame.
    frames: Vec<(Duration, Tensor)>,
}

impl Scene<'_> {
    /// Sees a session once and coaches it in every way.
    fn session(&self, coach: &mut Coach, seed: u64) -> Result<Scored> {
        let (session, sights) = coach.shown(self.held, seed);
        coach.session.reset()?;
        let mut frames = Vec::new();
        for sight in sights {
            let frame = sight?.frame;
            frames.push((frame.t, coach.session.see(&frame)?));
        }
        let seen = Seen { session, frames };
        let (mut scores, mut positions) = (Vec::with_capacity(self.ways.len()), 0);
        for way in self.ways {
            coach.session.set_cache(way.choice(positions, self.settings))?;
            let score = self.coached(coach, &seen)?;
            if *way == Way::UNBOUNDED {
                positions = coach.session.cache().position();
            }
            scores.push(score);
            self.bar.inc(1);
        }
        Ok(Scored { session: seen.session, scores })
    }

    fn coached(&self, coach: &mut Coach, seen: &Seen) -> Result<Score> {
        let (begun, mut said) = (Instant::now(), Vec::new());
        let mut at = 0;
        while let Some(rest) = seen.frames.get(at..).filter(|rest| !rest.is_empty()) {
            let steps = coach.session.observe_run(rest, View::Clear, &mut |_| true)?;
            at += steps.len().max(1);
            let words = steps.into_iter().filter_map(|step| step.feedback);
            said.extend(words.map(|f| Timed::new(f.t_ready.as_secs_f64() + self.held.latency, f.text)));
        }
        let seconds = begun.elapsed().as_secs_f64();
        let cache = coach.session.cache();
        let mut score = self.score(&seen.session, &said)?;
        // Positions restart when they are closed up: what went through the decoder is counted by what was shown and said.
        score.positions = cache.seen() as usize;
        (score.evictions, score.closings, score.seconds) = (cache.evictions(), cache.closings(), seconds);
        Ok(score)
    }

    fn score(&self, session: &Session, said: &[Timed]) -> Result<Score> {
        let lang = self.held.lang;
        let mut score =
            Score { content: Content::of(&session.segments, &session.events, said, lang), ..Score::default() };
        let is_correction = |s: &&Timed| phrases::classify(&s.text, lang).kind == SaidKind::Correction;
        let corrections: Vec<Timed> = said.iter().filter(is_correction).cloned().collect();
        for (from, to, truth) in episodes(session, |kind| kind == SaidKind::Correction) {
            score.corrective += Timing::of(&truth, &within(&corrections, from, to));
        }
        for (from, to, truth) in episodes(session, |_| true) {
            let said = within(said, from, to);
            score.timing += Timing::of(&truth, &said);
            let pairs = matches(&truth, &said, TOLERANCE);
            let texts: Vec<(String, String)> = pairs
                .iter()
                .filter_map(|(i, j)| Some((truth.get(*i)?.text.clone(), said.get(*j)?.text.clone())))
                .collect();
            for pair in self.metrics.pairs(&texts)? {
                score.meteor += pair.meteor;
                score.rouge_l += pair.rouge_l;
                score.pairs += 1;
            }
        }
        Ok(score)
    }
}

/// A row over all sessions, beside its rival.
fn row(ways: &[Way], index: usize, scored: &[Scored]) -> Row {
    let way = ways.get(index).copied().unwrap_or(Way::UNBOUNDED);
    let of = |index: usize| scored.iter().filter_map(move |s| s.scores.get(index).copied());
    let mut sum = Score::default();
    of(index).for_each(|score| sum += &score);
    let rival = ways.iter().position(|w| *w == way.rival()).filter(|rival| *rival != index);
    let to_window = rival.and_then(|rival| {
        let pairs: Vec<(Timing, Timing)> = of(index).zip(of(rival)).map(|(a, b)| (a.timing, b.timing)).collect();
        estimate(&pairs, difference)
    });
    let mean = |sum_of: f64| (sum.pairs > 0).then(|| sum_of / sum.pairs as f64);
    let (p, r) = (sum.content.mistake_precision(), sum.content.mistake_recall());
    Row {
        policy: way.policy.map_or_else(|| "default".to_owned(), |p| p.to_string()),
        budget: way.size.to_string(),
        said: way.said,
        sessions: scored.len(),
        temporal_f: sum.timing.f_score(),
        precision: sum.timing.precision(),
        recall: sum.timing.recall(),
        to_window,
        corrective_f: sum.corrective.f_score(),
        exercise_accuracy: sum.content.exercise_accuracy(),
        mistake_precision: p,
        mistake_recall: r,
        mistake_f1: p.zip(r).map(|(p, r)| if p + r > 0.0 { 2.0 * p * r / (p + r) } else { 0.0 }),
        count_accuracy: sum.content.count_accuracy(),
        unknown_sentences: sum.content.unknown,
        meteor: mean(sum.meteor),
        rouge_l: mean(sum.rouge_l),
        pairs: sum.pairs,
        utterances: sum.timing.n_pred,
        positions: sum.positions,
        evictions: sum.evictions,
        closings: sum.closings,
        ms_per_position: sum.seconds * 1e3 / sum.positions.max(1) as f64,
    }
}

/// Temporal F of the first of each pair less that of the second.
fn difference(pairs: &mut dyn Iterator<Item = &(Timing, Timing)>) -> Option<f64> {
    let (mut own, mut other, mut any) = (Timing::default(), Timing::default(), false);
    for (a, b) in pairs {
        own += *a;
        other += *b;
        any = true;
    }
    any.then(|| own.f_score() - other.f_score())
}

/// The best blind metronome over the same sessions.
#[derive(Debug, Serialize)]
struct Blind {
    metronome: f64,
    first_at: f64,
    temporal_f: f64,
    precision: f64,
    recall: f64,
}

fn metronome(scored: &[Scored]) -> Option<Blind> {
    let cut: Vec<_> = scored.iter().flat_map(|s| episodes(&s.session, |_| true)).collect();
    let stretches: Vec<Stretch<'_>> =
        cut.iter().map(|(start, end, truth)| Stretch { start: *start, end: *end, truth }).collect();
    let best = best_metronome(&stretches)?;
    let timing = &best.timing;
    let (precision, recall) = (timing.precision(), timing.recall());
    Some(Blind { metronome: best.period, first_at: best.phase, temporal_f: timing.f_score(), precision, recall })
}

#[expect(clippy::print_stdout, reason = "the table is the result")]
fn print(rows: &[Row], blind: &Option<Blind>, meteor: &str, args: &SyntheticArgs) {
    let number = |n: Option<f64>| n.map_or_else(|| "-".to_owned(), |n| format!("{n:.3}"));
    let settings: Vec<String> = args.cache.iter().map(ToString::to_string).collect();
    println!(
        "{} sessions from seed {}{}; METEOR is {meteor}; means of texts are over matched pairs\n",
        args.sessions,
        args.seed,
        if settings.is_empty() { String::new() } else { format!(", {}", settings.join(" ")) }
    );
    println!(
        "{:<19} {:>7} {:>5} {:>6} {:>24} {:>7} {:>8} {:>19} {:>6} {:>7} {:>6} {:>7} {:>6} {:>7} {:>7}",
        "policy",
        "budget",
        "said",
        "T-F",
        "against window",
        "correct",
        "exercise",
        "mistakes P R F1",
        "counts",
        "unknown",
        "METEOR",
        "ROUGE-L",
        "pairs",
        "evicted",
        "closed"
    );
    for row in rows {
        let against = row
            .to_window
            .map_or_else(|| "-".to_owned(), |e| format!("{:+.3} [{:+.3}, {:+.3}]", e.value, e.low, e.high));
        let mistakes = [row.mistake_precision, row.mistake_recall, row.mistake_f1].map(number).join(" ");
        println!(
            "{:<19} {:>7} {:>5} {:>6.3} {against:>24} {:>7.3} {:>8} {mistakes:>19} {:>6} {:>7} {:>6} {:>7} {:>6} {:>7} {:>7}",
            row.policy,
            row.budget,
            row.said.map_or_else(|| "-".to_owned(), |s| s.to_string()),
            row.temporal_f,
            row.corrective_f,
            number(row.exercise_accuracy),
            number(row.count_accuracy),
            row.unknown_sentences,
            number(row.meteor),
            number(row.rouge_l),
            row.pairs,
            row.evictions,
            row.closings,
        );
    }
    if let Some(blind) = blind {
        let name = format!("best metronome ({:.1} s, first at {:.1} s)", blind.metronome, blind.first_at);
        println!("{name:<33} {:>6.3}", blind.temporal_f);
    }
    let (ms, positions) =
        rows.iter().fold((0.0, 0), |(ms, n), r| (ms + r.ms_per_position * r.positions as f64, n + r.positions));
    println!("\n{positions} positions, {:.2} ms of a thread for each and row", ms / positions.max(1) as f64);
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct One {
        #[command(flatten)]
        args: SyntheticArgs,
    }

    fn of(flags: &[&str]) -> SyntheticArgs {
        One::try_parse_from([&["eval"], flags].concat()).unwrap().args
    }

    #[test]
    fn the_table_has_every_policy_at_every_part_and_the_unbounded_cache_once() {
        let all = ways(&of(&["--cache-table"]));
        assert_eq!(all.len(), 1 + 3 * (Policy::all().len() - 1));
        assert_eq!(all[0], Way::UNBOUNDED);
        assert_eq!(all.iter().filter(|w| w.policy == Some(Policy::None)).count(), 1);
        assert_eq!(all, ways(&of(&["--cache-table", "--cache-part", "1,2,4,8"])));
        let some = ways(&of(&["--cache-policy", "window,keydiff,none", "--cache-part", "4", "--cache-said", "0,0.25"]));
        assert_eq!(some.len(), 1 + 4);
        assert_eq!(some[4], Way { policy: Some(Policy::KeyDiff), size: Size::Part(4), said: Some(0.25) });
        let own = ways(&of(&["--cache-budget", "200,300"]));
        assert_eq!(own[1..], [200, 300].map(|n| Way { policy: None, size: Size::Entries(n), said: None }));
        assert!(!of(&["--cache-policy", "window", "--cache-budget", "300"]).is_table());
    }

    #[test]
    fn budgets_are_parts_of_the_sessions_own_positions() {
        let way = Way { policy: Some(Policy::KeyDiff), size: Size::Part(8), said: Some(0.5) };
        let choice = way.choice(1912, &["anchor=raw".parse().unwrap()]);
        assert_eq!((choice.policy, choice.budget, choice.settings.len()), (Some(Policy::KeyDiff), Some(239), 2));
        assert_eq!(Way::UNBOUNDED.choice(1912, &[]).budget, None);
    }

    #[test]
    fn differences_are_paired_over_sessions() {
        let timing = |matched| Timing { matched_gt: matched, matched_pred: matched, n_gt: 10, n_pred: 10 };
        // Sessions differ much among themselves, and by a constant between the two ways.
        let pairs: Vec<(Timing, Timing)> = (0..40).map(|i| (timing(2 + i % 7), timing(1 + i % 7))).collect();
        let e = estimate(&pairs, difference).unwrap();
        assert!((e.value - 0.1).abs() < 1e-6 && e.low > 0.09 && e.high < 0.11, "{e:?}");
        // Unpaired, the same numbers would not tell them apart so clearly.
        let shuffled: Vec<(Timing, Timing)> = (0..40).map(|i| (pairs[i].0, pairs[(i * 11 + 3) % 40].1)).collect();
        let wide = estimate(&shuffled, difference).unwrap();
        assert!(wide.high - wide.low > 3.0 * (e.high - e.low) + 0.01, "{wide:?}");
    }
}
