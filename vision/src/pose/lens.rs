//! The avatar lens: finds the person and draws the body anew, so that no pixel of the camera reaches the model.

use super::{
    runtime::Runtime,
    tracker::{PoseTracker, TrackerOptions},
    view::{ViewFilter, view_of},
};
use crate::{
    Body, Frame,
    avatar::AvatarView,
    lens::{Lens, LensError, Sight, View},
};
use std::{path::Path, time::Duration};

/// Pose estimation and the drawing of what was found.
pub struct AvatarLens {
    tracker: PoseTracker,
    avatar: AvatarView,
    size: usize,
    view: ViewFilter,
    /// Drawn again while the person is lost for a moment.
    last: Option<Body>,
    person: u32,
}

impl AvatarLens {
    /// Loads the models from `folder` (`assets/pose`) and draws avatars of `size` x `size` pixels.
    ///
    /// # Errors
    /// [`LensError::Model`] when a file is missing or broken.
    pub fn load(runtime: &Runtime, folder: &Path, size: usize, options: TrackerOptions) -> Result<Self, LensError> {
        Ok(Self::new(PoseTracker::load(runtime, folder, options)?, size))
    }

    /// A lens over a tracker.
    pub fn new(tracker: PoseTracker, size: usize) -> Self {
        Self { tracker, avatar: AvatarView::new(size), size, view: ViewFilter::default(), last: None, person: 0 }
    }

    fn draw(&mut self, t: Duration, view: View) -> Vec<u8> {
        match &self.last {
            Some(body) if view != View::NoPerson => self.avatar.draw(t, body),
            _ => self.avatar.empty(),
        }
    }
}

impl Lens for AvatarLens {
    fn look(&mut self, frame: &Frame) -> Result<Sight, LensError> {
        let pose = self.tracker.look(frame)?;
        let people = pose.as_ref().map_or(0, |pose| pose.people);
        if let Some(person) = pose.as_ref().map(|pose| pose.person).filter(|person| *person != self.person) {
            // Place and size of the figure are those of the one before.
            self.person = person;
            self.avatar.reset();
            self.last = None;
        }
        let body = pose.map(|pose| pose.body);
        let view = self.view.next(frame.t, view_of(body.as_ref(), frame));
        if view == View::NoPerson {
            // Whoever comes next may be someone else, elsewhere.
            self.avatar.reset();
            self.last = None;
        }
        if body.is_some() {
            self.last.clone_from(&body);
        }
        let rgb = self.draw(frame.t, view);
        let drawn = Frame::from_rgb(frame.seq, frame.t, self.size, self.size, rgb)
            .ok_or_else(|| LensError::Run(format!("the avatar is not {0} x {0} pixels of RGB", self.size)))?;
        Ok(Sight { frame: drawn, view, people, person: self.person, body })
    }

    fn reset(&mut self) {
        self.tracker.reset();
        self.avatar.reset();
        self.view.reset();
        self.last = None;
    }
}
