//! What a tower is asked about single pictures while it is trained: where the joints are (also hidden ones, also in depth), what
//! is done, how far it is, what is wrong. One linear head each.

use super::Variables;
use crate::{body::JOINTS, nn};
use candle_core::{D, Result, Tensor};
use candle_nn::Init;

/// A picture with its truth.
pub struct Sample {
    /// `image_size * image_size * 3` bytes.
    pub rgb: Vec<u8>,
    /// The picture before it in its stream, where it is asked for.
    pub before: Option<Vec<u8>>,
    /// Joints in picture coordinates from -1 to 1; z at the same scale.
    pub joints: [[f32; 3]; JOINTS],
    /// Class of what is done.
    pub exercise: u32,
    /// Phase of the repetition, 0 to 1; its turning point is at 0.5.
    pub phase: f32,
    /// What is wrong with the repetition, one bit a class.
    pub mistakes: u32,
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

/// Truths of a batch, ready for a device.
#[derive(Clone, Debug)]
pub struct Truth {
    joints: Vec<f32>,
    exercise: Vec<u32>,
    phase: Vec<f32>,
    mistakes: Vec<f32>,
}

impl Truth {
    /// Of `samples`, with `classes` bits of mistakes.
    pub fn new(classes: usize, samples: &[Sample]) -> Self {
        let turn = |s: &Sample| (s.phase * std::f32::consts::TAU).sin_cos();
        let bit = |s: &Sample, i: usize| if s.mistakes >> i & 1 == 1 { 1.0 } else { 0.0 };
        Self {
            joints: samples.iter().flat_map(|s| s.joints.as_flattened().iter().copied()).collect(),
            exercise: samples.iter().map(|s| s.exercise).collect(),
            phase: samples.iter().flat_map(|s| [turn(s).0, turn(s).1]).collect(),
            mistakes: samples.iter().flat_map(|s| (0..classes).map(move |i| bit(s, i))).collect(),
        }
    }
}

/// What a trained tower scores on samples it never saw.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
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

/// The heads; variables below `heads`.
pub struct Heads {
    joints: (Tensor, Tensor),
    exercise: (Tensor, Tensor),
    phase: (Tensor, Tensor),
    mistakes: (Tensor, Tensor),
}

/// What the heads say.
struct Outputs {
    joints: Tensor,
    exercise: Tensor,
    phase: Tensor,
    mistakes: Tensor,
}

/// Mean cross-entropy of `logits: [n, classes]` against `truth: [n]`.
///
/// # Errors
/// Those of the device.
pub fn cross_entropy(logits: &Tensor, truth: &Tensor) -> Result<Tensor> {
    let max = logits.max_keepdim(1)?.detach();
    let shifted = logits.broadcast_sub(&max)?;
    let log_sum = shifted.exp()?.sum_keepdim(1)?.log()?;
    (log_sum - shifted.gather(&truth.unsqueeze(1)?, 1)?)?.mean_all()
}

/// Weights of the losses: joints teach the posture; the others say what of it matters.
const WEIGHTS: [f64; 4] = [1.0, 0.02, 0.02, 0.05];

/// The losses of [`Heads::losses`], weighed and added up.
///
/// # Errors
/// Those of the device.
pub fn task(losses: &[Tensor; 4]) -> Result<Tensor> {
    let weighed = losses.iter().zip(WEIGHTS).map(|(l, w)| l * w).collect::<Result<Vec<_>>>()?;
    Tensor::stack(&weighed, 0)?.sum_all()
}

impl Heads {
    /// For features of a width; `classes` of exercises, `mistakes` bits.
    ///
    /// # Errors
    /// Saved heads of another shape.
    pub fn new(width: usize, classes: usize, mistakes: usize, vars: &Variables) -> Result<Self> {
        let vb = vars.builder();
        let head = |name: &str, n: usize| -> Result<(Tensor, Tensor)> {
            let vb = vb.pp("heads").pp(name);
            Ok((vb.get_with_hints((n, width), "weight", Init::Const(0.0))?, vb.get(n, "bias")?))
        };
        Ok(Self {
            joints: head("joints", JOINTS * 3)?,
            exercise: head("exercise", classes)?,
            phase: head("phase", 2)?,
            mistakes: head("mistakes", mistakes)?,
        })
    }

