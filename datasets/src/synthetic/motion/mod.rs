//! Motion by hand-set poses: every exercise as a smooth function of its phase, done by bodies of any build.
//!
//! What a person does is drawn at random (tempo, range, stance, sway); what they do *wrong* is asked for by a
//! [`Style`] and afterwards measured from the joints by [`crate::synthetic::measure`].

mod arms;
mod floor;
mod mocap;
mod person;
mod rest;
mod standing;
#[cfg(test)]
mod tests;
mod transition;
pub(crate) mod vector;

use std::f32::consts::PI;

use rand::Rng;

pub use mocap::{MotionError, MotionLibrary, Split};
pub use person::Person;
pub use rest::rest;
pub use transition::transition;

use self::person::{Pose, assemble};
use self::standing::{Habit, Moment};
use self::vector::{ease, lerp, turn};
use super::exercise::{Exercise, FPS, Mistake, Posture, Rep, Take};
use super::measure;

/// A mistake that is made on purpose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fault {
    /// Which.
    pub mistake: Mistake,
    /// 0 not at all, 1 plainly.
    pub severity: f32,
    /// First repetition that has it.
    pub from: usize,
    /// One past the last repetition that has it.
    pub to: usize,
}

/// How an exercise is done.
#[derive(Clone, Debug, PartialEq)]
pub struct Style {
    /// Mistakes to make.
    pub faults: Vec<Fault>,
    /// Speed as a multiple of the usual, 0.7 to 1.3.
    pub tempo: f32,
    /// Turn of the body away from the camera of yaw 0, in radians; positive to the person's left.
    pub facing: f32,
}

impl Style {
    /// Done well, facing the camera.
    pub fn clean() -> Self {
        Self { faults: Vec::new(), tempo: 1.0, facing: 0.0 }
    }

    /// Done with one mistake throughout.
    pub fn with(mistake: Mistake, severity: f32) -> Self {
        let all = Fault { mistake, severity, from: 0, to: usize::MAX };
        Self { faults: vec![all], ..Self::clean() }
    }

    /// The same with a random tempo and a random way to face, as people stand before a camera: mostly towards it on
    /// their feet, mostly side-on on the floor.
    pub fn varied(mut self, exercise: Exercise, rng: &mut impl Rng) -> Self {
        self.tempo = rng.random_range(0.82..1.2);
        self.facing = facing(exercise, rng);
        self
    }

    fn severities(&self, rep: usize) -> [f32; 9] {
        let mut out = [0.0; 9];
        for fault in &self.faults {
            if (fault.from..fault.to).contains(&rep) {
                let slot = &mut out[fault.mistake as usize];
                *slot = fault.severity.clamp(0.0, 1.0).max(*slot);
            }
        }
        out
    }
}

/// A random way to face for an exercise; see [`Style::facing`].
pub fn facing(exercise: Exercise, rng: &mut impl Rng) -> f32 {
    let sign = if rng.random_bool(0.5) { 1.0 } else { -1.0 };
    let degrees: f32 = if exercise.on_floor() {
        rng.random_range(45.0..115.0)
    } else if rng.random_bool(0.25) {
        rng.random_range(45.0..95.0)
    } else {
        rng.random_range(0.0..45.0)
    };
    sign * degrees.to_radians()
}

/// Seconds that one repetition usually takes: the range over people.
fn usual_seconds(exercise: Exercise) -> (f32, f32) {
    match exercise {
        Exercise::Squat => (2.0, 3.6),
        Exercise::JumpingJack => (0.9, 1.4),
        Exercise::HighKnees => (0.42, 0.7),
        Exercise::Lunge => (2.0, 3.4),
        Exercise::SideLunge => (2.0, 3.4),
        Exercise::Boxing => (0.5, 1.0),
        Exercise::ToeTouch => (2.0, 3.6),
        Exercise::ArmCircles => (0.9, 1.8),
        Exercise::SideBend => (2.0, 3.6),
        Exercise::HurdleStep => (2.4, 4.0),
        Exercise::SitToStand => (2.2, 3.8),
        Exercise::LegRaise => (1.8, 3.2),
        Exercise::LateralRaise => (2.0, 3.6),
        Exercise::ShoulderRotation => (1.8, 3.2),
        Exercise::PushUp => (1.6, 3.0),
        Exercise::Plank => (2.0, 2.0),
        Exercise::MountainClimber => (0.45, 0.8),
        Exercise::SitUp => (2.2, 3.8),
    }
}

