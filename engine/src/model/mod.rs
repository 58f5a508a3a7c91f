//! Language models: decoders of the Llama, Qwen2 and Mistral kind, and LLaVA around them.

pub mod attention;
pub mod cache;
pub mod config;
pub mod decoder;
#[cfg(test)]
mod decoder_tests;
pub mod layers;
pub mod mlp;

pub use cache::KvCache;
pub use config::{ConfigError, DecoderConfig, DecoderKind, HfDecoderConfig};
pub use decoder::Decoder;
pub use layers::Mode;
