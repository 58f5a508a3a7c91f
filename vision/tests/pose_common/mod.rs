//! Real clips for the pose tests, decoded by the ffmpeg program.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::print_stderr, reason = "shared by several tests")]

use spotter_vision::Frame;
use spotter_vision::pose::{PoseTracker, Runtime, TrackerOptions, runtime::candidates};
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub fn assets() -> PathBuf {
    workspace().join("assets/pose")
}

/// What the program would run: ONNX Runtime where set-up has put it.
pub fn runtime() -> Runtime {
    Runtime::load(&candidates(None, &[workspace().join(".deps/onnxruntime")])).unwrap()
}

pub fn tracker(runtime: &Runtime) -> PoseTracker {
    PoseTracker::load(runtime, &assets(), TrackerOptions::default()).unwrap()
}

/// The frames of a clip; `None`, said on stderr, where the clip or ffmpeg is absent.
pub fn clip(name: &str, size: [usize; 2], fps: f64) -> Option<Vec<Frame>> {
    let path = workspace().join("../shared/data/video").join(name);
    if !path.exists() {
        eprintln!("skipped: {} is absent", path.display());
        return None;
    }
    let [width, height] = size;
    let scale = format!("scale={width}:{height}");
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(&path)
        .args(["-vf", &scale, "-pix_fmt", "rgb24", "-f", "rawvideo", "-"])
        .output();
    let Ok(output) = output else {
        eprintln!("skipped: no ffmpeg program");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let frames: Vec<Frame> = output
        .stdout
        .chunks_exact(width * height * 3)
        .enumerate()
        .map(|(i, rgb)| {
            Frame::from_rgb(i as u64, Duration::from_secs_f64(i as f64 / fps), width, height, rgb.to_vec()).unwrap()
        })
        .collect();
    assert!(frames.len() > 10, "{name}: only {} frames", frames.len());
    Some(frames)
}

pub const GYM: [usize; 2] = [153, 272];
pub const STUDIO: [usize; 2] = [720, 1280];
