//! `spotter bench language`: how fast a language model reads and writes on this machine.

use super::super::{Hinted, print_json};
use crate::{
    memory::{Memory, mebibytes},
    parts,
};
use anyhow::{Context as _, Result, bail};
use candle_core::{DType, Device, Tensor};
use clap::Args;
use serde::Serialize;
use spotter_engine::{
    device::DeviceRequest,
    model::{KvCache, LanguageModel},
};
use std::{io::Write as _, path::PathBuf, time::Instant};

/// What is read, again and again until there are tokens enough.
const TEXT: &str = "The coach watches the first squat and waits. The knees bend, the hips go back, the chest stays up. Between \
                    two repetitions there is time for one sentence, and it had better be the right one. A good cue is short and says \
                    what to do, not what to leave. Push the floor away. Keep your elbows in. Breathe out on the way up. When the \
                    set is over, both of them count: eight clean ones, two that were too shallow, none that hurt. ";

/// Measure how fast a language model reads a prompt and writes, token by token
#[derive(Debug, Args)]
#[command(
    after_help = "Each round reads the prompt in one pass and then takes the likeliest token again and again, its choice \
                  included in the time. A round before the clock starts warms the machine. scripts/bench_llama.py runs this and llama.cpp \
                  on the same file, threads and ids, in turns."
)]
pub(super) struct LanguageArgs {
    /// Language model: a GGUF file, or a folder with safetensors
    #[arg(long, value_name = "PATH", default_value = ".deps/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")]
    model: PathBuf,
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=16384))]
    prompt: u32,
    /// Tokens that are written
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=16384))]
    tokens: u32,
    /// Rounds
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// auto, cpu, cuda or metal
    #[arg(long, default_value = "auto")]
    device: DeviceRequest,
    /// One JSON object: model, threads, prompt_ids, ids (written), prefill and decode (tokens a second in each round), load_seconds,
    /// resident_bytes
    #[arg(long)]
    json: bool,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    model: PathBuf,
    threads: usize,
    prompt_ids: Vec<u32>,
    /// The tokens that were written, the same in every round.
    ids: Vec<u32>,
    /// Tokens a second, round by round.
    prefill: Vec<f64>,
    decode: Vec<f64>,
    load_seconds: f64,
    resident_bytes: Option<u64>,
}

/// One round.
struct Round {
    ids: Vec<u32>,
    prefill: f64,
    decode: f64,
}

/// Runs the command.
pub(super) fn run(args: &LanguageArgs) -> Result<()> {
    let device = parts::chosen_device(args.device)?;
    let begun = Instant::now();
    // A card multiplies packed weights in a half type.
    let dtype = if device.is_cuda() { DType::BF16 } else { DType::F32 };
    let model = LanguageModel::open(&args.model, dtype, &device)
        .map_err(|e| Hinted::new(e.into(), "SmolLM2 comes with `scripts/setup.sh smollm2`"))?;
    let load_seconds = begun.elapsed().as_secs_f64();
    let (prompt, tokens) = (args.prompt as usize, args.tokens as usize);
    let context = model.decoder.config().max_positions;
    if prompt + tokens > context {
        bail!("--prompt {prompt} and --tokens {tokens}: more than the {context} positions of the model");
    }
    let once = model.tokenizer.encode(TEXT, true)?;
    if once.is_empty() {
        bail!("{}: its tokenizer makes nothing of a text", args.model.display());
    }
    let prompt_ids: Vec<u32> = once.iter().copied().cycle().take(prompt).collect();
    round(&model, &prompt_ids, tokens.min(8), &device)?;
    let mut report = Report {
        model: args.model.clone(),
        threads: rayon::current_num_threads(),
        ids: Vec::new(),
        prefill: Vec::new(),
        decode: Vec::new(),
        load_seconds,
        resident_bytes: None,
        prompt_ids,
    };
    for _ in 0..args.rounds {
        let round = round(&model, &report.prompt_ids, tokens, &device)?;
        if !report.ids.is_empty() && report.ids != round.ids {
            bail!("{}: two rounds wrote different tokens", args.model.display());
        }
        report.ids = round.ids;
        report.prefill.push(round.prefill);
        report.decode.push(round.decode);
    }
    report.resident_bytes = Memory::now().resident_bytes;
    if args.json { print_json(&report) } else { print(&report) }
}

fn round(model: &LanguageModel, prompt: &[u32], tokens: usize, device: &Device) -> Result<Round> {
    let decoder = &model.decoder;
    let mut cache = KvCache::new(decoder.config(), prompt.len() + tokens, decoder.dtype(), device)?;
    let mut pass = |ids: &[u32]| -> Result<u32> {
        let x = decoder.embed(&Tensor::new(ids, device)?.unsqueeze(0)?)?;
        let hidden = decoder.forward(&x, Some(&mut cache))?;
        let last = hidden.narrow(1, ids.len() - 1, 1)?;
        likeliest(&decoder.logits(&last)?.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?)
    };
    let begun = Instant::now();
    let mut ids = vec![pass(prompt)?];
    let prefill = prompt.len() as f64 / begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    while let (Some(last), true) = (ids.last().copied(), ids.len() < tokens + 1) {
        ids.push(pass(&[last])?);
    }
    let decode = tokens as f64 / begun.elapsed().as_secs_f64();
    ids.truncate(tokens);
    Ok(Round { ids, prefill, decode })
}

/// The first of the largest.
fn likeliest(logits: &[f32]) -> Result<u32> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let found = logits.iter().position(|l| *l == most).context("the model's logits are no numbers")?;
    Ok(u32::try_from(found)?)
}

fn print(report: &Report) -> Result<()> {
    let row = |name: &str, rates: &[f64]| {
        let each: Vec<String> = rates.iter().map(|r| format!("{r:>8.1}")).collect();
        let mean = rates.iter().sum::<f64>() / rates.len().max(1) as f64;
        format!("{name:<8}{}   mean {mean:.1} tokens/s", each.concat())
    };
    let memory = report.resident_bytes.map_or(String::new(), |b| format!(", memory {:.1} MiB", mebibytes(b as f64)));
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{}: {} tokens read, {} written, {} threads, loaded in {:.2} s{memory}\n{}\n{}",
        report.model.display(),
        report.prompt_ids.len(),
        report.ids.len(),
        report.threads,
        report.load_seconds,
        row("prefill", &report.prefill),
        row("decode", &report.decode),
    )
    .context("writing to standard output")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_largest_is_taken() {
        assert_eq!(likeliest(&[0.0, 3.0, f32::NEG_INFINITY, 3.0]).unwrap(), 1);
        assert!(likeliest(&[]).is_err());
        assert!(likeliest(&[f32::NAN]).is_err());
    }
}
