//! Confidence intervals by drawing sessions again: people differ more than moments of one person do, so whole sessions
//! are drawn, with replacement.

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Drawings of as many sessions as there are.
pub const DRAWS: usize = 1000;

/// A value with the range in which 95 % of the drawings fall.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Over all sessions.
    pub value: f64,
    /// 2.5 % of the drawings lie below.
    pub low: f64,
    /// 2.5 % lie above.
    pub high: f64,
}

/// Estimates what `statistic` says of `sessions`; `None` where it says nothing of all of them. The same sessions give
/// the same range.
pub fn estimate<T>(
    sessions: &[T],
    statistic: impl Fn(&mut dyn Iterator<Item = &T>) -> Option<f64>,
) -> Option<Estimate> {
    let value = statistic(&mut sessions.iter())?;
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut drawn: Vec<f64> = (0..DRAWS)
        .filter_map(|_| {
            let chosen: Vec<usize> = sessions.iter().map(|_| rng.random_range(0..sessions.len())).collect();
            statistic(&mut chosen.iter().filter_map(|i| sessions.get(*i)))
        })
        .collect();
    drawn.sort_by(f64::total_cmp);
    let at = |q: f64| drawn.get(((drawn.len() as f64 - 1.0) * q).round() as usize).copied().unwrap_or(value);
    Some(Estimate { value, low: at(0.025), high: at(0.975) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(values: &mut dyn Iterator<Item = &f64>) -> Option<f64> {
        let values: Vec<f64> = values.copied().collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    }

    #[test]
    fn the_range_of_a_mean_is_that_of_its_error() {
        let values: Vec<f64> = (0..100).map(f64::from).collect();
        let e = estimate(&values, mean).expect("there are values");
        // Standard error 28.87 / 10, and 1.96 of them to each side.
        assert!((e.value - 49.5).abs() < 1e-9 && (e.low - 43.8).abs() < 1.0 && (e.high - 55.2).abs() < 1.0, "{e:?}");
        assert_eq!(Some(e), estimate(&values, mean));
        assert_eq!(estimate(&[], mean), None);
        let one = estimate(&[3.0], mean).expect("one value");
        assert_eq!((one.low, one.high), (3.0, 3.0));
    }
}
