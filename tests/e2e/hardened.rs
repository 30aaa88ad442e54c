//! The sidecar as a restricted container: read-only root file system, no capability, no new privileges, uid 1337, and a
//! filter of system calls that is stricter than RuntimeDefault.

use std::fs;
use std::process::Command;

use crate::support::backend::Backend;
use crate::support::certs::{Authority, spiffe};
use crate::support::launched::Launched;
use crate::support::program::Program;
use crate::support::tools::available;
use crate::support::wire::Wire;

const OPEN: &str =
    "admin: { listen: 127.0.0.1:0 }\nmetrics: { listen: 127.0.0.1:0 }\naccess_log: { path: stdout }\n";

/// A prefix that restricts the command in its arguments.
fn restricted() -> Command {
    let mut unshare = Command::new("unshare");
    unshare.arg("--mount");
    Program::script(unshare, "hardened.py", &[])
}

async fn can_restrict() -> bool {
    let mut works = Command::new("unshare");
    works.args(["--mount", "python3", "-c", "import ctypes; ctypes.CDLL('libseccomp.so.2')"]);
    let works = tokio::task::spawn_blocking(move || works.output()).await.expect("no panic");
    available("root with mount namespaces and libseccomp2", works.is_ok_and(|output| output.status.success()))
}

/// The value of a line of /proc/PID/status.
fn status(sidecar: &Launched, name: &str) -> String {
    let all = fs::read_to_string(format!("/proc/{}/status", sidecar.pid())).expect("a process");
    let line = all.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| unreachable!("no {name} in {all}"))
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

fn is_restricted(sidecar: &Launched) {
    for (name, value) in [
        ("Uid", "1337 1337 1337 1337"),
        ("Gid", "1337 1337 1337 1337"),
        ("CapPrm", "0000000000000000"),
        ("CapEff", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ] {
        assert_eq!(status(sidecar, name), value, "{name}");
    }
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", sidecar.pid())).expect("a process");
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).expect("a root");
    assert!(
        root.split(' ').nth(5).is_some_and(|options| options.split(',').any(|option| option == "ro")),
        "{root}"
    );
}

/// Its files in /proc belong to root when no core file of a process can be made.
fn keeps_its_memory_private(sidecar: &Launched) {
    use std::os::unix::fs::MetadataExt as _;
    let environ = fs::metadata(format!("/proc/{}/environ", sidecar.pid())).expect("a process");
    assert_eq!(environ.uid(), 0, "the process may be dumped");
}

#[tokio::test]
async fn a_pair_works_as_restricted_containers() {
    if !can_restrict().await {
        return;
    }
    let (app, authority) = (Backend::echo().await, Authority::new());
    let yaml = format!("outbound: off\ninbound: {{ listen: 127.0.0.1:0, app: \"{}\" }}\n{OPEN}", app.address);
    let application = Launched::start_private(restricted(), &yaml, Some((&authority, "orders"))).await;
    let yaml = format!(
        "inbound: off\noutbound: {{ listen: 127.0.0.1:0 }}\n{OPEN}services:\n  orders: {{ endpoints: [\"{}\"], \
         tls: \"{}\" }}\n",
        application.address("inbound"),
        spiffe("orders"),
    );
    let caller = Launched::start_private(restricted(), &yaml, Some((&authority, "web"))).await;
    for sidecar in [&caller, &application] {
        is_restricted(sidecar);
        keeps_its_memory_private(sidecar);
    }
    let get = async || Wire::connect(caller.address("outbound")).await.get("orders", "/").await.status();
    assert_eq!(get().await, 200);
    application.renew(&authority, "orders");
    application.has_logged("certificates swapped generation=2").await;
    assert_eq!(get().await, 200);
    for sidecar in [&caller, &application] {
        let scrape = Wire::connect(sidecar.address("metrics")).await.get("x", "/metrics").await;
        for family in ["pillion_requests_total", "process_open_fds", "process_resident_memory_bytes"] {
            assert!(scrape.text().lines().any(|line| line.starts_with(family)), "{}", scrape.text());
        }
        sidecar.terminated().await;
    }
}
