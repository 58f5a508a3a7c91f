//! Blind baselines: the metronome and the silent coach.
//!
//! On feedback spaced like QEVD's, a coach that speaks every three seconds without looking scores a temporal F of about
//! 0.7. No timing score means anything unless it stands beside this one.

use crate::metric::{Timed, timing::Timing};
use serde::{Deserialize, Serialize};

/// What a metronome says: QEVD's matching asks only that it is not blank.
const TICK: &str = "Keep going.";

/// A stretch of time with what was truly said in it.
#[derive(Clone, Copy, Debug)]
pub struct Stretch<'a> {
    /// It begins, in the time of `truth`.
    pub start: f64,
    /// It ends.
    pub end: f64,
    /// What the coach should have said.
    pub truth: &'a [Timed],
}

/// A coach that speaks every `period` seconds, first `phase` seconds after `start`, and before `end`. A period that
/// is not above zero is silent.
pub fn metronome(start: f64, end: f64, period: f64, phase: f64) -> Vec<Timed> {
    if !(period > 0.0 && (end - start).is_finite() && phase.is_finite()) {
        return Vec::new();
    }
    let times = (0u32..).map(|k| start + phase + f64::from(k) * period);
    times.take_while(|t| *t < end).filter(|t| *t >= start).map(|t| Timed::new(t, TICK)).collect()
}

/// Score of a metronome on all stretches.
pub fn score_metronome(stretches: &[Stretch<'_>], period: f64, phase: f64) -> Timing {
    let mut sum = Timing::default();
    for stretch in stretches {
        sum += Timing::of(stretch.truth, &metronome(stretch.start, stretch.end, period, phase));
    }
    sum
}

/// Score of a coach that never speaks: its truths count, nothing is matched.
pub fn score_silent(stretches: &[Stretch<'_>]) -> Timing {
    Timing::pooled(stretches.iter().map(|stretch| (stretch.truth, &[][..])))
}

/// A metronome with its score.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metronome {
    /// Seconds between ticks.
    pub period: f64,
    /// Seconds from the begin of a stretch to the first tick.
    pub phase: f64,
    /// What it scores.
    pub timing: Timing,
}

/// The metronomes of all periods from 1 to 6 s in steps of a tenth, each at four phases, in that order.
pub fn all_metronomes(stretches: &[Stretch<'_>]) -> Vec<Metronome> {
    let periods = (10..=60).map(|tenths| f64::from(tenths) / 10.0);
    let at = |period: f64| (1..=4).map(move |quarter| (period, period * f64::from(quarter) / 4.0));
    periods
        .flat_map(at)
        .map(|(period, phase)| Metronome { period, phase, timing: score_metronome(stretches, period, phase) })
        .collect()
}

/// The best of [`all_metronomes`], chosen with the truth in hand: what a model must beat.
pub fn best_metronome(stretches: &[Stretch<'_>]) -> Option<Metronome> {
    all_metronomes(stretches).into_iter().max_by(|a, b| a.timing.f_score().total_cmp(&b.timing.f_score()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use rand_distr::{Distribution, Normal};

    /// Feedback spaced as QEVD reports it: the first within 1 to 5 s, then gaps of 5.3 s give or take 1.2 s.
    fn simulate(episodes: usize) -> Vec<Vec<Timed>> {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let gap: Normal<f64> = Normal::new(5.3, 1.2).expect("a positive deviation");
        let episode = |rng: &mut ChaCha8Rng| {
            let mut t: f64 = rng.random_range(1.0..5.0);
            let mut truth = Vec::new();
            while t < 30.0 {
                truth.push(Timed::new(t, "x"));
                let pause: f64 = gap.sample(rng);
                t += pause.max(1.0);
            }
            truth
        };
        (0..episodes).map(|_| episode(&mut rng)).collect()
    }

    #[test]
    fn the_blind_metronome_scores_as_simulated_elsewhere() {
        let truths = simulate(4000);
        let stretches: Vec<Stretch<'_>> = truths.iter().map(|truth| Stretch { start: 0.0, end: 30.0, truth }).collect();
        for (period, expected) in [
            (1.0, 0.325),
            (1.5, 0.456),
            (2.0, 0.562),
            (2.5, 0.652),
            (2.9, 0.704),
            (3.0, 0.709),
            (3.5, 0.681),
            (4.0, 0.645),
            (5.0, 0.531),
            (6.0, 0.429),
        ] {
            let score = score_metronome(&stretches, period, period).f_score();
            assert!((score - expected).abs() < 0.01, "period {period}: {score}, expected {expected}");
        }
    }

    #[test]
    fn the_best_metronome_is_found() {
        let truth: Vec<Timed> = (1..8).map(|k| Timed::new(100.0 + 4.0 * f64::from(k), "x")).collect();
        let stretches = [Stretch { start: 100.0, end: 130.0, truth: &truth }];
        let best = best_metronome(&stretches).expect("there are metronomes");
        assert!((best.timing.f_score() - 1.0).abs() < 1e-9, "{best:?}");
        assert_eq!(score_silent(&stretches), Timing { n_gt: 7, ..Timing::default() });
    }

    #[test]
    fn a_broken_period_is_silent_and_ends() {
        for period in [0.0, -1.0, f64::NAN] {
            assert!(metronome(0.0, 10.0, period, 1.0).is_empty());
        }
        assert!(metronome(0.0, f64::INFINITY, 1.0, 1.0).is_empty());
        assert_eq!(metronome(5.0, 9.0, 2.0, 2.0).iter().map(|e| e.t).collect::<Vec<_>>(), [7.0]);
    }
}
