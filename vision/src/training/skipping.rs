//! Trains a tower to live with skipping (specs: tosa, section 2, second stage): the task's loss, the selectors' divergence from
//! the maps of a frozen dense teacher, and the distance of the tokens that a coach reads from the teacher's.

use super::{
    AdamWSettings, Keep, Variables,
    heads::{Heads, Marks, Sample, Scores, Truth, task},
    prefetch,
    selectors::{divergence, map_of},
};
use crate::{
    encoder::{
        Trunk,
        tosa::{Memory, Places, Ranking, Tosa, choose, selectively},
    },
    nn,
};
use candle_core::{Error, Result, Tensor, bail};
use std::{ops::Range, sync::Mutex};

/// Settings of a training run.
#[derive(Clone, Debug)]
pub struct SkippingTraining {
    /// Shares of the tokens that selective layers work on, one after another.
    pub ratios: Vec<f64>,
    /// Weight of the selectors' divergence.
    pub selector_weight: f64,
    /// Weight of the squared distance from the teacher's tokens, relative to their own square.
    pub distil_weight: f64,
    /// Optimiser.
    pub optimiser: AdamWSettings,
    /// Threads that make pictures.
    pub makers: usize,
    /// Where tower, selectors and heads are kept; taken up again where it was stopped.
    pub keep: Keep,
}

/// A batch on its way to a device.
#[derive(Clone, Debug)]
pub struct Pictures {
    /// What the tower takes.
    pub input: Tensor,
    /// The frames before, where the tower is trained to reuse what it made of them.
    pub before: Option<Tensor>,
    /// What is to be seen, where that is known.
    pub truth: Option<Truth>,
}

/// Pictures that training never sees.
pub struct HeldOut {
    /// What the tower takes.
    pub input: Tensor,
    /// The frames before.
    pub before: Option<Tensor>,
    /// What is to be seen; empty where that is not known.
    pub samples: Vec<Sample>,
}

/// State after a step.
#[derive(Clone, Copy, Debug)]
pub struct SkippingProgress {
    /// Steps done.
    pub step: usize,
    /// Weighed loss of the task; 0 where there is none.
    pub task: f64,
    /// Divergence of the selectors.
    pub divergence: f64,
    /// Squared distance from the teacher's tokens, relative to their own square.
    pub distance: f64,
}

/// Scores of one way of choosing on pictures that training never saw.
#[derive(Clone, Debug, serde::Serialize)]
pub struct SkippingScores {
    /// Share of the tokens; 1 is the dense tower.
    pub ratio: f64,
    /// Who chose.
    pub way: &'static str,
    /// Squared distance of the tokens that are read from the teacher's, relative to their own square.
    pub distance: f64,
    /// What a single picture scores, where the truth is known.
    #[serde(flatten)]
    pub scores: Option<Scores>,
}

/// The tokens that are read behind a tower, of `[b, n, d]`.
fn read(tokens: &Tensor, which: &Range<usize>) -> Result<Tensor> {
    tokens.narrow(1, which.start, which.len())
}

/// What heads look at, `[b, d]`: the mean of the tokens that are read, at a scale of its own.
fn features(read: &Tensor) -> Result<Tensor> {
    let mean = read.mean(1)?;
    let one = Tensor::ones(mean.dim(1)?, mean.dtype(), mean.device())?;
    nn::layer_norm(&mean, &one, &one.zeros_like()?, 1e-6)
}

/// Squared distance, relative to the square of what is aimed at.
fn distance(seen: &Tensor, aim: &Tensor) -> Result<Tensor> {
    let size = (aim.detach().sqr()?.mean_all()? + 1e-12)?;
    (seen - aim)?.sqr()?.mean_all()?.div(&size)
}

/// Fits `heads`, whose variables are `vars`, to a frozen tower: what its tokens say as they are.
///
/// # Errors
/// Pictures without truth, a loss that is not finite, or those of the device.
pub fn fit_heads(
    tower: &dyn Trunk,
    (heads, vars): (&Heads, &Variables),
    which: &Range<usize>,
    run: &AdamWSettings,
    makers: usize,
    pictures: impl Fn(usize) -> Result<Pictures> + Sync,
    progress: &mut dyn FnMut(usize, f64),
) -> Result<()> {
    let mut optimiser = super::AdamW::new(vars.all(), run.clone())?;
    let make = |step: usize| pictures(step).map(|p| Mutex::new(Some(p)));
    prefetch(0..run.steps, makers, make, |_, made| {
        let Pictures { input, truth, .. } = taken(made)?;
        let Some(truth) = truth else { bail!("heads are fitted to pictures whose truth is known") };
        let tokens = tower.forward(&input.to_device(tower.device())?)?.detach();
        let loss = task(&heads.losses(&features(&read(&tokens, which)?)?, truth)?)?;
        let grads = optimiser.gradients(&loss.backward()?)?;
        optimiser.step(&grads)?;
        progress(optimiser.step, f64::from(loss.to_scalar::<f32>()?));
        Ok::<_, Error>(!optimiser.over())
    })
}

