//! `spotter bench tosa`: what skipping tokens saves an encoder, and what it costs a coach.

#[cfg(feature = "training")]
mod quality;
mod towers;

use super::quantile;
use crate::cli::print_json;
use anyhow::{Context as _, Result, bail};
use candle_core::{DType, Tensor};
use clap::Args;
#[cfg(feature = "training")]
use quality::Coached;
use serde::Serialize;
use spotter_engine::device::{self, DeviceRequest};
use spotter_vision::encoder::tosa::{Memory, Ranking, Tosa, TosaOptions};
use std::{io::Write as _, path::PathBuf, time::Instant};
use towers::{Setup, Size};

/// Measure what token selective attention saves an encoder
#[derive(Debug, Args)]
#[command(
    after_help = "Dense, ToSA and the controls take turns in one run, so that their ratios do not depend on what else the machine \
                        does. MACs are counted, times are medians of one batch. Ways of choosing: selector (ToSA), oracle (the true \
                        map of the layer, which costs more than it saves), previous (the map of the layer before), chance; with reuse a stream's \
                        skipped tokens get the update they got last, and change is what has moved since.\n\n\
                        Quality: every session is coached once in each way; a row has the means over sessions and, in brackets, the mean \
                        difference to dense with the range in which 95 of 100 means of sessions drawn again lie. Runs of other ratios, ways or \
                        seeds can be joined by their JSON rows, which carry the sessions."
)]
pub(super) struct TosaArgs {
    /// Towers to measure
    #[arg(long, value_enum, value_delimiter = ',', default_value = "mini")]
    size: Vec<Size>,
    /// Shares of the tokens that selective layers work on
    #[arg(long, value_name = "RATIO", value_delimiter = ',', default_value = "0.9,0.8,0.7,0.5,0.3", value_parser = ratio)]
    ratio: Vec<f64>,
    /// Pictures in a batch, one table each
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u16).range(1..=256))]
    batch: Vec<u16>,
    /// Times each is measured
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..=1000))]
    repeats: u16,
    /// Ways of choosing: that of this name, or else those whose names begin so; all if left out. Dense is always measured
    #[arg(long, value_name = "WAY", value_delimiter = ',')]
    way: Vec<String>,
    /// Where to measure times: auto, cpu, cuda or metal
    #[arg(long, default_value = "auto")]
    device: DeviceRequest,
    /// Type of the numbers: f32, f16 or bf16; selectors always have f32
    #[arg(long, default_value = "f32", value_parser = dtype)]
    dtype: DType,
    /// Model folder for `mini`
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// The model before its tower was trained to skip, for the row of dense quality; the same as --model if left out
    #[cfg(feature = "training")]
    #[arg(long, value_name = "DIR")]
    dense: Option<PathBuf>,
    /// Also coach this many held-out synthetic sessions with each way of choosing (`mini` with a model that has selectors)
    #[cfg(feature = "training")]
    #[arg(long, value_name = "N", default_value_t = 0)]
    sessions: usize,
    /// Seed of the first of them
    #[cfg(feature = "training")]
    #[arg(long, value_name = "N", default_value_t = 6000)]
    seed: u64,
    /// One JSON object a row: size, device, dtype, batch, ratio, way, tokens, macs, dense_macs, dense_ms, ms, speedup, quality
    #[arg(long)]
    json: bool,
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if ratio > 0.0 && ratio <= 1.0 { Ok(ratio) } else { Err(format!("{ratio}: expected above 0 and at most 1")) }
}

fn dtype(text: &str) -> Result<DType, String> {
    match text {
        "f32" => Ok(DType::F32),
        "f16" => Ok(DType::F16),
        "bf16" => Ok(DType::BF16),
        _ => Err(format!("`{text}`: expected f32, f16 or bf16")),
    }
}

/// A way of choosing.
#[derive(Clone, Copy, Debug)]
struct Way {
    name: &'static str,
    ranking: Ranking,
    /// A stream's skipped tokens get the update they got last.
    reuse: bool,
}

const fn way(name: &'static str, ranking: Ranking, reuse: bool) -> Way {
    Way { name, ranking, reuse }
}

const WAYS: [Way; 7] = [
    way("selector", Ranking::Selector, false),
    way("oracle", Ranking::Oracle, false),
    way("previous", Ranking::Previous, false),
    way("chance", Ranking::Random(1), false),
    way("selector, reuse", Ranking::Selector, true),
    way("change, reuse", Ranking::Change, true),
    way("chance, reuse", Ranking::Random(1), true),
];

/// Whether a way is meant: `selector` is a name of its own and the beginning of another.
fn named(way: &str, name: &str) -> bool {
    way == name || (way.starts_with(name) && !WAYS.iter().any(|w| w.name == name))
}

/// One row of the table.
#[derive(Debug, Serialize)]
struct Row {
    size: String,
    device: &'static str,
    dtype: &'static str,
    batch: u16,
    ratio: f64,
    way: &'static str,
    tokens: u64,
    macs: u64,
    dense_macs: u64,
    dense_ms: f64,
    ms: f64,
    /// Dense over this way.
    speedup: f64,
    #[cfg(feature = "training")]
    #[serde(skip_serializing_if = "Option::is_none")]
    quality: Option<quality::Quality>,
}

