//! Draws without replacement and their exact verification (RSD, arXiv 2402.14160; specs: rsd, sections 1 to 3).
//!
//! `q` is always the drafter's distribution and `p` the target's, both as tokens are drawn, `[vocab]`, f32.

use crate::sampler::{argmax, draw, gumbel};
use rand::Rng;
use std::cmp::Ordering;

/// Below this sum nothing is left of a residual but rounding.
const NOTHING: f64 = 1e-12;

/// What became of the children of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The child of this place in the order of drawing.
    Accepted(usize),
    /// None; this token instead.
    Emitted(u32),
}

/// Recursive rejection at one node: the law of what is still to be emitted, and that of the next sibling.
#[derive(Clone, Debug)]
pub struct Node {
    /// Of the target, less what was rejected.
    r: Vec<f32>,
    /// Of the next sibling.
    q: Vec<f32>,
}

impl Node {
    /// Before the first child.
    pub fn new(p: Vec<f32>, q: Vec<f32>) -> Self {
        Self { r: p, q }
    }

    /// Chance that a child with this token, drawn next, is accepted.
    pub fn chance(&self, token: u32) -> f32 {
        let at = |row: &[f32]| row.get(token as usize).copied().unwrap_or(0.0);
        let (r, q) = (at(&self.r), at(&self.q));
        if q > 0.0 { (r / q).min(1.0) } else { 0.0 }
    }

    /// The child was rejected: takes the sibling's law out of what is to be emitted, and then the token out of the law.
    pub fn reject(&mut self, token: u32) {
        let residual: Vec<f32> = self.r.iter().zip(&self.q).map(|(r, q)| (r - q).max(0.0)).collect();
        let sum: f64 = residual.iter().map(|v| f64::from(*v)).sum();
        // Where p equals q but for rounding the residual is noise: p itself is the law.
        if sum >= NOTHING {
            let scale = 1.0 / sum;
            self.r = residual.into_iter().map(|v| (f64::from(v) * scale) as f32).collect();
        }
        if let Some(q) = self.q.get_mut(token as usize) {
            *q = 0.0;
        }
        let left: f64 = self.q.iter().map(|v| f64::from(*v)).sum();
        if left > 0.0 {
            let scale = 1.0 / left;
            self.q.iter_mut().for_each(|v| *v = (f64::from(*v) * scale) as f32);
        }
    }

    /// The law of the token that is emitted when no child is left.
    pub fn residual(&self) -> &[f32] {
        &self.r
    }
}

/// Verifies the children of a node in the order in which they were drawn from `q` without replacement.
pub fn verify(p: Vec<f32>, q: Vec<f32>, children: &[u32], rng: &mut impl Rng) -> Outcome {
    let mut node = Node::new(p, q);
    for (place, token) in children.iter().enumerate() {
        if rng.random::<f32>() < node.chance(*token) {
            return Outcome::Accepted(place);
        }
        node.reject(*token);
    }
    Outcome::Emitted(draw(node.residual(), rng))
}

/// The same for greedy decoding: the child that is the target's likeliest token, else that token.
pub fn verify_greedy(logits: &[f32], children: &[u32]) -> Outcome {
    let best = argmax(logits);
    children.iter().position(|token| *token == best).map_or(Outcome::Emitted(best), Outcome::Accepted)
}

/// Draws up to `n` distinct tokens from `q`, in order: Gumbel top-k. Fewer where `q` has fewer.
pub fn without_replacement(q: &[f32], n: usize, rng: &mut impl Rng) -> Vec<u32> {
    if n == 1 {
        return if q.iter().any(|p| *p > 0.0) { vec![draw(q, rng)] } else { Vec::new() };
    }
    let scored = q.iter().enumerate().filter(|(_, p)| **p > 0.0);
    let scored = scored.map(|(token, p)| (token as u32, p.ln() + gumbel(rng))).collect();
    largest(scored, n).into_iter().map(|(token, _)| token).collect()
}

/// The `n` of the largest logits, the lower id on ties: what greedy decoding drafts.
pub fn likeliest(logits: &[f32], n: usize) -> Vec<u32> {
    let finite = logits.iter().enumerate().filter(|(_, l)| **l > f32::NEG_INFINITY);
    largest(finite.map(|(token, l)| (token as u32, *l)).collect(), n).into_iter().map(|(token, _)| token).collect()
}

/// The `n` largest scores in descending order, the lower token on ties.
fn largest(mut scored: Vec<(u32, f32)>, n: usize) -> Vec<(u32, f32)> {
    let order = |a: &(u32, f32), b: &(u32, f32)| match b.1.total_cmp(&a.1) {
        Ordering::Equal => a.0.cmp(&b.0),
        other => other,
    };
    if n > 0 && n < scored.len() {
        scored.select_nth_unstable_by(n - 1, order);
    }
    scored.truncate(n);
    scored.sort_unstable_by(order);
    scored
}

/// A beam of stochastic beam search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Beam {
    /// Log-probability of its sequence under the drafter.
    pub phi: f64,
    /// The same, perturbed.
    pub perturbed: f64,
}

