//! Cameras as people put them up, and the errors of pose estimators that look through them.

use std::f32::consts::PI;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use spotter_vision::body::{Body, JOINTS, Joint};

use super::exercise::Posture;
use super::motion::vector::{V3, add, cross, dot, norm, scale, sub, turn, unit};

/// Metres around the aim that must be in the picture: arms overhead, or lying down.
const REACH: f32 = 1.22;
/// Visibility of a joint in plain sight, hidden behind the body, and outside of the picture.
const SEEN: f32 = 0.98;
const HIDDEN: f32 = 0.45;
const OUTSIDE: f32 = 0.08;

/// A pinhole camera without distortion.
#[derive(Clone, Debug, PartialEq)]
pub struct Camera {
    /// Picture width in pixels.
    pub width: f32,
    /// Picture height in pixels.
    pub height: f32,
    /// Focal length in pixels.
    pub focal: f32,
    /// Place in metres.
    pub position: [f32; 3],
    right: V3,
    down: V3,
    ahead: V3,
}

impl Camera {
    /// A camera at `position` that looks at `aim` (both in metres), level but for `roll` radians.
    pub fn looking_at(position: [f32; 3], aim: [f32; 3], roll: f32, size: (f32, f32), focal: f32) -> Self {
        let ahead = unit(sub(aim, position));
        let level = unit(cross(ahead, [0.0, 0.0, 1.0]));
        let up = cross(level, ahead);
        let (s, c) = roll.sin_cos();
        let right = add(scale(level, c), scale(up, s));
        let down = cross(ahead, right);
        Self { width: size.0, height: size.1, focal, position, right, down, ahead }
    }

    /// On a table, a shelf or a tripod: 0.5 to 2 m high, up to 25 degrees off the axis, as far away as the whole body
    /// needs or up to 1.6 times that. The way a person faces belongs to the motion
    /// ([`Style::facing`](super::motion::Style::facing)) and adds to the camera's.
    pub fn random(rng: &mut impl Rng) -> Self {
        let size = if rng.random_bool(0.65) { (640.0, 480.0) } else { (480.0, 640.0) };
        let short_side_fov: f32 = rng.random_range(36.0..58.0_f32).to_radians();
        let focal = 240.0 / (short_side_fov / 2.0).tan();
        let mut distance = REACH / (short_side_fov / 2.0).sin() * rng.random_range(1.0..1.5);
        // A portrait picture of somebody upright is cut closer than its width demands, but not by much.
        if size.0 < size.1 {
            distance *= 0.92;
        }
        let yaw = rng.random_range(-25.0..25.0_f32).to_radians();
        let place = turn([0.0, -distance, 0.0], yaw);
        let aim = [rng.random_range(-0.15..0.15), 0.0, rng.random_range(0.85..1.05)];
        let position = [place[0], place[1], rng.random_range(0.5..2.0)];
        let roll = rng.random_range(-3.0..3.0_f32).to_radians();
        Self::looking_at(position, aim, roll, size, focal)
    }

    /// What the camera sees of a posture, in [`Body`]'s conventions.
    pub fn project(&self, posture: &Posture) -> Body {
        let seen = posture.map(|p| {
            let way = sub(p, self.position);
            [dot(way, self.right), dot(way, self.down), dot(way, self.ahead).max(0.2)]
        });
        let hips = (seen[Joint::LeftHip as usize][2] + seen[Joint::RightHip as usize][2]) / 2.0;
        let joints = seen.map(|[x, y, depth]| {
            let zoom = self.focal / depth;
            [self.width / 2.0 + x * zoom, self.height / 2.0 + y * zoom, (depth - hips) * self.focal / hips]
        });
        let visibility = std::array::from_fn(|j| {
            let [x, y, _] = joints[j];
            if x < 0.0 || y < 0.0 || x > self.width || y > self.height {
                OUTSIDE
            } else if hidden(&seen, j) {
                HIDDEN
            } else {
                SEEN
            }
        });
        Body { joints, visibility }
    }
}

