//! The keys.

use eframe::egui::{self, RichText, Ui};

/// Each key and what it does.
pub(super) const KEYS: [(&str, &str); 11] = [
    ("Space", "pause, or go on"),
    ("E", "end the session and look back on it"),
    ("R", "play again, or begin another session"),
    ("M", "mute, or speak again"),
    ("L", "times of the stages, and everything that was said"),
    ("P", "patches that the encoder works on: all layers, each layer, off"),
    ("S", "settings"),
    ("+  -", "larger or smaller text"),
    ("H or F1", "these keys"),
    ("Tab, Enter", "go to the next control, and use it"),
    ("Esc", "back to the picture; Ctrl+Q closes the window"),
];

/// Draws the screen.
pub(super) fn ui(ui: &mut Ui) {
    ui.heading("Keys");
    ui.add_space(8.0);
    egui::Grid::new("keys").num_columns(2).spacing([24.0, 8.0]).show(ui, |ui| {
        for (key, what) in KEYS {
            ui.label(RichText::new(key).monospace().strong());
            ui.label(what);
            ui.end_row();
        }
    });
}
