//! Programs of others: found by name, run to their end, their output compared.

use std::process::{Command, Output};
use std::time::Duration;

/// The time limit of a program. Installers of databases and compilers write much, and a disk may be slow.
const PROGRAMS: Duration = Duration::from_secs(180);

/// Whether `tool` exists. With `PILLION_TEST_REQUIRE=all`, as in CI, a missing one is a failure.
pub(crate) fn require(tool: &str) -> bool {
    let found = Command::new("sh").args(["-c", "command -v \"$0\" >/dev/null", tool]).status();
    available(tool, found.is_ok_and(|status| status.success()))
}

/// Like [`require`], for a Python module.
pub(crate) fn require_python(module: &str) -> bool {
    let found = Command::new("python3").args(["-c", &format!("import {module}")]).output();
    available(&format!("python3 with {module}"), found.is_ok_and(|output| output.status.success()))
}

pub(crate) fn available(what: &str, is_there: bool) -> bool {
    if !is_there {
        let must = std::env::var("PILLION_TEST_REQUIRE").is_ok_and(|tools| tools == "all");
        assert!(!must, "{what} is missing, and PILLION_TEST_REQUIRE=all");
        println!("skipped: no {what}");
    }
    is_there
}

/// Runs a program to its end, within the time limit.
pub(crate) async fn run(mut command: Command) -> Output {
    let what = format!("{command:?}");
    let output = tokio::task::spawn_blocking(move || command.output());
    match tokio::time::timeout(PROGRAMS, output).await {
        Ok(output) => output.expect("no panic").expect("a program that starts"),
        Err(_elapsed) => unreachable!("{what}: not within {PROGRAMS:?}"),
    }
}

/// What a program printed. It must succeed.
pub(crate) async fn printed(command: Command) -> String {
    let what = format!("{command:?}");
    let output = run(command).await;
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{what}: {}\n{stdout}\n{stderr}", output.status);
    stdout.into_owned()
}

/// A command that runs the command in its arguments as the first process of a namespace.
pub(crate) fn alone() -> Command {
    let mut unshare = Command::new("unshare");
    unshare.args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
    unshare
}

/// Whether [`alone`] works.
pub(crate) async fn has_namespace_of_processes() -> bool {
    let mut probe = alone();
    probe.arg("true");
    require("unshare") && available("namespace of processes", run(probe).await.status.success())
}
