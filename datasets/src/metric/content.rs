//! What a coach says against what happened: names of exercises, corrections, counts.
//!
//! Sentences are read by [`phrases::classify`], so these numbers hold for coaches that speak in our phrasings or close
//! to them. Definitions:
//!
//! - **Exercise accuracy**: share of segments in which the sentences name the right exercise and no other. A segment
//!   reaches from its announcement to the next one.
//! - **Mistake precision**: share of corrections whose mistake was seen in a repetition of the same segment that was
//!   complete within the [`LOOK_BACK`] seconds before.
//! - **Mistake recall**: share of the true corrections for which the coach made a correction of the same mistake less
//!   than [`NEAR`] seconds away. A prediction serves one truth.
//! - **Count accuracy**: share of counts that are off by at most one from the repetitions (or two-second entries of a
//!   hold, times two) complete at that time.

use super::Timed;
use crate::synthetic::{
    exercise::{Exercise, Mistake},
    phrases::{self, Lang, SaidKind},
    script::Event,
    session::Segment,
};
use serde::Serialize;
use std::ops::AddAssign;

/// A correction may be about repetitions complete up to so many seconds before it.
pub const LOOK_BACK: f64 = 8.0;

/// A correction answers a true one when it is nearer than this many seconds.
pub const NEAR: f64 = 4.0;

/// Counts over segments and sentences; sessions add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Content {
    /// Exercises done.
    pub segments: usize,
    /// Those in which the right exercise was named and no other.
    pub segments_right: usize,
    /// Those in which no exercise was named.
    pub segments_unnamed: usize,
    /// Corrections made.
    pub corrections: usize,
    /// Those of a mistake that was there.
    pub corrections_true: usize,
    /// Corrections that should have been made.
    pub corrections_due: usize,
    /// Those that were made.
    pub corrections_met: usize,
    /// Numbers said.
    pub counts: usize,
    /// Those off by at most one.
    pub counts_right: usize,
    /// Sentences that mean nothing we know.
    pub unknown: usize,
    /// Sentences.
    pub sentences: usize,
}

