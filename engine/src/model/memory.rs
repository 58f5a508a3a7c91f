//! What a model takes of memory while it is streamed, told before it is loaded.

use super::{config::DecoderConfig, llava_config::VisionConfig, plan::Plan};
use candle_core::DType;
use serde::Serialize;
use spotter_vision::encoder::TensorSpec;

/// The program itself: code, threads, allocator, decoding of video. Measured.
const PROGRAM: usize = 64 << 20;
/// A tokenizer in memory takes so many times the bytes of its file. Measured.
const TOKENIZER: usize = 6;
/// What a large weight takes beside its numbers, in bytes, and from which size on: systems give memory in large pages. Measured.
const ROUNDING: (usize, usize) = (3 << 18, 1 << 20);
/// Tensors of a pass that live at the same time, beside its scores: inner activations of an MLP and what is made of them.
const ALIVE: usize = 4;
/// Copies of attention scores that live at the same time: as they are, masked, and as weights.
const SCORES: usize = 3;

/// What bounds the context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Entries that a cache may hold in all.
    pub capacity: usize,
    /// Positions of the longest pass.
    pub block: usize,
    /// Entries are dropped, so their positions have tables of their own.
    pub bounded: bool,
}

/// Bytes by what they are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Need {
    /// The weights, in the type that is computed with.
    pub weights: usize,
    /// Keys and values of a full cache.
    pub cache: usize,
    /// Rotations of all positions.
    pub tables: usize,
    /// The largest pass through tower or decoder.
    pub work: usize,
    /// The tokenizer.
    pub tokenizer: usize,
    /// The program itself, and what is lost between large pages.
    pub program: usize,
    /// All of it.
    pub total: usize,
}

impl Need {
    /// Of a checkpoint that computes in `dtype` with a cache of some bounds.
    pub fn of(plan: &Plan, bounds: Bounds, dtype: DType) -> Self {
        let (text, size) = (&plan.config.text, dtype.size_in_bytes());
        let all: Vec<usize> = plan.parts().all().iter().map(|spec| numbers(spec) * size).collect();
        let weights = all.iter().sum();
        let rounding = all.iter().filter(|bytes| **bytes > ROUNDING.1).count() * ROUNDING.0;
        let tokenizer = std::fs::metadata(crate::weights::file_of(plan.checkpoint.folder(), "tokenizer.json"));
        let mut need = Self {
            weights,
            cache: cache_entry(text) * size * bounds.capacity,
            tables: tables(text, bounds, size),
            work: passes(plan, bounds, size),
            tokenizer: tokenizer.map_or(0, |file| file.len() as usize) * TOKENIZER,
            program: PROGRAM + rounding,
            total: 0,
        };
        need.total = need.weights + need.cache + need.tables + need.work + need.tokenizer + need.program;
        need
    }

    /// The same without the cache: what no budget changes.
    pub fn fixed(&self) -> usize {
        self.total - self.cache
    }
}

fn numbers(spec: &TensorSpec) -> usize {
    spec.shape.iter().product()
}

/// Numbers that one position takes in the cache.
fn cache_entry(text: &DecoderConfig) -> usize {
    2 * text.layers * text.kv_heads * text.head_dim
}

/// Cosines and sines of all positions, in the decoder's type, and in f32 where the cache turns keys by itself.
fn tables(text: &DecoderConfig, bounds: Bounds, size: usize) -> usize {
    text.max_positions * text.head_dim * (size + if bounds.bounded { 4 } else { 0 })
}

/// Bytes of the largest pass: a frame through the tower, a block of positions through the decoder, or logits.
fn passes(plan: &Plan, bounds: Bounds, size: usize) -> usize {
    let (text, grid) = (&plan.config.text, plan.grid());
    let tokens = grid.side * grid.side + usize::from(grid.class);
    let (heads, inner) = match &plan.config.vision {
        VisionConfig::Clip(cfg) | VisionConfig::Siglip(cfg) | VisionConfig::SiglipHead(cfg) => {
            (cfg.num_attention_heads, cfg.intermediate_size)
        }
        VisionConfig::Spotter(cfg) => (cfg.num_attention_heads, cfg.intermediate_size),
    };
    let tower = SCORES * heads * tokens * tokens * 4 + ALIVE * tokens * inner * size;
    let block = bounds.block.min(bounds.capacity);
    let decoder = SCORES * text.heads * block * bounds.capacity * 4 + ALIVE * block * text.mlp_width * size;
    tower.max(decoder).max(2 * text.vocab * 4)
}
