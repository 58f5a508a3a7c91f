//! How a model's wish to speak is read: off its action tokens, off the answers to a question, or off the separator of frames.

use super::manifest::{Manifest, Speaking};
use crate::{
    model::{DecoderConfig, live, seed},
    stops::stops,
};
use candle_core::{Error, Result, bail};
use std::collections::HashSet;
use tokenizers::Tokenizer;

/// The tokens of a [`Speaking`].
pub(super) enum Gate {
    /// Trained action tokens.
    Actions { next: u32, feedback: u32, end: u32 },
    /// Answers, each of one token or several.
    Verbalisers { question: Vec<u32>, speak: Vec<Vec<u32>>, silent: Vec<Vec<u32>>, lead: Vec<u32>, ends: Vec<u32> },
    /// What is written to stay silent; `between` are two frames, `again` an utterance and a frame.
    Separator { silent: u32, threshold: f32, between: Vec<u32>, again: Vec<u32>, lead: Vec<u32>, ends: Vec<u32> },
}

/// How much a model wishes to speak.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Wish {
    /// It speaks above 0; log-odds, to which talkativeness is added.
    pub(super) margin: f32,
    /// Probability of speaking.
    pub(super) p: f32,
}

impl Wish {
    /// By log-odds of speaking.
    pub(super) fn odds(margin: f32) -> Self {
        Self { margin, p: 1.0 / (1.0 + (-margin).exp()) }
    }

    /// By the token that is written to stay silent: it has to be at least as likely as the threshold, and as anything else.
    pub(super) fn unless(logits: &[f32], silent: u32, threshold: f32) -> Self {
        let own = f64::from(logits.get(silent as usize).copied().unwrap_or(f32::NEG_INFINITY));
        let others = || logits.iter().enumerate().filter(|(id, _)| *id != silent as usize).map(|(_, l)| f64::from(*l));
        let largest = others().fold(f64::NEG_INFINITY, f64::max);
        let rest = largest + others().map(|l| (l - largest).exp()).sum::<f64>().ln();
        let (odds, threshold) = (rest - own, f64::from(threshold));
        let margin = (odds + (threshold / (1.0 - threshold)).ln()).max(largest - own);
        Self { margin: margin as f32, p: (1.0 / (1.0 + (-odds).exp())) as f32 }
    }
}

/// The ids of a text, without the tokenizer's own beginning or end tokens.
pub(super) fn ids(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    Ok(tokenizer.encode(text, false).map_err(|e| Error::Msg(format!("tokenizer: {e}")))?.get_ids().to_vec())
}

/// The id of a token that must exist.
///
/// # Errors
/// When it does not.
pub fn action_id(tokenizer: &Tokenizer, token: &str) -> Result<u32> {
    tokenizer.token_to_id(token).ok_or_else(|| {
        Error::Msg(format!("tokenizer.json has no token {token}, which spotter.toml names as an action token"))
    })
}

impl Gate {
    /// `eos` are the ends that the checkpoint's configuration names.
    pub(super) fn new(speaking: &Speaking, tokenizer: &Tokenizer, eos: &[u32]) -> Result<Self> {
        Ok(match speaking {
            Speaking::Actions { next, feedback, end } => Self::Actions {
                next: action_id(tokenizer, next)?,
                feedback: action_id(tokenizer, feedback)?,
                end: action_id(tokenizer, end)?,
            },
            Speaking::Verbalisers { question, speak, silent, lead } => {
                let words = |words: &[String]| words.iter().map(|w| ids(tokenizer, w)).collect::<Result<Vec<_>>>();
                let (speak_ids, silent_ids) = (words(speak)?, words(silent)?);
                apart((speak, &speak_ids), (silent, &silent_ids))?;
                let mut ends = stops(tokenizer, eos);
                // An utterance is one line.
                ends.extend(tokenizer.token_to_id("\n").filter(|id| !ends.contains(id)));
                let (question, lead) = (ids(tokenizer, question)?, led(ids(tokenizer, lead)?)?);
                if question.is_empty() {
                    bail!("spotter.toml: speaking.question has no tokens; its answers are how the model decides");
                }
                Self::Verbalisers { question, speak: speak_ids, silent: silent_ids, lead, ends }
            }
            Speaking::Separator { separator, threshold, lead, end, again } => {
                let end = action_id(tokenizer, end)?;
                let between = separator.as_deref().map_or(Ok(Vec::new()), |text| ids(tokenizer, text))?;
                let silent = match (separator, between.as_slice()) {
                    (None, _) => end,
                    (Some(_), [one]) => *one,
                    (Some(text), found) => {
                        bail!("spotter.toml: speaking.separator {text:?}: expected one token, found {}", found.len())
                    }
                };
                let lead = led(ids(tokenizer, lead)?)?;
                let mut ends = vec![end];
                ends.extend(stops(tokenizer, eos).into_iter().filter(|id| *id != end));
                Self::Separator { silent, threshold: *threshold, between, again: ids(tokenizer, again)?, lead, ends }
            }
        })
    }