fn taken<T>(made: Mutex<Option<T>>) -> Result<T> {
    made.into_inner().ok().flatten().ok_or_else(|| Error::Msg("a batch was taken twice".into()))
}

/// The ways of choosing that are compared (specs: tosa, check 8), and whether each needs the frame before.
const WAYS: [(&str, Ranking, bool); 6] = [
    ("selector", Ranking::Selector, false),
    ("oracle", Ranking::Oracle, false),
    ("previous", Ranking::Previous, false),
    ("chance", Ranking::Random(1), false),
    ("selector, reuse", Ranking::Selector, true),
    ("change, reuse", Ranking::Change, true),
];

/// Scores of a tower on `held_out`, dense and at each ratio with its selectors and with every control.
///
/// # Errors
/// A tower without selectors, or those of the device.
pub fn compare(
    teacher: &dyn Trunk,
    tower: &mut dyn Trunk,
    heads: Option<&Heads>,
    which: &Range<usize>,
    ratios: &[f64],
    held_out: &[HeldOut],
) -> Result<Vec<SkippingScores>> {
    let Some(tosa) = tower.tosa().cloned() else { bail!("the tower has no selectors") };
    let aim = |held: &HeldOut| read(&teacher.forward(&held.input.to_device(teacher.device())?)?, which);
    let aims = held_out.iter().map(aim).collect::<Result<Vec<_>>>()?;
    tower.set_tosa(None);
    let (distance, scores) = mark(&aims, tower, heads, which, held_out)?;
    let mut all = vec![SkippingScores { ratio: 1.0, way: "dense", distance, scores }];
    for ratio in ratios {
        for (way, ranking, reuse) in WAYS {
            if reuse && held_out.iter().any(|h| h.before.is_none()) {
                continue;
            }
            tower.set_tosa(Some(tosa.varied(*ratio, reuse, ranking)));
            let (distance, scores) = mark(&aims, tower, heads, which, held_out)?;
            all.push(SkippingScores { ratio: *ratio, way, distance, scores });
        }
    }
    tower.set_tosa(Some(tosa));
    Ok(all)
}

/// Distance from the teacher's tokens and scores, as the tower is set.
fn mark(
    aims: &[Tensor],
    tower: &dyn Trunk,
    heads: Option<&Heads>,
    which: &Range<usize>,
    held_out: &[HeldOut],
) -> Result<(f64, Option<Scores>)> {
    let (mut apart, mut marks) = (0f64, Marks::default());
    let reuses = tower.tosa().is_some_and(|t| t.options().reuse);
    for (held, aim) in held_out.iter().zip(aims) {
        let input = held.input.to_device(tower.device())?;
        let mut memory = Memory::default();
        if let Some(before) = held.before.as_ref().filter(|_| reuses) {
            tower.follow(&before.to_device(tower.device())?, Some(&mut memory))?;
        }
        let seen = read(&tower.follow(&input, Some(&mut memory))?, which)?;
        apart += f64::from(distance(&seen, aim)?.to_scalar::<f32>()?);
        if let Some(heads) = heads.filter(|_| !held.samples.is_empty()) {
            marks.add(heads, &features(&seen)?, &held.samples)?;
        }
    }
    let scores = heads.filter(|_| held_out.iter().any(|h| !h.samples.is_empty())).map(|_| marks.scores());
    Ok((apart / held_out.len().max(1) as f64, scores))
}

/// The tower's tokens with skipping, and the selectors' logits on the way. With `memory` skipped tokens take what they were
/// given in the frame before, which must have gone through [`dense`].
fn skipping(
    tower: &dyn Trunk,
    tosa: &Tosa,
    x: &Tensor,
    mut memory: Option<&mut Memory>,
) -> Result<(Tensor, Vec<Tensor>)> {
    let (k, p) = (tosa.kept(x.dim(1)?), tosa.protected());
    let (mut x, mut before, mut logits) = (x.clone(), None::<Tensor>, Vec::new());
    for (index, layer) in tower.blocks().into_iter().enumerate() {
        if let (Some(selector), Some(products)) = (tosa.selectors().get(&index), before.take()) {
            let predicted = selector.logits(&products)?;
            let scores = tosa.options().score.tokens(&map_of(&predicted)?)?;
            logits.push(predicted);
            x = match memory.as_deref_mut() {
                None => selectively(layer, &x, &choose(scores, None, k, p))?,
                Some(memory) => {
                    let changed = memory.changed(index, &x)?;
                    let chosen = choose(scores, changed.as_deref(), k, p);
                    memory.selectively(index, layer, &x, Places::new(x.dim(0)?, x.dim(1)?, &chosen)?)?
                }
            };
        } else if tosa.selectors().contains_key(&(index + 1)) {
            let (next, products) = layer.forward_scored(&x)?;
            // Selectors learn to read the tower; it does not learn to please them.
            (x, before) = (next, Some(products.detach()));
        } else {
            x = layer.forward(&x)?;
        }
    }
    Ok((tower.finish(&x)?, logits))
}

