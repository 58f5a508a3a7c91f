//! Exercises on the feet in which the arms (or the trunk) do the work.

use std::f32::consts::PI;

use super::person::{Arm, Pose};
use super::standing::{Moment, SIDES, on_hips, planted, rad};
use super::vector::{ease, lerp};
use crate::synthetic::exercise::Mistake;

pub(super) fn jumping_jack(m: &Moment, mut pose: Pose) -> Pose {
    let (h, a) = (m.person.height, m.a);
    let wide = h * m.range(0.17 + 0.03 * m.habit.stance, 0.10);
    let hop = 0.022 * h * (1.0 - (4.0 * PI * m.p).cos()) / 2.0;
    pose.legs = SIDES.map(|s| {
        let mut leg = planted(m.person, s, lerp(0.045 * h, wide, a), 0.0, 0.3, 0.3);
        leg.ankle[2] += hop + 0.01 * h * a;
        leg.toe[2] -= 0.35 * hop / (0.022 * h);
        leg
    });
    pose.pelvis[2] = m.person.standing() - 0.015 * h + hop + 0.01 * h * a;
    let top = m.range(150.0 + 20.0 * m.habit.reach, 88.0);
    pose.arms = [0, 1].map(|i| Arm::Free {
        raise: rad(lerp(12.0, lerp(top, 95.0, m.uneven(i)), a)),
        out: rad(84.0),
        elbow: 0.18 + 0.08 * m.habit.elbows + a * 0.2 + m.fault(Mistake::ArmsBent) * rad(75.0) * ease(a * 2.0),
        to: [-0.25 * (1.0 - a) - 0.6 * a, 0.5 - 0.4 * a, 0.6],
    });
    pose
}

pub(super) fn boxing(m: &Moment, mut pose: Pose) -> Pose {
    let (h, a, w) = (m.person.height, m.a, m.working());
    // The weaker hand leads: one foot in front, the body turned away from it.
    let lead = if m.habit.variant < -0.6 { -1.0 } else { 1.0 };
    let depth = h * (0.10 + 0.02 * m.habit.stance);
    pose.legs = SIDES.map(|s| planted(m.person, s, m.person.hip_width * 0.9, depth * s * lead, 0.35, 0.3));
    pose.pelvis = [0.0, 0.02 * h * a, m.person.standing() * 0.955 + 0.006 * h * (2.0 * PI * m.p).sin()];
    pose.turn = -0.35 * lead - m.side * 0.22 * a;
    pose.twist = -m.side * 0.38 * a;
    pose.lean += 0.10 + 0.05 * a;
    let body_turn = pose.turn + pose.twist;
    let full = m.range(rad(8.0), rad(82.0));
    pose.arms = [0, 1].map(|i| {
        let t = if i == w { a } else { 0.0 };
        // Punches go straight ahead whichever way the chest is turned.
        let ahead = SIDES[i] * body_turn;
        let reach = m.range(1.0, 0.6);
        Arm::Free {
            raise: lerp(rad(38.0 + 8.0 * m.habit.elbows), rad(86.0 + 8.0 * m.habit.reach), t * reach),
            out: lerp(0.35, -ahead - 0.08, t),
            elbow: lerp(rad(134.0), full, t),
            to: [-0.35, lerp(0.4, 0.3, t), lerp(1.0, 0.6, t)],
        }
    });
    pose
}

pub(super) fn arm_circles(m: &Moment, mut pose: Pose) -> Pose {
    let way = if m.habit.reach < 0.0 { -1.0 } else { 1.0 };
    let angle = 2.0 * PI * m.p * way;
    let radius = rad(m.range(30.0 + 14.0 * m.habit.depth, 5.0));
    let elbow = rad(6.0 + 4.0 * m.habit.elbows) + m.fault(Mistake::ArmsBent) * rad(78.0);
    pose.arms = [0, 1].map(|i| Arm::Free {
        raise: rad(90.0) - radius * angle.cos() - m.uneven(i) * rad(38.0),
        out: rad(84.0) - radius * angle.sin(),
        elbow,
        to: [-0.3, 0.8, 0.5],
    });
    pose
}

pub(super) fn lateral_raise(m: &Moment, mut pose: Pose) -> Pose {
    let a = m.a;
    let top = m.range(89.0 + 6.0 * m.habit.reach, 46.0);
    pose.arms = [0, 1].map(|i| Arm::Free {
        raise: rad(lerp(8.0, lerp(top, top - 42.0 * m.range(1.0, 0.5), m.uneven(i)), a)),
        out: rad(80.0 + 6.0 * m.habit.elbows),
        elbow: 0.16 + 0.08 * m.habit.elbows + m.fault(Mistake::ArmsBent) * rad(85.0) * ease(a * 2.0),
        to: [-0.2, 1.0, 0.0],
    });
    pose.lean -= m.fault(Mistake::TrunkLean) * rad(30.0) * ease(a * 1.5);
    pose
}

pub(super) fn shoulder_rotation(m: &Moment, mut pose: Pose) -> Pose {
    pose.arms = [0, 1].map(|i| {
        let top = lerp(rad(m.range(88.0 + 8.0 * m.habit.depth, 12.0)), rad(28.0), m.uneven(i) * m.range(1.0, 0.0));
        let up = lerp(rad(-22.0 - 8.0 * m.habit.reach), top, m.a);
        Arm::Free {
            raise: rad(86.0 + 5.0 * m.habit.elbows),
            out: rad(84.0),
            elbow: rad(88.0),
            to: [0.0, up.cos(), up.sin()],
        }
    });
    pose
}

pub(super) fn side_bend(m: &Moment, mut pose: Pose) -> Pose {
    let (h, a, w) = (m.person.height, m.a, m.working());
    pose.legs =
        SIDES.map(|s| planted(m.person, s, m.person.shoulder_width * (0.65 + 0.12 * m.habit.stance), 0.0, 0.3, 0.25));
    pose.bend = m.side * rad(m.range(35.0 + 6.0 * m.habit.depth, 12.0)) * a;
    pose.pelvis[0] = -m.side * 0.035 * h * a;
    pose.lean += m.fault(Mistake::TrunkLean) * rad(36.0) * ease(a * 1.5);
    let over = Arm::Free {
        raise: lerp(0.15, rad(168.0), a.powf(0.85)),
        out: rad(85.0),
        elbow: 0.2 + 0.4 * a,
        to: [-1.0, 0.1, 0.4],
    };
    pose.arms = match m.habit.arms {
        0 | 1 => [0, 1].map(|i| {
            if i == w { Arm::Free { raise: 0.15, out: rad(85.0), elbow: 0.15, to: [0.0, 1.0, 0.0] } } else { over }
        }),
        2 => [on_hips(); 2],
        _ => [Arm::Free { raise: rad(165.0), out: rad(88.0), elbow: 0.35, to: [-1.0, 0.0, 0.3] }; 2],
    };
    pose
}
