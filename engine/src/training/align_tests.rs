//! Every numbered check of the spec direct-alignment but S4.6, which is beside the training.

use super::align::{Aligned, Loss, MASKED, Moments, Rows, align, log_softmax};
use crate::{
    sampler::{Sampling, draw},
    speculate::chain::accept,
};
use candle_core::{D, DType, Device, Result, Tensor, Var};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

const Q64: [f64; 8] = [24.0, 14.0, 9.0, 6.0, 5.0, 3.0, 2.0, 1.0];
const P64: [f64; 8] = [6.0, 20.0, 4.0, 3.0, 16.0, 8.0, 5.0, 2.0];

/// A drafter's logits, the target's distribution, and weights, f64.
struct Case {
    logits: Tensor,
    target: Tensor,
    weights: Tensor,
    sequences: Vec<u32>,
}

impl Case {
    fn golden() -> Self {
        let row = |v: [f64; 8]| Tensor::new(&[v], &Device::Cpu).unwrap();
        let weights = Tensor::ones(1, DType::F64, &Device::Cpu).unwrap();
        let logits = row(Q64).log().unwrap();
        Self { logits, target: (row(P64) / 64.0).unwrap(), weights, sequences: vec![0] }
    }

    fn random(rows: usize, vocab: usize, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut logits = || {
            let numbers: Vec<f64> = (0..rows * vocab).map(|_| rng.random_range(-2.0..2.0)).collect();
            Tensor::from_vec(numbers, (rows, vocab), &Device::Cpu).unwrap()
        };
        let (logits, target) = (logits(), log_softmax(&logits()).unwrap().exp().unwrap());
        let weights = Tensor::ones(rows, DType::F64, &Device::Cpu).unwrap();
        Self { logits, target, weights, sequences: (0..rows as u32).map(|i| i / 2).collect() }
    }

    /// Of a drafter with the first `head` of `vocab` tokens: about a third of the target's distribution lies elsewhere.
    fn trimmed(rows: usize, vocab: usize, head: usize, seed: u64) -> (Self, Self) {
        let wide = Self::random(rows, vocab, seed);
        let first = |t: &Tensor| t.narrow(1, 0, head).unwrap().contiguous().unwrap();
        let (logits, target) = (first(&wide.logits), first(&wide.target));
        let masked = Tensor::full(MASKED, (rows, vocab - head), &Device::Cpu).unwrap();
        let masked = Tensor::cat(&[&logits, &masked], 1).unwrap();
        let own = Self { logits, target, weights: wide.weights.clone(), sequences: wide.sequences.clone() };
        (own, Self { logits: masked, ..wide })
    }

    fn align(&self, loss: Loss, logits: &Tensor, drawn: Option<&Tensor>) -> Result<Aligned> {
        let (target, weights, sequences) = (&self.target, &self.weights, self.sequences.as_slice());
        align(loss, &Rows { logits, target, weights, sequences, drawn })
    }

    fn gradient(&self, loss: Loss) -> Vec<Vec<f64>> {
        let var = Var::from_tensor(&self.logits).unwrap();
        let store = self.align(loss, var.as_tensor(), None).unwrap().loss.backward().unwrap();
        store.get(&var).unwrap().to_vec2().unwrap()
    }

    fn value(&self, loss: Loss, logits: &Tensor) -> f64 {
        self.align(loss, logits, None).unwrap().loss.to_scalar().unwrap()
    }

    /// Central finite differences of the value.
    fn differences(&self, loss: Loss) -> Vec<Vec<f64>> {
        let (rows, vocab) = self.logits.dims2().unwrap();
        let step = 1e-6;
        let at = |i: usize, by: f64| {
            let mut bump = vec![0.0; rows * vocab];
            bump[i] = by;
            let moved = (&self.logits + Tensor::from_vec(bump, (rows, vocab), &Device::Cpu).unwrap()).unwrap();
            self.value(loss, &moved)
        };
        let flat: Vec<f64> = (0..rows * vocab).map(|i| (at(i, step) - at(i, -step)) / (2.0 * step)).collect();
        flat.chunks(vocab).map(<[f64]>::to_vec).collect()
    }

