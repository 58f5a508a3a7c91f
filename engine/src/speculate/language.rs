//! A small language model as drafter for a target that sees (arXiv 2404.08856; specs: speculative, section 2).
//!
//! It reads text only. Its positions are those of the text, so two counters are kept: its own and the target's, which
//! runs ahead by the visual tokens.

use super::draft::{Branch, Drafter, Logits, Text};
use crate::model::{CacheOptions, Commit, Decoder, KvCache, Policy};
use candle_core::{DType, Result, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// What the drafter reads where the target sees a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Picture {
    /// Nothing.
    #[default]
    Drop,
    /// One token of this id for each picture.
    Placeholder(u32),
}

/// Two models whose tokens are not the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the drafter's tokenizer is not the target's: {0}")]
pub struct VocabularyMismatch(String);

/// Checks that a drafter's vocabulary (token to id) is the target's, which may have more tokens behind it: places for
/// pictures, say, which a drafter neither reads nor drafts.
///
/// # Errors
/// The first difference, in words.
pub fn same_vocabulary(
    target: &HashMap<String, u32>,
    drafter: &HashMap<String, u32>,
) -> std::result::Result<(), VocabularyMismatch> {
    let end = drafter.values().max().map_or(0, |id| id + 1);
    let mut different: Vec<(&String, u32)> = target
        .iter()
        .filter(|(token, id)| drafter.get(*token).map_or(**id < end, |other| other != *id))
        .map(|(token, id)| (token, *id))
        .collect();
    different.sort_unstable_by_key(|(_, id)| *id);
    if let Some((token, id)) = different.first() {
        let found = drafter.get(*token).map_or("does not have it".to_owned(), |id| format!("has it as {id}"));
        return Err(VocabularyMismatch(format!("`{token}` is {id}, the drafter {found}")));
    }
    match drafter.iter().filter(|(token, _)| !target.contains_key(*token)).min_by_key(|(_, id)| **id) {
        Some((token, id)) => Err(VocabularyMismatch(format!("the drafter has `{token}` as {id}, the target does not"))),
        None => Ok(()),
    }
}

/// Positions that one utterance and the columns of a round may take.
const SCRATCH: usize = 512;
/// Tokens that are caught up with. A drafter that was switched off for longer begins anew with as many of the newest.
const BEHIND: usize = 96;

/// A language model that drafts.
pub struct ModelDrafter {
    decoder: Decoder,
    cache: KvCache,
    text: Text,
    /// Tokens of the text whose keys are in the cache.
    fed: usize,
    /// The same when the utterance was opened.
    fed_before: usize,
    picture: Picture,
    /// Tokens that the target can say.
    vocab: usize,
    passes: u64,
    /// An utterance is open.
    open: bool,
    /// It has been fed, in a step of the cache.
    begun: bool,
    /// A round has branches in the cache.
    round: bool,
}

impl ModelDrafter {
    /// A drafter for a target with `vocab` ids. It remembers what fits its positions, newest first.
    ///
    /// # Errors
    /// A model with too few positions.
    pub fn new(decoder: Decoder, vocab: usize, picture: Picture) -> Result<Self> {
        let config = decoder.config();
        let scratch = SCRATCH.min(config.max_positions / 4);
        let options = CacheOptions { policy: Policy::Window, budget: None, ..CacheOptions::default() };
        let cache =
            KvCache::bounded(config, &options, config.max_positions, scratch, decoder.dtype(), decoder.device())?;
        let text = Text::default();
        Ok(Self {
            decoder,
            cache,
            text,
            fed: 0,
            fed_before: 0,
            picture,
            vocab,
            passes: 0,
            open: false,
            begun: false,
            round: false,
        })
    }

    /// Position of its next token.
    pub fn position(&self) -> usize {
        self.cache.position() + self.pending().len()
    }

    /// The text it has read, oldest first; old parts are dropped.
    pub fn text(&self) -> &[u32] {
        self.text.ids()
    }

    /// Tokens whose keys are not there yet.
    fn pending(&self) -> &[u32] {
        self.text.ids().get(self.fed..).unwrap_or_default()
    }

    fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        // A token that only the target has reads as the drafter's last: a draft may be poor, but never fails.
        let last = (self.decoder.config().vocab as u32).saturating_sub(1);
        let known: Vec<u32> = ids.iter().map(|id| (*id).min(last)).collect();
        self.decoder.embed(&Tensor::new(known, self.decoder.device())?.unsqueeze(0)?)
    }

    /// Rows of hidden states `[1, n, width]` as log-weights over the target's ids; those it does not have get none.
    fn rows(&self, hidden: &Tensor) -> Result<Vec<Logits>> {
        let rows: Vec<Logits> = self.decoder.logits(hidden)?.squeeze(0)?.to_dtype(DType::F32)?.to_vec2()?;
        Ok(rows.into_iter().map(|row| self.spread(row)).collect())
    }

    /// A row of the drafter's head as one of the target's vocabulary.
    fn spread(&self, mut row: Logits) -> Logits {
        let Some(said) = self.decoder.said() else {
            row.resize(self.vocab, f32::NEG_INFINITY);
            return row;
        };
        let mut all = vec![f32::NEG_INFINITY; self.vocab];
        for (id, logit) in said.iter().zip(row) {
            if let Some(slot) = all.get_mut(*id as usize) {
                *slot = logit;
            }
        }
        all
    }

    /// Feeds what came before the open utterance, and opens a step for the rest.
    fn begin(&mut self) -> Result<()> {
        if !self.open || std::mem::replace(&mut self.begun, true) {
            return Ok(());
        }
        // All but the last token, which gives the first law; what is fed here may push old entries out.
        let before = self.text.mark().min(self.text.ids().len().saturating_sub(1));
        if self.fed > 0 && before.saturating_sub(self.fed) > BEHIND {
            self.text.forget(before - BEHIND);
            self.fed = 0;
            self.cache.clear()?;
        }
        let before = self.text.mark().min(self.text.ids().len().saturating_sub(1));
        self.feed(before)?;
        self.fed_before = self.fed;
        self.cache.begin()
    }

    /// Feeds pending tokens of the text up to a place; hidden states of what was fed.
    fn feed(&mut self, to: usize) -> Result<Option<Tensor>> {
        let ids = self.text.ids().get(self.fed..to).unwrap_or_default().to_vec();
        if ids.is_empty() {
            return Ok(None);
        }
        let x = self.embed(&ids)?;
        let hidden = self.decoder.forward(&x, Some(&mut self.cache))?;
        self.fed += ids.len();
        self.passes += 1;
        Ok(Some(hidden))
    }
}

