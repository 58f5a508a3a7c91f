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
    let at = tempfile::tempdir().unwrap();
    let out = at.path().join("a.gguf");
    quantise(&Source::Model(&golden("siglip-qwen2")), &out, Target::F32, &mut |_, _| ()).unwrap();
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

#[test]
fn what_is_not_read_is_named() {
    let refused = |key: &str, value: Option<Value>, leave_out: &str| {
        let (_at, out) = written();
        let set = |keys: &mut Vec<(String, Value)>| {
            keys.retain(|(known, _)| known != key);
            keys.extend(value.clone().map(|value| (key.to_owned(), value)));
        };
        changed(&out, set, |name| (name != leave_out).then(|| name.to_owned()));
        match Plan::open(&out) {
            Err(error @ WeightsError::Gguf(_)) => error.to_string(),
            other => panic!("{key} {leave_out}: {:?}", other.map(|plan| plan.config)),
        }
    };
    let text = |text: &str| Some(Value::Text(text.into()));
    let ldp = refused("clip.projector_type", text("ldp"), "");
    assert!(ldp.contains("mmproj-a.gguf: clip.projector_type: expected mlp, found `ldp`"), "{ldp}");
    let tiles = refused("clip.vision.mm_patch_merge_type", text("spatial_unpad"), "");
    assert!(tiles.contains("expected flat, found `spatial_unpad`"), "{tiles}");
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
