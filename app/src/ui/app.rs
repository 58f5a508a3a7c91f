//! The window as a program: follows the run, draws, and does what the user asks.

use super::{
    Play, Reopen,
    panels::{self, Actions, Controls},
    picture::{Screen, skeleton},
    state::State,
};
use crate::{
    cli::summary,
    pipeline::{
        Config, Event,
        threads::{self, Pace, Running},
    },
    timeline::{Sink as _, Sinks},
};
use anyhow::{Context as _, anyhow};
use eframe::egui::{self, Color32, ColorImage, Context, Rect, RichText, Ui, ViewportCommand, vec2};
use spotter_vision::{Body, source::FrameSource};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Side of the inset that shows what the model sees.
const INSET: f32 = 190.0;

/// How the window's run ended, for the one who opened it.
type Outcome = Arc<Mutex<anyhow::Result<()>>>;

pub(super) struct App {
    model: String,
    config: Config,
    pace: Pace,
    reopen: Reopen,
    talkativeness: f32,
    running: Option<Running>,
    /// The timeline of the first run; playing it again writes nothing.
    sinks: Option<Sinks>,
    with_timing: bool,
    screenshot: Option<(PathBuf, Duration)>,
    state: State,
    picture: Screen,
    picture_size: [usize; 2],
    inset: Screen,
    body: Option<Body>,
    outcome: Outcome,
}

impl App {
    /// Starts the run.
    pub(super) fn new(play: Play, context: &Context, outcome: Outcome) -> anyhow::Result<Self> {
        let wake = waker(context);
        let running = threads::start(play.source, play.parts, &play.config, play.pace, play.talkativeness, wake)?;
        Ok(Self {
            model: play.model,
            config: play.config,
            pace: play.pace,
            reopen: play.reopen,
            talkativeness: play.talkativeness,
            running: Some(running),
            sinks: Some(play.sinks),
            with_timing: play.with_timing,
            screenshot: play.screenshot,
            state: State::default(),
            picture: Screen::default(),
            picture_size: [1, 1],
            inset: Screen::default(),
            body: None,
            outcome,
        })
    }

    /// Takes what the stages have ready, without waiting.
    fn follow(&mut self, context: &Context) {
        let Some(running) = &self.running else { return };
        let mut events: Vec<Event> = Vec::new();
        while let Some(event) = running.event(Duration::ZERO) {
            events.push(event);
        }
        let mut looked_at = None;
        if let Some(frame) = running.picture() {
            self.picture_size = [frame.width, frame.height];
            self.picture.set(context, "picture", &frame);
        }
        if let Some(sight) = running.sight() {
            looked_at = Some(sight.frame);
            self.body = sight.body;
        }
        // without a lens the inset would only repeat the picture
        if let Some(frame) = looked_at {
            if [frame.width, frame.height] == self.picture_size {
                self.inset.clear();
            } else {
                self.inset.set(context, "inset", &frame);
            }
        }
        let over = running.is_over();
        for event in events {
            if let Some(sinks) = &mut self.sinks
                && let Err(error) = sinks.event(&event)
            {
                self.fail(error);
                self.sinks = None;
            }
            self.state.apply(event);
        }
        if over {
            self.end_timeline();
        }
    }

    /// Writes the end of the timeline, once.
    fn end_timeline(&mut self) {
        let (Some(mut sinks), Some(running)) = (self.sinks.take(), &self.running) else { return };
        if let Err(error) = sinks.end(&summary(running.monitor(), self.with_timing)) {
            self.fail(error);
        }
    }

    fn fail(&mut self, error: anyhow::Error) {
        self.state.failures.push(format!("{error:#}"));
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Err(error);
    }

    fn act(&mut self, actions: Actions, context: &Context) {
        if let Some(running) = &self.running {
            if actions.toggle {
                running.clock().pause(!running.clock().is_paused());
            }
            if let Some(bias) = actions.talkativeness {
                self.talkativeness = bias;
                running.talkativeness().set(bias);
            }
        }
        if actions.restart
            && let Err(error) = self.restart(context)
        {
            self.state.failures.push(format!("can't play it again: {error:#}"));
        }
    }

