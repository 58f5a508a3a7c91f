//! From a frame to the normalised input tensor of a vision tower, as the checkpoint's own image processor does it.

use crate::Frame;
use candle_core::{DType, Device, Tensor};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer, images::Image, images::ImageRef};
use serde::{Deserialize, Serialize};

/// A picture or a setting that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PreprocessError {
    /// A field of `preprocessor_config.json`.
    #[error("image processor field `{field}`: expected {expected}, found {found}")]
    Field {
        /// Its name.
        field: &'static str,
        /// What would be right.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A picture without pixels, or so narrow that nothing is left of it.
    #[error("a picture of {width} x {height} pixels can't be resized to {to}")]
    Picture {
        /// Its width.
        width: usize,
        /// Its height.
        height: usize,
        /// The size wanted.
        to: String,
    },
    /// Resampling or the tensor failed.
    #[error("preparing a picture failed: {0}")]
    Run(String),
}

/// `size` or `crop_size`: a number, `{"shortest_edge": n}` or `{"height": h, "width": w}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum HfSize {
    /// One number: the short side of a resize, both sides of a crop.
    Side(usize),
    /// The short side; the other keeps the proportions.
    Shortest {
        /// Pixels.
        shortest_edge: usize,
    },
    /// Both sides.
    Both {
        /// Pixels.
        height: usize,
        /// Pixels.
        width: usize,
    },
}

/// `preprocessor_config.json`, or `image_processor` of a `processor_config.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are those of the file")]
pub struct HfImageProcessor {
    #[serde(alias = "feature_extractor_type")]
    pub image_processor_type: Option<String>,
    pub do_pad: Option<bool>,
    pub do_resize: Option<bool>,
    pub size: Option<HfSize>,
    pub resample: Option<u8>,
    pub do_center_crop: Option<bool>,
    pub crop_size: Option<HfSize>,
    pub do_rescale: Option<bool>,
    pub rescale_factor: Option<f64>,
    pub do_normalize: Option<bool>,
    pub image_mean: Option<[f32; 3]>,
    pub image_std: Option<[f32; 3]>,
    pub pad_to_square: Option<bool>,
    pub possible_resolutions: Option<Vec<(usize, usize)>>,
}

/// Which picture of the right size is made of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Both sides stretched.
    Stretch,
    /// Short side to this many pixels, then the middle is cut out.
    Crop {
        /// Pixels of the short side.
        short: usize,
    },
    /// Bars of the mean colour make it square, then it is scaled.
    Pad,
    /// The long side is scaled, then bars make it square.
    Inside {
        /// The bars are black and the short side has an even number of pixels, as ffmpeg makes them; else they have the mean
        /// colour.
        black: bool,
    },
}

/// How a picture is shown in tiles of the tower's size, beside the whole of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiles {
    /// Height and width of all tiles together in pixels, multiples of the tower's.
    pub plane: (usize, usize),
    /// What the picture does not cover is of the mean colour; black otherwise.
    pub mean_bars: bool,
}

/// Resizes, cuts and normalises.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocess {
    /// How a frame is brought to size.
    pub fit: Fit,
    /// Height and width of the result in pixels.
    pub size: (usize, usize),
    /// Resampling.
    pub filter: FilterType,
    /// Factor on the bytes.
    pub rescale: f32,
    /// Subtracted from each colour after the factor.
    pub mean: [f32; 3],
    /// Divides each colour after that.
    pub std: [f32; 3],
}

/// Colours of CLIP's training pictures.
const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// Their spread.
const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

impl Preprocess {
    /// What CLIP was trained on: short side to `side`, the middle, CLIP's colours.
    pub fn clip(side: usize) -> Self {
        Self {
            fit: Fit::Crop { short: side },
            size: (side, side),
            filter: FilterType::CatmullRom,
            rescale: 1.0 / 255.0,
            mean: CLIP_MEAN,
            std: CLIP_STD,
        }
    }

