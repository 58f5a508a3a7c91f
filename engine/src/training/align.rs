//! Losses that draw a drafter towards its target (arXiv 2403.00858; specs: direct-alignment, sections 2 to 4).
//!
//! `q` is the drafter's distribution and `p` the target's, `[n, vocab]`, a row for each position. Of a drafter whose head
//! tells of some tokens only, `vocab` are these: what `p` has elsewhere can't be drafted and counts as missed. The gradient of every
//! loss by the logits of its row is known in closed form, so it is computed without a graph: that is several times
//! faster than differentiating, and nothing can leak through what has to be held fixed.

use candle_core::{D, Result, Tensor, bail};
use serde::{Deserialize, Serialize, de, ser};
use std::{collections::HashMap, fmt, str::FromStr};

/// Added to the deviation of TVD++.
const GUARD: f64 = 1e-8;

/// Over what the mean and the deviation of TVD++ are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Moments {
    /// All positions of a batch.
    #[default]
    Batch,
    /// The positions of a sequence.
    Sequence,
    /// Each position by itself.
    Position,
}

/// How far two distributions are apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// `KL(p || q)`.
    Kl,
    /// `KL(q || p)`.
    ReverseKl,
    /// Jensen-Shannon divergence.
    Jsd,
    /// Total variation distance: 1 less the chance that a draft is accepted.
    Tvd,
    /// The same with an advantage normalised by its mean and deviation, summed over the vocabulary.
    TvdPlus(Moments),
    /// The same by one token for each row, drawn from `q`; moments of the batch.
    TvdPlusSampled,
}

impl Loss {
    /// All of them, for lists.
    pub const ALL: [Self; 8] = [
        Self::Kl,
        Self::ReverseKl,
        Self::Jsd,
        Self::Tvd,
        Self::TvdPlus(Moments::Batch),
        Self::TvdPlus(Moments::Sequence),
        Self::TvdPlus(Moments::Position),
        Self::TvdPlusSampled,
    ];
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kl => "kl",
            Self::ReverseKl => "reverse-kl",
            Self::Jsd => "jsd",
            Self::Tvd => "tvd",
            Self::TvdPlus(Moments::Batch) => "tvd++",
            Self::TvdPlus(Moments::Sequence) => "tvd++sequence",
            Self::TvdPlus(Moments::Position) => "tvd++position",
            Self::TvdPlusSampled => "tvd++sampled",
        })
    }
}

/// A name that no loss has.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no loss: expected kl, reverse-kl, jsd, tvd, tvd++, tvd++sequence, tvd++position or tvd++sampled")]
pub struct UnknownLoss(String);

impl FromStr for Loss {
    type Err = UnknownLoss;

    fn from_str(text: &str) -> std::result::Result<Self, UnknownLoss> {
        let found = Self::ALL.into_iter().find(|loss| loss.to_string() == text.trim());
        found.ok_or_else(|| UnknownLoss(text.chars().take(64).collect()))
    }
}

