//! Recordings made on the fly with the `ffmpeg` program, read back by the library.
#![expect(clippy::print_stdout, reason = "a test that was skipped says so")]
#![cfg(feature = "video")]

use spotter_vision::{
    Frame,
    source::{
        FrameSource, SourceError,
        video::{VideoOptions, VideoSource},
    },
};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Runs `ffmpeg` with arguments split at spaces, writing `name` in `folder`; `None` when the program or encoder is absent.
fn clip(folder: &Path, arguments: &str, name: &str) -> Option<PathBuf> {
    let path = folder.join(name);
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-nostdin", "-y"]).args(arguments.split(' ')).arg(&path).current_dir(folder);
    match command.output() {
        Ok(run) if run.status.success() => Some(path),
        Ok(run) => {
            let text = String::from_utf8_lossy(&run.stderr).into_owned();
            assert!(text.contains("Unknown encoder"), "ffmpeg {arguments} {name}: {text}");
            println!("skipped: this ffmpeg lacks the encoder of `{arguments}`");
            None
        }
        Err(error) => {
            println!("skipped: the ffmpeg program does not run ({error})");
            None
        }
    }
}

fn read_all(source: &mut dyn FrameSource) -> (Vec<Frame>, Option<SourceError>) {
    let mut frames = Vec::new();
    loop {
        match source.next_frame() {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return (frames, None),
            Err(error) => {
                assert!(matches!(source.next_frame(), Ok(None)), "after an error the source is at its end");
                return (frames, Some(error));
            }
        }
    }
}

fn whole(path: &Path) -> (VideoSource, Vec<Frame>) {
    let mut source = VideoSource::open(path).expect("opens");
    let (frames, error) = read_all(&mut source);
    assert!(error.is_none(), "{error:?}");
    (source, frames)
}

fn millis(frames: &[Frame]) -> Vec<u128> {
    frames.iter().map(|frame| (frame.t.as_nanos() + 500_000) / 1_000_000).collect()
}

#[test]
fn every_codec_and_container() {
    let dir = tempfile::tempdir().expect("a folder");
    let input = "-f lavfi -i testsrc=s=96x64:r=10:d=1.2";
    for (codec, containers) in [
        ("-c:v libx264 -bf 3 -pix_fmt yuv420p", &["mp4", "mov", "mkv"][..]),
        ("-c:v libx265 -x265-params log-level=none -pix_fmt yuv420p", &["mp4", "mov", "mkv"]),
        ("-c:v libvpx-vp9 -cpu-used 8 -pix_fmt yuv420p", &["mp4", "webm", "mkv"]),
        ("-c:v libaom-av1 -cpu-used 8 -usage realtime -pix_fmt yuv420p", &["mp4", "webm", "mkv"]),
        ("-c:v gif", &["gif"]),
    ] {
        for container in containers {
            let name = format!("clip.{container}");
            let Some(path) = clip(dir.path(), &format!("{input} {codec}"), &name) else { continue };
            let (source, frames) = whole(&path);
            let what = format!("{codec} in {container}");
            assert_eq!((source.info().width, source.info().height), (96, 64), "{what}");
            assert_eq!(source.info().name, name);
            assert!((source.info().fps - 10.0).abs() < 0.5, "{what}: {} fps", source.info().fps);
            let length = source.info().duration.expect("a length").as_secs_f64();
            assert!((length - 1.2).abs() < 0.11, "{what}: {length} s");
            assert_eq!(millis(&frames), (0..12).map(|n| n * 100).collect::<Vec<_>>(), "{what}");
            assert!(frames.iter().enumerate().all(|(n, f)| f.seq == n as u64 && f.rgb.len() == 96 * 64 * 3), "{what}");
        }
    }
}

#[test]
fn variable_rate_keeps_exact_times() {
    let dir = tempfile::tempdir().expect("a folder");
    // Of 40 frames at 40 a second, those whose number is a square, shifted to start at 3 s.
    let select = "select='eq(floor(sqrt(n))*floor(sqrt(n))\\,n)',setpts=PTS+3/TB";
    let arguments =
        format!("-f lavfi -i testsrc=s=64x48:r=40:d=1 -vf {select} -vsync vfr -c:v libx264 -bf 2 -pix_fmt yuv420p");
    for name in ["vfr.mp4", "vfr.mkv"] {
        let Some(path) = clip(dir.path(), &arguments, name) else { return };
        assert_eq!(millis(&whole(&path).1), [0, 25, 100, 225, 400, 625, 900], "{name}");
    }
}

