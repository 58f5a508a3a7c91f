//! What the pipeline counts and how long its stages take.

use serde::Serialize;
use spotter_engine::{coach::Attended, speculate::Stats};
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Times kept a stage: enough for a steady p95, bounded for a stream of hours.
const WINDOW: usize = 2048;

/// Counts of a run. With a fixed latency model each is a function of the recording and the options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Counts {
    /// Frames that came out of the source.
    pub(crate) frames: u64,
    /// Frames on a tick of the coach's rate, which the lens looked at.
    pub(crate) sampled: u64,
    /// Frames that the coach decided on.
    pub(crate) observed: u64,
    /// Frames not shown to the coach, because it was busy and a newer one came.
    pub(crate) skipped: u64,
    /// Frames withheld from the coach, because the person was not in view.
    pub(crate) withheld: u64,
    /// Frames dropped before the lens, because it was late; those that the camera itself dropped included.
    pub(crate) dropped: u64,
    /// Utterances of the model.
    pub(crate) utterances: u64,
    /// Words about the view.
    pub(crate) view_cues: u64,
    /// Utterances cancelled, because they would have come too late.
    pub(crate) stale: u64,
    /// Utterances held back, because another had just begun.
    pub(crate) held: u64,
    /// Times that a lost camera came back.
    pub(crate) reopened: u64,
    /// Utterances that counted otherwise than the joints did: said with their number, or withheld.
    pub(crate) miscounted: u64,
    /// Corrections that were not said, because the same one had been a few repetitions before.
    pub(crate) repeated: u64,
}

/// A stage whose time is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Stage {
    /// Reading and decoding a frame.
    Capture,
    /// Finding and drawing the person.
    Lens,
    /// Vision encoder, where the coach can tell it apart.
    Encode,
    /// The rest up to the choice to speak or not.
    Decide,
    /// From the first piece of text to the last.
    Speak,
    /// From the frame's arrival to the choice.
    FrameToDecision,
    /// From the frame's arrival to the first words about it.
    GlassToCue,
}

/// Every stage with the name it has in the timeline.
pub(crate) const STAGES: [(Stage, &str); 7] = [
    (Stage::Capture, "capture"),
    (Stage::Lens, "lens"),
    (Stage::Encode, "encode"),
    (Stage::Decide, "decide"),
    (Stage::Speak, "speak"),
    (Stage::FrameToDecision, "frame_to_decision"),
    (Stage::GlassToCue, "glass_to_cue"),
];

/// Typical and slow times of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Quantiles {
    /// Times they are taken from.
    pub(crate) n: usize,
    /// Median in milliseconds.
    pub(crate) p50_ms: f64,
    /// 95th percentile in milliseconds.
    pub(crate) p95_ms: f64,
}

#[derive(Default)]
struct Inner {
    counts: Counts,
    times: [VecDeque<u32>; STAGES.len()],
    end: Duration,
    /// Wall clock of the first and the last frame.
    wall: Option<(Instant, Instant)>,
    speculation: Option<Stats>,
    attended: Option<Attended>,
}

/// Counts and times, written by the stages and read by whoever shows them.
#[derive(Default)]
pub(crate) struct Monitor(Mutex<Inner>);

impl Monitor {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the counts.
    pub(crate) fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.lock().counts);
    }

    /// The counts so far.
    pub(crate) fn counts(&self) -> Counts {
        self.lock().counts
    }

    /// Media time reached.
    pub(crate) fn reach(&self, t: Duration) {
        let now = Instant::now();
        let mut inner = self.lock();
        inner.end = inner.end.max(t);
        inner.wall = Some((inner.wall.map_or(now, |(first, _)| first), now));
    }

    /// How long the run took by the clock on the wall, from the first frame to the last.
    pub(crate) fn wall(&self) -> Duration {
        self.lock().wall.map_or(Duration::ZERO, |(first, last)| last - first)
    }

    /// Media time of the last frame.
    pub(crate) fn end(&self) -> Duration {
        self.lock().end
    }

    /// What drafting did so far.
    pub(crate) fn set_speculation(&self, stats: Option<Stats>) {
        self.lock().speculation = stats;
    }

    /// The same, where the coach has a drafter.
    pub(crate) fn speculation(&self) -> Option<Stats> {
        self.lock().speculation.clone()
    }

    /// The patches of the last frame that the encoder worked on; `None` where it skips none.
    pub(crate) fn set_attended(&self, attended: Option<Attended>) {
        self.lock().attended = attended;
    }

    /// The same, for the window.
    pub(crate) fn attended(&self) -> Option<Attended> {
        self.lock().attended.clone()
    }

    /// Adds a time of a stage.
    pub(crate) fn time(&self, stage: Stage, elapsed: Duration) {
        let mut inner = self.lock();
        if let Some(times) = inner.times.get_mut(stage as usize) {
            if times.len() == WINDOW {
                times.pop_front();
            }
            times.push_back(u32::try_from(elapsed.as_micros()).unwrap_or(u32::MAX));
        }
    }

    /// Quantiles of the latest times of a stage; `None` before the first.
    pub(crate) fn quantiles(&self, stage: Stage) -> Option<Quantiles> {
        let mut times: Vec<u32> = self.lock().times.get(stage as usize)?.iter().copied().collect();
        times.sort_unstable();
        let at = |q: f64| {
            let index = ((times.len() as f64 * q).ceil() as usize).saturating_sub(1);
            times.get(index).map(|&us| f64::from(us) / 1000.0)
        };
        Some(Quantiles { n: times.len(), p50_ms: at(0.5)?, p95_ms: at(0.95)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_a_hundred() {
        let monitor = Monitor::default();
        assert_eq!(monitor.quantiles(Stage::Lens), None);
        for ms in (1..=100).rev() {
            monitor.time(Stage::Lens, Duration::from_millis(ms));
        }
        assert_eq!(monitor.quantiles(Stage::Lens), Some(Quantiles { n: 100, p50_ms: 50.0, p95_ms: 95.0 }));
        assert_eq!(monitor.quantiles(Stage::Speak), None);
    }

    #[test]
    fn an_endless_stream_keeps_a_bounded_window() {
        let monitor = Monitor::default();
        for _ in 0..3 * WINDOW {
            monitor.time(Stage::Decide, Duration::from_millis(1));
        }
        assert_eq!(monitor.quantiles(Stage::Decide).map(|q| q.n), Some(WINDOW));
    }
}
