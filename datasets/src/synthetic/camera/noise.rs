//! The errors of pose estimators.

use std::f32::consts::PI;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use spotter_vision::body::{Body, JOINTS, Joint};

use crate::synthetic::motion::vector::{V3, norm, sub};

/// How much worse than the trunk each joint is found.
const TREMBLE: [f32; JOINTS] = [0.8, 0.8, 0.8, 1.2, 1.2, 1.9, 1.9, 1.0, 1.0, 1.2, 1.2, 1.6, 1.6, 2.1, 2.1];

/// Groups that a pose estimator loses together.
const GROUPS: [&[Joint]; 5] = [
    &[Joint::LeftElbow, Joint::LeftWrist],
    &[Joint::RightElbow, Joint::RightWrist],
    &[Joint::LeftAnkle, Joint::LeftToe],
    &[Joint::RightAnkle, Joint::RightToe],
    &[Joint::Nose],
];

#[derive(Clone, Copy, PartialEq)]
enum Swap {
    None,
    Arms,
    Legs,
    All,
}

/// The errors of a pose estimator over time: trembling that is correlated in time and largest at the ends of the limbs
/// and in depth, a constant bias of depth, limbs lost for a moment, left and right confused for a moment, and the lag
/// of its smoothing.
#[derive(Clone)]
pub struct PoseNoise {
    rng: ChaCha8Rng,
    /// Standard deviation as a share of the trunk's length in the picture.
    level: f32,
    /// Depth's as a multiple of that.
    depth: f32,
    /// Seconds over which the error is correlated.
    memory: f32,
    depth_scale: f32,
    bias: [V3; JOINTS],
    drift: [V3; JOINTS],
    /// Lost groups: until when, and what is reported meanwhile.
    lost: [(f64, f32); GROUPS.len()],
    losses_per_second: f32,
    swap: (Swap, f64),
    swaps_per_second: f32,
    /// Cut-off of the smoothing at rest in hertz, and how it rises with speed (trunk lengths a second).
    cutoff: f32,
    rise: f32,
    last: Option<(f64, [V3; JOINTS])>,
}

impl PoseNoise {
    /// An estimator of some quality, from nearly clean to poor.
    pub fn random(rng: &mut impl Rng) -> Self {
        let quality: f32 = rng.random_range(0.0..1.0);
        let mut noise = Self::level(0.006 + 0.022 * quality * quality, rng);
        noise.losses_per_second = 0.04 * rng.random_range(0.0..1.0_f32) + 0.05 * quality * quality;
        noise.swaps_per_second = if rng.random_bool(0.5) { 0.0 } else { 0.03 * quality };
        noise
    }

    /// An estimator whose trembling has a standard deviation of `level` trunk lengths, without dropouts and swaps.
    pub fn level(level: f32, rng: &mut impl Rng) -> Self {
        let mut own = ChaCha8Rng::seed_from_u64(rng.random());
        let bias = std::array::from_fn(|j| {
            let size = level * 1.2 * TREMBLE[j];
            [gauss(&mut own) * size, gauss(&mut own) * size, gauss(&mut own) * size * 2.5]
        });
        Self {
            level,
            depth: own.random_range(2.5..4.5),
            memory: own.random_range(0.05..0.25),
            depth_scale: if level > 0.0 { own.random_range(0.65..1.25) } else { 1.0 },
            bias,
            drift: [[0.0; 3]; JOINTS],
            lost: [(f64::NEG_INFINITY, 0.0); GROUPS.len()],
            losses_per_second: 0.0,
            swap: (Swap::None, f64::NEG_INFINITY),
            swaps_per_second: 0.0,
            cutoff: own.random_range(1.5..5.0),
            rise: own.random_range(1.0..4.0),
            last: None,
            rng: own,
        }
    }

    /// What the estimator would report at `t` seconds for the true `body`. Call it with rising times; a step back, or a
    /// gap of over half a second, begins anew.
    pub fn corrupt(&mut self, t: f64, body: &Body) -> Body {
        let step = self.last.as_ref().map(|(last, _)| (t - last) as f32).filter(|dt| (0.0..0.5).contains(dt));
        let dt = step.unwrap_or(1.0 / 24.0);
        let trunk = trunk_length(body).max(8.0);
        let mut out = body.clone();
        self.swap_sides(t, dt, &mut out);
        self.tremble(dt, trunk, &mut out);
        self.lose(t, dt, trunk, &mut out);
        if let (Some(_), Some((_, last))) = (step, &self.last) {
            for (joint, last) in out.joints.iter_mut().zip(last) {
                *joint = smooth(*last, *joint, dt, trunk, self.cutoff, self.rise);
            }
        }
        self.last = Some((t, out.joints));
        out
    }