#[test]
fn rotated_frames_are_upright() {
    let dir = tempfile::tempdir().expect("a folder");
    // Quarters: red, green / blue, white.
    let draw = "-f lavfi -i color=red:s=96x64:r=5:d=0.6 -vf drawbox=48:0:48:32:lime:fill,drawbox=0:32:48:32:blue:fill,drawbox=48:32:48:32:white:fill -c:v libx264 -crf 5 -pix_fmt yuv420p";
    if clip(dir.path(), draw, "plain.mp4").is_none() {
        return;
    }
    for (degrees, size) in [(0, (96, 64)), (90, (64, 96)), (180, (96, 64)), (270, (64, 96))] {
        let name = format!("turned{degrees}.mp4");
        let Some(path) = clip(dir.path(), &format!("-i plain.mp4 -c copy -metadata:s:v rotate={degrees}"), &name)
        else {
            return;
        };
        let (source, frames) = whole(&path);
        assert_eq!((source.info().width, source.info().height), size, "{degrees} degrees");
        assert_eq!((frames.len(), frames[0].width, frames[0].height), (3, size.0, size.1));
        // The ffmpeg program turns frames upright too: its picture is the truth.
        let shown = clip(dir.path(), &format!("-i {name} -frames:v 1"), "shown.png").expect("a picture");
        let shown = image::open(shown).expect("a picture").into_rgb8();
        assert_eq!((shown.width() as usize, shown.height() as usize), size);
        let apart: u64 = shown.as_raw().iter().zip(frames[0].rgb.iter()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
        let apart = apart as f64 / frames[0].rgb.len() as f64;
        assert!(apart < 3.0, "{degrees} degrees: {apart:.1} of 255 apart from what ffmpeg shows");
        let at = ((size.1 / 4) * size.0 + size.0 / 4) * 3;
        let corner: [u8; 3] = frames[0].rgb[at..at + 3].try_into().expect("a pixel");
        let bright = corner.map(|value| value > 128);
        let upper_left = [[true, false, false], [false, false, true], [true; 3], [false, true, false]];
        assert!(upper_left.contains(&bright), "{degrees} degrees: {corner:?}");
        if degrees == 0 || degrees == 180 {
            assert_eq!(bright, upper_left[degrees / 90], "{degrees} degrees");
        }
    }
}

#[test]
fn odd_sizes_and_scaling_down() {
    let dir = tempfile::tempdir().expect("a folder");
    let input = "-f lavfi -i testsrc=s=151x271:r=5:d=0.6";
    for (codec, name) in [
        ("-c:v libx264 -pix_fmt yuv444p", "odd.mp4"),
        ("-c:v libvpx-vp9 -pix_fmt yuv420p", "odd.webm"),
        ("-c:v gif", "odd.gif"),
    ] {
        let Some(path) = clip(dir.path(), &format!("{input} {codec}"), name) else { continue };
        let (source, frames) = whole(&path);
        assert_eq!((source.info().width, source.info().height, frames.len()), (151, 271, 3), "{name}");
        for (max_side, size) in [(100, (56, 100)), (271, (151, 271)), (1000, (151, 271)), (8, (4, 8))] {
            let options = VideoOptions { max_side: Some(max_side), ..Default::default() };
            let mut source = VideoSource::open_with(&path, options).expect("opens");
            assert_eq!((source.info().width, source.info().height), size, "{name} to {max_side}");
            let frame = source.next_frame().expect("decodes").expect("a frame");
            assert_eq!((frame.width, frame.height, frame.rgb.len()), (size.0, size.1, size.0 * size.1 * 3));
        }
    }
}

#[test]
fn cut_files_give_their_frames_and_then_say_where() {
    let dir = tempfile::tempdir().expect("a folder");
    let input = "-f lavfi -i testsrc2=s=128x96:r=10:d=5";
    let h264 = "-c:v libx264 -g 10 -pix_fmt yuv420p";
    for (codec, name) in
        [(format!("{h264} -movflags +faststart"), "cut.mp4"), (h264.into(), "cut.mkv"), ("-c:v gif".into(), "cut.gif")]
    {
        let Some(path) = clip(dir.path(), &format!("{input} {codec}"), name) else { continue };
        let bytes = std::fs::read(&path).expect("the clip");
        for part in [0.4, 0.6, 0.95] {
            std::fs::write(&path, &bytes[..(bytes.len() as f64 * part) as usize]).expect("the cut clip");
            let (frames, error) = read_all(&mut VideoSource::open(&path).expect("the head is whole"));
            let count = frames.len() as u64;
            assert!(count > 5 && count < 50, "{name} cut at {part}: {count} frames");
            let error = error.unwrap_or_else(|| panic!("{name} cut at {part}: no error after {count} frames"));
            let text = error.to_string();
            let SourceError::Broken { t, frames: told, .. } = error else { panic!("{text}") };
            assert_eq!((told, Some(t)), (count, frames.last().map(|f| f.t)));
            assert!(text.contains(name) && text.contains("cut short"), "{text}");
            assert!(text.contains(&format!("after {count} frames")), "{text}");
        }
    }
    let Some(path) = clip(dir.path(), &format!("{input} {h264}"), "late.mp4") else { return };
    let bytes = std::fs::read(&path).expect("the clip");
    std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("the cut clip");
    refused(&path, "its index is missing; the file is cut short");
}

fn refused(path: &Path, part: &str) {
    match VideoSource::open(path) {
        Err(SourceError::Open { path: named, problem }) => {
            assert_eq!(named, path);
            assert!(problem.contains(part), "{}: {problem}", path.display());
        }
        other => panic!("{}: {other:?}", path.display()),
    }
}

#[test]
fn bad_inputs_are_refused_by_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        path
    };
    let no_video = "this is no video that can be read";
    refused(&dir.path().join("none.mp4"), "no such file");
    refused(dir.path(), "this is a folder");
    refused(&file("empty.mp4", b""), "the file is empty");
    refused(&file("notes.txt", "three sets of ten\n".repeat(500).as_bytes()), no_video);
    refused(&file("notes.mp4", "three sets of ten\n".repeat(500).as_bytes()), no_video);
    refused(&file("list.m3u8", b"#EXTM3U\n#EXTINF:1,\nhttp://localhost:1/a.ts\n"), no_video);
    refused(Path::new("a\0b.mp4"), "can't be read");
    if let Some(sound) = clip(dir.path(), "-f lavfi -i sine=d=1 -c:a aac", "sound.mp4") {
        refused(&sound, "there is no video in this file");
    }
    if let Some(path) = clip(dir.path(), "-f lavfi -i testsrc=s=64x48:d=1 -c:v libx264 -pix_fmt yuv420p", "known.mp4") {
        let mut bytes = std::fs::read(&path).expect("the clip");
        for at in 0..bytes.len() - 4 {
            if &bytes[at..at + 4] == b"avc1" {
                bytes[at..at + 4].copy_from_slice(b"qqqq");
            }
        }
        refused(&file("unknown.mp4", &bytes), "no decoder");
    }
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStringExt as _;
        let path = dir.path().join(std::ffi::OsString::from_vec(vec![b'a', 0xFF]));
        if std::fs::write(&path, b"x").is_ok() {
            refused(&path, "not valid UTF-8");
        }
        refused(Path::new("/dev/null"), "no regular file");
    }
}

