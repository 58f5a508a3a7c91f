//! The recording with the words and what the coach saw drawn in.

use super::{
    clock_text, reading_time,
    terminal::state_text,
    text::{Canvas, Writer},
};
use crate::pipeline::Event;
use spotter_engine::coach::{Feedback, Kind};
use spotter_vision::{
    Frame,
    lens::{Sight, View},
};
use std::time::Duration;

/// Part of the picture's width that the inset takes.
const INSET: f32 = 0.24;
/// Narrow recordings are drawn larger, else no word can be read.
const LEAST_WIDTH: usize = 480;

const COACHING: [u8; 3] = [255, 255, 255];
const VIEW: [u8; 3] = [255, 210, 90];

/// Follows a run and draws each of its frames.
pub(crate) struct Renderer {
    writer: Writer,
    current: Option<(Duration, Feedback)>,
    inset: Option<Frame>,
    /// What of the view is worth a line.
    state: Option<String>,
    frames: u64,
}

impl Renderer {
    /// # Errors
    /// When the embedded font is broken.
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self { writer: Writer::new()?, current: None, inset: None, state: None, frames: 0 })
    }

    /// Size of the drawn pictures for a recording of a size: even, and wide enough for words.
    pub(crate) fn size(width: usize, height: usize) -> (usize, usize) {
        let scale = LEAST_WIDTH.div_ceil(width.max(1)).max(1);
        ((width * scale).next_multiple_of(2), (height * scale).next_multiple_of(2))
    }

    /// Something happened.
    pub(crate) fn event(&mut self, event: &Event) {
        match event {
            Event::Feedback(feedback) => self.current = Some((feedback.t_ready, feedback.clone())),
            Event::View { view, people, .. } => {
                let clear = *view == View::Clear && *people <= 1;
                self.state = (!clear).then(|| state_text(*view, *people));
            }
            _ => {}
        }
    }

    /// The frame with all that is to be seen at its time.
    pub(crate) fn draw(&mut self, frame: &Frame, sight: Option<&Sight>) -> Option<Frame> {
        if let Some(sight) = sight {
            let looks_elsewhere = !std::sync::Arc::ptr_eq(&sight.frame.rgb, &frame.rgb);
            self.inset = looks_elsewhere.then(|| sight.frame.clone());
        }
        let (width, height) = Self::size(frame.width, frame.height);
        let mut rgb = scaled(frame, width, height);
        let mut canvas = Canvas { rgb: &mut rgb, width, height };
        self.draw_inset(&mut canvas);
        self.writer.draw(&mut canvas, &clock_text(frame.t), 8.0, 4.0, width as f32 / 32.0, COACHING);
        if let Some(state) = &self.state {
            let size = width as f32 / 32.0;
            self.writer.draw(&mut canvas, state, 8.0, 4.0 + size * 1.3, size, VIEW);
        }
        if let Some((start, feedback)) = &self.current {
            let shown = *start <= frame.t && frame.t < *start + reading_time(&feedback.text);
            if shown {
                self.draw_words(&mut canvas, feedback);
            }
        }
        self.frames += 1;
        Frame::from_rgb(self.frames - 1, frame.t, width, height, rgb)
    }

    fn draw_inset(&self, canvas: &mut Canvas<'_>) {
        let Some(inset) = &self.inset else { return };
        let side = (canvas.width as f32 * INSET) as usize;
        let small = scaled(inset, side, side);
        let left = canvas.width.saturating_sub(side + 8);
        canvas.fill(left as i64 - 2, 6, side as i64 + 4, side as i64 + 4, [40, 40, 40], 1.0);
        for (i, pixel) in small.chunks_exact(3).enumerate() {
            if let &[r, g, b] = pixel {
                canvas.blend((left + i % side) as i64, (8 + i / side) as i64, [r, g, b], 1.0);
            }
        }
    }

    fn draw_words(&self, canvas: &mut Canvas<'_>, feedback: &Feedback) {
        let (width, height) = (canvas.width as f32, canvas.height as f32);
        let size = (width / 16.0).clamp(18.0, 72.0);
        let lines = self.writer.wrap(&feedback.text, size, width * 0.92);
        let line_height = size * 1.25;
        let top = height - line_height * lines.len() as f32 - size * 0.6;
        canvas.fill(0, (top - size * 0.3) as i64, canvas.width as i64, canvas.height as i64, [0, 0, 0], 0.6);
        let colour = if feedback.kind == Kind::View { VIEW } else { COACHING };
        for (i, line) in lines.iter().enumerate() {
            let left = (width - self.writer.width(line, size)) / 2.0;
            self.writer.draw(canvas, line, left, top + line_height * i as f32, size, colour);
        }
    }
}

