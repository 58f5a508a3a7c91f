//! `spotter bench speculate`: what drafting brings, every way of it beside the others in one run.

mod language;
mod table;
mod verify;
mod watched;

use crate::{cli::Usage, parts};
use anyhow::{Context as _, Result};
use candle_core::{DType, Device};
use clap::Args;
use spotter_engine::{
    device::{self, DeviceRequest},
    speculate::{DrafterKind, Method, SpeculationOptions},
};
use std::path::PathBuf;

/// Measure what speculative decoding brings, or what a target's pass over several tokens costs
#[derive(Debug, Args)]
#[command(
    after_help = "All ways of drafting take turns at the same texts, so that their ratios do not depend on what else the \
                        machine does. `ratio` is plain decoding's time for a token over that of the way, prompts left \
                        out; `tau` the tokens of a round; `MBSU` the speed-up of a machine bound by memory. A coach is \
                        shown synthetic sessions and timed from the first words of an utterance to its end; any other \
                        language model answers prompts.\n\nAt temperature 0 every way must say what plain decoding \
                        says: `differing` counts texts that do not."
)]
pub(super) struct SpeculateArgs {
    /// A coach (folder, or the name of one that ships), or a language model (GGUF file, or folder with safetensors)
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// A language model that drafts; left out, the one the coach names, else only drafters without weights are measured
    #[arg(long, value_name = "PATH")]
    draft: Option<PathBuf>,
    /// Ways of drafting, as `--draft-method` takes them; trees of 6 and of 9 tokens beside chains of 6 and 8 by default
    #[arg(
        long,
        value_name = "METHOD",
        value_delimiter = ';',
        default_value = "static(2);static(4);static(6);static(8);max-prob(8);adaedl(8);rsd-c(2,1,1);rsd-c(2,2);rsd-s(2,3);rsd-s(3,2);rsd-s(3,3)+adaedl"
    )]
    method: Vec<Method>,
    /// Temperatures
    #[arg(long, value_name = "T", value_delimiter = ',', default_value = "0,1", value_parser = temperature)]
    temperature: Vec<f32>,
    /// Prompts for a language model, one a line; left out, some of everyday life
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Prompts, or sessions; left out, 8 prompts or 2 sessions
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    count: Option<u16>,
    /// Tokens of an answer at most
    #[arg(long, value_name = "N", default_value_t = 96, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    tokens: u32,
    /// Seconds of a session
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=36_000))]
    seconds: u32,
    /// Seed of sessions and of what is drawn
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Let drafting that loses time switch itself off, as it does while coaching
    #[arg(long)]
    self_defence: bool,
    /// auto, cpu, cuda or metal
    #[arg(long, default_value = "auto")]
    device: DeviceRequest,
    /// Measure a pass over several tokens against one over a single token instead; weights are noise
    #[arg(long, value_enum, value_name = "SIZE")]
    verify_cost: Option<verify::Size>,
    /// With --verify-cost: tokens of a pass
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,2,3,4,5,6,7,8,9,10,12,14,16,20,24,28,32", value_parser = clap::value_parser!(u16).range(1..=64))]
    columns: Vec<u16>,
    /// With --verify-cost: entries in the cache before a pass
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "512", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    context: Vec<u32>,
    /// With --verify-cost: times each is measured
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    repeats: u16,
    /// One JSON object a row: target, drafter, method, temperature, budget, tokens, rounds, plain_steps, tau,
    /// tokens_per_pass, acceptance, cost, mbsu, draft_ms, verify_ms (of a round), ms_per_token, plain_ms_per_token, ratio, ratio_low, ratio_high, differing;
    /// with --verify-cost: size, type, context, columns, ms, ratio
    #[arg(long)]
    json: bool,
}

fn temperature(text: &str) -> Result<f32, String> {
    let t: f32 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if (0.0..=10.0).contains(&t) { Ok(t) } else { Err(format!("{t} is out of range: 0 to 10")) }
}

