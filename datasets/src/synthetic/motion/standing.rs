//! Exercises done on the feet: a pose for each moment of a repetition.

use std::f32::consts::{FRAC_PI_2, PI};

use super::arms;
use super::person::{Arm, Leg, Person, Pose, free_leg};
use super::vector::{V3, ease, lerp, mix};
use crate::synthetic::exercise::{Exercise, Mistake};

/// What a person always does in their own way; constant through a take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habit {
    /// One of four ways to hold the arms.
    pub(crate) arms: usize,
    /// Traits from -1 to 1: stance width, toes out, lean, depth, reach, elbows, head, sides.
    pub(crate) stance: f32,
    pub(crate) toes: f32,
    pub(crate) lean: f32,
    pub(crate) depth: f32,
    pub(crate) reach: f32,
    pub(crate) elbows: f32,
    pub(crate) variant: f32,
}

/// One moment of a repetition.
pub(crate) struct Moment<'a> {
    pub(crate) person: &'a Person,
    pub(crate) habit: &'a Habit,
    /// How far into the movement, 0 at rest, 1 at the turning point.
    pub(crate) a: f32,
    /// Phase of the repetition, 0 to 1.
    pub(crate) p: f32,
    /// The working side: 1 left, -1 right.
    pub(crate) side: f32,
    /// Severity of each [`Mistake`].
    pub(crate) fault: [f32; 9],
}

impl Moment<'_> {
    pub(crate) fn fault(&self, mistake: Mistake) -> f32 {
        self.fault[mistake as usize]
    }

    /// The value at full range, or at half the range where that is the mistake.
    pub(crate) fn range(&self, full: f32, half: f32) -> f32 {
        lerp(full, half, self.fault(Mistake::HalfRange))
    }

    /// 0 for the left, 1 for the right limb of the working side.
    pub(crate) fn working(&self) -> usize {
        usize::from(self.side < 0.0)
    }

    /// Severity of unevenness for one side: the weaker side takes all of it.
    pub(crate) fn uneven(&self, i: usize) -> f32 {
        let weaker = usize::from(self.habit.variant < 0.0);
        if i == weaker { self.fault(Mistake::Uneven) } else { 0.0 }
    }
}

pub(crate) const SIDES: [f32; 2] = [1.0, -1.0];

pub(super) fn rad(degrees: f32) -> f32 {
    degrees.to_radians()
}

/// A foot flat on the floor, `half` to the side and `forward`, toes out by `toes` radians.
pub(super) fn planted(person: &Person, side: f32, half: f32, forward: f32, toes: f32, knees: f32) -> Leg {
    let drop = -(person.ankle - 0.022) / person.foot;
    Leg {
        ankle: [side * half, forward, person.ankle],
        pole: [side * knees.sin(), knees.cos(), 0.0],
        toe: [side * toes.sin(), toes.cos(), drop],
        planted: true,
    }
}

fn hanging(side_out: f32) -> Arm {
    Arm::Free { raise: 0.10 + 0.06 * side_out, out: FRAC_PI_2 * 0.9, elbow: 0.22, to: [0.0, 1.0, 0.0] }
}

pub(super) fn on_hips() -> Arm {
    Arm::Free { raise: 0.75, out: rad(112.0), elbow: rad(98.0), to: [-1.0, 0.35, -0.45] }
}

fn clasped(habit: &Habit) -> Arm {
    let (raise, out) = (0.5 + 0.25 * habit.reach, 0.6 + 0.35 * habit.elbows);
    Arm::Free { raise, out, elbow: rad(128.0 + 12.0 * habit.depth), to: [-0.8, 0.5, 0.8] }
}

/// Standing at ease.
pub(crate) fn stand(person: &Person, habit: &Habit) -> Pose {
    let half = person.hip_width * (0.62 + 0.12 * habit.stance);
    let toes = 0.2 + 0.15 * habit.toes;
    Pose {
        pelvis: [0.0, 0.0, person.standing()],
        turn: 0.0,
        twist: 0.0,
        lean: 0.03 + 0.02 * habit.lean,
        bend: 0.0,
        shrug: 0.0,
        nod: 0.05,
        arms: [hanging(habit.elbows); 2],
        legs: SIDES.map(|s| planted(person, s, half, 0.02, toes, toes)),
    }
}

