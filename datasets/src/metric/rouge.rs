//! ROUGE-L of one pair: F of the longest common subsequence, without stemming.
//!
//! C.-Y. Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004, with the tokens of the package
//! rouge_score: lower-case, and everything but a-z and 0-9 separates.

/// Longest texts that are compared, in tokens; the table of a longer pair would outgrow its use.
const LONGEST: usize = 20_000;

fn tokens(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit()));
    words.filter(|word| !word.is_empty()).take(LONGEST).map(str::to_owned).collect()
}

/// Length of the longest common subsequence.
fn common(a: &[String], b: &[String]) -> usize {
    let mut before = vec![0; b.len() + 1];
    for word in a {
        let mut row = Vec::with_capacity(before.len());
        row.push(0);
        let mut left = 0;
        for (other, above) in b.iter().zip(before.windows(2)) {
            let (diagonal, up) = (above.first().copied().unwrap_or(0), above.last().copied().unwrap_or(0));
            left = if word == other { diagonal + 1 } else { up.max(left) };
            row.push(left);
        }
        before = row;
    }
    before.last().copied().unwrap_or(0)
}

/// ROUGE-L F of a prediction; 0 where either side has no token.
pub fn rouge_l(reference: &str, prediction: &str) -> f64 {
    let (reference, prediction) = (tokens(reference), tokens(prediction));
    if reference.is_empty() || prediction.is_empty() {
        return 0.0;
    }
    let shared = common(&reference, &prediction) as f64;
    let (precision, recall) = (shared / prediction.len() as f64, shared / reference.len() as f64);
    if precision + recall > 0.0 { 2.0 * precision * recall / (precision + recall) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::rouge_l;

    #[test]
    fn by_hand() {
        for (reference, prediction, expected) in [
            ("Keep your back straight!", "keep your back straight", 1.0),
            ("10", "10", 1.0),
            ("10", "12", 0.0),
            ("", "10", 0.0),
            ("...", "...", 0.0),
            ("a b c d", "a c", 2.0 * 1.0 * 0.5 / 1.5),
            ("don't", "don t", 1.0),
        ] {
            assert!((rouge_l(reference, prediction) - expected).abs() < 1e-12, "{reference} {prediction}");
        }
    }
}
