//! `spotter bench text`: what a bounded cache costs a language model in quality, on a long text.

use super::super::{Hinted, print_json};
use crate::parts;
use anyhow::{Context as _, Result, bail};
use candle_core::{D, DType, IndexOp as _, Tensor};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use spotter_engine::model::{CacheOptions, KvCache, LanguageModel, Policy};
use std::{io::Write as _, path::PathBuf};

/// Measure what cache policies cost a language model: perplexity of a long text, and needles found in it.
#[derive(Debug, Args)]
#[command(
    after_help = "The first tokens of the text are read once, in passes of B, as a stream: what is dropped stays \
                  dropped. Perplexity is that of all tokens but the first. For a needle, a sentence with a number is \
                  put somewhere into the text and asked for at its end; it counts when the greedy answer has the \
                  number. The first row has an unbounded cache.\n\nSmolLM2-135M-Instruct comes with \
                  `scripts/setup.sh smollm2`, which puts it below .deps/smollm2."
)]
pub(super) struct TextArgs {
    /// Language model: a GGUF file, or a folder with safetensors
    #[arg(long, value_name = "PATH", default_value = ".deps/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")]
    model: PathBuf,
    /// A long plain text
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Tokens of it that are read
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(64..=1_048_576))]
    tokens: u32,
    /// Policies to measure; left out, all
    #[arg(long, value_name = "POLICY", value_delimiter = ',')]
    policy: Vec<Policy>,
    /// Budgets, as one part of so many of the text
    #[arg(long, value_name = "PARTS", value_delimiter = ',', default_value = "2,4,8", value_parser = clap::value_parser!(u32).range(1..=64))]
    part: Vec<u32>,
    /// Longest pass (B)
    #[arg(long, value_name = "B", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=4096))]
    block: u32,
    /// Needles for each row
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=1000))]
    needles: u32,
    /// Seed of the needles
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// One JSON object a row: policy, budget, tokens, perplexity, needles, found
    #[arg(long)]
    json: bool,
}

/// One row of the table.
#[derive(Debug, Serialize)]
struct Row {
    policy: String,
    budget: usize,
    tokens: usize,
    perplexity: f64,
    needles: usize,
    found: usize,
}

/// A text with a needle, and the number that is asked for.
struct Needle {
    ids: Vec<u32>,
    number: String,
}

/// Runs the command.
pub(super) fn run(args: &TextArgs) -> Result<()> {
    if args.policy.contains(&Policy::None) {
        bail!("--policy none: an unbounded cache is always the first row; leave it out");
    }
    let bytes = std::fs::read(&args.text).with_context(|| format!("{}: can't be read", args.text.display()))?;
    let text = String::from_utf8(bytes).with_context(|| format!("{}: not UTF-8 text", args.text.display()))?;
    let model = LanguageModel::open(&args.model, DType::F32, &parts::device())
        .map_err(|e| Hinted::new(e.into(), "SmolLM2 comes with `scripts/setup.sh smollm2`"))?;
    let mut ids = model.tokenizer.encode(&text, false)?;
    let wanted = args.tokens as usize;
    if ids.len() < wanted {
        bail!("{}: {} tokens; {wanted} expected (see --tokens)", args.text.display(), ids.len());
    }
    ids.truncate(wanted);
    let needles = (0..args.needles).map(|i| needle(&model, &ids, args, i)).collect::<Result<Vec<_>>>()?;
    let policies = if args.policy.is_empty() {
        Policy::all().into_iter().filter(|p| *p != Policy::None).collect()
    } else {
        args.policy.clone()
    };
    let full = (Policy::None, wanted + 128);
    let rows: Vec<(Policy, usize)> = std::iter::once(full)
        .chain(args.part.iter().flat_map(|part| policies.iter().map(|p| (*p, wanted / *part as usize))))
        .collect();
    let bar = ProgressBar::new((rows.len() * (1 + needles.len())) as u64);
    if let Ok(style) = ProgressStyle::with_template("{elapsed_precise} [{bar:30}] {pos}/{len} texts (left: {eta})") {
        bar.set_style(style);
    }
    for (policy, budget) in rows {
        let fresh = || cache(&model, policy, budget, args.block as usize);
        let perplexity = perplexity(&model, &ids, &mut fresh()?)?;
        bar.inc(1);
        let mut found = 0;
        for needle in &needles {
            found += usize::from(answer(&model, &needle.ids, &mut fresh()?)?.contains(&needle.number));
            bar.inc(1);
        }
        let row =
            Row { policy: policy.to_string(), budget, tokens: ids.len(), perplexity, needles: needles.len(), found };
        bar.suspend(|| if args.json { print_json(&row) } else { print(&row) })?;
    }
    bar.finish_and_clear();
    Ok(())
}

