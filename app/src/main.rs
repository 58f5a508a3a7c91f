//! Spotter: watches a person exercise and speaks up at the right moment.

mod assets;
mod audio;
mod cli;
mod digest;
mod eval;
mod hub;
mod memory;
mod parallel;
mod parts;
mod pipeline;
mod sessions;
mod settings;
mod store;
mod timeline;
#[cfg(feature = "desktop")]
mod ui;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}
