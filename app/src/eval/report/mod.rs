//! From finished sessions to the numbers of a report. It is a function of the run's description and its sessions alone.

use super::store::{Episode, Pair, RunInfo, Session};
use serde::{Deserialize, Serialize};
use spotter_datasets::{
    baseline::{Metronome, Stretch, all_metronomes, metronome},
    metric::{
        Timed,
        bootstrap::{Estimate, estimate},
        corrective::is_corrective,
        timing::Timing,
    },
};

/// Seconds a bar of the histogram of gaps covers, and the number of bars.
pub(crate) const GAP_STEP: f64 = 1.0;
const GAP_BARS: usize = 20;

/// What a judge said of all pairs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Judged {
    /// Mean over seeds.
    pub(crate) mean: f64,
    /// Mean of each seed.
    pub(crate) seeds: Vec<f64>,
    /// Deviation between the seeds.
    pub(crate) spread: f64,
    /// Answers understood.
    pub(crate) parsed: usize,
    /// Answers that could not be.
    pub(crate) dropped: usize,
}

/// A coach in the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) coach: String,
    /// Counts of the published matching, over all episodes; `None` where only pairs were given.
    pub(crate) timing: Option<Timing>,
    pub(crate) precision: Option<f64>,
    pub(crate) recall: Option<f64>,
    pub(crate) temporal_f: Option<Estimate>,
    /// Temporal F of corrections alone, in truth and prediction (the rule is Spotter's own).
    pub(crate) corrective_f: Option<f64>,
    pub(crate) predictions_per_minute: Option<f64>,
    /// Matched pairs that the scores of texts rest on.
    pub(crate) pairs: usize,
    pub(crate) meteor: Option<Estimate>,
    pub(crate) rouge_l: Option<Estimate>,
    pub(crate) bert: Option<Estimate>,
    pub(crate) judge: Option<Judged>,
}

/// A session in short.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SessionRow {
    pub(crate) id: String,
    pub(crate) duration: f64,
    pub(crate) episodes: usize,
    pub(crate) timing: Timing,
    pub(crate) temporal_f: f64,
}

/// Counts of the seconds between two utterances of an episode; the last bar has all longer ones.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Gaps {
    pub(crate) truth: Vec<usize>,
    pub(crate) said: Vec<usize>,
}

/// All of a report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) run: RunInfo,
    pub(crate) hours: f64,
    pub(crate) episodes: usize,
    /// The model or file first, then the controls.
    pub(crate) rows: Vec<Row>,
    /// Period, ticks a minute and temporal F of the best phase of each blind metronome.
    pub(crate) metronomes: Vec<[f64; 3]>,
    pub(crate) gaps: Gaps,
    pub(crate) sessions: Vec<SessionRow>,
    pub(crate) warnings: Vec<String>,
}

/// Sums of a session that rows are made of.
#[derive(Clone, Debug, Default)]
struct Sums {
    timing: Timing,
    corrective: Timing,
    pairs: Vec<Pair>,
}

impl Report {
    /// The report of a finished run.
    pub(crate) fn of(run: &RunInfo, sessions: &[Session]) -> Self {
        let minutes = minutes(sessions);
        let own: Vec<Sums> = sessions.iter().map(|s| sums(s, |e| e.said.clone())).collect();
        let mut rows = vec![row(run.source.clone(), &own, minutes, run.pairs_only)];
        let mut metronomes = Vec::new();
        if !run.pairs_only {
            let cut: Vec<&Episode> = sessions.iter().flat_map(|s| &s.episodes).collect();
            let stretches: Vec<Stretch<'_>> =
                cut.iter().map(|e| Stretch { start: e.start, end: e.end, truth: &e.truth }).collect();
            let all = all_metronomes(&stretches);
            rows.extend(controls(sessions, &own, minutes, &all));
            metronomes = best_phases(&all, minutes);
        }
        let session = |(s, sums): (&Session, &Sums)| SessionRow {
            id: s.id.clone(),
            duration: s.duration,
            episodes: s.episodes.len(),
            timing: sums.timing,
            temporal_f: sums.timing.f_score(),
        };
        Self {
            run: run.clone(),
            hours: sessions.iter().map(|s| s.duration).sum::<f64>() / 3600.0,
            episodes: sessions.iter().map(|s| s.episodes.len()).sum(),
            rows,
            metronomes,
            gaps: gaps(sessions),
            sessions: sessions.iter().zip(&own).map(session).collect(),
            warnings: run.warnings.iter().chain(sessions.iter().flat_map(|s| &s.warnings)).cloned().collect(),
        }
    }
}

