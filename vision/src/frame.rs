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
        (rgb.len() == width.checked_mul(height)?.checked_mul(3)?).then(|| Self {
            seq,
            t,
            width,
            height,
            rgb: rgb.into(),
        })
    }
}

impl Frame {
    /// The picture scaled into a `side` x `side` square with black bars, packed RGB; shared, not copied, where it fits already.
    pub fn fit_square(&self, side: usize) -> Arc<[u8]> {
        use fast_image_resize::{PixelType, Resizer, images::Image};
        if self.width == side && self.height == side {
            return self.rgb.clone();
        }
        let mut square = vec![0u8; side * side * 3];
        let longest = self.width.max(self.height).max(1);
        let fit = |v: usize| (v * side / longest).clamp(1, side);
        let (w, h) = (fit(self.width), fit(self.height));
        let source = Image::from_vec_u8(self.width as u32, self.height as u32, self.rgb.to_vec(), PixelType::U8x3);
        let mut target = Image::new(w as u32, h as u32, PixelType::U8x3);
        // A frame without pixels stays black: there is nothing to scale.
        if let Ok(source) = source
            && Resizer::new().resize(&source, &mut target, None).is_ok()
        {
            let (left, top) = ((side - w) / 2, (side - h) / 2);
            for (y, row) in target.buffer().chunks_exact(w * 3).enumerate() {
                let at = ((top + y) * side + left) * 3;
                square[at..at + w * 3].copy_from_slice(row);
            }
        }
        square.into()
    }
}
