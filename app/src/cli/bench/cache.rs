//! `spotter bench cache`: what eviction costs a step.

use super::{noise::Noise, quantile};
use crate::{cli::print_json, parts};
use anyhow::{Context as _, Result, bail};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use clap::{Args, ValueEnum};
use serde::Serialize;
use spotter_engine::model::{CacheOptions, Decoder, DecoderConfig, HfDecoderConfig, KvCache, Mode, Policy};
use std::{
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

/// A decoder to measure; its weights are noise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Size {
    /// The decoder of the model that ships
    Mini,
    /// The shape of Llama 3.2 1B
    #[value(name = "llama-1b")]
    Llama1b,
}

/// Measure what each cache policy costs a step of the decoder.
#[derive(Debug, Args)]
#[command(
    after_help = "For each policy the cache is filled to its budget; then single positions are appended. A step's \
                        overhead is the time of an eviction, spread over the positions between two, and what the \
                        policy adds to a step because it watches the attention. The share is of the step without \
                        either. The processor alone is measured."
)]
pub(super) struct CacheArgs {
    /// Decoders to measure
    #[arg(long, value_enum, value_delimiter = ',', default_value = "mini")]
    size: Vec<Size>,
    /// Policies to measure; left out, all
    #[arg(long, value_name = "POLICY", value_delimiter = ',')]
    policy: Vec<Policy>,
    /// Budgets (N)
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1024", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    budget: Vec<u32>,
    /// Positions between two evictions (E)
    #[arg(long, value_name = "E", value_delimiter = ',', default_value = "64", value_parser = clap::value_parser!(u32).range(1..=4096))]
    every: Vec<u32>,
    /// Longest pass while the cache is filled (B)
    #[arg(long, value_name = "B", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=4096))]
    block: u32,
    /// Steps measured for each row, at least one round of evictions
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    steps: u32,
    /// One JSON object a row: size, policy, budget, every, block, step_ms, plain_step_ms, evict_ms, overhead_ms, share, bytes
    #[arg(long)]
    json: bool,
}

/// One row of the table.
#[derive(Debug, Serialize)]
struct Row {
    size: String,
    policy: String,
    budget: usize,
    every: usize,
    block: usize,
    /// Median step, evictions left out.
    step_ms: f64,
    /// Median step of a cache of the same length that drops nothing.
    plain_step_ms: f64,
    /// Mean eviction.
    evict_ms: f64,
    /// What the policy adds to a step.
    overhead_ms: f64,
    /// Of the plain step.
    share: f64,
    /// Of the cache.
    bytes: usize,
}

/// Runs the command.
pub(super) fn run(args: &CacheArgs) -> Result<()> {
    let policies = if args.policy.is_empty() {
        Policy::all().into_iter().filter(|p| *p != Policy::None).collect()
    } else {
        args.policy.clone()
    };
    for size in &args.size {
        let name = size.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned());
        let most = args.budget.iter().max().copied().unwrap_or(1) as usize;
        let config = config(*size, most + 4 * 4096 + args.steps as usize)?;
        let vb = VarBuilder::from_backend(Box::new(Noise), DType::F32, Device::Cpu);
        let decoder = Decoder::new(&config, vb, Mode::Infer)?;
        for budget in &args.budget {
            for every in &args.every {
                let mut plain = None;
                for policy in &policies {
                    let options = CacheOptions {
                        policy: *policy,
                        budget: Some(*budget as usize),
                        every: *every as usize,
                        block: args.block as usize,
                        ..CacheOptions::default()
                    };
                    let plain = match plain {
                        Some(ms) => ms,
                        None => *plain.insert(measure_plain(&decoder, &options, args.steps as usize)?),
                    };
                    let row = measure(&name, &decoder, &options, args.steps as usize, plain)?;
                    if args.json { print_json(&row)? } else { print(&row)? }
                }
            }
        }
    }
    Ok(())
}

fn print(row: &Row) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{:<9} {:<19} N {:>5}  E {:>4}  step {:>8.3} ms (plain {:>8.3})  eviction {:>8.3} ms  overhead {:>7.4} ms \
         {:>6.2} %  {:>7.1} MiB",
        row.size,
        row.policy,
        row.budget,
        row.every,
        row.step_ms,
        row.plain_step_ms,
        row.evict_ms,
        row.overhead_ms,
        row.share * 100.0,
        row.bytes as f64 / f64::from(1 << 20),
    )
    .context("writing to standard output")
}

