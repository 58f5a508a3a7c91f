//! Trains the encoder on single pictures: where the joints are (also hidden ones, also in depth), what is done, what is wrong.
//!
//! Joints are a dense target: a few hundred thousand drawn pictures teach the class token the posture, which is what
//! the coach needs to follow a movement.

use super::{AdamW, AdamWSettings, Variables, data_parallel, prefetch};
use crate::{
    body::JOINTS,
    encoder::{
        tosa::Tosa,
        vit::{Vit, VitConfig},
    },
    nn,
};
use candle_core::{D, Device, Error, Result, Tensor};
use candle_nn::Init;
use std::{path::PathBuf, sync::Mutex};

/// A picture with its truth.
pub struct Sample {
    /// `image_size * image_size * 3` bytes.
    pub rgb: Vec<u8>,
    /// Joints in picture coordinates from -1 to 1; z at the same scale.
    pub joints: [[f32; 3]; JOINTS],
    /// Class of what is done.
    pub exercise: u32,
    /// Phase of the repetition, 0 to 1; its turning point is at 0.5.
    pub phase: f32,
    /// What is wrong with the repetition, one bit a class.
    pub mistakes: u32,
}

/// Samples ready for a device.
pub(super) struct Batch {
    pub(super) cut: Vec<u8>,
    joints: Vec<f32>,
    exercise: Vec<u32>,
    phase: Vec<f32>,
    mistakes: Vec<f32>,
}

impl Batch {
    fn new(config: &VitConfig, classes: usize, samples: &[Sample]) -> Result<Self> {
        let rgb: Vec<&[u8]> = samples.iter().map(|s| s.rgb.as_slice()).collect();
        let turn = |s: &Sample| (s.phase * std::f32::consts::TAU).sin_cos();
        Ok(Self {
            cut: Vit::cut(config, &rgb)?,
            joints: samples.iter().flat_map(|s| s.joints.as_flattened().iter().copied()).collect(),
            exercise: samples.iter().map(|s| s.exercise).collect(),
            phase: samples.iter().flat_map(|s| [turn(s).0, turn(s).1]).collect(),
            mistakes: samples
                .iter()
                .flat_map(|s| (0..classes).map(|i| if s.mistakes >> i & 1 == 1 { 1.0 } else { 0.0 }))
                .collect(),
        })
    }
}

/// Where samples come from; one call makes one sample of a seed.
pub trait SampleSource: Sync {
    /// Number of classes of `exercise`.
    fn classes(&self) -> usize;
    /// Number of bits of `mistakes`.
    fn mistakes(&self) -> usize;
    /// `count` samples of `seed`.
    fn samples(&self, seed: u64, count: usize) -> Vec<Sample>;
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

/// What a trained encoder scores on samples it never saw.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Scores {
    /// Mean distance of joints in the picture plane, in per cent of the picture's side.
    pub joint_error_percent: f64,
    /// Share of pictures whose exercise is right, from one picture alone.
    pub exercise_accuracy: f64,
    /// Mean distance of the phase from the truth, in per cent of a repetition, from one picture alone.
    pub phase_error_percent: f64,
    /// F1 over all mistakes, from one picture alone.
    pub mistake_f1: f64,
}

/// An encoder with its training heads.
pub struct EncoderModel {
    vit: Vit,
    joints: (Tensor, Tensor),
    exercise: (Tensor, Tensor),
    phase: (Tensor, Tensor),
    mistakes: (Tensor, Tensor),
    config: VitConfig,
    device: Device,
}

/// What the heads say.
struct Outputs {
    joints: Tensor,
    exercise: Tensor,
    phase: Tensor,
    mistakes: Tensor,
}

impl EncoderModel {
    /// The variables of the tower lie below `vision_tower`, as in the checkpoint that ships; heads below `heads`.
    pub fn new(config: &VitConfig, classes: usize, mistakes: usize, vars: &Variables) -> Result<Self> {
        let vb = vars.builder();
        let head = |name: &str, n: usize| -> Result<(Tensor, Tensor)> {
            let vb = vb.pp("heads").pp(name);
            Ok((vb.get_with_hints((n, config.hidden_size), "weight", Init::Const(0.0))?, vb.get(n, "bias")?))
        };
        Ok(Self {
            vit: Vit::new(config, vb.pp("vision_tower"))?,
            joints: head("joints", JOINTS * 3)?,
            exercise: head("exercise", classes)?,
            phase: head("phase", 2)?,
            mistakes: head("mistakes", mistakes)?,
            config: config.clone(),
            device: vb.device().clone(),
        })
    }

    pub(super) fn batch(&self, samples: &[Sample]) -> Result<Batch> {
        Batch::new(&self.config, self.mistakes.0.dim(0)?, samples)
    }

    /// The tower.
    pub fn vit(&self) -> &Vit {
        &self.vit
    }