impl Serialize for Loss {
    fn serialize<S: ser::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Loss {
    fn deserialize<T: de::Deserializer<'de>>(deserializer: T) -> std::result::Result<Self, T::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Positions at which a drafter is compared with its target.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// The drafter's logits `[n, vocab]`, finite: a token that can't be said has a very small one ([`MASKED`]).
    pub logits: &'a Tensor,
    /// The target's distribution `[n, vocab]` after the same temperature and mask, of the same type; it never learns. A
    /// row that sums to less than 1 has the rest at tokens that the drafter does not have.
    pub target: &'a Tensor,
    /// Weight of each row `[n]`; 0 masks it.
    pub weights: &'a Tensor,
    /// Sequence of each row, `n` of them where moments are taken by sequence.
    pub sequences: &'a [u32],
    /// A token drawn from the drafter for each row `[n]` (u32), where the loss is sampled.
    pub drawn: Option<&'a Tensor>,
}

/// Logit of a token that can't be said: its probability is 0 in f32 and its logarithm finite.
pub const MASKED: f64 = -1e9;

/// What came of a comparison: scalars.
#[derive(Clone, Debug)]
pub struct Aligned {
    /// The loss, a mean over the weights; its backward pass reaches the logits.
    pub loss: Tensor,
    /// Mean chance that a draft is accepted, `sum min(p, q)`.
    pub acceptance: Tensor,
}

/// Value `[n]` of every row, and its gradient by the logits `[n, vocab]`, both unweighted.
struct Field {
    value: Tensor,
    gradient: Tensor,
}

/// `ln softmax` over the last dimension, from operations that keep their gradients.
///
/// # Errors
/// Those of the device.
pub fn log_softmax(logits: &Tensor) -> Result<Tensor> {
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
    let sum = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    shifted.broadcast_sub(&sum)
}

/// The loss of some rows (specs: direct-alignment, sections 2 and 3).
///
/// # Errors
/// Shapes that do not fit together, a sampled loss without tokens, or those of the device.
pub fn align(loss: Loss, rows: &Rows<'_>) -> Result<Aligned> {
    let (n, vocab) = rows.logits.dims2()?;
    if rows.target.dims() != [n, vocab] || rows.weights.dims() != [n] {
        bail!("targets {:?} and weights {:?} for logits [{n}, {vocab}]", rows.target.dims(), rows.weights.dims());
    }
    let p = rows.target.detach();
    let log_q = log_softmax(&rows.logits.detach())?;
    let q = log_q.exp()?;
    let weights = rows.weights.detach().to_dtype(q.dtype())?;
    let share = weights.broadcast_div(&(weights.sum_all()? + TINY)?)?;
    let field = match loss {
        Loss::Kl => kl(&p, &q, &log_q)?,
        Loss::ReverseKl => reverse_kl(&p, &q, &log_q)?,
        Loss::Jsd => jsd(&p, &q)?,
        Loss::Tvd => tvd(&p, &q)?,
        Loss::TvdPlus(moments) => {
            let signs = Signs::new(&p, &q)?;
            let moments = signs.moments(moments, &share, rows.sequences)?;
            tvd_plus(&signs, &q, &log_q, &moments)?
        }
        Loss::TvdPlusSampled => {
            let Some(drawn) = rows.drawn else { bail!("a sampled loss needs a drawn token for each row") };
            let signs = Signs::new(&p, &q)?;
            let moments = signs.moments(Moments::Batch, &share, rows.sequences)?;
            tvd_plus_sampled(&signs, &q, &log_q, drawn, &moments)?
        }
    };
    let mean = |rows: &Tensor| (rows * &share)?.sum_all();
    let pull = field.gradient.broadcast_mul(&share.unsqueeze(1)?)?.detach();
    // Linear in the logits with the gradient as its slope, and worth nothing: the value is added beside it.
    let reach = (rows.logits * pull)?.sum_all()?;
    let loss = ((&reach - reach.detach())? + mean(&field.value)?.detach())?;
    Ok(Aligned { loss, acceptance: mean(&q.minimum(&p)?.sum(D::Minus1)?)? })
}

/// Keeps logarithms and quotients of nothing finite.
const TINY: f64 = 1e-30;

fn log(p: &Tensor) -> Result<Tensor> {
    p.maximum(TINY)?.log()
}

/// What `p` has at tokens that are not there, `[n]`.
fn missed(p: &Tensor) -> Result<Tensor> {
    p.sum(D::Minus1)?.affine(-1.0, 1.0)?.relu()
}

/// `sum p (ln p - ln q)` over the tokens that there are; by the logits `q sum(p) - p`. At the others it would be infinite
/// whatever is learnt.
fn kl(p: &Tensor, q: &Tensor, log_q: &Tensor) -> Result<Field> {
    let gradient = (q.broadcast_mul(&p.sum_keepdim(D::Minus1)?)? - p)?;
    Ok(Field { value: (p * (log(p)? - log_q)?)?.sum(D::Minus1)?, gradient })
}

/// `sum q f`; by the logits `q (f - E_q[f])`, which is the whole gradient where `sum q df = 0`.
fn expected(q: &Tensor, f: &Tensor) -> Result<Field> {
    let weighted = (q * f)?;
    let value = weighted.sum_keepdim(D::Minus1)?;
    Ok(Field { gradient: (weighted - q.broadcast_mul(&value)?)?, value: value.squeeze(1)? })
}

/// `sum q (ln q - ln p)`.
fn reverse_kl(p: &Tensor, q: &Tensor, log_q: &Tensor) -> Result<Field> {
    expected(q, &(log_q - log(p)?)?)
}

/// `KL(p || m) / 2 + KL(q || m) / 2` with `m = (p + q) / 2`, which is `p / 2` at tokens that are not there.
fn jsd(p: &Tensor, q: &Tensor) -> Result<Field> {
    let log_m = log(&((p + q)? / 2.0)?)?;
    let mine = expected(q, &((log(q)? - &log_m)? / 2.0)?)?;
    let theirs = ((p * (log(p)? - log_m)?)?.sum(D::Minus1)? / 2.0)?;
    let elsewhere = (missed(p)? * (std::f64::consts::LN_2 / 2.0))?;
    Ok(Field { value: ((mine.value + theirs)? + elsewhere)?, gradient: mine.gradient })
}

/// `R(x) = 1` where the drafter gives a token less than the target does, and what follows from it.
struct Signs {
    /// R, `[n, vocab]`.
    r: Tensor,
    /// `q R`.
    under: Tensor,
    /// `q (1 - R)`.
    over: Tensor,
    /// `E_q[R]`, `[n, 1]`.
    mean: Tensor,
    /// `E_q[1 - R]`, `[n, 1]`: near 1 the mean itself could not tell it.
    rest: Tensor,
}

/// Mean of R, of `1 - R`, and deviation, `[n, 1]` each.
struct MeanDeviation {
    mean: Tensor,
    rest: Tensor,
    deviation: Tensor,
}

impl Signs {
    fn new(p: &Tensor, q: &Tensor) -> Result<Self> {
        let r = p.gt(q)?.to_dtype(q.dtype())?;
        let under = (q * &r)?;
        let over = (q - &under)?;
        let (mean, rest) = (under.sum_keepdim(D::Minus1)?, over.sum_keepdim(D::Minus1)?);
        Ok(Self { r, under, over, mean, rest })
    }

