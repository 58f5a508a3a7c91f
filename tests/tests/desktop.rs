//! The coach as a whole on a machine with little: without sound, for an hour, and in a window.

#![allow(clippy::print_stdout, reason = "what was measured belongs into the test's output")]

mod common;

use common::{command, program, stderr, stdout};
use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

/// A file of words that are said at times.
fn script(folder: &Path, lines: &str) -> String {
    let path = folder.join("lines.txt");
    std::fs::write(&path, lines).unwrap();
    path.to_string_lossy().into_owned()
}

fn json(text: &str) -> Vec<serde_json::Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Whatever sound this machine has is hidden: cues are told all the same, and how long they took from the picture.
#[test]
fn without_a_sound_device_everything_else_works() {
    let folder = tempfile::tempdir().unwrap();
    // the first three seconds are the lead-in
    let lines = script(folder.path(), "3.2 Chest up\n");
    let from = ["live", "--from", "pattern:64x64@30:4s", "--json", "--lens", "none", "--no-record", "--script", &lines];
    let out =
        command(&from).env("ALSA_CONFIG_PATH", "/nonexistent").env("PULSE_SERVER", "/nonexistent").output().unwrap();
    assert!(out.status.success(), "{}", stderr(&out));
    let told = json(&stdout(&out));
    let of = |kind: &str| told.iter().find(|line| line["type"] == kind).unwrap_or_else(|| panic!("{kind}: {told:?}"));
    assert_eq!(of("feedback")["text"], "Chest up");
    assert!(of("summary")["frames"].as_u64().unwrap() >= 100, "{told:?}");
    let cue = &of("timing")["stages"]["glass_to_cue"];
    let (p50, p95) = (cue["p50_ms"].as_f64().unwrap(), cue["p95_ms"].as_f64().unwrap());
    println!("glass to cue: p50 {p50} ms, p95 {p95} ms");
    assert!(cue["n"] == 1 && 0.0 < p50 && p50 <= p95 && p95 < 500.0, "{cue}");
}

/// The most memory that a replay of so many seconds took, in MiB, and what was said in it.
fn memory_of(seconds: u32, lines: &str) -> (f64, u64) {
    let pattern = format!("pattern:64x64@8:{seconds}s");
    let args = ["replay", &pattern, "--json", "--lens", "none", "--stats", "--cooldown", "0", "--script", lines];
    let out = command(&args).output().unwrap();
    assert!(out.status.success(), "{}", stderr(&out));
    let told = json(&stdout(&out));
    let of = |kind: &str| told.iter().find(|line| line["type"] == kind).cloned().unwrap();
    let said = of("summary")["utterances"].as_u64().unwrap();
    (of("timing")["peak_bytes"].as_f64().unwrap_or(0.0) / f64::from(1 << 20), said)
}

/// An hour of media time at full speed, with a word every four seconds, beside five minutes of it.
#[test]
fn an_hour_takes_no_more_memory_than_five_minutes() {
    let folder = tempfile::tempdir().unwrap();
    let lines: String = (0..900).map(|i| format!("{} Knees wider, number {i}\n", 4 * i)).collect();
    let lines = script(folder.path(), &lines);
    let (short, few) = memory_of(300, &lines);
    let (long, many) = memory_of(3600, &lines);
    println!("five minutes: {short:.1} MiB, {few} said; an hour: {long:.1} MiB, {many} said");
    assert!(many > 11 * few && few > 60, "{few}, {many}");
    if cfg!(target_os = "linux") {
        assert!(long - short < 8.0, "{short:.1} MiB grew to {long:.1}");
    }
}

/// A display of our own that nobody sees; `None` where there is no Xvfb.
struct Display(Child, String);

