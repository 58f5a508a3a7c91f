//! Recordings out: H.264 with the times of the frames.

use super::{
    scale::Scaler,
    video::{file_url, start_ffmpeg},
};
use crate::Frame;
use ffmpeg_next::{
    Dictionary, Packet, Rational, codec, encoder,
    format::{self, Pixel, context::Output},
    frame::Video as Picture,
    util::color::{Range, Space},
};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// Ticks a second of the presentation times.
const CLOCK: i32 = 90_000;
const MAX_SIDE: usize = 8192;
const PRESETS: [&str; 9] =
    ["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"];

/// Why a recording can't be written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct WriteError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong, what was expected, what to do.
    pub problem: String,
}

/// How a recording is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriterOptions {
    /// Constant rate factor of x264: 0 is lossless, 18 hardly to be told from the original, 51 the worst.
    pub crf: u8,
    /// Preset of x264, from `ultrafast` to `veryslow`.
    pub preset: String,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self { crf: 20, preset: "veryfast".into() }
    }
}

/// Writes frames as H.264 (4:2:0) into `.mp4`, `.mov` or `.mkv`, each at its own media time.
///
/// An odd width or height is padded by one repeated column or row, since 4:2:0 has only even sizes. Call
/// [`finish`](Self::finish): a writer that is dropped closes the file as well as it can, but tells no error.
pub struct VideoWriter {
    path: PathBuf,
    output: Output,
    encoder: encoder::Video,
    scaler: Scaler,
    size: (usize, usize),
    /// Ticks of one frame at the nominal rate: how long the last frame is shown.
    tick: i64,
    stream_base: Rational,
    last: Option<i64>,
    finished: bool,
}

impl std::fmt::Debug for VideoWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VideoWriter").field("path", &self.path).field("size", &self.size).finish_non_exhaustive()
    }
}

impl VideoWriter {
    /// Creates or replaces a file for frames of `width` x `height` pixels at a nominal rate.
    ///
    /// # Errors
    /// When the size or rate is out of range, the file can't be created, or FFmpeg has no x264.
    pub fn create(path: impl AsRef<Path>, width: usize, height: usize, fps: f64) -> Result<Self, WriteError> {
        Self::create_with(path, width, height, fps, WriterOptions::default())
    }

    /// As [`create`](Self::create), with options.
    ///
    /// # Errors
    /// As [`create`](Self::create), and when x264 refuses an option.
    pub fn create_with(
        path: impl AsRef<Path>,
        width: usize,
        height: usize,
        fps: f64,
        options: WriterOptions,
    ) -> Result<Self, WriteError> {
        let path = path.as_ref();
        Self::try_create(path, (width, height), fps, &options)
            .map_err(|problem| WriteError { path: path.to_path_buf(), problem })
    }

    fn try_create(path: &Path, size: (usize, usize), fps: f64, options: &WriterOptions) -> Result<Self, String> {
        check(path, size, fps, options)?;
        start_ffmpeg().map_err(|e| format!("FFmpeg does not start: {e}"))?;
        let x264 = encoder::find_by_name("libx264")
            .ok_or("this FFmpeg has no H.264 encoder; install one that is built with libx264")?;
        let mut output = format::output(&file_url(path)?).map_err(|e| format!("the file can't be created: {e}"))?;
        let mut video = codec::Context::new_with_codec(x264)
            .encoder()
            .video()
            .map_err(|e| format!("the H.264 encoder does not open: {e}"))?;
        video.set_width(even(size.0));
        video.set_height(even(size.1));
        video.set_format(Pixel::YUV420P);
        video.set_time_base(Rational(1, CLOCK));
        video.set_frame_rate(Some(Rational((fps * 1000.0).round() as i32, 1000)));
        video.set_colorspace(Space::SMPTE170M);
        video.set_color_range(Range::MPEG);
        if output.format().flags().contains(format::Flags::GLOBAL_HEADER) {
            video.set_flags(codec::Flags::GLOBAL_HEADER);
        }
        let mut settings = Dictionary::new();
        settings.set("crf", &options.crf.to_string());
        settings.set("preset", &options.preset);
        let encoder = video
            .open_with(settings)
            .map_err(|e| format!("x264 does not take preset `{}` and crf {} ({e})", options.preset, options.crf))?;
        let mut stream = output.add_stream(x264).map_err(|e| format!("no video can be added: {e}"))?;
        stream.set_parameters(&encoder);
        stream.set_time_base(Rational(1, CLOCK));
        output.write_header().map_err(|e| format!("the file header can't be written: {e}"))?;
        let stream_base = output.stream(0).map_or(Rational(1, CLOCK), |stream| stream.time_base());
        let tick = (f64::from(CLOCK) / fps).round().max(1.0) as i64;
        Ok(Self {
            path: path.to_path_buf(),
            output,
            encoder,
            scaler: Scaler::new(),
            size,
            tick,
            stream_base,
            last: None,
            finished: false,
        })
    }

