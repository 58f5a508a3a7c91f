//! QEVD files as they should not be, prediction files of all three forms, short clips.

use serde_json::{Value, json};
use spotter_datasets::qevd::{
    CLIP_FILES, ClipCounts, INDEX_FILE, Predictions, Protocol, ZONE_SHIFT, load, load_clips, read_any_predictions,
    write_timestamps,
};
use std::{
    fs,
    path::{Path, PathBuf},
};

const T0: f64 = 1_000_000_000.0 + ZONE_SHIFT;

/// One session of two exercises, frames a second apart.
fn write(folder: &Path) -> Value {
    let times: Vec<i64> = (0..15).map(|i| (1_000_000_000 + i) * 1_000_000_000).collect();
    write_timestamps(&folder.join("t.npy"), &times).unwrap();
    let shown = [
        "First up are squats!",
        "",
        "5",
        "",
        "Lower",
        "",
        "Moving on to lunges!",
        "",
        "ok",
        "",
        "12",
        "",
        "That's it!",
        "",
        "",
    ];
    let events: Vec<f64> = [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0].map(|t| T0 + t).to_vec();
    let value = json!([{
        "long_range_video_file": "./long_range_videos/0006.mp4", "video_timestamps": "t.npy", "feedbacks": shown,
        "feedback_timestamps": events, "is_transition": [true, false, false, true, false, false, true],
    }]);
    fs::write(folder.join(INDEX_FILE), value.to_string()).unwrap();
    value
}

/// Small numbers that differ from call to call.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n.max(1)
    }
}

/// The places of all values inside a value.
fn places(value: &Value, at: &str, out: &mut Vec<String>) {
    out.push(at.to_owned());
    match value {
        Value::Array(items) => items.iter().enumerate().for_each(|(i, item)| places(item, &format!("{at}/{i}"), out)),
        Value::Object(map) => map.iter().for_each(|(key, item)| places(item, &format!("{at}/{key}"), out)),
        _ => {}
    }
}

fn mutate(value: &mut Value, dice: &mut Dice) {
    let mut all = Vec::new();
    places(value, "", &mut all);
    let at = all[dice.below(all.len())].clone();
    let Some(target) = value.pointer_mut(&at) else { return };
    let odd = [
        Value::Null,
        json!(true),
        json!(-1),
        json!(1e308),
        json!(-1e308),
        json!(""),
        json!("\u{0}"),
        json!([]),
        json!({}),
        json!([[]]),
        json!("../../../../etc/passwd"),
        json!(u64::MAX),
        json!("First up are !"),
        json!([null, "x", 3]),
    ];
    match (dice.below(4), target) {
        (0, Value::Array(items)) if !items.is_empty() => drop(items.remove(dice.below(items.len()))),
        (1, Value::Array(items)) if !items.is_empty() => items.push(items[dice.below(items.len())].clone()),
        (0, Value::Object(map)) if !map.is_empty() => {
            let key = map.keys().nth(dice.below(map.len())).cloned().unwrap();
            map.remove(&key);
        }
        (_, target) => *target = odd[dice.below(odd.len())].clone(),
    }
}

#[test]
fn ten_thousand_malformed_files_give_errors_and_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    let good = write(folder.path());
    let path = folder.path().join(INDEX_FILE);
    let mut dice = Dice(11);
    let (mut refused, mut read) = (0, 0);
    for round in 0..10_000 {
        let mut value = good.clone();
        for _ in 0..=dice.below(3) {
            mutate(&mut value, &mut dice);
        }
        let mut bytes = value.to_string().into_bytes();
        if round % 3 == 0 {
            let i = dice.below(bytes.len());
            match dice.below(3) {
                0 => bytes.truncate(i),
                1 => bytes[i] = dice.below(256) as u8,
                _ => bytes.insert(i, dice.below(256) as u8),
            }
        }
        fs::write(&path, bytes).unwrap();
        for protocol in [Protocol::Fitcoach2024, Protocol::Var2026] {
            match load(folder.path(), protocol) {
                Ok(data) => {
                    read += 1;
                    assert!(data.episodes().all(|e| e.truth.iter().all(|said| said.t.is_finite())));
                }
                Err(error) => {
                    refused += 1;
                    assert!(error.to_string().contains(INDEX_FILE), "{error}");
                }
            }
        }
        // Whatever comes of the same bytes as predictions, it is no panic.
        drop(read_any_predictions(&path, &[]));
    }
    println!("{refused} refused, {read} read");
    assert!(refused > 10_000 && read > 500, "{refused} {read}");
}

