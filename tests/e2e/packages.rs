//! What is shipped beside the binary: the systemd unit, the Debian package, the archive, and completions for shells.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::Scratch;
use crate::support::launched::{Launched, binary};
use crate::support::manager::Manager;
use crate::support::tools::{printed, require, run};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn command(program: &str, words: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(words);
    command
}

/// The unit as it is shipped, with the binary of this build.
fn unit(scratch: &Scratch) -> PathBuf {
    let shipped = fs::read_to_string(root().join("deploy/systemd/pillion.service")).expect("the unit");
    let here = shipped.replace("/usr/bin/pillion", binary().to_str().expect("UTF-8"));
    assert_ne!(here, shipped);
    scratch.write("pillion.service", here)
}

#[tokio::test]
async fn the_systemd_unit_is_valid_and_leaves_the_service_little() {
    if !require("systemd-analyze") {
        return;
    }
    let scratch = Scratch::new();
    let unit = unit(&scratch);
    let unit = unit.to_str().expect("UTF-8");
    let verified =
        run(command("systemd-analyze", &["verify", "--man=no", "--recursive-errors=no", unit])).await;
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    let about_ours: Vec<_> = said.lines().filter(|line| line.contains("pillion")).collect();
    assert!(verified.status.success() && about_ours.is_empty(), "{said}");
    // systemd's own scale: 0 is no exposure, 10 everything.
    printed(command("systemd-analyze", &["security", "--offline=true", "--threshold=20", unit])).await;
}

#[tokio::test]
async fn systemd_is_told_of_the_start_of_reloads_and_of_the_end() {
    let manager = Manager::new();
    let mut env = Command::new("env");
    env.arg(format!("NOTIFY_SOCKET={}", manager.path.display())).arg("WATCHDOG_USEC=30000000");
    let yaml = "{ inbound: off, outbound: off, admin: { listen: 127.0.0.1:0 }, metrics: off }";
    let sidecar = Launched::start(env, yaml, None).await;
    let ready = manager.hears().await;
    let address = sidecar.address("admin");
    assert_eq!(ready, format!("READY=1\nSTATUS=ready admin={address}"));
    manager.next(|message| message == "WATCHDOG=1").await;

    sidecar.signal("HUP").await;
    let reloading = manager.hears().await;
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert!(manager.hears().await.starts_with("READY=1\nSTATUS=nothing has changed"));

    sidecar.rewrite("{ inbuond: off }");
    sidecar.signal("HUP").await;
    assert!(manager.hears().await.starts_with("RELOADING=1"));
    let refused = manager.hears().await;
    assert!(
        refused.starts_with("READY=1\nSTATUS=configuration refused, generation 1 stays in use"),
        "{refused}"
    );

    sidecar.terminated().await;
    manager.next(|message| message == "STOPPING=1\nSTATUS=draining").await;
}

#[tokio::test]
async fn shells_complete_commands_and_flags() {
    if !require("bash") {
        return;
    }
    let complete = r#"eval "$("$0" completions bash)"
        COMP_WORDS=(pillion "$@"); COMP_CWORD=$#; _pillion pillion "${COMP_WORDS[COMP_CWORD]}" ""; echo "${COMPREPLY[*]}""#;
    for (words, expected) in [
        (&["be"][..], "bench"),
        (&["certs", "iss"], "issue"),
        (&["run", "--adm"], "--admin"),
        (&["completions", "fi"], "fish"),
    ] {
        let mut bash = command("bash", &["-c", complete]);
        bash.arg(binary()).args(words);
        assert_eq!(printed(bash).await.trim(), expected, "{words:?}");
    }
    // zsh completes nothing without a terminal; its grammar and fish's can be checked.
    for (shell, script, expected) in [
        ("zsh", r#""$0" completions zsh >"$1" && zsh -n "$1" && cat "$1""#, "'--rate:Requests per second'"),
        (
            "fish",
            r#""$0" completions fish >"$1" && fish -c "source $1; complete -C 'pillion certs iss'""#,
            "issue\t",
        ),
        (
            "fish",
            r#""$0" completions fish >"$1" && fish -c "source $1; complete -C 'pillion bench --ra'""#,
            "--rate\t",
        ),
        (
            "fish",
            r#""$0" completions fish >"$1" && fish -c "source $1; complete -C 'pillion completions b'""#,
            "bash",
        ),
    ] {
        if require(shell) {
            let scratch = Scratch::new();
            let mut sh = command("sh", &["-c", script]);
            sh.arg(binary()).arg(scratch.path().join("_pillion")).env("HOME", scratch.path());
            let completed = printed(sh).await;
            assert!(completed.contains(expected), "{shell}: {completed}");
        }
    }
    let unknown = run(command(binary().to_str().expect("UTF-8"), &["completions", "tcsh"])).await;
    assert_eq!(unknown.status.code(), Some(2));
}
