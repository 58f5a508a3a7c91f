//! What a coach should know after each frame, though it says it only now and then: what is done, how far the repetition
//! is, how many are complete, what was wrong with the last. Sentences alone tell that a few times a minute; these
//! truths tell it at every frame. Their heads end with the training.

use super::coach::negative_log_likelihood;
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use spotter_vision::nn;

/// What is true of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FrameTruth {
    /// What is done, from 1; 0 is none.
    pub exercise: u32,
    /// Phase of the repetition, 0 to 1; `None` between repetitions.
    pub phase: Option<f32>,
    /// Repetitions complete; `None` where it can't be known because their beginning was not seen.
    pub count: Option<u32>,
    /// What is wrong with a repetition complete a short while ago, one bit a mistake.
    pub mistakes: u32,
}

/// How many kinds of each there are.
#[derive(Clone, Copy, Debug)]
pub struct Kinds {
    /// Exercises, none included.
    pub exercises: usize,
    /// Mistakes.
    pub mistakes: usize,
}

/// Counts told apart; whatever is above counts as the last.
const COUNTS: usize = 32;

/// Weight of the sum of these losses beside those of actions and words.
pub(super) const WEIGHT: f64 = 0.2;

/// Linear heads on the decoder's state after a frame.
pub(super) struct Heads {
    exercise: (Tensor, Tensor),
    phase: (Tensor, Tensor),
    count: (Tensor, Tensor),
    mistakes: (Tensor, Tensor),
}

impl Heads {
    pub(super) fn new(width: usize, kinds: Kinds, vb: &VarBuilder<'_>) -> Result<Self> {
        let head = |name: &str, n: usize| -> Result<(Tensor, Tensor)> {
            let vb = vb.pp(name);
            Ok((vb.get((n, width), "weight")?, vb.get(n, "bias")?))
        };
        Ok(Self {
            exercise: head("exercise", kinds.exercises)?,
            phase: head("phase", 2)?,
            count: head("count", COUNTS)?,
            mistakes: head("mistakes", kinds.mistakes)?,
        })
    }

    /// Sum of the four mean losses for states `hidden: [n, width]` of `n` frames.
    pub(super) fn loss(&self, hidden: &Tensor, truths: &[FrameTruth]) -> Result<Tensor> {
        let device = hidden.device();
        let head = |(w, b): &(Tensor, Tensor)| nn::linear(hidden, w, Some(b));
        let ids = |id: &dyn Fn(&FrameTruth) -> u32| Tensor::new(truths.iter().map(id).collect::<Vec<_>>(), device);
        let exercise = negative_log_likelihood(&head(&self.exercise)?, &ids(&|t| t.exercise)?)?.mean_all()?;
        let counted = |t: &FrameTruth| t.count.map(|c| c.min(COUNTS as u32 - 1));
        let nll = negative_log_likelihood(&head(&self.count)?, &ids(&|t| counted(t).unwrap_or(0))?)?;
        let count = mean_where(&nll, truths, |t| t.count.is_some())?;
        let turns = truths.iter().flat_map(|t| {
            let (sin, cos) = (t.phase.unwrap_or(0.0) * std::f32::consts::TAU).sin_cos();
            [sin, cos]
        });
        let turns = Tensor::from_vec(turns.collect::<Vec<f32>>(), (truths.len(), 2), device)?;
        let phase = mean_where(&(head(&self.phase)? - turns)?.sqr()?.sum(1)?, truths, |t| t.phase.is_some())?;
        let logits = head(&self.mistakes)?;
        let kinds = logits.dim(1)?;
        let bits = truths.iter().flat_map(|t| (0..kinds).map(|i| (t.mistakes >> i & 1) as f32));
        let bits = Tensor::from_vec(bits.collect::<Vec<f32>>(), logits.shape(), device)?;
        let mistakes = (nn::binary_cross_entropy(&logits, &bits)? * kinds as f64)?;
        (exercise + count)? + (phase + mistakes)?
    }
}

/// Mean of `values: [n]` over the frames for which `holds`; 0 where there is none.
fn mean_where(values: &Tensor, truths: &[FrameTruth], holds: impl Fn(&FrameTruth) -> bool) -> Result<Tensor> {
    let weights: Vec<f32> = truths.iter().map(|t| if holds(t) { 1.0 } else { 0.0 }).collect();
    let total = weights.iter().sum::<f32>().max(1.0);
    (values * Tensor::new(weights, values.device())?)?.sum_all()? / f64::from(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};
    use std::collections::HashMap;

    /// Heads whose weights are 0, so that each says its bias.
    fn heads(bias: &[(&str, Vec<f32>)]) -> Heads {
        let mut tensors = HashMap::new();
        for (name, bias) in bias {
            let n = bias.len();
            tensors.insert(format!("{name}.weight"), Tensor::zeros((n, 4), DType::F32, &Device::Cpu).unwrap());
            tensors.insert(format!("{name}.bias"), Tensor::new(bias.as_slice(), &Device::Cpu).unwrap());
        }
        let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        Heads::new(4, Kinds { exercises: 2, mistakes: 3 }, &vb).unwrap()
    }

    #[test]
    fn the_loss_is_the_sum_of_its_parts_and_skips_what_is_not_known() {
        let said = [
            ("exercise", vec![0.0, 0.0]),
            ("phase", vec![1.0, 0.0]),
            ("count", vec![0.0; COUNTS]),
            ("mistakes", vec![0.0; 3]),
        ];
        let heads = heads(&said);
        let hidden = Tensor::zeros((2, 4), DType::F32, &Device::Cpu).unwrap();
        let loss = |truths: &[FrameTruth]| f64::from(heads.loss(&hidden, truths).unwrap().to_scalar::<f32>().unwrap());
        let ln = f64::ln;
        let nothing = FrameTruth::default();
        // Exercises ln 2, mistakes 3 ln 2; nothing else is known.
        assert!((loss(&[nothing; 2]) - 4.0 * ln(2.0)).abs() < 1e-5);
        // A quarter through the repetition is (1, 0), as the head says; a half is (0, -1), two away in the square.
        let known = |phase| FrameTruth { exercise: 1, phase: Some(phase), count: Some(99), mistakes: 0b101 };
        let with_count = 4.0 * ln(2.0) + ln(COUNTS as f64);
        assert!((loss(&[known(0.25), nothing]) - with_count).abs() < 1e-5);
        assert!((loss(&[known(0.5), known(0.25)]) - with_count - 1.0).abs() < 1e-5);
    }
}
