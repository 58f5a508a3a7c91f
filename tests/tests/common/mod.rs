//! Runs the program that `cargo test --workspace` built.

use std::{
    path::PathBuf,
    process::{Command, Output},
};

/// The program lies in the folder above that of this test.
#[allow(dead_code, reason = "not every test starts it by itself")]
pub(crate) fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join(format!("spotter{}", std::env::consts::EXE_SUFFIX));
    assert!(program.exists(), "{} is not built: run `cargo test --release --workspace`", program.display());
    program
}

/// The program with arguments, without a display.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(args).env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY").env_remove("SPOTTER_LOG");
    command
}

/// Runs it.
#[allow(dead_code, reason = "not every test runs it so")]
pub(crate) fn spotter(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

/// What it printed.
#[allow(dead_code, reason = "not every test reads it")]
pub(crate) fn stdout(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// What it logged.
#[allow(dead_code, reason = "not every test reads it")]
pub(crate) fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}
