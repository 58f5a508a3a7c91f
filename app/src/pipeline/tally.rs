//! Which exercise is meant, and what counts for it.
//!
//! The tally stands where all events of a run come together and passes them on. It knows the exercise because the user
//! chose it or because the coach named it, and turns the moves of that exercise into sets and repetitions.

use super::{Event, moves::Move};
use spotter_datasets::synthetic::{
    Exercise,
    phrases::{self, Lang},
};
use spotter_engine::coach::{Feedback, Kind};
use spotter_vision::reps::Excursion;
use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// After so long without a repetition another set begins.
const SET_GAP: Duration = Duration::from_secs(20);
/// Moves this old still count for an exercise that is named only now: nobody names an exercise before seeing some of it.
const LATE_NAME: Duration = Duration::from_secs(12);
/// Moves kept for an exercise that is named later.
const PENDING: usize = 256;

/// Where the count stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Standing {
    exercise: Option<Exercise>,
    set: u32,
    count: u32,
    last: Option<Duration>,
}

#[derive(Debug)]
struct Inner {
    lang: Lang,
    /// Chosen by the user, so that the coach's words change nothing.
    chosen: bool,
    told: bool,
    at: Standing,
    pending: VecDeque<(Duration, Exercise, Move)>,
}

/// Shared by the stages.
#[derive(Debug)]
pub(crate) struct Tally {
    inner: Mutex<Inner>,
    /// What the user chose meanwhile. Apart from the rest, so that the window never waits for a stage.
    wanted: Mutex<Option<Option<Exercise>>>,
}

impl Tally {
    /// A tally for the words of a language. An exercise that is given is the one that counts; else it is the one that
    /// the coach names.
    pub(crate) fn new(language: &str, exercise: Option<Exercise>) -> Self {
        let at = Standing { exercise, set: u32::from(exercise.is_some()), ..Standing::default() };
        let lang = Lang::from_code(language).unwrap_or_default();
        let inner = Inner { lang, chosen: exercise.is_some(), told: false, at, pending: VecDeque::new() };
        Self { inner: Mutex::new(inner), wanted: Mutex::new(None) }
    }

    /// Another exercise is chosen; it counts from the next frame that is looked at.
    pub(crate) fn choose(&self, exercise: Option<Exercise>) {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = Some(exercise);
    }

    /// Passes an event on, with what follows from it.
    pub(crate) fn pass(&self, event: Event, emit: &mut dyn FnMut(Event)) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut inner.told, true)
            && let Some(exercise) = inner.at.exercise
        {
            emit(Event::Exercise { t: Duration::ZERO, exercise });
        }
        match event {
            Event::Tick { t } => {
                let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(exercise) = wanted {
                    inner.choose(t, exercise, emit);
                }
            }
            Event::Move { t, exercise, what } => inner.moved(t, exercise, what, emit),
            Event::Feedback(feedback) => {
                let named = inner.named(&feedback);
                let t = feedback.t_ready;
                // the words first: the exercise follows from them
                emit(Event::Feedback(feedback));
                if let Some(exercise) = named {
                    inner.change(t, exercise, emit);
                }
            }
            other => emit(other),
        }
    }
}

impl Inner {
    fn choose(&mut self, t: Duration, exercise: Option<Exercise>, emit: &mut dyn FnMut(Event)) {
        self.chosen = exercise.is_some();
        self.pending.clear();
        if exercise != self.at.exercise {
            self.at = Standing { exercise, set: 1, count: 0, last: None };
            if let Some(exercise) = exercise {
                emit(Event::Exercise { t, exercise });
            }
        }
    }

    /// The exercise that the coach names, if it is another one.
    fn named(&self, feedback: &Feedback) -> Option<Exercise> {
        if self.chosen || feedback.kind != Kind::Coaching {
            return None;
        }
        let exercise = phrases::classify(&feedback.text, self.lang).exercise?;
        (self.at.exercise != Some(exercise)).then_some(exercise)
    }

    fn change(&mut self, t: Duration, exercise: Exercise, emit: &mut dyn FnMut(Event)) {
        self.at = Standing { exercise: Some(exercise), set: 1, count: 0, last: None };
        emit(Event::Exercise { t, exercise });
        for (t_move, moved, what) in std::mem::take(&mut self.pending) {
            if moved == exercise && t.saturating_sub(t_move) <= LATE_NAME {
                self.count(t_move, exercise, what, emit);
            }
        }
    }

