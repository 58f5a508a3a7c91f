//! The short clips of QEVD-FIT-300K: what there is.

use super::print_text;
use crate::{
    cli::{Listed, print_json},
    eval::table::aligned,
};
use anyhow::Result;
use clap::Args;
use serde::Serialize;
use spotter_datasets::qevd::{CLIP_FILES, Clip, ClipCounts, load_clips};
use std::path::{Path, PathBuf};

/// Check the short clips of QEVD-FIT-300K and count what there is
#[derive(Debug, Args)]
#[command(
    after_help = "Reads fine_grained_labels.json, feedbacks_short_clips.json and questions.json, those that are there, and tells \
                  everything that is wrong with them at once.\n\nExample:\n  spotter eval clips QEVD-FIT-300K"
)]
pub(super) struct ClipsArgs {
    /// Folder of the JSON files
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Counted {
    #[serde(flatten)]
    counts: ClipCounts,
    /// Videos that lie where the files say.
    videos: usize,
}

pub(super) fn run(args: &ClipsArgs) -> Result<()> {
    let clips = load_clips(&args.folder).map_err(|error| {
        let mut problems = Listed::default();
        error.problems().into_iter().for_each(|problem| problems.push(problem));
        problems.hint(&format!("a folder of QEVD-FIT-300K has {}", CLIP_FILES.join(", ")));
        anyhow::Error::from(problems)
    })?;
    let counted = Counted { counts: ClipCounts::of(&clips), videos: videos(&args.folder, &clips) };
    if args.json { print_json(&counted) } else { print_text(&table(&counted)) }
}

fn videos(folder: &Path, clips: &[Clip]) -> usize {
    clips.iter().filter(|clip| folder.join(&clip.video).is_file()).count()
}

fn table(counted: &Counted) -> String {
    let c = &counted.counts;
    let rows = [
        ("clips", c.clips),
        ("of them train", c.train),
        ("of them test", c.test),
        ("videos that are there", counted.videos),
        ("labels", c.labels),
        ("different labels", c.classes),
        ("different exercises", c.exercises),
        ("feedbacks", c.feedbacks),
        ("questions about the whole", c.high_level),
        ("questions about details", c.fine_grained),
    ];
    aligned(&rows.map(|(name, n)| vec![name.to_owned(), n.to_string()]))
}
