//! Builds of people, and a body put together from the way its limbs point.

use rand::Rng;
use spotter_vision::body::{JOINTS, Joint};

use super::vector::{V3, across, add, along, norm, scale, sub, unit};
use crate::synthetic::exercise::Posture;

/// Segment lengths in metres.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Person {
    /// Standing height.
    pub height: f32,
    /// Between the hip joints.
    pub hip_width: f32,
    /// Between the shoulder joints.
    pub shoulder_width: f32,
    /// Middle of the hips to middle of the shoulders.
    pub trunk: f32,
    /// Shoulder to elbow.
    pub upper_arm: f32,
    /// Elbow to wrist.
    pub forearm: f32,
    /// Hip to knee.
    pub thigh: f32,
    /// Knee to ankle.
    pub shank: f32,
    /// Ankle to toe.
    pub foot: f32,
    /// Height of the ankle above the floor.
    pub ankle: f32,
}

impl Person {
    /// A person of average proportions.
    ///
    /// The ratios are those between the joints that a pose estimator reports, which lie a little further apart at the
    /// hips than the anatomical centres.
    pub fn average(height: f32) -> Self {
        Self {
            height,
            hip_width: 0.115 * height,
            shoulder_width: 0.205 * height,
            trunk: 0.288 * height,
            upper_arm: 0.168 * height,
            forearm: 0.148 * height,
            thigh: 0.243 * height,
            shank: 0.245 * height,
            foot: 0.115 * height,
            ankle: 0.042 * height,
        }
    }

    /// Somebody: 1.50 to 1.95 m tall, every segment a few per cent away from the average.
    pub fn random(rng: &mut impl Rng) -> Self {
        let mut vary = |spread: f32| 1.0 + rng.random_range(-spread..spread);
        let base = Self::average(1.72 * vary(0.13));
        let (leg, arm, broad) = (vary(0.05), vary(0.05), vary(0.10));
        Self {
            height: base.height,
            hip_width: base.hip_width * broad * vary(0.08),
            shoulder_width: base.shoulder_width * broad * vary(0.06),
            trunk: base.trunk * (2.0 - leg) * vary(0.03),
            upper_arm: base.upper_arm * arm * vary(0.03),
            forearm: base.forearm * arm * vary(0.03),
            thigh: base.thigh * leg * vary(0.03),
            shank: base.shank * leg * vary(0.03),
            foot: base.foot * vary(0.06),
            ankle: base.ankle,
        }
    }

    /// Segment lengths as they are in a posture, for motion that comes from elsewhere.
    pub fn of(posture: &Posture) -> Self {
        use Joint::*;
        let at = |j: Joint| posture[j as usize];
        let length = |a: Joint, b: Joint| norm(sub(at(a), at(b)));
        let both = |a: Joint, b: Joint, c: Joint, d: Joint| (length(a, b) + length(c, d)) / 2.0;
        let middle = |a: Joint, b: Joint| scale(add(at(a), at(b)), 0.5);
        let trunk = norm(sub(middle(LeftShoulder, RightShoulder), middle(LeftHip, RightHip)));
        let (thigh, shank) =
            (both(LeftHip, LeftKnee, RightHip, RightKnee), both(LeftKnee, LeftAnkle, RightKnee, RightAnkle));
        let height = (trunk + thigh + shank) / (0.288 + 0.243 + 0.245);
        Self {
            height,
            hip_width: length(LeftHip, RightHip),
            shoulder_width: length(LeftShoulder, RightShoulder),
            trunk,
            upper_arm: both(LeftShoulder, LeftElbow, RightShoulder, RightElbow),
            forearm: both(LeftElbow, LeftWrist, RightElbow, RightWrist),
            thigh,
            shank,
            foot: both(LeftAnkle, LeftToe, RightAnkle, RightToe),
            ankle: 0.042 * height,
        }
    }

    /// Hip to ankle, stretched.
    pub fn leg(&self) -> f32 {
        self.thigh + self.shank
    }

    /// Height of the hips of a person who stands at ease (knees not quite locked).
    pub fn standing(&self) -> f32 {
        self.ankle + self.leg() * 0.993
    }
}