    fn swap_sides(&mut self, t: f64, dt: f32, body: &mut Body) {
        if t > self.swap.1 {
            self.swap.0 = Swap::None;
            // Seen from the side the sides are confused more often.
            let across = body.joint(Joint::LeftShoulder)[0] - body.joint(Joint::RightShoulder)[0];
            let side_on = 1.0 + 3.0 * (1.0 - across.abs() / (0.6 * trunk_length(body)).max(1.0)).max(0.0);
            if self.rng.random::<f32>() < self.swaps_per_second * side_on * dt {
                let kind = [Swap::Arms, Swap::Legs, Swap::Legs, Swap::All][self.rng.random_range(0..4)];
                self.swap = (kind, t + self.rng.random_range(0.06..0.25));
            }
        }
        let pairs: &[usize] = match self.swap.0 {
            Swap::None => &[],
            Swap::Arms => &[3, 5],
            Swap::Legs => &[9, 11, 13],
            Swap::All => &[1, 3, 5, 7, 9, 11, 13],
        };
        for &left in pairs {
            body.joints.swap(left, left + 1);
            body.visibility.swap(left, left + 1);
        }
    }

    fn tremble(&mut self, dt: f32, trunk: f32, body: &mut Body) {
        let keep = (-dt / self.memory).exp();
        let fresh = (1.0 - keep * keep).sqrt();
        for (j, tremble) in TREMBLE.into_iter().enumerate() {
            let blind = if body.visibility[j] < 0.7 { 2.2 } else { 1.0 };
            let size = self.level * tremble * blind * trunk;
            for axis in 0..3 {
                let drift = &mut self.drift[j][axis];
                *drift = *drift * keep + gauss(&mut self.rng) * fresh;
                let spread = if axis == 2 { self.depth } else { 1.0 };
                let value = &mut body.joints[j][axis];
                if axis == 2 {
                    *value *= self.depth_scale;
                }
                *value += *drift * size * spread + self.bias[j][axis] * trunk;
            }
            let doubt = (gauss(&mut self.rng) * 0.02 * blind).abs();
            body.visibility[j] = (body.visibility[j] - doubt).clamp(0.0, 1.0);
        }
    }

    fn lose(&mut self, t: f64, dt: f32, trunk: f32, body: &mut Body) {
        for (group, joints) in GROUPS.iter().enumerate() {
            if t > self.lost[group].0 {
                if self.rng.random::<f32>() >= self.losses_per_second * dt {
                    continue;
                }
                let until = t + self.rng.random_range(0.08..0.6);
                self.lost[group] = (until, self.rng.random_range(0.05..0.4));
            }
            let visibility = self.lost[group].1;
            for &joint in *joints {
                let j = joint as usize;
                body.visibility[j] = body.visibility[j].min(visibility);
                for (value, drift) in body.joints[j].iter_mut().zip(self.drift[j]) {
                    *value += drift * 0.12 * trunk;
                }
            }
        }
    }
}

fn gauss(rng: &mut ChaCha8Rng) -> f32 {
    StandardNormal.sample(rng)
}

pub(super) fn trunk_length(body: &Body) -> f32 {
    let (s, h) = (body.middle(Joint::LeftShoulder, Joint::RightShoulder), body.middle(Joint::LeftHip, Joint::RightHip));
    norm(sub(s, h))
}

/// Low-pass whose cut-off rises with speed: still when still, prompt when fast.
fn smooth(last: V3, now: V3, dt: f32, trunk: f32, cutoff: f32, rise: f32) -> V3 {
    if dt <= 0.0 {
        return last;
    }
    let speed = norm(sub(now, last)) / dt / trunk;
    let tau = 1.0 / (2.0 * PI * (cutoff + rise * speed));
    let share = dt / (dt + tau);
    std::array::from_fn(|i| last[i] + (now[i] - last[i]) * share)
}
