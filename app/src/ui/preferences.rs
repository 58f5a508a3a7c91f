//! The settings screen. What is changed holds at once where it can, and is written into the settings file.

use super::{
    dialog::Ask,
    front::{Command, Front, World, set},
    home::{camera_ui, language_ui},
    theme::palette,
    words::{self, capital, pick},
};
use crate::{
    pipeline::stats::Monitor,
    settings::{Patches, Resolution, Theme},
};
use eframe::egui::{self, ComboBox, RichText, Slider, TextEdit, Ui};
use spotter_datasets::synthetic::{Exercise, phrases::Lang};

/// Sizes of the camera's picture that are offered; what is taken is the nearest that the camera has.
const SIZES: [(u32, u32); 4] = [(320, 240), (640, 480), (1280, 720), (1920, 1080)];

/// Draws the screen.
pub(super) fn ui(ui: &mut Ui, front: &mut Front, world: &World<'_>, commands: &mut Vec<Command>) {
    let lang = front.lang();
    ui.heading(pick(lang, "Settings", "설정"));
    if let Some(notice) = &front.notice {
        ui.label(RichText::new(notice).color(palette(ui).warning));
    }
    ui.add_space(8.0);
    egui::ScrollArea::vertical().auto_shrink([false, false]).show(ui, |ui| {
        if ui.available_width() < 760.0 {
            left_ui(ui, front, world, commands);
            right_ui(ui, front, world, commands);
            return;
        }
        ui.columns(2, |columns| {
            let [left, right] = columns else { return };
            left.vertical(|ui| left_ui(ui, front, world, commands));
            right.vertical(|ui| right_ui(ui, front, world, commands));
        });
    });
}

fn left_ui(ui: &mut Ui, front: &mut Front, world: &World<'_>, commands: &mut Vec<Command>) {
    coach_ui(ui, front, world, commands);
    ui.add_space(18.0);
    camera_settings_ui(ui, front, world, commands);
}

fn right_ui(ui: &mut Ui, front: &mut Front, world: &World<'_>, commands: &mut Vec<Command>) {
    look_ui(ui, front, commands);
    patches_ui(ui, front, world, commands);
    ui.add_space(18.0);
    voice_ui(ui, front, world, commands);
    ui.add_space(18.0);
    records_ui(ui, front, commands);
}

fn title(ui: &mut Ui, text: &str) {
    ui.label(RichText::new(text).size(20.0).strong());
}

fn coach_ui(ui: &mut Ui, front: &Front, world: &World<'_>, commands: &mut Vec<Command>) {
    let lang = front.lang();
    title(ui, pick(lang, "Coach", "코치"));
    ui.horizontal(|ui| {
        ui.label(pick(lang, "language", "언어"));
        language_ui(ui, front, commands);
    });
    if world.running() {
        ui.label(pick(lang, "The coach speaks it from the next session on.", "코치의 말은 다음 운동부터 바뀌어요."));
        exercise_ui(ui, front, lang, commands);
    }
    let mut bias = world.talkativeness;
    let dial = Slider::new(&mut bias, -5.0..=5.0).text(pick(lang, "talkativeness", "말하는 정도")).fixed_decimals(1);
    if ui.add(dial).changed() {
        commands.push(Command::Talkativeness(bias));
    }
    let mut cooldown = front.settings.cooldown.unwrap_or(1.0);
    let dial = Slider::new(&mut cooldown, 0.0..=20.0);
    let dial = dial.text(pick(lang, "seconds between two cues", "말 사이 간격(초)")).fixed_decimals(1);
    if ui.add(dial).changed() {
        commands.push(set("cooldown", format!("{cooldown:.1}")));
    }
}

/// Another exercise for the session under way.
fn exercise_ui(ui: &mut Ui, front: &Front, lang: Lang, commands: &mut Vec<Command>) {
    let any = pick(lang, "let Spotter recognise it", "알아보게 두기");
    let chosen = front.state.work.exercise;
    let name = chosen.map_or_else(|| any.to_owned(), |e| capital(e.name(lang.code())));
    ComboBox::from_label(pick(lang, "exercise", "운동")).selected_text(name).show_ui(ui, |ui| {
        if ui.selectable_label(false, any).clicked() {
            commands.push(Command::Choose(None));
        }
        for exercise in Exercise::ALL {
            if ui.selectable_label(chosen == Some(exercise), capital(exercise.name(lang.code()))).clicked() {
                commands.push(Command::Choose(Some(exercise)));
            }
        }
    });
}

fn camera_settings_ui(ui: &mut Ui, front: &Front, world: &World<'_>, commands: &mut Vec<Command>) {
    let lang = front.lang();
    title(ui, pick(lang, "Camera", "카메라"));
    camera_ui(ui, front, commands);
    ui.horizontal(|ui| {
        if ui.button(pick(lang, "Look again", "다시 찾기")).clicked() {
            commands.push(Command::ListCameras);
        }
    });
    let size = front.settings.resolution;
    ComboBox::from_label(pick(lang, "size of the picture", "영상 크기")).selected_text(size.to_string()).show_ui(
        ui,
        |ui| {
            for (width, height) in SIZES {
                let each = Resolution { width, height };
                if ui.selectable_label(size == each, each.to_string()).clicked() {
                    commands.push(set("resolution", each));
                }
            }
        },
    );
    if world.running() {
        ui.label(pick(
            lang,
            "Another camera or size: from the next session on.",
            "카메라와 크기는 다음 운동부터 바뀌어요.",
        ));
    }
    let mut mirror = front.settings.mirror;
    if ui.checkbox(&mut mirror, pick(lang, "show it as a mirror does", "거울처럼 보이기")).changed() {
        commands.push(set("mirror", mirror));
    }
}

