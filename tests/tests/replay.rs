//! `spotter replay` from outside, with a script in the place of a model.

mod common;

use common::{spotter, stderr, stdout};
use std::{fs, path::PathBuf};

const LINES: &str = "# words\n0.5 Let us begin\n1.5 Chest up, and sit back\n2.2 좋아요\n";

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
    /// Replays headless with the script and more arguments; stdout.
    fn replay(&self, video: &str, more: &[&str]) -> String {
        let lines = self.path("lines.txt");
        let args = [&["replay", video, "--headless", "--script", &lines, "--cooldown", "0.5"], more].concat();
        let out = spotter(&args);
        assert!(out.status.success(), "{args:?}: {}", stderr(&out));
        stdout(&out)
    }
}

#[test]
fn replays_are_equal_byte_for_byte_at_any_speed() {
    let folder = Folder::new();
    let replay = |more: &[&str]| folder.replay("pattern:160x120@30:3s", &[&["--json"], more].concat());
    let text = replay(&["--speed", "max"]);
    assert_eq!(replay(&["--speed", "1"]), text);
    assert_eq!(replay(&["--speed", "max"]), text);
    assert_eq!(text.matches(r#""type":"feedback""#).count(), 3, "{text}");
    let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.first().unwrap()["type"], "session");
    assert_eq!(lines.last().unwrap()["type"], "summary");
    assert_eq!(lines.last().unwrap()["frames"], 90);
    assert_ne!(replay(&["--latency", "fixed:200,100"]), text, "the latency model is no ornament");
}

#[test]
fn times_of_this_machine_are_a_line_of_their_own() {
    let folder = Folder::new();
    let text = folder.replay("pattern:64x64@30:1s", &["--json", "--latency", "measured"]);
    assert!(text.lines().last().unwrap().starts_with(r#"{"type":"timing","stages":{"#), "{text}");
}

#[test]
fn the_terminal_timeline_has_no_colour_in_a_pipe() {
    let text = Folder::new().replay("pattern:64x64@30:3s", &[]);
    assert!(text.contains("00:00.5  Let us begin\n") && text.contains("00:02.3  좋아요\n"), "{text}");
    assert!(!text.contains('\x1b'));
}

#[test]
fn without_a_display_the_timeline_is_printed() {
    let folder = Folder::new();
    let out = spotter(&["replay", "pattern:64x64@30:1s", "--script", &folder.path("lines.txt")]);
    assert!(out.status.success(), "{}", stderr(&out));
    assert!(stdout(&out).contains("Let us begin"));
    assert!(stderr(&out).contains("printing the timeline instead"), "{}", stderr(&out));
}

#[test]
fn subtitles_timeline_and_video_are_written() {
    let folder = Folder::new();
    let (srt, jsonl, video) = (folder.path("a.srt"), folder.path("a.jsonl"), folder.path("a.mp4"));
    folder.replay("pattern:160x120@30:3s", &["--srt", &srt, "--timeline", &jsonl, "--out", &video]);
    let srt = fs::read_to_string(srt).unwrap();
    assert!(srt.starts_with("1\n00:00:00,5"), "{srt}");
    assert_eq!(srt.matches(" --> ").count(), 3);
    assert_eq!(fs::read_to_string(jsonl).unwrap().lines().count(), 6);
    // the drawn video is a recording like any other, with the same frames
    let again = folder.replay(&video, &["--json"]);
    assert!(again.contains(r#""frames":90"#), "{again}");
}

#[test]
fn a_broken_recording_is_told_after_what_it_had() {
    let folder = Folder::new();
    let (whole, cut) = (folder.path("whole.mp4"), folder.path("cut.mkv"));
    folder.replay("pattern:320x240@30:4s", &["--out", &whole]);
    let bytes = fs::read(&whole).unwrap();
    fs::write(&cut, &bytes[..bytes.len() / 3]).unwrap();
    let out = spotter(&["replay", &cut, "--headless", "--json", "--script", &folder.path("lines.txt")]);
    assert_eq!(out.status.code(), Some(1));
    assert!(stderr(&out).starts_with("error: ") && stderr(&out).contains("cut.mkv"), "{}", stderr(&out));
}

#[test]
fn a_person_partly_out_of_view_is_told_and_not_coached() {
    let clip = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/video/not_in_view_gym.gif");
    if !clip.exists() {
        println!("skipped: {} is not there", clip.display());
        return;
    }
    let text = Folder::new().replay(&clip.to_string_lossy(), &["--json", "--lens", "avatar"]);
    assert!(
        text.contains(r#""text":"I can't see all of you. Step back, I can't see your feet.","kind":"view""#),
        "{text}"
    );
    assert!(!text.contains(r#""kind":"coaching""#), "{text}");
}
