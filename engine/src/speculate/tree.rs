//! A tree of drafted tokens: how it is grown, level by level (specs: rsd, sections 2 to 4; adaedl, section 2).

use super::{
    adaedl::Stopper,
    draft::{Branch, Drafter, Logits},
    rsd::{self, Beam},
};
use crate::sampler::{Sampling, softmax_into};
use candle_core::Result;
use rand::Rng;

/// How wide and how deep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// So many children for each node of a level (RSD-C). Ones make a chain.
    Branches(Vec<usize>),
    /// The best sequences of each level (RSD-S).
    Beams {
        /// Sequences.
        width: usize,
        /// Levels.
        depth: usize,
    },
}

impl Shape {
    /// A chain.
    pub fn chain(length: usize) -> Self {
        Self::Branches(vec![1; length])
    }

    /// Levels.
    pub fn depth(&self) -> usize {
        match self {
            Self::Branches(factors) => factors.len(),
            Self::Beams { depth, .. } => *depth,
        }
    }

    /// Nodes of a full tree: the target's columns beside the anchor.
    pub fn nodes(&self) -> usize {
        self.nodes_to(self.depth())
    }

    /// Nodes of its first levels.
    pub fn nodes_to(&self, levels: usize) -> usize {
        match self {
            Self::Branches(factors) => {
                let mut level = 1usize;
                let next = |factor: &usize| {
                    level = level.saturating_mul(*factor);
                    level
                };
                factors.iter().take(levels).map(next).fold(0, usize::saturating_add)
            }
            Self::Beams { width, depth } => width.saturating_mul(levels.min(*depth)),
        }
    }
}

/// A column of the target's pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its token.
    pub token: u32,
    /// Column before it; the anchor, column 0, has none.
    pub parent: Option<usize>,
    /// Columns of its children in the order in which they were drawn.
    pub children: Vec<usize>,
    /// The distribution they were drawn from, `[vocab]`; `None` at temperature 0, where it is not needed.
    pub law: Option<Vec<f32>>,
    /// Levels below the anchor.
    pub depth: usize,
    /// Place among the branches of the drafter, once it was asked for children.
    branch: Option<usize>,
}

/// Drafted tokens behind the anchor, the last token that was committed.
#[derive(Clone, Debug, PartialEq)]
pub struct Tree {
    nodes: Vec<Node>,
}

impl Tree {
    /// The anchor alone.
    pub fn new(anchor: u32) -> Self {
        let root = Node { token: anchor, parent: None, children: Vec::new(), law: None, depth: 0, branch: None };
        Self { nodes: vec![root] }
    }

    /// Adds a child behind a column and gives its column.
    pub fn push(&mut self, parent: usize, token: u32) -> usize {
        let column = self.nodes.len();
        let depth = self.nodes.get(parent).map_or(0, |n| n.depth + 1);
        if let Some(parent) = self.nodes.get_mut(parent) {
            parent.children.push(column);
        }
        self.nodes.push(Node { token, parent: Some(parent), children: Vec::new(), law: None, depth, branch: None });
        column
    }

    /// Says from what the children of a column are drawn.
    pub fn set_law(&mut self, column: usize, law: Vec<f32>) {
        if let Some(node) = self.nodes.get_mut(column) {
            node.law = Some(law);
        }
    }

    /// A column.
    pub fn node(&self, column: usize) -> Option<&Node> {
        self.nodes.get(column)
    }

    /// Drafted tokens.
    pub fn drafts(&self) -> usize {
        self.nodes.len() - 1
    }

    /// Levels that have a node.
    pub fn depth(&self) -> usize {
        self.nodes.iter().map(|n| n.depth).max().unwrap_or(0)
    }

    /// Tokens of all columns, the anchor first.
    pub fn tokens(&self) -> Vec<u32> {
        self.nodes.iter().map(|n| n.token).collect()
    }

    /// Parents of all columns, as `Decoder::forward_tree` takes them.
    pub fn parents(&self) -> Vec<Option<usize>> {
        self.nodes.iter().map(|n| n.parent).collect()
    }

    /// Tokens of the children of a column, in order.
    pub fn children(&self, column: usize) -> Vec<u32> {
        let children = self.nodes.get(column).map_or(&[][..], |n| &n.children);
        children.iter().filter_map(|c| self.nodes.get(*c)).map(|n| n.token).collect()
    }

    /// The drafter's branches along accepted columns; those it was never asked about are left out.
    pub fn branches(&self, path: &[usize]) -> Vec<usize> {
        path.iter().filter_map(|column| self.nodes.get(*column)?.branch).collect()
    }
}

/// How far a tree may grow in this round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Levels.
    pub depth: usize,
    /// Nodes beside the anchor.
    pub nodes: usize,
}

/// Why a tree ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It has its full depth.
    Full,
    /// The rule said so.
    Rule,
    /// Of the limits of this round, which say nothing about the drafter.
    Limits,
    /// The drafter had nothing to propose.
    Dry,
}

/// What growing a tree needs beside the drafter.
pub struct Growth<'a> {
    /// Width and depth.
    pub shape: &'a Shape,
    /// When to stop before.
    pub stopper: &'a Stopper,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Tokens that can't be said.
    pub never: &'a [u32],
    /// Of this round.
    pub limits: Limits,
}

