//! `spotter.toml`: how a checkpoint is streamed.

use crate::{
    model::{CacheOptions, projector::VisionManifest},
    sampler::Sampling,
    speculate::SpeculationOptions,
};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The manifest beside a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// What the encoder looks through.
    #[serde(default)]
    pub lens: LensKind,
    /// Frames a second the model was trained on.
    pub frame_rate: f64,
    /// Visual tokens.
    #[serde(default)]
    pub vision: VisionManifest,
    /// How it decides to speak.
    pub speaking: Speaking,
    /// What it is told.
    pub prompt: Prompt,
    /// Most entries of the cache: as much as the model was trained to look at, prompt and stream together.
    pub context: usize,
    /// Positions run on to here, and are closed up then; left out, to what the checkpoint says it has. Rotary positions
    /// have no end of their own, but keep to what was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positions: Option<usize>,
    /// How the cache is bounded.
    #[serde(default)]
    pub cache: CacheOptions,
    /// How an utterance is drafted.
    #[serde(default)]
    pub speculation: SpeculationOptions,
    /// Defaults of the user's knobs.
    #[serde(default)]
    pub defaults: Defaults,
}

/// What the encoder looks through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LensKind {
    /// The raw frame.
    #[default]
    None,
    /// The person, drawn again.
    Avatar,
}

/// How a model decides to speak.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Speaking {
    /// Trained action tokens (QEVD's Stream-VLM).
    Actions {
        /// Stay silent.
        next: String,
        /// Speak.
        feedback: String,
        /// The utterance ends.
        end: String,
    },
    /// A checkpoint that knows no action tokens: after each frame it is asked, and the answers are scored on the logits.
    Verbalisers {
        /// Put after each frame to be scored; leaves no trace in the context.
        question: String,
        /// Beginnings of an answer that mean "speak".
        speak: Vec<String>,
        /// Beginnings of an answer that mean "stay silent".
        silent: Vec<String>,
        /// Put before an utterance.
        lead: String,
    },
    /// A model that was trained to write a separator between frames as long as it has nothing to say (VideoLLM-online).
    Separator {
        /// The separator, one token. Left out, the model ends its turn (`end`) to stay silent, and nothing stands between frames.
        #[serde(default)]
        separator: Option<String>,
        /// It is silent where that is at least so likely, and likelier than anything else.
        #[serde(default = "threshold")]
        threshold: f32,
        /// Put before an utterance.
        lead: String,
        /// The utterance ends.
        end: String,
        /// Put between an utterance and the next frame.
        again: String,
    },
}

/// The published threshold of a separator.
pub const THRESHOLD: f32 = 0.725;

fn threshold() -> f32 {
    THRESHOLD
}

/// What the model is told before the first frame. `{exercise}` is replaced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    /// English, with a named exercise.
    pub en: String,
    /// English, with none.
    pub en_unnamed: String,
    /// Korean, with a named exercise.
    pub ko: String,
    /// Korean, with none.
    pub ko_unnamed: String,
}

impl Prompt {
    /// The prompt for a language and an exercise.
    pub fn render(&self, language: &str, exercise: Option<&str>) -> String {
        match (language, exercise) {
            ("ko", Some(name)) => self.ko.replace("{exercise}", name),
            ("ko", None) => self.ko_unnamed.clone(),
            (_, Some(name)) => self.en.replace("{exercise}", name),
            (_, None) => self.en_unnamed.clone(),
        }
    }
}

/// Defaults of the user's knobs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Defaults {
    /// Added to the logit of speaking.
    pub talkativeness: f32,
    /// Seconds between the starts of two utterances.
    pub cooldown_seconds: f64,
    /// Longest utterance in tokens.
    pub max_tokens: usize,
    /// 0 is greedy.
    pub temperature: f32,
    /// Only the so many likeliest tokens are drawn; 0 is all.
    pub top_k: usize,
    /// Only the likeliest tokens that together reach this probability are drawn; 1 is all.
    pub top_p: f32,
}

impl Defaults {
    /// How words are drawn.
    pub fn sampling(&self) -> Sampling {
        Sampling { temperature: self.temperature, top_k: self.top_k, top_p: self.top_p }
    }

    fn problem(&self) -> Option<String> {
        if !(self.cooldown_seconds >= 0.0 && self.cooldown_seconds.is_finite()) {
            return Some(format!("cooldown_seconds {} must be 0 or more", self.cooldown_seconds));
        }
        if !(0.0..=10.0).contains(&self.temperature) {
            return Some(format!("defaults.temperature {} must be from 0 to 10", self.temperature));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Some(format!("defaults.top_p {} must be above 0 and at most 1", self.top_p));
        }
        None
    }
}

impl Default for Defaults {
    fn default() -> Self {
        Self { talkativeness: 0.0, cooldown_seconds: 1.5, max_tokens: 40, temperature: 0.0, top_k: 0, top_p: 1.0 }
    }
}

/// A manifest that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It can't be read.
    #[error("{path}: {source}; a model folder holds config.json, tokenizer.json, spotter.toml and weights")]
    Read {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no manifest.
    #[error("{path}: {problem}")]
    Invalid {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong.
        problem: String,
    },
}