/// Runs the command.
pub(super) fn run(args: &TosaArgs) -> Result<()> {
    let ways: Vec<Way> = WAYS
        .into_iter()
        .filter(|way| args.way.is_empty() || args.way.iter().any(|name| named(way.name, name)))
        .collect();
    if ways.is_empty() {
        let names: Vec<&str> = WAYS.iter().map(|w| w.name).collect();
        bail!("--way {}: expected one of {}", args.way.join(","), names.join("; "));
    }
    let device = device::choose(args.device, None)?.device;
    for size in &args.size {
        let mut setup = Setup::new(*size, args.model.as_deref(), args.dtype, &device)?;
        #[cfg(feature = "training")]
        let coached = Coached::play(args, *size, &ways)?;
        for (index, batch) in args.batch.iter().enumerate() {
            let input = setup.input(usize::from(*batch))?;
            for (at, ratio) in args.ratio.iter().enumerate() {
                #[cfg_attr(not(feature = "training"), allow(unused_mut))]
                let mut rows = rows(args, &mut setup, (*batch, &input), &ways, *ratio)?;
                // How it coaches does not depend on the batch that is timed.
                #[cfg(feature = "training")]
                if let Some(coached) = coached.as_ref().filter(|_| index == 0) {
                    for (row, quality) in rows.iter_mut().zip(coached.rows(at)) {
                        row.quality = Some(quality);
                    }
                }
                // Dense is the same at every ratio.
                let first = usize::from(at > 0);
                rows.iter().skip(first).try_for_each(|row| if args.json { print_json(row) } else { print(row) })?;
            }
            let _ = index;
        }
    }
    Ok(())
}

/// Dense and each way at a ratio.
fn rows(
    args: &TosaArgs,
    setup: &mut Setup,
    (batch, input): (u16, &Tensor),
    ways: &[Way],
    ratio: f64,
) -> Result<Vec<Row>> {
    let options = TosaOptions { ratio, ..setup.options.clone() };
    let times = times(args, setup, input, ways, &options)?;
    let shape = setup.shape;
    let dense_macs = shape.cost(&options).dense;
    let dense_ms = times.first().copied().unwrap_or(f64::NAN);
    let row = |ratio: f64, way: &'static str, macs: u64, ms: f64| Row {
        size: setup.name.clone(),
        device: if input.device().is_cpu() { "cpu" } else { "card" },
        dtype: args.dtype.as_str(),
        batch,
        ratio,
        way,
        tokens: shape.tokens,
        macs,
        dense_macs,
        dense_ms,
        ms,
        speedup: dense_ms / ms,
        #[cfg(feature = "training")]
        quality: None,
    };
    let mut all = vec![row(1.0, "dense", dense_macs, dense_ms)];
    for (way, ms) in ways.iter().zip(times.iter().skip(1)) {
        let options = TosaOptions { reuse: way.reuse, ..options.clone() };
        let cost = shape.cost(&options);
        let without = cost.selective - shape.selectors(&options);
        let macs = match way.ranking {
            Ranking::Selector => cost.selective,
            Ranking::Oracle => without + shape.oracle(&options),
            Ranking::Previous | Ranking::Random(_) | Ranking::Change => without,
        };
        all.push(row(ratio, way.name, macs, *ms));
    }
    Ok(all)
}

/// Medians of dense and of each way, which take turns; milliseconds.
fn times(args: &TosaArgs, setup: &mut Setup, input: &Tensor, ways: &[Way], options: &TosaOptions) -> Result<Vec<f64>> {
    let tosa = Tosa::new(options, setup.tower.outline(), &setup.selectors())?;
    let chosen = ways.iter().map(|w| Some(tosa.varied(options.ratio, w.reuse, w.ranking)));
    let chosen: Vec<Option<Tosa>> = std::iter::once(None).chain(chosen).collect();
    let mut memories = vec![Memory::default(); chosen.len()];
    let mut times = vec![Vec::new(); chosen.len()];
    // The first round fills the memories.
    for round in 0..=args.repeats {
        for ((way, memory), times) in chosen.iter().zip(&mut memories).zip(&mut times) {
            setup.tower.set_tosa(way.clone());
            let begun = Instant::now();
            setup.tower.follow(input, Some(memory))?;
            input.device().synchronize()?;
            if round > 0 {
                times.push(begun.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    setup.tower.set_tosa(None);
    Ok(times.iter_mut().map(|t| quantile(t, 0.5)).collect())
}

fn print(row: &Row) -> Result<()> {
    #[cfg(feature = "training")]
    let quality = row.quality.as_ref().map(ToString::to_string).unwrap_or_default();
    #[cfg(not(feature = "training"))]
    let quality = "";
    let mut out = std::io::stdout().lock();
    let line = format!(
        "{:<10} {} {} x{:<3} {:>4} tokens  r {:.1}  {:<16} MACs {:>6.1} %  {:>9.2} ms  {:>5.2} times  {quality}",
        row.size,
        row.device,
        row.dtype,
        row.batch,
        row.tokens,
        row.ratio,
        row.way,
        row.macs as f64 / row.dense_macs as f64 * 100.0,
        row.ms,
        row.speedup,
    );
    writeln!(out, "{}", line.trim_end()).context("writing to standard output")
}
