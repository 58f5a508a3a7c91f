//! Everything of a model that loading it needs, fetched at one commit and checked against the hub's checksums.

use super::{Files, Hub, Name, shards, status};
use crate::{cli::Hinted, digest};
use anyhow::{Context as _, Result, anyhow};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Files beside the weights that are fetched where the model has them.
const BESIDE: [&str; 9] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "spotter.toml",
];
/// Of a LoRA adapter.
const ADAPTER: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// What is wanted of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All that loading its folder needs.
    Folder,
    /// These files alone, such as a GGUF file and its mmproj.
    Files(Vec<String>),
}

/// What was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pulled {
    /// Where the files lie.
    pub(crate) folder: PathBuf,
    /// What was fetched, or was there already.
    pub(crate) files: Vec<PathBuf>,
    /// Of the commit.
    pub(crate) commit: String,
}

impl Hub {
    /// Fetches a model with progress on stderr. What the cache has of it is not fetched again, and a branch stays where it
    /// was when it was first fetched, unless `update` asks where it is now.
    ///
    /// # Errors
    /// No such model or file, no network, a file whose checksum is not the hub's, or one that has to be fetched while offline.
    pub(crate) fn pull(&self, name: &Name, wanted: &Wanted, update: bool) -> Result<Pulled> {
        if self.offline {
            return self.cached(name, wanted).ok_or_else(|| {
                let error = anyhow!("{}: not all of it is in {}", name.repo, self.cache.display());
                Hinted::new(error, "HF_HUB_OFFLINE is set: unset it to fetch the model").into()
            });
        }
        if !update && let Some(pulled) = self.cached(name, wanted) {
            return Ok(pulled);
        }
        // What a branch was is not what it is: one that moves on is fetched by its commit.
        let listed = self.files(name)?.list()?;
        let commit = Name { repo: name.repo.clone(), revision: Some(listed.commit.clone()) };
        let files = self.files(&commit)?;
        let mut paths = Vec::new();
        for file in listed.choose(wanted, &name.repo)? {
            paths.push(files.get(&[file.as_str()])?);
            if file == INDEX {
                for shard in shards(paths.last().map(PathBuf::as_path).unwrap_or(Path::new(INDEX)))? {
                    paths.push(files.get(&[shard.as_str()])?);
                }
            }
        }
        let cached = self.files(name)?.cached();
        cached.create_ref(&listed.commit).with_context(|| format!("{}: can't be written", self.cache.display()))?;
        Ok(Pulled { folder: cached.pointer_path(&listed.commit), files: paths, commit: listed.commit })
    }

    /// A model as far as the cache has all of it; nothing is fetched.
    pub(crate) fn cached(&self, name: &Name, wanted: &Wanted) -> Option<Pulled> {
        let cached = self.files(name).ok()?.cached();
        let commit = self.pinned(name)?;
        let folder = cached.pointer_path(&commit);
        let there = |file: &str| Some(folder.join(file)).filter(|path| path.is_file());
        let files = match wanted {
            Wanted::Files(files) => files.iter().map(|file| there(file)).collect::<Option<Vec<_>>>()?,
            Wanted::Folder => {
                let mut files: Vec<PathBuf> = BESIDE.iter().filter_map(|file| there(file)).collect();
                if ADAPTER.iter().all(|file| there(file).is_some()) {
                    files.extend(ADAPTER.iter().filter_map(|file| there(file)));
                } else if let Some(weights) = there(WEIGHTS) {
                    there("config.json").and(there("tokenizer.json"))?;
                    files.push(weights);
                } else {
                    there("config.json").and(there("tokenizer.json"))?;
                    let index = there(INDEX)?;
                    files.extend(shards(&index).ok()?.iter().map(|s| there(s)).collect::<Option<Vec<_>>>()?);
                    files.push(index);
                }
                files
            }
        };
        Some(Pulled { folder, files, commit })
    }

