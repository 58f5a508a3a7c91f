//! Recordings: any common container and codec, frames upright, with the times of the container.

use super::{FrameSource, SourceError, SourceInfo, orientation::Orientation, scale, scale::Scaler, truncation};
use crate::Frame;
use ffmpeg_next::{
    self as ffmpeg, Dictionary, Packet, Rational,
    codec::{self, packet::side_data, threading},
    decoder,
    format::{
        Pixel,
        context::Input,
        stream::{Disposition, Stream},
    },
    frame::Video as Picture,
    media,
    util::error::EAGAIN,
};
use std::{
    path::{Path, PathBuf},
    sync::Once,
    time::Duration,
};

/// Demuxers that are let near a file. Text, playlists and devices are no recordings, though FFmpeg would open some of them.
const CONTAINERS: &str =
    "mov,mp4,matroska,webm,gif,avi,mpegts,mpeg,flv,ogg,asf,ivf,h264,hevc,mjpeg,yuv4mpegpipe,apng,mp3,flac,wav,aac";
/// Packets in a row that may fail before the recording counts as broken: a damaged spot is skipped, a damaged rest is not.
const MAX_UNDECODABLE: u64 = 120;
const MAX_SIDE: usize = 16_384;
const DEFAULT_FPS: f64 = 30.0;

/// How a recording is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VideoOptions {
    /// Larger frames are scaled down, while they are converted, so that their longer side has this many pixels.
    pub max_side: Option<usize>,
    /// Threads of the decoder, at least 1.
    pub threads: usize,
}

impl Default for VideoOptions {
    fn default() -> Self {
        Self { max_side: None, threads: 2 }
    }
}

/// What this build of FFmpeg can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Version of libavformat.
    pub version: String,
    /// Codecs that people record with and that it decodes.
    pub codecs: Vec<&'static str>,
    /// Those that it does not.
    pub missing: Vec<&'static str>,
}

/// What the FFmpeg that was linked can read.
pub fn abilities() -> Abilities {
    use codec::Id;
    let wanted = [
        ("H.264", Id::H264),
        ("HEVC", Id::HEVC),
        ("VP9", Id::VP9),
        ("AV1", Id::AV1),
        ("GIF", Id::GIF),
        ("MJPEG", Id::MJPEG),
    ];
    let (codecs, missing): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|(_, id)| decoder::find(*id).is_some());
    let names = |list: Vec<(&'static str, Id)>| list.into_iter().map(|(name, _)| name).collect();
    let v = ffmpeg::format::version();
    Abilities {
        version: format!("libavformat {}.{}.{}", v >> 16, v >> 8 & 0xff, v & 0xff),
        codecs: names(codecs),
        missing: names(missing),
    }
}

/// A recording read with FFmpeg: H.264, HEVC, VP9, AV1 and more in MP4, MOV, MKV, WebM; GIF.
///
/// Frame times are presentation times relative to the first frame, exact also at a variable rate, and never go back.
/// Rotation and mirroring of the container are applied. Non-square pixels are delivered as they are stored: the
/// sample aspect ratio is ignored. All frames have the size that [`SourceInfo`] tells.
pub struct VideoSource {
    path: PathBuf,
    input: Input,
    decoder: decoder::Video,
    stream: usize,
    time_base: Rational,
    scaler: Scaler,
    orientation: Orientation,
    /// Size of the delivered pictures before they are turned upright.
    lying: (usize, usize),
    info: SourceInfo,
    first_pts: Option<i64>,
    last_t: Duration,
    frames: u64,
    /// Packets or pictures that failed since the last good frame.
    undecodable: u64,
    problem: Option<String>,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Reading,
    /// The file is at its end; the decoder still holds frames.
    Draining,
    Done,
}

impl std::fmt::Debug for VideoSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VideoSource").field("path", &self.path).field("info", &self.info).finish_non_exhaustive()
    }
}

/// Starts FFmpeg once and keeps it from writing to stderr: what it has to say comes as errors.
pub(super) fn start_ffmpeg() -> Result<(), ffmpeg::Error> {
    static QUIET: Once = Once::new();
    ffmpeg::init()?;
    QUIET.call_once(|| ffmpeg::log::set_level(ffmpeg::log::Level::Quiet));
    Ok(())
}

/// The path as FFmpeg takes it: marked as a file, so that a colon in its name is no protocol.
pub(super) fn file_url(path: &Path) -> Result<String, String> {
    match path.to_str() {
        Some(text) if !text.contains('\0') => Ok(format!("file:{text}")),
        _ => Err("the file name is not valid UTF-8; rename the file".into()),
    }
}

