//! Fakes of the seams, for tests.

use super::{Coach, Parts};
use spotter_engine::coach::{Feedback, Kind, Step};
use spotter_vision::{
    Frame,
    lens::{Lens, LensError, Sight, View},
    source::{FrameSource, SourceError, SourceInfo},
};
use std::{thread, time::Duration};

/// Small pictures at a fixed rate, which can break off.
pub(crate) struct FakeSource {
    info: SourceInfo,
    next: u64,
    frames: u64,
    fails: bool,
    /// How long each picture takes to come.
    takes: Duration,
}

impl FakeSource {
    pub(crate) fn new(fps: f64, seconds: f64) -> Self {
        let info = SourceInfo { name: "fake".into(), width: 4, height: 4, fps, duration: None };
        Self { info, next: 0, frames: (fps * seconds) as u64, fails: false, takes: Duration::ZERO }
    }

    /// One that sets the pace, as a camera does.
    pub(crate) fn taking(mut self, takes: Duration) -> Self {
        self.takes = takes;
        self
    }

    pub(crate) fn breaking_off(mut self) -> Self {
        self.fails = true;
        self
    }
}

impl FrameSource for FakeSource {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, SourceError> {
        let t = Duration::from_secs_f64(self.next as f64 / self.info.fps);
        if self.next == self.frames {
            let problem = "the file is cut".to_owned();
            let broken = SourceError::Broken { path: "fake".into(), t, frames: self.next, problem };
            return if std::mem::take(&mut self.fails) { Err(broken) } else { Ok(None) };
        }
        self.next += 1;
        thread::sleep(self.takes);
        Ok(Frame::from_rgb(self.next - 1, t, 4, 4, vec![self.next as u8; 48]))
    }
}

/// Sees the view that a function of media seconds gives; panics where that does.
pub(crate) struct FakeLens(pub(crate) fn(f64) -> View);

impl Lens for FakeLens {
    fn look(&mut self, frame: &Frame) -> Result<Sight, LensError> {
        Ok(Sight { frame: frame.clone(), view: (self.0)(frame.t.as_secs_f64()), people: 1, person: 0, body: None })
    }
    fn reset(&mut self) {}
}

/// Says `words` words every `every` frames it sees, taking `cost` for each look.
pub(crate) struct FakeCoach {
    pub(crate) every: u64,
    pub(crate) words: usize,
    pub(crate) cost: Duration,
    pub(crate) panics_at: Option<u64>,
    /// Behind how many looks it can't rest.
    pub(crate) restless_at: Option<u64>,
    pub(crate) seen: u64,
}

impl FakeCoach {
    pub(crate) fn new(every: u64, words: usize) -> Self {
        Self { every, words, cost: Duration::ZERO, panics_at: None, restless_at: None, seen: 0 }
    }
}

impl Coach for FakeCoach {
    fn frame_rate(&self) -> f64 {
        8.0
    }

    fn observe(&mut self, sight: &Sight, emit: &mut dyn FnMut(&str) -> bool) -> anyhow::Result<Step> {
        thread::sleep(self.cost);
        self.seen += 1;
        assert!(self.panics_at != Some(self.seen), "the model broke");
        let mut step = Step { p_speak: 0.0, feedback: None, view: sight.view };
        if self.seen.is_multiple_of(self.every) {
            let text: Vec<String> = (0..self.words).map(|i| format!("w{i} ")).collect();
            if text.iter().all(|w| emit(w)) {
                let (t_frame, t_ready) = (sight.frame.t, sight.frame.t);
                step.feedback = Some(Feedback { t_frame, t_ready, text: text.concat(), kind: Kind::Coaching });
            }
        }
        Ok(step)
    }

    fn rest(&mut self) -> anyhow::Result<()> {
        anyhow::ensure!(self.restless_at != Some(self.seen), "no rest");
        Ok(())
    }

    fn reset(&mut self) {
        self.seen = 0;
    }

    fn describe(&self) -> String {
        "fake".into()
    }
}

pub(crate) fn parts(view: fn(f64) -> View, coach: FakeCoach) -> Parts {
    Parts { lens: Box::new(FakeLens(view)), coach: Box::new(coach) }
}
