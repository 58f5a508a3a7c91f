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
    if PARTS.iter().all(|part| is_there(body, part, frame)) { View::Clear } else { View::PartlyOut }
}

/// What has to come into the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// The head alone.
    Head,
    /// The feet alone, or the legs.
    Feet,
    /// The whole body at one side of the picture: it is there, but not in the middle.
    Side,
    /// Several of these, or a part that something hides.
    Much,
}

/// What is missing of a body that is partly out of the picture; `None` where nothing is.
pub fn missing(body: &Body, frame: &Frame) -> Option<Missing> {
    let gone: Vec<usize> =
        (0..PARTS.len()).filter(|&i| !PARTS.get(i).is_some_and(|p| is_there(body, p, frame))).collect();
    let w = frame.width as f32;
    let out = |joint: &Joint| body.joint(*joint)[0] < 0.0 || body.joint(*joint)[0] > w;
    let sideways = |&i: &usize| PARTS.get(i).is_some_and(|part| part.iter().any(out));
    match gone[..] {
        [] => None,
        _ if gone.iter().all(sideways) => Some(Missing::Side),
        [0] => Some(Missing::Head),
        [4] | [3, 4] => Some(Missing::Feet),
        _ => Some(Missing::Much),
    }
}

/// Whether a part lies inside the picture and one of its joints is seen.
fn is_there(body: &Body, part: &[Joint], frame: &Frame) -> bool {
    let (w, h) = (frame.width as f32, frame.height as f32);
    let inside = |joint: &Joint| {
        let [x, y, _] = body.joint(*joint);
        x >= -MARGIN * w && x <= (1.0 + MARGIN) * w && y >= -MARGIN * h && y <= (1.0 + MARGIN) * h
    };
    let seen = |joint: &Joint| body.visibility[*joint as usize] >= MIN_VISIBILITY;
    part.iter().all(inside) && part.iter().any(seen)
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
    fn what_is_missing_has_a_name() {
        let mut b = body();
        assert_eq!(missing(&b, &frame()), None);
        for joint in [Joint::LeftAnkle, Joint::RightAnkle] {
            b.joints[joint as usize][1] = 130.0;
        }
        assert_eq!(missing(&b, &frame()), Some(Missing::Feet));
        b.joints[Joint::Nose as usize][1] = -20.0;
        assert_eq!(missing(&b, &frame()), Some(Missing::Much));
        let mut b = body();
        b.joints[Joint::Nose as usize][1] = -20.0;
        assert_eq!(missing(&b, &frame()), Some(Missing::Head));
        let mut b = body();
        for joint in [Joint::LeftShoulder, Joint::LeftHip, Joint::LeftKnee, Joint::LeftAnkle] {
            b.joints[joint as usize][0] = 115.0;
        }
        assert_eq!(missing(&b, &frame()), Some(Missing::Side));
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
