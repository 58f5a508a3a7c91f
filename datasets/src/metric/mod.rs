//! Metrics over timed strings. They know no model, no video and no file.

pub mod bootstrap;
pub mod content;
pub mod corrective;
pub mod meteor;
pub mod porter;
pub mod punkt;
pub mod resource;
pub mod rouge;
pub mod timing;
pub mod wordnet;
pub mod words;

use serde::{Deserialize, Serialize};

/// Something said at a time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timed {
    /// Seconds; the origin is the caller's, the same for truth and prediction.
    pub t: f64,
    /// The words; "" is a blank, which QEVD's matching treats in its own way.
    pub text: String,
}

impl Timed {
    /// `text` at `t` seconds.
    pub fn new(t: f64, text: impl Into<String>) -> Self {
        Self { t, text: text.into() }
    }
}
