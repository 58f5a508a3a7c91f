//! `spotter doctor`: what this machine and this build can do.

use super::{Hinted, print_json};
use crate::{
    assets,
    memory::{self, mebibytes},
    parts,
};
use anyhow::Context as _;
use candle_core::Device;
use clap::Args;
use serde::Serialize;
use spotter_engine::{
    coach::{
        CacheChoice,
        need::{Streaming, need},
    },
    device::{self, DeviceRequest},
    model::memory::Place,
    quantised::Instructions,
};
use spotter_vision::source::video::abilities;
use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

/// Say what this machine and this build can do.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The model that is to be streamed: a folder, or the name of one that was pulled; without it the one that ships
    #[arg(long)]
    model: Option<PathBuf>,
    /// auto, cpu, cuda or metal
    #[arg(long, default_value = "auto")]
    device: DeviceRequest,
    /// One JSON object with the fields version, features, cpu, packed_weights, threads, devices, device_choice, recordings,
    /// pose_runtime, model, memory, fits, display
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    features: Vec<&'static str>,
    /// Instruction sets that the processor has.
    cpu: Vec<&'static str>,
    /// Those that packed weights are multiplied with.
    packed_weights: String,
    threads: usize,
    devices: Vec<String>,
    /// Which one computes, in which type, and why.
    device_choice: String,
    /// FFmpeg and what it decodes.
    recordings: Finding,
    pose_runtime: Finding,
    model: Finding,
    /// What streaming it takes, and whether that is free.
    memory: Finding,
    /// Models that are known and would fit.
    fits: Vec<&'static str>,
    display: Finding,
}

/// Something that was looked for.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    ok: bool,
    detail: String,
}

impl From<anyhow::Result<String>> for Finding {
    fn from(result: anyhow::Result<String>) -> Self {
        match result {
            Ok(detail) => Self { ok: true, detail },
            Err(error) => Self { ok: false, detail: format!("{error:#}") },
        }
    }
}

fn features() -> Vec<&'static str> {
    let all = [
        ("desktop", cfg!(feature = "desktop")),
        ("camera", cfg!(feature = "camera")),
        ("audio", cfg!(feature = "audio")),
        ("training", cfg!(feature = "training")),
        ("cuda", cfg!(feature = "cuda")),
        ("metal", cfg!(feature = "metal")),
    ];
    all.into_iter().filter_map(|(name, on)| on.then_some(name)).collect()
}

#[cfg(target_arch = "x86_64")]
fn cpu() -> Vec<&'static str> {
    let all = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
    ];
    all.into_iter().filter_map(|(name, on)| on.then_some(name)).collect()
}

#[cfg(target_arch = "aarch64")]
fn cpu() -> Vec<&'static str> {
    let all = [
        ("neon", std::arch::is_aarch64_feature_detected!("neon")),
        ("dotprod", std::arch::is_aarch64_feature_detected!("dotprod")),
        ("i8mm", std::arch::is_aarch64_feature_detected!("i8mm")),
        ("fp16", std::arch::is_aarch64_feature_detected!("fp16")),
        ("bf16", std::arch::is_aarch64_feature_detected!("bf16")),
    ];
    all.into_iter().filter_map(|(name, on)| on.then_some(name)).collect()
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn cpu() -> Vec<&'static str> {
    Vec::new()
}

fn devices(found: &Device) -> Vec<String> {
    let mut devices = vec!["cpu".to_owned()];
    match found {
        Device::Cpu => {}
        Device::Cuda(_) => devices.insert(0, "cuda:0".to_owned()),
        Device::Metal(_) => devices.insert(0, "metal:0".to_owned()),
    }
    devices
}

fn recordings() -> anyhow::Result<String> {
    let found = abilities();
    let codecs = found.codecs.join(" ");
    anyhow::ensure!(
        found.missing.is_empty(),
        "{} without {}; it reads {codecs}. A fuller FFmpeg comes with `scripts/setup.sh`",
        found.version,
        found.missing.join(", ")
    );
    Ok(format!("{}: {codecs}", found.version))
}

/// How a model would be streamed.
fn streamed(asked: Option<&Path>, place: Place) -> anyhow::Result<(PathBuf, Streaming)> {
    let folder = parts::model_folder(asked)?;
    let streaming = need(&folder, &CacheChoice::default(), None, place);
    let streaming = streaming.with_context(|| format!("model {}", folder.display()))?;
    Ok((folder, streaming))
}

