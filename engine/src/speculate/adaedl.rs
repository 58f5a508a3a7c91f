//! When to stop drafting: by the drafter's entropy (AdaEDL, arXiv 2410.18351; specs: adaedl), by its largest
//! probability, or never.
//!
//! A rule looks at the drafter's distribution of a position before its token is drawn. It never looks at the drawn
//! token's own probability: dropping a token for that would bias what is said (specs: speculative, section 1.3).

use serde::{Deserialize, Serialize};

/// Constants of the entropy rule and its controller (specs: adaedl, sections 1 to 3).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StopOptions {
    /// Entropy factor g.
    pub factor: f64,
    /// Threshold of the entropy rule at the start.
    pub lambda: f64,
    /// Threshold of the largest probability at the start.
    pub confidence: f64,
    /// Keep the token of the position that triggers stopping: its pass is paid already.
    pub keep_trigger: bool,
    /// Never stop before so many drafts.
    pub min_draft: usize,
    /// Acceptance that the controller aims at (alpha).
    pub aim: f64,
    /// Step of the threshold (epsilon).
    pub step: f64,
    /// Share of the old acceptance in the new (b1).
    pub keep_rate: f64,
    /// Share of the old threshold in the new (b2).
    pub keep_threshold: f64,
    /// The threshold moves; false holds it.
    pub adapt: bool,
}

impl Default for StopOptions {
    fn default() -> Self {
        Self {
            factor: 0.2,
            lambda: 0.3,
            confidence: 0.8,
            keep_trigger: true,
            min_draft: 1,
            aim: 0.9,
            step: 0.01,
            keep_rate: 0.5,
            keep_threshold: 0.9,
            adapt: true,
        }
    }
}

impl StopOptions {
    /// What is wrong with them, in words that name the field.
    pub fn problem(&self) -> Option<String> {
        if !(self.factor > 0.0 && self.factor.is_finite()) {
            return Some(format!("speculation.stop.factor {} must be above 0", self.factor));
        }
        let shares = [
            ("lambda", self.lambda),
            ("confidence", self.confidence),
            ("aim", self.aim),
            ("step", self.step),
            ("keep_rate", self.keep_rate),
            ("keep_threshold", self.keep_threshold),
        ];
        let wrong = shares.iter().find(|(_, v)| !(0.0..=1.0).contains(v));
        wrong.map(|(name, v)| format!("speculation.stop.{name} {v} must be from 0 to 1"))
    }
}

/// Entropy of probabilities in nats; 0 ln 0 counts as 0.
pub fn entropy(probabilities: &[f32]) -> f64 {
    let terms = probabilities.iter().map(|p| f64::from(*p)).filter(|p| *p > 0.0);
    // Without the sum's sign a certain token would have the entropy -0.
    (-terms.map(|p| p * p.ln()).sum::<f64>()).max(0.0)
}

/// AdaEDL's lower bound on the chance of acceptance, `1 - sqrt(g H)`. It may be negative and is not cut off at 0.
pub fn bound(entropy: f64, factor: f64) -> f64 {
    1.0 - (factor * entropy).sqrt()
}

/// What the rule compares with its threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Go on up to the largest length.
    Static,
    /// AdaEDL: [`bound`] of the entropy.
    Entropy,
    /// The largest probability: the control for AdaEDL.
    Confidence,
    /// A depth of 3, 5 or all there is, by the running share of accepted drafts (mistral.rs' tiers; where one ends is
    /// ours).
    Tiers,
}

/// Depths of [`Rule::Tiers`] below the largest, each with the share of accepted drafts from which it is left for the
/// next.
const TIERS: [(usize, f64); 2] = [(3, 0.4), (5, 0.7)];

/// A rule with its threshold, which adapts to what was accepted and outlives the utterance.
#[derive(Clone, Debug)]
pub struct Stopper {
    rule: Rule,
    options: StopOptions,
    threshold: f64,
    rate: f64,
}

impl Stopper {
    /// At its start.
    pub fn new(rule: Rule, options: StopOptions) -> Self {
        let threshold = if rule == Rule::Confidence { options.confidence } else { options.lambda };
        // Tiers begin at the deepest.
        let rate = if rule == Rule::Tiers { 1.0 } else { 0.0 };
        Self { rule, options, threshold, rate }
    }

    /// It looks at probabilities.
    pub fn looks(&self) -> bool {
        self.rule != Rule::Static
    }

