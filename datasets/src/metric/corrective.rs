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

/// Whether a text is a correction: near to one that Spotter's own coach says, or with a word that asks for something else.
pub fn is_corrective(text: &str) -> bool {
    let correction = |lang| phrases::classify(text, lang).kind == SaidKind::Correction;
    let lower = text.to_lowercase();
    correction(Lang::En) || correction(Lang::Ko) || CUES.iter().any(|cue| lower.contains(cue))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::session::{Session, SessionOptions};

    #[test]
    fn corrections_are_told_from_the_rest() {
        for text in ["Push your knees out.", "Try to get those elbows up", "You should slow down there"] {
            assert!(is_corrective(text), "{text}");
        }
        for text in ["10", "Great job!", "Awesome", ""] {
            assert!(!is_corrective(text), "{text}");
        }
    }

    #[test]
    fn it_agrees_with_what_the_script_meant() {
        let (mut right, mut all) = (0, 0);
        for seed in 0..12 {
            let session = Session::generate(seed, &SessionOptions::default());
            for event in session.events.iter().filter(|e| !e.is_transition) {
                let agrees = is_corrective(&event.text) == (event.kind == SaidKind::Correction);
                if !agrees {
                    println!("{:?}: {}", event.kind, event.text);
                }
                right += usize::from(agrees);
                all += 1;
            }
        }
        assert!(all > 200 && right * 100 >= all * 97, "{right} of {all}");
    }
}
