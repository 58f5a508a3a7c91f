//! Visual tokens and text in, text out: LLaVA models, and the coach that streams them.
//!
//! The engine sees frames only through an encoder of `spotter-vision`. A model family is one readable file.

pub mod bert;
pub mod coach;
pub mod device;
pub mod gguf;
pub mod model;
pub mod prompt;
pub mod quantised;
pub mod sampler;
pub mod speculate;
pub mod stops;
pub mod tokenizer;
#[cfg(feature = "training")]
pub mod training;
pub mod weights;
