//! Options that `replay` and `live` share.

use crate::{
    parts::{CoachChoice, LensChoice},
    pipeline::workout::Workout,
    settings::{Resolved, Settings},
};
use clap::{Args, ValueEnum};
use spotter_datasets::synthetic::{
    Exercise,
    phrases::{self, Lang},
};
use spotter_engine::{
    coach::{CacheChoice, SpeculationChoice},
    model::{Policy, cache::Setting},
    speculate::{DrafterKind, Method},
};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// A language that the coach speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Language {
    /// English
    #[default]
    En,
    /// Korean
    Ko,
}

impl Language {
    /// As the phrases have it.
    pub(crate) fn spoken(self) -> Lang {
        match self {
            Self::En => Lang::En,
            Self::Ko => Lang::Ko,
        }
    }

    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::Ko => "ko",
        }
    }
}

/// How the context is bounded; what is left out is the model's own default.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct CacheFlags {
    /// Which entries of a full cache stay: none, window, random, keydiff, h2o, tova, snapkv, or caote(...) or
    /// fastcaote(...) around one of the last four
    #[arg(long, value_name = "POLICY")]
    cache_policy: Option<Policy>,
    /// Entries that stay in the cache
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    cache_budget: Option<u32>,
    /// Share of them, from 0 to 1, that is kept for what the coach said itself
    #[arg(long, value_name = "SHARE")]
    cache_said: Option<f64>,
    /// Any other setting of the cache, in the words of spotter.toml: anchor, shared, window, positions, every, block, sinks, observe
    #[arg(long, value_name = "KEY=VALUE")]
    cache: Vec<Setting>,
}

impl CacheFlags {
    pub(crate) fn choice(&self) -> CacheChoice {
        let said = self.cache_said.map(|share| Setting::new("said", share));
        CacheChoice {
            policy: self.cache_policy,
            budget: self.cache_budget.map(|n| n as usize),
            settings: self.cache.iter().cloned().chain(said).collect(),
        }
    }
}

/// The coach.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Coach")]
pub(crate) struct CoachArgs {
    /// Tell the coach the exercise, such as "squats"; left out, it recognises what is done
    #[arg(long, value_name = "NAME")]
    exercise: Option<String>,
    /// Do a workout: a TOML file of exercises with sets, reps or seconds, and rests
    #[arg(long, value_name = "FILE", conflicts_with = "exercise")]
    workout: Option<PathBuf>,
    /// Language of the coach [default: en]
    #[arg(long, value_enum)]
    lang: Option<Language>,
    /// Model folder, a GGUF file with its mmproj beside it, or the name of a model that ships
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// More speaks more, less speaks less; 0 is as trained. Left out, the model's own default
    #[arg(long, value_name = "BIAS", allow_negative_numbers = true, value_parser = bias)]
    talkativeness: Option<f32>,
    /// No two utterances begin closer than this many seconds
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = seconds)]
    cooldown: Option<Duration>,
    /// Longest utterance in tokens
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    max_tokens: Option<u16>,
    /// 0 says the likeliest word each time, more draws by chance from --seed. Left out, the model's own default
    #[arg(long, value_name = "T", value_parser = temperature)]
    temperature: Option<f32>,
    /// Draw from so many of the likeliest words' tokens only, at a temperature above 0; 0 is all. Left out, the model's own
    /// default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32))]
    top_k: Option<u32>,
    /// Draw from the likeliest tokens that together reach this probability only, at a temperature above 0; 1 is all. Left
    /// out, the model's own default
    #[arg(long, value_name = "P", value_parser = share)]
    top_p: Option<f32>,
    /// Seed of whatever is drawn by chance
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// What the model looks through
    #[arg(long, value_enum, default_value_t)]
    lens: LensChoice,
    #[command(flatten)]
    cache: CacheFlags,
    /// Who drafts utterances ahead: none, lookup or ngram (what followed the same words before), or a language model with
    /// the coach's tokens. Changes no word at temperature 0. Left out, the model's own default
    #[arg(long, value_name = "DRAFTER")]
    draft: Option<DrafterKind>,
    /// What is drafted: static(N), adaedl(N), max-prob(N), rsd-c(B,B,...) or rsd-s(WIDTH,DEPTH). Left out, the model's own default
    #[arg(long, value_name = "METHOD")]
    draft_method: Option<Method>,
    /// Share of the picture's tokens that the selective layers of a model with selectors work on, above 0, at most 1. Left
    /// out, the model's own
    #[arg(long, value_name = "RATIO", value_parser = ratio)]
    tosa_ratio: Option<f64>,
    /// Say the lines of a file instead of asking a model: seconds and words on each
    #[arg(long, value_name = "FILE", hide = true, conflicts_with = "model")]
    script: Option<PathBuf>,
}

