//! What of a draft is committed (specs: speculative, section 1.2; rsd, section 1).

use super::{
    rsd::{self, Outcome},
    tree::Tree,
};
use crate::sampler::{Sampling, argmax, draw};
use rand::Rng;

/// The accepted way through a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    /// Accepted columns, without the anchor.
    pub path: Vec<usize>,
    /// Their tokens, and the one that the target adds: what is committed.
    pub ids: Vec<u32>,
}

impl Walk {
    /// Ends at the first of the tokens in `ends`, which then is the last that is committed, and after at most `most`.
    pub fn cut(&mut self, ends: &[u32], most: usize) {
        let n = self.ids.iter().position(|id| ends.contains(id)).map_or(self.ids.len(), |i| i + 1).min(most);
        self.ids.truncate(n);
        // The last token is never among the columns that stay: it is the next anchor.
        self.path.truncate(n.saturating_sub(1));
    }
}

/// Walks down a tree: at each node a child is accepted, or the target's own token ends the walk. `logits` gives the
/// target's `[vocab]` behind a column. Exact for any drafter: what is emitted follows the target's law.
pub fn walk<'a>(
    tree: &Tree,
    mut logits: impl FnMut(usize) -> &'a [f32],
    sampling: Sampling,
    rng: &mut impl Rng,
) -> Walk {
    walk_with(tree, |column, children, rng| decide(tree, logits(column), column, children, sampling, rng), rng)
}

fn decide(
    tree: &Tree,
    logits: &[f32],
    column: usize,
    children: &[u32],
    sampling: Sampling,
    rng: &mut impl Rng,
) -> Outcome {
    if sampling.is_greedy() {
        return rsd::verify_greedy(logits, children);
    }
    let p = sampling.probabilities(logits);
    match tree.node(column).and_then(|node| node.law.clone()) {
        Some(q) if !children.is_empty() => rsd::verify(p, q, children, rng),
        _ => Outcome::Emitted(draw(&p, rng)),
    }
}

/// The same with another rule at the nodes.
pub(crate) fn walk_with<R: Rng>(
    tree: &Tree,
    mut rule: impl FnMut(usize, &[u32], &mut R) -> Outcome,
    rng: &mut R,
) -> Walk {
    let (mut walk, mut column) = (Walk::default(), 0);
    loop {
        let children = tree.children(column);
        match rule(column, &children, rng) {
            Outcome::Accepted(place) => {
                let next = tree.node(column).and_then(|n| n.children.get(place).copied());
                let (Some(next), Some(token)) = (next, children.get(place)) else { return walk };
                walk.path.push(next);
                walk.ids.push(*token);
                column = next;
            }
            Outcome::Emitted(token) => {
                walk.ids.push(token);
                return walk;
            }
        }
    }
}

/// The rule for a chain by itself, which [`walk`] must equal where no node has two children: `drafts` with the
/// distributions `q` they were drawn from, and `logits` of the target before each and behind the last. Returns what is
/// committed: 1 to `drafts.len() + 1` tokens.
pub fn accept(drafts: &[u32], q: &[Vec<f32>], logits: &[&[f32]], sampling: Sampling, rng: &mut impl Rng) -> Vec<u32> {
    let mut ids = Vec::with_capacity(drafts.len() + 1);
    for ((token, q), logits) in drafts.iter().zip(q).zip(logits) {
        if sampling.is_greedy() {
            ids.push(argmax(logits));
            if ids.last() != Some(token) {
                return ids;
            }
            continue;
        }
        let p = sampling.probabilities(logits);
        let at = |row: &[f32]| row.get(*token as usize).copied().unwrap_or(0.0);
        let chance = if at(q) > 0.0 { (at(&p) / at(q)).min(1.0) } else { 0.0 };
        if rng.random::<f32>() < chance {
            ids.push(*token);
            continue;
        }
        let residual: Vec<f32> = p.iter().zip(q).map(|(p, q)| (p - q).max(0.0)).collect();
        let sum: f64 = residual.iter().map(|v| f64::from(*v)).sum();
        let law =
            if sum < 1e-12 { p } else { residual.into_iter().map(|v| (f64::from(v) * (1.0 / sum)) as f32).collect() };
        ids.push(draw(&law, rng));
        return ids;
    }
    if let Some(last) = logits.get(drafts.len()) {
        ids.push(sampling.draw_by_weight(last, rng));
    }
    ids
}
