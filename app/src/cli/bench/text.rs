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
use spotter_engine::{
    coach::CacheChoice,
    device::DeviceRequest,
    model::{CacheOptions, KvCache, LanguageModel, Policy, cache::Setting},
};
use std::{io::Write as _, path::PathBuf};

/// What the needles are about; no text has two of the same.
const PLACES: [&str; 24] = [
    "gym", "pool", "studio", "court", "track", "locker", "garage", "library", "office", "cellar", "kitchen", "garden",
    "harbour", "theatre", "museum", "station", "bakery", "chapel", "stable", "attic", "workshop", "hangar", "archive",
    "laundry",
];

/// Tokens of an answer.
const ANSWER: usize = 8;

/// Measure what cache policies cost a language model: perplexity of a long text, and needles found in it.
#[derive(Debug, Args)]
#[command(
    after_help = "The first tokens of the text are read once, in passes of B, as a stream: what is dropped stays \
                  dropped. Perplexity is that of all tokens but the first. Needles are sentences with a number, spread over \
                  the text; each is asked for at the end, as a step that is undone, so that a text is read once for all of \
                  its needles. One counts when the greedy answer has the number. The first row has an unbounded cache.\n\n\
                  SmolLM2-135M-Instruct comes with `scripts/setup.sh smollm2`, which puts it below .deps/smollm2."
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
    /// Longest pass (B), and positions between two evictions (E)
    #[arg(long, value_name = "B", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=1024))]
    block: u32,
    /// Any other setting of the cache, such as anchor=raw, shared=true or sinks=0
    #[arg(long, value_name = "KEY=VALUE")]
    cache: Vec<Setting>,
    /// Needles for each row
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=1000))]
    needles: u32,
    /// Needles in one text, at most
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=PLACES.len() as i64))]
    needles_per_text: u32,
    /// Seed of the needles
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// auto, cpu, cuda or metal
    #[arg(long, default_value = "auto")]
    device: DeviceRequest,
    /// One JSON object a row: policy, part (null: no eviction), budget, tokens, perplexity, needles, found
    #[arg(long)]
    json: bool,
}

/// One row of the table.
#[derive(Debug, Serialize)]
struct Row {
    policy: String,
    /// The budget is one part of so many of the text.
    part: Option<u32>,
    budget: usize,
    tokens: usize,
    perplexity: f64,
    needles: usize,
    found: usize,
}

/// A text with needles in it.
#[derive(Debug)]
struct Haystack {
    ids: Vec<u32>,
    needles: Vec<Needle>,
}

/// What is asked for at the end of a text.
#[derive(Debug)]
struct Needle {
    question: Vec<u32>,
    number: String,
}

/// Runs the command.
pub(super) fn run(args: &TextArgs) -> Result<()> {
    if args.policy.contains(&Policy::None) {
        bail!("--policy none: an unbounded cache is always the first row; leave it out");
    }
    let bytes = std::fs::read(&args.text).with_context(|| format!("{}: can't be read", args.text.display()))?;
    let text = String::from_utf8(bytes).with_context(|| format!("{}: not UTF-8 text", args.text.display()))?;
    let model = LanguageModel::open(&args.model, DType::F32, &parts::chosen_device(args.device)?)
        .map_err(|e| Hinted::new(e.into(), "SmolLM2 comes with `scripts/setup.sh smollm2`"))?;
    let mut ids = model.tokenizer.encode(&text, false)?;
    let wanted = args.tokens as usize;
    if ids.len() < wanted {
        bail!("{}: {} tokens; {wanted} expected (see --tokens)", args.text.display(), ids.len());
    }
    ids.truncate(wanted);
    let encode = |text: &str| -> Result<Vec<u32>> { Ok(model.tokenizer.encode(text, false)?) };
    let haystacks = haystacks(&ids, args.needles as usize, args.needles_per_text as usize, args.seed, &encode)?;
    let policies = if args.policy.is_empty() {
        Policy::all().into_iter().filter(|p| *p != Policy::None).collect()
    } else {
        args.policy.clone()
    };
    let parts = args.part.iter().flat_map(|part| policies.iter().map(|p| (*p, Some(*part))));
    let rows: Vec<(Policy, Option<u32>)> = std::iter::once((Policy::None, None)).chain(parts).collect();
    let bar = ProgressBar::new((rows.len() * (1 + haystacks.len())) as u64);
    if let Ok(style) = ProgressStyle::with_template("{elapsed_precise} [{bar:30}] {pos}/{len} texts (left: {eta})") {
        bar.set_style(style);
    }
    for (policy, part) in rows {
        let row = measure(args, &model, &ids, &haystacks, (policy, part), &bar)?;
        bar.suspend(|| if args.json { print_json(&row) } else { print(&row) })?;
    }
    bar.finish_and_clear();
    Ok(())
}

