//! `metrics.process_metrics`: the process of an application that exports nothing itself.

use std::process::Command;

use crate::support::backend::free;
use crate::support::eventually;
use crate::support::program::Program;
use crate::support::sidecar::{Plan, Sidecar};
use crate::support::tools::require;

const FAMILIES: [&str; 4] = [
    "pillion_application_cpu_seconds_total",
    "pillion_application_resident_memory_bytes",
    "pillion_application_open_fds",
    "pillion_application_threads",
];

/// The values of the families. `None`: there are none.
async fn measured(sidecar: &Sidecar) -> Option<[f64; 4]> {
    let text = sidecar.scrape().await.text;
    let value = |family: &str| {
        text.lines().find_map(|line| line.strip_prefix(family)?.strip_prefix(' ')?.parse().ok())
    };
    let [Some(cpu), Some(memory), Some(open), Some(threads)] = FAMILIES.map(value) else {
        assert!(!text.contains("pillion_application_"), "{text}");
        return None;
    };
    Some([cpu, memory, open, threads])
}

#[tokio::test]
async fn the_process_behind_a_port_is_measured_and_found_anew_when_it_is_restarted() {
    if !require("python3") {
        return;
    }
    let port = free().port().to_string();
    let start = || {
        let mut command = Command::new("python3");
        command.args(["-c", "import http.server, sys; print('up', flush=True); http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), http.server.BaseHTTPRequestHandler).serve_forever()", &port]);
        Program::start(command)
    };
    let app = start();
    let sidecar = Plan::exactly(&format!(
        "inbound: off\noutbound: {{ listen: 127.0.0.1:0 }}\nadmin: {{ listen: 127.0.0.1:0 }}\n\
         metrics: {{ listen: 127.0.0.1:0, process_metrics: {{ port: {port} }} }}\n"
    ));
    let sidecar = sidecar.start().await;
    let [cpu, memory, open, threads] =
        eventually("the application is measured", async || measured(&sidecar).await).await;
    assert!(cpu > 0.0 && memory > 1e6 && open > 3.0 && threads >= 1.0, "{cpu} {memory} {open} {threads}");
    drop(app);
    eventually("no process is measured", async || measured(&sidecar).await.is_none().then_some(())).await;
    let _again = start();
    eventually("the new process is measured", async || measured(&sidecar).await).await;
}