/// A way of decoding.
#[derive(Clone, Debug)]
struct Way {
    drafter: DrafterKind,
    method: Method,
}

impl Way {
    fn plain() -> Self {
        Self { drafter: DrafterKind::None, method: Method::default() }
    }

    fn is_plain(&self) -> bool {
        self.drafter == DrafterKind::None
    }

    fn method_name(&self) -> String {
        if self.is_plain() { "plain".into() } else { self.method.to_string() }
    }

    fn options(&self, args: &SpeculateArgs) -> SpeculationOptions {
        SpeculationOptions {
            drafter: self.drafter.clone(),
            method: self.method.clone(),
            self_defence: args.self_defence,
            ..SpeculationOptions::default()
        }
    }
}

/// All ways in the order of the table: plain, look-up, n-grams, and all methods by the drafter, or by n-grams where there
/// is none.
fn ways(args: &SpeculateArgs, model: Option<&str>) -> Vec<Way> {
    let of = |drafter: &DrafterKind, method: &Method| Way { drafter: drafter.clone(), method: method.clone() };
    let chain = Method { shape: spotter_engine::speculate::tree::Shape::chain(4), ..Method::default() };
    let mut ways = vec![Way::plain(), of(&DrafterKind::Lookup, &chain)];
    let main = match model {
        Some(path) => {
            ways.push(of(&DrafterKind::Ngram, &Method::default()));
            DrafterKind::Model(path.to_owned())
        }
        None => DrafterKind::Ngram,
    };
    ways.extend(args.method.iter().map(|method| of(&main, method)));
    ways
}

/// Device and type: half types only where weights are noise and a card does the work.
fn place(args: &SpeculateArgs) -> Result<Device> {
    if args.device == DeviceRequest::Auto {
        return Ok(parts::device());
    }
    Ok(device::choose(args.device, Some(DType::F32))?.device)
}

/// Runs the command.
pub(super) fn run(args: &SpeculateArgs) -> Result<()> {
    let device = place(args)?;
    if let Some(size) = args.verify_cost {
        return verify::run(args, size, &device);
    }
    let is_language = args.model.as_deref().is_some_and(|path| path.exists() && !path.join("spotter.toml").exists());
    if args.prompts.is_some() && !is_language {
        return Err(Usage("--prompts is for a language model: a coach is shown sessions".into()).into());
    }
    let rows = if is_language { language::run(args, &device)? } else { watched::run(args, &device)? };
    table::print(&rows, args.json)
}

/// The drafter's path as text.
fn path_text(path: &std::path::Path) -> Result<String> {
    path.to_str().map(str::to_owned).with_context(|| format!("{}: not UTF-8", path.display()))
}

/// Says so where there is no drafter with weights.
fn warn_without_drafter(drafter: Option<&str>) {
    if drafter.is_none() {
        tracing::warn!("no drafter with weights: all methods are measured with n-grams; --draft PATH names one");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct One {
        #[command(flatten)]
        args: SpeculateArgs,
    }

    #[test]
    fn trees_and_chains_share_budgets() {
        let args = One::try_parse_from(["bench"]).unwrap().args;
        let budgets: Vec<usize> = args.method.iter().map(|m| m.shape.nodes()).collect();
        assert_eq!(budgets, [2, 4, 6, 8, 8, 8, 6, 6, 6, 6, 9]);
        let with = ways(&args, Some("folder"));
        assert_eq!((with.len(), with[0].is_plain()), (14, true));
        assert!(with[3..].iter().all(|w| w.drafter == DrafterKind::Model("folder".into())));
        let without = ways(&args, None);
        assert_eq!(without.len(), 13);
        assert!(without[2..].iter().all(|w| w.drafter == DrafterKind::Ngram));
        assert!(One::try_parse_from(["bench", "--temperature", "-1"]).is_err());
    }
}
