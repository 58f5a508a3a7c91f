//! `spotter models quantize`: a language model as one GGUF file, and what sees for it as another.

use crate::cli::print_json;
use anyhow::{Context as _, Result, bail};
use clap::{Args, builder::PossibleValuesParser};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use spotter_engine::gguf::{Quantised, SHAPES, Source, Target, Wanted, quantise};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Arguments of `spotter models quantize`.
#[derive(Args, Debug)]
#[command(
    after_help = "The file is laid out as llama.cpp's own, tokenizer and chat template included, and llama.cpp reads it as well as \
                  Spotter. What makes the logits gets six bits at least; rows that do not go into blocks of 256 get the next type \
                  with blocks of 32. A LLaVA folder becomes two files: OUT, and mmproj-OUT with tower and projector.\n\n\
                  Examples:\n  \
                  spotter models quantize SmolLM2-360M smol-q4.gguf --type q4_k\n  \
                  spotter models quantize llava-1.5-7b-hf llava.gguf --type q4_k    and mmproj-llava.gguf in f16\n  \
                  spotter models quantize smollm2.gguf 1b-q8.gguf --type q8_0 --random 1b   weights by chance, to measure speed"
)]
pub(super) struct QuantizeArgs {
    /// Folder with config.json, tokenizer.json and safetensors, of a language model or a LLaVA, or a GGUF file
    source: PathBuf,
    /// File to write
    out: PathBuf,
    /// How weights are packed
    #[arg(long = "type", value_name = "TYPE", value_parser = PossibleValuesParser::new(Target::ALL.map(Target::name)))]
    target: String,
    /// The same for tower and projector of a LLaVA model [default: f16]
    #[arg(long, value_name = "TYPE", value_parser = PossibleValuesParser::new(Target::ALL.map(Target::name)))]
    mmproj_type: Option<String>,
    /// Weights by chance of such a shape in the place of the source's, with its tokenizer
    #[arg(long, value_name = "SHAPE", value_parser = PossibleValuesParser::new(SHAPES))]
    random: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    file: &'a Path,
    numbers: usize,
    bytes: usize,
    bits_per_number: f64,
    /// Tensors of each type.
    types: &'a BTreeMap<String, usize>,
    /// The file with tower and projector.
    mmproj: Option<Box<Self>>,
}

impl<'a> Report<'a> {
    fn new(made: &'a Quantised) -> Self {
        Self {
            file: &made.file,
            numbers: made.numbers,
            bytes: made.bytes,
            bits_per_number: made.bytes as f64 * 8.0 / made.numbers.max(1) as f64,
            types: &made.types,
            mmproj: made.mmproj.as_deref().map(|made| Box::new(Self::new(made))),
        }
    }

    fn text(&self) -> String {
        let types: Vec<String> = self.types.iter().map(|(name, n)| format!("{n} {name}")).collect();
        let line = format!(
            "{}: {}, {}, {:.2} bits a number, tensors: {}",
            self.file.display(),
            super::millions(self.numbers),
            super::mebibytes(self.bytes),
            self.bits_per_number,
            types.join(", ")
        );
        match &self.mmproj {
            Some(mmproj) => format!("{line}\n{}", mmproj.text()),
            None => line,
        }
    }
}

/// Writes the file.
///
/// # Errors
/// A file that is there already, a model that can't be read or has no place in a GGUF file.
pub(super) fn run(args: &QuantizeArgs) -> Result<()> {
    let named = |name: &str| {
        let target = Target::ALL.into_iter().find(|target| target.name() == name);
        target.with_context(|| format!("{name} is no type"))
    };
    let mut wanted = Wanted::from(named(&args.target)?);
    if let Some(name) = &args.mmproj_type {
        wanted.mmproj = named(name)?;
    }
    if args.out.exists() {
        bail!("{} is there already: name another file, or remove it first", args.out.display());
    }
    let source = match &args.random {
        Some(shape) => Source::Random(&args.source, shape),
        None => Source::Model(&args.source),
    };
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{elapsed_precise} [{bar:30}] {pos}/{len} tensors (left: {eta})") {
        bar.set_style(style);
    }
    let made = quantise(&source, &args.out, wanted, &mut |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    let report = Report::new(&made);
    if args.json { print_json(&report) } else { super::print(&report.text()) }
}
