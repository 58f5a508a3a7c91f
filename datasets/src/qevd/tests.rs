use super::*;
use crate::{
    metric::Timed,
    synthetic::session::{Session as Synthetic, SessionOptions},
};
use serde_json::{Value, json};
use std::{fs, path::Path};
use tempfile::TempDir;

/// Frames one second apart from 1,000 s on.
fn write(folder: &Path, feedbacks: &[&str], timestamps: &[f64], transitions: &[bool]) {
    let times: Vec<i64> = (0..feedbacks.len() as i64).map(|i| (1_000 + i) * 1_000_000_000).collect();
    write_timestamps(&folder.join("0006_timestamps.npy"), &times).expect("writable");
    let session = json!({
        "long_range_video_file": "./long_range_videos/0006.mp4",
        "video_timestamps": "0006_timestamps.npy",
        "feedbacks": feedbacks,
        "feedback_timestamps": timestamps,
        "is_transition": transitions,
    });
    write_value(folder, &json!([session]));
}

fn write_value(folder: &Path, value: &Value) {
    fs::write(folder.join(INDEX_FILE), value.to_string()).expect("writable");
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

const FIRST: &str = "First up are squats!";
const NEXT: &str = "Moving on to armcrosschest!";
const END: &str = "That's it!";
const T0: f64 = 1_000.0 + ZONE_SHIFT;

/// Frames:          0      1   2    3   4    5   6     7     8     9    10   11   12   13   14
const SHOWN: [&str; 15] = [FIRST, FIRST, "", "5", "", "5", "", NEXT, NEXT, NEXT, "", "ok", "", END, ""];

#[test]
fn fitcoach2024_reads_runs_of_frames() {
    let folder = folder();
    let stamps = [0.1, 3.2, 5.2, 7.1, 11.4, 13.1].map(|t| T0 + t);
    write(folder.path(), &SHOWN, &stamps, &[true, false, false, true, false, true]);
    let data = load(folder.path(), Protocol::Fitcoach2024).expect("a good file");
    let [session] = data.sessions.as_slice() else { panic!("{data:?}") };
    let [squats, stretch] = session.episodes.as_slice() else { panic!("{session:?}") };
    assert!((session.frame_times[0] - T0).abs() < 1e-6);
    assert_eq!((squats.id.as_str(), squats.exercise.as_str()), ("0006_0", "squats"));
    assert_eq!(stretch.exercise, "deltoid stretch");
    // From the first frame of a transition to the middle frame of the next one's.
    assert_eq!((squats.start, squats.end), (T0, T0 + 8.0));
    assert_eq!(squats.frames, 1..9);
    assert_eq!((stretch.start, stretch.end), (T0 + 7.0, T0 + 13.0));
    assert_eq!(stretch.frames, 8..14);
    let said: Vec<(f64, &str)> = squats.truth.iter().map(|e| (e.t, e.text.as_str())).collect();
    assert_eq!(said.len(), 2);
    assert!((said[0].0 - 3.2).abs() < 1e-6 && (said[1].0 - 5.2).abs() < 1e-6 && said[0].1 == "5");
    assert!((stretch.truth[0].t - 4.4).abs() < 1e-6);
    assert!(data.warnings.is_empty());
    assert_eq!(data.truths(), 3);
    let counts = Counts { sessions: 1, events: 6, transitions: 3, regular: 3, truths: 3 };
    assert_eq!(data.counts, counts);
}

#[test]
fn var2026_reads_a_repeated_message_once_and_warns() {
    let folder = folder();
    let stamps = [0.1, 3.2, 5.2, 7.1, 11.4, 13.1].map(|t| T0 + t);
    write(folder.path(), &SHOWN, &stamps, &[true, false, false, true, false, true]);
    let data = load(folder.path(), Protocol::Var2026).expect("a good file");
    // Six flags, five messages: the third transition is read from "ok", one message late.
    let [session, outside] = data.warnings.as_slice() else { panic!("{:?}", data.warnings) };
    assert!(session.contains("session 0 (0006)"), "{session}");
    assert!(outside.contains("1 messages lie outside of all episodes"), "{outside}");
    assert_eq!((data.counts.events, data.counts.transitions, data.counts.truths), (5, 2, 2));
    let [only] = data.sessions[0].episodes.as_slice() else { panic!("{data:?}") };
    assert_eq!((only.start, only.end), (T0, T0 + 11.0));
    assert_eq!(only.frames, 0..12);
    let said: Vec<(f64, &str)> = only.truth.iter().map(|e| (e.t, e.text.as_str())).collect();
    assert_eq!(said, [(T0 + 3.0, "5"), (T0 + 7.0, NEXT)]);
}

#[test]
fn var2026_numbers_dropped_episodes_too() {
    let folder = folder();
    let shown = [FIRST, "", NEXT, "", "ok", "", END];
    write(folder.path(), &shown, &[1.0, 2.0, 3.0, 4.0], &[true, true, false, true]);
    let data = load(folder.path(), Protocol::Var2026).expect("a good file");
    // The message that is still open at the last frame is kept, so there are as many messages as flags.
    assert!(data.warnings.is_empty(), "{:?}", data.warnings);
    let [only] = data.sessions[0].episodes.as_slice() else { panic!("{data:?}") };
    assert_eq!((only.id.as_str(), only.exercise.as_str()), ("0006_1", "armcrosschest"));
    assert_eq!((only.start, only.end, only.frames.clone()), (T0 + 2.0, T0 + 6.0, 2..7));
    // The other protocol drops the open one and has a time too many.
    let error = load(folder.path(), Protocol::Fitcoach2024).expect_err("one span is open").to_string();
    assert!(error.contains("feedback_timestamps") && error.contains("3 messages"), "{error}");
}

#[test]
fn the_competition_has_no_shift_and_no_truth() {
    let folder = folder();
    let inner = folder.path().join("QEVD-FIT-COACH-Competition");
    fs::create_dir(&inner).expect("writable");
    write_timestamps(&inner.join("t.npy"), &[0, 1_000_000_000, 2_000_000_000, 3_000_000_000]).expect("writable");
    let session = json!({
        "long_range_video_file": "a/0001.mp4", "video_timestamps": "t.npy", "exercises": ["squats", "lunges"],
        "exercise_start_timestamps": [0.0, 1.5], "exercise_end_timestamps": [1.0, 2.0],
    });
    write_value(&inner, &json!([session]));
    let data = load(&inner, Protocol::Var2026).expect("a good file");
    let ends: Vec<(f64, &std::ops::Range<usize>)> = data.episodes().map(|e| (e.end, &e.frames)).collect();
    assert_eq!(ends, [(1.0, &(0..2)), (3.0, &(2..4))]);
    assert_eq!(data.truths(), 0);
}

#[test]
fn synthetic_sessions_survive_the_format() {
    let folder = folder();
    let sessions: Vec<Synthetic> = (0..2).map(|seed| Synthetic::generate(seed, &SessionOptions::default())).collect();
    let records: Vec<SessionRecord> = sessions
        .iter()
        .map(|session| {
            let frames: Vec<f64> = (0..(session.duration * 8.0) as usize).map(|i| i as f64 / 8.0).collect();
            let name = format!("{}.mp4", session.id);
            write_session(folder.path(), &name, &frames, &session.events).expect("a session that fits")
        })
        .collect();
    write_index(folder.path(), &records).expect("writable");
    let spoken: usize = sessions.iter().flat_map(|s| &s.events).filter(|e| !e.is_transition).count();
    for protocol in [Protocol::Fitcoach2024, Protocol::Var2026] {
        let data = load(folder.path(), protocol).expect("a good file");
        assert!(data.warnings.is_empty(), "{:?}", data.warnings);
        assert_eq!(data.truths(), spoken, "{protocol:?}");
        for (loaded, made) in data.sessions.iter().zip(&sessions) {
            assert_eq!(loaded.episodes.len(), made.segments.len());
            for (episode, segment) in loaded.episodes.iter().zip(&made.segments) {
                assert_eq!(episode.exercise, segment.exercise.name("en"));
                let media = |t: f64| t + episode.origin - loaded.frame_times[0];
                assert!((media(episode.start - episode.origin) - segment.announced).abs() <= 0.126);
                let heard: Vec<f64> = episode.truth.iter().map(|e| media(e.t)).collect();
                let meant: Vec<f64> = made
                    .events
                    .iter()
                    .filter(|e| !e.is_transition && made.segment_at(e.t) == Some(segment))
                    .map(|e| e.t)
                    .collect();
                assert_eq!(heard.len(), meant.len());
                // Frame times and stamps begin together up to one frame.
                assert!(heard.iter().zip(&meant).all(|(a, b)| (a - b).abs() <= 0.251), "{heard:?} {meant:?}");
            }
        }
    }
}

#[test]
fn every_problem_of_a_file_is_listed() {
    let folder = folder();
    write_timestamps(&folder.path().join("t.npy"), &[1, 2, 3]).expect("writable");
    write_timestamps(&folder.path().join("back.npy"), &[3, 2, 1]).expect("writable");
    write_value(
        folder.path(),
        &json!([
            {"long_range_video_file": "a.mp4", "video_timestamps": "missing.npy", "feedbacks": [],
             "feedback_timestamps": [], "is_transition": []},
            {"long_range_video_file": "b.mp4", "video_timestamps": "t.npy", "feedbacks": ["", 5, ""],
             "feedback_timestamps": [1.0]},
            7,
            {"long_range_video_file": "c.mp4", "video_timestamps": "t.npy", "feedbacks": ["", ""],
             "feedback_timestamps": [1.0], "is_transition": [true, false]},
            {"long_range_video_file": "d.mp4", "video_timestamps": "back.npy", "feedbacks": ["", "", ""],
             "feedback_timestamps": [], "is_transition": []},
        ]),
    );
    let error = load(folder.path(), Protocol::Fitcoach2024).expect_err("a bad file").to_string();
    for part in [
        INDEX_FILE,
        "entry 0 (a.mp4), video_timestamps: can't read",
        "entry 1 (b.mp4), feedbacks: expected an array of strings",
        "entry 1 (b.mp4), is_transition: is missing",
        "entry 2, entry: expected an object",
        "entry 3 (c.mp4), is_transition: has 2 entries",
        "entry 4 (d.mp4), video_timestamps",
    ] {
        assert!(error.contains(part), "{part:?} is not in {error}");
    }
    for (text, part) in [("", "no JSON"), ("{}", "expected a JSON array"), ("[", "no JSON")] {
        fs::write(folder.path().join(INDEX_FILE), text).expect("writable");
        let error = load(folder.path(), Protocol::Var2026).expect_err("a bad file").to_string();
        assert!(error.contains(part), "{error}");
    }
    assert!(load(&folder.path().join("nowhere"), Protocol::Var2026).is_err());
}

#[test]
fn timestamps_are_read_as_numpy_writes_them() {
    let folder = folder();
    let path = folder.path().join("t.npy");
    for times in [vec![], vec![1_700_000_000_123_456_789], (0..1000).collect::<Vec<i64>>()] {
        write_timestamps(&path, &times).expect("writable");
        assert_eq!(read_timestamps(&path).expect("a good file"), times);
        let bytes = fs::read(&path).expect("readable");
        assert_eq!((bytes.len() - 8 * times.len()) % 64, 0, "numpy aligns the data");
    }
    let good = fs::read(&path).expect("readable");
    let with = |from: &str, to: &str| {
        let text: String = good.iter().map(|b| char::from(*b)).collect();
        text.replacen(from, to, 1).chars().map(|c| c as u8).collect::<Vec<u8>>()
    };
    for (bytes, part) in [
        (Vec::new(), "no .npy"),
        (b"\x93NUMPY\x01\x00\xff".to_vec(), "ends within"),
        (b"\x93NUMPY\x09\x00\x10\x00".to_vec(), "version"),
        (good[..good.len() - 1].to_vec(), "8000 bytes"),
        (with("<i8", "<f8"), "<f8"),
        (with("<i8", ">i8"), ">i8"),
        (with("(1000,)", "(10,10)"), "one dimension"),
        (with("(1000,)", "(9999999999999999999999,)"), "whole number"),
        (with("descr", "dummy"), "'descr'"),
    ] {
        fs::write(&path, bytes).expect("writable");
        let error = read_timestamps(&path).expect_err("a bad file").to_string();
        assert!(error.contains(part) && error.contains("t.npy"), "{error}");
    }
    fs::write(&path, with("<i8", "<u8")).expect("writable");
    assert_eq!(read_timestamps(&path).expect("unsigned is fine").len(), 1000);
}

fn episode(id: &str, truth: &[f64]) -> Episode {
    Episode {
        id: id.into(),
        exercise: "squats".into(),
        start: 0.0,
        end: 30.0,
        origin: 0.0,
        frames: 0..1,
        truth: truth.iter().map(|t| Timed::new(*t, "x")).collect(),
    }
}

#[test]
fn predictions_find_their_episodes_and_missing_ones_count() {
    let folder = folder();
    let path = folder.path().join("predictions.json");
    let said = |id: &str, times: &[f64]| Prediction {
        episode: id.into(),
        said: times.iter().map(|t| Timed::new(*t, "go")).collect(),
    };
    let episodes = [episode("a_0", &[1.0, 5.0]), episode("a_1", &[3.0]), episode("b_0", &[2.0, 8.0])];
    let mut all = vec![said("a_0", &[1.0, 5.0]), said("a_1", &[9.0]), said("b_0", &[2.5])];
    write_predictions(&path, &all).expect("writable");
    assert_eq!(read_predictions(&path).expect("a good file"), all);
    let timing = align(&episodes, &all).timing();
    all.reverse();
    assert_eq!(align(&episodes, &all).timing(), timing);
    assert_eq!((timing.matched_gt, timing.n_gt, timing.n_pred), (3, 5, 4));
    all.retain(|p| p.episode != "b_0");
    all.push(said("c_9", &[1.0]));
    let aligned = align(&episodes, &all);
    assert_eq!((aligned.timing().n_gt, aligned.timing().n_pred, aligned.warnings.len()), (5, 3, 2));
    assert!(aligned.warnings[0].contains("b_0 has no prediction: 2 truths"), "{:?}", aligned.warnings);

    assert!(write_predictions(&path, &[said("a_0", &[f64::NAN])]).is_err());
    let bad = json!([
        {"mini_episode_id": "a", "pred_feedbacks": ["x"], "pred_feedback_timestamps": []},
        {"mini_episode_id": "a", "pred_feedbacks": [], "pred_feedback_timestamps": []},
        {"pred_feedbacks": "x", "pred_feedback_timestamps": []},
    ]);
    fs::write(&path, bad.to_string()).expect("writable");
    let error = read_predictions(&path).expect_err("a bad file").to_string();
    for part in [
        "4 problem(s)",
        "entry 0 (a), pred_feedback_timestamps",
        "entry 1 (a)",
        "entry 2, mini_episode_id",
        "entry 2, pred_feedbacks",
    ] {
        assert!(error.contains(part), "{part:?} is not in {error}");
    }
}

#[test]
fn messages_without_room_are_refused() {
    let folder = folder();
    let event = |t: f64, text: &str| crate::synthetic::script::Event {
        t,
        text: text.into(),
        kind: crate::synthetic::phrases::SaidKind::Other,
        is_transition: false,
        exercise: None,
        mistake: None,
        count: None,
    };
    let frames: Vec<f64> = (0..80).map(|i| f64::from(i) / 8.0).collect();
    let try_with = |events: &[crate::synthetic::script::Event]| write_session(folder.path(), "x.mp4", &frames, events);
    assert!(try_with(&[event(1.0, "a"), event(3.0, "b")]).is_ok());
    for events in
        [[event(1.0, "a"), event(1.05, "b")], [event(1.0, "a"), event(99.0, "b")], [event(1.0, ""), event(3.0, "b")]]
    {
        let error = try_with(&events).expect_err("no room").to_string();
        assert!(error.contains("x.mp4") && error.contains("message"), "{error}");
    }
}

#[test]
fn what_lies_outside_of_all_episodes_is_counted_and_told() {
    let folder = folder();
    let shown = ["hello", "", FIRST, "", "5", "", END, "", "bye", ""];
    let stamps = [0.0, 2.0, 4.0, 6.0, 8.0].map(|t| T0 + t);
    write(folder.path(), &shown, &stamps, &[false, true, false, true, false]);
    for protocol in [Protocol::Fitcoach2024, Protocol::Var2026] {
        let data = load(folder.path(), protocol).expect("a good file");
        assert_eq!(data.counts, Counts { sessions: 1, events: 5, transitions: 2, regular: 3, truths: 1 });
        assert!(data.warnings[0].contains("2 messages lie outside of all episodes"), "{:?}", data.warnings);
    }
}

#[test]
fn a_session_that_is_there_twice_is_named() {
    let folder = folder();
    write_timestamps(&folder.path().join("t.npy"), &[1, 2, 3]).expect("writable");
    let entry = |video: &str| {
        json!({"long_range_video_file": video, "video_timestamps": "t.npy", "feedbacks": ["", "", ""],
               "feedback_timestamps": [], "is_transition": []})
    };
    // Of one name, which their predictions go by.
    write_value(folder.path(), &json!([entry("a/1.mp4"), entry("a/2.mp4"), entry("b/1.mp4")]));
    let error = load(folder.path(), Protocol::Var2026).expect_err("twice the same").to_string();
    assert!(error.contains("1 problem(s)") && error.contains("session 1 is in entry 0 already"), "{error}");
}

#[test]
fn the_other_variant_is_known_by_its_fields() {
    let folder = folder();
    let inner = folder.path().join("QEVD-FIT-COACH-Competition");
    fs::create_dir(&inner).expect("writable");
    for place in [folder.path(), inner.as_path()] {
        write_timestamps(&place.join("t.npy"), &[0, 1_000_000_000]).expect("writable");
    }
    let secret = json!([{
        "long_range_video_file": "a/0001.mp4", "video_timestamps": "t.npy", "exercises": ["squats"],
        "exercise_start_timestamps": [0.0], "exercise_end_timestamps": [1.0],
    }]);
    write_value(&inner, &secret);
    assert!(load(&inner, Protocol::Var2026).expect("a good file").competition);
    let error = load(&inner, Protocol::Fitcoach2024).expect_err("no truths").to_string();
    assert!(error.contains("which protocol var2026 alone reads") && error.contains("1 problem(s)"), "{error}");
    write_value(folder.path(), &secret);
    let error = load(folder.path(), Protocol::Var2026).expect_err("no truths").to_string();
    assert!(error.contains("in a folder whose path contains \"competition\""), "{error}");
    let open = json!({"long_range_video_file": "a.mp4", "video_timestamps": "none.npy", "feedbacks": []});
    write_value(&inner, &json!([open]));
    let error = load(&inner, Protocol::Var2026).expect_err("truths").to_string();
    // Frame times are looked at in the same round.
    assert!(error.contains("this is no competition variant") && error.contains("none.npy"), "{error}");
}
