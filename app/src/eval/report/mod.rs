//! From finished sessions to the numbers of a report. It is a function of the run's description and its sessions alone.

mod controls;

use super::store::{Episode, Pair, RunInfo, Session};
use serde::{Deserialize, Serialize};
use spotter_datasets::{
    baseline::{Metronome, Stretch, all_metronomes},
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

/// What a row of the table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// The model or file.
    Own,
    /// Its words on another session.
    Elsewhere,
    /// The best of all metronomes.
    BestMetronome,
    /// One every three seconds.
    PlainMetronome,
    /// One that speaks as often as the model.
    OwnRate,
    /// The metronome that is best on corrections.
    CorrectiveMetronome,
    /// The most frequent phrase.
    Phrase,
    Silent,
}

/// A coach in the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) kind: Kind,
    pub(crate) coach: String,
    /// Counts of the published matching, over all episodes; `None` where only pairs were given, or nothing can be scored.
    pub(crate) timing: Option<Timing>,
    pub(crate) precision: Option<f64>,
    pub(crate) recall: Option<f64>,
    pub(crate) temporal_f: Option<Estimate>,
    /// Temporal F of corrections alone, in truth and prediction (the rule is Spotter's own). Of a metronome every tick counts.
    pub(crate) corrective_f: Option<Estimate>,
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

/// A blind metronome at its best phase.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Blind {
    #[serde(flatten)]
    pub(crate) metronome: Metronome,
    pub(crate) predictions_per_minute: f64,
    pub(crate) temporal_f: f64,
}

/// All of a report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) run: RunInfo,
    pub(crate) hours: f64,
    /// Mean length of a session.
    pub(crate) mean_seconds: f64,
    pub(crate) episodes: usize,
    /// The model or file first, then the controls.
    pub(crate) rows: Vec<Row>,
    /// One for each period.
    pub(crate) metronomes: Vec<Blind>,
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

/// What can be told of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// Times and texts.
    All,
    /// Texts of given pairs.
    Pairs,
    /// How much is said: there is no truth.
    Rate,
}

impl Report {
    /// The report of a finished run.
    pub(crate) fn of(run: &RunInfo, sessions: &[Session]) -> Self {
        let minutes = minutes(sessions);
        let own: Vec<Sums> = sessions.iter().map(|s| sums(s, |e| e.said.clone(), corrections)).collect();
        let scope = match (run.pairs_only, run.truthless) {
            (true, _) => Scope::Pairs,
            (_, true) => Scope::Rate,
            _ => Scope::All,
        };
        let mut rows = vec![row(Kind::Own, own_name(run), &own, minutes, scope)];
        let mut metronomes = Vec::new();
        if scope == Scope::All {
            let cut: Vec<&Episode> = sessions.iter().flat_map(|s| &s.episodes).collect();
            let stretches: Vec<Stretch<'_>> =
                cut.iter().map(|e| Stretch { start: e.start, end: e.end, truth: &e.truth }).collect();
            let all = all_metronomes(&stretches);
            rows.extend(controls::rows(run, sessions, &own, minutes, &all));
            metronomes = best_phases(&all, minutes);
        }
        let seconds = sessions.iter().map(|s| s.duration).sum::<f64>();
        let session = |(s, sums): (&Session, &Sums)| SessionRow {
            id: s.id.clone(),
            duration: s.duration,
            episodes: s.episodes.len(),
            timing: sums.timing,
            temporal_f: sums.timing.f_score(),
        };
        Self {
            run: run.clone(),
            hours: seconds / 3600.0,
            mean_seconds: seconds / sessions.len().max(1) as f64,
            episodes: sessions.iter().map(|s| s.episodes.len()).sum(),
            rows,
            metronomes,
            gaps: gaps(sessions),
            sessions: sessions.iter().zip(&own).map(session).collect(),
            warnings: run.warnings.iter().chain(sessions.iter().flat_map(|s| &s.warnings)).cloned().collect(),
        }
    }

