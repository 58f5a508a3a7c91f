//! `spotter doctor`: what this machine and this build can do.

use super::print_json;
use crate::{assets, parts};
use clap::Args;
use serde::Serialize;
use spotter_engine::{
    coach::manifest::Manifest,
    device::{self, DeviceRequest},
};
use spotter_vision::source::video::abilities;
use std::io::Write as _;

/// Say what this machine and this build can do.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// One JSON object with the fields version, features, cpu, threads, devices, device_choice, recordings, pose_runtime, model, display
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    features: Vec<&'static str>,
    /// Instruction sets that the processor has.
    cpu: Vec<&'static str>,
    threads: usize,
    devices: Vec<String>,
    /// Which one computes, in which type, and why.
    device_choice: String,
    /// FFmpeg and what it decodes.
    recordings: Finding,
    pose_runtime: Finding,
    model: Finding,
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

#[cfg(not(target_arch = "x86_64"))]
fn cpu() -> Vec<&'static str> {
    if cfg!(target_arch = "aarch64") { vec!["neon"] } else { Vec::new() }
}

fn devices() -> Vec<String> {
    let mut devices = vec!["cpu".to_owned()];
    match parts::device() {
        candle_core::Device::Cpu => {}
        candle_core::Device::Cuda(_) => devices.insert(0, "cuda:0".to_owned()),
        candle_core::Device::Metal(_) => devices.insert(0, "metal:0".to_owned()),
    }
    devices
}

fn device_choice() -> String {
    device::choose(DeviceRequest::Auto, None).map_or_else(|e| e.to_string(), |choice| choice.reason)
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

fn model() -> anyhow::Result<String> {
    let folder = parts::model_folder(None)?;
    let manifest = Manifest::read(&folder)?;
    Ok(format!("{} ({} frames a second)", folder.display(), manifest.frame_rate))
}

fn display() -> anyhow::Result<String> {
    #[cfg(feature = "desktop")]
    return crate::ui::display().map(|()| "found".to_owned()).map_err(anyhow::Error::msg);
    #[cfg(not(feature = "desktop"))]
    anyhow::bail!("this build has no window")
}

/// Runs the command.
pub(crate) fn run(args: &DoctorArgs) -> anyhow::Result<()> {
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        features: features(),
        cpu: cpu(),
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        devices: devices(),
        device_choice: device_choice(),
        recordings: recordings().into(),
        pose_runtime: parts::pose_runtime().into(),
        model: model().into(),
        display: display().into(),
    };
    if args.json {
        return print_json(&report);
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "spotter       {}", report.version)?;
    writeln!(out, "features      {}", report.features.join(" "))?;
    writeln!(out, "processor     {} threads, {}", report.threads, report.cpu.join(" "))?;
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
    writeln!(out, "assets        {}", assets::find("").map_or("none".into(), |p| p.display().to_string()))?;
    Ok(())
}
