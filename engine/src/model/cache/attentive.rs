//! Scores of attention weights: H2O, TOVA and SnapKV, all for each key head by itself.
//!
//! TOVA is defined here for each key head: the sum over its query heads of the newest query's weights. Other
//! implementations average over all heads and keep the newest entry in any case; for that there is the window.

use super::scorer::{Entries, Scorer, Watch, Weights, wide};
use candle_core::{D, Result, Tensor, bail};

/// Attention received from all queries so far ("heavy hitters", arXiv 2306.14048).
#[derive(Clone, Copy, Debug)]
pub struct H2o;

/// Attention received from the newest query (arXiv 2401.06104).
#[derive(Clone, Copy, Debug)]
pub struct Tova;

/// Attention received from the newest few queries (arXiv 2404.14469), without smoothing over neighbours.
#[derive(Clone, Copy, Debug)]
pub struct SnapKv {
    /// Queries looked at.
    pub observe: usize,
}

impl Weights for H2o {
    fn watch(&self) -> Watch {
        Watch { queries: 0, mass: true }
    }

    fn weights(&self, entries: &Entries) -> Result<Tensor> {
        let Some(mass) = entries.mass else { bail!("h2o: the attention received was not watched") };
        normalised(mass)
    }
}

impl Weights for Tova {
    fn watch(&self) -> Watch {
        Watch { queries: 1, mass: false }
    }

    fn weights(&self, entries: &Entries) -> Result<Tensor> {
        let rows = attention(entries)?;
        rows.narrow(2, rows.dim(2)? - 1, 1)?.squeeze(2)?.contiguous()
    }
}

impl Weights for SnapKv {
    fn watch(&self) -> Watch {
        Watch { queries: self.observe, mass: false }
    }

    fn weights(&self, entries: &Entries) -> Result<Tensor> {
        // A sum over queries as a product: reductions over inner dimensions are slow.
        let rows = attention(entries)?;
        let (heads, group, w, n) = rows.dims4()?;
        let ones = Tensor::ones((heads * group, 1, w), rows.dtype(), rows.device())?;
        normalised(&ones.matmul(&rows.reshape((heads * group, w, n))?)?.reshape((heads, group, n))?)
    }
}

macro_rules! score_by_weights {
    ($($kind:ty),*) => {$(
        impl Scorer for $kind {
            fn watch(&self) -> Watch {
                Weights::watch(self)
            }

            fn scores(&self, entries: &Entries) -> Result<Tensor> {
                self.weights(entries)?.sum(1)
            }
        }
    )*};
}

score_by_weights!(H2o, Tova, SnapKv);

/// Rows to sum 1; rows of zeros stay.
fn normalised(weights: &Tensor) -> Result<Tensor> {
    weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?.maximum(f64::from(f32::MIN_POSITIVE))?)
}

/// Weights of the watched queries over the present entries, `[heads, group, w, n]`, f32.
pub(crate) fn attention(entries: &Entries) -> Result<Tensor> {
    let Some(queries) = entries.queries else { bail!("no query was watched since the last eviction") };
    let (heads, group, w, dim) = queries.dims4()?;
    let n = entries.keys.dim(1)?;
    let scale = 1.0 / (dim as f64).sqrt();
    let queries = (wide(queries)?.reshape((heads, group * w, dim))? * scale)?;
    let mut scores = queries.matmul(&wide(&entries.keys.contiguous()?)?.t()?)?.reshape((heads, group, w, n))?;
    if let Some(hidden) = entries.hidden {
        scores = scores.broadcast_add(&hidden.unsqueeze(1)?)?;
    }
    candle_nn::ops::softmax_last_dim(&scores.contiguous()?)
}
