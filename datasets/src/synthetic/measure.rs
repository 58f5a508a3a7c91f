//! Mistakes as they can be seen in the joints of a repetition.
//!
//! Keyed motion and motion capture are judged alike: what was *performed* does not matter, only what was reached.

use spotter_vision::body::Joint;

use super::exercise::{Exercise, FPS, Mistake, Posture};
use super::motion::vector::{V3, add, cross, degrees_between, dot, norm, scale, sub, unit};

const UP: V3 = [0.0, 0.0, 1.0];

/// What was wrong with the repetition (or the two seconds of a hold) `postures`, whose turning point is
/// `postures[peak]`; in the order of [`Mistake::ALL`]. Empty where there are no postures.
pub fn mistakes(exercise: Exercise, postures: &[Posture], peak: usize) -> Vec<Mistake> {
    if postures.is_empty() {
        return Vec::new();
    }
    let peak = peak.min(postures.len() - 1);
    let rep = Rep { postures, peak };
    let wrong = |mistake: &&Mistake| match mistake {
        Mistake::HalfRange => half_range(exercise, &rep),
        Mistake::KneesIn => knees_in(exercise, &rep),
        Mistake::TrunkLean => trunk_lean(exercise, &rep),
        Mistake::Uneven => uneven(exercise, &rep),
        Mistake::TooFast => exercise.too_fast_below().is_some_and(|limit| (postures.len() as f32 / FPS) < limit),
        Mistake::ArmsBent => arms_bent(exercise, &rep),
        Mistake::HipsSag => rep.mean(hip_line) < -0.045,
        Mistake::HipsHigh => rep.mean(hip_line) > if exercise == Exercise::MountainClimber { 0.13 } else { 0.09 },
        Mistake::KneesBent => knees_bent(exercise, &rep),
    };
    let mut found: Vec<_> = exercise.mistakes().iter().filter(wrong).copied().collect();
    found.sort_by_key(|m| *m as usize);
    found
}

/// Depth of a squat: height of the hips at `postures[peak]` as a share of their greatest height.
pub fn hip_depth(postures: &[Posture], peak: usize) -> f32 {
    let top = postures.iter().map(hip_height).fold(0.0, f32::max);
    postures.get(peak).map_or(1.0, hip_height) / top.max(1e-3)
}

/// Distance of the knees as a share of the distance of the ankles, both from left to right of the hips.
pub fn knee_ankle_ratio(p: &Posture) -> f32 {
    let left = unit(sub(at(p, Joint::LeftHip), at(p, Joint::RightHip)));
    let wide = |a, b| dot(sub(at(p, a), at(p, b)), left);
    wide(Joint::LeftKnee, Joint::RightKnee) / wide(Joint::LeftAnkle, Joint::RightAnkle).max(0.05)
}

/// Angle of the trunk from upright in degrees, to whichever side.
pub fn trunk_angle(p: &Posture) -> f32 {
    degrees_between(trunk(p), UP)
}

struct Rep<'a> {
    postures: &'a [Posture],
    peak: usize,
}

impl Rep<'_> {
    /// Mean around the turning point.
    fn at_peak(&self, f: impl Fn(&Posture) -> f32) -> f32 {
        let around = &self.postures[self.peak.saturating_sub(1)..(self.peak + 2).min(self.postures.len())];
        around.iter().map(f).sum::<f32>() / around.len() as f32
    }

    fn mean(&self, f: impl Fn(&Posture) -> f32) -> f32 {
        self.postures.iter().map(f).sum::<f32>() / self.postures.len() as f32
    }

    fn max(&self, f: impl Fn(&Posture) -> f32) -> f32 {
        self.postures.iter().map(f).fold(f32::NEG_INFINITY, f32::max)
    }

    fn min(&self, f: impl Fn(&Posture) -> f32) -> f32 {
        self.postures.iter().map(f).fold(f32::INFINITY, f32::min)
    }
}

fn at(p: &Posture, joint: Joint) -> V3 {
    p[joint as usize]
}

/// A joint of the left (0) or right (1) side, given the left one.
fn on(p: &Posture, left: Joint, side: usize) -> V3 {
    p[left as usize + side]
}

fn hips(p: &Posture) -> V3 {
    scale(add(at(p, Joint::LeftHip), at(p, Joint::RightHip)), 0.5)
}

fn shoulders(p: &Posture) -> V3 {
    scale(add(at(p, Joint::LeftShoulder), at(p, Joint::RightShoulder)), 0.5)
}

fn hip_height(p: &Posture) -> f32 {
    hips(p)[2]
}

fn trunk(p: &Posture) -> V3 {
    unit(sub(shoulders(p), hips(p)))
}

