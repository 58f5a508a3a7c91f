//! `spotter replay`: coaches a recording.

use super::{Usage, coaching::CoachArgs, keeping::DataArgs};
use crate::{
    memory::Memory,
    parts::{self, Prepared},
    pipeline::{
        Config, Event, Failure, Latency,
        sequential::{self, Observer},
        stats::{Monitor, STAGES},
        threads::{self, Input, Running},
        workout::Workout,
    },
    timeline::{Drafting, JsonLines, Session, Sink, Sinks, Subtitles, Summary, Terminal, Timing, render::Renderer},
};
use anyhow::{Context as _, anyhow};
use clap::{Args, ValueEnum};
use spotter_vision::{
    Frame,
    lens::Sight,
    source::{FrameSource, SourceInfo, writer::VideoWriter},
};
use std::{
    fs::File,
    io::{self, BufWriter, IsTerminal as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// How fast a recording is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Speed {
    /// At its own speed
    #[value(name = "1")]
    One,
    /// As fast as it goes
    Max,
}

/// Coach a recording.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    spotter replay squats.mp4 --exercise squats\n  \
    spotter replay squats.mp4 --headless --json > timeline.jsonl\n  \
    spotter replay squats.mp4 --headless --srt squats.srt --out coached.mp4\n  \
    spotter replay pattern:640x480@30:10s --headless --latency measured --speed 1 --stats\n\n\
    With a fixed latency two replays give the same timeline byte for byte, at any speed and on any machine.\n\
    The fields of the JSON lines are described in ARCHITECTURE.md.")]
pub(crate) struct ReplayArgs {
    /// A recording, a folder of pictures, or a test pattern (pattern:640x480@30:10s)
    #[arg(value_name = "VIDEO")]
    video: PathBuf,
    #[command(flatten)]
    coach: CoachArgs,
    /// No window: print the timeline
    #[arg(long, help_heading = "Output")]
    headless: bool,
    /// Print the timeline as JSON lines (implies --headless)
    #[arg(long, help_heading = "Output")]
    json: bool,
    /// Also write the timeline as JSON lines to a file, line by line
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    timeline: Option<PathBuf>,
    /// Write subtitles
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    srt: Option<PathBuf>,
    /// Write a video with the feedback drawn in (implies --headless and --speed max)
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    out: Option<PathBuf>,
    /// Keep a record of the session, see `spotter sessions`
    #[arg(long, help_heading = "Record")]
    record: bool,
    #[command(flatten)]
    data: DataArgs,
    /// Add the times of the stages on this machine to the timeline; --latency measured always does
    #[arg(long, help_heading = "Output")]
    stats: bool,
    /// 1 in a window, else max
    #[arg(long, value_enum, help_heading = "Time")]
    speed: Option<Speed>,
    /// What a decision and a token cost: measured, or fixed:MS,MS. Left out: measured in a window, else fixed:50,25
    #[arg(long, help_heading = "Time")]
    latency: Option<Latency>,
    /// Write a picture of the window to a file and end
    #[arg(long, value_name = "FILE", hide = true)]
    screenshot: Option<PathBuf>,
    /// Media time of the picture
    #[arg(long, value_name = "SECONDS", hide = true, default_value = "2", value_parser = super::coaching::seconds)]
    screenshot_at: Duration,
}

impl ReplayArgs {
    fn headless(&self) -> bool {
        self.headless || self.json || self.out.is_some() || !cfg!(feature = "desktop")
    }

    /// In a window the picture must not wait for a slow model, so there the newest frame wins.
    fn latency(&self, in_window: bool) -> Latency {
        self.latency.unwrap_or(if in_window { Latency::Measured } else { Latency::REPLAY })
    }

    fn config(&self, prepared: &Prepared, workout: Option<Workout>, latency: Latency) -> Config {
        let language = self.coach.lang().code().to_owned();
        let exercise = self.coach.counted();
        let cooldown = prepared.cooldown;
        Config { latency, cooldown, language, exercise, workout, own_count: true, spaced: true, ..Config::default() }
    }

    fn session(&self, info: &SourceInfo, prepared: &Prepared, latency: Latency) -> Session {
        let choice = self.coach.choice();
        Session {
            version: env!("CARGO_PKG_VERSION"),
            source: info.name.clone(),
            width: info.width,
            height: info.height,
            fps: info.fps,
            model: prepared.parts.coach.describe(),
            lens: prepared.lens.to_owned(),
            language: choice.language,
            exercise: choice.exercise,
            latency: latency.to_string(),
            seed: choice.seed,
            talkativeness: prepared.talkativeness,
            cooldown: prepared.cooldown.as_secs_f64(),
        }
    }

    fn with_timing(&self, latency: Latency) -> bool {
        self.stats || latency == Latency::Measured
    }
}

/// Runs the command.
pub(crate) fn run(args: &ReplayArgs) -> anyhow::Result<()> {
    let speed = args.speed.unwrap_or(if args.headless() { Speed::Max } else { Speed::One });
    if args.out.is_some() && speed == Speed::One {
        return Err(Usage("--out draws as fast as it goes: leave --speed 1 out".into()).into());
    }
    if !args.headless() && speed == Speed::Max {
        return Err(Usage("a window plays at its own speed: --speed max goes with --headless".into()).into());
    }
    // the recording first: what is wrong with it should not wait for a model to load
    let source = parts::open_source(&args.video)?;
    let workout = args.coach.workout()?;
    let prepared = parts::prepare(&args.coach.choice())?;
    let mut sinks = file_sinks(args)?;
    #[cfg(feature = "desktop")]
    if !args.headless() {
        match crate::ui::display() {
            Ok(()) => return window(args, source, workout, prepared, sinks),
            Err(why) => tracing::warn!("{why}: printing the timeline instead of opening a window"),
        }
    }
    let latency = args.latency(false);
    sinks.0.push(stdout_sink(args.json));
    sinks.begin(&args.session(source.info(), &prepared, latency))?;
    let config = args.config(&prepared, workout, latency);
    let (monitor, failures) = match speed {
        Speed::Max => at_once(args, source, prepared, &config, &mut sinks)?,
        Speed::One => paced(source, prepared, &config, &mut sinks)?,
    };
    sinks.end(&summary(&monitor, args.with_timing(latency)))?;
    first_failure(failures)
}

/// Counts and, where asked for, times at the end of a run.
pub(crate) fn summary(monitor: &Monitor, with_timing: bool) -> Summary {
    let timing = || {
        let (wall, looked_at) = (monitor.wall(), monitor.counts().sampled);
        Timing {
            stages: STAGES.iter().filter_map(|&(stage, name)| Some((name, monitor.quantiles(stage)?))).collect(),
            wall,
            frames_per_second: looked_at as f64 / wall.as_secs_f64().max(1e-9),
            memory: Memory::now(),
        }
    };
    let speculation = monitor.speculation().filter(|_| with_timing).map(|stats| Drafting::new(&stats));
    Summary { duration: monitor.end(), counts: monitor.counts(), timing: with_timing.then(timing), speculation }
}

/// A run with a stage that failed has failed, after all that could be told.
pub(crate) fn first_failure(failures: Vec<Failure>) -> anyhow::Result<()> {
    match failures.into_iter().next() {
        None => Ok(()),
        Some(failure) => Err(anyhow!("{}: {}", failure.stage, failure.problem)),
    }
}

fn file_sinks(args: &ReplayArgs) -> anyhow::Result<Sinks> {
    let mut sinks = Sinks::default();
    if let Some(path) = &args.timeline {
        sinks.0.push(Box::new(JsonLines::new(create(path)?)));
    }
    if let Some(path) = &args.srt {
        sinks.0.push(Box::new(Subtitles::new(create(path)?)));
    }
    if let Some(recorder) = args.data.recorder(args.record)?.and_then(|kept| kept.recorder) {
        sinks.0.push(Box::new(recorder));
    }
    Ok(sinks)
}

pub(crate) fn create(path: &Path) -> anyhow::Result<BufWriter<File>> {
    let file = File::create(path).with_context(|| format!("{}: can't be written", path.display()))?;
    Ok(BufWriter::new(file))
}

/// The timeline on stdout, coloured on a terminal unless NO_COLOR is set.
pub(crate) fn stdout_sink(json: bool) -> Box<dyn Sink + Send> {
    let out = io::stdout();
    let colour = out.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    if json { Box::new(JsonLines::new(out)) } else { Box::new(Terminal::new(out, colour)) }
}

type Ran = (Arc<Monitor>, Vec<Failure>);

/// Hands what happens to the sinks, and to the drawn video if there is one.
struct Tell<'a> {
    sinks: &'a mut Sinks,
    video: Option<(Renderer, VideoWriter)>,
    failures: Vec<Failure>,
}

