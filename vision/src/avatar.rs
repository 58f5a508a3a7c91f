//! Draws a body from its joints: what a model that looks through the avatar lens sees.
//!
//! Pixels of the person, their clothes and their room never pass. Limbs are coloured by side, so left and right are
//! never confused, and shaded by depth. Real and synthetic people pass through the same [`AvatarView`].

use crate::{Body, Joint, body::distance};
use std::time::Duration;

/// Body sizes (torso and leg) that the side of the picture spans.
const SPAN: f32 = 1.9;
/// Where the hips rest, as a share of the picture's height: arms need more room than legs.
const HIP_HEIGHT: f32 = 0.56;
/// Time constants of the camera frame in seconds: slow enough that the depth of a squat stays visible.
const SIZE_TAU: f32 = 2.0;
const CENTRE_TAU: f32 = 4.0;
/// The hips never leave this share of the picture, seen from its resting point.
const LEASH: f32 = 0.22;
/// Joints less visible than this are not drawn.
pub const VISIBLE: f32 = 0.3;

/// Where a body stands in the picture: `view = (image - centre) * scale + anchor`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placement {
    centre: [f32; 2],
    /// Picture pixels per image pixel.
    scale: f32,
    /// Torso and leg, in picture pixels.
    size: f32,
    side: f32,
}

impl Placement {
    /// A joint in picture pixels; z is scaled alike.
    pub fn place(&self, p: [f32; 3]) -> [f32; 3] {
        [
            (p[0] - self.centre[0]) * self.scale + self.side * 0.5,
            (p[1] - self.centre[1]) * self.scale + self.side * HIP_HEIGHT,
            p[2] * self.scale,
        ]
    }
}

/// A normalised camera on one person, and the brush.
#[derive(Clone, Debug)]
pub struct AvatarView {
    side: usize,
    state: Option<(Duration, f32, [f32; 2])>,
}

impl AvatarView {
    /// A view of `side` x `side` pixels.
    pub fn new(side: usize) -> Self {
        Self { side, state: None }
    }

    /// Forgets the person.
    pub fn reset(&mut self) {
        self.state = None;
    }

    /// The picture without anybody.
    pub fn empty(&self) -> Vec<u8> {
        vec![0; self.side * self.side * 3]
    }

    /// Follows the person slowly and draws them: packed RGB, `side * side * 3` bytes.
    pub fn draw(&mut self, t: Duration, body: &Body) -> Vec<u8> {
        let placement = self.follow(t, body);
        render(self.side, &placement, body)
    }

    /// Moves the camera frame to the person at time `t`.
    pub fn follow(&mut self, t: Duration, body: &Body) -> Placement {
        let hips = body.middle(Joint::LeftHip, Joint::RightHip);
        let (seen_size, seen_centre) = (body_size(body).max(1.0), [hips[0], hips[1]]);
        let (size, centre) = match self.state {
            None => (seen_size, seen_centre),
            Some((before, size, centre)) => {
                let dt = t.saturating_sub(before).as_secs_f32();
                let (a, b) = (1.0 - (-dt / SIZE_TAU).exp(), 1.0 - (-dt / CENTRE_TAU).exp());
                let size = (size.ln() + a * (seen_size.ln() - size.ln())).exp();
                let leash = LEASH * SPAN * size;
                let centre = std::array::from_fn(|i| {
                    let c: f32 = centre[i] + b * (seen_centre[i] - centre[i]);
                    c.clamp(seen_centre[i] - leash, seen_centre[i] + leash)
                });
                (size, centre)
            }
        };
        self.state = Some((t, size, centre));
        let side = self.side as f32;
        let scale = side / (SPAN * size);
        Placement { centre, scale, size: size * scale, side }
    }
}

/// Torso and mean leg in image pixels, depth included, so that bending and turning change it little.
fn body_size(body: &Body) -> f32 {
    use Joint::*;
    let torso = distance(body.middle(LeftShoulder, RightShoulder), body.middle(LeftHip, RightHip));
    let leg =
        |hip, knee, ankle| distance(body.joint(hip), body.joint(knee)) + distance(body.joint(knee), body.joint(ankle));
    torso + (leg(LeftHip, LeftKnee, LeftAnkle) + leg(RightHip, RightKnee, RightAnkle)) / 2.0
}

/// A limb: its two ends, radius in body sizes, colour.
type Limb = (Joint, Joint, f32, [f32; 3]);

const LIMBS: [Limb; 14] = {
    use Joint::*;
    [
        (LeftShoulder, RightShoulder, 0.045, [150.0, 150.0, 150.0]),
        (LeftHip, RightHip, 0.06, [120.0, 120.0, 120.0]),
        (LeftShoulder, LeftHip, 0.05, [190.0, 160.0, 150.0]),
        (RightShoulder, RightHip, 0.05, [150.0, 160.0, 190.0]),
        (LeftShoulder, LeftElbow, 0.036, [255.0, 70.0, 50.0]),
        (LeftElbow, LeftWrist, 0.032, [255.0, 165.0, 40.0]),
        (RightShoulder, RightElbow, 0.036, [60.0, 110.0, 255.0]),
        (RightElbow, RightWrist, 0.032, [40.0, 220.0, 255.0]),
        (LeftHip, LeftKnee, 0.052, [215.0, 40.0, 150.0]),
        (LeftKnee, LeftAnkle, 0.042, [255.0, 140.0, 215.0]),
        (RightHip, RightKnee, 0.052, [20.0, 150.0, 60.0]),
        (RightKnee, RightAnkle, 0.042, [120.0, 255.0, 110.0]),
        (LeftAnkle, LeftToe, 0.030, [255.0, 200.0, 235.0]),
        (RightAnkle, RightToe, 0.030, [205.0, 255.0, 200.0]),
    ]
};
const HEAD: (f32, [f32; 3]) = (0.085, [240.0, 225.0, 90.0]);