/// Writes `value`, mutated in one to three places and now and then in its bytes, `rounds` times, and hands each file to `read`,
/// which says whether it was refused; the number that were.
fn mutated(path: &Path, good: &Value, rounds: usize, seed: u64, mut read: impl FnMut() -> bool) -> usize {
    let mut dice = Dice(seed);
    let mut refused = 0;
    for round in 0..rounds {
        let mut value = good.clone();
        for _ in 0..=dice.below(3) {
            mutate(&mut value, &mut dice);
        }
        let mut bytes = value.to_string().into_bytes();
        if round % 4 == 0 {
            let i = dice.below(bytes.len());
            match dice.below(3) {
                0 => bytes.truncate(i),
                1 => bytes[i] = dice.below(256) as u8,
                _ => bytes.insert(i, dice.below(256) as u8),
            }
        }
        fs::write(path, bytes).unwrap();
        refused += usize::from(read());
    }
    refused
}

#[test]
fn a_malformed_competition_folder_gives_errors_and_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("QEVD-FIT-COACH-Competition");
    fs::create_dir(&folder).unwrap();
    write_timestamps(&folder.join("t.npy"), &[0, 1_000_000_000, 2_000_000_000, 3_000_000_000]).unwrap();
    let good = json!([{
        "long_range_video_file": "a/0001.mp4", "video_timestamps": "t.npy", "exercises": ["squats", "lunges"],
        "exercise_start_timestamps": [0.0, 1.5], "exercise_end_timestamps": [1.0, 2.0],
    }]);
    let path = folder.join(INDEX_FILE);
    let refused = mutated(&path, &good, 2000, 21, || match load(&folder, Protocol::Var2026) {
        Ok(data) => {
            assert!(data.competition && data.episodes().all(|e| e.end.is_finite() && e.frames.end <= 4));
            false
        }
        Err(error) => error.problems().iter().all(|problem| problem.contains(INDEX_FILE)),
    });
    assert!((800..2000).contains(&refused), "{refused}");
}

#[test]
fn malformed_clips_give_errors_and_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    let asked = json!({"query": ["why?"], "response": ["so"], "query_type": ["x"]});
    let files = [
        json!([{"video_path": "a.mp4", "split": "train", "labels": ["squat - slow"], "labels_descriptive": ["slow"]},
               {"video_path": "b.mp4", "split": "test", "labels": [], "labels_descriptive": []}]),
        json!([{"video_path": "a.mp4", "split": "train", "feedback": ["Hold on!"]}]),
        json!([{"video_path": "a.mp4", "split": "train", "high_level": asked, "fine_grain": asked}]),
    ];
    let paths = CLIP_FILES.map(|name| folder.path().join(name));
    let write = |(path, good): (&PathBuf, &Value)| fs::write(path, good.to_string()).unwrap();
    paths.iter().zip(&files).for_each(write);
    for (i, (path, good)) in paths.iter().zip(&files).enumerate() {
        let refused = mutated(path, good, 700, 31 + i as u64, || match load_clips(folder.path()) {
            Ok(clips) => {
                assert!(ClipCounts::of(&clips).clips >= 1);
                false
            }
            Err(error) => {
                assert!(CLIP_FILES.iter().any(|file| error.to_string().contains(file)), "{error}");
                true
            }
        });
        assert!((250..700).contains(&refused), "{i}: {refused}");
        write((path, good));
    }
}

