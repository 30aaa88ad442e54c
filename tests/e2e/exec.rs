//! `pillion exec`: real applications with a sidecar in the same process, and beside a sidecar of another one.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output};

use crate::support::backend::{Backend, free, nobody};
use crate::support::launched::binary;
use crate::support::manager::Manager;
use crate::support::program::Program;
use crate::support::sidecar::{Plan, Sidecar};
use crate::support::tmux::Tmux;
use crate::support::tools::{alone, has_namespace_of_processes, require, run};
use crate::support::wire::Wire;
use crate::support::{Scratch, eventually};

/// A file of a caller's sidecar that ends quickly, with `more`.
fn file(scratch: &Scratch, more: &str) -> PathBuf {
    scratch.write(
        "pillion.yaml",
        format!(
            "outbound: {{ listen: 127.0.0.1:0 }}\nadmin: {{ listen: 127.0.0.1:0 }}\ndrain: {{ delay: 1h, timeout: 2h }}\n{more}\n"
        ),
    )
}

const ALONE: &str = "inbound: off\nmetrics: off";

/// `pillion exec` with a sidecar of its own.
fn exec(prefix: Command, file: &PathBuf, words: &[impl AsRef<OsStr>]) -> Command {
    let mut command = prefix;
    command.arg("exec").arg("-c").arg(file).arg("--").args(words);
    command
}

fn pillion() -> Command {
    Command::new(binary())
}

