//! What a judge is asked.
//!
//! The published prompt is the benchmark's and is not kept here; its hash is, so that a file that holds it is known.

use crate::digest::sha256;
use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use std::path::Path;

/// Places of the truth and of the prediction, as the published prompt marks them.
const TRUTH: &str = "<1>";
const SAID: &str = "<2>";

/// SHA-256 of the published system text, a zero byte, and the published user text with its marks: those of
/// varworkshop/ai_coach_fitness_2026, `eval.py`, which are those of FitCoach's `get_llm_accuracy.py`, letter for letter.
const PUBLISHED: &str = "0bb94e89639d7f15758f30f6e776ee3534d4cc6c38a66f7d96eff3a54354f733";

/// The published judge.
pub(crate) const PUBLISHED_JUDGE: &str = "Meta-Llama-3-70B-Instruct";

const OWN_SYSTEM: &str = "You rate the feedback of an AI fitness coach. You are given what a human coach said at a moment of a \
    workout (the truth) and what the AI coach said at that moment (the prediction). Judge how well the prediction agrees with \
    the truth in fact, how relevant it is, and whether both ask for the same. Synonyms and paraphrases are valid. Counts of \
    repetitions may be written as digits or as words.";

const OWN_USER: &str = "Truth: <1>\nPrediction: <2>\n\nAnswer with a Python dict alone, with the single key 'score' and an integer \
    from 1 (wrong) to 5 (the same). Example: {'score': 3}";

/// A system text, and a question with two gaps.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Prompt {
    pub(super) system: String,
    user: String,
}

impl Prompt {
    /// Spotter's own words.
    pub(crate) fn own() -> Self {
        Self { system: OWN_SYSTEM.into(), user: OWN_USER.into() }
    }

    /// Reads a TOML file with the texts `system` and `user`; in `user` the marks `<1>` and `<2>` stand for truth and prediction.
    ///
    /// # Errors
    /// No such file, or not these two texts.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("{}: can't be read", path.display()))?;
        let prompt: Self = toml::from_str(&text)
            .with_context(|| format!("{}: expected a TOML file with the texts system and user", path.display()))?;
        for (mark, what) in [(TRUTH, "the truth"), (SAID, "the prediction")] {
            if !prompt.user.contains(mark) {
                bail!("{}: user has no {mark}, where {what} belongs", path.display());
            }
        }
        Ok(prompt)
    }

    /// The question about a pair. Both gaps are filled in one pass, so that a text which holds a mark stays as it is.
    pub(super) fn question(&self, truth: &str, said: &str) -> String {
        let (mut filled, mut rest) = (String::new(), self.user.as_str());
        while let Some(at) = rest.find('<') {
            let (before, from) = rest.split_at(at);
            filled.push_str(before);
            let gap = [(TRUTH, truth), (SAID, said)].into_iter().find_map(|(m, t)| Some((t, from.strip_prefix(m)?)));
            let (text, behind) = gap.unwrap_or_else(|| from.split_at(1));
            filled.push_str(text);
            rest = behind;
        }
        filled + rest
    }

    fn hash(&self) -> String {
        sha256(format!("{}\0{}", self.system, self.user).as_bytes())
    }

    /// What the score of a judge with this prompt is called, and whether it is the published one.
    pub(crate) fn named(&self, model: &str) -> (String, bool) {
        let published = self.hash() == PUBLISHED;
        let judge = model.rsplit('/').next().is_some_and(|name| name.eq_ignore_ascii_case(PUBLISHED_JUDGE));
        match (published, judge) {
            (true, true) => (format!("{model}, published prompt"), true),
            (true, false) => {
                (format!("{model} with the published prompt, not LLM-Acc: its judge is {PUBLISHED_JUDGE}"), false)
            }
            _ if self.hash() == Self::own().hash() => {
                (format!("{model} with Spotter's own prompt, not LLM-Acc"), false)
            }
            _ => {
                let hash: String = self.hash().chars().take(16).collect();
                (format!("{model} with the prompt {hash}, not LLM-Acc"), false)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truth_that_holds_a_mark_is_asked_about_as_it_is() {
        let prompt = Prompt { system: String::new(), user: "a <1> b <2> c <1> d <3> < e".into() };
        assert_eq!(prompt.question("<2> and <1>", "<1>"), "a <2> and <1> b <1> c <2> and <1> d <3> < e");
        assert_eq!(Prompt { user: "none".into(), ..prompt }.question("x", "y"), "none");
        assert!(Prompt::own().question("5", "five").starts_with("Truth: 5\nPrediction: five\n"));
    }

    #[test]
    fn a_file_is_read_and_other_words_have_another_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("prompt.toml");
        let read = |text: &str| {
            std::fs::write(&file, text).unwrap();
            Prompt::read(&file)
        };
        let prompt = read("system = \"Judge.\"\nuser = \"\"\"\n<1> against <2>, {'score': 3}\"\"\"\n").unwrap();
        assert_eq!(prompt.question("a", "b"), "a against b, {'score': 3}");
        let (name, published) = prompt.named("meta-llama/Meta-Llama-3-70B-Instruct");
        assert!(!published && name.contains("with the prompt ") && name.contains("not LLM-Acc"), "{name}");
        assert!(Prompt::own().named("m").0.contains("Spotter's own prompt, not LLM-Acc"));
        for (text, part) in [
            ("system = 'x'\nuser = '<1>'", "no <2>, where the prediction belongs"),
            ("user = '<1> <2>'", "the texts system and user"),
            ("system = 'x'\nuser = '<1> <2>'\nmore = 1", "the texts system and user"),
        ] {
            let error = format!("{:#}", read(text).unwrap_err());
            assert!(error.contains(part) && error.contains("prompt.toml"), "{error}");
        }
        assert!(Prompt::read(&folder.path().join("none")).is_err());
    }

    /// The text itself is not here; where somebody has put it, it must be known by its hash.
    #[test]
    fn the_published_prompt_is_known_where_there_is_one() {
        let Some(file) = std::env::var_os("SPOTTER_PUBLISHED_PROMPT") else {
            println!("skipped: SPOTTER_PUBLISHED_PROMPT names no file; docs/eval.md says how to make it");
            return;
        };
        let prompt = Prompt::read(Path::new(&file)).unwrap();
        assert!(prompt.named("meta-llama/Meta-Llama-3-70B-Instruct").1);
        assert!(!prompt.named("another").1 && prompt.named("another").0.contains("not LLM-Acc"));
        let changed = Prompt { user: prompt.user.clone() + ".", ..prompt };
        assert!(!changed.named("Meta-Llama-3-70B-Instruct").1);
    }
}
