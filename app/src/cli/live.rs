//! `spotter live`: coaches whoever stands before the camera.

use super::{
    coaching::CoachArgs,
    keeping::{DataArgs, Kept},
    replay::{first_failure, follow, stdout_sink, summary},
    sessions::{earlier, write_review},
};
use crate::{
    audio::Speech,
    parts::{self, Prepared},
    pipeline::{
        Config, Latency,
        stages::Nothing,
        threads::{self, Input, Pace},
        workout::Workout,
    },
    sessions::review,
    settings::{self, Resolved, Settings},
    timeline::{Session, Sink as _},
};
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
            no_record: !settings.record,
            ..self.clone()
        }
    }

    fn open(&self) -> anyhow::Result<Box<dyn FrameSource>> {
        match &self.from {
            Some(path) => parts::open_source(path),
            None => parts::open_camera(self.camera.unwrap_or_default()),
        }
    }

    /// The camera, opened again whenever it is lost; or what stands in its place and keeps to its own times.
    fn input(&self, source: Box<dyn FrameSource>) -> Input {
        if self.from.is_some() {
            return Input::recording(source);
        }
        let again = self.clone();
        Input { source, pace: Pace::Source, again: Some(Box::new(move || again.open())) }
    }

    /// Opens the camera. In a window one that is not there may still come.
    fn open_or_wait(&self, window: bool) -> anyhow::Result<Box<dyn FrameSource>> {
        let opened = self.open();
        let may_come = window && cfg!(feature = "camera") && self.from.is_none();
        match opened {
            Err(error) if may_come => {
                tracing::warn!("{error:#}");
                Ok(Box::new(Nothing(SourceInfo { name: "camera".into(), ..SourceInfo::default() })))
            }
            opened => opened,
        }
    }

    fn config(&self, prepared: &Prepared, workout: Option<Workout>) -> Config {
        Config {
            workout,
            lead_in: LEAD_IN,
            own_count: true,
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
pub(crate) fn run(args: &LiveArgs) -> anyhow::Result<()> {
    let resolved = args.resolve()?;
    let args = &args.settled(&resolved.settings);
    let workout = args.coach.workout()?;
    #[cfg(feature = "desktop")]
    let in_window = !args.headless && !args.json && crate::ui::display().is_ok();
    #[cfg(not(feature = "desktop"))]
    let in_window = false;
    let source = args.open_or_wait(in_window)?;
    let prepared = parts::prepare(&args.coach.choice())?;
    let (mut sinks, kept) = Kept::split(args.data.recorder(!args.no_record)?);
    let session = args.session(source.info().clone(), &prepared);
    #[cfg(feature = "desktop")]
    if !args.headless && !args.json {
        match crate::ui::display() {
            Ok(()) => {
                let config = args.config(&prepared, workout);
                let first = crate::ui::Take { input: args.input(source), sinks, kept };
                return window(args, first, prepared, config, session, resolved);
            }
            Err(why) => tracing::warn!("{why}: printing the timeline instead of opening a window"),
        }
    }
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
        let past = store.read(&id)?;
        write_review(&mut std::io::stdout().lock(), &past, &review(&past), &earlier(&store, &id)?)?;
    }
    first_failure(failures)
}

/// The voice where there is no window, as it is settled.
fn voice(settings: &Settings) -> anyhow::Result<Speech> {
    if !settings.voice {
        anyhow::bail!("the voice is off in the settings");
    }
    Speech::open(settings.volume)
}

#[cfg(feature = "desktop")]
fn window(
    args: &LiveArgs,
    first: crate::ui::Take,
    prepared: Prepared,
    config: Config,
    session: Session,
    resolved: Resolved,
) -> anyhow::Result<()> {
    let (again, settings) = (args.clone(), resolved.settings);
    // also where it is off: the window can turn it on
    let voice = Speech::open(settings.volume).map_err(|error| format!("cues are shown and not spoken: {error:#}"));
    let reopen = move |settings: &Settings| {
        let again = again.settled(settings);
        let input = again.input(again.open_or_wait(true)?);
        let (sinks, kept) = Kept::split(again.data.recorder(!again.no_record)?);
        Ok(crate::ui::Take { input, sinks, kept })
    };
    crate::ui::run(crate::ui::Play {
        session,
        config,
        talkativeness: prepared.talkativeness,
        parts: prepared.parts,
        first,
        reopen: Box::new(reopen),
        live: true,
        settings,
        settings_file: resolved.file,
        voice,
        store: args.data.store().ok(),
        with_timing: true,
        screenshot: args.screenshot.clone().map(|path| (path, args.screenshot_at)),
    })
}
