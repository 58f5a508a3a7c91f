//! From one posture to another.

use std::f32::consts::PI;

use spotter_vision::body::{JOINTS, Joint};

use super::person::{Arm, Leg, Person, Pose, assemble};
use super::standing::SIDES;
use super::vector::{V3, add, along, cross, ease, lerp, mix, norm, scale, slerp, sub, turn, unit};
use crate::synthetic::exercise::{FPS, Posture};

/// Parent and child of each bone, parents first; the middle of the hips and of the shoulders are no joints and are
/// treated by [`Bones`].
const LIMBS: [(Joint, Joint); 10] = [
    (Joint::LeftShoulder, Joint::LeftElbow),
    (Joint::RightShoulder, Joint::RightElbow),
    (Joint::LeftElbow, Joint::LeftWrist),
    (Joint::RightElbow, Joint::RightWrist),
    (Joint::LeftHip, Joint::LeftKnee),
    (Joint::RightHip, Joint::RightKnee),
    (Joint::LeftKnee, Joint::LeftAnkle),
    (Joint::RightKnee, Joint::RightAnkle),
    (Joint::LeftAnkle, Joint::LeftToe),
    (Joint::RightAnkle, Joint::RightToe),
];

/// A posture as a place, a facing and bones that are seen from that facing.
#[derive(Clone)]
struct Bones {
    pelvis: V3,
    facing: f32,
    /// Across the hips, the trunk, across the shoulders, to the nose; then [`LIMBS`].
    bones: [V3; 4 + LIMBS.len()],
}

impl Bones {
    fn of(p: &Posture) -> Self {
        let at = |j: Joint| p[j as usize];
        let (lh, rh) = (at(Joint::LeftHip), at(Joint::RightHip));
        let (ls, rs) = (at(Joint::LeftShoulder), at(Joint::RightShoulder));
        let pelvis = scale(add(lh, rh), 0.5);
        let neck = scale(add(ls, rs), 0.5);
        let facing = facing_of(p);
        let mut bones = [[0.0; 3]; 4 + LIMBS.len()];
        bones[0] = sub(lh, rh);
        bones[1] = sub(neck, pelvis);
        bones[2] = sub(ls, rs);
        bones[3] = sub(at(Joint::Nose), neck);
        for (slot, (a, b)) in bones[4..].iter_mut().zip(LIMBS) {
            *slot = sub(at(b), at(a));
        }
        Self { pelvis, facing, bones: bones.map(|b| turn(b, -facing)) }
    }

    fn between(&self, other: &Self, t: f32) -> Self {
        let way = (other.facing - self.facing + PI).rem_euclid(2.0 * PI) - PI;
        Self {
            pelvis: mix(self.pelvis, other.pelvis, t),
            facing: self.facing + way * t,
            bones: std::array::from_fn(|i| {
                let length = lerp(norm(self.bones[i]), norm(other.bones[i]), t);
                scale(slerp(self.bones[i], other.bones[i], t), length)
            }),
        }
    }

    fn posture(&self) -> Posture {
        let b = self.bones.map(|b| turn(b, self.facing));
        let mut out = [[0.0; 3]; JOINTS];
        let neck = add(self.pelvis, b[1]);
        out[Joint::LeftHip as usize] = along(self.pelvis, b[0], 0.5);
        out[Joint::RightHip as usize] = along(self.pelvis, b[0], -0.5);
        out[Joint::LeftShoulder as usize] = along(neck, b[2], 0.5);
        out[Joint::RightShoulder as usize] = along(neck, b[2], -0.5);
        out[Joint::Nose as usize] = add(neck, b[3]);
        for (bone, (from, to)) in b[4..].iter().zip(LIMBS) {
            out[to as usize] = add(out[from as usize], *bone);
        }
        out
    }
}

/// Direction that the hips face: the turn about the vertical from facing the camera of yaw 0.
pub(crate) fn facing_of(p: &Posture) -> f32 {
    let left = sub(p[Joint::LeftHip as usize], p[Joint::RightHip as usize]);
    left[1].atan2(left[0])
}

fn lowest(p: &Posture) -> f32 {
    p.iter().map(|j| j[2]).fold(f32::INFINITY, f32::min)
}

