//! A vision tower in three pieces, whatever its kind, and what makes its input out of frames.

use super::{
    tosa::{self, Block, Memory, Outline, Tosa},
    vit::{Vit, VitConfig},
};
use crate::{
    Frame,
    preprocess::{Fit, Preprocess, PreprocessError},
};
use candle_core::{Device, Result, Tensor};

/// A vision tower: what enters its layers, the layers, what leaves them. Use, training and measurements see every kind of
/// tower through it.
pub trait Trunk: Send + Sync {
    /// The tower's input (pictures `[b, 3, side, side]`, normalised, or patches, see [`Prepare`]) to the tokens `[b, n, d]`
    /// that enter the first layer, contiguous.
    ///
    /// # Errors
    /// An input of another shape, or those of the device.
    fn embed(&self, input: &Tensor) -> Result<Tensor>;

    /// The layers that are run, in order.
    fn blocks(&self) -> Vec<&dyn Block>;

    /// Tokens that left the last layer, `[b, n, d]`, to those that leave the tower: as many, or one for the whole picture more
    /// at their beginning.
    ///
    /// # Errors
    /// Those of the device.
    fn finish(&self, tokens: &Tensor) -> Result<Tensor>;

    /// A token for the whole picture goes through the layers before the patches.
    fn has_class_token(&self) -> bool;

    /// Where it computes.
    fn device(&self) -> &Device;

    /// How its layers skip tokens, if they do.
    fn tosa(&self) -> Option<&Tosa>;

    /// Lets its layers skip tokens, in another way or no longer.
    fn set_tosa(&mut self, tosa: Option<Tosa>);

    /// What skipping must know of it.
    fn outline(&self) -> Outline {
        let blocks = self.blocks();
        Outline {
            depth: blocks.len(),
            heads: blocks.first().map_or(0, |b| b.heads()),
            class_tokens: usize::from(self.has_class_token()),
        }
    }

    /// The tower's input to its tokens, `[b, n, d]`.
    ///
    /// # Errors
    /// As [`embed`](Self::embed).
    fn forward(&self, input: &Tensor) -> Result<Tensor> {
        self.follow(input, None)
    }

    /// The same for a frame of a stream, which leaves `memory` to the next.
    ///
    /// # Errors
    /// As [`embed`](Self::embed).
    fn follow(&self, input: &Tensor, memory: Option<&mut Memory>) -> Result<Tensor> {
        self.finish(&tosa::run(&self.blocks(), &self.embed(input)?, self.tosa(), memory)?)
    }
}

/// From frames to what a tower takes.
#[derive(Clone, Debug, PartialEq)]
pub enum Prepare {
    /// Spotter's own tower: pictures cut into patches, `[b, patches, patch * patch * 3]`, values 0 to 1.
    Patches(VitConfig),
    /// CLIP and SigLIP: normalised pictures `[b, 3, side, side]`.
    Pixels(Preprocess),
}

impl Prepare {
    /// A batch of frames, in f32.
    ///
    /// # Errors
    /// A frame without pixels, or those of the device.
    pub fn batch(&self, frames: &[Frame], device: &Device) -> std::result::Result<Tensor, PreprocessError> {
        match self {
            Self::Pixels(preprocess) => preprocess.batch(frames, device),
            Self::Patches(config) => {
                let fitted: Vec<_> = frames.iter().map(|f| f.fit_square(config.image_size)).collect();
                let bytes: Vec<&[u8]> = fitted.iter().map(AsRef::as_ref).collect();
                Vit::patchify(config, &bytes, device).map_err(|e| PreprocessError::Run(e.to_string()))
            }
        }
    }

    /// The part of a frame of `width` x `height` pixels that is looked at, in shares of it: left, top, right, bottom. Below 0
    /// or above 1 where bars are added.
    pub fn window(&self, width: usize, height: usize) -> [f32; 4] {
        let (w, h) = (width.max(1) as f32, height.max(1) as f32);
        let middle =
            |across: f32, down: f32| [0.5 - across / 2.0, 0.5 - down / 2.0, 0.5 + across / 2.0, 0.5 + down / 2.0];
        let fit = match self {
            Self::Patches(_) => Fit::Pad,
            Self::Pixels(preprocess) => preprocess.fit,
        };
        match fit {
            Fit::Stretch => middle(1.0, 1.0),
            Fit::Pad | Fit::Inside { .. } => middle(w.max(h) / w, w.max(h) / h),
            Fit::Crop { short } => {
                let share = self.side() as f32 / short.max(1) as f32;
                middle(share * w.min(h) / w, share * w.min(h) / h)
            }
        }
    }

    /// Side of the square picture that is looked at, in pixels.
    pub fn side(&self) -> usize {
        match self {
            Self::Patches(config) => config.image_size,
            Self::Pixels(preprocess) => preprocess.size.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_what_the_tower_sees_of_a_frame() {
        // The middle of a wide frame, shrunk a little more than the crop needs.
        let mut clip = Preprocess::clip(224);
        clip.fit = Fit::Crop { short: 256 };
        let close = |found: [f32; 4], expected: [f32; 4]| {
            assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-5), "{found:?} {expected:?}");
        };
        close(Prepare::Pixels(clip).window(1024, 512), [0.28125, 0.0625, 0.71875, 0.9375]);
        close(Prepare::Pixels(Preprocess::siglip(30)).window(90, 30), [0.0, 0.0, 1.0, 1.0]);
        // Bars left and right of an upright frame.
        close(Prepare::Patches(VitConfig::default()).window(50, 100), [-0.5, 0.0, 1.5, 1.0]);
    }
}
