//! Follows the largest person from frame to frame.

use super::{
    crop::Roi,
    detector::{Detection, Detector, near},
    landmarks::{LandmarkModel, Landmarks},
    one_euro::{BodyFilter, OneEuro},
    runtime::Runtime,
};
use crate::{Body, Frame, lens::LensError};
use std::{path::Path, time::Duration};

/// Below this presence the person is lost.
const MIN_PRESENCE: f32 = 0.5;
/// A person that much larger than the one who is followed is coached instead.
const CLEARLY_LARGER: f32 = 1.4;
/// Regions whose centres are closer than this share of a side show the same person.
const SAME_PERSON: f32 = 0.25;

/// How to track.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrackerOptions {
    /// Smoothing of the joints.
    pub filter: OneEuro,
    /// Media time between two looks for other people while one is followed.
    pub count_every: Duration,
    /// Threads of the models.
    pub threads: usize,
}

impl Default for TrackerOptions {
    fn default() -> Self {
        Self { filter: OneEuro::default(), count_every: Duration::from_secs(1), threads: 2 }
    }
}

/// The person who is followed, at one frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Pose {
    /// The joints, smoothed, in pixels of the frame.
    pub body: Body,
    /// The joints as the model gave them.
    pub raw: Body,
    /// Probability that this is a person.
    pub presence: f32,
    /// People in the picture at the last count, this one included.
    pub people: usize,
    /// Number of the person: the next when a clearly larger one is followed instead.
    pub person: u32,
}

/// Detector, landmark model and what is known from the frames before.
pub struct PoseTracker {
    detector: Detector,
    landmarks: LandmarkModel,
    options: TrackerOptions,
    filter: BodyFilter,
    roi: Option<Roi>,
    counted: Option<Duration>,
    people: usize,
    person: u32,
}

impl PoseTracker {
    /// Loads `pose_detection.onnx` and `pose_landmark_lite.onnx` from a folder.
    ///
    /// # Errors
    /// [`LensError::Model`] when a file is missing, broken or another model.
    pub fn load(runtime: &Runtime, folder: &Path, options: TrackerOptions) -> Result<Self, LensError> {
        Self::load_models(
            runtime,
            &folder.join("pose_detection.onnx"),
            &folder.join("pose_landmark_lite.onnx"),
            options,
        )
    }

    /// Loads the two models from named files.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_models(
        runtime: &Runtime,
        detector: &Path,
        landmarks: &Path,
        options: TrackerOptions,
    ) -> Result<Self, LensError> {
        Ok(Self {
            detector: Detector::load(runtime, detector, options.threads)?,
            landmarks: LandmarkModel::load(runtime, landmarks, options.threads)?,
            options,
            filter: BodyFilter::new(options.filter),
            roi: None,
            counted: None,
            people: 0,
            person: 0,
        })
    }

    /// Forgets the person.
    pub fn reset(&mut self) {
        self.filter.reset();
        self.roi = None;
        self.counted = None;
        self.people = 0;
    }

    /// The person in this frame; `None` when nobody is found. Frames come in order of time.
    ///
    /// # Errors
    /// [`LensError::Run`] when the runtime fails.
    pub fn look(&mut self, frame: &Frame) -> Result<Option<Pose>, LensError> {
        if frame.width == 0 || frame.height == 0 {
            return Ok(None);
        }
        if self.roi.is_some() && self.count_is_due(frame.t) {
            self.count(frame)?;
        }
        let found = match self.roi {
            Some(roi) => self.person_in(frame, &roi)?,
            None => None,
        };
        let found = match found {
            Some(found) => Some(found),
            None => self.search(frame)?,
        };
        let Some(found) = found else {
            self.reset();
            return Ok(None);
        };
        self.roi = found.next.is_sane(frame).then_some(found.next);
        let body = self.filter.next(frame.t, &found.body, found.next.side);
        Ok(Some(Pose {
            body,
            raw: found.body,
            presence: found.presence,
            people: self.people.max(1),
            person: self.person,
        }))
    }

    fn count_is_due(&self, t: Duration) -> bool {
        self.counted.is_none_or(|last| t < last || t - last >= self.options.count_every)
    }

    /// Looks for other people, and changes to one who is clearly larger.
    fn count(&mut self, frame: &Frame) -> Result<(), LensError> {
        let detections = self.detector.detect(frame)?;
        self.counted = Some(frame.t);
        let Some(roi) = self.roi else { return Ok(()) };
        let others: Vec<&Detection> = detections.iter().filter(|d| !near(&d.roi, &roi, SAME_PERSON)).collect();
        // The one who is followed counts also where the detector misses a pose, as it does on the floor.
        self.people = 1 + others.len();
        if let Some(larger) = others.iter().find(|d| d.roi.side > CLEARLY_LARGER * roi.side) {
            self.roi = Some(larger.roi);
            self.person = self.person.wrapping_add(1);
            self.filter.reset();
        }
        Ok(())
    }

    /// Looks for anybody, the largest first.
    fn search(&mut self, frame: &Frame) -> Result<Option<Landmarks>, LensError> {
        let detections = self.detector.detect(frame)?;
        self.counted = Some(frame.t);
        self.people = detections.len();
        self.filter.reset();
        for detection in &detections {
            if let Some(found) = self.person_in(frame, &detection.roi)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn person_in(&mut self, frame: &Frame, roi: &Roi) -> Result<Option<Landmarks>, LensError> {
        Ok(self.landmarks.find(frame, roi)?.filter(|found| found.presence >= MIN_PRESENCE))
    }
}
