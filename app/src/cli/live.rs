//! `spotter live`: coaches whoever stands before the camera.

use super::{
    Hinted,
    coaching::CoachArgs,
    keeping::{DataArgs, Kept},
    replay::{first_failure, follow, stdout_sink, summary},
    sessions::write_review,
};
use crate::{
    audio::Speech,
    parts::{self, Prepared},
    pipeline::{
        Config, Latency,
        threads::{self, Input, Pace},
        workout::Workout,
    },
    sessions::Looked,
    settings::{self, Resolution, Resolved, Settings},
    timeline::{Session, Sink as _},
};
#[cfg(feature = "desktop")]
use crate::{parts::CoachChoice, pipeline::stages::Nothing};
use clap::{Args, ValueEnum};
use spotter_vision::source::{FrameSource, SourceInfo};
use std::{path::PathBuf, time::Duration};

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    /// On
    On,
    /// Off
    Off,
}

/// Whoever starts the session is still on their way into the picture.
const LEAD_IN: Duration = Duration::from_secs(3);

/// What can be done where there is no camera, and no window that waits for one.
const INSTEAD: &str = "`spotter live --from VIDEO` takes a recording in the camera's place, and `make run` coaches the \
                       demo clip; in a window Spotter waits until a camera is plugged in";

/// Coach through a camera.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:\n  spotter live\n  spotter live --camera 1 --exercise squats --lang ko\n\n\
                        What happened is kept on this machine (see `spotter sessions`); pictures never are.")]
pub(crate) struct LiveArgs {
    /// Which camera, from 0
    #[arg(long, value_name = "N")]
    camera: Option<u32>,
    /// A recording, a folder of pictures or `pattern` in the place of the camera
    #[arg(long, value_name = "VIDEO", conflicts_with = "camera")]
    from: Option<PathBuf>,
    /// Size of the camera's picture, such as 1280x720; the nearest it has is taken [default: 640x480]
    #[arg(long, value_name = "WxH", conflicts_with = "from")]
    resolution: Option<Resolution>,
    #[command(flatten)]
    coach: CoachArgs,
    /// No window: print the timeline
    #[arg(long)]
    headless: bool,
    /// Print the timeline as JSON lines (implies --headless)
    #[arg(long)]
    json: bool,
    /// Speak aloud [default: on]
    #[arg(long, value_enum)]
    voice: Option<Switch>,
    /// Keep no record of the session
    #[arg(long, help_heading = "Record")]
    no_record: bool,
    #[command(flatten)]
    data: DataArgs,
    /// Write a picture of the window to a file and end
    #[arg(long, value_name = "FILE", hide = true)]
    screenshot: Option<PathBuf>,
    /// Media time of the picture
    #[arg(long, value_name = "SECONDS", hide = true, default_value = "2", value_parser = super::coaching::seconds)]
    screenshot_at: Duration,
}

impl LiveArgs {
    /// Whether JSON is asked for.
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// What is settled, under these flags.
    ///
    /// # Errors
    /// When the settings file or the environment holds something that is no setting.
    pub(crate) fn resolve(&self) -> anyhow::Result<Resolved> {
        let mut resolved = settings::load()?;
        self.coach.over(&mut resolved)?;
        if let Some(camera) = self.camera {
            resolved.flag("camera", &camera.to_string())?;
        }
        if let Some(resolution) = self.resolution {
            resolved.flag("resolution", &resolution.to_string())?;
        }
        if let Some(voice) = self.voice {
            resolved.flag("voice", if voice == Switch::On { "true" } else { "false" })?;
        }
        if self.no_record {
            resolved.flag("record", "false")?;
        }
        if let Some(data) = self.data.flag() {
            resolved.flag("data", &data)?;
        }
        Ok(resolved)
    }

    /// These flags over what is settled.
    fn settled(&self, settings: &Settings) -> Self {
        Self {
            coach: self.coach.clone().settled(settings),
            camera: Some(settings.camera),
            resolution: Some(settings.resolution),
            no_record: !settings.record,
            ..self.clone()
        }
    }

    fn open(&self) -> anyhow::Result<Box<dyn FrameSource>> {
        match &self.from {
            Some(path) => parts::open_source(path),
            None => {
                let Settings { camera, resolution, .. } = Settings::default();
                parts::open_camera(self.camera.unwrap_or(camera), self.resolution.unwrap_or(resolution))
            }
        }
    }

    /// The error with a way out, where it has none yet.
    fn instead(&self, error: anyhow::Error) -> anyhow::Error {
        if self.from.is_some() || error.is::<Hinted>() { error } else { Hinted::new(error, INSTEAD).into() }
    }

    /// The camera, opened again whenever it is lost; or what stands in its place and keeps to its own times.
    fn input(&self, source: Box<dyn FrameSource>) -> Input {
        if self.from.is_some() {
            return Input::recording(source);
        }
        let again = self.clone();
        Input { source, pace: Pace::Source, again: Some(Box::new(move || again.open())) }
    }

    /// Opens the camera; one that is not there may still come.
    #[cfg(feature = "desktop")]
    fn open_or_wait(&self) -> anyhow::Result<Box<dyn FrameSource>> {
        let opened = self.open();
        if self.from.is_some() {
            return opened;
        }
        Ok(opened.unwrap_or_else(|error| {
            tracing::info!("{error:#}");
            Box::new(Nothing::instead("camera", error))
        }))
    }

    fn config(&self, prepared: &Prepared, workout: Option<Workout>) -> Config {
        Config {
            workout,
            lead_in: LEAD_IN,
            own_count: true,
            spaced: true,
            latency: Latency::Measured,
            cooldown: prepared.cooldown,
            language: self.coach.lang().code().to_owned(),
            exercise: self.coach.counted(),
            ..Config::default()
        }
    }

