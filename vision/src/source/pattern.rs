//! A deterministic moving test pattern: colour bars, a disc that travels in a circle, and a clock strip that tells the frame number.
//!
//! Frame `n` is a pure function of the options and `n`, so that a test can say what any pixel must be.

use super::{FrameSource, SourceError, SourceInfo};
use crate::Frame;
use std::{path::Path, time::Duration};

/// Bits of the clock strip at the bottom edge.
pub const CLOCK_BITS: usize = 16;
const MAX_SIDE: usize = 8192;
const BARS: [[u8; 3]; 8] =
    [[192, 192, 192], [192, 192, 0], [0, 192, 192], [0, 192, 0], [192, 0, 192], [192, 0, 0], [0, 0, 192], [24, 24, 24]];
/// Seconds the disc takes for one round.
const ROUND_SECS: f64 = 2.0;

/// Size, rate and length of the pattern.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PatternOptions {
    /// Width in pixels, 16 to 8192.
    pub width: usize,
    /// Height in pixels, 16 to 8192.
    pub height: usize,
    /// Frames a second, above 0, at most 1000.
    pub fps: f64,
    /// Length; `None` never ends.
    pub duration: Option<Duration>,
}

impl Default for PatternOptions {
    fn default() -> Self {
        Self { width: 640, height: 480, fps: 30.0, duration: Some(Duration::from_secs(10)) }
    }
}

impl PatternOptions {
    /// Reads `pattern`, `pattern:640x480`, `pattern:640x480@30`, `pattern:640x480@30:10s` or `...:endless`.
    /// What is left out has its [default](Self::default): 640x480, 30 frames a second, 10 s.
    ///
    /// # Errors
    /// [`SourceError::Open`] naming the part that can't be read and the expected form.
    pub fn parse(spec: &str) -> Result<Self, SourceError> {
        let wrong = |problem: String| SourceError::Open {
            path: spec.into(),
            problem: format!("{problem}; write for example pattern:640x480@30:10s or pattern:640x480@30:endless"),
        };
        let mut options = Self::default();
        let mut parts = spec.split(':');
        if parts.next() != Some("pattern") {
            return Err(wrong("a test pattern starts with `pattern`".into()));
        }
        if let Some(part) = parts.next() {
            let (size, fps) = part.split_once('@').map_or((part, None), |(size, fps)| (size, Some(fps)));
            let sides = size.split_once('x').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
            (options.width, options.height) = sides.ok_or_else(|| wrong(format!("`{size}` is no size in pixels")))?;
            if let Some(fps) = fps {
                options.fps = fps.parse().map_err(|_| wrong(format!("`{fps}` is no frame rate")))?;
            }
        }
        match parts.next() {
            None => {}
            Some("endless") => options.duration = None,
            Some(length) => {
                let secs = length.strip_suffix('s').and_then(|s| s.parse().ok());
                let length = secs.and_then(|s| Duration::try_from_secs_f64(s).ok());
                options.duration =
                    Some(length.ok_or_else(|| wrong("the length is no number of seconds such as 10s".into()))?);
            }
        }
        if let Some(rest) = parts.next() {
            return Err(wrong(format!("`{rest}` is more than a pattern takes")));
        }
        options.check().map_err(wrong)?;
        Ok(options)
    }

    fn check(&self) -> Result<(), String> {
        if !(16..=MAX_SIDE).contains(&self.width) || !(16..=MAX_SIDE).contains(&self.height) {
            return Err(format!("{}x{} is no size between 16x16 and {MAX_SIDE}x{MAX_SIDE}", self.width, self.height));
        }
        if !(self.fps > 0.0 && self.fps <= 1000.0) {
            return Err(format!("{} frames a second is not between 0 and 1000", self.fps));
        }
        Ok(())
    }
}

/// The test pattern as a source. Frames come as fast as they are asked for.
#[derive(Debug)]
pub struct PatternSource {
    options: PatternOptions,
    info: SourceInfo,
    next: u64,
}

impl PatternSource {
    /// A pattern from its first frame.
    ///
    /// # Errors
    /// [`SourceError::Open`] when size or rate are out of range.
    pub fn new(options: PatternOptions) -> Result<Self, SourceError> {
        options.check().map_err(|problem| SourceError::Open { path: Path::new("pattern").to_path_buf(), problem })?;
        let info = SourceInfo {
            name: "test pattern".into(),
            width: options.width,
            height: options.height,
            fps: options.fps,
            duration: options.duration,
        };
        Ok(Self { options, info, next: 0 })
    }
}

