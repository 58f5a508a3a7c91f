//! The stage of the coach: when it looks, what becomes of its words.

use super::{
    Coach, Config, Event, Failure,
    clock::Cancel,
    stages::{Emit, Message, attempt},
    stats::{Monitor, Stage},
};
use spotter_engine::coach::{Feedback, Kind, Step};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

/// The talkativeness that the user may turn while the coach runs.
#[derive(Debug, Default)]
pub(crate) struct Talkativeness(AtomicU32);

impl Talkativeness {
    /// A dial at `bias`.
    pub(crate) fn new(bias: f32) -> Self {
        Self(AtomicU32::new(bias.to_bits()))
    }

    /// Turns it.
    pub(crate) fn set(&self, bias: f32) {
        self.0.store(bias.to_bits(), Ordering::Relaxed);
    }

    /// Reads it.
    pub(crate) fn get(&self) -> f32 {
        f32::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// What the coach has to know of the others: the exercise that it is to be told at its next look, and when Spotter spoke
/// itself.
#[derive(Debug, Default)]
pub(crate) struct Task {
    /// The outer `None` is no news.
    exercise: Mutex<Option<Option<String>>>,
    said: Mutex<Option<Duration>>,
}

impl Task {
    /// Leaves a message for the coach; a newer one replaces it.
    pub(crate) fn set(&self, exercise: Option<String>) {
        *self.exercise.lock().unwrap_or_else(PoisonError::into_inner) = Some(exercise);
    }

    /// Words of Spotter's own were said at media time `t`; those of the coach keep their distance.
    pub(super) fn said(&self, t: Duration) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        *said = said.max(Some(t));
    }

    /// When that was last.
    fn last_said(&self) -> Option<Duration> {
        *self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the message.
    fn take(&self) -> Option<Option<String>> {
        self.exercise.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Why an utterance was stopped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// Another had just begun.
    Held,
    /// Its words would come too late.
    Stale,
    /// The run ends.
    Cancelled,
}

/// An utterance in the making.
struct Utterance<'a> {
    config: &'a Config,
    cancel: &'a Cancel,
    t_frame: Duration,
    start: Duration,
    begun: Instant,
    last_begin: Option<Duration>,
    pieces: u32,
    text: String,
    first: Option<Instant>,
    stop: Option<Stop>,
}

impl Utterance<'_> {
    /// Takes a piece of text; false stops the coach.
    fn take(&mut self, piece: &str, emit: Emit<'_>) -> bool {
        self.pieces = self.pieces.saturating_add(1);
        self.first.get_or_insert_with(Instant::now);
        let now = self.start + self.config.latency.cost(self.pieces, self.begun.elapsed());
        let rested = self.last_begin.is_none_or(|last| self.t_frame.saturating_sub(last) >= self.config.cooldown);
        self.stop = if self.cancel.is_cancelled() {
            Some(Stop::Cancelled)
        } else if !rested {
            Some(Stop::Held)
        } else if now.saturating_sub(self.t_frame) > self.config.stale_after {
            Some(Stop::Stale)
        } else {
            None
        };
        if self.stop.is_some() {
            return false;
        }
        self.text.push_str(piece);
        emit(Event::Partial { t_frame: self.t_frame, text: self.text.clone() });
        true
    }

    /// Media time of the first word, given the number of pieces of the whole.
    fn t_ready(&self) -> Duration {
        let until_first = self.first.map_or_else(|| self.begun.elapsed(), |first| first - self.begun);
        self.start + self.config.latency.cost(1, until_first)
    }
}

/// Shows frames to the coach, one at a time. While it is busy only the newest frame waits.
pub(super) struct Speaker {
    coach: Option<Box<dyn Coach>>,
    config: Config,
    cancel: Arc<Cancel>,
    dial: Arc<Talkativeness>,
    task: Arc<Task>,
    turned: f32,
    monitor: Arc<Monitor>,
    busy_until: Duration,
    waiting: Option<Message>,
    last_begin: Option<Duration>,
}

impl Speaker {
    pub(super) fn new(
        coach: Box<dyn Coach>,
        config: &Config,
        cancel: Arc<Cancel>,
        dial: Arc<Talkativeness>,
        task: Arc<Task>,
        monitor: Arc<Monitor>,
    ) -> Self {
        let turned = dial.get();
        Self {
            coach: Some(coach),
            config: config.clone(),
            cancel,
            dial,
            task,
            turned,
            monitor,
            busy_until: Duration::ZERO,
            waiting: None,
            last_begin: None,
        }
    }

    /// Takes a frame in the order of media time. The coach sees it now if the latency model says that it is free,
    /// else when it is, unless a newer one comes first.
    pub(super) fn offer(&mut self, message: Message, emit: Emit<'_>) {
        let t = message.sight.frame.t;
        self.catch_up(t, emit);
        self.last_begin = self.last_begin.max(message.cue_at).max(self.task.last_said());
        if !message.ask {
            self.monitor.count(|c| c.withheld += 1);
        } else if self.busy_until <= t {
            self.look(message, t, emit);
        } else if self.waiting.replace(message).is_some() {
            self.monitor.count(|c| c.skipped += 1);
        }
    }

