//! How well a drafter would draft, on what the target said and the drafter never learnt from (specs: direct-alignment,
//! S4.6; speculative, section 1.4).

use super::{
    drafter::{Columns, Compared, Head, Teacher, compared, sight},
    lines::{Line, Lines},
};
use crate::model::{AdapterConfig, Decoder, DecoderConfig, Mode};
use candle_core::{D, Result, bail};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use spotter_vision::training::Variables;

/// Draft lengths that are judged.
pub const LENGTHS: [usize; 2] = [3, 5];
/// Resamples behind an interval.
const RESAMPLES: usize = 1000;
/// Rows of logits at a time, about.
const ROWS: usize = 4096;

/// A mean with its 95 % interval over the lines (bootstrap).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean; not a number of nothing.
    pub mean: f64,
    /// 2.5 % of the resamples are below.
    pub low: f64,
    /// 2.5 % of the resamples are above.
    pub high: f64,
}

/// What a drafter does on held-out lines.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    /// Tokens judged.
    pub tokens: usize,
    /// Mean chance at temperature 1 that a draft is accepted, over all lines.
    pub acceptance: Estimate,
    /// Share of tokens at which both have the same likeliest one, over all lines.
    pub agreement: Estimate,
    /// Tokens a round at temperature 0 (tau), for chains of 3 and of 5: exact, on the lines said at temperature 0.
    pub block_efficiency: [Estimate; 2],
}

/// Of one line: pairs of a sum and what it is divided by.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    acceptance: (f64, f64),
    agreement: (f64, f64),
    rounds: [(f64, f64); 2],
}

/// Tokens committed and rounds taken when an utterance is drafted greedily, `agrees[i]` telling whether the drafter has
/// token `i` of it as its likeliest. The first token is the target's own.
fn rounds(agrees: &[bool], length: usize) -> (usize, usize) {
    let (mut at, mut taken) = (1, 0);
    while at < agrees.len() {
        // At most all but the last of what is left can be drafted: a round adds a token of the target's.
        let most = length.min(agrees.len() - at);
        let accepted = agrees.iter().skip(at).take(most).take_while(|a| **a).count();
        at = (at + accepted + 1).min(agrees.len());
        taken += 1;
    }
    (agrees.len().saturating_sub(1), taken)
}

/// Mean of the ratios' sums over lines drawn with replacement.
fn estimate(lines: &[Sums], of: impl Fn(&Sums) -> (f64, f64)) -> Estimate {
    let ratio = |sum: (f64, f64)| sum.0 / sum.1;
    let add = |a: (f64, f64), b: (f64, f64)| (a.0 + b.0, a.1 + b.1);
    let pairs: Vec<(f64, f64)> = lines.iter().map(of).filter(|pair| pair.1 > 0.0).collect();
    let mean = ratio(pairs.iter().copied().fold((0.0, 0.0), add));
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let one = |rng: &mut ChaCha8Rng| {
        let drawn = (0..pairs.len()).filter_map(|_| pairs.get(rng.random_range(0..pairs.len())).copied());
        ratio(drawn.fold((0.0, 0.0), add))
    };
    let mut means: Vec<f64> = (0..RESAMPLES).map(|_| one(&mut rng)).collect();
    means.sort_by(f64::total_cmp);
    let at = |share: f64| means.get((RESAMPLES as f64 * share) as usize).copied().unwrap_or(f64::NAN);
    Estimate { mean, low: at(0.025), high: at(0.975) }
}

/// What a drafter has beside its decoder.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beside<'a> {
    /// Tokens that can't be said.
    pub never: &'a [u32],
    /// The tokens that it may say, where not all: whatever the target wants to say beside them is missed.
    pub head: Option<&'a Head>,
    /// What it sees with, where it does.
    pub adapter: Option<AdapterConfig>,
}