impl VideoSource {
    /// Opens a recording at its full size.
    ///
    /// # Errors
    /// [`SourceError::Open`] when the file is missing, a folder, empty, no recording, has no video, or its codec has no decoder here.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, SourceError> {
        Self::open_with(path, VideoOptions::default())
    }

    /// Opens a recording with options.
    ///
    /// # Errors
    /// As [`open`](Self::open), and when an option is out of range.
    pub fn open_with(path: impl AsRef<Path>, options: VideoOptions) -> Result<Self, SourceError> {
        let path = path.as_ref();
        Self::try_open(path, options).map_err(|problem| SourceError::Open { path: path.to_path_buf(), problem })
    }

    fn try_open(path: &Path, options: VideoOptions) -> Result<Self, String> {
        if options.max_side == Some(0) {
            return Err("a longest side of 0 pixels leaves no picture; give 1 or more".into());
        }
        check_file(path)?;
        start_ffmpeg().map_err(|e| format!("FFmpeg does not start: {e}"))?;
        let input = open_input(path)?;
        let stream = best_video(&input)?;
        let decoder = open_decoder(&stream, options.threads.max(1))?;
        let stored = (decoder.width() as usize, decoder.height() as usize);
        if stored.0 == 0 || stored.1 == 0 || stored.0.max(stored.1) > MAX_SIDE {
            let hint = truncation::missing_end(path).unwrap_or_else(|| format!("expected 1 to {MAX_SIDE} a side"));
            return Err(format!("the video says it has {}x{} pixels; {hint}", stored.0, stored.1));
        }
        let orientation = orientation_of(&stream, path);
        let lying = super::fit(stored, options.max_side);
        let (width, height) = orientation.size(lying);
        let info = SourceInfo {
            name: super::display_name(path),
            width,
            height,
            fps: nominal_rate(&stream),
            duration: length(&stream, &input),
        };
        let (stream, time_base) = (stream.index(), stream.time_base());
        Ok(Self {
            path: path.to_path_buf(),
            input,
            decoder,
            stream,
            time_base,
            scaler: Scaler::new(),
            orientation,
            lying,
            info,
            first_pts: None,
            last_t: Duration::ZERO,
            frames: 0,
            undecodable: 0,
            problem: None,
            phase: Phase::Reading,
        })
    }

    /// Gives the decoder one packet, or its end.
    fn feed(&mut self) {
        let mut packet = Packet::empty();
        match packet.read(&mut self.input) {
            Ok(()) if packet.stream() != self.stream => {}
            // Part of it is missing: decoding it would show garbage.
            Ok(()) if packet.is_corrupt() => self.undecodable += 1,
            Ok(()) => {
                if self.decoder.send_packet(&packet).is_err() {
                    self.undecodable += 1;
                }
            }
            Err(error) => {
                if error != ffmpeg::Error::Eof {
                    self.problem = Some(format!("the file can't be read on ({error})"));
                }
                self.drain();
            }
        }
        if self.undecodable > MAX_UNDECODABLE {
            self.drain();
        }
    }

    fn drain(&mut self) {
        // A decoder that refuses its end has nothing to give: the next receive says so.
        let _ = self.decoder.send_eof();
        self.phase = Phase::Draining;
    }

    fn finish(&mut self) -> Result<Option<Frame>, SourceError> {
        self.phase = Phase::Done;
        let problem =
            truncation::missing_end(&self.path).or_else(|| self.problem.take()).or_else(|| match self.undecodable {
                0 if self.frames == 0 => Some("there is no frame in it".to_owned()),
                0 => None,
                n => Some(format!(
                    "the last {n} packets can't be decoded; the file is damaged, record or convert it again"
                )),
            });
        problem.map_or(Ok(None), |problem| Err(self.broken(problem)))
    }

    fn broken(&mut self, problem: String) -> SourceError {
        self.phase = Phase::Done;
        SourceError::Broken { path: self.path.clone(), t: self.last_t, frames: self.frames, problem }
    }

    fn deliver(&mut self, picture: &Picture) -> Result<Frame, SourceError> {
        let t = self.media_time(picture.timestamp());
        let (width, height) = self.lying;
        let rgb = self
            .scaler
            .convert(picture, Pixel::RGB24, width as u32, height as u32)
            .map_err(|e| self.broken(format!("{:?} pictures can't be converted to RGB ({e})", picture.format())))?;
        let frame = scale::packed_rgb(&rgb).and_then(|rgb| {
            Frame::from_rgb(self.frames, t, self.info.width, self.info.height, self.orientation.apply(rgb, self.lying))
        });
        let frame = frame.ok_or_else(|| self.broken("the converter gave a picture of another size".into()))?;
        (self.last_t, self.undecodable) = (t, 0);
        self.frames += 1;
        Ok(frame)
    }

    /// Media time of a presentation time: relative to the first, never before the last. A frame without one follows at the nominal rate.
    fn media_time(&mut self, pts: Option<i64>) -> Duration {
        let Some(pts) = pts else {
            let step = if self.frames == 0 { 0.0 } else { 1.0 / self.info.fps };
            return self.last_t + Duration::from_secs_f64(step);
        };
        let first = *self.first_pts.get_or_insert(pts);
        to_duration(pts.saturating_sub(first), self.time_base).unwrap_or(Duration::ZERO).max(self.last_t)
    }
}

