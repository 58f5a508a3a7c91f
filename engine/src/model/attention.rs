//! Causal self-attention with rotary positions and grouped key heads.

#[cfg(feature = "cuda")]
use super::layers::Weight;
use super::{
    attend::{Attended, FEW, Look, attend},
    batch::LayerBatch,
    cache::{LayerCache, Visible, scorer::Watch},
    config::DecoderConfig,
    few::softened,
    fused::{Heads, turned},
    layers::{INIT_STD, Linear, Mode, RopeRows},
};
use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use spotter_vision::nn;

/// What a pass over some positions shares between its layers.
pub(crate) struct Pass {
    /// Rotations of the new positions.
    pub(crate) rope: RopeRows,
    /// Added to the scores, `[n, seen]`; `None` where every new position sees all.
    pub(crate) mask: Option<Tensor>,
    /// Entries in the cache before this pass.
    pub(crate) len: usize,
    /// Positions of the new columns, where there is a cache.
    pub(crate) positions: Vec<u32>,
    /// Slots of the cache are positions.
    pub(crate) contiguous: bool,
}

/// Attention of one layer.
#[derive(Clone, Debug)]
pub struct Attention {
    input: Input,
    out: Linear,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    window: Option<usize>,
    /// On the queries, so that products over the root of `head_dim` are what the model asks for; nothing where it asks
    /// for just that.
    sharpen: Option<f64>,
    mode: Mode,
}

#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "a model has few of them, one a layer")]
enum Input {
    /// q, k and v in one product.
    Joined(Linear),
    Apart {
        q: Linear,
        k: Linear,
        v: Linear,
    },
}

impl Attention {
    /// Tensors `q_proj`, `k_proj`, `v_proj` and `o_proj` under `vb`.
    pub fn new(cfg: &DecoderConfig, vb: VarBuilder, mode: Mode) -> Result<Self> {
        let parts = [("q_proj", cfg.heads), ("k_proj", cfg.kv_heads), ("v_proj", cfg.kv_heads)];
        let [q, k, v] = parts.map(|(name, heads)| (name, heads * cfg.head_dim));
        let part = |(name, output): (&str, usize)| Linear::new(cfg.width, output, cfg.qkv_bias, INIT_STD, vb.pp(name));
        let input = match mode {
            Mode::Infer => Input::Joined(Linear::joined(cfg.width, &[q, k, v], cfg.qkv_bias, false, &vb)?),
            Mode::Train => Input::Apart { q: part(q)?, k: part(k)?, v: part(v)? },
        };
        let std = INIT_STD / (2.0 * cfg.layers as f64).sqrt();
        let out = Linear::new(cfg.heads * cfg.head_dim, cfg.width, cfg.out_bias, std, vb.pp("o_proj"))?;
        Ok(Self {
            input,
            out,
            heads: cfg.heads,
            kv_heads: cfg.kv_heads,
            head_dim: cfg.head_dim,
            window: cfg.window,
            sharpen: sharpening(cfg),
            mode,
        })
    }

    /// The map to q, k and v side by side, and the one behind attention; nothing where they are apart.
    #[cfg(feature = "cuda")]
    pub(super) fn joined(&self) -> Option<[(&Weight, Option<&Tensor>); 2]> {
        match &self.input {
            Input::Joined(input) => Some([input.parts()?, self.out.parts()?]),
            Input::Apart { .. } => None,
        }
    }

    /// q `[b, n, heads, head_dim]`, k and v `[b, n, kv_heads, head_dim]`.
    fn project(&self, x: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
        let (b, n, _) = x.dims3()?;
        let (q, k, v) = match &self.input {
            Input::Apart { q, k, v } => (q.forward(x)?, k.forward(x)?, v.forward(x)?),
            Input::Joined(linear) => {
                let all = linear.forward(x)?;
                let (wide, narrow) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
                (
                    all.narrow(D::Minus1, 0, wide)?,
                    all.narrow(D::Minus1, wide, narrow)?,
                    all.narrow(D::Minus1, wide + narrow, narrow)?,
                )
            }
        };
        let split = |t: Tensor, heads: usize| t.contiguous()?.reshape((b, n, heads, self.head_dim));
        let q = match self.sharpen {
            Some(factor) => (q * factor)?,
            None => q,
        };
        Ok((split(q, self.heads)?, split(k, self.kv_heads)?, split(v, self.kv_heads)?))
    }