/// The picture at another size, nearest pixel.
fn scaled(frame: &Frame, width: usize, height: usize) -> Vec<u8> {
    let mut rgb = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        let row = (y * frame.height / height.max(1)) * frame.width;
        for x in 0..width {
            let at = (row + x * frame.width / width.max(1)) * 3;
            rgb.extend_from_slice(frame.rgb.get(at..at + 3).unwrap_or(&[0; 3]));
        }
    }
    rgb
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(t_ms: u64) -> Frame {
        let frame = Frame::from_rgb(0, Duration::from_millis(t_ms), 153, 271, vec![90; 153 * 271 * 3]);
        frame.unwrap_or_else(|| panic!("a frame"))
    }

    #[test]
    fn words_are_drawn_while_they_last() {
        let Ok(mut renderer) = Renderer::new() else { panic!("the font") };
        let t = Duration::from_secs(1);
        let said = Feedback { t_frame: t, t_ready: t, text: "Chest up".into(), kind: Kind::Coaching };
        renderer.event(&Event::Feedback(said));
        let bottom = |renderer: &mut Renderer, ms| {
            let drawn = renderer.draw(&grey(ms), None).unwrap_or_else(|| panic!("drawn"));
            assert_eq!((drawn.width, drawn.height), (612, 1084));
            drawn.rgb[drawn.rgb.len() * 3 / 4..].iter().any(|v| *v != 90)
        };
        assert!(!bottom(&mut renderer, 900));
        assert!(bottom(&mut renderer, 1000));
        assert!(bottom(&mut renderer, 1900));
        assert!(!bottom(&mut renderer, 3000));
    }

    /// What is said about the view is drawn, and so is the state itself for as long as it lasts.
    #[test]
    fn a_view_that_is_not_clear_is_drawn() {
        let Ok(mut renderer) = Renderer::new() else { panic!("the font") };
        let t = Duration::from_secs(1);
        let text = "I can't see all of you.".to_owned();
        renderer.event(&Event::View { t, view: View::PartlyOut, missing: None, people: 1 });
        renderer.event(&Event::Feedback(Feedback { t_frame: t, t_ready: t, text, kind: Kind::View }));
        let mut yellow = |ms: u64, rows: std::ops::Range<usize>| {
            let drawn = renderer.draw(&grey(ms), None).unwrap_or_else(|| panic!("drawn"));
            let part = &drawn.rgb[rows.start * drawn.width * 3..rows.end * drawn.width * 3];
            part.chunks_exact(3).filter(|p| p[0] > 200 && p[2] < 130).count()
        };
        assert!(yellow(1000, 850..1084) > 200);
        assert_eq!(yellow(9000, 850..1084), 0);
        assert!(yellow(9000, 0..80) > 50, "still partly out");
        renderer.event(&Event::View { t, view: View::Clear, missing: None, people: 1 });
        let drawn = renderer.draw(&grey(9100), None).unwrap_or_else(|| panic!("drawn"));
        assert!(drawn.rgb.chunks_exact(3).all(|p| p[2] > 130 || p[0] < 200));
    }
}