impl Beam {
    /// The empty sequence.
    pub const ROOT: Self = Self { phi: 0.0, perturbed: 0.0 };
}

/// A child that stochastic beam search may keep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Place of its beam among those given.
    pub beam: usize,
    /// Its token.
    pub token: u32,
    /// As a beam.
    pub next: Beam,
}

/// One level of stochastic beam search: of all children of `beams`, the `width` with the largest perturbed
/// log-probability, in descending order. `rows` holds the law of each beam's next token; a beam without one ends.
pub fn beam_step(beams: &[Beam], rows: &[Option<&[f32]>], width: usize, rng: &mut impl Rng) -> Vec<Candidate> {
    let mut pool = Vec::new();
    for (beam, (parent, row)) in beams.iter().zip(rows).enumerate() {
        let Some(row) = row else { continue };
        let children: Vec<(u32, f64, f64)> = row
            .iter()
            .enumerate()
            .filter(|(_, q)| **q > 0.0)
            .map(|(token, q)| {
                let phi = parent.phi + f64::from(*q).ln();
                (token as u32, phi, phi + f64::from(gumbel(rng)))
            })
            .collect();
        let top = children.iter().map(|(_, _, g)| *g).fold(f64::NEG_INFINITY, f64::max);
        pool.extend(children.into_iter().map(|(token, phi, g)| {
            let next = Beam { phi, perturbed: conditioned(parent.perturbed, top, g) };
            Candidate { beam, token, next }
        }));
    }
    keep_widest(pool, width)
}

/// The same without noise, for greedy decoding: beam search by log-probability.
pub fn beam_step_greedy(beams: &[Beam], rows: &[Option<&[f32]>], width: usize) -> Vec<Candidate> {
    let mut pool = Vec::new();
    for (beam, (parent, row)) in beams.iter().zip(rows).enumerate() {
        let Some(row) = row else { continue };
        // No beam can give more than `width` children.
        for token in likeliest(row, width) {
            let q = row.get(token as usize).copied().unwrap_or(0.0);
            if q > 0.0 {
                let phi = parent.phi + f64::from(q).ln();
                pool.push(Candidate { beam, token, next: Beam { phi, perturbed: phi } });
            }
        }
    }
    keep_widest(pool, width)
}

fn keep_widest(mut pool: Vec<Candidate>, width: usize) -> Vec<Candidate> {
    let order = |a: &Candidate, b: &Candidate| match b.next.perturbed.total_cmp(&a.next.perturbed) {
        Ordering::Equal => (a.beam, a.token).cmp(&(b.beam, b.token)),
        other => other,
    };
    if width > 0 && width < pool.len() {
        pool.select_nth_unstable_by(width - 1, order);
    }
    pool.truncate(width);
    pool.sort_unstable_by(order);
    pool
}

/// A child's perturbed log-probability `g`, moved so that the largest of its siblings, `top`, becomes `parent`. The top
/// child gets exactly `parent`.
fn conditioned(parent: f64, top: f64, g: f64) -> f64 {
    if g >= top {
        return parent;
    }
    let v = parent - g + (-(g - top).exp()).ln_1p();
    parent - v.max(0.0) - (-v.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn the_stable_form_is_the_direct_form() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        for _ in 0..20_000 {
            let parent = -rng.random::<f64>() * 6.0;
            let top = rng.random::<f64>() * 8.0 - 6.0;
            let g = top - rng.random::<f64>() * 8.0 - 1e-3;
            let direct = -((-parent).exp() - (-top).exp() + (-g).exp()).ln();
            let found = conditioned(parent, top, g);
            assert!((found - direct).abs() < 1e-9, "{found}, expected {direct}");
            assert!(found < parent);
            assert_eq!(conditioned(parent, top, top).to_bits(), parent.to_bits());
        }
    }

    #[test]
    fn likeliest_go_by_logit_then_id() {
        let logits = [1.0, 3.0, f32::NEG_INFINITY, 3.0, 2.0];
        assert_eq!(likeliest(&logits, 3), [1, 3, 4]);
        assert_eq!(likeliest(&logits, 9), [1, 3, 4, 0]);
        assert_eq!(likeliest(&[f32::NEG_INFINITY], 2), [0u32; 0]);
        assert_eq!(verify_greedy(&logits, &[3, 1]), Outcome::Accepted(1));
        assert_eq!(verify_greedy(&logits, &[3, 4]), Outcome::Emitted(1));
    }

    #[test]
    fn a_row_that_gives_nothing_draws_nothing() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        assert_eq!(without_replacement(&[0.0; 4], 1, &mut rng), [0u32; 0]);
        assert_eq!(without_replacement(&[0.0; 4], 3, &mut rng), [0u32; 0]);
        assert_eq!(without_replacement(&[0.0, 0.2, 0.0, 0.8], 3, &mut rng).len(), 2);
        // All of the drafter's mass is drawn and rejected: the residual still is a law.
        let mut node = Node::new(vec![0.0, 1.0], vec![1.0, 0.0]);
        assert_eq!(node.chance(0), 0.0);
        node.reject(0);
        assert_eq!(node.residual(), [0.0, 1.0]);
    }
}
