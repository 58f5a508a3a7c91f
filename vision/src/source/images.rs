//! A folder of pictures played in the natural order of their names.

use super::{FrameSource, SourceError, SourceInfo};
use crate::Frame;
use image::{DynamicImage, ImageDecoder, ImageReader, imageops::FilterType};
use std::{
    cmp::Ordering,
    path::{Path, PathBuf},
    time::Duration,
};

/// How a folder of pictures is played.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImagesOptions {
    /// Pictures a second, above 0, at most 1000.
    pub fps: f64,
    /// Pictures with a longer side are scaled down to it.
    pub max_side: Option<usize>,
}

impl Default for ImagesOptions {
    fn default() -> Self {
        Self { fps: 30.0, max_side: None }
    }
}

/// The `.jpg`, `.jpeg` and `.png` files of one folder; other files and hidden files are left out.
///
/// Names are in natural order (`2.jpg` before `10.jpg`), the orientation of EXIF is applied, and transparency is dropped.
/// Pictures may differ in size: each frame carries its own; [`SourceInfo`] tells the first.
#[derive(Debug)]
pub struct ImagesSource {
    files: Vec<PathBuf>,
    options: ImagesOptions,
    info: SourceInfo,
    first: Option<(usize, usize, Vec<u8>)>,
    next: usize,
    failed: bool,
}

impl ImagesSource {
    /// Opens a folder and its first picture.
    ///
    /// # Errors
    /// [`SourceError::Open`] when the folder can't be read or has no pictures, when its first picture is broken, or when the rate is out of range.
    pub fn open(folder: impl AsRef<Path>, options: ImagesOptions) -> Result<Self, SourceError> {
        let folder = folder.as_ref();
        let wrong = |problem: String| SourceError::Open { path: folder.to_path_buf(), problem };
        if !(options.fps > 0.0 && options.fps <= 1000.0) {
            return Err(wrong(format!("{} pictures a second is not between 0 and 1000", options.fps)));
        }
        if options.max_side == Some(0) {
            return Err(wrong("a longest side of 0 pixels leaves no picture; give 1 or more".into()));
        }
        let files = pictures(folder).map_err(|e| wrong(format!("the folder can't be read: {e}")))?;
        let Some(first_file) = files.first() else {
            return Err(wrong(
                "no .jpg, .jpeg or .png files in this folder; give a folder of pictures or a video file".into(),
            ));
        };
        let first = load(first_file, options.max_side)
            .map_err(|problem| SourceError::Open { path: first_file.clone(), problem })?;
        let info = SourceInfo {
            name: super::display_name(folder),
            width: first.0,
            height: first.1,
            fps: options.fps,
            duration: Some(Duration::from_secs_f64(files.len() as f64 / options.fps)),
        };
        Ok(Self { files, options, info, first: Some(first), next: 0, failed: false })
    }
}

impl FrameSource for ImagesSource {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, SourceError> {
        let index = self.next;
        let Some(file) = self.files.get(index).filter(|_| !self.failed) else {
            return Ok(None);
        };
        let at = |index: usize| Duration::from_secs_f64(index as f64 / self.options.fps);
        let loaded = match self.first.take() {
            Some(first) => Ok(first),
            None => load(file, self.options.max_side),
        };
        let (width, height, rgb) = loaded.map_err(|problem| {
            self.failed = true;
            SourceError::Broken { path: file.clone(), t: at(index.saturating_sub(1)), frames: index as u64, problem }
        })?;
        self.next += 1;
        Ok(Frame::from_rgb(index as u64, at(index), width, height, rgb))
    }
}

fn pictures(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        let extension = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
        let picture = matches!(extension.as_deref(), Some("jpg" | "jpeg" | "png"));
        if picture && !hidden && path.is_file() {
            files.push(path);
        }
    }
    files.sort_by(|a, b| {
        let name = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        natural_order(&name(a), &name(b))
    });
    Ok(files)
}

/// Compares names with runs of digits taken as numbers; equal numbers fall back to the plain order, so the order is total.
fn natural_order(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a.as_bytes(), b.as_bytes());
    while let (Some(x), Some(y)) = (left.first(), right.first()) {
        if x.is_ascii_digit() && y.is_ascii_digit() {
            let ((m, rest_left), (n, rest_right)) = (leading_number(left), leading_number(right));
            // Without leading zeros the longer run is the larger number, however many digits it has.
            match m.len().cmp(&n.len()).then_with(|| m.cmp(n)) {
                Ordering::Equal => (left, right) = (rest_left, rest_right),
                unequal => return unequal,
            }
        } else {
            match x.to_ascii_lowercase().cmp(&y.to_ascii_lowercase()) {
                Ordering::Equal => (left, right) = (&left[1..], &right[1..]),
                unequal => return unequal,
            }
        }
    }
    left.len().cmp(&right.len()).then_with(|| a.cmp(b))
}

/// The digits at the start without leading zeros, and what follows.
fn leading_number(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|c| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    let zeros = digits.iter().position(|c| *c != b'0').unwrap_or(digits.len());
    (&digits[zeros..], rest)
}

fn load(file: &Path, max_side: Option<usize>) -> Result<(usize, usize, Vec<u8>), String> {
    let broken =
        |e: image::ImageError| format!("the picture can't be decoded ({e}); replace it or take it out of the folder");
    let reader = ImageReader::open(file).and_then(ImageReader::with_guessed_format);
    let mut decoder = reader.map_err(|e| format!("the picture can't be read: {e}"))?.into_decoder().map_err(broken)?;
    let orientation = decoder.orientation().map_err(broken)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(broken)?;
    image.apply_orientation(orientation);
    let (width, height) = super::fit((image.width() as usize, image.height() as usize), max_side);
    if (width, height) != (image.width() as usize, image.height() as usize) {
        image = image.resize_exact(width as u32, height as u32, FilterType::Triangle);
    }
    Ok((width, height, image.into_rgb8().into_raw()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn natural_order_takes_digits_as_numbers() {
        let mut names =
            ["b1", "a10", "a2", "A1", "a02", "a", "a2b", "a99999999999999999999999", "a100000000000000000000000"];
        names.sort_by(|a, b| natural_order(a, b));
        assert_eq!(
            names,
            ["a", "A1", "a02", "a2", "a2b", "a10", "a99999999999999999999999", "a100000000000000000000000", "b1"]
        );
    }
}
