//! From a model folder to a [`StreamModel`].

use super::{
    eye::Eye,
    gate,
    manifest::{Manifest, ManifestError},
    session::StreamModel,
    standard,
};
use crate::{
    device::Choice,
    model::{DraftModel, LanguageModel, Plan, memory::Place},
    speculate::{DrafterKind, language::VocabularyMismatch, same_vocabulary},
    weights::{WeightsError, home},
};
use candle_core::{DType, Device};
use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

/// A model folder that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] WeightsError),
    /// `spotter.toml`.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A drafter of another vocabulary.
    #[error("{path}: {source}")]
    Drafter {
        /// The drafter.
        path: PathBuf,
        /// The first difference.
        source: VocabularyMismatch,
    },
    /// A drafter whose adapter is for another target.
    #[error(
        "{path}: adapter.linear_1.weight reads visual tokens of {found} numbers, the coach's have {expected}: it was \
         trained for another coach; `spotter train drafter --adapter N --target COACH` makes one"
    )]
    Adapter {
        /// The drafter.
        path: PathBuf,
        /// Width of the coach's visual tokens.
        expected: usize,
        /// Width that the adapter reads.
        found: usize,
    },
}

/// Loads a model folder, or GGUF files: a LLaVA checkpoint, the `spotter.toml` that says how it is streamed (where there is none, a CLIP or
/// SigLIP model is streamed by its own chat template), and the drafter that this names, if it does. Weights are mapped and
/// computed with in the type that [`computed_in`] says.
///
/// # Errors
/// The first thing that does not fit, found before weights are loaded.
pub fn load(folder: &Path, device: &Device) -> Result<StreamModel, LoadError> {
    load_for(folder, device, None)
}

/// The same with a context of at least so many positions, further than the model was trained to look: to measure it.
///
/// # Errors
/// As [`load`].
pub fn load_for(folder: &Path, device: &Device, context: Option<usize>) -> Result<StreamModel, LoadError> {
    let mut model = without_drafter(folder, device, context)?;
    if let DrafterKind::Model(path) = &model.manifest.speculation.drafter {
        model.drafter = Some(load_drafter(&home(folder).join(path), &model, device)?);
    }
    Ok(model)
}

/// The same without the drafter, whatever the manifest says.
///
/// # Errors
/// As [`load`].
pub fn load_alone(folder: &Path, device: &Device) -> Result<StreamModel, LoadError> {
    without_drafter(folder, device, None)
}

/// A folder that was read and checked, before weights are loaded, and how it is streamed.
pub(super) fn opened(folder: &Path, context: Option<usize>) -> Result<(Plan, Manifest), LoadError> {
    let mut plan = Plan::open(folder)?;
    let mut manifest = match Manifest::read(home(folder)) {
        Err(ManifestError::Read { source, .. }) if source.kind() == ErrorKind::NotFound && standard::serves(&plan) => {
            tracing::info!("{}: no spotter.toml; streamed as models of its kind are", folder.display());
            standard::manifest(&plan)?
        }
        read => read?,
    };
    plan.vision = manifest.vision.clone();
    gate::check(&manifest, plan.tokenizer.inner(), &plan.config.text)
        .map_err(|e| ManifestError::Invalid { path: home(folder).join("spotter.toml"), problem: e.to_string() })?;
    if let Some(positions) = manifest.positions {
        plan.config.text.max_positions = positions;
    }
    if let Some(context) = context {
        manifest.context = manifest.context.max(context);
        plan.config.text.max_positions = plan.config.text.max_positions.max(context);
    }
    Ok((plan, manifest))
}

/// Parameters from which on a card computes in the type the weights are stored in.
const LARGE: usize = 300_000_000;

/// The type a coach computes in, and why: f32, and on a card the half type that the weights of a large model are stored in. A
/// small one gains nothing by it, because launches are what it waits for.
pub fn computed_in(plan: &Plan, place: Place) -> (DType, String) {
    let elements: usize = plan.checkpoint.tensors().values().map(|t| t.elements()).sum();
    match plan.checkpoint.dtype() {
        _ if place == Place::Processor => (DType::F32, "f32, which a processor computes fastest".into()),
        Some(half @ (DType::F16 | DType::BF16)) if elements >= LARGE => {
            (half, format!("{}, which its weights are stored in", half.as_str()))
        }
        Some(DType::F16 | DType::BF16) => (
            DType::F32,
            format!("f32, since fewer than {} million parameters gain nothing by half types", LARGE / 1_000_000),
        ),
        _ => (DType::F32, "f32, which its weights are stored in".into()),
    }
}

fn without_drafter(folder: &Path, device: &Device, context: Option<usize>) -> Result<StreamModel, LoadError> {
    let (plan, manifest) = opened(folder, context)?;
    let choice =
        Choice { device: device.clone(), dtype: computed_in(&plan, Place::of(device)).0, reason: String::new() };
    let llava = plan.build(&choice)?;
    Ok(StreamModel {
        eye: Eye::new(llava.encoder),
        decoder: llava.decoder,
        picture_side: plan.config.vision.image_size(),
        tokenizer: plan.tokenizer.into_inner(),
        manifest,
        drafter: None,
    })
}

/// Loads a language model (a GGUF file or a folder) that drafts for a coach.
///
/// # Errors
/// A model that can't be used, one with other tokens, or one that sees with an adapter for another coach.
pub fn load_drafter(path: &Path, target: &StreamModel, device: &Device) -> Result<DraftModel, LoadError> {
    let drafter = LanguageModel::open(path, DType::F32, device)?;
    same_vocabulary(&target.tokenizer.get_vocab(true), &drafter.tokenizer.vocabulary())
        .map_err(|source| LoadError::Drafter { path: path.to_owned(), source })?;
    let drafter = drafter.into_drafter()?;
    let expected = target.decoder.config().width;
    match drafter.adapter.as_ref().map(|adapter| adapter.config().from).filter(|from| *from != expected) {
        Some(found) => Err(LoadError::Adapter { path: path.to_owned(), expected, found }),
        None => Ok(drafter),
    }
}
