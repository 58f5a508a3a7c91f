//! The fifteen joints that Spotter knows of a person, as a camera sees them.
//!
//! Both a pose estimator and a synthetic scene produce a [`Body`]; the [`crate::avatar`] draws it.

use serde::{Deserialize, Serialize};

/// Number of joints in a [`Body`].
pub const JOINTS: usize = 15;

/// A joint; the discriminant is its index in every joint array. Left and right are the person's own.
#[allow(missing_docs, reason = "the names say it")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(usize)]
pub enum Joint {
    Nose,
    LeftShoulder,
    RightShoulder,
    LeftElbow,
    RightElbow,
    LeftWrist,
    RightWrist,
    LeftHip,
    RightHip,
    LeftKnee,
    RightKnee,
    LeftAnkle,
    RightAnkle,
    LeftToe,
    RightToe,
}

/// A person in image coordinates: x right and y down in pixels, z away from the camera at the scale of x with its
/// origin at the middle of the hips (BlazePose's convention).
#[derive(Clone, Debug, PartialEq)]
pub struct Body {
    /// `[x, y, z]` for each [`Joint`].
    pub joints: [[f32; 3]; JOINTS],
    /// Probability that the joint is in the picture and not hidden, 0 to 1.
    pub visibility: [f32; JOINTS],
}

impl Body {
    /// Position of one joint.
    pub fn joint(&self, joint: Joint) -> [f32; 3] {
        self.joints[joint as usize]
    }

    /// Middle between two joints.
    pub fn middle(&self, a: Joint, b: Joint) -> [f32; 3] {
        let (a, b) = (self.joint(a), self.joint(b));
        std::array::from_fn(|i| (a[i] + b[i]) / 2.0)
    }
}

/// Distance between two points.
pub fn distance(a: [f32; 3], b: [f32; 3]) -> f32 {
    (0..3).map(|i| (a[i] - b[i]).powi(2)).sum::<f32>().sqrt()
}