fn look_ui(ui: &mut Ui, front: &Front, commands: &mut Vec<Command>) {
    let lang = front.lang();
    title(ui, pick(lang, "Look", "화면"));
    ui.horizontal(|ui| {
        for (theme, key, ko) in
            [(Theme::Dark, "dark", "어둡게"), (Theme::Light, "light", "밝게"), (Theme::System, "system", "시스템")]
        {
            if ui.radio(front.settings.theme == theme, pick(lang, key, ko)).clicked() {
                commands.push(set("theme", key));
            }
        }
    });
    let mut scale = front.settings.text_scale;
    // the text grows under the mouse only once it lets go
    let slider = Slider::new(&mut scale, 0.5..=3.0).text(pick(lang, "text size", "글자 크기"));
    let slider = ui.add(slider.fixed_decimals(1).step_by(0.1));
    let changed = slider.drag_stopped() || (slider.changed() && !slider.dragged());
    if changed && (scale - front.settings.text_scale).abs() > 0.01 {
        commands.push(set("text_scale", format!("{scale:.1}")));
    }
}

/// The patches that the encoder works on; the layers that can be shown are those of the last frame.
fn patches_ui(ui: &mut Ui, front: &Front, world: &World<'_>, commands: &mut Vec<Command>) {
    let lang = front.lang();
    let layers = world.monitor.and_then(Monitor::attended).map(|a| a.layers).unwrap_or_default();
    let each = layers.iter().map(|(layer, _)| Patches::Layer(*layer));
    let shown = front.settings.patches;
    let name = |show: Patches| match (show, lang) {
        (Patches::Off, _) => pick(lang, "off", "끔").to_owned(),
        (Patches::Summed, _) => pick(lang, "all layers", "모든 층").to_owned(),
        (Patches::Layer(n), Lang::En) => format!("layer {n}"),
        (Patches::Layer(n), Lang::Ko) => format!("{n}층"),
    };
    let label = pick(lang, "patches that the encoder works on", "인코더가 보는 조각");
    ComboBox::from_label(label).selected_text(name(shown)).show_ui(ui, |ui| {
        for show in [Patches::Off, Patches::Summed].into_iter().chain(each) {
            if ui.selectable_label(shown == show, name(show)).clicked() {
                commands.push(set("patches", show));
            }
        }
    });
}

fn voice_ui(ui: &mut Ui, front: &mut Front, world: &World<'_>, commands: &mut Vec<Command>) {
    let lang = front.lang();
    title(ui, pick(lang, "Voice", "목소리"));
    let mut voice = front.settings.voice;
    if ui.checkbox(&mut voice, pick(lang, "speak aloud", "소리 내어 말하기")).changed() {
        commands.push(set("voice", voice));
    }
    let mut volume = front.settings.volume;
    if ui.add(Slider::new(&mut volume, 0.0..=1.0).text(pick(lang, "volume", "음량")).fixed_decimals(2)).changed() {
        commands.push(set("volume", format!("{volume:.2}")));
    }
    ui.label(if world.silent { words::silent(lang) } else { world.voice });
    voice_file_ui(ui, front, lang, commands);
}

/// The file of a voice; an empty one is the system's voice.
fn voice_file_ui(ui: &mut Ui, front: &mut Front, lang: Lang, commands: &mut Vec<Command>) {
    let label = ui.label(pick(lang, "file of a Piper voice, then Enter", "Piper 목소리 파일을 적고 Enter"));
    let settled = front.settings.speech.as_ref().map_or_else(String::new, |path| path.display().to_string());
    let hint = if settled.is_empty() { "/home/me/voice.onnx" } else { &settled };
    let field = TextEdit::singleline(&mut front.typed_voice).hint_text(hint).desired_width(320.0);
    let field = ui.add(field).labelled_by(label.id);
    if field.lost_focus() && ui.input(|input| input.key_pressed(egui::Key::Enter)) {
        let typed = front.typed_voice.trim().to_owned();
        if typed.is_empty() || std::path::Path::new(&typed).is_file() {
            commands.push(set("speech", typed));
        } else {
            let none = pick(lang, "there is no such file", "그런 파일이 없어요");
            front.notice = Some(format!("{typed}: {none}"));
        }
    }
}

fn records_ui(ui: &mut Ui, front: &mut Front, commands: &mut Vec<Command>) {
    let lang = front.lang();
    title(ui, pick(lang, "Records", "기록"));
    let mut record = front.settings.record;
    let text = pick(
        lang,
        "keep what happened (never pictures), from the next session on",
        "무슨 일이 있었는지 남기기(영상은 제외), 다음 운동부터",
    );
    if ui.checkbox(&mut record, text).changed() {
        commands.push(set("record", record));
    }
    let Some(kept) = front.sessions.as_ref().map(Vec::len) else { return };
    ui.label(match (lang, kept) {
        (Lang::En, 1) => "1 session is kept on this machine".to_owned(),
        (Lang::En, _) => format!("{kept} sessions are kept on this machine"),
        (Lang::Ko, _) => format!("이 컴퓨터에 기록 {kept}개가 있어요"),
    });
    let text = RichText::new(pick(lang, "Delete everything ...", "모두 지우기 ...")).color(palette(ui).bad);
    ui.horizontal(|ui| {
        if ui.add_enabled(kept > 0, egui::Button::new(text)).clicked() {
            front.ask = Some(Ask::DeleteAll(kept));
        }
    });
}
