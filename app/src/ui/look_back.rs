//! The screen after the session, and of a session of the past.

use super::{
    dialog::Ask,
    front::{Command, Front, Screen, Stage, World},
    theme::palette,
    words::{capital, pick, reps, times},
};
use crate::{
    sessions::{Format, Looked, Past, Review, duration_text, fault_name, trend},
    timeline::clock_text,
};
use eframe::egui::{self, Button, RichText, ScrollArea, TextStyle, Ui, vec2};
use spotter_datasets::synthetic::phrases::Lang;
use std::time::Duration;

/// Corrections of a fault whose moments are told.
const MOMENTS: usize = 8;

fn at(seconds: f64) -> String {
    clock_text(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// Draws the screen.
pub(super) fn ui(ui: &mut Ui, front: &mut Front, world: &World<'_>, commands: &mut Vec<Command>) {
    let lang = front.lang();
    let Some(looked) = &front.past else {
        ui.heading(pick(lang, "No session yet", "아직 운동 기록이 없어요"));
        ui.label(pick(lang, "End one with E to look back on it.", "E 를 눌러 운동을 끝내면 여기서 돌아볼 수 있어요."));
        return;
    };
    let ask = looked.kept.then(|| Ask::Delete(looked.past.id.clone(), looked.past.started.text()));
    let mut rewind = false;
    ui.heading(pick(lang, "Session summary", "운동 요약"));
    ui.label(about(looked, lang));
    ui.add_space(6.0);
    ui.horizontal_wrapped(|ui| {
        let again = Button::new(pick(lang, "Train again", "다시 운동하기"));
        if world.live && ui.add_enabled(world.stage == Stage::Idle, again).clicked() {
            commands.push(Command::Start);
        }
        rewind = ui.button(pick(lang, "Replay it", "다시 보기")).clicked();
        ui.label(pick(lang, "export:", "내보내기:"));
        for (format, name) in [(Format::Json, "JSON"), (Format::Csv, "CSV"), (Format::Srt, "SRT")] {
            if ui.button(name).clicked() {
                commands.push(Command::Export(format));
            }
        }
        if ask.is_some() && ui.button(pick(lang, "Delete this session ...", "이 기록 지우기 ...")).clicked() {
            front.ask.clone_from(&ask);
        }
    });
    if let Some(notice) = &front.notice {
        ui.label(notice);
    }
    ui.separator();
    let Looked { past, review, earlier, .. } = looked;
    ScrollArea::vertical().auto_shrink([false, false]).show(ui, |ui| {
        ui.style_mut().override_text_style = Some(TextStyle::Name("large".into()));
        sets_ui(ui, review, lang);
        faults_ui(ui, past, review, lang);
        trend_ui(ui, review, earlier, lang);
    });
    if rewind {
        front.rewind.begin();
        front.screen = Screen::Rewind;
    }
}

/// When, how long, and how much was said.
fn about(looked: &Looked, lang: Lang) -> String {
    let Looked { past, review, .. } = looked;
    let lasted = duration_text(review.duration);
    let said = match lang {
        Lang::En if review.said == 1 => format!("{} UTC, {lasted}, 1 thing said", past.started.text()),
        Lang::En => format!("{} UTC, {lasted}, {} things said", past.started.text(), review.said),
        Lang::Ko => format!("{} UTC, {lasted}, 코치의 말 {}번", past.started.text(), review.said),
    };
    let cut = if past.complete || !looked.kept {
        String::new()
    } else {
        format!(" ({})", pick(lang, "cut off: the program ended first", "중간에 끊겼어요"))
    };
    if past.source.is_empty() { format!("{said}{cut}") } else { format!("{}: {said}{cut}", past.source) }
}

fn title(ui: &mut Ui, text: &str) {
    ui.label(RichText::new(text).strong().size(26.0));
}

fn sets_ui(ui: &mut Ui, review: &Review, lang: Lang) {
    title(ui, pick(lang, "Sets", "세트"));
    if review.sets.is_empty() {
        ui.label(pick(lang, "No repetitions were counted.", "센 동작이 없어요."));
    }
    egui::Grid::new("sets").num_columns(4).striped(true).spacing([36.0, 10.0]).show(ui, |ui| {
        for set in &review.sets {
            ui.label(capital(set.exercise.name(lang.code())));
            ui.label(format!("{} {}", pick(lang, "set", "세트"), set.set));
            let what = match (set.held > 0.0, lang) {
                (true, Lang::En) => format!("{:.0} s held", set.held),
                (true, Lang::Ko) => format!("{:.0}초 버팀", set.held),
                (false, _) => reps(lang, set.reps),
            };
            ui.label(RichText::new(what).strong());
            let half = match (set.half, lang) {
                (0, _) => String::new(),
                (n, Lang::En) => format!("{n} half"),
                (n, Lang::Ko) => format!("반쪽 {n}회"),
            };
            ui.label(half);
            ui.end_row();
        }
    });
    ui.add_space(14.0);
}

fn faults_ui(ui: &mut Ui, past: &Past, review: &Review, lang: Lang) {
    let colours = palette(ui);
    if !review.faults.is_empty() {
        title(ui, pick(lang, "Corrected", "교정"));
    }
    for fault in &review.faults {
        let moments: Vec<String> = fault.at.iter().take(MOMENTS).map(|t| at(*t)).collect();
        let (name, often) = (capital(fault_name(fault.mistake, lang)), times(lang, fault.at.len()));
        let more = if fault.at.len() > MOMENTS { ", ..." } else { "" };
        ui.label(match lang {
            Lang::En => format!("{name}: {often}, at {}{more}", moments.join(", ")),
            Lang::Ko => format!("{name}: {often} ({}{more})", moments.join(", ")),
        });
        ui.label(RichText::new(format!("\"{}\"", fault.words)).size(16.0));
        ui.add_space(4.0);
    }
    if review.better().next().is_some() {
        ui.add_space(6.0);
        title(ui, pick(lang, "Got better", "좋아졌어요"));
    }
    for fault in review.better() {
        let (name, since) = (capital(fault_name(fault.mistake, past.lang)), at(fault.fixed.unwrap_or_default()));
        let text = match lang {
            Lang::En => format!("{name}: gone from {since} on"),
            Lang::Ko => format!("{}: {since}부터 없어졌어요", capital(fault_name(fault.mistake, lang))),
        };
        ui.label(RichText::new(text).color(colours.good));
    }
    ui.add_space(14.0);
}

/// What an exercise came to over the sessions, as bars and as words.
fn trend_ui(ui: &mut Ui, review: &Review, earlier: &[Review], lang: Lang) {
    let lines = review.exercises().into_iter().filter_map(|exercise| {
        let line = trend(exercise, earlier.iter().chain([review]));
        (line.len() > 1).then_some((exercise, line))
    });
    let lines: Vec<_> = lines.collect();
    if lines.is_empty() {
        return;
    }
    title(ui, pick(lang, "Over your sessions", "지난 운동과 비교"));
    for (exercise, line) in lines {
        let one = |&(reps, held, _): &(u32, f64, usize)| {
            if held > 0.0 { (held, format!("{held:.0} s")) } else { (f64::from(reps), reps.to_string()) }
        };
        let (values, words): (Vec<f64>, Vec<String>) = line.iter().map(one).unzip();
        ui.horizontal(|ui| {
            bars(ui, &values);
            ui.label(format!("{}: {}", exercise.name(lang.code()), words.join(", ")));
        });
    }
}

/// A bar for each value, the last one in the colour of the present.
fn bars(ui: &mut Ui, values: &[f64]) {
    let (wide, high) = (12.0, 36.0);
    let (area, _) = ui.allocate_exact_size(vec2(wide * values.len() as f32, high), egui::Sense::hover());
    let most = values.iter().copied().fold(1.0, f64::max);
    for (i, value) in values.iter().enumerate() {
        let colour = if i + 1 == values.len() { palette(ui).good } else { ui.visuals().weak_text_color() };
        let (left, height) = (area.left() + wide * i as f32, (value / most) as f32 * high);
        let bar = egui::Rect::from_min_max(
            egui::pos2(left + 2.0, area.bottom() - height.max(2.0)),
            egui::pos2(left + wide - 2.0, area.bottom()),
        );
        ui.painter().rect_filled(bar, 2.0, colour);
    }
}
