//! Versions that are refused, and applications that are told of those that are not.

use std::process::{Command, Stdio};

use super::{changes, counted, has, plan, shown_at, shows};
use crate::support::backend::Backend;
use crate::support::consul::Consul;
use crate::support::launched::binary;
use crate::support::program::Program;
use crate::support::{Scratch, eventually};

#[tokio::test]
async fn a_version_that_its_check_refuses_leaves_the_old_one() {
    let (consul, scratch) = (Consul::start().await, Scratch::new());
    let path = scratch.path().join("settings.yaml");
    consul.put("k", "good: 1");
    let seen = scratch.path().join("seen");
    let keys = format!(
        "from: \"consul://{}/k\", to: {}, \
         check: {{ yaml: on, exec: [sh, -c, \"echo $0 >> {}; grep -q good $0\", \"{{file}}\"] }}",
        consul.address,
        path.display(),
        seen.display()
    );
    let sidecar = plan(&keys).start().await;
    has(&path, "good: 1").await;
    for (bad, expected) in [("bad: 2", "ended with code 1"), ("good: [", "is not YAML")] {
        consul.put("k", bad);
        shows(&sidecar, expected).await;
        has(&path, "good: 1").await;
    }
    counted(&sidecar, "refused", 2).await;
    counted(&sidecar, "applied", 1).await;
    consul.put("k", "good: 3");
    has(&path, "good: 3").await;
    shows(&sidecar, "\"up\":true").await;
    let seen = std::fs::read_to_string(seen).expect("what the check was given");
    assert!(
        seen.lines().all(|file| file.ends_with(".settings.yaml") && !file.ends_with("/settings.yaml")),
        "{seen}"
    );
    let beside = std::fs::read_dir(scratch.path()).expect("a folder").count();
    assert_eq!(beside, 2, "no version that was refused is left");
}

#[tokio::test]
async fn the_process_of_a_name_gets_a_signal_for_each_version() {
    let (consul, scratch) = (Consul::start().await, Scratch::new());
    let path = scratch.path().join("settings");
    let name = format!("app{}", std::process::id());
    let script = scratch
        .write(&name, "#!/bin/sh\ntrap 'echo again' USR1\necho started\nwhile :; do sleep 0.01; done\n");
    let keys = format!(
        "from: \"consul://{}/k\", to: {}, on_change: {{ signal: USR1, process: {name} }}",
        consul.address,
        path.display()
    );
    consul.put("k", "zero");
    let sidecar = plan(&keys).start().await;
    sidecar.has_logged("no process is called").await; // it is not there yet, which is no fault
    let mut start = Command::new("chmod");
    assert!(start.arg("755").arg(&script).status().is_ok_and(|status| status.success()));
    let mut app = Program::start(Command::new(&script));
    assert_eq!(app.line().await, "started");
    for text in ["one", "two"] {
        consul.put("k", text);
        has(&path, text).await;
        assert_eq!(app.line().await, "again");
    }
    assert_eq!(changes(&sidecar, "untold").await, 0.0);
}

#[tokio::test]
async fn a_request_tells_the_application_and_a_failure_is_told() {
    let (consul, scratch) = (Consul::start().await, Scratch::new());
    let path = scratch.path().join("settings");
    let app = Backend::echo().await;
    let keys = |url: String| {
        format!(
            "from: \"consul://{}/k\", to: {}, on_change: {{ http: \"POST {url}\", timeout: 10s }}",
            consul.address,
            path.display()
        )
    };
    consul.put("k", "one");
    let sidecar = plan(&keys(format!("http://{}/-/reload", app.address))).start().await;
    eventually("the application is told", async || {
        app.requests().iter().any(|request| request.head.starts_with("POST /-/reload ")).then_some(())
    })
    .await;
    assert_eq!(changes(&sidecar, "untold").await, 0.0);
    drop(sidecar);
    let broken = Backend::saying(b"HTTP/1.1 500 Broken\r\ncontent-length: 0\r\n\r\n".to_vec()).await;
    consul.put("k", "two");
    let sidecar = plan(&keys(format!("http://{}/", broken.address))).start().await;
    shows(&sidecar, "500 Internal Server Error").await;
    has(&path, "two").await;
}

#[tokio::test]
async fn a_reload_that_kills_the_program_which_tells_the_application_has_it_told_all_the_same() {
    let (consul, scratch) = (Consul::start().await, Scratch::new());
    let [path, begun, told] = ["settings", "begun", "told"].map(|name| scratch.path().join(name));
    let hangs_once = format!(
        "test -e {begun} || {{ echo begun > {begun}; exec sleep 1000; }}; cat $0 >> {told}",
        begun = begun.display(),
        told = told.display()
    );
    consul.put("k", "one");
    let keys = format!(
        "from: \"consul://{}/k\", to: {}, on_change: {{ exec: [sh, -c, \"{hangs_once}\", \"{{file}}\"], timeout: 1m }}",
        consul.address,
        path.display()
    );
    let sidecar = plan(&keys).start().await;
    has(&begun, "begun\n").await;
    sidecar.configure(&sidecar.configuration().replace("on_change", "required: on, on_change"));
    has(&told, "one").await;
    shows(&sidecar, "\"up\":true").await;
}

/// `pillion exec` collects every child that ends, also those that another part of it waits for.
#[tokio::test]
async fn checks_and_programs_work_under_exec() {
    let (consul, scratch) = (Consul::start().await, Scratch::new());
    let (path, told) = (scratch.path().join("settings"), scratch.path().join("told"));
    consul.put("k", "one");
    let config = scratch.write(
        "pillion.yaml",
        format!(
            "inbound: off\noutbound: off\nadmin: {{ listen: 127.0.0.1:0 }}\nmetrics: off\nsync:\n  settings:\n    \
             from: \"consul://{}/k\"\n    to: {}\n    required: on\n    check: {{ exec: [grep, -q, o, \"{{file}}\"] }}\n    \
             on_change: {{ exec: [sh, -c, \"cat $0 >> {}\", \"{{file}}\"] }}\n",
            consul.address,
            path.display(),
            told.display()
        ),
    );
    let mut command = Command::new(binary());
    command.args(["exec", "-c"]).arg(config).args(["--", "sleep", "1000"]).stdin(Stdio::null());
    let mut exec = Program::start(command);
    has(&path, "one").await;
    for number in 0..20 {
        let text = format!("version one {number}");
        consul.put("k", text.as_str());
        has(&path, &text).await;
    }
    has_ended_with(&told, "version one 19").await;
    consul.put("k", "bad");
    exec.has_logged("ended with code 1").await;
    assert!(exec.exited().is_none());
    let ready = exec.line().await;
    let admin = ready.split_once("admin=").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    let shown = shown_at(admin.expect("an admin port")).await;
    assert_eq!(shown["up"], false, "{shown}");
}

async fn has_ended_with(path: &std::path::Path, text: &str) {
    eventually(text, async || {
        std::fs::read_to_string(path).is_ok_and(|all| all.ends_with(text)).then_some(())
    })
    .await;
}
