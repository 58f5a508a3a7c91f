//! Coaching opens no connection: what the process asks of the kernel is watched.

#![allow(clippy::print_stdout, reason = "skipped tests are said")]

mod common;

use common::{program, stderr};
use std::process::Command;

/// The sockets that a run of the program asks for, one line each; `None` where it can't be watched.
fn sockets(args: &[&str]) -> Option<Vec<String>> {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("calls");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "trace=socket,socketpair,connect,sendto", "-o"]).arg(&log);
    let out = command.arg(program()).args(args).env_remove("DISPLAY").env("SPOTTER_DATA", folder.path()).output();
    let out = match out {
        Ok(out) => out,
        Err(error) => {
            println!("skipped: strace can't be run: {error}");
            return None;
        }
    };
    if stderr(&out).contains("ptrace") {
        println!("skipped: processes may not be watched here: {}", stderr(&out));
        return None;
    }
    assert!(out.status.success(), "{args:?}: {}", stderr(&out));
    let calls = std::fs::read_to_string(&log).expect("what was called");
    Some(calls.lines().filter(|l| l.contains("socket(") || l.contains("connect(")).map(str::to_owned).collect())
}

/// Local ones, of a display or a sound server, are no connection to anywhere.
fn leaves_the_machine(call: &str) -> bool {
    !call.contains("AF_UNIX")
}

#[test]
fn replay_and_live_open_no_connection() {
    let replay = ["replay", "pattern:160x120@30:3s", "--headless", "--json"];
    let live = ["live", "--from", "pattern:160x120@30:3s", "--headless", "--json", "--no-record"];
    for args in [&replay[..], &live] {
        let Some(calls) = sockets(args) else { return };
        let leaving: Vec<_> = calls.iter().filter(|call| leaves_the_machine(call)).collect();
        assert!(leaving.is_empty(), "{args:?}: {leaving:#?}");
    }
}

/// The planted leak: what asks a server does show up.
#[test]
fn a_connection_would_be_seen() {
    let Ok(server) = std::net::TcpListener::bind("127.0.0.1:0") else { return };
    let port = server.local_addr().expect("an address").port().to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("calls");
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port}");
    let out = Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=socket,connect", "-o"])
        .arg(&log)
        .args(["bash", "-c", &script])
        .output();
    let Ok(calls) = out.map_err(drop).and_then(|_| std::fs::read_to_string(&log).map_err(drop)) else {
        println!("skipped: strace can't be run");
        return;
    };
    if calls.contains("socket(") {
        assert!(calls.lines().any(leaves_the_machine), "{calls}");
    } else {
        println!("skipped: processes may not be watched here");
    }
}
