//! A webcam: a thread of its own captures, the newest frame wins.

use super::{FrameSource, SourceError, SourceInfo};
use crate::{
    Frame,
    link::{Link, Policy, Received},
};
use nokhwa::{
    Camera, NokhwaError,
    pixel_format::RgbFormat,
    query,
    utils::{ApiBackend, CameraFormat, CameraIndex, FrameFormat, RequestedFormat, RequestedFormatType},
};
use std::{
    path::PathBuf,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

/// Formats we decode, the better first: MJPEG reaches 30 frames a second on USB 2, YUYV needs no decoding.
const FORMATS: [FrameFormat; 2] = [FrameFormat::MJPEG, FrameFormat::YUYV];
/// Broken pictures in a row (cables, start-up) before the camera counts as gone.
const MAX_BAD_PICTURES: u32 = 30;

/// What is wanted of a camera; the nearest it offers is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CameraOptions {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Frames a second.
    pub fps: u32,
    /// How long opening may take before it counts as failed: drivers can hang.
    pub open_timeout: Duration,
    /// How long a frame may take before the camera counts as gone.
    pub frame_timeout: Duration,
}

impl Default for CameraOptions {
    fn default() -> Self {
        let (open_timeout, frame_timeout) = (Duration::from_secs(10), Duration::from_secs(5));
        Self { width: 640, height: 480, fps: 30, open_timeout, frame_timeout }
    }
}

/// A camera that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CameraEntry {
    /// What [`CameraSource::open`] takes; `None` for cameras that are known by name only.
    pub index: Option<u32>,
    /// The name its maker gave it.
    pub name: String,
}

/// The cameras of this machine; empty when there is none.
///
/// # Errors
/// [`SourceError::Open`] when the system does not tell.
pub fn list() -> Result<Vec<CameraEntry>, SourceError> {
    let found = query(ApiBackend::Auto).map_err(|e| SourceError::Open {
        path: PathBuf::from("camera"),
        problem: format!("the system does not list its cameras: {e}"),
    })?;
    Ok(found.iter().map(|c| CameraEntry { index: c.index().as_index().ok(), name: c.human_name() }).collect())
}

type Captured = Result<Frame, String>;

/// A camera as a source. Frames that come while nobody takes one are dropped, and leave gaps in [`Frame::seq`].
#[derive(Debug)]
pub struct CameraSource {
    path: PathBuf,
    info: SourceInfo,
    frames: Arc<Link<Captured>>,
    frame_timeout: Duration,
    ended: mpsc::Receiver<()>,
    last: (Duration, u64),
}

impl CameraSource {
    /// Opens camera `index` (0 is the first), waiting no longer than `options.open_timeout`.
    ///
    /// # Errors
    /// [`SourceError::Open`] when there is no such camera, it is busy or not permitted, offers neither MJPEG nor YUYV, or does not answer in time.
    pub fn open(index: u32, options: CameraOptions) -> Result<Self, SourceError> {
        let path = PathBuf::from(format!("camera {index}"));
        let failed = |problem: String| SourceError::Open { path: path.clone(), problem };
        let frames = Arc::new(Link::new(Policy::Newest, 1));
        let (ready, opened) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        let link = frames.clone();
        // The camera lives on its thread: it can't be sent between threads on every system.
        let spawned = thread::Builder::new().name("camera".into()).spawn(move || {
            match open_camera(index, options) {
                Ok((camera, info)) => {
                    if ready.send(Ok(info)).is_ok() {
                        capture(camera, &link);
                    }
                }
                // Nobody listens any more after a time-out.
                Err(problem) => drop(ready.send(Err(problem))),
            }
            link.close();
            drop(end);
        });
        spawned.map_err(|e| failed(format!("no thread for the camera: {e}")))?;
        let info = match opened.recv_timeout(options.open_timeout) {
            Ok(info) => info.map_err(failed)?,
            Err(_) => {
                frames.close();
                let secs = options.open_timeout.as_secs_f64();
                return Err(failed(format!("it does not answer within {secs:.1} s; unplug it and plug it in again")));
            }
        };
        Ok(Self { path, info, frames, frame_timeout: options.frame_timeout, ended, last: (Duration::ZERO, 0) })
    }

    /// Frames captured and dropped because newer ones came.
    pub fn dropped(&self) -> u64 {
        self.frames.dropped()
    }

    fn broken(&self, problem: String) -> SourceError {
        self.frames.close();
        SourceError::Broken { path: self.path.clone(), t: self.last.0, frames: self.last.1, problem }
    }
}

impl FrameSource for CameraSource {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, SourceError> {
        match self.frames.receive_timeout(self.frame_timeout) {
            Received::Item(Ok(frame)) => {
                self.last = (frame.t, self.last.1 + 1);
                Ok(Some(frame))
            }
            Received::Item(Err(problem)) => Err(self.broken(problem)),
            Received::Closed => Ok(None),
            Received::TimedOut => {
                let secs = self.frame_timeout.as_secs_f64();
                Err(self.broken(format!("no frame for {secs:.1} s; check the cable, or whether the camera sleeps")))
            }
        }
    }
}