impl Display {
    fn open() -> Option<Self> {
        let mut xvfb = Command::new("Xvfb");
        // without -noreset a server begins anew when its last client goes, and refuses the next one meanwhile
        xvfb.args(["-noreset", "-displayfd", "1", "-screen", "0", "1280x800x24", "-nolisten", "tcp"]);
        let mut child = xvfb.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
        let mut number = String::new();
        let read = BufReader::new(child.stdout.take()?).read_line(&mut number);
        let display = Self(child, format!(":{}", number.trim()));
        read.is_ok_and(|n| n > 0).then_some(display)
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A picture of the window, made small: what differs between two machines' letters is gone, what lies where is not.
fn small(path: &Path) -> image::RgbImage {
    let picture = image::open(path).unwrap().to_rgb8();
    assert!(picture.width() >= 1000 && picture.height() >= 600, "{:?}", picture.dimensions());
    image::imageops::thumbnail(&picture, 59, 38)
}

/// Mean difference of two pictures, of 255.
fn difference(a: &image::RgbImage, b: &image::RgbImage) -> f64 {
    assert_eq!(a.dimensions(), b.dimensions());
    let sum: u64 = a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / a.as_raw().len() as f64
}

/// A folder of four seconds of one picture, in four colours.
fn still_pictures(folder: &Path) -> String {
    let still = folder.join("still");
    std::fs::create_dir(&still).unwrap();
    let colours = [[200, 60, 40], [40, 160, 80], [60, 80, 200], [220, 200, 60]];
    let picture = image::RgbImage::from_fn(320, 240, |x, y| image::Rgb(colours[(x / 160 + 2 * (y / 120)) as usize]));
    let first = still.join("0000.png");
    picture.save(&first).unwrap();
    for i in 1..120 {
        std::fs::hard_link(&first, still.join(format!("{i:04}.png"))).unwrap();
    }
    still.to_string_lossy().into_owned()
}

/// The window as it is drawn, beside how it was drawn when somebody looked at it. `SPOTTER_SNAPSHOTS=1` makes the pictures
/// anew.
#[test]
fn the_window_looks_as_it_did() {
    let Some(display) = Display::open() else { return println!("skipped: there is no Xvfb") };
    let folder = tempfile::tempdir().unwrap();
    let lines = script(folder.path(), "0.5 Knees wider, and push them out in line with your feet.\n");
    // a picture that stands still: a slow machine may be asked for its window a moment later
    let still = still_pictures(folder.path());
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens/window");
    let mut seen = Vec::new();
    for (name, theme, more) in [
        ("replay_dark", "dark", vec!["replay", &still, "--lens", "none", "--screenshot-at", "2"]),
        ("replay_light", "light", vec!["replay", &still, "--lens", "none", "--screenshot-at", "2"]),
        (
            "live_countdown",
            "dark",
            vec!["live", "--from", &still, "--no-record", "--lens", "none", "--screenshot-at", "1"],
        ),
    ] {
        let out = folder.path().join(format!("{name}.png"));
        let mut window = Command::new(program());
        window.args(&more).args(["--script", &lines, "--screenshot"]).arg(&out);
        window.env("DISPLAY", &display.1).env("LIBGL_ALWAYS_SOFTWARE", "1").env_remove("WAYLAND_DISPLAY");
        window.env("SPOTTER_CONFIG", folder.path().join("none.toml")).env("SPOTTER_THEME", theme);
        let ran = window.output().unwrap();
        if !ran.status.success() && stderr(&ran).contains("the window can't be opened") {
            return println!("skipped: {}", stderr(&ran));
        }
        assert!(ran.status.success(), "{name}: {}", stderr(&ran));
        let picture = small(&out);
        let golden = goldens.join(format!("{name}.png"));
        if std::env::var_os("SPOTTER_SNAPSHOTS").is_some() {
            std::fs::create_dir_all(&goldens).unwrap();
            picture.save(&golden).unwrap();
        }
        let off = difference(&picture, &image::open(&golden).unwrap().to_rgb8());
        println!("{name}: {off:.2} of 255 off");
        assert!(off < 6.0, "{name} looks otherwise than {}: {off:.1} of 255", golden.display());
        seen.push(picture);
    }
    // the planted error: another theme and another screen are told apart
    let [dark, light, live] = &seen[..] else { panic!("three pictures") };
    println!("dark and light: {:.1}, replay and live: {:.1}", difference(dark, light), difference(dark, live));
    assert!(difference(dark, light) > 12.0 && difference(dark, live) > 12.0);
}
