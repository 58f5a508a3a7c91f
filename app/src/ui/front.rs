//! What the window shows, apart from where it comes from: screens, keys, and what the user asked for.

use super::{
    dialog, heat, help, history, home, hud, look_back, panels, preferences, rewind, rewind::Rewind, state::State, words,
};
use crate::{
    pipeline::stats::Monitor,
    sessions::{Format, Line, Looked},
    settings::Settings,
};
use eframe::egui::{self, Context, Key, Modifiers, Rect, Ui};
use spotter_datasets::synthetic::{Exercise, phrases::Lang};
use spotter_vision::source::camera::CameraEntry;
use std::{path::PathBuf, time::Duration};

/// A screen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Screen {
    /// What to do, before a session.
    Home,
    /// The picture and the coach.
    #[default]
    Coach,
    /// What a session came to.
    Summary,
    /// A session of the past, moment by moment.
    Rewind,
    /// The sessions that are kept.
    History,
    /// The settings.
    Settings,
    /// The keys.
    Help,
}

/// What the user asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Command {
    /// Begin a session.
    Start,
    /// Pause or go on.
    Pause,
    /// Play from the beginning, or begin another session.
    Restart,
    /// End the session and look back on it.
    End,
    /// Another talkativeness.
    Talkativeness(f32),
    /// Another exercise for the session under way; `None` lets the coach name it.
    Choose(Option<Exercise>),
    /// Settings were changed: keys and values.
    Set(Vec<(&'static str, String)>),
    /// Silence, at once, or speech again.
    Mute(bool),
    /// Look for cameras.
    ListCameras,
    /// Read what is kept.
    ListSessions,
    /// Look back on a session that is kept.
    LookAt(String),
    /// Write the session that is looked at to a file.
    Export(Format),
    /// Delete a record.
    Delete(String),
    /// Delete every record.
    DeleteAll,
    /// Close the window.
    Quit,
}

/// One setting was changed.
pub(super) fn set(key: &'static str, value: impl ToString) -> Command {
    Command::Set(vec![(key, value.to_string())])
}

/// Where the program is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing runs.
    #[default]
    Idle,
    /// Camera and coach are being opened.
    Opening,
    /// A session runs.
    Running,
    /// A session is being put away.
    Ending,
}

/// What the run says right now.
pub(super) struct World<'a> {
    pub(super) now: Duration,
    pub(super) stage: Stage,
    pub(super) paused: bool,
    /// Sessions of one's own are done here, and not a recording looked at.
    pub(super) live: bool,
    /// A camera is running.
    pub(super) camera: bool,
    /// What stands in the camera's place.
    pub(super) stands_in: Option<&'a str>,
    pub(super) lead_in: Duration,
    pub(super) model: &'a str,
    pub(super) talkativeness: f32,
    pub(super) monitor: Option<&'a Monitor>,
    /// Pictures that came to the screen.
    pub(super) drawn: u64,
    /// How the voice is: on, muted, or why there is none.
    pub(super) voice: &'a str,
    pub(super) muted: bool,
    /// Nothing can be spoken, in a session of one's own.
    pub(super) silent: bool,
    /// Draws the picture into an area.
    pub(super) picture: &'a dyn Fn(&Ui, Rect),
}

impl World<'_> {
    pub(super) fn running(&self) -> bool {
        self.stage == Stage::Running
    }
}

/// A workout that can be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) path: PathBuf,
    pub(super) name: String,
    /// What is in it, in a line; or why it can't be done.
    pub(super) about: Result<String, String>,
}

/// What the window remembers.
#[derive(Default)]
pub(super) struct Front {
    pub(super) screen: Screen,
    /// The side panel with times and everything that was said.
    pub(super) side: bool,
    pub(super) state: State,
    pub(super) settings: Settings,
    /// The session looked back on.
    pub(super) past: Option<Looked>,
    pub(super) rewind: Rewind,
    /// What became of the last thing the user asked for.
    pub(super) notice: Option<String>,
    /// The sessions that are kept, the newest first, once they were read.
    pub(super) sessions: Option<Vec<Line>>,
    /// The cameras that were found, once they were looked for.
    pub(super) cameras: Option<Result<Vec<CameraEntry>, String>>,
    pub(super) workouts: Vec<Listed>,
    /// The file of a workout and that of a voice as they are being typed.
    pub(super) typed: String,
    pub(super) typed_voice: String,
    /// What waits for a yes.
    pub(super) ask: Option<dialog::Ask>,
}

/// A screen of words, with room around them.
fn page(ui: &Ui) -> egui::CentralPanel {
    egui::CentralPanel::default().frame(egui::Frame::central_panel(ui.style()).inner_margin(28))
}

impl Front {
    pub(super) fn new(settings: Settings, side: bool) -> Self {
        Self { side, settings, ..Self::default() }
    }

    /// The language of the window.
    pub(super) fn lang(&self) -> Lang {
        words::language(&self.settings)
    }