impl Drop for CameraSource {
    fn drop(&mut self) {
        self.frames.close();
        // The device is free once the thread has ended; a hung driver must not hang us.
        let _ = self.ended.recv_timeout(Duration::from_millis(500));
    }
}

fn open_camera(index: u32, options: CameraOptions) -> Result<(Camera, SourceInfo), String> {
    let any = RequestedFormat::with_formats(RequestedFormatType::None, &FORMATS);
    let mut camera = Camera::new(CameraIndex::Index(index), any).map_err(|e| explain(index, &e))?;
    let offered = camera.compatible_camera_formats().map_err(|e| explain(index, &e))?;
    let format = choose(&offered, options)
        .ok_or("it offers neither MJPEG nor YUYV pictures, the formats that can be read; use another camera")?;
    camera
        .set_camera_requset(RequestedFormat::with_formats(RequestedFormatType::Exact(format), &FORMATS))
        .map_err(|e| explain(index, &e))?;
    camera.open_stream().map_err(|e| explain(index, &e))?;
    let taken = camera.camera_format();
    let info = SourceInfo {
        name: camera.info().human_name(),
        width: taken.width() as usize,
        height: taken.height() as usize,
        fps: f64::from(taken.frame_rate()),
        duration: None,
    };
    Ok((camera, info))
}

/// The offered format nearest to the wish: first a rate that is not slower, then the size, then the format.
fn choose(offered: &[CameraFormat], options: CameraOptions) -> Option<CameraFormat> {
    offered.iter().copied().filter(|f| FORMATS.contains(&f.format())).min_by_key(|f| {
        // Half the rate still coaches; less is a slide show and comes last, whatever its size.
        let slow = f.frame_rate() * 2 < options.fps;
        let size = (f.width() as usize).abs_diff(options.width) + (f.height() as usize).abs_diff(options.height);
        let rank = FORMATS.iter().position(|format| *format == f.format());
        (slow, size, f.frame_rate().abs_diff(options.fps), rank)
    })
}

fn explain(index: u32, error: &NokhwaError) -> String {
    let text = error.to_string();
    let lower = text.to_lowercase();
    let has = |parts: &[&str]| parts.iter().any(|part| lower.contains(part));
    if has(&["no such file", "os error 2)", "no such device", "os error 19)"]) {
        format!("there is no camera {index}; plug one in, or play a video file or `pattern` instead ({text})")
    } else if has(&["busy", "os error 16)"]) {
        format!("it is in use by another program; close that program ({text})")
    } else if has(&["denied", "os error 13)"]) {
        format!("this user may not use it; on Linux join the group `video` ({text})")
    } else {
        format!("it does not open: {text}")
    }
}

fn capture(mut camera: Camera, frames: &Link<Captured>) {
    let (mut seq, mut start, mut bad) = (0, None, 0);
    while !frames.is_closed() {
        let picture = match camera.frame() {
            Ok(buffer) => buffer.decode_image::<RgbFormat>(),
            Err(error) => {
                // A refused hand-over only means that nobody listens any more.
                frames.send(Err(format!("the camera is gone: {error}; plug it in again")));
                break;
            }
        };
        let now = Instant::now();
        let frame = picture.ok().and_then(|picture| {
            let (width, height) = (picture.width() as usize, picture.height() as usize);
            Frame::from_rgb(seq, now - *start.get_or_insert(now), width, height, picture.into_raw())
        });
        seq += 1;
        match frame {
            Some(frame) => {
                bad = 0;
                if !frames.send(Ok(frame)) {
                    break;
                }
            }
            None if bad < MAX_BAD_PICTURES => bad += 1,
            None => {
                frames.send(Err("its pictures can't be decoded; try another cable or camera".into()));
                break;
            }
        }
    }
    // The device is being given up; an error here changes nothing.
    let _ = camera.stop_stream();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_camera_that_is_not_there_is_an_error_in_time() {
        let start = Instant::now();
        let error = CameraSource::open(250, CameraOptions::default()).map(drop).expect_err("no camera 250").to_string();
        assert!(error.starts_with("camera 250: there is no camera 250"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(10));
        assert!(list().is_ok());
    }

    #[test]
    fn the_nearest_format_is_chosen() {
        let f = CameraFormat::new_from;
        let (mjpeg, yuyv) = (FrameFormat::MJPEG, FrameFormat::YUYV);
        let chosen = |offered: &[CameraFormat]| choose(offered, CameraOptions::default());
        assert_eq!(chosen(&[f(640, 480, yuyv, 30), f(640, 480, mjpeg, 30)]), Some(f(640, 480, mjpeg, 30)));
        assert_eq!(chosen(&[f(640, 480, yuyv, 2), f(1280, 720, mjpeg, 30)]), Some(f(1280, 720, mjpeg, 30)));
        assert_eq!(chosen(&[f(640, 480, FrameFormat::NV12, 30)]), None);
    }

    #[test]
    fn errors_say_what_to_do() {
        let explained = |text: &str| explain(0, &NokhwaError::OpenDeviceError("0".into(), text.into()));
        assert!(explained("Device or resource busy (os error 16)").contains("in use by another program"));
        assert!(explained("Permission denied (os error 13)").contains("group `video`"));
    }
}
