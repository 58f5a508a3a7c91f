//! What is beside and under the picture.

use super::state::State;
use crate::{
    pipeline::stats::{Monitor, STAGES},
    timeline::{Drafting, clock_text},
};
use eframe::egui::{self, Color32, RichText, Ui};
use spotter_engine::coach::Kind;
use spotter_vision::lens::View;
use std::time::Duration;

const COACHING: Color32 = Color32::from_rgb(245, 245, 245);
const WARNING: Color32 = Color32::from_rgb(255, 205, 90);
const GOOD: Color32 = Color32::from_rgb(120, 215, 130);
const BAD: Color32 = Color32::from_rgb(255, 110, 100);

/// What the user did in the panels.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Actions {
    /// Pause or go on.
    pub(super) toggle: bool,
    /// Play from the beginning.
    pub(super) restart: bool,
    /// Another talkativeness.
    pub(super) talkativeness: Option<f32>,
}

/// What the controls show.
#[derive(Clone, Copy, Debug)]
pub(super) struct Controls {
    pub(super) now: Duration,
    pub(super) paused: bool,
    pub(super) over: bool,
    pub(super) talkativeness: f32,
}

/// Buttons, slider and media time.
pub(super) fn controls_ui(ui: &mut Ui, controls: Controls) -> Actions {
    let mut actions = Actions::default();
    ui.horizontal(|ui| {
        let label = if controls.paused { "Go on" } else { "Pause" };
        actions.toggle = ui.add_enabled(!controls.over, egui::Button::new(label)).clicked();
        actions.restart = ui.button("Restart").clicked();
        ui.label(RichText::new(clock_text(controls.now)).monospace().size(16.0));
        if controls.over {
            ui.label("end");
        }
        ui.separator();
        let mut bias = controls.talkativeness;
        let slider = egui::Slider::new(&mut bias, -5.0..=5.0).text("talkativeness").fixed_decimals(1);
        if ui.add(slider).changed() {
            actions.talkativeness = Some(bias);
        }
    });
    actions
}

/// The feedback of the moment, large.
pub(super) fn feedback_ui(ui: &mut Ui, state: &State, now: Duration) {
    let shown = state.partial.as_deref().map(|text| (text, COACHING));
    let shown = shown.or_else(|| {
        let feedback = state.current(now)?;
        Some((feedback.text.as_str(), if feedback.kind == Kind::View { WARNING } else { COACHING }))
    });
    let (text, colour) = shown.unwrap_or((" ", COACHING));
    ui.add_space(6.0);
    ui.vertical_centered(|ui| ui.label(RichText::new(text).size(34.0).strong().color(colour)));
    ui.add_space(6.0);
}

/// How the person is seen, and stages that stopped.
pub(super) fn status_ui(ui: &mut Ui, state: &State, model: &str) {
    let (text, colour) = match state.view {
        None => ("looking", Color32::GRAY),
        Some((View::Clear, _)) => ("in view", GOOD),
        Some((View::PartlyOut, _)) => ("partly out of view", WARNING),
        Some((View::NoPerson, _)) => ("nobody in view", WARNING),
    };
    ui.horizontal(|ui| {
        ui.label(RichText::new("\u{25cf}").color(colour));
        ui.label(RichText::new(text).color(colour));
        if let Some((_, people)) = state.view.filter(|(_, people)| *people > 1) {
            ui.label(format!("{people} people, the largest is coached"));
        }
    });
    ui.label(RichText::new(format!("model {model}")).weak());
    for failure in &state.failures {
        ui.label(RichText::new(failure).color(BAD));
    }
}

/// Times of the stages and what was dropped.
pub(super) fn latency_ui(ui: &mut Ui, monitor: &Monitor) {
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
    let colour = if lost > 0 { WARNING } else { Color32::GRAY };
    ui.label(RichText::new(format!("{} dropped, {} skipped, {} stale", c.dropped, c.skipped, c.stale)).color(colour));
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
pub(super) fn log_ui(ui: &mut Ui, state: &State) {
    egui::ScrollArea::vertical().auto_shrink([false, false]).show(ui, |ui| {
        for feedback in state.log.iter().rev() {
            ui.horizontal_wrapped(|ui| {
                ui.label(RichText::new(clock_text(feedback.t_ready)).monospace().weak());
                let colour = if feedback.kind == Kind::View { WARNING } else { COACHING };
                ui.label(RichText::new(&feedback.text).color(colour));
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use spotter_engine::speculate::Stats;

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
