//! The keys.

use super::words::pick;
use eframe::egui::{self, RichText, Ui};
use spotter_datasets::synthetic::phrases::Lang;

/// Each key and what it does, in English and Korean.
const KEYS: [(&str, &str, &str); 14] = [
    ("Enter", "begin a session", "운동 시작"),
    ("Space", "pause, or go on", "멈추기, 이어서 하기"),
    ("E", "end the session and look back on it", "운동을 끝내고 돌아보기"),
    ("R", "play again, or begin another session", "다시 보기, 새로 시작하기"),
    ("M", "mute, or speak again", "소리 끄기, 켜기"),
    ("V", "earlier sessions", "지난 운동"),
    ("S", "settings", "설정"),
    ("+  -", "larger or smaller text", "글자 크게, 작게"),
    ("L", "times of the stages, and everything that was said", "처리 시간과 지금까지 한 말"),
    ("P", "patches that the encoder works on: all layers, each layer, off", "인코더가 보는 조각: 모든 층, 층별, 끔"),
    ("Left  Right", "in an earlier session: the cue before, the next one", "지난 운동에서 앞뒤 안내로"),
    ("H or F1", "these keys", "이 화면"),
    ("Tab, Enter", "go to the next control, and use it", "다음 항목으로, 누르기"),
    ("Esc", "back; Ctrl+Q closes the window", "뒤로. Ctrl+Q 는 창 닫기"),
];

/// Draws the screen.
pub(super) fn ui(ui: &mut Ui, lang: Lang) {
    egui::ScrollArea::vertical().auto_shrink([false, false]).show(ui, |ui| {
        ui.heading(pick(lang, "Keys", "키"));
        ui.add_space(12.0);
        egui::Grid::new("keys").num_columns(2).spacing([32.0, 8.0]).show(ui, |ui| {
            for (key, en, ko) in KEYS {
                ui.label(RichText::new(key).monospace().strong());
                ui.label(pick(lang, en, ko));
                ui.end_row();
            }
        });
    });
}
