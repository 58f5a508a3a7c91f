//! Drafters without weights: what followed the same words before. Coaches repeat themselves.

use super::draft::{Branch, Drafter, Logits, Text};
use candle_core::{Result, bail};

/// Tokens that are remembered at most.
const MEMORY: usize = 8192;

/// Which continuations count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// The newest one behind the longest match, as if certain: prompt look-up.
    Newest,
    /// All, by how often they came: counts of each order escape to the next shorter one (Witten and Bell), so that a
    /// match seen once is believed by half.
    Counts,
}

/// Looks for the last tokens in the text before, and proposes what followed.
#[derive(Clone, Debug)]
pub struct Ngram {
    memory: Memory,
    /// Longest match looked for.
    longest: usize,
    /// Shortest that counts.
    shortest: usize,
    vocab: usize,
    text: Text,
    /// Branches of this round.
    branches: Vec<Branch>,
}

impl Ngram {
    /// Prompt look-up for a target with `vocab` tokens.
    pub fn lookup(vocab: usize) -> Self {
        Self::new(Memory::Newest, 4, 1, vocab)
    }

    /// With probabilities.
    pub fn counts(vocab: usize) -> Self {
        Self::new(Memory::Counts, 5, 1, vocab)
    }

    /// With matches of `longest` down to `shortest` tokens (at least 1).
    pub fn new(memory: Memory, longest: usize, shortest: usize, vocab: usize) -> Self {
        let shortest = shortest.max(1);
        let longest = longest.max(shortest);
        Self { memory, longest, shortest, vocab, text: Text::default(), branches: Vec::new() }
    }

    /// The last tokens before the children of a branch, oldest first, at most as many as a match has.
    fn tail(&self, branch: Option<usize>) -> Result<Vec<u32>> {
        let mut tail = Vec::with_capacity(self.longest);
        let mut next = branch;
        while let (Some(at), true) = (next, tail.len() < self.longest) {
            let Some(branch) = self.branches.get(at) else { bail!("branch {at} was not expanded") };
            tail.push(branch.token);
            next = branch.parent;
        }
        let missing = self.longest - tail.len();
        tail.extend(self.text.items().iter().rev().take(missing));
        tail.reverse();
        Ok(tail)
    }

    /// What came behind `tail` in the text, newest first, with the length of the match.
    fn continuations<'a>(&'a self, tail: &'a [u32]) -> impl Iterator<Item = (u32, usize)> + 'a {
        let text = self.text.items();
        (1..text.len()).rev().filter_map(move |end| {
            let before = text.get(..end)?;
            let matched = before.iter().rev().zip(tail.iter().rev()).take_while(|(a, b)| a == b).count();
            let next = text.get(end).copied().filter(|id| (*id as usize) < self.vocab)?;
            (matched >= self.shortest).then_some((next, matched))
        })
    }

    fn law(&self, branch: Option<usize>) -> Result<Option<Logits>> {
        let tail = self.tail(branch)?;
        let weights = match self.memory {
            Memory::Newest => {
                // The first of the longest: newest first.
                let best = self.continuations(&tail).fold(None, |best: Option<(u32, usize)>, found| match best {
                    Some(best) if best.1 >= found.1 => Some(best),
                    _ => Some(found),
                });
                best.map(|(token, _)| vec![(token, 1.0)]).unwrap_or_default()
            }
            Memory::Counts => self.counted(&tail),
        };
        if weights.is_empty() {
            return Ok(None);
        }
        let mut row = vec![f32::NEG_INFINITY; self.vocab];
        for (token, weight) in weights {
            if let Some(slot) = row.get_mut(token as usize) {
                *slot = (weight as f32).ln();
            }
        }
        Ok(Some(row))
    }

    /// Weights of the tokens that came behind matches, all orders mixed.
    fn counted(&self, tail: &[u32]) -> Vec<(u32, f64)> {
        let mut found: Vec<(u32, usize)> = self.continuations(tail).collect();
        found.sort_unstable();
        // Each token once, with how often it came behind a match of at least so many tokens.
        let mut tokens: Vec<(u32, Vec<u32>)> = Vec::new();
        for (token, matched) in found {
            if tokens.last().is_none_or(|(last, _)| *last != token) {
                tokens.push((token, vec![0; self.longest + 1]));
            }
            if let Some((_, counts)) = tokens.last_mut() {
                counts.iter_mut().take(matched + 1).for_each(|c| *c += 1);
            }
        }
        let mut weights: Vec<(u32, f64)> = tokens.iter().map(|(token, _)| (*token, 0.0)).collect();
        let mut left = 1.0;
        for order in (self.shortest..=self.longest).rev() {
            let at = |counts: &Vec<u32>| counts.get(order).copied().unwrap_or(0);
            let total: u32 = tokens.iter().map(|(_, counts)| at(counts)).sum();
            let distinct = tokens.iter().filter(|(_, counts)| at(counts) > 0).count() as f64;
            if total == 0 {
                continue;
            }
            let share = left / (f64::from(total) + distinct);
            for ((_, weight), (_, counts)) in weights.iter_mut().zip(&tokens) {
                *weight += share * f64::from(at(counts));
            }
            left = share * distinct;
        }
        weights
    }
}

