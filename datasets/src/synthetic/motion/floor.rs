//! Exercises done on the floor: push-up position and lying.

use super::person::{Arm, Leg, Person, Pose, reach};
use super::standing::{Moment, SIDES};
use super::vector::{V3, ease, lerp, mix, sub};
use crate::synthetic::exercise::{Exercise, Mistake};

/// The pose of an exercise on the floor.
pub(crate) fn pose(exercise: Exercise, m: &Moment) -> Pose {
    match exercise {
        Exercise::PushUp => push_up(m),
        Exercise::Plank => plank(m),
        Exercise::MountainClimber => mountain_climber(m),
        _ => sit_up(m),
    }
}

/// How the body hangs between feet and shoulders.
struct Line {
    /// Height of the shoulders above the floor.
    shoulders: f32,
    /// Hips above (positive) or below the straight line, in radians of hip bend.
    bend: f32,
    /// Bend of the knees in radians.
    knees: f32,
}

/// Height of the ankles of feet that stand on their toes.
fn toe_stand(person: &Person) -> f32 {
    person.foot * 0.86
}

/// Body face down on its toes; returns the pose (arms still to be set) and the middle of the shoulders.
fn prone(person: &Person, line: &Line) -> (Pose, V3) {
    let (thigh, shank) = (person.thigh, person.shank);
    let leg = (thigh * thigh + shank * shank + 2.0 * thigh * shank * line.knees.cos()).sqrt() * 0.998;
    let chord = (leg * leg + person.trunk * person.trunk + 2.0 * leg * person.trunk * line.bend.cos()).sqrt();
    let ankle = [0.0, 0.0, toe_stand(person)];
    let rise = line.shoulders - ankle[2];
    let shoulders = [0.0, (chord * chord - rise * rise).max(0.01).sqrt(), line.shoulders];
    let (_, mut hips) = reach(ankle, shoulders, leg, person.trunk, [0.0, 0.0, line.bend]);
    hips[0] = 0.0;
    let along = sub(shoulders, hips);
    let half = person.hip_width / 2.0;
    let legs = SIDES.map(|s| Leg {
        ankle: [s * half, 0.0, ankle[2]],
        pole: [0.0, 0.3, -1.0],
        toe: [0.0, 0.5, -0.86],
        planted: false,
    });
    let rest = Arm::Free { raise: 1.5, out: 0.0, elbow: 0.1, to: [0.0, 1.0, 0.0] };
    let pose = Pose {
        pelvis: hips,
        turn: 0.0,
        twist: 0.0,
        lean: along[1].atan2(along[2]),
        bend: 0.0,
        shrug: 0.0,
        nod: -0.25,
        arms: [rest; 2],
        legs,
    };
    (pose, shoulders)
}

fn hip_bend(m: &Moment, natural: f32, sag: f32, high: f32) -> f32 {
    natural - sag * m.fault(Mistake::HipsSag) + high * m.fault(Mistake::HipsHigh)
}

/// Arms stretched down to hands on the floor under (or a little before) the shoulders of the raised position.
fn hands(m: &Moment, pose: &mut Pose, shoulders: V3, wide: f32) {
    let half = m.person.shoulder_width / 2.0 * wide;
    let tuck = 0.75 + 0.2 * m.habit.elbows;
    pose.arms = SIDES.map(|s| Arm::Reach { wrist: [s * half, shoulders[1], 0.035], pole: [s * tuck, -0.7, 0.25] });
}

/// Height of the shoulders over stretched arms whose hands are `wide` shoulder widths apart.
fn raised(person: &Person, wide: f32) -> f32 {
    let arm = (person.upper_arm + person.forearm) * 0.99;
    let out = person.shoulder_width / 2.0 * (wide - 1.0);
    0.035 + (arm * arm - out * out).max(0.01).sqrt()
}

