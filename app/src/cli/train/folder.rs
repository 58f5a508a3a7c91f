//! A model folder, written again with another tower.

use anyhow::{Context as _, Result, bail};
use candle_core::{DType, Device, Tensor};
use spotter_engine::{model::Plan, weights::SELECTORS};
use spotter_vision::encoder::tosa::TosaOptions;
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

/// The weights of a checkpoint that is one file.
const WEIGHTS: &str = "model.safetensors";
/// What is written anew and never copied.
const OWN: [&str; 3] = ["config.json", WEIGHTS, SELECTORS];

/// Refuses a folder that can't be written to without harm to the one that is read.
pub(super) fn check(from: &Path, to: &Path) -> Result<()> {
    let real = |path: &Path| path.canonicalize().ok();
    if real(to).is_some() && real(to) == real(from) {
        bail!("--to {}: this is the folder that --model reads; name another one", to.display());
    }
    Ok(())
}

/// Writes the folder of `plan` to `to`: everything as it is, but the tensors of `tower` (full names) in half precision, and
/// `tosa` in its configuration.
pub(super) fn write(plan: &Plan, tower: &HashMap<String, Tensor>, tosa: Option<&TosaOptions>, to: &Path) -> Result<()> {
    let from = plan.checkpoint.folder();
    check(from, to)?;
    copy(from, to)?;
    let mut config: serde_json::Value = plan.checkpoint.json("config.json")?;
    let vision = config.get_mut("vision_config").and_then(|v| v.as_object_mut());
    let vision = vision.with_context(|| format!("{}: config.json has no vision_config", from.display()))?;
    match tosa {
        Some(options) => vision.insert("tosa".into(), serde_json::to_value(options)?),
        None => vision.remove("tosa"),
    };
    save(&to.join("config.json"), (serde_json::to_string_pretty(&config)? + "\n").as_bytes())?;
    let half = |(name, tensor): (&String, &Tensor)| -> Result<(String, Tensor)> {
        Ok((name.clone(), tensor.to_device(&Device::Cpu)?.to_dtype(DType::F16)?))
    };
    let tower = tower.iter().filter(|(name, _)| tosa.is_some() || !is_selector(name)).map(half);
    let mut tensors: HashMap<String, Tensor> = HashMap::new();
    let single = from.join(WEIGHTS);
    let name = if single.is_file() {
        let saved = candle_core::safetensors::load(&single, &Device::Cpu)?;
        tensors.extend(saved.into_iter().filter(|(name, _)| !is_selector(name)));
        WEIGHTS
    } else {
        // Shards are left as they came; what is new lies beside them.
        SELECTORS
    };
    tensors.extend(tower.collect::<Result<Vec<_>>>()?);
    let (part, whole) = (to.join(format!("{name}.part")), to.join(name));
    candle_core::safetensors::save(&tensors, &part).with_context(|| format!("{}: can't be written", part.display()))?;
    fs::rename(&part, &whole).with_context(|| format!("{}: can't be written", whole.display()))
}

fn is_selector(name: &str) -> bool {
    name.contains(".selector.")
}

fn save(path: &PathBuf, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("{}: can't be written", path.display()))
}

/// Copies a folder without what is written anew; large files are linked where the file system can.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("{}: can't be made", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("{}: can't be read", from.display()))? {
        let path = entry?.path();
        let Some(name) = path.file_name() else { continue };
        let target = to.join(name);
        if path.is_dir() {
            copy(&path, &target)?;
        } else if !OWN.iter().any(|own| name == *own) {
            // A link to an older file of this name would be written through.
            let _absent = fs::remove_file(&target);
            let large = path.metadata()?.len() > 1 << 26;
            if !(large && fs::hard_link(&path, &target).is_ok()) {
                fs::copy(&path, &target).with_context(|| format!("{}: can't be copied", path.display()))?;
            }
        }
    }
    Ok(())
}
