//! What moves in a repetition, as one number a frame: low at rest, high at the turning point.
//!
//! Angles are taken in three dimensions, so that they hold from the front and from the side.

use crate::{Body, Joint};

type V3 = [f32; 3];

/// Joints less visible than this are not believed: where an estimator has lost a limb it says so, and makes one up.
const VISIBLE: f32 = 0.32;
/// Upwards in the picture; cameras stand level enough.
const UP: V3 = [0.0, -1.0, 0.0];
/// A fist counts as thrown only from an arm that is raised this far, in degrees: an arm that hangs is straight as well.
const GUARD: f32 = 58.0;

/// A movement that repetitions are counted by. Degrees, where nothing else is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Bend of the knees, 0 straight; mean of both.
    Knees,
    /// Bend of the knee that is bent more.
    OneKnee,
    /// How straight the knees are, 0 fully bent, 180 straight; mean of both.
    KneesStraight,
    /// Bend of a hip, 0 when the thigh continues the trunk; each side counts by itself.
    Hip,
    /// Upper arms away from the trunk, 0 hanging, 180 overhead; mean of both.
    Arms,
    /// Bend of the elbows, 0 straight; mean of both.
    Elbows,
    /// Length of a raised arm from shoulder to wrist as a percentage of its bones; each side counts by itself.
    Punch,
    /// Forearms above the plane across the trunk, -90 to 90; the arm that moves more counts.
    Forearms,
    /// The trunk bent to a side.
    SideBend,
    /// How far the lower wrist has come down: 100 at the height of the ankles, 0 a leg's length above.
    Reach,
    /// The trunk above the horizontal.
    TrunkRise,
}

impl Signal {
    /// Whether left and right are counted each by itself.
    pub fn is_sided(self) -> bool {
        matches!(self, Self::Hip | Self::Punch)
    }

    /// The signal of a body: one number, or one for each side (left first). `None` where the joints are not seen.
    pub fn of(self, body: &Body) -> [Option<f32>; 2] {
        let eye = Eye(body);
        match self {
            Self::Knees => [eye.mean(Eye::knee), None],
            Self::OneKnee => [most(eye.knee(0), eye.knee(1)), None],
            Self::KneesStraight => [eye.mean(Eye::knee).map(|bend| 180.0 - bend), None],
            Self::Hip => [eye.hip(0), eye.hip(1)],
            Self::Arms => [eye.mean(Eye::arm), None],
            Self::Elbows => [eye.mean(Eye::elbow), None],
            Self::Punch => [eye.punch(0), eye.punch(1)],
            Self::Forearms => [most(eye.forearm(0), eye.forearm(1)), None],
            Self::SideBend => [eye.side_bend(), None],
            Self::Reach => [eye.reach(), None],
            Self::TrunkRise => [eye.trunk_rise(), None],
        }
    }
}

/// The trunk above the horizontal in degrees: 90 upright, 0 lying or in a plank.
pub fn trunk_rise(body: &Body) -> Option<f32> {
    Eye(body).trunk_rise()
}

/// Bend of the whole body at the hips in degrees, 0 straight; the straighter side.
pub fn hip_bend(body: &Body) -> Option<f32> {
    let eye = Eye(body);
    least(eye.hip(0), eye.hip(1))
}

/// Bend of the knees in degrees, 0 straight; the straighter side.
pub fn knee_bend(body: &Body) -> Option<f32> {
    let eye = Eye(body);
    least(eye.knee(0), eye.knee(1))
}

/// The straighter upper arm from pointing at the floor, in degrees: small where somebody rests on their arms.
pub fn support(body: &Body) -> Option<f32> {
    let eye = Eye(body);
    let side = |side| {
        let upper = sub(eye.at(Joint::LeftElbow, side)?, eye.at(Joint::LeftShoulder, side)?);
        angle(upper, scale(UP, -1.0))
    };
    least(side(0), side(1))
}

/// A body being measured; side 0 is left, 1 is right.
struct Eye<'a>(&'a Body);

