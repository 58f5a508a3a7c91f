//! Steps that may be undone, one inside another.

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