#[test]
fn malformed_predictions_give_errors_and_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let data = load(folder.path(), Protocol::Fitcoach2024).unwrap();
    let path = folder.path().join("predictions.json");
    let forms = [
        json!([{"mini_episode_id": "0006_0", "pred_feedbacks": ["x", ""], "pred_feedback_timestamps": [1.0, T0]},
               {"mini_episode_id": "0006_1", "pred_feedbacks": [], "pred_feedback_timestamps": []}]),
        json!([{"video_file": "0006.mp4", "feedbacks": ["5", "a"], "feedback_timestamps": [2.5, T0 + 4.0]}]),
        json!([{"GT": "5", "Pred": "five"}, {"GT": "a", "Pred": ""}]),
    ];
    for (i, form) in forms.iter().enumerate() {
        let refused = mutated(&path, form, 700, 41 + i as u64, || match read_any_predictions(&path, &[&data]) {
            Ok(Predictions::Episodes { predictions, .. }) => {
                assert!(predictions.iter().flat_map(|p| &p.said).all(|said| said.t.is_finite()));
                false
            }
            Ok(Predictions::Pairs(_)) => false,
            Err(error) => error.to_string().contains("predictions.json"),
        });
        assert!((250..700).contains(&refused), "{form}: {refused}");
    }
}

#[test]
fn malformed_frame_times_give_errors_and_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let path = folder.path().join("t.npy");
    let good = fs::read(&path).unwrap();
    let mut dice = Dice(5);
    let mut refused = 0;
    for _ in 0..3000 {
        let mut bytes = good.clone();
        for _ in 0..=dice.below(4) {
            let i = dice.below(bytes.len());
            bytes[i] = dice.below(256) as u8;
        }
        bytes.truncate(bytes.len() - dice.below(9));
        fs::write(&path, bytes).unwrap();
        refused += usize::from(load(folder.path(), Protocol::Fitcoach2024).is_err());
    }
    assert!(refused > 1000, "{refused}");
}

#[test]
fn predictions_are_read_in_all_three_forms() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let path = folder.path().join("predictions.json");
    let read = |value: Value, protocol| {
        fs::write(&path, value.to_string()).unwrap();
        let data = load(folder.path(), protocol).unwrap();
        read_any_predictions(&path, &[&data])
    };
    let episodes = |read: Predictions| match read {
        Predictions::Episodes { predictions, warnings } => (predictions, warnings),
        Predictions::Pairs(pairs) => panic!("{pairs:?}"),
    };
    // One video, in media time and on the clock, under either protocol.
    for (protocol, shift) in [(Protocol::Fitcoach2024, 0.0), (Protocol::Var2026, T0)] {
        for clock in [0.0, T0] {
            let times = [2.5, 4.0, 8.25, 99.0].map(|t| t + clock);
            let entry =
                json!({"video_file": "0006.mp4", "feedbacks": ["5", "a", "b", "late"], "feedback_timestamps": times});
            let other = json!({"video_file": "0007.mp4", "feedbacks": [], "feedback_timestamps": []});
            let twice = read(json!([entry, other, entry]), protocol).unwrap_err().to_string();
            assert!(twice.contains("entry 2 (0006.mp4), video_file: video 0006 is in entry 0 already"), "{twice}");
            let (predictions, warnings) = episodes(read(json!([entry, other]), protocol).unwrap());
            assert_eq!(warnings.len(), 2, "{warnings:?}");
            assert!(warnings[0].contains("1 of 4 feedbacks lie outside of all episodes"), "{warnings:?}");
            let got: Vec<(&str, Vec<f64>)> =
                predictions.iter().map(|p| (p.episode.as_str(), p.said.iter().map(|s| s.t).collect())).collect();
            let second = if shift == 0.0 { 8.25 - 6.0 } else { 8.25 + T0 };
            assert_eq!(got, [("0006_0", vec![2.5 + shift, 4.0 + shift]), ("0006_1", vec![second])]);
        }
    }
    // Times of the other protocol come to the same place, with a word.
    for (protocol, own, other) in
        [(Protocol::Fitcoach2024, 2.25, T0 + 6.0 + 2.25), (Protocol::Var2026, T0 + 6.0 + 2.25, 2.25)]
    {
        let entry =
            |t: f64| json!([{"mini_episode_id": "0006_1", "pred_feedbacks": ["x"], "pred_feedback_timestamps": [t]}]);
        let (plain, silent) = episodes(read(entry(own), protocol).unwrap());
        let (moved, told) = episodes(read(entry(other), protocol).unwrap());
        assert_eq!((plain[0].said[0].t, moved[0].said[0].t), (own, own));
        assert!(silent.is_empty() && told.len() == 1 && told[0].starts_with("1 times of predictions are "), "{told:?}");
    }
    let pairs = read(json!([{"GT": "5", "Pred": "five"}]), Protocol::Var2026).unwrap();
    assert_eq!(pairs, Predictions::Pairs(vec![("5".into(), "five".into())]));
    let error = read(json!([{"GT": 5}, 3]), Protocol::Var2026).unwrap_err().to_string();
    for part in ["entry 0, GT", "entry 0, Pred: is missing", "entry 1, entry"] {
        assert!(error.contains(part), "{error}");
    }
    let bad = json!([{"video_file": "0006.mp4", "feedbacks": ["5"], "feedback_timestamps": []}]);
    assert!(read(bad, Protocol::Var2026).unwrap_err().to_string().contains("feedback_timestamps"));
}

