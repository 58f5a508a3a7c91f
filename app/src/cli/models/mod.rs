//! `spotter models`: which there are, what a model is, and what it would say next.

mod pull;
mod quantize;

use crate::{cli::coaching::CacheFlags, memory, parts};
use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde::Serialize;
use spotter_engine::{
    coach::need::{Streaming, need},
    device::{self, DeviceRequest},
    model::{
        Plan,
        memory::{Need, Place},
        probe::{self, Inspect, Probe},
    },
    prompt::{Message, Part, Role},
};
use spotter_vision::Frame;
use std::{
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

/// Arguments of `spotter models`.
#[derive(Args, Debug)]
pub(crate) struct ModelsArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Name the models that are known, with licences, sizes and drafters
    List {
        /// Print JSON, one object a line.
        #[arg(long)]
        json: bool,
    },
    /// Fetch a model from the hub
    Pull(pull::PullArgs),
    /// Describe a checkpoint: architecture, parameters, memory, tokens a frame.
    Inspect(InspectArgs),
    /// Show the tokens of a prompt and the likeliest next ones.
    Probe(ProbeArgs),
    /// Write a language model as a GGUF file with packed weights
    Quantize(quantize::QuantizeArgs),
}

#[derive(Args, Debug)]
struct InspectArgs {
    /// Folder with config.json, tokenizer.json and safetensors, a GGUF file with its mmproj beside it, or the name of a model that was
    /// pulled.
    model: PathBuf,
    /// auto, cpu, cuda or metal.
    #[arg(long, default_value = "auto")]
    device: DeviceRequest,
    #[command(flatten)]
    cache: CacheFlags,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What `inspect` prints.
#[derive(Serialize)]
struct Described {
    #[serde(flatten)]
    model: Inspect,
    /// What it takes while it is streamed with this cache, in bytes.
    streaming: Need,
    /// On which device, and why.
    device: String,
    /// Bytes that are free where it would compute, where that is told.
    free: Option<u64>,
}

#[derive(Args, Debug)]
struct ProbeArgs {
    /// Folder with config.json, tokenizer.json and safetensors, a GGUF file with its mmproj beside it, or the name of a model that was
    /// pulled.
    model: PathBuf,
    /// What the person says.
    #[arg(long)]
    prompt: String,
    /// A picture, jpeg or png; may be given several times.
    #[arg(long)]
    image: Vec<PathBuf>,
    /// Instructions before it, for models that know a system role.
    #[arg(long)]
    system: Option<String>,
    /// Number of next tokens.
    #[arg(long, default_value_t = 10)]
    top: usize,
    /// auto, cpu, cuda or metal.
    #[arg(long, default_value = "auto")]
    device: DeviceRequest,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// A checkpoint that does not fit together, a picture that can't be read, a conversation its template refuses.
pub(crate) fn run(args: ModelsArgs) -> anyhow::Result<()> {
    match args.command {
        Command::List { json } => print(&pull::list(json)?),
        Command::Pull(args) => print(&pull::pull(&args)?),
        Command::Quantize(args) => quantize::run(&args),
        Command::Inspect(args) => {
            let report = inspect(&args)?;
            print(&if args.json { serde_json::to_string(&report)? } else { describe(&report) })
        }
        Command::Probe(args) => {
            let (report, device) = run_probe(&args)?;
            print(&if args.json { serde_json::to_string(&report)? } else { list(&report, &device) })
        }
    }
}

/// A reader that closes early, such as `head`, is no failure.
fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e).context("writing to standard output"),
        _ => Ok(()),
    }
}

fn inspect(args: &InspectArgs) -> anyhow::Result<Described> {
    let folder = parts::model_folder(Some(&args.model))?;
    let model = probe::inspect(&folder)?;
    // What a card would have to hold can be told without one.
    let (device, found) = match (device::find(args.device), args.device) {
        (Err(error), DeviceRequest::Cuda) => (None, format!("cuda, which is not here ({error})")),
        (found, _) => found.map(|(device, found)| (Some(device), found))?,
    };
    let place = device.as_ref().map_or(Place::Cuda, Place::of);
    let Streaming { need: streaming, why, .. } = need(&folder, &args.cache.choice(), None, place)?;
    let free = device.and_then(|device| memory::free_on(&device, &streaming));
    Ok(Described { model, streaming, device: format!("{found}; {why}"), free })
}

