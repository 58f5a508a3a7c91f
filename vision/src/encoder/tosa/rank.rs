//! From an attention map to the tokens that are worked on.

use candle_core::{D, DType, Result, Tensor};
use rand::{SeedableRng as _, seq::index::sample};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// What a map `[b, heads, n, n]` (rows sum to 1) says of a token, as a mean over heads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Score {
    /// Attention it receives from all tokens.
    #[default]
    ColSum,
    /// Attention it receives from the first token.
    ClsRow,
    /// How evenly it looks at the others.
    RowEntropy,
}

impl Score {
    /// Scores of every token of every picture of a map `[b, heads, n, n]`.
    ///
    /// # Errors
    /// Those of the device.
    pub fn tokens(self, map: &Tensor) -> Result<Vec<Vec<f32>>> {
        self.of(&map.detach())?.to_dtype(DType::F32)?.to_vec2()
    }

    /// Scores `[b, n]`.
    pub(super) fn of(self, map: &Tensor) -> Result<Tensor> {
        let (b, heads, n, _) = map.dims4()?;
        match self {
            // Sums over rows and heads as one product.
            Self::ColSum => {
                let ones = Tensor::full(1.0 / heads as f32, (b, 1, heads * n), map.device())?.to_dtype(map.dtype())?;
                ones.matmul(&map.contiguous()?.reshape((b, heads * n, n))?)?.squeeze(1)
            }
            Self::ClsRow => map.narrow(2, 0, 1)?.squeeze(2)?.mean(1),
            Self::RowEntropy => {
                let surprise = map.maximum(1e-12)?.log()?.neg()?;
                (map * surprise)?.sum(D::Minus1)?.mean(1)
            }
        }
    }
}

/// Who says which tokens matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ranking {
    /// The trained selectors.
    Selector,
    /// The layer's own map, had all tokens gone through it: the best a selector could do.
    Oracle,
    /// The map of the layer before: what a selector must beat.
    Previous,
    /// Chance, from a seed: what anything must beat.
    Random(u64),
    /// What has changed since the layer last worked on it, and nothing else; in a stream with `reuse` only.
    Change,
}

/// Tokens that a layer works on of `n`, the first `protected` among them.
pub fn keep(ratio: f64, n: usize, protected: usize) -> usize {
    let free = n.saturating_sub(protected);
    // 0.1 * 30 is a little above 3.
    let share = (ratio * free as f64 - 1e-9).ceil().max(0.0) as usize;
    (share + protected.min(n)).clamp(n.min(1), n)
}

/// The `k` tokens of the highest scores, the first `protected` always among them; of equals the first. Rising.
pub fn top(scores: &[f32], k: usize, protected: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (protected.min(k) as u32..scores.len() as u32).collect();
    let score = |i: &u32| scores.get(*i as usize).copied().unwrap_or(f32::NEG_INFINITY);
    order.sort_by(|a, b| score(b).total_cmp(&score(a)).then(a.cmp(b)));
    let mut chosen: Vec<u32> =
        (0..protected.min(k) as u32).chain(order.into_iter().take(k.saturating_sub(protected))).collect();
    chosen.sort_unstable();
    chosen
}

/// The `k` tokens of each picture with the highest scores, the first `protected` always among them; `changed` says how far each
/// token is from where its layer last worked on it. What skipping a token costs grows with the attention it receives
/// and with what has changed about it, so the two are multiplied.
pub fn choose(mut scores: Vec<Vec<f32>>, changed: Option<&[Vec<f32>]>, k: usize, protected: usize) -> Vec<Vec<u32>> {
    for (scores, changed) in scores.iter_mut().zip(changed.unwrap_or_default()) {
        scores.iter_mut().zip(changed).for_each(|(s, c)| *s *= c);
    }
    scores.iter().map(|s| top(s, k, protected)).collect()
}

/// What chance draws from: the same again for the same frame, layer and picture, other tokens for any other.
#[derive(Clone, Copy)]
pub(super) struct Draw {
    pub(super) seed: u64,
    /// Number of the frame in its stream.
    pub(super) frame: u64,
    pub(super) layer: usize,
}

impl Draw {
    /// `k` of `n` tokens for each of `b` pictures, the first `protected` always among them. Rising.
    pub(super) fn tokens(self, b: usize, n: usize, k: usize, protected: usize) -> Vec<Vec<u32>> {
        let protected = protected.min(k);
        let one = |picture: usize| {
            let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ self.frame.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            rng.set_stream(((self.layer as u64) << 32) | picture as u64);
            let drawn = sample(&mut rng, n - protected, k - protected);
            let mut chosen: Vec<u32> =
                (0..protected as u32).chain(drawn.into_iter().map(|i| (i + protected) as u32)).collect();
            chosen.sort_unstable();
            chosen
        };
        (0..b).map(one).collect()
    }
}
