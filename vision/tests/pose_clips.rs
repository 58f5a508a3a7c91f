//! Pose on real clips: angles, views, people, and files that are missing or broken.
#![allow(clippy::print_stderr, reason = "skipped tests and measurements are said")]

mod pose_common;

use pose_common::{GYM, STUDIO, assets, clip, runtime, tracker};
use spotter_vision::{
    Body, Frame, Joint,
    lens::{Lens, LensError, View},
    pose::{AvatarLens, PoseTracker, TrackerOptions},
};

fn knee_angle(body: &Body, [hip, knee, ankle]: [Joint; 3]) -> f32 {
    let [h, k, a] = [hip, knee, ankle].map(|j| body.joint(j));
    let (u, v): ([f32; 3], [f32; 3]) = (std::array::from_fn(|i| h[i] - k[i]), std::array::from_fn(|i| a[i] - k[i]));
    let dot: f32 = (0..3).map(|i| u[i] * v[i]).sum();
    let length = |w: [f32; 3]| w.iter().map(|x| x * x).sum::<f32>().sqrt();
    (dot / (length(u) * length(v))).clamp(-1.0, 1.0).acos().to_degrees()
}

#[test]
fn the_knee_bends_and_straightens_in_a_squat() {
    let Some(frames) = clip("squats_studio.mp4", STUDIO, 5.0) else { return };
    let mut tracker = tracker(&runtime());
    let mut angles = Vec::new();
    for frame in &frames {
        let pose = tracker.look(frame).unwrap().expect("she is in every frame");
        let left = knee_angle(&pose.body, [Joint::LeftHip, Joint::LeftKnee, Joint::LeftAnkle]);
        let right = knee_angle(&pose.body, [Joint::RightHip, Joint::RightKnee, Joint::RightAnkle]);
        angles.push((left + right) / 2.0);
    }
    eprintln!("knee angles: {:?}", angles.iter().map(|a| a.round() as i32).collect::<Vec<_>>());
    let deepest = (0..angles.len()).min_by(|&a, &b| angles[a].total_cmp(&angles[b])).unwrap();
    let highest = |part: &[f32]| part.iter().copied().fold(0.0, f32::max);
    let (before, after) = (highest(&angles[..deepest]), highest(&angles[deepest..]));
    assert!((angles[deepest] - 85.0).abs() < 15.0, "deepest {}", angles[deepest]);
    assert!((before - 167.0).abs() < 15.0 && (after - 167.0).abs() < 15.0, "standing {before}, {after}");
}

/// Share of the frames with this view.
fn share(name: &str, size: [usize; 2], fps: f64, view: View) -> Option<f64> {
    let frames = clip(name, size, fps)?;
    let mut lens = AvatarLens::load(&runtime(), &assets(), 64, TrackerOptions::default()).unwrap();
    let views: Vec<View> = frames.iter().map(|frame| lens.look(frame).unwrap().view).collect();
    let share = views.iter().filter(|v| **v == view).count() as f64 / views.len() as f64;
    let letters: String = views
        .iter()
        .map(|v| match v {
            View::Clear => 'C',
            View::PartlyOut => 'p',
            View::NoPerson => '-',
        })
        .collect();
    eprintln!("{name}: {letters}");
    Some(share)
}

#[test]
fn whole_bodies_are_clear_and_a_leg_outside_is_not() {
    let clips = [
        ("squats_studio.mp4", STUDIO, 5.0),
        ("squats_gym.gif", GYM, 10.0),
        ("jumping_jacks_gym.gif", GYM, 10.0),
        ("push_ups_gym.gif", GYM, 10.0),
    ];
    for (name, size, fps) in clips {
        if let Some(clear) = share(name, size, fps, View::Clear) {
            assert!(clear > 0.95, "{name}: clear in {clear:.2}");
        }
    }
    if let Some(out) = share("not_in_view_gym.gif", GYM, 10.0, View::PartlyOut) {
        assert!(out > 0.4, "partly out in {out:.2}");
    }
}

#[test]
fn an_empty_picture_has_nobody_and_two_men_are_counted() {
    let Some(frames) = clip("squats_gym.gif", GYM, 10.0) else { return };
    let mut tracker = tracker(&runtime());
    let grey = Frame::from_rgb(0, frames[0].t, 200, 200, vec![90; 120_000]).unwrap();
    assert!(tracker.look(&grey).unwrap().is_none());
    assert_eq!(tracker.look(&frames[0]).unwrap().unwrap().people, 1);
    tracker.reset();
    let rgb = frames[0].rgb.chunks_exact(GYM[0] * 3).flat_map(|row| row.iter().chain(row).copied()).collect();
    let two = Frame::from_rgb(0, frames[0].t, GYM[0] * 2, GYM[1], rgb).unwrap();
    assert_eq!(tracker.look(&two).unwrap().unwrap().people, 2);
}

/// A picture of `size` with other pictures pasted in, each `(frame, left, top, scale)`, nearest pixel.
fn pasted(t: std::time::Duration, size: [usize; 2], parts: &[(&Frame, usize, usize, f32)]) -> Frame {
    let mut rgb = vec![90u8; size[0] * size[1] * 3];
    for (frame, left, top, scale) in parts {
        let (w, h) = ((frame.width as f32 * scale) as usize, (frame.height as f32 * scale) as usize);
        for (y, x) in (0..h).flat_map(|y| (0..w).map(move |x| (y, x))) {
            let from = ((y as f32 / scale) as usize * frame.width + (x as f32 / scale) as usize) * 3;
            let to = ((top + y) * size[0] + left + x) * 3;
            rgb[to..to + 3].copy_from_slice(&frame.rgb[from..from + 3]);
        }
    }
    Frame::from_rgb(0, t, size[0], size[1], rgb).unwrap()
}

