//! Trains the encoder on single pictures.
//!
//! Joints are a dense target: a few hundred thousand drawn pictures teach the class token the posture, which is what
//! the coach needs to follow a movement.

use super::{
    AdamW, AdamWSettings, Variables, data_parallel,
    heads::{Heads, Marks, Sample, SampleSource, Scores, Truth, task},
    prefetch,
};
use crate::encoder::vit::{Vit, VitConfig};
use candle_core::{Device, Error, Result, Tensor};
use std::{path::PathBuf, sync::Mutex};

/// Samples ready for a device.
struct Batch {
    cut: Vec<u8>,
    truth: Truth,
}

impl Batch {
    fn new(config: &VitConfig, mistakes: usize, samples: &[Sample]) -> Result<Self> {
        let rgb: Vec<&[u8]> = samples.iter().map(|s| s.rgb.as_slice()).collect();
        Ok(Self { cut: Vit::cut(config, &rgb)?, truth: Truth::new(mistakes, samples) })
    }
}

/// Settings of a training run.
#[derive(Clone, Debug)]
pub struct EncoderTraining {
    /// Pictures a step, over all workers.
    pub batch: usize,
    /// Threads that train, each on a share of the batch; 1 on anything but the processor.
    pub workers: usize,
    /// Threads that draw.
    pub drawers: usize,
    /// Where.
    pub device: Device,
    /// Optimiser.
    pub optimiser: AdamWSettings,
    /// Seed of weights and samples.
    pub seed: u64,
    /// Folder of `encoder.safetensors` and its optimiser state; taken up again when it exists.
    pub out: PathBuf,
    /// Steps between checkpoints.
    pub save_every: usize,
}

/// State after a step.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Steps done.
    pub step: usize,
    /// Mean squared joint error.
    pub joints: f64,
    /// Cross-entropy of the exercise.
    pub exercise: f64,
    /// Squared error of the phase as a point on the unit circle.
    pub phase: f64,
    /// Binary cross-entropy of the mistakes.
    pub mistakes: f64,
}

/// An encoder with its training heads.
pub struct EncoderModel {
    vit: Vit,
    heads: Heads,
    device: Device,
}

impl EncoderModel {
    /// The variables of the tower lie below `vision_tower`, as in the checkpoint that ships; heads below `heads`.
    ///
    /// # Errors
    /// Saved variables of another shape.
    pub fn new(config: &VitConfig, classes: usize, mistakes: usize, vars: &Variables) -> Result<Self> {
        let vb = vars.builder();
        // The tower comes first: from a seed, variables take their numbers in the order in which they are made.
        let vit = Vit::new(config, vb.pp("vision_tower"))?;
        let heads = Heads::new(config.hidden_size, classes, mistakes, vars)?;
        Ok(Self { vit, heads, device: vb.device().clone() })
    }

    /// What the tower makes of a batch, `[b, d]`.
    fn class_tokens(&self, cut: Vec<u8>) -> Result<Tensor> {
        self.vit.class_tokens(&Vit::patches(self.vit.config(), cut, &self.device)?)
    }

    fn batch_losses(&self, batch: Batch) -> Result<[Tensor; 4]> {
        self.heads.losses(&self.class_tokens(batch.cut)?, batch.truth)
    }

    /// Scores on `samples`.
    ///
    /// # Errors
    /// Pictures of another size, or those of the device.
    pub fn evaluate(&self, samples: &[Sample]) -> Result<Scores> {
        let mut marks = Marks::default();
        for chunk in samples.chunks(64) {
            let batch = Batch::new(self.vit.config(), self.heads.mistakes()?, chunk)?;
            marks.add(&self.heads, &self.class_tokens(batch.cut)?, chunk)?;
        }
        Ok(marks.scores())
    }
}

/// Trains until `optimiser.steps`; calls `progress` after each step. Returns scores on `held_out`.
pub fn train(
    config: &VitConfig,
    run: &EncoderTraining,
    source: &dyn SampleSource,
    held_out: &[Sample],
    progress: &mut dyn FnMut(&Progress),
) -> Result<Scores> {
    let device = &run.device;
    let (weights, state) = (run.out.join("encoder.safetensors"), run.out.join("encoder-optimiser.safetensors"));
    let resumed = weights.exists() && state.exists();
    let vars = if resumed { Variables::load(&weights, run.seed, device)? } else { Variables::seeded(run.seed, device) };
    let model = EncoderModel::new(config, source.classes(), source.mistakes(), &vars)?;
    let mut optimiser = AdamW::new(vars.all(), run.optimiser.clone())?;
    if resumed {
        optimiser.restore(&state, device)?;
    }
    let workers = run.workers.max(1);
    let share = (run.batch / workers).max(1);
    let draw = |step: usize| -> Result<Vec<Mutex<Option<Batch>>>> {
        let one = |worker: usize| {
            let seed = run.seed.wrapping_mul(0x9E37_79B9).wrapping_add((step * workers + worker) as u64);
            Batch::new(config, source.mistakes(), &source.samples(seed, share)).map(|b| Mutex::new(Some(b)))
        };
        (0..workers).map(one).collect()
    };
    prefetch(optimiser.step..run.optimiser.steps, run.drawers, draw, |_, shares| {
        let (losses, grads) = data_parallel(workers, |worker| {
            let batch = shares.get(worker).and_then(|s| s.lock().ok()?.take());
            let parts = model.batch_losses(batch.ok_or_else(|| Error::Msg("a share was taken twice".into()))?)?;
            let store = task(&parts)?.backward()?;
            let values = Tensor::stack(&parts, 0)?.to_vec1::<f32>()?.into_iter().map(f64::from).collect();
            Ok((values, optimiser.gradients(&store)?))
        })?;
        optimiser.step(&grads)?;
        let [joints, exercise, phase, mistakes] = losses[..] else { return Ok(false) };
        progress(&Progress { step: optimiser.step, joints, exercise, phase, mistakes });
        let over = optimiser.over();
        if optimiser.step.is_multiple_of(run.save_every) || over {
            vars.save(&weights, candle_core::DType::F32)?;
            optimiser.save(&state)?;
        }
        Ok::<_, Error>(!over)
    })?;
    model.evaluate(held_out)
}
