//! What a model folder takes of memory when it is streamed.

use super::{
    CacheChoice,
    gate::Gate,
    load::{LoadError, computed_in, opened},
    manifest::ManifestError,
};
use crate::model::{
    Policy,
    memory::{Bounds, Need},
};
use candle_core::Device;
use std::path::Path;

/// The memory that streaming a folder takes, by its own settings and what is chosen over them, on a device; nothing is loaded.
///
/// # Errors
/// As loading it.
pub fn need(folder: &Path, cache: &CacheChoice, max_tokens: Option<usize>, device: &Device) -> Result<Need, LoadError> {
    let (plan, manifest) = opened(folder, None)?;
    let invalid = |problem: String| ManifestError::Invalid { path: folder.join("spotter.toml"), problem };
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
    Ok(Need::of(&plan, bounds, computed_in(&plan, device)))
}