fn measure(
    args: &TextArgs,
    model: &LanguageModel,
    ids: &[u32],
    haystacks: &[Haystack],
    (policy, part): (Policy, Option<u32>),
    bar: &ProgressBar,
) -> Result<Row> {
    let budget = ids.len() / part.unwrap_or(1) as usize;
    let perplexity = perplexity(model, ids, &mut cache(args, model, policy, budget)?, args.block as usize)?;
    bar.inc(1);
    let mut found = 0;
    for haystack in haystacks {
        let mut cache = cache(args, model, policy, budget)?;
        for chunk in haystack.ids.chunks(args.block as usize) {
            read(model, chunk, &mut cache)?;
        }
        for needle in &haystack.needles {
            found += usize::from(answer(model, &needle.question, &mut cache)?.contains(&needle.number));
        }
        bar.inc(1);
    }
    let needles = haystacks.iter().map(|h| h.needles.len()).sum();
    Ok(Row { policy: policy.to_string(), part, budget, tokens: ids.len(), perplexity, needles, found })
}

fn print(row: &Row) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let part = row.part.map_or_else(|| "all".to_owned(), |part| format!("1/{part}"));
    writeln!(
        out,
        "{:<19} {part:>5}  N {:>6} of {:>6}  perplexity {:>9.3}  needles {:>3} of {:>3}",
        row.policy, row.budget, row.tokens, row.perplexity, row.found, row.needles
    )
    .context("writing to standard output")
}

/// Room for a question and its answer, which are undone.
const SCRATCH: usize = 96;

fn cache(args: &TextArgs, model: &LanguageModel, policy: Policy, budget: usize) -> Result<KvCache> {
    let decoder = &model.decoder;
    let block = args.block as usize;
    let own = CacheOptions { block, every: block, ..CacheOptions::default() };
    let budget = (policy != Policy::None).then_some(budget);
    let options = CacheChoice { policy: Some(policy), budget, settings: args.cache.clone() }.over(&own)?;
    let config = decoder.config();
    Ok(KvCache::bounded(config, &options, config.max_positions, SCRATCH, decoder.dtype(), decoder.device())?)
}

/// Hidden states of tokens that are appended.
fn read(model: &LanguageModel, ids: &[u32], cache: &mut KvCache) -> Result<Tensor> {
    let decoder = &model.decoder;
    Ok(decoder.forward(&decoder.embed(&Tensor::new(ids, decoder.device())?.unsqueeze(0)?)?, Some(cache))?)
}