/// Judges the drafter of some variables on held-out lines.
///
/// # Errors
/// Those of the device, or rows that were not kept.
pub fn judge(
    config: &DecoderConfig,
    vars: &Variables,
    held_out: &Lines,
    teacher: Teacher<'_>,
    Beside { never, head, adapter }: Beside<'_>,
) -> Result<Judged> {
    let mut drafter = Decoder::new(config, vars.builder(), Mode::Infer)?;
    if let Some(head) = head {
        drafter.trim_head(head.ids())?;
    }
    let seen = held_out.seen.as_ref();
    let adapter = sight(adapter, config, vars, seen)?;
    let columns = Columns::new(config.vocab, never, head, drafter.device())?;
    let mut sums = Vec::new();
    for group in groups(&held_out.lines, config.max_positions) {
        let Compared { logits, target, likeliest: theirs } =
            compared((&drafter, adapter.as_ref()), (&group, seen), teacher, &columns)?;
        let q = candle_nn::ops::softmax_last_dim(&logits)?;
        let accepted: Vec<f32> = q.minimum(&target)?.sum(D::Minus1)?.to_vec1()?;
        let mut mine = logits.argmax(D::Minus1)?.to_vec1::<u32>()?;
        if let Some(head) = head {
            mine.iter_mut().for_each(|column| *column = head.ids().get(*column as usize).copied().unwrap_or(u32::MAX));
        }
        let mut at = 0;
        for line in &group {
            let n = line.spoken.iter().skip(1).filter(|s| **s).count();
            let own = at..at + n;
            at += n;
            let (Some(accepted), Some(mine), Some(theirs)) =
                (accepted.get(own.clone()), mine.get(own.clone()), theirs.get(own))
            else {
                bail!("{} rows are fewer than the spoken tokens of a group", accepted.len());
            };
            sums.push(line_sums(line, accepted, mine, theirs));
        }
    }
    let tokens = sums.iter().map(|s| s.acceptance.1).sum::<f64>() as usize;
    Ok(Judged {
        tokens,
        acceptance: estimate(&sums, |s| s.acceptance),
        agreement: estimate(&sums, |s| s.agreement),
        block_efficiency: [0, 1].map(|i| estimate(&sums, |s| s.rounds[i])),
    })
}

fn line_sums(line: &Line, accepted: &[f32], mine: &[u32], theirs: &[u32]) -> Sums {
    let n = accepted.len() as f64;
    let same = mine.iter().zip(theirs).filter(|(a, b)| a == b).count() as f64;
    let mut sums =
        Sums { acceptance: (accepted.iter().map(|a| f64::from(*a)).sum(), n), agreement: (same, n), ..Sums::default() };
    if line.temperature <= 0.0 {
        let mut at = 0;
        for (from, to) in line.utterances() {
            let ids = line.ids.get(from..to).unwrap_or_default();
            let agrees: Vec<bool> =
                ids.iter().enumerate().map(|(i, id)| mine.get(at + i).is_some_and(|m| m == id)).collect();
            at += ids.len();
            for (sum, length) in sums.rounds.iter_mut().zip(LENGTHS) {
                let (committed, taken) = rounds(&agrees, length);
                *sum = (sum.0 + committed as f64, sum.1 + taken as f64);
            }
        }
    }
    sums
}

/// Lines that are read together: cut to what the drafter has positions for.
fn groups(lines: &[Line], positions: usize) -> Vec<Vec<Line>> {
    let cut = |line: &Line| {
        let n = line.ids.len().min(positions);
        let mut line = line.clone();
        line.ids.truncate(n);
        line.spoken.truncate(n);
        line
    };
    let (mut groups, mut group, mut rows) = (Vec::new(), Vec::new(), 0);
    for line in lines.iter().filter(|l| l.spoken.iter().skip(1).any(|s| *s)).map(cut) {
        rows += line.ids.len();
        group.push(line);
        if rows >= ROWS {
            groups.push(std::mem::take(&mut group));
            rows = 0;
        }
    }
    groups.push(group);
    groups.retain(|g| !g.is_empty());
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_counted_as_they_are_decoded() {
        let check = |agrees: &[u8], length: usize, expected: (usize, usize)| {
            let agrees: Vec<bool> = agrees.iter().map(|a| *a == 1).collect();
            assert_eq!(rounds(&agrees, length), expected, "{agrees:?}");
        };
        check(&[], 3, (0, 0));
        check(&[0], 3, (0, 0));
        // Six tokens behind the first, none drafted right.
        check(&[1, 0, 0, 0, 0, 0, 0], 3, (6, 6));
        // All right: four a round, two left for the second.
        check(&[1, 1, 1, 1, 1, 1, 1], 3, (6, 2));
        check(&[0, 1, 0, 1, 1, 0, 1], 3, (6, 3));
        check(&[0, 1, 1, 1, 1, 1, 1], 5, (6, 1));
    }

    #[test]
    fn intervals_hold_the_mean_and_shrink() {
        let lines = |n: usize| -> Vec<Sums> {
            (0..n).map(|i| Sums { acceptance: (if i % 3 == 0 { 0.0 } else { 2.0 }, 2.0), ..Sums::default() }).collect()
        };
        let few = estimate(&lines(30), |s| s.acceptance);
        let many = estimate(&lines(3000), |s| s.acceptance);
        assert!((many.mean - 2.0 / 3.0).abs() < 1e-12 && many.low < many.mean && many.mean < many.high);
        assert!(many.high - many.low < (few.high - few.low) / 5.0);
        assert!(estimate(&[], |s| s.acceptance).mean.is_nan());
    }
}