    /// `x [b, n, width]` to the same shape.
    pub(crate) fn forward(&self, x: &Tensor, pass: &Pass, mut cache: Option<&mut LayerCache>) -> Result<Tensor> {
        let (b, n, _) = x.dims3()?;
        let group = self.heads / self.kv_heads;
        let watched = cache.as_ref().is_some_and(|cache| cache.watch() != Watch::default());
        if let (Some(cache), Input::Joined(linear), 1, 1..=FEW) = (&mut cache, &self.input, b, n)
            && linear.is_packed()
            && (self.window.is_none() || (pass.contiguous && !watched))
        {
            return self.forward_few(&linear.forward(x)?, pass, cache);
        }
        let (q, k, v) = self.project(x)?;
        // The query heads of one key head become rows of the same product, so keys are never repeated.
        let q = by_head(&pass.rope.apply(&q)?)?.reshape((b * self.kv_heads, group * n, self.head_dim))?;
        let k = by_head(&pass.rope.apply(&k)?)?.reshape((b * self.kv_heads, n, self.head_dim))?;
        let v = by_head(&v)?.reshape((b * self.kv_heads, n, self.head_dim))?;
        let (mut k, mut v) = match &cache {
            Some(cache) => cache.append(&k, &v, pass.len)?,
            None => (k, v),
        };
        let mut seen = k.dim(1)?;
        // A watched cache needs a weight for every slot, so there the window becomes a mask.
        let masked = cache.is_some() && (watched || !pass.contiguous);
        if let (1, false, Some(window)) = (n, masked, self.window.filter(|w| *w < seen)) {
            (k, v) = (k.narrow(1, seen - window, window)?, v.narrow(1, seen - window, window)?);
            seen = window;
        }
        if self.mode == Mode::Train && cache.is_none() && self.window.is_none() && group == 1 && q.dtype() == DType::F32
        {
            // Scale, mask and softmax in one pass, which halves the time of a training step.
            return self.finish(&nn::attention(&q, &k, &v, 1.0 / (self.head_dim as f32).sqrt(), true)?, b, n);
        }
        let mut scores = ((&q * (1.0 / (self.head_dim as f64).sqrt()))?).matmul(&k.t()?)?;
        let apart = |scores: Tensor| scores.reshape((b * self.kv_heads, group, n, seen));
        let together = |scores: Tensor| scores.reshape((b * self.kv_heads, group * n, seen));
        if let (Some(cache), Some(_), true) = (&cache, self.window, masked) {
            let mask = self.own_window(cache, pass, n)?.to_dtype(q.dtype())?;
            scores = together(apart(scores)?.broadcast_add(&mask)?)?;
        }
        let weights = self.masked_softmax(scores, pass.mask.as_ref(), n)?;
        if let (Some(cache), true) = (&mut cache, watched) {
            let queries = q.reshape((self.kv_heads, group, n, self.head_dim))?;
            cache.observe(pass.len, &pass.positions, &queries, &apart(weights.clone())?)?;
        }
        self.finish(&weights.matmul(&v)?, b, n)
    }

    /// The same for a few positions `all [1, n, q and k and v]` in few sweeps. A row's numbers do not depend on how many
    /// there are.
    fn forward_few(&self, all: &Tensor, pass: &Pass, cache: &mut LayerCache) -> Result<Tensor> {
        let (_, n, width) = all.dims3()?;
        let heads = Heads { queries: self.heads, keys: self.kv_heads, dim: self.head_dim };
        let all = turned(&all.reshape((n, width))?, &pass.rope, heads)?;
        let (q, k) = (all.narrow(0, 0, self.heads)?, all.narrow(0, self.heads, self.kv_heads)?);
        let v = all.narrow(0, self.heads + self.kv_heads, self.kv_heads)?;
        let (k, v) = cache.append(&k, &v, pass.len)?;
        let seen = k.dim(1)?;
        let factor = self.sharpen.unwrap_or(1.0);
        let look = Look {
            scale: (factor / (self.head_dim as f64).sqrt()) as f32,
            mask: pass.mask.as_ref(),
            hidden: self.window.map_or(0, |window| seen.saturating_sub(window)),
            weights: cache.watch() != Watch::default(),
        };
        let Attended { mixed, weights } = attend(&q, &k, &v, &look)?;
        if let Some(weights) = weights {
            let (kv, group) = (self.kv_heads, self.heads / self.kv_heads);
            let queries = (q * factor)?.reshape((kv, group, n, self.head_dim))?;
            cache.observe(pass.len, &pass.positions, &queries, &weights.reshape((kv, group, n, seen))?)?;
        }
        self.out.forward(&mixed.unsqueeze(0)?)
    }

    /// The same for sequences that grow together: `layer` holds `pass.len` entries of each. Scores are computed in its
    /// type, which may be a narrower one than that of the activations.
    pub(crate) fn forward_batch(&self, x: &Tensor, pass: &Pass, layer: &LayerBatch) -> Result<Tensor> {
        let (b, n, _) = x.dims3()?;
        let (group, rows) = (self.heads / self.kv_heads, b * self.kv_heads);
        let (q, k, v) = self.project(x)?;
        let q = (pass.rope.apply(&q)? * (1.0 / (self.head_dim as f64).sqrt()))?;
        let q = by_head(&q)?.reshape((rows, group * n, self.head_dim))?.to_dtype(layer.dtype())?;
        let k = by_head(&pass.rope.apply(&k)?)?.reshape((rows, n, self.head_dim))?;
        let v = by_head(&v)?.reshape((rows, n, self.head_dim))?;
        let (mut k, mut v) = layer.append(&k, &v, pass.len)?;
        let seen = pass.len + n;
        if let (1, Some(window)) = (n, self.window.filter(|w| *w < seen)) {
            (k, v) = (k.narrow(1, seen - window, window)?, v.narrow(1, seen - window, window)?);
        }
        let mixed = self.masked_softmax(q.matmul(&k.t()?)?, pass.mask.as_ref(), n)?.matmul(&v)?;
        self.finish(&mixed.to_dtype(x.dtype())?, b, n)
    }

