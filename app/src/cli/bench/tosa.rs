//! `spotter bench tosa`: what skipping tokens saves an encoder.

use super::{noise::Noise, quantile};
#[cfg(feature = "training")]
use crate::cli::eval::synthetic::{Held, Variation, measure};
use crate::{cli::print_json, parts};
#[cfg(feature = "training")]
use anyhow::bail;
use anyhow::{Context as _, Result};
use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use clap::{Args, ValueEnum};
use serde::Serialize;
#[cfg(feature = "training")]
use spotter_datasets::synthetic::phrases::Lang;
#[cfg(feature = "training")]
use spotter_engine::coach::load::load;
use spotter_vision::encoder::{
    TowerConfig, VisionTower as _,
    clip::{self, Clip},
    siglip::{self, Siglip},
    tosa::{Memory, Ranking, Shape, Tosa, TosaOptions},
    vit::{Vit, VitConfig},
};
use std::{
    io::Write as _,
    path::{Path, PathBuf},
    time::Instant,
};

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
    after_help = "Dense, ToSA and the controls take turns in one run, so that their ratios do not depend on what else the machine \
                        does. MACs are counted, times are medians of one batch. Ways of choosing: selector (ToSA), oracle (the true \
                        map of the layer, which costs more than it saves), previous (the map of the layer before), chance; with reuse a stream's \
                        skipped tokens get the update they got last, and change is what has moved since."
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
    /// Ways of choosing, those whose name begins so, or dense; all if left out
    #[arg(long, value_name = "WAY")]
    way: Option<String>,
    /// Model folder for `mini`, with selectors
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Also coach this many held-out synthetic sessions with each way of choosing (`mini` with a model that has selectors)
    #[cfg(feature = "training")]
    #[arg(long, value_name = "N", default_value_t = 0)]
    sessions: usize,
    /// Seed of the first of them
    #[cfg(feature = "training")]
    #[arg(long, value_name = "N", default_value_t = 6000)]
    seed: u64,
    /// One JSON object a row: size, ratio, way, tokens, macs, dense_macs, dense_ms, ms, speedup, quality
    #[arg(long)]
    json: bool,
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if ratio > 0.0 && ratio <= 1.0 { Ok(ratio) } else { Err(format!("{ratio}: expected above 0 and at most 1")) }
}

/// Who chooses, and whether a stream's skipped tokens get the update they got last.
const WAYS: [(&str, Ranking, bool); 7] = [
    ("selector", Ranking::Selector, false),
    ("oracle", Ranking::Oracle, false),
    ("previous", Ranking::Previous, false),
    ("chance", Ranking::Random(1), false),
    ("selector, reuse", Ranking::Selector, true),
    ("change, reuse", Ranking::Change, true),
    ("chance, reuse", Ranking::Random(1), true),
];

/// One row of the table.
#[derive(Debug, Serialize)]
struct Row {
    size: String,
    ratio: f64,
    way: &'static str,
    tokens: u64,
    macs: u64,
    dense_macs: u64,
    dense_ms: f64,
    ms: f64,
    /// Dense over this way.
    speedup: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    quality: Option<Quality>,
}

/// How a model coaches held-out sessions.
#[derive(Clone, Copy, Debug, Serialize)]
struct Quality {
    exercise_accuracy: f64,
    mistake_f1: f64,
    count_accuracy: f64,
    temporal_f: f64,
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

