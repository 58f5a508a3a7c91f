//! `spotter models list` and `pull`: which models are known, and fetching them.

use crate::{
    cli::Hinted,
    hub::{Hub, Name, Wanted},
    store::{self, KNOWN, Known, Role},
};
use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use serde::Serialize;
use spotter_engine::weights::{BASE, TOWER};
use std::path::{Path, PathBuf};

/// Arguments of `spotter models pull`.
#[derive(Args, Debug)]
#[command(
    after_help = "HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN mean what they mean to Python's huggingface_hub, and the \
                        cache is the same. What is there is not fetched again; a download that broke off goes on where it was.\n\n\
                        Examples:\n  \
                        spotter models pull llava-onevision-0.5b              a model of the list\n  \
                        spotter models pull llava-hf/llava-1.5-7b-hf@0123abc  any model, at one commit\n  \
                        spotter models pull owner/name-GGUF --file model-Q4_K.gguf --file mmproj-f16.gguf"
)]
pub(super) struct PullArgs {
    /// A name of the list, or owner/name; with @revision, of that branch, tag or commit.
    model: String,
    /// Only this file, such as a GGUF file or its mmproj; may be given several times.
    #[arg(long)]
    file: Vec<String>,
    /// Ask where a branch is now, instead of staying where it was when it was first fetched.
    #[arg(long)]
    update: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What `pull --json` prints.
#[derive(Serialize)]
struct Report {
    repository: String,
    commit: String,
    folder: PathBuf,
    files: Vec<PathBuf>,
    bytes: u64,
}

/// A line of `list --json`.
#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    known: Known,
    /// Of the weights in 16 bits.
    bytes_16: u64,
    /// And in 32, as a processor computes.
    bytes_32: u64,
    drafters: Vec<&'static str>,
    /// The commit that is in the cache, if it is.
    commit: Option<String>,
}

/// Names what is known.
///
/// # Errors
/// Those of writing JSON.
pub(super) fn list(json: bool) -> Result<String> {
    let hub = Hub::from_env();
    let commit = |known: &Known| {
        let name = store::name(known.name)?;
        hub.cached(&name, &Wanted::Folder).map(|pulled| pulled.commit)
    };
    let lines = KNOWN.iter().map(|known| Line {
        known: *known,
        bytes_16: known.bytes(2),
        bytes_32: known.bytes(4),
        drafters: known.drafters(),
        commit: commit(known),
    });
    let lines: Vec<Line> = lines.collect();
    if json {
        let lines = lines.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
        return Ok(lines.join("\n"));
    }
    let head = format!("{:<22}{:>8}{:>9}{:>9}  {:<27}{:<34}", "name", "", "16 bits", "32 bits", "licence", "drafters");
    let told = lines.iter().map(|line| {
        let kind = if line.known.role == Role::Coach { "coach" } else { "text" };
        let here = line.commit.as_deref().map_or(String::new(), |c| format!("here, {}", c.get(..12).unwrap_or(c)));
        format!(
            "{:<22}{kind:>8}{:>9}{:>9}  {:<27}{:<34}{here}",
            line.known.name,
            gigabytes(line.bytes_16),
            gigabytes(line.bytes_32),
            line.known.licence,
            line.drafters.join(", ")
        )
        .trim_end()
        .to_owned()
    });
    let foot = "Sizes are those of the weights; spotter models inspect tells what a model takes in all. Read its licence first.";
    Ok([head.trim_end().to_owned()].into_iter().chain(told).chain([foot.to_owned()]).collect::<Vec<_>>().join("\n"))
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

/// Fetches a model.
///
/// # Errors
/// A name that is none, or what the hub says.
pub(super) fn pull(args: &PullArgs) -> Result<String> {
    if Path::new(&args.model).exists() {
        bail!("{} is here already: it is a path", args.model);
    }
    let name = store::name(&args.model).ok_or_else(|| {
        let error = anyhow!("model {}: expected a name of the list, or owner/name", args.model);
        anyhow::Error::from(Hinted::new(error, "spotter models list names those that are known"))
    })?;
    let hub = Hub::from_env();
    let wanted = if args.file.is_empty() { Wanted::Folder } else { Wanted::Files(args.file.clone()) };
    let pulled = hub.pull(&name, &wanted, args.update)?;
    let known = Known::find(&name.repo);
    // A tower's tokenizer is not needed, and may not be there.
    let tower = Wanted::Files(["config.json", "model.safetensors"].map(str::to_owned).to_vec());
    let parts = [
        (known.and_then(|known| known.base), &Wanted::Folder, BASE),
        (known.and_then(|known| known.tower), &tower, TOWER),
    ];
    for (repo, wanted, at) in parts {
        if let Some(repo) = repo.filter(|_| args.file.is_empty()) {
            let part = Name { repo: repo.to_owned(), revision: None };
            link(&hub.pull(&part, wanted, args.update)?.folder, &pulled.folder.join(at))?;
        }
    }
    let bytes = pulled.files.iter().filter_map(|file| std::fs::metadata(file).ok()).map(|m| m.len()).sum();
    let report =
        Report { repository: name.repo, commit: pulled.commit, folder: pulled.folder, files: pulled.files, bytes };
    if args.json {
        return Ok(serde_json::to_string(&report)?);
    }
    let mut lines = vec![
        format!("{} at {}", report.repository, report.commit),
        format!("{} files, {}", report.files.len(), gigabytes(report.bytes)),
        format!("folder  {}", report.folder.display()),
    ];
    if !args.file.is_empty() {
        lines.extend(report.files.iter().map(|file| format!("file    {}", file.display())));
    }
    Ok(lines.join("\n"))
}

/// A link to the base or the tower of an adapter, where it is looked for.
fn link(base: &Path, at: &Path) -> Result<()> {
    if at.exists() {
        return Ok(());
    }
    #[cfg(unix)]
    let linked = std::os::unix::fs::symlink(base, at);
    #[cfg(windows)]
    let linked = std::os::windows::fs::symlink_dir(base, at);
    linked.with_context(|| format!("{}: can't be made a link to what the adapter needs", at.display()))
}
