//! Cameras as people put them up, and the errors of pose estimators that look through them.

mod noise;
#[cfg(test)]
mod tests;

use rand::Rng;
use spotter_vision::body::{Body, Joint};

use super::exercise::Posture;
use super::motion::vector::{V3, add, cross, dot, norm, scale, sub, turn, unit};

pub use noise::PoseNoise;

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

    /// On a table, a shelf or a tripod 0.5 to 2 m high, one in four on the floor or just above it; up to 25 degrees off
    /// the axis, as far away as the whole body needs or up to 1.5 times that. The way a person faces belongs to the motion
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
        let height = if rng.random_bool(0.25) { rng.random_range(0.06..0.5) } else { rng.random_range(0.5..2.0) };
        let position = [place[0], place[1], height];
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