#[test]
fn names_with_colons_and_a_damaged_middle() {
    let dir = tempfile::tempdir().expect("a folder");
    let arguments = "-f lavfi -i testsrc2=s=128x96:r=10:d=5 -c:v libx264 -g 10 -pix_fmt yuv420p -movflags +faststart";
    let Some(path) = clip(dir.path(), arguments, "a.mp4") else { return };
    let mut bytes = std::fs::read(&path).expect("the clip");
    let odd = dir.path().join("http: day 1.mp4");
    std::fs::write(&odd, &bytes).expect("written");
    assert_eq!(whole(&odd).1.len(), 50);
    let middle = bytes.len() / 2;
    bytes[middle..middle + 600].fill(0xA5);
    std::fs::write(&odd, &bytes).expect("written");
    let (frames, error) = read_all(&mut VideoSource::open(&odd).expect("opens"));
    assert!(error.is_none() && frames.len() >= 35, "{} frames, {error:?}", frames.len());
    assert!(frames.windows(2).all(|pair| pair[0].t <= pair[1].t));
}

#[test]
fn real_clips() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/video");
    for (name, width, height, count, step) in [
        ("squats_studio.mp4", 720, 1280, 65, 200),
        ("squats_gym.gif", 153, 272, 72, 100),
        ("push_ups_gym.gif", 153, 272, 66, 100),
        ("jumping_jacks_gym.gif", 153, 272, 41, 100),
        ("not_in_view_gym.gif", 153, 265, 26, 100),
    ] {
        let path = folder.join(name);
        if !path.is_file() {
            println!("skipped: ../shared/data/video/{name} is not there");
            continue;
        }
        let (source, frames) = whole(&path);
        assert_eq!((source.info().width, source.info().height, frames.len()), (width, height, count), "{name}");
        assert_eq!(millis(&frames), (0..count as u128).map(|n| n * step).collect::<Vec<_>>(), "{name}");
    }
}
