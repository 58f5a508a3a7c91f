//! SigLIP's vision tower ("Sigmoid Loss for Language Image Pre-Training", Zhai et al. 2023), with the names of the
//! Hugging Face checkpoints. It has no class token, and LLaVA does not use its pooling head.

use super::tosa::{Memory, Tosa};
use super::tower::{Activation, Layers, PatchEmbedding, TensorSpec, TowerConfig, VisionTower, add_positions};
use candle_core::{Result, Tensor};
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
    }
}

/// The tower up to a layer.
#[derive(Clone, Debug)]
pub struct Siglip {
    patches: PatchEmbedding,
    positions: Tensor,
    layers: Layers,
    tosa: Option<Tosa>,
    config: TowerConfig,
}

impl Siglip {
    /// Runs `depth` layers (see [`TowerConfig::depth`]); tensors `embeddings.*` and `encoder.layers.*` under `vb`.
    pub fn new(cfg: &TowerConfig, depth: usize, vb: VarBuilder) -> Result<Self> {
        let embeddings = vb.pp("embeddings");
        Ok(Self {
            patches: PatchEmbedding::new(cfg, true, embeddings.pp("patch_embedding"))?,
            positions: embeddings.pp("position_embedding").get((cfg.patches(), cfg.hidden_size), "weight")?,
            layers: Layers::new(cfg, depth, vb.pp("encoder").pp("layers"))?,
            tosa: None,
            config: cfg.clone(),
        })
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

impl VisionTower for Siglip {
    fn follow(&self, pixels: &Tensor, memory: Option<&mut Memory>) -> Result<Tensor> {
        let tokens = add_positions(&self.patches.forward(pixels)?, &self.positions)?;
        self.layers.forward(&tokens.contiguous()?, self.tosa.as_ref(), memory)
    }

    fn set_tosa(&mut self, tosa: Option<Tosa>) {
        self.tosa = tosa;
    }

    fn has_class_token(&self) -> bool {
        false
    }

    fn config(&self) -> &TowerConfig {
        &self.config
    }
}
