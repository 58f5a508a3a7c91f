//! Trains a tower to live with skipping (specs: tosa, section 2, second stage): the task's loss, the selectors' divergence from
//! the maps of a frozen dense teacher, and the distance of the class token from the teacher's, which is what a coach reads.

use super::{
    AdamW, AdamWSettings, Variables,
    encoder::{EncoderModel, Sample, SampleSource, Scores, WEIGHTS},
    prefetch,
    selectors::{divergence, map_of},
};
use crate::encoder::{
    tosa::{Block, Ranking, Score, Tosa, TosaOptions, keep, selectively, top},
    vit::Vit,
};
use candle_core::{DType, Error, Result, Tensor, bail};
use std::{path::PathBuf, sync::Mutex};

/// Settings of a training run.
#[derive(Clone, Debug)]
pub struct SkippingTraining {
    /// Pictures a step.
    pub batch: usize,
    /// Shares of the tokens that selective layers work on, one after another.
    pub ratios: Vec<f64>,
    /// Weight of the selectors' divergence.
    pub selector_weight: f64,
    /// Weight of the squared distance from the teacher's class token.
    pub distil_weight: f64,
    /// Optimiser.
    pub optimiser: AdamWSettings,
    /// Threads that draw.
    pub drawers: usize,
    /// Seed of the samples.
    pub seed: u64,
    /// Where tower, selectors and heads are saved.
    pub weights: PathBuf,
}

/// State after a step.
#[derive(Clone, Copy, Debug)]
pub struct SkippingProgress {
    /// Steps done.
    pub step: usize,
    /// Weighed loss of the task.
    pub task: f64,
    /// Divergence of the selectors.
    pub divergence: f64,
    /// Squared distance from the teacher's class token.
    pub distance: f64,
}

/// Scores of one way of choosing on pictures that training never saw.
#[derive(Clone, Debug, serde::Serialize)]
pub struct SkippingScores {
    /// Share of the tokens; 1 is the dense tower.
    pub ratio: f64,
    /// Who chose.
    pub way: &'static str,
    /// What a single picture scores.
    #[serde(flatten)]
    pub scores: Scores,
}

/// Scores of a model on `held_out`, dense and at each ratio with its selectors and with every control (specs: tosa, check 8).
///
/// # Errors
/// A tower without selectors, or those of the device.
pub fn compare(model: &mut EncoderModel, ratios: &[f64], held_out: &[Sample]) -> Result<Vec<SkippingScores>> {
    let Some(tosa) = model.vit().tosa().cloned() else { bail!("the tower has no selectors") };
    let depth = model.vit().config().num_hidden_layers;
    model.set_tosa(None);
    let mut all = vec![SkippingScores { ratio: 1.0, way: "dense", scores: model.evaluate(held_out)? }];
    let ways = [
        ("selector", Ranking::Selector),
        ("oracle", Ranking::Oracle),
        ("previous", Ranking::Previous),
        ("chance", Ranking::Random(1)),
    ];
    for ratio in ratios {
        for (way, ranking) in ways {
            let options = TosaOptions { ratio: *ratio, ..tosa.options.clone() };
            let chooser = if ranking == Ranking::Selector {
                let mut own = tosa.clone();
                own.options = options;
                own
            } else {
                Tosa::control(&options, depth, ranking)?
            };
            model.set_tosa(Some(chooser));
            all.push(SkippingScores { ratio: *ratio, way, scores: model.evaluate(held_out)? });
        }
    }
    model.set_tosa(Some(tosa));
    Ok(all)
}