    /// What SigLIP was trained on: stretched to `side`, colours from -1 to 1.
    pub fn siglip(side: usize) -> Self {
        Self { fit: Fit::Stretch, mean: [0.5; 3], std: [0.5; 3], ..Self::clip(side) }
    }

    /// Lays a checkpoint's own settings over `self`, the default for its tower.
    ///
    /// # Errors
    /// [`PreprocessError::Field`] for what this can't do or what gives another size than the tower looks at.
    pub fn with_settings(mut self, hf: &HfImageProcessor) -> Result<Self, PreprocessError> {
        let tower = self.size;
        let field =
            |field, expected: &str, found: String| PreprocessError::Field { field, expected: expected.into(), found };
        if hf.do_resize == Some(false) {
            return Err(field("do_resize", "true: frames come in any size", "false".into()));
        }
        self.filter = match hf.resample {
            None => self.filter,
            Some(0) => {
                return Err(field(
                    "resample",
                    "1 (Lanczos), 2 (bilinear), 3 (bicubic), 4 (box) or 5 (Hamming)",
                    "0 (nearest)".into(),
                ));
            }
            Some(1) => FilterType::Lanczos3,
            Some(2) => FilterType::Bilinear,
            Some(3) => FilterType::CatmullRom,
            Some(4) => FilterType::Box,
            Some(5) => FilterType::Hamming,
            Some(other) => return Err(field("resample", "a number from 1 to 5", other.to_string())),
        };
        let crops = hf.do_center_crop.unwrap_or(matches!(self.fit, Fit::Crop { .. }));
        let crop = match hf.crop_size {
            Some(HfSize::Side(n) | HfSize::Shortest { shortest_edge: n }) => (n, n),
            Some(HfSize::Both { height, width }) => (height, width),
            None => tower,
        };
        let pads =
            hf.do_pad == Some(true) && hf.image_processor_type.as_deref().is_some_and(|t| t.starts_with("Llava"));
        (self.fit, self.size) = match (hf.size, self.fit) {
            _ if pads => (Fit::Pad, tower),
            (Some(HfSize::Both { height, width }), _) => (Fit::Stretch, (height, width)),
            (Some(HfSize::Side(short) | HfSize::Shortest { shortest_edge: short }), _) => (Fit::Crop { short }, crop),
            (None, Fit::Crop { .. }) => (Fit::Crop { short: crop.0.min(crop.1) }, crop),
            (None, fit) => (fit, tower),
        };
        if let Fit::Crop { short } = self.fit {
            if !crops {
                return Err(field("do_center_crop", "true where only the short side has a size", "false".into()));
            }
            if short < self.size.0.max(self.size.1) {
                return Err(field("size", &format!("at least crop_size {:?}", self.size), short.to_string()));
            }
        }
        if self.size != tower {
            return Err(field(
                "size",
                &format!("{} x {} as the vision tower looks at", tower.0, tower.1),
                format!("{} x {}", self.size.0, self.size.1),
            ));
        }
        self.rescale =
            if hf.do_rescale == Some(false) { 1.0 } else { hf.rescale_factor.map_or(self.rescale, |f| f as f32) };
        if hf.do_normalize == Some(false) {
            (self.mean, self.std) = ([0.0; 3], [1.0; 3]);
        } else {
            (self.mean, self.std) = (hf.image_mean.unwrap_or(self.mean), hf.image_std.unwrap_or(self.std));
        }
        if self.std.iter().any(|s| !s.is_normal()) {
            return Err(field("image_std", "numbers other than 0", format!("{:?}", self.std)));
        }
        Ok(self)
    }

    /// A batch of frames as `[b, 3, height, width]` in f32.
    pub fn batch(&self, frames: &[Frame], device: &Device) -> Result<Tensor, PreprocessError> {
        let pictures = frames.iter().map(|frame| self.resize(frame)).collect::<Result<Vec<_>, _>>()?;
        self.normalise(&pictures, device)
    }