/// Where an arm goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arm {
    /// Angles at the shoulder, in the frame of the trunk, in radians: `raise` from hanging (0) over horizontal to
    /// overhead (pi), `out` from forwards (0) to sideways (pi/2), `elbow` from straight (0); the forearm bends towards
    /// `to`, which is (outwards, forwards, up) in the trunk's frame.
    Free { raise: f32, out: f32, elbow: f32, to: V3 },
    /// The wrist goes to this place (in the world), the elbow points along `pole`.
    Reach { wrist: V3, pole: V3 },
}

/// Where a leg goes: ankle and knee pole in the world (left, forwards, up), direction from ankle to toe.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leg {
    pub(crate) ankle: V3,
    pub(crate) pole: V3,
    pub(crate) toe: V3,
    /// The pelvis must stay where this ankle can be reached.
    pub(crate) planted: bool,
}

/// A body by what its limbs do. All vectors are (left, forwards, up).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pose {
    pub(crate) pelvis: V3,
    /// Turn of the hips and, on top of it, of the shoulders about the long axis, positive to the person's left.
    pub(crate) turn: f32,
    pub(crate) twist: f32,
    /// Trunk from upright, forwards and to the person's left, in radians.
    pub(crate) lean: f32,
    pub(crate) bend: f32,
    /// Tilt of the shoulder line, positive: left shoulder up.
    pub(crate) shrug: f32,
    /// Nod of the head, forwards, in radians.
    pub(crate) nod: f32,
    pub(crate) arms: [Arm; 2],
    pub(crate) legs: [Leg; 2],
}

/// End and middle joint of a limb of two bones which reaches from `root` for `target` with its bend along `pole`.
pub(crate) fn reach(root: V3, target: V3, upper: f32, lower: f32, pole: V3) -> (V3, V3) {
    let way = sub(target, root);
    let axis = unit(way);
    // Bones of no length leave nothing between the two bounds.
    let longest = (upper + lower) * 0.9995;
    let d = norm(way).min(longest).max((upper - lower).abs() + 0.02);
    let x = (upper * upper - lower * lower + d * d) / (2.0 * d);
    let h = (upper * upper - x * x).max(0.0).sqrt();
    let side = across(pole, axis, [0.0, 1.0, 0.1]);
    (along(root, axis, d), along(along(root, axis, x), side, h))
}

/// Frame of the trunk: (left, forwards, up).
fn trunk_frame(pose: &Pose) -> [V3; 3] {
    let (sl, cl) = pose.lean.sin_cos();
    let (sb, cb) = pose.bend.sin_cos();
    // Bend to the side in the frontal plane first, then lean the whole over.
    let rotate = |v: V3| {
        let v = [v[0] * cb + v[2] * sb, v[1], v[2] * cb - v[0] * sb];
        [v[0], v[1] * cl + v[2] * sl, v[2] * cl - v[1] * sl]
    };
    let (st, ct) = (pose.twist).sin_cos();
    // Turning left brings the left shoulder back.
    [rotate([ct, -st, 0.0]), rotate([st, ct, 0.0]), rotate([0.0, 0.0, 1.0])].map(|v| hips_turn(v, pose.turn))
}

/// (left, forwards, up) turned to the person's left.
fn hips_turn(v: V3, angle: f32) -> V3 {
    let (s, c) = angle.sin_cos();
    [v[0] * c + v[1] * s, v[1] * c - v[0] * s, v[2]]
}

