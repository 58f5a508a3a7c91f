//! A camera of this machine, through nokhwa: which format is asked for, and what its errors mean.

use super::{CameraEntry, CameraOptions, Device, Picture, Problem, SourceError, SourceInfo, Trouble};
use nokhwa::{
    Buffer, Camera, NokhwaError,
    pixel_format::RgbFormat,
    query,
    utils::{ApiBackend, CameraFormat, CameraIndex, FrameFormat, RequestedFormat, RequestedFormatType},
};

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Formats we decode, the better first: MJPEG reaches 30 frames a second on USB 2, YUYV and NV12 need no decoding.
const FORMATS: [FrameFormat; 3] = [FrameFormat::MJPEG, FrameFormat::YUYV, FrameFormat::NV12];

/// The cameras of this machine; empty when there is none.
///
/// # Errors
/// [`SourceError::Camera`] when the system does not tell.
pub fn list() -> Result<Vec<CameraEntry>, SourceError> {
    let found = query(ApiBackend::Auto).map_err(|e| SourceError::Camera {
        camera: "cameras".to_owned(),
        trouble: Trouble::Other,
        problem: format!("the system does not list them: {e}"),
    })?;
    Ok(found.iter().map(|c| CameraEntry { index: c.index().as_index().ok(), name: c.human_name() }).collect())
}

/// A camera that streams, until it is dropped.
pub(super) struct Streaming(Camera);

impl Device for Streaming {
    fn picture(&mut self) -> Result<Option<Picture>, Problem> {
        let buffer = self
            .0
            .frame()
            .map_err(|error| (Trouble::Unplugged, format!("the camera is gone; plug it in again ({error})")))?;
        Ok(decode(&buffer))
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        // The device is being given up; an error here changes nothing.
        let _ = self.0.stop_stream();
    }
}

/// The picture in a buffer as RGB; `None` where it is broken.
pub(super) fn decode(buffer: &Buffer) -> Option<Picture> {
    // the JPEG library unwinds from a picture that is cut off
    let decoded = catch_unwind(AssertUnwindSafe(|| buffer.decode_image::<RgbFormat>()));
    let picture = decoded.ok()?.ok()?;
    Some((picture.width() as usize, picture.height() as usize, picture.into_raw()))
}

/// Opens a camera in the format nearest to the wish.
pub(super) fn open(index: u32, options: CameraOptions) -> Result<(Streaming, SourceInfo), Problem> {
    let problem = |error: NokhwaError| explain(index, &error.to_string());
    let any = RequestedFormat::with_formats(RequestedFormatType::None, &FORMATS);
    let mut camera = Camera::new(CameraIndex::Index(index), any).map_err(problem)?;
    let offered = camera.compatible_camera_formats().map_err(problem)?;
    let format = choose(&offered, options).ok_or_else(|| {
        let words = "it offers no pictures in MJPEG, YUYV or NV12, the formats that can be read; use another camera";
        (Trouble::Unreadable, words.to_owned())
    })?;
    camera
        .set_camera_requset(RequestedFormat::with_formats(RequestedFormatType::Exact(format), &FORMATS))
        .map_err(problem)?;
    camera.open_stream().map_err(problem)?;
    let taken = camera.camera_format();
    let info = SourceInfo {
        name: camera.info().human_name(),
        width: taken.width() as usize,
        height: taken.height() as usize,
        fps: f64::from(taken.frame_rate()),
        duration: None,
    };
    Ok((Streaming(camera), info))
}

/// The offered format nearest to the wish: first a rate that is not slower, then the size, then the format.
pub(super) fn choose(offered: &[CameraFormat], options: CameraOptions) -> Option<CameraFormat> {
    offered.iter().copied().filter(|f| FORMATS.contains(&f.format())).min_by_key(|f| {
        // Half the rate still coaches; less is a slide show and comes last, whatever its size.
        let slow = f.frame_rate() * 2 < options.fps;
        let size = (f.width() as usize).abs_diff(options.width) + (f.height() as usize).abs_diff(options.height);
        let rank = FORMATS.iter().position(|format| *format == f.format());
        (slow, size, f.frame_rate().abs_diff(options.fps), rank)
    })
}

/// What an error of the system means, and what to do.
pub(super) fn explain(index: u32, text: &str) -> Problem {
    let lower = text.to_lowercase();
    let has = |parts: &[&str]| parts.iter().any(|part| lower.contains(part));
    if has(&["no such file", "os error 2)", "no such device", "os error 19)"]) {
        let words =
            format!("there is no camera {index}; plug one in, or play a video file or `pattern` instead ({text})");
        (Trouble::Missing, words)
    } else if has(&["busy", "os error 16)"]) {
        (Trouble::Busy, format!("it is in use by another program; close that program ({text})"))
    } else if has(&["denied", "os error 13)"]) {
        (Trouble::Forbidden, format!("this user may not use it; on Linux join the group `video` ({text})"))
    } else {
        (Trouble::Other, format!("it does not open: {text}"))
    }
}
