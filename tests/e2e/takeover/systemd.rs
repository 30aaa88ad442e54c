//! A takeover as systemd sees it: the former process names the new main process, before that one says its first word.

use std::process::Command;
use std::sync::Arc;

use crate::support::backend::Backend;
use crate::support::launched::binary;
use crate::support::manager::Manager;
use crate::support::sidecar::{Plan, Sidecar, Starting};
use crate::support::wire::Wire;
use crate::support::{Scratch, eventually};

/// A command that runs the command in its arguments as a service of this manager.
fn served_by(manager: &Manager) -> Command {
    let mut env = Command::new("env");
    env.arg(format!("NOTIFY_SOCKET={}", manager.path.display())).arg("WATCHDOG_USEC=30000000");
    env
}

async fn answers(sidecar: &Sidecar) {
    let answer = Wire::connect(sidecar.orders()).await.get("orders", "/").await;
    assert_eq!((answer.status(), answer.header("connection")), (200, None));
}

/// Each process has a manager of its own here, so that the test sees which of them has said something.
#[tokio::test]
async fn the_former_process_names_its_successor_and_says_nothing_more() {
    let (app, of_former, of_successor) = (Backend::echo().await, Manager::new(), Manager::new());
    let plan = Plan::calling(app.address, "protocol: http1").env("NOTIFY_SOCKET", &of_former.path);
    let mut former = plan.env("WATCHDOG_USEC", "30000000".as_ref()).with_takeover().start().await;
    assert_eq!(of_former.hears().await, format!("READY=1\nSTATUS={}", former.ready));
    let successor = former.succeed_by(Some(served_by(&of_successor))).ready().await;
    assert_eq!(of_former.hears().await, format!("MAINPID={}", successor.pid()));
    assert_eq!(of_successor.hears().await, format!("READY=1\nSTATUS={}", successor.ready));
    assert_eq!(former.exit().await.code(), Some(0));
    assert!(of_former.is_silent());
    of_successor.next(|message| message == "WATCHDOG=1").await;
}

/// A process that no test has started.
struct Orphan(u32);

impl Orphan {
    fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.0);
        drop(Command::new("sh").args(["-c", &kill]).status());
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        self.signal("KILL");
    }
}

/// As systemd starts the first one, whose watchdog is meant for that process.
#[tokio::test]
async fn sigusr2_starts_a_successor_that_becomes_the_main_process() {
    let (app, manager, scratch) = (Backend::echo().await, Manager::new(), Arc::new(Scratch::new()));
    let yaml = format!(
        "inbound: off\noutbound: {{ listen: 127.0.0.1:0 }}\nadmin: {{ listen: 127.0.0.1:0 }}\nmetrics: {{ listen: 127.0.0.1:0 }}\n\
         services: {{ orders: {{ listen: 127.0.0.1:0, endpoints: [\"{}\"] }} }}\n",
        app.address
    );
    let file = scratch.write("pillion.yaml", &yaml);
    let mut first = served_by(&manager);
    first
        .args(["sh", "-c", "WATCHDOG_PID=$$ exec \"$0\" \"$@\""])
        .arg(binary())
        .args(["run", "-c"])
        .arg(file);
    let socket = scratch.path().join("takeover.sock");
    first.arg("--takeover").arg(&socket);
    let mut former = Starting::new(first, scratch.clone()).ready().await;
    assert!(manager.hears().await.starts_with("READY=1"));

    former.configure("inbund: off\n");
    manager.next(|message| message.starts_with("READY=1\nSTATUS=configuration refused")).await;
    former.signal("USR2");
    former.has_logged("the successor that was started has ended status=exit status: 1").await;
    answers(&former).await;

    former.configure(&yaml);
    manager.next(|message| message.starts_with("READY=1\nSTATUS=nothing has changed")).await;
    former.signal("USR2");
    let told = manager.hears().await;
    let pid = told.strip_prefix("MAINPID=").and_then(|pid| pid.parse().ok());
    let successor = Orphan(pid.unwrap_or_else(|| unreachable!("{told}")));
    assert_eq!(manager.hears().await, format!("READY=1\nSTATUS={}", former.ready));
    assert_eq!(former.exit().await.code(), Some(0));
    manager.next(|message| message == "WATCHDOG=1").await;
    answers(&former).await; // at the addresses of the former one
    successor.signal("TERM");
    assert_eq!(manager.hears().await, "STOPPING=1\nSTATUS=draining");
    eventually("its socket to be removed", async || (!socket.exists()).then_some(())).await;
}

#[tokio::test]
async fn sigusr2_without_a_path_is_answered_in_the_log() {
    let app = Backend::echo().await;
    let sidecar = Plan::calling(app.address, "protocol: http1").start().await;
    sidecar.signal("USR2");
    sidecar
        .has_logged("SIGUSR2 starts no successor, because this sidecar was started without --takeover")
        .await;
    answers(&sidecar).await;
}

#[tokio::test]
async fn a_process_that_was_taken_over_starts_no_successor() {
    let app = Backend::echo().await;
    let plan = Plan::calling(app.address, "protocol: http1").with("drain: { delay: 0s, timeout: 10m }");
    let mut former = plan.with_takeover().start().await;
    let mut kept = Wire::connect(former.orders()).await;
    assert_eq!(kept.get("orders", "/").await.status(), 200);
    let successor = former.successor().await;
    former.has_logged("this process ends after its connections").await;
    former.signal("USR2");
    former.signal("TERM");
    former.has_logged("a second signal ends it at once").await;
    assert_eq!(kept.get("orders", "/").await.status(), 200);
    assert_eq!(former.exit().await.code(), Some(0));
    assert!(!former.errors().contains("SIGUSR2"), "{}", former.errors());
    answers(&successor).await;
}