/// The dense teacher's tokens, and the true maps of the selective layers; no way back into it.
fn taught(tower: &dyn Trunk, tosa: &Tosa, x: &Tensor) -> Result<(Tensor, Vec<Tensor>)> {
    let (mut x, mut maps) = (x.detach(), Vec::new());
    for (index, layer) in tower.blocks().into_iter().enumerate() {
        let next = if tosa.selectors().contains_key(&index) {
            let (next, products) = layer.forward_scored(&x)?;
            maps.push(map_of(&products)?);
            next
        } else {
            layer.forward(&x)?
        };
        x = next.detach();
    }
    Ok((tower.finish(&x)?.detach(), maps))
}

/// What the tower makes of the frames before, remembered.
fn recall(tower: &dyn Trunk, tosa: &Tosa, before: &Tensor) -> Result<Memory> {
    let mut memory = Memory::default();
    let whole = tosa.varied(tosa.options().ratio, true, tosa.ranking());
    crate::encoder::tosa::run(&tower.blocks(), &tower.embed(before)?.detach(), Some(&whole), Some(&mut memory))?;
    Ok(memory)
}

/// Losses of one step: task (0 where nothing is known), divergence, distance.
fn losses(
    teacher: &dyn Trunk,
    tower: &dyn Trunk,
    heads: Option<&Heads>,
    which: &Range<usize>,
    tosa: &Tosa,
    pictures: Pictures,
) -> Result<[Tensor; 3]> {
    let device = tower.device();
    let input = pictures.input.to_device(device)?;
    let (aim, maps) = taught(teacher, tosa, &teacher.embed(&input)?)?;
    let mut memory = match &pictures.before {
        Some(before) => Some(recall(tower, tosa, &before.to_device(device)?)?),
        None => None,
    };
    let (tokens, logits) = skipping(tower, tosa, &tower.embed(&input)?, memory.as_mut())?;
    let seen = read(&tokens, which)?;
    let task = match (heads, pictures.truth) {
        (Some(heads), Some(truth)) => task(&heads.losses(&features(&seen)?, truth)?)?,
        _ => Tensor::zeros((), seen.dtype(), device)?,
    };
    let apart = logits.iter().zip(&maps).map(|(l, m)| divergence(l, m)).collect::<Result<Vec<_>>>()?;
    Ok([task, Tensor::stack(&apart, 0)?.mean_all()?, distance(&seen, &read(&aim, which)?)?])
}

/// Trains `tower`, whose layers have selectors and whose variables (with those of `heads`) are `vars`, against a dense
/// `teacher` of the same shape. `which` tokens are read behind it. Where pictures come with the frames before, it is trained to
/// reuse what it made of them.
///
/// # Errors
/// A tower without selectors, a loss that is not finite, files that can't be written, or those of the device.
pub fn train(
    teacher: &dyn Trunk,
    tower: &dyn Trunk,
    (heads, vars): (Option<&Heads>, &Variables),
    which: &Range<usize>,
    run: &SkippingTraining,
    pictures: impl Fn(usize) -> Result<Pictures> + Sync,
    progress: &mut dyn FnMut(SkippingProgress),
) -> Result<()> {
    let Some(tosa) = tower.tosa().filter(|t| !t.selectors().is_empty()) else { bail!("the tower has no selectors") };
    if run.ratios.is_empty() {
        bail!("ratios: at least one is needed");
    }
    let mut optimiser = run.keep.optimiser(vars, run.optimiser.clone(), tower.device())?;
    let make = |step: usize| pictures(step).map(|p| Mutex::new(Some(p)));
    prefetch(optimiser.step..run.optimiser.steps, run.makers, make, |step, made| {
        let ratio = run.ratios.get(step % run.ratios.len()).copied().unwrap_or(1.0);
        let tosa = tosa.varied(ratio, tosa.options().reuse, tosa.ranking());
        let [task, apart, away] = losses(teacher, tower, heads, which, &tosa, taken(made)?)?;
        let loss = ((&task + (&apart * run.selector_weight)?)? + (&away * run.distil_weight)?)?;
        let grads = optimiser.gradients(&loss.backward()?)?;
        optimiser.step(&grads)?;
        let values = Tensor::stack(&[task, apart, away], 0)?.to_vec1::<f32>()?;
        let [task, divergence, distance] = values[..] else { return Ok(false) };
        progress(SkippingProgress {
            step: optimiser.step,
            task: f64::from(task),
            divergence: f64::from(divergence),
            distance: f64::from(distance),
        });
        run.keep.save(vars, &optimiser)?;
        Ok::<_, Error>(!optimiser.over())
    })
}

#[cfg(test)]
mod tests;
