//! Several runs side by side.

use super::print_text;
use crate::{
    cli::print_json,
    eval::{
        html,
        report::{Kind, Report, Row},
        store::write_whole,
        table::{aligned, tables},
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

/// The row of each run with the metronome that speaks as often, then the controls that all have in common.
fn rows(reports: &[(String, Report)]) -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, report) in reports {
        rows.extend(report.rows.first().map(|row| Row { coach: name.clone(), ..row.clone() }));
        let coach = |row: &Row| row.coach.replace("at the model's rate", &format!("at the rate of {name}"));
        rows.extend(report.row(Kind::OwnRate).map(|row| Row { coach: coach(row), ..row.clone() }));
    }
    if let Some((_, first)) = reports.first() {
        // The same for all as long as the data are.
        let common = [Kind::BestMetronome, Kind::PlainMetronome, Kind::CorrectiveMetronome, Kind::Silent];
        rows.extend(common.into_iter().filter_map(|kind| first.row(kind)).cloned());
    }
    rows
}

/// What makes two reports hard to compare.
fn unlike(reports: &[(String, Report)]) -> Vec<String> {
    let Some((first, one)) = reports.first() else { return Vec::new() };
    let same = |a: &Report, b: &Report| {
        let (a, b) = (&a.run, &b.run);
        (&a.data_hash, a.protocol, a.sessions, &a.meteor, &a.bert, &a.judge)
            == (&b.data_hash, b.protocol, b.sessions, &b.meteor, &b.bert, &b.judge)
    };
    let others = reports.iter().skip(1).filter(|(_, other)| !same(one, other));
    others.map(|(name, _)| format!("{name} has other data, another protocol or other metrics than {first}")).collect()
}

/// Prints named reports side by side.
pub(super) fn side_by_side(reports: &[(String, Report)], page: Option<&Path>, json: bool) -> Result<()> {
    let (rows, warnings) = (rows(reports), unlike(reports));
    if let Some(page) = page {
        write_whole(page, html::comparison(reports, &rows, &warnings).as_bytes())?;
    }
    if json {
        return print_json(&rows);
    }
    let tables = tables(&rows, reports.first().map(|(_, r)| &r.run));
    print_text(&aligned(&tables.times))?;
    if !tables.texts.is_empty() {
        print_text(&format!("\n{}", aligned(&tables.texts)))?;
    }
    warnings.iter().try_for_each(|w| print_text(&format!("warning: {w}\n")))
}
