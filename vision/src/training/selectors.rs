//! Trains the selectors of token selective attention against a frozen tower (specs: tosa, section 2, first stage): each learns
//! to predict the attention map of the layer behind it from the products of the layer before it.

use super::{AdamW, AdamWSettings, Variables, prefetch};
use crate::encoder::{
    tosa::{Block, Score, Tosa, keep},
    vit::Vit,
};
use candle_core::{D, DType, Error, Result, Tensor, bail};
use std::path::PathBuf;

/// Divergence of the predicted from the true map, `KL(true || predicted)`, as a mean over pictures, heads and rows: one number
/// for each selective layer, from the tokens `[b, n, d]` that enter the first layer. The tower is left as it is.
///
/// # Errors
/// A selective layer without a selector, or those of the device.
pub fn divergences<B: Block>(layers: &[B], x: &Tensor, tosa: &Tosa) -> Result<Vec<Tensor>> {
    let mut found = Vec::new();
    each(layers, x, tosa, |selector_logits, truth| {
        found.push(divergence(selector_logits, truth)?);
        Ok(())
    })?;
    Ok(found)
}

/// `KL(truth || softmax(logits))` over the last dimension, mean over the others.
pub(super) fn divergence(logits: &Tensor, truth: &Tensor) -> Result<Tensor> {
    let shifted = logits.broadcast_sub(&logits.detach().max_keepdim(D::Minus1)?)?;
    let log_map = shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(D::Minus1)?.log()?)?;
    let log_truth = truth.maximum(1e-12)?.log()?;
    (truth * (log_truth - log_map)?)?.sum(D::Minus1)?.mean_all()
}

/// The attention map of products, without a way back.
pub(super) fn map_of(scores: &Tensor) -> Result<Tensor> {
    candle_nn::ops::softmax_last_dim(&scores.detach().contiguous()?)
}

/// Share of the tokens that a selector chooses and the true map would have chosen too, over all selective layers and pictures;
/// beside it the share that chance finds.
///
/// # Errors
/// As [`divergences`].
pub fn agreement<B: Block>(layers: &[B], x: &Tensor, tosa: &Tosa) -> Result<(f64, f64)> {
    let (n, p) = (x.dim(1)?, tosa.options.protected);
    let k = keep(tosa.options.ratio, n, p);
    let (mut shared, mut all) = (0usize, 0usize);
    each(layers, x, tosa, |logits, truth| {
        let choose = |map: &Tensor| -> Result<Vec<Vec<u32>>> {
            let scores = Score::ColSum.tokens(map)?;
            Ok(scores.iter().map(|s| crate::encoder::tosa::top(s, k, p)).collect())
        };
        let (ours, theirs) = (choose(&candle_nn::ops::softmax_last_dim(&logits.contiguous()?)?)?, choose(truth)?);
        for (ours, theirs) in ours.iter().zip(&theirs) {
            let free = |set: &[u32]| set.iter().filter(|t| **t as usize >= p).copied().collect::<Vec<_>>();
            let theirs = free(theirs);
            shared += free(ours).iter().filter(|t| theirs.contains(t)).count();
            all += theirs.len();
        }
        Ok(())
    })?;
    let chance = (k - p.min(k)) as f64 / n.saturating_sub(p).max(1) as f64;
    Ok((shared as f64 / all.max(1) as f64, chance))
}

/// Runs the tower on all tokens; `see` gets each selector's logits and the true map of its layer, both without a way back into
/// the tower.
fn each<B: Block>(
    layers: &[B],
    x: &Tensor,
    tosa: &Tosa,
    mut see: impl FnMut(&Tensor, &Tensor) -> Result<()>,
) -> Result<()> {
    let (mut x, mut before) = (x.detach(), None::<Tensor>);
    for (index, layer) in layers.iter().enumerate() {
        let (next, scores) = layer.forward_scored(&x)?;
        if let (Some(selector), Some(before)) = (tosa.selectors().get(&index), &before) {
            see(&selector.logits(before)?, &map_of(&scores)?)?;
        }
        (x, before) = (next.detach(), Some(scores.detach()));
    }
    Ok(())
}

/// Settings of a training run.
#[derive(Clone, Debug)]
pub struct SelectorTraining {
    /// Optimiser.
    pub optimiser: AdamWSettings,
    /// Threads that make pictures.
    pub makers: usize,
    /// Where the selectors are saved, as `layers.{i}.selector.*` below `prefix`.
    pub weights: PathBuf,
}

/// How well selectors do on pictures they never saw.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct SelectorScores {
    /// Mean divergence of the maps.
    pub divergence: f64,
    /// Share of the right tokens among the chosen ones.
    pub agreement: f64,
    /// What chance finds.
    pub chance: f64,
}

