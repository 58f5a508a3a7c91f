//! Towers to measure.

use crate::{cli::bench::noise::Noise, parts};
use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use clap::ValueEnum;
use spotter_engine::{
    model::llava_config::{HfLlavaConfig, LlavaConfig, VisionConfig},
    weights::read_json,
};
use spotter_vision::encoder::{
    TowerConfig, Trunk, clip, siglip,
    tosa::{Shape, TosaOptions},
};
use std::path::Path;

/// A tower to measure; its weights are noise, which times do not depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Size {
    /// The tower of the model that ships, or of `--model`
    Mini,
    /// CLIP ViT-L/14 at 336 pixels
    #[value(name = "clip-l-336")]
    ClipL336,
    /// SigLIP so400m/14 at 384 pixels
    #[value(name = "so400m")]
    So400m,
}

/// A tower with noise for weights, and how it would skip tokens.
pub(super) struct Setup {
    pub(super) name: String,
    pub(super) tower: Box<dyn Trunk>,
    pub(super) shape: Shape,
    /// Layers, kernel and score as the model has them.
    pub(super) options: TosaOptions,
    vision: VisionConfig,
    vb: VarBuilder<'static>,
}

impl Setup {
    pub(super) fn new(size: Size, model: Option<&Path>, dtype: DType, device: &Device) -> Result<Self> {
        let (vision, depth) = config(size, model)?;
        let vb = VarBuilder::from_backend(Box::new(Noise), dtype, device.clone());
        let options = vision.tosa().cloned().unwrap_or_default();
        let vision = vision.with_tosa(None);
        let tower = vision.build(depth, vb.clone())?;
        let name = size.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned());
        Ok(Self { name, tower, shape: shape(&vision, depth), options, vision, vb })
    }

    /// Where selectors are read.
    pub(super) fn selectors(&self) -> VarBuilder<'static> {
        self.vb.pp(self.vision.layers())
    }

    /// A batch of noise.
    pub(super) fn input(&self, batch: usize) -> Result<Tensor> {
        let (device, side) = (self.vb.device(), self.vision.image_size());
        let noise = match &self.vision {
            VisionConfig::Spotter(cfg) => {
                Tensor::rand(0f32, 1f32, (batch, cfg.patches(), cfg.patch_size.pow(2) * 3), device)?
            }
            VisionConfig::Clip(_) | VisionConfig::Siglip(_) | VisionConfig::SiglipHead(_) => {
                Tensor::rand(-1f32, 1f32, (batch, 3, side, side), device)?
            }
        };
        Ok(noise.to_dtype(self.vb.dtype())?)
    }
}

/// A tower's numbers and the layers that are run.
fn config(size: Size, model: Option<&Path>) -> Result<(VisionConfig, usize)> {
    Ok(match size {
        Size::Mini => {
            let hf: HfLlavaConfig = read_json(&parts::model_folder(model)?.join("config.json"))?;
            let config = LlavaConfig::from_hf(&hf)?;
            (config.vision, config.vision_depth)
        }
        Size::ClipL336 => {
            let cfg = TowerConfig {
                hidden_size: 1024,
                intermediate_size: 4096,
                num_hidden_layers: 24,
                num_attention_heads: 16,
                image_size: 336,
                patch_size: 14,
                ..clip::default_config()
            };
            // LLaVA reads the last layer but one.
            (VisionConfig::Clip(cfg), 23)
        }
        Size::So400m => {
            let cfg = TowerConfig {
                hidden_size: 1152,
                intermediate_size: 4304,
                num_hidden_layers: 27,
                num_attention_heads: 16,
                image_size: 384,
                patch_size: 14,
                ..siglip::default_config()
            };
            (VisionConfig::Siglip(cfg), 26)
        }
    })
}

fn shape(vision: &VisionConfig, depth: usize) -> Shape {
    let (patches, patch, mlp, heads) = match vision {
        VisionConfig::Clip(c) | VisionConfig::Siglip(c) | VisionConfig::SiglipHead(c) => {
            (c.patches(), c.patch_size, c.intermediate_size, c.num_attention_heads)
        }
        VisionConfig::Spotter(c) => (c.patches(), c.patch_size, c.intermediate_size, c.num_attention_heads),
    };
    Shape {
        tokens: (patches + usize::from(vision.has_class_token())) as u64,
        patches: patches as u64,
        patch_numbers: (3 * patch * patch) as u64,
        width: vision.hidden_size() as u64,
        mlp: mlp as u64,
        heads: heads as u64,
        depth,
    }
}