    /// Draws the window; what the user asked for meanwhile.
    pub(super) fn ui(&mut self, ui: &mut Ui, world: &World<'_>) -> Vec<Command> {
        let before = self.screen;
        let mut commands = Vec::new();
        if self.ask.is_some() {
            dialog::ui(ui.ctx(), self, &mut commands);
        } else {
            self.keys(ui.ctx(), world, &mut commands);
        }
        egui::Panel::bottom("controls").show(ui, |ui| panels::controls_ui(ui, self, world, &mut commands));
        match self.screen {
            Screen::Home => drop(page(ui).show(ui, |ui| home::ui(ui, self, world, &mut commands))),
            Screen::Coach => self.coach_ui(ui, world),
            Screen::Summary => drop(page(ui).show(ui, |ui| look_back::ui(ui, self, world, &mut commands))),
            Screen::Rewind => rewind::ui(ui, self, world),
            Screen::History => drop(page(ui).show(ui, |ui| history::ui(ui, self, &mut commands))),
            Screen::Settings => drop(page(ui).show(ui, |ui| preferences::ui(ui, self, world, &mut commands))),
            Screen::Help => drop(page(ui).show(ui, |ui| help::ui(ui, self.lang()))),
        }
        if self.screen != before {
            self.entered(&mut commands);
        }
        commands
    }

    /// Another screen is shown: what it tells has to be read.
    pub(super) fn entered(&mut self, commands: &mut Vec<Command>) {
        self.notice = None;
        match self.screen {
            Screen::Home | Screen::Settings => commands.extend([Command::ListCameras, Command::ListSessions]),
            Screen::History => commands.push(Command::ListSessions),
            _ => {}
        }
    }

    fn coach_ui(&mut self, ui: &mut Ui, world: &World<'_>) {
        let lang = self.lang();
        if self.side {
            egui::Panel::right("side").default_size(300.0).show(ui, |ui| panels::side_ui(ui, &self.state, world));
        }
        egui::CentralPanel::no_frame().show(ui, |ui| {
            let area = ui.available_rect_before_wrap();
            (world.picture)(ui, area);
            hud::ui(ui, area, &self.state, world, lang);
            let attended = world.monitor.and_then(Monitor::attended);
            let looked = world.monitor.is_some_and(|m| m.counts().observed > 0);
            heat::key_ui(ui, area, attended.as_ref(), self.settings.patches, looked);
        });
    }

    /// Where Escape goes.
    fn back(&self, world: &World<'_>) -> Screen {
        match self.screen {
            Screen::Rewind => Screen::Summary,
            _ if world.live && world.stage == Stage::Idle => Screen::Home,
            _ => Screen::Coach,
        }
    }

    /// What the keys ask for. A key that a focused widget uses itself is left to it.
    fn keys(&mut self, context: &Context, world: &World<'_>, commands: &mut Vec<Command>) {
        let focused = context.memory(|m| m.focused().is_some());
        let pressed = |modifiers, key| context.input_mut(|input| input.consume_key(modifiers, key));
        let plain = |key| pressed(Modifiers::NONE, key);
        if pressed(Modifiers::COMMAND, Key::Q) {
            commands.push(Command::Quit);
        }
        if plain(Key::Escape) {
            if !focused {
                self.screen = self.back(world);
            }
            context.memory_mut(|m| {
                if let Some(id) = m.focused() {
                    m.surrender_focus(id);
                }
            });
        }
        if context.text_edit_focused() {
            return;
        }
        let screens =
            [(Key::F1, Screen::Help), (Key::H, Screen::Help), (Key::S, Screen::Settings), (Key::V, Screen::History)];
        for (key, screen) in screens {
            if plain(key) {
                self.screen = if self.screen == screen { self.back(world) } else { screen };
            }
        }
        if plain(Key::L) {
            self.side = !self.side;
        }
        if plain(Key::M) {
            commands.push(Command::Mute(!world.muted));
        }
        if plain(Key::P) {
            let attended = world.monitor.and_then(Monitor::attended);
            commands.push(set("patches", heat::next(attended.as_ref(), self.settings.patches)));
        }
        let step = if plain(Key::Plus) || plain(Key::Equals) { 0.1 } else { 0.0 };
        let step = if plain(Key::Minus) { -0.1 } else { step };
        if step != 0.0 {
            let scale = (((self.settings.text_scale + step) * 10.0).round() / 10.0).clamp(0.5, 3.0);
            commands.push(set("text_scale", scale));
        }
        if self.screen == Screen::Rewind {
            self.rewind.keys(context, self.past.as_ref(), focused);
        } else {
            session_keys(&plain, focused, world, commands);
        }
    }
}

/// The keys of a session.
fn session_keys(plain: &dyn Fn(Key) -> bool, focused: bool, world: &World<'_>, commands: &mut Vec<Command>) {
    if !focused && world.running() && plain(Key::Space) {
        commands.push(Command::Pause);
    }
    if !focused && world.live && world.stage == Stage::Idle && plain(Key::Enter) {
        commands.push(Command::Start);
    }
    if plain(Key::R) && matches!(world.stage, Stage::Running | Stage::Idle) {
        commands.push(Command::Restart);
    }
    if plain(Key::E) && world.running() {
        commands.push(Command::End);
    }
}
