//! Colours of both themes, and sizes that are read from afar.

use eframe::egui::{Color32, CornerRadius, FontFamily, FontId, Rect, Style, TextStyle, Ui, vec2};

/// Colours with a meaning. None is the only sign of what it means: each stands beside words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Palette {
    pub(super) text: Color32,
    pub(super) warning: Color32,
    pub(super) good: Color32,
    pub(super) bad: Color32,
    /// Of the one button that matters, under words in `text`.
    pub(super) accent: Color32,
}

/// On the picture, whatever the theme: light words on a dark plate.
pub(super) const OVER_PICTURE: Palette = Palette {
    text: Color32::from_rgb(250, 250, 250),
    warning: Color32::from_rgb(255, 214, 102),
    good: Color32::from_rgb(134, 226, 144),
    bad: Color32::from_rgb(255, 138, 128),
    accent: Color32::from_rgb(24, 92, 160),
};

/// On the light panels.
pub(super) const ON_LIGHT: Palette = Palette {
    text: Color32::from_rgb(20, 20, 24),
    warning: Color32::from_rgb(133, 84, 0),
    good: Color32::from_rgb(16, 104, 32),
    bad: Color32::from_rgb(170, 24, 16),
    accent: Color32::from_rgb(150, 200, 250),
};

/// The plate under words on the picture.
pub(super) const PLATE: Color32 = Color32::from_black_alpha(205);

/// The colours of a panel.
pub(super) fn palette(ui: &Ui) -> Palette {
    if ui.visuals().dark_mode { OVER_PICTURE } else { ON_LIGHT }
}

/// Letters and controls large enough for somebody who stands, and round.
pub(super) fn shape(style: &mut Style, text: Color32) {
    for (name, size) in [
        (TextStyle::Small, 13.0),
        (TextStyle::Body, 16.0),
        (TextStyle::Button, 16.0),
        (TextStyle::Heading, 32.0),
        (TextStyle::Name("large".into()), 19.0),
    ] {
        style.text_styles.insert(name, FontId::new(size, FontFamily::Proportional));
    }
    style.text_styles.insert(TextStyle::Monospace, FontId::new(15.0, FontFamily::Monospace));
    style.spacing.item_spacing = vec2(10.0, 7.0);
    style.spacing.button_padding = vec2(12.0, 7.0);
    style.spacing.interact_size.y = 32.0;
    style.spacing.slider_width = 220.0;
    let widgets = &mut style.visuals.widgets;
    for widget in [
        &mut widgets.inactive,
        &mut widgets.hovered,
        &mut widgets.active,
        &mut widgets.open,
        &mut widgets.noninteractive,
    ] {
        widget.corner_radius = CornerRadius::same(8);
    }
    // egui's own grey is faint for words that are read from a distance
    style.visuals.override_text_color = Some(text);
}

/// Height of the letters of a cue. At three metres an eye reads letters of about 12 mm with ease, which is a twelfth of
/// the height of a small screen.
pub(super) fn cue_size(area: Rect) -> f32 {
    (area.height() * 0.085).min(area.width() * 0.06).clamp(26.0, 120.0)
}

/// Height of the count.
pub(super) fn count_size(area: Rect) -> f32 {
    (area.height() * 0.22).min(area.width() * 0.2).clamp(48.0, 320.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use eframe::egui::{pos2, vec2};

    /// Relative luminance as WCAG has it.
    fn luminance(c: Color32) -> f32 {
        let linear = |v: u8| {
            let v = f32::from(v) / 255.0;
            if v <= 0.04045 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * linear(c.r()) + 0.7152 * linear(c.g()) + 0.0722 * linear(c.b())
    }

    fn contrast(a: Color32, b: Color32) -> f32 {
        let (a, b) = (luminance(a), luminance(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn words_can_be_read_in_both_themes() {
        let colours = |p: Palette| [p.text, p.warning, p.good, p.bad];
        // a white picture shines through the plate
        let plate = Color32::from_gray((255 - 205) as u8);
        for colour in colours(OVER_PICTURE) {
            assert!(contrast(colour, plate) >= 4.5, "{colour:?} on the plate: {}", contrast(colour, plate));
        }
        for colour in colours(ON_LIGHT) {
            assert!(contrast(colour, Color32::from_gray(248)) >= 4.5, "{colour:?} on light");
        }
        for p in [OVER_PICTURE, ON_LIGHT] {
            assert!(contrast(p.text, p.accent) >= 4.5, "{:?} on its accent", p.text);
        }
    }

    #[test]
    fn a_cue_is_large_on_every_window() {
        let area = |w, h| Rect::from_min_size(pos2(0.0, 0.0), vec2(w, h));
        assert!(cue_size(area(1180.0, 700.0)) > 55.0);
        assert!(cue_size(area(1920.0, 1080.0)) > 85.0);
        assert!(count_size(area(640.0, 420.0)) > 80.0);
    }
}