    /// Bits of mistakes.
    ///
    /// # Errors
    /// Never, for heads made by [`new`](Self::new).
    pub fn mistakes(&self) -> Result<usize> {
        self.mistakes.0.dim(0)
    }

    /// From features `[b, width]`.
    fn outputs(&self, features: &Tensor) -> Result<Outputs> {
        let head = |(w, b): &(Tensor, Tensor)| nn::linear(features, w, Some(b));
        Ok(Outputs {
            joints: head(&self.joints)?,
            exercise: head(&self.exercise)?,
            phase: head(&self.phase)?,
            mistakes: head(&self.mistakes)?,
        })
    }

    /// Losses of joints, exercise, phase and mistakes, from features `[b, width]` of the pictures of a batch.
    ///
    /// # Errors
    /// Those of the device.
    pub fn losses(&self, features: &Tensor, truth: Truth) -> Result<[Tensor; 4]> {
        let (out, device) = (self.outputs(features)?, features.device());
        let like = |values: Vec<f32>, out: &Tensor| Tensor::from_vec(values, out.shape(), device);
        let square = |out: &Tensor, truth: Tensor| (out - truth)?.sqr()?.mean_all();
        Ok([
            square(&out.joints, like(truth.joints, &out.joints)?)?,
            cross_entropy(&out.exercise, &Tensor::new(truth.exercise, device)?)?,
            square(&out.phase, like(truth.phase, &out.phase)?)?,
            nn::binary_cross_entropy(&out.mistakes, &like(truth.mistakes, &out.mistakes)?)?,
        ])
    }
}

/// Counts what heads get right.
#[derive(Default)]
pub(super) struct Marks {
    seen: usize,
    distance: f64,
    right: usize,
    late: f64,
    hits: usize,
    found: usize,
    due: usize,
}

impl Marks {
    /// Adds what `heads` make of features `[b, width]` of `samples`.
    pub(super) fn add(&mut self, heads: &Heads, features: &Tensor, samples: &[Sample]) -> Result<()> {
        let out = heads.outputs(features)?;
        self.seen += samples.len();
        for (sample, joints) in samples.iter().zip(out.joints.to_vec2::<f32>()?) {
            for (truth, found) in sample.joints.iter().zip(joints.chunks_exact(3)) {
                self.distance += f64::from((truth[0] - found[0]).hypot(truth[1] - found[1])) * 50.0;
            }
        }
        let best = out.exercise.argmax(D::Minus1)?.to_vec1::<u32>()?;
        self.right += samples.iter().zip(best).filter(|(s, b)| s.exercise == *b).count();
        for (sample, phase) in samples.iter().zip(out.phase.to_vec2::<f32>()?) {
            let away = phase[0].atan2(phase[1]) / std::f32::consts::TAU - sample.phase;
            self.late += f64::from((away - away.round()).abs()) * 100.0;
        }
        for (sample, mistakes) in samples.iter().zip(out.mistakes.to_vec2::<f32>()?) {
            for (i, logit) in mistakes.iter().enumerate() {
                let (is, said) = (sample.mistakes >> i & 1 == 1, *logit > 0.0);
                self.hits += usize::from(is && said);
                self.found += usize::from(said);
                self.due += usize::from(is);
            }
        }
        Ok(())
    }

    pub(super) fn scores(&self) -> Scores {
        let n = self.seen.max(1) as f64;
        Scores {
            joint_error_percent: self.distance / n / JOINTS as f64,
            exercise_accuracy: self.right as f64 / n,
            phase_error_percent: self.late / n,
            mistake_f1: 2.0 * self.hits as f64 / (self.found + self.due).max(1) as f64,
        }
    }
}
