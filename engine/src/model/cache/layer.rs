//! What one layer holds: keys, values, and a position for each, head by head.

use super::{
    moves::{MoveRows, place},
    queries::{Queries, Ring},
    scorer::Watch,
};
use candle_core::{D, DType, Device, Result, Tensor};

/// Rows allocated at first; doubled whenever they run out.
const FIRST_ROWS: usize = 256;

/// Sizes that all layers share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) heads: usize,
    /// Query heads to a key head.
    pub(crate) group: usize,
    pub(crate) dim: usize,
}

/// What a pass showed of its queries; kept apart until its positions are committed.
#[derive(Clone, Debug)]
struct Seen {
    /// Slot of the first query.
    start: usize,
    /// `[heads, group, n, dim]`, rotated.
    queries: Option<Tensor>,
    /// Attention weights `[heads, group, n, slots]`.
    weights: Option<Tensor>,
    /// Positions of the queries.
    positions: Vec<u32>,
}

/// Keys and values of one layer, `[heads, rows, dim]` each, of which the first entries of every head are in use.
#[derive(Debug)]
pub(crate) struct LayerCache {
    keys: Tensor,
    values: Tensor,
    /// For each head the positions of the entries in use, ascending.
    positions: Vec<Vec<u32>>,
    /// For each head whether the entries in use were said; only where that is told apart.
    said: Option<Vec<Vec<bool>>>,
    shape: Shape,
    watch: Watch,
    /// Attention received so far, `[heads, rows, group]`, f32; only where it is watched.
    mass: Option<Tensor>,
    /// Newest committed queries; only where they are watched.
    queries: Option<Ring>,
    /// Of passes that are not committed yet.
    pending: Vec<Seen>,
}

impl LayerCache {
    pub(crate) fn new(shape: Shape, capacity: usize, watch: Watch, dtype: DType, device: &Device) -> Result<Self> {
        let rows = capacity.min(FIRST_ROWS);
        let zeros = |dim: usize, dtype: DType| Tensor::zeros((shape.heads, rows, dim), dtype, device);
        Ok(Self {
            keys: zeros(shape.dim, dtype)?,
            values: zeros(shape.dim, dtype)?,
            positions: vec![Vec::with_capacity(rows); shape.heads],
            mass: if watch.mass { Some(zeros(shape.group, DType::F32)?) } else { None },
            queries: (watch.queries > 0).then(|| Ring::new(shape, watch.queries, dtype, device)).transpose()?,
            said: None,
            shape,
            watch,
            pending: Vec::new(),
        })
    }

    /// One for each of `n` layers.
    pub(crate) fn all(
        n: usize,
        shape: Shape,
        capacity: usize,
        watch: Watch,
        dtype: DType,
        device: &Device,
    ) -> Result<Vec<Self>> {
        (0..n).map(|_| Self::new(shape, capacity, watch, dtype, device)).collect()
    }

    /// From now on remembers of each entry whether it was said.
    pub(crate) fn tell_apart(&mut self) {
        self.said = Some(vec![Vec::with_capacity(self.rows()); self.shape.heads]);
    }

    /// Bytes of buffers, positions and flags, and of what is kept of queries and of passes that are not committed.
    pub(crate) fn bytes(&self) -> usize {
        let size = |t: &Tensor| t.elem_count() * t.dtype().size_in_bytes();
        let pending = self.pending.iter().flat_map(|seen| [seen.queries.as_ref(), seen.weights.as_ref()]);
        let buffers = [Some(&self.keys), Some(&self.values), self.mass.as_ref()].into_iter().chain(pending);
        let beside = size_of::<u32>() + if self.said.is_some() { size_of::<bool>() } else { 0 };
        let queries = self.queries.as_ref().map_or(0, Ring::bytes);
        buffers.flatten().map(size).sum::<usize>() + self.shape.heads * self.rows() * beside + queries
    }

    /// Rows allocated.
    pub(crate) fn rows(&self) -> usize {
        self.keys.dims()[1]
    }

