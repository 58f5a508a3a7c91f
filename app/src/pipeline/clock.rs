//! Media time for a run that is paced: the same clock for a camera and for a recording played at its own speed.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How long a waiting stage may take to see a cancellation or a pause.
const SLICE: Duration = Duration::from_millis(10);

/// Stops every stage.
#[derive(Debug, Default)]
pub(crate) struct Cancel(AtomicBool);

impl Cancel {
    /// Asks every stage to end.
    pub(crate) fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether the stages are to end.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

#[derive(Debug, Default)]
struct State {
    origin: Option<Instant>,
    paused_at: Option<Instant>,
    paused_for: Duration,
}

/// Runs from the first frame on, and stands still while paused.
#[derive(Debug, Default)]
pub(crate) struct MediaClock(Mutex<State>);

impl MediaClock {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first frame is here: media time `t` is now. Later calls change nothing.
    pub(crate) fn start(&self, t: Duration) {
        let mut state = self.lock();
        if state.origin.is_none() {
            let now = Instant::now();
            state.origin = Some(now.checked_sub(t).unwrap_or(now));
        }
    }

    /// Media time; zero before the start.
    pub(crate) fn now(&self) -> Duration {
        let state = self.lock();
        let until = state.paused_at.unwrap_or_else(Instant::now);
        let since = state.origin.map_or(Duration::ZERO, |origin| until.saturating_duration_since(origin));
        since.saturating_sub(state.paused_for)
    }

    /// Stops or goes on.
    pub(crate) fn pause(&self, pause: bool) {
        let mut state = self.lock();
        match (pause, state.paused_at) {
            (true, None) => state.paused_at = Some(Instant::now()),
            (false, Some(since)) => {
                state.paused_for += since.elapsed();
                state.paused_at = None;
            }
            _ => {}
        }
    }

    /// How long it has stood still so far.
    pub(crate) fn paused_for(&self) -> Duration {
        let state = self.lock();
        state.paused_for + state.paused_at.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Whether it stands still.
    pub(crate) fn is_paused(&self) -> bool {
        self.lock().paused_at.is_some()
    }

    /// Sleeps until media time `t`; false when cancelled first.
    pub(crate) fn wait_until(&self, t: Duration, cancel: &Cancel) -> bool {
        while !cancel.is_cancelled() {
            let left = t.saturating_sub(self.now());
            if left.is_zero() && !self.is_paused() {
                return true;
            }
            thread::sleep(if self.is_paused() { SLICE } else { left.min(SLICE) });
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_takes_no_media_time() {
        let clock = MediaClock::default();
        clock.start(Duration::from_secs(5));
        clock.pause(true);
        let before = clock.now();
        thread::sleep(Duration::from_millis(60));
        assert_eq!(clock.now(), before);
        clock.pause(false);
        assert!(clock.now() - before < Duration::from_millis(40));
        assert!(before >= Duration::from_secs(5));
    }

    #[test]
    fn waiting_ends_when_cancelled() {
        let (clock, cancel) = (MediaClock::default(), Cancel::default());
        clock.start(Duration::ZERO);
        cancel.cancel();
        assert!(!clock.wait_until(Duration::from_secs(100), &cancel));
    }
}
