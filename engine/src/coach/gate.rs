//! How a model's wish to speak is read: off its action tokens, or off the answers to a question.

use super::manifest::{Manifest, Speaking};
use crate::{
    model::{DecoderConfig, seed},
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
                let (question, lead) = (ids(tokenizer, question)?, ids(tokenizer, lead)?);
                Self::Verbalisers { question, speak: speak_ids, silent: silent_ids, lead, ends }
            }
        })
    }

    /// Tokens that are never said, by the model or by a drafter: actions, the place of a picture, and ids below `vocab` for
    /// which the tokenizer has no text.
    pub(super) fn never(&self, tokenizer: &Tokenizer, vocab: usize) -> Vec<u32> {
        let known: HashSet<u32> = tokenizer.get_vocab(true).into_values().collect();
        let mut never: Vec<u32> = (0..vocab as u32).filter(|id| !known.contains(id)).collect();
        let places = ["<image>", "<video>", seed::IMAGE_TOKEN, seed::VIDEO_TOKEN];
        never.extend(places.iter().filter_map(|place| tokenizer.token_to_id(place)));
        if let Self::Actions { next, feedback, .. } = self {
            never.extend([*next, *feedback]);
        }
        never
    }

    /// Positions of the longest step that may be undone: an utterance, or the question with an answer.
    pub(super) fn scratch(&self, max_tokens: usize) -> usize {
        match self {
            Self::Actions { .. } => max_tokens + 2,
            Self::Verbalisers { question, speak, silent, lead, .. } => {
                let answer = speak.iter().chain(silent).map(Vec::len).max().unwrap_or(0);
                (question.len() + answer).max(lead.len() + max_tokens + 1)
            }
        }
    }
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
        let speaking =
            Speaking::Verbalisers { question: "?".into(), speak: own(speak), silent: own(silent), lead: String::new() };
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
        assert_eq!(verbalisers(&["yes please"], &["no"]).unwrap().scratch(2), 3);
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