    /// Tokens that are never said, by the model or by a drafter: actions, the place of a picture, and ids below `vocab` for
    /// which the tokenizer has no text.
    pub(super) fn never(&self, tokenizer: &Tokenizer, vocab: usize) -> Vec<u32> {
        let known: HashSet<u32> = tokenizer.get_vocab(true).into_values().collect();
        let mut never: Vec<u32> = (0..vocab as u32).filter(|id| !known.contains(id)).collect();
        let places = ["<image>", "<video>", seed::IMAGE_TOKEN, seed::VIDEO_TOKEN, live::PLACE];
        never.extend(places.iter().filter_map(|place| tokenizer.token_to_id(place)));
        if let Self::Actions { next, feedback, .. } = self {
            never.extend([*next, *feedback]);
        }
        never
    }

    /// Positions of the longest step that may be undone: an utterance, or the question with its answers.
    pub(super) fn scratch(&self, max_tokens: usize) -> usize {
        match self {
            Self::Actions { .. } => max_tokens + 2,
            Self::Verbalisers { question, lead, .. } => {
                (question.len() + self.answering()).max(lead.len() + max_tokens + 1)
            }
            Self::Separator { lead, .. } => lead.len() + max_tokens + 1,
        }
    }

    /// Positions of the tree in which all answers to a question are tried: all of their tokens but the last ones.
    pub(super) fn answering(&self) -> usize {
        match self {
            Self::Verbalisers { speak, silent, .. } => {
                speak.iter().chain(silent).map(|answer| answer.len().saturating_sub(1)).sum()
            }
            _ => 0,
        }
    }

    /// What is put before the next frame, after one at which something was said or not.
    pub(super) fn before(&self, said: bool) -> &[u32] {
        match self {
            Self::Separator { between, again, .. } => {
                if said {
                    again
                } else {
                    between
                }
            }
            Self::Actions { .. } | Self::Verbalisers { .. } => &[],
        }
    }

    /// Positions that a frame of so many tokens takes at most, with what is put before it.
    pub(super) fn positions(&self, tokens: usize) -> usize {
        tokens + self.before(false).len().max(self.before(true).len())
    }
}

/// A lead that is one.
fn led(lead: Vec<u32>) -> Result<Vec<u32>> {
    if lead.is_empty() {
        bail!("spotter.toml: speaking.lead has no tokens; it is what makes the model speak");
    }
    Ok(lead)
}

/// Answers that mean opposite things must differ in their tokens, and none may be the beginning of another: its
/// probability would contain the other's.
fn apart(speak: (&[String], &[Vec<u32>]), silent: (&[String], &[Vec<u32>])) -> Result<()> {
    for (word, a) in speak.0.iter().zip(speak.1) {
        if let Some(empty) = a.is_empty().then_some(word).or_else(|| {
            let nothing = silent.0.iter().zip(silent.1).find(|(_, b)| b.is_empty());
            nothing.map(|(word, _)| word)
        }) {
            bail!("spotter.toml: speaking: the answer {empty:?} has no tokens");
        }
        if let Some((other, _)) = silent.0.iter().zip(silent.1).find(|(_, b)| a.starts_with(b) || b.starts_with(a)) {
            bail!(
                "spotter.toml: speaking: {word:?} means to speak and {other:?} to stay silent, but to this tokenizer one \
                 begins with the other; choose answers that differ"
            );
        }
    }
    Ok(())
}

