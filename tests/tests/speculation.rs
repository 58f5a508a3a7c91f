//! Drafting from outside: a drafter is trained, written, and drafts for the model that ships.

mod common;

use candle_core::Device;
use common::{spotter, stderr, stdout};
use spotter_engine::{
    coach::{
        CoachOptions, SpeculationChoice,
        load::{load, load_alone},
        manifest::Manifest,
        session::CoachSession,
    },
    speculate::DrafterKind,
};
use spotter_tests::{copy_of, goldens};
use spotter_vision::{
    Frame,
    lens::{Sight, View},
};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The recipe that ships, cut down to what a test has time for.
fn recipe(folder: &Path) -> String {
    let mut recipe = fs::read_to_string(root().join("assets/recipes/drafter-mini.toml")).unwrap();
    for (from, to) in [
        ("train = 1200", "train = 2"),
        ("held_out = 64", "held_out = 1"),
        ("frames = 320", "frames = 120"),
        ("hidden_size = 128", "hidden_size = 16"),
        ("intermediate_size = 352", "intermediate_size = 24"),
        ("num_hidden_layers = 2", "num_hidden_layers = 1"),
        ("most_parameters", "head = 700\nmost_parameters"),
        ("steps = 1500", "steps = 4"),
        ("batch = 64", "batch = 2"),
    ] {
        assert!(recipe.contains(from), "{from}");
        recipe = recipe.replace(from, to);
    }
    let file = folder.join("recipe.toml");
    fs::write(&file, recipe).unwrap();
    text(&file)
}