/// Thick parts of the body that hide others: ends (each the middle of two joints) and radius in metres.
const FLESH: [(Joint, Joint, Joint, Joint, f32); 7] = [
    (Joint::LeftShoulder, Joint::RightShoulder, Joint::LeftHip, Joint::RightHip, 0.13),
    (Joint::LeftHip, Joint::LeftHip, Joint::LeftKnee, Joint::LeftKnee, 0.08),
    (Joint::RightHip, Joint::RightHip, Joint::RightKnee, Joint::RightKnee, 0.08),
    (Joint::LeftKnee, Joint::LeftKnee, Joint::LeftAnkle, Joint::LeftAnkle, 0.055),
    (Joint::RightKnee, Joint::RightKnee, Joint::RightAnkle, Joint::RightAnkle, 0.055),
    (Joint::LeftShoulder, Joint::LeftShoulder, Joint::LeftElbow, Joint::LeftElbow, 0.05),
    (Joint::RightShoulder, Joint::RightShoulder, Joint::RightElbow, Joint::RightElbow, 0.05),
];

/// Whether some part of the body lies between the camera and a joint; coordinates are the camera's, in metres.
fn hidden(seen: &Posture, joint: usize) -> bool {
    let p = seen[joint];
    FLESH.iter().any(|&(a, b, c, d, radius)| {
        let ends = [a, b, c, d].map(|j| j as usize);
        let own = ends.contains(&joint);
        let trunk = ends[0] != ends[1];
        if own && !trunk {
            return false;
        }
        let middle = |i: usize, j: usize| scale(add(seen[i], seen[j]), 0.5);
        let (from, to) = (middle(ends[0], ends[1]), middle(ends[2], ends[3]));
        // Where the line of sight passes the bone.
        let flat = |v: V3| [v[0] / v[2], v[1] / v[2], 0.0];
        let (f, t, q) = (flat(from), flat(to), flat(p));
        let bone = sub(t, f);
        let along = (dot(sub(q, f), bone) / dot(bone, bone).max(1e-9)).clamp(0.0, 1.0);
        let near = add(f, scale(bone, along));
        let depth = from[2] + (to[2] - from[2]) * along;
        norm(sub(q, near)) * depth < radius && p[2] > depth + radius * 0.8
    })
}

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
        for j in 0..JOINTS {
            let blind = if body.visibility[j] < 0.7 { 2.2 } else { 1.0 };
            let size = self.level * TREMBLE[j] * blind * trunk;
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

fn trunk_length(body: &Body) -> f32 {
    let (s, h) =
        (body.middle(Joint::LeftShoulder, Joint::RightShoulder), body.middle(Joint::LeftHip, Joint::RightHip));
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

#[cfg(test)]
mod tests {
    use super::super::exercise::Exercise;
    use super::super::motion::{Person, Style, take};
    use super::*;

    fn rng(seed: u64) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(seed)
    }

    fn frontal() -> Camera {
        Camera::looking_at([0.0, -4.0, 1.0], [0.0, 0.0, 1.0], 0.0, (640.0, 480.0), 500.0)
    }

    #[test]
    fn a_person_who_faces_the_camera_has_the_left_on_the_pictures_right() {
        let rng = &mut rng(1);
        let take = take(Exercise::Squat, &Person::average(1.7), &Style::clean(), 1, rng);
        let body = frontal().project(&take.postures[0]);
        assert!(body.joint(Joint::LeftShoulder)[0] > body.joint(Joint::RightShoulder)[0] + 20.0);
        assert!(body.joint(Joint::Nose)[1] < body.joint(Joint::LeftHip)[1]);
        assert!(body.joint(Joint::LeftHip)[1] < body.joint(Joint::LeftAnkle)[1]);
        // Toes point at the camera.
        assert!(body.joint(Joint::LeftToe)[2] < body.joint(Joint::LeftAnkle)[2]);
        let middle = body.middle(Joint::LeftHip, Joint::RightHip);
        assert!(middle[2].abs() < 1.0, "z has its origin at the hips, not {}", middle[2]);
        // A metre at four metres' distance is 125 pixels.
        let tall = body.joint(Joint::LeftAnkle)[1] - body.joint(Joint::Nose)[1];
        assert!((tall / 125.0 - 1.5).abs() < 0.15, "{tall} pixels from nose to ankle");
    }

    #[test]
    fn turning_left_shows_the_right_side() {
        let rng = &mut rng(1);
        let style = Style { facing: PI / 2.0, ..Style::clean() };
        let take = take(Exercise::Squat, &Person::average(1.7), &style, 1, rng);
        let body = frontal().project(&take.postures[0]);
        assert!(body.joint(Joint::LeftToe)[0] > body.joint(Joint::LeftAnkle)[0] + 10.0, "faces the picture's right");
        assert!(body.joint(Joint::RightHip)[2] < body.joint(Joint::LeftHip)[2], "the right side is nearer");
        assert!(body.visibility[Joint::LeftHip as usize] < body.visibility[Joint::RightHip as usize]);
    }

    #[test]
    fn random_cameras_see_the_whole_body() {
        let rng = &mut rng(2);
        let (mut inside, mut all) = (0, 0);
        for exercise in Exercise::ALL {
            for _ in 0..12 {
                let person = Person::random(rng);
                let take = take(exercise, &person, &Style::clean().varied(exercise, rng), 1, rng);
                let camera = Camera::random(rng);
                for posture in &take.postures {
                    let body = camera.project(posture);
                    inside += body.visibility.iter().filter(|&&v| v > 0.1).count();
                    all += JOINTS;
                }
            }
        }
        let share = inside as f32 / all as f32;
        assert!(share > 0.985, "{share} of the joints are in the picture");
    }

    #[test]
    fn noise_is_largest_at_the_ends_of_the_limbs_and_in_depth() {
        let rng = &mut rng(3);
        let person = Person::average(1.7);
        let still = take(Exercise::Squat, &person, &Style::clean(), 1, rng).postures[0];
        let truth = frontal().project(&still);
        let (mut shoulder, mut wrist, mut depth) = (0.0, 0.0, 0.0);
        for _ in 0..40 {
            let mut noise = PoseNoise::level(0.02, rng);
            let mut before: Option<Body> = None;
            for frame in 0..48 {
                let seen = noise.corrupt(f64::from(frame) / 24.0, &truth);
                if let Some(before) = before {
                    let change = |j: Joint, axis: usize| (seen.joint(j)[axis] - before.joint(j)[axis]).abs();
                    shoulder += change(Joint::LeftShoulder, 0);
                    wrist += change(Joint::LeftWrist, 0);
                    depth += change(Joint::LeftShoulder, 2);
                }
                before = Some(seen);
            }
        }
        assert!(shoulder > 0.0 && wrist > 1.5 * shoulder && depth > 1.8 * shoulder, "{shoulder} {wrist} {depth}");
    }

    #[test]
    fn noise_follows_the_body_and_repeats_by_seed() {
        let run = |seed| {
            let rng = &mut rng(seed);
            let take = take(Exercise::JumpingJack, &Person::random(rng), &Style::clean(), 3, rng);
            let camera = Camera::random(rng);
            let mut noise = PoseNoise::random(rng);
            let mut off = 0.0_f32;
            let mut out = Vec::new();
            for (i, posture) in take.postures.iter().enumerate() {
                let truth = camera.project(posture);
                let seen = noise.corrupt(i as f64 / 24.0, &truth);
                let (a, b) = (truth.joint(Joint::LeftShoulder), seen.joint(Joint::LeftShoulder));
                off = off.max(((a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2)).sqrt() / trunk_length(&truth));
                out.push(seen);
            }
            (off, out)
        };
        for seed in 0..20 {
            let (off, _) = run(seed);
            assert!(off < 0.6, "seed {seed}: the shoulder strays {off} trunk lengths");
        }
        assert_eq!(run(4).1, run(4).1);
    }

    #[test]
    fn no_noise_is_the_truth_but_for_lag() {
        let rng = &mut rng(5);
        let still = take(Exercise::Plank, &Person::average(1.7), &Style::clean(), 1, rng).postures[0];
        let truth = frontal().project(&still);
        let mut noise = PoseNoise::level(0.0, rng);
        for frame in 0..10 {
            let seen = noise.corrupt(f64::from(frame) / 24.0, &truth);
            for (a, b) in seen.joints.iter().zip(&truth.joints) {
                assert!(norm(sub(*a, *b)) < 1e-3, "{a:?} {b:?}");
            }
        }
    }
}