impl Drafter for Ngram {
    fn describe(&self) -> String {
        match self.memory {
            Memory::Newest => "lookup".into(),
            Memory::Counts => "ngram".into(),
        }
    }

    fn read(&mut self, ids: &[u32]) -> Result<()> {
        self.text.push(ids.iter().copied());
        Ok(())
    }

    fn open(&mut self) -> Result<()> {
        self.text.bound(MEMORY);
        self.text.open();
        Ok(())
    }

    fn close(&mut self, keep: bool) -> Result<()> {
        self.text.close(keep);
        Ok(())
    }

    fn root(&mut self) -> Result<Option<Logits>> {
        self.branches.clear();
        self.law(None)
    }

    fn expand(&mut self, branches: &[Branch]) -> Result<Vec<Option<Logits>>> {
        let first = self.branches.len();
        self.branches.extend_from_slice(branches);
        (first..self.branches.len()).map(|at| self.law(Some(at))).collect()
    }

    fn settle(&mut self, _path: &[usize], ids: &[u32]) -> Result<()> {
        self.branches.clear();
        self.text.push(ids.iter().copied());
        Ok(())
    }

    fn clear(&mut self) -> Result<()> {
        self.branches.clear();
        self.text.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn likely(row: Option<Logits>) -> Vec<(u32, f32)> {
        let row = row.unwrap_or_default();
        let mut likely: Vec<(u32, f32)> =
            row.iter().enumerate().filter(|(_, l)| l.is_finite()).map(|(i, l)| (i as u32, l.exp())).collect();
        likely.sort_by(|a, b| b.1.total_cmp(&a.1));
        likely
    }

    #[test]
    fn look_up_takes_the_longest_match_and_of_those_the_newest() {
        let mut drafter = Ngram::lookup(20);
        assert_eq!(drafter.root().unwrap(), None);
        drafter.read(&[1, 2, 3, 9, 2, 3, 7, 5, 3, 8, 2, 3]).unwrap();
        assert_eq!(likely(drafter.root().unwrap()), [(7, 1.0)]);
        // Behind 3, 7 came 5; behind 3, 8 came 2.
        let rows = drafter.expand(&[Branch { token: 7, parent: None }, Branch { token: 8, parent: None }]).unwrap();
        assert_eq!(rows.into_iter().map(|r| likely(r)[0].0).collect::<Vec<_>>(), [5, 2]);
        let deeper = drafter.expand(&[Branch { token: 5, parent: Some(0) }]).unwrap();
        assert_eq!(likely(deeper[0].clone()), [(3, 1.0)]);
        drafter.settle(&[0], &[7, 5]).unwrap();
        assert_eq!(likely(drafter.root().unwrap()), [(3, 1.0)]);
        drafter.read(&[19]).unwrap();
        assert_eq!(drafter.root().unwrap(), None, "19 was never seen before");
    }

    #[test]
    fn counts_mix_the_orders() {
        let mut drafter = Ngram::new(Memory::Counts, 2, 1, 20);
        drafter.read(&[1, 2, 3, 1, 2, 3, 1, 2, 4, 5, 2, 6, 1, 2]).unwrap();
        // Behind 1 2: 3 twice, 4 once; the escape of 2/5 goes to what came behind 2: 3 twice, 4 and 6 once.
        let found = likely(drafter.root().unwrap());
        let expected = [(3, 0.4 + 0.4 * 2.0 / 7.0), (4, 0.2 + 0.4 / 7.0), (6, 0.4 / 7.0)];
        assert_eq!(found.len(), 3);
        for ((token, p), (t, e)) in found.into_iter().zip(expected) {
            assert_eq!(token, t);
            assert!((p - e).abs() < 1e-6, "{token}: {p}, expected {e}");
        }
    }

    #[test]
    fn an_utterance_that_is_taken_back_is_forgotten() {
        let mut drafter = Ngram::lookup(20);
        drafter.read(&[1, 2, 3, 1]).unwrap();
        drafter.open().unwrap();
        drafter.settle(&[], &[7, 1]).unwrap();
        assert_eq!(likely(drafter.root().unwrap()), [(7, 1.0)]);
        drafter.close(false).unwrap();
        assert_eq!(likely(drafter.root().unwrap()), [(2, 1.0)]);
        drafter.open().unwrap();
        drafter.settle(&[], &[7, 1]).unwrap();
        drafter.close(true).unwrap();
        assert_eq!(likely(drafter.root().unwrap()), [(7, 1.0)]);
    }

    #[test]
    fn memory_is_bounded() {
        let mut drafter = Ngram::lookup(20);
        for i in 0..30_000u32 {
            drafter.read(&[i % 19]).unwrap();
            drafter.open().unwrap();
            drafter.close(true).unwrap();
        }
        assert!(drafter.text.items().len() <= MEMORY);
        assert_eq!(likely(drafter.root().unwrap())[0].0, 30_000 % 19);
    }
}