/// Puts the body together. The result faces the camera of yaw 0 (forwards is -y).
pub(crate) fn assemble(person: &Person, pose: &Pose) -> Posture {
    let mut pelvis = pose.pelvis;
    let across_hips = hips_turn([person.hip_width / 2.0, 0.0, 0.0], pose.turn);
    let sides = [1.0_f32, -1.0];
    for (leg, side) in pose.legs.iter().zip(sides) {
        let hip = along(pelvis, across_hips, side);
        let flat = (hip[0] - leg.ankle[0]).powi(2) + (hip[1] - leg.ankle[1]).powi(2);
        let reach = (person.leg() * 0.998).powi(2) - flat;
        if leg.planted && reach > 0.0 {
            pelvis[2] = pelvis[2].min(leg.ankle[2] + reach.sqrt());
        }
    }
    let frame = trunk_frame(pose);
    let [left, forward, up] = frame;
    let neck = along(pelvis, up, person.trunk);
    let mut out = [[0.0; 3]; JOINTS];
    let (sn, cn) = pose.nod.sin_cos();
    let (head_up, head_forward) = (add(scale(up, cn), scale(forward, sn)), add(scale(forward, cn), scale(up, -sn)));
    out[Joint::Nose as usize] = along(along(neck, head_up, 0.105 * person.height), head_forward, 0.062 * person.height);
    let (ss, cs) = pose.shrug.sin_cos();
    let shoulder_line = add(scale(left, cs), scale(up, ss));
    for (i, side) in sides.into_iter().enumerate() {
        let shoulder = along(neck, shoulder_line, side * person.shoulder_width / 2.0);
        let (wrist, elbow) = arm(person, shoulder, &pose.arms[i], [scale(left, side), forward, up]);
        let hip = along(pelvis, across_hips, side);
        let leg = &pose.legs[i];
        let (ankle, knee) = reach(hip, leg.ankle, person.thigh, person.shank, leg.pole);
        out[Joint::LeftShoulder as usize + i] = shoulder;
        out[Joint::LeftElbow as usize + i] = elbow;
        out[Joint::LeftWrist as usize + i] = wrist;
        out[Joint::LeftHip as usize + i] = hip;
        out[Joint::LeftKnee as usize + i] = knee;
        out[Joint::LeftAnkle as usize + i] = ankle;
        out[Joint::LeftToe as usize + i] = along(ankle, unit(leg.toe), person.foot);
    }
    let lowest = out.iter().map(|j| j[2]).fold(f32::INFINITY, f32::min);
    let lift = (0.012 - lowest).max(0.0);
    out.map(|[l, f, u]| [l, -f, u + lift])
}

/// Wrist and elbow; `frame` is the trunk's (outwards, forwards, up).
fn arm(person: &Person, shoulder: V3, arm: &Arm, frame: [V3; 3]) -> (V3, V3) {
    let [out, forward, up] = frame;
    match *arm {
        Arm::Reach { wrist, pole } => reach(shoulder, wrist, person.upper_arm, person.forearm, pole),
        Arm::Free { raise, out: azimuth, elbow, to } => {
            let (sr, cr) = raise.sin_cos();
            let (sa, ca) = azimuth.sin_cos();
            let upper = add(scale(up, -cr), add(scale(forward, sr * ca), scale(out, sr * sa)));
            let to = add(scale(out, to[0]), add(scale(forward, to[1]), scale(up, to[2])));
            let bend = across(to, upper, forward);
            let (se, ce) = elbow.sin_cos();
            let at = along(shoulder, upper, person.upper_arm);
            (along(at, add(scale(upper, ce), scale(bend, se)), person.forearm), at)
        }
    }
}

/// A leg by angles: `raise` of the thigh from hanging forwards, `out` sideways, `knee` bent backwards (radians).
pub(crate) fn free_leg(person: &Person, hip: V3, side: f32, raise: f32, out: f32, knee: f32) -> Leg {
    let (sr, cr) = raise.sin_cos();
    let (so, co) = out.sin_cos();
    let thigh = [side * so * cr.abs().max(0.2), sr, -cr * co];
    let thigh = unit(thigh);
    let back = across([0.0, -cr, -sr], thigh, [0.0, -1.0, 0.0]);
    let (sk, ck) = knee.sin_cos();
    let shank = add(scale(thigh, ck), scale(back, sk));
    let at = along(hip, thigh, person.thigh);
    let ankle = along(at, shank, person.shank);
    let ahead = add(scale(thigh, sk), scale(back, -ck));
    let toe = add(scale(ahead, 0.85), scale(shank, 0.5));
    Leg { ankle, pole: scale(back, -1.0), toe, planted: false }
}