    /// What the model's sliding window hides in a cache whose slots are not positions, `[kv_heads, 1, n, seen]`. Among
    /// the new columns themselves the mask of the pass decides.
    fn own_window(&self, cache: &LayerCache, pass: &Pass, n: usize) -> Result<Tensor> {
        let device = cache.entries(1)?.0.device().clone();
        let view = Visible { window: self.window, blind_see_all: false };
        let held = view.mask(cache, &pass.positions, pass.len, &device)?;
        let fresh = pass.positions.iter().flat_map(|query| {
            let first = self.window.map_or(0, |w| (*query as usize + 1).saturating_sub(w));
            pass.positions.iter().map(move |p| if (*p as usize) < first { f32::NEG_INFINITY } else { 0.0 })
        });
        let fresh = Tensor::from_iter(fresh, &device)?.reshape((1, n, n))?.broadcast_as((self.kv_heads, n, n))?;
        Tensor::cat(&[&held, &fresh.contiguous()?], 2)?.unsqueeze(1)
    }

    /// Mixed values `[b * kv_heads, group * n, head_dim]` to `[b, n, width]`.
    fn finish(&self, mixed: &Tensor, b: usize, n: usize) -> Result<Tensor> {
        let mixed = mixed.reshape((b, self.heads, n, self.head_dim))?;
        let mixed = if n == 1 { mixed } else { mixed.transpose(1, 2)?.contiguous()? };
        self.out.forward(&mixed.reshape((b, n, self.heads * self.head_dim))?)
    }

    /// Weights of `scores [.., group * n, seen]`, to which `mask [n, seen]` is added.
    fn masked_softmax(&self, scores: Tensor, mask: Option<&Tensor>, n: usize) -> Result<Tensor> {
        if let Some(weights) = softened(&scores, mask)? {
            return Ok(weights);
        }
        let Some(mask) = mask else { return self.softmax(&scores) };
        let (heads, rows, seen) = scores.dims3()?;
        let apart = scores.reshape((heads, rows / n, n, seen))?;
        let masked = apart.broadcast_add(&mask.to_dtype(scores.dtype())?)?;
        self.softmax(&masked.reshape((heads, rows, seen))?)
    }

    /// Over the last dimension, summed in f32.
    fn softmax(&self, scores: &Tensor) -> Result<Tensor> {
        let dtype = scores.dtype();
        let wide = if dtype == DType::F32 { scores.clone() } else { scores.to_dtype(DType::F32)? };
        let weights = match self.mode {
            Mode::Infer => candle_nn::ops::softmax_last_dim(&wide)?,
            Mode::Train => nn::softmax(&wide, 1.0, false)?,
        };
        if dtype == DType::F32 { Ok(weights) } else { weights.to_dtype(dtype) }
    }
}

/// What turns one over the root of `head_dim` into a model's own factor. It goes on the queries, so that everything that
/// computes attention again (cache policies) need not know it.
fn sharpening(cfg: &DecoderConfig) -> Option<f64> {
    let factor = cfg.multipliers.attention? * (cfg.head_dim as f64).sqrt();
    // Files round the root to six digits or so.
    ((factor - 1.0).abs() > 1e-6).then_some(factor)
}

/// `[b, n, heads, dim]` to contiguous `[b, heads, n, dim]`; free for a single position.
fn by_head(x: &Tensor) -> Result<Tensor> {
    let (b, n, heads, dim) = x.dims4()?;
    if n == 1 { x.reshape((b, heads, n, dim)) } else { x.transpose(1, 2)?.contiguous() }
}

/// What `n` new positions behind `len` others may see: 0 or minus infinity, `[n, len + n]`.
pub(crate) fn causal_mask(n: usize, len: usize, window: Option<usize>, device: &Device) -> Result<Option<Tensor>> {
    let total = len + n;
    if n == 1 {
        return Ok(None); // A window is cut out of the keys instead.
    }
    let rows = Tensor::arange(len as f32, total as f32, device)?.unsqueeze(1)?;
    let columns = Tensor::arange(0f32, total as f32, device)?.unsqueeze(0)?;
    let mut hidden = columns.broadcast_gt(&rows)?;
    if let Some(window) = window {
        let first = (rows - (window as f64 - 1.0))?;
        hidden = (hidden + columns.broadcast_lt(&first)?)?;
    }
    let minus_infinity = Tensor::full(f32::NEG_INFINITY, (n, total), device)?;
    let zero = Tensor::zeros((n, total), DType::F32, device)?;
    Ok(Some(hidden.where_cond(&minus_infinity, &zero)?))
}
