//! Files of other converters than ours: their names, their gaps, and what is not read.

use super::*;
use crate::{device::Choice, model::Plan, weights::WeightsError};
use candle_core::{DType, Device, Tensor};
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/parity/goldens").join(name)
}

/// A decoder and its projector in a folder.
fn written() -> (tempfile::TempDir, PathBuf) {
    written_of("siglip-qwen2")
}

fn written_of(name: &str) -> (tempfile::TempDir, PathBuf) {
    let at = tempfile::tempdir().unwrap();
    let out = at.path().join("a.gguf");
    quantise(&Source::Model(&golden(name)), &out, Target::F32, &mut |_, _| ()).unwrap();
    (at, out)
}

/// Writes the projector of a decoder anew, with other keys and names.
fn changed(out: &Path, keys: impl Fn(&mut Vec<(String, Value)>), name: impl Fn(&str) -> Option<String>) {
    let path = mmproj_of(out);
    let file = Gguf::open(&path).unwrap();
    let mut metadata: Vec<(String, Value)> = file.metadata().iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    keys(&mut metadata);
    let kept: Vec<(String, &TensorEntry)> =
        file.tensors().iter().filter_map(|(from, entry)| Some((name(from)?, entry))).collect();
    let planned: Vec<Planned> =
        kept.iter().map(|(name, t)| Planned { name: name.clone(), shape: t.shape.clone(), dtype: t.dtype }).collect();
    let again = path.with_extension("new");
    let data = |tensor: &Planned| -> Result<Vec<u8>, GgufError> {
        let (_, entry) = kept.iter().find(|(name, _)| *name == tensor.name).unwrap();
        Ok(file.data(entry).to_vec())
    };
    write(&again, &metadata, &planned, data).unwrap();
    std::fs::rename(&again, &path).unwrap();
}

