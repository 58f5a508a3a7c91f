use super::*;
use crate::{
    body::JOINTS,
    encoder::{
        TowerConfig,
        clip::{self, Clip},
        siglip::{self, Siglip},
        tosa::{Score, TosaOptions},
        vit::{Vit, VitConfig},
    },
    training::heads::SampleSource,
};
use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// A bright square somewhere on noise; where it is decides everything.
struct Squares;

impl SampleSource for Squares {
    fn classes(&self) -> usize {
        4
    }

    fn mistakes(&self) -> usize {
        2
    }

    fn samples(&self, seed: u64, count: usize) -> Vec<Sample> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let sample = |rng: &mut ChaCha8Rng| {
            let (x, y) = (rng.random_range(2..22usize), rng.random_range(2..22usize));
            let lit = |i: usize| (i / 3 % 24).abs_diff(x) < 3 && (i / 72).abs_diff(y) < 3;
            let rgb: Vec<u8> = (0..24 * 24 * 3).map(|i| if lit(i) { 220 } else { rng.random_range(0..30) }).collect();
            let place = [x as f32 / 12.0 - 1.0, y as f32 / 12.0 - 1.0, 0.0];
            let exercise = u32::from(x >= 12) + 2 * u32::from(y >= 12);
            let before = Some(rgb.iter().map(|v| v.saturating_add(3)).collect());
            Sample { rgb, before, joints: [place; JOINTS], exercise, phase: x as f32 / 24.0, mistakes: exercise & 3 }
        };
        (0..count).map(|_| sample(&mut rng)).collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Spotter,
    Clip,
    Siglip,
}

/// A small tower from variables; with `tosa` it skips tokens.
fn tower(kind: Kind, tosa: Option<TosaOptions>, vb: VarBuilder) -> Box<dyn Trunk> {
    let default = if kind == Kind::Clip { clip::default_config() } else { siglip::default_config() };
    let cfg = TowerConfig {
        hidden_size: 16,
        intermediate_size: 32,
        num_hidden_layers: 4,
        num_attention_heads: 4,
        image_size: 24,
        patch_size: 4,
        tosa: tosa.clone(),
        ..default
    };
    match kind {
        Kind::Clip => Box::new(Clip::new(&cfg, 4, vb).unwrap()),
        Kind::Siglip => Box::new(Siglip::new(&cfg, 4, vb).unwrap()),
        Kind::Spotter => Box::new(Vit::new(&vit_config(tosa), vb).unwrap()),
    }
}

fn vit_config(tosa: Option<TosaOptions>) -> VitConfig {
    VitConfig {
        image_size: 24,
        patch_size: 4,
        hidden_size: 16,
        intermediate_size: 32,
        num_hidden_layers: 4,
        num_attention_heads: 4,
        tosa,
        ..VitConfig::default()
    }
}

fn input(kind: Kind, rgb: &[&[u8]]) -> Tensor {
    if kind == Kind::Spotter {
        return Vit::patchify(&vit_config(None), rgb, &Device::Cpu).unwrap();
    }
    let bytes: Vec<u8> = rgb.concat();
    let pixels = Tensor::from_vec(bytes, (rgb.len(), 24, 24, 3), &Device::Cpu).unwrap();
    let pixels = pixels.permute((0, 3, 1, 2)).unwrap().to_dtype(DType::F32).unwrap();
    (pixels.contiguous().unwrap() / 255.0).unwrap()
}

fn pictures(kind: Kind, samples: &[Sample], pairs: bool) -> Pictures {
    let now: Vec<&[u8]> = samples.iter().map(|s| s.rgb.as_slice()).collect();
    let before: Vec<&[u8]> = samples.iter().filter_map(|s| s.before.as_deref()).collect();
    let before = pairs.then(|| input(kind, &before));
    Pictures { input: input(kind, &now), before, truth: Some(Truth::new(2, samples)) }
}

/// Variables, the dense tower with the same weights, the skipping one, heads.
fn towers(
    kind: Kind,
    options: &TosaOptions,
    folder: &std::path::Path,
) -> (Variables, Box<dyn Trunk>, Box<dyn Trunk>, Heads) {
    let vars = Variables::seeded(3, &Device::Cpu);
    let student = tower(kind, Some(options.clone()), vars.builder().pp("tower"));
    let heads = Heads::new(16, 4, 2, &vars).unwrap();
    // Random towers attend evenly and norms of ones hide their gradients.
    for (name, var) in vars.all() {
        if name.contains("q_proj.weight") || name.contains("qkv.weight") {
            var.set(&(var.as_tensor() * 3.0).unwrap()).unwrap();
        }
    }
    let file = folder.join("tower.safetensors");
    vars.save(&file, DType::F32).unwrap();
    // SAFETY: the file is not written again in this test.
    let frozen = unsafe { VarBuilder::from_mmaped_safetensors(&[file], DType::F32, &Device::Cpu) }.unwrap();
    (vars, tower(kind, None, frozen.pp("tower")), student, heads)
}

/// Whether the loss can't depend on a variable: a bias on all keys, or on all of a map's columns, changes no softmax.
fn idle(name: &str) -> bool {
    name.ends_with("k_proj.bias") || name.ends_with("conv2.bias")
}

