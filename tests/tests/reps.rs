//! Repetitions counted from poses, in real recordings.

#![allow(clippy::print_stdout, reason = "what was counted belongs into the test's output")]

mod common;

use common::{spotter, stderr, stdout};
use spotter_vision::source::{self, OpenOptions};
use std::path::{Path, PathBuf};

fn clip(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/video").join(name);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is not there", path.display());
    None
}

/// The repetitions and the other types of lines that a replay tells.
fn counted(clip: &Path, exercise: &str) -> usize {
    let clip = clip.to_string_lossy();
    let out = spotter(&["replay", &clip, "--headless", "--json", "--exercise", exercise]);
    assert!(out.status.success(), "{}", stderr(&out));
    let timeline = stdout(&out);
    let reps = timeline.lines().filter(|line| line.contains(r#""type":"rep""#)).count();
    println!("{clip}, {exercise}: {reps}");
    reps
}

/// Counted by eye and, in the clips from the gym, by the counter burnt into them. The third squat in the studio ends
/// with the recording, at its lowest point.
#[test]
fn repetitions_on_real_recordings_are_off_by_at_most_one() {
    for (name, exercise, reps) in [
        ("squats_studio.mp4", "squats", 3_usize),
        ("squats_gym.gif", "squats", 4),
        ("jumping_jacks_gym.gif", "jumping jacks", 3),
        ("push_ups_gym.gif", "push-ups", 4),
    ] {
        let Some(clip) = clip(name) else { continue };
        let counted = counted(&clip, exercise);
        assert!(counted.abs_diff(reps) <= 1, "{name}: {counted} instead of {reps}");
    }
}

#[test]
fn somebody_partly_out_of_the_picture_does_no_repetitions() {
    let Some(clip) = clip("not_in_view_gym.gif") else { return };
    for exercise in ["squats", "jumping jacks", "push-ups"] {
        assert_eq!(counted(&clip, exercise), 0);
    }
}

/// Twenty seconds of one picture.
#[test]
fn a_real_person_who_stands_still_does_no_repetitions() {
    let Some(clip) = clip("squats_studio.mp4") else { return };
    let frame = source::open(&clip, OpenOptions::default()).unwrap().next_frame().unwrap().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("0000.png");
    let (width, height) = (frame.width as u32, frame.height as u32);
    image::save_buffer(&first, &frame.rgb, width, height, image::ColorType::Rgb8).unwrap();
    for i in 1..600 {
        std::fs::hard_link(&first, folder.path().join(format!("{i:04}.png"))).unwrap();
    }
    for exercise in ["squats", "leg raises"] {
        assert_eq!(counted(folder.path(), exercise), 0);
    }
}

/// Two sets of two squats, with a rest between them, on a recording of four.
#[test]
fn a_workout_goes_through_its_sets_on_a_real_recording() {
    let Some(clip) = clip("squats_gym.gif") else { return };
    let folder = tempfile::tempdir().unwrap();
    let workout = folder.path().join("legs.toml");
    std::fs::write(&workout, "[[exercise]]\nname = \"squats\"\nsets = 2\nreps = 2\nrest = 0\n").unwrap();
    let (clip, workout) = (clip.to_string_lossy().into_owned(), workout.to_string_lossy().into_owned());
    let out = spotter(&["replay", &clip, "--headless", "--json", "--workout", &workout]);
    assert!(out.status.success(), "{}", stderr(&out));
    let lines: Vec<serde_json::Value> = stdout(&out).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let of = |kind: &str| lines.iter().filter(|l| l["type"] == kind).cloned().collect::<Vec<_>>();
    let reps: Vec<_> = of("rep").iter().map(|l| (l["set"].clone(), l["count"].clone())).collect();
    assert_eq!(reps, [(1, 1), (1, 2), (2, 1), (2, 2)].map(|(a, b): (i32, i32)| (a.into(), b.into())));
    assert_eq!((of("set").len(), of("finished").len()), (2, 1));
}
