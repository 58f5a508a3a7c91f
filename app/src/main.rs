//! Spotter: watches a person exercise and speaks up at the right moment.

mod assets;
mod cli;
mod parts;
mod pipeline;
mod timeline;
#[cfg(feature = "desktop")]
mod ui;

fn main() -> std::process::ExitCode {
    cli::main()
}
