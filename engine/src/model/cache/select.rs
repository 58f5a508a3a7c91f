//! Which entries of a head stay, given their scores.

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
    // Cheaper than to sort them.
    let mut stays = vec![false; n];
    for i in kept {
        if let Some(stays) = stays.get_mut(i as usize) {
            *stays = true;
        }
    }
    Ok((0u32..).zip(stays).filter_map(|(i, stays)| stays.then_some(i)).collect())
}

/// Leaves the best `n` of some entries and gives back the others.
fn take_best(entries: &mut Vec<u32>, n: usize, scores: &[f32]) -> Vec<u32> {
    if n >= entries.len() {
        return Vec::new();
    }
    let score = |i: u32| scores.get(i as usize).map_or(f32::NEG_INFINITY, |s| s + 0.0); // no negative zero
    // Best first; of equal scores the newer one: as whole numbers, which are compared in a single step.
    let mut order: Vec<u64> = entries.iter().map(|i| u64::from(!ascending(score(*i))) << 32 | u64::from(!i)).collect();
    if n > 0 {
        order.select_nth_unstable(n - 1);
    }
    let mut best = order.into_iter().map(|key| !(key as u32));
    *entries = best.by_ref().take(n).collect();
    best.collect()
}

/// A number that is larger where the score is.
fn ascending(score: f32) -> u32 {
    let bits = score.to_bits();
    if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
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
    fn what_stays_is_what_sorting_gives() {
        let mut state = 1u32;
        let mut scores: Vec<f32> = (0..700)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // Few values, so that many are equal; negative ones and zeros of both signs among them.
                ((state >> 24) as f32 - 128.0) / 16.0
            })
            .collect();
        (scores[3], scores[9], scores[40]) = (-0.0, f32::INFINITY, f32::NEG_INFINITY);
        for budget in [0, 1, 5, 350, 699] {
            let mut sorted: Vec<usize> = (0..scores.len()).collect();
            sorted.sort_by(|a, b| (scores[*b] + 0.0).total_cmp(&(scores[*a] + 0.0)).then(b.cmp(a)));
            let mut expected: Vec<u32> = sorted.into_iter().take(budget).map(|i| i as u32).collect();
            expected.sort_unstable();
            assert_eq!(kept(&scores, budget, 0, 0), expected, "{budget}");
        }
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
