//! Which feedback corrects the person, as opposed to counting, praising or announcing.
//!
//! QEVD does not mark it, so this goes by the words; the rule is Spotter's own, and tables that rest on it say so.

use crate::synthetic::phrases::{self, Lang, SaidKind};

/// Words that ask for something to be done otherwise.
const CUES: [&str; 30] = [
    "try to",
    "make sure",
    "don't",
    "do not",
    "should",
    "avoid",
    "instead",
    "careful",
    "be sure",
    "remember to",
    "too ",
    "not ",
    "need to",
    "slow down",
    "speed up",
    "faster",
    "slower",
    "higher",
    "lower",
    "deeper",
    "wider",
    "closer",
    "straighten",
    "keep your",
    "a bit more",
    "a little more",
    "bring your",
    "push your",
    "raise your",
    "bend your",
];

/// Whether a text is a correction.
pub fn is_corrective(text: &str) -> bool {
    let known = |lang| phrases::classify(text, lang).kind;
    match (known(Lang::En), known(Lang::Ko)) {
        (SaidKind::Correction, _) | (_, SaidKind::Correction) => true,
        (SaidKind::Other, SaidKind::Other) => {
            let lower = text.to_lowercase();
            CUES.iter().any(|cue| lower.contains(cue))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::is_corrective;

    #[test]
    fn corrections_are_told_from_the_rest() {
        for text in ["Push your knees out.", "Try to get those elbows up", "You should slow down there"] {
            assert!(is_corrective(text), "{text}");
        }
        for text in ["10", "Great job!", "Awesome", ""] {
            assert!(!is_corrective(text), "{text}");
        }
    }
}