impl FrameSource for VideoSource {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, SourceError> {
        let mut picture = Picture::empty();
        loop {
            if self.phase == Phase::Done {
                return Ok(None);
            }
            match self.decoder.receive_frame(&mut picture) {
                Ok(()) => return self.deliver(&picture).map(Some),
                Err(ffmpeg::Error::Other { errno: EAGAIN }) if self.phase == Phase::Reading => self.feed(),
                Err(ffmpeg::Error::Eof | ffmpeg::Error::Other { errno: EAGAIN }) => return self.finish(),
                Err(_) => {
                    self.undecodable += 1;
                    if self.undecodable > 2 * MAX_UNDECODABLE {
                        return self.finish();
                    }
                }
            }
        }
    }
}

fn check_file(path: &Path) -> Result<(), String> {
    let metadata = std::fs::metadata(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => "there is no such file; check the path".to_owned(),
        _ => format!("the file can't be read: {e}"),
    })?;
    if metadata.is_dir() {
        return Err("this is a folder, not a video file; give a file, or open it as a folder of pictures".into());
    }
    if !metadata.is_file() {
        return Err("this is no regular file; give a recording".into());
    }
    if metadata.len() == 0 {
        return Err("the file is empty; expected a video".into());
    }
    std::fs::File::open(path).map(drop).map_err(|e| format!("the file can't be read: {e}"))
}

fn open_input(path: &Path) -> Result<Input, String> {
    let mut options = Dictionary::new();
    options.set("format_whitelist", CONTAINERS);
    options.set("protocol_whitelist", "file");
    ffmpeg::format::input_with_dictionary(&file_url(path)?, options).map_err(|e| match truncation::missing_end(path) {
        Some(cut) => format!("its index is missing; {cut}; copy or record it again"),
        None => format!("this is no video that can be read; expected MP4, MOV, MKV, WebM or GIF ({e})"),
    })
}

fn best_video(input: &Input) -> Result<Stream<'_>, String> {
    let is_cover = |stream: &Stream<'_>| stream.disposition().contains(Disposition::ATTACHED_PIC);
    // FFmpeg's own choice knows decoders and bit rates; it passes over streams without a decoder, which are named later.
    let best = input.streams().best(media::Type::Video).filter(|stream| !is_cover(stream));
    best.or_else(|| input.streams().find(|s| s.parameters().medium() == media::Type::Video && !is_cover(s)))
        .ok_or_else(|| "there is no video in this file, only sound or other data; give a file with a picture".into())
}

fn open_decoder(stream: &Stream<'_>, threads: usize) -> Result<decoder::Video, String> {
    let parameters = stream.parameters();
    let id = parameters.id();
    if decoder::find(id).is_none() {
        let name = if id == codec::Id::None { "an unknown codec".to_owned() } else { format!("the codec {id:?}") };
        return Err(format!("the video is in {name}, for which this FFmpeg has no decoder; convert it to H.264"));
    }
    let failed = |e| format!("the decoder for {id:?} does not open ({e}); convert the video to H.264");
    let mut context = codec::Context::from_parameters(parameters).map_err(failed)?;
    let mut config = threading::Config::kind(threading::Type::Frame);
    config.count = threads;
    context.set_threading(config);
    let mut decoder = context.decoder();
    decoder.set_packet_time_base(stream.time_base());
    decoder.video().map_err(failed)
}

fn orientation_of(stream: &Stream<'_>, path: &Path) -> Orientation {
    let Some(matrix) = stream.side_data().find(|data| data.kind() == side_data::Type::DisplayMatrix) else {
        return Orientation::UPRIGHT;
    };
    Orientation::from_matrix(matrix.data()).unwrap_or_else(|| {
        tracing::warn!(path = %path.display(), "rotation is no multiple of 90 degrees and is ignored");
        Orientation::UPRIGHT
    })
}

fn nominal_rate(stream: &Stream<'_>) -> f64 {
    let rates = [stream.avg_frame_rate(), stream.rate()];
    let known = rates.into_iter().map(f64::from).find(|rate| rate.is_finite() && *rate > 0.0);
    known.unwrap_or(DEFAULT_FPS)
}

fn length(stream: &Stream<'_>, input: &Input) -> Option<Duration> {
    let of_stream = Some(stream.duration()).filter(|d| *d > 0).and_then(|d| to_duration(d, stream.time_base()));
    of_stream.or_else(|| u64::try_from(input.duration()).ok().filter(|d| *d > 0).map(Duration::from_micros))
}

/// `None` for times before 0 and for a time base that makes no sense.
fn to_duration(ticks: i64, base: Rational) -> Option<Duration> {
    let nanos = i128::from(ticks) * i128::from(base.numerator()) * 1_000_000_000;
    let nanos = nanos.checked_div(i128::from(base.denominator()))?;
    u64::try_from(nanos).ok().map(Duration::from_nanos)
}
