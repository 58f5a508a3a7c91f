//! The fallback without a native library. A process has one runtime, so ONNX Runtime's answers come from a child process.
#![allow(clippy::print_stderr, reason = "skipped tests are said")]

mod pose_common;

use pose_common::{GYM, assets, clip, runtime};
use spotter_vision::pose::{PoseTracker, Runtime, TrackerOptions, runtime::Backend};
use std::process::Command;

const OUT: &str = "SPOTTER_TEST_POSE_OUT";

/// Joints, in heights of the picture, and visibility of every third frame, each found anew.
fn answers(runtime: &Runtime) -> Option<Vec<f32>> {
    let frames = clip("squats_gym.gif", GYM, 10.0)?;
    let mut tracker = PoseTracker::load(runtime, &assets(), TrackerOptions::default()).unwrap();
    let mut all = Vec::new();
    for frame in frames.iter().step_by(3).take(10) {
        tracker.reset();
        let pose = tracker.look(frame).unwrap().expect("he is in every frame");
        all.extend(pose.raw.joints.iter().flatten().map(|v| v / GYM[1] as f32));
        all.extend(pose.raw.visibility);
    }
    Some(all)
}

#[test]
#[ignore = "the child of the test below"]
fn child() {
    let Some(path) = std::env::var_os(OUT) else { return };
    let runtime = runtime();
    if let (Backend::OnnxRuntime { .. }, Some(answers)) = (runtime.backend(), answers(&runtime)) {
        eprintln!("{}", runtime.describe());
        std::fs::write(path, answers.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
    }
}

#[test]
fn tract_and_onnx_runtime_agree() {
    let runtime = Runtime::tract().unwrap();
    assert!(runtime.describe().starts_with("tract (pure Rust"), "{}", runtime.describe());
    assert!(Runtime::load(&["/nowhere.so".into()]).unwrap().describe().starts_with("tract"), "the first choice stays");
    let Some(tract) = answers(&runtime) else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("answers");
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env(OUT, &out)
        .status()
        .unwrap();
    assert!(status.success());
    let Ok(bytes) = std::fs::read(&out) else {
        eprintln!("skipped: no ONNX Runtime here; scripts/setup.sh installs it");
        return;
    };
    let native: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    assert_eq!(native.len(), tract.len());
    let worst = native.iter().zip(&tract).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    eprintln!("tract and ONNX Runtime differ by at most {worst}");
    assert!(worst < 1e-4, "{worst}");
}
