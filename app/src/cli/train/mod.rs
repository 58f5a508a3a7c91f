//! `spotter train`: the models that ship, from a recipe.

mod bodies;
mod coach;
mod drafter;
mod encoder;
mod export;
mod folder;
mod frames;
mod recipe;
mod skipping;
mod streams;
mod vocabulary;

use anyhow::{Context as _, Result};
use candle_core::Device;
use clap::{Args, ValueEnum};
use recipe::Recipe;
use spotter_datasets::synthetic::motion::MotionLibrary;
use spotter_engine::{
    device::{self, DeviceRequest},
    training::align::Loss,
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

/// What is trained, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The vision tower, on drawn bodies: where the joints are, what is done, how far it is, what is wrong.
    Encoder,
    /// The decoder, on what coaches say.
    Words,
    /// Projector and decoder, on whole synthetic sessions seen through the trained tower.
    Coach,
    /// All three, on the same sessions.
    Joint,
    /// The selectors of token selective attention, against the tower of a model folder (`--model`) as it is.
    Selectors,
    /// That tower and its selectors together, while tokens are skipped.
    Skipping,
    /// Nothing: write the trained parts as a model folder.
    Export,
    /// A small language model that drafts for a target, in stages of its own (`--stage`).
    Drafter,
}

/// Train a model from a recipe. A run that was stopped is taken up where its last checkpoint was.
#[derive(Debug, Args)]
#[command(after_help = "Example, with PART = encoder, words, coach, joint in turn:\n  \
                        spotter train PART   --config assets/recipes/mini.toml --out runs/mini\n  \
                        spotter train export --config assets/recipes/mini.toml --out runs/mini --to runs/mini/dense\n\n\
                        A tower that skips tokens, for any model folder (CLIP, SigLIP or Spotter's own):\n  \
                        spotter train selectors --model DIR --out runs/tosa\n  \
                        spotter train skipping  --model DIR --out runs/tosa --to runs/tosa/model\n  \
                        spotter train export    --model DIR --out runs/tosa --to OTHER --tosa 0.5\n\n\
                        A drafter for a coach, or for any language model (`scripts/setup.sh smollm2` fetches one):\n  \
                        spotter train drafter --config assets/recipes/drafter-mini.toml --out runs/drafter \\\n    \
                        --target assets/spotter-mini --loss kl,tvd,tvd++ [--adapter 4] --to runs/drafter/folder\n  \
                        spotter replay session.mp4 --draft runs/drafter/folder")]
pub(crate) struct TrainArgs {
    /// What to train.
    part: Part,
    /// The recipe; `selectors`, `skipping` and `export --model` do without.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder for checkpoints.
    #[arg(long, value_name = "DIR", default_value = "runs/mini")]
    out: PathBuf,
    /// Folder of recorded motion (`ui_prmd_25hz.safetensors` and `cmu/`), mixed in as the recipe says.
    #[arg(long, value_name = "DIR")]
    motion: Option<PathBuf>,
    /// Where to train: auto, cpu, cuda or metal.
    #[arg(long, default_value = "auto")]
    device: DeviceRequest,
    /// End after so many minutes, preparation included, with fewer steps than the recipe says if need be.
    #[arg(long, value_name = "MINUTES", value_parser = minutes)]
    minutes: Option<Duration>,
    /// With `export`, `selectors`, `skipping` or `drafter`: the model folder to write. With several losses the one accepted
    /// most often.
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    #[command(flatten)]
    tosa: skipping::TosaTrainArgs,
    /// With `drafter`: a coach's folder, or a language model (GGUF file, or folder with safetensors).
    #[arg(long, value_name = "PATH")]
    target: Option<PathBuf>,
    /// With `drafter`: a stage by itself.
    #[arg(long, value_enum, default_value_t)]
    stage: drafter::Stage,
    /// With `drafter`: kl, reverse-kl, jsd, tvd, tvd++, tvd++sequence, tvd++position or tvd++sampled; each is trained
    /// from the same beginning with as many steps.
    #[arg(long, value_name = "LOSS", value_delimiter = ',', default_value = "tvd++")]
    loss: Vec<Loss>,
    /// With `drafter`, for a coach: visual tokens, pooled from the newest frames, that it reads before an utterance; 0 for text
    /// only. It is trained beside one that reads text only, on the same texts. Left out, what the recipe says.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=16))]
    adapter: Option<u8>,
    /// With `drafter`: plain text to be read at first, instead of what coach or target say.
    #[arg(long, value_name = "FILE")]
    text: Vec<PathBuf>,
}

impl TrainArgs {
    /// The recipe, which most parts need.
    fn config(&self) -> Result<&Path> {
        self.config.as_deref().context("--config FILE is missing; a recipe lies at assets/recipes/mini.toml")
    }
}

fn minutes(text: &str) -> Result<Duration, String> {
    let expected = || format!("'{text}' is no number of minutes above 0 and up to a week");
    let minutes: f64 = text.parse().map_err(|_| expected())?;
    if minutes > 0.0 && minutes <= 7.0 * 24.0 * 60.0 {
        Ok(Duration::from_secs_f64(minutes * 60.0))
    } else {
        Err(expected())
    }
}

/// Where and with what a part is trained.
struct Run {
    out: PathBuf,
    device: Device,
    library: Option<Arc<MotionLibrary>>,
    /// When the part ends at the latest.
    until: Option<Instant>,
    /// Threads that train.
    workers: usize,
    /// Threads that prepare data.
    makers: usize,
}

impl Run {
    fn new(args: &TrainArgs) -> Result<Self> {
        let until = args.minutes.map(|m| Instant::now() + m);
        let choice = device::choose(args.device, None)?;
        tracing::info!("device: {}", choice.reason);
        let library = match &args.motion {
            Some(dir) => Some(Arc::new(MotionLibrary::load(dir)?)),
            None => None,
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        // On a card one thread feeds it; the products may be rounded to 10 bits of mantissa, which training never feels.
        let workers = if choice.device.is_cpu() { crate::parallel::workers() } else { 1 };
        candle_core::cuda::set_gemm_reduced_precision_f32(true);
        Ok(Self { out: args.out.clone(), device: choice.device, library, until, workers, makers: threads })
    }
}

/// Trains.
pub(crate) fn run(args: &TrainArgs) -> Result<()> {
    let recipe = || -> Result<Recipe> {
        let recipe = Recipe::read(args.config()?)?;
        std::fs::create_dir_all(&args.out).with_context(|| format!("{}: can't be made", args.out.display()))?;
        Ok(recipe)
    };
    match args.part {
        Part::Encoder => encoder::train(&recipe()?, &Run::new(args)?),
        Part::Words => coach::words(&recipe()?, &Run::new(args)?),
        Part::Coach => coach::coach(&recipe()?, &Run::new(args)?),
        Part::Joint => coach::joint(&recipe()?, &Run::new(args)?),
        Part::Selectors => skipping::selectors(args),
        Part::Skipping => skipping::skipping(args),
        Part::Export if args.tosa.model.is_some() => skipping::export(args),
        Part::Export => {
            let to = args.to.as_deref().context("export needs --to DIR, the model folder to write")?;
            export::export(&recipe()?, &args.out, to)
        }
        Part::Drafter => drafter::run(args),
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
