//! Steps that may be undone, one inside another.

use super::KvCache;
use candle_core::{Result, bail};

/// What stays of a step that is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit<'a> {
    /// Every position; the step must be a chain.
    All,
    /// The first so many positions; they must be a chain.
    First(usize),
    /// These columns, counted from the beginning of the step: one way through its tree, root first.
    Path(&'a [usize]),
}

/// How the new positions of a pass hang together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Columns<'a> {
    /// One after the other.
    Chain,
    /// Each behind a parent: a column counted from the beginning of the open step, of this pass or an earlier one;
    /// `None` comes directly behind what the cache held before the step.
    Tree(&'a [Option<usize>]),
}

/// An open step.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// Slots in use when it began.
    pub(crate) start: usize,
    /// Next position when it began.
    pub(crate) position: usize,
    /// Parent of each column so far.
    parents: Vec<Option<usize>>,
    /// Distance of each column from the beginning, 0 for a root.
    depths: Vec<usize>,
}

impl Step {
    pub(crate) fn new(start: usize, position: usize) -> Self {
        Self { start, position, parents: Vec::new(), depths: Vec::new() }
    }

    /// Every column stands behind the one before it.
    pub(crate) fn is_chain(&self) -> bool {
        self.parents.iter().enumerate().all(|(i, parent)| *parent == i.checked_sub(1))
    }

    /// Columns so far.
    pub(crate) fn len(&self) -> usize {
        self.parents.len()
    }

    /// Takes up the columns of a pass and gives their positions.
    pub(crate) fn extend(&mut self, n: usize, columns: Columns) -> Result<Vec<u32>> {
        let first = self.parents.len();
        for i in 0..n {
            let column = first + i;
            let parent = match columns {
                Columns::Chain => column.checked_sub(1),
                Columns::Tree(parents) => match parents.get(i) {
                    Some(parent) if parent.is_none_or(|p| p < column) => *parent,
                    Some(_) => bail!("column {column} of a step stands behind a later one"),
                    None => bail!("a tree of {} columns was given for a pass over {n} positions", parents.len()),
                },
            };
            let depth = parent.and_then(|p| self.depths.get(p)).map_or(0, |d| d + 1);
            self.parents.push(parent);
            self.depths.push(depth);
        }
        Ok(self.depths.iter().skip(first).map(|d| (self.position + d) as u32).collect())
    }

    /// Forgets the columns from `len` on.
    pub(crate) fn shorten(&mut self, len: usize) {
        self.parents.truncate(len);
        self.depths.truncate(len);
    }

    /// For each of the newest `n` columns, which columns of the step it sees: itself and those it stands behind.
    pub(crate) fn sees(&self, n: usize) -> Vec<Vec<bool>> {
        let total = self.parents.len();
        let row = |column: usize| {
            let mut seen = vec![false; total];
            let mut next = Some(column);
            while let Some(at) = next {
                if let Some(seen) = seen.get_mut(at) {
                    *seen = true;
                }
                next = self.parents.get(at).copied().flatten();
            }
            seen
        };
        (total - n..total).map(row).collect()
    }

    /// The columns that a commit keeps.
    pub(crate) fn path(&self, commit: Commit) -> Result<Vec<usize>> {
        let path: Vec<usize> = match commit {
            Commit::All => (0..self.len()).collect(),
            Commit::First(n) if n > self.len() => {
                bail!("{n} positions can't be committed of a step that has {}", self.len())
            }
            Commit::First(n) => (0..n).collect(),
            Commit::Path(columns) => columns.to_vec(),
        };
        let mut before = None;
        for column in &path {
            match self.parents.get(*column) {
                Some(parent) if *parent == before => before = Some(*column),
                Some(_) => bail!("column {column} does not stand behind the one before it in the path"),
                None => bail!("column {column} is not in the step, which has {}", self.len()),
            }
        }
        Ok(path)
    }
}

impl KvCache {
    /// Opens a step: whatever follows can be undone by [`Self::rollback`], or in part by [`Self::commit`]. Steps nest;
    /// nothing is dropped while one is open.
    ///
    /// # Errors
    /// Inside a step that is a tree.
    pub fn begin(&mut self) -> Result<()> {
        if self.steps.last().is_some_and(|step| !step.is_chain()) {
            bail!("a step can't begin behind a tree: commit a path of it first");
        }
        self.steps.push(Step::new(self.len, self.position));
        Ok(())
    }

    /// Closes the innermost step and keeps what `commit` says. When it was the outermost, an eviction may follow.
    ///
    /// # Errors
    /// No step is open, or what is to be kept is not one way through the step; then the step stays open.
    pub fn commit(&mut self, commit: Commit) -> Result<()> {
        let Some(step) = self.steps.last() else { bail!("no step is open that could be committed") };
        let path = step.path(commit)?;
        let (start, position) = (step.start, step.position);
        for layer in &mut self.layers {
            layer.keep_path(start, self.len, &path)?;
        }
        self.steps.pop();
        self.seen -= (self.len - start - path.len()) as u64;
        self.len = start + path.len();
        self.position = position + path.len();
        match self.steps.last_mut() {
            Some(outer) => {
                outer.shorten(start - outer.start);
                outer.extend(path.len(), Columns::Chain)?;
                Ok(())
            }
            None => self.settle(),
        }
    }

