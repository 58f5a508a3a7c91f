//! What a model takes of memory while it is streamed, told before it is loaded.

use super::{
    config::DecoderConfig,
    llava_config::VisionConfig,
    plan::Plan,
    pool::{Pool, joined},
};
use candle_core::{DType, Device};
use serde::Serialize;

/// The program itself: code, threads, allocator, decoding of video. Measured.
const PROGRAM: usize = 64 << 20;
/// A tokenizer in memory takes so many times the bytes of its file. Measured.
const TOKENIZER: usize = 6;
/// Bytes of a tokenizer's file for each token or merge, beside its text.
const ENTRY: usize = 12;
/// What a large weight takes beside its numbers, in bytes, and from which size on: systems give memory in large pages. Measured.
const ROUNDING: (usize, usize) = (3 << 18, 1 << 20);
/// Tensors of a pass that live at the same time, beside its scores: inner activations of an MLP and what is made of them.
const ALIVE: usize = 4;
/// Copies of attention scores that live at the same time: as they are, masked, and as weights.
const SCORES: usize = 3;

/// The context that CUDA makes on a card, with the kernels of candle and of Spotter: what a driver takes before a tensor is there.
/// Measured on an H100, where it is 595 MiB before the first kernel and up to 610 behind the last.
const CONTEXT: usize = 610 << 20;
/// cuBLAS on a card: 32 MiB of workspace, which it takes from compute capability 9.0 on (4 MiB before), and its kernels.
const PRODUCTS: usize = (32 + 48) << 20;
/// Columns of the widest pass that is one graph on a card: a frame of LLaVA 1.5 as it comes from the tower, and a question.
pub(in crate::model) const WIDE: usize = 640;
/// Columns of a pass over a few, slots of a block of its attention, kernels of a layer, and the
/// graphs that are kept (`model::card`); what a driver keeps of a kernel in a graph, in bytes.
const COLUMNS: usize = 64;
const SLOTS: usize = 64;
const KERNELS: usize = 6;
const GRAPHS: usize = 48;
const NODE: usize = 2 << 10;
/// Of packed weights on a card, this share are factors: four bytes of each twenty, or of each thirty-six.
const FACTORS: usize = 5;
/// Where a model computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The processor.
    Processor,
    /// An NVIDIA card, with memory of its own.
    Cuda,
    /// An Apple chip, whose memory is the machine's.
    Metal,
}

impl Place {
    /// That of a device.
    pub fn of(device: &Device) -> Self {
        match device {
            Device::Cpu => Self::Processor,
            Device::Cuda(_) => Self::Cuda,
            Device::Metal(_) => Self::Metal,
        }
    }
}

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
    /// On an NVIDIA card: buffers of the passes that are CUDA graphs, and the graphs.
    pub graphs: usize,
    /// The tokenizer; with a card it lies in the machine's memory and is not counted.
    pub tokenizer: usize,
    /// The program itself; on a card its context, and cuBLAS.
    pub program: usize,
    /// What is lost between large pages.
    pub lost: usize,
    /// All of it.
    pub total: usize,
}

impl Need {
    /// Of a checkpoint that computes in `dtype` with a cache of some bounds. With a card it is the card's memory: the machine's
    /// holds no more than the program, the tokenizer and the weight that is on its way.
    pub fn of(plan: &Plan, bounds: Bounds, dtype: DType, place: Place) -> Self {
        let (text, size) = (&plan.config.text, dtype.size_in_bytes());
        let specs = plan.parts().all();
        let all: Vec<(&str, usize)> =
            specs.iter().map(|spec| (spec.name.as_str(), plan.checkpoint.loaded(spec, dtype, place))).collect();
        let weights = all.iter().map(|(_, bytes)| bytes).sum();
        let mut need = Self {
            weights,
            cache: cache_entry(text) * size * bounds.capacity,
            tables: tables(text, bounds, size),
            work: passes(plan, bounds, size, place),
            ..Self::default()
        };
        if place == Place::Cuda {
            let packed = plan.checkpoint.gguf().is_some();
            need.program = CONTEXT + PRODUCTS;
            need.graphs = if dtype == DType::F32 { 0 } else { graphs(text, bounds, size, packed) };
            need.lost = need.lost_in_pieces(&all, text, packed);
        } else {
            need.tokenizer = tokenizer_bytes(plan) * TOKENIZER;
            need.program = PROGRAM;
            need.lost = all.iter().filter(|(_, bytes)| *bytes > ROUNDING.1).count() * ROUNDING.0;
        }
        need.total = need.of_tensors() + need.tokenizer + need.program + need.lost;
        need
    }

    /// What lies in tensors.
    fn of_tensors(&self) -> usize {
        self.weights + self.cache + self.tables + self.work + self.graphs
    }

    /// What a card's pool takes beside its tensors: weights, what graphs read and write, keys and values of each layer, one large pass.
    fn lost_in_pieces(&self, weights: &[(&str, usize)], text: &DecoderConfig, packed: bool) -> usize {
        let mut pool = Pool::default();
        for bytes in joined(weights.iter().copied()) {
            // Codes, and a factor of four bytes for thirty-two of them.
            let factors = if packed && bytes > ROUNDING.1 { bytes / FACTORS } else { 0 };
            pool.take(bytes - factors);
            pool.take(factors);
        }
        pool.take(self.graphs);
        let layers = 2 * text.layers;
        (0..layers).for_each(|_| pool.take(self.cache / layers.max(1)));
        [self.tables, self.work].into_iter().for_each(|bytes| pool.take(bytes));
        pool.total().saturating_sub(self.of_tensors())
    }

