//! Trains the selectors of token selective attention against a frozen tower (specs: tosa, section 2, first stage): each learns
//! to predict the attention map of the layer behind it from the products of the layer before it.

use super::{AdamWSettings, Keep, Variables, prefetch};
use crate::{
    encoder::{
        Trunk,
        tosa::{Block, Tosa, top},
    },
    nn,
};
use candle_core::{D, Error, Result, Tensor, bail};

/// Divergence of the predicted from the true map, `KL(true || predicted)`, as a mean over pictures, heads and rows: one number
/// for each selective layer, from the tokens `[b, n, d]` that enter the first layer. The tower is left as it is.
///
/// # Errors
/// A selective layer without a selector, or those of the device.
pub fn divergences(layers: &[&dyn Block], x: &Tensor, tosa: &Tosa) -> Result<Vec<Tensor>> {
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
    nn::softmax(&scores.detach(), 1.0, false)
}

/// Share of the tokens that a selector chooses and the true map would have chosen too, over all selective layers and pictures;
/// beside it the share that chance finds.
///
/// # Errors
/// As [`divergences`].
pub fn agreement(layers: &[&dyn Block], x: &Tensor, tosa: &Tosa) -> Result<(f64, f64)> {
    let (n, p) = (x.dim(1)?, tosa.protected());
    let k = tosa.kept(n);
    let (mut shared, mut all) = (0usize, 0usize);
    each(layers, x, tosa, |logits, truth| {
        let choose = |map: &Tensor| -> Result<Vec<Vec<u32>>> {
            let scores = tosa.options().score.tokens(map)?;
            Ok(scores.iter().map(|s| top(s, k, p)).collect())
        };
        let (ours, theirs) = (choose(&map_of(logits)?)?, choose(truth)?);
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
fn each(
    layers: &[&dyn Block],
    x: &Tensor,
    tosa: &Tosa,
    mut see: impl FnMut(&Tensor, &Tensor) -> Result<()>,
) -> Result<()> {
    let (mut x, mut before) = (x.detach(), None::<Tensor>);
    let last = tosa.selectors().keys().max().copied().unwrap_or(0);
    for (index, layer) in layers.iter().enumerate().take(last + 1) {
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
    /// Where the selectors are kept, under their names in the checkpoint; taken up again where it was stopped.
    pub keep: Keep,
}

/// How well selectors do on pictures they never saw.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct SelectorScores {
    /// Steps done.
    pub steps: usize,
    /// Mean divergence of the maps.
    pub divergence: f64,
    /// Share of the right tokens among the chosen ones.
    pub agreement: f64,
    /// What chance finds.
    pub chance: f64,
}

/// Trains the selectors `tosa` (made from `vars`) of a frozen tower. `pictures` makes the tower's input for a step, on any
/// device; `held_out` are others, a batch at a time. `progress` hears the step and its divergence.
///
/// # Errors
/// A tower that has no selective layer, a divergence that is not finite, files that can't be written, or those of the device.
pub fn train(
    trunk: &dyn Trunk,
    tosa: &Tosa,
    vars: &Variables,
    run: &SelectorTraining,
    pictures: impl Fn(usize) -> Result<Tensor> + Sync,
    held_out: &[Tensor],
    progress: &mut dyn FnMut(usize, f64),
) -> Result<SelectorScores> {
    if tosa.selectors().is_empty() {
        bail!("a tower of {} layers has no selective one", trunk.outline().depth);
    }
    let blocks = trunk.blocks();
    let tokens = |input: &Tensor| trunk.embed(&input.to_device(trunk.device())?).map(|x| x.detach());
    let mut optimiser = run.keep.optimiser(vars, run.optimiser.clone(), trunk.device())?;
    prefetch(optimiser.step..run.optimiser.steps, run.makers, &pictures, |_, input| {
        let losses = divergences(&blocks, &tokens(&input)?, tosa)?;
        let loss = (Tensor::stack(&losses, 0)?.sum_all()? / losses.len() as f64)?;
        let grads = optimiser.gradients(&loss.backward()?)?;
        optimiser.step(&grads)?;
        progress(optimiser.step, f64::from(loss.to_scalar::<f32>()?));
        run.keep.save(vars, &optimiser)?;
        Ok::<_, Error>(!optimiser.over())
    })?;
    let (mut divergence, mut agreed, mut chance) = (0.0, 0.0, 0.0);
    for input in held_out {
        let x = tokens(input)?;
        let losses = divergences(&blocks, &x, tosa)?;
        let sum: f64 = losses.iter().map(|l| l.to_scalar::<f32>().map(f64::from)).sum::<Result<f64>>()?;
        let (share, by_chance) = agreement(&blocks, &x, tosa)?;
        divergence += sum / losses.len().max(1) as f64;
        (agreed, chance) = (agreed + share, by_chance);
    }
    let n = held_out.len().max(1) as f64;
    Ok(SelectorScores { steps: optimiser.step, divergence: divergence / n, agreement: agreed / n, chance })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::{
        tosa::TosaOptions,
        vit::{Vit, VitConfig},
    };
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

    fn pictures(config: &VitConfig, seed: u64, n: usize) -> Tensor {
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
        Vit::patchify(config, &all.iter().map(Vec::as_slice).collect::<Vec<_>>(), &Device::Cpu).unwrap()
    }

    fn settings(folder: &std::path::Path, steps: usize) -> SelectorTraining {
        let optimiser =
            AdamWSettings { learning_rate: 0.03, weight_decay: 0.0, warmup: 5, steps, clip: 1.0, until: None };
        SelectorTraining { optimiser, makers: 1, keep: Keep::new(folder, "selectors", 10) }
    }

    #[test]
    fn selectors_learn_the_next_map_and_beat_chance() {
        let (vit, config) = toy();
        let options = TosaOptions { ratio: 0.5, ..TosaOptions::default() };
        let vars = Variables::seeded(1, &Device::Cpu);
        let tosa = Tosa::new(&options, vit.outline(), &vars.builder().pp("layers")).unwrap();
        let held_out = pictures(&config, 99, 16);
        let x = vit.embed(&held_out).unwrap();
        let mean = || {
            let all = divergences(&vit.blocks(), &x, &tosa).unwrap();
            all.iter().map(|l| l.to_scalar::<f32>().unwrap()).sum::<f32>() / all.len() as f32
        };
        let before = mean();
        let folder = tempfile::tempdir().unwrap();
        let run = settings(folder.path(), 400);
        let input = |step: usize| Ok(pictures(&config, step as u64, 8));
        let scores = train(&vit, &tosa, &vars, &run, input, &[held_out], &mut |_, _| {}).unwrap();
        assert!(scores.divergence < f64::from(before) / 2.0, "{before} to {scores:?}");
        assert!(scores.agreement > scores.chance + 0.15, "{scores:?}");
        assert!((scores.chance - 0.5).abs() < 1e-9);
        // The planted bug: selectors that were never trained do not pass for trained ones.
        let fresh = Variables::seeded(1, &Device::Cpu);
        let untrained = Tosa::new(&options, vit.outline(), &fresh.builder().pp("layers")).unwrap();
        let (plain, _) = agreement(&vit.blocks(), &x, &untrained).unwrap();
        assert!(plain < scores.agreement - 0.05, "{plain} against {scores:?}");
        // What was saved is what was trained.
        let saved = Variables::load(&run.keep.weights, 0, &Device::Cpu).unwrap();
        let again = Tosa::new(&options, vit.outline(), &saved.builder().pp("layers")).unwrap();
        assert_eq!(agreement(&vit.blocks(), &x, &again).unwrap().0, scores.agreement);
    }

    #[test]
    fn a_stopped_run_ends_where_an_unbroken_one_does() {
        let (vit, config) = toy();
        let options = TosaOptions { ratio: 0.5, ..TosaOptions::default() };
        let input = |step: usize| Ok(pictures(&config, step as u64, 2));
        let go = |folder: &std::path::Path, stop: usize| {
            let run = settings(folder, 30);
            let vars = if run.keep.begun() {
                Variables::load(&run.keep.weights, 9, &Device::Cpu).unwrap()
            } else {
                Variables::seeded(1, &Device::Cpu)
            };
            let tosa = Tosa::new(&options, vit.outline(), &vars.builder().pp("layers")).unwrap();
            let broken = |step: usize| if step < stop { input(step) } else { bail!("the power is gone") };
            let mut first = None;
            let ended = train(&vit, &tosa, &vars, &run, broken, &[], &mut |step, _| {
                first.get_or_insert(step);
            });
            assert_eq!(ended.is_ok(), stop >= 30);
            (
                first,
                vars.all().iter().map(|(_, v)| v.flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect::<Vec<_>>(),
            )
        };
        let (whole, broken) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (_, expected) = go(whole.path(), 30);
        go(broken.path(), 24);
        let (first, found) = go(broken.path(), 30);
        assert_eq!(first, Some(21), "taken up at the checkpoint of step 20");
        assert_eq!(expected, found);
    }
}
