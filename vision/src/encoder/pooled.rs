//! What stands behind SigLIP's layers: the last norm, and a token for the whole picture, which one learned query draws from
//! all patches.

use super::tower::{Activation, LayerNorm, Linear, TensorSpec, TowerConfig};
use crate::nn;
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

/// The norm and the head of a checkpoint.
#[derive(Clone, Debug)]
pub(super) struct PoolingHead {
    last: LayerNorm,
    /// The query before its map, `[1, 1, width]`.
    probe: Tensor,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    act: Activation,
    heads: usize,
}

impl PoolingHead {
    /// Tensors `post_layernorm` and `head.*` under `vb`.
    pub(super) fn new(cfg: &TowerConfig, vb: &VarBuilder) -> Result<Self> {
        let (w, m, head) = (cfg.hidden_size, cfg.intermediate_size, vb.pp("head"));
        let attention = head.pp("attention");
        // Queries, keys and values lie below one another.
        let (weight, bias) = (attention.get((3 * w, w), "in_proj_weight")?, attention.get(3 * w, "in_proj_bias")?);
        let part = |i: usize| Linear::of(weight.narrow(0, i * w, w)?.contiguous()?, bias.narrow(0, i * w, w)?);
        Ok(Self {
            last: LayerNorm::new(cfg, vb.pp("post_layernorm"))?,
            probe: head.get((1, 1, w), "probe")?,
            q: part(0)?,
            k: part(1)?,
            v: part(2)?,
            out: Linear::new(w, w, attention.pp("out_proj"))?,
            norm: LayerNorm::new(cfg, head.pp("layernorm"))?,
            fc1: Linear::new(w, m, head.pp("mlp").pp("fc1"))?,
            fc2: Linear::new(m, w, head.pp("mlp").pp("fc2"))?,
            act: cfg.hidden_act,
            heads: cfg.num_attention_heads,
        })
    }

    /// `x [b, n, width]` of the last layer to the pooled token and the patches behind the norm, `[b, 1 + n, width]`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.last.forward(&x.contiguous()?)?;
        let (b, _, width) = x.dims3()?;
        let dim = width / self.heads;
        let split = |t: Tensor| {
            let n = t.dim(1)?;
            t.reshape((b, n, self.heads, dim))?.transpose(1, 2)?.contiguous()
        };
        let q = split(self.q.forward(&self.probe.expand((b, 1, width))?.contiguous()?)?)?;
        let (k, v) = (split(self.k.forward(&x)?)?, split(self.v.forward(&x)?)?);
        let mixed = nn::attention(&q, &k, &v, 1.0 / (dim as f32).sqrt(), false)?;
        let pooled = self.out.forward(&mixed.transpose(1, 2)?.contiguous()?.reshape((b, 1, width))?)?;
        let inner = self.act.forward(&self.fc1.forward(&self.norm.forward(&pooled)?)?)?;
        Tensor::cat(&[&(pooled + self.fc2.forward(&inner)?)?, &x], 1)
    }

    /// What [`Self::new`] reads; `prefix` ends in a dot or is empty.
    pub(super) fn tensors(cfg: &TowerConfig, prefix: &str) -> Vec<TensorSpec> {
        let (w, m) = (cfg.hidden_size, cfg.intermediate_size);
        let specs: [(&str, &[usize]); 13] = [
            ("post_layernorm.weight", &[w]),
            ("post_layernorm.bias", &[w]),
            ("head.probe", &[1, 1, w]),
            ("head.attention.in_proj_weight", &[3 * w, w]),
            ("head.attention.in_proj_bias", &[3 * w]),
            ("head.attention.out_proj.weight", &[w, w]),
            ("head.attention.out_proj.bias", &[w]),
            ("head.layernorm.weight", &[w]),
            ("head.layernorm.bias", &[w]),
            ("head.mlp.fc1.weight", &[m, w]),
            ("head.mlp.fc1.bias", &[m]),
            ("head.mlp.fc2.weight", &[w, m]),
            ("head.mlp.fc2.bias", &[w]),
        ];
        specs.iter().map(|(name, shape)| TensorSpec::new(prefix, name, shape)).collect()
    }
}
