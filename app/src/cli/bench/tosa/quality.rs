//! How a model coaches held-out sessions in each way of choosing, session by session beside the dense tower.

use super::{Size, TosaArgs, Way};
use crate::{
    cli::eval::synthetic::{Held, Variation, measure},
    parallel::{in_parallel, workers},
    parts,
};
use anyhow::{Result, bail};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use spotter_datasets::synthetic::phrases::Lang;
use spotter_engine::coach::load::load;
use spotter_vision::encoder::tosa::Tosa;
use std::{fmt, path::Path};

/// What is scored, and how it is called in a row.
const NAMES: [&str; 4] = ["exercise", "mistakes", "counts", "T-F"];
/// Sets of sessions that are drawn again.
const DRAWS: usize = 2000;

/// Scores of one session in one way; `None` where there was nothing to score.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Marks {
    seed: u64,
    exercise_accuracy: Option<f64>,
    mistake_f1: Option<f64>,
    count_accuracy: Option<f64>,
    temporal_f: Option<f64>,
}

impl Marks {
    fn values(&self) -> [Option<f64>; 4] {
        [self.exercise_accuracy, self.mistake_f1, self.count_accuracy, self.temporal_f]
    }
}

/// A mean, and the range in which 95 of 100 means of sessions drawn again lie.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Interval {
    mean: f64,
    low: f64,
    high: f64,
}

/// How a model coaches: means over sessions, and mean differences to dense, session by session.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Quality {
    exercise_accuracy: Option<f64>,
    mistake_f1: Option<f64>,
    count_accuracy: Option<f64>,
    temporal_f: Option<f64>,
    /// Of the same four; `None` for dense itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<[Option<Interval>; 4]>,
    sessions: Vec<Marks>,
}

impl fmt::Display for Quality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let means = [self.exercise_accuracy, self.mistake_f1, self.count_accuracy, self.temporal_f];
        for (i, (name, mean)) in NAMES.iter().zip(means).enumerate() {
            let Some(mean) = mean else { continue };
            write!(f, "{}{name} {mean:.3}", if i > 0 { "  " } else { "" })?;
            if let Some(Interval { mean, low, high }) = self.difference.and_then(|d| d.get(i).copied().flatten()) {
                write!(f, " ({mean:+.3}, {low:+.3} to {high:+.3})")?;
            }
        }
        Ok(())
    }
}

fn mean(values: &[f64]) -> Option<f64> {
    if values.is_empty() { None } else { Some(values.iter().sum::<f64>() / values.len() as f64) }
}

/// Mean of paired differences, and its range under drawing the pairs again, from a seed of its own.
fn interval(differences: &[f64]) -> Option<Interval> {
    let centre = mean(differences)?;
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut draw = || -> f64 {
        let drawn = (0..differences.len()).filter_map(|_| differences.get(rng.random_range(0..differences.len())));
        drawn.sum::<f64>() / differences.len() as f64
    };
    let mut means: Vec<f64> = (0..DRAWS).map(|_| draw()).collect();
    means.sort_by(f64::total_cmp);
    let at = |share: f64| means.get((share * (DRAWS - 1) as f64).round() as usize).copied().unwrap_or(centre);
    Some(Interval { mean: centre, low: at(0.025), high: at(0.975) })
}

impl Quality {
    fn new(sessions: Vec<Marks>, dense: Option<&[Marks]>) -> Self {
        let column = |i: usize| -> Vec<f64> { sessions.iter().filter_map(|m| m.values()[i]).collect() };
        let difference = dense.map(|dense| {
            std::array::from_fn(|i| {
                let pairs = sessions.iter().zip(dense);
                let apart = pairs.filter_map(|(own, dense)| Some(own.values()[i]? - dense.values()[i]?));
                interval(&apart.collect::<Vec<_>>())
            })
        });
        let [exercise_accuracy, mistake_f1, count_accuracy, temporal_f] = std::array::from_fn(|i| mean(&column(i)));
        Self { exercise_accuracy, mistake_f1, count_accuracy, temporal_f, difference, sessions }
    }
}

/// What a model made of every session: dense, and for each ratio each way.
pub(super) struct Coached {
    dense: Vec<Marks>,
    /// For each ratio, for each way, the sessions.
    ways: Vec<Vec<Vec<Marks>>>,
}