impl CoachArgs {
    /// Language of the coach.
    pub(crate) fn lang(&self) -> Language {
        self.lang.unwrap_or_default()
    }

    /// Puts the flags that were given over the settings.
    ///
    /// # Errors
    /// None that a parsed flag could cause.
    pub(crate) fn over(&self, resolved: &mut Resolved) -> anyhow::Result<()> {
        let given = [
            ("lang", self.lang.map(|lang| lang.code().to_owned())),
            // one takes the place of the other, wherever that was settled
            ("exercise", self.exercise.clone().or_else(|| self.workout.as_ref().map(|_| String::new()))),
            ("workout", self.workout_text().or_else(|| self.exercise.as_ref().map(|_| String::new()))),
            ("model", self.model.as_ref().map(|model| model.display().to_string())),
            ("talkativeness", self.talkativeness.map(|t| t.to_string())),
            ("cooldown", self.cooldown.map(|c| c.as_secs_f64().to_string())),
        ];
        given.into_iter().filter_map(|(name, value)| Some((name, value?))).try_for_each(|(n, v)| resolved.flag(n, &v))
    }

    fn workout_text(&self) -> Option<String> {
        self.workout.as_ref().map(|path| path.display().to_string())
    }

    /// Whether a flag says what is done.
    #[cfg(feature = "desktop")]
    pub(crate) fn says_what(&self) -> bool {
        self.exercise.is_some() || self.workout.is_some()
    }

    /// The same with what is settled where no flag says otherwise.
    pub(crate) fn settled(mut self, settings: &Settings) -> Self {
        self.lang = Some(settings.lang);
        self.workout.clone_from(&settings.workout);
        // a workout says itself which exercise comes
        let told = settings.exercise.clone().filter(|_| settings.workout.is_none());
        let lang = settings.lang.spoken();
        self.exercise = told.map(|told| exercise(&told, lang).map_or(told, |e| e.name(lang.code()).to_owned()));
        if self.script.is_none() {
            self.model.clone_from(&settings.model);
        }
        self.talkativeness = settings.talkativeness;
        self.cooldown = settings.cooldown.map(Duration::from_secs_f64);
        self
    }

    pub(crate) fn choice(&self) -> CoachChoice {
        CoachChoice {
            model: self.model.clone(),
            script: self.script.clone(),
            exercise: self.exercise.clone(),
            language: self.lang().code().to_owned(),
            seed: self.seed,
            talkativeness: self.talkativeness,
            cooldown: self.cooldown,
            max_tokens: self.max_tokens.map(usize::from),
            temperature: self.temperature,
            top_k: self.top_k.map(|n| n as usize),
            top_p: self.top_p,
            lens: self.lens,
            cache: self.cache.choice(),
            speculation: SpeculationChoice { drafter: self.draft.clone(), method: self.draft_method.clone() },
            tosa_ratio: self.tosa_ratio,
            card: 0,
        }
    }
}

impl CoachArgs {
    /// The workout, if there is one.
    ///
    /// # Errors
    /// When its file can't be read or asks for something that can't be done.
    pub(crate) fn workout(&self) -> anyhow::Result<Option<Workout>> {
        let lang = self.lang().spoken();
        self.workout.as_ref().map(|path| Workout::read(path, lang)).transpose()
    }