    /// The first row of a kind.
    pub(crate) fn row(&self, kind: Kind) -> Option<&Row> {
        self.rows.iter().find(|row| row.kind == kind)
    }
}

fn own_name(run: &RunInfo) -> String {
    let shuffled = run.options.iter().any(|(name, value)| name == SHUFFLED && value == "true");
    if shuffled { format!("{}, shown the next session's video", run.source) } else { run.source.clone() }
}

/// Name of the option of the shuffled-video control.
pub(crate) const SHUFFLED: &str = "shuffled videos";

/// Minutes in which something may be said: those of the episodes.
fn minutes(sessions: &[Session]) -> f64 {
    sessions.iter().flat_map(|s| &s.episodes).map(|e| e.end - e.start).sum::<f64>() / 60.0
}

fn corrections(all: &[Timed]) -> Vec<Timed> {
    all.iter().filter(|s| is_corrective(&s.text)).cloned().collect()
}

/// Counts of a session when `says` gives what is said in an episode, and `corrects` those of it that are corrections; texts
/// are the run's own.
fn sums(session: &Session, says: impl Fn(&Episode) -> Vec<Timed>, corrects: fn(&[Timed]) -> Vec<Timed>) -> Sums {
    let mut sums = Sums::default();
    for episode in &session.episodes {
        let said = says(episode);
        sums.timing += Timing::of(&episode.truth, &said);
        sums.corrective += Timing::of(&corrections(&episode.truth), &corrects(&said));
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

/// Temporal F of all sessions, with its range over them.
fn f_score(sessions: &[Sums], of: fn(&Sums) -> Timing) -> Option<Estimate> {
    let timings: Vec<Timing> = sessions.iter().map(of).collect();
    estimate(&timings, |drawn| Some(total(drawn.copied()).f_score()))
}

fn row(kind: Kind, coach: String, sessions: &[Sums], minutes: f64, scope: Scope) -> Row {
    let timing = total(sessions.iter().map(|s| s.timing));
    let timed = (scope == Scope::All).then_some(timing);
    let corrections_due = sessions.iter().any(|s| s.corrective.n_gt > 0);
    Row {
        kind,
        coach,
        timing: timed,
        precision: timed.map(|t| t.precision()),
        recall: timed.map(|t| t.recall()),
        temporal_f: f_score(sessions, |s| s.timing).filter(|_| scope == Scope::All),
        corrective_f: f_score(sessions, |s| s.corrective).filter(|_| scope == Scope::All && corrections_due),
        predictions_per_minute: (scope != Scope::Pairs && minutes > 0.0).then(|| timing.n_pred as f64 / minutes),
        pairs: sessions.iter().map(|s| s.pairs.len()).sum(),
        meteor: mean(sessions, |p| Some(p.meteor)),
        rouge_l: mean(sessions, |p| Some(p.rouge_l)),
        bert: mean(sessions, |p| p.bert),
        judge: judged(sessions),
    }
}

/// The metronome of each period at its best phase.
fn best_phases(all: &[Metronome], minutes: f64) -> Vec<Blind> {
    all.chunk_by(|a, b| a.period == b.period)
        .filter_map(controls::best)
        .map(|m| Blind {
            metronome: *m,
            predictions_per_minute: m.timing.n_pred as f64 / minutes.max(f64::MIN_POSITIVE),
            temporal_f: m.timing.f_score(),
        })
        .collect()
}

fn gaps(sessions: &[Session]) -> Gaps {
    let count = |of: &dyn Fn(&Episode) -> &[Timed]| {
        let mut bars = vec![0; GAP_BARS];
        for episode in sessions.iter().flat_map(|s| &s.episodes) {
            for pair in of(episode).windows(2) {
                let [before, after] = pair else { continue };
                let bar = (((after.t - before.t).max(0.0) / GAP_STEP) as usize).min(GAP_BARS - 1);
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
pub(crate) mod tests;
