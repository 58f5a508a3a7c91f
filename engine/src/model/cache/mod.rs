//! Keys and values of what a decoder has seen, in a memory that can be bounded.
//!
//! **Length and position are different things.** `len` counts slots in use: it drives memory and attention, and is
//! bounded. `position` counts what the stream has had: it drives rotation and runs on. Every entry remembers its own
//! position, for each layer and key head by itself, because each head keeps different entries.
//!
//! A bounded cache holds a budget of N entries a head. Passes longer than a block of B are cut up. After a pass that
//! makes N + E or more entries, every head is cut back to N: see [`CacheOptions`]. Inside an open step (see
//! [`KvCache::begin`]) nothing is ever dropped, so the step can be undone; `scratch` slots are there for it.

pub mod attentive;
pub mod caote;
mod evict;
pub mod keydiff;
mod layer;
mod moves;
pub mod options;
mod queries;
pub mod scorer;
pub mod select;
pub mod setting;
mod steps;
#[cfg(test)]
mod tests;

use super::{config::DecoderConfig, layers::Rope};
use candle_core::{DType, Device, Result, Tensor, bail};
pub(crate) use evict::Visible;
pub(crate) use layer::LayerCache;
use layer::Shape;
pub use options::{Anchor, Base, CacheOptions, Policy, Positions};
use scorer::{Scorer, Watch};
pub use setting::Setting;
use std::time::Duration;
use steps::Step;
pub use steps::{Columns, Commit};

/// The memory of one running sequence (batch 1).
///
/// Buffers are allocated ahead and written in place, so a step copies only its own rows. They start small and
/// double up to the capacity.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    shape: Shape,
    len: usize,
    position: usize,
    seen: u64,
    capacity: usize,
    /// Slots of the capacity that only columns of an open step use which will not all be committed.
    tail: usize,
    /// Longest pass.
    block: usize,
    /// The first entries, which are never dropped.
    pinned: usize,
    /// Of the model: a query sees this many positions back.
    model_window: Option<usize>,
    steps: Vec<Step>,
    bound: Option<Bound>,
    evictions: u64,
    closings: u64,
    evicting: Duration,
    /// What comes was said, not seen.
    saying: bool,
    /// Evictions wait.
    held: bool,
}

/// What bounds a cache.
#[derive(Debug)]
struct Bound {
    options: CacheOptions,
    scorer: Box<dyn Scorer>,
    budget: usize,
    scratch: usize,
    /// Positions stay below this.
    limit: usize,
    rope: Rope,
}

impl KvCache {
    /// An empty cache for at most `capacity` entries, from which nothing is dropped.
    ///
    /// # Errors
    /// A capacity of 0.
    pub fn new(cfg: &DecoderConfig, capacity: usize, dtype: DType, device: &Device) -> Result<Self> {
        if capacity == 0 {
            bail!("a cache needs room for at least one entry");
        }
        let shape = Shape { heads: cfg.kv_heads, group: cfg.heads / cfg.kv_heads.max(1), dim: cfg.head_dim };
        let layers = LayerCache::all(cfg.layers, shape, capacity, Watch::default(), dtype, device)?;
        Ok(Self {
            layers,
            shape,
            len: 0,
            position: 0,
            seen: 0,
            capacity,
            tail: 0,
            block: usize::MAX,
            pinned: 0,
            model_window: cfg.window,
            steps: Vec::new(),
            bound: None,
            evictions: 0,
            closings: 0,
            evicting: Duration::ZERO,
            saying: false,
            held: false,
        })
    }

    /// An empty cache that `options` bound: at most `context` entries, at positions that stay below what the model has.
    /// An open step may have at least `scratch` positions. Without a budget it gets what [`CacheOptions::fitted`] leaves
    /// it. With the policy `none` it holds `context` entries and drops nothing.
    ///
    /// # Errors
    /// Options that are wrong by themselves, or for which the context is too small.
    pub fn bounded(
        cfg: &DecoderConfig,
        options: &CacheOptions,
        context: usize,
        scratch: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        if let Some(problem) = options.problem() {
            bail!("{problem}");
        }
        let (limit, context) = (cfg.max_positions, context.min(cfg.max_positions));
        let Some(scorer) = scorer::scorer(options) else {
            return Ok(Self { block: options.block, ..Self::new(cfg, context, dtype, device)? });
        };
        let options = options.fitted(context, limit, scratch, 1);
        let budget = options.budget.unwrap_or(0);
        let capacity = budget + options.slack() + scratch;
        if budget == 0 || capacity > context {
            bail!(
                "a cache budget of {budget} entries, {} more between evictions (the larger of cache.block and \
                 cache.every) and {scratch} for an open step do not fit {context} positions: lower them or raise the \
                 context",
                options.slack()
            );
        }
        let mut cache = Self::new(cfg, capacity, dtype, device)?;
        cache.layers = LayerCache::all(cfg.layers, cache.shape, capacity, scorer.watch(), dtype, device)?;
        if options.said.is_some() {
            cache.layers.iter_mut().for_each(LayerCache::tell_apart);
        }
        cache.block = options.block;
        let rope = Rope::table(cfg, limit, device)?;
        cache.bound = Some(Bound { options, scorer, budget, scratch, limit, rope });
        Ok(cache)
    }

