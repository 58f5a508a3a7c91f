//! Every numbered check of the specs speculative, adaedl and rsd.

mod cached;
mod decoder;
mod exact;
mod long;
mod seeing;
mod statistics;

use super::{
    adaedl::{Rule, StopOptions, Stopper},
    chain::{Walk, walk, walk_with},
    draft::{Branch, Drafter, Logits},
    rsd::Outcome,
    tree::{Ended, Growth, Limits, Shape, Tree},
};
use crate::sampler::Sampling;
use candle_core::Result;
use rand_chacha::ChaCha8Rng;

pub(super) const Q64: [f32; 8] = [24.0, 14.0, 9.0, 6.0, 5.0, 3.0, 2.0, 1.0];
pub(super) const P64: [f32; 8] = [6.0, 20.0, 4.0, 3.0, 16.0, 8.0, 5.0, 2.0];

/// Logits of a context: of the last two tokens, or the same everywhere.
#[derive(Clone, Debug)]
pub(super) enum Toy {
    /// Uneven, and different behind each pair of tokens.
    Markov { seed: u32, vocab: usize },
    /// The same everywhere.
    Fixed(Vec<f32>),
    /// Behind even tokens one is all but certain. Behind odd ones the target prefers some; whoever does not know has no
    /// idea.
    Templated { seed: u32, vocab: u32, knows: bool },
    /// The same, but behind odd tokens the target is as certain: of what only a picture tells.
    Grounded { seed: u32, vocab: u32, knows: bool },
}

impl Toy {
    pub(super) fn fixed(weights: &[f32]) -> Self {
        Self::Fixed(weights.iter().map(|w| w.ln()).collect())
    }

    pub(super) fn logits(&self, context: &[u32]) -> Logits {
        match self {
            Self::Fixed(logits) => logits.clone(),
            Self::Templated { seed, vocab, knows } => {
                let last = context.last().copied().unwrap_or(0);
                let next = last.wrapping_mul(2_654_435_761).wrapping_add(*seed) >> 7;
                let certain = last % 2 == 0;
                let like = |token: u32| match (certain, knows) {
                    // Every third certain token is odd.
                    (true, _) if token == (next - next % 2 + u32::from(next % 3 == 0)) % vocab => 7.0,
                    (false, true) => ((token ^ next) % 7) as f32 / 2.0,
                    _ => 0.0,
                };
                (0..*vocab).map(like).collect()
            }
            Self::Grounded { seed, vocab, knows } => {
                let mix = |h: u32, id: &u32| {
                    let h = (h ^ id).wrapping_mul(0x9E37_79B1);
                    h ^ (h >> 15)
                };
                let h = context.iter().skip(context.len().saturating_sub(3)).fold(*seed, mix);
                let token = (h >> 8) % vocab;
                // Every third token is odd.
                let likeliest = token - token % 2 + u32::from(h % 3 == 0);
                let tells = *knows || context.last().is_some_and(|last| last % 2 == 0);
                (0..*vocab).map(|token| if tells && token == likeliest { 7.0 } else { 0.0 }).collect()
            }
            Self::Markov { seed, vocab } => {
                let last = |n: usize| context.iter().rev().nth(n).copied().unwrap_or(99);
                let mut state = seed.wrapping_mul(0x9E37_79B9) ^ last(0).wrapping_mul(7919) ^ (last(1) << 13);
                (0..*vocab)
                    .map(|_| {
                        state ^= state << 13;
                        state ^= state >> 17;
                        state ^= state << 5;
                        (state >> 8) as f32 / (1u32 << 24) as f32 * 3.0
                    })
                    .collect()
            }
        }
    }
}

/// A toy as drafter.
#[derive(Clone, Debug)]
pub(super) struct ToyDrafter {
    pub(super) toy: Toy,
    pub(super) text: Vec<u32>,
    branches: Vec<Branch>,
}

impl ToyDrafter {
    pub(super) fn new(toy: Toy) -> Self {
        Self { toy, text: Vec::new(), branches: Vec::new() }
    }

