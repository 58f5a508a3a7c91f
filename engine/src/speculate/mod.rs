//! Speculative decoding: a drafter proposes, the target checks all proposals in one pass, and what is said stays what
//! the target alone would say (specs: speculative, adaedl, rsd).
//!
//! A round drafts a tree of tokens behind the last committed one, runs the target over all its columns in one step of
//! the cache, walks down the accepted path and keeps that path. A chain is a tree whose nodes have one child. Drafting
//! that does not pay turns into plain steps.
//!
//! What may never happen: an eviction inside a round, or a token dropped because of its own probability.

pub mod adaedl;
pub mod chain;
pub mod draft;
pub mod governor;
pub mod language;
pub mod ngram;
pub mod options;
pub mod round;
pub mod rsd;
pub mod stats;
#[cfg(test)]
mod tests;
pub mod tree;

pub use draft::Drafter;
pub use language::{ModelDrafter, Picture, same_vocabulary};
pub use ngram::Ngram;
pub use options::{DrafterKind, Method, SpeculationOptions};
pub use round::{Ask, Clock, Speculator};
pub use stats::Stats;
