//! `spotter bench tosa`: what skipping tokens saves an encoder.

use super::{noise::Noise, quantile};
use crate::{cli::print_json, parts};
use anyhow::{Context as _, Result};
use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use clap::{Args, ValueEnum};
use serde::Serialize;
use spotter_vision::encoder::{
    TowerConfig, VisionTower as _,
    clip::{self, Clip},
    siglip::{self, Siglip},
    tosa::{Ranking, Shape, Tosa, TosaOptions},
    vit::{Vit, VitConfig},
};
use std::{io::Write as _, time::Instant};

/// A tower to measure; its weights are noise, which times do not depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Size {
    /// The tower of the model that ships
    Mini,
    /// CLIP ViT-L/14 at 336 pixels
    #[value(name = "clip-l-336")]
    ClipL336,
    /// SigLIP so400m/14 at 384 pixels
    #[value(name = "so400m")]
    So400m,
}

/// Measure what token selective attention saves an encoder
#[derive(Debug, Args)]
#[command(
    after_help = "Dense, ToSA and as many tokens by chance take turns in one run, so that their ratios do not depend on what else \
                        the machine does. MACs are counted, times are medians of one batch."
)]
pub(super) struct TosaArgs {
    /// Towers to measure
    #[arg(long, value_enum, value_delimiter = ',', default_value = "mini")]
    size: Vec<Size>,
    /// Shares of the tokens that selective layers work on
    #[arg(long, value_name = "RATIO", value_delimiter = ',', default_value = "0.9,0.8,0.7,0.5,0.3", value_parser = ratio)]
    ratio: Vec<f64>,
    /// Pictures in a batch
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    batch: u16,
    /// Times each is measured
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..=1000))]
    repeats: u16,
    /// One JSON object a row: size, ratio, kept, tokens, macs, dense_macs, dense_ms, tosa_ms, random_ms, speedup
    #[arg(long)]
    json: bool,
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if ratio > 0.0 && ratio <= 1.0 { Ok(ratio) } else { Err(format!("{ratio}: expected above 0 and at most 1")) }
}

/// One row of the table.
#[derive(Debug, Serialize)]
struct Row {
    size: String,
    ratio: f64,
    tokens: u64,
    macs: u64,
    dense_macs: u64,
    dense_ms: f64,
    tosa_ms: f64,
    random_ms: f64,
    /// Dense over ToSA.
    speedup: f64,
}

/// A tower of any kind with a batch for it.
enum Tower {
    Vit(Box<Vit>),
    Clip(Box<Clip>),
    Siglip(Box<Siglip>),
}

impl Tower {
    fn set(&mut self, tosa: Option<Tosa>) {
        match self {
            Self::Vit(t) => t.set_tosa(tosa),
            Self::Clip(t) => t.set_tosa(tosa),
            Self::Siglip(t) => t.set_tosa(tosa),
        }
    }

    fn run(&self, input: &Tensor) -> Result<()> {
        let out = match self {
            Self::Vit(t) => t.forward(input),
            Self::Clip(t) => t.forward(input),
            Self::Siglip(t) => t.forward(input),
        }?;
        // On a card, wait for it.
        out.flatten_all()?.narrow(0, 0, 1)?.to_vec1::<f32>()?;
        Ok(())
    }
}

fn tower_shape(cfg: &TowerConfig, depth: usize, class: u64) -> Shape {
    Shape {
        tokens: cfg.patches() as u64 + class,
        patches: cfg.patches() as u64,
        patch_numbers: (3 * cfg.patch_size * cfg.patch_size) as u64,
        width: cfg.hidden_size as u64,
        mlp: cfg.intermediate_size as u64,
        heads: cfg.num_attention_heads as u64,
        depth,
    }
}

/// Tower, a batch for it, its shape and the number of its protected tokens.
fn build(size: Size, batch: usize) -> Result<(Tower, Tensor, Shape, usize)> {
    let device = parts::device();
    let vb = VarBuilder::from_backend(Box::new(Noise), DType::F32, device.clone());
    let pictures = |side: usize| Tensor::rand(-1f32, 1f32, (batch, 3, side, side), &device);
    Ok(match size {
        Size::Mini => {
            let folder = parts::model_folder(None)?;
            let text = std::fs::read_to_string(folder.join("config.json"))?;
            let json: serde_json::Value = serde_json::from_str(&text)?;
            let config = json.get("vision_config").cloned().context("config.json: vision_config is missing")?;
            let config = VitConfig { tosa: None, ..serde_json::from_value(config)? };
            let numbers = config.patch_size * config.patch_size * 3;
            let shape = Shape {
                tokens: config.patches() as u64 + 1,
                patches: config.patches() as u64,
                patch_numbers: numbers as u64,
                width: config.hidden_size as u64,
                mlp: config.intermediate_size as u64,
                heads: config.num_attention_heads as u64,
                depth: config.num_hidden_layers,
            };
            let input = Tensor::rand(0f32, 1f32, (batch, config.patches(), numbers), &device)?;
            (Tower::Vit(Box::new(Vit::new(&config, vb)?)), input, shape, 1)
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
            let tower = Clip::new(&cfg, 23, vb)?;
            (Tower::Clip(Box::new(tower)), pictures(336)?, tower_shape(&cfg, 23, 1), 1)
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
            let tower = Siglip::new(&cfg, 26, vb)?;
            (Tower::Siglip(Box::new(tower)), pictures(384)?, tower_shape(&cfg, 26, 0), 0)
        }
    })
}

/// Runs the command.
pub(super) fn run(args: &TosaArgs) -> Result<()> {
    for size in &args.size {
        let name = size.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned());
        let (mut tower, input, shape, protected) = build(*size, usize::from(args.batch))?;
        let vb = VarBuilder::from_backend(Box::new(Noise), DType::F32, input.device().clone());
        tower.run(&input)?;
        for ratio in &args.ratio {
            let options = TosaOptions { ratio: *ratio, protected, ..TosaOptions::default() };
            let ways = [
                None,
                Some(Tosa::new(&options, shape.depth, shape.heads as usize, &vb)?),
                Some(Tosa::control(&options, shape.depth, Ranking::Random(1))?),
            ];
            let mut times = [const { Vec::new() }; 3];
            for _ in 0..args.repeats {
                for (way, times) in ways.iter().zip(&mut times) {
                    tower.set(way.clone());
                    let begun = Instant::now();
                    tower.run(&input)?;
                    times.push(begun.elapsed().as_secs_f64() * 1e3);
                }
            }
            let [dense_ms, tosa_ms, random_ms] = times.map(|mut t| quantile(&mut t, 0.5));
            let cost = shape.cost(&options);
            let row = Row {
                size: name.clone(),
                ratio: *ratio,
                tokens: shape.tokens,
                macs: cost.selective,
                dense_macs: cost.dense,
                dense_ms,
                tosa_ms,
                random_ms,
                speedup: dense_ms / tosa_ms,
            };
            if args.json { print_json(&row)? } else { print(&row)? }
        }
    }
    Ok(())
}

fn print(row: &Row) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{:<10} {:>4} tokens  r {:.1}  MACs {:>6.1} % of dense  dense {:>9.2} ms  ToSA {:>9.2} ms  by chance {:>9.2} ms  \
         {:.2} times faster",
        row.size,
        row.tokens,
        row.ratio,
        row.macs as f64 / row.dense_macs as f64 * 100.0,
        row.dense_ms,
        row.tosa_ms,
        row.random_ms,
        row.speedup
    )
    .context("writing to standard output")
}
