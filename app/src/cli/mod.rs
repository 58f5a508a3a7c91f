//! The command line: one file for each subcommand.

mod bench;
mod coaching;
mod config;
mod doctor;
mod eval;
mod keeping;
mod live;
mod models;
mod replay;
mod sessions;
#[cfg(feature = "training")]
mod synth;
#[cfg(feature = "training")]
pub(crate) mod train;

use clap::{Parser, Subcommand};
pub(crate) use coaching::{Language, exercise, exercise_names};
#[cfg(feature = "desktop")]
pub(crate) use replay::summary;
use std::{fmt, io, process::ExitCode};
use tracing_subscriber::EnvFilter;

/// Watches a person exercise, through a camera or in a recording, and speaks up at the right moment.
#[derive(Debug, Parser)]
#[command(
    name = "spotter",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Results go to stdout, logs to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage.\n\n\
                  Examples:\n  \
                  spotter replay squats.mp4                       coach a recording in a window\n  \
                  spotter replay squats.mp4 --headless --json     the same as JSON lines, as fast as it goes\n  \
                  spotter doctor                                  what this machine and this build can do"
)]
pub(crate) struct Cli {
    /// More log lines on stderr; twice for all of them (SPOTTER_LOG sets a filter)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Replay(Box<replay::ReplayArgs>),
    Live(Box<live::LiveArgs>),
    Sessions(sessions::SessionsArgs),
    Config(config::ConfigArgs),
    /// Say what a model is, and what it would say next
    Models(models::ModelsArgs),
    Bench(bench::BenchArgs),
    Doctor(doctor::DoctorArgs),
    Eval(Box<eval::EvalArgs>),
    #[cfg(feature = "training")]
    Synth(synth::SynthArgs),
    #[cfg(feature = "training")]
    Train(train::TrainArgs),
}

/// An error with a word on what to do about it.
#[derive(Debug)]
pub(crate) struct Hinted {
    error: anyhow::Error,
    hint: String,
}

impl Hinted {
    pub(crate) fn new(error: anyhow::Error, hint: impl Into<String>) -> Self {
        Self { error, hint: hint.into() }
    }
}

impl Hinted {
    /// What to do.
    pub(crate) fn hint(&self) -> &str {
        &self.hint
    }
}

/// Everything that is wrong with what was given; told one a line.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    problems: Vec<String>,
    hint: Option<String>,
}

impl Listed {
    /// Adds a problem.
    pub(crate) fn push(&mut self, problem: impl Into<String>) {
        self.problems.push(problem.into());
    }

    /// Adds an error, with its hint if no other came before.
    pub(crate) fn error(&mut self, error: &anyhow::Error) {
        if let Some(hinted) = error.downcast_ref::<Hinted>() {
            self.hint(hinted.hint());
        }
        self.push(format!("{error:#}"));
    }

    /// A word on what to do, if there is none yet.
    pub(crate) fn hint(&mut self, hint: &str) {
        self.hint.get_or_insert_with(|| hint.to_owned());
    }

    /// What a piece of work gave; its error is added.
    pub(crate) fn keep<T>(&mut self, result: anyhow::Result<T>) -> Option<T> {
        result.map_err(|error| self.error(&error)).ok()
    }

    /// An error if anything was added.
    ///
    /// # Errors
    /// Then.
    pub(crate) fn into_result(self) -> anyhow::Result<()> {
        if self.problems.is_empty() { Ok(()) } else { Err(self.into()) }
    }
}

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.problems[..] {
            [one] => f.write_str(one),
            all => {
                write!(f, "{} problems", all.len())?;
                all.iter().try_for_each(|problem| write!(f, "\n  {}", problem.replace('\n', " ")))
            }
        }
    }
}

impl std::error::Error for Listed {}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.error)
    }
}

impl std::error::Error for Hinted {}

/// Options that are fine each by itself and make no sense together.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Runs the program.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // a reader that went away has seen what it wanted
            drop(error.print());
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    log_to_stderr(cli.verbose);
    let done = match cli.command {
        Command::Replay(args) => replay::run(&args),
        Command::Live(args) => live::run(&args),
        Command::Sessions(args) => sessions::run(&args),
        Command::Config(args) => config::run(&args),
        Command::Models(args) => models::run(args),
        Command::Bench(args) => bench::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Eval(args) => eval::run(&args),
        #[cfg(feature = "training")]
        Command::Synth(args) => synth::run(&args),
        #[cfg(feature = "training")]
        Command::Train(args) => train::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

/// Tells an error in one line, or a list of them one a line, with a hint below where there is one.
#[allow(clippy::print_stderr, reason = "the one place where the program says why it failed")]
fn report(error: &anyhow::Error) -> ExitCode {
    if error.chain().any(is_broken_pipe) {
        return ExitCode::SUCCESS;
    }
    if let Some(listed) = error.downcast_ref::<Listed>() {
        eprintln!("error: {}", listed.to_string().replace('\r', " "));
        listed.hint.iter().for_each(|hint| eprintln!("hint: {hint}"));
        return ExitCode::FAILURE;
    }
    let line = format!("{error:#}").replace(['\n', '\r'], " ");
    eprintln!("error: {line}");
    if let Some(hinted) = error.downcast_ref::<Hinted>() {
        eprintln!("hint: {}", hinted.hint);
    }
    if error.is::<Usage>() {
        eprintln!("hint: see `spotter --help`");
        return ExitCode::from(2);
    }
    ExitCode::FAILURE
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    let by_io = error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe);
    let by_json = error.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
    by_io || by_json == Some(io::ErrorKind::BrokenPipe)
}

fn log_to_stderr(verbose: u8) {
    let level = match verbose {
        0 => "warn,winit=error,spotter=info",
        1 => "info,winit=error,spotter=debug",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("SPOTTER_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let colour = io::IsTerminal::is_terminal(&io::stderr()) && std::env::var_os("NO_COLOR").is_none();
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colour);
    logs.without_time().with_target(false).init();
}

/// One JSON object on a line of stdout.
pub(crate) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    use io::Write as _;
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_reader_that_went_away_is_no_error() {
        let error = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("writing");
        assert_eq!(report(&error), ExitCode::SUCCESS);
        assert_eq!(report(&Usage("no".into()).into()), ExitCode::from(2));
        assert_eq!(report(&anyhow::anyhow!("no")), ExitCode::FAILURE);
    }
}