/// Minutes in which something may be said: those of the episodes.
fn minutes(sessions: &[Session]) -> f64 {
    sessions.iter().flat_map(|s| &s.episodes).map(|e| e.end - e.start).sum::<f64>() / 60.0
}

/// Counts of a session when `says` gives what is said in an episode; texts only where it is the run's own words.
fn sums(session: &Session, says: impl Fn(&Episode) -> Vec<Timed>) -> Sums {
    let mut sums = Sums::default();
    let corrections =
        |all: &[Timed]| -> Vec<Timed> { all.iter().filter(|s| is_corrective(&s.text)).cloned().collect() };
    for episode in &session.episodes {
        let said = says(episode);
        sums.timing += Timing::of(&episode.truth, &said);
        sums.corrective += Timing::of(&corrections(&episode.truth), &corrections(&said));
        sums.pairs.extend(episode.pairs.iter().cloned());
    }
    sums
}

fn total(timings: impl Iterator<Item = Timing>) -> Timing {
    timings.fold(Timing::default(), |mut sum, t| {
        sum += t;
        sum
    })
}

/// Mean of a score over the pairs of sessions, with its range over sessions.
fn mean(sessions: &[Sums], score: impl Fn(&Pair) -> Option<f64>) -> Option<Estimate> {
    let parts: Vec<(f64, usize)> = sessions
        .iter()
        .map(|s| s.pairs.iter().filter_map(&score).fold((0.0, 0), |(sum, n), v| (sum + v, n + 1)))
        .collect();
    estimate(&parts, |drawn| {
        let (sum, n) = drawn.fold((0.0, 0), |(sum, n), (s, k)| (sum + s, n + k));
        (n > 0).then(|| sum / n as f64)
    })
}

fn judged(sessions: &[Sums]) -> Option<Judged> {
    let pairs = || sessions.iter().flat_map(|s| &s.pairs);
    let seeds = pairs().map(|p| p.judge.len()).max().filter(|n| *n > 0)?;
    let of = |seed: usize| -> Vec<f64> { pairs().filter_map(|p| p.judge.get(seed).copied().flatten()).collect() };
    let means: Vec<f64> =
        (0..seeds).map(of).filter(|v| !v.is_empty()).map(|v| v.iter().sum::<f64>() / v.len() as f64).collect();
    if means.is_empty() {
        return None;
    }
    let mean = means.iter().sum::<f64>() / means.len() as f64;
    let spread = (means.iter().map(|m| (m - mean).powi(2)).sum::<f64>() / means.len() as f64).sqrt();
    let answers = || pairs().flat_map(|p| &p.judge);
    Some(Judged {
        mean,
        spread,
        seeds: means,
        parsed: answers().filter(|a| a.is_some()).count(),
        dropped: answers().filter(|a| a.is_none()).count(),
    })
}

