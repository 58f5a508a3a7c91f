//! Several runs side by side.

use super::print_text;
use crate::{
    cli::print_json,
    eval::{
        html,
        report::Report,
        store::write_whole,
        table::{aligned, cells},
    },
};
use anyhow::{Context as _, Result};
use clap::Args;
use std::path::{Path, PathBuf};

/// Set the reports of several runs side by side
#[derive(Debug, Args)]
pub(super) struct CompareArgs {
    /// Folders of finished runs
    #[arg(value_name = "DIR", required = true, num_args = 1..)]
    runs: Vec<PathBuf>,
    /// Also write a page with a plot
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// A JSON array of the runs' rows instead of a table
    #[arg(long)]
    json: bool,
}

fn read(folder: &Path) -> Result<Report> {
    let path = folder.join("report.json");
    let bytes =
        std::fs::read(&path).with_context(|| format!("{}: can't be read; is the run finished?", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("{}: is no report of `spotter eval`", path.display()))
}

pub(super) fn run(args: &CompareArgs) -> Result<()> {
    let named = |folder: &PathBuf| Ok((folder.display().to_string(), read(folder)?));
    side_by_side(&args.runs.iter().map(named).collect::<Result<Vec<_>>>()?, args.html.as_deref(), args.json)
}

/// Prints named reports side by side.
pub(super) fn side_by_side(reports: &[(String, Report)], page: Option<&Path>, json: bool) -> Result<()> {
    let mut rows = Vec::new();
    for (name, report) in reports {
        rows.extend(report.rows.first().map(|row| crate::eval::report::Row { coach: name.clone(), ..row.clone() }));
    }
    let mut warnings = Vec::new();
    if let Some((first, one)) = reports.first() {
        for (name, other) in reports.iter().skip(1) {
            let same = |a: &Report, b: &Report| {
                (&a.run.data, a.run.protocol, a.run.sessions, &a.run.meteor, &a.run.bert, &a.run.judge)
                    == (&b.run.data, b.run.protocol, b.run.sessions, &b.run.meteor, &b.run.bert, &b.run.judge)
            };
            if !same(one, other) {
                warnings.push(format!("{name} has other data, another protocol or other metrics than {first}"));
            }
        }
        // The same for all as long as the data are.
        let blind = one.rows.iter().filter(|r| r.coach.starts_with("metronome, best") || r.coach == "silent");
        rows.extend(blind.cloned());
    }
    let meteor = reports.first().map_or("METEOR", |(_, r)| r.run.meteor.as_str());
    let table = cells(rows.iter(), meteor);
    if let Some(page) = page {
        write_whole(page, html::comparison(reports, &table, &warnings).as_bytes())?;
    }
    if json {
        return print_json(&rows);
    }
    print_text(&aligned(&table))?;
    warnings.iter().try_for_each(|w| print_text(&format!("warning: {w}\n")))
}