/// Seconds that one repetition takes on average, at a tempo of 1.
pub fn seconds_per_rep(exercise: Exercise) -> f32 {
    let (low, high) = usual_seconds(exercise);
    (low + high) / 2.0 + pause(exercise).1 / 2.0
}

/// Range of the pause between repetitions.
fn pause(exercise: Exercise) -> (f32, f32) {
    match exercise {
        Exercise::JumpingJack
        | Exercise::HighKnees
        | Exercise::ArmCircles
        | Exercise::Plank
        | Exercise::MountainClimber => (0.0, 0.0),
        Exercise::Boxing => (0.0, 0.35),
        _ => (0.0, 0.6),
    }
}

/// Small movements that nobody can help: breathing and sway.
struct Sway {
    waves: [(f32, f32); 6],
}

impl Sway {
    fn random(rng: &mut impl Rng) -> Self {
        Self { waves: std::array::from_fn(|_| (rng.random_range(0.12..0.5), rng.random_range(0.0..2.0 * PI))) }
    }

    fn wave(&self, i: usize, t: f32) -> f32 {
        let (rate, phase) = self.waves[i % self.waves.len()];
        (2.0 * PI * rate * t + phase).sin() * 0.7 + (2.0 * PI * rate * 2.3 * t + 2.0 * phase).sin() * 0.3
    }

    fn apply(&self, pose: &mut Pose, t: f32, size: f32) {
        pose.pelvis[0] += 0.006 * size * self.wave(0, t);
        pose.pelvis[1] += 0.005 * size * self.wave(1, t);
        pose.lean += 0.012 * size * self.wave(2, t);
        pose.bend += 0.010 * size * self.wave(3, t);
        pose.twist += 0.02 * size * self.wave(4, t);
        pose.nod += 0.03 * self.wave(5, t);
        for (i, arm) in pose.arms.iter_mut().enumerate() {
            if let person::Arm::Free { raise, elbow, .. } = arm {
                *raise += 0.018 * self.wave(i + 1, t);
                *elbow += 0.025 * self.wave(i + 3, t);
            }
        }
    }
}

/// One repetition's share of chance.
struct Plan {
    frames: usize,
    gap: usize,
    /// Turning point as a share of the repetition, and how long it is held.
    turn: f32,
    hold: f32,
    range: f32,
    side: f32,
    fault: [f32; 9],
}

fn habit(rng: &mut impl Rng) -> Habit {
    let mut trait_ = || rng.random_range(-1.0..1.0_f32);
    let traits: [f32; 7] = std::array::from_fn(|_| trait_());
    let [stance, toes, lean, depth, reach, elbows, variant] = traits;
    Habit { arms: rng.random_range(0..4), stance, toes, lean, depth, reach, elbows, variant }
}

/// Goes back and forth like a pendulum, without a stop at either end.
fn swings(exercise: Exercise) -> bool {
    use Exercise::*;
    matches!(exercise, HighKnees | MountainClimber | JumpingJack)
}

/// Amount of movement at phase `p`: out to the turning point, a short hold, and back.
fn amount(exercise: Exercise, plan: &Plan, p: f32) -> f32 {
    // What is done quickly swings without a stop.
    if swings(exercise) {
        return (1.0 - (2.0 * PI * p).cos()) / 2.0 * plan.range;
    }
    let (out, back) = (plan.turn - plan.hold / 2.0, plan.turn + plan.hold / 2.0);
    let a = if p < out {
        ease(p / out)
    } else if p < back {
        1.0
    } else {
        1.0 - ease((p - back) / (1.0 - back))
    };
    match exercise {
        Exercise::ArmCircles | Exercise::Plank => a,
        _ => a * plan.range,
    }
}

