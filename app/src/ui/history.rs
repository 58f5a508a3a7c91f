//! The sessions that are kept.

use super::{
    dialog::Ask,
    front::{Command, Front},
    theme::palette,
    words::{capital, pick, reps},
};
use crate::sessions::{Line, duration_text};
use eframe::egui::{Button, RichText, ScrollArea, Ui, vec2};
use spotter_datasets::synthetic::phrases::Lang;

/// Draws the screen.
pub(super) fn ui(ui: &mut Ui, front: &mut Front, commands: &mut Vec<Command>) {
    let lang = front.lang();
    ui.heading(pick(lang, "Earlier sessions", "지난 운동"));
    if let Some(notice) = &front.notice {
        ui.label(notice);
    }
    ui.add_space(8.0);
    let Some(sessions) = &front.sessions else {
        ui.label(pick(lang, "reading ...", "읽고 있어요 ..."));
        return;
    };
    if sessions.is_empty() {
        ui.label(pick(
            lang,
            "None is kept yet. Train once, and it is here.",
            "아직 기록이 없어요. 한 번 운동하면 여기에 남아요.",
        ));
        return;
    }
    let all = sessions.len();
    let mut ask = false;
    ScrollArea::vertical().auto_shrink([false, false]).show(ui, |ui| {
        for line in sessions {
            line_ui(ui, line, lang, commands);
        }
        ui.add_space(16.0);
        let text = RichText::new(pick(lang, "Delete everything ...", "모두 지우기 ...")).color(palette(ui).bad);
        ask = ui.button(text).clicked();
    });
    if ask {
        front.ask = Some(Ask::DeleteAll(all));
    }
}

fn line_ui(ui: &mut Ui, line: &Line, lang: Lang, commands: &mut Vec<Command>) {
    let day = format!("{}   {}", line.started.text(), duration_text(line.duration));
    let button = Button::new(RichText::new(&day).size(18.0).strong()).min_size(vec2(260.0, 40.0));
    ui.horizontal_wrapped(|ui| {
        if ui.add(button).clicked() {
            commands.push(Command::LookAt(line.id.clone()));
        }
        ui.label(RichText::new(about(line, lang)).size(16.0));
    });
    ui.add_space(2.0);
}

/// What was done, in a line.
pub(super) fn about(line: &Line, lang: Lang) -> String {
    let names: Vec<&str> = line.exercises.iter().map(|e| e.name(lang.code())).collect();
    let mut parts = Vec::new();
    if !names.is_empty() {
        parts.push(capital(&names.join(", ")));
    }
    if names.is_empty() && line.held <= 0.0 {
        parts.push(pick(lang, "nothing was counted", "센 동작이 없음").to_owned());
    } else if line.reps > 0 {
        parts.push(reps(lang, line.reps));
    }
    if line.held > 0.0 {
        parts.push(match lang {
            Lang::En => format!("{:.0} s held", line.held),
            Lang::Ko => format!("{:.0}초 버팀", line.held),
        });
    }
    match (lang, line.corrections) {
        (_, 0) => {}
        (Lang::En, 1) => parts.push("1 correction".to_owned()),
        (Lang::En, n) => parts.push(format!("{n} corrections")),
        (Lang::Ko, n) => parts.push(format!("교정 {n}번")),
    }
    if !line.complete {
        parts.push(pick(lang, "cut off", "중간에 끊김").to_owned());
    }
    parts.join(", ")
}