    /// The exercise to count, where it is one that can be counted.
    pub(crate) fn counted(&self) -> Option<Exercise> {
        let lang = self.lang().spoken();
        let told = self.exercise.as_ref()?;
        let exercise = exercise(told, lang);
        if exercise.is_none() {
            tracing::warn!("repetitions of `{told}` can't be counted; counted are {}", exercise_names());
        }
        exercise
    }
}

/// The exercise of a name, in the coach's language, in English or as the timeline writes it.
pub(crate) fn exercise(name: &str, lang: Lang) -> Option<Exercise> {
    let known = |lang| match phrases::named(name, lang)[..] {
        [exercise] => Some(exercise),
        _ => None,
    };
    let by_id =
        || serde_json::from_value(serde_json::Value::String(name.trim().to_lowercase().replace([' ', '-'], "_")));
    known(lang).or_else(|| known(Lang::En)).or_else(|| by_id().ok())
}

/// The names of all exercises that are counted or timed.
pub(crate) fn exercise_names() -> String {
    Exercise::ALL.map(|e| e.name("en")).join(", ")
}

impl CoachArgs {
    /// What was chosen, in words; what was left to the model is left out.
    pub(crate) fn described(&self) -> Vec<(String, String)> {
        let lens = self.lens.to_possible_value().map(|v| v.get_name().to_owned());
        let given = [
            ("exercise", self.exercise.clone()),
            ("language", Some(self.lang().code().to_owned())),
            ("talkativeness", self.talkativeness.map(|t| t.to_string())),
            ("cooldown", self.cooldown.map(|c| c.as_secs_f64().to_string())),
            ("max tokens", self.max_tokens.map(|n| n.to_string())),
            ("temperature", self.temperature.map(|t| t.to_string())),
            ("top k", self.top_k.map(|n| n.to_string())),
            ("top p", self.top_p.map(|p| p.to_string())),
            ("seed", Some(self.seed.to_string())),
            ("lens", lens),
            ("cache policy", self.cache.cache_policy.map(|p| p.to_string())),
            ("cache budget", self.cache.cache_budget.map(|n| n.to_string())),
            ("cache said", self.cache.cache_said.map(|s| s.to_string())),
            (
                "cache",
                (!self.cache.cache.is_empty())
                    .then(|| self.cache.cache.iter().map(|s| s.to_string()).collect::<Vec<_>>().join(" ")),
            ),
            ("draft", self.draft.as_ref().map(drafter_name)),
            ("draft method", self.draft_method.as_ref().map(|m| m.to_string())),
            ("tosa ratio", self.tosa_ratio.map(|r| r.to_string())),
        ];
        given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

/// What drafts, in a word: of a model the name, wherever it lies.
fn drafter_name(kind: &DrafterKind) -> String {
    match kind {
        DrafterKind::Model(path) => {
            Path::new(path).file_name().map_or_else(|| path.clone(), |name| name.to_string_lossy().into_owned())
        }
        other => other.to_string(),
    }
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if ratio > 0.0 && ratio <= 1.0 { Ok(ratio) } else { Err(format!("{ratio} is out of range: above 0, at most 1")) }
}

/// What is added to the log-odds of speaking.
pub(crate) fn bias(text: &str) -> Result<f32, String> {
    let bias: f32 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if bias.abs() <= 20.0 { Ok(bias) } else { Err(format!("{bias} is out of range: -20 to 20 expected")) }
}

/// A share of all probability.
pub(crate) fn share(text: &str) -> Result<f32, String> {
    let p: f32 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if p > 0.0 && p <= 1.0 { Ok(p) } else { Err(format!("{p} is out of range: above 0, up to 1")) }
}

/// A temperature of sampling.
pub(crate) fn temperature(text: &str) -> Result<f32, String> {
    let t: f32 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if (0.0..=10.0).contains(&t) { Ok(t) } else { Err(format!("{t} is out of range: 0 to 10 expected")) }
}

/// Seconds, up to an hour.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("`{text}` is no number of seconds"))?;
    if (0.0..=3600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("{seconds} is out of range: 0 to 3600 seconds expected"))
    }
}
