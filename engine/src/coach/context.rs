//! The cache of a session.

use super::{CoachOptions, gate::Gate, session::StreamModel};
use crate::model::{KvCache, Policy};
use candle_core::{Error, Result, bail};

/// An empty cache: what the manifest says, and what the user says instead. A frame is never cut up by an eviction.
pub(super) fn empty_cache(
    model: &StreamModel,
    gate: &Gate,
    options: &CoachOptions,
    prompt: usize,
    tail: usize,
) -> Result<KvCache> {
    let (decoder, context) = (&model.decoder, model.manifest.context);
    let config = decoder.config();
    let scratch = gate.scratch(options.max_tokens);
    let bounds = options.cache.over(&model.manifest.cache).map_err(Error::wrap)?;
    let bounds = match bounds.policy {
        Policy::None => bounds,
        _ => {
            let whole = gate.positions(model.eye.tokens());
            bounds.fitted(context.min(config.max_positions), config.max_positions, scratch, whole)
        }
    };
    let mut cache = KvCache::bounded(config, &bounds, context, scratch, decoder.dtype(), decoder.device())?;
    let room = cache.budget().unwrap_or(cache.capacity() / 2);
    if prompt * 2 > room {
        bail!(
            "the prompt of {prompt} tokens fills more than half of a cache of {room}; shorten it or raise the budget"
        );
    }
    cache.pin(prompt)?;
    cache.add_tail(tail);
    Ok(cache)
}
