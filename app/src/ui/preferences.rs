//! The settings screen.

use super::{
    front::{Command, Front, World},
    theme::palette,
};
use crate::{
    pipeline::stats::Monitor,
    settings::{Patches, Theme},
};
use eframe::egui::{self, ComboBox, RichText, Slider, Ui};
use spotter_datasets::synthetic::Exercise;

/// Draws the screen.
pub(super) fn ui(ui: &mut Ui, front: &mut Front, world: &World<'_>, commands: &mut Vec<Command>) {
    egui::ScrollArea::vertical().auto_shrink([false, false]).show(ui, |ui| {
        ui.heading("Settings");
        ui.add_space(8.0);
        session_ui(ui, front, world, commands);
        ui.add_space(12.0);
        look_ui(ui, front, commands);
        patches_ui(ui, front, world, commands);
        ui.add_space(12.0);
        voice_ui(ui, front, world, commands);
        ui.add_space(12.0);
        records_ui(ui, front, commands);
    });
}

fn session_ui(ui: &mut Ui, front: &Front, world: &World<'_>, commands: &mut Vec<Command>) {
    ui.label(RichText::new("This session").strong());
    let chosen = front.state.work.exercise;
    let name = chosen.map_or("let Spotter recognise it", |e| e.name("en"));
    ComboBox::from_label("exercise").selected_text(name).show_ui(ui, |ui| {
        if ui.selectable_label(false, "let Spotter recognise it").clicked() {
            commands.push(Command::Choose(None));
        }
        for exercise in Exercise::ALL {
            if ui.selectable_label(chosen == Some(exercise), exercise.name("en")).clicked() {
                commands.push(Command::Choose(Some(exercise)));
            }
        }
    });
    let mut bias = world.talkativeness;
    if ui.add(Slider::new(&mut bias, -5.0..=5.0).text("talkativeness").fixed_decimals(1)).changed() {
        commands.push(Command::Talkativeness(bias));
    }
}

fn look_ui(ui: &mut Ui, front: &Front, commands: &mut Vec<Command>) {
    ui.label(RichText::new("Look").strong());
    ui.horizontal(|ui| {
        for (theme, name) in [(Theme::Dark, "dark"), (Theme::Light, "light"), (Theme::System, "system")] {
            if ui.radio(front.settings.theme == theme, name).clicked() {
                commands.push(Command::Setting("theme", name.to_owned()));
            }
        }
    });
    let mut scale = front.settings.text_scale;
    // the text grows under the mouse only once it lets go
    let slider = ui.add(Slider::new(&mut scale, 0.5..=3.0).text("text size").fixed_decimals(1).step_by(0.1));
    let set = slider.drag_stopped() || (slider.changed() && !slider.dragged());
    if set && (scale - front.settings.text_scale).abs() > 0.01 {
        commands.push(Command::Setting("text_scale", format!("{scale:.1}")));
    }
    let mut mirror = front.settings.mirror;
    if ui.checkbox(&mut mirror, "show the camera as a mirror does").changed() {
        commands.push(Command::Setting("mirror", mirror.to_string()));
    }
}

/// The patches that the encoder works on; the layers that can be shown are those of the last frame.
fn patches_ui(ui: &mut Ui, front: &Front, world: &World<'_>, commands: &mut Vec<Command>) {
    let layers = world.monitor.and_then(Monitor::attended).map(|a| a.layers).unwrap_or_default();
    let each = layers.iter().map(|(layer, _)| Patches::Layer(*layer));
    let shown = front.settings.patches;
    let name = |show: Patches| match show {
        Patches::Off => "off".to_owned(),
        Patches::Summed => "all layers".to_owned(),
        Patches::Layer(n) => format!("layer {n}"),
    };
    ComboBox::from_label("show the patches that the encoder works on").selected_text(name(shown)).show_ui(ui, |ui| {
        for show in [Patches::Off, Patches::Summed].into_iter().chain(each) {
            if ui.selectable_label(shown == show, name(show)).clicked() {
                commands.push(Command::Setting("patches", show.to_string()));
            }
        }
    });
}

fn voice_ui(ui: &mut Ui, front: &Front, world: &World<'_>, commands: &mut Vec<Command>) {
    ui.label(RichText::new("Voice").strong());
    let mut voice = front.settings.voice;
    if ui.checkbox(&mut voice, "speak aloud").changed() {
        commands.push(Command::Setting("voice", voice.to_string()));
    }
    let mut volume = front.settings.volume;
    if ui.add(Slider::new(&mut volume, 0.0..=1.0).text("volume").fixed_decimals(2)).changed() {
        commands.push(Command::Setting("volume", format!("{volume:.2}")));
    }
    ui.label(RichText::new(world.voice).weak());
}

fn records_ui(ui: &mut Ui, front: &mut Front, commands: &mut Vec<Command>) {
    ui.label(RichText::new("Records").strong());
    let mut record = front.settings.record;
    if ui.checkbox(&mut record, "keep a record of what happened (never pictures), from the next session on").changed() {
        commands.push(Command::Setting("record", record.to_string()));
    }
    if let Some(kept) = front.kept {
        ui.label(format!("{kept} sessions are kept on this machine"));
    }
    let text = if front.sure { "Delete everything: press again to be sure" } else { "Delete everything" };
    let text = if front.sure { RichText::new(text).color(palette(ui).bad) } else { RichText::new(text) };
    if ui.button(text).clicked() {
        front.sure = !front.sure;
        if !front.sure {
            commands.push(Command::DeleteAll);
        }
    }
    if let Some(notice) = &front.notice {
        ui.label(notice);
    }
}