fn push_up(m: &Moment) -> Pose {
    let person = m.person;
    let wide = 1.5 + 0.2 * m.habit.stance;
    let top = raised(person, wide);
    let low = (0.15 + 0.014 * m.habit.depth) * person.height;
    let low = m.range(low, lerp(low, top, 0.72));
    let shoulders = lerp(top, low, m.a);
    // Near the floor there is no room to sag.
    let bend = hip_bend(m, 0.03 + 0.03 * m.habit.lean, 0.44 - 0.22 * m.a * m.range(1.0, 0.4), 0.72);
    let (_, at_top) = prone(person, &Line { shoulders: top, bend, knees: 0.05 });
    let (mut pose, _) = prone(person, &Line { shoulders, bend, knees: 0.05 });
    hands(m, &mut pose, at_top, wide);
    pose
}

fn plank(m: &Moment) -> Pose {
    let person = m.person;
    let bend = hip_bend(m, 0.03 + 0.04 * m.habit.lean, 0.46, 0.72);
    let knees = 0.05 + m.fault(Mistake::KneesBent) * 0.85;
    if m.habit.arms == 3 {
        let (mut pose, shoulders) = prone(person, &Line { shoulders: raised(person, 1.1), bend, knees });
        hands(m, &mut pose, shoulders, 1.1);
        return pose;
    }
    // On the forearms: elbows under the shoulders.
    let (mut pose, shoulders) = prone(person, &Line { shoulders: person.upper_arm + 0.035, bend, knees });
    let half = person.shoulder_width / 2.0;
    let inwards = 0.25 + 0.25 * m.habit.elbows;
    pose.arms = SIDES.map(|s| Arm::Reach {
        wrist: [s * half * (1.0 - inwards), shoulders[1] + person.forearm * 0.97, 0.035],
        pole: [s * 0.1, -0.6, -1.0],
    });
    pose
}

fn mountain_climber(m: &Moment) -> Pose {
    let person = m.person;
    let bend = hip_bend(m, 0.12 + 0.05 * m.habit.lean, 0.45, 0.80);
    let (mut pose, shoulders) = prone(person, &Line { shoulders: raised(person, 1.1), bend, knees: 0.05 });
    hands(m, &mut pose, shoulders, 1.1);
    let working = usize::from(m.side < 0.0);
    let leg = &mut pose.legs[working];
    let hips = pose.pelvis;
    let forward = m.range(-0.02 + 0.03 * m.habit.depth, -0.20) * person.height;
    let drawn = [leg.ankle[0] * 0.9, hips[1] + forward, person.height * 0.115];
    let t = m.a;
    leg.ankle = mix(leg.ankle, drawn, t);
    leg.ankle[2] += 0.03 * person.height * (std::f32::consts::PI * t).sin();
    leg.pole = mix(leg.pole, [0.1 * m.side, 1.0, -0.35], ease(t * 1.5));
    leg.toe = mix(leg.toe, [0.0, 0.1, -1.0], t);
    pose
}

fn sit_up(m: &Moment) -> Pose {
    let person = m.person;
    let floor = 0.055 * person.height;
    let ankle = person.leg() * (0.60 + 0.04 * m.habit.stance);
    let legs = SIDES.map(|s| Leg {
        ankle: [s * person.hip_width * 0.6, ankle, person.ankle],
        pole: [s * 0.12, 0.0, 1.0],
        toe: [s * 0.15, 1.0, -(person.ankle - 0.022) / person.foot],
        planted: false,
    });
    let top = m.range(12.0 + 8.0 * m.habit.depth, -52.0);
    let lean = lerp(-88.0_f32, top, m.a).to_radians();
    let head = Arm::Free { raise: 2.1, out: lerp(1.5, 1.25, m.a), elbow: 2.35, to: [-0.8, 0.2, 0.6] };
    let chest = Arm::Free { raise: 0.5, out: 0.35, elbow: 2.0, to: [-1.0, 0.5, 0.35] };
    let knees = Arm::Free { raise: lerp(2.6, 1.35, ease(m.a * 1.4)), out: 0.15, elbow: 0.15, to: [0.0, 1.0, 0.4] };
    let arm = [head, chest, knees, head][m.habit.arms];
    Pose {
        pelvis: [0.0, 0.0, floor],
        turn: 0.0,
        twist: 0.0,
        lean,
        bend: 0.0,
        shrug: 0.0,
        nod: 0.25 * (1.0 - m.a) + 0.15,
        arms: [arm; 2],
        legs,
    }
}
