//! The window as a program: follows the run, draws, and does what the user asks.

mod commands;

use super::{
    First, Opened, Opener, Order, Play,
    front::{Front, Screen, Stage, World},
    heat,
    jobs::{self, Done, Jobs},
    picture::{Screen as Texture, skeleton},
    set_look, words,
};
use crate::{
    audio::Speech,
    cli::summary,
    pipeline::{
        Event, Parts,
        stats::Monitor,
        threads::{self, Pace, Running},
    },
    sessions::{Looked, Memory, Stamp, Store},
    settings::Patches,
    timeline::{Sink as _, Sinks},
};
use anyhow::{Context as _, anyhow};
use eframe::egui::{Color32, ColorImage, Context, Rect, Ui, ViewportCommand, vec2};
use spotter_vision::Body;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

/// Share of the picture's height that the inset of what the model sees takes.
const INSET: f32 = 0.24;

/// How the window's run ended, and what has to end after it.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) error: Option<anyhow::Error>,
    pub(super) ending: Vec<JoinHandle<()>>,
}

/// The same, for the one who opened the window.
pub(super) type Shared = Arc<Mutex<Outcome>>;

/// A run under way, with what is written of it.
struct Run {
    running: Running,
    sinks: Sinks,
    memory: Memory,
    kept: Option<(Store, String)>,
    camera: bool,
}

pub(super) struct App {
    opener: Arc<Mutex<Opener>>,
    live: bool,
    stands_in: Option<String>,
    stage: Stage,
    run: Option<Run>,
    /// What was opened before it was known whether there is a voice.
    waiting: Option<Box<Opened>>,
    /// Begin again once the session before is put away.
    again: bool,
    parts: Option<Parts>,
    model: String,
    lead_in: Duration,
    talkativeness: f32,
    monitor: Arc<Monitor>,
    /// Media time at which the session was ended.
    ended: Duration,
    store: Option<Store>,
    settings_file: Option<PathBuf>,
    with_timing: bool,
    screenshot: Option<(PathBuf, Duration)>,
    front: Front,
    muted: bool,
    /// The voice, or why there is none; nothing while it is being found.
    voice: Option<Result<Speech, String>>,
    /// Another voice was chosen during a session, which goes on with the one it began with.
    another_voice: bool,
    picture: Texture,
    picture_size: [usize; 2],
    /// Pictures that came to the screen.
    drawn: u64,
    inset: Texture,
    body: Option<Body>,
    jobs: Jobs,
    outcome: Shared,
}

impl App {
    /// Opens what is to be shown first.
    pub(super) fn new(play: Play, context: &Context, outcome: Shared) -> Self {
        set_look(context, &play.settings);
        let jobs = Jobs::new(context);
        let front = Front::new(play.settings, !play.live);
        // whoever looks at a recording may not be alone; a session of one's own speaks
        let voice = (!play.live).then(|| Err("a replay does not speak".to_owned()));
        let mut app = Self {
            opener: Arc::new(Mutex::new(play.opener)),
            live: play.live,
            stands_in: play.stands_in,
            stage: Stage::Idle,
            run: None,
            waiting: None,
            again: false,
            parts: None,
            model: String::new(),
            lead_in: Duration::ZERO,
            talkativeness: front.settings.talkativeness.unwrap_or_default(),
            monitor: Arc::new(Monitor::default()),
            ended: Duration::ZERO,
            store: play.store,
            settings_file: play.settings_file,
            with_timing: play.with_timing,
            screenshot: play.screenshot,
            front,
            muted: false,
            voice,
            another_voice: false,
            picture: Texture::default(),
            picture_size: [1, 1],
            drawn: 0,
            inset: Texture::default(),
            body: None,
            jobs,
            outcome,
        };
        app.list_workouts();
        app.open_voice();
        match play.first {
            First::Opened(opened) => app.begin(*opened, context),
            First::AtOnce => app.open(),
            First::Ask => {
                app.front.screen = Screen::Home;
                let mut commands = Vec::new();
                app.front.entered(&mut commands);
                commands.into_iter().for_each(|command| app.act(command, context));
            }
        }
        app
    }

    /// Looks for a voice in the background: a model has to be read, and a sound device may hang.
    fn open_voice(&mut self) {
        if !self.live {
            return;
        }
        self.voice = None;
        let settings = self.front.settings.clone();
        self.jobs.start("voice", move || Done::Voice(Speech::open(&settings).map_err(|error| format!("{error:#}"))));
    }

