//! Which exercise is meant, and what counts for it.
//!
//! The tally stands where all events of a run come together and passes them on. It knows the exercise because the user
//! chose it or because the coach named it, and turns the moves of that exercise into sets and repetitions.

mod corrections;
#[cfg(test)]
mod tests;
mod words;

use super::{
    Config, Event,
    moves::Move,
    speaker::Task,
    stats::Monitor,
    workout::{Bout, Next, Plan, Stand},
};
use corrections::Corrections;
use spotter_datasets::synthetic::{
    Exercise, Mistake,
    phrases::{self, Lang, Meaning, SaidKind},
};
use spotter_engine::coach::{Feedback, Kind};
use spotter_vision::{lens::View, reps::Excursion};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use words::{done_words, rest_words, set_words, with_number};

/// After so long without a repetition another set begins.
const SET_GAP: Duration = Duration::from_secs(20);
/// Moves this old still count for an exercise that is named only now: nobody names an exercise before seeing some of it.
const LATE_NAME: Duration = Duration::from_secs(12);
/// Moves kept for an exercise that is named later.
const PENDING: usize = 256;
/// Seconds of a hold that count like a repetition, where corrections are spaced.
const HOLD_STEP: u64 = 4;
/// Praise for a mistake that is gone comes within this, or not at all.
const GONE_WITHIN: Duration = Duration::from_secs(4);

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
    /// Corrections are spaced; `None` passes on whatever the coach says.
    corrections: Option<Corrections>,
    /// Mistakes that are gone and were not praised yet, since when.
    gone: Option<(Duration, Exercise, Mistake)>,
    /// No two utterances begin closer than this.
    cooldown: Duration,
    /// When the last words were said.
    said: Option<Duration>,
    clock: Clock,
    /// Joints are followed: something moved.
    joints: bool,
    monitor: Arc<Monitor>,
}

/// The time of the workout, which stands still while the person is away.
#[derive(Default)]
struct Clock {
    view: Option<View>,
    last: Duration,
    /// Media time that went by meanwhile.
    away: Duration,
    halted: bool,
}

impl Clock {
    /// Whether the clock stands still: in a set the whole body is wanted, in a rest that somebody is there.
    fn is_away(&self, resting: bool) -> bool {
        match self.view {
            None | Some(View::Clear) => false,
            Some(View::PartlyOut) => !resting,
            Some(View::NoPerson) => true,
        }
    }