/// Interior angle at the knee in degrees, 180 straight.
fn knee(p: &Posture, side: usize) -> f32 {
    let k = on(p, Joint::LeftKnee, side);
    degrees_between(sub(on(p, Joint::LeftHip, side), k), sub(on(p, Joint::LeftAnkle, side), k))
}

/// Interior angle at the elbow in degrees, 180 straight.
fn elbow(p: &Posture, side: usize) -> f32 {
    let e = on(p, Joint::LeftElbow, side);
    degrees_between(sub(on(p, Joint::LeftShoulder, side), e), sub(on(p, Joint::LeftWrist, side), e))
}

/// Angle of the thigh from hanging straight down.
fn thigh(p: &Posture, side: usize) -> f32 {
    degrees_between(sub(on(p, Joint::LeftKnee, side), on(p, Joint::LeftHip, side)), scale(UP, -1.0))
}

/// Angle of the upper arm from lying along the trunk: 0 hanging, 180 overhead.
fn arm(p: &Posture, side: usize) -> f32 {
    degrees_between(sub(on(p, Joint::LeftElbow, side), on(p, Joint::LeftShoulder, side)), scale(trunk(p), -1.0))
}

/// Elevation of the forearm above the plane across the trunk, in degrees.
fn forearm(p: &Posture, side: usize) -> f32 {
    90.0 - degrees_between(sub(on(p, Joint::LeftWrist, side), on(p, Joint::LeftElbow, side)), trunk(p))
}

fn both(p: &Posture, f: fn(&Posture, usize) -> f32) -> f32 {
    (f(p, 0) + f(p, 1)) / 2.0
}

fn either(p: &Posture, f: fn(&Posture, usize) -> f32) -> f32 {
    f(p, 0).max(f(p, 1))
}

/// Hips above the line from shoulders to the stretched leg's ankle, as a share of its length.
fn hip_line(p: &Posture) -> f32 {
    let side = usize::from(knee(p, 1) > knee(p, 0));
    let (s, a, h) = (shoulders(p), on(p, Joint::LeftAnkle, side), hips(p));
    let line = sub(s, a);
    let axis = unit(line);
    let off = sub(h, a);
    let off = sub(off, scale(axis, dot(off, axis)));
    // Away from the floor, at right angles to the line.
    let away = sub(UP, scale(axis, axis[2]));
    dot(off, unit(away)) / norm(line).max(0.1)
}

/// Trunk bent to one side, in degrees.
fn side_bend(p: &Posture) -> f32 {
    let left = unit(sub(at(p, Joint::LeftHip), at(p, Joint::RightHip)));
    (90.0 - degrees_between(trunk(p), left)).abs()
}

/// Trunk bent forwards or backwards (positive: forwards), in degrees.
fn forward_lean(p: &Posture) -> f32 {
    let left = unit(sub(at(p, Joint::LeftHip), at(p, Joint::RightHip)));
    let forward = unit(cross(left, UP));
    let t = trunk(p);
    dot(t, scale(forward, -1.0)).atan2(t[2]).to_degrees()
}

/// Height of the lower wrist above the ankles as a share of the leg's length.
fn wrist_height(p: &Posture) -> f32 {
    let ankle = (at(p, Joint::LeftAnkle)[2] + at(p, Joint::RightAnkle)[2]) / 2.0;
    let wrist = at(p, Joint::LeftWrist)[2].min(at(p, Joint::RightWrist)[2]);
    (wrist - ankle) / leg_length(p)
}

fn leg_length(p: &Posture) -> f32 {
    let length = |side| {
        norm(sub(on(p, Joint::LeftHip, side), on(p, Joint::LeftKnee, side)))
            + norm(sub(on(p, Joint::LeftKnee, side), on(p, Joint::LeftAnkle, side)))
    };
    ((length(0) + length(1)) / 2.0).max(0.1)
}

/// Hips above the lower ankle as a share of the leg's length: 1 when standing.
fn stance(p: &Posture) -> f32 {
    let ankle = at(p, Joint::LeftAnkle)[2].min(at(p, Joint::RightAnkle)[2]);
    (hip_height(p) - ankle) / leg_length(p)
}