    /// Makes room for `needed` entries, of which `len` are in use, and never for more than `capacity`.
    pub(crate) fn reserve(&mut self, needed: usize, len: usize, capacity: usize) -> Result<()> {
        let rows = self.rows();
        if needed <= rows {
            return Ok(());
        }
        let rows = needed.max(rows * 2).min(capacity);
        for buffer in [Some(&mut self.keys), Some(&mut self.values), self.mass.as_mut()].into_iter().flatten() {
            let (heads, _, dim) = buffer.dims3()?;
            let larger = Tensor::zeros((heads, rows, dim), buffer.dtype(), buffer.device())?;
            if len > 0 {
                larger.slice_set(&buffer.narrow(1, 0, len)?.contiguous()?, 1, 0)?;
            }
            *buffer = larger;
        }
        for head in &mut self.positions {
            head.reserve_exact(rows - head.len());
        }
        for head in self.said.iter_mut().flatten() {
            head.reserve_exact(rows - head.len());
        }
        Ok(())
    }

    /// Writes `keys` and `values` `[heads, n, dim]` (contiguous) behind `len` entries and returns all of them,
    /// `[heads, len + n, dim]`.
    pub(crate) fn append(&self, keys: &Tensor, values: &Tensor, len: usize) -> Result<(Tensor, Tensor)> {
        let total = len + keys.dim(1)?;
        self.keys.slice_set(keys, 1, len)?;
        self.values.slice_set(values, 1, len)?;
        Ok((self.keys.narrow(1, 0, total)?, self.values.narrow(1, 0, total)?))
    }

    /// Keys and values in use, `[heads, len, dim]` each.
    pub(crate) fn entries(&self, len: usize) -> Result<(Tensor, Tensor)> {
        Ok((self.keys.narrow(1, 0, len)?, self.values.narrow(1, 0, len)?))
    }

    /// All keys and all values, in use or not, `[heads, rows, dim]` each.
    #[cfg(feature = "cuda")]
    pub(crate) fn buffers(&self) -> (&Tensor, &Tensor) {
        (&self.keys, &self.values)
    }

    /// Positions of the entries of a head, ascending.
    pub(crate) fn positions(&self, head: usize) -> &[u32] {
        self.positions.get(head).map_or(&[], Vec::as_slice)
    }

    /// Whether the entries of a head were said; empty where that is not told apart.
    pub(crate) fn said(&self, head: usize) -> &[bool] {
        self.said.as_ref().and_then(|said| said.get(head)).map_or(&[], Vec::as_slice)
    }

    /// Where it lies.
    pub(crate) fn device(&self) -> &Device {
        self.keys.device()
    }

    /// Key heads.
    pub(crate) fn heads(&self) -> usize {
        self.shape.heads
    }

    /// Whether the scorer wants to see queries.
    pub(crate) fn watch(&self) -> Watch {
        self.watch
    }

    /// Attention received, `[heads, group, len]`.
    pub(crate) fn mass(&self, len: usize) -> Result<Option<Tensor>> {
        self.mass.as_ref().map(|m| m.narrow(1, 0, len)?.transpose(1, 2)?.contiguous()).transpose()
    }

    /// The newest committed queries, at most as many as are watched.
    pub(crate) fn queries(&self) -> Result<Option<Queries>> {
        self.queries.as_ref().map_or(Ok(None), Ring::held)
    }

    /// Takes down what the scorer wants to know of a pass: queries `[heads, group, n, dim]`, weights
    /// `[heads, group, n, slots]`.
    pub(crate) fn observe(
        &mut self,
        start: usize,
        positions: &[u32],
        queries: &Tensor,
        weights: &Tensor,
    ) -> Result<()> {
        let weights = if self.watch.mass { Some(weights.to_dtype(DType::F32)?) } else { None };
        let queries = (self.watch.queries > 0).then(|| queries.clone());
        self.pending.push(Seen { start, queries, weights, positions: positions.to_vec() });
        Ok(())
    }

    /// Counts entries at `positions`, the same in every head, that were appended; whether they were `said`.
    pub(crate) fn count(&mut self, positions: &[u32], said: bool) {
        for head in &mut self.positions {
            head.extend_from_slice(positions);
        }
        for head in self.said.iter_mut().flatten() {
            head.extend(std::iter::repeat_n(said, positions.len()));
        }
    }