    /// The commit that the cache has of a model, or of a branch of it.
    pub(crate) fn pinned(&self, name: &Name) -> Option<String> {
        let folder = self.cache.join(name.repo().folder_name());
        let revision = name.revision.as_deref().unwrap_or("main");
        let commit = fs::read_to_string(folder.join("refs").join(revision)).ok().map(|c| c.trim().to_owned());
        commit.or_else(|| Some(revision.to_owned())).filter(|c| folder.join("snapshots").join(c).is_dir())
    }
}

/// What a model consists of at one commit.
struct Listed {
    commit: String,
    files: BTreeSet<String>,
}

impl Listed {
    /// The files to fetch; shards follow from their index.
    fn choose(&self, wanted: &Wanted, repo: &str) -> Result<Vec<String>> {
        let has = |file: &&str| self.files.contains(*file);
        let no = |what: &str| {
            let there = self.files.iter().take(12).cloned().collect::<Vec<_>>().join(", ");
            Err(Hinted::new(anyhow!("{repo}: it has no {what}"), format!("what it has: {there}")).into())
        };
        if let Wanted::Files(files) = wanted {
            return match files.iter().find(|file| !self.files.contains(*file)) {
                Some(missing) => no(missing),
                None => Ok(files.clone()),
            };
        }
        let mut files: Vec<&str> = BESIDE.iter().copied().filter(has).collect();
        if ADAPTER.iter().all(has) {
            files.extend(ADAPTER);
        } else if has(&WEIGHTS) {
            files.push(WEIGHTS);
        } else if has(&INDEX) {
            files.push(INDEX);
        } else {
            return no("weights as safetensors; a GGUF file is fetched with --file");
        }
        for needed in ["config.json", "tokenizer.json"] {
            if !has(&needed) && !has(&ADAPTER[0]) {
                return no(needed);
            }
        }
        Ok(files.into_iter().map(str::to_owned).collect())
    }
}

impl Files<'_> {
    /// What the model has at its revision.
    fn list(&self) -> Result<Listed> {
        let info = self.remote.info().map_err(|error| match status(&error) {
            Some(404) => {
                let at = self.name.revision.as_deref().map_or(String::new(), |r| format!(" at {r}"));
                let error = anyhow!("{}: there is no such model{at} at {}", self.name.repo, self.hub.endpoint);
                Hinted::new(error, "is the name right? It is that of a model's page: owner/name").into()
            }
            _ => self.told("its list of files", &error),
        })?;
        let plain = |name: &str| super::is_name(name) && !name.contains('/');
        if !plain(&info.sha) {
            return Err(anyhow!("{}: the hub names the commit {:?}", self.name.repo, info.sha));
        }
        // Names that lead out of the folder are not fetched.
        let files = info.siblings.into_iter().map(|s| s.rfilename).filter(|name| plain(name)).collect();
        Ok(Listed { commit: info.sha, files })
    }
}

/// A file that was fetched, if it is what the hub has: large files are kept under the SHA-256 of what is in them. A broken one
/// is removed, so that it is fetched anew.
///
/// # Errors
/// It is something else, or can't be read.
pub(super) fn verified(path: PathBuf, repo: &str, file: &str) -> Result<PathBuf> {
    let blob = fs::canonicalize(&path).with_context(|| format!("{}: can't be read", path.display()))?;
    let expected = blob.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    if expected.len() != 64 || !expected.chars().all(|c| c.is_ascii_hexdigit()) {
        return Ok(path);
    }
    let found = digest::sha256_of(&blob)?;
    if found == expected {
        return Ok(path);
    }
    let _ = fs::remove_file(&path).and_then(|()| fs::remove_file(&blob));
    let error = anyhow!("{repo}: {file} has the checksum {found}, the hub says {expected}");
    Err(Hinted::new(error, "it was damaged on the way and is removed: fetch it again").into())
}