    /// The time of the workout at a media time.
    fn at(&self, t: Duration) -> Duration {
        t.saturating_sub(self.away)
    }
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
            corrections: config.spaced.then(Corrections::default),
            gone: None,
            cooldown: config.cooldown,
            said: None,
            clock: Clock::default(),
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
                inner.tick(t, emit);
            }
            Event::Move { t, exercise, what } => inner.moved(t, exercise, what, emit),
            Event::Partial { t_frame, text } => {
                // what may turn out to be a correction that is not due must not flash up
                if !inner.corrections.as_ref().is_some_and(Corrections::is_watching) {
                    emit(Event::Partial { t_frame, text });
                }
            }
            Event::View { view, .. } => {
                inner.clock.view = Some(view);
                emit(event);
            }
            Event::Feedback(feedback) => {
                let t_frame = feedback.t_frame;
                let due = inner.recounted(feedback).filter(|feedback| inner.is_due(feedback));
                let Some(feedback) = due else { return emit(Event::Withdrawn { t_frame }) };
                inner.said = inner.said.max(Some(feedback.t_frame));
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
        self.begin_set(before.exercise != Some(bout.exercise));
        self.say(t, set_words(bout, self.lang), Kind::Program, emit);
    }

    fn say(&mut self, t: Duration, text: String, kind: Kind, emit: Emit<'_>) {
        self.said = self.said.max(Some(t));
        self.task.said(t);
        emit(Event::Feedback(Feedback { t_frame: t, t_ready: t, text, kind }));
    }

    /// A frame was looked at: the clock of the workout goes on, and what waited for a quiet moment is said.
    fn tick(&mut self, t: Duration, emit: Emit<'_>) {
        let gone_by = t.saturating_sub(self.clock.last);
        self.clock.last = t;
        let stand = self.plan.as_ref().map(|plan| plan.stand);
        let away = match stand {
            Some(Stand::Work(_)) => self.clock.is_away(false),
            Some(Stand::Rest(_)) => self.clock.is_away(true),
            Some(Stand::Done) | None => false,
        };
        if std::mem::replace(&mut self.clock.halted, away) != away {
            emit(Event::Clock { t, runs: !away });
        }
        if away {
            self.clock.away += gone_by;
        }
        let at = self.clock.at(t);
        let next = self.plan.as_mut().map_or(Next::Same, |plan| plan.tick(at));
        self.go_on(t, next, emit);
        self.praise(t, emit);
    }

    /// Tells a mistake that is gone, once nothing else has just been said.
    fn praise(&mut self, t: Duration, emit: Emit<'_>) {
        let Some((since, exercise, mistake)) = self.gone else { return };
        if t.saturating_sub(since) > GONE_WITHIN {
            self.gone = None;
        } else if self.said.is_none_or(|said| t.saturating_sub(said) >= self.cooldown) {
            self.gone = None;
            let sentences = Meaning::Fixed(exercise, mistake).sentences(self.lang);
            let turn = t.as_secs() as usize % sentences.len().max(1);
            if let Some(text) = sentences.into_iter().nth(turn) {
                self.say(t, text, Kind::Coaching, emit);
            }
        }
    }

    /// Whether the words are to be said: a correction that came a moment ago is not.
    fn is_due(&mut self, feedback: &Feedback) -> bool {
        let Some(corrections) = self.corrections.as_mut().filter(|_| feedback.kind == Kind::Coaching) else {
            return true;
        };
        let said = phrases::classify(&feedback.text, self.lang);
        let (Some(mistake), kind) = (said.mistake, said.kind) else { return true };
        // what is corrected or praised now needs no praise of our own
        self.gone = self.gone.filter(|(_, _, gone)| *gone != mistake);
        match kind {
            SaidKind::Correction => {
                let due = corrections.hear(feedback.t_ready, mistake);
                self.monitor.count(|c| c.repeated += u64::from(!due));
                due
            }
            SaidKind::Fixed => {
                corrections.fixed(mistake);
                true
            }
            _ => true,
        }
    }

    fn go_on(&mut self, t: Duration, next: Next, emit: Emit<'_>) {
        match next {
            Next::Same => {}
            Next::Set(bout) => self.start(t, bout, emit),
            Next::Rest(lasts, next) => {
                emit(Event::Rest { t, lasts, next });
                self.say(t, rest_words(lasts, next, self.lang), Kind::Program, emit);
            }
            Next::Done => {
                emit(Event::Finished { t });
                self.say(t, done_words(self.lang).to_owned(), Kind::Program, emit);
            }
        }
    }

    /// Another set begins, or another exercise: what was corrected before is forgotten.
    fn begin_set(&mut self, another_exercise: bool) {
        self.gone = None;
        if let Some(corrections) = &mut self.corrections {
            if another_exercise {
                *corrections = Corrections::default();
            } else {
                corrections.next_set();
            }
        }
    }

    fn choose(&mut self, t: Duration, exercise: Option<Exercise>, emit: Emit<'_>) {
        self.plan = None;
        self.chosen = exercise.is_some();
        self.pending.clear();
        if exercise != self.at.exercise {
            self.task.set(exercise.map(|e| e.name(self.lang.code()).to_owned()));
            self.begin_set(true);
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
        self.begin_set(true);
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
            Move::Excursion(Excursion::Half) => {
                if let Some(corrections) = &mut self.corrections {
                    corrections.half(t);
                }
                return emit(Event::HalfRep { t, exercise });
            }
            Move::Excursion(Excursion::Full) | Move::Hold { .. } => {}
        }
        // the sets of a workout are the workout's own
        if self.plan.is_none() && self.at.last.is_some_and(|last| t.saturating_sub(last) > SET_GAP) {
            (self.at.set, self.at.count) = (self.at.set + 1, 0);
            self.begin_set(false);
        }
        self.at.last = Some(t);
        let set = self.at.set;
        let next = if let Move::Hold { lasted, over } = what {
            emit(Event::Hold { t, exercise, set, lasted, over });
            if !over && lasted.as_secs().is_multiple_of(HOLD_STEP) {
                self.clean(t, exercise);
            }
            self.plan.as_mut().map(|plan| plan.hold(self.clock.at(t), lasted, over))
        } else {
            self.at.count += 1;
            let count = self.at.count;
            emit(Event::Rep { t, exercise, set, count });
            self.clean(t, exercise);
            self.plan.as_mut().map(|plan| plan.rep(self.clock.at(t), count))
        };
        self.go_on(t, next.unwrap_or(Next::Same), emit);
    }

    /// A repetition, or some seconds of a hold, went by.
    fn clean(&mut self, t: Duration, exercise: Exercise) {
        if let Some(mistake) = self.corrections.as_mut().and_then(|known| known.rep(t)) {
            self.gone = Some((t, exercise, mistake));
        }
    }
}
