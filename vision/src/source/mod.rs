//! Where frames come from: a recording, a folder of images, a test pattern, a camera.

#[cfg(feature = "camera")]
pub mod camera;
pub mod images;
#[cfg(feature = "video")]
mod orientation;
pub mod pattern;
#[cfg(feature = "video")]
mod scale;
#[cfg(feature = "video")]
mod truncation;
#[cfg(feature = "video")]
pub mod video;
#[cfg(feature = "video")]
pub mod writer;

use crate::Frame;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// What is known of a source before its first frame.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SourceInfo {
    /// A name for people: file name, camera name.
    pub name: String,
    /// Upright size in pixels, rotation applied.
    pub width: usize,
    /// See `width`.
    pub height: usize,
    /// Nominal frame rate; frames may come at other times (variable rate).
    pub fps: f64,
    /// Length, where the container says it.
    pub duration: Option<Duration>,
}

/// What is wrong with a camera, for whoever tells it in words of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// There is none of this number.
    Missing,
    /// Another program has it.
    Busy,
    /// This user may not use it.
    Forbidden,
    /// It does not answer when it is opened.
    Silent,
    /// It was there and went away.
    Unplugged,
    /// It is there and sends no pictures any more.
    Frozen,
    /// Its pictures can't be read.
    Unreadable,
    /// Something else.
    Other,
}

/// An error of a source. Every message names the source, what was expected and what to do.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It can't be opened.
    #[error("{path}: {problem}")]
    Open {
        /// The file or device.
        path: PathBuf,
        /// What is wrong, what was expected, what to do.
        problem: String,
    },
    /// It broke after `frames` good frames, at media time `t`.
    #[error("{path}: broke off at {:.2} s after {frames} frames: {problem}", t.as_secs_f64())]
    Broken {
        /// The file or device.
        path: PathBuf,
        /// Media time of the last good frame.
        t: Duration,
        /// Good frames delivered before.
        frames: u64,
        /// What is wrong.
        problem: String,
    },
    /// A camera that does not open or gives no more pictures; it may come back.
    #[error("{camera}: {problem}")]
    Camera {
        /// Which one.
        camera: String,
        /// What kind of trouble it is.
        trouble: Trouble,
        /// The same in words, and what to do.
        problem: String,
    },
}

impl SourceError {
    /// The trouble of a camera; `None` for what is no camera.
    pub fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::Camera { trouble, .. } => Some(*trouble),
            Self::Open { .. } | Self::Broken { .. } => None,
        }
    }
}

/// A stream of frames in order of media time, read on the thread that owns it.
pub trait FrameSource: Send {
    /// What is known of the source.
    fn info(&self) -> &SourceInfo;
    /// The next frame; `None` at the end. After an error the source is at its end.
    fn next_frame(&mut self) -> Result<Option<Frame>, SourceError>;
    /// Frames so far that came while nobody took them, and are lost. A recording loses none.
    fn dropped(&self) -> u64 {
        0
    }
}

/// What [`open`] passes on to the source it finds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OpenOptions {
    /// Larger pictures are scaled down to this longest side while they are converted; not for the test pattern.
    pub max_side: Option<usize>,
    /// Pictures a second of a folder of images.
    pub image_fps: f64,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { max_side: None, image_fps: 30.0 }
    }
}

/// Opens what `spec` names: a folder of images, a video file, or `pattern`, `pattern:640x480@30:10s`
/// (see [`pattern::PatternOptions::parse`]). A file that is called `pattern` opens as `./pattern`.
///
/// # Errors
/// [`SourceError::Open`] saying what is wrong with it and what to do.
pub fn open(spec: impl AsRef<Path>, options: OpenOptions) -> Result<Box<dyn FrameSource>, SourceError> {
    let path = spec.as_ref();
    if let Some(text) = path.to_str().filter(|text| *text == "pattern" || text.starts_with("pattern:")) {
        return Ok(Box::new(pattern::PatternSource::new(pattern::PatternOptions::parse(text)?)?));
    }
    if path.is_dir() {
        let images = images::ImagesOptions { fps: options.image_fps, max_side: options.max_side };
        return Ok(Box::new(images::ImagesSource::open(path, images)?));
    }
    open_file(path, options)
}

#[cfg(feature = "video")]
fn open_file(path: &Path, options: OpenOptions) -> Result<Box<dyn FrameSource>, SourceError> {
    let video = video::VideoOptions { max_side: options.max_side, ..Default::default() };
    Ok(Box::new(video::VideoSource::open_with(path, video)?))
}

#[cfg(not(feature = "video"))]
fn open_file(path: &Path, _: OpenOptions) -> Result<Box<dyn FrameSource>, SourceError> {
    let problem =
        "this build can't read video files; build with the feature `video`, or give a folder of pictures".into();
    Err(SourceError::Open { path: path.to_path_buf(), problem })
}

/// The last part of a path, for people.
fn display_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// The size scaled down, in proportion, so that its longer side is at most `max_side`; never scaled up, never below 1.
fn fit((width, height): (usize, usize), max_side: Option<usize>) -> (usize, usize) {
    let longer = width.max(height);
    match max_side {
        Some(limit) if longer > limit => {
            let scaled = |side: usize| ((side * limit + longer / 2) / longer).max(1);
            (scaled(width), scaled(height))
        }
        _ => (width, height),
    }
}
