//! Parts of a run to a whole one.

use super::{print_text, run::finish};
use crate::{
    cli::print_json,
    eval::store::{Store, differences},
};
use anyhow::{Result, bail};
use clap::Args;
use std::path::PathBuf;

/// Join the folders of all shards into one report, the very one of an undivided run
#[derive(Debug, Args)]
pub(super) struct MergeArgs {
    /// Folders of the shards
    #[arg(value_name = "DIR", required = true)]
    parts: Vec<PathBuf>,
    /// Folder for the whole
    #[arg(long, value_name = "DIR", default_value = "eval-out")]
    out: PathBuf,
    /// The report as one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &MergeArgs) -> Result<()> {
    let opened = args.parts.iter().map(|p| Store::open(p)).collect::<Result<Vec<_>>>()?;
    let Some((_, info)) = opened.first() else { bail!("no shard was given") };
    for ((_, other), folder) in opened.iter().zip(&args.parts) {
        if other != info {
            bail!("{}: belongs to another run ({})", folder.display(), differences(info, other));
        }
    }
    let whole = Store::create(&args.out, info)?;
    let mut missing = Vec::new();
    for index in 0..info.sessions {
        match opened.iter().find(|(store, _)| store.has(index)) {
            Some((store, _)) => whole.put(&store.get(index)?)?,
            None => missing.push((index + 1).to_string()),
        }
    }
    if !missing.is_empty() {
        bail!("sessions {} of {} are in no part: is a shard missing or unfinished?", missing.join(", "), info.sessions);
    }
    let report = finish(&whole, info)?;
    if args.json { print_json(&report) } else { print_text(&report.text()) }
}