fn script(words: &[&str]) -> Vec<String> {
    let path = format!("{}/tests/support/exec_app.py", env!("CARGO_MANIFEST_DIR"));
    ["python3".to_owned(), "-u".to_owned(), path]
        .into_iter()
        .chain(words.iter().map(|word| (*word).to_owned()))
        .collect()
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// `drain.delay` is an hour: the end of the application ends the sidecar without it.
#[tokio::test]
async fn the_exit_code_is_that_of_the_application() {
    let scratch = Scratch::new();
    let (file, text) = (file(&scratch, ALONE), scratch.write("text", "no program"));
    let text = text.to_str().expect("text");
    for (words, code, message) in [
        (&["sh", "-c", "echo hello; exit 7"][..], 7, ""),
        (&["true"], 0, ""),
        (&["sh", "-c", "kill -9 $$"], 137, ""),
        (&["sh", "-c", "kill -TERM $$"], 143, ""),
        (&["no-such-program"], 127, "cannot start \"no-such-program\": there is no such program"),
        (&[text], 126, "is it a program that this user may execute?: Permission denied"),
    ] {
        let (status, stdout, stderr) = said(&run(exec(pillion(), &file, words)).await);
        assert_eq!(status, Some(code), "{words:?}: {stderr}");
        assert_eq!(stdout.starts_with("ready outbound=127.0.0.1:"), message.is_empty(), "{stdout}");
        assert_eq!(stdout.ends_with("hello\n"), code == 7, "{stdout}");
        assert!(stderr.contains(message), "{stderr}");
    }
}

#[tokio::test]
async fn an_application_never_runs_beside_a_sidecar_that_does_not_start() {
    let scratch = Scratch::new();
    let ran = scratch.path().join("ran");
    let touch = ["touch", ran.to_str().expect("text")];
    let bad = file(&scratch, "inbund: off");
    let waits = scratch.path().join("waits.yaml");
    std::fs::write(
        &waits,
        "inbound: off\nmetrics: off\nadmin: { listen: 127.0.0.1:0 }\nidentity: { directory: certs }\n\
                            outbound: { listen: 127.0.0.1:0 }\n",
    )
    .expect("written");
    let none = format!("http://{}", nobody());
    let (bad, waits) = (bad.to_str().expect("text"), waits.to_str().expect("text"));
    for (words, code, message) in [
        (&["-c", bad][..], 1, "has no key `inbund`"),
        (&["-c", "no-such-file.yaml"], 1, "no-such-file.yaml"),
        (
            &["-c", waits, "--timeout", "300ms"],
            1,
            "the sidecar is not ready after 300ms: waiting for certificates: ",
        ),
        (&["--admin", &none, "--timeout", "300ms"], 1, "nothing listens at http://"),
        (&["-c", bad, "--admin", &none], 2, "cannot be used with"),
        (&["--takeover", "takeover.sock"], 2, "--config <FILE>"),
    ] {
        let mut command = pillion();
        command.arg("exec").args(words).arg("--").args(touch);
        let (status, stdout, stderr) = said(&run(command).await);
        assert_eq!((status, stdout.as_str()), (Some(code), ""), "{words:?}: {stderr}");
        assert!(stderr.contains(message), "{words:?}: {stderr}");
    }
    assert!(!ran.exists());
    assert_eq!(
        run({
            let mut nothing = pillion();
            nothing.arg("exec");
            nothing
        })
        .await
        .status
        .code(),
        Some(2)
    );
}

/// Sends a signal to a process.
async fn signal(pid: u32, name: &str) {
    let mut kill = Command::new("sh");
    kill.args(["-c", &format!("kill -{name} {pid}")]);
    assert!(run(kill).await.status.success(), "{name}");
}

async fn code_of(mut program: Program) -> Option<i32> {
    eventually("the end of the program", async || program.exited()).await.code()
}

/// SIGHUP reloads the sidecar's configuration and SIGUSR1 reopens its log: these two reach an application only where the
/// sidecar is another process.
#[tokio::test]
async fn signals_reach_the_application_once() {
    if !require("python3") {
        return;
    }
    let (scratch, words) = (Scratch::new(), script(&["signals"]));
    let mut program = Program::start(exec(pillion(), &file(&scratch, ALONE), &words));
    assert!(program.line().await.starts_with("ready "));
    assert_eq!(program.line().await, "started");
    for name in ["HUP", "USR1", "INT", "QUIT", "USR2", "WINCH", "TERM"] {
        signal(program.pid(), name).await;
        if !["HUP", "USR1"].contains(&name) {
            assert_eq!(program.line().await, format!("SIG{name}"));
        }
    }
    program.has_logged("configuration reloaded without changes").await;
    assert_eq!(program.next_line().await, None);
    assert_eq!(code_of(program).await, Some(3));

    let sidecar = Plan::new("inbound: off\noutbound: { listen: 127.0.0.1:0 }").start().await;
    let mut beside = pillion();
    beside.args(["exec", "--admin", &format!("http://{}", sidecar.admin()), "--"]).args(words);
    let mut program = Program::start(beside);
    assert_eq!(program.line().await, "started");
    for name in ["HUP", "USR1", "WINCH", "TERM"] {
        signal(program.pid(), name).await;
        assert_eq!(program.line().await, format!("SIG{name}"));
    }
    assert_eq!(code_of(program).await, Some(3));
}

/// At SIGTERM inbound says goodbye, and outbound works as before until the application has ended.
#[tokio::test]
async fn an_application_that_ends_can_still_call_others() {
    if !require("python3") {
        return;
    }
    let (scratch, orders) = (Scratch::new(), Backend::echo().await);
    let (outbound, metrics) = (free(), free());
    let file = scratch.write(
        "pillion.yaml",
        format!(
            "outbound: {{ listen: \"{outbound}\" }}\ninbound: {{ listen: 127.0.0.1:0, app: 127.0.0.1:1 }}\n\
             admin: {{ listen: 127.0.0.1:0 }}\nmetrics: {{ listen: \"{metrics}\" }}\n\
             services: {{ orders: {{ endpoints: [\"{}\"] }} }}\n",
            orders.address
        ),
    );
    let words = script(&["calls", &outbound.port().to_string()]);
    let mut program = Program::with_input(exec(pillion(), &file, &words));
    assert!(program.line().await.starts_with("ready "));
    assert_eq!(program.line().await, "started");
    signal(program.pid(), "TERM").await;
    assert_eq!(program.line().await, "called 200");
    let ready = Wire::connect(metrics).await.get("pillion", "/ready").await;
    assert_eq!((ready.status(), ready.text().as_str()), (503, "not ready: draining\n"));
    let answer = Wire::connect(outbound).await.get("orders", "/").await;
    assert_eq!((answer.status(), answer.header("connection")), (200, None));
    program.write("\n");
    assert_eq!(code_of(program).await, Some(0));
}

#[tokio::test]
async fn an_application_that_ignores_sigterm_keeps_its_sidecar_until_it_is_killed() {
    if !require("python3") {
        return;
    }
    let (scratch, words) = (Scratch::new(), script(&["stubborn"]));
    let mut program = Program::start(exec(pillion(), &file(&scratch, ALONE), &words));
    let outbound = outbound(&program.line().await);
    let started = program.line().await;
    let pid = started.strip_prefix("started ").and_then(|pid| pid.parse().ok()).expect("an ID");
    for _ in 0..2 {
        signal(program.pid(), "TERM").await;
        program.has_logged("draining: clients are asked to go elsewhere").await;
        assert_eq!(Wire::connect(outbound).await.get("nowhere.test", "/").await.status(), 404);
    }
    assert!(program.exited().is_none());
    signal(pid, "KILL").await;
    assert_eq!(code_of(program).await, Some(137));
}

/// A Job: the application calls a service through the sidecar of another container, and both end with exit code 0.
#[tokio::test]
async fn the_end_of_an_application_ends_the_sidecar_beside_it() {
    if !require("curl") {
        return;
    }
    let (orders, admin) = (Backend::echo().await, free());
    let yaml = |token: &str| {
        format!(
            "inbound: off\noutbound: {{ listen: 127.0.0.1:0 }}\nmetrics: off\ndrain: {{ delay: 1h, timeout: 2h }}\n\
             admin: {{ listen: \"{admin}\"{token} }}\nservices: {{ orders: {{ endpoints: [\"{}\"] }} }}\n",
            orders.address
        )
    };
    for (token, given) in [("", ""), (", token: s3cret-t0ken", "s3cret-t0ken"), (", token: s3cret-t0ken", "")]
    {
        let mut sidecar: Sidecar = Plan::exactly(&yaml(token)).start().await;
        let url = format!("http://{}/", sidecar.outbound());
        let mut job = pillion();
        job.args(["exec", "--admin", &format!("http://{admin}"), "--"]);
        job.args(["curl", "--silent", "--fail", "--header", "host: orders", &url]);
        if !given.is_empty() {
            job.env("PILLION_ADMIN_TOKEN", given);
        }
        let (code, _, stderr) = said(&run(job).await);
        assert_eq!(code, Some(0), "the application's own code: {stderr}");
        if !token.is_empty() && given.is_empty() {
            assert!(
                stderr.contains("the sidecar was not ended: ") && stderr.contains("PILLION_ADMIN_TOKEN"),
                "{stderr}"
            );
            sidecar.signal("KILL");
            sidecar.exit().await;
        } else {
            assert_eq!(sidecar.exit().await.code(), Some(0), "{stderr}");
        }
    }
    assert_eq!(orders.requests().len(), 3);
}

#[tokio::test]
async fn a_sidecar_that_gives_no_answer_to_the_order_to_end_is_told_of() {
    let crashes = Backend::serving(async |mut wire, _, _| {
        if wire.message().await.is_some_and(|asked| asked.head.starts_with("GET /ready ")) {
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        }
    })
    .await;
    let mut job = pillion();
    job.args(["exec", "--admin", &format!("http://{}", crashes.address), "--", "true"]);
    let (code, _, stderr) = said(&run(job).await);
    assert_eq!(code, Some(0), "the application's own code: {stderr}");
    assert!(stderr.contains("the sidecar did not answer the order to end"), "{stderr}");
}

/// Orders of the admin port end both.
#[tokio::test]
async fn an_order_to_end_ends_the_application_too() {
    let (scratch, admin) = (Scratch::new(), free());
    let file = scratch.write(
        "pillion.yaml",
        format!("inbound: off\noutbound: {{ listen: 127.0.0.1:0 }}\nmetrics: off\nadmin: {{ listen: \"{admin}\" }}\n"),
    );
    let mut program = Program::start(exec(
        pillion(),
        &file,
        &["sh", "-c", "trap 'exit 4' TERM; echo started; while :; do sleep 0.1; done"],
    ));
    assert!(program.line().await.starts_with("ready "));
    assert_eq!(program.line().await, "started");
    let order = format!("POST /quitquitquit HTTP/1.1\r\nhost: {admin}\r\n\r\n");
    assert_eq!(Wire::connect(admin).await.ask(&order).await.status(), 200);
    assert_eq!(code_of(program).await, Some(4));
}

/// The watchdog is fed while the application takes its time.
#[tokio::test]
async fn an_order_to_end_is_told_to_the_service_manager_at_once() {
    let (scratch, admin, manager) = (Scratch::new(), free(), Manager::new());
    let file = scratch.write(
        "pillion.yaml",
        format!("inbound: off\noutbound: {{ listen: 127.0.0.1:0 }}\nmetrics: off\nadmin: {{ listen: \"{admin}\" }}\n"),
    );
    let mut env = Command::new("env");
    env.arg(format!("NOTIFY_SOCKET={}", manager.path.display())).arg("WATCHDOG_USEC=30000000").arg(binary());
    let app = ["sh", "-c", "trap '' TERM; echo started; read line; exit 4"];
    let mut program = Program::with_input(exec(env, &file, &app));
    assert!(program.line().await.starts_with("ready "));
    assert_eq!(program.line().await, "started");
    assert!(manager.hears().await.starts_with("READY=1"));
    let order = format!("POST /quitquitquit HTTP/1.1\r\nhost: {admin}\r\n\r\n");
    assert_eq!(Wire::connect(admin).await.ask(&order).await.status(), 200);
    assert_eq!(manager.hears().await, "STOPPING=1\nSTATUS=draining");
    for _ in 0..2 {
        assert_eq!(manager.next(|_| true).await, "WATCHDOG=1");
    }
    program.write("\n");
    assert_eq!(code_of(program).await, Some(4));
}

/// A sidecar that waits for its certificates, beside an application that is never started.
#[tokio::test]
async fn a_sidecar_that_never_gets_ready_is_ended_too() {
    let (scratch, admin) = (Scratch::new(), free());
    let file = scratch.write(
        "pillion.yaml",
        format!(
            "inbound: off\noutbound: {{ listen: 127.0.0.1:0 }}\nmetrics: off\nadmin: {{ listen: \"{admin}\" }}\n\
             identity: {{ directory: certs }}\n"
        ),
    );
    let mut sidecar = pillion();
    sidecar.args(["run", "-c"]).arg(file);
    let sidecar = Program::start(sidecar);
    sidecar.has_logged("not ready yet").await;
    let mut job = pillion();
    job.args(["exec", "--timeout", "3s", "--admin", &format!("http://{admin}"), "--", "true"]);
    let (code, _, stderr) = said(&run(job).await);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("the sidecar is not ready after 3s: waiting for certificates"), "{stderr}");
    assert!(!stderr.contains("was not ended"), "{stderr}");
    assert_eq!(code_of(sidecar).await, Some(0));
}

