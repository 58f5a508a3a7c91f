//! `spotter bench`: what things cost on this machine.

mod cache;
mod language;
mod noise;
mod session;
mod speculate;
mod text;
mod tosa;

use clap::{Args, Subcommand};

/// Measure what things cost on this machine.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Cache(cache::CacheArgs),
    Language(language::LanguageArgs),
    Session(session::SessionArgs),
    Speculate(Box<speculate::SpeculateArgs>),
    Text(text::TextArgs),
    Tosa(tosa::TosaArgs),
}

/// Runs the command.
///
/// # Errors
/// A model that can't be used, or a cache that does not fit it.
pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    match &args.command {
        Command::Cache(args) => cache::run(args),
        Command::Language(args) => language::run(args),
        Command::Session(args) => session::run(args),
        Command::Speculate(args) => speculate::run(args),
        Command::Text(args) => text::run(args),
        Command::Tosa(args) => tosa::run(args),
    }
}

/// The value below which a share of the numbers lies; 0 of none.
fn quantile(numbers: &mut [f64], share: f64) -> f64 {
    if numbers.is_empty() {
        return 0.0;
    }
    let at = ((numbers.len() - 1) as f64 * share).round() as usize;
    *numbers.select_nth_unstable_by(at, f64::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles() {
        let mut numbers = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!(quantile(&mut numbers, 0.0), 1.0);
        assert_eq!(quantile(&mut numbers, 0.5), 3.0);
        assert_eq!(quantile(&mut numbers, 1.0), 5.0);
        assert_eq!(quantile(&mut [], 0.5), 0.0);
    }
}
