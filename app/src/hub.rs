//! Checkpoints by their name on the Hugging Face hub, kept in the cache that Python's `huggingface_hub` uses too.
//!
//! `HF_HOME`, `HF_ENDPOINT`, `HF_HUB_OFFLINE` and `HF_TOKEN` (or the token that `hf auth login` left) mean what they mean there.

use crate::cli::Hinted;
use anyhow::{Context as _, Result, anyhow};
use hf_hub::{
    Cache, CacheRepo, Repo, RepoType,
    api::sync::{ApiBuilder, ApiError, ApiRepo},
};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

mod pull;

pub(crate) use pull::Wanted;

/// Times that a download is taken up again.
const RETRIES: usize = 3;

/// Where checkpoints come from.
#[derive(Clone, Debug)]
pub(crate) struct Hub {
    /// Its address, without a slash at the end.
    pub(crate) endpoint: String,
    /// Folder of the cache.
    pub(crate) cache: PathBuf,
    /// For models that ask who one is.
    pub(crate) token: Option<String>,
    /// Only what is in the cache.
    pub(crate) offline: bool,
}

/// A model on the hub: its name, and the revision that is pinned where one is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) repo: String,
    pub(crate) revision: Option<String>,
}

impl Name {
    /// `owner/name` or `owner/name@revision`; `None` for what can be no model.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (repo, revision) = match text.split_once('@') {
            Some((repo, revision)) => (repo, Some(revision.to_owned())),
            None => (text, None),
        };
        let plain = |revision: &String| is_name(revision) && !revision.contains('/');
        (is_name(repo) && revision.as_ref().is_none_or(plain)).then(|| Self { repo: repo.into(), revision })
    }

    fn repo(&self) -> Repo {
        match &self.revision {
            Some(revision) => Repo::with_revision(self.repo.clone(), RepoType::Model, revision.clone()),
            None => Repo::model(self.repo.clone()),
        }
    }
}

/// Whether a text may be the name of a model: `name` or `owner/name`.
pub(crate) fn is_name(text: &str) -> bool {
    let part = |part: &str| {
        let plain = part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        !part.is_empty() && plain && !part.starts_with('.') && !part.contains("..")
    };
    text.len() <= 200 && text.split('/').count() <= 2 && text.split('/').all(part)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

impl Hub {
    /// As the environment says.
    pub(crate) fn from_env() -> Self {
        let cache = variable("HF_HOME").map_or_else(|| Cache::default().path().clone(), |h| Path::new(&h).join("hub"));
        let yes = |value: String| ["1", "on", "yes", "true"].contains(&value.trim().to_lowercase().as_str());
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: variable("HF_TOKEN").or_else(|| Cache::new(cache.clone()).token()),
            cache,
            offline: variable("HF_HUB_OFFLINE").is_some_and(yes),
        }
    }

    /// The folder of a model with `config.json`, `tokenizer.json` and weights as safetensors. What the cache lacks is fetched,
    /// with progress on stderr.
    ///
    /// # Errors
    /// No such model or file, no network, or one that has to be fetched while offline.
    pub(crate) fn model(&self, name: &str) -> Result<PathBuf> {
        let files = self.files(&Name { repo: name.to_owned(), revision: None })?;
        let config = files.get(&["config.json"])?;
        files.get(&["tokenizer.json"])?;
        let weights = files.get(&["model.safetensors", "model.safetensors.index.json"])?;
        if weights.extension().is_some_and(|ending| ending == "json") {
            for shard in shards(&weights)? {
                files.get(&[shard.as_str()])?;
            }
        }
        config.parent().map(Path::to_owned).with_context(|| format!("{name}: its files have no folder"))
    }

    fn files(&self, name: &Name) -> Result<Files<'_>> {
        let api = ApiBuilder::from_cache(Cache::new(self.cache.clone()))
            .with_endpoint(self.endpoint.clone())
            .with_token(self.token.clone())
            .with_retries(RETRIES)
            .with_user_agent("spotter", env!("CARGO_PKG_VERSION"))
            .build()
            .with_context(|| format!("{}: can't be asked", self.endpoint))?;
        Ok(Files { hub: self, name: name.clone(), remote: api.repo(name.repo()) })
    }
}

/// The files that an index of weights names.
fn shards(index: &Path) -> Result<BTreeSet<String>> {
    let text = std::fs::read(index).with_context(|| format!("{}: can't be read", index.display()))?;
    let value: serde_json::Value =
        serde_json::from_slice(&text).with_context(|| format!("{}: is no JSON", index.display()))?;
    let map = value.get("weight_map").and_then(|m| m.as_object());
    let map = map.with_context(|| format!("{}: expected an object weight_map", index.display()))?;
    let plain = |file: &str| is_name(file) && !file.contains('/') && file.ends_with(".safetensors");
    map.values()
        .map(|file| {
            let file = file.as_str().filter(|file| plain(file));
            file.map(str::to_owned).with_context(|| format!("{}: expected names of files", index.display()))
        })
        .collect()
}

/// The files of one model.
struct Files<'a> {
    hub: &'a Hub,
    name: Name,
    remote: ApiRepo,
}

impl Files<'_> {
    fn cached(&self) -> CacheRepo {
        Cache::new(self.hub.cache.clone()).repo(self.name.repo())
    }

    /// The first of some files that the model has.
    fn get(&self, wanted: &[&str]) -> Result<PathBuf> {
        let cached = self.cached();
        if let Some(path) = wanted.iter().find_map(|file| cached.get(file)) {
            return Ok(path);
        }
        let first = wanted.first().copied().unwrap_or_default();
        if self.hub.offline {
            let error = anyhow!("{}: {first} is not in {}", self.name.repo, self.hub.cache.display());
            let hint = "HF_HUB_OFFLINE is set: unset it to fetch the model, or name a folder that has it";
            return Err(Hinted::new(error, hint).into());
        }
        for file in wanted {
            match self.remote.download(file) {
                Ok(path) => return pull::verified(path, &self.name.repo, file),
                Err(error) if status(&error) == Some(404) => {}
                Err(error) => return Err(self.told(file, &error)),
            }
        }
        let error = anyhow!("{}: there is no {} at {}", self.name.repo, wanted.join(" nor "), self.hub.endpoint);
        Err(Hinted::new(error, "is the name right? It is that of a model's page, such as roberta-large").into())
    }

    fn told(&self, file: &str, error: &ApiError) -> anyhow::Error {
        let what = anyhow!("{}: {file} can't be fetched from {}: {error}", self.name.repo, self.hub.endpoint);
        let hint = match status(error) {
            Some(401 | 403) => "the model asks who you are: set HF_TOKEN to a token that may read it",
            _ => "without a network, name a folder with config.json, tokenizer.json and model.safetensors",
        };
        Hinted::new(what, hint).into()
    }
}

/// The status that a server answered with, if it was an error.
fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(status) => Some(status),
            _ => None,
        },
        ApiError::TooManyRetries(error) => status(error),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
