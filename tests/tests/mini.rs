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
    assert_eq!(said(&timeline, "view"), ["Step back, I can't see your feet."]);
    assert!(said(&timeline, "coaching").is_empty(), "{timeline}");
}

/// People that no training ever saw: the right exercise is named or counted, and no other.
#[test]
fn people_on_real_recordings_are_coached() {
    for (clip, exercise) in [
        ("squats_studio.mp4", Exercise::Squat),
        ("squats_gym.gif", Exercise::Squat),
        ("jumping_jacks_gym.gif", Exercise::JumpingJack),
        ("push_ups_gym.gif", Exercise::PushUp),
    ] {
        let path = root().join("../shared/data/video").join(clip);
        if !path.exists() {
            println!("skipped: {} is not there", path.display());
            continue;
        }
        let said = said(&replay(&path, &[]), "coaching");
        println!("{clip}: {said:#?}");
        let named: Vec<Exercise> = said.iter().flat_map(|s| phrases::named(s, Lang::En)).collect();
        let counted = said.iter().any(|s| phrases::classify(s, Lang::En).count.is_some());
        assert!(named.contains(&exercise) || counted, "{clip}: {said:?}");
        assert!(named.iter().all(|n| *n == exercise), "{clip}: {said:?}");
    }
}