    /// Deviation of R over all rows.
    fn deviation(&self) -> f64 {
        let q = log_softmax(&self.logits).unwrap().exp().unwrap();
        let r = self.target.gt(&q).unwrap().to_dtype(DType::F64).unwrap();
        let each: Vec<f64> = (q * r).unwrap().sum(D::Minus1).unwrap().to_vec1().unwrap();
        let weights: Vec<f64> = self.weights.to_vec1().unwrap();
        let mean = each.iter().zip(&weights).map(|(m, w)| m * w).sum::<f64>() / weights.iter().sum::<f64>();
        (mean * (1.0 - mean)).sqrt()
    }
}

/// TVD++ as the spec writes it, differentiated by candle. What may be wrong with it can be planted.
struct Written {
    /// Added to the mean of R.
    shift: f64,
    /// `q` and the advantage are held fixed.
    held: bool,
    /// The sum over the vocabulary has the weight q, and so have the moments; else both are uniform.
    weighted: bool,
}

impl Written {
    const RIGHT: Self = Self { shift: 0.0, held: true, weighted: true };

    fn gradient(&self, case: &Case) -> Vec<Vec<f64>> {
        let var = Var::from_tensor(&case.logits).unwrap();
        let log_q = log_softmax(var.as_tensor()).unwrap();
        let q = log_q.exp().unwrap();
        let by = if self.weighted { q.clone() } else { (q.ones_like().unwrap() / q.dims()[1] as f64).unwrap() };
        let r = case.target.gt(&q).unwrap().to_dtype(DType::F64).unwrap();
        let mean = |x: &Tensor| (&by * x).unwrap().sum(D::Minus1).unwrap().mean_all().unwrap();
        let mu = mean(&r);
        let centred = r.broadcast_sub(&mu).unwrap();
        let deviation = mean(&centred.sqr().unwrap()).sqrt().unwrap();
        let centred = (centred - self.shift).unwrap();
        let advantage = centred.broadcast_div(&(deviation + 1e-8).unwrap()).unwrap();
        let factor = (by * advantage).unwrap();
        let factor = if self.held { factor.detach() } else { factor };
        let loss = (factor * log_q).unwrap().sum(D::Minus1).unwrap().mean_all().unwrap().neg().unwrap();
        loss.backward().unwrap().get(&var).unwrap().to_vec2().unwrap()
    }
}