    fn restart(&mut self, context: &Context) -> anyhow::Result<()> {
        self.end_timeline();
        let running = self.running.take().context("start Spotter again")?;
        let mut parts = running.stop().context("a stage failed; start Spotter again")?;
        parts.lens.reset();
        parts.coach.reset();
        let source: Box<dyn FrameSource> = (self.reopen)()?;
        self.state = State::default();
        self.body = None;
        let (config, dial) = (&self.config, self.talkativeness);
        self.running = Some(threads::start(source, parts, config, self.pace, dial, waker(context))?);
        Ok(())
    }

    fn screenshot_when_due(&mut self, context: &Context, now: Duration, over: bool) {
        let Some((path, at)) = self.screenshot.take() else { return };
        if now < at && !over {
            self.screenshot = Some((path, at));
            return;
        }
        let (again, outcome) = (context.clone(), self.outcome.clone());
        context.request_screenshot(move |image| {
            if let Err(error) = save(&image, &path) {
                *outcome.lock().unwrap_or_else(PoisonError::into_inner) = Err(error);
            }
            again.send_viewport_cmd(ViewportCommand::Close);
        });
    }

    fn picture_ui(&self, ui: &mut Ui) {
        let area = ui.available_rect_before_wrap();
        let painter = ui.painter_at(area);
        painter.rect_filled(area, 0.0, Color32::from_rgb(12, 12, 14));
        let shown = self.picture.draw(&painter, area);
        if let (Some(at), Some(body)) = (shown, &self.body) {
            skeleton(&painter, body, self.picture_size, at);
        }
        let corner = area.right_top() + vec2(-INSET - 10.0, 10.0);
        self.inset.draw(&painter, Rect::from_min_size(corner, vec2(INSET, INSET)));
    }

    fn side_ui(&self, ui: &mut Ui) {
        ui.add_space(6.0);
        panels::status_ui(ui, &self.state, &self.model);
        ui.separator();
        if let Some(running) = &self.running {
            panels::latency_ui(ui, running.monitor());
        }
        ui.separator();
        ui.label(RichText::new("said").weak());
        panels::log_ui(ui, &self.state);
    }
}

/// Wakes the window from a stage.
fn waker(context: &Context) -> Box<dyn Fn() + Send + Sync> {
    let context = context.clone();
    Box::new(move || context.request_repaint())
}

fn save(image: &ColorImage, path: &Path) -> anyhow::Result<()> {
    let [width, height] = image.size.map(|side| u32::try_from(side).unwrap_or(0));
    let rgb: Vec<u8> = image.pixels.iter().flat_map(|p| [p.r(), p.g(), p.b()]).collect();
    let picture = image::RgbImage::from_raw(width, height, rgb).ok_or_else(|| anyhow!("the picture is incomplete"))?;
    picture.save(path).with_context(|| format!("{}: can't be written", path.display()))
}

impl eframe::App for App {
    fn ui(&mut self, ui: &mut Ui, _frame: &mut eframe::Frame) {
        let context = ui.ctx().clone();
        self.follow(&context);
        let running = self.running.as_ref();
        let over = running.is_none_or(Running::is_over);
        // after the end the clock runs on, but the recording does not
        let now = running.map_or(Duration::ZERO, |r| r.clock().now().min(r.monitor().end()));
        let paused = running.is_some_and(|r| r.clock().is_paused());
        let controls = Controls { now, paused, over, talkativeness: self.talkativeness };
        let mut actions = Actions::default();
        egui::Panel::bottom("bottom").show(ui, |ui| {
            panels::feedback_ui(ui, &self.state, now);
            ui.separator();
            actions = panels::controls_ui(ui, controls);
            ui.add_space(4.0);
        });
        egui::Panel::right("side").default_size(300.0).show(ui, |ui| self.side_ui(ui));
        egui::CentralPanel::no_frame().show(ui, |ui| self.picture_ui(ui));
        self.act(actions, &context);
        self.screenshot_when_due(&context, now, over);
    }

    fn on_exit(&mut self, _gl: Option<&eframe::glow::Context>) {
        self.end_timeline();
        self.running = None;
    }
}
