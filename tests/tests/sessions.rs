//! Records of sessions: kept while they happen, looked at afterwards, deleted.

mod common;

use common::{command, spotter, stderr, stdout};
use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

const LINES: &str =
    "0.5 First up are squats!\n1.0 Knees wider, in line with your feet.\n2.0 Looking good, keep it up.\n";

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("lines.txt"), LINES).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_string_lossy().into_owned()
    }

    fn run(&self, args: &[&str]) -> String {
        let data = self.path("data");
        let out = spotter(&[args, &["--data", &data]].concat());
        assert!(out.status.success(), "{args:?}: {}", stderr(&out));
        stdout(&out)
    }

    fn replay(&self, more: &[&str]) -> String {
        let lines = self.path("lines.txt");
        let args = ["replay", "pattern:64x64@30:3s", "--headless", "--json", "--script", &lines, "--cooldown", "0.4"];
        self.run(&[&args, more].concat())
    }

    fn files(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(Path::new(&self.path("data")).join("sessions")) else { return Vec::new() };
        entries.map(|e| e.unwrap().path()).collect()
    }
}

#[test]
fn a_replay_is_kept_only_when_asked_for() {
    let folder = Folder::new();
    folder.replay(&[]);
    assert!(folder.files().is_empty());
    let timeline = folder.replay(&["--record"]);
    let [file] = &folder.files()[..] else { panic!("one file: {:?}", folder.files()) };
    let kept = fs::read_to_string(file).unwrap();
    let (head, lines) = kept.split_once('\n').unwrap();
    assert!(head.starts_with(r#"{"type":"record","format":1,"started":"#), "{head}");
    assert_eq!(lines, timeline, "the record is the timeline");
}

#[test]
fn a_session_is_listed_shown_exported_and_deleted() {
    let folder = Folder::new();
    assert!(folder.run(&["sessions", "list"]).contains("no session is kept"));
    folder.replay(&["--record"]);
    let listed: serde_json::Value = serde_json::from_str(&folder.run(&["sessions", "list", "--json"])).unwrap();
    assert_eq!((&listed["complete"], &listed["faults"]), (&true.into(), &1.into()), "{listed}");
    let shown = folder.run(&["sessions", "show"]);
    assert!(shown.contains("knees caving in") && shown.contains("1 times, at 00:01."), "{shown}");
    let shown: serde_json::Value = serde_json::from_str(&folder.run(&["sessions", "show", "last", "--json"])).unwrap();
    assert_eq!(shown["review"]["said"], 3);
    assert_eq!(shown["review"]["faults"][0]["mistake"], "knees_in");
    let csv = folder.run(&["sessions", "export", "last", "--csv"]);
    assert!(csv.starts_with("t,type,exercise,") && csv.contains(",feedback,,,,,\"Knees wider, in line"), "{csv}");
    let srt = folder.run(&["sessions", "export", "last", "--srt"]);
    assert!(srt.contains("00:00:01,") && srt.contains("Looking good, keep it up."), "{srt}");
    let json = folder.run(&["sessions", "export", "last", "--json"]);
    assert_eq!(json, fs::read_to_string(&folder.files()[0]).unwrap());
    let data = folder.path("data");
    let refused = spotter(&["sessions", "delete", "--all", "--data", &data]);
    assert_eq!(refused.status.code(), Some(2), "nobody to ask");
    assert_eq!(folder.files().len(), 1);
    assert_eq!(folder.run(&["sessions", "delete", "--all", "--yes"]), "1 sessions deleted\n");
    assert!(folder.files().is_empty());
    let gone = spotter(&["sessions", "show", "--data", &data]);
    assert!(!gone.status.success() && stderr(&gone).contains("no session is kept"), "{}", stderr(&gone));
}

#[test]
fn a_file_that_is_no_session_is_told_by_name() {
    let folder = Folder::new();
    folder.replay(&["--record"]);
    fs::write(folder.files()[0].with_file_name("0000.jsonl"), "not a session\n").unwrap();
    assert_eq!(folder.run(&["sessions", "list", "--json"]).lines().count(), 1, "the good one is still listed");
    let shown = spotter(&["sessions", "show", "0000", "--data", &folder.path("data")]);
    assert!(!shown.status.success());
    assert!(stderr(&shown).contains("0000.jsonl: this is no record of a session"), "{}", stderr(&shown));
}

/// Killed without a warning in mid-session: all that was told until a second before is there.
#[cfg(unix)]
#[test]
fn a_killed_session_loses_at_most_its_last_second() {
    let folder = Folder::new();
    let script: String = (0..100).map(|i| format!("{:.1} Number {i}\n", 3.2 + 0.3 * f64::from(i))).collect();
    fs::write(folder.path("lines.txt"), script).unwrap();
    let (lines, data) = (folder.path("lines.txt"), folder.path("data"));
    let args =
        ["live", "--from", "pattern:64x64@30:30s", "--json", "--cooldown", "0", "--script", &lines, "--data", &data];
    let mut child = command(&args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut told = Vec::new();
    let begun = Instant::now();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if line.contains("feedback") {
            told.push((Instant::now(), line));
        }
        if told.len() == 8 || begun.elapsed() > Duration::from_secs(20) {
            break;
        }
    }
    child.kill().unwrap();
    let killed = Instant::now();
    child.wait().unwrap();
    let kept = fs::read_to_string(&folder.files()[0]).unwrap();
    let old: Vec<&String> =
        told.iter().filter(|(at, _)| killed - *at > Duration::from_secs(1)).map(|(_, l)| l).collect();
    println!("{} told, {} of them over a second before the end", told.len(), old.len());
    assert!(old.len() >= 3, "{told:?}");
    assert!(old.iter().all(|line| kept.contains(line.as_str())), "{kept}");
    let shown: serde_json::Value = serde_json::from_str(&folder.run(&["sessions", "list", "--json"])).unwrap();
    assert_eq!(shown["complete"], false);
    assert!(shown["duration"].as_f64().unwrap() > 1.5, "{shown}");
    assert!(folder.run(&["sessions", "show"]).contains("cut off"));
}