    /// The threshold now.
    pub fn threshold(&self) -> f64 {
        self.threshold
    }

    /// Running share of accepted drafts.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// The token of the position that triggers stopping is kept.
    pub fn keeps_trigger(&self) -> bool {
        self.options.keep_trigger
    }

    /// Whether to stop at a position with `drafted` drafts before it, given the drafter's probabilities there: those of
    /// temperature 1, whatever tokens are drawn with, because at temperature 0 the entropy would always be 0.
    pub fn stops(&self, drafted: usize, probabilities: &[f32]) -> bool {
        // A kept trigger counts among the drafts that there are at least.
        let kept = drafted + usize::from(self.options.keep_trigger);
        if kept < self.options.min_draft {
            return false;
        }
        match self.rule {
            Rule::Static => false,
            Rule::Entropy => bound(entropy(probabilities), self.options.factor) < self.threshold,
            Rule::Tiers => TIERS.iter().any(|(depth, rate)| self.rate < *rate && kept >= *depth),
            Rule::Confidence => f64::from(probabilities.iter().copied().fold(0.0, f32::max)) < self.threshold,
        }
    }

    /// Learns from a round of `drafted` drafts in a row of which `accepted` were; `full` when it could draft no more by
    /// its largest length. Rounds cut by the end, the budget of tokens or an eviction are not to be told.
    pub fn learn(&mut self, accepted: usize, drafted: usize, full: bool) {
        let o = &self.options;
        if drafted == 0 || !o.adapt || self.rule == Rule::Static {
            return;
        }
        self.rate = o.keep_rate * self.rate + (1.0 - o.keep_rate) * accepted as f64 / drafted as f64;
        if self.rule == Rule::Tiers {
            return;
        }
        let wanted = if self.rate < o.aim {
            self.threshold + o.step
        } else if full {
            self.threshold
        } else {
            self.threshold - o.step
        };
        self.threshold = o.keep_threshold * self.threshold + (1.0 - o.keep_threshold) * wanted;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DYADIC: [f32; 8] = [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.0078125];
    const Q64: [f32; 8] =
        [24.0 / 64.0, 14.0 / 64.0, 9.0 / 64.0, 6.0 / 64.0, 5.0 / 64.0, 3.0 / 64.0, 2.0 / 64.0, 1.0 / 64.0];
    const HALF: [f32; 8] = [0.5, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    const CERTAIN: [f32; 8] = [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0];

    /// S2.1.
    #[test]
    fn bounds_of_known_distributions() {
        let check = |q: &[f32], h: f64, expected: f64| {
            assert!((entropy(q) - h).abs() < 1e-6, "{}", entropy(q));
            assert!((bound(entropy(q), 0.2) - expected).abs() < 1e-6, "{}", bound(entropy(q), 0.2));
        };
        check(&CERTAIN, 0.0, 1.0);
        check(&HALF, std::f64::consts::LN_2, 0.627_670_258_9);
        check(&DYADIC, 1.375_463_936_4, 0.475_507_114_2);
        check(&Q64, 1.713_961_312_4, 0.414_515_361_0);
        check(&[0.125; 8], 2.079_441_541_7, 0.355_105_971_2);
        // Never cut off at 0.
        assert!(bound(entropy(&[1.0 / 4096.0; 4096]), 0.2) < -0.2);
    }

    /// S2.2: lengths over five distributions in a row.
    #[test]
    fn draft_lengths_on_fixed_distributions() {
        let rows: [&[f32]; 5] = [&CERTAIN, &HALF, &DYADIC, &Q64, &[0.125; 8]];
        let length = |lambda: f64, keep_trigger: bool| {
            let options = StopOptions { lambda, keep_trigger, min_draft: 0, ..StopOptions::default() };
            let stopper = Stopper::new(Rule::Entropy, options);
            let at = rows.iter().enumerate().position(|(i, q)| stopper.stops(i, q));
            at.map_or(rows.len(), |i| i + usize::from(keep_trigger))
        };
        let lambdas = [0.30, 0.40, 0.45, 0.50, 0.70];
        assert_eq!(lambdas.map(|l| length(l, true)), [5, 5, 4, 3, 2]);
        assert_eq!(lambdas.map(|l| length(l, false)), [5, 4, 3, 2, 1]);
    }

    /// S2.3.
    #[test]
    fn the_threshold_follows_the_trace() {
        let mut stopper = Stopper::new(Rule::Entropy, StopOptions::default());
        let rounds = [(8, 8), (8, 8), (8, 8), (8, 8), (3, 5), (4, 4), (4, 4), (4, 4), (4, 4)];
        let expected = [
            (0.5, 0.301),
            (0.75, 0.302),
            (0.875, 0.303),
            (0.9375, 0.303),
            (0.76875, 0.304),
            (0.884375, 0.305),
            (0.942_187_5, 0.304),
            (0.971_093_75, 0.303),
            (0.985_546_875, 0.302),
        ];
        for ((accepted, drafted), (rate, lambda)) in rounds.into_iter().zip(expected) {
            stopper.learn(accepted, drafted, drafted == 8);
            assert!((stopper.rate() - rate).abs() < 1e-6, "{}", stopper.rate());
            assert!((stopper.threshold() - lambda).abs() < 1e-6, "{}", stopper.threshold());
        }
        stopper.learn(0, 0, false);
        assert!((stopper.threshold() - 0.302).abs() < 1e-6, "no drafts, nothing learnt");
    }

    /// S2.5: a higher threshold never lengthens a draft, and certainty never stops.
    #[test]
    fn thresholds_are_monotone() {
        let mut state = 1u32;
        let mut rows = Vec::new();
        for _ in 0..200 {
            let row: Vec<f32> = (0..8)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    ((state >> 8) as f32 / (1u32 << 24) as f32).powi(6)
                })
                .collect();
            let sum: f32 = row.iter().sum();
            rows.push(row.iter().map(|p| p / sum).collect::<Vec<_>>());
        }
        for rule in [Rule::Entropy, Rule::Confidence] {
            for start in (0..rows.len()).step_by(10) {
                let length = |threshold: f64| {
                    let options = StopOptions { lambda: threshold, confidence: threshold, ..StopOptions::default() };
                    let stopper = Stopper::new(rule, options);
                    assert!(!stopper.stops(3, &CERTAIN));
                    rows[start..].iter().take(10).enumerate().position(|(i, q)| stopper.stops(i, q)).unwrap_or(10)
                };
                let lengths: Vec<usize> = (0..=20).map(|i| length(f64::from(i) / 20.0)).collect();
                assert!(lengths.windows(2).all(|l| l[0] >= l[1]), "{lengths:?}");
            }
        }
        assert!(Stopper::new(Rule::Entropy, StopOptions { lambda: 1.0, ..StopOptions::default() }).stops(1, &HALF));
        assert!(!Stopper::new(Rule::Static, StopOptions::default()).stops(1, &HALF));
        let patient = Stopper::new(Rule::Entropy, StopOptions { min_draft: 4, lambda: 1.0, ..StopOptions::default() });
        assert!(!patient.stops(2, &HALF) && patient.stops(3, &HALF), "the kept trigger is the fourth draft");
    }

