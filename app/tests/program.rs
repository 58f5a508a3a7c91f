//! The program starts. (That this test exists also makes `cargo test --workspace` build the program, which the tests
//! in the workspace's `tests` crate run.)

use std::process::Command;

#[test]
fn it_says_its_version() {
    let out = Command::new(env!("CARGO_BIN_EXE_spotter")).arg("--version").output();
    let out = out.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), concat!("spotter ", env!("CARGO_PKG_VERSION")));
}
