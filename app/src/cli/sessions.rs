//! `spotter sessions`: what was kept of earlier sessions.

use super::{Hinted, Usage, keeping::DataArgs, print_json, replay::create};
use crate::{
    sessions::{Format, Looked, Past, Review, Store, duration_text, fault_name, trend},
    timeline::clock_text,
};
use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use serde_json::json;
use std::{
    io::{self, IsTerminal as _, Write},
    path::PathBuf,
    time::Duration,
};

/// Look back on earlier sessions, which are kept on this machine alone.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  spotter sessions list\n  spotter sessions show last\n  \
                        spotter sessions export last --csv --out squats.csv\n  spotter sessions delete --all")]
pub(crate) struct SessionsArgs {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    data: DataArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One line a session, the newest last
    List {
        /// One JSON object a line: id, started (seconds since 1970), source, duration, complete, reps, held, faults
        #[arg(long)]
        json: bool,
    },
    /// Sets, corrections and what got better
    Show {
        /// A session, the beginning of its name, or `last`
        #[arg(default_value = "last")]
        session: String,
        /// One JSON object: id, started, source, model, review, trend
        #[arg(long)]
        json: bool,
    },
    /// The events of a session
    Export {
        /// A session, the beginning of its name, or `last`
        session: String,
        #[command(flatten)]
        format: FormatFlags,
        /// Write to a file instead of stdout
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Delete a session, or all of them
    Delete {
        /// A session, the beginning of its name, or `last`
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        session: Option<String>,
        /// Delete everything that is kept
        #[arg(long)]
        all: bool,
        /// Don't ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct FormatFlags {
    /// The timeline as it was recorded, one JSON object a line
    #[arg(long)]
    json: bool,
    /// One event a row: t, type, exercise, set, count, seconds, text
    #[arg(long)]
    csv: bool,
    /// What was said, as subtitles
    #[arg(long)]
    srt: bool,
}

impl FormatFlags {
    fn format(&self) -> Format {
        match (self.csv, self.srt) {
            (true, _) => Format::Csv,
            (_, true) => Format::Srt,
            _ => Format::Json,
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: &SessionsArgs) -> anyhow::Result<()> {
    let store = args.data.store()?;
    match &args.command {
        Command::List { json } => list(&store, *json),
        Command::Show { session, json } => show(&store, session, *json),
        Command::Export { session, format, out } => export(&store, session, format, out.as_ref()),
        Command::Delete { session, all, yes } => delete(&store, session.as_deref(), *all, *yes),
    }
}

fn list(store: &Store, json: bool) -> anyhow::Result<()> {
    let lines = store.lines()?;
    let mut out = io::stdout().lock();
    if lines.is_empty() && !json {
        writeln!(out, "no session is kept in {}", store.folder().display())?;
    }
    for line in lines {
        let (reps, faults) = (line.reps, line.corrections);
        if json {
            print_json(&json!({
                "id": line.id, "started": line.started.0, "source": line.source, "duration": line.duration,
                "complete": line.complete, "reps": reps, "held": line.held, "faults": faults,
            }))?;
            continue;
        }
        let names: Vec<&str> = line.exercises.iter().map(|e| e.name("en")).collect();
        let held = if line.held > 0.0 { format!(", {:.0} s held", line.held) } else { String::new() };
        let cut = if line.complete { "" } else { "  (cut off)" };
        let (id, lasted) = (&line.id, duration_text(line.duration));
        writeln!(out, "{id}  {lasted:>7}  {reps:>4} reps{held}, {faults} corrections  {}{cut}", names.join(", "))?;
    }
    Ok(())
}

fn show(store: &Store, asked: &str, json: bool) -> anyhow::Result<()> {
    let Looked { past, review: now, earlier, .. } = store.look_at(&store.find(asked)?)?;
    if json {
        let all = || earlier.iter().chain([&now]);
        let trends: Vec<_> =
            now.exercises().into_iter().map(|e| json!({"exercise": e, "sessions": trend(e, all())})).collect();
        return print_json(&json!({
            "id": past.id, "started": past.started.0, "source": past.source, "model": past.model,
            "review": now, "trend": trends,
        }));
    }
    write_review(&mut io::stdout().lock(), &past, &now, &earlier)
}

/// A session in words.
pub(crate) fn write_review(out: &mut impl Write, past: &Past, now: &Review, earlier: &[Review]) -> anyhow::Result<()> {
    let lang = past.lang;
    let at = |seconds: f64| clock_text(Duration::try_from_secs_f64(seconds).unwrap_or_default());
    writeln!(out, "{} UTC, {}, {}", past.started.text(), duration_text(now.duration), past.source)?;
    if !past.complete {
        writeln!(out, "(cut off: the program ended before the session did)")?;
    }
    if now.sets.is_empty() {
        writeln!(out, "no repetitions were counted")?;
    }
    for set in &now.sets {
        let mut what = if set.held > 0.0 { format!("held {:.0} s", set.held) } else { format!("{} reps", set.reps) };
        if set.half > 0 {
            what += &format!(" and {} half ones", set.half);
        }
        writeln!(out, "  {:<20} set {}   {what}   from {}", set.exercise.name(lang.code()), set.set, at(set.from))?;
    }
    if !now.faults.is_empty() {
        writeln!(out, "corrected")?;
    }
    for fault in &now.faults {
        let moments: Vec<String> = fault.at.iter().map(|t| at(*t)).collect();
        let gone = fault.fixed.map_or(String::new(), |t| format!("   better from {}", at(t)));
        let name = fault_name(fault.mistake, lang);
        writeln!(out, "  {name:<24} {} times, at {}{gone}", fault.at.len(), moments.join(" "))?;
    }
    for exercise in now.exercises() {
        let line = trend(exercise, earlier.iter().chain([now]));
        if line.len() > 1 {
            let values: Vec<String> = line
                .iter()
                .map(|(reps, held, _)| if *held > 0.0 { format!("{held:.0} s") } else { reps.to_string() })
                .collect();
            writeln!(out, "trend of {}: {}", exercise.name(lang.code()), values.join(", "))?;
        }
    }
    Ok(())
}

fn export(store: &Store, asked: &str, format: &FormatFlags, file: Option<&PathBuf>) -> anyhow::Result<()> {
    let looked = store.look_at(&store.find(asked)?)?;
    let mut out: Box<dyn Write> = match file {
        Some(path) => Box::new(create(path)?),
        None => Box::new(io::stdout().lock()),
    };
    looked.write(format.format(), &mut out)
}

fn delete(store: &Store, asked: Option<&str>, all: bool, yes: bool) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let Some(asked) = asked.filter(|_| !all) else {
        let n = store.ids()?.len();
        confirm(&format!("delete all {n} sessions in {}?", store.folder().display()), yes)?;
        let deleted = store.delete_all()?;
        writeln!(out, "{deleted} sessions deleted")?;
        return Ok(());
    };
    let id = store.find(asked)?;
    confirm(&format!("delete the session {id}?"), yes)?;
    store.delete(&id)?;
    writeln!(out, "{id} deleted")?;
    Ok(())
}

/// Asks on a terminal; anywhere else `--yes` has to be said.
#[allow(clippy::print_stderr, reason = "a question is no result")]
fn confirm(question: &str, yes: bool) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Usage(format!("{question} There is nobody to ask: say --yes")).into());
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).context("no answer can be read")?;
    if answer.trim().eq_ignore_ascii_case("y") {
        return Ok(());
    }
    Err(Hinted::new(anyhow!("nothing was deleted"), "answer y to delete").into())
}
