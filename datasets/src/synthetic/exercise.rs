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

impl Exercise {
    /// Every exercise, in the order of the discriminants.
    pub const ALL: [Self; 18] = [
        Self::Squat,
        Self::JumpingJack,
        Self::HighKnees,
        Self::Lunge,
        Self::SideLunge,
        Self::Boxing,
        Self::ToeTouch,
        Self::ArmCircles,
        Self::SideBend,
        Self::HurdleStep,
        Self::SitToStand,
        Self::LegRaise,
        Self::LateralRaise,
        Self::ShoulderRotation,
        Self::PushUp,
        Self::Plank,
        Self::MountainClimber,
        Self::SitUp,
    ];

    /// The exercise of a discriminant.
    pub fn from_index(index: usize) -> Option<Self> {
        Self::ALL.get(index).copied()
    }

    /// Plural name as it fits into "First up are ...!": in English, or in Korean where `lang` begins with "ko".
    pub fn name(self, lang: &str) -> &'static str {
        let (en, ko) = match self {
            Self::Squat => ("squats", "스쿼트"),
            Self::JumpingJack => ("jumping jacks", "팔벌려뛰기"),
            Self::HighKnees => ("high knees", "하이니"),
            Self::Lunge => ("lunges", "런지"),
            Self::SideLunge => ("side lunges", "사이드 런지"),
            Self::Boxing => ("boxing punches", "복싱 펀치"),
            Self::ToeTouch => ("toe touches", "발끝 터치"),
            Self::ArmCircles => ("arm circles", "팔 돌리기"),
            Self::SideBend => ("side bends", "옆구리 굽히기"),
            Self::HurdleStep => ("hurdle steps", "허들 스텝"),
            Self::SitToStand => ("sit-to-stands", "앉았다 일어서기"),
            Self::LegRaise => ("leg raises", "다리 들어올리기"),
            Self::LateralRaise => ("lateral raises", "사이드 레터럴 레이즈"),
            Self::ShoulderRotation => ("shoulder rotations", "어깨 회전"),
            Self::PushUp => ("push-ups", "푸시업"),
            Self::Plank => ("planks", "플랭크"),
            Self::MountainClimber => ("mountain climbers", "마운틴 클라이머"),
            Self::SitUp => ("sit-ups", "윗몸 일으키기"),
        };
        if lang.starts_with("ko") { ko } else { en }
    }

    /// Held rather than repeated.
    pub fn is_hold(self) -> bool {
        self == Self::Plank
    }

    /// Done on the floor (push-up position or lying).
    pub fn on_floor(self) -> bool {
        matches!(self, Self::PushUp | Self::Plank | Self::MountainClimber | Self::SitUp)
    }

    /// Left and right take turns; one repetition is one side.
    pub fn alternates(self) -> bool {
        use Exercise::*;
        matches!(self, HighKnees | Lunge | SideLunge | Boxing | SideBend | HurdleStep | LegRaise | MountainClimber)
    }

    /// Mistakes that can be measured for this exercise.
    pub fn mistakes(self) -> &'static [Mistake] {
        use Mistake::*;
        match self {
            Self::Squat => &[HalfRange, KneesIn, TrunkLean, TooFast],
            Self::JumpingJack => &[HalfRange, Uneven, ArmsBent],
            Self::HighKnees | Self::HurdleStep => &[HalfRange, TrunkLean],
            Self::Lunge | Self::SideLunge => &[HalfRange, TrunkLean, TooFast],
            Self::Boxing => &[HalfRange],
            Self::ToeTouch => &[HalfRange, KneesBent, TooFast],
            Self::ArmCircles => &[HalfRange, Uneven, ArmsBent],
            Self::SideBend => &[HalfRange, TrunkLean, TooFast],
            Self::SitToStand => &[HalfRange, KneesIn, TrunkLean, TooFast],
            Self::LegRaise => &[HalfRange, KneesBent, TrunkLean],
            Self::LateralRaise => &[HalfRange, Uneven, ArmsBent, TrunkLean, TooFast],
            Self::ShoulderRotation => &[HalfRange, Uneven, TooFast],
            Self::PushUp => &[HalfRange, HipsSag, HipsHigh, TooFast],
            Self::Plank => &[HipsSag, HipsHigh, KneesBent],
            Self::MountainClimber => &[HalfRange, HipsSag, HipsHigh],
            Self::SitUp => &[HalfRange, TooFast],
        }
    }

    /// Seconds below which a repetition counts as too fast, where speed is judged at all.
    pub fn too_fast_below(self) -> Option<f32> {
        self.mistakes().contains(&Mistake::TooFast).then_some(match self {
            Self::Squat | Self::SideLunge | Self::Lunge => 1.3,
            Self::PushUp => 0.9,
            _ => 1.2,
        })
    }
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

impl Mistake {
    /// Every mistake, in the order of the discriminants.
    pub const ALL: [Self; 9] = [
        Self::HalfRange,
        Self::KneesIn,
        Self::TrunkLean,
        Self::Uneven,
        Self::TooFast,
        Self::ArmsBent,
        Self::HipsSag,
        Self::HipsHigh,
        Self::KneesBent,
    ];
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
