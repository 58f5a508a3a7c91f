//! Trained parts to a model folder.

use super::{coach::decoder_config, recipe::Recipe};
use anyhow::{Context as _, Result, anyhow};
use candle_core::{DType, Device, Tensor};
use spotter_engine::speculate::DrafterKind;
use std::{collections::HashMap, path::Path};
use tokenizers::Tokenizer;

/// Writes `config.json`, `tokenizer.json`, `spotter.toml` and `model.safetensors` (half precision) to `to`.
pub(super) fn export(recipe: &Recipe, out: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("{}: can't be made", to.display()))?;
    let mut tensors: HashMap<String, Tensor> = HashMap::new();
    let decoder = &["language_model.", "multi_modal_projector."][..];
    let apart = [("encoder.safetensors", &["vision_tower."][..]), ("coach.safetensors", decoder)];
    let together = [("joint.safetensors", &["vision_tower.", "language_model.", "multi_modal_projector."][..])];
    let parts = if out.join(together[0].0).exists() { &together[..] } else { &apart[..] };
    for (file, prefixes) in parts {
        let path = out.join(file);
        let saved = candle_core::safetensors::load(&path, &Device::Cpu)
            .with_context(|| format!("{}: train this part first", path.display()))?;
        for (name, tensor) in saved.into_iter().filter(|(n, _)| prefixes.iter().any(|p| n.starts_with(p))) {
            tensors.insert(name, tensor.to_dtype(DType::F16)?);
        }
    }
    candle_core::safetensors::save(&tensors, to.join("model.safetensors"))?;
    let from = out.join("tokenizer.json");
    std::fs::copy(&from, to.join("tokenizer.json")).with_context(|| format!("{}: can't be copied", from.display()))?;
    let tokenizer = Tokenizer::from_file(&from).map_err(|e| anyhow!("{}: {e}", from.display()))?;
    let mut vision = serde_json::to_value(&recipe.vision)?;
    if let Some(fields) = vision.as_object_mut() {
        fields.insert("model_type".into(), "spotter_vit".into());
    }
    let config = serde_json::json!({
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "projector_hidden_act": "gelu",
        "vision_config": vision,
        "text_config": decoder_config(recipe, &tokenizer)?.to_hf(),
    });
    std::fs::write(to.join("config.json"), serde_json::to_string_pretty(&config)? + "\n")?;
    std::fs::write(to.join("spotter.toml"), toml::to_string(&recipe.manifest)?)?;
    if let DrafterKind::Model(drafter) = &recipe.manifest.speculation.drafter
        && !to.join(drafter).exists()
    {
        let to = to.join(drafter);
        tracing::warn!("spotter.toml names a drafter, {}, which `spotter train drafter` has yet to make", to.display());
    }
    let parameters: usize = tensors.values().map(Tensor::elem_count).sum();
    super::super::print_json(&serde_json::json!({ "folder": to, "parameters": parameters }))
}
