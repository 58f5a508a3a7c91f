//! Token selective attention (ToSA, arXiv 2406.08816): in some layers only the tokens that the next attention map would
//! look at are worked on; the others pass unchanged. The number of tokens that leave the encoder stays the same.
//!
//! The published mechanism is followed; what it leaves open is decided as in specs: tosa, sections 2 and 5. No figure of
//! the paper is claimed.

#[cfg(feature = "cuda")]
mod card;
mod macs;
mod memory;
mod places;
mod rank;
mod selector;
#[cfg(test)]
mod tests;

pub use macs::{Cost, Shape};
pub use memory::Memory;
pub(crate) use places::Places;
pub use rank::{Ranking, Score, choose, keep, top};
pub use selector::Selector;

use crate::{encoder::TensorSpec, nn};
use candle_core::{DType, Result, Tensor, bail};
use candle_nn::VarBuilder;
use rank::Draw;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Keys and values `[b, heads, m, width]` on their way to attention, and what is attended to in their place.
pub type Join<'a> = &'a mut dyn FnMut(Tensor, Tensor) -> Result<(Tensor, Tensor)>;

/// A transformer layer that tokens may skip. Tokens are `[b, n, d]`, contiguous.
pub trait Block {
    /// Attention heads.
    fn heads(&self) -> usize;

    /// Products of queries and keys over the root of the head's width, before softmax: `[b, heads, n, n]`.
    ///
    /// # Errors
    /// Those of the device.
    fn scores(&self, x: &Tensor) -> Result<Tensor>;

    /// The layer with norm, attention, MLP and both residuals; its tokens attend to what `join` makes of their keys and values,
    /// which may be those of more tokens.
    ///
    /// # Errors
    /// Those of the device and of `join`.
    fn forward_joined(&self, x: &Tensor, join: Join<'_>) -> Result<Tensor>;

    /// The layer whose tokens attend to each other.
    ///
    /// # Errors
    /// Those of the device.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_joined(x, &mut |keys, values| Ok((keys, values)))
    }

    /// Both at once, without computing the products twice.
    ///
    /// # Errors
    /// Those of the device.
    fn forward_scored(&self, x: &Tensor) -> Result<(Tensor, Tensor)>;
}

/// How tokens are skipped; `tosa` in the configuration of a tower.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TosaOptions {
    /// Share of the tokens that are not protected which every selective layer works on, above 0, at most 1.
    pub ratio: f64,
    /// The selective layers; each stands behind a standard one. Left out, 1, 3, 5, ...
    pub layers: Option<Vec<usize>>,
    /// Keys that a selector looks at side by side: 1 or 3.
    pub kernel: usize,
    /// What a predicted map says of a token.
    pub score: Score,
    /// Tokens at the beginning that are always worked on: class and register tokens. Left out, the tower's class tokens.
    pub protected: Option<usize>,
    /// In a stream, give a skipped token the update that the layer last gave it, and prefer tokens that have changed since.
    /// Spotter's own step beyond the paper (see [`Memory`]); without it a skipped token passes unchanged.
    pub reuse: bool,
}

impl Default for TosaOptions {
    fn default() -> Self {
        Self { ratio: 0.7, layers: None, kernel: 1, score: Score::ColSum, protected: None, reuse: false }
    }
}

impl TosaOptions {
    /// The selective layers of a tower of `depth` layers.
    pub fn selective(&self, depth: usize) -> Vec<usize> {
        self.layers.clone().unwrap_or_else(|| (1..depth).step_by(2).collect())
    }

    /// The reason why no tower of `depth` layers can skip so, if so.
    pub fn problem(&self, depth: usize) -> Option<String> {
        if !(self.ratio > 0.0 && self.ratio <= 1.0) {
            return Some(format!("tosa.ratio: expected a number above 0 and at most 1, found {}", self.ratio));
        }
        if ![1, 3].contains(&self.kernel) {
            return Some(format!("tosa.kernel: expected 1 or 3, found {}", self.kernel));
        }
        let layers = self.selective(depth);
        let apart = layers.windows(2).all(|pair| pair[0] + 2 <= pair[1]);
        if layers.iter().any(|l| *l == 0 || *l >= depth) || !apart {
            return Some(format!(
                "tosa.layers: expected rising numbers from 1 to {}, no two of them neighbours, found {layers:?}",
                depth.saturating_sub(1)
            ));
        }
        None
    }
}