/// Whether a manifest fits a tokenizer and a decoder, as far as it can be told before weights are loaded.
///
/// # Errors
/// The first thing that does not fit.
pub(super) fn check(manifest: &Manifest, tokenizer: &Tokenizer, decoder: &DecoderConfig) -> Result<()> {
    Gate::new(&manifest.speaking, tokenizer, &decoder.eos)?;
    for language in ["en", "ko"] {
        let n = ids(tokenizer, &manifest.prompt.render(language, None))?.len();
        if n == 0 || 2 * n > manifest.context {
            let context = manifest.context;
            bail!(
                "spotter.toml: prompt ({language}) is {n} tokens long; 1 to half of the context of {context} expected"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::{models::wordlevel::WordLevelBuilder, pre_tokenizers::whitespace::Whitespace};

    fn tokenizer() -> Tokenizer {
        let words = ["<unk>", "yes", "no", "please", "?", "<n>", "<f>", "</f>", "</s>"];
        let vocab = words.iter().enumerate().map(|(i, w)| ((*w).to_owned(), i as u32)).collect();
        let model = WordLevelBuilder::new().vocab(vocab).unk_token("<unk>".into()).build().unwrap();
        let mut tokenizer = Tokenizer::new(model);
        tokenizer.with_pre_tokenizer(Some(Whitespace {}));
        tokenizer
    }

    fn verbalisers(speak: &[&str], silent: &[&str]) -> Result<Gate> {
        let own = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect();
        let speaking = Speaking::Verbalisers {
            question: "?".into(),
            speak: own(speak),
            silent: own(silent),
            lead: "please".into(),
        };
        Gate::new(&speaking, &tokenizer(), &[7])
    }

    #[test]
    fn what_has_no_text_is_never_said() {
        let speaking = Speaking::Actions { next: "<n>".into(), feedback: "<f>".into(), end: "</f>".into() };
        let actions = Gate::new(&speaking, &tokenizer(), &[]).unwrap();
        // Rows of a head that was padded to a round number.
        assert_eq!(actions.never(&tokenizer(), 12), [9, 10, 11, 5, 6]);
        let asked = verbalisers(&["yes"], &["no"]).ok().unwrap();
        assert_eq!(asked.never(&tokenizer(), 11), [9, 10]);
        let mut pictured = tokenizer();
        pictured.add_special_tokens(&[tokenizers::AddedToken::from("<image>", true)]);
        assert_eq!(asked.never(&pictured, 11), [10, 9]);
    }

    #[test]
    fn answers_of_several_tokens_are_kept_whole() {
        let Ok(Gate::Verbalisers { speak, silent, ends, .. }) = verbalisers(&["yes please", "yes"], &["no"]) else {
            panic!("verbalisers")
        };
        assert_eq!((speak, silent), (vec![vec![1, 3], vec![1]], vec![vec![2]]));
        assert_eq!(ends, [7, 8], "the configuration's end first");
        assert_eq!(verbalisers(&["yes please"], &["no"]).unwrap().scratch(2), 4);
        assert_eq!(verbalisers(&["yes please", "please please"], &["no no no"]).unwrap().scratch(1), 1 + 1 + 1 + 2);
    }

    fn separator(separator: Option<&str>, lead: &str) -> Result<Gate> {
        let own = |text: &str| text.to_owned();
        let (separator, lead) = (separator.map(own), own(lead));
        let speaking = Speaking::Separator { separator, threshold: 0.7, lead, end: own("</f>"), again: own("? no") };
        Gate::new(&speaking, &tokenizer(), &[8])
    }

    #[test]
    fn a_separator_stands_between_frames() {
        let gate = separator(Some("please"), "yes no").unwrap();
        assert_eq!((gate.before(false), gate.before(true)), (&[3][..], &[4, 2][..]));
        assert_eq!((gate.positions(10), gate.scratch(5)), (12, 8));
        let Gate::Separator { silent: 3, lead, ends, .. } = gate else { panic!("a separator") };
        assert_eq!((lead, ends), (vec![1, 2], vec![7, 8]), "its own end first");
        // Without one the turn is ended, and nothing stands between frames.
        let gate = separator(None, "yes").unwrap();
        assert!(matches!(&gate, Gate::Separator { silent: 7, between, .. } if between.is_empty()));
        for (text, lead, said) in
            [(Some("yes no"), "yes", "expected one token, found 2"), (Some("no"), "", "lead has no tokens")]
        {
            let error = separator(text, lead).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn silence_has_to_be_likely_and_the_likeliest() {
        let logits = |p: &[f32]| p.iter().map(|p| p.ln()).collect::<Vec<f32>>();
        for (p, threshold, speaks) in [
            (&[0.8, 0.1, 0.1][..], 0.725, false),
            (&[0.7, 0.2, 0.1], 0.725, true),
            (&[0.7, 0.2, 0.1], 0.6, false),
            // Below a threshold of a half something else may be likelier.
            (&[0.4, 0.5, 0.1], 0.3, true),
            (&[0.4, 0.3, 0.3], 0.3, false),
            (&[0.4, 0.5, 0.1], 0.0, true),
            (&[0.5, 0.4, 0.1], 0.0, false),
        ] {
            let wish = Wish::unless(&logits(p), 0, threshold);
            assert_eq!(wish.margin > 0.0, speaks, "{p:?} {threshold}: {wish:?}");
            assert!((wish.p - (1.0 - p[0])).abs() < 1e-6, "{wish:?}");
        }
        // Talkativeness moves the threshold on the scale of log-odds.
        let wish = Wish::unless(&logits(&[0.8, 0.1, 0.1]), 0, 0.725);
        assert!((wish.margin - ((0.2f32 / 0.8).ln() + (0.725f32 / 0.275).ln())).abs() < 1e-5, "{wish:?}");
    }

    #[test]
    fn answers_that_are_the_same_to_the_tokenizer_are_refused() {
        for (speak, silent, said) in [
            (&["yes"][..], &["yes"][..], "begins with the other"),
            (&["yes please"], &["no", "yes"], "begins with the other"),
            (&["hm"], &["ah"], "begins with the other"),
            (&["yes"], &[""], "has no tokens"),
        ] {
            let error = verbalisers(speak, silent).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains(said), "{speak:?} {silent:?}: {error}");
        }
    }
}
