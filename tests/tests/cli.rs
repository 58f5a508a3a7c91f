//! The command line from outside: exit codes, error lines, streams.

mod common;

use common::{spotter, stderr, stdout};
use std::{fs, process::Stdio};

/// Runs and checks the exit code and a part of stderr.
fn check(args: &[&str], code: i32, said: &str) {
    let out = spotter(args);
    assert_eq!(out.status.code(), Some(code), "{args:?}: {}", stderr(&out));
    assert!(stderr(&out).contains(said), "{args:?}: `{said}` expected in: {}", stderr(&out));
    assert!(stdout(&out).is_empty(), "{args:?} printed results: {}", stdout(&out));
}

#[test]
fn wrong_usage_is_2() {
    check(&["replay"], 2, "VIDEO");
    check(&["dance"], 2, "dance");
    check(&["replay", "pattern", "--speed", "3"], 2, "possible values: 1, max");
    check(&["replay", "pattern", "--latency", "soon"], 2, "expected measured, fixed:MS");
    check(&["replay", "pattern", "--cooldown", "-1"], 2, "cooldown");
    check(&["replay", "pattern", "--talkativeness", "NaN"], 2, "out of range");
    check(&["replay", "pattern", "--max-tokens", "0"], 2, "max-tokens");
    check(&["replay", "pattern", "--lang", "xx"], 2, "possible values: en, ko");
    check(&["replay", "pattern", "--out", "x.mp4", "--speed", "1"], 2, "leave --speed 1 out");
}

#[test]
fn bad_inputs_are_1_and_name_the_thing() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.to_string_lossy().into_owned()
    };
    let (empty, text) = (file("empty.mp4", b""), file("notes.mp4", b"no video at all\n".repeat(100).as_slice()));
    let script = file("script.txt", b"1 Up\nsoon Down\n");
    let headless = |video: &str, said: &str| check(&["replay", video, "--headless"], 1, said);
    headless("nowhere.mp4", "error: nowhere.mp4");
    headless(&empty, "empty.mp4");
    headless(&text, "notes.mp4");
    headless(&folder.path().join("none").to_string_lossy(), "no such file");
    headless(&folder.path().to_string_lossy(), "no .jpg, .jpeg or .png files in this folder");
    let silent = folder.path().join("sound.wav");
    fs::write(&silent, wav()).unwrap();
    headless(&silent.to_string_lossy(), "there is no video in this file");
    check(&["replay", "pattern", "--headless", "--script", &script], 1, "script.txt:2: expected seconds and words");
    check(&["replay", "pattern", "--headless", "--model", "no-such-model"], 1, "hint: a model is a folder");
    check(
        &["replay", "pattern", "--headless", "--timeline", "/no/such/folder/x", "--script", &file("ok.txt", b"1 Up")],
        1,
        "can't be written",
    );
}

#[test]
fn models_are_listed_and_pulled_by_name() {
    let home = tempfile::tempdir().unwrap();
    let run =
        |args: &[&str]| common::command(args).env("HF_HOME", home.path()).env("HF_HUB_OFFLINE", "1").output().unwrap();
    let out = run(&["models", "list", "--json"]);
    let lines: Vec<serde_json::Value> = stdout(&out).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let llava = lines.iter().find(|l| l["name"] == "llava-1.5-7b").unwrap();
    assert_eq!(
        (&llava["repository"], &llava["commit"]),
        (&"llava-hf/llava-1.5-7b-hf".into(), &serde_json::Value::Null)
    );
    assert!(llava["bytes_16"].as_u64().unwrap() > 14_000_000_000 && !llava["licence"].as_str().unwrap().is_empty());
    assert!(stdout(&run(&["models", "list"])).contains("llava-onevision-7b"));
    for (name, said) in [
        ("nonsense", "expected a name of the list, or owner/name"),
        ("llava-1.5-7b", "HF_HUB_OFFLINE is set"),
        (home.path().to_str().unwrap(), "it is a path"),
    ] {
        let out = run(&["models", "pull", name]);
        assert_eq!(out.status.code(), Some(1));
        assert!(stderr(&out).contains(said), "{name}: {}", stderr(&out));
    }
    let out = run(&["models", "probe", "llava-1.5-7b", "--prompt", "?"]);
    assert!(stderr(&out).contains("spotter models pull fetches them"), "{}", stderr(&out));
}

/// A tenth of a second of silence.
fn wav() -> Vec<u8> {
    let (rate, data) = (8000u32, [0u8; 1600]);
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + data.len() as u32).to_le_bytes());
    bytes.extend(b"WAVEfmt ");
    bytes.extend(16u32.to_le_bytes());
    bytes.extend([1u16, 1].map(u16::to_le_bytes).concat());
    bytes.extend([rate, rate * 2].map(u32::to_le_bytes).concat());
    bytes.extend([2u16, 16].map(u16::to_le_bytes).concat());
    bytes.extend(b"data");
    bytes.extend((data.len() as u32).to_le_bytes());
    bytes.extend(data);
    bytes
}

#[test]
fn a_display_that_does_not_answer_is_told_and_the_timeline_printed() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script.txt");
    fs::write(&script, "0.2 Up\n").unwrap();
    let mut command = common::command(&["replay", "pattern:64x64@30:1s", "--script", &script.to_string_lossy()]);
    let out = command.env("DISPLAY", ":9973").env_remove("WAYLAND_DISPLAY").output().unwrap();
    assert!(out.status.success(), "{}", stderr(&out));
    assert!(stdout(&out).contains("Up"));
    assert!(stderr(&out).contains("DISPLAY is :9973, where nothing answers"), "{}", stderr(&out));
}

