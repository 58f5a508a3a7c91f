//! What people do between exercises.

use std::f32::consts::PI;

use rand::Rng;

use super::person::{Arm, Person, Pose, assemble};
use super::standing::stand;
use super::vector::{V3, add, ease, lerp, turn};
use super::{Sway, habit};
use crate::synthetic::exercise::{FPS, Posture};

/// Something done with the arms for a while.
#[derive(Clone, Copy)]
enum Pastime {
    Nothing,
    HandsOnHips,
    Drink,
    WipeFace,
    ShakeArms,
    Bow,
}

const PASTIMES: [Pastime; 6] =
    [Pastime::Nothing, Pastime::HandsOnHips, Pastime::Drink, Pastime::WipeFace, Pastime::ShakeArms, Pastime::Bow];

/// Standing about for some seconds, facing the camera of yaw 0: shifting weight, drinking, wiping the face, a few steps
/// to the side and back.
pub fn rest(person: &Person, seconds: f32, rng: &mut impl Rng) -> Vec<Posture> {
    let habit = habit(rng);
    let sway = Sway::random(rng);
    let frames = (seconds.max(0.0) * FPS).round() as usize;
    let facing: f32 = rng.random_range(-0.5..0.5);
    let working = usize::from(rng.random_bool(0.5));
    let mut out: Vec<Posture> = Vec::with_capacity(frames);
    let (mut pastime, mut begins, mut ends) = (Pastime::Nothing, 0, (FPS * rng.random_range(0.4..1.5)) as usize);
    let walk = Walk::random(frames, person, rng);
    for frame in 0..frames {
        if frame >= ends {
            pastime = PASTIMES[rng.random_range(0..PASTIMES.len())];
            begins = frame;
            ends = frame + (FPS * rng.random_range(1.6..4.0)) as usize;
        }
        let p = (frame - begins) as f32 / (ends - begins).max(1) as f32;
        // In, stay, and out again: every pastime begins and ends hanging.
        let a = ease(p / 0.28) * ease((1.0 - p) / 0.28);
        let mut pose = stand(person, &habit);
        indulge(&mut pose, pastime, a, frame as f32 / FPS, working);
        sway.apply(&mut pose, frame as f32 / FPS, 2.5);
        let place = walk.apply(&mut pose, person, frame);
        out.push(assemble(person, &pose).map(|j| add(turn(j, facing), place)));
    }
    out
}

fn toward(from: Arm, to: Arm, t: f32) -> Arm {
    match (from, to) {
        (Arm::Free { raise, out, elbow, to: a }, Arm::Free { raise: r, out: o, elbow: e, to: b }) => Arm::Free {
            raise: lerp(raise, r, t),
            out: lerp(out, o, t),
            elbow: lerp(elbow, e, t),
            to: super::vector::mix(a, b, t),
        },
        (from, _) => from,
    }
}

fn indulge(pose: &mut Pose, pastime: Pastime, a: f32, t: f32, working: usize) {
    let face = Arm::Free { raise: 1.0, out: 0.25, elbow: 2.35, to: [-0.55, 0.3, 1.0] };
    match pastime {
        Pastime::Nothing => {}
        Pastime::HandsOnHips => {
            let hips = Arm::Free { raise: 0.75, out: 1.95, elbow: 1.7, to: [-1.0, 0.35, -0.45] };
            pose.arms = pose.arms.map(|arm| toward(arm, hips, a));
        }
        Pastime::Drink => {
            pose.arms[working] = toward(pose.arms[working], face, a);
            pose.nod -= 0.35 * a;
        }
        Pastime::WipeFace => {
            let wiping = Arm::Free {
                raise: 1.05 + 0.12 * (2.0 * PI * 1.3 * t).sin(),
                out: 0.2,
                elbow: 2.4,
                to: [-0.7, 0.3, 1.0],
            };
            pose.arms[working] = toward(pose.arms[working], wiping, a);
        }
        Pastime::ShakeArms => {
            let shake = (2.0 * PI * 2.2 * t).sin();
            let arm = Arm::Free { raise: 0.35 + 0.12 * shake, out: 1.1, elbow: 0.4 + 0.2 * shake, to: [0.0, 1.0, 0.3] };
            pose.arms = pose.arms.map(|from| toward(from, arm, a));
        }
        Pastime::Bow => {
            // Hands on the thighs, catching breath.
            pose.lean += 0.6 * a;
            pose.pelvis[1] -= 0.08 * a;
            pose.pelvis[2] -= 0.02 * a;
            let thighs = Arm::Free { raise: 0.6, out: 0.25, elbow: 0.35, to: [0.2, 0.3, 0.0] };
            pose.arms = pose.arms.map(|from| toward(from, thighs, a));
        }
    }
}

/// A few steps to the side and back again.
struct Walk {
    from: usize,
    frames: usize,
    distance: f32,
}

impl Walk {
    fn random(frames: usize, person: &Person, rng: &mut impl Rng) -> Self {
        let long = (FPS * rng.random_range(2.5..4.0)) as usize;
        let walks = frames > long + 10 && rng.random_bool(0.6);
        let from = if walks { rng.random_range(0..frames - long) } else { frames };
        let side = if rng.random_bool(0.5) { 1.0 } else { -1.0 };
        Self { from, frames: long, distance: side * person.height * rng.random_range(0.15..0.35) }
    }

    /// Steps on the spot while the body goes; returns the way gone.
    fn apply(&self, pose: &mut Pose, person: &Person, frame: usize) -> V3 {
        if frame < self.from || frame >= self.from + self.frames {
            return [0.0; 3];
        }
        let p = (frame - self.from) as f32 / self.frames as f32;
        let busy = ease(p / 0.15) * ease((1.0 - p) / 0.15);
        let step = 2.0 * PI * (p * self.frames as f32 / FPS) * 0.9;
        pose.pelvis[2] -= 0.015 * person.height * busy;
        for (i, leg) in pose.legs.iter_mut().enumerate() {
            let swing = (step + PI * i as f32).sin();
            leg.ankle[2] += 0.05 * person.height * swing.max(0.0) * busy;
            leg.ankle[1] += 0.03 * person.height * (step + PI * i as f32).cos() * busy;
        }
        [self.distance * (2.0 * PI * p).cos().mul_add(-0.5, 0.5), 0.0, 0.0]
    }
}