    #[test]
    fn tiers_follow_what_is_accepted() {
        let mut stopper = Stopper::new(Rule::Tiers, StopOptions::default());
        let depth = |s: &Stopper| (0..8).position(|drafted| s.stops(drafted, &HALF)).map_or(8, |i| i + 1);
        assert_eq!(depth(&stopper), 8);
        let mut depths = Vec::new();
        for (accepted, drafted) in [(2, 8), (1, 5), (3, 3), (3, 3), (5, 5)] {
            stopper.learn(accepted, drafted, false);
            depths.push(depth(&stopper));
        }
        // Shares .625, .4125, .70625, .853, .927.
        assert_eq!(depths, [5, 5, 8, 8, 8]);
        stopper.learn(0, 8, true);
        stopper.learn(0, 5, false);
        assert_eq!(depth(&stopper), 3);
        assert_eq!(stopper.threshold(), StopOptions::default().lambda, "no threshold moves");
    }

    #[test]
    fn options_are_checked() {
        assert_eq!(StopOptions::default().problem(), None);
        let with = |edit: fn(&mut StopOptions)| {
            let mut options = StopOptions::default();
            edit(&mut options);
            options.problem().unwrap_or_default()
        };
        assert!(with(|o| o.factor = 0.0).contains("stop.factor 0"));
        assert!(with(|o| o.lambda = 2.0).contains("stop.lambda 2"));
        assert!(with(|o| o.aim = f64::NAN).contains("stop.aim NaN"));
    }
}