fn run_probe(args: &ProbeArgs) -> anyhow::Result<(Probe, String)> {
    if args.top == 0 {
        bail!("--top: expected at least 1, found 0");
    }
    let frames = args.image.iter().map(|path| read_frame(path)).collect::<anyhow::Result<Vec<_>>>()?;
    let plan = Plan::open(&parts::model_folder(Some(&args.model))?)?;
    let template = plan.template()?;
    let choice = device::choose(args.device, plan.checkpoint.dtype())?;
    let model = plan.build(&choice)?;
    let mut content = vec![Part::Image; frames.len()];
    content.push(Part::Text { text: args.prompt.clone() });
    let system = args.system.iter().map(|text| Message::text(Role::System, text));
    let messages: Vec<_> = system.chain([Message { role: Role::User, content }]).collect();
    Ok((probe::probe(&plan, &model, &template, &messages, &frames, args.top)?, choice.reason))
}

fn read_frame(path: &Path) -> anyhow::Result<Frame> {
    let picture = image::open(path).with_context(|| format!("picture {}", path.display()))?.to_rgb8();
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    Frame::from_rgb(0, Duration::ZERO, width, height, picture.into_raw())
        .with_context(|| format!("picture {} has no pixels", path.display()))
}

fn describe(described: &Described) -> String {
    let (r, need) = (&described.model, &described.streaming);
    let (p, m) = (&r.parameters, &r.memory);
    let free = described.free.map_or(String::new(), |free| format!("; {} are free", mebibytes(free as usize)));
    let rows = [
        ("architecture", r.architecture.clone()),
        ("vision tower", format!("{}, {} x {} pixels", r.vision, r.image_size, r.image_size)),
        ("language model", format!("{}, vocabulary {} ({} tokens in the tokenizer)", r.language, r.vocab, r.tokens)),
        ("parameters", millions(p.total)),
        ("  vision", millions(p.vision)),
        ("  projector", millions(p.projector)),
        ("  embedding", millions(p.embedding)),
        ("  layers", millions(p.layers)),
        ("  unused", millions(p.unused)),
        ("stored as", format!("{}, {}", r.dtype, mebibytes(r.bytes_on_disk))),
        ("memory", format!("{} ({} in f32)", mebibytes(m.weights), mebibytes(m.weights_f32))),
        (
            "cache",
            format!(
                "{:.1} KiB a token, {} with a full context of {}",
                m.cache_per_token as f64 / 1024.0,
                mebibytes(m.full_context),
                r.context
            ),
        ),
        ("tokens a frame", r.tokens_per_frame.to_string()),
        ("streaming", format!("{} on {}{free}", mebibytes(need.total), described.device)),
        ("  weights", mebibytes(need.weights)),
        ("  cache", mebibytes(need.cache)),
        ("  positions", mebibytes(need.tables)),
        ("  a pass", mebibytes(need.work)),
        ("  graphs", mebibytes(need.graphs)),
        ("  the rest", mebibytes(need.tokenizer + need.program + need.lost)),
    ];
    rows.map(|(name, value)| format!("{name:<16}{value}")).join("\n")
}

fn millions(n: usize) -> String {
    format!("{:.3} M", n as f64 / 1e6)
}

fn mebibytes(n: usize) -> String {
    format!("{:.1} MiB", n as f64 / f64::from(1 << 20))
}

fn list(r: &Probe, device: &str) -> String {
    let ids: Vec<_> = r.prompt_ids.iter().map(u32::to_string).collect();
    let next = r.next.iter().map(|c| format!("{:>9.4}  {:>7}  {:?}", c.log_prob, c.id, c.text));
    let mut lines = vec![
        format!("device  {device}"),
        format!("prompt  {:?}", r.prompt),
        format!("{} tokens  {}", ids.len(), ids.join(" ")),
    ];
    lines.push(format!("{:>9}  {:>7}  text", "log prob", "id"));
    lines.extend(next);
    lines.join("\n")
}
