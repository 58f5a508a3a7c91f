//! CLIP's vision tower ("Learning Transferable Visual Models From Natural Language Supervision", Radford et al. 2021),
//! with the names of the Hugging Face checkpoints.

use super::{
    tosa::{Block, Tosa},
    tower::{Activation, LayerNorm, Layers, PatchEmbedding, TensorSpec, TowerConfig, add_positions},
    trunk::Trunk,
};
use candle_core::{Device, Result, Tensor};
use candle_nn::VarBuilder;

/// What a `vision_config` leaves out: the base tower, ViT-B/32 at 224 pixels.
pub fn default_config() -> TowerConfig {
    TowerConfig {
        hidden_size: 768,
        intermediate_size: 3072,
        num_hidden_layers: 12,
        num_attention_heads: 12,
        image_size: 224,
        patch_size: 32,
        num_channels: 3,
        hidden_act: Activation::QuickGelu,
        layer_norm_eps: 1e-5,
        tosa: None,
    }
}

/// The tower up to a layer: a class token, then the patches.
#[derive(Clone, Debug)]
pub struct Clip {
    class: Tensor,
    patches: PatchEmbedding,
    positions: Tensor,
    norm: LayerNorm,
    layers: Layers,
    tosa: Option<Tosa>,
    device: Device,
}

impl Clip {
    /// Runs `depth` layers (see [`TowerConfig::depth`]); tensors `embeddings.*`, `pre_layrnorm`, `encoder.layers.*`
    /// under `vb`.
    pub fn new(cfg: &TowerConfig, depth: usize, vb: VarBuilder) -> Result<Self> {
        let embeddings = vb.pp("embeddings");
        Ok(Self {
            class: embeddings.get(cfg.hidden_size, "class_embedding")?,
            patches: PatchEmbedding::new(cfg, false, embeddings.pp("patch_embedding"))?,
            positions: embeddings.pp("position_embedding").get((cfg.patches() + 1, cfg.hidden_size), "weight")?,
            norm: LayerNorm::new(cfg, vb.pp("pre_layrnorm"))?, // spelled so in every checkpoint
            layers: Layers::new(cfg, depth, vb.pp("encoder").pp("layers"))?,
            tosa: Layers::tosa(cfg, depth, 1, &vb.pp("encoder").pp("layers"))?,
            device: vb.device().clone(),
        })
    }

    /// What [`Self::new`] reads; `prefix` ends in a dot or is empty.
    pub fn tensors(cfg: &TowerConfig, depth: usize, prefix: &str) -> Vec<TensorSpec> {
        let (w, p) = (cfg.hidden_size, cfg.patch_size);
        let mut all = vec![
            TensorSpec::new(prefix, "embeddings.class_embedding", &[w]),
            TensorSpec::new(prefix, "embeddings.patch_embedding.weight", &[w, cfg.num_channels, p, p]),
            TensorSpec::new(prefix, "embeddings.position_embedding.weight", &[cfg.patches() + 1, w]),
            TensorSpec::new(prefix, "pre_layrnorm.weight", &[w]),
            TensorSpec::new(prefix, "pre_layrnorm.bias", &[w]),
        ];
        all.extend(Layers::tensors(cfg, depth, &format!("{prefix}encoder.layers.")));
        all
    }
}

impl Trunk for Clip {
    fn embed(&self, pixels: &Tensor) -> Result<Tensor> {
        let patches = self.patches.forward(pixels)?;
        let (b, _, width) = patches.dims3()?;
        let class = self.class.reshape((1, 1, width))?.expand((b, 1, width))?;
        let tokens = add_positions(&Tensor::cat(&[&class, &patches], 1)?, &self.positions)?;
        self.norm.forward(&tokens.contiguous()?)
    }

    fn blocks(&self) -> Vec<&dyn Block> {
        self.layers.blocks()
    }

    fn finish(&self, tokens: &Tensor) -> Result<Tensor> {
        Ok(tokens.clone())
    }

    fn has_class_token(&self) -> bool {
        true
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