    /// Takes a frame that can't wait: the coach is free at media time `now`, because its thread is.
    pub(super) fn offer_now(&mut self, message: Message, now: Duration, emit: Emit<'_>) {
        self.last_begin = self.last_begin.max(message.cue_at).max(self.task.last_said());
        if message.ask {
            let start = now.max(message.sight.frame.t);
            self.look(message, start, emit);
        } else {
            self.monitor.count(|c| c.withheld += 1);
        }
    }

    /// The stream ended: the coach sees what waits.
    pub(super) fn finish(&mut self, emit: Emit<'_>) {
        self.catch_up(Duration::MAX, emit);
    }

    fn catch_up(&mut self, t: Duration, emit: Emit<'_>) {
        if self.busy_until <= t
            && let Some(message) = self.waiting.take()
        {
            let start = self.busy_until;
            self.look(message, start, emit);
        }
    }

    fn look(&mut self, message: Message, start: Duration, emit: Emit<'_>) {
        let Some(coach) = self.coach.as_mut() else { return };
        if self.dial.get() != self.turned {
            self.turned = self.dial.get();
            coach.set_talkativeness(self.turned);
        }
        if let Some(exercise) = self.task.take()
            && let Err(error) = coach.set_exercise(exercise)
        {
            tracing::warn!("the coach was not told the exercise: {error:#}");
        }
        let mut utterance = Utterance {
            config: &self.config,
            cancel: &self.cancel,
            t_frame: message.sight.frame.t,
            start,
            begun: Instant::now(),
            last_begin: self.last_begin,
            pieces: 0,
            text: String::new(),
            first: None,
            stop: None,
        };
        let seen = attempt("coach", utterance.t_frame, || {
            coach.observe(&message.sight, &mut |piece| utterance.take(piece, emit))
        });
        let elapsed = utterance.begun.elapsed();
        let decided = utterance.first.map_or(elapsed, |first| first - utterance.begun);
        let encode = coach.encode_time().unwrap_or_default().min(decided);
        self.monitor.set_attended(coach.attended());
        if utterance.first.is_some() {
            self.monitor.set_speculation(coach.speculation());
        }
        self.record(&message, decided, encode, elapsed);
        let (first, t_frame, told) = (utterance.first, utterance.t_frame, !utterance.text.is_empty());
        match seen {
            Ok(step) => {
                let spoken = settle(utterance, step, &self.monitor);
                if let (Some(first), Some(_)) = (first, &spoken.feedback) {
                    self.monitor.time(Stage::GlassToCue, first.saturating_duration_since(message.arrived));
                }
                self.busy_until = start + self.config.latency.cost(spoken.pieces, elapsed);
                match spoken.feedback {
                    Some(feedback) => {
                        self.last_begin = Some(feedback.t_frame);
                        emit(Event::Feedback(feedback));
                    }
                    None if told => emit(Event::Withdrawn { t_frame }),
                    None => {}
                }
                if let Some(coach) = &mut self.coach
                    && let Err(failure) = attempt("coach", t_frame, || coach.rest())
                {
                    self.fail(failure, emit);
                }
            }
            Err(failure) => self.fail(failure, emit),
        }
    }

    /// Goes on without a coach.
    fn fail(&mut self, failure: Failure, emit: Emit<'_>) {
        self.coach = None;
        emit(Event::Failed(failure));
    }

    fn record(&self, message: &Message, decided: Duration, encode: Duration, elapsed: Duration) {
        let monitor = &self.monitor;
        monitor.count(|c| c.observed += 1);
        if !encode.is_zero() {
            monitor.time(Stage::Encode, encode);
        }
        monitor.time(Stage::Decide, decided - encode);
        if elapsed > decided {
            monitor.time(Stage::Speak, elapsed - decided);
        }
        monitor.time(Stage::FrameToDecision, message.arrived.elapsed().saturating_sub(elapsed - decided));
    }

    /// Gives the coach back, unless it failed.
    pub(super) fn into_coach(self) -> Option<Box<dyn Coach>> {
        self.coach
    }
}

struct Spoken {
    pieces: u32,
    feedback: Option<Feedback>,
}

/// What became of an utterance: said, or stopped and counted.
fn settle(mut utterance: Utterance<'_>, step: Step, monitor: &Monitor) -> Spoken {
    // a coach that gives its words only at the end is asked here what it would have been asked at its first piece
    if let Some(whole) = &step.feedback
        && utterance.pieces == 0
    {
        let words = u32::try_from(whole.text.split_whitespace().count()).unwrap_or(u32::MAX).clamp(1, 10_000);
        utterance.take(&whole.text, &mut |_| {});
        utterance.pieces = words;
    }
    let (pieces, t_ready) = (utterance.pieces, utterance.t_ready());
    match utterance.stop {
        Some(Stop::Held) => monitor.count(|c| c.held += 1),
        Some(Stop::Stale) => monitor.count(|c| c.stale += 1),
        Some(Stop::Cancelled) | None => {}
    }
    let said = step.feedback.filter(|f| utterance.stop.is_none() && !f.text.trim().is_empty());
    let feedback = said.map(|f| {
        monitor.count(|c| c.utterances += 1);
        Feedback { t_frame: utterance.t_frame, t_ready, text: f.text.trim().to_owned(), kind: Kind::Coaching }
    });
    Spoken { pieces, feedback }
}
