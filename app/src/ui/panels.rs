//! What is beside and under the picture.

use super::{
    front::{Command, Front, Screen, Stage, World},
    state::State,
    theme::palette,
    words::pick,
};
use crate::{
    pipeline::stats::{Monitor, STAGES},
    timeline::{Drafting, clock_text},
};
use eframe::egui::{self, RichText, Ui};
use spotter_datasets::synthetic::phrases::Lang;
use spotter_engine::coach::Kind;

/// Narrower windows have the screens in a list.
const NARROW: f32 = 820.0;

/// Buttons and media time.
pub(super) fn controls_ui(ui: &mut Ui, front: &mut Front, world: &World<'_>, commands: &mut Vec<Command>) {
    let lang = front.lang();
    ui.add_space(6.0);
    ui.horizontal_wrapped(|ui| {
        // on every screen: nobody is to be filmed without knowing
        if world.camera && world.running() && front.state.lost.is_none() {
            let (dot, _) = ui.allocate_exact_size(egui::vec2(14.0, 14.0), egui::Sense::hover());
            ui.painter().circle_filled(dot.center(), 6.0, palette(ui).bad);
            ui.label(RichText::new(pick(lang, "camera on", "카메라 켜짐")).color(palette(ui).bad));
        }
        session_ui(ui, world, lang, commands);
        ui.separator();
        screens_ui(ui, front, world, lang);
        ui.separator();
        if ui.selectable_label(front.side, pick(lang, "Times", "처리 시간")).clicked() {
            front.side = !front.side;
        }
    });
    ui.add_space(6.0);
}

/// What can be done with the session, as far as there is one.
fn session_ui(ui: &mut Ui, world: &World<'_>, lang: Lang, commands: &mut Vec<Command>) {
    match world.stage {
        Stage::Running => {
            let label = if world.paused { pick(lang, "Go on", "계속") } else { pick(lang, "Pause", "멈춤") };
            if ui.button(label).clicked() {
                commands.push(Command::Pause);
            }
            if ui.button(pick(lang, "End session", "끝내기")).clicked() {
                commands.push(Command::End);
            }
        }
        Stage::Opening => drop(ui.label(pick(lang, "opening ...", "여는 중 ..."))),
        Stage::Ending => drop(ui.label(pick(lang, "ending ...", "정리 중 ..."))),
        Stage::Idle if world.live => {}
        Stage::Idle => drop(ui.label(pick(lang, "end", "끝"))),
    }
    let restart = !world.live || world.running();
    if restart && ui.button(pick(lang, "Restart", "처음부터")).clicked() {
        commands.push(Command::Restart);
    }
    let mute = if world.muted { pick(lang, "Unmute", "소리 켜기") } else { pick(lang, "Mute", "소리 끄기") };
    if world.live && ui.button(mute).clicked() {
        commands.push(Command::Mute(!world.muted));
    }
    if world.running() || !world.live {
        ui.label(RichText::new(clock_text(world.now)).monospace());
    }
}

/// The screens, side by side where there is room.
fn screens_ui(ui: &mut Ui, front: &mut Front, world: &World<'_>, lang: Lang) {
    let first = if world.live && world.stage == Stage::Idle {
        (Screen::Home, pick(lang, "Begin", "시작 화면"))
    } else {
        (Screen::Coach, pick(lang, "Coach", "코치"))
    };
    let screens = [
        first,
        (Screen::Summary, pick(lang, "Summary", "요약")),
        (Screen::History, pick(lang, "Sessions", "지난 운동")),
        (Screen::Settings, pick(lang, "Settings", "설정")),
        (Screen::Help, pick(lang, "Keys", "키")),
    ];
    if ui.ctx().content_rect().width() < NARROW {
        ui.menu_button(pick(lang, "Screens", "화면"), |ui| {
            for (screen, name) in screens {
                if ui.selectable_label(front.screen == screen, name).clicked() {
                    front.screen = screen;
                    ui.close();
                }
            }
        });
        return;
    }
    for (screen, name) in screens {
        if ui.selectable_label(front.screen == screen, name).clicked() {
            front.screen = screen;
        }
    }
}

