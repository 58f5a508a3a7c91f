//! Writing tower and projector of a LLaVA folder as a file of their own, as llama.cpp has them beside a decoder.

use super::{
    Value,
    convert::{Model, Origin, Weights},
    names::seeing,
    target::Rule,
    tiles,
    vision::{ASPECT, PAD, SQUARE},
};
use crate::{
    model::{
        Plan,
        llava_config::{ConnectorConfig, Family, VisionConfig},
        projector::LINEAR,
    },
    weights::WeightsError,
};
use candle_core::{DType, Device};
use spotter_vision::{
    encoder::{Activation, Prepare, TowerConfig},
    preprocess::{Fit, Preprocess},
};
use std::collections::HashMap;

/// The file of a folder that was read.
///
/// # Errors
/// A tower, projector or way of preparing pictures that has no place in such a file.
pub(super) fn model(plan: &Plan) -> Result<Model, WeightsError> {
    let wrong = |problem: String| WeightsError::file(plan.checkpoint.folder(), problem);
    let (tower, class) = tower(plan).map_err(wrong)?;
    let mut metadata = keys(plan, tower, class).map_err(wrong)?;
    let parts = plan.parts();
    let (mut names, mut tensors) = (HashMap::new(), Vec::new());
    for spec in parts.vision.into_iter().chain(parts.projector) {
        let name = seeing(&spec.name, &plan.layout)
            .ok_or_else(|| wrong(format!("tensor {}: llama.cpp has no name for it", spec.name)))?;
        tensors.push((name.clone(), spec.shape));
        names.insert(name, Origin::Tensor(spec.name, None));
    }
    metadata.push(("general.type".into(), Value::Text("mmproj".into())));
    let weights = Weights::Folder { vb: plan.checkpoint.var_builder(DType::F32, &Device::Cpu)?, names };
    Ok(Model { metadata, tensors, rule: Rule::Mmproj, weights })
}

/// The tower, and whether it has a class token.
fn tower(plan: &Plan) -> Result<(&TowerConfig, bool), String> {
    let config = &plan.config;
    let known = [Family::Llava, Family::Next, Family::OneVision].contains(&config.family);
    if !known || plan.grid().keep_class || plan.vision.delta {
        return Err(format!(
            "a file for what sees holds a LLaVA that sees pictures without their class tokens; this is {}",
            config.family.architecture()
        ));
    }
    let (tower, class, gelu) = match &config.vision {
        VisionConfig::Clip(tower) => (tower, true, Activation::Gelu),
        VisionConfig::Siglip(tower) => (tower, false, Activation::GeluTanh),
        VisionConfig::SiglipHead(_) | VisionConfig::Spotter(_) => {
            return Err("vision_config: expected a CLIP or SigLIP tower".into());
        }
    };
    if tower.tosa.is_some() {
        return Err("vision_config.tosa: llama.cpp has no names for selectors".into());
    }
    if config.connector != (ConnectorConfig::Mlp { bias: true, names: LINEAR }) {
        return Err("multimodal_projector_bias: expected true, as llama.cpp does".into());
    }
    if ![Activation::QuickGelu, gelu].contains(&tower.hidden_act) {
        return Err(format!("vision_config.hidden_act: expected quick_gelu or {gelu:?}, found {:?}", tower.hidden_act));
    }
    Ok((tower, class))
}

fn keys(plan: &Plan, tower: &TowerConfig, class: bool) -> Result<Vec<(String, Value)>, String> {
    let Prepare::Pixels(pixels) = &plan.prepare else { return Err("pictures are expected as pixels".into()) };
    let integer = |n: usize| Value::Integer(i64::try_from(n).unwrap_or(i64::MAX));
    let colours = |c: [f32; 3]| Value::Floats(c.map(f64::from).to_vec());
    let flag = |name: &str, value: bool| (format!("clip.{name}"), Value::Bool(value));
    let mut all = vec![
        ("general.architecture".to_owned(), Value::Text("clip".into())),
        flag("has_vision_encoder", true),
        flag("has_text_encoder", false),
        flag("has_llava_projector", true),
        flag("use_gelu", tower.hidden_act != Activation::QuickGelu),
        ("clip.projector_type".into(), Value::Text("mlp".into())),
    ];
    all.extend(views(plan, pixels, class, tower.image_size)?);
    let vision = [
        ("image_size", integer(tower.image_size)),
        ("patch_size", integer(tower.patch_size)),
        ("embedding_length", integer(tower.hidden_size)),
        ("feed_forward_length", integer(tower.intermediate_size)),
        ("projection_dim", integer(plan.config.text.width)),
        ("attention.head_count", integer(tower.num_attention_heads)),
        ("attention.layer_norm_epsilon", Value::Float(tower.layer_norm_eps)),
        ("image_mean", colours(pixels.mean)),
        ("image_std", colours(pixels.std)),
        // The layers that are run are the ones in the file, and what leaves the last of them is read.
        ("block_count", integer(plan.config.vision_depth)),
        ("feature_layer", Value::Integers(vec![plan.config.vision_depth as i64])),
    ];
    all.extend(vision.map(|(name, value)| (format!("clip.vision.{name}"), value)));
    Ok(all)
}

/// How pictures become squares, or are cut into them.
fn views(plan: &Plan, pixels: &Preprocess, class: bool, side: usize) -> Result<Vec<(String, Value)>, String> {
    let (mean, std) = (pixels.mean, pixels.std);
    let usual = Preprocess { mean, std, ..if class { Preprocess::clip(side) } else { Preprocess::siglip(side) } };
    let fits = |fit: Fit| *pixels == Preprocess { fit, ..usual.clone() };
    let squares = |how: &str| Ok(vec![(ASPECT.to_owned(), Value::Text(how.into()))]);
    match &plan.config.tiling {
        Some(tiling) if fits(Fit::Stretch) => return Ok(tiles::keys(tiling)),
        None if *pixels == usual => return squares(SQUARE),
        None if fits(Fit::Pad) => return squares(PAD),
        _ => {}
    }
    Err(format!("preprocessor: expected pictures as the tower was trained, or with bars, found {pixels:?}"))
}
