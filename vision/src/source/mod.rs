//! Where frames come from: a recording, a folder of images, a test pattern, a camera.

use crate::Frame;
use std::{path::PathBuf, time::Duration};

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
}

/// A stream of frames in order of media time, read on the thread that owns it.
pub trait FrameSource: Send {
    /// What is known of the source.
    fn info(&self) -> &SourceInfo;
    /// The next frame; `None` at the end. After an error the source is at its end.
    fn next_frame(&mut self) -> Result<Option<Frame>, SourceError>;
}