    /// Keeps positions and flags of the first `len` entries.
    fn truncate(&mut self, len: usize) {
        self.positions.iter_mut().for_each(|head| head.truncate(len));
        self.said.iter_mut().flatten().for_each(|head| head.truncate(len));
    }

    /// Forgets all entries from `len` on, and what was seen of them.
    pub(crate) fn cut(&mut self, len: usize) {
        self.truncate(len);
        self.pending.retain(|seen| seen.start < len);
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) -> Result<()> {
        self.truncate(0);
        self.queries.iter_mut().for_each(Ring::clear);
        self.pending.clear();
        if let Some(mass) = &mut self.mass {
            *mass = mass.zeros_like()?;
        }
        Ok(())
    }

    /// Forgets what was seen of a pass that failed at `len` entries.
    pub(crate) fn forget_from(&mut self, len: usize) {
        self.pending.retain(|seen| seen.start < len);
    }

    /// Of the columns from slot `start` on, keeps those of `path` (ascending, counted from `start`).
    pub(crate) fn keep_path(&mut self, start: usize, total: usize, path: &[usize]) -> Result<()> {
        let moved = path.iter().enumerate().any(|(to, from)| to != *from);
        if moved {
            let kept: Vec<u32> =
                (0..start).chain(path.iter().map(|column| start + column)).map(|slot| slot as u32).collect();
            self.compact(&vec![kept; self.shape.heads], total)?;
        }
        self.cut_columns(start, path)?;
        self.truncate(start + path.len());
        Ok(())
    }

    /// The same for what was seen.
    fn cut_columns(&mut self, start: usize, path: &[usize]) -> Result<()> {
        let pending = std::mem::take(&mut self.pending);
        for seen in pending {
            if seen.start < start {
                self.pending.push(seen);
                continue;
            }
            let first = seen.start - start;
            let n = seen.positions.len();
            let rows: Vec<u32> =
                path.iter().filter(|c| (first..first + n).contains(c)).map(|c| (c - first) as u32).collect();
            if rows.is_empty() {
                continue;
            }
            let before = path.iter().filter(|c| **c < first).count();
            let columns: Vec<u32> = (0..start)
                .chain(path.iter().filter(|c| **c < first + n).map(|c| start + c))
                .map(|c| c as u32)
                .collect();
            let device = self.keys.device();
            let index = Tensor::new(rows.as_slice(), device)?;
            let columns = Tensor::new(columns, device)?;
            let pick = |t: &Tensor| t.contiguous()?.index_select(&index, 2);
            self.pending.push(Seen {
                start: start + before,
                queries: seen.queries.as_ref().map(pick).transpose()?,
                weights: seen.weights.as_ref().map(|w| pick(w)?.index_select(&columns, D::Minus1)).transpose()?,
                positions: rows.iter().filter_map(|r| seen.positions.get(*r as usize).copied()).collect(),
            });
        }
        Ok(())
    }

    /// What was seen of committed positions counts from now on.
    pub(crate) fn settle(&mut self) -> Result<()> {
        for seen in std::mem::take(&mut self.pending) {
            if let (Some(weights), Some(mass)) = (&seen.weights, &self.mass) {
                let slots = weights.dim(D::Minus1)?;
                // New entries have received nothing yet, whatever their rows held before.
                let fresh = slots.min(seen.start);
                let given = weights.sum(2)?.transpose(1, 2)?;
                if fresh > 0 {
                    let before = mass.narrow(1, 0, fresh)?;
                    mass.slice_set(&(before + given.narrow(1, 0, fresh)?)?.contiguous()?, 1, 0)?;
                }
                mass.slice_set(&given.narrow(1, fresh, slots - fresh)?.contiguous()?, 1, fresh)?;
            }
            if let (Some(rows), Some(ring)) = (seen.queries, &mut self.queries) {
                ring.push(&Queries { rows, positions: seen.positions })?;
            }
        }
        Ok(())
    }