    /// `-q (R - E_q[R])`: the gradient of TVD by the logits.
    fn gradient(&self) -> Result<Tensor> {
        self.over.broadcast_mul(&self.mean)? - self.under.broadcast_mul(&self.rest)?
    }

    /// Means over the scope, `share [n]` giving the weights of rows; deviation from `sqrt(mean (1 - mean))`, which is
    /// exact for a binary R.
    fn moments(&self, scope: Moments, share: &Tensor, sequences: &[u32]) -> Result<MeanDeviation> {
        let n = share.dim(0)?;
        let over_scope = |rows: &Tensor| -> Result<Tensor> {
            match scope {
                Moments::Position => Ok(rows.clone()),
                Moments::Batch => (rows.squeeze(1)? * share)?.sum_all()?.broadcast_as((n, 1))?.contiguous(),
                Moments::Sequence => by_sequence(&rows.squeeze(1)?, share, sequences),
            }
        };
        let (mean, rest) = (over_scope(&self.mean)?, over_scope(&self.rest)?);
        let deviation = (&mean * &rest)?.sqrt()?;
        Ok(MeanDeviation { mean, rest, deviation })
    }
}

/// Means of `rows [n]` by `share [n]` over the rows of each sequence, `[n, 1]`.
fn by_sequence(rows: &Tensor, share: &Tensor, sequences: &[u32]) -> Result<Tensor> {
    let n = rows.dim(0)?;
    if sequences.len() != n {
        bail!("{} sequences for {n} rows", sequences.len());
    }
    let mut number = HashMap::new();
    let places: Vec<u32> = sequences
        .iter()
        .map(|s| {
            let next = number.len() as u32;
            *number.entry(*s).or_insert(next)
        })
        .collect();
    let index = Tensor::new(places, rows.device())?;
    let zeros = Tensor::zeros(number.len(), rows.dtype(), rows.device())?;
    let sums = zeros.index_add(&index, &(rows * share)?, 0)?;
    let totals = (zeros.index_add(&index, share, 0)? + TINY)?;
    (sums / totals)?.index_select(&index, 0)?.unsqueeze(1)
}

/// `1 - sum min(p, q)`.
fn tvd(p: &Tensor, q: &Tensor) -> Result<Field> {
    let value = (((q - p)?.abs()?.sum(D::Minus1)? + missed(p)?)? / 2.0)?;
    Ok(Field { value, gradient: Signs::new(p, q)?.gradient()? })
}

/// `- sum q A ln q` with `q` and `A = (R - mean) / (deviation + guard)` held fixed. Summed over the vocabulary the mean
/// cancels: the gradient is that of TVD over the deviation.
fn tvd_plus(signs: &Signs, q: &Tensor, log_q: &Tensor, moments: &MeanDeviation) -> Result<Field> {
    let scale = (&moments.deviation + GUARD)?;
    let advantage = signs.r.broadcast_sub(&moments.mean)?.broadcast_div(&scale)?;
    let value = ((q * advantage)? * log_q)?.sum(D::Minus1)?.neg()?;
    Ok(Field { value, gradient: signs.gradient()?.broadcast_div(&scale)? })
}

/// `-A(x) ln q(x)` for a token drawn from q in each row.
fn tvd_plus_sampled(
    signs: &Signs,
    q: &Tensor,
    log_q: &Tensor,
    drawn: &Tensor,
    moments: &MeanDeviation,
) -> Result<Field> {
    let index = drawn.unsqueeze(1)?;
    let r = signs.r.gather(&index, 1)?;
    // R - mean without the cancellation near 1.
    let centred = ((&r * &moments.rest)? - (r.affine(-1.0, 1.0)? * &moments.mean)?)?;
    let advantage = (centred / (&moments.deviation + GUARD)?)?;
    let value = (&advantage * log_q.gather(&index, 1)?)?.squeeze(1)?.neg()?;
    let one = q.zeros_like()?.scatter_add(&index, &index.ones_like()?.to_dtype(q.dtype())?, 1)?;
    Ok(Field { value, gradient: (q - one)?.broadcast_mul(&advantage)? })
}