/// The pose of an exercise on the feet.
pub(crate) fn pose(exercise: Exercise, m: &Moment) -> Pose {
    let base = stand(m.person, m.habit);
    match exercise {
        Exercise::Squat => squat(m, base),
        Exercise::JumpingJack => arms::jumping_jack(m, base),
        Exercise::HighKnees => high_knees(m, base),
        Exercise::Lunge => lunge(m, base),
        Exercise::SideLunge => side_lunge(m, base),
        Exercise::Boxing => arms::boxing(m, base),
        Exercise::ToeTouch => toe_touch(m, base),
        Exercise::ArmCircles => arms::arm_circles(m, base),
        Exercise::SideBend => arms::side_bend(m, base),
        Exercise::HurdleStep => hurdle_step(m, base),
        Exercise::SitToStand => sit_to_stand(m, base),
        Exercise::LegRaise => leg_raise(m, base),
        Exercise::LateralRaise => arms::lateral_raise(m, base),
        _ => arms::shoulder_rotation(m, base),
    }
}

fn arms_of_squat(m: &Moment, a: f32) -> [Arm; 2] {
    let forward = Arm::Free {
        raise: lerp(0.15, rad(92.0 + 14.0 * m.habit.reach) + m.fault(Mistake::TrunkLean) * a * 0.2, a),
        out: lerp(1.2, 0.12, (a * 3.0).min(1.0)),
        elbow: lerp(0.22, 0.12 + 0.1 * m.habit.elbows.abs(), a),
        to: [-0.2, 1.0, 0.6],
    };
    let [hips, chest] = [on_hips(), clasped(m.habit)];
    let behind_head = Arm::Free { raise: rad(118.0), out: rad(98.0), elbow: rad(138.0), to: [-1.0, 0.0, 0.5] };
    [[forward, chest, hips, behind_head][m.habit.arms]; 2]
}

fn squat(m: &Moment, mut pose: Pose) -> Pose {
    let (h, a) = (m.person.height, m.a);
    let half = m.person.shoulder_width * (0.66 + 0.21 * m.habit.stance);
    let toes = 0.42 + 0.28 * m.habit.toes;
    let knees = lerp(0.42 + 0.2 * m.habit.toes, -0.17, m.fault(Mistake::KneesIn) * ease(a * 1.6));
    pose.legs = SIDES.map(|s| planted(m.person, s, half, 0.0, toes, knees));
    let stand = m.person.standing();
    let low = m.range(0.49 + 0.055 * m.habit.depth, 0.77 + 0.03 * m.habit.depth);
    pose.pelvis = [0.0, -h * 0.115 * a * m.range(1.0, 0.65), stand * lerp(1.0, low, a)];
    pose.lean += a * (m.range(0.46, 0.33) + 0.1 * m.habit.lean + 0.50 * m.fault(Mistake::TrunkLean));
    pose.nod = 0.05 - 0.25 * a;
    pose.arms = arms_of_squat(m, a);
    pose
}

/// Mixes a leg from standing on the floor to being free in the air.
fn lift(ground: Leg, air: Leg, a: f32) -> Leg {
    let t = ease(a / 0.4);
    Leg {
        ankle: mix(ground.ankle, air.ankle, t),
        pole: mix(ground.pole, air.pole, t),
        toe: mix(ground.toe, air.toe, t),
        planted: false,
    }
}

fn hip(person: &Person, pelvis: V3, side: f32) -> V3 {
    [pelvis[0] + side * person.hip_width / 2.0, pelvis[1], pelvis[2]]
}

fn high_knees(m: &Moment, mut pose: Pose) -> Pose {
    let (h, a, w) = (m.person.height, m.a, m.working());
    let hop = 0.018 * h * (1.0 - (2.0 * PI * m.p).cos()) / 2.0;
    for leg in &mut pose.legs {
        leg.ankle = [leg.ankle[0] * 0.8, 0.0, leg.ankle[2] + hop];
        leg.toe[2] -= 0.5 * hop / (0.018 * h);
    }
    pose.pelvis = [-m.side * 0.01 * h * a, 0.0, m.person.standing() - 0.008 * h + hop];
    let raise = rad(m.range(94.0 + 8.0 * m.habit.depth, 48.0)) * a;
    let knee = rad(m.range(100.0 + 12.0 * m.habit.reach, 70.0)) * a + 0.05;
    pose.legs[w] =
        lift(pose.legs[w], free_leg(m.person, hip(m.person, pose.pelvis, m.side), m.side, raise, 0.06, knee), a);
    pose.lean += -m.fault(Mistake::TrunkLean) * rad(32.0) - 0.02 * a;
    pose.arms = [0, 1].map(|i| {
        if m.habit.arms == 2 {
            // Palms held out in front, for the knees to meet.
            return Arm::Free { raise: 0.15, out: 1.2, elbow: rad(88.0), to: [0.0, 1.0, 0.0] };
        }
        let swing = if i == w { -a } else { a } * (0.55 + 0.15 * m.habit.reach);
        Arm::Free {
            raise: swing + 0.05,
            out: 0.1,
            elbow: rad(88.0 + 12.0 * m.habit.elbows) - 0.2 * swing,
            to: [-0.2, 1.0, 0.6],
        }
    });
    pose.twist = 0.12 * a * m.side;
    pose
}

