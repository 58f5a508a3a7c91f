//! The joints of one person in a region: BlazePose's landmark model.

use super::{
    crop::{Border, Roi, crop},
    runtime::{Model, Runtime},
};
use crate::{
    Body, Frame,
    body::{JOINTS, Joint},
    lens::LensError,
};
use std::path::Path;

/// Side of the input in pixels.
const SIZE: usize = 256;
/// Landmarks: 33 of the body and 6 that steer the tracking.
const LANDMARKS: usize = 39;
/// Values a landmark: x, y, z in pixels of the input, logits of visibility and presence.
const VALUES: usize = 5;
/// The middle of the hips, and the point above it that gives the size and the turn of the next region.
const CENTRE: usize = 33;
const TOP: usize = 34;

/// BlazePose's landmark of each joint, in the order of [`Joint`].
const LANDMARK_OF_JOINT: [usize; JOINTS] = [0, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28, 31, 32];

/// What the model says of one region.
#[derive(Clone, Debug, PartialEq)]
pub struct Landmarks {
    /// The joints in pixels of the frame.
    pub body: Body,
    /// Probability that there is a person in the region at all.
    pub presence: f32,
    /// Where this person will be in the next frame.
    pub next: Roi,
}

/// The landmark model.
pub struct LandmarkModel {
    model: Model,
    input: Vec<f32>,
}

impl LandmarkModel {
    /// Loads `pose_landmark_lite.onnx` or `pose_landmark_full.onnx`.
    ///
    /// # Errors
    /// [`LensError::Model`] when the file is missing, broken or another model.
    pub fn load(runtime: &Runtime, path: &Path, threads: usize) -> Result<Self, LensError> {
        let outputs = [("Identity", LANDMARKS * VALUES), ("Identity_1", 1), ("Identity_4", LANDMARKS * 3)];
        Ok(Self { model: runtime.model(path, &[1, SIZE, SIZE, 3], &outputs, threads)?, input: Vec::new() })
    }

    /// The joints of the person in `roi`; `None` when the model's answer is not a number.
    ///
    /// # Errors
    /// [`LensError::Run`] when the runtime fails.
    pub fn find(&mut self, frame: &Frame, roi: &Roi) -> Result<Option<Landmarks>, LensError> {
        crop(frame, roi, SIZE, Border::Nearest, [0.0, 1.0], &mut self.input);
        let outputs = self.model.run(&self.input)?;
        let [values, presence, world] = outputs.as_slice() else { return Ok(None) };
        Ok(decode(values, world, presence.first().copied().unwrap_or_default(), roi))
    }
}

fn decode(values: &[f32], world: &[f32], presence: f32, roi: &Roi) -> Option<Landmarks> {
    if !(presence.is_finite() && values.iter().chain(world).all(|v| v.is_finite())) {
        return None;
    }
    let landmarks: Vec<&[f32]> = values.chunks_exact(VALUES).collect();
    let at = |landmark: usize| {
        let l = landmarks.get(landmark)?;
        Some(roi.to_frame([l[0] / SIZE as f32, l[1] / SIZE as f32]))
    };
    let metres: Vec<&[f32]> = world.chunks_exact(3).collect();
    let pixels = pixels_per_metre(&landmarks, &metres) / SIZE as f32 * roi.side;
    let mut body = Body { joints: [[0.0; 3]; JOINTS], visibility: [0.0; JOINTS] };
    for (joint, landmark) in LANDMARK_OF_JOINT.into_iter().enumerate() {
        let [x, y] = at(landmark)?;
        let l = landmarks.get(landmark)?;
        body.joints[joint] = [x, y, metres.get(landmark)?[2] * pixels];
        body.visibility[joint] = 1.0 / (1.0 + (-l[3]).exp());
    }
    // The model's origin is near the middle of the hips; ours is exactly there.
    let origin = body.middle(Joint::LeftHip, Joint::RightHip)[2];
    for joint in &mut body.joints {
        joint[2] -= origin;
    }
    Some(Landmarks { body, presence, next: Roi::around(at(CENTRE)?, at(TOP)?) })
}

/// Pixels of the input for a metre at the person, by least squares over the joints.
///
/// Depth comes from the landmarks in metres: the z in pixels of the input is far too deep where the camera is near (over
/// a squat it bends a knee to 30 degrees that is really at 80).
fn pixels_per_metre(landmarks: &[&[f32]], metres: &[&[f32]]) -> f32 {
    let joints: Vec<_> =
        LANDMARK_OF_JOINT.iter().filter_map(|&l| Some((*landmarks.get(l)?, *metres.get(l)?))).collect();
    let count = joints.len().max(1) as f32;
    let (mut both, mut square) = (0.0, 0.0);
    for axis in 0..2 {
        let means = joints.iter().fold((0.0, 0.0), |sum, (l, m)| (sum.0 + l[axis] / count, sum.1 + m[axis] / count));
        for (l, m) in &joints {
            both += (l[axis] - means.0) * (m[axis] - means.1);
            square += (m[axis] - means.1).powi(2);
        }
    }
    if square > 1e-6 { (both / square).max(0.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn landmarks_go_back_to_the_frame() {
        let roi = Roi { centre: [300.0, 200.0], side: 512.0, angle: 0.0 };
        let mut values = vec![128.0; LANDMARKS * VALUES];
        values[27 * VALUES..27 * VALUES + 4].copy_from_slice(&[64.0, 192.0, 138.0, 0.0]);
        // 64 pixels of the input, 128 of the frame, for a metre.
        let mut world = vec![0.0; LANDMARKS * 3];
        world[27 * 3..27 * 3 + 3].copy_from_slice(&[-1.0, 1.0, 0.25]);
        values[TOP * VALUES + 1] = 28.0;
        let found = decode(&values, &world, 0.9, &roi).unwrap();
        let ankle = found.body.joint(Joint::LeftAnkle);
        assert!(crate::body::distance(ankle, [172.0, 328.0, 32.0]) < 1e-3, "{ankle:?}");
        assert_eq!(found.body.visibility[Joint::LeftAnkle as usize], 0.5);
        assert_eq!(found.next, Roi { centre: [300.0, 200.0], side: 500.0, angle: 0.0 });
        values[3] = f32::NAN;
        assert!(decode(&values, &world, 0.9, &roi).is_none());
    }
}