/// Model, times of the stages and everything that was said.
pub(super) fn side_ui(ui: &mut Ui, state: &State, world: &World<'_>) {
    ui.add_space(6.0);
    ui.label(RichText::new(format!("model {}", world.model)).weak());
    ui.label(RichText::new(world.voice).weak());
    ui.separator();
    if let Some(monitor) = world.monitor {
        latency_ui(ui, monitor, world.drawn);
        ui.separator();
    }
    ui.label(RichText::new("said").weak());
    log_ui(ui, state);
}

/// Times of the stages and what was dropped.
fn latency_ui(ui: &mut Ui, monitor: &Monitor, drawn: u64) {
    egui::Grid::new("latency").num_columns(3).striped(true).min_col_width(64.0).show(ui, |ui| {
        ui.label(RichText::new("stage").weak());
        ui.label(RichText::new("p50 ms").weak());
        ui.label(RichText::new("p95 ms").weak());
        ui.end_row();
        for (stage, name) in STAGES {
            ui.label(name.replace('_', " "));
            match monitor.quantiles(stage) {
                Some(q) => {
                    ui.monospace(format!("{:.1}", q.p50_ms));
                    ui.monospace(format!("{:.1}", q.p95_ms));
                }
                None => {
                    ui.label("-");
                    ui.label("-");
                }
            }
            ui.end_row();
        }
    });
    let c = monitor.counts();
    let (frames, looked_at, decided) = (c.frames, c.sampled, c.observed);
    ui.label(format!("{frames} frames, {drawn} drawn, {looked_at} looked at, {decided} decided on"));
    let lost = c.dropped + c.skipped;
    let text = RichText::new(format!("{} dropped, {} skipped, {} stale", c.dropped, c.skipped, c.stale));
    ui.label(if lost > 0 { text.color(palette(ui).warning) } else { text.weak() });
    if let Some(stats) = monitor.speculation() {
        drafting_lines(&Drafting::new(&stats)).into_iter().for_each(|line| drop(ui.label(line)));
    }
}

/// What drafting did, in words.
fn drafting_lines(d: &Drafting) -> Vec<String> {
    let gain = d.gain.map_or_else(String::new, |g| format!(", {g:.2} times as fast"));
    let mut lines = vec![format!(
        "drafting: {} of {} accepted, {:.2} tokens a round{gain}",
        d.accepted, d.proposed, d.block_efficiency
    )];
    if d.rounds > 0 {
        let each = |ms: f64| ms / d.rounds as f64;
        lines.push(format!("{:.1} ms drafting and {:.1} ms checking a round", each(d.draft_ms), each(d.verify_ms)));
    }
    if d.switched_off > 0 {
        lines.push(format!("pauses because it lost time: {}", d.switched_off));
    }
    lines
}

/// What was said before, newest first.
fn log_ui(ui: &mut Ui, state: &State) {
    let colours = palette(ui);
    egui::ScrollArea::vertical().auto_shrink([false, false]).show(ui, |ui| {
        for feedback in state.log.iter().rev() {
            ui.horizontal_wrapped(|ui| {
                ui.label(RichText::new(clock_text(feedback.t_ready)).monospace().weak());
                let colour = if feedback.kind == Kind::View { colours.warning } else { colours.text };
                ui.label(RichText::new(&feedback.text).color(colour));
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use spotter_engine::speculate::Stats;
    use std::time::Duration;

    #[test]
    fn drafting_is_told_in_words() {
        let nothing = drafting_lines(&Drafting::new(&Stats::default()));
        assert_eq!(nothing, ["drafting: 0 of 0 accepted, 1.00 tokens a round"]);
        let stats = Stats {
            rounds: 4,
            proposed: 12,
            accepted: 6,
            committed: 10,
            switched_off: 1,
            draft_time: Duration::from_millis(8),
            verify_time: Duration::from_millis(40),
            plain_step_seconds: 0.009_6,
            ..Stats::default()
        };
        assert_eq!(
            drafting_lines(&Drafting::new(&stats)),
            [
                "drafting: 6 of 12 accepted, 2.50 tokens a round, 2.00 times as fast",
                "2.0 ms drafting and 10.0 ms checking a round",
                "pauses because it lost time: 1"
            ]
        );
    }
}
