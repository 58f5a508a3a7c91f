//! Words drawn into a picture.

use ab_glyph::{Font as _, FontRef, PxScale, ScaleFont as _, point};
use anyhow::Context as _;

/// Noto Sans CJK KR cut down to Latin and the Hangul of everyday Korean, see its licence beside it.
pub(crate) const FONT: &[u8] = include_bytes!("../../../assets/fonts/NotoSansKR-subset.otf");

/// A packed RGB picture to draw on.
pub(crate) struct Canvas<'a> {
    /// `height * width * 3` bytes.
    pub(crate) rgb: &'a mut [u8],
    pub(crate) width: usize,
    pub(crate) height: usize,
}

impl Canvas<'_> {
    /// Mixes a colour into a pixel; outside the picture nothing happens.
    pub(crate) fn blend(&mut self, x: i64, y: i64, colour: [u8; 3], alpha: f32) {
        let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else { return };
        if x >= self.width || y >= self.height {
            return;
        }
        let at = (y * self.width + x) * 3;
        for (pixel, colour) in self.rgb.iter_mut().skip(at).take(3).zip(colour) {
            *pixel = (f32::from(*pixel) * (1.0 - alpha) + f32::from(colour) * alpha).round() as u8;
        }
    }

    /// Mixes a colour into a rectangle.
    pub(crate) fn fill(&mut self, x: i64, y: i64, width: i64, height: i64, colour: [u8; 3], alpha: f32) {
        for row in y..y + height {
            for column in x..x + width {
                self.blend(column, row, colour, alpha);
            }
        }
    }
}

/// Writes with the font that ships.
pub(crate) struct Writer {
    font: FontRef<'static>,
}

impl Writer {
    /// # Errors
    /// When the embedded font is broken.
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self { font: FontRef::try_from_slice(FONT).context("the embedded font is broken")? })
    }

    /// Width of a line in pixels at a size.
    pub(crate) fn width(&self, text: &str, size: f32) -> f32 {
        let font = self.font.as_scaled(PxScale::from(size));
        text.chars().map(|c| font.h_advance(font.glyph_id(c))).sum()
    }

    /// Breaks a text at spaces into lines of at most `width` pixels; a word that is too long stands alone.
    pub(crate) fn wrap(&self, text: &str, size: f32, width: f32) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for word in text.split_whitespace() {
            match lines.last_mut() {
                Some(line) if self.width(&format!("{line} {word}"), size) <= width => {
                    line.push(' ');
                    line.push_str(word);
                }
                _ => lines.push(word.to_owned()),
            }
        }
        lines
    }

    /// Draws a line with its upper left corner at `x`, `y`.
    pub(crate) fn draw(&self, canvas: &mut Canvas<'_>, text: &str, x: f32, y: f32, size: f32, colour: [u8; 3]) {
        let scale = PxScale::from(size);
        let font = self.font.as_scaled(scale);
        let (mut pen, base) = (x, y + font.ascent());
        for c in text.chars() {
            let id = font.glyph_id(c);
            if let Some(outline) = self.font.outline_glyph(id.with_scale_and_position(scale, point(pen, base))) {
                let bounds = outline.px_bounds();
                outline.draw(|dx, dy, cover| {
                    let (px, py) = (bounds.min.x as i64 + i64::from(dx), bounds.min.y as i64 + i64::from(dy));
                    canvas.blend(px, py, colour, cover.clamp(0.0, 1.0));
                });
            }
            pen += font.h_advance(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ink(text: &str) -> usize {
        let Ok(writer) = Writer::new() else { panic!("the font") };
        let mut rgb = vec![0; 200 * 60 * 3];
        let mut canvas = Canvas { rgb: &mut rgb, width: 200, height: 60 };
        writer.draw(&mut canvas, text, 4.0, 4.0, 32.0, [255; 3]);
        rgb.iter().filter(|v| **v > 128).count()
    }

    #[test]
    fn latin_and_hangul_leave_ink() {
        assert!(ink("Knees") > 300 && ink("무릎을") > 300);
        assert_eq!(ink("  "), 0);
        assert_ne!(ink("무"), ink("힘"), "not the same box for both");
    }

    #[test]
    fn the_edge_of_the_picture_is_no_trouble() {
        assert!(ink("a line that runs far out of the picture on its right") > 0);
    }

    #[test]
    fn lines_are_broken_at_spaces() {
        let Ok(writer) = Writer::new() else { panic!("the font") };
        let text = "Keep your back straight and your chest up";
        let lines = writer.wrap(text, 20.0, 150.0);
        assert!(lines.len() > 1 && lines.iter().all(|l| writer.width(l, 20.0) <= 150.0), "{lines:?}");
        assert_eq!(lines.join(" "), text);
    }
}
