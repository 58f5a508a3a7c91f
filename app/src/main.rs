//! Spotter: watches a person exercise and speaks up at the right moment.

// kept in one place: what only a window uses is built without one too
#![cfg_attr(not(feature = "desktop"), allow(dead_code, unused_imports, reason = "only a window uses it"))]

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
