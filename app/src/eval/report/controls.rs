//! Rows that a model must be seen beside: coaches that never look.

use super::{
    super::{
        score::PHRASE_PERIOD,
        store::{Episode, RunInfo, Session},
    },
    Kind, Row, Scope, Sums, corrections, row, sums, total,
};
use spotter_datasets::{
    baseline::{Metronome, Stretch, all_metronomes, metronome},
    metric::Timed,
};

/// The best of some metronomes; of equals the last.
pub(super) fn best(all: &[Metronome]) -> Option<&Metronome> {
    all.iter().max_by(|a, b| a.timing.f_score().total_cmp(&b.timing.f_score()))
}

/// Data of a run, to score coaches on.
struct Board<'a> {
    sessions: &'a [Session],
    minutes: f64,
}

impl Board<'_> {
    /// A coach that says the same kind of thing all the time: each tick may stand for a correction.
    fn ticking(&self, kind: Kind, name: String, period: f64, phase: f64) -> Row {
        let says = |e: &Episode| metronome(e.start, e.end, period, phase);
        let all: Vec<Sums> = self.sessions.iter().map(|s| without_text(sums(s, says, <[Timed]>::to_vec))).collect();
        row(kind, name, &all, self.minutes, Scope::All)
    }

    fn elsewhere(&self) -> Option<Row> {
        if self.sessions.len() < 2 {
            return None;
        }
        let next = self.sessions.iter().cycle().skip(1);
        let of = |(s, other): (&Session, &Session)| without_text(sums(s, |e| elsewhere(other, e), corrections));
        let all: Vec<Sums> = self.sessions.iter().zip(next).map(of).collect();
        Some(row(Kind::Elsewhere, "the same words on another session".into(), &all, self.minutes, Scope::All))
    }

    /// The metronome that meets most corrections, chosen with the truth in hand.
    fn corrective(&self) -> Option<Row> {
        let truths: Vec<(f64, f64, Vec<Timed>)> =
            self.sessions.iter().flat_map(|s| &s.episodes).map(|e| (e.start, e.end, corrections(&e.truth))).collect();
        if truths.iter().all(|(_, _, truth)| truth.is_empty()) {
            return None;
        }
        let stretches: Vec<Stretch<'_>> =
            truths.iter().map(|(start, end, truth)| Stretch { start: *start, end: *end, truth }).collect();
        let all = all_metronomes(&stretches);
        let found = best(&all)?;
        let name = format!("metronome, best on corrections: every {:.1} s from {:.1} s", found.period, found.phase);
        Some(self.ticking(Kind::CorrectiveMetronome, name, found.period, found.phase))
    }

    fn phrase(&self, run: &RunInfo) -> Row {
        let of = |s: &Session| Sums {
            pairs: s.episodes.iter().flat_map(|e| e.phrase.iter().cloned()).collect(),
            ..sums(s, |e| metronome(e.start, e.end, PHRASE_PERIOD, PHRASE_PERIOD), |_| Vec::new())
        };
        let all: Vec<Sums> = self.sessions.iter().map(of).collect();
        let name = format!("most frequent phrase, every {PHRASE_PERIOD:.1} s: \"{}\"", run.phrase);
        Row { corrective_f: None, ..row(Kind::Phrase, name, &all, self.minutes, Scope::All) }
    }

    fn silent(&self) -> Row {
        let all: Vec<Sums> = self.sessions.iter().map(|s| without_text(sums(s, |_| Vec::new(), corrections))).collect();
        row(Kind::Silent, "silent".into(), &all, self.minutes, Scope::All)
    }
}

fn without_text(sums: Sums) -> Sums {
    Sums { pairs: Vec::new(), ..sums }
}

/// All controls, in the order of the table. `all` are the scored metronomes, `own` the sums of the run.
pub(super) fn rows(run: &RunInfo, sessions: &[Session], own: &[Sums], minutes: f64, all: &[Metronome]) -> Vec<Row> {
    let board = Board { sessions, minutes };
    let mut rows: Vec<Row> = board.elsewhere().into_iter().collect();
    if let Some(best) = best(all) {
        let name = format!("metronome, best of all: every {:.1} s from {:.1} s", best.period, best.phase);
        rows.push(board.ticking(Kind::BestMetronome, name, best.period, best.phase));
    }
    rows.push(board.ticking(Kind::PlainMetronome, "metronome, every 3.0 s".into(), 3.0, 3.0));
    let said = total(own.iter().map(|s| s.timing)).n_pred;
    if said > 0 {
        let period = minutes * 60.0 / said as f64;
        let name = format!("metronome at the model's rate: every {period:.1} s");
        rows.push(board.ticking(Kind::OwnRate, name, period, period));
    }
    rows.extend(board.corrective());
    rows.push(board.phrase(run));
    rows.push(board.silent());
    rows
}

/// What was said in `other` at the time that `episode` has in its own session, in the time of `episode`.
fn elsewhere(other: &Session, episode: &Episode) -> Vec<Timed> {
    let all = other.episodes.iter().flat_map(|o| o.said.iter().map(|s| Timed::new(s.t + o.offset, s.text.clone())));
    let moved = all.map(|s| Timed::new(s.t - episode.offset, s.text));
    moved.filter(|s| s.t >= episode.start && s.t < episode.end).collect()
}
