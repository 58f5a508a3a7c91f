//! Which exercise is meant, and what counts for it.
//!
//! The tally stands where all events of a run come together and passes them on. It knows the exercise because the user
//! chose it or because the coach named it, and turns the moves of that exercise into sets and repetitions.

use super::{
    Config, Event,
    moves::Move,
    speaker::Task,
    stats::Monitor,
    workout::{Bout, Goal, Next, Plan, Stand},
};
use spotter_datasets::synthetic::{
    Exercise,
    phrases::{self, Lang},
};
use spotter_engine::coach::{Feedback, Kind};
use spotter_vision::reps::Excursion;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
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

struct Inner {
    lang: Lang,
    /// Chosen by the user, so that the coach's words change nothing.
    chosen: bool,
    begun: bool,
    at: Standing,
    pending: VecDeque<(Duration, Exercise, Move)>,
    plan: Option<Plan>,
    task: Arc<Task>,
    own_count: bool,
    /// Joints are followed: something moved.
    joints: bool,
    monitor: Arc<Monitor>,
}

/// Shared by the stages.
pub(crate) struct Tally {
    inner: Mutex<Inner>,
    /// What the user chose meanwhile. Apart from the rest, so that the window never waits for a stage.
    wanted: Mutex<Option<Option<Exercise>>>,
}

type Emit<'a> = &'a mut dyn FnMut(Event);

impl Tally {
    /// A tally at the beginning of a run: for a workout, for one exercise, or for whatever the coach names.
    pub(super) fn new(config: &Config, task: Arc<Task>, monitor: Arc<Monitor>) -> Self {
        let plan = config.workout.clone().map(Plan::new);
        let exercise = plan.as_ref().and_then(Plan::bout).map(|bout| bout.exercise).or(config.exercise);
        let inner = Inner {
            lang: Lang::from_code(&config.language).unwrap_or_default(),
            chosen: exercise.is_some(),
            begun: false,
            at: Standing { exercise, set: 1, ..Standing::default() },
            pending: VecDeque::new(),
            plan,
            task,
            own_count: config.own_count,
            joints: false,
            monitor,
        };
        Self { inner: Mutex::new(inner), wanted: Mutex::new(None) }
    }

    /// Another exercise is chosen; it counts from the next frame that is looked at, and ends a workout.
    pub(crate) fn choose(&self, exercise: Option<Exercise>) {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = Some(exercise);
    }

    /// Passes an event on, with what follows from it.
    pub(crate) fn pass(&self, event: Event, emit: Emit<'_>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.begin(emit);
        match event {
            Event::Tick { t } => {
                let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(exercise) = wanted {
                    inner.choose(t, exercise, emit);
                }
                let next = inner.plan.as_mut().map_or(Next::Same, |plan| plan.tick(t));
                inner.go_on(t, next, emit);
            }
            Event::Move { t, exercise, what } => inner.moved(t, exercise, what, emit),
            Event::Feedback(feedback) => {
                let Some(feedback) = inner.recounted(feedback) else { return };
                let named = inner.named(&feedback);
                let t = feedback.t_ready;
                // the words first: the exercise follows from them
                emit(Event::Feedback(feedback));
                if let Some(exercise) = named {
                    inner.change(t, exercise, emit);
                }
            }
            Event::Begun { t } => {
                emit(Event::Begun { t });
                if let Some(bout) = inner.plan.as_ref().and_then(Plan::bout) {
                    inner.start(t, bout, emit);
                }
            }
            other => emit(other),
        }
    }
}