    fn context(&self, branch: usize) -> Vec<u32> {
        let (mut path, mut next) = (Vec::new(), Some(branch));
        while let Some(at) = next {
            path.push(self.branches[at].token);
            next = self.branches[at].parent;
        }
        path.reverse();
        [self.text.as_slice(), &path].concat()
    }
}

impl Drafter for ToyDrafter {
    fn describe(&self) -> String {
        "toy".into()
    }

    fn read(&mut self, ids: &[u32]) -> Result<()> {
        self.text.extend(ids);
        Ok(())
    }

    fn open(&mut self) -> Result<()> {
        Ok(())
    }

    fn close(&mut self, _keep: bool) -> Result<()> {
        Ok(())
    }

    fn root(&mut self) -> Result<Option<Logits>> {
        self.branches.clear();
        Ok(Some(self.toy.logits(&self.text)))
    }

    fn expand(&mut self, branches: &[Branch]) -> Result<Vec<Option<Logits>>> {
        let first = self.branches.len();
        self.branches.extend_from_slice(branches);
        Ok((first..self.branches.len()).map(|b| Some(self.toy.logits(&self.context(b)))).collect())
    }

    fn settle(&mut self, _path: &[usize], ids: &[u32]) -> Result<()> {
        self.read(ids)
    }

    fn clear(&mut self) -> Result<()> {
        self.text.clear();
        Ok(())
    }
}

/// How a toy round is drafted.
#[derive(Clone, Debug)]
pub(super) struct Way {
    pub(super) shape: Shape,
    pub(super) stopper: Stopper,
    pub(super) sampling: Sampling,
}

impl Way {
    pub(super) fn new(shape: Shape, rule: Rule, stop: StopOptions, sampling: Sampling) -> Self {
        Self { shape, stopper: Stopper::new(rule, stop), sampling }
    }

    pub(super) fn fixed(shape: Shape, sampling: Sampling) -> Self {
        Self::new(shape, Rule::Static, StopOptions::default(), sampling)
    }

    pub(super) fn grow(&self, drafter: &mut dyn Drafter, rng: &mut ChaCha8Rng) -> (Tree, Ended) {
        let growth = Growth {
            shape: &self.shape,
            stopper: &self.stopper,
            sampling: self.sampling,
            never: &[],
            limits: Limits { depth: 99, nodes: 99 },
        };
        growth.grow(0, drafter, rng).unwrap()
    }

    /// One round behind `text`, which the drafter has read.
    pub(super) fn round(
        &mut self,
        drafter: &mut dyn Drafter,
        target: &Toy,
        text: &[u32],
        rng: &mut ChaCha8Rng,
    ) -> Walk {
        let (tree, ended) = self.grow(drafter, rng);
        let rows = rows(&tree, target, text);
        let walk = walk(&tree, |column| rows[column].as_slice(), self.sampling, rng);
        self.stopper.learn(walk.path.len(), tree.depth(), ended == Ended::Full);
        walk
    }

    /// The same with another rule at the nodes: probabilities of target and drafter, children.
    pub(super) fn round_with(
        &self,
        drafter: &mut dyn Drafter,
        target: &Toy,
        text: &[u32],
        rng: &mut ChaCha8Rng,
        rule: impl Fn(Vec<f32>, Vec<f32>, &[u32], &mut ChaCha8Rng) -> Outcome,
    ) -> Walk {
        let (tree, _) = self.grow(drafter, rng);
        let rows = rows(&tree, target, text);
        let at_node = |column: usize, children: &[u32], rng: &mut ChaCha8Rng| {
            let p = self.sampling.probabilities(&rows[column]);
            let q = tree.node(column).unwrap().law.clone().unwrap_or_else(|| p.clone());
            rule(p, q, children, rng)
        };
        walk_with(&tree, at_node, rng)
    }
}

/// The target's logits behind each column.
fn rows(tree: &Tree, target: &Toy, text: &[u32]) -> Vec<Logits> {
    (0..=tree.drafts())
        .map(|column| {
            let (mut path, mut next) = (Vec::new(), column);
            while let Some(parent) = tree.node(next).unwrap().parent {
                path.push(tree.node(next).unwrap().token);
                next = parent;
            }
            path.reverse();
            target.logits(&[text, &path].concat())
        })
        .collect()
}

