//! `spotter bench`: what things cost on this machine.

mod cache;
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

/// Memory of this process in bytes, where the system tells.
fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
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

    #[test]
    fn this_process_takes_memory() {
        if cfg!(target_os = "linux") {
            assert!(resident().is_some_and(|bytes| bytes > 1 << 20));
        }
    }
}