    fn list_workouts(&self) {
        // the user's own lie beside the records
        let own = self.store.as_ref().and_then(|store| Some(store.folder().parent()?.join("workouts")));
        let lang = words::language(&self.front.settings);
        self.jobs.start("workouts", move || jobs::workouts(own, lang));
    }

    /// Opens camera and coach in the background.
    fn open(&mut self) {
        (self.stage, self.front.screen, self.front.notice) = (Stage::Opening, Screen::Coach, None);
        self.front.state = Default::default();
        (self.body, self.picture, self.inset) = (None, Texture::default(), Texture::default());
        self.ended = Duration::ZERO;
        let settings = self.front.settings.clone();
        let order = Order { settings, talkativeness: self.talkativeness, parts: self.parts.take() };
        let opener = self.opener.clone();
        self.jobs.start("opening", move || Done::Opened(jobs::open(&opener, order)));
    }

    /// A session begins.
    fn begin(&mut self, opened: Opened, context: &Context) {
        if let Err(error) = self.try_begin(opened, context) {
            self.not_begun(&error);
        }
    }

    fn try_begin(&mut self, opened: Opened, context: &Context) -> anyhow::Result<()> {
        let (memory, lines) = Memory::begin(Stamp::now());
        let mut sinks = opened.sinks;
        sinks.0.push(Box::new(lines));
        if let Some(Ok(voice)) = &self.voice {
            sinks.0.push(voice.sink());
        }
        sinks.begin(&opened.session)?;
        let camera = opened.input.pace == Pace::Source;
        (self.model, self.lead_in) = (opened.session.model, opened.config.lead_in);
        self.talkativeness = opened.talkativeness;
        let wake = waker(context);
        let running = threads::start(opened.input, opened.parts, &opened.config, opened.talkativeness, wake)?;
        self.monitor = running.monitor().clone();
        self.run = Some(Run { running, sinks, memory, kept: opened.kept, camera });
        self.stage = Stage::Running;
        self.hush();
        Ok(())
    }

    /// Says why no session began, where it was asked for.
    fn not_begun(&mut self, error: &anyhow::Error) {
        let lang = words::language(&self.front.settings);
        let text = format!("{}: {error:#}", words::pick(lang, "I can't begin", "시작할 수 없어요"));
        self.stage = Stage::Idle;
        if self.live {
            (self.front.screen, self.front.notice) = (Screen::Home, Some(text));
        } else {
            self.front.state.failures.push(text);
        }
    }

    /// Takes what the threads in the background brought.
    fn take_done(&mut self, context: &Context) {
        while let Some(done) = self.jobs.take() {
            match done {
                Done::Opened(Ok(opened)) => self.waiting = Some(opened),
                Done::Opened(Err(error)) => self.not_begun(&error),
                Done::Voice(voice) => {
                    self.voice = Some(voice);
                    self.hush();
                }
                Done::Cameras(found) => self.front.cameras = Some(found),
                Done::Workouts(found) => self.front.workouts = found,
                Done::Sessions(Ok(mut lines)) => {
                    lines.reverse();
                    self.front.sessions = Some(lines);
                }
                Done::Looked(Ok(looked)) => {
                    self.front.past = Some(looked);
                    if self.screenshot.is_none() {
                        self.front.screen = Screen::Summary;
                    }
                }
                Done::Sessions(Err(error)) | Done::Looked(Err(error)) => self.front.notice = Some(format!("{error:#}")),
                Done::Told(text) => self.front.notice = Some(text),
                Done::Stopped(parts) => {
                    (self.parts, self.stage) = (parts, Stage::Idle);
                    if std::mem::take(&mut self.another_voice) {
                        self.open_voice();
                    }
                    if std::mem::take(&mut self.again) {
                        self.open();
                    }
                }
            }
        }
        if self.voice.is_some()
            && let Some(opened) = self.waiting.take()
        {
            self.begin(*opened, context);
        }
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
            self.drawn += 1;
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
            self.front.state.failures.push(format!("{error:#}"));
            self.outcome.lock().unwrap_or_else(PoisonError::into_inner).error = Some(error);
        }
        if over {
            self.end();
        }
    }

    /// The session ends: its timeline is closed and its stages stop in the background; then the summary is shown.
    fn end(&mut self) {
        let Some(run) = self.run.take() else { return };
        self.ended = run.running.clock().now().min(self.monitor.end());
        self.stage = Stage::Ending;
        let (monitor, with_timing, outcome) = (self.monitor.clone(), self.with_timing, self.outcome.clone());
        let put_away = move |tell: &dyn Fn(Done)| {
            let Run { running, mut sinks, memory, kept, .. } = run;
            let closed = sinks.end(&summary(&monitor, with_timing));
            drop(sinks);
            tell(Done::Looked(looked(&memory, kept.as_ref())));
            if let Err(error) = closed {
                tell(Done::Told(format!("{error:#}")));
                outcome.lock().unwrap_or_else(PoisonError::into_inner).error = Some(error);
            }
            tell(Done::Stopped(running.stop()));
        };
        if let Some(thread) = self.jobs.start_with("ending", put_away) {
            let ending = &mut self.outcome.lock().unwrap_or_else(PoisonError::into_inner).ending;
            ending.retain(|thread| !thread.is_finished());
            ending.push(thread);
        }
    }

    /// The voice is silent while it is muted, and where the settings say so.
    fn hush(&self) {
        if let Some(Ok(voice)) = &self.voice {
            voice.mute(self.muted || !self.front.settings.voice);
        }
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
                outcome.lock().unwrap_or_else(PoisonError::into_inner).error = Some(error);
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

    /// What moves by itself on the screen, besides what the stages wake the window for.
    fn wake_later(&self, context: &Context, now: Duration) {
        let state = &self.front.state;
        let counts_down = state.countdown(now, self.lead_in).is_some();
        let clock = state.work.halted.is_none() && (state.work.rest.is_some() || state.work.until.is_some());
        let fades = state.current(now).is_some();
        if counts_down || clock || fades {
            context.request_repaint_after(Duration::from_millis(250));
        }
    }
}

