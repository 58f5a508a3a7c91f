//! The window as a program: follows the run, draws, and does what the user asks.

use super::{
    Play, Reopen, Take,
    front::{Command, Front, Screen, World},
    heat,
    picture::{Screen as Texture, skeleton},
    set_look,
};
use crate::{
    audio::Speech,
    cli::{earlier, summary},
    pipeline::{
        Config, Event, Parts,
        stats::Monitor,
        threads::{self, Pace, Running},
    },
    sessions::{Memory, Stamp, Store, review},
    settings::{self, Patches},
    timeline::{Session, Sink as _, Sinks},
};
use anyhow::{Context as _, anyhow};
use eframe::egui::{Color32, ColorImage, Context, Rect, Ui, ViewportCommand, vec2};
use spotter_vision::Body;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

/// Share of the picture's height that the inset of what the model sees takes.
const INSET: f32 = 0.24;

/// How the window's run ended, for the one who opened it.
type Outcome = Arc<Mutex<anyhow::Result<()>>>;

/// A run under way, with what is written of it.
struct Run {
    running: Running,
    sinks: Sinks,
    memory: Memory,
    kept: Option<(Store, String)>,
}

pub(super) struct App {
    model: String,
    session: Session,
    config: Config,
    camera: bool,
    live: bool,
    reopen: Reopen,
    talkativeness: f32,
    run: Option<Run>,
    /// The stages of a session that was ended, on their way back.
    ending: Option<JoinHandle<Option<Parts>>>,
    monitor: Arc<Monitor>,
    /// Media time at which the session was ended.
    ended: Duration,
    store: Option<Store>,
    settings_file: Option<PathBuf>,
    with_timing: bool,
    screenshot: Option<(PathBuf, Duration)>,
    front: Front,
    muted: bool,
    voice: Result<Speech, String>,
    picture: Texture,
    picture_size: [usize; 2],
    inset: Texture,
    body: Option<Body>,
    outcome: Outcome,
}

impl App {
    /// Starts the run.
    pub(super) fn new(play: Play, context: &Context, outcome: Outcome) -> anyhow::Result<Self> {
        set_look(context, &play.settings);
        let mut front = Front::new(play.settings, !play.live);
        front.kept = play.store.as_ref().and_then(|store| store.ids().ok()).map(|ids| ids.len());
        let mut app = Self {
            model: play.session.model.clone(),
            session: play.session,
            config: play.config,
            live: play.live,
            camera: play.first.input.pace == Pace::Source,
            reopen: play.reopen,
            talkativeness: play.talkativeness,
            run: None,
            ending: None,
            monitor: Arc::new(Monitor::default()),
            ended: Duration::ZERO,
            store: play.store,
            settings_file: play.settings_file,
            with_timing: play.with_timing,
            screenshot: play.screenshot,
            front,
            muted: false,
            voice: play.voice,
            picture: Texture::default(),
            picture_size: [1, 1],
            inset: Texture::default(),
            body: None,
            outcome,
        };
        app.hush();
        app.begin(play.first, play.parts, context)?;
        Ok(app)
    }

    /// A session begins.
    fn begin(&mut self, take: Take, parts: Parts, context: &Context) -> anyhow::Result<()> {
        let (memory, lines) = Memory::begin(Stamp::now());
        let mut sinks = take.sinks;
        sinks.0.push(Box::new(lines));
        if let Ok(voice) = &self.voice {
            sinks.0.push(voice.sink());
        }
        sinks.begin(&self.session)?;
        let wake = waker(context);
        let running = threads::start(take.input, parts, &self.config, self.talkativeness, wake)?;
        self.monitor = running.monitor().clone();
        self.run = Some(Run { running, sinks, memory, kept: take.kept });
        Ok(())
    }

