//! What a session came to.

use super::read::{Past, Told};
use serde::Serialize;
use spotter_datasets::synthetic::{Exercise, Mistake, phrases::SaidKind};

/// A set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct SetDone {
    pub(crate) exercise: Exercise,
    /// From 1; the sets of one stretch of an exercise.
    pub(crate) set: u32,
    pub(crate) reps: u32,
    /// Repetitions that turned before the full range.
    pub(crate) half: u32,
    /// Seconds held, all together; 0 for what is repeated.
    pub(crate) held: f64,
    /// Seconds of its first and last repetition.
    pub(crate) from: f64,
    pub(crate) to: f64,
}

/// A mistake that the coach corrected.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Fault {
    pub(crate) exercise: Option<Exercise>,
    pub(crate) mistake: Mistake,
    /// Seconds of each correction.
    pub(crate) at: Vec<f64>,
    /// What the coach said first.
    pub(crate) words: String,
    /// When the coach said that it is gone, if it did not come back afterwards.
    pub(crate) fixed: Option<f64>,
}

/// A session in short. Every number is a count of its events.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Review {
    pub(crate) duration: f64,
    pub(crate) complete: bool,
    pub(crate) sets: Vec<SetDone>,
    /// The most frequent first.
    pub(crate) faults: Vec<Fault>,
    /// Things said by the coach, and words about the view.
    pub(crate) said: usize,
    pub(crate) view_cues: usize,
}

impl Review {
    /// Repetitions and seconds held of an exercise.
    pub(crate) fn of(&self, exercise: Exercise) -> (u32, f64) {
        let own = self.sets.iter().filter(|s| s.exercise == exercise);
        own.fold((0, 0.0), |(reps, held), set| (reps + set.reps, held + set.held))
    }

    /// The exercises in the order in which they were done, each once.
    pub(crate) fn exercises(&self) -> Vec<Exercise> {
        let mut seen = Vec::new();
        for set in &self.sets {
            if !seen.contains(&set.exercise) {
                seen.push(set.exercise);
            }
        }
        seen
    }

    /// Mistakes that were corrected and are gone.
    pub(crate) fn better(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter().filter(|f| f.fixed.is_some())
    }
}

/// A set while it is being read.
struct Building {
    done: SetDone,
    /// Seconds of the hold that is not over yet.
    open: f64,
}

/// Looks back on a session.
pub(crate) fn review(past: &Past) -> Review {
    let mut sets = Sets::default();
    let mut review = Review {
        duration: past.duration,
        complete: past.complete,
        sets: Vec::new(),
        faults: Vec::new(),
        said: 0,
        view_cues: 0,
    };
    let mut current = None;
    for told in &past.events {
        match told {
            Told::Exercise { exercise, .. } => {
                current = Some(*exercise);
                sets.stretch = sets.all.len();
            }
            Told::Rep { t, exercise, set, .. } => sets.at(*exercise, Some(*set), *t).done.reps += 1,
            Told::HalfRep { t, exercise } => sets.at(*exercise, None, *t).done.half += 1,
            Told::Hold { t, exercise, set, seconds, over } => {
                let building = sets.at(*exercise, Some(*set), *t);
                building.open = if *over { 0.0 } else { *seconds };
                building.done.held += if *over { *seconds } else { 0.0 };
            }
            Told::Feedback { kind, .. } if kind == "view" => review.view_cues += 1,
            Told::Feedback { t, text, kind } if kind == "coaching" => {
                review.said += 1;
                if let Some(said) = told.said(past.lang) {
                    let exercise = said.exercise.or(current);
                    corrected(&mut review.faults, said.kind, said.mistake, exercise, *t, text);
                }
            }
            _ => {}
        }
    }
    let close = |building: Building| SetDone { held: building.done.held + building.open, ..building.done };
    review.sets = sets.all.into_iter().map(close).collect();
    review.faults.sort_by_key(|fault| std::cmp::Reverse(fault.at.len()));
    review
}

/// The sets so far.
#[derive(Default)]
struct Sets {
    all: Vec<Building>,
    /// Where the sets of the present exercise begin: each change of exercise counts them from 1 again.
    stretch: usize,
}

impl Sets {
    /// The set of a number, or the last one of the exercise; begun where there is none.
    fn at(&mut self, exercise: Exercise, set: Option<u32>, t: f64) -> &mut Building {
        let own = |b: &Building| b.done.exercise == exercise && set.is_none_or(|set| b.done.set == set);
        let found = self.all.iter().enumerate().skip(self.stretch).rev().find(|(_, b)| own(b)).map(|(i, _)| i);
        let index = found.unwrap_or(self.all.len());
        if found.is_none() {
            let set = set.unwrap_or(1);
            let done = SetDone { exercise, set, reps: 0, half: 0, held: 0.0, from: t, to: t };
            self.all.push(Building { done, open: 0.0 });
        }
        let building = &mut self.all[index];
        building.done.to = t;
        building
    }
}

