//! The next token of logits: the rule of plain decoding and of verification alike.

use rand::Rng;
use std::cmp::Ordering;

/// How a token is chosen from logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    /// Only the so many likeliest tokens; 0 is all.
    pub top_k: usize,
    /// Only the likeliest tokens that together reach this probability, after temperature and top-k; 1 is all.
    pub top_p: f32,
}

impl Sampling {
    /// The likeliest token.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: 0, top_p: 1.0 };

    /// A draw at `temperature` from all tokens.
    pub fn at(temperature: f32) -> Self {
        Self { temperature, ..Self::GREEDY }
    }

    /// The likeliest token is taken.
    pub fn is_greedy(self) -> bool {
        self.temperature <= 0.0
    }

    /// The probabilities that tokens are drawn with, `[vocab]`, f32, sum 1. Greedy gives the likeliest token all.
    /// Without a single finite logit the first token has it.
    pub fn probabilities(self, logits: &[f32]) -> Vec<f32> {
        let mut row = vec![0f32; logits.len()];
        if self.is_greedy() {
            if let Some(best) = row.get_mut(argmax(logits) as usize) {
                *best = 1.0;
            }
            return row;
        }
        softmax_into(logits, self.temperature, &mut row);
        if (1..row.len()).contains(&self.top_k) || self.top_p < 1.0 {
            self.filter(&mut row);
        }
        row
    }

    /// Keeps the likeliest tokens of probabilities, the lower id on ties.
    fn filter(self, row: &mut [f32]) {
        let mut order: Vec<usize> = (0..row.len()).filter(|i| row.get(*i).is_some_and(|p| *p > 0.0)).collect();
        let at = |row: &[f32], i: usize| row.get(i).copied().unwrap_or(0.0);
        order.sort_unstable_by(|a, b| match at(row, *b).total_cmp(&at(row, *a)) {
            Ordering::Equal => a.cmp(b),
            other => other,
        });
        if self.top_k > 0 {
            order.truncate(self.top_k);
        }
        let total: f64 = order.iter().map(|i| f64::from(at(row, *i))).sum();
        let mut sum = 0.0;
        let reached = order.iter().position(|i| {
            sum += f64::from(at(row, *i)) / total;
            sum >= f64::from(self.top_p)
        });
        order.truncate(reached.map_or(order.len(), |i| i + 1));
        let total: f64 = order.iter().map(|i| f64::from(at(row, *i))).sum();
        let kept: Vec<(usize, f32)> = order.iter().map(|i| (*i, (f64::from(at(row, *i)) / total) as f32)).collect();
        row.fill(0.0);
        for (i, p) in kept {
            if let Some(slot) = row.get_mut(i) {
                *slot = p;
            }
        }
    }

    /// Draws a token of logits by its probability, with one random number.
    pub(crate) fn draw_by_weight(self, logits: &[f32], rng: &mut impl Rng) -> u32 {
        if self.is_greedy() { argmax(logits) } else { draw(&self.probabilities(logits), rng) }
    }

    /// Draws a token of logits.
    pub fn draw(self, logits: &[f32], rng: &mut impl Rng) -> u32 {
        if self.is_greedy() || (self.top_k == 0 && self.top_p >= 1.0) {
            sample(logits, self.temperature, rng)
        } else {
            draw(&self.probabilities(logits), rng)
        }
    }
}

/// The likeliest token, the lower id on ties; 0 of nothing.
pub fn argmax(logits: &[f32]) -> u32 {
    best(&mut logits.iter().copied())
}

fn best(values: &mut dyn Iterator<Item = f32>) -> u32 {
    values.enumerate().fold((0, f32::NEG_INFINITY), |a, (i, v)| if v > a.1 { (i, v) } else { a }).0 as u32
}

/// Softmax of `logits / temperature` into `row`; without a single finite logit the first token has all.
pub fn softmax_into(logits: &[f32], temperature: f32, row: &mut [f32]) {
    let max = logits.iter().copied().filter(|l| !l.is_nan()).fold(f32::NEG_INFINITY, f32::max);
    let mut total = 0f64;
    for (p, l) in row.iter_mut().zip(logits) {
        // Most logits of a sparse row are minus infinity: no exponential for them.
        *p = if *l > f32::NEG_INFINITY && max.is_finite() { ((l - max) / temperature).exp() } else { 0.0 };
        total += f64::from(*p);
    }
    if total > 0.0 {
        let scale = (1.0 / total) as f32;
        row.iter_mut().for_each(|p| *p *= scale);
    } else if let Some(first) = row.first_mut() {
        *first = 1.0;
    }
}

