//! The first screen: what to do, before a camera runs.

use super::{
    front::{Command, Front, Listed, Stage, World},
    theme::palette,
    words::{self, capital, pick},
};
use eframe::egui::{self, Button, ComboBox, RichText, ScrollArea, TextEdit, Ui, vec2};
use spotter_datasets::synthetic::{Exercise, phrases::Lang};
use std::path::Path;

/// Chooses what is done from the next session on, and remembers it.
fn chosen(exercise: &str, workout: &str) -> Command {
    Command::Set(vec![("exercise", exercise.to_owned()), ("workout", workout.to_owned())])
}

/// Draws the screen.
pub(super) fn ui(ui: &mut Ui, front: &mut Front, world: &World<'_>, commands: &mut Vec<Command>) {
    let lang = front.lang();
    ui.horizontal(|ui| {
        ui.heading(pick(lang, "What shall we do?", "무엇을 할까요?"));
        ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| language_ui(ui, front, commands));
    });
    if let Some(notice) = &front.notice {
        ui.label(RichText::new(notice).color(palette(ui).bad));
    }
    ui.add_space(12.0);
    egui::Panel::bottom("start").frame(egui::Frame::new()).show_separator_line(false).show(ui, |ui| {
        start_ui(ui, front, world, commands);
    });
    ScrollArea::vertical().auto_shrink([false, false]).show(ui, |ui| {
        if ui.available_width() < 760.0 {
            exercises_ui(ui, front, commands);
            ui.add_space(16.0);
            workouts_ui(ui, front, commands);
        } else {
            ui.columns(2, |columns| {
                let [left, right] = columns else { return };
                left.vertical(|ui| exercises_ui(ui, front, commands));
                right.vertical(|ui| workouts_ui(ui, front, commands));
            });
        }
    });
}

/// The language of window and coach, each by its own name.
pub(super) fn language_ui(ui: &mut Ui, front: &Front, commands: &mut Vec<Command>) {
    for (lang, name) in [(Lang::Ko, "한국어"), (Lang::En, "English")] {
        if ui.selectable_label(front.lang() == lang, name).clicked() {
            commands.push(super::front::set("lang", lang.code()));
        }
    }
}

fn title(ui: &mut Ui, text: &str) {
    ui.label(RichText::new(text).size(20.0).strong());
    ui.add_space(4.0);
}

/// A choice that fills its row.
fn choice(ui: &mut Ui, chosen: bool, text: &str) -> bool {
    let button = Button::new(RichText::new(text).size(18.0)).selected(chosen);
    let button = button.min_size(vec2(ui.available_width(), 44.0));
    ui.add(button).clicked()
}

fn exercises_ui(ui: &mut Ui, front: &Front, commands: &mut Vec<Command>) {
    let lang = front.lang();
    title(ui, pick(lang, "An exercise", "운동 하나"));
    let (exercise, workout) = (&front.settings.exercise, &front.settings.workout);
    let free = exercise.is_none() && workout.is_none();
    if choice(ui, free, pick(lang, "Anything: I recognise what you do", "자유롭게: 무엇을 하는지 알아볼게요"))
    {
        commands.push(chosen("", ""));
    }
    ui.add_space(4.0);
    let width = (ui.available_width() - 2.0 * ui.spacing().item_spacing.x) / 3.0;
    egui::Grid::new("exercises").num_columns(3).spacing([8.0, 8.0]).show(ui, |ui| {
        for (i, each) in Exercise::ALL.into_iter().enumerate() {
            let on = workout.is_none() && exercise.as_deref() == Some(each.name("en"));
            let name = RichText::new(capital(each.name(lang.code()))).size(16.0);
            if ui.add(Button::new(name).selected(on).min_size(vec2(width, 44.0)).wrap()).clicked() {
                commands.push(chosen(each.name("en"), ""));
            }
            if i % 3 == 2 {
                ui.end_row();
            }
        }
    });
}

