//! `spotter train`: the models that ship, from a recipe.

mod coach;
mod encoder;
mod export;
pub(crate) mod parallel;
mod recipe;
mod streams;
mod vocabulary;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use recipe::Recipe;
use std::path::PathBuf;

/// What is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The vision tower, on drawn bodies: where the joints are, what is done.
    Encoder,
    /// Projector and decoder, on whole synthetic sessions seen through the trained encoder.
    Coach,
    /// Nothing: write the trained parts as a model folder.
    Export,
}

/// Train a model from a recipe. A run that was stopped is taken up where its last checkpoint was.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  spotter train encoder --config assets/recipes/mini.toml --out runs/mini\n  \
                        spotter train coach   --config assets/recipes/mini.toml --out runs/mini\n  \
                        spotter train export  --config assets/recipes/mini.toml --out runs/mini --to assets/spotter-mini")]
pub(crate) struct TrainArgs {
    /// What to train.
    part: Part,
    /// The recipe.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Folder for checkpoints and caches.
    #[arg(long, value_name = "DIR", default_value = "runs/mini")]
    out: PathBuf,
    /// With `export`: the model folder to write.
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

/// Trains.
pub(crate) fn run(args: &TrainArgs) -> Result<()> {
    let recipe = Recipe::read(&args.config)?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("{}: can't be made", args.out.display()))?;
    match args.part {
        Part::Encoder => encoder::train(&recipe, &args.out),
        Part::Coach => coach::train(&recipe, &args.out),
        Part::Export => {
            let to = args.to.as_deref().context("export needs --to DIR, the model folder to write")?;
            export::export(&recipe, &args.out, to)
        }
    }
}

/// A progress line on stderr that hides when stderr is no terminal; plain lines now and then instead.
struct Meter {
    bar: indicatif::ProgressBar,
    every: usize,
    begun: std::time::Instant,
    first: Option<usize>,
}

impl Meter {
    fn new(total: usize, every: usize) -> Self {
        let style = "{elapsed_precise} [{bar:30}] {pos}/{len} {msg} (left: {eta})";
        let bar = indicatif::ProgressBar::new(total as u64);
        if let Ok(style) = indicatif::ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        Self { bar, every, begun: std::time::Instant::now(), first: None }
    }

    fn at(&mut self, step: usize, message: &str) {
        let first = *self.first.get_or_insert(step.saturating_sub(1));
        self.bar.set_position(step as u64);
        self.bar.set_message(message.to_owned());
        if self.bar.is_hidden() && (step.is_multiple_of(self.every) || step <= 1) {
            let rate = (step - first) as f64 / self.begun.elapsed().as_secs_f64();
            tracing::info!("step {step}: {message}; {rate:.2} steps/s");
        }
    }
}
