//! Where the chosen tokens of a batch lie.

use super::Block;
#[cfg(feature = "cuda")]
use super::card::Chosen;
use crate::nn::{pick_rows, put_rows};
use candle_core::{Result, Tensor, bail};

/// The tokens that are worked on, `k` of the `n` of each of `b` pictures.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    b: usize,
    n: usize,
    k: usize,
    rows: Rows,
}

/// Their rows among all tokens of the batch, rising within a picture.
#[derive(Clone, Debug)]
enum Rows {
    Listed(Vec<u32>),
    /// On the card, where the next layers wait for them.
    #[cfg(feature = "cuda")]
    Chosen(Chosen),
}

impl Places {
    /// Of these tokens.
    ///
    /// # Errors
    /// Pictures with different numbers of tokens, or a token that is not there.
    pub(crate) fn new(b: usize, n: usize, chosen: &[Vec<u32>]) -> Result<Self> {
        let k = chosen.first().map_or(0, Vec::len);
        if chosen.len() != b || k == 0 || chosen.iter().any(|c| c.len() != k) {
            bail!("{b} pictures need as many choices of one size");
        }
        if let Some(token) = chosen.iter().flatten().find(|t| **t as usize >= n) {
            bail!("token {token} of {n}");
        }
        let rows = chosen.iter().enumerate().flat_map(|(i, c)| c.iter().map(move |t| (i * n) as u32 + t)).collect();
        Ok(Self { b, n, k, rows: Rows::Listed(rows) })
    }

    /// Of the `k` tokens of each picture with the highest `scores: [b, n]`, the first `protected` always among them; chosen on
    /// the card.
    ///
    /// # Errors
    /// Those of the device.
    #[cfg(feature = "cuda")]
    pub(super) fn top(scores: &Tensor, k: usize, protected: usize) -> Result<Self> {
        let (b, n) = scores.dims2()?;
        Ok(Self { b, n, k, rows: Rows::Chosen(Chosen::top(scores, k, protected)?) })
    }

    /// For each picture its tokens, rising.
    ///
    /// # Errors
    /// Those of the device.
    pub(super) fn lists(&self) -> Result<Vec<Vec<u32>>> {
        let rows = match &self.rows {
            Rows::Listed(rows) => rows.clone(),
            #[cfg(feature = "cuda")]
            Rows::Chosen(chosen) => chosen.rows.to_vec1()?,
        };
        let tokens = |(i, rows): (usize, &[u32])| rows.iter().map(|row| row - (i * self.n) as u32).collect();
        Ok(rows.chunks_exact(self.k).enumerate().map(tokens).collect())
    }

    /// The chosen ones of `flat: [b * n, d]`, `[b, k, d]`.
    ///
    /// # Errors
    /// Those of the device.
    pub(super) fn take(&self, flat: &Tensor) -> Result<Tensor> {
        let taken = match &self.rows {
            Rows::Listed(rows) => pick_rows(flat, rows)?,
            #[cfg(feature = "cuda")]
            Rows::Chosen(chosen) => flat.contiguous()?.index_select(&chosen.rows, 0)?,
        };
        taken.reshape((self.b, self.k, ()))
    }

    /// `flat: [b * n, d]` with the chosen ones replaced by `worked: [b, k, d]`.
    ///
    /// # Errors
    /// Those of the device.
    pub(super) fn put(&self, flat: &Tensor, worked: &Tensor) -> Result<Tensor> {
        let worked = worked.reshape((self.b * self.k, ()))?;
        match &self.rows {
            Rows::Listed(rows) => put_rows(flat, &worked, rows),
            #[cfg(feature = "cuda")]
            Rows::Chosen(chosen) => chosen.put(flat, &worked),
        }
    }

    /// The layer over the chosen tokens of `x: [b, n, d]` alone; the others stay as they are, bit for bit, in their places.
    ///
    /// # Errors
    /// Those of the device.
    pub(super) fn work(&self, layer: &dyn Block, x: &Tensor) -> Result<Tensor> {
        let flat = x.flatten(0, 1)?;
        let worked = layer.forward(&self.take(&flat)?)?;
        self.put(&flat, &worked)?.reshape(x.shape())
    }
}