fn row(coach: String, sessions: &[Sums], minutes: f64, pairs_only: bool) -> Row {
    let timing = total(sessions.iter().map(|s| s.timing));
    let timings: Vec<Timing> = sessions.iter().map(|s| s.timing).collect();
    let f = estimate(&timings, |drawn| Some(total(drawn.copied()).f_score()));
    let timed = (!pairs_only).then_some(timing);
    Row {
        coach,
        timing: timed,
        precision: timed.map(|t| t.precision()),
        recall: timed.map(|t| t.recall()),
        temporal_f: f.filter(|_| !pairs_only),
        corrective_f: (!pairs_only).then(|| total(sessions.iter().map(|s| s.corrective)).f_score()),
        predictions_per_minute: (!pairs_only && minutes > 0.0).then(|| timing.n_pred as f64 / minutes),
        pairs: sessions.iter().map(|s| s.pairs.len()).sum(),
        meteor: mean(sessions, |p| Some(p.meteor)),
        rouge_l: mean(sessions, |p| Some(p.rouge_l)),
        bert: mean(sessions, |p| p.bert),
        judge: judged(sessions),
    }
}

/// Rows that a model must be seen beside.
fn controls(sessions: &[Session], own: &[Sums], minutes: f64, all: &[Metronome]) -> Vec<Row> {
    let without_text = |name: String, says: &dyn Fn(usize, &Episode) -> Vec<Timed>| {
        let sums: Vec<Sums> =
            sessions.iter().enumerate().map(|(i, s)| Sums { pairs: Vec::new(), ..sums(s, |e| says(i, e)) }).collect();
        row(name, &sums, minutes, false)
    };
    let ticking = |period: f64, phase: f64| move |_: usize, e: &Episode| metronome(e.start, e.end, period, phase);
    let blind = |row: Row| Row { corrective_f: None, ..row };
    let mut rows = Vec::new();
    if sessions.len() > 1 {
        rows.push(without_text("the same words on another session".into(), &|i, e| {
            sessions.get((i + 1) % sessions.len()).map_or_else(Vec::new, |other| elsewhere(other, e))
        }));
    }
    if let Some(best) = all.iter().max_by(|a, b| a.timing.f_score().total_cmp(&b.timing.f_score())) {
        let name = format!("metronome, best of all: every {:.1} s from {:.1} s", best.period, best.phase);
        rows.push(blind(without_text(name, &ticking(best.period, best.phase))));
    }
    let said = total(own.iter().map(|s| s.timing)).n_pred;
    if said > 0 {
        let period = minutes * 60.0 / said as f64;
        let name = format!("metronome at the model's rate: every {period:.1} s");
        rows.push(blind(without_text(name, &ticking(period, period))));
    }
    let phrase: Vec<Sums> = sessions
        .iter()
        .map(|s| Sums {
            pairs: s.episodes.iter().flat_map(|e| e.phrase.iter().cloned()).collect(),
            ..sums(s, |e| metronome(e.start, e.end, super::score::PHRASE_PERIOD, super::score::PHRASE_PERIOD))
        })
        .collect();
    rows.push(blind(row("most frequent phrase, every 3.0 s".into(), &phrase, minutes, false)));
    rows.push(blind(without_text("silent".into(), &|_, _| Vec::new())));
    rows
}

/// What was said in `other` at the time that `episode` has in its own session, in the time of `episode`.
fn elsewhere(other: &Session, episode: &Episode) -> Vec<Timed> {
    let all = other.episodes.iter().flat_map(|o| o.said.iter().map(|s| Timed::new(s.t + o.offset, s.text.clone())));
    let moved = all.map(|s| Timed::new(s.t - episode.offset, s.text));
    moved.filter(|s| s.t >= episode.start && s.t < episode.end).collect()
}

fn best_phases(all: &[Metronome], minutes: f64) -> Vec<[f64; 3]> {
    all.chunk_by(|a, b| a.period == b.period)
        .filter_map(|phases| phases.iter().max_by(|a, b| a.timing.f_score().total_cmp(&b.timing.f_score())))
        .map(|m| [m.period, m.timing.n_pred as f64 / minutes.max(f64::MIN_POSITIVE), m.timing.f_score()])
        .collect()
}