/// What skipping must know of a tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outline {
    /// Layers that are run.
    pub depth: usize,
    /// Attention heads.
    pub heads: usize,
    /// Class tokens before the patches.
    pub class_tokens: usize,
}

/// Token selective attention of a tower.
#[derive(Clone, Debug)]
pub struct Tosa {
    options: TosaOptions,
    ranking: Ranking,
    protected: usize,
    selectors: BTreeMap<usize, Selector>,
}

impl Tosa {
    /// Reads (or, for training, creates) the selectors of a tower: `{layer}.selector.*` under `vb`.
    ///
    /// # Errors
    /// Options that do not fit the tower, or missing weights.
    pub fn new(options: &TosaOptions, of: Outline, vb: &VarBuilder) -> Result<Self> {
        let mut this = Self::control(options, of, Ranking::Selector)?;
        let selector =
            |layer: usize| Ok((layer, Selector::new(of.heads, options.kernel, vb.pp(layer).pp("selector"))?));
        this.selectors = options.selective(of.depth).into_iter().map(selector).collect::<Result<_>>()?;
        Ok(this)
    }

    /// What [`Self::new`] reads; `prefix` ends in a dot.
    pub fn tensors(options: &TosaOptions, of: Outline, prefix: &str) -> Vec<TensorSpec> {
        let layers = options.selective(of.depth).into_iter();
        layers.flat_map(|i| Selector::tensors(of.heads, options.kernel, &format!("{prefix}{i}.selector."))).collect()
    }

    /// The same without selectors, for a ranking that asks none.
    ///
    /// # Errors
    /// Options that do not fit the tower.
    pub fn control(options: &TosaOptions, of: Outline, ranking: Ranking) -> Result<Self> {
        if let Some(problem) = options.problem(of.depth) {
            bail!("{problem}");
        }
        let protected = options.protected.unwrap_or(of.class_tokens);
        Ok(Self { options: options.clone(), ranking, protected, selectors: BTreeMap::new() })
    }

    /// The same layers and selectors, another share of the tokens, `reuse` and chooser: controls take the place of the
    /// selectors in measurements.
    pub fn varied(&self, ratio: f64, reuse: bool, ranking: Ranking) -> Self {
        Self { options: TosaOptions { ratio, reuse, ..self.options.clone() }, ranking, ..self.clone() }
    }

    /// How.
    pub fn options(&self) -> &TosaOptions {
        &self.options
    }

    /// Who chooses.
    pub fn ranking(&self) -> Ranking {
        self.ranking
    }

    /// Tokens at the beginning that are always worked on.
    pub fn protected(&self) -> usize {
        self.protected
    }

    /// Tokens that selective layers work on of `n`.
    pub fn kept(&self, n: usize) -> usize {
        keep(self.options.ratio, n, self.protected)
    }

    /// The selectors by the layer they choose for.
    pub fn selectors(&self) -> &BTreeMap<usize, Selector> {
        &self.selectors
    }

    /// For each picture the tokens that a layer works on. `x` is its input, `changed` how far each token is from
    /// where it was when the layer last worked on it.
    fn choose(&self, at: At<'_>, x: &Tensor, changed: Option<&[Vec<f32>]>) -> Result<Places> {
        let (b, n, _) = x.dims3()?;
        #[cfg(feature = "cuda")]
        if let (Ranking::Selector, Score::ColSum, None) = (self.ranking, self.options.score, changed)
            && at.before.device().is_cuda()
            && !x.track_op()
            && let Some(selector) = self.selectors.get(&at.layer)
        {
            return Places::top(&selector.column_sums(at.before)?, self.kept(n), self.protected);
        }
        Places::new(b, n, &self.listed(at, x, changed)?)
    }

