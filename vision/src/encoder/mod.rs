//! From pictures to visual tokens.

#[cfg(feature = "cuda")]
mod card;
pub mod clip;
mod pooled;
pub mod siglip;
pub mod tosa;
mod tower;
mod trunk;
pub mod vit;

pub use tower::{Activation, TensorSpec, TowerConfig};
pub use trunk::{Prepare, Trunk};

use crate::Frame;
use candle_core::{Result, Tensor};

/// A vision tower with its preprocessing.
pub trait Encoder: Send {
    /// Tokens of a batch of pictures: `[batch, tokens, width]`.
    fn encode(&self, frames: &[Frame]) -> Result<Tensor>;
    /// Tokens a picture and their width.
    fn shape(&self) -> (usize, usize);
}