fn gaps(sessions: &[Session]) -> Gaps {
    let count = |of: &dyn Fn(&Episode) -> &[Timed]| {
        let mut bars = vec![0; GAP_BARS];
        for episode in sessions.iter().flat_map(|s| &s.episodes) {
            for pair in of(episode).windows(2) {
                let gap = (pair[1].t - pair[0].t).max(0.0);
                let bar = ((gap / GAP_STEP) as usize).min(GAP_BARS - 1);
                if let Some(bar) = bars.get_mut(bar) {
                    *bar += 1;
                }
            }
        }
        bars
    };
    Gaps { truth: count(&|e| &e.truth), said: count(&|e| &e.said) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(index: usize, truth: &[f64], said: &[f64]) -> Session {
        let timed = |times: &[f64]| times.iter().map(|t| Timed::new(*t, "Good.")).collect::<Vec<_>>();
        let pair = Pair {
            truth: "a".into(),
            said: "b".into(),
            meteor: 0.5,
            rouge_l: 0.25,
            bert: None,
            judge: vec![Some(3.0), None, Some(5.0)],
        };
        let episode = Episode {
            id: format!("{index}_0"),
            exercise: "squats".into(),
            start: 0.0,
            end: 30.0,
            offset: 2.0,
            truth: timed(truth),
            said: timed(said),
            pairs: vec![pair],
            phrase: Vec::new(),
        };
        Session { index, id: index.to_string(), duration: 32.0, episodes: vec![episode], warnings: Vec::new() }
    }

    fn run(pairs_only: bool) -> RunInfo {
        RunInfo {
            version: "0".into(),
            protocol: spotter_datasets::qevd::Protocol::Fitcoach2024,
            data: vec!["d".into()],
            sessions: 2,
            truths: [Some(6), None],
            source: "m".into(),
            options: Vec::new(),
            meteor: "METEOR".into(),
            bert: None,
            judge: None,
            phrase: "Good.".into(),
            pairs_only,
            warnings: vec!["odd".into()],
        }
    }

    #[test]
    fn rows_stand_beside_their_controls() {
        let sessions = [session(0, &[5.0, 10.0, 15.0], &[5.0, 10.0]), session(1, &[7.0, 12.0], &[7.0, 25.0])];
        let report = Report::of(&run(false), &sessions);
        let row = |name: &str| report.rows.iter().find(|r| r.coach.starts_with(name)).unwrap();
        let own = &report.rows[0];
        assert_eq!(own.timing, Some(Timing { matched_gt: 3, matched_pred: 3, n_gt: 5, n_pred: 4 }));
        assert_eq!((own.precision, own.recall), (Some(0.75 / (1.0 + 2.5e-13)), own.recall));
        assert!((own.predictions_per_minute.unwrap() - 4.0).abs() < 1e-9);
        assert!((own.meteor.unwrap().value - 0.5).abs() < 1e-12 && own.bert.is_none());
        let judge = own.judge.as_ref().unwrap();
        assert_eq!((judge.mean, judge.spread, judge.parsed, judge.dropped), (4.0, 1.0, 4, 2));
        let range = own.temporal_f.unwrap();
        assert!(range.low <= range.value && range.value <= range.high && range.low < range.high);
        assert_eq!(row("silent").timing.unwrap(), Timing { n_gt: 5, ..Timing::default() });
        assert_eq!(row("the same words").timing.unwrap().matched_gt, 0);
        let best = row("metronome, best").temporal_f.unwrap().value;
        assert!(best >= row("metronome at the model's rate").temporal_f.unwrap().value);
        assert!(report.metronomes.iter().all(|m| m[2] <= best + 1e-12));
        assert_eq!(report.metronomes.len(), 51);
        assert_eq!((report.gaps.truth[5], report.gaps.said[5], report.gaps.said[18]), (3, 1, 1));
        assert_eq!(report.warnings, ["odd"]);
    }

    #[test]
    fn pairs_alone_have_no_times() {
        let report = Report::of(&run(true), &[session(0, &[], &[])]);
        assert_eq!(report.rows.len(), 1);
        assert!(report.rows[0].temporal_f.is_none() && report.rows[0].meteor.is_some());
    }
}