fn lunge(m: &Moment, mut pose: Pose) -> Pose {
    let (h, w) = (m.person.height, m.working());
    let step = ease(m.a / 0.62);
    let down = ease((m.a - 0.25) / 0.75);
    let half = m.person.hip_width * 0.6;
    pose.legs = SIDES.map(|s| planted(m.person, s, half, 0.0, 0.12, 0.06));
    let stride = h * (0.40 + 0.03 * m.habit.stance);
    let front = &mut pose.legs[w];
    front.ankle[1] = stride * step;
    front.ankle[2] += 0.06 * h * (PI * step).sin();
    front.planted = step > 0.98;
    let back = &mut pose.legs[1 - w];
    // The heel of the back foot comes up over the toes.
    let heel = ease(m.a / 0.8);
    back.ankle[1] = 0.05 * h * heel;
    back.ankle[2] = lerp(m.person.ankle, 0.10 * h, heel);
    back.toe = mix(back.toe, [0.0, 0.45, -0.85], heel);
    back.pole = [0.0, 1.0, -0.6 * heel];
    let low = m.range(0.655 + 0.03 * m.habit.depth, 0.87);
    pose.pelvis = [0.0, stride * 0.52 * step, m.person.standing() * lerp(lerp(1.0, 0.93, step), low, down)];
    pose.lean += m.a * (0.04 + 0.03 * m.habit.lean) + m.fault(Mistake::TrunkLean) * rad(42.0) * ease(m.a);
    pose.arms = match m.habit.arms {
        0 | 3 => [on_hips(); 2],
        1 => [clasped(m.habit); 2],
        _ => pose.arms,
    };
    pose
}

fn side_lunge(m: &Moment, mut pose: Pose) -> Pose {
    let (h, w) = (m.person.height, m.working());
    let step = ease(m.a / 0.6);
    let down = ease((m.a - 0.2) / 0.8);
    let half = m.person.hip_width * 0.6;
    pose.legs = SIDES.map(|s| planted(m.person, s, half, 0.0, 0.15, 0.1));
    let stride = h * (0.42 + 0.03 * m.habit.stance) * m.range(1.0, 0.75);
    let leg = &mut pose.legs[w];
    leg.ankle[0] += m.side * stride * step;
    leg.ankle[2] += 0.05 * h * (PI * step).sin();
    leg.planted = step > 0.98;
    leg.toe = mix(leg.toe, [m.side * 0.4, 0.92, leg.toe[2]], step);
    leg.pole = mix(leg.pole, [m.side * 0.5, 0.9, 0.0], step);
    let low = m.range(0.665 + 0.035 * m.habit.depth, 0.90);
    let over = m.range(0.66, 0.55);
    pose.pelvis = [
        m.side * (stride * lerp(0.45 * step, over, down)),
        -0.11 * h * down * m.range(1.0, 0.4),
        m.person.standing() * lerp(lerp(1.0, 0.93, step), low, down),
    ];
    pose.lean += down * (m.range(0.50, 0.2) + 0.08 * m.habit.lean + m.fault(Mistake::TrunkLean) * rad(38.0));
    pose.bend = -0.05 * down * m.side;
    pose.arms = match m.habit.arms {
        0 => arms_of_squat(m, down),
        1 | 3 => [clasped(m.habit); 2],
        _ => [on_hips(); 2],
    };
    pose
}

fn toe_touch(m: &Moment, mut pose: Pose) -> Pose {
    let (h, a) = (m.person.height, m.a);
    pose.lean += a * rad(m.range(116.0 + 8.0 * m.habit.depth, 58.0 + 6.0 * m.habit.depth));
    let bent = m.fault(Mistake::KneesBent) * ease(a * 1.5);
    pose.pelvis = [0.0, -h * (0.075 - 0.02 * bent) * a, m.person.standing() * (1.0 - 0.012 * a - 0.15 * bent)];
    pose.nod = 0.05 + 0.2 * a;
    let overhead = m.habit.arms == 3;
    let start = if overhead { rad(165.0) } else { 0.1 };
    // Arms hang straight down, or reach for the toes.
    let end = rad(m.range(112.0 + 8.0 * m.habit.depth, 60.0));
    pose.arms = [Arm::Free {
        raise: lerp(start, end * 0.92, a),
        out: lerp(1.2, 0.05, (a * 2.5).min(1.0)),
        elbow: lerp(0.22, 0.1, a),
        to: [0.0, 1.0, 0.3],
    }; 2];
    pose
}

