//! What a policy is to the cache: a score for every entry.

use super::{
    attentive::{H2o, SnapKv, Tova},
    caote::Caote,
    keydiff::KeyDiff,
    options::{Base, CacheOptions, Policy},
};
use candle_core::{DType, Device, Result, Tensor};
use std::fmt::Debug;

/// What a scorer must be shown of the passes before an eviction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// So many of the newest queries.
    pub queries: usize,
    /// The attention that each entry received, summed over all queries.
    pub mass: bool,
}

/// The entries of one layer at an eviction. Every slot holds one: what a step that was undone or an eviction left behind
/// lies beyond them and is not shown.
#[derive(Clone, Copy, Debug)]
pub struct Entries<'a> {
    /// Number of the layer.
    pub layer: usize,
    /// Positions that the stream has had: a clock that no eviction turns back.
    pub seen: u64,
    /// `[heads, n, dim]`, rotated, any strides.
    pub keys: &'a Tensor,
    /// `[heads, n, dim]`, any strides.
    pub values: &'a Tensor,
    /// Where watched, the newest queries, oldest first: `[heads, group, w, dim]`, rotated.
    pub queries: Option<&'a Tensor>,
    /// What those queries may see, `[heads, w, n]`: 0 or minus infinity; `None` where all see all.
    pub hidden: Option<&'a Tensor>,
    /// Where watched, attention received: `[heads, group, n]`, f32.
    pub mass: Option<&'a Tensor>,
}

/// Scores entries; the cache keeps those of the largest scores.
pub trait Scorer: Debug + Send + Sync {
    /// What it must be shown.
    fn watch(&self) -> Watch {
        Watch::default()
    }

    /// Scores `[heads, n]` in f32.
    ///
    /// # Errors
    /// When something it watches is missing, or of the device.
    fn scores(&self, entries: &Entries) -> Result<Tensor>;
}

/// Attention weights per query head, for CAOTE.
pub(crate) trait Weights: Debug + Send + Sync {
    /// See [`Scorer::watch`].
    fn watch(&self) -> Watch;

    /// `[heads, group, n]`, f32, not negative, each row summing to 1.
    fn weights(&self, entries: &Entries) -> Result<Tensor>;
}

/// The scorer of a policy; `None` for [`Policy::None`].
pub fn scorer(options: &CacheOptions) -> Option<Box<dyn Scorer>> {
    let base = |base: Base| -> Box<dyn Weights> {
        match base {
            Base::KeyDiff => Box::new(KeyDiff { anchor: options.anchor }),
            Base::H2o => Box::new(H2o),
            Base::Tova => Box::new(Tova),
            Base::SnapKv => Box::new(SnapKv { observe: options.observe }),
        }
    };
    Some(match options.policy {
        Policy::None => return None,
        Policy::Window => Box::new(Newest),
        Policy::Random => Box::new(Random { seed: options.seed }),
        Policy::KeyDiff => Box::new(KeyDiff { anchor: options.anchor }),
        Policy::H2o => Box::new(H2o),
        Policy::Tova => Box::new(Tova),
        Policy::SnapKv => Box::new(SnapKv { observe: options.observe }),
        Policy::Caote(b) => Box::new(Caote { base: base(b), fast: false }),
        Policy::FastCaote(b) => Box::new(Caote { base: base(b), fast: true }),
    })
}

/// The newer, the better: a sliding window.
#[derive(Debug)]
pub struct Newest;

impl Scorer for Newest {
    fn scores(&self, entries: &Entries) -> Result<Tensor> {
        let (heads, n, _) = entries.keys.dims3()?;
        Tensor::arange(0f32, n as f32, &Device::Cpu)?.broadcast_as((heads, n))?.contiguous()
    }
}

/// By chance, drawn anew at each eviction from the seed and the clock.
#[derive(Debug)]
pub struct Random {
    /// Seed.
    pub seed: u64,
}

impl Scorer for Random {
    fn scores(&self, entries: &Entries) -> Result<Tensor> {
        let (heads, n, _) = entries.keys.dims3()?;
        let start = mix(mix(self.seed, entries.seen), entries.layer as u64);
        // 24 bits are exact in f32.
        let draws = (0..(heads * n) as u64).map(|i| (mix(start, i) >> 40) as f32);
        Tensor::from_iter(draws, &Device::Cpu)?.reshape((heads, n))
    }
}

/// A number that looks drawn by chance (the finaliser of SplitMix64).
fn mix(a: u64, b: u64) -> u64 {
    let mut z = a.wrapping_add(b.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// `x` in f32.
pub(crate) fn wide(x: &Tensor) -> Result<Tensor> {
    if x.dtype() == DType::F32 { Ok(x.clone()) } else { x.to_dtype(DType::F32) }
}
