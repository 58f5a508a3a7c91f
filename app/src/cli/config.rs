//! `spotter config`: what is settled, and where.

use super::{live::LiveArgs, print_json};
use crate::settings::KEYS;
use clap::{Args, Subcommand};
use serde_json::json;
use std::io::Write as _;

/// Show what is settled.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Every setting of `spotter live` with its value and where that comes from: the default, under the settings file,
    /// under the environment, under the flags that are given here
    Show(Box<ShowArgs>),
}

#[derive(Debug, Args)]
struct ShowArgs {
    #[command(flatten)]
    live: LiveArgs,
}

/// Runs the command.
pub(crate) fn run(args: &ConfigArgs) -> anyhow::Result<()> {
    let Command::Show(show) = &args.command;
    let resolved = show.live.resolve()?;
    if show.live.json() {
        for key in &KEYS {
            let value = (key.get)(&resolved.settings);
            let value = if value.is_empty() { json!(null) } else { json!(value) };
            print_json(&json!({"key": key.name, "value": value, "origin": resolved.origin(key).to_string()}))?;
        }
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    for key in &KEYS {
        let value = (key.get)(&resolved.settings);
        let value = if value.is_empty() { "-" } else { &value };
        writeln!(out, "{:<14} {value:<16} {:<28} {}", key.name, resolved.origin(key).to_string(), key.about)?;
    }
    let file = resolved.file.map_or_else(|| "none".to_owned(), |p| p.display().to_string());
    writeln!(out, "\nsettings file: {file}; in the environment: {} and so on", KEYS[0].variable)?;
    Ok(())
}