    fn session(&self, info: SourceInfo, prepared: &Prepared) -> Session {
        let choice = self.coach.choice();
        Session {
            version: env!("CARGO_PKG_VERSION"),
            source: info.name,
            width: info.width,
            height: info.height,
            fps: info.fps,
            model: prepared.parts.coach.describe(),
            lens: prepared.lens.to_owned(),
            language: choice.language,
            exercise: choice.exercise,
            latency: Latency::Measured.to_string(),
            seed: choice.seed,
            talkativeness: prepared.talkativeness,
            cooldown: prepared.cooldown.as_secs_f64(),
        }
    }
}

/// Runs the command.
pub(crate) fn run(given: &LiveArgs) -> anyhow::Result<()> {
    let resolved = given.resolve()?;
    let args = &given.settled(&resolved.settings);
    #[cfg(feature = "desktop")]
    if !args.headless && !args.json {
        match crate::ui::display() {
            Ok(()) => return window(given, resolved),
            Err(why) => tracing::warn!("{why}: printing the timeline instead of opening a window"),
        }
    }
    let workout = args.coach.workout()?;
    let source = args.open().map_err(|error| args.instead(error))?;
    let prepared = parts::prepare(&args.coach.choice())?;
    let (mut sinks, kept) = Kept::split(args.data.recorder(!args.no_record)?);
    let session = args.session(source.info().clone(), &prepared);
    let voice = voice(&resolved.settings).inspect_err(|error| tracing::info!("cues are not spoken: {error:#}"));
    if let Ok(voice) = &voice {
        sinks.0.push(voice.sink());
    }
    sinks.0.push(stdout_sink(args.json));
    sinks.begin(&session)?;
    let (config, dial) = (args.config(&prepared, workout), prepared.talkativeness);
    let running = threads::start(args.input(source), prepared.parts, &config, dial, Box::new(|| {}))?;
    let failures = follow(&running, &mut sinks)?;
    sinks.end(&summary(running.monitor(), true))?;
    if let Some((store, id)) = kept.filter(|_| !args.json) {
        let Looked { past, review, earlier, .. } = store.look_at(&id)?;
        write_review(&mut std::io::stdout().lock(), &past, &review, &earlier)?;
    }
    first_failure(failures)
}

/// The voice where there is no window, as it is settled.
fn voice(settings: &Settings) -> anyhow::Result<Speech> {
    if !settings.voice {
        anyhow::bail!("the voice is off in the settings");
    }
    Speech::open(settings)
}

/// What a coach was loaded for, and what its model wants; under other settings it is loaded again.
#[cfg(feature = "desktop")]
struct Made {
    key: (crate::cli::Language, Option<PathBuf>, Option<f64>),
    lens: &'static str,
    talkativeness: f32,
    cooldown: Duration,
}

#[cfg(feature = "desktop")]
fn window(given: &LiveArgs, resolved: Resolved) -> anyhow::Result<()> {
    // a mistake in what was just typed is told where it was typed
    if given.coach.says_what() {
        given.coach.workout()?;
    }
    let at_once = given.coach.says_what() || given.screenshot.is_some();
    let stands_in = given.from.as_ref().map(|path| path.display().to_string());
    crate::ui::run(crate::ui::Play {
        title: String::new(),
        opener: Box::new(opener(given.clone())),
        first: if at_once { crate::ui::First::AtOnce } else { crate::ui::First::Ask },
        live: true,
        stands_in,
        settings: resolved.settings,
        settings_file: resolved.file,
        store: given.data.store().ok(),
        with_timing: true,
        screenshot: given.screenshot.clone().map(|path| (path, given.screenshot_at)),
    })
}

/// Opens sessions under the settings of the moment: coach, camera, record.
#[cfg(feature = "desktop")]
fn opener(given: LiveArgs) -> impl FnMut(crate::ui::Order) -> anyhow::Result<crate::ui::Opened> + Send {
    let mut made: Option<Made> = None;
    move |order| {
        let settings = &order.settings;
        let args = given.settled(settings);
        let workout = args.coach.workout()?;
        let key = (settings.lang, settings.model.clone(), settings.cooldown);
        // the model's own talkativeness is what the settings fall back to
        let choice = CoachChoice { talkativeness: None, ..args.coach.choice() };
        let loaded = made.take().filter(|made| made.key == key).zip(order.parts);
        let mut prepared = match loaded {
            Some((Made { lens, talkativeness, cooldown, .. }, parts)) => {
                Prepared { parts, lens, talkativeness, cooldown }
            }
            None => parts::prepare(&choice)?,
        };
        prepared.parts.lens.reset();
        prepared.parts.coach.reset();
        prepared.parts.coach.set_exercise(choice.exercise.clone())?;
        let talkativeness = settings.talkativeness.unwrap_or(prepared.talkativeness);
        prepared.parts.coach.set_talkativeness(talkativeness);
        let source = args.open_or_wait()?;
        let (sinks, kept) = Kept::split(args.data.recorder(!args.no_record)?);
        let (config, mut session) = (args.config(&prepared, workout), args.session(source.info().clone(), &prepared));
        session.talkativeness = talkativeness;
        let Prepared { parts, lens, talkativeness: own, cooldown } = prepared;
        made = Some(Made { key, lens, talkativeness: own, cooldown });
        Ok(crate::ui::Opened { session, config, talkativeness, parts, input: args.input(source), sinks, kept })
    }
}
