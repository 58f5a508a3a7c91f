//! The window: the recording or the camera, what the coach sees, what it says, and how long it all takes.
//!
//! The window follows a run of [`crate::pipeline::threads`]: it takes the newest picture, sight and events, and is
//! woken by the stages only when there is one. It never waits for a stage.

mod app;
mod front;
mod help;
mod hud;
mod look_back;
mod panels;
mod picture;
mod preferences;
mod state;
#[cfg(test)]
mod tests;
mod theme;

use crate::{
    audio::Speech,
    pipeline::{Config, Parts, threads::Input},
    sessions::Store,
    settings::{Settings, Theme},
    timeline::{Session, Sinks, text::FONT},
};
use anyhow::anyhow;
use app::App;
use eframe::egui;
use std::{path::PathBuf, sync::Arc, time::Duration};

/// What a session is played from and written to.
pub(crate) struct Take {
    pub(crate) input: Input,
    /// Where the timeline goes besides the window.
    pub(crate) sinks: Sinks,
    /// The record of it, where one is kept.
    pub(crate) kept: Option<(Store, String)>,
}

/// Begins another session, or plays the recording from its beginning.
pub(crate) type Reopen = Box<dyn FnMut() -> anyhow::Result<Take>>;

/// What a window plays.
pub(crate) struct Play {
    /// The first line of the timeline.
    pub(crate) session: Session,
    pub(crate) config: Config,
    pub(crate) talkativeness: f32,
    pub(crate) parts: Parts,
    pub(crate) first: Take,
    pub(crate) reopen: Reopen,
    /// A session of its own, and not a recording that is looked at.
    pub(crate) live: bool,
    pub(crate) settings: Settings,
    pub(crate) settings_file: Option<PathBuf>,
    /// The voice, or why there is none.
    pub(crate) voice: Result<Speech, String>,
    /// Where records are kept.
    pub(crate) store: Option<Store>,
    pub(crate) with_timing: bool,
    /// Write a picture of the window at a media time, and close it.
    pub(crate) screenshot: Option<(PathBuf, Duration)>,
}

/// Whether there is a display to open a window on.
///
/// # Errors
/// In words, when there is none.
pub(crate) fn display() -> Result<(), &'static str> {
    let named = |name| std::env::var_os(name).is_some_and(|v| !v.is_empty());
    let needed = cfg!(all(unix, not(target_os = "macos")));
    if !needed || named("DISPLAY") || named("WAYLAND_DISPLAY") || named("WAYLAND_SOCKET") {
        return Ok(());
    }
    Err("no display (neither DISPLAY nor WAYLAND_DISPLAY is set)")
}

/// Opens the window and plays until it is closed.
///
/// # Errors
/// When no window can be opened, or a stage failed.
pub(crate) fn run(play: Play) -> anyhow::Result<()> {
    let viewport = egui::ViewportBuilder::default()
        .with_title(format!("Spotter: {}", play.session.source))
        .with_inner_size([1180.0, 760.0])
        .with_min_inner_size([640.0, 420.0]);
    let options = eframe::NativeOptions { viewport, ..eframe::NativeOptions::default() };
    let outcome = Arc::new(std::sync::Mutex::new(Ok(())));
    let told = outcome.clone();
    let create = Box::new(move |context: &eframe::CreationContext<'_>| {
        set_up(&context.egui_ctx);
        let app = App::new(play, &context.egui_ctx, told)?;
        Ok(Box::new(app) as Box<dyn eframe::App>)
    });
    eframe::run_native("spotter", options, create).map_err(|e| anyhow!("the window can't be opened: {e}"))?;
    let mut outcome = outcome.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    std::mem::replace(&mut *outcome, Ok(()))
}

/// Hangul after the letters that egui brings.
fn set_up(context: &egui::Context) {
    let mut fonts = egui::FontDefinitions::default();
    fonts.font_data.insert("hangul".to_owned(), Arc::new(egui::FontData::from_static(FONT)));
    for family in fonts.families.values_mut() {
        family.push("hangul".to_owned());
    }
    context.set_fonts(fonts);
}

/// Theme and size of text.
fn set_look(context: &egui::Context, settings: &Settings) {
    context.set_theme(match settings.theme {
        Theme::Dark => egui::ThemePreference::Dark,
        Theme::Light => egui::ThemePreference::Light,
        Theme::System => egui::ThemePreference::System,
    });
    // egui's own grey is faint for words that are read from a distance
    context.style_mut_of(egui::Theme::Dark, |style| style.visuals.override_text_color = Some(theme::OVER_PICTURE.text));
    context.style_mut_of(egui::Theme::Light, |style| style.visuals.override_text_color = Some(theme::ON_LIGHT.text));
    context.set_zoom_factor(settings.text_scale);
}
