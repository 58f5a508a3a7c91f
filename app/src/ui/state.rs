//! What the window shows of a run: a pure function of the events so far.

use crate::{
    pipeline::{
        Event,
        workout::{Bout, Goal},
    },
    timeline::reading_time,
};
use spotter_datasets::synthetic::Exercise;
use spotter_engine::coach::Feedback;
use spotter_vision::{lens::View, pose::Missing, reps::Phase, source::Trouble};
use std::{collections::VecDeque, time::Duration};

/// Utterances kept in the log.
const LOG: usize = 500;

/// How the person is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Since when.
    pub(super) t: Duration,
    pub(super) view: View,
    pub(super) missing: Option<Missing>,
    pub(super) people: usize,
}

/// The exercise and how far it has come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Work {
    pub(super) exercise: Option<Exercise>,
    pub(super) phase: Phase,
    /// From 1; 0 before the first repetition.
    pub(super) set: u32,
    pub(super) count: u32,
    /// The set of the workout.
    pub(super) bout: Option<Bout>,
    /// Until when is rested, and what comes then.
    pub(super) rest: Option<(Duration, Bout)>,
    /// Until when a set for a time lasts, once its clock runs.
    pub(super) until: Option<Duration>,
    /// Since when the clock of the workout stands still, because the person is away.
    pub(super) halted: Option<Duration>,
    /// The workout is done.
    pub(super) finished: bool,
    /// How long something was held, and whether that is over.
    pub(super) held: Option<(Duration, bool)>,
}

impl Work {
    /// The media time at which the clock of the workout stands.
    fn clock(&self, now: Duration) -> Duration {
        self.halted.map_or(now, |since| since.min(now))
    }

    /// What is left of the rest, and what comes after it.
    pub(super) fn rest_left(&self, now: Duration) -> Option<(Duration, Bout)> {
        self.rest.map(|(until, next)| (until.saturating_sub(self.clock(now)), next))
    }

    /// What is left of a set for a time.
    pub(super) fn time_left(&self, now: Duration) -> Option<Duration> {
        self.until.map(|until| until.saturating_sub(self.clock(now)))
    }

    /// The clock of the workout stops or goes on; what it counts down to comes so much later.
    fn clock_runs(&mut self, t: Duration, runs: bool) {
        if !runs {
            self.halted.get_or_insert(t);
            return;
        }
        let Some(since) = self.halted.take() else { return };
        let stood = t.saturating_sub(since);
        self.until = self.until.map(|until| until + stood);
        self.rest = self.rest.map(|(until, next)| (until + stood, next));
    }

    /// A repetition is done; with the first one the clock of a set for a time begins.
    fn rep(&mut self, t: Duration, set: u32, count: u32) {
        (self.set, self.count) = (set, count);
        if let Some(Goal::Seconds(s)) = self.bout.map(|bout| bout.goal) {
            self.until.get_or_insert(t + Duration::from_secs(u64::from(s)));
        }
    }
}

/// Why there is no picture: in words, and what kind of trouble it is.
pub(super) type Lost = (String, Option<Trouble>);

/// What is shown.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// The view that is believed; `None` before the first sight.
    pub(super) seen: Option<Seen>,
    /// The person was in view for the lead-in.
    pub(super) begun: bool,
    /// What was said, newest last.
    pub(super) log: VecDeque<Feedback>,
    /// Words that are being made.
    pub(super) partial: Option<String>,
    /// Why there is no picture, while the camera is lost.
    pub(super) lost: Option<Lost>,
    /// Stages that stopped.
    pub(super) failures: Vec<String>,
    /// What is being done.
    pub(super) work: Work,
}