    /// One frame as a whole, then in tiles row by row: `[1 + tiles, 3, height, width]` in f32.
    ///
    /// # Errors
    /// A frame without pixels, or those of the device.
    pub fn tiles(&self, frame: &Frame, tiles: Tiles, device: &Device) -> Result<Tensor, PreprocessError> {
        let ((height, width), (rows, columns)) = (self.size, tiles.plane);
        let whole = self.resize(frame)?;
        let (w, h) = (frame.width as f64, frame.height as f64);
        let (across, down) = (columns as f64 / w, rows as f64 / h);
        // Rounded up, as the published processors do.
        let to = if across < down {
            (columns, ((h * across).ceil() as usize).min(rows))
        } else {
            (((w * down).ceil() as usize).min(columns), rows)
        };
        let colour = if tiles.mean_bars { bars(self.mean) } else { [0; 3] };
        let small = scale(&frame.rgb, frame.width, frame.height, to.0, to.1, self.filter)?;
        let plane = centre(&small, to, (columns, rows), colour);
        let mut pictures = vec![whole];
        for (top, left) in (0..rows / height).flat_map(|r| (0..columns / width).map(move |c| (r * height, c * width))) {
            let lines = plane.chunks_exact(columns * 3).skip(top).take(height);
            pictures.push(lines.flat_map(|line| line.iter().skip(left * 3).take(width * 3)).copied().collect());
        }
        self.normalise(&pictures, device)
    }

    /// Packed RGB of the final size to `[b, 3, height, width]`.
    fn normalise(&self, pictures: &[Vec<u8>], device: &Device) -> Result<Tensor, PreprocessError> {
        let (height, width) = self.size;
        let run = |e: candle_core::Error| PreprocessError::Run(e.to_string());
        if !device.is_cpu() {
            return self.normalised_there(pictures, device).map_err(run);
        }
        let mut data = Vec::with_capacity(pictures.len() * 3 * height * width);
        for rgb in pictures {
            for channel in 0..3 {
                let (mean, std) = (self.mean[channel], self.std[channel]);
                // A table of the 256 values there are.
                let table: [f32; 256] = std::array::from_fn(|v| (v as f32 * self.rescale - mean) / std);
                data.extend(rgb.iter().skip(channel).step_by(3).map(|v| table[usize::from(*v)]));
            }
        }
        Tensor::from_vec(data, (pictures.len(), 3, height, width), device).map_err(run)
    }

    /// The same on another device, which is sent bytes.
    fn normalised_there(&self, pictures: &[Vec<u8>], device: &Device) -> candle_core::Result<Tensor> {
        let (height, width) = self.size;
        let bytes = Tensor::from_vec(pictures.concat(), (pictures.len(), height, width, 3), device)?;
        let planes = bytes.permute((0, 3, 1, 2))?.contiguous()?.to_dtype(DType::F32)?;
        let colour = |values: [f32; 3]| Tensor::new(&values, device)?.reshape((1, 3, 1, 1));
        let scaled = (planes * f64::from(self.rescale))?;
        scaled.broadcast_sub(&colour(self.mean)?)?.broadcast_div(&colour(self.std)?)
    }