/// Smooth way from one posture to another in about `seconds` (at least two postures), both ends left out; bones keep
/// their lengths where both postures are of the same person. Between standing and the floor it leads over a crouch and
/// all fours.
pub fn transition(from: &Posture, to: &Posture, seconds: f32) -> Vec<Posture> {
    let (a, b) = (Bones::of(from), Bones::of(to));
    let (up, down) = (on_feet(from), on_feet(to));
    let mut stops = vec![a.clone()];
    match (up, down) {
        (true, false) => stops.extend(way_down(to, &b)),
        (false, true) => stops.extend(way_down(from, &a).into_iter().rev()),
        (false, false) if differs(&a, &b) => {
            stops.extend(way_down(from, &a).into_iter().rev().take(1));
            stops.extend(way_down(to, &b).into_iter().skip(1));
        }
        _ => {}
    }
    stops.push(b);
    let legs = stops.len() - 1;
    let frames = ((seconds * FPS).round() as usize).max(2);
    let (low_from, low_to) = (lowest(from), lowest(to));
    (1..=frames)
        .map(|i| {
            let whole = i as f32 / (frames + 1) as f32;
            let at = (whole * legs as f32).min(legs as f32 - 1e-4);
            let leg = at as usize;
            let between = stops[leg].between(&stops[leg + 1], ease(at - leg as f32));
            let mut posture = between.posture();
            // Feet stay on the floor.
            let want = lerp(low_from, low_to, whole).max(0.0);
            let shift = want - lowest(&posture);
            for joint in &mut posture {
                joint[2] += shift;
            }
            posture
        })
        .collect()
}

/// Hips well above the ankles: standing, sitting or crouching rather than lying.
fn on_feet(p: &Posture) -> bool {
    let person = Person::of(p);
    let hips = (p[Joint::LeftHip as usize][2] + p[Joint::RightHip as usize][2]) / 2.0;
    let shoulders = (p[Joint::LeftShoulder as usize][2] + p[Joint::RightShoulder as usize][2]) / 2.0;
    hips > 0.45 * person.leg() && shoulders > 0.25 * person.leg()
}

/// Different enough on the floor that the way leads over all fours or sitting.
fn differs(a: &Bones, b: &Bones) -> bool {
    let turned = (a.facing - b.facing + PI).rem_euclid(2.0 * PI) - PI;
    let (ta, tb) = (unit(a.bones[1]), unit(b.bones[1]));
    let apart = (0..3).map(|i| ta[i] * tb[i]).sum::<f32>();
    apart < 0.2 || turned.abs() > 1.2
}

/// Stops on the way from standing to a posture on the floor: crouch, then all fours (or sitting, for who lies on the
/// back).
fn way_down(floor: &Posture, bones: &Bones) -> Vec<Bones> {
    let person = Person::of(floor);
    let left = unit(bones.bones[0]);
    let trunk = unit(bones.bones[1]);
    // Seen from the front of the hips: on the back where the thighs or the chest are above the trunk.
    let chest = cross(trunk, left);
    let face_up = chest[2] < 0.0;
    let h = person.height;
    let nose_up = floor[Joint::Nose as usize][2];
    let supine = face_up && nose_up < 0.9 * h;
    let second = if supine { sitting(&person) } else { all_fours(&person) };
    [crouch(&person), second]
        .into_iter()
        .map(|pose| {
            let mut stop = Bones::of(&assemble(&person, &pose));
            let offset = turn([stop.pelvis[0], stop.pelvis[1], 0.0], bones.facing);
            stop.pelvis = [bones.pelvis[0] + offset[0], bones.pelvis[1] + offset[1], stop.pelvis[2]];
            stop.facing += bones.facing;
            stop
        })
        .collect()
}

fn flat(person: &Person, half: f32, forward: f32, out: f32) -> [Leg; 2] {
    SIDES.map(|s| Leg {
        ankle: [s * half, forward, person.ankle],
        pole: [s * out, 1.0, 0.3],
        toe: [s * 0.2, 1.0, -0.3],
        planted: false,
    })
}

fn pose(pelvis: V3, lean: f32, arm: Arm, legs: [Leg; 2]) -> Pose {
    Pose { pelvis, turn: 0.0, twist: 0.0, lean, bend: 0.0, shrug: 0.0, nod: -0.2, arms: [arm; 2], legs }
}

fn crouch(person: &Person) -> Pose {
    let h = person.height;
    let arm = Arm::Free { raise: 1.1, out: 0.2, elbow: 0.2, to: [0.0, 1.0, 0.3] };
    pose([0.0, 0.0, 0.22 * h], 0.85, arm, flat(person, 0.08 * h, 0.10 * h, 0.3))
}

fn all_fours(person: &Person) -> Pose {
    let h = person.height;
    let legs = SIDES.map(|s| Leg {
        ankle: [s * 0.06 * h, -0.22 * h, 0.045 * h],
        pole: [0.0, 0.3, -1.0],
        toe: [0.0, -0.3, -0.5],
        planted: false,
    });
    let arm = Arm::Free { raise: 1.45, out: 0.1, elbow: 0.1, to: [0.0, 1.0, 0.0] };
    pose([0.0, 0.0, 0.27 * h], 1.45, arm, legs)
}

fn sitting(person: &Person) -> Pose {
    let h = person.height;
    let arm = Arm::Free { raise: -0.5, out: 0.3, elbow: 0.2, to: [0.0, -1.0, 0.0] };
    pose([0.0, 0.0, 0.055 * h], -0.35, arm, flat(person, 0.07 * h, 0.30 * h, 0.1))
}
