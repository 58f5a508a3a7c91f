//! The window: the recording or the camera, what the coach sees, what it says, and how long it all takes.
//!
//! The window follows a run of [`crate::pipeline::threads`]: it takes the newest picture, sight and events, and is
//! woken by the stages only when there is one. It never waits for a stage.

mod app;
mod dialog;
mod front;
mod heat;
mod help;
mod history;
mod home;
mod hud;
mod jobs;
mod look_back;
mod panels;
mod picture;
mod preferences;
mod rewind;
mod state;
#[cfg(test)]
mod tests;
mod theme;
mod words;

use crate::{
    pipeline::{Config, Parts, threads::Input},
    sessions::Store,
    settings::{Settings, Theme},
    timeline::{Session, Sinks, text::FONT},
};
use anyhow::anyhow;
use app::{App, Shared};
use eframe::egui;
use std::{path::PathBuf, sync::Arc, time::Duration};

/// What a session is opened with.
pub(crate) struct Order {
    pub(crate) settings: Settings,
    pub(crate) talkativeness: f32,
    /// Those of the session before, where there was one and none of its stages failed.
    pub(crate) parts: Option<Parts>,
}

/// A session that is ready to begin.
pub(crate) struct Opened {
    /// The first line of the timeline.
    pub(crate) session: Session,
    pub(crate) config: Config,
    pub(crate) talkativeness: f32,
    pub(crate) parts: Parts,
    pub(crate) input: Input,
    /// Where the timeline goes besides the window.
    pub(crate) sinks: Sinks,
    /// The record of it, where one is kept.
    pub(crate) kept: Option<(Store, String)>,
}

/// Opens a session, on a thread that may wait.
pub(crate) type Opener = Box<dyn FnMut(Order) -> anyhow::Result<Opened> + Send>;

/// What the window shows first.
pub(crate) enum First {
    /// A session that was opened already.
    Opened(Box<Opened>),
    /// One that is opened at once.
    AtOnce,
    /// What to do.
    Ask,
}

/// What a window plays.
pub(crate) struct Play {
    /// Beside the program's name.
    pub(crate) title: String,
    pub(crate) opener: Opener,
    pub(crate) first: First,
    /// Sessions of one's own, and not a recording that is looked at.
    pub(crate) live: bool,
    /// What is in the place of a camera.
    pub(crate) stands_in: Option<String>,
    pub(crate) settings: Settings,
    pub(crate) settings_file: Option<PathBuf>,
    /// Where records are kept.
    pub(crate) store: Option<Store>,
    pub(crate) with_timing: bool,
    /// Write a picture of the window at a media time, and close it.
    pub(crate) screenshot: Option<(PathBuf, Duration)>,
}

/// Whether there is a display to open a window on: such systems always have one.
///
/// # Errors
/// None.
#[cfg(any(not(unix), target_os = "macos"))]
pub(crate) fn display() -> Result<(), String> {
    Ok(())
}

/// Whether there is a display to open a window on: one that answers, since a variable outlives its server.
///
/// # Errors
/// In words, when there is none.
#[cfg(all(unix, not(target_os = "macos")))]
pub(crate) fn display() -> Result<(), String> {
    let named = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    if named("WAYLAND_SOCKET").is_some() {
        return Ok(());
    }
    let folder = named("XDG_RUNTIME_DIR").unwrap_or_default();
    let wayland = named("WAYLAND_DISPLAY").map(|name| std::path::Path::new(&folder).join(name));
    if wayland.as_ref().is_some_and(|path| std::os::unix::net::UnixStream::connect(path).is_ok()) {
        return Ok(());
    }
    match (named("DISPLAY"), wayland) {
        (Some(name), _) if x11_answers(&name) => Ok(()),
        (Some(name), _) => Err(format!("no display (DISPLAY is {name}, where nothing answers)")),
        (None, Some(path)) => Err(format!("no display (WAYLAND_DISPLAY is {}, where nothing answers)", path.display())),
        (None, None) => Err("no display (neither DISPLAY nor WAYLAND_DISPLAY is set)".to_owned()),
    }
}

/// Whether an X server listens at a display of this machine, `:0` or `:0.0`. One of another machine is believed to.
#[cfg(all(unix, not(target_os = "macos")))]
fn x11_answers(display: &str) -> bool {
    let Some((host, number)) = display.rsplit_once(':') else { return false };
    if !(host.is_empty() || host == "unix") {
        return true;
    }
    let number = number.split('.').next().unwrap_or_default();
    let path = format!("/tmp/.X11-unix/X{number}");
    if std::os::unix::net::UnixStream::connect(&path).is_ok() {
        return true;
    }
    #[cfg(target_os = "linux")]
    {
        use std::os::{linux::net::SocketAddrExt as _, unix::net};
        net::SocketAddr::from_abstract_name(&path).is_ok_and(|a| net::UnixStream::connect_addr(&a).is_ok())
    }
    #[cfg(not(target_os = "linux"))]
    false
}

/// Opens the window and plays until it is closed.
///
/// # Errors
/// When no window can be opened, or a stage failed.
pub(crate) fn run(play: Play) -> anyhow::Result<()> {
    let title = if play.title.is_empty() { "Spotter".to_owned() } else { format!("Spotter: {}", play.title) };
    let viewport = egui::ViewportBuilder::default()
        .with_title(title)
        .with_inner_size([1180.0, 760.0])
        .with_min_inner_size([640.0, 420.0]);
    let options = eframe::NativeOptions { viewport, ..eframe::NativeOptions::default() };
    let outcome = Shared::default();
    let told = outcome.clone();
    let create = Box::new(move |context: &eframe::CreationContext<'_>| {
        set_up(&context.egui_ctx);
        Ok(Box::new(App::new(play, &context.egui_ctx, told)) as Box<dyn eframe::App>)
    });
    eframe::run_native("spotter", options, create).map_err(|e| anyhow!("the window can't be opened: {e}"))?;
    let outcome = std::mem::take(&mut *outcome.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    for thread in outcome.ending {
        // it told what was wrong, if anything was
        drop(thread.join());
    }
    outcome.error.map_or(Ok(()), Err)
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
    context.style_mut_of(egui::Theme::Dark, |style| theme::shape(style, theme::OVER_PICTURE.text));
    context.style_mut_of(egui::Theme::Light, |style| theme::shape(style, theme::ON_LIGHT.text));
    context.set_zoom_factor(settings.text_scale);
}
