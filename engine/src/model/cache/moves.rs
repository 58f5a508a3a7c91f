//! Moving the entries that stay to the front, in place.

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Tensor, bail};

/// Keeps rows of a buffer `[heads, rows, dim]`.
pub(crate) struct MoveRows<'a> {
    /// For each head the rows that stay, ascending, the same number in all.
    pub(crate) kept: &'a [Vec<u32>],
    /// All rows before this one stay where they are.
    pub(crate) first: usize,
    /// Rows in use.
    pub(crate) len: usize,
}

/// Moves `items[kept[i]]` to `items[i]` and drops the rest.
pub(crate) fn place<T: Copy>(items: &mut Vec<T>, kept: &[u32]) {
    for (to, from) in kept.iter().enumerate() {
        if let Some(item) = items.get(*from as usize).copied() {
            items[to] = item;
        }
    }
    items.truncate(kept.len());
}

impl MoveRows<'_> {
    /// The first row that moves in any head; `None` when none does.
    pub(crate) fn first_moved(kept: &[Vec<u32>]) -> Option<usize> {
        let moved = |head: &Vec<u32>| head.iter().enumerate().position(|(to, from)| to != *from as usize);
        kept.iter().filter_map(moved).min()
    }

    /// Moves the rows of buffers, which must be contiguous and have as many rows each.
    pub(crate) fn apply_all(&self, buffers: &[&Tensor]) -> Result<()> {
        let Some(first) = buffers.first() else { return Ok(()) };
        let (heads, rows, _) = first.dims3()?;
        let n = self.kept.first().map_or(0, Vec::len);
        let fits = |head: &Vec<u32>| head.len() == n && head.last().is_none_or(|last| (*last as usize) < self.len);
        if heads != self.kept.len() || self.len > rows || !self.kept.iter().all(fits) {
            bail!("rows to keep do not fit a buffer of {heads} heads with {} of {rows} rows in use", self.len);
        }
        if first.device().is_cpu() {
            return buffers.iter().try_for_each(|buffer| buffer.inplace_op1(self));
        }
        let index = Tensor::from_iter(self.index(rows), first.device())?;
        buffers.iter().try_for_each(|buffer| self.gather(buffer, &index))
    }

    /// The rows that stay and may move, over all heads of a buffer of `rows` rows.
    pub(crate) fn index(&self, rows: usize) -> impl Iterator<Item = u32> + use<'_> {
        let heads = self.kept.iter().enumerate();
        heads.flat_map(move |(head, kept)| kept.iter().skip(self.first).map(move |row| (head * rows) as u32 + row))
    }

    /// The same on any device: one gather over all heads, which returns rows that lie elsewhere, so that writing them
    /// back is safe.
    pub(crate) fn gather(&self, buffer: &Tensor, index: &Tensor) -> Result<()> {
        let (heads, rows, dim) = buffer.dims3()?;
        let n = self.kept.first().map_or(0, Vec::len);
        let moved = buffer.reshape((heads * rows, dim))?.index_select(index, 0)?;
        buffer.slice_set(&moved.reshape((heads, n - self.first, dim))?, 1, self.first)
    }

    fn move_all<T: Copy>(&self, data: &mut [T], rows: usize, dim: usize) {
        for (head, kept) in data.chunks_exact_mut(rows * dim).zip(self.kept) {
            // Runs that stay together are moved at once.
            let mut to = self.first;
            for run in kept.get(self.first..).unwrap_or(&[]).chunk_by(|a, b| a + 1 == *b) {
                let from = run.first().map_or(0, |row| *row as usize);
                if from != to {
                    head.copy_within(from * dim..(from + run.len()) * dim, to * dim);
                }
                to += run.len();
            }
        }
    }
}

impl InplaceOp1 for MoveRows<'_> {
    fn name(&self) -> &'static str {
        "move-rows"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (Some((from, to)), [_, rows, dim]) = (layout.contiguous_offsets(), layout.dims()) else {
            bail!("move-rows: a contiguous buffer [heads, rows, dim] expected");
        };
        let (rows, dim) = (*rows, *dim);
        match storage {
            CpuStorage::F32(data) => self.move_all(&mut data[from..to], rows, dim),
            CpuStorage::F64(data) => self.move_all(&mut data[from..to], rows, dim),
            CpuStorage::F16(data) => self.move_all(&mut data[from..to], rows, dim),
            CpuStorage::BF16(data) => self.move_all(&mut data[from..to], rows, dim),
            _ => bail!("move-rows: a buffer of floats expected"),
        }
        Ok(())
    }
}
