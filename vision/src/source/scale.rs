//! Conversion between pixel formats and sizes with swscale.

use ffmpeg_next::{
    Error,
    ffi::{sws_getCoefficients, sws_setColorspaceDetails},
    format::Pixel,
    frame::Video as Picture,
    software::scaling::{Context, Flags},
    util::color::{Range, Space},
};

const UNITY: i32 = 1 << 16;

/// A scaler that is made again when the pictures it is given change.
pub(super) struct Scaler {
    context: Option<(Key, Context)>,
}

#[derive(Clone, Copy, PartialEq)]
struct Key {
    from: (Pixel, u32, u32),
    to: (Pixel, u32, u32),
    space: Space,
    range: Range,
}

// SAFETY: the context is a plain heap object without ties to the thread that made it, owned by this value alone and only used through `&mut`.
unsafe impl Send for Scaler {}

impl Scaler {
    pub(super) fn new() -> Self {
        Self { context: None }
    }

    /// Converts a picture into `format` at `width` x `height`, with the colour matrix the picture says (BT.601 when it says none).
    pub(super) fn convert(
        &mut self,
        picture: &Picture,
        format: Pixel,
        width: u32,
        height: u32,
    ) -> Result<Picture, Error> {
        let from = (picture.format(), picture.width(), picture.height());
        let key = Key { from, to: (format, width, height), space: picture.color_space(), range: picture.color_range() };
        let mut context = match self.context.take() {
            Some((known, context)) if known == key => context,
            _ => make(key)?,
        };
        let mut out = Picture::empty();
        let result = context.run(picture, &mut out);
        self.context = Some((key, context));
        result.map(|()| out)
    }
}

fn make(key: Key) -> Result<Context, Error> {
    let ((from, w, h), (to, out_w, out_h)) = (key.from, key.to);
    let mut context = Context::get(from, w, h, to, out_w, out_h, Flags::BILINEAR | Flags::ACCURATE_RND)?;
    let matrix = match key.space {
        Space::BT709 => ffmpeg_next::ffi::SWS_CS_ITU709,
        Space::BT2020NCL | Space::BT2020CL => ffmpeg_next::ffi::SWS_CS_BT2020,
        Space::SMPTE240M => ffmpeg_next::ffi::SWS_CS_SMPTE240M,
        Space::FCC => ffmpeg_next::ffi::SWS_CS_FCC,
        _ => ffmpeg_next::ffi::SWS_CS_DEFAULT,
    };
    let full =
        i32::from(key.range == Range::JPEG || matches!(from, Pixel::YUVJ420P | Pixel::YUVJ422P | Pixel::YUVJ444P));
    // RGB on either side is full range; YUV on the output side is what players expect, limited.
    let out_full = i32::from(matches!(to, Pixel::RGB24));
    // SAFETY: the context is live and owned here; the coefficient tables are static of the library. A refusal
    // (formats without a matrix, such as RGB to RGB) leaves the context as it was, which is right for them.
    #[allow(clippy::unnecessary_cast, reason = "the constants are unsigned in some versions of FFmpeg")]
    unsafe {
        let table = sws_getCoefficients(matrix as i32);
        let out_table = sws_getCoefficients(ffmpeg_next::ffi::SWS_CS_DEFAULT as i32);
        sws_setColorspaceDetails(context.as_mut_ptr(), table, full, out_table, out_full, 0, UNITY, UNITY);
    }
    Ok(context)
}

/// Copies the rows of an RGB24 picture without their padding: `height * width * 3` bytes.
pub(super) fn packed_rgb(picture: &Picture) -> Option<Vec<u8>> {
    let (row, stride) = (picture.width() as usize * 3, picture.stride(0));
    let data = picture.data(0);
    let mut rgb = Vec::with_capacity(row * picture.height() as usize);
    for y in 0..picture.height() as usize {
        rgb.extend_from_slice(data.get(y * stride..y * stride + row)?);
    }
    Some(rgb)
}