    fn run(&self, input: &Tensor, memory: &mut Memory) -> Result<()> {
        let out = match self {
            Self::Vit(t) => t.follow(input, Some(memory)),
            Self::Clip(t) => t.follow(input, Some(memory)),
            Self::Siglip(t) => t.follow(input, Some(memory)),
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
fn build(size: Size, batch: usize, folder: Option<&Path>) -> Result<(Tower, Tensor, Shape, usize)> {
    let device = parts::device();
    let vb = VarBuilder::from_backend(Box::new(Noise), DType::F32, device.clone());
    let pictures = |side: usize| Tensor::rand(-1f32, 1f32, (batch, 3, side, side), &device);
    Ok(match size {
        Size::Mini => {
            let folder = parts::model_folder(folder)?;
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
        let (mut tower, input, shape, protected) = build(*size, usize::from(args.batch), args.model.as_deref())?;
        tower.run(&input, &mut Memory::default())?;
        let quality = Coached::new(args, *size)?;
        let wants_dense = args.way.as_deref().is_none_or(|w| w == "dense");
        if let Some(dense) = quality.as_ref().filter(|_| wants_dense).map(|q| q.of(None)).transpose()? {
            print_dense(args, &name, dense)?;
        }
        for ratio in &args.ratio {
            let (dense_ms, times) = times(args, &mut tower, &input, &shape, protected, *ratio)?;
            let options = TosaOptions { ratio: *ratio, protected, ..TosaOptions::default() };
            let cost = shape.cost(&options);
            for ((way, ranking, reuse), ms) in WAYS.iter().zip(times) {
                if args.way.as_ref().is_some_and(|w| !way.starts_with(w)) {
                    continue;
                }
                let without = if *ranking == Ranking::Selector { 0 } else { shape.selectors(&options) };
                let row = Row {
                    size: name.clone(),
                    ratio: *ratio,
                    way,
                    tokens: shape.tokens,
                    macs: cost.selective - without,
                    dense_macs: cost.dense,
                    dense_ms,
                    ms,
                    speedup: dense_ms / ms,
                    quality: quality.as_ref().map(|q| q.of(Some((*ratio, *ranking, *reuse)))).transpose()?,
                };
                if args.json { print_json(&row)? } else { print(&row)? }
            }
        }
    }
    Ok(())
}

/// Medians of dense and of each way, which take turns.
fn times(
    args: &TosaArgs,
    tower: &mut Tower,
    input: &Tensor,
    shape: &Shape,
    protected: usize,
    ratio: f64,
) -> Result<(f64, Vec<f64>)> {
    let vb = VarBuilder::from_backend(Box::new(Noise), DType::F32, input.device().clone());
    let mut ways = vec![None];
    for (_, ranking, reuse) in WAYS {
        let options = TosaOptions { ratio, protected, reuse, ..TosaOptions::default() };
        ways.push(Some(match ranking {
            Ranking::Selector => Tosa::new(&options, shape.depth, shape.heads as usize, &vb)?,
            other => Tosa::control(&options, shape.depth, other)?,
        }));
    }
    let mut memories = vec![Memory::default(); ways.len()];
    let mut times = vec![Vec::new(); ways.len()];
    // The first round fills the memories.
    for round in 0..=args.repeats {
        for ((way, memory), times) in ways.iter().zip(&mut memories).zip(&mut times) {
            tower.set(way.clone());
            let begun = Instant::now();
            tower.run(input, memory)?;
            if round > 0 {
                times.push(begun.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    let mut medians = times.into_iter().map(|mut t| quantile(&mut t, 0.5));
    Ok((medians.next().unwrap_or(f64::NAN), medians.collect()))
}

/// A model with selectors and the sessions it is measured on.
#[cfg(feature = "training")]
struct Coached {
    held: Held,
    tosa: Tosa,
    depth: usize,
}

#[cfg(feature = "training")]
impl Coached {
    fn new(args: &TosaArgs, size: Size) -> Result<Option<Self>> {
        if args.sessions == 0 || size != Size::Mini {
            return Ok(None);
        }
        let folder = parts::model_folder(args.model.as_deref())?;
        let mut model = load(&folder, &candle_core::Device::Cpu)?;
        let Some(tosa) = model.eye.encoder_mut().tosa().cloned() else {
            bail!(
                "{}: config.json has no vision_config.tosa, so there are no selectors to measure; train them with `spotter \
                 train selectors` and name the exported folder with --model",
                folder.display()
            );
        };
        let depth = tosa.selectors().keys().max().map_or(0, |last| last + 1);
        let held = Held {
            model: folder,
            seed: args.seed,
            sessions: args.sessions,
            lang: Lang::En,
            latency: 0.1,
            talkativeness: None,
        };
        Ok(Some(Self { held, tosa, depth }))
    }

    /// How the model coaches with this ratio, ranking and reuse, or with all tokens.
    fn of(&self, way: Option<(f64, Ranking, bool)>) -> Result<Quality> {
        let tosa = way.map(|(ratio, ranking, reuse)| {
            let options = TosaOptions { ratio, reuse, ..self.tosa.options.clone() };
            match ranking {
                Ranking::Selector => {
                    let mut tosa = self.tosa.clone();
                    tosa.options = options;
                    Ok(tosa)
                }
                other => Tosa::control(&options, self.depth, other),
            }
        });
        let vary = Variation { tosa: Some(tosa.transpose()?), ..Variation::default() };
        let report = measure(&self.held, &vary)?;
        let number = |n: Option<f64>| n.unwrap_or(f64::NAN);
        Ok(Quality {
            exercise_accuracy: number(report.exercise_accuracy),
            mistake_f1: number(report.mistake_f1()),
            count_accuracy: number(report.count_accuracy),
            temporal_f: number(report.temporal_f()),
        })
    }
}

/// Without synthetic sessions there is nothing to coach.
#[cfg(not(feature = "training"))]
struct Coached;

#[cfg(not(feature = "training"))]
impl Coached {
    fn new(_: &TosaArgs, _: Size) -> Result<Option<Self>> {
        Ok(None)
    }

    fn of(&self, _: Option<(f64, Ranking, bool)>) -> Result<Quality> {
        anyhow::bail!("this build has no synthetic sessions; build with the feature `training`")
    }
}

fn told(quality: Quality) -> String {
    format!(
        "exercise {:.3}  mistakes {:.3}  counts {:.3}  T-F {:.3}",
        quality.exercise_accuracy, quality.mistake_f1, quality.count_accuracy, quality.temporal_f
    )
}

fn print_dense(args: &TosaArgs, name: &str, quality: Quality) -> Result<()> {
    if args.json {
        return print_json(&serde_json::json!({ "size": name, "ratio": 1.0, "way": "dense", "quality": quality }));
    }
    writeln!(std::io::stdout(), "{name:<10} all tokens, dense: {}", told(quality)).context("writing to standard output")
}

fn print(row: &Row) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{:<10} {:>4} tokens  r {:.1}  {:<16} MACs {:>6.1} %  {:>9.2} ms, dense {:>9.2} ms, {:>5.2} times  {}",
        row.size,
        row.tokens,
        row.ratio,
        row.way,
        row.macs as f64 / row.dense_macs as f64 * 100.0,
        row.ms,
        row.dense_ms,
        row.speedup,
        row.quality.map(told).unwrap_or_default()
    )
    .context("writing to standard output")
}