/// A child to be added: column of its parent, token, beam.
type Child = (usize, u32, Beam);

impl Growth<'_> {
    /// Drafts behind `anchor`, the last token the drafter has read.
    ///
    /// # Errors
    /// Those of the drafter.
    pub fn grow(&self, anchor: u32, drafter: &mut dyn Drafter, rng: &mut impl Rng) -> Result<(Tree, Ended)> {
        let mut tree = Tree::new(anchor);
        let mut frontier = vec![(0usize, Beam::ROOT)];
        let mut branches = 0;
        for level in 0..self.shape.depth() {
            if level >= self.limits.depth || tree.drafts() >= self.limits.nodes {
                return Ok((tree, Ended::Limits));
            }
            let rows = if level == 0 {
                vec![drafter.root()?]
            } else {
                let asked: Vec<Branch> = frontier.iter().map(|(column, _)| branch(&tree, *column)).collect();
                for (i, (column, _)) in frontier.iter().enumerate() {
                    if let Some(node) = tree.nodes.get_mut(*column) {
                        node.branch = Some(branches + i);
                    }
                }
                branches += asked.len();
                drafter.expand(&asked)?
            };
            let rows: Vec<Option<Logits>> = rows.into_iter().map(|row| row.map(|row| self.allowed(row))).collect();
            // The best beam comes first, so the first row that there is decides.
            let Some(lead) = rows.iter().flatten().next() else { return Ok((tree, Ended::Dry)) };
            let stop = self.stopper.looks() && self.stopper.stops(level, &at_temperature_1(lead));
            if stop && !self.stopper.keeps_trigger() {
                return Ok((tree, Ended::Rule));
            }
            let mut children = self.children(&mut tree, &frontier, &rows, level, rng);
            // Later children go first; their own tokens have no say in it.
            let room = self.limits.nodes - tree.drafts();
            let cut = children.len() > room;
            children.truncate(room);
            frontier = children.into_iter().map(|(parent, token, beam)| (tree.push(parent, token), beam)).collect();
            if stop {
                return Ok((tree, Ended::Rule));
            }
            if frontier.is_empty() {
                return Ok((tree, Ended::Dry));
            }
            if cut {
                return Ok((tree, Ended::Limits));
            }
        }
        Ok((tree, Ended::Full))
    }

    fn allowed(&self, mut row: Logits) -> Logits {
        for id in self.never {
            if let Some(l) = row.get_mut(*id as usize) {
                *l = f32::NEG_INFINITY;
            }
        }
        row
    }

    /// The next level, best first. Where tokens are drawn by chance the parents learn their law.
    fn children(
        &self,
        tree: &mut Tree,
        frontier: &[(usize, Beam)],
        rows: &[Option<Logits>],
        level: usize,
        rng: &mut impl Rng,
    ) -> Vec<Child> {
        let greedy = self.sampling.is_greedy();
        let laws: Vec<Option<Vec<f32>>> = rows
            .iter()
            .map(|row| {
                let row = row.as_ref().filter(|row| row.iter().any(|l| *l > f32::NEG_INFINITY))?;
                Some(if greedy { at_temperature_1(row) } else { self.sampling.probabilities(row) })
            })
            .collect();
        let children = match self.shape {
            Shape::Branches(factors) => {
                let n = factors.get(level).copied().unwrap_or(0);
                let mut children = Vec::new();
                for ((column, _), law) in frontier.iter().zip(&laws) {
                    let Some(law) = law else { continue };
                    let drawn = if greedy { likeliest_possible(law, n) } else { rsd::without_replacement(law, n, rng) };
                    children.extend(drawn.into_iter().map(|token| (*column, token, Beam::ROOT)));
                }
                children
            }
            Shape::Beams { width, .. } => {
                let beams: Vec<Beam> = frontier.iter().map(|(_, beam)| *beam).collect();
                let rows: Vec<Option<&[f32]>> = laws.iter().map(|law| law.as_deref()).collect();
                let kept = if greedy {
                    rsd::beam_step_greedy(&beams, &rows, *width)
                } else {
                    rsd::beam_step(&beams, &rows, *width, rng)
                };
                let column = |beam: usize| frontier.get(beam).map_or(0, |(column, _)| *column);
                kept.into_iter().map(|c| (column(c.beam), c.token, c.next)).collect()
            }
        };
        if !greedy {
            for ((column, _), law) in frontier.iter().zip(laws) {
                if let Some(law) = law {
                    tree.set_law(*column, law);
                }
            }
        }
        children
    }
}

/// The likeliest tokens of probabilities, impossible ones left out.
fn likeliest_possible(law: &[f32], n: usize) -> Vec<u32> {
    let mut best = rsd::likeliest(law, n);
    best.retain(|token| law.get(*token as usize).is_some_and(|p| *p > 0.0));
    best
}

fn at_temperature_1(row: &Logits) -> Vec<f32> {
    let mut law = vec![0f32; row.len()];
    softmax_into(row, 1.0, &mut law);
    law
}

/// A column as the drafter knows it.
fn branch(tree: &Tree, column: usize) -> Branch {
    let node = tree.node(column);
    let parent = node.and_then(|n| n.parent).and_then(|parent| tree.node(parent)).and_then(|p| p.branch);
    Branch { token: node.map_or(0, |n| n.token), parent }
}
