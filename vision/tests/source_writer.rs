//! Frames written and read back; folders of pictures; what `source::open` finds.
#![cfg(feature = "video")]

use spotter_vision::{
    Frame,
    source::{
        FrameSource, OpenOptions, SourceError,
        images::{ImagesOptions, ImagesSource},
        open,
        pattern::{PatternOptions, PatternSource, read_clock},
        video::VideoSource,
        writer::{VideoWriter, WriterOptions},
    },
};
use std::{path::Path, time::Duration};

fn pattern(width: usize, height: usize, count: u64) -> Vec<Frame> {
    let duration = Some(Duration::from_millis(100 * count));
    let options = PatternOptions { width, height, fps: 10.0, duration };
    read_all(&mut PatternSource::new(options).expect("in range"))
}

fn read_all(source: &mut dyn FrameSource) -> Vec<Frame> {
    std::iter::from_fn(|| source.next_frame().expect("decodes")).collect()
}

#[test]
fn round_trip_keeps_times_and_pixels() {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, width, height, padded) in
        [("a.mp4", 160, 128, (160, 128)), ("odd.mp4", 151, 97, (152, 98)), ("b.mkv", 64, 64, (64, 64))]
    {
        let path = dir.path().join(name);
        let mut frames = pattern(width, height, 20);
        for (n, frame) in frames.iter_mut().enumerate() {
            // Uneven steps, the first not at zero.
            frame.t = Duration::from_millis(500 + 40 * n as u64 + 7 * (n * n) as u64);
        }
        let options = WriterOptions { crf: 8, ..Default::default() };
        let mut writer = VideoWriter::create_with(&path, width, height, 25.0, options).expect("created");
        frames.iter().for_each(|frame| writer.push(frame).expect("written"));
        writer.finish().expect("finished");
        let mut source = VideoSource::open(&path).expect("opens");
        assert_eq!((source.info().width, source.info().height), padded, "{name}");
        let back = read_all(&mut source);
        assert_eq!(back.len(), 20, "{name}");
        for (n, (frame, back)) in frames.iter().zip(&back).enumerate() {
            let apart = (frame.t - frames[0].t).abs_diff(back.t);
            assert!(apart <= Duration::from_millis(1), "{name} frame {n}: {apart:?} apart");
            assert_eq!(read_clock(back), Some(n as u64), "{name}");
            let mut sum = 0;
            for y in 0..height {
                let (a, b) = (y * width * 3, y * back.width * 3);
                sum += (0..width * 3).map(|x| u64::from(frame.rgb[a + x].abs_diff(back.rgb[b + x]))).sum::<u64>();
            }
            let error = sum as f64 / (width * height * 3) as f64;
            assert!(error < 6.0, "{name} frame {n}: mean error {error:.2} of 255");
        }
    }
}

#[test]
fn a_dropped_writer_leaves_a_file_that_plays() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("dropped.mp4");
    let mut writer = VideoWriter::create(&path, 64, 64, 10.0).expect("created");
    pattern(64, 64, 7).iter().for_each(|frame| writer.push(frame).expect("written"));
    drop(writer);
    assert_eq!(read_all(&mut VideoSource::open(&path).expect("opens")).len(), 7);
}