impl Manifest {
    /// Reads `spotter.toml` of a model folder.
    pub fn read(folder: &Path) -> Result<Self, ManifestError> {
        let path = folder.join("spotter.toml");
        let text =
            std::fs::read_to_string(&path).map_err(|source| ManifestError::Read { path: path.clone(), source })?;
        Self::parse(&text).map_err(|problem| ManifestError::Invalid { path, problem })
    }

    /// Reads the text of a `spotter.toml`.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let manifest: Self = toml::from_str(text).map_err(|e| e.to_string())?;
        match manifest.problem() {
            Some(problem) => Err(problem),
            None => Ok(manifest),
        }
    }

    fn problem(&self) -> Option<String> {
        if !(self.frame_rate > 0.0 && self.frame_rate <= 60.0) {
            return Some(format!("frame_rate {} must be above 0 and at most 60", self.frame_rate));
        }
        if self.context < 64 {
            return Some(format!("context {} must be at least 64 positions", self.context));
        }
        if let Some(positions) = self.positions.filter(|n| !(self.context..=1 << 24).contains(n)) {
            return Some(format!(
                "positions {positions} must be at least the context of {}, and at most 2^24",
                self.context
            ));
        }
        if let Some(problem) =
            self.defaults.problem().or_else(|| self.cache.problem()).or_else(|| self.speculation.stop.problem())
        {
            return Some(problem);
        }
        match &self.speaking {
            Speaking::Verbalisers { speak, silent, .. } if speak.is_empty() || silent.is_empty() => {
                Some("speaking.speak and speaking.silent need a word each".into())
            }
            Speaking::Separator { threshold, .. } if !(0.0..1.0).contains(threshold) => {
                Some(format!("speaking.threshold {threshold} must be from 0 to below 1"))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl Fn(&str) -> String, expected: &str) {
        let good = "frame_rate = 8.0\ncontext = 512\n[speaking]\nkind = \"actions\"\nnext = \"<n>\"\nfeedback = \"<f>\"\nend = \"</f>\"\n\
                    [prompt]\nen = \"a {exercise}\"\nen_unnamed = \"b\"\nko = \"c\"\nko_unnamed = \"d\"\n";
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("spotter.toml"), change(good)).unwrap();
        match Manifest::read(folder.path()) {
            Ok(m) => assert_eq!(m.prompt.render("en", Some("squats")), expected),
            Err(e) => assert!(e.to_string().contains(expected), "{e}"),
        }
    }

    #[test]
    fn reads_and_refuses() {
        check(str::to_owned, "a squats");
        check(|g| g.replace("8.0", "-1"), "frame_rate -1");
        check(|g| g.replace("512", "3"), "context 3");
        check(
            |g| g.replace("context", "positions = 300\ncontext"),
            "positions 300 must be at least the context of 512",
        );
        check(|g| g.replace("context", "positions = 2048\ncontext"), "a squats");
        check(|g| g.replace("frame_rate", "frame_rat"), "frame_rat");
        check(|g| format!("{g}[cache]\npolicy = \"caote(h2o)\"\nbudget = 9"), "a squats");
        check(|g| format!("{g}[cache]\npolicy = \"oldest\""), "`oldest` is no cache policy");
        check(|g| format!("{g}[cache]\nevery = 0"), "cache.every 0");
        check(|g| format!("{g}[speculation]\ndrafter = \"ngram\"\nmethod = \"rsd-s(3,3)\""), "a squats");
        check(|g| format!("{g}[speculation]\nmethod = \"guess\""), "`guess` is no way of drafting");
        check(|g| format!("{g}[speculation.stop]\nfactor = 0.0"), "speculation.stop.factor 0");
        check(|g| format!("{g}[defaults]\ntemperature = 0.8\ntop_k = 20\ntop_p = 0.9"), "a squats");
        for (line, expected) in [
            ("temperature = -1.0", "defaults.temperature -1 must be from 0 to 10"),
            ("temperature = nan", "defaults.temperature NaN"),
            ("top_p = 0.0", "defaults.top_p 0 must be above 0"),
            ("top_p = 1.5", "defaults.top_p 1.5"),
            ("top_k = -3", "top_k"),
            ("cooldown_seconds = -1.0", "cooldown_seconds -1"),
        ] {
            check(|g| format!("{g}[defaults]\n{line}"), expected);
        }
        check(|_| "\u{0}".into(), "spotter.toml");
        let separator = |g: &str, more: &str| {
            let (before, after) = (g.split_once("[speaking]").unwrap().0, g.split_once("[prompt]").unwrap().1);
            let own = "kind = \"separator\"\nlead = \"]\"\nend = \"</f>\"\nagain = \"[\"";
            format!("{before}[speaking]\n{own}\n{more}\n[prompt]{after}")
        };
        check(|g| separator(g, "separator = \",\""), "a squats");
        check(|g| separator(g, "threshold = 1.0"), "speaking.threshold 1 must be from 0 to below 1");
    }
}