    /// Lets the tower skip tokens, or no longer.
    pub fn set_tosa(&mut self, tosa: Option<Tosa>) {
        self.vit.set_tosa(tosa);
    }

    /// What the tower makes of a batch, `[b, d]`.
    fn class_tokens(&self, cut: Vec<u8>) -> Result<Tensor> {
        self.vit.class_tokens(&Vit::patches(&self.config, cut, &self.device)?)
    }

    fn outputs(&self, class: &Tensor) -> Result<Outputs> {
        let head = |(w, b): &(Tensor, Tensor)| nn::linear(class, w, Some(b));
        Ok(Outputs {
            joints: head(&self.joints)?,
            exercise: head(&self.exercise)?,
            phase: head(&self.phase)?,
            mistakes: head(&self.mistakes)?,
        })
    }

    /// Losses of joints, exercise, phase and mistakes.
    pub fn losses(&self, samples: &[Sample]) -> Result<[Tensor; 4]> {
        self.batch_losses(self.batch(samples)?)
    }

    fn batch_losses(&self, mut batch: Batch) -> Result<[Tensor; 4]> {
        self.losses_of(&self.class_tokens(std::mem::take(&mut batch.cut))?, batch)
    }

    /// Losses of class tokens `[b, d]` that a tower gave for the pictures of a batch.
    pub(super) fn losses_of(&self, class: &Tensor, batch: Batch) -> Result<[Tensor; 4]> {
        let out = self.outputs(class)?;
        let like = |values: Vec<f32>, out: &Tensor| Tensor::from_vec(values, out.shape(), &self.device);
        let square = |out: &Tensor, truth: Tensor| (out - truth)?.sqr()?.mean_all();
        Ok([
            square(&out.joints, like(batch.joints, &out.joints)?)?,
            cross_entropy(&out.exercise, &Tensor::new(batch.exercise, &self.device)?)?,
            square(&out.phase, like(batch.phase, &out.phase)?)?,
            nn::binary_cross_entropy(&out.mistakes, &like(batch.mistakes, &out.mistakes)?)?,
        ])
    }

    /// Scores on `samples`.
    pub fn evaluate(&self, samples: &[Sample]) -> Result<Scores> {
        let (mut distance, mut right, mut late) = (0f64, 0usize, 0f64);
        let (mut hits, mut found, mut due) = (0usize, 0usize, 0usize);
        for chunk in samples.chunks(64) {
            let out = self.outputs(&self.class_tokens(self.batch(chunk)?.cut)?)?;
            for (sample, joints) in chunk.iter().zip(out.joints.to_vec2::<f32>()?) {
                for (truth, found) in sample.joints.iter().zip(joints.chunks_exact(3)) {
                    distance += f64::from((truth[0] - found[0]).hypot(truth[1] - found[1])) * 50.0;
                }
            }
            let best = out.exercise.argmax(D::Minus1)?.to_vec1::<u32>()?;
            right += chunk.iter().zip(best).filter(|(s, b)| s.exercise == *b).count();
            for (sample, phase) in chunk.iter().zip(out.phase.to_vec2::<f32>()?) {
                let away = phase[0].atan2(phase[1]) / std::f32::consts::TAU - sample.phase;
                late += f64::from((away - away.round()).abs()) * 100.0;
            }
            for (sample, mistakes) in chunk.iter().zip(out.mistakes.to_vec2::<f32>()?) {
                for (i, logit) in mistakes.iter().enumerate() {
                    let (is, said) = (sample.mistakes >> i & 1 == 1, *logit > 0.0);
                    hits += usize::from(is && said);
                    found += usize::from(said);
                    due += usize::from(is);
                }
            }
        }
        let n = samples.len().max(1) as f64;
        Ok(Scores {
            joint_error_percent: distance / n / JOINTS as f64,
            exercise_accuracy: right as f64 / n,
            phase_error_percent: late / n,
            mistake_f1: 2.0 * hits as f64 / (found + due).max(1) as f64,
        })
    }
}

/// Mean cross-entropy of `logits: [n, classes]` against `truth: [n]`.
pub fn cross_entropy(logits: &Tensor, truth: &Tensor) -> Result<Tensor> {
    let max = logits.max_keepdim(1)?.detach();
    let shifted = logits.broadcast_sub(&max)?;
    let log_sum = shifted.exp()?.sum_keepdim(1)?.log()?;
    (log_sum - shifted.gather(&truth.unsqueeze(1)?, 1)?)?.mean_all()
}

/// Weights of the losses: joints teach the posture; the others say what of it matters.
pub(super) const WEIGHTS: [f64; 4] = [1.0, 0.02, 0.02, 0.05];

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
            let weighed = parts.iter().zip(WEIGHTS).map(|(l, w)| l * w).collect::<Result<Vec<_>>>()?;
            let store = Tensor::stack(&weighed, 0)?.sum_all()?.backward()?;
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