/// A request that no one answers keeps the sidecar in its drain, after the application has ended by itself.
#[tokio::test]
async fn a_first_signal_after_the_end_of_the_application_does_not_cut_the_drain() {
    let (scratch, stalls) = (Scratch::new(), Backend::stall().await);
    let services = format!("{ALONE}\nservices: {{ orders: {{ endpoints: [\"{}\"] }} }}", stalls.address);
    let app = ["sh", "-c", "echo started; read line; exit 4"];
    let mut program = Program::with_input(exec(pillion(), &file(&scratch, &services), &app));
    let outbound = outbound(&program.line().await);
    assert_eq!(program.line().await, "started");
    let mut busy = Wire::connect(outbound).await;
    busy.send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
    stalls.has_requests(1).await;
    program.write("\n");
    program.has_logged("draining; a second signal ends at once").await;
    signal(program.pid(), "TERM").await;
    program.has_logged("draining already; a second signal ends at once").await;
    assert!(program.exited().is_none());
    signal(program.pid(), "TERM").await;
    assert_eq!(code_of(program).await, Some(4));
}

/// As the first process of a container.
#[tokio::test]
async fn the_first_process_collects_orphans_and_keeps_the_exit_code() {
    if !require("python3") || !has_namespace_of_processes().await {
        return;
    }
    let (scratch, words) = (Scratch::new(), script(&["zombies"]));
    let mut first = alone();
    first.arg(binary());
    let (code, stdout, stderr) = said(&run(exec(first, &file(&scratch, ALONE), &words)).await);
    assert_eq!(code, Some(9), "{stderr}");
    assert!(stdout.ends_with("all collected, 2 processes\n"), "{stdout}");
}

