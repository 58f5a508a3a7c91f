//! Pictures on their way to the screen, and the skeleton over them.

use eframe::egui::{
    Color32, ColorImage, Context, Painter, Pos2, Rect, Stroke, TextureHandle, TextureOptions, Vec2, pos2,
};
use spotter_vision::{Body, Frame, Joint};

/// Joints less visible than this are not drawn.
const VISIBLE: f32 = 0.3;
/// The person's own left and right.
const LEFT: Color32 = Color32::from_rgb(255, 140, 60);
const RIGHT: Color32 = Color32::from_rgb(70, 170, 255);
const MIDDLE: Color32 = Color32::from_rgb(225, 225, 225);

const BONES: [(Joint, Joint, Color32); 14] = [
    (Joint::LeftShoulder, Joint::RightShoulder, MIDDLE),
    (Joint::LeftHip, Joint::RightHip, MIDDLE),
    (Joint::LeftShoulder, Joint::LeftHip, LEFT),
    (Joint::LeftShoulder, Joint::LeftElbow, LEFT),
    (Joint::LeftElbow, Joint::LeftWrist, LEFT),
    (Joint::LeftHip, Joint::LeftKnee, LEFT),
    (Joint::LeftKnee, Joint::LeftAnkle, LEFT),
    (Joint::LeftAnkle, Joint::LeftToe, LEFT),
    (Joint::RightShoulder, Joint::RightHip, RIGHT),
    (Joint::RightShoulder, Joint::RightElbow, RIGHT),
    (Joint::RightElbow, Joint::RightWrist, RIGHT),
    (Joint::RightHip, Joint::RightKnee, RIGHT),
    (Joint::RightKnee, Joint::RightAnkle, RIGHT),
    (Joint::RightAnkle, Joint::RightToe, RIGHT),
];

/// A texture that is made with the first picture and changed with each later one.
#[derive(Default)]
pub(super) struct Screen(Option<TextureHandle>);

impl Screen {
    /// Shows another picture.
    pub(super) fn set(&mut self, context: &Context, name: &str, frame: &Frame) {
        if frame.width == 0 || frame.height == 0 || frame.rgb.len() != frame.width * frame.height * 3 {
            return;
        }
        let image = ColorImage::from_rgb([frame.width, frame.height], &frame.rgb);
        match &mut self.0 {
            Some(texture) => texture.set(image, TextureOptions::LINEAR),
            none => *none = Some(context.load_texture(name, image, TextureOptions::LINEAR)),
        }
    }

    /// Shows nothing.
    pub(super) fn clear(&mut self) {
        self.0 = None;
    }

    /// Draws the picture as large as it fits into `area`, in the middle, as a mirror shows it or as it is; where it went.
    pub(super) fn draw(&self, painter: &Painter, area: Rect, mirror: bool) -> Option<Rect> {
        let texture = self.0.as_ref()?;
        let at = fit(texture.size_vec2(), area);
        let (left, right) = if mirror { (1.0, 0.0) } else { (0.0, 1.0) };
        let whole = Rect::from_min_max(pos2(left, 0.0), pos2(right, 1.0));
        painter.image(texture.id(), at, whole, Color32::WHITE);
        Some(at)
    }
}

/// The largest rectangle of the shape of `size` in the middle of `area`.
fn fit(size: Vec2, area: Rect) -> Rect {
    let scale = (area.width() / size.x).min(area.height() / size.y);
    Rect::from_center_size(area.center(), size * scale)
}

/// Draws the joints of a picture of `size` pixels that is shown at `at`.
pub(super) fn skeleton(painter: &Painter, body: &Body, size: [usize; 2], at: Rect, mirror: bool) {
    let place = |joint: Joint| -> Option<Pos2> {
        let [x, y, _] = body.joint(joint);
        let seen = body.visibility.get(joint as usize).is_some_and(|v| *v >= VISIBLE);
        let across = x / size[0] as f32;
        let share = Vec2::new(if mirror { 1.0 - across } else { across }, y / size[1] as f32);
        (seen && share.is_finite()).then(|| at.min + share * at.size())
    };
    let thick = (at.height() / 160.0).clamp(1.5, 5.0);
    for (from, to, colour) in BONES {
        if let (Some(from), Some(to)) = (place(from), place(to)) {
            painter.line_segment([from, to], Stroke::new(thick, colour));
        }
    }
    if let Some(nose) = place(Joint::Nose) {
        painter.circle_stroke(nose, thick * 3.0, Stroke::new(thick, MIDDLE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_keeps_its_shape() {
        let area = Rect::from_min_max(pos2(0.0, 0.0), pos2(200.0, 100.0));
        let at = fit(Vec2::new(50.0, 100.0), area);
        assert_eq!((at.width(), at.height(), at.center()), (50.0, 100.0, area.center()));
        assert_eq!(fit(Vec2::new(400.0, 100.0), area).height(), 50.0);
    }
}