fn hurdle_step(m: &Moment, mut pose: Pose) -> Pose {
    let (h, a, w) = (m.person.height, m.a, m.working());
    // Knee up, foot over the hurdle to the floor in front (heel first), and back the same way.
    let over = ease((m.p - 0.30) / 0.2) * (1.0 - ease((m.p - 0.55) / 0.2));
    let up = a.max(over * 0.55);
    let raise = rad(m.range(86.0 + 8.0 * m.habit.depth, 38.0)) * up * lerp(1.0, 0.75, over);
    let knee = rad(m.range(98.0 + 8.0 * m.habit.reach, 62.0)) * up * lerp(1.0, 0.45, over) + 0.05;
    pose.pelvis[0] = -m.side * 0.025 * h * ease(up * 2.0);
    pose.legs[w] =
        lift(pose.legs[w], free_leg(m.person, hip(m.person, pose.pelvis, m.side), m.side, raise, 0.04, knee), up);
    pose.lean += m.fault(Mistake::TrunkLean) * rad(36.0) * ease(a * 1.5);
    pose.bend = m.side * 0.05 * a;
    pose.arms = match m.habit.arms {
        // A stick across the shoulders, hands on the hips, or arms out for balance.
        0 | 1 => [Arm::Free { raise: rad(48.0), out: rad(100.0), elbow: rad(128.0), to: [0.1, 0.0, 1.0] }; 2],
        2 => [on_hips(); 2],
        _ => [Arm::Free { raise: 0.2 + 0.35 * ease(up * 2.0), out: 1.5, elbow: 0.25, to: [0.0, 1.0, 0.0] }; 2],
    };
    pose
}

fn sit_to_stand(m: &Moment, mut pose: Pose) -> Pose {
    let (h, a) = (m.person.height, m.a);
    let half = m.person.hip_width * (0.75 + 0.12 * m.habit.stance);
    let knees = lerp(0.14, -0.28, m.fault(Mistake::KneesIn) * (PI * a).sin().max(0.35 * (1.0 - a)));
    pose.legs = SIDES.map(|s| planted(m.person, s, half, 0.0, 0.2, knees));
    let seat = m.person.ankle + m.person.shank * 0.97;
    let top = m.range(m.person.standing(), lerp(seat, m.person.standing(), 0.68));
    // The trunk swings forwards first; only then do the hips leave the chair.
    let rise = ease((a - 0.18) / 0.82);
    let back = m.person.thigh * 0.86;
    pose.pelvis = [0.0, -back * (1.0 - rise) - 0.04 * h * (PI * rise).sin(), lerp(seat, top, rise)];
    let forward = (PI * (a * 1.05).min(1.0)).sin().max(0.0);
    pose.lean = 0.05
        + 0.06 * m.habit.lean * (1.0 - a)
        + forward * (0.58 + 0.08 * m.habit.lean + m.fault(Mistake::TrunkLean) * rad(34.0))
        + rise * unfinished_lean(m);
    pose.nod = 0.05 - 0.3 * forward;
    let thighs = Arm::Free {
        raise: lerp(0.55, 0.1, a),
        out: lerp(0.15, 1.2, a),
        elbow: lerp(0.7, 0.22, a),
        to: [-0.2, 1.0, 0.3],
    };
    let ahead = Arm::Free {
        raise: lerp(rad(78.0), 0.1, a) + forward * 0.3,
        out: lerp(0.1, 1.0, a * a),
        elbow: 0.2,
        to: [-0.1, 1.0, 0.4],
    };
    let crossed = Arm::Free { raise: 0.4, out: 0.4, elbow: rad(118.0), to: [-1.0, 0.4, 0.35] };
    pose.arms = [[thighs, ahead, crossed, thighs][m.habit.arms]; 2];
    pose
}

/// Who does not stand up fully keeps the trunk bent forwards.
fn unfinished_lean(m: &Moment) -> f32 {
    0.3 * m.fault(Mistake::HalfRange)
}

fn leg_raise(m: &Moment, mut pose: Pose) -> Pose {
    let (h, a, w) = (m.person.height, m.a, m.working());
    let raise = rad(m.range(66.0 + 8.0 * m.habit.depth, 24.0)) * a;
    let knee = 0.05 + m.fault(Mistake::KneesBent) * rad(62.0) * ease(a * 1.5);
    pose.pelvis[0] = -m.side * 0.02 * h * ease(a * 2.0);
    pose.legs[w] =
        lift(pose.legs[w], free_leg(m.person, hip(m.person, pose.pelvis, m.side), m.side, raise, 0.04, knee), a);
    pose.lean += -0.05 * a - m.fault(Mistake::TrunkLean) * rad(30.0) * ease(a * 1.5);
    pose.arms = match m.habit.arms {
        0 | 1 => pose.arms,
        2 => [on_hips(); 2],
        _ => [Arm::Free { raise: 0.25 + 0.5 * a, out: 1.5, elbow: 0.2, to: [0.0, 1.0, 0.0] }; 2],
    };
    pose
}