/// The tower's tokens with skipping, and the selectors' logits on the way.
fn skipping(vit: &Vit, tosa: &Tosa, ratio: f64, x: &Tensor) -> Result<(Tensor, Vec<Tensor>)> {
    let layers = vit.blocks();
    let (n, p) = (x.dim(1)?, tosa.options.protected);
    let k = keep(ratio, n, p);
    let (mut x, mut before, mut logits) = (x.clone(), None::<Tensor>, Vec::new());
    for (index, layer) in layers.iter().enumerate() {
        if let (Some(selector), Some(products)) = (tosa.selectors().get(&index), before.take()) {
            let predicted = selector.logits(&products)?;
            let scores = Score::ColSum.tokens(&map_of(&predicted)?)?;
            logits.push(predicted);
            let chosen: Vec<Vec<u32>> = scores.iter().map(|s| top(s, k, p)).collect();
            x = selectively(layer, &x, &chosen)?;
        } else if tosa.selectors().contains_key(&(index + 1)) {
            let (next, products) = layer.forward_scored(&x)?;
            // Selectors learn to read the tower; it does not learn to please them.
            (x, before) = (next, Some(products.detach()));
        } else {
            x = layer.forward(&x)?;
        }
    }
    Ok((vit.finish(&x)?, logits))
}

/// The dense teacher's tokens, and the true maps of the selective layers; no way back into it.
fn taught(vit: &Vit, tosa: &Tosa, x: &Tensor) -> Result<(Tensor, Vec<Tensor>)> {
    let (mut x, mut maps) = (x.detach(), Vec::new());
    for (index, layer) in vit.blocks().iter().enumerate() {
        let (next, products) = layer.forward_scored(&x)?;
        if tosa.selectors().contains_key(&index) {
            maps.push(map_of(&products)?);
        }
        x = next.detach();
    }
    Ok((vit.finish(&x)?.detach(), maps))
}

fn class(tokens: &Tensor) -> Result<Tensor> {
    tokens.narrow(1, 0, 1)?.squeeze(1)
}