impl Inner {
    /// Tells what is known before the first event.
    fn begin(&mut self, emit: Emit<'_>) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        if let Some(exercise) = self.at.exercise {
            emit(Event::Exercise { t: Duration::ZERO, exercise });
        }
    }

    /// A set of the workout begins.
    fn start(&mut self, t: Duration, bout: Bout, emit: Emit<'_>) {
        let before = std::mem::replace(
            &mut self.at,
            Standing { exercise: Some(bout.exercise), set: bout.set, count: 0, last: None },
        );
        if bout.set == 1 {
            self.task.set(Some(bout.exercise.name(self.lang.code()).to_owned()));
            if before.exercise != Some(bout.exercise) {
                emit(Event::Exercise { t, exercise: bout.exercise });
            }
        }
        emit(Event::Set { t, bout });
        self.say(t, set_words(bout, self.lang), emit);
    }

    fn say(&self, t: Duration, text: String, emit: Emit<'_>) {
        emit(Event::Feedback(Feedback { t_frame: t, t_ready: t, text, kind: Kind::Program }));
    }

    fn go_on(&mut self, t: Duration, next: Next, emit: Emit<'_>) {
        match next {
            Next::Same => {}
            Next::Set(bout) => self.start(t, bout, emit),
            Next::Rest(lasts, next) => {
                emit(Event::Rest { t, lasts, next });
                self.say(t, rest_words(lasts, next, self.lang), emit);
            }
            Next::Done => {
                emit(Event::Finished { t });
                let text = if self.lang == Lang::Ko {
                    "운동 끝! 수고하셨어요."
                } else {
                    "That's the workout. Well done!"
                };
                self.say(t, text.to_owned(), emit);
            }
        }
    }

    fn choose(&mut self, t: Duration, exercise: Option<Exercise>, emit: Emit<'_>) {
        self.plan = None;
        self.chosen = exercise.is_some();
        self.pending.clear();
        if exercise != self.at.exercise {
            self.task.set(exercise.map(|e| e.name(self.lang.code()).to_owned()));
            self.at = Standing { exercise, set: 1, count: 0, last: None };
            if let Some(exercise) = exercise {
                emit(Event::Exercise { t, exercise });
            }
        }
    }

    /// The words, with the number of the joints where the coach counts otherwise; `None` where there is nothing to put in
    /// its place. The model guesses counts of what began before it looked; the joints were counted. A word said in the
    /// moment before the joints are back is the next one already.
    fn recounted(&self, mut feedback: Feedback) -> Option<Feedback> {
        if !self.own_count || feedback.kind != Kind::Coaching {
            return Some(feedback);
        }
        let said = phrases::classify(&feedback.text, self.lang);
        let another = said.exercise.is_some_and(|e| self.at.exercise.is_some_and(|at| at != e));
        let (Some(n), Some(counted)) = (said.count, self.counted()) else { return Some(feedback) };
        if another || n == counted || n == counted + 1 {
            return Some(feedback);
        }
        self.monitor.count(|c| c.miscounted += 1);
        feedback.text = with_number(&feedback.text, n, counted).filter(|_| counted > 0)?;
        Some(feedback)
    }

    /// Whole repetitions by the joints: of the exercise that is meant, where there are any; while none is, of the one that
    /// has most, where joints are followed at all.
    fn counted(&self) -> Option<u32> {
        if self.at.exercise.is_some() {
            return Some(self.at.count).filter(|n| *n > 0);
        }
        let mut counts: BTreeMap<Exercise, u32> = BTreeMap::new();
        for (_, exercise, what) in &self.pending {
            *counts.entry(*exercise).or_default() += u32::from(*what == Move::Excursion(Excursion::Full));
        }
        self.joints.then(|| counts.into_values().max().unwrap_or(0))
    }

    /// The exercise that the coach names, if it is another one.
    fn named(&self, feedback: &Feedback) -> Option<Exercise> {
        if self.chosen || feedback.kind != Kind::Coaching {
            return None;
        }
        let exercise = phrases::classify(&feedback.text, self.lang).exercise?;
        (self.at.exercise != Some(exercise)).then_some(exercise)
    }

    fn change(&mut self, t: Duration, exercise: Exercise, emit: Emit<'_>) {
        self.at = Standing { exercise: Some(exercise), set: 1, count: 0, last: None };
        emit(Event::Exercise { t, exercise });
        for (t_move, moved, what) in std::mem::take(&mut self.pending) {
            if moved == exercise && t.saturating_sub(t_move) <= LATE_NAME {
                self.count(t_move, exercise, what, emit);
            }
        }
    }

    fn moved(&mut self, t: Duration, exercise: Exercise, what: Move, emit: Emit<'_>) {
        self.joints = true;
        let resting = self.plan.as_ref().is_some_and(|plan| !matches!(plan.stand, Stand::Work(_)));
        if resting {
            return;
        }
        if self.at.exercise == Some(exercise) {
            self.count(t, exercise, what, emit);
        } else if !self.chosen && !matches!(what, Move::Phase(_)) {
            if self.pending.len() == PENDING {
                self.pending.pop_front();
            }
            self.pending.push_back((t, exercise, what));
        }
    }

    fn count(&mut self, t: Duration, exercise: Exercise, what: Move, emit: Emit<'_>) {
        match what {
            Move::Phase(phase) => return emit(Event::Phase { t, exercise, phase }),
            Move::Excursion(Excursion::Half) => return emit(Event::HalfRep { t, exercise }),
            Move::Excursion(Excursion::Full) | Move::Hold { .. } => {}
        }
        // the sets of a workout are the workout's own
        if self.plan.is_none() && self.at.last.is_some_and(|last| t.saturating_sub(last) > SET_GAP) {
            (self.at.set, self.at.count) = (self.at.set + 1, 0);
        }
        self.at.last = Some(t);
        let set = self.at.set;
        let next = if let Move::Hold { lasted, over } = what {
            emit(Event::Hold { t, exercise, set, lasted, over });
            self.plan.as_mut().map(|plan| plan.hold(t, lasted, over))
        } else {
            self.at.count += 1;
            let count = self.at.count;
            emit(Event::Rep { t, exercise, set, count });
            self.plan.as_mut().map(|plan| plan.rep(t, count))
        };
        self.go_on(t, next.unwrap_or(Next::Same), emit);
    }
}

