//! `spotter eval` as a user runs it: on what `spotter synth` writes.

mod common;

use common::command;
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::{Duration, Instant},
};

fn run(args: &[&str]) -> String {
    let Output { status, stdout, stderr } = common::spotter(args);
    assert!(status.success(), "{args:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn data(folder: &Path, sessions: usize) -> PathBuf {
    run(&["synth", "--out", text(folder), "--sessions", &sessions.to_string(), "--seconds", "24", "--side", "112"]);
    folder.join("QEVD-FIT-COACH")
}

const REPORT: [&str; 4] = ["report.json", "report.csv", "report.html", "predictions.json"];

fn same(a: &Path, b: &Path) {
    for file in REPORT {
        assert!(std::fs::read(a.join(file)).unwrap() == std::fs::read(b.join(file)).unwrap(), "{file} differs");
    }
}

#[test]
fn shards_and_a_killed_run_give_the_report_of_an_unbroken_one() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let data = data(folder.path(), 4);
    let eval = |out: &Path, more: &[&str]| {
        let mut args = vec!["eval", text(&data), "--lens", "none", "--out", text(out)];
        args.extend_from_slice(more);
        run(&args)
    };
    let (whole, first, second, joined) = (at("whole"), at("first"), at("second"), at("joined"));
    let table = eval(&whole, &[]);
    for row in [
        "spotter-mini",
        "the same words on another session",
        "metronome, best of all",
        "metronome, every 3.0 s",
        "metronome at the model's rate",
        "most frequent phrase",
        "silent",
    ] {
        assert!(table.lines().any(|l| l.starts_with(row)), "{row} in {table}");
    }
    assert!(
        table.contains("\nfitcoach2024: ") && table.contains(" transitions + ") && table.contains("4 sessions of ")
    );

    eval(&first, &["--shard", "1/2"]);
    eval(&second, &["--shard", "2/2"]);
    run(&["eval", "merge", "--out", text(&joined), text(&first), text(&second)]);
    same(&whole, &joined);
    let half = command(&["eval", "merge", "--out", text(&at("half")), text(&first)]).output().unwrap();
    assert!(String::from_utf8_lossy(&half.stderr).contains("sessions 2, 4 of 4 are in no part"));

    // Killed as soon as its first session was played, and taken up again.
    let killed = at("killed");
    let mut child = command(&["eval", text(&data), "--lens", "none", "--out", text(&killed), "--jobs", "1"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    let first = killed.join("sessions/00000.played.json");
    while !first.exists() && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!killed.join("report.json").exists(), "it was killed in its midst");
    let early = std::fs::metadata(&first).unwrap().modified().unwrap();
    eval(&killed, &[]);
    assert_eq!(early, std::fs::metadata(&first).unwrap().modified().unwrap(), "it was not played again");
    same(&whole, &killed);

    // Its own predictions, read back, score alike.
    let again = at("again");
    let predictions = whole.join("predictions.json");
    run(&["eval", text(&data), "--predictions", text(&predictions), "--out", text(&again), "--json"]);
    let row = |folder: &Path| -> Value {
        let report: Value = serde_json::from_slice(&std::fs::read(folder.join("report.json")).unwrap()).unwrap();
        report["rows"][0]["timing"].clone()
    };
    assert_eq!(row(&whole), row(&again));

    // Two runs side by side, and another run is not written over.
    let side = run(&["eval", "compare", text(&whole), text(&again)]);
    let times = side.split("\n\n").next().unwrap();
    assert_eq!(times.lines().filter(|l| l.starts_with(text(folder.path()))).count(), 2, "{side}");
    assert_eq!(times.lines().filter(|l| l.starts_with("metronome at the rate of ")).count(), 2, "{side}");
    let other = command(&["eval", text(&data), "--lens", "none", "--out", text(&whole), "--talkativeness", "1"])
        .output()
        .unwrap();
    assert!(!other.status.success() && String::from_utf8_lossy(&other.stderr).contains("unlike in: options"));
    let page = std::fs::read_to_string(whole.join("report.html")).unwrap();
    assert!(
        page.contains("<svg") && !page.contains("<script") && !page.contains("http"),
        "one page that needs nothing else"
    );
}

#[test]
fn a_sweep_is_one_table() {
    let folder = tempfile::tempdir().unwrap();
    let data = data(folder.path(), 1);
    let file = folder.path().join("sweep.toml");
    let out = folder.path().join("sweep");
    std::fs::write(
        &file,
        format!(
            "data = [{:?}]\nout = {:?}\noptions = [\"--lens\", \"none\"]\n[grid]\ncache-policy = [\"window\", \"keydiff\"]\ntalkativeness = [-20, 0]\n",
            text(&data),
            text(&out)
        ),
    )
    .unwrap();
    let table = run(&["eval", "sweep", text(&file)]);
    let times = table.split("\n\n").next().unwrap();
    assert_eq!(times.lines().filter(|l| l.starts_with("cache-policy ")).count(), 4, "{table}");
    let quiet = table.lines().find(|l| l.starts_with("cache-policy keydiff, talkativeness -20")).unwrap();
    assert!(quiet.trim_end().ends_with("0.0"), "a coach that never wants to speak is silent: {quiet}");
}

#[test]
fn everything_wrong_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("bad");
    std::fs::create_dir(&data).unwrap();
    let fails = |args: &[&str]| {
        let out = command(args).output().unwrap();
        assert_eq!(out.status.code(), Some(1), "{args:?}");
        String::from_utf8(out.stderr).unwrap()
    };
    let out = folder.path().join("out");
    let missing = fails(&["eval", text(&data), "--out", text(&out)]);
    assert!(missing.contains("feedbacks_long_range.json") && missing.contains("hint:"), "{missing}");
    std::fs::write(data.join("feedbacks_long_range.json"), "[{\"long_range_video_file\": 3}, {\"feedbacks\": \"no\"}]")
        .unwrap();
    let both = fails(&["eval", text(&data), "--out", text(&out)]);
    assert!(both.contains("entry 0") && both.contains("entry 1"), "{both}");
    assert!(!out.exists(), "nothing is begun before the data are sound");
    let usage = command(&["eval"]).output().unwrap();
    assert_eq!(usage.status.code(), Some(2));
}