    /// Undoes the innermost step.
    ///
    /// # Errors
    /// No step is open.
    pub fn rollback(&mut self) -> Result<()> {
        let Some(step) = self.steps.pop() else { bail!("no step is open that could be undone") };
        self.layers.iter_mut().for_each(|layer| layer.cut(step.start));
        self.seen -= (self.len - step.start) as u64;
        (self.len, self.position) = (step.start, step.position);
        if let Some(outer) = self.steps.last_mut() {
            outer.shorten(step.start - outer.start);
        }
        Ok(())
    }

    /// Takes over what another cache of the same model holds, as if it had read the same itself, so that a text is read
    /// once for several caches. What was watched of its queries is not taken over.
    ///
    /// # Errors
    /// A cache that is in use, one that has dropped entries or has an open step, or too many entries.
    pub fn continue_from(&mut self, other: &Self) -> Result<()> {
        let same = self.layers.len() == other.layers.len() && self.shape == other.shape;
        if !same || !self.is_empty() || !self.steps.is_empty() || other.evictions > 0 || !other.steps.is_empty() {
            bail!(
                "only an empty cache can go on from another of the same model, and only from one that dropped nothing"
            );
        }
        if other.len > self.capacity - self.tail {
            bail!("a cache for {} entries can't go on from one that holds {}", self.capacity - self.tail, other.len);
        }
        if other.is_empty() {
            return Ok(());
        }
        let positions = self.prepare(other.len, Columns::Chain)?;
        for (own, theirs) in self.layers.iter().zip(&other.layers) {
            let (keys, values) = theirs.entries(other.len)?;
            own.append(&keys.contiguous()?, &values.contiguous()?, 0)?;
        }
        self.advance(&positions)
    }

    /// How many positions can be committed before the next eviction: what a speculative round may go for, so that it
    /// drops the same entries at the same points as a plain run. `None` where nothing is dropped.
    pub fn room(&self) -> Option<usize> {
        self.bound.as_ref().map(|b| (b.budget + b.options.every).saturating_sub(self.len))
    }

    /// Adds slots for columns of a speculative round that will not be committed: they make the cache larger, and change
    /// neither the budget nor the points of eviction.
    pub fn add_tail(&mut self, columns: usize) {
        self.capacity += columns;
        self.tail += columns;
    }

    /// Free slots, without those for columns that will not be committed.
    fn slots(&self) -> usize {
        (self.capacity - self.tail).saturating_sub(self.len)
    }

    /// How many positions decoding one at a time could append before an eviction, or before the cache is full: as deep
    /// as a speculative round may go. In an open step nothing is dropped, so there only space counts.
    pub fn depth(&self) -> usize {
        let slots = self.slots();
        match &self.bound {
            Some(bound) if !self.steps.is_empty() => slots.min(bound.limit.saturating_sub(self.position)),
            Some(_) => self.room().unwrap_or(slots),
            None => slots,
        }
    }

    /// Whether a step would hold a pass over `n` positions, no longer than a block, and `more` behind it.
    pub fn takes_step(&self, n: usize, more: usize) -> bool {
        let limit = self.bound.as_ref().map_or(usize::MAX, |bound| bound.limit);
        n <= self.block && n + more <= self.slots() && self.position + n + more <= limit
    }

    /// Columns that a round may have in all.
    pub fn width(&self) -> usize {
        self.capacity - self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_have_depths_ancestors_and_paths() {
        let mut step = Step::new(10, 100);
        assert_eq!(step.extend(2, Columns::Chain).unwrap(), [100, 101]);
        assert!(step.is_chain());
        // Two children of column 1, and one of the first of them.
        assert_eq!(step.extend(3, Columns::Tree(&[Some(1), Some(1), Some(2)])).unwrap(), [102, 102, 103]);
        assert!(!step.is_chain());
        assert_eq!(step.sees(2), [[true, true, false, true, false], [true, true, true, false, true]]);
        assert_eq!(step.path(Commit::Path(&[0, 1, 3])).unwrap(), [0, 1, 3]);
        assert_eq!(step.path(Commit::First(3)).unwrap(), [0, 1, 2]);
        for bad in [Commit::All, Commit::First(4), Commit::First(9), Commit::Path(&[1]), Commit::Path(&[0, 1, 4])] {
            assert!(step.path(bad).is_err(), "{bad:?}");
        }
        assert!(step.extend(1, Columns::Tree(&[Some(5)])).is_err(), "behind itself");
        assert!(step.extend(2, Columns::Tree(&[None])).is_err());
    }
}
