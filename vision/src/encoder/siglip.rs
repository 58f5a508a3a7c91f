//! SigLIP's vision tower ("Sigmoid Loss for Language Image Pre-Training", Zhai et al. 2023), with the names of the
//! Hugging Face checkpoints. It has no class token; LLaVA does not use its pooling head, VideoLLM-online does.

use super::{
    pooled::PoolingHead,
    tosa::{Block, Tosa},
    tower::{Activation, Layers, PatchEmbedding, TensorSpec, TowerConfig, add_positions},
    trunk::Trunk,
};
use candle_core::{Device, Result, Tensor};
use candle_nn::VarBuilder;

/// What a `vision_config` leaves out: the base tower at 224 pixels.
pub fn default_config() -> TowerConfig {
    TowerConfig {
        hidden_size: 768,
        intermediate_size: 3072,
        num_hidden_layers: 12,
        num_attention_heads: 12,
        image_size: 224,
        patch_size: 16,
        num_channels: 3,
        hidden_act: Activation::GeluTanh,
        layer_norm_eps: 1e-6,
        tosa: None,
    }
}

/// The tower up to a layer.
#[derive(Clone, Debug)]
pub struct Siglip {
    patches: PatchEmbedding,
    positions: Tensor,
    layers: Layers,
    head: Option<PoolingHead>,
    tosa: Option<Tosa>,
    device: Device,
}

impl Siglip {
    /// Runs `depth` layers (see [`TowerConfig::depth`]); tensors `embeddings.*` and `encoder.layers.*` under `vb`.
    pub fn new(cfg: &TowerConfig, depth: usize, vb: VarBuilder) -> Result<Self> {
        let embeddings = vb.pp("embeddings");
        Ok(Self {
            patches: PatchEmbedding::new(cfg, true, embeddings.pp("patch_embedding"))?,
            positions: embeddings.pp("position_embedding").get((cfg.patches(), cfg.hidden_size), "weight")?,
            layers: Layers::new(cfg, depth, vb.pp("encoder").pp("layers"))?,
            head: None,
            tosa: Layers::tosa(cfg, depth, 0, &vb.pp("encoder").pp("layers"))?,
            device: vb.device().clone(),
        })
    }

    /// The whole tower: a token that its head makes of all patches comes before them, and both are behind the last norm;
    /// tensors `post_layernorm` and `head.*` as well.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn whole(cfg: &TowerConfig, vb: VarBuilder) -> Result<Self> {
        let head = Some(PoolingHead::new(cfg, &vb)?);
        Ok(Self { head, ..Self::new(cfg, cfg.num_hidden_layers, vb)? })
    }

    /// What [`Self::whole`] reads; `prefix` ends in a dot or is empty.
    pub fn whole_tensors(cfg: &TowerConfig, prefix: &str) -> Vec<TensorSpec> {
        let mut all = Self::tensors(cfg, cfg.num_hidden_layers, prefix);
        all.extend(PoolingHead::tensors(cfg, prefix));
        all
    }

    /// What [`Self::new`] reads; `prefix` ends in a dot or is empty.
    pub fn tensors(cfg: &TowerConfig, depth: usize, prefix: &str) -> Vec<TensorSpec> {
        let (w, p) = (cfg.hidden_size, cfg.patch_size);
        let mut all = vec![
            TensorSpec::new(prefix, "embeddings.patch_embedding.weight", &[w, cfg.num_channels, p, p]),
            TensorSpec::new(prefix, "embeddings.patch_embedding.bias", &[w]),
            TensorSpec::new(prefix, "embeddings.position_embedding.weight", &[cfg.patches(), w]),
        ];
        all.extend(Layers::tensors(cfg, depth, &format!("{prefix}encoder.layers.")));
        all
    }
}

impl Trunk for Siglip {
    fn embed(&self, pixels: &Tensor) -> Result<Tensor> {
        add_positions(&self.patches.forward(pixels)?, &self.positions)?.contiguous()
    }

    fn blocks(&self) -> Vec<&dyn Block> {
        self.layers.blocks()
    }

    fn finish(&self, tokens: &Tensor) -> Result<Tensor> {
        match &self.head {
            Some(head) => head.forward(tokens),
            None => Ok(tokens.clone()),
        }
    }

    fn has_class_token(&self) -> bool {
        false
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn tosa(&self) -> Option<&Tosa> {
        self.tosa.as_ref()
    }

    fn set_tosa(&mut self, tosa: Option<Tosa>) {
        self.tosa = tosa;
    }
}
