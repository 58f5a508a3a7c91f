//! Text to token ids and back, by a checkpoint's `tokenizer.json`.

use crate::weights::WeightsError;
use std::{collections::HashMap, path::Path};

/// A tokenizer as published.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
}

/// A text or token that can't be turned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tokenizer: {0}")]
pub struct TokenizerError(String);

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    pub fn from_file(path: &Path) -> Result<Self, WeightsError> {
        if !path.is_file() {
            return Err(WeightsError::missing(path, "the tokenizer of the model"));
        }
        let text = std::fs::read_to_string(path).map_err(|e| WeightsError::file(path, e))?;
        Self::from_json(&text)
            .map_err(|TokenizerError(e)| WeightsError::file(path, format!("expected a tokenizer: {e}")))
    }

    /// Reads the text of a `tokenizer.json`.
    ///
    /// # Errors
    /// It is none.
    pub fn from_json(json: &str) -> Result<Self, TokenizerError> {
        // The library trusts some of what it reads, and panics where it may not: at what is no JSON, to begin with.
        serde_json::from_str::<serde::de::IgnoredAny>(json).map_err(|e| TokenizerError(e.to_string()))?;
        let read = std::panic::catch_unwind(|| json.parse::<tokenizers::Tokenizer>());
        let read = read.map_err(|_| TokenizerError("what is in it does not hold together".into()))?;
        let mut inner = read.map_err(|e| TokenizerError(e.to_string()))?;
        // Both are for batches, and a file may ask for any length.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| TokenizerError(e.to_string()))?;
        let read = Self { inner };
        // Tokens that are put around a text and that are none show themselves at the first text.
        read.encode("a", true)?;
        Ok(read)
    }

    /// Checks that no token lies outside the model's embedding, and that the image token is what it should be.
    pub fn check(&self, vocab: usize, image_token: Option<u32>) -> Result<(), WeightsError> {
        let wrong = |what: &str, expected: String, found: String| WeightsError::Tokenizer {
            what: what.into(),
            expected,
            found,
        };
        let largest = self.inner.get_vocab(true).into_values().max().unwrap_or(0) as usize;
        if largest >= vocab {
            return Err(wrong(
                "vocabulary",
                format!("ids below the model's vocab_size of {vocab}"),
                format!("id {largest}"),
            ));
        }
        if let Some(id) = image_token {
            let Some(token) = self.inner.id_to_token(id) else {
                return Err(wrong("image token", format!("a token with id {id} (image_token_index)"), "none".into()));
            };
            // An image token that is an ordinary piece of text would be cut up or found inside of words.
            if !self.inner.get_added_tokens_decoder().contains_key(&id) {
                return Err(wrong(
                    "image token",
                    format!("a special token with id {id} (image_token_index)"),
                    format!("the ordinary token `{token}`"),
                ));
            }
        }
        Ok(())
    }

    /// Token ids of a text; with `special` the tokens the tokenizer puts around a text.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, TokenizerError> {
        let encode = || self.inner.encode(text, special);
        let encoding = std::panic::catch_unwind(std::panic::AssertUnwindSafe(encode));
        let encoding = encoding.map_err(|_| TokenizerError("it names tokens that it does not have".into()))?;
        Ok(encoding.map_err(|e| TokenizerError(e.to_string()))?.get_ids().to_vec())
    }

    /// Token ids of a text with the special tokens around it, at most `most` of them, and which ones are special. The end
    /// of a text that is too long is left out.
    pub fn encode_marked(&self, text: &str, most: usize) -> Result<(Vec<u32>, Vec<bool>), TokenizerError> {
        let encoding = self.inner.encode(text, true).map_err(|e| TokenizerError(e.to_string()))?;
        let mut all: Vec<(u32, bool)> = encoding
            .get_ids()
            .iter()
            .zip(encoding.get_special_tokens_mask())
            .map(|(id, special)| (*id, *special == 1))
            .collect();
        if let Some(last) = all.last().copied().filter(|_| all.len() > most) {
            all.truncate(most.saturating_sub(1));
            all.push(last);
        }
        Ok(all.into_iter().unzip())
    }

    /// Text of some tokens, without special ones.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        self.inner.decode(ids, true).map_err(|e| TokenizerError(e.to_string()))
    }

    /// Every token with its id.
    pub fn vocabulary(&self) -> HashMap<String, u32> {
        self.inner.get_vocab(true)
    }

    /// Id of a token written exactly so.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// How a token is written.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The tokenizer itself, to look at.
    pub fn inner(&self) -> &tokenizers::Tokenizer {
        &self.inner
    }

    /// The tokenizer itself.
    pub fn into_inner(self) -> tokenizers::Tokenizer {
        self.inner
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// There is no token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Turns tokens into text one by one.
///
/// A character may take several tokens, and spaces depend on what stands before: text comes out as soon as it can no
/// longer change.
#[derive(Clone, Debug, Default)]
pub struct TextStream {
    /// Tokens since the last clean break; the first `shown` of them are out.
    ids: Vec<u32>,
    shown: usize,
}

impl TextStream {
    /// The text that this token completes; empty while a character is unfinished.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String, TokenizerError> {
        self.ids.push(id);
        let text = self.news(tokenizer)?;
        // The replacement character at the end stands for bytes still to come.
        if text.is_empty() || text.ends_with('\u{fffd}') {
            return Ok(String::new());
        }
        self.ids.drain(..self.shown);
        self.shown = self.ids.len();
        Ok(text)
    }

    /// What was held back, at the end of an utterance; begins a new one.
    pub fn finish(&mut self, tokenizer: &Tokenizer) -> Result<String, TokenizerError> {
        let text = self.news(tokenizer)?;
        *self = Self::default();
        Ok(text)
    }

    fn news(&self, tokenizer: &Tokenizer) -> Result<String, TokenizerError> {
        let before = tokenizer.decode(self.ids.get(..self.shown).unwrap_or_default())?;
        let all = tokenizer.decode(&self.ids)?;
        // Decoders that tidy up spaces may touch what is already out; that much of the text is then taken as said.
        Ok(all.strip_prefix(before.as_str()).or_else(|| all.get(before.len()..)).unwrap_or_default().to_string())
    }
}