    /// Packed RGB of the final size.
    fn resize(&self, frame: &Frame) -> Result<Vec<u8>, PreprocessError> {
        let (height, width) = self.size;
        let bad =
            || PreprocessError::Picture { width: frame.width, height: frame.height, to: format!("{width} x {height}") };
        if frame.width == 0 || frame.height == 0 || frame.rgb.len() != frame.width * frame.height * 3 {
            return Err(bad());
        }
        match self.fit {
            Fit::Inside { black } => {
                let (w, h) = (frame.width as f64, frame.height as f64);
                let short = |share: f64, side: usize| {
                    let pixels = share * side as f64;
                    (if black { (pixels / 2.0).round() * 2.0 } else { pixels.ceil() } as usize).clamp(1, side)
                };
                let to = if w > h { (width, short(h / w, height)) } else { (short(w / h, width), height) };
                let small = scale(&frame.rgb, frame.width, frame.height, to.0, to.1, self.filter)?;
                Ok(centre(&small, to, (width, height), if black { [0; 3] } else { bars(self.mean) }))
            }
            Fit::Stretch => scale(&frame.rgb, frame.width, frame.height, width, height, self.filter),
            Fit::Pad => {
                let (square, side) = pad_to_square(frame, self.mean);
                scale(&square, side, side, width, height, self.filter)
            }
            Fit::Crop { short } => {
                // The long side is rounded down, as the published processors do.
                let (w, h) = if frame.width <= frame.height {
                    (short, short * frame.height / frame.width)
                } else {
                    (short * frame.width / frame.height, short)
                };
                if w.max(h) > 1 << 16 {
                    return Err(bad());
                }
                let rgb = scale(&frame.rgb, frame.width, frame.height, w, h, self.filter)?;
                let (left, top) = ((w - width) / 2, (h - height) / 2);
                if (w, h) == (width, height) {
                    return Ok(rgb);
                }
                let rows = rgb.chunks_exact(w * 3).skip(top).take(height);
                Ok(rows.flat_map(|row| row.get(left * 3..(left + width) * 3)).flatten().copied().collect())
            }
        }
    }
}

/// Bars above and below, or left and right, in the mean colour.
fn pad_to_square(frame: &Frame, mean: [f32; 3]) -> (Vec<u8>, usize) {
    let side = frame.width.max(frame.height);
    (centre(&frame.rgb, (frame.width, frame.height), (side, side), bars(mean)), side)
}

/// The colour of bars, rounded down as the published processors do.
fn bars(mean: [f32; 3]) -> [u8; 3] {
    mean.map(|m| (m * 255.0) as u8)
}

/// A picture of width and height `from` in the middle of one of `to`, which is no smaller.
fn centre(rgb: &[u8], from: (usize, usize), to: (usize, usize), colour: [u8; 3]) -> Vec<u8> {
    let (left, top) = ((to.0 - from.0) / 2, (to.1 - from.1) / 2);
    let mut all = colour.repeat(to.0 * to.1);
    let rows = all.chunks_exact_mut(to.0 * 3).skip(top);
    for (to, from) in rows.zip(rgb.chunks_exact(from.0 * 3)) {
        for (to, from) in to.iter_mut().skip(left * 3).zip(from) {
            *to = *from;
        }
    }
    all
}

/// Resamples with a kernel that widens when it shrinks, so nothing is skipped.
///
/// Rows first, then columns, as the published processors do: bytes are clipped between the passes, and at hard edges
/// the other order differs by several steps.
fn scale(
    rgb: &[u8],
    w: usize,
    h: usize,
    width: usize,
    height: usize,
    filter: FilterType,
) -> Result<Vec<u8>, PreprocessError> {
    let rows = if w == width { rgb.to_vec() } else { scale_once(rgb, (w, h), (width, h), filter)? };
    if h == height { Ok(rows) } else { scale_once(&rows, (width, h), (width, height), filter) }
}