    /// Takes what the stages have ready, without waiting.
    fn follow(&mut self, context: &Context) {
        let Some(run) = &mut self.run else { return };
        let mut events: Vec<Event> = Vec::new();
        while let Some(event) = run.running.event(Duration::ZERO) {
            events.push(event);
        }
        let mut looked_at = None;
        if let Some(frame) = run.running.picture() {
            self.picture_size = [frame.width, frame.height];
            self.picture.set(context, "picture", &frame);
        }
        if let Some(sight) = run.running.sight() {
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
        let over = run.running.is_over();
        let mut problem = None;
        for event in events {
            if problem.is_none() {
                problem = run.sinks.event(&event).err();
            }
            self.front.state.apply(event);
        }
        if let Some(error) = problem {
            self.fail(error);
        }
        if over {
            self.end(context);
        }
    }

    /// The session ends: its timeline is closed, its stages stop in the background, and the summary is shown.
    fn end(&mut self, context: &Context) {
        let Some(run) = self.run.take() else { return };
        let Run { running, mut sinks, memory, kept } = run;
        self.ended = running.clock().now().min(self.monitor.end());
        if let Err(error) = sinks.end(&summary(&self.monitor, self.with_timing)) {
            self.fail(error);
        }
        let wake = waker(context);
        let stop = move || {
            let parts = running.stop();
            wake();
            parts
        };
        self.ending = thread::Builder::new().name("ending".to_owned()).spawn(stop).ok();
        let before = kept.and_then(|(store, id)| earlier(&store, &id).ok()).unwrap_or_default();
        match memory.past() {
            Ok(past) => {
                let now = review(&past);
                self.front.past = Some((past, now, before));
            }
            Err(error) => self.fail(error),
        }
        self.front.kept = self.store.as_ref().and_then(|store| store.ids().ok()).map(|ids| ids.len());
        if self.screenshot.is_none() {
            self.front.screen = Screen::Summary;
        }
    }

    fn fail(&mut self, error: anyhow::Error) {
        self.front.state.failures.push(format!("{error:#}"));
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Err(error);
    }

    fn act(&mut self, command: Command, context: &Context) {
        match command {
            Command::Pause => {
                if let Some(run) = &self.run {
                    run.running.clock().pause(!run.running.clock().is_paused());
                }
            }
            Command::Talkativeness(bias) => {
                self.talkativeness = bias;
                if let Some(run) = &self.run {
                    run.running.talkativeness().set(bias);
                }
            }
            Command::Choose(exercise) => {
                self.config.exercise = exercise;
                self.config.workout = None;
                if let Some(run) = &self.run {
                    run.running.choose(exercise);
                }
            }
            Command::End => self.end(context),
            Command::Restart => {
                if let Err(error) = self.restart(context) {
                    self.front.state.failures.push(format!("can't begin again: {error:#}"));
                }
            }
            Command::Setting(key, value) => self.set(key, &value, context),
            Command::Mute(muted) => {
                self.muted = muted;
                self.hush();
            }
            Command::DeleteAll => {
                let deleted = self.store.as_ref().map(Store::delete_all);
                self.front.notice = Some(match deleted {
                    Some(Ok(n)) => format!("{n} sessions deleted"),
                    Some(Err(error)) => format!("{error:#}"),
                    None => "nothing is kept".to_owned(),
                });
                self.front.kept = self.store.as_ref().and_then(|store| store.ids().ok()).map(|ids| ids.len());
            }
            Command::Quit => context.send_viewport_cmd(ViewportCommand::Close),
        }
    }

    /// A setting takes effect at once, and is written into the settings file.
    fn set(&mut self, key: &'static str, value: &str, context: &Context) {
        if let Err(error) = settings::set(&mut self.front.settings, key, value) {
            self.front.notice = Some(format!("{error:#}"));
            return;
        }
        set_look(context, &self.front.settings);
        if let Ok(voice) = &self.voice {
            voice.set_volume(self.front.settings.volume);
        }
        self.hush();
        let written = self.settings_file.as_ref().map(|path| settings::write(path, &[(key, value.to_owned())]));
        self.front.notice = match written {
            Some(Err(error)) => Some(format!("the setting holds for this session only: {error:#}")),
            _ => None,
        };
    }

    /// The voice is silent while it is muted, and where the settings say so.
    fn hush(&self) {
        if let Ok(voice) = &self.voice {
            voice.mute(self.muted || !self.front.settings.voice);
        }
    }

    fn restart(&mut self, context: &Context) -> anyhow::Result<()> {
        self.end(context);
        let ending = self.ending.take().context("start Spotter again")?;
        let stopped = ending.join().map_err(|_| anyhow!("a stage failed"))?;
        let mut parts = stopped.context("a stage failed; start Spotter again")?;
        parts.lens.reset();
        parts.coach.reset();
        let take = (self.reopen)(&self.front.settings)?;
        self.front.state = Default::default();
        self.front.screen = Screen::Coach;
        self.body = None;
        self.begin(take, parts, context)
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

    fn picture_ui(&self, ui: &Ui, area: Rect, mirror: bool, show: Patches) {
        let painter = ui.painter_at(area);
        painter.rect_filled(area, 0.0, Color32::from_rgb(12, 12, 14));
        let shown = self.picture.draw(&painter, area, mirror);
        if let (Some(at), Some(body)) = (shown, &self.body) {
            skeleton(&painter, body, self.picture_size, at, mirror);
        }
        let side = area.height() * INSET;
        // between the count above and the cue below
        let corner = area.right_center() - vec2(side + 14.0, side * 0.3);
        let inset = self.inset.draw(&painter, Rect::from_min_size(corner, vec2(side, side)), false);
        // the encoder sees what is in the inset, or the picture itself
        let seen = inset.map(|at| (at, false)).or_else(|| shown.map(|at| (at, mirror)));
        if let (Some((at, mirror)), Some(attended)) = (seen, self.monitor.attended().filter(|_| show != Patches::Off)) {
            heat::draw(&painter, &attended, show, at, mirror);
        }
    }

    fn session_is_live(&self) -> bool {
        self.camera
    }

    /// What moves by itself on the screen, besides what the stages wake the window for.
    fn wake_later(&self, context: &Context, now: Duration) {
        let state = &self.front.state;
        let counts_down = state.countdown(now, self.config.lead_in).is_some() || state.work.rest.is_some();
        let fades = state.current(now).is_some();
        if counts_down || fades {
            context.request_repaint_after(Duration::from_millis(250));
        }
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
        let running = self.run.as_ref().map(|run| &run.running);
        // after the end the clock runs on, but the recording does not
        let now = running.map_or(self.ended, |r| r.clock().now().min(self.monitor.end()));
        let (over, paused) = (running.is_none(), running.is_some_and(|r| r.clock().is_paused()));
        let mut front = std::mem::replace(&mut self.front, Front::new(Default::default(), false));
        let world = World {
            now,
            paused,
            over,
            camera: self.session_is_live(),
            lead_in: self.config.lead_in,
            model: &self.model,
            talkativeness: self.talkativeness,
            monitor: Some(&self.monitor),
            voice: match &self.voice {
                Ok(voice) => voice.about(),
                Err(why) => why,
            },
            muted: self.muted,
            silent: self.voice.as_ref().err().map(String::as_str).filter(|_| self.live),
            picture: &|_, _| {},
        };
        let mirror = world.camera && front.settings.mirror;
        let show = front.settings.patches;
        let picture = |ui: &Ui, area: Rect| self.picture_ui(ui, area, mirror, show);
        let commands = front.ui(ui, &World { picture: &picture, ..world });
        self.front = front;
        for command in commands {
            self.act(command, &context);
        }
        if !over && !paused {
            self.wake_later(&context, now);
        }
        self.screenshot_when_due(&context, now, over);
    }

    fn on_exit(&mut self, _gl: Option<&eframe::glow::Context>) {
        if let Some(run) = &mut self.run
            && let Err(error) = run.sinks.end(&summary(&self.monitor, self.with_timing))
        {
            tracing::error!("{error:#}");
        }
        self.run = None;
    }
}