impl Observer for Tell<'_> {
    fn event(&mut self, event: Event) -> anyhow::Result<()> {
        self.sinks.event(&event)?;
        if let Some((renderer, _)) = &mut self.video {
            renderer.event(&event);
        }
        if let Event::Failed(failure) = event {
            self.failures.push(failure);
        }
        Ok(())
    }

    fn frame(&mut self, frame: &Frame, sight: Option<&Sight>) -> anyhow::Result<()> {
        let Some((renderer, out)) = &mut self.video else { return Ok(()) };
        match renderer.draw(frame, sight) {
            Some(drawn) => Ok(out.push(&drawn)?),
            None => Ok(()),
        }
    }
}

fn at_once(
    args: &ReplayArgs,
    source: Box<dyn FrameSource>,
    prepared: Prepared,
    config: &Config,
    sinks: &mut Sinks,
) -> anyhow::Result<Ran> {
    let monitor = Arc::new(Monitor::default());
    let video = match &args.out {
        Some(path) => {
            let info = source.info();
            let (width, height) = Renderer::size(info.width, info.height);
            Some((Renderer::new()?, parts::video_out(path, width, height, info.fps)?))
        }
        None => None,
    };
    let mut tell = Tell { sinks, video, failures: Vec::new() };
    sequential::run(source, prepared.parts, config, &monitor, &mut tell)?;
    let Tell { video, failures, .. } = tell;
    if let Some((_, out)) = video {
        out.finish()?;
    }
    Ok((monitor, failures))
}

