//! Keys and values of many sequences that grow together: texts that are made by the thousand.
//!
//! All have the same length at any time, nothing is dropped of a sequence and no step is undone, so one number says what
//! is held. Sequences that are over are taken out, which makes every later pass cheaper.

use super::config::DecoderConfig;
use candle_core::{DType, Device, Result, Tensor, bail};

/// What a decoder has seen of each of some sequences.
#[derive(Debug)]
pub struct BatchCache {
    layers: Vec<LayerBatch>,
    len: usize,
    capacity: usize,
    batch: usize,
}

/// Keys and values of one layer, `[sequences * key heads, capacity, head size]` each.
#[derive(Debug)]
pub(crate) struct LayerBatch {
    keys: Tensor,
    values: Tensor,
}

impl LayerBatch {
    /// Type of what is held.
    pub(crate) fn dtype(&self) -> DType {
        self.keys.dtype()
    }

    /// Writes `keys` and `values` `[rows, n, dim]` behind `len` entries and returns all of them, `[rows, len + n, dim]`.
    pub(crate) fn append(&self, keys: &Tensor, values: &Tensor, len: usize) -> Result<(Tensor, Tensor)> {
        let total = len + keys.dim(1)?;
        self.keys.slice_set(&keys.to_dtype(self.dtype())?, 1, len)?;
        self.values.slice_set(&values.to_dtype(self.dtype())?, 1, len)?;
        Ok((self.keys.narrow(1, 0, total)?, self.values.narrow(1, 0, total)?))
    }
}

impl BatchCache {
    /// An empty one for `batch` sequences of at most `capacity` entries each, held as `dtype`.
    ///
    /// # Errors
    /// A capacity or a batch of 0, or those of the device.
    pub fn new(cfg: &DecoderConfig, batch: usize, capacity: usize, dtype: DType, device: &Device) -> Result<Self> {
        if batch == 0 || capacity == 0 {
            bail!("a cache for {batch} sequences of {capacity} entries holds nothing");
        }
        let zeros = || Tensor::zeros((batch * cfg.kv_heads, capacity, cfg.head_dim), dtype, device);
        let layers = (0..cfg.layers).map(|_| Ok(LayerBatch { keys: zeros()?, values: zeros()? }));
        Ok(Self { layers: layers.collect::<Result<_>>()?, len: 0, capacity, batch })
    }

    /// Bytes that one sequence of `capacity` entries takes.
    pub fn bytes_of_one(cfg: &DecoderConfig, capacity: usize, dtype: DType) -> usize {
        2 * cfg.layers * cfg.kv_heads * cfg.head_dim * capacity * dtype.size_in_bytes()
    }

    /// Entries held of each sequence.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The most entries that it will hold of a sequence.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Sequences.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Keeps the sequences `rows`, in this order, and frees the memory of the others.
    ///
    /// # Errors
    /// A sequence that it does not have, none at all, or those of the device.
    pub fn keep(&mut self, rows: &[u32]) -> Result<()> {
        if rows.is_empty() || rows.iter().any(|row| *row as usize >= self.batch) {
            bail!("{} sequences can't be kept of {}", rows.len(), self.batch);
        }
        for layer in &mut self.layers {
            let index = Tensor::new(rows, layer.keys.device())?;
            for buffer in [&mut layer.keys, &mut layer.values] {
                let (all, capacity, dim) = buffer.dims3()?;
                let heads = all / self.batch;
                let kept = buffer.reshape((self.batch, heads * capacity * dim))?.index_select(&index, 0)?;
                *buffer = kept.reshape((rows.len() * heads, capacity, dim))?;
            }
        }
        self.batch = rows.len();
        Ok(())
    }

    /// An error where `n` positions of `batch` sequences can't be held.
    pub(crate) fn check(&self, batch: usize, n: usize, layers: usize) -> Result<()> {
        if batch != self.batch || layers != self.layers.len() {
            bail!(
                "a cache of {} layers for {} sequences is not one of {layers} for {batch}",
                self.layers.len(),
                self.batch
            );
        }
        if n == 0 || self.len + n > self.capacity {
            bail!("{n} more entries do not fit a cache that holds {} of {}", self.len, self.capacity);
        }
        Ok(())
    }

    /// The layers, to be written by a pass.
    pub(crate) fn layers(&self) -> &[LayerBatch] {
        &self.layers
    }

    /// Counts a pass that every layer has written.
    pub(crate) fn advance(&mut self, n: usize) {
        self.len += n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Decoder, HfDecoderConfig, Mode};
    use candle_nn::{VarBuilder, VarMap};

    fn decoder(window: Option<usize>) -> Decoder {
        let hf = serde_json::json!({
            "model_type": if window.is_some() { "mistral" } else { "llama" }, "vocab_size": 23, "hidden_size": 16,
            "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "tie_word_embeddings": false,
            "hidden_act": "silu", "sliding_window": window,
        });
        let config = DecoderConfig::from_hf(&serde_json::from_value::<HfDecoderConfig>(hf).unwrap(), "").unwrap();
        let map = VarMap::new();
        Decoder::new(&config, VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu), Mode::Infer).unwrap()
    }

    fn off(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    #[test]
    fn sequences_that_grow_together_are_those_of_each_alone() {
        for (window, dtype, most) in [(None, DType::F32, 1e-5), (Some(5), DType::F32, 1e-5), (None, DType::F16, 2e-2)] {
            let decoder = decoder(window);
            let ids: Vec<u32> = (0..5 * 12).map(|i| i * 7 % 23).collect();
            let x = decoder.embed(&Tensor::from_vec(ids, (5, 12), &Device::Cpu).unwrap()).unwrap();
            let whole = decoder.forward(&x, None).unwrap();
            let mut cache = BatchCache::new(decoder.config(), 5, 12, dtype, &Device::Cpu).unwrap();
            let mut at = 0;
            let mut rows = vec![0u32, 1, 2, 3, 4];
            for (n, kept) in [(4, None), (1, Some(vec![4, 1, 2])), (3, None), (1, Some(vec![2, 0])), (3, None)] {
                let index = Tensor::new(rows.as_slice(), &Device::Cpu).unwrap();
                let part =
                    |t: &Tensor| t.narrow(1, at, n).unwrap().contiguous().unwrap().index_select(&index, 0).unwrap();
                let found = decoder.forward_batch(&part(&x), &mut cache).unwrap();
                let off = off(&found, &part(&whole));
                assert!(off < most, "window {window:?}, {dtype:?}, at {at}: {off}");
                at += n;
                if let Some(kept) = kept {
                    cache.keep(&kept).unwrap();
                    rows = kept.iter().map(|row| rows[*row as usize]).collect();
                }
            }
            assert_eq!((cache.len(), cache.batch()), (12, 2));
            let one = x.narrow(1, 0, 1).unwrap();
            assert!(decoder.forward_batch(&one.narrow(0, 0, 2).unwrap(), &mut cache).is_err(), "it is full");
            assert!(decoder.forward_batch(&one, &mut cache).is_err(), "of another number of sequences");
            assert!(cache.keep(&[]).is_err() && cache.keep(&[2]).is_err());
        }
        assert!(BatchCache::new(decoder(None).config(), 0, 3, DType::F32, &Device::Cpu).is_err());
    }
}