#[test]
fn the_writer_says_what_is_wrong() {
    let dir = tempfile::tempdir().expect("a folder");
    let good = dir.path().join("a.mp4");
    let create = |path: &Path, w, h, fps, options| {
        VideoWriter::create_with(path, w, h, fps, options).map(drop).expect_err("refused").to_string()
    };
    let options = WriterOptions::default;
    for (message, part) in [
        (create(&dir.path().join("no/a.mp4"), 64, 64, 10.0, options()), "does not exist"),
        (create(&dir.path().join("a.txt"), 64, 64, 10.0, options()), "should end in .mp4"),
        (create(&good, 0, 64, 10.0, options()), "0x64 is no picture size"),
        (create(&good, 64, 64, f64::NAN, options()), "NaN frames a second"),
        (create(&good, 64, 64, 10.0, WriterOptions { crf: 52, ..options() }), "crf 52"),
        (create(&good, 64, 64, 10.0, WriterOptions { preset: "warp".into(), ..options() }), "preset `warp`"),
    ] {
        assert!(message.contains(part), "{message}");
    }
    let mut writer = VideoWriter::create(&good, 64, 64, 10.0).expect("created");
    let frames = pattern(64, 64, 2);
    writer.push(&frames[1]).expect("written");
    assert!(writer.push(&frames[0]).expect_err("back in time").to_string().contains("order of time"));
    let other = writer.push(&pattern(32, 64, 1)[0]).expect_err("another size").to_string();
    assert!(other.contains("is 32x64, the file is 64x64"), "{other}");
    writer.finish().expect("the good frame is kept");
    let empty = VideoWriter::create(dir.path().join("b.mp4"), 64, 64, 10.0).expect("created").finish();
    assert!(empty.expect_err("no frames").to_string().contains("no frame was pushed"));
}

#[test]
fn folders_of_pictures() {
    let dir = tempfile::tempdir().expect("a folder");
    let options = ImagesOptions { fps: 4.0, max_side: None };
    let none = ImagesSource::open(dir.path(), options).map(drop).expect_err("empty").to_string();
    assert!(none.contains("no .jpg, .jpeg or .png files"), "{none}");
    for (n, frame) in pattern(64, 48, 12).iter().enumerate() {
        let extension = ["png", "jpg", "JPEG"][n % 3];
        let picture = image::RgbImage::from_raw(64, 48, frame.rgb.to_vec()).expect("its size");
        picture.save(dir.path().join(format!("f{n}.{extension}"))).expect("saved");
    }
    std::fs::write(dir.path().join("notes.txt"), "x").expect("written");
    std::fs::write(dir.path().join(".f3.png"), "x").expect("written");
    let mut source = open(dir.path(), OpenOptions { image_fps: 4.0, ..Default::default() }).expect("opens");
    assert_eq!((source.info().width, source.info().duration), (64, Some(Duration::from_secs(3))));
    let frames = read_all(source.as_mut());
    assert_eq!(frames.len(), 12);
    for (n, frame) in (0..).zip(&frames) {
        assert_eq!((read_clock(frame), frame.seq, frame.t), (Some(n), n, Duration::from_millis(250 * n)));
    }
    let small = open(dir.path(), OpenOptions { max_side: Some(32), ..Default::default() }).expect("opens");
    assert_eq!((small.info().width, small.info().height), (32, 24));
    std::fs::write(dir.path().join("f1.jpg"), "no picture").expect("written");
    let mut source = ImagesSource::open(dir.path(), options).expect("opens");
    assert!(matches!(source.next_frame(), Ok(Some(_))));
    let error = source.next_frame().expect_err("broken").to_string();
    assert!(error.contains("f1.jpg: broke off at 0.00 s after 1 frames"), "{error}");
    assert!(matches!(source.next_frame(), Ok(None)));
    std::fs::write(dir.path().join("f0.png"), "no picture").expect("written");
    let error = ImagesSource::open(dir.path(), options).map(drop).expect_err("broken");
    assert!(matches!(&error, SourceError::Open { path, .. } if path.ends_with("f0.png")), "{error}");
}

#[test]
fn open_finds_the_kind() {
    let source = open("pattern:64x48@5:2s", OpenOptions::default()).expect("opens");
    assert_eq!((source.info().width, source.info().duration), (64, Some(Duration::from_secs(2))));
    assert!(open("pattern:64", OpenOptions::default()).is_err());
    let missing = open("no-such-file.mp4", OpenOptions::default()).map(drop).expect_err("missing").to_string();
    assert!(missing.contains("no-such-file.mp4: there is no such file"), "{missing}");
}