    /// Keeps the entries `kept` (ascending, one list a head, all as long) of `len` and closes the gaps in place.
    pub(crate) fn compact(&mut self, kept: &[Vec<u32>], len: usize) -> Result<()> {
        let Some(first) = MoveRows::first_moved(kept) else {
            self.truncate(kept.first().map_or(0, Vec::len));
            return Ok(());
        };
        MoveRows { kept, first, len }.apply_all(&self.entry_buffers())?;
        self.place(kept);
        Ok(())
    }

    /// What has a row for each entry.
    fn entry_buffers(&self) -> Vec<&Tensor> {
        [Some(&self.keys), Some(&self.values), self.mass.as_ref()].into_iter().flatten().collect()
    }

    /// Moves the rows of a card's buffers that `moves` keeps, to which `index` is [`MoveRows::index`].
    pub(crate) fn gather(&self, moves: &MoveRows<'_>, index: &Tensor) -> Result<()> {
        self.entry_buffers().into_iter().try_for_each(|buffer| moves.gather(buffer, index))
    }

    /// Keeps the positions and flags of the entries `kept`.
    pub(crate) fn place(&mut self, kept: &[Vec<u32>]) {
        for (kept, positions) in kept.iter().zip(&mut self.positions) {
            place(positions, kept);
        }
        for (kept, said) in kept.iter().zip(self.said.iter_mut().flatten()) {
            place(said, kept);
        }
    }

    /// Closes up the positions of every head to 0, 1, 2, ...: rotates the keys that move by the difference of the
    /// angles in `cos` and `sin` (`[positions, dim / 2]`, f32) and leaves the others bit for bit. Queries seen before
    /// no longer match and are forgotten.
    pub(crate) fn close_up(&mut self, len: usize, cos: &Tensor, sin: &Tensor) -> Result<()> {
        self.queries.iter_mut().for_each(Ring::clear);
        let stays = |head: &Vec<u32>| head.iter().enumerate().take_while(|(i, p)| *i == **p as usize).count();
        let first = self.positions.iter().map(stays).min().unwrap_or(len);
        if first >= len {
            return Ok(());
        }
        let (heads, n, half) = (self.shape.heads, len - first, self.shape.dim / 2);
        let device = self.keys.device();
        let old: Vec<u32> =
            self.positions.iter().flat_map(|head| head.get(first..len).unwrap_or(&[])).copied().collect();
        let same: Vec<u8> = old.iter().enumerate().map(|(i, p)| u8::from(first + i % n == *p as usize)).collect();
        let old = Tensor::from_vec(old, heads * n, device)?;
        let same = Tensor::from_vec(same, (heads, n, 1), device)?.broadcast_as((heads, n, 2 * half))?.contiguous()?;
        let rows = |table: &Tensor| table.index_select(&old, 0)?.reshape((heads, n, half));
        let (cos_old, sin_old) = (rows(cos)?, rows(sin)?);
        let (cos_new, sin_new) = (cos.narrow(0, first, n)?.unsqueeze(0)?, sin.narrow(0, first, n)?.unsqueeze(0)?);
        let c = (cos_old.broadcast_mul(&cos_new)? + sin_old.broadcast_mul(&sin_new)?)?;
        let s = (cos_old.broadcast_mul(&sin_new)? - sin_old.broadcast_mul(&cos_new)?)?;
        let keys = self.keys.narrow(1, first, n)?.contiguous()?;
        let wide = keys.to_dtype(DType::F32)?;
        let (a, b) = (wide.narrow(2, 0, half)?, wide.narrow(2, half, half)?);
        let turned = Tensor::cat(&[((&a * &c)? - (&b * &s)?)?, ((&b * &c)? + (&a * &s)?)?], 2)?;
        let turned = same.where_cond(&keys, &turned.to_dtype(keys.dtype())?)?;
        self.keys.slice_set(&turned.contiguous()?, 1, first)?;
        for head in &mut self.positions {
            head.iter_mut().enumerate().for_each(|(i, p)| *p = i as u32);
        }
        Ok(())
    }
}
