//! Every numbered check of the two papers' rules as Spotter reads them, on the real cache.

mod caote;
mod decoder;
mod keydiff;
mod store;

use super::{CacheOptions, Columns, KvCache, Policy};
use crate::model::config::{DecoderConfig, DecoderKind, HfDecoderConfig};
use candle_core::{DType, Device, Tensor};

/// Where these tests run: what `SPOTTER_TEST_DEVICE` names, `cpu` (left out) or `cuda`.
pub(super) fn device() -> Device {
    // One a thread: a stream of a card belongs to the thread that made it.
    thread_local!(static DEVICE: Device = match std::env::var("SPOTTER_TEST_DEVICE").as_deref() {
        Err(_) | Ok("cpu") => Device::Cpu,
        Ok("cuda") => Device::new_cuda(0).expect("SPOTTER_TEST_DEVICE names a card"),
        Ok(other) => panic!("SPOTTER_TEST_DEVICE {other}: cpu or cuda expected"),
    });
    DEVICE.with(Device::clone)
}

/// The numbers of the golden vectors: a linear congruential generator, from -1 to 1.
pub(super) struct Generator(pub(super) u32);

impl Generator {
    pub(super) fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(self.0 >> 8) / f64::from(1 << 24) * 2.0 - 1.0
    }

    pub(super) fn rows(&mut self, n: usize, dim: usize) -> Vec<Vec<f64>> {
        (0..n).map(|_| (0..dim).map(|_| self.next()).collect()).collect()
    }
}

/// `[1, n, dim]` in f32.
pub(super) fn tensor(rows: &[Vec<f64>]) -> Tensor {
    let dim = rows.first().map_or(0, Vec::len);
    let flat: Vec<f32> = rows.iter().flatten().map(|v| *v as f32).collect();
    Tensor::from_vec(flat, (1, rows.len(), dim), &device()).unwrap()
}

pub(super) fn config(layers: usize, kv_heads: usize, head_dim: usize, max_positions: usize) -> DecoderConfig {
    let hf = HfDecoderConfig {
        model_type: Some(DecoderKind::Llama.model_type().into()),
        vocab_size: Some(40),
        hidden_size: Some(2 * kv_heads * head_dim),
        intermediate_size: Some(48),
        num_hidden_layers: Some(layers),
        num_attention_heads: Some(2 * kv_heads),
        num_key_value_heads: Some(kv_heads),
        head_dim: Some(head_dim),
        max_position_embeddings: Some(max_positions),
        ..HfDecoderConfig::default()
    };
    DecoderConfig::from_hf(&hf, "").unwrap()
}

/// Without a window and sinks; `every` 1 is the reference schedule.
pub(super) fn options(policy: &str, budget: usize, block: usize) -> CacheOptions {
    let policy: Policy = policy.parse().unwrap();
    CacheOptions { policy, budget: Some(budget), block, every: 1, window: 0.0, sinks: 0, ..CacheOptions::default() }
}

pub(super) fn bounded(cfg: &DecoderConfig, options: &CacheOptions, scratch: usize) -> KvCache {
    KvCache::bounded(cfg, options, cfg.max_positions, scratch, DType::F32, &device()).unwrap()
}

/// Appends keys and values `[heads, n, dim]` to every layer as one pass.
pub(super) fn feed(cache: &mut KvCache, keys: &Tensor, values: &Tensor) {
    let positions = cache.prepare(keys.dim(1).unwrap(), Columns::Chain).unwrap();
    let len = cache.len();
    for layer in cache.layers_mut() {
        layer.append(keys, values, len).unwrap();
    }
    cache.advance(&positions).unwrap();
}

/// The same with queries and even weights for those that watch them, as a pass shows them.
pub(super) fn feed_watched(cache: &mut KvCache, keys: &Tensor, values: &Tensor) {
    let (heads, n, dim) = keys.dims3().unwrap();
    let positions = cache.prepare(n, Columns::Chain).unwrap();
    let (len, group) = (cache.len(), 2);
    let queries = keys.unsqueeze(1).unwrap().broadcast_as((heads, group, n, dim)).unwrap().contiguous().unwrap();
    let even = Tensor::full(1.0 / (len + n) as f32, (heads, group, n, len + n), keys.device()).unwrap();
    for layer in cache.layers_mut() {
        layer.append(keys, values, len).unwrap();
        layer.observe(len, &positions, &queries, &even).unwrap();
    }
    cache.advance(&positions).unwrap();
}

/// Entries left after keys `[heads, n, dim]` have come in blocks, and the longest the cache ever was.
pub(super) fn stream(cache: &mut KvCache, keys: &Tensor, block: usize) -> (Vec<u32>, usize) {
    let (n, mut start, mut longest) = (keys.dim(1).unwrap(), 0, 0);
    while start < n {
        let take = block.min(n - start);
        let keys = keys.narrow(1, start, take).unwrap().contiguous().unwrap();
        longest = longest.max(cache.len() + take);
        feed(cache, &keys, &keys);
        start += take;
    }
    (cache.positions(0, 0).to_vec(), longest)
}

pub(super) fn floats(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1().unwrap()
}