    /// Entries held in each head.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Position of the next token.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Positions that it has had since it was empty, dropped ones included: unlike [`Self::position`] it is never turned
    /// back.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// The most entries it will hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The most entries that stay after an eviction; `None` where nothing is dropped.
    pub fn budget(&self) -> Option<usize> {
        self.bound.as_ref().map(|b| b.budget)
    }

    /// Evictions since it was empty.
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    /// How often positions were closed up since it was empty.
    pub fn closings(&self) -> u64 {
        self.closings
    }

    /// Time spent on evictions, in all.
    pub fn time_evicting(&self) -> Duration {
        self.evicting
    }

    /// Bytes allocated now.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(LayerCache::bytes).sum()
    }

    /// Bytes once it has grown to its capacity, which it has after its first eviction: layers x key heads x (capacity x
    /// (2 x head size x bytes of a number, 4 for the position, 4 for each query head whose attention is summed, and 1
    /// where what was said is told apart) + watched queries x query heads of a key head x head size x bytes of a number).
    pub fn bytes_at_capacity(&self, dtype: DType) -> usize {
        let Shape { heads, group, dim } = self.shape;
        let watch = self.layers.first().map_or(Watch::default(), LayerCache::watch);
        let number = dtype.size_in_bytes();
        let told_apart = self.bound.as_ref().is_some_and(|b| b.options.said.is_some());
        let slot = 2 * dim * number + 4 + if watch.mass { 4 * group } else { 0 } + usize::from(told_apart);
        self.layers.len() * heads * (self.capacity * slot + watch.queries * group * dim * number)
    }

    /// Whether what comes from now on was said rather than seen: see [`CacheOptions::said`].
    pub fn set_saying(&mut self, saying: bool) {
        self.saying = saying;
    }

    /// Whether the entries of a layer and key head were said; empty where that is not told apart.
    pub fn said(&self, layer: usize, head: usize) -> &[bool] {
        self.layers.get(layer).map_or(&[], |l| l.said(head))
    }

    /// Positions of the entries of a layer and key head, ascending.
    pub fn positions(&self, layer: usize, head: usize) -> &[u32] {
        self.layers.get(layer).map_or(&[], |l| l.positions(head))
    }

    /// Keys and values of a layer, `[key heads, len, head size]` each.
    ///
    /// # Errors
    /// A layer that it does not have.
    pub fn entries(&self, layer: usize) -> Result<(Tensor, Tensor)> {
        match self.layers.get(layer) {
            Some(layer) => layer.entries(self.len),
            None => bail!("the cache has {} layers, and no layer {layer}", self.layers.len()),
        }
    }

    /// Never drops the first `n` entries from now on.
    ///
    /// # Errors
    /// When the budget has no room for them and one more.
    pub fn pin(&mut self, n: usize) -> Result<()> {
        if let Some(bound) = &self.bound
            && n >= bound.budget
        {
            bail!("{n} pinned entries leave no room in a cache budget of {}: raise cache.budget", bound.budget);
        }
        self.pinned = n;
        Ok(())
    }

    /// Forgets everything; keeps the buffers and the number of pinned entries.
    ///
    /// # Errors
    /// Of the device.
    pub fn clear(&mut self) -> Result<()> {
        (self.len, self.position, self.seen, self.evictions, self.closings) = (0, 0, 0, 0, 0);
        (self.saying, self.held) = (false, false);
        self.steps.clear();
        self.layers.iter_mut().try_for_each(LayerCache::clear)
    }

    /// Where to cut a run of `n` positions: lengths of the passes, none of which is longer than `most`.
    pub(crate) fn passes(&self, n: usize, most: usize) -> Vec<usize> {
        let whole = if self.steps.is_empty() { self.block.min(most) } else { most };
        let mut rest = n;
        std::iter::from_fn(|| {
            let next = rest.min(whole);
            rest -= next;
            (next > 0).then_some(next)
        })
        .collect()
    }

    /// An error where `n` positions can't be held, before any is computed.
    pub(crate) fn check(&self, n: usize, columns: Columns) -> Result<()> {
        let tail = if columns == Columns::Chain { self.tail } else { 0 };
        let free = (self.capacity - tail).saturating_sub(self.len);
        match (&self.bound, self.steps.last()) {
            (None, _) if n > free => bail!(
                "the context of {} tokens is full: {} are held and {n} more do not fit; a cache policy other than \
                 none lets a stream go on",
                self.capacity - self.tail,
                self.len
            ),
            (Some(_), Some(_)) if n > free => {
                bail!("an open step of a cache with {} entries has no room for {n} more: {free} are free", self.len)
            }
            _ => Ok(()),
        }
    }

    /// Prepares a pass over `n` positions: evicts where they would not fit, allocates, and gives their positions.
    pub(crate) fn prepare(&mut self, n: usize, columns: Columns) -> Result<Vec<u32>> {
        self.check(n, columns)?;
        if self.steps.is_empty() {
            if columns != Columns::Chain {
                bail!("a tree needs an open step");
            }
            if let Some(bound) = &self.bound
                && self.len + n > bound.budget + bound.options.slack()
            {
                self.evict()?;
            }
        }
        for layer in &mut self.layers {
            layer.reserve(self.len + n, self.len, self.capacity)?;
        }
        match self.steps.last_mut() {
            Some(step) => {
                let before = step.len();
                let positions = step.extend(n, columns);
                if positions.is_err() {
                    step.shorten(before);
                }
                positions
            }
            None => Ok((self.position..self.position + n).map(|p| p as u32).collect()),
        }
    }

    /// What the newest `n` columns of a tree may see, `[n, len + n]`: 0 or minus infinity. `None` for a chain.
    pub(crate) fn tree_mask(&self, n: usize, device: &Device) -> Result<Option<Tensor>> {
        let Some(step) = self.steps.last().filter(|step| !step.is_chain()) else { return Ok(None) };
        let mut mask = Vec::with_capacity(n * (self.len + n));
        for row in step.sees(n) {
            mask.extend(std::iter::repeat_n(0f32, step.start));
            mask.extend(row.iter().map(|seen| if *seen { 0.0 } else { f32::NEG_INFINITY }));
        }
        Tensor::from_vec(mask, (n, self.len + n), device).map(Some)
    }

    /// For each of the newest `n` columns those of them that it sees, as bits (in a chain of more than 64 of the first 64 only);
    /// `None` where one of them does not see all that came before them, or where a tree has more.
    #[cfg(feature = "cuda")]
    pub(crate) fn fresh_seen(&self, n: usize) -> Option<Vec<u64>> {
        let Some(step) = self.steps.last().filter(|step| !step.is_chain()) else {
            return Some((0..n).map(|i| u64::MAX >> (63 - i.min(63))).collect());
        };
        if n > 64 {
            return None;
        }
        let bits = |row: Vec<bool>| {
            let (before, fresh) = row.split_at(row.len().checked_sub(n)?);
            let bit = |(i, seen): (usize, &bool)| u64::from(*seen) << i;
            before.iter().all(|seen| *seen).then(|| fresh.iter().enumerate().map(bit).sum())
        };
        step.sees(n).into_iter().map(bits).collect()
    }

    /// The layers, to be written by a pass.
    pub(crate) fn layers_mut(&mut self) -> &mut [LayerCache] {
        &mut self.layers
    }

    /// Whether slots and positions are the same, so that a model's own window is a run of slots.
    pub(crate) fn is_contiguous(&self) -> bool {
        self.evictions == 0 && self.steps.iter().all(Step::is_chain)
    }

    /// Counts a pass at `positions` that every layer has written. Outside of a step an eviction may follow.
    pub(crate) fn advance(&mut self, positions: &[u32]) -> Result<()> {
        let said = self.saying;
        self.layers.iter_mut().for_each(|layer| layer.count(positions, said));
        self.len += positions.len();
        self.seen += positions.len() as u64;
        self.position = positions.iter().max().map_or(self.position, |p| self.position.max(*p as usize + 1));
        if self.steps.is_empty() { self.settle() } else { Ok(()) }
    }

    /// Takes back what a failed pass of `n` positions left.
    pub(crate) fn abandon(&mut self, n: usize) {
        let len = self.len;
        self.layers.iter_mut().for_each(|layer| layer.forget_from(len));
        if let Some(step) = self.steps.last_mut() {
            step.shorten(step.len().saturating_sub(n));
        }
    }

    /// What is held is committed: it counts for the scorer, and may be evicted.
    fn settle(&mut self) -> Result<()> {
        self.layers.iter_mut().try_for_each(LayerCache::settle)?;
        if self.room() == Some(0) && !self.held { self.evict() } else { Ok(()) }
    }

    /// Lets an eviction that becomes due wait, so that what is urgent comes first, or makes up for it. One that a pass needs room for does
    /// not wait.
    ///
    /// # Errors
    /// Those of the eviction.
    pub fn hold(&mut self, held: bool) -> Result<()> {
        self.held = held;
        if self.steps.is_empty() { self.settle() } else { Ok(()) }
    }
}