/// Takes in what the coach said about a mistake.
fn corrected(
    faults: &mut Vec<Fault>,
    kind: SaidKind,
    mistake: Option<Mistake>,
    exercise: Option<Exercise>,
    t: f64,
    words: &str,
) {
    let Some(mistake) = mistake else { return };
    let known = faults.iter_mut().find(|f| f.mistake == mistake && f.exercise == exercise);
    match (kind, known) {
        (SaidKind::Correction, Some(fault)) => {
            fault.at.push(t);
            fault.fixed = None;
        }
        (SaidKind::Correction, None) => {
            faults.push(Fault { exercise, mistake, at: vec![t], words: words.to_owned(), fixed: None });
        }
        (SaidKind::Fixed, Some(fault)) => fault.fixed = Some(t),
        _ => {}
    }
}

/// What an exercise came to in each of some sessions that had it, in their order: repetitions, seconds held, corrections.
pub(crate) fn trend<'a>(exercise: Exercise, reviews: impl IntoIterator<Item = &'a Review>) -> Vec<(u32, f64, usize)> {
    let one = |review: &Review| {
        let (reps, held) = review.of(exercise);
        let corrections = review.faults.iter().filter(|f| f.exercise == Some(exercise)).map(|f| f.at.len()).sum();
        (reps > 0 || held > 0.0).then_some((reps, held, corrections))
    };
    reviews.into_iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sessions::Stamp;
    use spotter_datasets::synthetic::phrases::{Lang, Meaning};

    pub(crate) fn past(events: Vec<Told>) -> Past {
        Past {
            id: "x".into(),
            started: Stamp(0),
            source: "camera".into(),
            model: "m".into(),
            lang: Lang::En,
            duration: 60.0,
            complete: true,
            damaged: 0,
            events,
        }
    }

    fn rep(t: f64, exercise: Exercise, set: u32, count: u32) -> Told {
        Told::Rep { t, exercise, set, count }
    }

    fn says(t: f64, meaning: Meaning) -> Told {
        let text = meaning.sentences(Lang::En)[0].clone();
        Told::Feedback { t, text, kind: "coaching".into() }
    }

    #[test]
    fn sets_are_those_of_the_events() {
        let squat = Exercise::Squat;
        let events = vec![
            Told::Exercise { t: 0.0, exercise: squat },
            rep(3.0, squat, 1, 1),
            Told::HalfRep { t: 5.0, exercise: squat },
            rep(6.0, squat, 1, 2),
            rep(40.0, squat, 2, 1),
            Told::Exercise { t: 45.0, exercise: Exercise::Plank },
            Told::Hold { t: 46.0, exercise: Exercise::Plank, set: 1, seconds: 1.0, over: false },
            Told::Hold { t: 50.2, exercise: Exercise::Plank, set: 1, seconds: 4.5, over: true },
            Told::Hold { t: 53.0, exercise: Exercise::Plank, set: 1, seconds: 2.0, over: false },
            Told::Exercise { t: 55.0, exercise: squat },
            rep(58.0, squat, 1, 1),
        ];
        let review = review(&past(events));
        let short: Vec<_> = review.sets.iter().map(|s| (s.exercise, s.set, s.reps, s.half, s.held)).collect();
        let plank = Exercise::Plank;
        assert_eq!(short, [(squat, 1, 2, 1, 0.0), (squat, 2, 1, 0, 0.0), (plank, 1, 0, 0, 6.5), (squat, 1, 1, 0, 0.0)]);
        assert_eq!(review.of(squat), (4, 0.0));
        assert_eq!(review.exercises(), [squat, plank]);
        assert_eq!((review.sets[0].from, review.sets[0].to), (3.0, 6.0));
    }

    #[test]
    fn a_mistake_that_came_back_is_not_better() {
        let (squat, knees) = (Exercise::Squat, Mistake::KneesIn);
        let lean = Mistake::TrunkLean;
        let mut events = vec![
            Told::Exercise { t: 0.0, exercise: squat },
            says(5.0, Meaning::Correction(squat, lean)),
            says(10.0, Meaning::Correction(squat, knees)),
            says(20.0, Meaning::Fixed(squat, knees)),
            says(25.0, Meaning::Fixed(squat, lean)),
        ];
        let first = review(&past(events.clone()));
        assert_eq!(first.better().count(), 2, "{:?}", first.faults);
        events.push(says(30.0, Meaning::Correction(squat, knees)));
        let second = review(&past(events));
        assert_eq!(second.faults[0].at, [10.0, 30.0]);
        assert_eq!(second.better().map(|f| f.mistake).collect::<Vec<_>>(), [lean]);
        assert_eq!(second.said, 5);
    }

    #[test]
    fn the_trend_is_that_of_sessions_with_the_exercise() {
        let with = |n: u32| review(&past((1..=n).map(|i| rep(f64::from(i), Exercise::Squat, 1, i)).collect()));
        let all = [with(5), with(0), with(8)];
        assert_eq!(trend(Exercise::Squat, &all).iter().map(|t| t.0).collect::<Vec<_>>(), [5, 8]);
    }
}