/// A text with another number in the place of `n`; `None` where `n` is not written in digits.
fn with_number(text: &str, n: u32, other: u32) -> Option<String> {
    let digits = n.to_string();
    let is_digit = |at: Option<char>| at.is_some_and(|c| c.is_ascii_digit());
    let (at, _) = text.match_indices(&digits).find(|(i, found)| {
        let (before, after) = (text.get(..*i).unwrap_or_default(), text.get(i + found.len()..).unwrap_or_default());
        !is_digit(before.chars().next_back()) && !is_digit(after.chars().next())
    })?;
    Some(format!("{}{other}{}", text.get(..at)?, text.get(at + digits.len()..)?))
}

/// What is said when a set begins.
fn set_words(bout: Bout, lang: Lang) -> String {
    let name = bout.exercise.name(lang.code());
    match (lang, bout.goal) {
        (Lang::En, Goal::Reps(n)) => format!("Set {} of {}: {n} {name}.", bout.set, bout.of),
        (Lang::En, Goal::Seconds(s)) => format!("Set {} of {}: {name}, {s} seconds.", bout.set, bout.of),
        (Lang::Ko, Goal::Reps(n)) => format!("{}세트 중 {}세트: {name} {n}회.", bout.of, bout.set),
        (Lang::Ko, Goal::Seconds(s)) => format!("{}세트 중 {}세트: {name} {s}초.", bout.of, bout.set),
    }
}

