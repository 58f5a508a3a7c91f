//! The model that ships, on the demo clip and on real recordings.

mod common;

use common::{spotter, stderr, stdout};
use spotter_datasets::synthetic::{
    Exercise,
    phrases::{self, Lang},
};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn replay(clip: &Path, more: &[&str]) -> String {
    let clip = clip.to_string_lossy();
    let out = spotter(&[&["replay", &clip, "--headless", "--json"], more].concat());
    assert!(out.status.success(), "{}", stderr(&out));
    stdout(&out)
}

/// The texts of one kind of feedback.
fn said(timeline: &str, kind: &str) -> Vec<String> {
    let lines = timeline.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
    lines
        .filter(|l| l["type"] == "feedback" && l["kind"] == kind)
        .map(|l| l["text"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn the_demo_clip_is_coached_the_same_twice() {
    let demo = root().join("assets/demo/session.mp4");
    let timeline = replay(&demo, &["--lens", "none"]);
    assert_eq!(timeline, replay(&demo, &["--lens", "none"]));
    let said = said(&timeline, "coaching");
    println!("{said:#?}");
    assert!(said.iter().any(|s| s.to_lowercase().contains("side lunges")), "{said:?}");
    let counts = said.iter().filter(|s| s.chars().any(|c| c.is_ascii_digit())).count();
    assert!(counts >= 3, "{said:?}");
}

#[test]
fn a_person_partly_out_of_view_is_told_so_and_not_coached() {
    let clip = root().join("../shared/data/video/not_in_view_gym.gif");
    if !clip.exists() {
        println!("skipped: {} is not there", clip.display());
        return;
    }
    let timeline = replay(&clip, &[]);
    assert_eq!(said(&timeline, "view"), ["I can't see all of you. Step back, I can't see your feet."]);
    assert!(said(&timeline, "coaching").is_empty(), "{timeline}");
}

/// The real model through the real lens, at the clip's own speed and as fast as it goes.
#[test]
fn a_recording_of_a_person_gives_the_same_at_any_speed() {
    let clip = root().join("../shared/data/video/jumping_jacks_gym.gif");
    if !clip.exists() {
        println!("skipped: {} is not there", clip.display());
        return;
    }
    let timeline = replay(&clip, &["--speed", "max"]);
    assert_eq!(timeline, replay(&clip, &["--speed", "1"]));
    assert!(timeline.contains(r#""lens":"avatar""#) && timeline.contains(r#""type":"feedback""#), "{timeline}");
}

/// People that no training ever saw: the right exercise is named or counted, no other is, and no count is off by more
/// than one.
#[test]
fn people_on_real_recordings_are_coached() {
    for (clip, exercise, reps) in [
        ("squats_studio.mp4", Exercise::Squat, 3_u32),
        ("squats_gym.gif", Exercise::Squat, 4),
        ("jumping_jacks_gym.gif", Exercise::JumpingJack, 3),
        ("push_ups_gym.gif", Exercise::PushUp, 4),
    ] {
        let path = root().join("../shared/data/video").join(clip);
        if !path.exists() {
            println!("skipped: {} is not there", path.display());
            continue;
        }
        let timeline = replay(&path, &[]);
        let said = said(&timeline, "coaching");
        let counted_by_joints = timeline.lines().filter(|l| l.contains(r#""type":"rep""#)).count();
        println!("{clip}: {counted_by_joints} repetitions, {said:#?}");
        let named: Vec<Exercise> = said.iter().flat_map(|s| phrases::named(s, Lang::En)).collect();
        let counts: Vec<u32> = said.iter().filter_map(|s| phrases::classify(s, Lang::En).count).collect();
        let counted = !counts.is_empty();
        assert!(counts.iter().all(|n| *n <= reps + 1), "{clip}: {reps} were done, {said:?}");
        assert!(counted_by_joints <= reps as usize + 1, "{clip}: {counted_by_joints} instead of {reps}");
        assert!(named.contains(&exercise) || counted, "{clip}: {said:?}");
        assert!(named.iter().all(|n| *n == exercise), "{clip}: {said:?}");
    }
}
