//! `spotter bench speculate`: what drafting brings, every way of it beside the others in one run.

mod language;
mod table;
mod verify;
mod watched;

use crate::{
    cli::{
        Usage,
        coaching::{share, temperature},
    },
    parts,
};
use anyhow::{Context as _, Result};
use clap::Args;
use spotter_engine::{
    device::DeviceRequest,
    speculate::{
        DrafterKind, Method, SpeculationOptions,
        adaedl::{Rule, StopOptions},
    },
};
use std::path::{Path, PathBuf};

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
    /// A coach (folder, or the name of one that ships), or a language model (GGUF file, or folder with safetensors); given
    /// several times, all are measured in one run
    #[arg(long, value_name = "PATH")]
    model: Vec<PathBuf>,
    /// A language model that drafts, one for each --model in their order; left out, the one the coach names, else only
    /// drafters without weights are measured
    #[arg(long, value_name = "PATH")]
    draft: Vec<PathBuf>,
    /// Ways of drafting, as `--draft-method` takes them; trees of 6 and of 9 tokens beside chains of 6 and 8 by default
    #[arg(
        long,
        value_name = "METHOD",
        value_delimiter = ';',
        default_value = "static(2);static(4);static(6);static(8);max-prob(8);tiers(8);adaedl(8);rsd-c(2,1,1);rsd-c(2,2);rsd-s(2,3);rsd-s(3,2);rsd-s(3,3)+adaedl"
    )]
    method: Vec<Method>,
    /// Settings of the stopping rule, in the words of `[speculation.stop]`, such as `lambda=0.6,aim=0.8`: each adds a row for
    /// every method that stops by adaedl or max-prob
    #[arg(long, value_name = "KEY=VALUE,...", value_parser = stop)]
    stop: Vec<Stop>,
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
    /// Draw from so many of the likeliest tokens only; 0 is all
    #[arg(long, value_name = "N", default_value_t = 0)]
    top_k: usize,
    /// Draw from the likeliest tokens that together reach this probability only
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = share)]
    top_p: f32,
    /// In all rows let drafting that loses time switch itself off, as it does while coaching; left out, one row does
    #[arg(long)]
    self_defence: bool,
    /// auto, cpu, cuda or metal
    #[arg(long, default_value = "auto")]
    device: DeviceRequest,
    /// Measure a pass over several tokens against one over a single token instead; weights are noise
    #[arg(long, value_enum, value_name = "SIZE")]
    verify_cost: Option<verify::Size>,
    /// With --verify-cost: tokens of a pass
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,2,3,4,5,6,7,8,9,10,12,14,16,20,24,28,32", value_parser = clap::value_parser!(u16).range(1..=1024))]
    columns: Vec<u16>,
    /// With --verify-cost: entries in the cache before a pass
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "512", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    context: Vec<u32>,
    /// With --verify-cost: times each is measured
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    repeats: u16,
    /// One JSON object a row: target, drafter, method, temperature, budget, tokens, rounds, plain_steps, proposed, accepted,
    /// wasted, by_depth (drafted and accepted), tau, tau_low, tau_high, tokens_per_pass, acceptance, cost, mbsu, draft_ms, verify_ms (of a round), ms_per_token, plain_ms_per_token, ratio, ratio_low, ratio_high, switched_off, differing;
    /// with --verify-cost: size, type, context, columns, ms, ratio, gigabytes_a_second, and on a card launched_ms and read_ms (what was not drafted)
    #[arg(long)]
    json: bool,
}

/// Settings of the stopping rule that were asked for.
#[derive(Clone, Debug)]
struct Stop {
    options: StopOptions,
    name: String,
}

fn stop(text: &str) -> Result<Stop, String> {
    let lines = text.replace(',', "\n");
    let options: StopOptions = toml::from_str(&lines).map_err(|e| e.message().to_owned())?;
    match options.problem() {
        Some(problem) => Err(problem),
        None => Ok(Stop { options, name: text.replace(',', " ") }),
    }
}

/// A way of decoding.
#[derive(Clone, Debug)]
struct Way {
    drafter: DrafterKind,
    method: Method,
    stop: StopOptions,
    /// What the settings of the stopping rule are called, where they are not the usual ones.
    stop_name: String,
    self_defence: bool,
}

/// A target, and the language model that drafts for it.
#[derive(Clone, Copy)]
struct Pair<'a> {
    model: Option<&'a Path>,
    draft: Option<&'a Path>,
}

impl Way {
    fn plain() -> Self {
        Self::of(&DrafterKind::None, &Method::default())
    }

    fn of(drafter: &DrafterKind, method: &Method) -> Self {
        Self {
            drafter: drafter.clone(),
            method: method.clone(),
            stop: StopOptions::default(),
            stop_name: String::new(),
            self_defence: false,
        }
    }

    fn is_plain(&self) -> bool {
        self.drafter == DrafterKind::None
    }

    fn method_name(&self) -> String {
        match (self.is_plain(), self.self_defence) {
            (true, _) => "plain".into(),
            (false, true) => format!("{} self-defence", self.method),
            (false, false) => format!("{} {}", self.method, self.stop_name).trim_end().to_owned(),
        }
    }

    fn options(&self) -> SpeculationOptions {
        SpeculationOptions {
            drafter: self.drafter.clone(),
            method: self.method.clone(),
            stop: self.stop,
            self_defence: self.self_defence,
            ..SpeculationOptions::default()
        }
    }
}