fn told((folder, streaming): &(PathBuf, Streaming)) -> String {
    let Streaming { frame_rate, tokens, .. } = streaming;
    let s = if *tokens == 1 { "" } else { "s" };
    format!("{} ({frame_rate} frames a second, {tokens} token{s} each)", folder.display())
}

/// What a model takes beside what is free.
fn room((folder, streaming): &(PathBuf, Streaming), free: Option<u64>, place: Place) -> anyhow::Result<String> {
    let need = &streaming.need;
    let mib = |bytes: usize| format!("{:.0} MiB", mebibytes(bytes as f64));
    memory::enough(&folder.display().to_string(), need, free, place).map_err(|error| {
        let hint = error.downcast_ref::<Hinted>().map_or(String::new(), |hinted| format!("; {}", hinted.hint()));
        anyhow::anyhow!("{error}{hint}")
    })?;
    let is_free = free.map_or("how much is free is not told".into(), |free| format!("{} are free", mib(free as usize)));
    Ok(format!(
        "it takes {} (weights {}, cache {}, a pass {}, the rest {}); {is_free}",
        mib(need.total),
        mib(need.weights),
        mib(need.cache),
        mib(need.work),
        mib(need.total - need.weights - need.cache - need.work)
    ))
}

fn display() -> anyhow::Result<String> {
    #[cfg(feature = "desktop")]
    return crate::ui::display().map(|()| "found".to_owned()).map_err(anyhow::Error::msg);
    #[cfg(not(feature = "desktop"))]
    anyhow::bail!("this build has no window")
}

/// Runs the command.
///
/// # Errors
/// A device or a model that was asked for by name and can't be used; all else is told.
pub(crate) fn run(args: &DoctorArgs) -> anyhow::Result<()> {
    let (device, found) = device::find(args.device)?;
    let place = Place::of(&device);
    let streamed = streamed(args.model.as_deref(), place);
    if args.model.is_some() && streamed.is_err() {
        return streamed.map(drop);
    }
    let free = streamed.as_ref().map_or_else(|_| memory::free(), |(_, s)| memory::free_on(&device, &s.need));
    let (model, memory, why) = match &streamed {
        Ok(all) => (Ok(told(all)), room(all, free, place), format!("; {}", all.1.why)),
        Err(error) => (Err(anyhow::anyhow!("{error:#}")), Err(anyhow::anyhow!("no model")), String::new()),
    };
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        features: features(),
        cpu: cpu(),
        packed_weights: Instructions::best().to_string(),
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        devices: devices(&device),
        device_choice: format!("{found}{why}"),
        recordings: recordings().into(),
        pose_runtime: parts::pose_runtime().into(),
        model: model.into(),
        memory: memory.into(),
        fits: free.map_or(Vec::new(), |free| memory::fitting(free, place)),
        display: display().into(),
    };
    if args.json { print_json(&report) } else { print(&report) }
}

fn print(report: &Report) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "spotter       {}", report.version)?;
    writeln!(out, "features      {}", report.features.join(" "))?;
    writeln!(out, "processor     {} threads, {}", report.threads, report.cpu.join(" "))?;
    writeln!(out, "packed        weights of GGUF files are multiplied with {}", report.packed_weights)?;
    writeln!(out, "devices       {}", report.devices.join(" "))?;
    writeln!(out, "computes on   {}", report.device_choice)?;
    let findings = [
        ("recordings", &report.recordings),
        ("pose runtime", &report.pose_runtime),
        ("model", &report.model),
        ("display", &report.display),
    ];
    for (name, finding) in findings {
        let mark = if finding.ok { "" } else { "not found: " };
        writeln!(out, "{name:<13} {mark}{}", finding.detail)?;
    }
    writeln!(out, "memory        {}{}", if report.memory.ok { "" } else { "too little: " }, report.memory.detail)?;
    let fits = if report.fits.is_empty() { "none of them".into() } else { report.fits.join(" ") };
    writeln!(out, "would fit     {fits} (of those that `spotter models list` names)")?;
    writeln!(out, "assets        {}", assets::find("").map_or("none".into(), |p| p.display().to_string()))?;
    Ok(())
}
