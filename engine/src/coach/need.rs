//! What a model folder takes of memory when it is streamed.

use super::{
    CacheChoice,
    gate::Gate,
    load::{LoadError, computed_in, opened},
    manifest::ManifestError,
};
use crate::{
    model::{
        Policy,
        memory::{Bounds, Need, Place},
    },
    weights::home,
};
use candle_core::DType;
use std::path::Path;

/// How a folder is streamed.
#[derive(Clone, Debug)]
pub struct Streaming {
    /// What it takes.
    pub need: Need,
    /// What it is computed in.
    pub dtype: DType,
    /// And why, in words that begin with the type.
    pub why: String,
    /// Frames a second.
    pub frame_rate: f64,
    /// Tokens of a frame.
    pub tokens: usize,
}

/// What streaming a folder takes, by its own settings and what is chosen over them, in a place; nothing is loaded.
///
/// # Errors
/// As loading it.
pub fn need(
    folder: &Path,
    cache: &CacheChoice,
    max_tokens: Option<usize>,
    place: Place,
) -> Result<Streaming, LoadError> {
    let (plan, manifest) = opened(folder, None)?;
    let invalid = |problem: String| ManifestError::Invalid { path: home(folder).join("spotter.toml"), problem };
    let gate = Gate::new(&manifest.speaking, plan.tokenizer.inner(), &plan.config.text.eos);
    let gate = gate.map_err(|e| invalid(e.to_string()))?;
    let scratch = gate.scratch(max_tokens.unwrap_or(manifest.defaults.max_tokens));
    let own = cache.over(&manifest.cache).map_err(|e| invalid(e.to_string()))?;
    let positions = plan.config.text.max_positions;
    let context = manifest.context.min(positions);
    let bounds = if own.policy == Policy::None {
        Bounds { capacity: context, block: own.block, bounded: false }
    } else {
        let fitted = own.fitted(context, positions, scratch, gate.positions(plan.tokens_per_image()));
        let capacity = fitted.budget.unwrap_or(context) + fitted.slack() + scratch;
        Bounds { capacity: capacity.min(context), block: fitted.block, bounded: true }
    };
    let (dtype, why) = computed_in(&plan, place);
    let need = Need::of(&plan, bounds, dtype, place);
    Ok(Streaming { need, dtype, why, frame_rate: manifest.frame_rate, tokens: plan.tokens_per_image() })
}