#[test]
fn short_clips_are_joined_by_their_video() {
    let folder = tempfile::tempdir().unwrap();
    assert!(load_clips(folder.path()).unwrap_err().to_string().contains("questions.json"));
    let put = |name: &str, value: Value| fs::write(folder.path().join(name), value.to_string()).unwrap();
    let label = "elbow plank - stopping early";
    put(
        "fine_grained_labels.json",
        json!([{"video_path": "a.mp4", "split": "train", "labels": [label], "labels_descriptive": ["stops"]}]),
    );
    put("feedbacks_short_clips.json", json!([{"video_path": "a.mp4", "split": "train", "feedback": ["Hold on!"]}]));
    let asked = |n: usize| json!({"query": vec!["why?"; n], "response": ["so"], "query_type": ["x"]});
    put(
        "questions.json",
        json!([
            {"video_path": "a.mp4", "split": "train", "high_level": asked(1), "fine_grain": asked(1)},
            {"video_path": "b.mp4", "split": "test", "high_level": asked(1), "fine_grain": asked(1)},
        ]),
    );
    let clips = load_clips(folder.path()).unwrap();
    assert_eq!(clips.len(), 2);
    assert_eq!((clips[0].labels[0].as_str(), clips[0].feedback[0].as_str()), (label, "Hold on!"));
    assert_eq!(clips[1].high_level.response, ["so"]);
    let counts = ClipCounts::of(&clips);
    assert_eq!((counts.clips, counts.train, counts.test), (2, 1, 1));
    assert_eq!((counts.labels, counts.classes, counts.exercises, counts.feedbacks), (1, 1, 1, 1));
    assert_eq!((counts.high_level, counts.fine_grained), (2, 2));
    put("questions.json", json!([{"video_path": "a.mp4", "split": "dev", "high_level": asked(2), "fine_grain": 3}]));
    let error = load_clips(folder.path()).unwrap_err().to_string();
    for part in ["questions.json", "split: is \"dev\"", "high_level.response", "fine_grain: expected"] {
        assert!(error.contains(part), "{part} {error}");
    }
    // All files are read, whatever is wrong with the first.
    put("feedbacks_short_clips.json", json!([{"video_path": "a.mp4", "split": "test", "feedback": "no"}, 3]));
    let row = json!({"video_path": "a.mp4", "split": "train", "labels": [], "labels_descriptive": []});
    put("fine_grained_labels.json", json!([row, row]));
    let problems = load_clips(folder.path()).unwrap_err().problems();
    for part in [
        "fine_grained_labels.json: entry 1 (a.mp4), video_path: is that of entry 0 already",
        "feedbacks_short_clips.json: entry 0 (a.mp4), split: is \"test\", but \"train\" in another file",
        "feedbacks_short_clips.json: entry 0 (a.mp4), feedback: expected",
        "feedbacks_short_clips.json: entry 1, entry: expected an object",
        "questions.json: entry 0 (a.mp4), split: is \"dev\"",
    ] {
        assert!(problems.iter().any(|problem| problem.contains(part)), "{part} in {problems:#?}");
    }
}
