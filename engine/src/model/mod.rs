//! Language models: decoders of the Llama, Qwen2, Mistral and HyperCLOVA X kind, and LLaVA around them.

pub mod adapter;
mod attend;
pub mod attention;
pub mod batch;
pub mod cache;
#[cfg(feature = "cuda")]
mod card;
pub mod config;
pub mod connector;
pub mod decoder;
#[cfg(test)]
mod decoder_tests;
mod few;
mod fused;
pub mod language;
pub mod layers;
pub mod live;
pub mod llava;
pub mod llava_config;
pub mod memory;
pub mod mlp;
#[cfg(test)]
mod packed_tests;
pub mod plan;
mod pool;
pub mod probe;
pub mod projector;
pub mod rope;
pub mod seed;
pub mod tiling;

pub use adapter::{Adapter, AdapterConfig};
pub use batch::BatchCache;
pub use cache::{CacheOptions, Commit, KvCache, Policy};
pub use config::{ConfigError, DecoderConfig, DecoderKind, HfDecoderConfig};
pub use decoder::Decoder;
pub use language::{DraftModel, LanguageModel};
pub use layers::Mode;
pub use llava::{Llava, LlavaEncoder};
pub use plan::Plan;
pub use projector::Pooling;
