//! The window: the recording or the camera, what the coach sees, what it says, and how long it all takes.
//!
//! The window follows a run of [`crate::pipeline::threads`]: it takes the newest picture, sight and events, and is
//! woken by the stages only when there is one. It never waits for a stage.

mod app;
mod panels;
mod picture;
mod state;

use crate::{
    pipeline::{Config, Parts, threads::Pace},
    timeline::{Sinks, text::FONT},
};
use anyhow::anyhow;
use app::App;
use eframe::egui;
use spotter_vision::source::FrameSource;
use std::{path::PathBuf, sync::Arc, time::Duration};

/// Opens the source again, to play it from its beginning.
pub(crate) type Reopen = Box<dyn FnMut() -> anyhow::Result<Box<dyn FrameSource>>>;

/// What a window plays.
pub(crate) struct Play {
    /// Name of the source.
    pub(crate) title: String,
    /// Name of the model.
    pub(crate) model: String,
    pub(crate) config: Config,
    pub(crate) talkativeness: f32,
    pub(crate) parts: Parts,
    pub(crate) source: Box<dyn FrameSource>,
    pub(crate) reopen: Reopen,
    pub(crate) pace: Pace,
    /// Where the timeline goes besides the window.
    pub(crate) sinks: Sinks,
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
        .with_title(format!("Spotter: {}", play.title))
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

/// Dark, and with Hangul after the letters that egui brings.
fn set_up(context: &egui::Context) {
    context.set_theme(egui::Theme::Dark);
    let mut fonts = egui::FontDefinitions::default();
    fonts.font_data.insert("hangul".to_owned(), Arc::new(egui::FontData::from_static(FONT)));
    for family in fonts.families.values_mut() {
        family.push("hangul".to_owned());
    }
    context.set_fonts(fonts);
}
