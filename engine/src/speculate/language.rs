//! A small language model as drafter for a target that sees (arXiv 2404.08856; specs: speculative, section 2).
//!
//! It reads text only, or with an adapter a few tokens of the newest pictures before each utterance (section 2.4). Its
//! positions are those of what it reads, so two counters are kept: its own and the target's, which runs ahead by the visual
//! tokens.

use super::draft::{Branch, Drafter, Logits, Text};
use crate::model::{
    CacheOptions, Commit, Decoder, DraftModel, KvCache, Policy,
    adapter::{Adapter, AdapterConfig, pool},
};
use candle_core::{DType, Result, Tensor, bail};
use serde::{Deserialize, Serialize};
use spotter_vision::nn::put_rows;
use std::collections::{HashMap, VecDeque};

/// What the drafter reads where the target sees a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Picture {
    /// Nothing.
    #[default]
    Drop,
    /// One token of this id for each picture.
    Placeholder(u32),
    /// Before each utterance the tokens that its adapter makes of the newest pictures.
    Adapter,
}

/// What it reads, in order.
#[derive(Clone, Debug)]
enum Item {
    Token(u32),
    /// A pooled visual token of the target, `[1, width]`, and its place among those of its moment.
    Seen(Tensor, u32),
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
    /// What it sees with, where it does.
    adapter: Option<Adapter>,
    /// The newest pictures, as many as the adapter reads.
    frames: VecDeque<Tensor>,
    cache: KvCache,
    text: Text<Item>,
    /// Items of the text whose keys are in the cache.
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
    /// A drafter for a target with `vocab` ids. It remembers what fits its positions, newest first. Where `picture` is not
    /// given it reads an adapter's tokens if it has one, else text only.
    ///
    /// # Errors
    /// A model with too few positions, or an adapter that is asked for and not there.
    pub fn new(model: impl Into<DraftModel>, vocab: usize, picture: impl Into<Option<Picture>>) -> Result<Self> {
        let DraftModel { decoder, adapter } = model.into();
        let own = if adapter.is_some() { Picture::Adapter } else { Picture::Drop };
        let picture = picture.into().unwrap_or(own);
        let adapter = adapter.filter(|_| picture == Picture::Adapter);
        if picture == Picture::Adapter && adapter.is_none() {
            bail!(
                "speculation.picture = \"adapter\", but the drafter's folder has no tensors adapter.*: train it with \
                 `spotter train drafter --adapter N`, or leave `picture` out"
            );
        }
        let config = decoder.config();
        let scratch = SCRATCH.min(config.max_positions / 4);
        let options = CacheOptions { policy: Policy::Window, budget: None, ..CacheOptions::default() };
        let cache =
            KvCache::bounded(config, &options, config.max_positions, scratch, decoder.dtype(), decoder.device())?;
        let text = Text::default();
        Ok(Self {
            decoder,
            adapter,
            frames: VecDeque::new(),
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
    pub fn text(&self) -> Vec<u32> {
        let token = |item: &Item| if let Item::Token(id) = item { Some(*id) } else { None };
        self.text.items().iter().filter_map(token).collect()
    }

    /// Items whose keys are not there yet.
    fn pending(&self) -> &[Item] {
        self.text.items().get(self.fed..).unwrap_or_default()
    }

    fn push(&mut self, ids: &[u32]) {
        self.text.push(ids.iter().copied().map(Item::Token));
    }

    /// Embeddings `[1, n, width]`.
    fn embed(&self, items: &[Item]) -> Result<Tensor> {
        // A token that only the target has reads as the drafter's last: a draft may be poor, but never fails.
        let last = (self.decoder.config().vocab as u32).saturating_sub(1);
        let known: Vec<u32> =
            items.iter().map(|item| if let Item::Token(id) = item { (*id).min(last) } else { 0 }).collect();
        let x = self.decoder.embed(&Tensor::new(known, self.decoder.device())?.unsqueeze(0)?)?;
        let Some(adapter) = &self.adapter else { return Ok(x) };
        let (mut index, mut rows, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for (i, item) in items.iter().enumerate() {
            if let Item::Seen(row, place) = item {
                index.push(i as u32);
                rows.push(row);
                places.push(*place);
            }
        }
        if rows.is_empty() {
            return Ok(x);
        }
        let seen = adapter.rows(&Tensor::cat(&rows, 0)?, &places)?;
        put_rows(&x.squeeze(0)?, &seen, &index)?.unsqueeze(0)
    }

    /// What its adapter will read of the newest pictures.
    fn glimpse(&self) -> Result<Vec<Item>> {
        let Some(adapter) = self.adapter.as_ref().filter(|_| !self.frames.is_empty()) else { return Ok(Vec::new()) };
        let frames: Vec<&Tensor> = self.frames.iter().collect();
        let pooled = pool(&Tensor::cat(&frames, 1)?.squeeze(0)?, adapter.config().tokens)?;
        let pooled = pooled.to_dtype(self.decoder.dtype())?.to_device(self.decoder.device())?;
        (0..adapter.config().tokens).map(|i| Ok(Item::Seen(pooled.narrow(0, i, 1)?, i as u32))).collect()
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
        let before = self.text.mark().min(self.text.items().len().saturating_sub(1));
        if self.fed > 0 && before.saturating_sub(self.fed) > BEHIND {
            self.text.forget(before - BEHIND);
            self.fed = 0;
            self.cache.clear()?;
        }
        let before = self.text.mark().min(self.text.items().len().saturating_sub(1));
        self.feed(before)?;
        self.fed_before = self.fed;
        self.cache.begin()
    }

    /// Feeds pending items of the text up to a place; hidden states of what was fed.
    fn feed(&mut self, to: usize) -> Result<Option<Tensor>> {
        let items = self.text.items().get(self.fed..to).unwrap_or_default();
        if items.is_empty() {
            return Ok(None);
        }
        let (x, n) = (self.embed(items)?, items.len());
        let hidden = self.decoder.forward(&x, Some(&mut self.cache))?;
        self.fed += n;
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
        self.push(ids);
        Ok(())
    }

    fn see(&mut self, picture: &Tensor) -> Result<()> {
        match (self.picture, &self.adapter) {
            (Picture::Placeholder(id), _) => self.push(&[id]),
            (Picture::Adapter, Some(adapter)) => {
                let AdapterConfig { from, frames, .. } = *adapter.config();
                if picture.dim(2)? != from {
                    bail!("a drafter whose adapter reads {from} numbers was shown a picture of {:?}", picture.shape());
                }
                self.frames.push_back(picture.clone());
                self.frames.drain(..self.frames.len().saturating_sub(frames));
            }
            _ => {}
        }
        Ok(())
    }

    fn open(&mut self) -> Result<()> {
        // One that was never closed is taken back.
        self.close(false)?;
        let seen = self.glimpse()?;
        let dropped = self.text.bound(2 * self.cache.capacity());
        self.fed = self.fed.saturating_sub(dropped);
        self.text.open();
        self.text.push(seen);
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
        let Some(hidden) = self.feed(self.text.items().len())? else { return Ok(None) };
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
        let tokens: Vec<Item> = branches.iter().map(|b| Item::Token(b.token)).collect();
        let parents: Vec<Option<usize>> = branches.iter().map(|b| b.parent).collect();
        let x = self.embed(&tokens)?;
        let hidden = self.decoder.forward_tree(&x, &parents, &mut self.cache)?;
        self.passes += 1;
        Ok(self.rows(&hidden)?.into_iter().map(Some).collect())
    }

    fn settle(&mut self, path: &[usize], ids: &[u32]) -> Result<()> {
        self.push(ids);
        if std::mem::take(&mut self.round) {
            self.cache.commit(Commit::Path(path))?;
            self.fed += path.len();
        }
        Ok(())
    }

    fn clear(&mut self) -> Result<()> {
        (self.fed, self.fed_before, self.open, self.begun, self.round) = (0, 0, false, false, false);
        self.text.clear();
        self.frames.clear();
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