#[test]
fn errors_are_one_line_and_a_hint() {
    let out = spotter(&["replay", "pattern", "--headless", "--model", "no-such-model"]);
    let text = stderr(&out);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].starts_with("error: model no-such-model") && lines[1].starts_with("hint: "), "{text}");
}

/// What is missing, and what can be done without it.
#[test]
fn without_a_camera_there_is_another_way() {
    let out = spotter(&["live", "--headless", "--camera", "250", "--no-record", "--voice", "off"]);
    let text = stderr(&out);
    assert_eq!((out.status.code(), text.lines().count()), (Some(1), 2), "{text}");
    for said in ["error: camera 250: ", "plug one in", "hint: `spotter live --from VIDEO`", "`make run`"] {
        assert!(text.contains(said), "`{said}` expected in: {text}");
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    for args in [&["--help"][..], &["replay", "--help"], &["doctor", "--help"], &["--version"]] {
        let out = spotter(args);
        assert!(out.status.success() && !stdout(&out).is_empty() && stderr(&out).is_empty(), "{args:?}");
    }
    assert!(stdout(&spotter(&["replay", "--help"])).contains("Examples:"));
}

#[test]
fn doctor_gives_one_json_object() {
    let out = spotter(&["doctor", "--json"]);
    assert!(out.status.success(), "{}", stderr(&out));
    let report: serde_json::Value = serde_json::from_str(&stdout(&out)).unwrap();
    for field in [
        "version",
        "features",
        "cpu",
        "packed_weights",
        "threads",
        "devices",
        "device_choice",
        "recordings",
        "pose_runtime",
        "model",
        "memory",
        "fits",
        "display",
    ] {
        assert!(report.get(field).is_some(), "{field} in {report}");
    }
}

#[test]
fn doctor_tells_what_a_model_takes_and_where_it_would_compute() {
    let out = spotter(&["doctor", "--device", "cpu"]);
    let text = stdout(&out);
    assert!(out.status.success(), "{}", stderr(&out));
    for said in [
        "packed        weights of GGUF files are multiplied with ",
        "computes on   cpu, asked for; f32, which a processor computes fastest",
        "frames a second, 1 token each)",
        "memory        it takes ",
        "(weights ",
        "would fit     ",
    ] {
        assert!(text.contains(said), "`{said}` expected in: {text}");
    }
    let folder = tempfile::tempdir().unwrap();
    check(&["doctor", "--model", &folder.path().to_string_lossy()], 1, "config.json");
    if !stdout(&spotter(&["doctor"])).contains("devices       cuda") {
        // This build or this machine has no card; asked for by name, that is an error and no panic.
        let out = spotter(&["doctor", "--device", "cuda"]);
        let text = stderr(&out);
        assert_eq!((out.status.code(), text.contains("panicked")), (Some(1), false), "{text}");
        assert!(text.starts_with("error: device cuda: "), "{text}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child =
        common::command(&["replay", "pattern:64x64@30:20s", "--headless", "--json", "--script", "/dev/null"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", stderr(&out));
}

#[test]
fn settings_come_with_their_origins() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.toml");
    fs::write(&file, "lang = \"ko\"\nvolume = 0.5\nworkout = \"legs.toml\"\nresolution = \"1280x720\"\n").unwrap();
    let show = |more: &[&str]| {
        let mut command = common::command(&[&["config", "show", "--json"], more].concat());
        command.env("SPOTTER_CONFIG", &file).env("SPOTTER_VOLUME", "0.3").output().unwrap()
    };
    let out = show(&["--cooldown", "4", "--exercise", "squats"]);
    assert!(out.status.success(), "{}", stderr(&out));
    let lines: Vec<serde_json::Value> = stdout(&out).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let of =
        |key: &str| lines.iter().find(|l| l["key"] == key).map(|l| (l["value"].clone(), l["origin"].clone())).unwrap();
    assert_eq!(of("record"), ("true".into(), "default".into()));
    assert_eq!(of("lang"), ("ko".into(), file.to_string_lossy().into()));
    assert_eq!(of("volume"), ("0.3".into(), "SPOTTER_VOLUME".into()));
    assert_eq!(of("cooldown"), ("4".into(), "flag".into()));
    assert_eq!(of("resolution"), ("1280x720".into(), file.to_string_lossy().into()));
    // an exercise takes the place of a workout that was settled
    assert_eq!(of("exercise"), ("squats".into(), "flag".into()));
    assert_eq!(of("workout"), (serde_json::Value::Null, "flag".into()));
    fs::write(&file, "lagn = 1\n").unwrap();
    let out = show(&[]);
    assert_eq!(out.status.code(), Some(1));
    assert!(stderr(&out).contains("settings.toml: there is no setting `lagn`"), "{}", stderr(&out));
}

#[test]
fn a_workout_that_can_not_be_done_is_told_with_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("legs.toml");
    fs::write(&file, "[[exercise]]\nname = \"burpees\"\nreps = 3\n").unwrap();
    check(
        &["replay", "pattern", "--headless", "--workout", &file.to_string_lossy()],
        1,
        "legs.toml: exercise 1 (`burpees`)",
    );
}
