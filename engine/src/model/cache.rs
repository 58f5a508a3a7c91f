//! Keys and values of the positions a decoder has seen.

use super::config::DecoderConfig;
use candle_core::{DType, Device, Result, Tensor};

/// Rows allocated at first; doubled whenever they run out.
const FIRST_ROWS: usize = 256;

/// The memory of one running sequence (batch 1).
///
/// Buffers are allocated ahead and written in place, so a step copies only its own rows. They start small and
/// double up to the capacity. Number of entries and next position are kept apart: an evictor may drop entries
/// without moving later tokens.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    len: usize,
    position: usize,
    capacity: usize,
}

/// Keys and values of one layer, `[kv_heads, rows, head_dim]` each.
#[derive(Debug)]
pub(crate) struct LayerCache {
    keys: Tensor,
    values: Tensor,
}

impl KvCache {
    /// An empty cache for at most `capacity` entries.
    pub fn new(cfg: &DecoderConfig, capacity: usize, dtype: DType, device: &Device) -> Result<Self> {
        if capacity == 0 {
            candle_core::bail!("a cache needs room for at least one entry");
        }
        let shape = (cfg.kv_heads, capacity.min(FIRST_ROWS), cfg.head_dim);
        let layers = (0..cfg.layers)
            .map(|_| {
                Ok(LayerCache {
                    keys: Tensor::zeros(shape, dtype, device)?,
                    values: Tensor::zeros(shape, dtype, device)?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self { layers, len: 0, position: 0, capacity })
    }

    /// Entries held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Position of the next token.
    pub fn position(&self) -> usize {
        self.position
    }

    /// The most entries it will hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes allocated now.
    pub fn bytes(&self) -> usize {
        let size = |t: &Tensor| t.elem_count() * t.dtype().size_in_bytes();
        self.layers.iter().map(|l| size(&l.keys) + size(&l.values)).sum()
    }

    /// Forgets the newest entries until `len` are left; the next token takes the place of the first one dropped.
    /// A `len` beyond the present one changes nothing.
    pub fn truncate(&mut self, len: usize) {
        let dropped = self.len.saturating_sub(len);
        self.len -= dropped;
        self.position -= dropped;
    }

    /// Forgets everything; keeps the buffers.
    pub fn clear(&mut self) {
        (self.len, self.position) = (0, 0);
    }

    /// Makes room for `n` more entries.
    pub(crate) fn reserve(&mut self, n: usize) -> Result<()> {
        let needed = self.len + n;
        if needed > self.capacity {
            candle_core::bail!(
                "the context of {} tokens is full: {} are held and {n} more do not fit",
                self.capacity,
                self.len
            );
        }
        for layer in &mut self.layers {
            let (heads, rows, dim) = layer.keys.dims3()?;
            if needed <= rows {
                continue;
            }
            let rows = needed.max(rows * 2).min(self.capacity);
            for buffer in [&mut layer.keys, &mut layer.values] {
                let larger = Tensor::zeros((heads, rows, dim), buffer.dtype(), buffer.device())?;
                if self.len > 0 {
                    larger.slice_set(&buffer.narrow(1, 0, self.len)?.contiguous()?, 1, 0)?;
                }
                *buffer = larger;
            }
        }
        Ok(())
    }

    pub(crate) fn layer(&self, index: usize) -> Option<&LayerCache> {
        self.layers.get(index)
    }

    /// Counts `n` entries that every layer has written.
    pub(crate) fn advance(&mut self, n: usize) {
        self.len += n;
        self.position += n;
    }
}

impl LayerCache {
    /// Writes `keys` and `values` `[kv_heads, n, head_dim]` (contiguous) behind `len` entries and returns all of
    /// them, `[kv_heads, len + n, head_dim]`.
    pub(crate) fn append(&self, keys: &Tensor, values: &Tensor, len: usize) -> Result<(Tensor, Tensor)> {
        let total = len + keys.dim(1)?;
        self.keys.slice_set(keys, 1, len)?;
        self.values.slice_set(values, 1, len)?;
        Ok((self.keys.narrow(1, 0, total)?, self.values.narrow(1, 0, total)?))
    }
}
