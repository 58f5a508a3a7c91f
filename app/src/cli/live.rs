//! `spotter live`: coaches whoever stands before the camera.

use super::coaching::CoachArgs;
use clap::Args;

/// Coach through a camera.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  spotter live\n  spotter live --camera 1 --exercise squats --lang ko")]
pub(crate) struct LiveArgs {
    /// Which camera, from 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    camera: u32,
    #[command(flatten)]
    coach: CoachArgs,
    /// No window: print the timeline
    #[arg(long)]
    headless: bool,
    /// Print the timeline as JSON lines (implies --headless)
    #[arg(long)]
    json: bool,
}

/// Runs the command.
#[cfg(not(feature = "camera"))]
pub(crate) fn run(args: &LiveArgs) -> anyhow::Result<()> {
    let error = anyhow::anyhow!("camera {}: this Spotter was built without cameras", args.camera);
    let hint = "build it with `cargo build --release --features camera` (on Linux that needs libclang1, which \
                `make live` installs where it may),\n      or coach a recording: `spotter replay VIDEO`";
    Err(super::Hinted::new(error, hint).into())
}

/// Runs the command.
#[cfg(feature = "camera")]
pub(crate) fn run(args: &LiveArgs) -> anyhow::Result<()> {
    camera::run(args)
}

#[cfg(feature = "camera")]
mod camera {
    use super::LiveArgs;
    use crate::{
        cli::replay::{first_failure, follow, stdout_sink, summary},
        parts,
        pipeline::{
            Config, Latency,
            threads::{self, Pace},
        },
        timeline::{Session, Sink as _, Sinks},
    };

    pub(super) fn run(args: &LiveArgs) -> anyhow::Result<()> {
        let source = parts::open_camera(args.camera)?;
        let choice = args.coach.choice();
        let prepared = parts::prepare(&choice)?;
        let language = choice.language.clone();
        let (cooldown, exercise) = (prepared.cooldown, args.coach.counted());
        let config = Config { latency: Latency::Measured, cooldown, language, exercise, ..Config::default() };
        let info = source.info().clone();
        let session = Session {
            version: env!("CARGO_PKG_VERSION"),
            source: info.name,
            width: info.width,
            height: info.height,
            fps: info.fps,
            model: prepared.parts.coach.describe(),
            lens: prepared.lens.to_owned(),
            language: choice.language,
            exercise: choice.exercise,
            latency: config.latency.to_string(),
            seed: choice.seed,
            talkativeness: prepared.talkativeness,
            cooldown: prepared.cooldown.as_secs_f64(),
        };
        let mut sinks = Sinks::default();
        #[cfg(feature = "desktop")]
        if !args.headless && !args.json {
            match crate::ui::display() {
                Ok(()) => {
                    let camera = args.camera;
                    return crate::ui::run(crate::ui::Play {
                        title: session.source.clone(),
                        model: session.model.clone(),
                        config,
                        talkativeness: prepared.talkativeness,
                        parts: prepared.parts,
                        source,
                        reopen: Box::new(move || parts::open_camera(camera)),
                        pace: Pace::Source,
                        sinks,
                        with_timing: true,
                        screenshot: None,
                    });
                }
                Err(why) => tracing::warn!("{why}: printing the timeline instead of opening a window"),
            }
        }
        sinks.0.push(stdout_sink(args.json));
        sinks.begin(&session)?;
        let dial = prepared.talkativeness;
        let running = threads::start(source, prepared.parts, &config, Pace::Source, dial, Box::new(|| {}))?;
        let failures = follow(&running, &mut sinks)?;
        sinks.end(&summary(running.monitor(), true))?;
        first_failure(failures)
    }
}