/// A process that outlives the application leaves an orphan while the sidecar drains.
#[tokio::test]
async fn the_first_process_collects_orphans_during_the_drain() {
    if !require("python3") || !has_namespace_of_processes().await {
        return;
    }
    let (scratch, stalls, words) = (Scratch::new(), Backend::stall().await, script(&["leaves"]));
    let services = format!("{ALONE}\nservices: {{ orders: {{ endpoints: [\"{}\"] }} }}", stalls.address);
    let mut first = alone();
    first.arg(binary());
    let mut program = Program::with_input(exec(first, &file(&scratch, &services), &words));
    let outbound = outbound(&program.line().await);
    assert_eq!(program.line().await, "started");
    let mut busy = Wire::connect(outbound).await;
    busy.send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
    stalls.has_requests(1).await;
    program.write("\n");
    program.has_logged("draining; a second signal ends at once").await;
    assert_eq!(program.line().await, "collected");
    assert!(program.exited().is_none(), "the request is still under way");
}

/// The address of the outbound side in a ready line.
fn outbound(ready: &str) -> SocketAddr {
    ready.split(['=', ' ']).nth(2).and_then(|word| word.parse().ok()).expect("an address")
}

/// The sidecar raises the limit for itself. The application finds what it finds without a sidecar, and a process group of its
/// own.
#[tokio::test]
async fn an_application_gets_the_limits_and_no_descriptors_of_the_sidecar() {
    if !require("python3") {
        return;
    }
    let (scratch, words) = (Scratch::new(), script(&["files"]));
    let limited = || {
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -Sn 300 && exec \"$0\" \"$@\""]);
        limited
    };
    let mut alone = limited();
    alone.args(&words);
    let (code, expected, stderr) = said(&run(alone).await);
    assert_eq!(code, Some(0), "{stderr}");
    let expected = expected.trim_end().replace("False", "True");
    let mut first = limited();
    first.arg(binary());
    let (code, stdout, stderr) = said(&run(exec(first, &file(&scratch, ALONE), &words)).await);
    assert_eq!((code, stdout.lines().last()), (Some(0), Some(expected.as_str())), "{stderr}");
    assert!(expected.starts_with("300 "), "{expected}");
}

/// Ctrl-Z stops both and gives the terminal back to the shell, `fg` continues both, and Ctrl-C reaches the application alone.
#[tokio::test]
async fn an_application_has_the_terminal_as_if_it_ran_alone() {
    if !require("tmux") {
        return;
    }
    let (scratch, tmux) = (Scratch::new(), Tmux::start().await);
    let app = "trap 'echo interr''upted; exit 6' INT; while read line; do echo got $line; done";
    let app = scratch.write("app.sh", app);
    let file = file(&scratch, ALONE);
    tmux.types(&format!(
        "PILLION_LOG=error {} exec -c {} -- sh {}",
        binary().display(),
        file.display(),
        app.display()
    ))
    .await;
    tmux.shows(&["ready outbound="]).await;
    tmux.types("one").await;
    tmux.shows(&["got one"]).await;
    tmux.press("C-z").await;
    tmux.types("echo the she''ll").await;
    tmux.shows(&["the shell"]).await;
    tmux.types("fg").await;
    tmux.types("two").await;
    tmux.shows(&["got two"]).await;
    tmux.press("C-c").await;
    tmux.shows(&["interrupted"]).await;
    tmux.types("echo co''de $?").await;
    tmux.shows(&["code 6"]).await;
}
