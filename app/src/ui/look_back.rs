//! The screen after the session.

use super::{front::Front, theme::palette};
use crate::{
    sessions::{Past, Review, duration_text, fault_name, trend},
    timeline::clock_text,
};
use eframe::egui::{self, RichText, ScrollArea, TextStyle, Ui};
use std::time::Duration;

fn at(seconds: f64) -> String {
    clock_text(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// Draws the screen.
pub(super) fn ui(ui: &mut Ui, front: &Front) {
    let Some((past, review, earlier)) = &front.past else {
        ui.heading("No session yet");
        ui.label("End one with E to look back on it.");
        return;
    };
    ui.style_mut().override_text_style = Some(TextStyle::Heading);
    ScrollArea::vertical().auto_shrink([false, false]).show(ui, |ui| {
        ui.label(RichText::new("Session summary").size(34.0).strong());
        let said = format!("{}, {} things said", duration_text(review.duration), review.said);
        ui.label(if past.source.is_empty() { said } else { format!("{}: {said}", past.source) });
        ui.add_space(10.0);
        sets_ui(ui, past, review);
        faults_ui(ui, past, review);
        trend_ui(ui, past, review, earlier);
    });
}

fn sets_ui(ui: &mut Ui, past: &Past, review: &Review) {
    ui.label(RichText::new("Sets").strong().size(24.0));
    if review.sets.is_empty() {
        ui.label("No repetitions were counted.");
    }
    egui::Grid::new("sets").num_columns(4).striped(true).spacing([24.0, 6.0]).show(ui, |ui| {
        for set in &review.sets {
            ui.label(set.exercise.name(past.lang.code()));
            ui.label(format!("set {}", set.set));
            let what = if set.held > 0.0 { format!("{:.0} s held", set.held) } else { format!("{} reps", set.reps) };
            ui.label(RichText::new(what).strong());
            let half = if set.half > 0 { format!("{} half", set.half) } else { String::new() };
            ui.label(half);
            ui.end_row();
        }
    });
    ui.add_space(10.0);
}

fn faults_ui(ui: &mut Ui, past: &Past, review: &Review) {
    let colours = palette(ui);
    if !review.faults.is_empty() {
        ui.label(RichText::new("Corrected").strong().size(24.0));
    }
    for fault in &review.faults {
        let moments: Vec<String> = fault.at.iter().take(8).map(|t| at(*t)).collect();
        let name = fault_name(fault.mistake, past.lang);
        ui.label(format!("{name}: {} times, at {}", fault.at.len(), moments.join(", ")));
        ui.label(RichText::new(format!("\"{}\"", fault.words)).weak());
    }
    if review.better().next().is_some() {
        ui.add_space(6.0);
        ui.label(RichText::new("Got better").strong().size(24.0));
    }
    for fault in review.better() {
        let name = fault_name(fault.mistake, past.lang);
        let since = at(fault.fixed.unwrap_or_default());
        ui.label(RichText::new(format!("{name}, from {since}")).color(colours.good));
    }
    ui.add_space(10.0);
}

fn trend_ui(ui: &mut Ui, past: &Past, review: &Review, earlier: &[Review]) {
    let lines = review.exercises().into_iter().filter_map(|exercise| {
        let line = trend(exercise, earlier.iter().chain([review]));
        (line.len() > 1).then_some((exercise, line))
    });
    let lines: Vec<_> = lines.collect();
    if lines.is_empty() {
        return;
    }
    ui.label(RichText::new("Over your sessions").strong().size(24.0));
    for (exercise, line) in lines {
        let one = |&(reps, held, _): &(u32, f64, usize)| {
            if held > 0.0 { format!("{held:.0} s") } else { reps.to_string() }
        };
        let values: Vec<String> = line.iter().map(one).collect();
        ui.label(format!("{}: {}", exercise.name(past.lang.code()), values.join(", ")));
    }
}