/// Trains `model`, whose tower has selectors and whose variables are `vars`, against a dense `teacher`, and saves them.
///
/// # Errors
/// A tower without selectors, a loss that is not finite, files that can't be written, or those of the device.
pub fn train(
    teacher: &Vit,
    model: &EncoderModel,
    vars: &Variables,
    run: &SkippingTraining,
    source: &dyn SampleSource,
    progress: &mut dyn FnMut(SkippingProgress),
) -> Result<()> {
    let Some(tosa) = model.vit().tosa().cloned() else { bail!("the tower has no selectors") };
    if run.ratios.is_empty() {
        bail!("ratios: at least one is needed");
    }
    let mut optimiser = AdamW::new(vars.all(), run.optimiser.clone())?;
    let draw = |step: usize| {
        let seed = run.seed.wrapping_mul(0x51_7CC1).wrapping_add(step as u64);
        model.batch(&source.samples(seed, run.batch)).map(|b| Mutex::new(Some(b)))
    };
    prefetch(0..run.optimiser.steps, run.drawers, draw, |step, batch| {
        let batch = batch.into_inner().ok().flatten();
        let mut batch = batch.ok_or_else(|| Error::Msg("a batch was taken twice".into()))?;
        let cut = std::mem::take(&mut batch.cut);
        let patches = Vit::patches(teacher.config(), cut, teacher.device())?;
        let ratio = run.ratios[step % run.ratios.len()];
        let (aim, maps) = taught(teacher, &tosa, &teacher.embed(&patches)?)?;
        let (tokens, logits) = skipping(model.vit(), &tosa, ratio, &model.vit().embed(&patches)?)?;
        let seen = class(&tokens)?;
        let parts = model.losses_of(&seen, batch)?;
        let weighed = parts.iter().zip(WEIGHTS).map(|(l, w)| l * w).collect::<Result<Vec<_>>>()?;
        let task = Tensor::stack(&weighed, 0)?.sum_all()?;
        let apart = logits.iter().zip(&maps).map(|(l, m)| divergence(l, m)).collect::<Result<Vec<_>>>()?;
        let apart = Tensor::stack(&apart, 0)?.mean_all()?;
        let distance = (seen - class(&aim)?)?.sqr()?.mean_all()?;
        let loss = ((&task + (&apart * run.selector_weight)?)? + (&distance * run.distil_weight)?)?;
        let grads = optimiser.gradients(&loss.backward()?)?;
        optimiser.step(&grads)?;
        let values = Tensor::stack(&[task, apart, distance], 0)?.to_vec1::<f32>()?;
        let [task, divergence, distance] = values[..] else { return Ok(false) };
        progress(SkippingProgress {
            step: optimiser.step,
            task: f64::from(task),
            divergence: f64::from(divergence),
            distance: f64::from(distance),
        });
        Ok::<_, Error>(!optimiser.over())
    })?;
    vars.save(&run.weights, DType::F32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{body::JOINTS, encoder::vit::VitConfig};
    use candle_core::Device;
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
                let rgb = (0..24 * 24 * 3).map(|i| if lit(i) { 220 } else { rng.random_range(0..30) }).collect();
                let place = [x as f32 / 12.0 - 1.0, y as f32 / 12.0 - 1.0, 0.0];
                let exercise = u32::from(x >= 12) + 2 * u32::from(y >= 12);
                Sample { rgb, joints: [place; JOINTS], exercise, phase: x as f32 / 24.0, mistakes: exercise & 3 }
            };
            (0..count).map(|_| sample(&mut rng)).collect()
        }
    }

    #[test]
    fn a_tower_learns_to_live_with_skipping() {
        let config = VitConfig {
            image_size: 24,
            patch_size: 4,
            hidden_size: 16,
            intermediate_size: 32,
            num_hidden_layers: 4,
            num_attention_heads: 4,
            tosa: Some(TosaOptions { ratio: 0.4, ..TosaOptions::default() }),
            ..VitConfig::default()
        };
        let vars = Variables::seeded(3, &Device::Cpu);
        let mut model = EncoderModel::new(&config, 4, 2, &vars).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("encoder.safetensors");
        vars.save(&file, DType::F32).unwrap();
        let frozen = Variables::load(&file, 0, &Device::Cpu).unwrap();
        let dense = VitConfig { tosa: None, ..config.clone() };
        let teacher = Vit::new(&dense, frozen.builder().pp("vision_tower")).unwrap();
        let optimiser =
            AdamWSettings { learning_rate: 3e-3, weight_decay: 0.0, warmup: 5, steps: 60, clip: 1.0, until: None };
        let run = SkippingTraining {
            batch: 16,
            ratios: vec![0.4, 0.7],
            selector_weight: 0.1,
            distil_weight: 1.0,
            optimiser,
            drawers: 1,
            seed: 1,
            weights: folder.path().join("skipping.safetensors"),
        };
        // Every variable is reached by the loss: tower, heads and selectors.
        let (mut first, mut last) = (None, None);
        train(&teacher, &model, &vars, &run, &Squares, &mut |p| {
            first.get_or_insert(p);
            last = Some(p);
        })
        .unwrap();
        let (first, last) = (first.unwrap(), last.unwrap());
        assert_eq!(last.step, 60);
        assert!(last.divergence < first.divergence, "{first:?} {last:?}");
        assert!(last.task < first.task, "{first:?} {last:?}");
        let saved = Variables::load(&run.weights, 0, &Device::Cpu).unwrap();
        let again = EncoderModel::new(&config, 4, 2, &saved).unwrap();
        let held_out = Squares.samples(99, 32);
        let scores = |m: &EncoderModel| m.evaluate(&held_out).unwrap().joint_error_percent;
        assert_eq!(scores(&again), scores(&model));
        let table = compare(&mut model, &[0.4, 0.7], &held_out).unwrap();
        assert_eq!(table.len(), 9);
        let plain = EncoderModel::new(&dense, 4, 2, &frozen).unwrap();
        assert!(train(&teacher, &plain, &frozen, &run, &Squares, &mut |_| {}).is_err());
    }
}
