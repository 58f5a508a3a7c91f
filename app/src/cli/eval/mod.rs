//! `spotter eval`: models scored as QEVD scores them, beside controls that never look.

mod clips;
mod compare;
mod merge;
mod prepare;
mod resources;
mod run;
mod sweep;
#[cfg(feature = "training")]
pub(crate) mod synthetic;

use anyhow::Result;
use clap::{Args, Subcommand};

/// Score a model, or a file of predictions, on QEVD
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "The report stands in the folder --out: report.json, report.csv, report.html (one page that needs nothing else) and \
                  predictions.json in the form of the 2026 challenge. A run that was stopped goes on where it was.\n\n\
                  Examples:\n  \
                  spotter synth --out data --sessions 5 && spotter eval data/QEVD-FIT-COACH --lens none\n  \
                  spotter eval QEVD-FIT-COACH-Benchmark --protocol var2026 --predictions theirs.json\n  \
                  spotter eval QEVD-FIT-COACH-Benchmark --bert roberta-large\n  \
                  spotter eval QEVD-FIT-COACH-Benchmark --shuffled --out control    everybody sees another's video\n  \
                  spotter eval QEVD-FIT-COACH-Benchmark --shard 1/4 --out part1      one of four machines\n  \
                  spotter eval merge --out whole part1 part2 part3 part4"
)]
pub(crate) struct EvalArgs {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: run::RunArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    Merge(merge::MergeArgs),
    Compare(compare::CompareArgs),
    Sweep(sweep::SweepArgs),
    Clips(clips::ClipsArgs),
    #[cfg(feature = "training")]
    Synthetic(Box<synthetic::SyntheticArgs>),
}

/// Runs the command.
///
/// # Errors
/// Data, a model or predictions that can't be used; a judge that does not answer; files that can't be written.
pub(crate) fn run(args: &EvalArgs) -> Result<()> {
    match &args.command {
        None => run::run(&args.run),
        Some(Command::Merge(args)) => merge::run(args),
        Some(Command::Compare(args)) => compare::run(args),
        Some(Command::Sweep(args)) => sweep::run(args),
        Some(Command::Clips(args)) => clips::run(args),
        #[cfg(feature = "training")]
        Some(Command::Synthetic(args)) => synthetic::run(args),
    }
}

/// Prints text of a report as it is.
fn print_text(text: &str) -> Result<()> {
    use std::io::Write as _;
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}