fn half_range(exercise: Exercise, rep: &Rep) -> bool {
    match exercise {
        Exercise::Squat => hip_depth(rep.postures, rep.peak) > 0.65,
        Exercise::Lunge => hip_depth(rep.postures, rep.peak) > 0.77,
        Exercise::SideLunge => hip_depth(rep.postures, rep.peak) > 0.80,
        Exercise::JumpingJack => rep.at_peak(|p| either(p, arm)) < 125.0,
        Exercise::HighKnees => rep.at_peak(|p| either(p, thigh)) < 70.0,
        Exercise::HurdleStep => rep.max(|p| either(p, thigh)) < 58.0,
        Exercise::LegRaise => rep.at_peak(|p| either(p, thigh)) < 38.0,
        Exercise::Boxing => rep.at_peak(|p| either(p, elbow)) < 140.0,
        Exercise::ToeTouch => rep.at_peak(wrist_height) > 0.38,
        Exercise::ArmCircles => [0, 1].iter().all(|&s| rep.max(|p| arm(p, s)) - rep.min(|p| arm(p, s)) < 22.0),
        Exercise::SideBend => rep.at_peak(side_bend) < 20.0,
        Exercise::SitToStand => rep.at_peak(stance) < 0.90,
        Exercise::LateralRaise => rep.at_peak(|p| either(p, arm)) < 66.0,
        Exercise::ShoulderRotation => [0, 1].iter().all(|&s| rotation(rep, s) < 68.0),
        Exercise::PushUp => rep.at_peak(|p| both(p, elbow)) > 97.0,
        Exercise::MountainClimber => rep.at_peak(|p| hip_flexion(p, 0).min(hip_flexion(p, 1))) > 88.0,
        Exercise::SitUp => rep.at_peak(|p| trunk(p)[2].asin().to_degrees()) < 58.0,
        Exercise::Plank => false,
    }
}

/// Angle between trunk and thigh, 180 stretched.
fn hip_flexion(p: &Posture, side: usize) -> f32 {
    degrees_between(trunk(p), sub(on(p, Joint::LeftKnee, side), on(p, Joint::LeftHip, side)))
}

fn rotation(rep: &Rep, side: usize) -> f32 {
    rep.max(|p| forearm(p, side)) - rep.min(|p| forearm(p, side))
}

/// Knees narrower than the ankles *and* than the straight lines from hips to ankles: a wide stance alone is no fault.
fn knees_in(exercise: Exercise, rep: &Rep) -> bool {
    let caved = |p: &Posture| {
        let left = unit(sub(at(p, Joint::LeftHip), at(p, Joint::RightHip)));
        let wide = |a, b| dot(sub(at(p, a), at(p, b)), left);
        let (hip, ankle) = (wide(Joint::LeftHip, Joint::RightHip), wide(Joint::LeftAnkle, Joint::RightAnkle));
        wide(Joint::LeftKnee, Joint::RightKnee) / ((hip + ankle) / 2.0).max(0.05)
    };
    if exercise == Exercise::SitToStand {
        return rep.min(caved) < 0.75;
    }
    rep.at_peak(caved) < 0.93 && rep.at_peak(knee_ankle_ratio) < 0.95
}

fn trunk_lean(exercise: Exercise, rep: &Rep) -> bool {
    match exercise {
        Exercise::Squat => rep.at_peak(trunk_angle) > 44.0,
        Exercise::Lunge => rep.at_peak(trunk_angle) > 24.0,
        Exercise::SideLunge => rep.at_peak(trunk_angle) > 48.0,
        Exercise::SitToStand => rep.max(trunk_angle) > 54.0,
        Exercise::SideBend => rep.at_peak(|p| forward_lean(p).abs()) > 20.0,
        Exercise::LateralRaise | Exercise::LegRaise => rep.at_peak(trunk_angle) > 16.0,
        _ => rep.at_peak(trunk_angle) > 18.0,
    }
}

fn uneven(exercise: Exercise, rep: &Rep) -> bool {
    match exercise {
        Exercise::ArmCircles => (rep.mean(|p| arm(p, 0)) - rep.mean(|p| arm(p, 1))).abs() > 20.0,
        Exercise::ShoulderRotation => {
            // One arm alone is an exercise of its own.
            let (l, r) = (rotation(rep, 0), rotation(rep, 1));
            l.min(r) > 25.0 && (l - r).abs() > 30.0
        }
        _ => {
            let (l, r) = (rep.at_peak(|p| arm(p, 0)), rep.at_peak(|p| arm(p, 1)));
            l.min(r) > 25.0 && (l - r).abs() > 24.0
        }
    }
}

fn arms_bent(exercise: Exercise, rep: &Rep) -> bool {
    let bent = |p: &Posture| elbow(p, 0).min(elbow(p, 1));
    match exercise {
        Exercise::ArmCircles => rep.mean(bent) < 130.0,
        _ => rep.at_peak(bent) < 128.0,
    }
}

fn knees_bent(exercise: Exercise, rep: &Rep) -> bool {
    match exercise {
        Exercise::LegRaise => {
            // The raised leg is the one whose ankle is higher.
            rep.at_peak(|p| knee(p, usize::from(at(p, Joint::RightAnkle)[2] > at(p, Joint::LeftAnkle)[2]))) < 148.0
        }
        Exercise::Plank => rep.mean(|p| both(p, knee)) < 152.0,
        _ => rep.at_peak(|p| both(p, knee)) < 148.0,
    }
}