    /// Appends a frame, shown from `frame.t` on.
    ///
    /// # Errors
    /// When the frame has another size than the file, does not come after the one before it, or can't be written.
    pub fn push(&mut self, frame: &Frame) -> Result<(), WriteError> {
        if (frame.width, frame.height) != self.size {
            let ((w, h), path) = (self.size, self.path.clone());
            let problem =
                format!("frame {} is {}x{}, the file is {w}x{h}; scale it first", frame.seq, frame.width, frame.height);
            return Err(WriteError { path, problem });
        }
        let pts = ticks(frame.t).ok_or_else(|| self.error("the media time is beyond what a file can hold"))?;
        if let Some(last) = self.last.filter(|last| pts <= *last) {
            let problem = format!(
                "frame {} at {:.4} s does not come after the frame at {:.4} s; frames must be pushed in order of time",
                frame.seq,
                frame.t.as_secs_f64(),
                last as f64 / f64::from(CLOCK)
            );
            return Err(self.error(problem));
        }
        let rgb = self.padded(frame).ok_or_else(|| self.error("the frame has fewer pixels than its size says"))?;
        let (width, height) = (rgb.width(), rgb.height());
        let mut picture = self
            .scaler
            .convert(&rgb, Pixel::YUV420P, width, height)
            .map_err(|e| self.error(format!("the frame can't be converted: {e}")))?;
        picture.set_pts(Some(pts));
        self.encoder.send_frame(&picture).map_err(|e| self.error(format!("the frame can't be encoded: {e}")))?;
        self.last = Some(pts);
        self.write_packets()
    }

    /// Writes what the encoder still holds and closes the file.
    ///
    /// # Errors
    /// When no frame was pushed, or the rest can't be written (a full disk, say).
    pub fn finish(mut self) -> Result<(), WriteError> {
        self.end()?;
        if self.last.is_none() {
            return Err(self.error("no frame was pushed; the file has no video"));
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), WriteError> {
        self.finished = true;
        self.encoder.send_eof().map_err(|e| self.error(format!("the encoder does not end: {e}")))?;
        self.write_packets()?;
        self.output.write_trailer().map_err(|e| self.error(format!("the end of the file can't be written: {e}")))
    }

    fn write_packets(&mut self) -> Result<(), WriteError> {
        let mut packet = Packet::empty();
        // The encoder says "again" or "end" when it has no packet ready; both end the loop.
        while self.encoder.receive_packet(&mut packet).is_ok() {
            packet.set_stream(0);
            packet.set_duration(self.tick);
            packet.rescale_ts(Rational(1, CLOCK), self.stream_base);
            packet
                .write_interleaved(&mut self.output)
                .map_err(|e| self.error(format!("the file can't be written: {e}; is the disk full?")))?;
        }
        Ok(())
    }

    /// The frame as an RGB picture of even size, its last column and row repeated.
    fn padded(&self, frame: &Frame) -> Option<Picture> {
        let (width, height) = (even(frame.width) as usize, even(frame.height) as usize);
        let mut picture = Picture::new(Pixel::RGB24, width as u32, height as u32);
        // As it was drawn: full-range RGB.
        picture.set_color_range(Range::JPEG);
        let (stride, row) = (picture.stride(0), frame.width * 3);
        let data = picture.data_mut(0);
        for y in 0..height {
            let source = y.min(frame.height - 1) * row;
            let source = frame.rgb.get(source..source + row)?;
            let line = data.get_mut(y * stride..y * stride + width * 3)?;
            line.get_mut(..row)?.copy_from_slice(source);
            if width > frame.width {
                line.get_mut(row..)?.copy_from_slice(source.get(row - 3..)?);
            }
        }
        Some(picture)
    }

    fn error(&self, problem: impl Into<String>) -> WriteError {
        WriteError { path: self.path.clone(), problem: problem.into() }
    }
}

impl Drop for VideoWriter {
    fn drop(&mut self) {
        if !self.finished {
            // An interrupted recording should still play; there is nobody to tell an error.
            let _ = self.end();
        }
    }
}

fn even(side: usize) -> u32 {
    (side + side % 2) as u32
}

fn ticks(t: Duration) -> Option<i64> {
    let ticks = (t.as_nanos() * CLOCK as u128 + 500_000_000) / 1_000_000_000;
    // Containers rescale ticks, which must not overflow.
    i64::try_from(ticks).ok().filter(|ticks| *ticks < 1 << 48)
}

fn check(path: &Path, (width, height): (usize, usize), fps: f64, options: &WriterOptions) -> Result<(), String> {
    if !(1..=MAX_SIDE).contains(&width) || !(1..=MAX_SIDE).contains(&height) {
        return Err(format!("{width}x{height} is no picture size; expected 1 to {MAX_SIDE} a side"));
    }
    if !(0.01..=1000.0).contains(&fps) {
        return Err(format!("{fps} frames a second is not between 0.01 and 1000"));
    }
    if options.crf > 51 {
        return Err(format!("crf {} is not between 0 (lossless) and 51 (worst)", options.crf));
    }
    // x264 writes to stderr by itself when it is given a name it does not know.
    if !PRESETS.contains(&options.preset.as_str()) {
        return Err(format!("preset `{}` is none of {}", options.preset, PRESETS.join(", ")));
    }
    let extension = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
    if !matches!(extension.as_deref(), Some("mp4" | "mov" | "mkv")) {
        return Err("the file name should end in .mp4, .mov or .mkv".into());
    }
    if path.is_dir() {
        return Err("this is a folder; give a file name".into());
    }
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
            Err(format!("the folder {} does not exist; create it first", folder.display()))
        }
        _ => Ok(()),
    }
}