fn tokens(plan: &Plan) -> Vec<f32> {
    let choice = Choice { device: Device::Cpu, dtype: DType::F32, reason: String::new() };
    let model = plan.build(&choice).unwrap();
    let side = plan.config.vision.image_size();
    let pixels: Vec<f32> = (0..3 * side * side).map(|i| ((i * 37 % 101) as f32 - 50.0) / 30.0).collect();
    let pixels = Tensor::from_vec(pixels, (1, 3, side, side), &Device::Cpu).unwrap();
    model.encoder.forward(&pixels).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn older_converters_names_are_understood() {
    let (_at, out) = written();
    let before = tokens(&Plan::open(&out).unwrap());
    let swap = |name: &str| {
        Some(match name.contains("ffn_up") {
            true => name.replace("ffn_up", "ffn_down"),
            false => name.replace("ffn_down", "ffn_up"),
        })
    };
    // They tell neither what is read nor how pictures become squares.
    let drop = |keys: &mut Vec<(String, Value)>| {
        keys.retain(|(key, _)| !key.ends_with("feature_layer") && !key.ends_with("aspect_ratio"));
    };
    changed(&out, drop, swap);
    assert!(Gguf::open(&mmproj_of(&out)).unwrap().tensors()["v.blk.0.ffn_down.weight"].shape == [48, 32]);
    let plan = Plan::open(&out).unwrap();
    assert_eq!(tokens(&plan), before);
    let spotter_vision::encoder::Prepare::Pixels(pixels) = &plan.prepare else { panic!("{:?}", plan.prepare) };
    assert_eq!(pixels.fit, spotter_vision::preprocess::Fit::Pad);
    // The layer before the last, where a file says so.
    let less =
        |keys: &mut Vec<(String, Value)>| keys.push(("clip.vision.feature_layer".into(), Value::Integers(vec![1])));
    changed(&out, less, |name| Some(name.to_owned()));
    assert!(tokens(&Plan::open(&out).unwrap()).iter().zip(&before).any(|(a, b)| (a - b).abs() > 0.01));
}

/// What is said about a projector with another key or without a tensor.
fn refused(name: &str, key: &str, value: Option<Value>, leave_out: &str) -> String {
    let (_at, out) = written_of(name);
    let set = |keys: &mut Vec<(String, Value)>| {
        keys.retain(|(known, _)| known != key);
        keys.extend(value.clone().map(|value| (key.to_owned(), value)));
    };
    changed(&out, set, |name| (name != leave_out).then(|| name.to_owned()));
    match Plan::open(&out) {
        Err(error @ WeightsError::Gguf(_)) => error.to_string(),
        other => panic!("{key} {leave_out}: {:?}", other.map(|plan| plan.config)),
    }
}

fn text(text: &str) -> Option<Value> {
    Some(Value::Text(text.into()))
}

/// Files of LLaVA 1.6 have an older name for the token behind a row, and may not say `anyres`.
#[test]
fn tiles_of_older_files_are_understood() {
    let (_at, out) = written_of("next-vicuna");
    let before = Plan::open(&out).unwrap();
    let old = |name: &str| Some(name.replace("v.image_newline", "model.image_newline"));
    changed(&out, |keys| keys.retain(|(key, _)| !key.ends_with("aspect_ratio")), old);
    assert!(Gguf::open(&mmproj_of(&out)).unwrap().tensors().contains_key("model.image_newline"));
    let after = Plan::open(&out).unwrap();
    assert_eq!((&after.config, &after.prepare), (&before.config, &before.prepare));
    assert!(after.config.tiling.is_some());
    assert_eq!(tokens(&after), tokens(&before));
}

#[test]
fn tiles_that_are_none_are_named() {
    let refused = |key: &str, value: Option<Value>, leave_out: &str| refused("next-vicuna", key, value, leave_out);
    let planes = "clip.vision.image_grid_pinpoints";
    let sides = |sides: &[i64]| Some(Value::Integers(sides.to_vec()));
    let pairs = "image_grid_pinpoints: expected widths and heights in pixels, in pairs";
    for wrong in [None, text("24, 48"), sides(&[24, 48, 24]), sides(&[-24, 48])] {
        let error = refused(planes, wrong, "");
        assert!(error.contains(pairs), "{error}");
    }
    for wrong in [sides(&[]), sides(&[24, 50]), sides(&[24, 24 * 65]), sides(&[i64::MAX, 24])] {
        let error = refused(planes, wrong, "");
        assert!(error.contains("expected heights and widths that are 1 to 64 times 24 pixels"), "{error}");
    }
    let aspect = refused("clip.vision.image_aspect_ratio", text("pad"), "");
    assert!(aspect.contains("expected anyres or anyres_max_ and a number"), "{aspect}");
    let gone = refused("", None, "v.image_newline");
    assert!(gone.contains("tensor v.image_newline: expected shape [32], found no such tensor"), "{gone}");
}

#[test]
fn what_is_not_read_is_named() {
    let refused = |key: &str, value: Option<Value>, leave_out: &str| refused("siglip-qwen2", key, value, leave_out);
    let ldp = refused("clip.projector_type", text("ldp"), "");
    assert!(ldp.contains("mmproj-a.gguf: clip.projector_type: expected mlp, found `ldp`"), "{ldp}");
    let merged = refused("clip.vision.mm_patch_merge_type", text("spatial"), "");
    assert!(merged.contains("expected flat or spatial_unpad, found `spatial`"), "{merged}");
    assert!(refused("clip.vision.image_size", None, "").contains("clip.vision.image_size: expected a number"));
    let heads = refused("clip.vision.attention.head_count", Some(Value::Integer(5)), "");
    assert!(heads.contains("num_attention_heads: expected a divisor"), "{heads}");
    let layer = refused("clip.vision.feature_layer", Some(Value::Integers(vec![1, 2])), "");
    assert!(layer.contains("expected one number from 0 to 2"), "{layer}");
    let colours = refused("clip.vision.image_mean", Some(Value::Floats(vec![0.5])), "");
    assert!(colours.contains("image_mean: expected three numbers"), "{colours}");
    let gone = refused("", None, "mm.2.weight");
    assert!(gone.contains("tensor mm.2.weight: expected shape [32, 32], found no such tensor"), "{gone}");
}