/// Draws from weights of any sum; the likeliest where none is above 0.
pub fn draw(weights: &[f32], rng: &mut impl Rng) -> u32 {
    let total: f64 = weights.iter().map(|w| f64::from(*w)).sum();
    let mut left = rng.random::<f64>() * total;
    let mut last = argmax(weights);
    for (i, w) in weights.iter().enumerate().filter(|(_, w)| **w > 0.0) {
        left -= f64::from(*w);
        last = i as u32;
        if left < 0.0 {
            break;
        }
    }
    last
}

/// Draws a token at `temperature`; 0 takes the likeliest, the lower id on ties. An empty slice gives 0.
pub fn sample(logits: &[f32], temperature: f32, rng: &mut impl Rng) -> u32 {
    if temperature <= 0.0 {
        return argmax(logits);
    }
    // The Gumbel trick: the argmax of perturbed logits is a draw from their softmax.
    best(&mut logits.iter().map(|l| l / temperature + gumbel(rng)))
}

/// A draw from the standard Gumbel distribution, finite.
pub(crate) fn gumbel(rng: &mut impl Rng) -> f32 {
    -(-rng.random::<f32>().max(f32::MIN_POSITIVE).ln()).ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    #[test]
    fn draws_follow_the_softmax() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(7);
        let logits = [1.0f32, 0.0, 2.0, f32::NEG_INFINITY];
        assert_eq!(sample(&logits, 0.0, &mut rng), 2);
        let (n, mut counts) = (20_000, [0f64; 4]);
        for _ in 0..n {
            counts[sample(&logits, 1.0, &mut rng) as usize] += 1.0;
        }
        let z: f64 = logits.iter().map(|l| f64::from(l.exp())).sum();
        let chi2: f64 = (0..3)
            .map(|i| {
                let e = f64::from(n) * f64::from(logits[i].exp()) / z;
                (counts[i] - e).powi(2) / e
            })
            .sum();
        // 99.9 % quantile at two degrees of freedom.
        assert!(chi2 < 13.8, "{chi2}");
        assert_eq!(counts[3], 0.0);
    }

    fn check(logits: &[f32], sampling: Sampling, expected: &[f32]) {
        let found = sampling.probabilities(logits);
        assert_eq!(found.len(), expected.len());
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}, expected {expected:?}");
    }

    #[test]
    fn filters_keep_the_likeliest() {
        let logits = [8f32, 4.0, 2.0, 2.0].map(f32::ln);
        let with = |top_k, top_p| Sampling { temperature: 1.0, top_k, top_p };
        check(&logits, with(0, 1.0), &[0.5, 0.25, 0.125, 0.125]);
        check(&logits, with(1, 1.0), &[1.0, 0.0, 0.0, 0.0]);
        check(&logits, with(3, 1.0), &[8.0 / 14.0, 4.0 / 14.0, 2.0 / 14.0, 0.0]);
        check(&logits, with(9, 1.0), &[0.5, 0.25, 0.125, 0.125]);
        check(&logits, with(0, 0.5), &[1.0, 0.0, 0.0, 0.0]);
        check(&logits, with(0, 0.6), &[2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0]);
        check(&logits, with(0, 0.0), &[1.0, 0.0, 0.0, 0.0]);
        check(&logits, with(2, 0.7), &[2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0]);
        check(&logits, Sampling { temperature: 0.5, top_k: 2, top_p: 1.0 }, &[0.8, 0.2, 0.0, 0.0]);
        check(&[1.0, 3.0, 3.0], Sampling::GREEDY, &[0.0, 1.0, 0.0]);
        check(&[f32::NEG_INFINITY, f32::NAN], Sampling::at(1.0), &[1.0, 0.0]);
        check(&[], Sampling::at(1.0), &[]);
    }

    #[test]
    fn weights_are_drawn_by_their_share() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
        let mut counts = [0; 4];
        for _ in 0..8000 {
            counts[draw(&[0.0, 6.0, 0.0, 2.0], &mut rng) as usize] += 1;
        }
        assert_eq!((counts[0], counts[2]), (0, 0));
        assert!((counts[1] - 6000i32).abs() < 160, "{counts:?}");
        assert_eq!(draw(&[0.0, 0.0], &mut rng), 0);
        assert_eq!(draw(&[], &mut rng), 0);
    }
}
