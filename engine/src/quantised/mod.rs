//! Products with weights that stay packed as in their file, on the processor.
//!
//! A [`Matrix`] holds the codes of a GGUF type, sixteen rows interleaved (`format`). Inputs are brought to eight bits once, in blocks
//! of thirty-two with a scale (`inputs`). Codes are multiplied and added as integers, which is exact, and each block's sum is
//! scaled and added to those before it. There is one order of these additions, whatever the processor and however many rows are
//! multiplied at once: `scalar` is what the others (`avx512`, `avx2`, `neon`) must give bit for bit, and a draft is checked with
//! the very numbers of plain decoding. Weights of two bytes (`halves`) are multiplied as the numbers they are, in the same spirit.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(feature = "cuda")]
pub(crate) mod card;
mod format;
mod halves;
#[cfg(target_arch = "aarch64")]
mod halves_neon;
#[cfg(target_arch = "x86_64")]
mod halves_x86;
mod inputs;
mod matrix;
#[cfg(target_arch = "aarch64")]
mod neon;
mod product;
mod scalar;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod threads;
mod tiles;

pub use format::Format;
pub use matrix::Matrix;
pub use product::{Instructions, Packed};
pub(crate) use threads::on_threads;
