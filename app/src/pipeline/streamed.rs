//! The engine's streaming coach behind the pipeline's seam.

use super::Coach;
use spotter_engine::{
    coach::{Attended, Step, session::CoachSession},
    speculate::Stats,
};
use spotter_vision::lens::Sight;

/// A session of a model folder.
pub(crate) struct StreamedCoach {
    session: CoachSession,
    name: String,
}

impl StreamedCoach {
    /// `name` is what the timeline calls the model.
    pub(crate) fn new(session: CoachSession, name: String) -> Self {
        Self { session, name }
    }
}

impl Coach for StreamedCoach {
    fn frame_rate(&self) -> f64 {
        self.session.manifest().frame_rate
    }

    fn observe(&mut self, sight: &Sight, emit: &mut dyn FnMut(&str) -> bool) -> anyhow::Result<Step> {
        Ok(self.session.observe(sight, emit)?)
    }

    fn rest(&mut self) -> anyhow::Result<()> {
        Ok(self.session.rest()?)
    }

    fn reset(&mut self) {
        if let Err(error) = self.session.reset() {
            // the next look fails the same way and is told there
            tracing::warn!(%error, "the coach could not be reset");
        }
    }

    fn describe(&self) -> String {
        self.name.clone()
    }

    fn set_talkativeness(&mut self, bias: f32) {
        self.session.options_mut().talkativeness = bias;
    }

    fn set_exercise(&mut self, exercise: Option<String>) -> anyhow::Result<()> {
        Ok(self.session.set_exercise(exercise)?)
    }

    fn attended(&self) -> Option<Attended> {
        self.session.attended()
    }

    fn speculation(&self) -> Option<Stats> {
        self.session.speculation()
    }
}
