//! A webcam: a thread of its own captures, the newest frame wins.

mod device;
#[cfg(test)]
mod tests;

pub use device::list;

use super::{FrameSource, SourceError, SourceInfo, Trouble};
use crate::{
    Frame,
    link::{Link, Policy, Received},
};
use std::{
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

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
    /// How long a frame may take before the camera counts as frozen.
    pub frame_timeout: Duration,
}

impl Default for CameraOptions {
    fn default() -> Self {
        let (open_timeout, frame_timeout) = (Duration::from_secs(10), Duration::from_secs(3));
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

/// What went wrong with a camera, and in words.
type Problem = (Trouble, String);

/// A picture of a device: width, height and RGB bytes.
type Picture = (usize, usize, Vec<u8>);

/// An opened camera, on the thread that owns it.
trait Device {
    /// The next picture, waited for; `None` for one that is broken.
    fn picture(&mut self) -> Result<Option<Picture>, Problem>;
}

type Captured = Result<Frame, Problem>;

/// A camera as a source. Frames that come while nobody takes one are dropped, and leave gaps in [`Frame::seq`].
#[derive(Debug)]
pub struct CameraSource {
    camera: String,
    info: SourceInfo,
    frames: Arc<Link<Captured>>,
    frame_timeout: Duration,
    ended: mpsc::Receiver<()>,
}

impl CameraSource {
    /// Opens camera `index` (0 is the first), waiting no longer than `options.open_timeout`.
    ///
    /// # Errors
    /// [`SourceError::Camera`] when there is no such camera, it is busy or not permitted, offers no format that can be
    /// read, or does not answer in time.
    pub fn open(index: u32, options: CameraOptions) -> Result<Self, SourceError> {
        Self::start(format!("camera {index}"), options, move || device::open(index, options))
    }

    /// Opens a device on a thread of its own: it can't be sent between threads on every system.
    fn start<D: Device>(
        camera: String,
        options: CameraOptions,
        open: impl FnOnce() -> Result<(D, SourceInfo), Problem> + Send + 'static,
    ) -> Result<Self, SourceError> {
        let failed = |(trouble, problem)| SourceError::Camera { camera: camera.clone(), trouble, problem };
        let frames = Arc::new(Link::new(Policy::Newest, 1));
        let (ready, opened) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        let link = frames.clone();
        let spawned = thread::Builder::new().name("camera".into()).spawn(move || {
            // also where a driver panics: whoever waits for a frame learns that there is none
            let _closing = Closing(link.clone());
            match open() {
                Ok((device, info)) => {
                    if ready.send(Ok(info)).is_ok() {
                        capture(device, &link);
                    }
                }
                // Nobody listens any more after a time-out.
                Err(problem) => drop(ready.send(Err(problem))),
            }
            drop(end);
        });
        spawned.map_err(|e| failed((Trouble::Other, format!("no thread for the camera: {e}"))))?;
        let info = match opened.recv_timeout(options.open_timeout) {
            Ok(info) => info.map_err(failed)?,
            Err(_) => {
                frames.close();
                let secs = options.open_timeout.as_secs_f64();
                let problem = format!("it does not answer within {secs:.1} s; unplug it and plug it in again");
                return Err(failed((Trouble::Silent, problem)));
            }
        };
        Ok(Self { camera, info, frames, frame_timeout: options.frame_timeout, ended })
    }

    fn broken(&self, (trouble, problem): Problem) -> SourceError {
        self.frames.close();
        SourceError::Camera { camera: self.camera.clone(), trouble, problem }
    }
}

impl FrameSource for CameraSource {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, SourceError> {
        match self.frames.receive_timeout(self.frame_timeout) {
            Received::Item(Ok(frame)) => Ok(Some(frame)),
            Received::Item(Err(problem)) => Err(self.broken(problem)),
            Received::Closed => Ok(None),
            Received::TimedOut => {
                let secs = self.frame_timeout.as_secs_f64();
                let problem = format!("no frame for {secs:.1} s; check the cable, or whether the camera sleeps");
                Err(self.broken((Trouble::Frozen, problem)))
            }
        }
    }

    fn dropped(&self) -> u64 {
        self.frames.dropped()
    }
}

impl Drop for CameraSource {
    fn drop(&mut self) {
        self.frames.close();
        // The device is free once the thread has ended; a hung driver must not hang us.
        let _ = self.ended.recv_timeout(Duration::from_millis(500));
    }
}

/// Closes a link when its thread ends.
struct Closing(Arc<Link<Captured>>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn capture(mut device: impl Device, frames: &Link<Captured>) {
    let (mut seq, mut start, mut bad) = (0, None, 0);
    while !frames.is_closed() {
        let picture = match device.picture() {
            Ok(picture) => picture,
            Err(problem) => {
                // A refused hand-over only means that nobody listens any more.
                frames.send(Err(problem));
                break;
            }
        };
        let now = Instant::now();
        let frame = picture
            .and_then(|(width, height, rgb)| Frame::from_rgb(seq, now - *start.get_or_insert(now), width, height, rgb));
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
                let problem = "its pictures can't be decoded; try another cable or camera".to_owned();
                frames.send(Err((Trouble::Unreadable, problem)));
                break;
            }
        }
    }
}