fn scale_once(
    rgb: &[u8],
    from: (usize, usize),
    to: (usize, usize),
    filter: FilterType,
) -> Result<Vec<u8>, PreprocessError> {
    let size = |n: usize| u32::try_from(n).map_err(|e| PreprocessError::Run(e.to_string()));
    let source = ImageRef::new(size(from.0)?, size(from.1)?, rgb, PixelType::U8x3)
        .map_err(|e| PreprocessError::Run(e.to_string()))?;
    let mut target = Image::new(size(to.0)?, size(to.1)?, PixelType::U8x3);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter)).use_alpha(false);
    Resizer::new().resize(&source, &mut target, &options).map_err(|e| PreprocessError::Run(e.to_string()))?;
    Ok(target.into_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn frame(width: usize, height: usize, pixel: impl Fn(usize, usize) -> [u8; 3]) -> Frame {
        let rgb = (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).flat_map(|(x, y)| pixel(x, y)).collect();
        Frame::from_rgb(0, Duration::ZERO, width, height, rgb).unwrap()
    }

    #[test]
    fn colours_are_normalised_and_stay_in_their_channel() {
        let red = frame(40, 30, |_, _| [255, 0, 0]);
        let x = Preprocess::siglip(8).batch(&[red.clone(), red], &Device::Cpu).unwrap();
        assert_eq!(x.dims(), [2, 3, 8, 8]);
        let values = x.to_vec3_of(0);
        assert!(values[0].iter().all(|v| *v == 1.0) && values[1].iter().chain(&values[2]).all(|v| *v == -1.0));
    }

    trait Channels {
        fn to_vec3_of(&self, index: usize) -> Vec<Vec<f32>>;
    }
    impl Channels for Tensor {
        fn to_vec3_of(&self, index: usize) -> Vec<Vec<f32>> {
            self.get(index).unwrap().flatten_from(1).unwrap().to_vec2().unwrap()
        }
    }

    #[test]
    fn the_middle_is_cut_out_and_bars_are_added() {
        // Left third blue, middle green, right red: the crop of a 3:1 picture is all green.
        let bands = frame(48, 16, |x, _| [[0, 0, 255], [0, 255, 0], [255, 0, 0]][x / 16]);
        let crop = Preprocess::clip(16).resize(&bands).unwrap();
        assert!(crop.chunks(3).all(|p| p == [0, 255, 0]));
        let mut pad = Preprocess::siglip(48);
        pad.fit = Fit::Pad;
        let padded = pad.resize(&bands).unwrap();
        assert_eq!(&padded[..3], [127, 127, 127]);
        assert_eq!(&padded[24 * 48 * 3..][..3], [0, 0, 255]);
        // 48 x 16 becomes 24 x 8, with eight black rows above and below.
        let black = Preprocess { fit: Fit::Inside { black: true }, ..Preprocess::siglip(24) }.resize(&bands).unwrap();
        let row = |y: usize| &black[y * 24 * 3..][..3];
        assert_eq!([row(0), row(7), row(8), row(15), row(16)], [[0; 3], [0; 3], [0, 0, 255], [0, 0, 255], [0; 3]]);
        // 2.67 rows of a picture 9 times as wide as high are two: even numbers alone.
        let wide = frame(90, 10, |_, _| [255; 3]);
        let black = Preprocess { fit: Fit::Inside { black: true }, ..Preprocess::siglip(24) }.resize(&wide).unwrap();
        assert_eq!(black.chunks(24 * 3).filter(|row| row[0] == 255).count(), 2);
    }

    #[test]
    fn settings_that_do_not_fit_are_named() {
        let check = |json: &str, expected: &str| {
            let hf: HfImageProcessor = serde_json::from_str(json).unwrap();
            let error = Preprocess::clip(32).with_settings(&hf).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(
            r#"{"size": {"shortest_edge": 24}, "crop_size": 24}"#,
            "`size`: expected 32 x 32 as the vision tower looks at, found 24 x 24",
        );
        check(r#"{"size": {"shortest_edge": 16}}"#, "`size`: expected at least crop_size (32, 32), found 16");
        check(r#"{"resample": 9}"#, "`resample`: expected a number from 1 to 5, found 9");
        check(r#"{"image_std": [1, 0, 1]}"#, "`image_std`");
        check(r#"{"do_resize": false}"#, "`do_resize`");
        let empty = Frame { seq: 0, t: Duration::ZERO, width: 0, height: 4, rgb: Vec::new().into() };
        assert!(Preprocess::clip(32).batch(&[empty], &Device::Cpu).unwrap_err().to_string().contains("0 x 4"));
    }
}