#[test]
fn every_variable_of_every_tower_is_reached() {
    for kind in [Kind::Spotter, Kind::Clip, Kind::Siglip] {
        for reuse in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let options = TosaOptions { ratio: 0.5, reuse, ..TosaOptions::default() };
            let (vars, teacher, student, heads) = towers(kind, &options, folder.path());
            let which = if kind == Kind::Siglip { 0..36 } else { 0..1 };
            let batch = pictures(kind, &Squares.samples(5, 16), reuse);
            let tosa = student.tosa().unwrap();
            let [task, apart, away] =
                losses(teacher.as_ref(), student.as_ref(), Some(&heads), &which, tosa, batch).unwrap();
            let loss = ((task + apart).unwrap() + away).unwrap();
            let grads = loss.backward().unwrap();
            for (name, var) in vars.all() {
                let grad = grads.get(var.as_tensor()).unwrap_or_else(|| panic!("{kind:?}: no gradient for {name}"));
                let size = grad.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(size.is_finite() && (size > 1e-9 || idle(&name)), "{kind:?}, reuse {reuse}: {name} {size}");
            }
        }
    }
}

fn settings(folder: &std::path::Path, steps: usize) -> SkippingTraining {
    SkippingTraining {
        ratios: vec![0.4, 0.7],
        selector_weight: 0.1,
        distil_weight: 1.0,
        optimiser: AdamWSettings { learning_rate: 3e-3, weight_decay: 0.0, warmup: 5, steps, clip: 1.0, until: None },
        makers: 1,
        keep: Keep::new(folder, "skipping", 20),
    }
}

#[test]
fn a_tower_learns_to_live_with_skipping() {
    let folder = tempfile::tempdir().unwrap();
    let options = TosaOptions { ratio: 0.4, score: Score::RowEntropy, ..TosaOptions::default() };
    let (vars, teacher, mut student, heads) = towers(Kind::Spotter, &options, folder.path());
    let run = settings(folder.path(), 60);
    let make = |step: usize| Ok(pictures(Kind::Spotter, &Squares.samples(step as u64, 16), false));
    let (mut first, mut last) = (None, None);
    train(teacher.as_ref(), student.as_ref(), (Some(&heads), &vars), &(0..1), &run, make, &mut |p| {
        first.get_or_insert(p);
        last = Some(p);
    })
    .unwrap();
    let (first, last) = (first.unwrap(), last.unwrap());
    assert_eq!(last.step, 60);
    assert!(last.divergence < first.divergence && last.task < first.task, "{first:?} {last:?}");
    // What was kept is what was trained.
    let saved = Variables::load(&run.keep.weights, 0, &Device::Cpu).unwrap();
    let mut again = tower(Kind::Spotter, Some(options.clone()), saved.builder().pp("tower"));
    let samples = Squares.samples(99, 32);
    let batch = pictures(Kind::Spotter, &samples, true);
    let held = [HeldOut { input: batch.input, before: batch.before, samples }];
    let table =
        |tower: &mut dyn Trunk| compare(teacher.as_ref(), tower, Some(&heads), &(0..1), &[0.4, 0.7], &held).unwrap();
    let rows = table(student.as_mut());
    let scores = |rows: &[SkippingScores]| rows.iter().map(|r| (r.distance, r.scores)).collect::<Vec<_>>();
    assert_eq!(scores(&rows), scores(&table(again.as_mut())));
    assert_eq!(rows.len(), 1 + 2 * WAYS.len());
    // The frame before was almost the same, so what is reused is nearly what all tokens would have given.
    let away = |way: &str| rows.iter().find(|r| r.way == way && r.ratio == 0.4).unwrap().distance;
    let dense = rows[0].distance;
    assert!((away("change, reuse") - dense).abs() < (away("chance") - dense).abs(), "{rows:?}");
    // A tower without selectors has nothing to train.
    let mut plain = tower(Kind::Spotter, None, saved.builder().pp("tower"));
    assert!(compare(teacher.as_ref(), plain.as_mut(), None, &(0..1), &[0.4], &held).is_err());
    assert!(train(teacher.as_ref(), plain.as_ref(), (None, &vars), &(0..1), &run, make, &mut |_| {}).is_err());
}

#[test]
fn heads_are_fitted_to_a_frozen_tower() {
    let folder = tempfile::tempdir().unwrap();
    let options = TosaOptions::default();
    let (_, teacher, _, _) = towers(Kind::Siglip, &options, folder.path());
    let vars = Variables::seeded(8, &Device::Cpu);
    let heads = Heads::new(16, 4, 2, &vars).unwrap();
    let run = AdamWSettings { learning_rate: 3e-2, weight_decay: 0.0, warmup: 5, steps: 80, clip: 1.0, until: None };
    let make = |step: usize| Ok(pictures(Kind::Siglip, &Squares.samples(step as u64, 16), false));
    let (mut first, mut last) = (0.0, 0.0);
    fit_heads(teacher.as_ref(), (&heads, &vars), &(0..36), &run, 1, make, &mut |step, loss| {
        last = loss;
        if step == 1 {
            first = loss;
        }
    })
    .unwrap();
    assert!(last < first * 0.7, "{first} to {last}");
    let unknown = |step: usize| make(step).map(|p| Pictures { truth: None, ..p });
    assert!(fit_heads(teacher.as_ref(), (&heads, &vars), &(0..36), &run, 1, unknown, &mut |_, _| {}).is_err());
}