    fn moved(&mut self, t: Duration, exercise: Exercise, what: Move, emit: &mut dyn FnMut(Event)) {
        if self.at.exercise == Some(exercise) {
            self.count(t, exercise, what, emit);
        } else if !self.chosen && !matches!(what, Move::Phase(_)) {
            if self.pending.len() == PENDING {
                self.pending.pop_front();
            }
            self.pending.push_back((t, exercise, what));
        }
    }

    fn count(&mut self, t: Duration, exercise: Exercise, what: Move, emit: &mut dyn FnMut(Event)) {
        match what {
            Move::Phase(phase) => return emit(Event::Phase { t, exercise, phase }),
            Move::Excursion(Excursion::Half) => return emit(Event::HalfRep { t, exercise }),
            Move::Excursion(Excursion::Full) | Move::Hold { .. } => {}
        }
        if self.at.last.is_some_and(|last| t.saturating_sub(last) > SET_GAP) {
            (self.at.set, self.at.count) = (self.at.set + 1, 0);
        }
        self.at.last = Some(t);
        let set = self.at.set;
        if let Move::Hold { lasted, over } = what {
            return emit(Event::Hold { t, exercise, set, lasted, over });
        }
        self.at.count += 1;
        emit(Event::Rep { t, exercise, set, count: self.at.count });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn rep(t: u64, exercise: Exercise) -> Event {
        Event::Move { t: s(t), exercise, what: Move::Excursion(Excursion::Full) }
    }

    fn said(t: u64, text: &str) -> Event {
        Event::Feedback(Feedback { t_frame: s(t), t_ready: s(t), text: text.into(), kind: Kind::Coaching })
    }

    /// `(second, set, count)` of the repetitions, and the exercises.
    fn told(tally: &Tally, events: Vec<Event>) -> (Vec<(u64, u32, u32)>, Vec<Exercise>) {
        let (mut reps, mut exercises) = (Vec::new(), Vec::new());
        for event in events {
            tally.pass(event, &mut |e| match e {
                Event::Rep { t, set, count, .. } => reps.push((t.as_secs(), set, count)),
                Event::Exercise { exercise, .. } => exercises.push(exercise),
                _ => {}
            });
        }
        (reps, exercises)
    }

    #[test]
    fn only_the_chosen_exercise_counts() {
        let tally = Tally::new("en", Some(Exercise::Squat));
        let events = vec![
            rep(1, Exercise::Squat),
            rep(2, Exercise::Lunge),
            said(3, "Nice lunges!"),
            rep(4, Exercise::Squat),
            rep(30, Exercise::Squat),
        ];
        assert_eq!(told(&tally, events), (vec![(1, 1, 1), (4, 1, 2), (30, 2, 1)], vec![Exercise::Squat]));
    }

    #[test]
    fn what_was_done_before_the_coach_named_it_counts_too() {
        let tally = Tally::new("en", None);
        let events = vec![
            rep(1, Exercise::Squat),
            rep(2, Exercise::Lunge),
            rep(3, Exercise::Squat),
            said(4, "First up are squats!"),
            rep(5, Exercise::Squat),
            said(6, "Keep it up"),
            rep(7, Exercise::Lunge),
        ];
        assert_eq!(told(&tally, events), (vec![(1, 1, 1), (3, 1, 2), (5, 1, 3)], vec![Exercise::Squat]));
        let events = vec![said(8, "Next up: lunges!"), rep(9, Exercise::Lunge)];
        assert_eq!(told(&tally, events), (vec![(7, 1, 1), (9, 1, 2)], vec![Exercise::Lunge]));
    }

    #[test]
    fn another_choice_begins_anew() {
        let tally = Tally::new("ko", Some(Exercise::Squat));
        told(&tally, vec![rep(1, Exercise::Squat)]);
        tally.choose(Some(Exercise::PushUp));
        let events = vec![Event::Tick { t: s(3) }, rep(3, Exercise::Squat), rep(4, Exercise::PushUp)];
        assert_eq!(told(&tally, events), (vec![(4, 1, 1)], vec![Exercise::PushUp]));
    }

    #[test]
    fn what_waits_for_a_name_is_bounded() {
        let tally = Tally::new("en", None);
        told(&tally, (0..2000).map(|t| rep(t, Exercise::Squat)).collect());
        assert_eq!(tally.inner.lock().unwrap().pending.len(), PENDING);
    }
}
