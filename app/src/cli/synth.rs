//! `spotter synth`: synthetic sessions in QEVD's own files, with video.

use anyhow::{Context as _, Result};
use clap::Args;
use spotter_datasets::{
    qevd::{self, SessionRecord},
    synthetic::{
        motion::MotionLibrary,
        phrases::Lang,
        session::{Session, SessionOptions, Split},
    },
};
use spotter_vision::{
    Frame,
    avatar::AvatarView,
    source::writer::{VideoWriter, WriterOptions},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Frames a second of the videos: every third is one that a model of 8 frames a second sees.
const FPS: f64 = 24.0;

/// Write synthetic coaching sessions as a QEVD data set with video
#[derive(Debug, Args)]
#[command(
    after_help = "The videos show drawn bodies, as the avatar lens draws people: coach them with --lens none.\n\n\
                        Example:\n  spotter synth --out data --sessions 3 --seed 1\n  \
                        spotter replay data/QEVD-FIT-COACH/long_range_videos/0001.mp4 --lens none --headless"
)]
pub(crate) struct SynthArgs {
    /// Folder to write; QEVD-FIT-COACH is made inside it
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Number of sessions
    #[arg(long, default_value_t = 1)]
    sessions: usize,
    /// Seed of the first; the others follow
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Shortest session in seconds
    #[arg(long, default_value_t = 180.0)]
    seconds: f64,
    /// Language of the coach: en or ko
    #[arg(long, default_value = "en")]
    lang: String,
    /// Folder of recorded motion (`ui_prmd_25hz.safetensors` and `cmu/`): half of the exercises that it has are done by
    /// people of it that no training saw
    #[arg(long, value_name = "DIR")]
    motion: Option<PathBuf>,
    /// Side of the square videos in pixels
    #[arg(long, default_value_t = 224)]
    side: usize,
}

/// Writes the sessions.
///
/// # Errors
/// A folder or video that can't be written, a language nobody speaks.
pub(crate) fn run(args: &SynthArgs) -> Result<()> {
    let lang = Lang::from_code(&args.lang).with_context(|| format!("--lang {}: en or ko expected", args.lang))?;
    let folder = args.out.join("QEVD-FIT-COACH");
    let videos = folder.join("long_range_videos");
    std::fs::create_dir_all(&videos).with_context(|| format!("{}: can't be made", videos.display()))?;
    let library = args.motion.as_deref().map(MotionLibrary::load).transpose()?.map(Arc::new);
    let bar = indicatif::ProgressBar::new(args.sessions as u64);
    let mut records = Vec::new();
    for i in 0..args.sessions {
        let options = SessionOptions {
            min_seconds: args.seconds,
            lang,
            split: Split::Validation,
            fps: FPS,
            library: library.clone(),
            ..SessionOptions::default()
        };
        let session = Session::generate(args.seed + i as u64, &options);
        records.push(write(&session, &folder, &format!("{:04}.mp4", i + 1), args.side)?);
        // The index is written anew each time, so a run that is stopped leaves a whole data set.
        qevd::write_index(&folder, &records)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    let events: usize = records.iter().map(|r| r.feedback_timestamps.len()).sum();
    super::print_json(&serde_json::json!({ "folder": folder, "sessions": records.len(), "events": events }))
}

fn write(session: &Session, folder: &Path, name: &str, side: usize) -> Result<SessionRecord> {
    let path = folder.join("long_range_videos").join(name);
    let mut writer =
        VideoWriter::create_with(&path, side, side, FPS, WriterOptions { crf: 14, ..WriterOptions::default() })?;
    let mut view = AvatarView::new(side);
    let mut times = Vec::new();
    for (seq, (t, body)) in session.noisy_bodies().iter().enumerate() {
        let t = Duration::from_secs_f64(*t);
        let frame = Frame::from_rgb(seq as u64, t, side, side, view.draw(t, body))
            .context("a drawn frame has the wrong size")?;
        writer.push(&frame)?;
        times.push(t.as_secs_f64());
    }
    writer.finish()?;
    Ok(qevd::write_session(folder, name, &times, &session.events)?)
}