#[test]
fn a_drafter_is_trained_written_and_drafts() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| text(&folder.path().join(name));
    let (config, out, drafter) = (recipe(folder.path()), path("run"), path("drafter"));
    let mini = text(&root().join("assets/spotter-mini"));
    let train = ["train", "drafter", "--config", &config, "--out", &out, "--target", &mini, "--loss", "kl,tvd,tvd++"];
    let done = spotter(&[&train[..], &["--to", &drafter, "--device", "cpu"]].concat());
    assert!(done.status.success(), "{}", stderr(&done));
    let rows: Vec<serde_json::Value> = stdout(&done).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let stages: Vec<&str> = rows.iter().filter_map(|row| row["stage"].as_str()).collect();
    assert_eq!(stages, ["distil", "pretrain", "warm", "tune", "tune", "tune"]);
    let tuned: Vec<&serde_json::Value> = rows.iter().filter(|row| row["stage"] == "tune").collect();
    assert!(tuned.iter().all(|row| row["steps"] == 4), "{rows:?}");
    let acceptance = |row: &serde_json::Value| row["judged"]["acceptance"]["mean"].as_f64().unwrap();
    let best = tuned.iter().copied().max_by(|a, b| acceptance(a).total_cmp(&acceptance(b))).unwrap();
    let written = rows.last().unwrap();
    assert_eq!((&written["loss"], &written["head"]), (&best["loss"], &serde_json::json!(700)));
    assert!(fs::metadata(folder.path().join("drafter/model.safetensors")).unwrap().len() < 5_000_000);

    // It changes nothing of what is said, though it is bad at it.
    let replay = |more: &[&str]| {
        let all =
            ["replay", "pattern:112x112@8:12s", "--headless", "--json", "--lens", "none", "--talkativeness", "20"];
        let out = spotter(&[&all[..], more].concat());
        assert!(out.status.success(), "{}", stderr(&out));
        stdout(&out)
    };
    let plain = replay(&["--draft", "none"]);
    assert!(plain.matches(r#""type":"feedback""#).count() > 2, "{plain}");
    for draft in ["lookup", "ngram", &drafter] {
        assert_eq!(replay(&["--draft", draft, "--draft-method", "rsd-c(2,1,1)"]), plain, "{draft}");
    }
    // What it did is told beside the times.
    let stats = replay(&["--draft", &drafter, "--stats"]);
    assert!(stats.lines().any(|line| line.contains(r#""type":"speculation""#)), "{stats}");

    // A drafter with other tokens is refused when it is loaded.
    let tokens = folder.path().join("drafter/tokenizer.json");
    let other = fs::read_to_string(&tokens).unwrap().replacen("\"<feedback>\"", "\"<feedbick>\"", 2);
    fs::write(&tokens, other).unwrap();
    let refused = spotter(&["replay", "pattern", "--headless", "--draft", &drafter]);
    assert!(
        !refused.status.success() && stderr(&refused).contains("tokenizer is not the target's"),
        "{}",
        stderr(&refused)
    );
}

const MANIFEST: &str = r#"
frame_rate = 2.0
context = 256
[vision]
pooling = { average = 2 }
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

/// A checkpoint of the goldens with a manifest beside it.
fn checkpoint(name: &str) -> tempfile::TempDir {
    let to = copy_of(&goldens(name));
    fs::write(to.path().join("spotter.toml"), MANIFEST).unwrap();
    to
}

fn sight(i: u64) -> Sight {
    let rgb = (0..48 * 32 * 3).map(|p| ((p as u64 * (i + 3)) % 251) as u8).collect();
    let frame = Frame::from_rgb(i, Duration::from_millis(500 * i), 48, 32, rgb).unwrap();
    Sight { frame, view: View::Clear, people: 1, person: 0, body: None }
}

/// What a coach without action tokens says to 60 frames, piece by piece; every third utterance is cancelled after its
/// second piece. At the end whether it drafted.
fn timeline(folder: &Path, drafter: DrafterKind, method: &str) -> (Vec<String>, usize) {
    let mut model = load(folder, &Device::Cpu).unwrap();
    if matches!(drafter, DrafterKind::Model(_)) {
        model.drafter = Some(load_alone(folder, &Device::Cpu).unwrap().decoder);
    }
    model.manifest.speculation.self_defence = false;
    let options = CoachOptions {
        talkativeness: 1e9,
        cooldown: Duration::from_secs(2),
        max_tokens: 12,
        temperature: 0.0,
        seed: 1,
        language: "en".into(),
        exercise: Some("squats".into()),
        cache: Default::default(),
        speculation: SpeculationChoice { drafter: Some(drafter), method: Some(method.parse().unwrap()) },
    };
    let mut coach = CoachSession::new(model, options).unwrap();
    let (mut said, mut utterance) = (Vec::new(), 0);
    for i in 0..60 {
        let mut pieces = 0;
        let step = coach
            .observe(&sight(i), &mut |piece| {
                pieces += 1;
                said.push(format!("{i}: {piece}"));
                utterance % 3 != 2 || pieces < 2
            })
            .unwrap();
        utterance += usize::from(pieces > 0);
        // What a check of several tokens leaves in the cache may differ in the last bits.
        said.push(format!("{i}: {:.3} {:?}", step.p_speak.max(1e-9).ln(), step.feedback.map(|f| f.text)));
    }
    (said, coach.speculation().map_or(0, |stats| stats.rounds))
}

#[test]
fn a_coach_says_the_same_whoever_drafts() {
    for name in ["clip-llama", "siglip-qwen2", "clip-mistral"] {
        let folder = checkpoint(name);
        let plain = timeline(folder.path(), DrafterKind::None, "static(4)");
        assert_eq!(plain.1, 0);
        assert!(plain.0.iter().any(|line| line.contains("None")) && plain.0.iter().any(|line| line.contains("Some")));
        let model = || DrafterKind::Model("itself".into());
        for (drafter, method) in [
            (DrafterKind::Ngram, "adaedl(8)"),
            (model(), "rsd-c(2,2,1)"),
            (model(), "static(4)"),
            (DrafterKind::Lookup, "static(4)"),
        ] {
            let drafted = timeline(folder.path(), drafter.clone(), method);
            assert_eq!(drafted.0, plain.0, "{name}, {drafter}, {method}");
            assert!(drafted.1 > 0, "{name}, {drafter}, {method}: nothing was drafted");
        }
    }
}

/// The drafter that ships with spotter-mini is small, is named by its manifest and by the recipes that write this, and
/// has the coach's tokens. Where there is none, none is named.
#[test]
fn the_drafter_that_ships_is_small_and_named() {
    let mini = root().join("assets/spotter-mini");
    let manifest = Manifest::read(&mini).unwrap();
    let folder = mini.join("drafter");
    let named = manifest.speculation.drafter == DrafterKind::Model("drafter".into());
    assert_eq!(named, folder.exists(), "[speculation] drafter = \"drafter\" belongs to the folder drafter/");
    for recipe in ["mini.toml", "mini-h200.toml"] {
        let text = fs::read_to_string(root().join("assets/recipes").join(recipe)).unwrap();
        let own = text.contains("[manifest.speculation]") && text.contains("drafter = \"drafter\"");
        assert_eq!(own, named, "{recipe}: [manifest.speculation] has to say what spotter.toml says");
    }
    if !named {
        println!("skipped: no drafter ships with spotter-mini");
        return;
    }
    let bytes = fs::metadata(folder.join("model.safetensors")).unwrap().len();
    assert!(bytes <= 5_000_000, "{bytes} bytes");
    assert!(load(&mini, &Device::Cpu).unwrap().drafter.is_some());
}