/// Trains the selectors `tosa` (made from `vars`) of a frozen tower. `cut` makes the pictures of a step, cut into patches;
/// `held_out` are others. `progress` hears the step and its divergence.
///
/// # Errors
/// A divergence that is not finite, files that can't be written, or those of the device.
pub fn train(
    vit: &Vit,
    tosa: &Tosa,
    vars: &Variables,
    run: &SelectorTraining,
    cut: impl Fn(usize) -> Result<Vec<u8>> + Sync,
    held_out: Vec<u8>,
    progress: &mut dyn FnMut(usize, f64),
) -> Result<SelectorScores> {
    let tokens = |cut: Vec<u8>| vit.embed(&Vit::patches(vit.config(), cut, vit.device())?).map(|x| x.detach());
    let mut optimiser = AdamW::new(vars.all(), run.optimiser.clone())?;
    prefetch(0..run.optimiser.steps, run.makers, &cut, |_, pictures| {
        let losses = divergences(vit.blocks(), &tokens(pictures)?, tosa)?;
        if losses.is_empty() {
            bail!("the tower has no selective layer");
        }
        let loss = (Tensor::stack(&losses, 0)?.sum_all()? / losses.len() as f64)?;
        let grads = optimiser.gradients(&loss.backward()?)?;
        optimiser.step(&grads)?;
        progress(optimiser.step, f64::from(loss.to_scalar::<f32>()?));
        Ok::<_, Error>(!optimiser.over())
    })?;
    vars.save(&run.weights, DType::F32)?;
    let x = tokens(held_out)?;
    let losses = divergences(vit.blocks(), &x, tosa)?;
    let sum: f64 = losses.iter().map(|l| l.to_scalar::<f32>().map(f64::from)).sum::<Result<f64>>()?;
    let (agreement, chance) = agreement(vit.blocks(), &x, tosa)?;
    Ok(SelectorScores { divergence: sum / losses.len().max(1) as f64, agreement, chance })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::{tosa::TosaOptions, vit::VitConfig};
    use candle_core::Device;
    use rand::{Rng as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    fn toy() -> (Vit, VitConfig) {
        let config = VitConfig {
            image_size: 24,
            patch_size: 4,
            hidden_size: 16,
            intermediate_size: 32,
            num_hidden_layers: 4,
            num_attention_heads: 4,
            ..VitConfig::default()
        };
        let vars = Variables::seeded(5, &Device::Cpu);
        let vit = Vit::new(&config, vars.builder()).unwrap();
        // Random towers attend evenly; larger queries and keys make maps worth predicting.
        for (name, var) in vars.all() {
            if name.contains("qkv.weight") {
                var.set(&(var.as_tensor() * 2.0).unwrap()).unwrap();
            }
        }
        (vit, config)
    }

    fn pictures(config: &VitConfig, seed: u64, n: usize) -> Vec<u8> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let side = config.image_size;
        let picture = |rng: &mut ChaCha8Rng| -> Vec<u8> {
            // A bright spot on dark ground, as a body on the avatar's.
            let (x, y) = (rng.random_range(0..side) as i32, rng.random_range(0..side) as i32);
            (0..side * side * 3)
                .map(|i| {
                    let (px, py) = (((i / 3) % side) as i32, (i / 3 / side) as i32);
                    let away = (px - x).pow(2) + (py - y).pow(2);
                    if away < 40 { 200 + rng.random_range(0..55) } else { rng.random_range(0..20) }
                })
                .collect()
        };
        let all: Vec<Vec<u8>> = (0..n).map(|_| picture(&mut rng)).collect();
        Vit::cut(config, &all.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn selectors_learn_the_next_map_and_beat_chance() {
        let (vit, config) = toy();
        let options = TosaOptions { ratio: 0.5, ..TosaOptions::default() };
        let vars = Variables::seeded(1, &Device::Cpu);
        let tosa = Tosa::new(&options, 4, 4, &vars.builder().pp("layers")).unwrap();
        let held_out = pictures(&config, 99, 16);
        let x = vit.embed(&Vit::patches(&config, held_out.clone(), &Device::Cpu).unwrap()).unwrap();
        let mean = || {
            let all = divergences(vit.blocks(), &x, &tosa).unwrap();
            all.iter().map(|l| l.to_scalar::<f32>().unwrap()).sum::<f32>() / all.len() as f32
        };
        let before = mean();
        let folder = tempfile::tempdir().unwrap();
        let optimiser =
            AdamWSettings { learning_rate: 0.03, weight_decay: 0.0, warmup: 5, steps: 400, clip: 1.0, until: None };
        let run = SelectorTraining { optimiser, makers: 1, weights: folder.path().join("selectors.safetensors") };
        let cut = |step: usize| Ok(pictures(&config, step as u64, 8));
        let scores = train(&vit, &tosa, &vars, &run, cut, held_out, &mut |_, _| {}).unwrap();
        assert!(scores.divergence < f64::from(before) / 2.0, "{before} to {scores:?}");
        assert!(scores.agreement > scores.chance + 0.15, "{scores:?}");
        assert!((scores.chance - 0.5).abs() < 1e-9);
        // The planted bug: selectors that were never trained do not pass for trained ones.
        let fresh = Variables::seeded(1, &Device::Cpu);
        let untrained = Tosa::new(&options, 4, 4, &fresh.builder().pp("layers")).unwrap();
        let (plain, _) = agreement(vit.blocks(), &x, &untrained).unwrap();
        assert!(plain < scores.agreement - 0.05, "{plain} against {scores:?}");
        // What was saved is what was trained.
        let saved = Variables::load(&run.weights, 0, &Device::Cpu).unwrap();
        let again = Tosa::new(&options, 4, 4, &saved.builder().pp("layers")).unwrap();
        assert_eq!(agreement(vit.blocks(), &x, &again).unwrap().0, scores.agreement);
    }
}