/// A session that has just ended, as it is remembered.
fn looked(memory: &Memory, kept: Option<&(Store, String)>) -> anyhow::Result<Looked> {
    let earlier = kept.and_then(|(store, id)| store.earlier(id).ok()).unwrap_or_default();
    let id = kept.map_or("", |(_, id)| id.as_str());
    Looked::new(id, memory.raw(), earlier, kept.is_some())
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

impl App {
    /// Follows what runs, draws it and does what the user asked for. Nothing in it waits.
    pub(super) fn draw(&mut self, ui: &mut Ui) {
        let context = ui.ctx().clone();
        self.take_done(&context);
        self.follow(&context);
        let running = self.run.as_ref().map(|run| &run.running);
        // after the end the clock runs on, but the recording does not
        let now = running.map_or(self.ended, |r| r.clock().now().min(self.monitor.end()));
        let (over, paused) = (self.stage == Stage::Idle, running.is_some_and(|r| r.clock().is_paused()));
        let camera = self.run.as_ref().is_some_and(|run| run.camera);
        let mut front = std::mem::take(&mut self.front);
        let (mirror, show) = (camera && front.settings.mirror, front.settings.patches);
        let picture = |ui: &Ui, area: Rect| self.picture_ui(ui, area, mirror, show);
        let world = World {
            now,
            stage: self.stage,
            paused,
            live: self.live,
            camera,
            stands_in: self.stands_in.as_deref(),
            lead_in: self.lead_in,
            model: &self.model,
            talkativeness: self.talkativeness,
            monitor: Some(&self.monitor),
            drawn: self.drawn,
            voice: match &self.voice {
                Some(Ok(voice)) => voice.about(),
                Some(Err(why)) => why,
                None => "",
            },
            muted: self.muted,
            silent: self.live && self.voice.as_ref().is_some_and(Result::is_err),
            picture: &picture,
        };
        let commands = front.ui(ui, &world);
        self.front = front;
        for command in commands {
            self.act(command, &context);
        }
        if self.stage == Stage::Running && !paused {
            self.wake_later(&context, now);
        }
        self.screenshot_when_due(&context, now, over);
    }

    /// Pictures that came to the screen so far.
    #[cfg(test)]
    pub(super) fn drawn(&self) -> u64 {
        self.drawn
    }

    /// The window goes at once; whoever opened it waits for the session to be put away.
    pub(super) fn leave(&mut self) {
        self.end();
    }
}

impl eframe::App for App {
    fn ui(&mut self, ui: &mut Ui, _frame: &mut eframe::Frame) {
        self.draw(ui);
    }

    fn on_exit(&mut self, _gl: Option<&eframe::glow::Context>) {
        self.leave();
    }
}