impl Drafter for ModelDrafter {
    fn describe(&self) -> String {
        "model".into()
    }

    fn parameters(&self) -> usize {
        self.decoder.parameters()
    }

    fn passes(&self) -> u64 {
        self.passes
    }

    fn backlog(&self) -> usize {
        let pending = self.pending().len();
        if self.fed > 0 { pending.min(BEHIND) } else { pending }
    }

    fn read(&mut self, ids: &[u32]) -> Result<()> {
        self.text.push(ids);
        Ok(())
    }

    fn see(&mut self, _tokens: usize) -> Result<()> {
        if let Picture::Placeholder(id) = self.picture {
            self.text.push(&[id]);
        }
        Ok(())
    }

    fn open(&mut self) -> Result<()> {
        // One that was never closed is taken back.
        self.close(false)?;
        let dropped = self.text.bound(2 * self.cache.capacity());
        self.fed = self.fed.saturating_sub(dropped);
        self.text.open();
        self.open = true;
        Ok(())
    }

    fn close(&mut self, keep: bool) -> Result<()> {
        if !std::mem::take(&mut self.open) {
            return Ok(());
        }
        if std::mem::take(&mut self.round) {
            self.cache.rollback()?;
        }
        // Where no round was asked for, nothing of it was fed.
        if std::mem::take(&mut self.begun) {
            if keep {
                self.cache.commit(Commit::All)?;
            } else {
                self.cache.rollback()?;
                self.fed = self.fed_before;
            }
        }
        self.text.close(keep);
        Ok(())
    }

    fn root(&mut self) -> Result<Option<Logits>> {
        self.begin()?;
        // Without a pending token there is no hidden state to ask, and without room no pass.
        if self.pending().len() > self.cache.depth() {
            return Ok(None);
        }
        let Some(hidden) = self.feed(self.text.ids().len())? else { return Ok(None) };
        let last = hidden.narrow(1, hidden.dim(1)? - 1, 1)?;
        Ok(self.rows(&last)?.pop())
    }

    fn expand(&mut self, branches: &[Branch]) -> Result<Vec<Option<Logits>>> {
        if branches.is_empty() || branches.len() > self.cache.width() || self.cache.depth() == 0 {
            return Ok(vec![None; branches.len()]);
        }
        if !std::mem::replace(&mut self.round, true) {
            self.cache.begin()?;
        }
        let tokens: Vec<u32> = branches.iter().map(|b| b.token).collect();
        let parents: Vec<Option<usize>> = branches.iter().map(|b| b.parent).collect();
        let x = self.embed(&tokens)?;
        let hidden = self.decoder.forward_tree(&x, &parents, &mut self.cache)?;
        self.passes += 1;
        Ok(self.rows(&hidden)?.into_iter().map(Some).collect())
    }

    fn settle(&mut self, path: &[usize], ids: &[u32]) -> Result<()> {
        self.text.push(ids);
        if std::mem::take(&mut self.round) {
            self.cache.commit(Commit::Path(path))?;
            self.fed += path.len();
        }
        Ok(())
    }

    fn clear(&mut self) -> Result<()> {
        (self.fed, self.fed_before, self.open, self.begun, self.round) = (0, 0, false, false, false);
        self.text.clear();
        self.cache.clear()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S1.6.
    #[test]
    fn vocabularies_must_be_the_same() {
        let of = |tokens: &[(&str, u32)]| tokens.iter().map(|(t, i)| ((*t).to_owned(), *i)).collect::<HashMap<_, _>>();
        let target = of(&[("a", 0), ("b", 1), ("c", 2)]);
        assert_eq!(same_vocabulary(&target, &target), Ok(()));
        let check = |drafter: &[(&str, u32)], expected: &str| {
            let problem = same_vocabulary(&target, &of(drafter)).unwrap_err().to_string();
            assert!(problem.contains(expected), "{problem}");
        };
        assert_eq!(same_vocabulary(&target, &of(&[("a", 0), ("b", 1)])), Ok(()), "the target's own, behind the rest");
        check(&[("a", 0), ("c", 2)], "`b` is 1, the drafter does not have it");
        check(&[("a", 0), ("b", 1), ("c", 2), ("d", 3)], "the drafter has `d` as 3, the target does not");
        check(&[("a", 0), ("b", 2), ("c", 1)], "`b` is 1, the drafter has it as 2");
        check(&[("a", 0), ("b", 1), ("d", 2)], "`c` is 2, the drafter does not have it");
    }
}
