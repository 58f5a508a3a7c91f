//! Parts of lines, as a decoder reads them: side by side, with what an adapter makes of pictures in its places.

use super::{
    drafter::Head,
    lines::{Line, PICTURE, Seen},
};
use crate::model::{Adapter, AdapterConfig, Decoder};
use candle_core::{Device, Result, Tensor, bail};
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use spotter_vision::nn::{pick_rows, put_rows};

/// Lines as a decoder reads them, all as long as the longest.
pub(super) struct Batch {
    /// `[lines, tokens]`.
    pub(super) ids: Tensor,
    /// Rows of hidden states, over all lines, before the tokens that are compared with the target.
    pub(super) spoken: Vec<u32>,
    /// For each of these the row of the target's distribution, where it was kept, and the line.
    pub(super) rows: Vec<usize>,
    pub(super) lines: Vec<u32>,
    /// Rows before tokens that are read, and these tokens.
    pub(super) read: Vec<u32>,
    pub(super) next: Vec<u32>,
    sights: Sights,
}

/// What was seen within some lines.
#[derive(Default)]
struct Sights {
    /// Whole moments, row after row, of which a cut may have taken some rows.
    values: Vec<f32>,
    /// The rows that are left, and the places in which they stand.
    rows: Vec<u32>,
    places: Vec<u32>,
    /// Row of what was seen that came last.
    last: Option<usize>,
}

impl Sights {
    /// Takes up row `row` of what was seen, at a place.
    fn take(&mut self, seen: Option<&Seen>, row: usize, place: u32) -> Result<()> {
        let Some((seen, (_, at))) = seen.and_then(|seen| Some((seen, seen.row(row)?))) else {
            bail!("row {row} of what was seen is not there");
        };
        if at == 0 || self.last != Some(row - 1) {
            for other in row - at..row - at + seen.tokens {
                self.values.extend_from_slice(seen.row(other).map_or(&[][..], |(values, _)| values));
            }
        }
        self.rows.push((self.values.len() / seen.width.max(1) - seen.tokens + at) as u32);
        self.places.push(place);
        self.last = Some(row);
        Ok(())
    }
}

/// A line from one token to another, and whether the target's words in it are compared or all are read.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) line: &'a Line,
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) compared: bool,
}

impl<'a> Part<'a> {
    pub(super) fn whole(line: &'a Line, compared: bool) -> Self {
        Self { line, from: 0, to: line.ids.len(), compared }
    }

    /// At most `length` tokens from anywhere in the line, with something to learn among them. Half of the cuts begin
    /// where the line does, as texts do.
    pub(super) fn random(line: &'a Line, compared: bool, length: usize, rng: &mut ChaCha8Rng) -> Self {
        let spare = line.ids.len().saturating_sub(length);
        let spoken: Vec<usize> = if compared { line.utterances().iter().map(|u| u.0).collect() } else { Vec::new() };
        let first = spoken.get(rng.random_range(0..spoken.len().max(1))).copied();
        // The first spoken token has to be in it, and one before it.
        let (low, high) = match first {
            Some(first) => ((first + 1).saturating_sub(length), first.saturating_sub(1).min(spare)),
            None => (0, spare),
        };
        let from = if low == 0 && rng.random_bool(0.5) { 0 } else { rng.random_range(low..=high.max(low)) };
        Self { line, from, to: (from + length).min(line.ids.len()), compared }
    }
}

impl Batch {
    /// With `head`, tokens that it does not have are read and never to be guessed. `seen` is of all lines, where these have
    /// places for it.
    pub(super) fn new(
        parts: &[Part<'_>],
        (head, seen): (Option<&Head>, Option<&Seen>),
        device: &Device,
    ) -> Result<Self> {
        let tokens = parts.iter().map(|p| p.to - p.from).max().unwrap_or(0).saturating_sub(1).max(1);
        let (mut ids, mut spoken, mut rows, mut lines) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut read, mut next, mut sights) = (Vec::new(), Vec::new(), Sights::default());
        for (number, part) in parts.iter().enumerate() {
            let flags = part.line.spoken.iter().take(part.from + 1);
            let mut row = part.line.row + flags.filter(|s| **s).count();
            // Padding lies behind everything that counts, so causal attention never sees it.
            let own = part.line.ids.get(part.from..part.to).unwrap_or_default();
            ids.extend((0..tokens).map(|i| own.get(i).copied().filter(|id| *id != PICTURE).unwrap_or(0)));
            let before = part.line.ids.iter().take(part.from).filter(|id| **id == PICTURE).count();
            let pictures = own.iter().take(tokens).enumerate().filter(|(_, id)| **id == PICTURE);
            for (n, (i, _)) in pictures.enumerate() {
                sights.take(seen, part.line.sight + before + n, (number * tokens + i) as u32)?;
            }
            for (i, id) in own.iter().enumerate().skip(1) {
                let place = (number * tokens + i - 1) as u32;
                let said = part.line.spoken.get(part.from + i).is_some_and(|s| *s);
                if said && part.compared {
                    spoken.push(place);
                    rows.push(row);
                    lines.push(number as u32);
                } else if !part.compared
                    && *id != PICTURE
                    && let Some(column) = head.map_or(Some(*id), |head| head.place(*id))
                {
                    read.push(place);
                    next.push(column);
                }
                row += usize::from(said);
            }
        }
        let ids = Tensor::from_vec(ids, (parts.len(), tokens), device)?;
        Ok(Self { ids, spoken, rows, lines, read, next, sights })
    }

    /// Hidden states of a decoder, `[lines * tokens, width]`.
    pub(super) fn hidden(&self, decoder: &Decoder, adapter: Option<&Adapter>) -> Result<Tensor> {
        let x = decoder.embed(&self.ids)?;
        let x = match adapter {
            Some(adapter) => self.with_sights(&x, adapter)?,
            None if self.sights.rows.is_empty() => x,
            None => bail!("lines with pictures can't be read without an adapter"),
        };
        decoder.forward(&x, None)?.reshape(((), decoder.config().width))
    }

    /// Embeddings with what the adapter makes of pictures in their places.
    fn with_sights(&self, x: &Tensor, adapter: &Adapter) -> Result<Tensor> {
        let AdapterConfig { tokens, from, width, .. } = *adapter.config();
        let sights = &self.sights;
        if sights.rows.is_empty() {
            // Nothing is seen, but every variable has to have a gradient: of 0, which a factor of 0 would cut off.
            let nothing = adapter.forward(&Tensor::zeros((1, tokens, from), x.dtype(), x.device())?)?;
            let none = Tensor::zeros((), x.dtype(), x.device())?;
            return x.broadcast_add(&(nothing.sum_all()? * none)?);
        }
        let pooled = Tensor::from_slice(&sights.values, ((), tokens, from), x.device())?;
        let rows = adapter.forward(&pooled)?.reshape(((), width))?;
        put_rows(&x.reshape(((), width))?, &pick_rows(&rows, &sights.rows)?, &sights.places)?.reshape(x.shape())
    }
}