/// Pearson's statistic and its critical value at alpha 0.001; cells of which fewer than 5 are expected become one.
pub(super) fn chi_square(counts: &[f64], expected: &[f64]) -> (f64, f64) {
    assert_eq!(counts.len(), expected.len());
    let (mut statistic, mut cells, mut rare) = (0.0, 0usize, (0.0, 0.0));
    for (n, e) in counts.iter().zip(expected) {
        assert!(*e > 0.0 || *n == 0.0, "something impossible was drawn");
        if *e < 5.0 {
            rare = (rare.0 + n, rare.1 + e);
        } else {
            statistic += (n - e).powi(2) / e;
            cells += 1;
        }
    }
    if rare.1 >= 5.0 {
        statistic += (rare.0 - rare.1).powi(2) / rare.1;
        cells += 1;
    }
    (statistic, critical(cells - 1))
}

/// 99.9 % quantile of chi-square (Wilson and Hilferty).
pub(super) fn critical(freedom: usize) -> f64 {
    let n = freedom as f64;
    let spread = 2.0 / (9.0 * n);
    n * (1.0 - spread + 3.0902 * spread.sqrt()).powi(3)
}

/// Laws in a row, whatever is drawn; then nothing.
struct InARow(Vec<Logits>, usize);

impl Drafter for InARow {
    fn describe(&self) -> String {
        "in a row".into()
    }

    fn read(&mut self, _ids: &[u32]) -> Result<()> {
        Ok(())
    }

    fn open(&mut self) -> Result<()> {
        Ok(())
    }

    fn close(&mut self, _keep: bool) -> Result<()> {
        Ok(())
    }

    fn root(&mut self) -> Result<Option<Logits>> {
        self.1 = 1;
        Ok(self.0.first().cloned())
    }

    fn expand(&mut self, branches: &[Branch]) -> Result<Vec<Option<Logits>>> {
        self.1 += 1;
        Ok(branches.iter().map(|_| self.0.get(self.1 - 1).cloned()).collect())
    }

    fn settle(&mut self, _path: &[usize], _ids: &[u32]) -> Result<()> {
        Ok(())
    }

    fn clear(&mut self) -> Result<()> {
        Ok(())
    }
}

/// S2.2 and S2.5 by whole drafts: lengths over five distributions, never over the largest length, never longer under a
/// higher threshold.
#[test]
fn drafts_are_as_long_as_their_entropies_allow() {
    use rand::SeedableRng as _;
    let row = |weights: &[f32]| -> Logits { weights.iter().map(|w| w.ln()).collect() };
    let certain = row(&[0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    let half = row(&[0.5, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    let dyadic = row(&[64.0, 32.0, 16.0, 8.0, 4.0, 2.0, 1.0, 1.0]);
    let laws = vec![certain.clone(), half, dyadic, row(&Q64), row(&[1.0; 8])];
    let length = |laws: &[Logits], lambda: f64, keep_trigger: bool, most: usize, sampling: Sampling| {
        let stop = StopOptions { lambda, keep_trigger, min_draft: 0, ..StopOptions::default() };
        let way = Way::new(Shape::chain(most), Rule::Entropy, stop, sampling);
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        way.grow(&mut InARow(laws.to_vec(), 0), &mut rng).0.drafts()
    };
    for sampling in [Sampling::GREEDY, Sampling::at(1.0), Sampling::at(0.3)] {
        let of = |keep| [0.30, 0.40, 0.45, 0.50, 0.70].map(|lambda| length(&laws, lambda, keep, 8, sampling));
        assert_eq!(of(true), [5, 5, 4, 3, 2], "{sampling:?}");
        assert_eq!(of(false), [5, 4, 3, 2, 1], "{sampling:?}");
        for most in 1..=8 {
            assert_eq!(length(&vec![certain.clone(); 20], 0.99, true, most, sampling), most);
            let lengths: Vec<usize> =
                (0..=20).map(|i| length(&laws, f64::from(i) / 20.0, true, most, sampling)).collect();
            assert!(lengths.windows(2).all(|l| l[0] >= l[1]) && lengths[0] == most.min(5), "{lengths:?}");
        }
    }
}