fn share(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

impl Content {
    /// Compares what was said in one session with what happened in it.
    pub fn of(segments: &[Segment], truth: &[Event], predicted: &[Timed], lang: Lang) -> Self {
        let mut sum = Self { sentences: predicted.len(), ..Self::default() };
        for (i, segment) in segments.iter().enumerate() {
            let until = segments.get(i + 1).map_or(f64::INFINITY, |next| next.announced);
            let said: Vec<&Timed> =
                predicted.iter().filter(|said| said.t >= segment.announced && said.t < until).collect();
            sum.names(segment, &said, lang);
            sum.statements(segment, &said, lang);
        }
        let unknown = |said: &&Timed| phrases::classify(&said.text, lang).kind == SaidKind::Other;
        sum.unknown = predicted.iter().filter(unknown).count();
        sum.recall(truth, predicted, lang);
        sum
    }

    fn names(&mut self, segment: &Segment, said: &[&Timed], lang: Lang) {
        let mut names: Vec<Exercise> = said.iter().flat_map(|said| phrases::named(&said.text, lang)).collect();
        names.sort_unstable();
        names.dedup();
        self.segments += 1;
        self.segments_right += usize::from(names == [segment.exercise]);
        self.segments_unnamed += usize::from(names.is_empty());
    }

    fn statements(&mut self, segment: &Segment, said: &[&Timed], lang: Lang) {
        let unit = if segment.exercise.is_hold() { 2 } else { 1 };
        for sentence in said {
            let meaning = phrases::classify(&sentence.text, lang);
            match (meaning.kind, meaning.mistake, meaning.count) {
                (SaidKind::Correction, Some(mistake), _) => {
                    let recent = |end: f64| end <= sentence.t && end >= sentence.t - LOOK_BACK;
                    let seen = segment.reps.iter().any(|rep| recent(rep.end) && rep.mistakes.contains(&mistake));
                    self.corrections += 1;
                    self.corrections_true += usize::from(seen);
                }
                (SaidKind::Count, _, Some(count)) => {
                    let done = segment.reps.iter().filter(|rep| rep.end <= sentence.t).count() as u64 * unit;
                    self.counts += 1;
                    self.counts_right += usize::from(done.abs_diff(u64::from(count)) <= unit);
                }
                _ => {}
            }
        }
    }

    fn recall(&mut self, truth: &[Event], predicted: &[Timed], lang: Lang) {
        let mut made: Vec<(f64, Mistake)> = predicted
            .iter()
            .filter_map(|said| {
                let meaning = phrases::classify(&said.text, lang);
                let mistake = meaning.mistake.filter(|_| meaning.kind == SaidKind::Correction)?;
                Some((said.t, mistake))
            })
            .collect();
        let due = truth.iter().filter(|event| event.kind == SaidKind::Correction && !event.is_transition);
        for (t, mistake) in due.filter_map(|event| event.mistake.map(|mistake| (event.t, mistake))) {
            self.corrections_due += 1;
            let near = made.iter().enumerate().filter(|(_, (at, what))| *what == mistake && (at - t).abs() < NEAR);
            let nearest = near.min_by(|a, b| (a.1.0 - t).abs().total_cmp(&(b.1.0 - t).abs())).map(|(i, _)| i);
            if let Some(i) = nearest {
                made.swap_remove(i);
                self.corrections_met += 1;
            }
        }
    }

    /// Share of segments named rightly; `None` without segments.
    pub fn exercise_accuracy(&self) -> Option<f64> {
        share(self.segments_right, self.segments)
    }

    /// Share of corrections that were true; `None` if none was made.
    pub fn mistake_precision(&self) -> Option<f64> {
        share(self.corrections_true, self.corrections)
    }

    /// Share of due corrections that were made; `None` if none was due.
    pub fn mistake_recall(&self) -> Option<f64> {
        share(self.corrections_met, self.corrections_due)
    }

    /// Share of counts that were right to one; `None` if nothing was counted.
    pub fn count_accuracy(&self) -> Option<f64> {
        share(self.counts_right, self.counts)
    }
}

impl AddAssign for Content {
    fn add_assign(&mut self, other: Self) {
        self.segments += other.segments;
        self.segments_right += other.segments_right;
        self.segments_unnamed += other.segments_unnamed;
        self.corrections += other.corrections;
        self.corrections_true += other.corrections_true;
        self.corrections_due += other.corrections_due;
        self.corrections_met += other.corrections_met;
        self.counts += other.counts;
        self.counts_right += other.counts_right;
        self.unknown += other.unknown;
        self.sentences += other.sentences;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::session::TimedRep;

    fn squats() -> Segment {
        let rep = |i: u32, mistakes: &[Mistake]| TimedRep {
            start: 2.0 + 2.0 * f64::from(i),
            peak: 3.0 + 2.0 * f64::from(i),
            end: 4.0 + 2.0 * f64::from(i),
            mistakes: mistakes.to_vec(),
        };
        let reps =
            vec![rep(0, &[]), rep(1, &[Mistake::KneesIn]), rep(2, &[Mistake::KneesIn]), rep(3, &[]), rep(4, &[])];
        Segment { exercise: Exercise::Squat, announced: 1.0, start: 2.0, end: 12.0, reps }
    }

    fn correction(t: f64) -> Event {
        Event {
            t,
            text: "Push your knees out.".into(),
            kind: SaidKind::Correction,
            is_transition: false,
            exercise: Some(Exercise::Squat),
            mistake: Some(Mistake::KneesIn),
            count: None,
        }
    }

    fn score(said: &[(f64, &str)]) -> Content {
        let said: Vec<Timed> = said.iter().map(|(t, text)| Timed::new(*t, *text)).collect();
        Content::of(&[squats()], &[correction(8.3)], &said, Lang::En)
    }

    #[test]
    fn a_good_coach_scores_full_marks() {
        let content = score(&[(4.3, "Squats, let's go."), (8.4, "Keep your knees apart."), (10.2, "4.")]);
        assert_eq!(content.exercise_accuracy(), Some(1.0));
        assert_eq!(content.mistake_precision(), Some(1.0));
        assert_eq!(content.mistake_recall(), Some(1.0));
        assert_eq!(content.count_accuracy(), Some(1.0));
        assert_eq!(content.unknown, 0);
    }

    #[test]
    fn naming_two_exercises_is_wrong() {
        let content = score(&[(4.3, "Squats, let's go."), (6.0, "Great lunges.")]);
        assert_eq!((content.segments_right, content.segments_unnamed), (0, 0));
        assert_eq!(score(&[]).segments_unnamed, 1);
    }

    #[test]
    fn corrections_need_their_mistake_and_their_time() {
        let wrong = score(&[(8.4, "Straighten your arms.")]);
        assert_eq!((wrong.corrections, wrong.corrections_true, wrong.corrections_met), (1, 0, 0));
        let early = score(&[(5.9, "Push your knees out.")]);
        assert_eq!((early.corrections_true, early.corrections_met), (0, 1));
        let twice = score(&[(8.4, "Push your knees out."), (9.0, "Push your knees out.")]);
        assert_eq!((twice.corrections_true, twice.corrections_met, twice.corrections_due), (2, 1, 1));
        let late = score(&[(12.4, "Push your knees out.")]);
        assert_eq!((late.corrections_true, late.corrections_met), (1, 0));
    }

    #[test]
    fn counts_may_be_off_by_one() {
        let content = score(&[(8.1, "3."), (8.2, "4."), (8.3, "6."), (9.0, "mumble")]);
        assert_eq!((content.counts, content.counts_right, content.unknown), (3, 2, 1));
    }
}