fn workouts_ui(ui: &mut Ui, front: &mut Front, commands: &mut Vec<Command>) {
    let lang = front.lang();
    title(ui, pick(lang, "A workout", "운동 프로그램"));
    let settled = front.settings.workout.clone();
    let strange = settled.filter(|path| front.workouts.iter().all(|listed| listed.path != *path));
    let strange = strange.map(|path| Listed {
        name: path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned()),
        about: Ok(path.display().to_string()),
        path,
    });
    for listed in front.workouts.iter().chain(&strange) {
        let on = front.settings.workout.as_ref() == Some(&listed.path);
        match &listed.about {
            Ok(about) => {
                if choice(ui, on, &capital(&listed.name)) {
                    commands.push(chosen("", &listed.path.display().to_string()));
                }
                ui.label(RichText::new(about).size(14.0));
            }
            Err(why) => {
                ui.label(RichText::new(format!("{}: {why}", listed.name)).size(14.0).color(palette(ui).bad));
            }
        }
        ui.add_space(4.0);
    }
    ui.add_space(4.0);
    let label = ui.label(pick(lang, "A file of your own (TOML), then Enter", "내 파일(TOML)을 적고 Enter"));
    let hint = pick(lang, "/home/me/legs.toml", "/home/me/legs.toml");
    let field = ui.add(TextEdit::singleline(&mut front.typed).hint_text(hint).desired_width(f32::INFINITY));
    let field = field.labelled_by(label.id);
    if field.lost_focus() && ui.input(|input| input.key_pressed(egui::Key::Enter)) && !front.typed.trim().is_empty() {
        match Path::new(front.typed.trim()).canonicalize() {
            Ok(path) if path.is_file() => commands.push(chosen("", &path.display().to_string())),
            _ => {
                let none = pick(lang, "there is no such file", "그런 파일이 없어요");
                front.notice = Some(format!("{}: {none}", front.typed.trim()));
            }
        }
    }
}

/// What will be done, the camera it is seen by, and the button.
fn start_ui(ui: &mut Ui, front: &Front, world: &World<'_>, commands: &mut Vec<Command>) {
    let lang = front.lang();
    ui.add_space(6.0);
    ui.separator();
    ui.add_space(6.0);
    ui.horizontal_wrapped(|ui| {
        let text = RichText::new(pick(lang, "Start", "시작")).size(28.0).strong();
        let button = Button::new(text).min_size(vec2(180.0, 60.0)).fill(palette(ui).accent);
        if ui.add_enabled(world.stage == Stage::Idle, button).clicked() {
            commands.push(Command::Start);
        }
        ui.add_space(8.0);
        ui.vertical(|ui| {
            seen_by_ui(ui, front, world, commands);
            let quiet = if world.silent { words::silent(lang) } else { world.voice };
            ui.label(quiet);
            let private = pick(
                lang,
                "Nothing leaves this machine, and pictures are never kept.",
                "아무것도 이 컴퓨터 밖으로 나가지 않고, 영상은 저장하지 않아요.",
            );
            ui.label(private);
        });
    });
}

fn seen_by_ui(ui: &mut Ui, front: &Front, world: &World<'_>, commands: &mut Vec<Command>) {
    let lang = front.lang();
    if let Some(name) = world.stands_in {
        let text = pick(lang, "in the place of a camera:", "카메라 대신:");
        ui.label(format!("{text} {name}"));
        return;
    }
    ui.horizontal_wrapped(|ui| {
        camera_ui(ui, front, commands);
        if ui.button(pick(lang, "Look again", "다시 찾기")).clicked() {
            commands.push(Command::ListCameras);
        }
    });
}

/// The cameras to choose from, or that there is none.
pub(super) fn camera_ui(ui: &mut Ui, front: &Front, commands: &mut Vec<Command>) {
    let lang = front.lang();
    let found = match &front.cameras {
        None => return drop(ui.label(pick(lang, "looking for cameras ...", "카메라를 찾고 있어요 ..."))),
        Some(Err(problem)) => return drop(ui.label(RichText::new(problem).color(palette(ui).warning))),
        Some(Ok(found)) => found,
    };
    if found.is_empty() {
        let none = pick(
            lang,
            "No camera was found: plug one in. You can start, and I wait for it.",
            "카메라가 없어요. 연결해 주세요. 먼저 시작해도 기다릴게요.",
        );
        ui.label(RichText::new(none).color(palette(ui).warning));
        return;
    }
    let name = |index: u32| {
        let known = found.iter().find(|camera| camera.index == Some(index));
        known.map_or_else(|| format!("{index}"), |camera| format!("{index}: {}", camera.name))
    };
    let shown = ComboBox::from_label(pick(lang, "camera", "카메라")).selected_text(name(front.settings.camera));
    shown.show_ui(ui, |ui| {
        for index in found.iter().filter_map(|camera| camera.index) {
            if ui.selectable_label(front.settings.camera == index, name(index)).clicked() {
                commands.push(super::front::set("camera", index));
            }
        }
    });
}
