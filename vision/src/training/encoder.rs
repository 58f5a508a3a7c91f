//! Trains the encoder on single pictures: where the joints are (also hidden ones, also in depth), what is done, what is wrong.
//!
//! Joints are a dense target: a few hundred thousand drawn pictures teach the class token the posture, which is what
//! the coach needs to follow a movement.

use super::{AdamW, AdamWSettings, Variables, data_parallel};
use crate::{
    body::JOINTS,
    encoder::vit::{Vit, VitConfig},
    nn,
};
use candle_core::{D, Device, Result, Tensor};
use candle_nn::Init;
use std::path::PathBuf;

/// A picture with its truth.
pub struct Sample {
    /// `image_size * image_size * 3` bytes.
    pub rgb: Vec<u8>,
    /// Joints in picture coordinates from -1 to 1; z at the same scale.
    pub joints: [[f32; 3]; JOINTS],
    /// Class of what is done.
    pub exercise: u32,
}

/// Where samples come from; one call makes one sample of a seed.
pub trait SampleSource: Sync {
    /// Number of classes of `exercise`.
    fn classes(&self) -> usize;
    /// `count` samples of `seed`.
    fn samples(&self, seed: u64, count: usize) -> Vec<Sample>;
}

/// Settings of a training run.
#[derive(Clone, Debug)]
pub struct EncoderTraining {
    /// Pictures a step, over all workers.
    pub batch: usize,
    /// Threads.
    pub workers: usize,
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
}

/// What a trained encoder scores on samples it never saw.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Scores {
    /// Mean distance of joints in the picture plane, in per cent of the picture's side.
    pub joint_error_percent: f64,
    /// Share of pictures whose exercise is right, from one picture alone.
    pub exercise_accuracy: f64,
}

/// An encoder with its training heads.
pub struct EncoderModel {
    vit: Vit,
    joints: (Tensor, Tensor),
    exercise: (Tensor, Tensor),
    config: VitConfig,
    device: Device,
}

impl EncoderModel {
    /// The variables of the tower lie below `vision_tower`, as in the checkpoint that ships; heads below `heads`.
    pub fn new(config: &VitConfig, classes: usize, vars: &Variables) -> Result<Self> {
        let vb = vars.builder();
        let head = |name: &str, n: usize| -> Result<(Tensor, Tensor)> {
            let vb = vb.pp("heads").pp(name);
            Ok((vb.get_with_hints((n, config.hidden_size), "weight", Init::Const(0.0))?, vb.get(n, "bias")?))
        };
        Ok(Self {
            vit: Vit::new(config, vb.pp("vision_tower"))?,
            joints: head("joints", JOINTS * 3)?,
            exercise: head("exercise", classes)?,
            config: config.clone(),
            device: vb.device().clone(),
        })
    }

    fn outputs(&self, samples: &[Sample]) -> Result<(Tensor, Tensor)> {
        let rgb: Vec<&[u8]> = samples.iter().map(|s| s.rgb.as_slice()).collect();
        let class = self.vit.class_tokens(&Vit::patchify(&self.config, &rgb, &self.device)?)?;
        let head = |(w, b): &(Tensor, Tensor)| nn::linear(&class, w, Some(b));
        Ok((head(&self.joints)?, head(&self.exercise)?))
    }

    fn truths(&self, samples: &[Sample]) -> Result<(Tensor, Tensor)> {
        let joints: Vec<f32> = samples.iter().flat_map(|s| s.joints.as_flattened().iter().copied()).collect();
        let classes: Vec<u32> = samples.iter().map(|s| s.exercise).collect();
        Ok((Tensor::from_vec(joints, (samples.len(), JOINTS * 3), &self.device)?, Tensor::new(classes, &self.device)?))
    }

    /// Joint loss and exercise loss.
    pub fn losses(&self, samples: &[Sample]) -> Result<(Tensor, Tensor)> {
        let (joints, exercise) = self.outputs(samples)?;
        let (true_joints, true_exercise) = self.truths(samples)?;
        let joint_loss = (joints - true_joints)?.sqr()?.mean_all()?;
        Ok((joint_loss, cross_entropy(&exercise, &true_exercise)?))
    }

    /// Scores on `samples`.
    pub fn evaluate(&self, samples: &[Sample]) -> Result<Scores> {
        let (mut distance, mut right) = (0f64, 0usize);
        for chunk in samples.chunks(64) {
            let (joints, exercise) = self.outputs(chunk)?;
            for (sample, joints) in chunk.iter().zip(joints.to_vec2::<f32>()?) {
                for (truth, found) in sample.joints.iter().zip(joints.chunks_exact(3)) {
                    distance += f64::from((truth[0] - found[0]).hypot(truth[1] - found[1])) * 50.0;
                }
            }
            let best = exercise.argmax(D::Minus1)?.to_vec1::<u32>()?;
            right += chunk.iter().zip(best).filter(|(s, b)| s.exercise == *b).count();
        }
        let n = samples.len().max(1) as f64;
        Ok(Scores { joint_error_percent: distance / n / JOINTS as f64, exercise_accuracy: right as f64 / n })
    }
}

/// Mean cross-entropy of `logits: [n, classes]` against `truth: [n]`.
pub fn cross_entropy(logits: &Tensor, truth: &Tensor) -> Result<Tensor> {
    let max = logits.max_keepdim(1)?.detach();
    let shifted = logits.broadcast_sub(&max)?;
    let log_sum = shifted.exp()?.sum_keepdim(1)?.log()?;
    (log_sum - shifted.gather(&truth.unsqueeze(1)?, 1)?)?.mean_all()
}

const EXERCISE_WEIGHT: f64 = 0.02;

/// Trains until `optimiser.steps`; calls `progress` after each step. Returns scores on `held_out`.
pub fn train(
    config: &VitConfig,
    run: &EncoderTraining,
    source: &dyn SampleSource,
    held_out: &[Sample],
    progress: &mut dyn FnMut(&Progress),
) -> Result<Scores> {
    let device = Device::Cpu;
    let (weights, state) = (run.out.join("encoder.safetensors"), run.out.join("encoder-optimiser.safetensors"));
    let resumed = weights.exists() && state.exists();
    let vars =
        if resumed { Variables::load(&weights, run.seed, &device)? } else { Variables::seeded(run.seed, &device) };
    let model = EncoderModel::new(config, source.classes(), &vars)?;
    let mut optimiser = AdamW::new(vars.all(), run.optimiser.clone())?;
    if resumed {
        optimiser.restore(&state, &device)?;
    }
    let share = (run.batch / run.workers.max(1)).max(1);
    while optimiser.step < run.optimiser.steps {
        let step = optimiser.step;
        let (losses, grads) = data_parallel(run.workers, |worker| {
            let seed = run.seed.wrapping_mul(0x9E37_79B9).wrapping_add((step * run.workers + worker) as u64);
            let (joints, exercise) = model.losses(&source.samples(seed, share))?;
            let store = (&joints + (&exercise * EXERCISE_WEIGHT)?)?.backward()?;
            let values = vec![f64::from(joints.to_scalar::<f32>()?), f64::from(exercise.to_scalar::<f32>()?)];
            Ok((values, optimiser.gradients(&store)?))
        })?;
        optimiser.step(&grads)?;
        progress(&Progress { step: optimiser.step, joints: losses[0], exercise: losses[1] });
        if optimiser.step.is_multiple_of(run.save_every) || optimiser.step == run.optimiser.steps {
            vars.save(&weights, candle_core::DType::F32)?;
            optimiser.save(&state)?;
        }
    }
    model.evaluate(held_out)
}
