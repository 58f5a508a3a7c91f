//! How much of the person is seen, without flicker.

use crate::{Body, Frame, body::Joint, lens::View};
use std::time::Duration;

/// A new view must hold this long before it is believed.
const HOLD: Duration = Duration::from_millis(400);
/// A joint less visible than this is not seen.
const MIN_VISIBILITY: f32 = 0.5;
/// A joint may lie this share of the frame outside before it counts as out: landmarks at the edge tremble.
const MARGIN: f32 = 0.01;

/// Parts of the body that coaching needs. All must lie inside the picture, and of a pair one must be seen: from the side,
/// the other is hidden behind the body.
const PARTS: [&[Joint]; 5] = [
    &[Joint::Nose],
    &[Joint::LeftShoulder, Joint::RightShoulder],
    &[Joint::LeftHip, Joint::RightHip],
    &[Joint::LeftKnee, Joint::RightKnee],
    &[Joint::LeftAnkle, Joint::RightAnkle],
];

/// The view in one frame alone.
pub fn view_of(body: Option<&Body>, frame: &Frame) -> View {
    let Some(body) = body else { return View::NoPerson };
    let (w, h) = (frame.width as f32, frame.height as f32);
    let inside = |joint: &Joint| {
        let [x, y, _] = body.joint(*joint);
        x >= -MARGIN * w && x <= (1.0 + MARGIN) * w && y >= -MARGIN * h && y <= (1.0 + MARGIN) * h
    };
    let seen = |joint: &Joint| body.visibility[*joint as usize] >= MIN_VISIBILITY;
    let whole = PARTS.iter().all(|part| part.iter().all(inside) && part.iter().any(seen));
    if whole { View::Clear } else { View::PartlyOut }
}

/// Believes a view only when it holds.
#[derive(Clone, Debug, Default)]
pub struct ViewFilter {
    shown: Option<View>,
    rival: Option<(View, Duration)>,
}

impl ViewFilter {
    /// The believed view at media time `t`, where a frame alone shows `seen`. The first view is believed at once.
    pub fn next(&mut self, t: Duration, seen: View) -> View {
        let shown = *self.shown.get_or_insert(seen);
        if seen == shown {
            self.rival = None;
            return shown;
        }
        match self.rival {
            Some((rival, since)) if rival == seen && t >= since => {
                if t - since >= HOLD {
                    self.shown = Some(seen);
                    self.rival = None;
                    return seen;
                }
            }
            _ => self.rival = Some((seen, t)),
        }
        shown
    }

    /// Forgets.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::JOINTS;

    fn frame() -> Frame {
        Frame::from_rgb(0, Duration::ZERO, 100, 100, vec![0; 30_000]).unwrap()
    }

    fn body() -> Body {
        Body { joints: [[50.0, 50.0, 0.0]; JOINTS], visibility: [0.9; JOINTS] }
    }

    #[test]
    fn a_hidden_side_is_clear_and_missing_feet_are_not() {
        assert_eq!(view_of(None, &frame()), View::NoPerson);
        let mut b = body();
        for joint in [Joint::LeftShoulder, Joint::LeftHip, Joint::LeftKnee, Joint::LeftAnkle] {
            b.visibility[joint as usize] = 0.1;
        }
        assert_eq!(view_of(Some(&b), &frame()), View::Clear);
        b.joints[Joint::RightAnkle as usize][1] = 130.0;
        assert_eq!(view_of(Some(&b), &frame()), View::PartlyOut);
    }

    #[test]
    fn a_short_change_is_not_believed_and_a_long_one_is() {
        let mut filter = ViewFilter::default();
        let mut at = |ms: u64, view| filter.next(Duration::from_millis(ms), view);
        assert_eq!(at(0, View::Clear), View::Clear);
        assert_eq!(at(100, View::PartlyOut), View::Clear);
        assert_eq!(at(300, View::Clear), View::Clear);
        assert_eq!(at(400, View::PartlyOut), View::Clear);
        assert_eq!(at(700, View::PartlyOut), View::Clear);
        assert_eq!(at(800, View::PartlyOut), View::PartlyOut);
        assert_eq!(at(900, View::NoPerson), View::PartlyOut);
        assert_eq!(at(1_300, View::NoPerson), View::NoPerson);
    }
}