impl Eye<'_> {
    /// A joint, where it is believed; side 1 of a left joint is the right one.
    fn at(&self, left: Joint, side: usize) -> Option<V3> {
        let index = left as usize + side;
        let seen = self.0.visibility.get(index).is_some_and(|v| *v >= VISIBLE);
        let joint = *self.0.joints.get(index)?;
        (seen && joint.iter().all(|v| v.is_finite())).then_some(joint)
    }

    fn middle(&self, left: Joint) -> Option<V3> {
        let (a, b) = (self.at(left, 0)?, self.at(left, 1)?);
        Some(std::array::from_fn(|i| (a[i] + b[i]) / 2.0))
    }

    /// From the hips to the shoulders.
    fn trunk(&self) -> Option<V3> {
        Some(sub(self.middle(Joint::LeftShoulder)?, self.middle(Joint::LeftHip)?))
    }

    fn mean(&self, measure: fn(&Self, usize) -> Option<f32>) -> Option<f32> {
        match (measure(self, 0), measure(self, 1)) {
            (Some(a), Some(b)) => Some((a + b) / 2.0),
            (a, b) => a.or(b),
        }
    }

    fn bend(&self, from: Joint, at: Joint, to: Joint, side: usize) -> Option<f32> {
        let joint = self.at(at, side)?;
        angle(sub(joint, self.at(from, side)?), sub(self.at(to, side)?, joint))
    }

    fn knee(&self, side: usize) -> Option<f32> {
        self.bend(Joint::LeftHip, Joint::LeftKnee, Joint::LeftAnkle, side)
    }

    fn elbow(&self, side: usize) -> Option<f32> {
        self.bend(Joint::LeftShoulder, Joint::LeftElbow, Joint::LeftWrist, side)
    }

    fn hip(&self, side: usize) -> Option<f32> {
        let thigh = sub(self.at(Joint::LeftKnee, side)?, self.at(Joint::LeftHip, side)?);
        angle(thigh, scale(self.trunk()?, -1.0))
    }

    fn arm(&self, side: usize) -> Option<f32> {
        let upper = sub(self.at(Joint::LeftElbow, side)?, self.at(Joint::LeftShoulder, side)?);
        angle(upper, scale(self.trunk()?, -1.0))
    }

    fn forearm(&self, side: usize) -> Option<f32> {
        let forearm = sub(self.at(Joint::LeftWrist, side)?, self.at(Joint::LeftElbow, side)?);
        Some(90.0 - angle(forearm, self.trunk()?)?)
    }

    fn punch(&self, side: usize) -> Option<f32> {
        let [shoulder, elbow, wrist] =
            [Joint::LeftShoulder, Joint::LeftElbow, Joint::LeftWrist].map(|j| self.at(j, side));
        let (shoulder, elbow, wrist) = (shoulder?, elbow?, wrist?);
        if self.arm(side)? < GUARD {
            return Some(0.0);
        }
        let bones = norm(sub(elbow, shoulder)) + norm(sub(wrist, elbow));
        Some(100.0 * norm(sub(wrist, shoulder)) / bones.max(1e-3))
    }

    fn side_bend(&self) -> Option<f32> {
        let left = sub(self.at(Joint::LeftHip, 0)?, self.at(Joint::LeftHip, 1)?);
        Some((90.0 - angle(self.trunk()?, left)?).abs())
    }

    fn trunk_rise(&self) -> Option<f32> {
        Some(90.0 - angle(self.trunk()?, UP)?)
    }

    fn leg(&self, side: usize) -> Option<f32> {
        let knee = self.at(Joint::LeftKnee, side)?;
        Some(norm(sub(self.at(Joint::LeftHip, side)?, knee)) + norm(sub(self.at(Joint::LeftAnkle, side)?, knee)))
    }

    fn reach(&self) -> Option<f32> {
        let ankle = self.middle(Joint::LeftAnkle)?[1];
        let wrist = most(self.at(Joint::LeftWrist, 0).map(|w| w[1]), self.at(Joint::LeftWrist, 1).map(|w| w[1]))?;
        Some(100.0 * (1.0 - (ankle - wrist) / self.mean(Self::leg)?.max(1e-3)))
    }
}

fn most(a: Option<f32>, b: Option<f32>) -> Option<f32> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (a, b) => a.or(b),
    }
}

fn least(a: Option<f32>, b: Option<f32>) -> Option<f32> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn sub(a: V3, b: V3) -> V3 {
    std::array::from_fn(|i| a[i] - b[i])
}

fn scale(a: V3, by: f32) -> V3 {
    a.map(|v| v * by)
}

fn dot(a: V3, b: V3) -> f32 {
    (0..3).map(|i| a[i] * b[i]).sum()
}

fn norm(a: V3) -> f32 {
    dot(a, a).sqrt()
}

/// Degrees between two directions; `None` where one has no length.
fn angle(a: V3, b: V3) -> Option<f32> {
    let lengths = norm(a) * norm(b);
    (lengths > 1e-6).then(|| (dot(a, b) / lengths).clamp(-1.0, 1.0).acos().to_degrees())
}
