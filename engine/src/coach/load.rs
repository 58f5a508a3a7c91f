//! From a model folder to a [`StreamModel`].

use super::{
    eye::Eye,
    manifest::{Manifest, ManifestError},
    session::StreamModel,
};
use crate::{device::Choice, model::Plan, weights::WeightsError};
use candle_core::{DType, Device};
use std::path::Path;

/// A model folder that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] WeightsError),
    /// `spotter.toml`.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// Loads a model folder: a LLaVA checkpoint and the `spotter.toml` that says how it is streamed. Weights are mapped and
/// computed with in f32.
///
/// # Errors
/// The first thing that does not fit, found before weights are loaded.
pub fn load(folder: &Path, device: &Device) -> Result<StreamModel, LoadError> {
    let manifest = Manifest::read(folder)?;
    let plan = Plan::open(folder)?;
    let choice = Choice { device: device.clone(), dtype: DType::F32, reason: String::new() };
    let llava = plan.build(&choice)?;
    Ok(StreamModel {
        eye: Eye::new(llava.encoder),
        decoder: llava.decoder,
        picture_side: plan.config.vision.image_size(),
        tokenizer: plan.tokenizer.into_inner(),
        manifest,
    })
}