/// All ways in the order of the table: plain, look-up, n-grams, and all methods by the drafter, or by n-grams where there
/// is none; those that stop once more with other settings; and the target's own method as it is while coaching, ready to
/// switch itself off.
fn ways(args: &SpeculateArgs, model: Option<&str>, own: &SpeculationOptions) -> Vec<Way> {
    let of =
        |drafter: &DrafterKind, method: &Method| Way { self_defence: args.self_defence, ..Way::of(drafter, method) };
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
    for method in args.method.iter().filter(|method| matches!(method.rule, Rule::Entropy | Rule::Confidence)) {
        let with = |stop: &Stop| Way { stop: stop.options, stop_name: stop.name.clone(), ..of(&main, method) };
        ways.extend(args.stop.iter().map(with));
    }
    if !args.self_defence {
        ways.push(Way { self_defence: true, stop: own.stop, ..of(&main, &own.method) });
    }
    ways
}

/// Runs the command.
pub(super) fn run(args: &SpeculateArgs) -> Result<()> {
    let device = parts::chosen_device(args.device)?;
    if let Some(size) = args.verify_cost {
        return verify::run(args, size, &device);
    }
    let mut rows = Vec::new();
    for pair in pairs(args)? {
        let is_language = pair.model.is_some_and(|path| path.exists() && !is_coach(path));
        if !is_language && args.prompts.is_some() {
            let problem = "--prompts is for language models: a coach is shown sessions";
            return Err(Usage(problem.into()).into());
        }
        let measure = if is_language { language::run } else { watched::run };
        rows.extend(measure(args, pair, &device)?);
    }
    table::print(&rows, args.json)
}

/// A folder with a manifest, or with a tower in its configuration.
fn is_coach(path: &Path) -> bool {
    let config = std::fs::read(path.join("config.json")).unwrap_or_default();
    let sees = serde_json::from_slice::<serde_json::Value>(&config).is_ok_and(|c| c.get("vision_config").is_some());
    sees || path.join("spotter.toml").exists()
}

/// Targets with their drafters.
fn pairs(args: &SpeculateArgs) -> Result<Vec<Pair<'_>>> {
    let models = args.model.len().max(1);
    if !args.draft.is_empty() && args.draft.len() != models {
        let (n, drafts) = (models, args.draft.len());
        return Err(Usage(format!("{drafts} times --draft for {n} models: give one for each, or none")).into());
    }
    Ok((0..models)
        .map(|i| Pair {
            model: args.model.get(i).map(PathBuf::as_path),
            draft: args.draft.get(i).map(PathBuf::as_path),
        })
        .collect())
}

/// The drafter's path as text.
fn path_text(path: &Path) -> Result<String> {
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
        assert_eq!(budgets, [2, 4, 6, 8, 8, 8, 8, 6, 6, 6, 6, 9]);
        let own = SpeculationOptions::default();
        let with = ways(&args, Some("folder"), &own);
        assert_eq!((with.len(), with[0].is_plain()), (16, true));
        assert!(with[3..].iter().all(|w| w.drafter == DrafterKind::Model("folder".into())));
        assert_eq!(with.iter().filter(|w| w.self_defence).count(), 1);
        assert_eq!(with[15].method_name(), "adaedl(8) self-defence");
        let without = ways(&args, None, &own);
        assert_eq!(without.len(), 15);
        assert!(without[2..].iter().all(|w| w.drafter == DrafterKind::Ngram));
        let sweep = [
            "bench",
            "--method",
            "adaedl(8);static(2);max-prob(4)",
            "--stop",
            "lambda=0.6,aim=0.8",
            "--stop",
            "step=0.1",
        ];
        let names: Vec<String> = ways(&One::try_parse_from(sweep).unwrap().args, Some("folder"), &own)
            .iter()
            .map(Way::method_name)
            .collect();
        assert_eq!(
            names[3..],
            [
                "adaedl(8)",
                "static(2)",
                "max-prob(4)",
                "adaedl(8) lambda=0.6 aim=0.8",
                "adaedl(8) step=0.1",
                "max-prob(4) lambda=0.6 aim=0.8",
                "max-prob(4) step=0.1",
                "adaedl(8) self-defence"
            ]
        );
        for bad in ["lambda=2", "lamda=0.5", "lambda"] {
            assert!(One::try_parse_from(["bench", "--stop", bad]).is_err(), "{bad}");
        }
        assert!(One::try_parse_from(["bench", "--temperature", "-1"]).is_err());
        assert!(One::try_parse_from(["bench", "--top-p", "0"]).is_err());
        let all = One::try_parse_from(["bench", "--self-defence"]).unwrap().args;
        let all = ways(&all, None, &own);
        assert!(all.len() == 14 && all[1..].iter().all(|w| w.self_defence));
    }

    #[test]
    fn each_target_has_its_drafter() {
        let of = |args: &[&str]| {
            let args = One::try_parse_from([&["bench"], args].concat()).unwrap().args;
            let text = |path: Option<&Path>| path.map(|p| p.to_string_lossy().into_owned());
            pairs(&args).map(|pairs| pairs.iter().map(|p| (text(p.model), text(p.draft))).collect::<Vec<_>>())
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(of(&[]).unwrap(), [(None, None)]);
        assert_eq!(of(&["--draft", "d"]).unwrap(), [(None, some("d"))]);
        let two = of(&["--model", "a", "--draft", "x", "--model", "b", "--draft", "y"]).unwrap();
        assert_eq!(two, [(some("a"), some("x")), (some("b"), some("y"))]);
        assert!(of(&["--model", "a", "--model", "b", "--draft", "y"]).unwrap_err().to_string().contains("2 models"));
    }
}
