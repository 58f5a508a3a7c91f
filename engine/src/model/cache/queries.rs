//! The newest queries of a layer, in a memory that never grows.

use super::layer::Shape;
use candle_core::{DType, Device, Result, Tensor};
use std::collections::VecDeque;

/// Queries `[heads, group, n, dim]` and their positions, oldest first.
#[derive(Clone, Debug)]
pub(crate) struct Queries {
    pub(crate) rows: Tensor,
    pub(crate) positions: Vec<u32>,
}

/// A ring of so many queries. It is allocated once, so that its bytes are those of the formula from the first step on.
#[derive(Debug)]
pub(crate) struct Ring {
    /// `[heads, group, room, dim]`.
    rows: Tensor,
    room: usize,
    /// Of the queries held, oldest first.
    positions: VecDeque<u32>,
    /// Where the next one goes.
    next: usize,
}

impl Ring {
    pub(crate) fn new(shape: Shape, room: usize, dtype: DType, device: &Device) -> Result<Self> {
        let rows = Tensor::zeros((shape.heads, shape.group, room, shape.dim), dtype, device)?;
        Ok(Self { rows, room, positions: VecDeque::with_capacity(room), next: 0 })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.rows.elem_count() * self.rows.dtype().size_in_bytes()
    }

    pub(crate) fn clear(&mut self) {
        self.positions.clear();
        self.next = 0;
    }

    /// Takes up the newest of some queries, in place of the oldest.
    pub(crate) fn push(&mut self, queries: &Queries) -> Result<()> {
        let n = queries.positions.len();
        let mut from = n.saturating_sub(self.room);
        while from < n {
            let run = (n - from).min(self.room - self.next);
            self.rows.slice_set(&queries.rows.narrow(2, from, run)?.contiguous()?, 2, self.next)?;
            self.next = (self.next + run) % self.room;
            from += run;
        }
        self.positions.extend(queries.positions.iter().skip(n.saturating_sub(self.room)));
        self.positions.drain(..self.positions.len().saturating_sub(self.room));
        Ok(())
    }

    /// What is held; `None` of nothing.
    pub(crate) fn held(&self) -> Result<Option<Queries>> {
        let (n, positions) = (self.positions.len(), self.positions.iter().copied().collect());
        if n == 0 {
            return Ok(None);
        }
        let rows = if n < self.room || self.next == 0 {
            self.rows.narrow(2, 0, n)?.contiguous()?
        } else {
            let (newer, older) = (self.rows.narrow(2, 0, self.next)?, self.rows.narrow(2, self.next, n - self.next)?);
            Tensor::cat(&[older, newer], 2)?
        };
        Ok(Some(Queries { rows, positions }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stay_in_order() {
        let shape = Shape { heads: 2, group: 1, dim: 2 };
        for sizes in [[1usize; 9].as_slice(), &[3, 3, 3], &[2, 7], &[9], &[4, 1, 4]] {
            let mut ring = Ring::new(shape, 4, DType::F32, &Device::Cpu).unwrap();
            let bytes = ring.bytes();
            let mut at = 0;
            for n in sizes {
                let positions: Vec<u32> = (at..at + *n as u32).collect();
                let row = |head: f32| positions.iter().flat_map(move |p| [*p as f32 + head, -(*p as f32)]);
                let rows: Vec<f32> = row(0.0).chain(row(100.0)).collect();
                let rows = Tensor::from_vec(rows, (2, 1, *n, 2), &Device::Cpu).unwrap();
                ring.push(&Queries { rows, positions: positions.clone() }).unwrap();
                at += *n as u32;
                let held = ring.held().unwrap().unwrap();
                let expected: Vec<u32> = (at.saturating_sub(4)..at).collect();
                assert_eq!(held.positions, expected, "{sizes:?}");
                let second = held.rows.get(1).unwrap().get(0).unwrap().to_vec2::<f32>().unwrap();
                let tags: Vec<u32> = second.iter().map(|r| r[0] as u32 - 100).collect();
                assert_eq!(tags, expected, "{sizes:?}");
            }
            assert_eq!(ring.bytes(), bytes);
            ring.clear();
            assert!(ring.held().unwrap().is_none());
        }
    }
}
