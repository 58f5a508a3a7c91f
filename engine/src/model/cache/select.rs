//! Which entries of a head stay, given their scores.

use std::cmp::Ordering;

/// How many stay, and which stay whatever their score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Entries that stay.
    pub budget: usize,
    /// The newest so many stay.
    pub window: usize,
    /// The first so many stay, as far as the window leaves room.
    pub sinks: usize,
}

/// A score that is no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the score of entry {index} is not a number: its key, value or weights hold NaN")]
pub struct NotANumber {
    /// The entry.
    pub index: usize,
}

/// Indices of the entries that stay, ascending: the newest, the first, and of the others those of the largest
/// `scores` (ties: the newer). Entries of which `valid` says no never stay, whatever else holds for them, so fewer
/// than the budget may remain. Protection never breaks the budget: the window is clamped to it, then the sinks to what
/// is left.
///
/// # Errors
/// A score that is NaN, of a valid entry.
pub fn select(scores: &[f32], keep: Keep, valid: impl Fn(usize) -> bool) -> Result<Vec<u32>, NotANumber> {
    let mut real: Vec<u32> = (0..scores.len()).filter(|i| valid(*i)).map(|i| i as u32).collect();
    let score = |i: u32| scores.get(i as usize).map_or(f32::NEG_INFINITY, |s| s + 0.0); // no negative zero
    if let Some(index) = real.iter().find(|i| score(**i).is_nan()) {
        return Err(NotANumber { index: *index as usize });
    }
    let n = real.len();
    if n <= keep.budget {
        return Ok(real);
    }
    let window = keep.window.min(keep.budget);
    let sinks = keep.sinks.min(keep.budget - window);
    let rest = keep.budget - window - sinks;
    // Best first; of equal scores the newer one.
    let order = |a: &u32, b: &u32| match score(*b).total_cmp(&score(*a)) {
        Ordering::Equal => b.cmp(a),
        other => other,
    };
    let newest = real.split_off(n - window);
    let mut middle = real.split_off(sinks);
    if rest > 0 && rest < middle.len() {
        middle.select_nth_unstable_by(rest - 1, order);
    }
    middle.truncate(rest);
    middle.sort_unstable();
    real.extend(middle);
    real.extend(newest);
    Ok(real)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(scores: &[f32], budget: usize, window: usize, sinks: usize) -> Vec<u32> {
        select(scores, Keep { budget, window, sinks }, |_| true).unwrap()
    }

    #[test]
    fn protection_is_clamped_to_the_budget() {
        let scores = [0.0, 9.0, 1.0, 8.0, 2.0, 7.0];
        assert_eq!(kept(&scores, 3, 0, 0), [1, 3, 5]);
        assert_eq!(kept(&scores, 3, 2, 0), [1, 4, 5]);
        assert_eq!(kept(&scores, 3, 1, 1), [0, 1, 5]);
        assert_eq!(kept(&scores, 3, 99, 99), [3, 4, 5]);
        assert_eq!(kept(&scores, 3, 2, 99), [0, 4, 5]);
        assert_eq!(kept(&scores, 6, 1, 1), [0, 1, 2, 3, 4, 5]);
        assert_eq!(kept(&scores, 99, 0, 0), [0, 1, 2, 3, 4, 5]);
        assert_eq!(kept(&[], 3, 1, 1), [0u32; 0]);
    }

    #[test]
    fn ties_go_to_the_newest() {
        assert_eq!(kept(&[1.0; 7], 3, 0, 0), [4, 5, 6]);
        assert_eq!(kept(&[2.0, 1.0, 1.0, 1.0], 2, 0, 0), [0, 3]);
    }

    #[test]
    fn invalid_entries_never_stay_and_nan_is_an_error() {
        let scores = [9.0, f32::NAN, 8.0, 1.0, 2.0];
        let keep = Keep { budget: 3, window: 1, sinks: 1 };
        assert_eq!(select(&scores, keep, |i| i != 1 && i != 4).unwrap(), [0, 2, 3]);
        assert_eq!(select(&scores, Keep { budget: 2, ..keep }, |i| i > 1).unwrap(), [2, 4]);
        assert_eq!(select(&scores, keep, |_| true), Err(NotANumber { index: 1 }));
        assert_eq!(select(&scores, keep, |_| false).unwrap(), [0u32; 0]);
    }
}
