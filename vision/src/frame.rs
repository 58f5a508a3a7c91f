//! One picture of a stream, with its media time.

use std::{sync::Arc, time::Duration};

/// An RGB picture at a moment of media time. Cloning shares the pixels.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Number of the frame in its source, from 0, counting frames that were dropped later.
    pub seq: u64,
    /// Media time: presentation time relative to the first frame of the source.
    pub t: Duration,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Packed RGB, `height * width * 3` bytes, rows from the top.
    pub rgb: Arc<[u8]>,
}

impl Frame {
    /// A frame from packed RGB bytes; `None` when the length is not `width * height * 3`.
    pub fn from_rgb(seq: u64, t: Duration, width: usize, height: usize, rgb: Vec<u8>) -> Option<Self> {
        (rgb.len() == width.checked_mul(height)?.checked_mul(3)?).then(|| Self { seq, t, width, height, rgb: rgb.into() })
    }
}