fn paced(source: Box<dyn FrameSource>, prepared: Prepared, config: &Config, sinks: &mut Sinks) -> anyhow::Result<Ran> {
    let dial = prepared.talkativeness;
    let running = threads::start(Input::recording(source), prepared.parts, config, dial, Box::new(|| {}))?;
    let failures = follow(&running, sinks)?;
    Ok((running.monitor().clone(), failures))
}

/// Hands the events of a run to the sinks until it is over.
pub(crate) fn follow(running: &Running, sinks: &mut Sinks) -> anyhow::Result<Vec<Failure>> {
    let mut failures = Vec::new();
    while !running.is_over() {
        if let Some(event) = running.event(Duration::from_millis(50)) {
            sinks.event(&event)?;
            if let Event::Failed(failure) = event {
                failures.push(failure);
            }
        }
    }
    Ok(failures)
}

#[cfg(feature = "desktop")]
fn window(
    args: &ReplayArgs,
    source: Box<dyn FrameSource>,
    workout: Option<Workout>,
    prepared: Prepared,
    sinks: Sinks,
) -> anyhow::Result<()> {
    let latency = args.latency(true);
    let resolved = crate::settings::load()?;
    let opened = crate::ui::Opened {
        session: args.session(source.info(), &prepared, latency),
        config: args.config(&prepared, workout, latency),
        talkativeness: prepared.talkativeness,
        parts: prepared.parts,
        input: Input::recording(source),
        sinks,
        kept: None,
    };
    let video = args.video.clone();
    let (session, config) = (opened.session.clone(), opened.config.clone());
    let coach = args.coach.choice();
    // what is played again is written nowhere
    let again = move |order: crate::ui::Order| {
        let parts = match order.parts {
            Some(parts) => parts,
            None => parts::prepare(&coach)?.parts,
        };
        Ok(crate::ui::Opened {
            session: session.clone(),
            config: config.clone(),
            talkativeness: order.talkativeness,
            parts,
            input: Input::recording(parts::open_source(&video)?),
            sinks: Sinks::default(),
            kept: None,
        })
    };
    crate::ui::run(crate::ui::Play {
        title: opened.session.source.clone(),
        opener: Box::new(again),
        first: crate::ui::First::Opened(Box::new(opened)),
        live: false,
        stands_in: Some(args.video.display().to_string()),
        settings: resolved.settings,
        settings_file: resolved.file,
        store: args.data.store().ok(),
        with_timing: args.with_timing(latency),
        screenshot: args.screenshot.clone().map(|path| (path, args.screenshot_at)),
    })
}