    /// The same, rising, as lists.
    fn listed(&self, at: At<'_>, x: &Tensor, changed: Option<&[Vec<f32>]>) -> Result<Vec<Vec<u32>>> {
        let (n, p) = (x.dim(1)?, self.protected);
        let k = self.kept(n);
        let At { layer: index, before, .. } = at;
        let map = match self.ranking {
            Ranking::Random(seed) => {
                return Ok(Draw { seed, frame: at.frame, layer: index }.tokens(x.dim(0)?, n, k, p));
            }
            Ranking::Change => {
                let Some(changed) = changed else { bail!("change ranks tokens only in a stream with `reuse`") };
                return Ok(changed.iter().map(|c| top(c, k, p)).collect());
            }
            Ranking::Selector => {
                let Some(selector) = self.selectors.get(&index) else { bail!("layer {index} has no selector") };
                if self.options.score == Score::ColSum {
                    let scores = selector.column_sums(before)?.to_vec2()?;
                    return Ok(rank::choose(scores, changed, k, p));
                }
                selector.map(before)?
            }
            Ranking::Oracle => nn::softmax(&at.block.scores(x)?.detach().to_dtype(DType::F32)?, 1.0, false)?,
            Ranking::Previous => nn::softmax(&before.detach().to_dtype(DType::F32)?, 1.0, false)?,
        };
        Ok(rank::choose(self.options.score.tokens(&map)?, changed, k, p))
    }
}

/// A selective layer in its place.
#[derive(Clone, Copy)]
struct At<'a> {
    block: &'a dyn Block,
    layer: usize,
    /// Products of the layer before it.
    before: &'a Tensor,
    /// Number of the frame in its stream.
    frame: u64,
}

/// Runs layers over tokens `[b, n, d]`; with `tosa` its layers skip tokens. `memory` hears which, and carries from frame to
/// frame what `reuse` needs.
///
/// # Errors
/// Those of the device.
pub fn run(layers: &[&dyn Block], x: &Tensor, tosa: Option<&Tosa>, mut memory: Option<&mut Memory>) -> Result<Tensor> {
    let n = x.dim(1)?;
    let frame = memory.as_deref_mut().map_or(0, Memory::begin);
    // Where every token is kept, the dense model is run, bit for bit.
    let tosa = tosa.filter(|t| t.kept(n) < n);
    let selective = tosa.map(|t| t.options.selective(layers.len())).unwrap_or_default();
    let (mut x, mut before) = (x.clone(), None);
    for (index, layer) in layers.iter().enumerate() {
        if let (Some(tosa), Some(scores)) = (tosa, before.take()) {
            let at = At { block: *layer, layer: index, before: &scores, frame };
            x = skip(tosa, at, &x, memory.as_deref_mut())?;
        } else if selective.contains(&(index + 1)) {
            // Only a layer that a selective one follows has to show its products.
            let (next, scores) = layer.forward_scored(&x)?;
            (x, before) = (next, Some(scores));
        } else {
            x = layer.forward(&x)?;
        }
    }
    Ok(x)
}

/// A selective layer.
fn skip(tosa: &Tosa, at: At<'_>, x: &Tensor, memory: Option<&mut Memory>) -> Result<Tensor> {
    let (block, index) = (at.block, at.layer);
    let Some(memory) = memory else { return tosa.choose(at, x, None)?.work(block, x) };
    if !tosa.options.reuse {
        let places = tosa.choose(at, x, None)?;
        let y = places.work(block, x)?;
        memory.worked.insert(index, places);
        return Ok(y);
    }
    // The first frame of a stream is seen whole.
    let Some(changed) = memory.changed(index, x)? else { return memory.first(index, block, x) };
    let places = tosa.choose(at, x, Some(&changed))?;
    memory.selectively(index, block, x, places)
}

/// The layer over the chosen tokens of each picture alone; the others stay as they are, bit for bit, in their places.
///
/// # Errors
/// Pictures with different numbers of tokens, a token that is not there, or those of the device.
pub fn selectively(layer: &dyn Block, x: &Tensor, chosen: &[Vec<u32>]) -> Result<Tensor> {
    let (b, n, _) = x.dims3()?;
    Places::new(b, n, chosen)?.work(layer, x)
}