impl Coached {
    /// Coaches the sessions that were asked for; `None` where there are none.
    pub(super) fn play(args: &TosaArgs, size: Size, ways: &[Way]) -> Result<Option<Self>> {
        if args.sessions == 0 || size != Size::Mini {
            return Ok(None);
        }
        let folder = parts::model_folder(args.model.as_deref())?;
        let dense = args.dense.as_deref().map_or(Ok(folder.clone()), |d| parts::model_folder(Some(d)))?;
        let mut model = load(&folder, &candle_core::Device::Cpu)?;
        let Some(tosa) = model.eye.encoder_mut().tosa().cloned() else {
            bail!(
                "{}: config.json has no vision_config.tosa, so there are no selectors to measure; train them with `spotter \
                 train selectors` and name the folder that it writes with --model",
                folder.display()
            );
        };
        // Sessions are the outer loop: a run that is stopped, or split by seeds, has whole pairs.
        let one = |index: usize| -> Result<Vec<Marks>> {
            let seed = args.seed + index as u64;
            let mut marks = vec![played(&dense, seed, None)?];
            for ratio in &args.ratio {
                for way in ways {
                    marks.push(played(&folder, seed, Some(tosa.varied(*ratio, way.reuse, way.ranking)))?);
                }
            }
            tracing::info!("session {seed} was coached {} times", marks.len());
            Ok(marks)
        };
        let sessions = in_parallel(workers(), args.sessions, one, |_| {})?;
        let column = |at: usize| sessions.iter().filter_map(|marks| marks.get(at).copied()).collect::<Vec<_>>();
        let at_ratio = |r: usize| (0..ways.len()).map(|w| column(1 + r * ways.len() + w)).collect();
        Ok(Some(Self { dense: column(0), ways: (0..args.ratio.len()).map(at_ratio).collect() }))
    }

    /// Dense and each way at the ratio of a number.
    pub(super) fn rows(&self, ratio: usize) -> Vec<Quality> {
        let ways = self.ways.get(ratio).into_iter().flatten();
        let ways = ways.map(|sessions| Quality::new(sessions.clone(), Some(&self.dense)));
        std::iter::once(Quality::new(self.dense.clone(), None)).chain(ways).collect()
    }
}

/// One session.
fn played(model: &Path, seed: u64, tosa: Option<Tosa>) -> Result<Marks> {
    let held = Held {
        model: model.to_owned(),
        seed,
        sessions: 1,
        lang: Lang::En,
        latency: 0.1,
        talkativeness: None,
        library: None,
    };
    let report = measure(&held, &Variation { tosa: Some(tosa), ..Variation::default() })?;
    Ok(Marks {
        seed,
        exercise_accuracy: report.exercise_accuracy,
        mistake_f1: report.mistake_f1(),
        count_accuracy: report.count_accuracy,
        temporal_f: report.temporal_f(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(values: &[f64]) -> Vec<Marks> {
        let one = |(i, v): (usize, &f64)| Marks {
            seed: i as u64,
            exercise_accuracy: Some(*v),
            mistake_f1: (i > 0).then_some(*v),
            count_accuracy: None,
            temporal_f: Some(*v),
        };
        values.iter().enumerate().map(one).collect()
    }

    #[test]
    fn differences_are_paired() {
        // Sessions differ much, ways by 0.01 in each: the pairs tell, means alone would not.
        let dense: Vec<f64> = (0..20).map(|i| f64::from(i) / 20.0).collect();
        let own: Vec<f64> = dense.iter().enumerate().map(|(i, v)| v - 0.01 + (i % 2) as f64 * 0.002).collect();
        let quality = Quality::new(marks(&own), Some(&marks(&dense)));
        let [exercise, mistakes, counts, _] = quality.difference.unwrap();
        let exercise = exercise.unwrap();
        assert!((exercise.mean + 0.009).abs() < 1e-9 && exercise.low > -0.01 && exercise.high < -0.008, "{exercise:?}");
        assert!(mistakes.is_some() && counts.is_none() && quality.count_accuracy.is_none());
        // The planted bug: pairs out of step do not pass for a small difference.
        let mut astray = own.clone();
        astray.rotate_left(7);
        let [wide, ..] = Quality::new(marks(&astray), Some(&marks(&dense))).difference.unwrap();
        assert!(wide.is_some_and(|w| w.high - w.low > 0.1), "{wide:?}");
        let text = quality.to_string();
        assert!(text.contains("exercise 0.466 (-0.009, ") && !text.contains("counts"), "{text}");
    }
}
