//! GGUF, the single-file format of llama.cpp (version 2 and 3): weights, numbers and tokenizer of a language model.
//!
//! On the processor, weights stay packed ([`crate::quantised`]); elsewhere they are unpacked as they are loaded.

mod convert;
#[cfg(test)]
mod convert_tests;
mod mmproj;
mod model;
mod names;
mod pair;
mod read;
mod sentence;
mod source;
mod target;
#[cfg(test)]
mod tests;
mod tiles;
mod tokenizer;
mod vision;
#[cfg(test)]
mod vision_tests;
mod vocabulary;
mod write;

pub use convert::{Quantised, SHAPES, Source, quantise};
pub use model::decoder_config;
pub use pair::{Pair, is_gguf, mmproj_of, pair};
pub use read::{Gguf, TensorEntry, Value};
pub(crate) use source::Tensors;
pub use source::decoder_weights;
pub use target::{Target, Wanted};
pub use tokenizer::tokenizer;
pub(crate) use tokenizer::{chat_template, tokenizer_with};
pub(crate) use vision::{plan, template};
pub use write::{Planned, write};

use std::path::PathBuf;

/// A GGUF file that can't be used; the message names the key or tensor, what was expected and what was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct GgufError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

impl Gguf {
    fn value<'a, T>(&'a self, key: &str, kind: &str, get: impl Fn(&'a Value) -> Option<T>) -> Result<T, GgufError> {
        match self.metadata().get(key) {
            None => Err(self.error(format!("{key}: expected {kind}, found nothing"))),
            Some(value) => {
                get(value).ok_or_else(|| self.error(format!("{key}: expected {kind}, found {}", value.kind())))
            }
        }
    }

    /// An integer that is not negative.
    ///
    /// # Errors
    /// It is not there, or no such number.
    pub fn size(&self, key: &str) -> Result<usize, GgufError> {
        self.value(key, "a number from 0 on", |v| match v {
            Value::Integer(n) => usize::try_from(*n).ok(),
            _ => None,
        })
    }

    /// The same where it may be missing.
    ///
    /// # Errors
    /// It is no such number.
    pub fn size_if_present(&self, key: &str) -> Result<Option<usize>, GgufError> {
        self.metadata().contains_key(key).then(|| self.size(key)).transpose()
    }

    /// A number.
    ///
    /// # Errors
    /// It is not there, or no number.
    pub fn float(&self, key: &str) -> Result<f64, GgufError> {
        self.value(key, "a number", |v| match v {
            Value::Float(f) => Some(*f),
            Value::Integer(n) => Some(*n as f64),
            _ => None,
        })
    }

    /// A text.
    ///
    /// # Errors
    /// It is not there, or no text.
    pub fn text(&self, key: &str) -> Result<&str, GgufError> {
        self.value(key, "a text", |v| match v {
            Value::Text(t) => Some(t.as_str()),
            _ => None,
        })
    }

    /// The same; `missing` where it is not there.
    ///
    /// # Errors
    /// It is no text.
    pub fn text_or<'a>(&'a self, key: &str, missing: &'a str) -> Result<&'a str, GgufError> {
        if self.metadata().contains_key(key) { self.text(key) } else { Ok(missing) }
    }

    /// A truth value; `missing` where it is not there.
    ///
    /// # Errors
    /// It is something else.
    pub fn flag(&self, key: &str, missing: bool) -> Result<bool, GgufError> {
        if !self.metadata().contains_key(key) {
            return Ok(missing);
        }
        self.value(key, "true or false", |v| if let Value::Bool(b) = v { Some(*b) } else { None })
    }

    /// Texts.
    ///
    /// # Errors
    /// They are not there, or something else.
    pub fn texts(&self, key: &str) -> Result<&[String], GgufError> {
        self.value(key, "texts", |v| match v {
            Value::Texts(t) => Some(t.as_slice()),
            _ => None,
        })
    }
}