fn config(size: Size, positions: usize) -> Result<DecoderConfig> {
    let config = match size {
        Size::Mini => {
            let folder = parts::model_folder(Some(Path::new(parts::MODEL)))?;
            let path = folder.join("config.json");
            let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let json: serde_json::Value = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
            let Some(text) = json.get("text_config").cloned() else {
                bail!("{}: text_config is missing", path.display());
            };
            DecoderConfig::from_hf(&serde_json::from_value(text)?, "text_config.")?
        }
        Size::Llama1b => {
            let hf = serde_json::json!({
                "model_type": "llama", "vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 8192,
                "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
                "max_position_embeddings": 131_072, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0,
                "tie_word_embeddings": true, "hidden_act": "silu",
            });
            DecoderConfig::from_hf(&serde_json::from_value::<HfDecoderConfig>(hf)?, "")?
        }
    };
    Ok(DecoderConfig { max_positions: positions, ..config })
}

/// Embeddings of running tokens.
fn embedded(decoder: &Decoder, from: usize, n: usize) -> candle_core::Result<Tensor> {
    let vocab = decoder.config().vocab;
    let ids: Vec<u32> = (from..from + n).map(|i| (i * 7919 % vocab) as u32).collect();
    decoder.embed(&Tensor::new(ids, decoder.device())?.unsqueeze(0)?)
}

/// Times of single steps behind `budget` positions, without the time spent evicting, and that time.
fn steps(decoder: &Decoder, cache: &mut KvCache, fill: usize, n: usize) -> Result<(Vec<f64>, Duration)> {
    decoder.forward(&embedded(decoder, 0, fill)?, Some(cache))?;
    let (before, mut times) = (cache.time_evicting(), Vec::with_capacity(n));
    for i in 0..n {
        let x = embedded(decoder, fill + i, 1)?;
        let (begun, evicting) = (Instant::now(), cache.time_evicting());
        decoder.logits(&decoder.forward(&x, Some(cache))?)?;
        let evicting = cache.time_evicting() - evicting;
        times.push((begun.elapsed() - evicting).as_secs_f64() * 1e3);
    }
    Ok((times, cache.time_evicting() - before))
}

/// Median step of a cache that drops nothing, over the lengths that a bounded one goes through.
fn measure_plain(decoder: &Decoder, options: &CacheOptions, n: usize) -> Result<f64> {
    let budget = options.budget.unwrap_or(1);
    let mut times = Vec::new();
    while times.len() < n {
        let mut cache = KvCache::new(decoder.config(), budget + options.every, decoder.dtype(), decoder.device())?;
        times.extend(steps(decoder, &mut cache, budget, options.every)?.0);
    }
    Ok(quantile(&mut times, 0.5))
}

fn measure(size: &str, decoder: &Decoder, options: &CacheOptions, n: usize, plain: f64) -> Result<Row> {
    let budget = options.budget.unwrap_or(1);
    let (positions, dtype) = (decoder.config().max_positions, decoder.dtype());
    let mut cache = KvCache::bounded(decoder.config(), options, positions, 0, dtype, decoder.device())?;
    let n = n.max(options.every).next_multiple_of(options.every);
    let before = cache.evictions();
    let (mut times, evicting) = steps(decoder, &mut cache, budget, n)?;
    let evictions = (cache.evictions() - before).max(1);
    let step_ms = quantile(&mut times, 0.5);
    let evict_ms = evicting.as_secs_f64() * 1e3 / evictions as f64;
    let watches = options.policy.watches();
    let overhead_ms = evict_ms / options.every as f64 + if watches { (step_ms - plain).max(0.0) } else { 0.0 };
    Ok(Row {
        size: size.to_owned(),
        policy: options.policy.to_string(),
        budget,
        every: options.every,
        block: options.block,
        step_ms,
        plain_step_ms: plain,
        evict_ms,
        overhead_ms,
        share: overhead_ms / plain,
        bytes: cache.bytes(),
    })
}
