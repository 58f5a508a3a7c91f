//! The seam between the pipeline and a streaming model.

use spotter_engine::{
    coach::{Attended, Step},
    speculate::Stats,
};
use spotter_vision::lens::Sight;
use std::time::Duration;

/// One streaming model with its encoder, owned by the model thread.
pub(crate) trait Coach: Send {
    /// Frames a second that it wants to see.
    fn frame_rate(&self) -> f64;

    /// Looks at a frame; speaks or stays silent. Each piece of text goes to `emit` as it is made; when `emit` says
    /// false the utterance is cancelled and the step carries none.
    ///
    /// # Errors
    /// When the model can't be run; the pipeline then goes on without a coach.
    fn observe(&mut self, sight: &Sight, emit: &mut dyn FnMut(&str) -> bool) -> anyhow::Result<Step>;

    /// Does what no answer need wait for; called when a frame was answered.
    ///
    /// # Errors
    /// As [`Self::observe`].
    fn rest(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    /// Forgets everything seen: a new stream begins.
    fn reset(&mut self);

    /// The model in a few words, for the timeline and the window.
    fn describe(&self) -> String;

    /// Changes how readily it speaks, see [`spotter_engine::coach::CoachOptions::talkativeness`].
    fn set_talkativeness(&mut self, _bias: f32) {}

    /// Tells it another exercise, in words, or lets it recognise; it forgets what it has seen.
    ///
    /// # Errors
    /// When the model can't take it; it goes on as before.
    fn set_exercise(&mut self, _exercise: Option<String>) -> anyhow::Result<()> {
        Ok(())
    }

    /// Part of the last [`Coach::observe`] spent in the vision encoder, where the model can tell.
    fn encode_time(&self) -> Option<Duration> {
        None
    }

    /// The patches of the last frame that the vision encoder worked on, where it skips some.
    fn attended(&self) -> Option<Attended> {
        None
    }

    /// What drafting did so far, where the model has a drafter.
    fn speculation(&self) -> Option<Stats> {
        None
    }
}