fn perplexity(model: &LanguageModel, ids: &[u32], cache: &mut KvCache, block: usize) -> Result<f64> {
    let decoder = &model.decoder;
    let (mut sum, mut at) = (0f64, 0);
    // Logits of a whole text are too many numbers at once.
    for chunk in ids.chunks(block) {
        let logits = decoder.logits(&read(model, chunk, cache)?)?.squeeze(0)?.to_dtype(DType::F32)?;
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

/// Texts as long as `ids` with needles in them, at most `most` each, at depths that are all different.
fn haystacks(
    ids: &[u32],
    needles: usize,
    most: usize,
    seed: u64,
    encode: &dyn Fn(&str) -> Result<Vec<u32>>,
) -> Result<Vec<Haystack>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let texts = needles.div_ceil(most.max(1));
    let mut all = Vec::with_capacity(texts);
    for text in 0..texts {
        let (mut sentences, mut asked) = (Vec::new(), Vec::new());
        // Of all needles in order of depth, each text has every `texts`-th.
        for index in (text..needles).step_by(texts) {
            let place = PLACES.get((index / texts + text) % PLACES.len()).copied().unwrap_or("gym");
            let number = rng.random_range(1000..10_000).to_string();
            sentences.push((index, encode(&format!("\nThe code of the {place} is {number}. Remember it.\n"))?));
            let question =
                format!("\n\nQuestion: What is the code of the {place}?\nAnswer: The code of the {place} is");
            asked.push(Needle { question: encode(&question)?, number });
        }
        let room = ids.len().saturating_sub(sentences.iter().map(|(_, s)| s.len()).sum());
        let (mut with, mut from) = (Vec::with_capacity(ids.len()), 0);
        for (index, sentence) in sentences {
            let at = ((index as f64 + 0.5) / needles as f64 * room as f64) as usize;
            with.extend_from_slice(ids.get(from..at).unwrap_or_default());
            with.extend(sentence);
            from = at;
        }
        with.extend_from_slice(ids.get(from..room).unwrap_or_default());
        all.push(Haystack { ids: with, needles: asked });
    }
    Ok(all)
}

/// A few greedy tokens behind a question, which leave no trace.
fn answer(model: &LanguageModel, question: &[u32], cache: &mut KvCache) -> Result<String> {
    cache.begin()?;
    let (mut next, mut said) = (question.to_vec(), Vec::new());
    while said.len() < ANSWER {
        let hidden = read(model, &next, cache)?;
        let last = model.decoder.logits(&hidden.narrow(1, next.len() - 1, 1)?)?;
        let id = last.i((0, 0))?.argmax(D::Minus1)?.to_scalar::<u32>()?;
        said.push(id);
        next = vec![id];
    }
    cache.rollback()?;
    Ok(model.tokenizer.decode(&said)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needles_lie_at_all_depths_and_texts_keep_their_length() {
        // A sentence becomes its length many tokens that no text has.
        let encode = |text: &str| -> Result<Vec<u32>> { Ok(vec![u32::MAX; text.len() / 4]) };
        let ids: Vec<u32> = (0..2000).collect();
        let texts = haystacks(&ids, 20, 5, 1, &encode).unwrap();
        assert_eq!(texts.iter().map(|t| t.needles.len()).collect::<Vec<_>>(), [5; 4]);
        let mut depths = Vec::new();
        for text in &texts {
            assert_eq!(text.ids.len(), 2000);
            let plain: Vec<u32> = text.ids.iter().copied().filter(|id| *id != u32::MAX).collect();
            assert_eq!(plain, ids[..plain.len()], "the text itself is in order");
            let starts = text.ids.windows(2).enumerate().filter(|(_, w)| w[0] != u32::MAX && w[1] == u32::MAX);
            depths.extend(starts.map(|(i, _)| i));
            let mut numbers: Vec<&str> = text.needles.iter().map(|n| n.number.as_str()).collect();
            numbers.dedup();
            assert_eq!(numbers.len(), 5);
        }
        depths.sort_unstable();
        assert_eq!(depths.len(), 20);
        assert!(depths.windows(2).all(|d| d[1] - d[0] > 30), "{depths:?}");
        assert!(depths[0] < 100 && depths[19] > 1800);
        assert!(haystacks(&ids, 0, 5, 1, &encode).unwrap().is_empty());
        assert_eq!(haystacks(&ids, 7, 5, 1, &encode).unwrap().iter().map(|t| t.needles.len()).sum::<usize>(), 7);
    }
}
