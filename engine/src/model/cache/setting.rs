//! One `KEY=VALUE` of the command line, in the words of `[cache]` in `spotter.toml`.

use super::CacheOptions;
use std::{fmt, str::FromStr};

/// A field of [`CacheOptions`] with another value: what an ablation changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    key: String,
    value: toml::Value,
}

/// A setting that the cache does not have, or with a value that it can't have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cache setting `{text}`: {problem}")]
pub struct BadSetting {
    text: String,
    problem: String,
}

impl Setting {
    /// `key` set to `value`.
    pub fn new(key: impl Into<String>, value: impl Into<toml::Value>) -> Self {
        Self { key: key.into(), value: value.into() }
    }

    /// `options` with this setting.
    ///
    /// # Errors
    /// No such field, a value of another kind, or one that is out of range.
    pub fn apply(&self, options: &CacheOptions) -> Result<CacheOptions, BadSetting> {
        let wrong = |problem: String| BadSetting { text: self.to_string(), problem: problem.trim().replace('\n', " ") };
        let mut table = toml::Table::try_from(options).map_err(|e| wrong(e.to_string()))?;
        table.insert(self.key.clone(), self.value.clone());
        let options: CacheOptions = table.try_into().map_err(|e: toml::de::Error| wrong(e.message().to_owned()))?;
        match options.problem() {
            Some(problem) => Err(wrong(problem)),
            None => Ok(options),
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            toml::Value::String(text) => write!(f, "{}={text}", self.key),
            value => write!(f, "{}={value}", self.key),
        }
    }
}

impl FromStr for Setting {
    type Err = BadSetting;

    fn from_str(text: &str) -> Result<Self, BadSetting> {
        let text = text.trim();
        let Some((key, value)) = text.split_once('=') else {
            let text = text.chars().take(64).collect();
            return Err(BadSetting { text, problem: "KEY=VALUE expected, such as anchor=raw or window=0.2".into() });
        };
        let (key, value) = (key.trim(), value.trim());
        // A word needs no quotes here.
        let read = toml::from_str::<toml::Table>(&format!("value = {value}")).ok().and_then(|mut t| t.remove("value"));
        let setting = Self::new(key, read.unwrap_or_else(|| toml::Value::String(value.to_owned())));
        setting.apply(&CacheOptions::default())?;
        Ok(setting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::cache::{Anchor, Positions};

    #[test]
    fn settings_change_one_field() {
        let plain = CacheOptions::default();
        let with = |text: &str| text.parse::<Setting>().unwrap().apply(&plain).unwrap();
        assert_eq!(with("anchor=raw"), CacheOptions { anchor: Anchor::Raw, ..plain.clone() });
        assert_eq!(with("shared = true"), CacheOptions { shared: true, ..plain.clone() });
        assert_eq!(with("window=0.25"), CacheOptions { window: 0.25, ..plain.clone() });
        assert_eq!(with("window=0"), CacheOptions { window: 0.0, ..plain.clone() });
        assert_eq!(with("positions=shrink"), CacheOptions { positions: Positions::Shrink, ..plain.clone() });
        assert_eq!(with("said=0.2"), CacheOptions { said: Some(0.2), ..plain.clone() });
        assert_eq!(with("policy=caote(h2o)").policy.to_string(), "caote(h2o)");
        for (name, get) in [
            ("every", (|o| o.every) as fn(&CacheOptions) -> usize),
            ("block", |o| o.block),
            ("sinks", |o| o.sinks),
            ("observe", |o| o.observe),
        ] {
            assert_eq!(get(&with(&format!("{name}=7"))), 7, "{name}");
        }
        assert_eq!("anchor=raw".parse::<Setting>().unwrap().to_string(), "anchor=raw");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, expected) in [
            ("window", "KEY=VALUE expected"),
            ("anker=raw", "anker"),
            ("anchor=mean", "anchor=mean"),
            ("every=0", "cache.every 0 must be from 1"),
            ("window=2", "cache.window 2 must be from 0 to 1"),
            ("said=-1", "cache.said -1 must be from 0 to 1"),
            ("shared=perhaps", "shared=perhaps"),
        ] {
            let error = text.parse::<Setting>().unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains('\n'), "{text}: {error}");
        }
    }
}