    /// The same without the cache: what no budget changes.
    pub fn fixed(&self) -> usize {
        self.total - self.cache
    }
}

/// Bytes of the tokenizer's file; of what one would hold where a GGUF file has its lists.
fn tokenizer_bytes(plan: &Plan) -> usize {
    let Some(file) = plan.checkpoint.gguf() else {
        let file = std::fs::metadata(crate::weights::file_of(plan.checkpoint.folder(), "tokenizer.json"));
        return file.map_or(0, |file| file.len() as usize);
    };
    let bytes = |key: &str| file.texts(key).unwrap_or_default().iter().map(|text| text.len() + ENTRY).sum::<usize>();
    let (tokens, merges) = (bytes("tokenizer.ggml.tokens"), bytes("tokenizer.ggml.merges"));
    // Where merges are made of scores, there are about two for each token.
    tokens + if merges == 0 { 2 * tokens } else { merges }
}

/// Numbers that one position takes in the cache.
fn cache_entry(text: &DecoderConfig) -> usize {
    2 * text.layers * text.kv_heads * text.head_dim
}

/// Cosines and sines of all positions, in the decoder's type, and in f32 where the cache turns keys by itself.
fn tables(text: &DecoderConfig, bounds: Bounds, size: usize) -> usize {
    text.max_positions * text.head_dim * (size + if bounds.bounded { 4 } else { 0 })
}

/// Of the passes that are one graph: rows that stay where they are (the residual and what a norm makes of it; q, k and v; the mixture;
/// gates, ups and what they make), what blocks of attention leave each other in f32 (a sum and a mean for each slice of the cache),
/// what the driver keeps of the kernels, and where weights are packed the largest map of a layer as numbers.
fn graphs(text: &DecoderConfig, bounds: Bounds, size: usize, packed: bool) -> usize {
    let inner = text.heads * text.head_dim;
    let qkv = inner + 2 * text.kv_heads * text.head_dim;
    let rows = 2 * text.width + qkv + inner + 3 * text.mlp_width;
    let parts = text.heads * bounds.capacity.div_ceil(SLOTS) * (text.head_dim + 2) * 4;
    let unpacked = if packed { largest_map(text) * size } else { 0 };
    WIDE * rows * size + COLUMNS * parts + text.layers * KERNELS * GRAPHS * NODE + unpacked
}

/// Numbers of the largest map of a layer, which is as large as a pass with packed weights unpacks at a time.
pub(in crate::model) fn largest_map(text: &DecoderConfig) -> usize {
    let qkv = (text.heads + 2 * text.kv_heads) * text.head_dim;
    (2 * text.mlp_width).max(qkv) * text.width
}

/// Bytes of the largest pass: a frame through the tower, a block of positions through the decoder, or logits.
fn passes(plan: &Plan, bounds: Bounds, size: usize, place: Place) -> usize {
    let (text, grid) = (&plan.config.text, plan.grid());
    let tokens = grid.side * grid.side + usize::from(grid.class);
    let (heads, inner) = match &plan.config.vision {
        VisionConfig::Clip(cfg) | VisionConfig::Siglip(cfg) | VisionConfig::SiglipHead(cfg) => {
            (cfg.num_attention_heads, cfg.intermediate_size)
        }
        VisionConfig::Spotter(cfg) => (cfg.num_attention_heads, cfg.intermediate_size),
    };
    // Our softmax on a card takes half types as they are; everything else has scores in f32.
    let score = if place == Place::Cuda { size } else { 4 };
    let tower = SCORES * heads * tokens * tokens * score + ALIVE * tokens * inner * size;
    let block = bounds.block.min(bounds.capacity);
    let decoder = SCORES * text.heads * block * bounds.capacity * 4 + ALIVE * block * text.mlp_width * size;
    tower.max(decoder).max(2 * text.vocab * 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::HfDecoderConfig;

    /// Llama 2 7B's shape with 1,024 entries, by hand.
    #[test]
    fn graphs_of_a_7b_shape() {
        let hf: HfDecoderConfig = serde_json::from_str(
            "{\"model_type\": \"llama\", \"vocab_size\": 32064, \"hidden_size\": 4096, \"intermediate_size\": 11008, \
             \"num_hidden_layers\": 32, \"num_attention_heads\": 32, \"num_key_value_heads\": 32, \
             \"max_position_embeddings\": 4096}",
        )
        .unwrap();
        let text = DecoderConfig::from_hf(&hf, "").unwrap();
        let bounds = Bounds { capacity: 1024, block: 64, bounded: true };
        let rows = 640 * (2 * 4096 + 3 * 4096 + 4096 + 3 * 11_008) * 2;
        let parts = 64 * 32 * 16 * 130 * 4;
        let dense = rows + parts + 32 * 6 * 48 * 2048;
        assert_eq!(graphs(&text, bounds, 2, false), dense);
        assert_eq!(graphs(&text, bounds, 2, true), dense + 2 * 11_008 * 4096 * 2);
        assert_eq!(cache_entry(&text) * 2 * 1024, 536_870_912, "512 KiB an entry");
        // Cosines and sines in bf16, and in f32 for keys that are turned when entries are dropped.
        assert_eq!(tables(&text, bounds, 2), 4096 * 128 * (2 + 4));
    }
}