/// Draws a body under a given placement: packed RGB, `side * side * 3` bytes.
pub fn render(side: usize, placement: &Placement, body: &Body) -> Vec<u8> {
    let mut canvas =
        Canvas { side, rgb: vec![0; side * side * 3], depth: vec![f32::INFINITY; side * side], size: placement.size };
    let at = |joint: Joint| placement.place(body.joint(joint));
    let seen = |joint: Joint| body.visibility[joint as usize] >= VISIBLE;
    for (a, b, radius, colour) in LIMBS {
        if seen(a) && seen(b) {
            canvas.capsule(at(a), at(b), radius * placement.size, colour);
        }
    }
    if seen(Joint::Nose) {
        canvas.capsule(at(Joint::Nose), at(Joint::Nose), HEAD.0 * placement.size, HEAD.1);
    }
    canvas.rgb
}

struct Canvas {
    side: usize,
    rgb: Vec<u8>,
    depth: Vec<f32>,
    size: f32,
}

impl Canvas {
    /// A line with round ends, darker to its rim and with distance, hidden behind what is nearer.
    fn capsule(&mut self, a: [f32; 3], b: [f32; 3], radius: f32, colour: [f32; 3]) {
        if !a.iter().chain(&b).all(|v| v.is_finite()) {
            return;
        }
        let radius = radius.max(1.0);
        let limit = (self.side - 1) as f32;
        let low = |i: usize| (a[i].min(b[i]) - radius - 1.0).clamp(0.0, limit) as usize;
        let high = |i: usize| (a[i].max(b[i]) + radius + 1.0).clamp(0.0, limit) as usize;
        let d = [b[0] - a[0], b[1] - a[1]];
        let length2 = (d[0] * d[0] + d[1] * d[1]).max(1e-6);
        for y in low(1)..=high(1) {
            for x in low(0)..=high(0) {
                let (px, py) = (x as f32 - a[0], y as f32 - a[1]);
                let u = ((px * d[0] + py * d[1]) / length2).clamp(0.0, 1.0);
                let away = ((px - u * d[0]).powi(2) + (py - u * d[1]).powi(2)).sqrt();
                let cover = (radius + 0.5 - away).clamp(0.0, 1.0);
                if cover == 0.0 {
                    continue;
                }
                let z = a[2] + u * (b[2] - a[2]) - radius * (1.0 - (away / radius).min(1.0));
                let index = y * self.side + x;
                if z >= self.depth[index] {
                    continue;
                }
                if cover > 0.5 {
                    self.depth[index] = z;
                }
                let light =
                    (0.72 - 0.55 * z / self.size).clamp(0.30, 1.0) * (1.0 - 0.3 * (away / radius).powi(2).min(1.0));
                for (c, full) in colour.iter().enumerate() {
                    let old = f32::from(self.rgb[index * 3 + c]);
                    self.rgb[index * 3 + c] = (old + cover * (full * light - old)) as u8;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::JOINTS;

    /// Somebody standing, `height` image pixels tall, hips at `(x, y)`.
    fn standing(x: f32, y: f32, height: f32) -> Body {
        let at = [
            [0.0, -0.42],
            [0.1, -0.30],
            [-0.1, -0.30],
            [0.13, -0.13],
            [-0.13, -0.13],
            [0.14, 0.02],
            [-0.14, 0.02],
            [0.06, 0.0],
            [-0.06, 0.0],
            [0.06, 0.25],
            [-0.06, 0.25],
            [0.06, 0.48],
            [-0.06, 0.48],
            [0.08, 0.5],
            [-0.08, 0.5],
        ];
        Body { joints: at.map(|[dx, dy]: [f32; 2]| [x + dx * height, y + dy * height, 0.0]), visibility: [1.0; JOINTS] }
    }

    #[test]
    fn picture_does_not_depend_on_distance_or_place() {
        let near = AvatarView::new(128).draw(Duration::ZERO, &standing(320.0, 240.0, 400.0));
        let far = AvatarView::new(128).draw(Duration::ZERO, &standing(100.0, 300.0, 130.0));
        let differ = near.iter().zip(&far).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / near.len() as f64;
        assert!(differ < 0.5, "mean difference {differ}");
        assert!(near.iter().any(|v| *v > 100));
    }

    #[test]
    fn mirrored_people_look_different() {
        let body = standing(320.0, 240.0, 400.0);
        let mut mirrored = body.clone();
        for pair in (1..JOINTS).step_by(2) {
            mirrored.joints.swap(pair, pair + 1);
        }
        let view = |b: &Body| AvatarView::new(128).draw(Duration::ZERO, b);
        assert_ne!(view(&body), view(&mirrored));
    }

    #[test]
    fn a_crouch_is_not_centred_away() {
        let mut view = AvatarView::new(128);
        let first = view.follow(Duration::ZERO, &standing(320.0, 240.0, 400.0));
        let low = standing(320.0, 300.0, 400.0);
        let after = view.follow(Duration::from_millis(500), &low);
        let hips = low.middle(Joint::LeftHip, Joint::RightHip);
        assert!(after.place(hips)[1] - first.place([320.0, 240.0, 0.0])[1] > 8.0);
    }

    #[test]
    fn absurd_joints_neither_panic_nor_draw() {
        let mut body = standing(320.0, 240.0, 400.0);
        body.joints[5] = [f32::NAN, f32::INFINITY, 0.0];
        body.joints[6] = [1e30, -1e30, 0.0];
        AvatarView::new(64).draw(Duration::ZERO, &body);
    }
}
