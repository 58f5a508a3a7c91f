//! What the window shows, apart from where it comes from: screens, keys, and what the user asked for.

use super::{heat, help, hud, look_back, panels, preferences, state::State};
use crate::{
    pipeline::stats::Monitor,
    sessions::{Past, Review},
    settings::Settings,
};
use eframe::egui::{self, Context, Key, Modifiers, Rect, Ui};
use spotter_datasets::synthetic::Exercise;
use std::time::Duration;

/// A screen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Screen {
    /// The picture and the coach.
    #[default]
    Coach,
    /// What the session came to.
    Summary,
    /// The settings.
    Settings,
    /// The keys.
    Help,
}

/// What the user asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Command {
    /// Pause or go on.
    Pause,
    /// Play from the beginning, or begin another session.
    Restart,
    /// End the session and look back on it.
    End,
    /// Another talkativeness.
    Talkativeness(f32),
    /// Another exercise; `None` lets the coach name it.
    Choose(Option<Exercise>),
    /// A setting was changed: its key and its value.
    Setting(&'static str, String),
    /// Silence, at once, or speech again.
    Mute(bool),
    /// Delete every record.
    DeleteAll,
    /// Close the window.
    Quit,
}

/// What the run says right now.
pub(super) struct World<'a> {
    pub(super) now: Duration,
    pub(super) paused: bool,
    pub(super) over: bool,
    /// A camera is running.
    pub(super) camera: bool,
    pub(super) lead_in: Duration,
    pub(super) model: &'a str,
    pub(super) talkativeness: f32,
    pub(super) monitor: Option<&'a Monitor>,
    /// How the voice is: on, muted, or why there is none.
    pub(super) voice: &'a str,
    pub(super) muted: bool,
    /// Why nothing is spoken, where a session of one's own has no voice.
    pub(super) silent: Option<&'a str>,
    /// Draws the picture into an area.
    pub(super) picture: &'a dyn Fn(&Ui, Rect),
}

/// What the window remembers.
pub(super) struct Front {
    pub(super) screen: Screen,
    /// The side panel with times and everything that was said.
    pub(super) side: bool,
    pub(super) state: State,
    pub(super) settings: Settings,
    /// The session looked back on, its review, and those before it.
    pub(super) past: Option<(Past, Review, Vec<Review>)>,
    /// What became of the last thing the user asked for.
    pub(super) notice: Option<String>,
    /// Records that are kept, where that is known.
    pub(super) kept: Option<usize>,
    /// Deleting everything waits for a second press.
    pub(super) sure: bool,
}

/// A screen of words, with room around them.
fn page(ui: &Ui) -> egui::CentralPanel {
    egui::CentralPanel::default().frame(egui::Frame::central_panel(ui.style()).inner_margin(28))
}

impl Front {
    pub(super) fn new(settings: Settings, side: bool) -> Self {
        Self {
            screen: Screen::Coach,
            side,
            state: State::default(),
            settings,
            past: None,
            notice: None,
            kept: None,
            sure: false,
        }
    }

    /// Draws the window; what the user asked for meanwhile.
    pub(super) fn ui(&mut self, ui: &mut Ui, world: &World<'_>) -> Vec<Command> {
        let mut commands = self.keys(ui.ctx(), world);
        egui::Panel::bottom("controls").show(ui, |ui| panels::controls_ui(ui, self, world, &mut commands));
        match self.screen {
            Screen::Coach => self.coach_ui(ui, world),
            Screen::Summary => drop(page(ui).show(ui, |ui| look_back::ui(ui, self))),
            Screen::Settings => drop(page(ui).show(ui, |ui| preferences::ui(ui, self, world, &mut commands))),
            Screen::Help => drop(page(ui).show(ui, help::ui)),
        }
        commands
    }

    fn coach_ui(&mut self, ui: &mut Ui, world: &World<'_>) {
        if self.side {
            egui::Panel::right("side").default_size(300.0).show(ui, |ui| panels::side_ui(ui, &self.state, world));
        }
        egui::CentralPanel::no_frame().show(ui, |ui| {
            let area = ui.available_rect_before_wrap();
            (world.picture)(ui, area);
            hud::ui(ui, area, &self.state, world);
            let attended = world.monitor.and_then(Monitor::attended);
            let looked = world.monitor.is_some_and(|m| m.counts().observed > 0);
            heat::key_ui(ui, area, attended.as_ref(), self.settings.patches, looked);
        });
    }

    /// What the keys ask for. A key that a focused widget uses itself is left to it.
    fn keys(&mut self, context: &Context, world: &World<'_>) -> Vec<Command> {
        let mut commands = Vec::new();
        let focused = context.memory(|m| m.focused().is_some());
        let pressed = |modifiers, key| context.input_mut(|input| input.consume_key(modifiers, key));
        let plain = |key| pressed(Modifiers::NONE, key);
        if pressed(Modifiers::COMMAND, Key::Q) {
            commands.push(Command::Quit);
        }
        if plain(Key::Escape) {
            self.screen = Screen::Coach;
            context.memory_mut(|m| {
                if let Some(id) = m.focused() {
                    m.surrender_focus(id);
                }
            });
        }
        if context.text_edit_focused() {
            return commands;
        }
        for (key, screen) in [(Key::F1, Screen::Help), (Key::H, Screen::Help), (Key::S, Screen::Settings)] {
            if plain(key) {
                self.screen = if self.screen == screen { Screen::Coach } else { screen };
            }
        }
        if plain(Key::L) {
            self.side = !self.side;
        }
        if plain(Key::P) {
            let attended = world.monitor.and_then(Monitor::attended);
            let next = heat::next(attended.as_ref(), self.settings.patches);
            commands.push(Command::Setting("patches", next.to_string()));
        }
        if plain(Key::M) {
            commands.push(Command::Mute(!world.muted));
        }
        if !focused && plain(Key::Space) && !world.over {
            commands.push(Command::Pause);
        }
        if plain(Key::R) {
            commands.push(Command::Restart);
        }
        if plain(Key::E) {
            commands.push(Command::End);
        }
        let step = if plain(Key::Plus) || plain(Key::Equals) { 0.1 } else { 0.0 };
        let step = if plain(Key::Minus) { -0.1 } else { step };
        if step != 0.0 {
            let scale = (((self.settings.text_scale + step) * 10.0).round() / 10.0).clamp(0.5, 3.0);
            commands.push(Command::Setting("text_scale", scale.to_string()));
        }
        commands
    }
}