fn rest_words(lasts: Duration, next: Bout, lang: Lang) -> String {
    let (seconds, name) = (lasts.as_secs(), next.exercise.name(lang.code()));
    match lang {
        Lang::En => format!("Rest {seconds} seconds. Next: {name}."),
        Lang::Ko => format!("{seconds}초 쉬세요. 다음은 {name}."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::workout::Workout;
    use spotter_vision::reps::Phase;

    fn tally(language: &str, exercise: Option<Exercise>) -> Tally {
        let config = Config { language: language.into(), exercise, own_count: true, ..Config::default() };
        Tally::new(&config, Arc::default(), Arc::default())
    }

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
        let tally = tally("en", Some(Exercise::Squat));
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
        let tally = tally("en", None);
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
        let tally = tally("ko", Some(Exercise::Squat));
        told(&tally, vec![rep(1, Exercise::Squat)]);
        tally.choose(Some(Exercise::PushUp));
        let events = vec![Event::Tick { t: s(3) }, rep(3, Exercise::Squat), rep(4, Exercise::PushUp)];
        assert_eq!(told(&tally, events), (vec![(4, 1, 1)], vec![Exercise::PushUp]));
    }

    #[test]
    fn what_waits_for_a_name_is_bounded() {
        let tally = tally("en", None);
        told(&tally, (0..2000).map(|t| rep(t, Exercise::Squat)).collect());
        assert_eq!(tally.inner.lock().unwrap().pending.len(), PENDING);
    }

    #[test]
    fn a_workout_says_what_counts() {
        let squat = Bout { exercise: Exercise::Squat, set: 1, of: 2, goal: Goal::Reps(2), rest: s(10) };
        let bouts = vec![squat, Bout { set: 2, ..squat }, Bout { exercise: Exercise::PushUp, of: 1, ..squat }];
        let config = Config { workout: Some(Workout { name: "x".into(), bouts }), ..Config::default() };
        let tally = Tally::new(&config, Arc::default(), Arc::default());
        let mut said = Vec::new();
        let mut feed = |event| {
            tally.pass(event, &mut |e| match e {
                Event::Rep { t, exercise, set, count } => {
                    said.push(format!("{} {exercise:?} {set}.{count}", t.as_secs()))
                }
                Event::Feedback(f) if f.kind == Kind::Program => said.push(f.text),
                Event::Finished { .. } => said.push("finished".into()),
                _ => {}
            });
        };
        feed(Event::Begun { t: s(0) });
        for (t, exercise) in [(1, Exercise::Squat), (2, Exercise::PushUp), (3, Exercise::Squat), (5, Exercise::Squat)] {
            feed(rep(t, exercise));
        }
        feed(Event::Tick { t: s(13) });
        feed(rep(14, Exercise::Squat));
        feed(rep(15, Exercise::Squat));
        feed(Event::Tick { t: s(25) });
        feed(rep(26, Exercise::PushUp));
        feed(rep(27, Exercise::PushUp));
        assert_eq!(
            said,
            [
                "Set 1 of 2: 2 squats.",
                "1 Squat 1.1",
                "3 Squat 1.2",
                "Rest 10 seconds. Next: squats.",
                "Set 2 of 2: 2 squats.",
                "14 Squat 2.1",
                "15 Squat 2.2",
                "Rest 10 seconds. Next: push-ups.",
                "Set 1 of 1: 2 push-ups.",
                "26 PushUp 1.1",
                "27 PushUp 1.2",
                "finished",
                "That's the workout. Well done!",
            ]
        );
    }

    #[test]
    fn the_coach_does_not_count_against_the_poses() {
        let tally = tally("en", Some(Exercise::Squat));
        let mut said_words = Vec::new();
        let mut feed = |event| {
            tally.pass(event, &mut |e| {
                if let Event::Feedback(f) = e {
                    said_words.push(f.text);
                }
            });
        };
        feed(said(1, "That's 6."));
        feed(rep(2, Exercise::Squat));
        feed(rep(3, Exercise::Squat));
        for text in ["That's 6.", "2, nice.", "That's 3.", "Knees wider, in line with your feet."] {
            feed(said(4, text));
        }
        let expected = ["That's 6.", "That's 2.", "2, nice.", "That's 3.", "Knees wider, in line with your feet."];
        assert_eq!(said_words, expected);
        assert_eq!(tally.inner.lock().unwrap().monitor.counts().miscounted, 1);
    }

    /// While nobody has named the exercise, the joints have counted all of them.
    #[test]
    fn counts_before_an_exercise_is_named_are_those_of_the_joints() {
        let tally = tally("en", None);
        let mut said_words = Vec::new();
        let mut feed = |event| {
            tally.pass(event, &mut |e| {
                if let Event::Feedback(f) = e {
                    said_words.push(f.text);
                }
            });
        };
        feed(said(1, "That's 3."));
        feed(Event::Move { t: s(1), exercise: Exercise::PushUp, what: Move::Phase(Phase::Out) });
        feed(said(2, "That's 3."));
        for t in 2..6 {
            feed(rep(t, Exercise::PushUp));
        }
        feed(rep(5, Exercise::Boxing));
        for text in ["6 done.", "5, nice.", "12 reps."] {
            feed(said(6, text));
        }
        // Nobody is followed at first; then somebody is, who has done nothing yet.
        assert_eq!(said_words, ["That's 3.", "4 done.", "5, nice.", "4 reps."]);
        assert_eq!(tally.inner.lock().unwrap().monitor.counts().miscounted, 3);
    }

    #[test]
    fn a_number_is_replaced_as_a_whole() {
        assert_eq!(with_number("That's 6.", 6, 4).as_deref(), Some("That's 4."));
        assert_eq!(with_number("16 of 6", 6, 4).as_deref(), Some("16 of 4"));
        assert_eq!(with_number("좋아요, 6회", 6, 4).as_deref(), Some("좋아요, 4회"));
        assert_eq!(with_number("six", 6, 4), None);
    }
}