fn print(row: &Row) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{:<19} N {:>6} of {:>6}  perplexity {:>9.3}  needles {:>3} of {:>3}",
        row.policy, row.budget, row.tokens, row.perplexity, row.found, row.needles
    )
    .context("writing to standard output")
}

fn cache(model: &LanguageModel, policy: Policy, budget: usize, block: usize) -> Result<KvCache> {
    let decoder = &model.decoder;
    let options = CacheOptions {
        policy,
        budget: (policy != Policy::None).then_some(budget),
        block,
        every: block,
        ..CacheOptions::default()
    };
    let context = if policy == Policy::None { budget } else { decoder.config().max_positions };
    Ok(KvCache::bounded(decoder.config(), &options, context, 0, decoder.dtype(), decoder.device())?)
}

fn perplexity(model: &LanguageModel, ids: &[u32], cache: &mut KvCache) -> Result<f64> {
    let decoder = &model.decoder;
    let (mut sum, mut at) = (0f64, 0);
    // Logits of a whole text are too many numbers at once; the cache cuts passes by itself, this only bounds memory.
    for chunk in ids.chunks(128) {
        let x = decoder.embed(&Tensor::new(chunk, decoder.device())?.unsqueeze(0)?)?;
        let logits = decoder.logits(&decoder.forward(&x, Some(cache))?)?.squeeze(0)?.to_dtype(DType::F32)?;
        let truths = ids.get(at + 1..(at + 1 + chunk.len()).min(ids.len())).unwrap_or_default();
        at += chunk.len();
        if truths.is_empty() {
            break;
        }
        let logits = logits.narrow(0, 0, truths.len())?;
        let log_p = candle_nn::ops::log_softmax(&logits, D::Minus1)?;
        let picked = log_p.gather(&Tensor::new(truths, decoder.device())?.unsqueeze(1)?, 1)?;
        sum -= f64::from(picked.sum_all()?.to_scalar::<f32>()?);
    }
    Ok((sum / (ids.len() - 1) as f64).exp())
}

/// The text with a sentence in it that the question at its end is about.
fn needle(model: &LanguageModel, ids: &[u32], args: &TextArgs, index: u32) -> Result<Needle> {
    let mut rng = ChaCha8Rng::seed_from_u64(args.seed.wrapping_mul(1000) + u64::from(index));
    let number = rng.random_range(1000..10_000).to_string();
    let places = ["gym", "pool", "studio", "court", "track"];
    let place = places.get(index as usize % places.len()).copied().unwrap_or("gym");
    let depth = (f64::from(index) + 0.5) / f64::from(args.needles.max(1));
    let encode = |text: &str| model.tokenizer.encode(text, false);
    let sentence = encode(&format!("\nThe code of the {place} is {number}. Remember it.\n"))?;
    let question =
        encode(&format!("\n\nQuestion: What is the code of the {place}?\nAnswer: The code of the {place} is"))?;
    let room = ids.len().saturating_sub(sentence.len() + question.len());
    let at = (room as f64 * depth) as usize;
    let (before, after) = ids.get(..room).unwrap_or_default().split_at(at.min(room));
    Ok(Needle { ids: [before, &sentence, after, &question].concat(), number })
}

/// Eight greedy tokens behind a text.
fn answer(model: &LanguageModel, ids: &[u32], cache: &mut KvCache) -> Result<String> {
    let decoder = &model.decoder;
    let mut next = ids.to_vec();
    let mut said = Vec::new();
    while said.len() < 8 {
        let x = decoder.embed(&Tensor::new(next.as_slice(), decoder.device())?.unsqueeze(0)?)?;
        let hidden = decoder.forward(&x, Some(cache))?;
        let last = decoder.logits(&hidden.narrow(1, next.len() - 1, 1)?)?;
        let id = last.i((0, 0))?.argmax(D::Minus1)?.to_scalar::<u32>()?;
        said.push(id);
        next = vec![id];
    }
    Ok(model.tokenizer.decode(&said)?)
}