fn middle(body: &Body) -> f32 {
    (body.joint(Joint::LeftHip)[0] + body.joint(Joint::RightHip)[0]) / 2.0
}

#[test]
fn of_two_people_the_larger_is_coached() {
    let Some(frames) = clip("squats_gym.gif", [GYM[0] * 2, GYM[1] * 2], 10.0) else { return };
    let size = [700, 560];
    let mut tracker = tracker(&runtime());
    for small_first in [true, false] {
        tracker.reset();
        let (small, large) = if small_first { (40, 340) } else { (430, 40) };
        let two = pasted(frames[0].t, size, &[(&frames[0], small, 110, 0.8), (&frames[0], large, 10, 1.0)]);
        let pose = tracker.look(&two).unwrap().unwrap();
        assert_eq!(pose.people, 2);
        let expected = large as f32 + GYM[0] as f32;
        assert!((middle(&pose.body) - expected).abs() < 60.0, "at {}, not {expected}", middle(&pose.body));
    }
}

/// Somebody clearly larger takes the place of the one who was followed: another person, whose figure begins anew.
#[test]
fn a_larger_person_who_comes_later_is_another_one() {
    let Some(frames) = clip("squats_gym.gif", [GYM[0] * 2, GYM[1] * 2], 10.0) else { return };
    let (size, man) = ([520, 560], &frames[0]);
    let mut lens = AvatarLens::new(tracker(&runtime()), 64);
    let mut seen = Vec::new();
    for i in 0..30u64 {
        let t = std::time::Duration::from_millis(100 * i);
        let small = (man, 0, 200, 0.5);
        let parts = [small, (man, 200, 10, 1.0)];
        let frame = pasted(t, size, if i < 12 { &parts[..1] } else { &parts });
        let sight = lens.look(&frame).unwrap();
        seen.push((sight.person, sight.people, sight.body.map(|b| middle(&b)).unwrap_or(f32::NAN)));
    }
    let (first, last) = (seen[11], seen[29]);
    assert_eq!((first.0, first.1), (0, 1), "{seen:?}");
    assert_eq!((last.0, last.1), (1, 2), "{seen:?}");
    assert!(first.2 < 160.0 && last.2 > 280.0, "{seen:?}");
}

/// The larger landmark model can stand in for the smaller one.
#[test]
fn the_full_landmark_model_sees_the_same_body() {
    let full = pose_common::workspace().join("../shared/data/pose/pose_landmark_full.onnx");
    if !full.exists() {
        eprintln!("skipped: {} is absent", full.display());
        return;
    }
    let Some(frames) = clip("squats_studio.mp4", STUDIO, 5.0) else { return };
    let (runtime, detector) = (runtime(), assets().join("pose_detection.onnx"));
    let mut lite = tracker(&runtime);
    let mut full = PoseTracker::load_models(&runtime, &detector, &full, TrackerOptions::default()).unwrap();
    let mut away = Vec::new();
    for frame in frames.iter().take(20) {
        let (a, b) = (lite.look(frame).unwrap().unwrap(), full.look(frame).unwrap().unwrap());
        away.extend(a.raw.joints.iter().zip(&b.raw.joints).map(|(p, q)| (p[0] - q[0]).hypot(p[1] - q[1])));
    }
    away.sort_by(f32::total_cmp);
    let median = away[away.len() / 2];
    eprintln!("full against lite: a joint is {median:.1} px apart at the median, of {} px", STUDIO[1]);
    assert!(median < 0.02 * STUDIO[1] as f32, "{median}");
}

#[test]
fn half_precision_weights_move_no_joint_by_half_a_pixel() {
    let originals = pose_common::workspace().join("../shared/data/pose");
    if !originals.join("pose_landmark_lite.onnx").exists() {
        eprintln!("skipped: {} is absent", originals.display());
        return;
    }
    let runtime = runtime();
    for (name, size, fps) in
        [("squats_gym.gif", GYM, 10.0), ("push_ups_gym.gif", GYM, 10.0), ("squats_studio.mp4", STUDIO, 5.0)]
    {
        let Some(frames) = clip(name, size, fps) else { return };
        let mut half = tracker(&runtime);
        let mut single = PoseTracker::load(&runtime, &originals, TrackerOptions::default()).unwrap();
        let mut worst = 0.0_f32;
        for frame in frames.iter().take(30) {
            // Each frame anew: tracked regions would carry differences on.
            half.reset();
            single.reset();
            if let (Some(a), Some(b)) = (half.look(frame).unwrap(), single.look(frame).unwrap()) {
                for (p, q) in a.raw.joints.iter().zip(&b.raw.joints) {
                    worst = worst.max((p[0] - q[0]).hypot(p[1] - q[1]));
                }
            }
        }
        eprintln!("{name}: half precision moves a joint by at most {worst:.3} px");
        assert!(worst < 0.5, "{name}: {worst}");
    }
}

#[test]
fn missing_broken_and_foreign_models_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = runtime();
    let problem = || match PoseTracker::load(&runtime, folder.path(), TrackerOptions::default()) {
        Err(LensError::Model { path, problem }) => {
            assert!(path.ends_with("pose_detection.onnx"), "{}", path.display());
            problem
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("loaded"),
    };
    assert!(problem().contains("can't be read"));
    let file = folder.path().join("pose_detection.onnx");
    let good = std::fs::read(assets().join("pose_detection.onnx")).unwrap();
    std::fs::write(&file, b"").unwrap();
    problem();
    std::fs::write(&file, &good[..good.len() / 2]).unwrap();
    assert!(problem().contains("ONNX"));
    std::fs::copy(assets().join("pose_landmark_lite.onnx"), &file).unwrap();
    assert!(problem().contains("another model"));
}
