//! Spotter.
mod cli;
use clap::Parser;

#[derive(Parser)]
enum Cli {
    Train(cli::train::TrainArgs),
}

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::INFO).init();
    match Cli::parse() {
        Cli::Train(args) => cli::train::run(&args),
    }
}
