//! What people do, and what they do wrong.

use serde::{Deserialize, Serialize};
use spotter_vision::body::JOINTS;

/// Postures a second in every [`Take`].
pub const FPS: f32 = 24.0;

/// An exercise.
#[allow(missing_docs, reason = "the names say it")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(usize)]
pub enum Exercise {
    Squat,
    JumpingJack,
    HighKnees,
    Lunge,
    SideLunge,
    Boxing,
    ToeTouch,
    ArmCircles,
    SideBend,
    HurdleStep,
    SitToStand,
    LegRaise,
    LateralRaise,
    ShoulderRotation,
    PushUp,
    Plank,
    MountainClimber,
    SitUp,
}

/// A mistake, as measured from the joints of a repetition (or of two seconds of a hold).
#[allow(missing_docs, reason = "the names say it")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(usize)]
pub enum Mistake {
    /// Half the range: not deep, high, far or wide enough for the exercise.
    HalfRange,
    /// Knees cave in (knee distance against ankle distance).
    KneesIn,
    /// The trunk leans where it should be upright.
    TrunkLean,
    /// Left and right differ.
    Uneven,
    /// Faster than can be controlled.
    TooFast,
    /// Elbows bent where the arms should be long.
    ArmsBent,
    /// Hips sag in a plank position.
    HipsSag,
    /// Hips too high in a plank position.
    HipsHigh,
    /// Knees bent where the legs should be straight.
    KneesBent,
}

/// Joint positions of one instant in metres: z up, floor at z = 0, x to the person's left and y behind the person
/// when they stand in the rest position facing the camera of yaw 0 (which looks along +y).
pub type Posture = [[f32; 3]; JOINTS];

/// One repetition; indices into [`Take::postures`].
#[derive(Clone, Debug, PartialEq)]
pub struct Rep {
    /// First posture.
    pub start: usize,
    /// Posture of the turning point (the bottom of a squat).
    pub peak: usize,
    /// One past the last posture: the repetition is complete here.
    pub end: usize,
    /// What was wrong with it, measured.
    pub mistakes: Vec<Mistake>,
}

/// One exercise done for a while, at [`FPS`].
#[derive(Clone, Debug)]
pub struct Take {
    /// Which.
    pub exercise: Exercise,
    /// The motion.
    pub postures: Vec<Posture>,
    /// Repetitions, in order; for a hold (plank) one entry for each two seconds.
    pub reps: Vec<Rep>,
}