impl FrameSource for PatternSource {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, SourceError> {
        let seq = self.next;
        let t = Duration::from_secs_f64(seq as f64 / self.options.fps);
        if self.options.duration.is_some_and(|end| t >= end) {
            return Ok(None);
        }
        self.next += 1;
        let (width, height) = (self.options.width, self.options.height);
        Ok(Frame::from_rgb(seq, t, width, height, draw(width, height, seq, t)))
    }
}

fn draw(width: usize, height: usize, seq: u64, t: Duration) -> Vec<u8> {
    let angle = std::f64::consts::TAU * t.as_secs_f64() / ROUND_SECS;
    let (w, h) = (width as f64, height as f64);
    let (cx, cy) = (w * (0.5 + 0.3 * angle.cos()), h * (0.45 + 0.25 * angle.sin()));
    let radius = 0.12 * w.min(h);
    let strip = clock_top(height);
    let mut rgb = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            let pixel = if y >= strip {
                let bit = CLOCK_BITS - 1 - x * CLOCK_BITS / width;
                if seq >> bit & 1 == 1 { [255; 3] } else { [0; 3] }
            } else if (x as f64 + 0.5 - cx).hypot(y as f64 + 0.5 - cy) <= radius {
                [255, 255, 255]
            } else {
                BARS[x * BARS.len() / width]
            };
            rgb.extend_from_slice(&pixel);
        }
    }
    rgb
}

fn clock_top(height: usize) -> usize {
    height - height / 8
}

/// The frame number burnt into the clock strip of a pattern frame, modulo 65536; `None` when the frame is too small.
///
/// Reads the middle of each of the [`CLOCK_BITS`] fields, so it survives lossy compression and scaling.
pub fn read_clock(frame: &Frame) -> Option<u64> {
    if frame.width < CLOCK_BITS || frame.height < 8 {
        return None;
    }
    let y = (clock_top(frame.height) + frame.height) / 2;
    (0..CLOCK_BITS).try_fold(0, |number, field| {
        let x = (2 * field + 1) * frame.width / (2 * CLOCK_BITS);
        let green = frame.rgb.get((y * frame.width + x) * 3 + 1)?;
        Some(number << 1 | u64::from(*green >= 128))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs() {
        let s = |secs| Some(Duration::from_secs_f64(secs));
        for (spec, width, height, fps, duration) in [
            ("pattern", 640, 480, 30.0, s(10.0)),
            ("pattern:320x240", 320, 240, 30.0, s(10.0)),
            ("pattern:151x271@12.5:2.5s", 151, 271, 12.5, s(2.5)),
            ("pattern:64x64@5:endless", 64, 64, 5.0, None),
        ] {
            let options = PatternOptions::parse(spec).expect(spec);
            assert_eq!(options, PatternOptions { width, height, fps, duration }, "{spec}");
        }
        for (spec, part) in [
            ("pattern:big", "`big` is no size"),
            ("pattern:640x480@fast", "`fast` is no frame rate"),
            ("pattern:640x480@0", "0 frames a second"),
            ("pattern:640x480@NaN", "NaN frames a second"),
            ("pattern:1x1", "1x1 is no size between"),
            ("pattern:640x480@30:10", "no number of seconds"),
            ("pattern:640x480@30:-1s", "no number of seconds"),
            ("pattern:640x480@30:1s:x", "`x` is more than"),
        ] {
            let message = PatternOptions::parse(spec).expect_err(spec).to_string();
            assert!(message.contains(part) && message.contains("pattern:640x480@30:10s"), "{spec}: {message}");
        }
    }

    #[test]
    fn frames_are_the_same_every_time_and_move() {
        let options = PatternOptions { width: 64, height: 48, fps: 10.0, duration: Some(Duration::from_secs(2)) };
        let frames = || {
            let mut source = PatternSource::new(options).expect("in range");
            std::iter::from_fn(move || source.next_frame().expect("never fails")).collect::<Vec<_>>()
        };
        let (a, b) = (frames(), frames());
        assert_eq!(a.len(), 20);
        for (n, (a, b)) in a.iter().zip(&b).enumerate() {
            assert_eq!(a.rgb, b.rgb);
            assert_eq!((a.seq, a.t), (n as u64, Duration::from_millis(100 * n as u64)));
            assert_eq!(read_clock(a), Some(n as u64));
        }
        assert!(a.windows(2).all(|pair| pair[0].rgb != pair[1].rgb));
    }
}
