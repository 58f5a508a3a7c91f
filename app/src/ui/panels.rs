//! What is beside and under the picture.

use super::{
    front::{Command, Front, Screen, World},
    state::State,
    theme::palette,
};
use crate::{
    pipeline::stats::{Monitor, STAGES},
    timeline::{Drafting, clock_text},
};
use eframe::egui::{self, Button, RichText, Ui};
use spotter_engine::coach::Kind;

/// Buttons and media time.
pub(super) fn controls_ui(ui: &mut Ui, front: &mut Front, world: &World<'_>, commands: &mut Vec<Command>) {
    ui.add_space(4.0);
    ui.horizontal_wrapped(|ui| {
        // on every screen: nobody is to be filmed without knowing
        if world.camera && !world.over && front.state.lost.is_none() {
            let (dot, _) = ui.allocate_exact_size(egui::vec2(14.0, 14.0), egui::Sense::hover());
            ui.painter().circle_filled(dot.center(), 6.0, palette(ui).bad);
            ui.label(RichText::new("camera on").color(palette(ui).bad));
        }
        let label = if world.paused { "Go on" } else { "Pause" };
        if ui.add_enabled(!world.over, Button::new(label)).clicked() {
            commands.push(Command::Pause);
        }
        if ui.add_enabled(!world.over, Button::new("End session")).clicked() {
            commands.push(Command::End);
        }
        if ui.button("Restart").clicked() {
            commands.push(Command::Restart);
        }
        let mute = if world.muted { "Unmute" } else { "Mute" };
        if ui.button(mute).clicked() {
            commands.push(Command::Mute(!world.muted));
        }
        ui.label(RichText::new(clock_text(world.now)).monospace().size(16.0));
        if world.over {
            ui.label("end");
        }
        ui.separator();
        for (screen, name) in [
            (Screen::Coach, "Coach"),
            (Screen::Summary, "Summary"),
            (Screen::Settings, "Settings"),
            (Screen::Help, "Keys"),
        ] {
            if ui.selectable_label(front.screen == screen, name).clicked() {
                front.screen = screen;
            }
        }
        ui.separator();
        if ui.selectable_label(front.side, "Times").clicked() {
            front.side = !front.side;
        }
    });
    ui.add_space(4.0);
}

/// Model, times of the stages and everything that was said.
pub(super) fn side_ui(ui: &mut Ui, state: &State, world: &World<'_>) {
    ui.add_space(6.0);
    ui.label(RichText::new(format!("model {}", world.model)).weak());
    ui.label(RichText::new(world.voice).weak());
    ui.separator();
    if let Some(monitor) = world.monitor {
        latency_ui(ui, monitor);
        ui.separator();
    }
    ui.label(RichText::new("said").weak());
    log_ui(ui, state);
}

/// Times of the stages and what was dropped.
fn latency_ui(ui: &mut Ui, monitor: &Monitor) {
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
    ui.label(format!("{} frames, {} looked at, {} decided on", c.frames, c.sampled, c.observed));
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
