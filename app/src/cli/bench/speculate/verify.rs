//! What a pass over several tokens costs against one over a single token: of a speed-up at a given block efficiency, the
//! part that the machine decides.

use super::{
    super::{noise::Noise, quantile},
    SpeculateArgs,
};
use crate::cli::print_json;
use anyhow::{Context as _, Result};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use clap::ValueEnum;
use serde::Serialize;
use spotter_engine::model::{Decoder, DecoderConfig, HfDecoderConfig, KvCache, Mode};
use std::{io::Write as _, time::Instant};

/// A decoder to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Size {
    /// The shape of SmolLM2 135M
    #[value(name = "smollm2-135m")]
    Smollm2,
    /// The shape of Llama 3.2 1B
    #[value(name = "llama-1b")]
    Llama1b,
    /// The shape of Llama 2 7B, Vicuna 7B and LLaVA 1.5 7B
    #[value(name = "llama-7b")]
    Llama7b,
}

/// One row of the table.
#[derive(Debug, Serialize)]
struct Row {
    size: String,
    r#type: &'static str,
    context: usize,
    columns: usize,
    /// Median of a pass, logits on the processor.
    ms: f64,
    /// Against one column.
    ratio: f64,
    /// Median with every kernel launched by itself, in the same run; on a card only.
    #[serde(skip_serializing_if = "Option::is_none")]
    launched_ms: Option<f64>,
    /// Median of reading as many tokens that were not drafted, logits of the last; on a card only.
    #[serde(skip_serializing_if = "Option::is_none")]
    read_ms: Option<f64>,
    /// Weights read a second, if each is read once.
    gigabytes_a_second: f64,
}

fn config(size: Size) -> Result<DecoderConfig> {
    let (vocab, width, mlp, layers, heads, kv_heads) = match size {
        Size::Smollm2 => (49_152, 576, 1536, 30, 9, 3),
        Size::Llama1b => (128_256, 2048, 8192, 16, 32, 8),
        Size::Llama7b => (32_000, 4096, 11_008, 32, 32, 32),
    };
    let hf = serde_json::json!({
        "model_type": "llama", "vocab_size": vocab, "hidden_size": width, "intermediate_size": mlp,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "max_position_embeddings": 1 << 17, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0,
        "tie_word_embeddings": size != Size::Llama7b, "hidden_act": "silu",
    });
    Ok(DecoderConfig::from_hf(&serde_json::from_value::<HfDecoderConfig>(hf)?, "")?)
}

/// Runs the measurement.
pub(super) fn run(args: &SpeculateArgs, size: Size, device: &Device) -> Result<()> {
    let dtype = if device.is_cpu() { DType::F32 } else { DType::BF16 };
    let most = args.columns.iter().copied().max().unwrap_or(1) as usize;
    let longest = args.context.iter().copied().max().unwrap_or(1) as usize;
    let mut columns: Vec<usize> = args.columns.iter().map(|n| usize::from(*n)).chain([1]).collect();
    columns.sort_unstable();
    columns.dedup();
    let config = DecoderConfig { max_positions: longest + most + 1, ..config(size)? };
    let vb = VarBuilder::from_backend(Box::new(Noise), dtype, device.clone());
    let mut decoder = Decoder::new(&config, vb, Mode::Infer)?;
    let name = size.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned());
    let rows = if config.tied { 0 } else { config.vocab * config.width };
    let read = (decoder.parameters() - rows) * dtype.size_in_bytes();
    for context in &args.context {
        let context = *context as usize;
        let mut cache = KvCache::new(&config, context + most, dtype, device)?;
        decoder.forward(&embedded(&decoder, context)?, Some(&mut cache))?;
        let mut times = vec![[Vec::new(), Vec::new(), Vec::new()]; columns.len()];
        // The first round of all warms up.
        for repeat in 0..=args.repeats {
            for (n, times) in columns.iter().zip(&mut times) {
                for (way, times) in [Way::Checked, Way::Launched, Way::Read].into_iter().zip(times) {
                    if way != Way::Checked && device.is_cpu() {
                        continue;
                    }
                    decoder.use_graphs(way != Way::Launched);
                    let ms = pass(&decoder, &mut cache, *n, way)?;
                    // A length that is read becomes a graph when it comes again.
                    if way == Way::Read && repeat == 0 {
                        pass(&decoder, &mut cache, *n, way)?;
                    }
                    if repeat > 0 {
                        times.push(ms);
                    }
                }
            }
        }
        let medians: Vec<[f64; 3]> = times.iter_mut().map(|t| t.each_mut().map(|t| quantile(t, 0.5))).collect();
        let one = medians.first().map_or(f64::NAN, |m| m[0]);
        for (columns, [ms, launched, read_ms]) in columns.iter().zip(medians) {
            let row = Row {
                size: name.clone(),
                r#type: dtype.as_str(),
                context,
                columns: *columns,
                ms,
                ratio: ms / one,
                launched_ms: (!device.is_cpu()).then_some(launched),
                read_ms: (!device.is_cpu()).then_some(read_ms),
                gigabytes_a_second: read as f64 / ms / 1e6,
            };
            if args.json { print_json(&row)? } else { print(&row)? }
        }
    }
    Ok(())
}

/// Embeddings of running tokens.
fn embedded(decoder: &Decoder, n: usize) -> Result<Tensor> {
    let vocab = decoder.config().vocab;
    let ids: Vec<u32> = (0..n).map(|i| (i * 7919 % vocab) as u32).collect();
    Ok(decoder.embed(&Tensor::new(ids, decoder.device())?.unsqueeze(0)?)?)
}

/// How a pass is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// As a draft is checked.
    Checked,
    /// The same, every kernel launched by itself.
    Launched,
    /// As a frame is read.
    Read,
}

/// Milliseconds of a pass over `n` tokens and of fetching its logits, as a round does it; the cache is as before.
fn pass(decoder: &Decoder, cache: &mut KvCache, n: usize, way: Way) -> Result<f64> {
    let begun = Instant::now();
    cache.begin()?;
    let x = embedded(decoder, n)?;
    let hidden = if way == Way::Read {
        decoder.read(&x, Some(cache))?.narrow(1, n - 1, 1)?
    } else if n == 1 {
        decoder.forward(&x, Some(cache))?
    } else {
        let parents: Vec<Option<usize>> = (0..n).map(|i| i.checked_sub(1)).collect();
        decoder.forward_tree(&x, &parents, cache)?
    };
    decoder.logits(&hidden)?.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
    let ms = begun.elapsed().as_secs_f64() * 1e3;
    cache.rollback()?;
    Ok(ms)
}

fn print(row: &Row) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{:<13} {:<5} context {:>6}  {:>3} tokens  {:>9.3} ms  x {:.3} of one  {:>6.0} GB/s of weights{}{}",
        row.size,
        row.r#type,
        row.context,
        row.columns,
        row.ms,
        row.ratio,
        row.gigabytes_a_second,
        row.launched_ms.map_or_else(String::new, |ms| format!("  {ms:>9.3} ms launched one by one")),
        row.read_ms.map_or_else(String::new, |ms| format!("  {ms:>9.3} ms read"))
    )
    .context("writing to standard output")
}
