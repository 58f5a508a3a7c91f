//! The same motion on another body.

use rand::Rng;
use spotter_vision::body::{JOINTS, Joint};

use crate::synthetic::exercise::Posture;
use crate::synthetic::motion::vector::{V3, add, scale, sub};

/// Factors on the lengths of bones.
pub(super) struct Build {
    all: f32,
    trunk: f32,
    arm: f32,
    shoulders: f32,
    hips: f32,
}

impl Build {
    /// Up to a tenth taller or smaller, with proportions up to 8 per cent different.
    pub(super) fn random(rng: &mut impl Rng) -> Self {
        let mut vary = |spread: f32| 1.0 + rng.random_range(-spread..spread);
        Self { all: vary(0.10), trunk: vary(0.05), arm: vary(0.05), shoulders: vary(0.08), hips: vary(0.08) }
    }

    /// Scales legs and places alike, so that feet that stand stay standing; the rest grows from the hips.
    pub(super) fn resize(&self, p: &Posture) -> Posture {
        use Joint::*;
        let at = |j: Joint| p[j as usize];
        let middle = |a: Joint, b: Joint| scale(add(at(a), at(b)), 0.5);
        let (pelvis, neck) = (middle(LeftHip, RightHip), middle(LeftShoulder, RightShoulder));
        let mut out = [[0.0; 3]; JOINTS];
        let grown = |from: V3, to: V3, factor: f32| scale(sub(to, from), self.all * factor);
        let base = scale(pelvis, self.all);
        let top = add(base, grown(pelvis, neck, self.trunk));
        out[Nose as usize] = add(top, grown(neck, at(Nose), 1.0));
        for side in 0..2 {
            let joint = |left: Joint| p[left as usize + side];
            let mut chain = |from: V3, old: V3, joints: &[Joint], factor: f32| {
                let (mut new, mut old) = (from, old);
                for &left in joints {
                    new = add(new, grown(old, joint(left), factor));
                    old = joint(left);
                    out[left as usize + side] = new;
                }
            };
            let shoulder = add(top, grown(neck, joint(LeftShoulder), self.shoulders));
            chain(shoulder, joint(LeftShoulder), &[LeftElbow, LeftWrist], self.arm);
            let hip = add(base, grown(pelvis, joint(LeftHip), self.hips));
            chain(hip, joint(LeftHip), &[LeftKnee, LeftAnkle, LeftToe], 1.0);
            out[LeftShoulder as usize + side] = shoulder;
            out[LeftHip as usize + side] = hip;
        }
        out
    }
}
