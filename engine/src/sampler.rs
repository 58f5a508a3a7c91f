//! The next token of logits.

use rand::Rng;

/// Draws a token at `temperature`; 0 takes the likeliest, the lower id on ties. An empty slice gives 0.
pub fn sample(logits: &[f32], temperature: f32, rng: &mut impl Rng) -> u32 {
    let best = |values: &mut dyn Iterator<Item = f32>| {
        values.enumerate().fold((0, f32::NEG_INFINITY), |a, (i, v)| if v > a.1 { (i, v) } else { a }).0 as u32
    };
    if temperature <= 0.0 {
        return best(&mut logits.iter().copied());
    }
    // The Gumbel trick: the argmax of perturbed logits is a draw from their softmax.
    let mut gumbel = || -(-rng.random::<f32>().max(f32::MIN_POSITIVE).ln()).ln();
    best(&mut logits.iter().map(|l| l / temperature + gumbel()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    #[test]
    fn draws_follow_the_softmax() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(7);
        let logits = [1.0f32, 0.0, 2.0, f32::NEG_INFINITY];
        assert_eq!(sample(&logits, 0.0, &mut rng), 2);
        let (n, mut counts) = (20_000, [0f64; 4]);
        for _ in 0..n {
            counts[sample(&logits, 1.0, &mut rng) as usize] += 1.0;
        }
        let z: f64 = logits.iter().map(|l| f64::from(l.exp())).sum();
        let chi2: f64 = (0..3)
            .map(|i| {
                let e = f64::from(n) * f64::from(logits[i].exp()) / z;
                (counts[i] - e).powi(2) / e
            })
            .sum();
        // 99.9 % quantile at two degrees of freedom.
        assert!(chi2 < 13.8, "{chi2}");
        assert_eq!(counts[3], 0.0);
    }
}
