//! The temporal F-score of QEVD's evaluation: greedy matching within 1.5 s, counts pooled over all episodes.
//!
//! The scan goes through one side in its own order and offers each element only its nearest partner on the other side.
//! It is not an optimal assignment, and the two directions can count differently: precision and recall each have
//! their own scan. Scores published for QEVD come from this scan, with all that is odd about it.

use super::Timed;
use serde::{Deserialize, Serialize};
use std::ops::AddAssign;

/// Width of the window in seconds: half of it on either side, the ends excluded.
pub const TOLERANCE: f64 = 3.0;

/// Keeps divisions by a count of zero finite, as the reference does.
const EPSILON: f64 = 1e-12;

/// Pairs `(i, j)` of elements of `a` and `b` closer than half the `tolerance`.
///
/// In the order of `a`, each element is offered the element of `b` nearest in time (the first one on a tie). It takes
/// it if the time fits, the text of that partner is not blank and the partner lies behind the one taken last; it is
/// offered no other.
pub fn matches(a: &[Timed], b: &[Timed], tolerance: f64) -> Vec<(usize, usize)> {
    let mut pairs: Vec<(usize, usize)> = Vec::new();
    for (i, own) in a.iter().enumerate() {
        let mut nearest: Option<(usize, &Timed, f64)> = None;
        for (j, other) in b.iter().enumerate() {
            let distance = (own.t - other.t).powi(2);
            if nearest.is_none_or(|(_, _, least)| distance < least) {
                nearest = Some((j, other, distance));
            }
        }
        let Some((j, other, _)) = nearest else { continue };
        // Behind the last one also means unused.
        let free = pairs.last().is_none_or(|(_, last)| j > *last);
        if (own.t - other.t).abs() < tolerance / 2.0 && free && !other.text.is_empty() {
            pairs.push((i, j));
        }
    }
    pairs
}

/// Counts of matches, summed over episodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// Truths that found a prediction.
    pub matched_gt: usize,
    /// Predictions that found a truth, by a scan of their own.
    pub matched_pred: usize,
    /// Truths.
    pub n_gt: usize,
    /// Predictions.
    pub n_pred: usize,
}

impl Timing {
    /// Counts of one episode.
    pub fn of(truth: &[Timed], predicted: &[Timed]) -> Self {
        Self {
            matched_gt: matches(truth, predicted, TOLERANCE).len(),
            matched_pred: matches(predicted, truth, TOLERANCE).len(),
            n_gt: truth.len(),
            n_pred: predicted.len(),
        }
    }

    /// Counts over many episodes, each of truths and predictions.
    pub fn pooled<'a>(episodes: impl IntoIterator<Item = (&'a [Timed], &'a [Timed])>) -> Self {
        let mut sum = Self::default();
        for (truth, predicted) in episodes {
            sum += Self::of(truth, predicted);
        }
        sum
    }

    /// Share of predictions that hit; 0 when there are none.
    pub fn precision(&self) -> f64 {
        self.matched_pred as f64 / (self.n_pred as f64 + EPSILON)
    }

    /// Share of truths that were hit; 0 when there are none.
    pub fn recall(&self) -> f64 {
        self.matched_gt as f64 / (self.n_gt as f64 + EPSILON)
    }

    /// Harmonic mean of precision and recall.
    pub fn f_score(&self) -> f64 {
        let (p, r) = (self.precision(), self.recall());
        2.0 * p * r / (p + r + EPSILON)
    }
}