fn largest_difference(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

fn scaled(rows: &[Vec<f64>], by: f64) -> Vec<Vec<f64>> {
    rows.iter().map(|row| row.iter().map(|v| v * by).collect()).collect()
}

/// Section 6.
#[test]
fn golden_values() {
    let case = Case::golden();
    let done = case.align(Loss::Tvd, &case.logits, None).unwrap();
    assert!((done.loss.to_scalar::<f64>().unwrap() - 0.40625).abs() < 1e-12);
    assert!((done.acceptance.to_scalar::<f64>().unwrap() - 19.0 / 32.0).abs() < 1e-12);
    assert!((case.deviation() - 0.487_890_468_6).abs() < 1e-10);
    let tvd = [600.0, -546.0, 225.0, 150.0, -195.0, -117.0, -78.0, -39.0].map(|v| v / 4096.0).to_vec();
    assert!(largest_difference(&case.gradient(Loss::Tvd), &[tvd]) < 1e-12);
    let plus = vec![
        0.300_240_29,
        -0.273_218_66,
        0.112_590_11,
        0.075_060_07,
        -0.097_578_09,
        -0.058_546_86,
        -0.039_031_24,
        -0.019_515_62,
    ];
    for scope in [Moments::Batch, Moments::Sequence, Moments::Position] {
        let found = case.gradient(Loss::TvdPlus(scope));
        assert!(largest_difference(&found, std::slice::from_ref(&plus)) < 2e-8, "{scope:?}: {found:?}");
    }
}

/// S4.1, and the same for the other losses that are functions of q.
#[test]
fn gradients_are_those_of_finite_differences() {
    for seed in 0..4 {
        let case = Case::random(5, 8, seed);
        for loss in [Loss::Tvd, Loss::Kl, Loss::ReverseKl, Loss::Jsd] {
            let worst = largest_difference(&case.gradient(loss), &case.differences(loss));
            assert!(worst < 1e-8, "{loss}: {worst}");
        }
        // A planted bug: the baseline left out.
        let q: Vec<Vec<f64>> = log_softmax(&case.logits).unwrap().exp().unwrap().to_vec2().unwrap();
        let p: Vec<Vec<f64>> = case.target.to_vec2().unwrap();
        let wrong: Vec<Vec<f64>> = q
            .iter()
            .zip(&p)
            .map(|(q, p)| q.iter().zip(p).map(|(q, p)| if p > q { -q / 5.0 } else { 0.0 }).collect())
            .collect();
        assert!(largest_difference(&wrong, &case.differences(Loss::Tvd)) > 1e-3);
    }
}

/// S4.2 and S4.7; and that nothing leaks through q, R or their moments (S4.4).
#[test]
fn tvd_plus_plus_is_tvd_over_the_deviation() {
    for seed in 0..4 {
        let case = Case::random(5, 8, 10 + seed);
        let expected = scaled(&case.differences(Loss::Tvd), 1.0 / (case.deviation() + 1e-8));
        let found = case.gradient(Loss::TvdPlus(Moments::Batch));
        assert!(largest_difference(&found, &expected) < 1e-8);
        for shift in [0.0, 0.7, -30.0] {
            let written = Written { shift, ..Written::RIGHT }.gradient(&case);
            assert!(largest_difference(&found, &written) < 1e-8, "shifted by {shift}");
        }
        // Planted bugs: gradients through what is to be held fixed; uniform weight over the vocabulary.
        let leaking = Written { held: false, ..Written::RIGHT }.gradient(&case);
        assert!(largest_difference(&found, &leaking) > 1e-3);
        let uniform = Written { weighted: false, ..Written::RIGHT }.gradient(&case);
        let length = |rows: &[Vec<f64>]| rows.iter().flatten().map(|v| v * v).sum::<f64>().sqrt();
        let dot: f64 = found.iter().flatten().zip(uniform.iter().flatten()).map(|(a, b)| a * b).sum();
        let cosine = dot / length(&found) / length(&uniform);
        assert!(largest_difference(&found, &uniform) > 1e-3 && cosine < 0.99, "cosine {cosine}");
    }
}

/// Moments by position divide each row by its own deviation, by sequence those of a sequence by theirs.
#[test]
fn scopes_reweight_positions() {
    let case = Case::random(5, 8, 40);
    let tvd = case.gradient(Loss::Tvd);
    let one = |i: usize, n: usize| Case {
        logits: case.logits.narrow(0, i, n).unwrap(),
        target: case.target.narrow(0, i, n).unwrap(),
        weights: case.weights.narrow(0, i, n).unwrap(),
        sequences: vec![0; n],
    };
    let expected = |scopes: &[(usize, usize)]| -> Vec<Vec<f64>> {
        scopes.iter().flat_map(|(i, n)| scaled(&tvd[*i..i + n], 1.0 / (one(*i, *n).deviation() + 1e-8))).collect()
    };
    let position = case.gradient(Loss::TvdPlus(Moments::Position));
    assert!(largest_difference(&position, &expected(&[(0, 1), (1, 1), (2, 1), (3, 1), (4, 1)])) < 1e-8);
    let sequence = case.gradient(Loss::TvdPlus(Moments::Sequence));
    assert!(largest_difference(&sequence, &expected(&[(0, 2), (2, 2), (4, 1)])) < 1e-8);
    assert!(largest_difference(&sequence, &position) > 1e-4);
}

/// S4.3: mean and summed variance of the sampled gradient, row by row.
#[test]
fn the_sampled_estimator_is_unbiased_and_calmer_than_without_a_mean() {
    let case = Case::random(5, 8, 3);
    let exact = scaled(&case.gradient(Loss::TvdPlus(Moments::Batch)), 5.0);
    let copies = 40_000;
    let q: Vec<Vec<f64>> = log_softmax(&case.logits).unwrap().exp().unwrap().to_vec2().unwrap();
    let p: Vec<Vec<f64>> = case.target.to_vec2().unwrap();
    let tiled = |t: &Tensor| Tensor::cat(&vec![t; copies], 0).unwrap();
    let large = Case {
        logits: tiled(&case.logits),
        target: tiled(&case.target),
        weights: tiled(&case.weights),
        sequences: Vec::new(),
    };
    let sampled = |uniform: bool| -> Vec<Vec<Vec<f64>>> {
        let mut rng = ChaCha8Rng::seed_from_u64(8);
        let drawn: Vec<u32> = (0..copies * 5)
            .map(|i| {
                let row: Vec<f32> = q[i % 5].iter().map(|v| *v as f32).collect();
                if uniform { rng.random_range(0..8) } else { draw(&row, &mut rng) }
            })
            .collect();
        let drawn = Tensor::new(drawn.as_slice(), &Device::Cpu).unwrap();
        let var = Var::from_tensor(&large.logits).unwrap();
        let loss = large.align(Loss::TvdPlusSampled, var.as_tensor(), Some(&drawn)).unwrap().loss;
        let gradient = (loss.backward().unwrap().get(&var).unwrap() * (copies * 5) as f64).unwrap();
        gradient.reshape((copies, 5, 8)).unwrap().to_vec3().unwrap()
    };
    let moments = |samples: &[Vec<Vec<f64>>]| -> Vec<(f64, f64)> {
        (0..40)
            .map(|i| {
                let at = |s: &Vec<Vec<f64>>| s[i / 8][i % 8];
                let mean = samples.iter().map(at).sum::<f64>() / copies as f64;
                (mean, samples.iter().map(|s| (at(s) - mean).powi(2)).sum::<f64>() / (copies - 1) as f64)
            })
            .collect()
    };
    let worst = |moments: &[(f64, f64)]| {
        let z = |((mean, variance), e): (&(f64, f64), &f64)| (mean - e).abs() / (variance / copies as f64).sqrt();
        moments.iter().zip(exact.iter().flatten()).map(z).fold(0.0, f64::max)
    };
    let own = moments(&sampled(false));
    assert!(worst(&own) < 4.0, "{} standard errors", worst(&own));
    // A planted bug: tokens drawn uniformly.
    assert!(worst(&moments(&sampled(true))) > 4.0);
    // The same estimator without the mean: variance of -R(x) / sigma times (1[x] - q), by enumeration.
    let deviation = case.deviation() + 1e-8;
    let uncentred: f64 = (0..40)
        .map(|i| {
            let (t, k) = (i / 8, i % 8);
            let at = |x: usize| {
                let r = if p[t][x] > q[t][x] { 1.0 } else { 0.0 };
                -r / deviation * (if x == k { 1.0 } else { 0.0 } - q[t][k])
            };
            let mean: f64 = (0..8).map(|x| q[t][x] * at(x)).sum();
            assert!((mean - exact[t][k]).abs() < 1e-8, "both have the same mean");
            (0..8).map(|x| q[t][x] * (at(x) - mean).powi(2)).sum::<f64>()
        })
        .sum();
    let total: f64 = own.iter().map(|(_, variance)| variance).sum();
    assert!(total < uncentred, "{total} against {uncentred}");
}

/// S4.4: masked rows count nowhere, and where no token is under-weighted nothing is divided by 0.
#[test]
fn masked_rows_and_equal_distributions_are_safe() {
    for loss in Loss::ALL {
        let mut case = Case::random(5, 8, 20);
        let drawn = Tensor::new(&[0u32, 3, 5, 7, 1], &Device::Cpu).unwrap();
        let gradient = |case: &Case, drawn: &Tensor| -> (f64, Vec<Vec<f64>>) {
            let var = Var::from_tensor(&case.logits).unwrap();
            let loss = case.align(loss, var.as_tensor(), Some(drawn)).unwrap().loss;
            let value = loss.to_scalar().unwrap();
            (value, loss.backward().unwrap().get(&var).unwrap().to_vec2().unwrap())
        };
        case.weights = Tensor::new(&[1.0f64, 1.0, 0.0, 0.0, 0.0], &Device::Cpu).unwrap();
        let masked = gradient(&case, &drawn);
        assert!(masked.1[2..].iter().flatten().all(|v| *v == 0.0), "{loss}: {:?}", masked.1);
        let alone = Case {
            logits: case.logits.narrow(0, 0, 2).unwrap(),
            target: case.target.narrow(0, 0, 2).unwrap(),
            weights: case.weights.narrow(0, 0, 2).unwrap(),
            sequences: vec![0, 0],
        };
        let alone = gradient(&alone, &drawn.narrow(0, 0, 2).unwrap());
        assert!((masked.0 - alone.0).abs() < 1e-12 && largest_difference(&masked.1[..2], &alone.1) < 1e-12, "{loss}");
        // Everything masked.
        case.weights = Tensor::zeros(5, DType::F64, &Device::Cpu).unwrap();
        assert!(gradient(&case, &drawn).1.iter().flatten().all(|v| *v == 0.0), "{loss}");
        // The drafter is the target, exactly: uniform over a power of two.
        let (logits, device) = (Tensor::zeros((2, 8), DType::F32, &Device::Cpu).unwrap(), Device::Cpu);
        let target = (logits.ones_like().unwrap() / 8.0).unwrap();
        let weights = Tensor::ones(2, DType::F32, &device).unwrap();
        let var = Var::from_tensor(&logits).unwrap();
        let drawn = Tensor::new(&[0u32, 3], &device).unwrap();
        let (sequences, drawn) = (&[0, 1][..], Some(&drawn));
        let rows = Rows { logits: var.as_tensor(), target: &target, weights: &weights, sequences, drawn };
        let done = align(loss, &rows).unwrap();
        let pulls: Vec<Vec<f32>> = done.loss.backward().unwrap().get(&var).unwrap().to_vec2().unwrap();
        assert!(pulls.iter().flatten().all(|v| v.abs() < 1e-6), "{loss}: {pulls:?}");
        assert!((done.acceptance.to_scalar::<f32>().unwrap() - 1.0).abs() < 1e-6);
    }
}

/// Tokens that can't be said change nothing.
#[test]
fn masked_tokens_are_not_there() {
    for loss in Loss::ALL {
        let case = Case::random(4, 8, 30);
        let wide = Case {
            logits: Tensor::cat(&[&case.logits, &Tensor::full(MASKED, (4, 2), &Device::Cpu).unwrap()], 1).unwrap(),
            target: case.target.pad_with_zeros(1, 0, 2).unwrap(),
            weights: case.weights.clone(),
            sequences: case.sequences.clone(),
        };
        let drawn = Tensor::new(&[0u32, 3, 5, 7], &Device::Cpu).unwrap();
        let value =
            |case: &Case| -> f64 { case.align(loss, &case.logits, Some(&drawn)).unwrap().loss.to_scalar().unwrap() };
        assert!((value(&wide) - value(&case)).abs() < 1e-12, "{loss}");
    }
}

/// A head of some tokens: gradients are those of finite differences and of the whole vocabulary with the other tokens
/// masked, values and acceptance those of an enumeration over all tokens.
#[test]
fn tokens_outside_a_head_are_missed() {
    for seed in 0..4 {
        let (case, wide) = Case::trimmed(5, 12, 8, 60 + seed);
        for loss in [Loss::Tvd, Loss::Kl, Loss::ReverseKl, Loss::Jsd] {
            let worst = largest_difference(&case.gradient(loss), &case.differences(loss));
            assert!(worst < 1e-8, "{loss}: {worst}");
        }
        let over = scaled(&case.differences(Loss::Tvd), 1.0 / (case.deviation() + 1e-8));
        assert!(largest_difference(&case.gradient(Loss::TvdPlus(Moments::Batch)), &over) < 1e-8);
        for loss in [Loss::Tvd, Loss::TvdPlus(Moments::Batch), Loss::TvdPlus(Moments::Position), Loss::Jsd] {
            let whole = wide.gradient(loss);
            assert!(whole.iter().all(|row| row[8..].iter().all(|g| *g == 0.0)), "{loss}");
            let own: Vec<Vec<f64>> = whole.into_iter().map(|row| row[..8].to_vec()).collect();
            assert!(largest_difference(&case.gradient(loss), &own) < 1e-12, "{loss}");
            assert!((case.value(loss, &case.logits) - wide.value(loss, &wide.logits)).abs() < 1e-12, "{loss}");
        }
        let q: Vec<Vec<f64>> = log_softmax(&case.logits).unwrap().exp().unwrap().to_vec2().unwrap();
        let p: Vec<Vec<f64>> = wide.target.to_vec2().unwrap();
        let accepted =
            |p: &Vec<f64>, q: &Vec<f64>| -> f64 { (0..12).map(|x| p[x].min(q.get(x).copied().unwrap_or(0.0))).sum() };
        let expected = p.iter().zip(&q).map(|(p, q)| accepted(p, q)).sum::<f64>() / 5.0;
        let done = case.align(Loss::Tvd, &case.logits, None).unwrap();
        assert!((done.acceptance.to_scalar::<f64>().unwrap() - expected).abs() < 1e-12);
        assert!((done.loss.to_scalar::<f64>().unwrap() - (1.0 - expected)).abs() < 1e-12);
        // Planted bugs: KL as if the target had nothing elsewhere, and TVD that forgets what it has there.
        let wrong: Vec<Vec<f64>> =
            q.iter().zip(&p).map(|(q, p)| q.iter().zip(p).map(|(q, p)| (q - p) / 5.0).collect()).collect();
        assert!(largest_difference(&wrong, &case.differences(Loss::Kl)) > 1e-3);
        let missed: f64 = p.iter().map(|p| p[8..].iter().sum::<f64>()).sum::<f64>() / 5.0;
        assert!(missed > 0.05);
    }
}

/// S4.5.
#[test]
fn tvd_is_what_is_rejected() {
    let case = Case::golden();
    let tvd = case.value(Loss::Tvd, &case.logits);
    let q: Vec<f32> = Q64.iter().map(|v| (*v / 64.0) as f32).collect();
    let p: Vec<f32> = P64.iter().map(|v| (*v / 64.0).ln() as f32).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let n = 100_000;
    let mut accepted = 0;
    for _ in 0..n {
        let token = draw(&q, &mut rng);
        let ids = accept(&[token], std::slice::from_ref(&q), &[&p, &p], Sampling::at(1.0), &mut rng);
        accepted += usize::from(ids.len() == 2);
    }
    let measured = accepted as f64 / f64::from(n);
    let error = |loss: f64| (measured - (1.0 - loss)).abs() / (measured * (1.0 - measured) / f64::from(n)).sqrt();
    assert!(error(tvd) < 4.0, "{measured} accepted, 1 - TVD = {}", 1.0 - tvd);
    // A planted bug: the half forgotten.
    assert!(error(2.0 * tvd) > 100.0);
}

#[test]
fn names_survive() {
    for loss in Loss::ALL {
        assert_eq!(loss.to_string().parse::<Loss>().unwrap(), loss);
    }
    assert!("tvd+".parse::<Loss>().unwrap_err().to_string().contains("is no loss"));
}

#[test]
fn shapes_are_checked() {
    let case = Case::random(3, 8, 1);
    let short = Tensor::ones(2, DType::F64, &Device::Cpu).unwrap();
    let rows = |weights| Rows { logits: &case.logits, target: &case.target, weights, sequences: &[], drawn: None };
    assert!(align(Loss::Kl, &rows(&short)).is_err());
    assert!(align(Loss::TvdPlusSampled, &rows(&case.weights)).is_err());
    assert!(align(Loss::TvdPlus(Moments::Sequence), &rows(&case.weights)).is_err());
}
