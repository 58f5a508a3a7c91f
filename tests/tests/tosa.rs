//! Towers that skip tokens, from outside: trained, written, opened, measured. On the tiny parity checkpoints.

mod common;

use candle_core::Device;
use common::{spotter, stderr, stdout};
use serde_json::Value;
use spotter_engine::{
    coach::{Attended, CoachOptions, load::load, session::CoachSession},
    model::Plan,
    sampler::Sampling,
};
use spotter_vision::{
    Frame,
    lens::{Sight, View},
};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

fn golden(name: &str) -> String {
    spotter_tests::goldens(name).display().to_string()
}

/// Runs, and gives the lines that were printed as JSON.
fn run(args: &[&str]) -> Vec<Value> {
    let out = spotter(args);
    assert!(out.status.success(), "{args:?}: {}", stderr(&out));
    stdout(&out).lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Steps and pictures that a test has time for.
const SHORT: [&str; 8] = ["--device", "cpu", "--steps", "3", "--batch", "4", "--ratio", "0.5"];

/// Trains selectors of a golden on drawn bodies, then the tower on pictures of a folder; the folders that were written.
fn trained(name: &str, home: &Path) -> (PathBuf, PathBuf) {
    let (model, out) = (golden(name), home.join("out"));
    let (first, second, pictures) = (home.join("selectors"), home.join("skipping"), home.join("pictures"));
    fs::create_dir(&pictures).unwrap();
    for i in 0..15u32 {
        let picture =
            image::RgbImage::from_fn(48, 40, |x, y| image::Rgb([(x * 5 + i) as u8, (y * 6) as u8, (x * y * i) as u8]));
        picture.save(pictures.join(format!("{i}.png"))).unwrap();
    }
    let common = ["--model", &model, "--out", text(&out)];
    let go = |part: &str, more: &[&str]| run(&[&["train", part][..], &common, more].concat());
    let rows = go("selectors", &[&SHORT[..], &["--to", text(&first)]].concat());
    assert_eq!(rows[0]["steps"], 3);
    assert!(rows[0]["divergence"].as_f64().unwrap() > 0.0);
    let rows = go("skipping", &[&SHORT[..], &["--frames", text(&pictures), "--to", text(&second)]].concat());
    // Dense, then the selectors and every control; what is to be seen in these pictures is not known.
    let ways: Vec<&str> = rows[1..].iter().map(|r| r["way"].as_str().unwrap()).collect();
    assert_eq!(ways, ["dense", "selector", "oracle", "previous", "chance"]);
    assert!(rows[1..].iter().all(|r| r["distance"].as_f64().unwrap() >= 0.0 && r.get("mistake_f1").is_none()));
    (first, second)
}

#[test]
fn any_checkpoint_learns_to_skip_and_is_written_whole() {
    for (name, weights) in [("clip-llama", "model.safetensors"), ("clip-mistral", "selectors.safetensors")] {
        let home = tempfile::tempdir().unwrap();
        let (first, second) = trained(name, home.path());
        for folder in [&first, &second] {
            let plan = Plan::open(folder).unwrap();
            let tosa = plan.config.vision.tosa().unwrap();
            assert_eq!((tosa.ratio, tosa.protected), (0.5, None));
            let selector = &format!("{}.encoder.layers.1.selector.conv1.weight", plan.layout.vision);
            let found = plan.checkpoint.tensors().get(selector).unwrap();
            assert_eq!(found.stored, "F16");
            // Decoder and projector stay what they were; a tuned tower lies in half precision.
            let projector = &plan.checkpoint.tensors()[&format!("{}.linear_1.weight", plan.layout.projector)];
            assert_eq!(projector.stored, "F32");
            let header = spotter_engine::weights::read_header(&folder.join(weights)).unwrap();
            assert!(header.contains_key(selector), "{name}: {weights}");
        }
        let stored = |folder: &Path| {
            let plan = Plan::open(folder).unwrap();
            let tower = format!("{}.encoder.layers.0.mlp.fc1.weight", plan.layout.vision);
            plan.checkpoint.tensors()[&tower].stored.clone()
        };
        assert_eq!((stored(&first).as_str(), stored(&second).as_str()), ("F32", "F16"));
        // Another share, and none.
        let out = home.path().join("out");
        for (share, expected) in [("0.3", Some(0.3)), ("off", None)] {
            let to = home.path().join(share);
            let (model, out) = (golden(name), text(&out).to_owned());
            run(&["train", "export", "--model", &model, "--out", &out, "--to", text(&to), "--tosa", share]);
            let plan = Plan::open(&to).unwrap();
            assert_eq!(plan.config.vision.tosa().map(|t| t.ratio), expected);
            assert_eq!(plan.checkpoint.tensors().keys().any(|n| n.contains(".selector.")), expected.is_some());
        }
    }
}

#[test]
fn a_tower_without_class_token_is_measured_and_seen_through() {
    let home = tempfile::tempdir().unwrap();
    let (_, folder) = trained("siglip-qwen2", home.path());
    let model = text(&folder);
    let rows = run(&[
        "bench",
        "tosa",
        "--model",
        model,
        "--repeats",
        "1",
        "--ratio",
        "0.5,0.3",
        "--batch",
        "1,2",
        "--device",
        "cpu",
        "--json",
    ]);
    // Dense once, then seven ways at each ratio, for each batch.
    assert_eq!(rows.len(), 2 * (1 + 2 * 7));
    let row = |way: &str| rows.iter().find(|r| r["way"] == way && r["ratio"] == 0.5).unwrap();
    assert_eq!(row("selector")["tokens"], 9);
    let macs = |way: &str| row(way)["macs"].as_u64().unwrap();
    assert!(macs("chance") < macs("selector") && macs("selector") < macs("oracle"));
    let some = run(&[
        "bench",
        "tosa",
        "--model",
        model,
        "--repeats",
        "1",
        "--ratio",
        "0.5",
        "--way",
        "chance,previous",
        "--json",
    ]);
    let ways: Vec<&str> = some.iter().map(|r| r["way"].as_str().unwrap()).collect();
    assert_eq!(ways, ["dense", "previous", "chance"]);
    // The patches that it worked on are those of the frame.
    let attended = watched(&folder).unwrap();
    assert_eq!((attended.side, attended.layers.len()), (3, 1));
    let (layer, patches) = &attended.layers[0];
    assert!(*layer == 1 && patches.len() == 5 && patches.iter().all(|p| *p < 9), "{attended:?}");
    // A picture of 30 pixels has whole patches up to its 24th.
    assert!((attended.window[2] - 0.8).abs() < 1e-6, "{attended:?}");
    assert_eq!(watched(Path::new(&golden("siglip-qwen2"))), None);
}

const MANIFEST: &str = r#"
frame_rate = 2.0
context = 256
[speaking]
kind = "verbalisers"
question = " Speak? "
speak = ["Yes"]
silent = ["No"]
lead = " Coach: "
[prompt]
en = "Coach {exercise}."
en_unnamed = "Coach."
ko = "K {exercise}."
ko_unnamed = "K."
"#;

/// The patches of a frame that a model of a folder worked on.
fn watched(folder: &Path) -> Option<Attended> {
    let copy = spotter_tests::copy_of(folder);
    fs::write(copy.path().join("spotter.toml"), MANIFEST).unwrap();
    let options = CoachOptions {
        talkativeness: 0.0,
        cooldown: Duration::from_secs(2),
        max_tokens: 4,
        sampling: Sampling::GREEDY,
        seed: 1,
        language: "en".into(),
        exercise: None,
        cache: Default::default(),
        speculation: Default::default(),
    };
    let mut coach = CoachSession::new(load(copy.path(), &Device::Cpu).unwrap(), options).unwrap();
    let frame = Frame::from_rgb(0, Duration::ZERO, 48, 32, (0..48 * 32 * 3).map(|p| (p * 7 % 251) as u8).collect());
    let sight = Sight { frame: frame.unwrap(), view: View::Clear, people: 1, person: 0, body: None };
    coach.observe(&sight, &mut |_| true).unwrap();
    coach.attended()
}

#[test]
fn what_can_not_be_trained_is_named() {
    let home = tempfile::tempdir().unwrap();
    let (model, out) = (golden("clip-llama"), home.path().join("out").display().to_string());
    let check = |args: &[&str], said: &str| {
        let found = spotter(&[&["train"][..], args, &["--out", &out]].concat());
        assert!(!found.status.success() && stderr(&found).contains(said), "{args:?}: {}", stderr(&found));
    };
    check(&["selectors"], "--model DIR is missing");
    check(&["encoder"], "--config FILE is missing");
    check(&["selectors", "--model", "/no/such/model"], "/no/such/model");
    check(&["selectors", "--model", &model, "--to", &model], "this is the folder that --model reads");
    check(&["skipping", "--model", &model], "run `spotter train selectors` with the same --out first");
    check(&["export", "--model", &model, "--to", &out], "no trained selectors");
    check(&["selectors", "--model", &model, "--ratio", "1.5"], "expected above 0 and at most 1");
    check(&["selectors", "--model", &model, "--frames", text(home.path())], "neither videos");
}