fn plan(exercise: Exercise, style: &Style, rep: usize, base: f32, side: f32, rng: &mut impl Rng) -> Plan {
    let fault = style.severities(rep);
    let mut seconds = if exercise.is_hold() { base } else { base * rng.random_range(0.92..1.08) };
    if let Some(limit) = exercise.too_fast_below() {
        seconds = lerp(seconds.max(limit * 1.2), limit * 0.72, fault[Mistake::TooFast as usize]);
    }
    let (low, high) = pause(exercise);
    let gap = if high > 0.0 { rng.random_range(low..high) * (1.0 - fault[Mistake::TooFast as usize]) } else { 0.0 };
    let quick = base < 1.5 || swings(exercise);
    Plan {
        frames: ((seconds * FPS).round() as usize).max(8),
        gap: (gap * FPS).round() as usize,
        turn: if quick { 0.5 } else { rng.random_range(0.44..0.56) },
        hold: if quick { 0.04 } else { rng.random_range(0.04..0.14) },
        range: rng.random_range(0.97..1.0),
        side,
        fault,
    }
}

/// `reps` repetitions of an exercise (for a hold: times two seconds).
pub fn take(exercise: Exercise, person: &Person, style: &Style, reps: usize, rng: &mut impl Rng) -> Take {
    let habit = habit(rng);
    let sway = Sway::random(rng);
    let (low, high) = usual_seconds(exercise);
    let tempo = style.tempo.clamp(0.4, 2.5);
    let base = match exercise.is_hold() {
        true => low,
        false => (rng.random_range(low..high) / tempo).clamp(low * 0.85, high * 1.25),
    };
    let first = if rng.random_bool(0.5) { 1.0 } else { -1.0 };
    // Some do all of one side first; a leg is often raised ten times before the other.
    let swaps = exercise.alternates() && !(exercise == Exercise::LegRaise && habit.variant > 0.0);
    let mut out = Take { exercise, postures: Vec::new(), reps: Vec::with_capacity(reps) };
    let mut before = style.severities(0);
    for rep in 0..reps {
        let side = if swaps && rep % 2 == 1 { -first } else { first };
        let plan = plan(exercise, style, rep, base, side, rng);
        let start = out.postures.len();
        for frame in 0..plan.frames + plan.gap {
            let p = (frame as f32 / plan.frames as f32).min(1.0);
            let slow = ease(p / 0.3);
            let fault = std::array::from_fn(|i| lerp(before[i], plan.fault[i], slow));
            let moment = Moment { person, habit: &habit, a: amount(exercise, &plan, p), p, side: plan.side, fault };
            out.postures.push(posture(exercise, &moment, &sway, style.facing, start + frame));
        }
        let end = start + plan.frames;
        let peak = start + ((plan.turn * plan.frames as f32).round() as usize).min(plan.frames - 1);
        let mistakes = measure::mistakes(exercise, &out.postures[start..end], peak - start);
        out.reps.push(Rep { start, peak, end, mistakes });
        before = plan.fault;
    }
    out
}

fn posture(exercise: Exercise, moment: &Moment, sway: &Sway, facing: f32, frame: usize) -> Posture {
    let mut pose = if exercise.on_floor() { floor::pose(exercise, moment) } else { standing::pose(exercise, moment) };
    let size = if exercise.on_floor() { 0.3 } else { 1.0 };
    sway.apply(&mut pose, frame as f32 / FPS, size);
    // Feet were the origin in the push-up position; bodies turn about their hips.
    let back = if exercise.on_floor() && exercise != Exercise::SitUp { moment.person.leg() } else { 0.0 };
    assemble(moment.person, &pose).map(|[x, y, z]| turn([x, y + back, z], facing))
}
