//! `spotter bench cache`: what eviction costs a step.

use super::{noise::Noise, quantile};
use crate::{cli::print_json, parts};
use anyhow::{Context as _, Result, bail};
use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use clap::{Args, ValueEnum};
use serde::Serialize;
use spotter_engine::{
    coach::CacheChoice,
    device::DeviceRequest,
    model::{CacheOptions, Decoder, DecoderConfig, HfDecoderConfig, KvCache, Mode, Policy, cache::Setting},
};
use std::{io::Write as _, path::Path, time::Instant};

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
    after_help = "The budget is filled once for all policies. Then single positions are appended; an eviction is measured behind E \
                        of them. A step's overhead is the time of an eviction, spread over the positions between two, and what the \
                        policy adds to a step because it watches the attention. The share is of the step without either. Passes of B \
                        positions, each with an eviction behind it, are measured the same way: that is how a long prompt is read."
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
    /// Passes (B)
    #[arg(long, value_name = "B", value_delimiter = ',', default_value = "128", value_parser = clap::value_parser!(u32).range(1..=4096))]
    block: Vec<u32>,
    /// Steps measured for each row
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    steps: u32,
    /// Evictions, and passes of B, measured for each row
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    passes: u32,
    /// Any other setting of the cache, such as anchor=raw, shared=true or said=0.25
    #[arg(long, value_name = "KEY=VALUE")]
    cache: Vec<Setting>,
    /// auto, cpu, cuda or metal
    #[arg(long, default_value = "auto")]
    device: DeviceRequest,
    /// One JSON object a row: size, policy, budget, every, block, step_ms, plain_step_ms, evict_ms, overhead_ms, share, pass_ms,
    /// plain_pass_ms, pass_evict_ms, pass_share, bytes
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
    /// Mean eviction of E entries.
    evict_ms: f64,
    /// What the policy adds to a step.
    overhead_ms: f64,
    /// Of the plain step.
    share: f64,
    /// Median pass of B positions, evictions left out.
    pass_ms: f64,
    /// The same of a cache that drops nothing.
    plain_pass_ms: f64,
    /// Mean eviction of B entries.
    pass_evict_ms: f64,
    /// Of the plain pass.
    pass_share: f64,
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
    if policies.contains(&Policy::None) {
        bail!("--policy none: a cache that drops nothing is what the others are measured against; leave it out");
    }
    let device = parts::chosen_device(args.device)?;
    for size in &args.size {
        let name = size.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned());
        let most = |numbers: &[u32]| numbers.iter().max().map_or(1, |n| *n as usize);
        let run = most(&args.every).max(most(&args.block));
        let positions = most(&args.budget) + args.steps as usize + (2 * args.passes as usize + 2) * run;
        let config = config(*size, positions)?;
        let vb = VarBuilder::from_backend(Box::new(Noise), DType::F32, device.clone());
        let bench = Bench { args, name, decoder: Decoder::new(&config, vb, Mode::Infer)? };
        for budget in &args.budget {
            let filled = bench.filled(*budget as usize)?;
            for every in &args.every {
                bench.rows(&policies, &filled, *every as usize)?;
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
         {:>6.2} %  B {:>4}  pass {:>8.2} ms (plain {:>8.2})  eviction {:>8.3} ms  {:>6.2} %  {:>7.1} MiB",
        row.size,
        row.policy,
        row.budget,
        row.every,
        row.step_ms,
        row.plain_step_ms,
        row.evict_ms,
        row.overhead_ms,
        row.share * 100.0,
        row.block,
        row.pass_ms,
        row.plain_pass_ms,
        row.pass_evict_ms,
        row.pass_share * 100.0,
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

/// One decoder under measurement.
struct Bench<'a> {
    args: &'a CacheArgs,
    name: String,
    decoder: Decoder,
}

/// Medians of a cache that drops nothing.
struct Plain {
    step_ms: f64,
    /// Of a pass of each block.
    pass_ms: Vec<f64>,
}

impl Bench<'_> {
    /// Embeddings of running tokens.
    fn embedded(&self, from: usize, n: usize) -> candle_core::Result<Tensor> {
        let vocab = self.decoder.config().vocab;
        let ids: Vec<u32> = (from..from + n).map(|i| (i * 7919 % vocab) as u32).collect();
        self.decoder.embed(&Tensor::new(ids, self.decoder.device())?.unsqueeze(0)?)
    }

    /// A cache that has read `n` tokens.
    fn filled(&self, n: usize) -> Result<KvCache> {
        let mut cache = KvCache::new(self.decoder.config(), n, self.decoder.dtype(), self.decoder.device())?;
        for from in (0..n).step_by(128) {
            self.decoder.forward(&self.embedded(from, 128.min(n - from))?, Some(&mut cache))?;
        }
        Ok(cache)
    }

    /// One row for each policy and block.
    fn rows(&self, policies: &[Policy], filled: &KvCache, every: usize) -> Result<()> {
        let plain = self.plain(filled, every)?;
        for policy in policies {
            let mut step = None;
            for (block, plain_pass) in self.args.block.iter().zip(&plain.pass_ms) {
                let options = self.options(*policy, filled.len(), every, *block as usize)?;
                let row = self.row(&options, filled, plain.step_ms, *plain_pass, &mut step)?;
                if self.args.json { print_json(&row)? } else { print(&row)? }
            }
        }
        Ok(())
    }

    fn options(&self, policy: Policy, budget: usize, every: usize, block: usize) -> Result<CacheOptions> {
        let own = CacheOptions { every, block, ..CacheOptions::default() };
        let choice = CacheChoice { policy: Some(policy), budget: Some(budget), settings: self.args.cache.clone() };
        Ok(choice.over(&own)?)
    }

    /// Time of a pass over `x` with the head's for its last position, in milliseconds, evictions left out.
    fn pass(&self, x: &Tensor, cache: &mut KvCache) -> Result<f64> {
        let (begun, evicting) = (Instant::now(), cache.time_evicting());
        let hidden = self.decoder.forward(x, Some(cache))?;
        self.decoder.logits(&hidden.narrow(1, x.dim(1)? - 1, 1)?)?;
        self.decoder.device().synchronize()?;
        let evicting = cache.time_evicting() - evicting;
        Ok((begun.elapsed() - evicting).as_secs_f64() * 1e3)
    }

    /// Times of single steps.
    fn steps(&self, cache: &mut KvCache, n: usize) -> Result<Vec<f64>> {
        (0..n).map(|i| self.pass(&self.embedded(i, 1)?, cache)).collect()
    }

    /// Over the lengths that a bounded cache goes through.
    fn plain(&self, filled: &KvCache, every: usize) -> Result<Plain> {
        let most = self.args.block.iter().max().map_or(1, |b| *b as usize);
        let (dtype, device) = (self.decoder.dtype(), self.decoder.device());
        let capacity = filled.len() + every.max(most);
        let mut cache = KvCache::new(self.decoder.config(), capacity, dtype, device)?;
        cache.continue_from(filled)?;
        let undone = |cache: &mut KvCache, sizes: &[usize]| -> Result<Vec<f64>> {
            cache.begin()?;
            let times = sizes.iter().map(|n| self.pass(&self.embedded(0, *n)?, cache)).collect();
            cache.rollback()?;
            times
        };
        let mut times = Vec::new();
        while times.len() < self.args.steps as usize {
            let n = every.min(self.args.steps as usize - times.len());
            times.extend(undone(&mut cache, &vec![1; n])?);
        }
        let mut pass_ms = Vec::new();
        for block in &self.args.block {
            let rounds = (0..self.args.passes).map(|_| undone(&mut cache, &[*block as usize]));
            let mut times = rounds.collect::<Result<Vec<_>>>()?.concat();
            pass_ms.push(quantile(&mut times, 0.5));
        }
        Ok(Plain { step_ms: quantile(&mut times, 0.5), pass_ms })
    }

    /// Passes of `n` positions behind a budget, each with an eviction behind it: median pass and mean eviction.
    fn evictions(&self, cache: &mut KvCache, n: usize) -> Result<(f64, f64)> {
        cache.evict()?;
        let (before, evictions) = (cache.time_evicting(), cache.evictions());
        let mut times = Vec::new();
        for _ in 0..self.args.passes {
            times.push(self.pass(&self.embedded(0, n)?, cache)?);
            cache.evict()?;
        }
        let spent = (cache.time_evicting() - before).as_secs_f64() * 1e3;
        Ok((quantile(&mut times, 0.5), spent / (cache.evictions() - evictions).max(1) as f64))
    }

    fn row(
        &self,
        options: &CacheOptions,
        filled: &KvCache,
        plain_step_ms: f64,
        plain_pass_ms: f64,
        step: &mut Option<(f64, f64)>,
    ) -> Result<Row> {
        let (config, dtype) = (self.decoder.config(), self.decoder.dtype());
        let block = options.block;
        let mut cache = KvCache::bounded(config, options, config.max_positions, 0, dtype, self.decoder.device())?;
        cache.continue_from(filled)?;
        let (step_ms, evict_ms) = match step {
            Some(measured) => *measured,
            None => {
                let mut times = self.steps(&mut cache, self.args.steps as usize)?;
                *step.insert((quantile(&mut times, 0.5), self.evictions(&mut cache, options.every)?.1))
            }
        };
        let (pass_ms, pass_evict_ms) = self.evictions(&mut cache, block)?;
        let watching = |with: f64, without: f64| if options.policy.watches() { (with - without).max(0.0) } else { 0.0 };
        let overhead_ms = evict_ms / options.every as f64 + watching(step_ms, plain_step_ms);
        Ok(Row {
            size: self.name.clone(),
            policy: options.policy.to_string(),
            budget: filled.len(),
            every: options.every,
            block,
            step_ms,
            plain_step_ms,
            evict_ms,
            overhead_ms,
            share: overhead_ms / plain_step_ms,
            pass_ms,
            plain_pass_ms,
            pass_evict_ms,
            pass_share: (pass_evict_ms + watching(pass_ms, plain_pass_ms)) / plain_pass_ms,
            bytes: cache.bytes(),
        })
    }
}