impl State {
    /// Takes in an event.
    pub(super) fn apply(&mut self, event: Event) {
        match event {
            Event::View { t, view, missing, people } => self.seen = Some(Seen { t, view, missing, people }),
            Event::Source { problem, trouble, .. } => self.lost = problem.map(|problem| (problem, trouble)),
            Event::Begun { .. } => self.begun = true,
            Event::Partial { text, .. } => self.partial = Some(text),
            Event::Feedback(feedback) => {
                self.partial = None;
                if self.log.len() == LOG {
                    self.log.pop_front();
                }
                self.log.push_back(feedback);
            }
            Event::Exercise { exercise, .. } => self.work = Work { exercise: Some(exercise), ..Work::default() },
            Event::Phase { phase, .. } => self.work.phase = phase,
            Event::Rep { t, set, count, .. } => self.work.rep(t, set, count),
            Event::Hold { set, lasted, over, .. } => {
                (self.work.set, self.work.held) = (set, Some((lasted, over)));
            }
            Event::Set { bout, .. } => {
                self.work = Work { exercise: Some(bout.exercise), set: bout.set, bout: Some(bout), ..Work::default() };
            }
            Event::Rest { t, lasts, next } => (self.work.rest, self.work.until) = (Some((t + lasts, next)), None),
            Event::Clock { t, runs } => self.work.clock_runs(t, runs),
            Event::Finished { .. } => (self.work.finished, self.work.until) = (true, None),
            Event::Withdrawn { .. } => self.partial = None,
            Event::HalfRep { .. } | Event::Move { .. } | Event::Tick { .. } => {}
            Event::Failed(failure) => self.failures.push(format!("{} stopped: {}", failure.stage, failure.problem)),
        }
    }

    /// The feedback to show large at media time `now`.
    pub(super) fn current(&self, now: Duration) -> Option<&Feedback> {
        let last = self.log.back()?;
        // read at leisure: twice the time of a subtitle
        (now < last.t_ready + 2 * reading_time(&last.text)).then_some(last)
    }

    /// Seconds until the session begins, while the person is in view and it has not.
    pub(super) fn countdown(&self, now: Duration, lead_in: Duration) -> Option<u64> {
        let seen = self.seen.filter(|seen| !self.begun && seen.view == View::Clear)?;
        let left = (seen.t + lead_in).saturating_sub(now);
        Some(left.as_millis().div_ceil(1000) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Failure;
    use spotter_engine::coach::Kind;

    fn said(ms: u64) -> Event {
        let t = Duration::from_millis(ms);
        Event::Feedback(Feedback { t_frame: t, t_ready: t, text: format!("at {ms}"), kind: Kind::Coaching })
    }

    #[test]
    fn the_newest_word_is_current_until_it_is_read() {
        let mut state = State::default();
        assert_eq!(state.current(Duration::ZERO), None);
        state.apply(Event::Partial { t_frame: Duration::ZERO, text: "at".into() });
        state.apply(said(1000));
        state.apply(said(2000));
        assert_eq!(state.partial, None);
        assert_eq!(state.current(Duration::from_millis(2100)).map(|f| f.text.as_str()), Some("at 2000"));
        assert_eq!(state.current(Duration::from_secs(20)), None);
        assert_eq!(state.log.len(), 2);
    }

    #[test]
    fn the_log_of_a_long_session_is_bounded() {
        let mut state = State::default();
        (0..3 * LOG as u64).for_each(|i| state.apply(said(i)));
        assert_eq!(state.log.len(), LOG);
        assert!(state.log.back().is_some_and(|f| f.text == format!("at {}", 3 * LOG - 1)));
    }

    #[test]
    fn failures_and_views_are_kept() {
        let mut state = State::default();
        let t = Duration::from_secs(1);
        state.apply(Event::View { t, view: View::PartlyOut, missing: Some(Missing::Feet), people: 2 });
        let failure = Failure { stage: "coach", t: Duration::ZERO, problem: "broke".into() };
        state.apply(Event::Failed(failure));
        let seen = Seen { t, view: View::PartlyOut, missing: Some(Missing::Feet), people: 2 };
        assert_eq!(state.seen, Some(seen));
        assert_eq!(state.failures, ["coach stopped: broke"]);
    }

    #[test]
    fn the_countdown_runs_while_somebody_is_in_view() {
        let (mut state, lead) = (State::default(), Duration::from_secs(3));
        let ms = Duration::from_millis;
        assert_eq!(state.countdown(ms(0), lead), None);
        state.apply(Event::View { t: ms(1000), view: View::Clear, missing: None, people: 1 });
        assert_eq!([1000, 1001, 2500, 3999, 5000].map(|t| state.countdown(ms(t), lead)), [3, 3, 2, 1, 0].map(Some));
        state.apply(Event::View { t: ms(2000), view: View::PartlyOut, missing: None, people: 1 });
        assert_eq!(state.countdown(ms(2500), lead), None);
        state.apply(Event::View { t: ms(3000), view: View::Clear, missing: None, people: 1 });
        state.apply(Event::Begun { t: ms(6000) });
        assert_eq!(state.countdown(ms(6000), lead), None);
    }
}