impl AddAssign for Timing {
    fn add_assign(&mut self, other: Self) {
        self.matched_gt += other.matched_gt;
        self.matched_pred += other.matched_pred;
        self.n_gt += other.n_gt;
        self.n_pred += other.n_pred;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(times: &[f64]) -> Vec<Timed> {
        times.iter().map(|t| Timed::new(*t, "ok")).collect()
    }

    /// Counts in the order matched_gt, matched_pred, n_gt, n_pred, then precision, recall and F to four decimals.
    fn check(episodes: &[(Vec<Timed>, Vec<Timed>)], counts: [usize; 4], scores: [f64; 3]) {
        let timing = Timing::pooled(episodes.iter().map(|(gt, pred)| (gt.as_slice(), pred.as_slice())));
        assert_eq!([timing.matched_gt, timing.matched_pred, timing.n_gt, timing.n_pred], counts, "{episodes:?}");
        for (got, want) in [timing.precision(), timing.recall(), timing.f_score()].into_iter().zip(scores) {
            assert!((got - want).abs() < 5.1e-5, "{got} is not {want}: {episodes:?}");
            assert!(want == 0.0 || want == 1.0 || want == 0.5 || got.is_finite());
        }
    }

    fn one(gt: &[f64], pred: &[f64], counts: [usize; 4], scores: [f64; 3]) {
        check(&[(said(gt), said(pred))], counts, scores);
    }

    #[test]
    fn plain_cases() {
        one(&[1., 5., 9.], &[1., 5., 9.], [3, 3, 3, 3], [1., 1., 1.]);
        one(&[1., 5., 9.], &[], [0, 0, 3, 0], [0., 0., 0.]);
        one(&[], &[1., 2.], [0, 0, 0, 2], [0., 0., 0.]);
        one(&[], &[], [0, 0, 0, 0], [0., 0., 0.]);
        one(&[1., 6., 11.], &[3., 8., 13.], [0, 0, 3, 3], [0., 0., 0.]);
    }

    #[test]
    fn the_window_excludes_its_ends() {
        one(&[10.], &[11.5], [0, 0, 1, 1], [0., 0., 0.]);
        one(&[10.], &[11.49], [1, 1, 1, 1], [1., 1., 1.]);
    }

    #[test]
    fn the_first_of_two_equally_near_is_taken() {
        one(&[10.], &[9., 11.], [1, 1, 1, 2], [0.5, 1., 0.6667]);
        one(&[9., 11.], &[10.], [1, 1, 2, 1], [1., 0.5, 0.6667]);
        assert_eq!(matches(&said(&[10.]), &said(&[9., 11.]), TOLERANCE), [(0, 0)]);
        assert_eq!(matches(&said(&[9., 11.]), &said(&[10.]), TOLERANCE), [(0, 0)]);
    }

    #[test]
    fn nobody_is_offered_a_second_choice() {
        one(&[10., 10.5], &[10.2, 11.6], [1, 2, 2, 2], [1., 0.5, 0.6667]);
        one(&[1., 5.], &[5., 1.], [1, 1, 2, 2], [0.5, 0.5, 0.5]);
    }

    #[test]
    fn a_blank_prediction_blocks_but_can_still_hit() {
        let blank = Timed::new(10.1, "");
        check(&[(said(&[10.]), vec![blank.clone(), Timed::new(10.5, "ok")])], [0, 1, 1, 2], [0.5, 0., 0.]);
        check(&[(said(&[10.]), vec![blank])], [0, 1, 1, 1], [1., 0., 0.]);
    }

    #[test]
    fn flooding_costs_precision() {
        let truth = [5., 10., 15., 20., 25.];
        let each_second: Vec<f64> = (0..=30).map(f64::from).collect();
        let each_third: Vec<f64> = (0..=10).map(|i| f64::from(i) * 3.0).collect();
        one(&truth, &each_second, [5, 5, 5, 31], [0.1613, 1., 0.2778]);
        one(&truth, &each_third, [5, 5, 5, 11], [0.4545, 1., 0.625]);
    }

    #[test]
    fn counts_are_pooled_over_episodes_in_any_order() {
        let a = (said(&[1., 5.]), said(&[1., 5.]));
        let b = (said(&[3.]), said(&[10., 12., 14.]));
        check(&[a.clone(), b.clone()], [2, 2, 3, 5], [0.4, 0.6667, 0.5]);
        check(&[b, a], [2, 2, 3, 5], [0.4, 0.6667, 0.5]);
    }
}
