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
    /// Of the entries that were said, the best so many stay, protected ones included, as far as there are any and the
    /// others leave room.
    pub said: usize,
}

/// A score that is no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the score of entry {index} is not a number: its key, value or weights hold NaN")]
pub struct NotANumber {
    /// The entry.
    pub index: usize,
}

/// Indices of the entries that stay, ascending: the newest, the first, of those that were said the share they have for
/// themselves, and of all others those of the largest `scores` (ties: the newer). Protection never breaks the budget:
/// the window is clamped to it, then the sinks to what is left, then the share of what was said.
///
/// # Errors
/// A score that is NaN.
pub fn select(scores: &[f32], keep: Keep, said: impl Fn(usize) -> bool) -> Result<Vec<u32>, NotANumber> {
    if let Some(index) = scores.iter().position(|score| score.is_nan()) {
        return Err(NotANumber { index });
    }
    let n = scores.len();
    if n <= keep.budget {
        return Ok((0..n as u32).collect());
    }
    let window = keep.window.min(keep.budget);
    let sinks = keep.sinks.min(keep.budget - window);
    let rest = keep.budget - window - sinks;
    let is_said = |i: &u32| said(*i as usize);
    let (first, newest) = (0..sinks as u32, (n - window) as u32..n as u32);
    let mut middle: Vec<u32> = (first.end..newest.start).collect();
    let mut kept: Vec<u32> = Vec::with_capacity(keep.budget);
    if keep.said > 0 {
        let already = first.clone().chain(newest.clone()).filter(is_said).count();
        let (mut of_said, others): (Vec<u32>, Vec<u32>) = middle.into_iter().partition(is_said);
        let left = take_best(&mut of_said, keep.said.saturating_sub(already).min(rest), scores);
        kept.extend(of_said);
        middle = [others, left].concat();
    }
    take_best(&mut middle, rest - kept.len(), scores);
    kept.extend(first.chain(middle).chain(newest));
    kept.sort_unstable();
    Ok(kept)
}

/// Leaves the best `n` of some entries and gives back the others.
fn take_best(entries: &mut Vec<u32>, n: usize, scores: &[f32]) -> Vec<u32> {
    if n >= entries.len() {
        return Vec::new();
    }
    let score = |i: u32| scores.get(i as usize).map_or(f32::NEG_INFINITY, |s| s + 0.0); // no negative zero
    // Best first; of equal scores the newer one.
    let order = |a: &u32, b: &u32| match score(*b).total_cmp(&score(*a)) {
        Ordering::Equal => b.cmp(a),
        other => other,
    };
    if n > 0 {
        entries.select_nth_unstable_by(n - 1, order);
    }
    entries.split_off(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(scores: &[f32], budget: usize, window: usize, sinks: usize) -> Vec<u32> {
        select(scores, Keep { budget, window, sinks, said: 0 }, |_| true).unwrap()
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
        assert_eq!(kept(&[0.0, -0.0, 0.0], 2, 0, 0), [1, 2]);
    }

    #[test]
    fn nan_is_an_error_whatever_protects_it() {
        let scores = [9.0, 8.0, 1.0, 2.0, f32::NAN];
        for window in [0, 1] {
            let keep = Keep { budget: 3, window, sinks: 1, said: 0 };
            assert_eq!(select(&scores, keep, |_| false), Err(NotANumber { index: 4 }));
        }
    }

    #[test]
    fn what_was_said_has_a_share_of_its_own() {
        // Entries 1, 2, 5 and 8 were said; their scores are the worst.
        let scores = [9.0, 0.0, 3.0, 8.0, 7.0, 1.0, 6.0, 5.0, 2.0, 4.0];
        let said = |i: usize| [1, 2, 5, 8].contains(&i);
        let with = |said_share, window, sinks| {
            select(&scores, Keep { budget: 5, window, sinks, said: said_share }, said).unwrap()
        };
        assert_eq!(with(0, 0, 0), [0, 3, 4, 6, 7]);
        assert_eq!(with(1, 0, 0), [0, 2, 3, 4, 6]);
        assert_eq!(with(2, 0, 0), [0, 2, 3, 4, 8]);
        // Only four were said: the rest of their share goes to the others.
        assert_eq!(with(5, 0, 0), [0, 1, 2, 5, 8]);
        // Said entries in the window count, and protection comes first.
        assert_eq!(with(1, 2, 0), [0, 3, 4, 8, 9]);
        assert_eq!(with(2, 2, 1), [0, 2, 3, 8, 9]);
        assert_eq!(with(9, 3, 2), [0, 1, 7, 8, 9]);
        // Beyond its share, what was said competes like everything else.
        let good = |i: usize| [0, 3].contains(&i);
        assert_eq!(select(&scores, Keep { budget: 3, window: 0, sinks: 0, said: 1 }, good).unwrap(), [0, 3, 4]);
    }
}
