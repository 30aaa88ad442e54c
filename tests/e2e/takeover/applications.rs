//! `exec --takeover`: each process has an application of its own, which goes on until its own end.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::support::backend::Backend;
use crate::support::launched::binary;
use crate::support::program::Program;
use crate::support::tools::run;
use crate::support::wire::Wire;
use crate::support::{Scratch, eventually};

const GET: &str = "GET / HTTP/1.1\r\nhost: orders\r\n\r\n";

fn file(scratch: &Scratch, orders: SocketAddr, more: &str) {
    let text = format!(
        "inbound: off\noutbound: {{ listen: 127.0.0.1:0 }}\nadmin: {{ listen: 127.0.0.1:0 }}\nmetrics: off\n\
         drain: {{ delay: 1h, timeout: 2h }}\n\
         services: {{ orders: {{ listen: 127.0.0.1:0, endpoints: [\"{orders}\"] }} }}\n{more}"
    );
    scratch.write("pillion.yaml", text);
}

/// `pillion exec` with an application that ends with this code at the next line of its input.
fn exec(scratch: &Scratch, code: u8) -> Command {
    let mut command = Command::new(binary());
    command.args(["exec", "--timeout", "20s", "-c"]).arg(scratch.path().join("pillion.yaml"));
    command.arg("--takeover").arg(socket(scratch)).arg("--");
    command.args(["sh", "-c", &format!("echo started; read line; exit {code}")]);
    command
}

fn socket(scratch: &Scratch) -> std::path::PathBuf {
    scratch.path().join("takeover.sock")
}

/// Starts it, and returns its ready line.
async fn started(command: Command) -> (Program, String) {
    let mut program = Program::with_input(command);
    let ready = program.line().await;
    assert_eq!(program.line().await, "started");
    (program, ready)
}

fn orders(ready: &str) -> SocketAddr {
    let word = ready.split(' ').find_map(|word| word.strip_prefix("service.orders="));
    word.and_then(|word| word.parse().ok()).expect("an address")
}

/// Whether an answer on this connection says that it will close.
async fn is_last(wire: &mut Wire) -> bool {
    let answer = wire.ask(GET).await;
    assert_eq!(answer.status(), 200, "{}", answer.head);
    answer.header("connection") == Some("close")
}

async fn code_of(mut program: Program) -> Option<i32> {
    eventually("the end of the program", async || program.exited()).await.code()
}

async fn terminate(program: &Program) {
    let mut kill = Command::new("sh");
    kill.args(["-c", &format!("kill -TERM {}", program.pid())]);
    assert!(run(kill).await.status.success());
}

async fn is_gone(socket: &Path) {
    eventually("its socket to be removed", async || (!socket.exists()).then_some(())).await;
}

#[tokio::test]
async fn a_former_application_goes_on_until_its_own_end_while_its_sidecar_drains() {
    let (scratch, app) = (Scratch::new(), Backend::echo().await);
    file(&scratch, app.address, "");
    let (mut first, ready) = started(exec(&scratch, 4)).await;
    let mut kept = Wire::connect(orders(&ready)).await;
    assert!(!is_last(&mut kept).await);

    let (second, same) = started(exec(&scratch, 5)).await;
    assert_eq!(same, ready, "all addresses, also those with port 0");
    first.has_logged("a successor serves; this process ends with its application").await;
    assert!(first.exited().is_none() && first.is_silent());
    assert!(!is_last(&mut Wire::connect(orders(&ready)).await).await, "the successor accepts");
    assert!(is_last(&mut kept).await, "the former sidecar answers its connections");
    first.write("\n");
    assert_eq!(code_of(first).await, Some(4));

    let (third, _) = started(exec(&scratch, 6)).await;
    second.has_logged("a successor serves; this process ends with its application").await;
    terminate(&second).await;
    assert_eq!(code_of(second).await, Some(143), "the signal went to the application");
    assert!(!is_last(&mut Wire::connect(orders(&ready)).await).await);
    let mut alone = Command::new(binary());
    alone
        .args(["run", "-c"])
        .arg(scratch.path().join("pillion.yaml"))
        .arg("--takeover")
        .arg(socket(&scratch));
    let mut fourth = Program::start(alone);
    assert_eq!(fourth.line().await, ready, "a sidecar without an application takes over, too");
    third.has_logged("a successor serves; this process ends with its application").await;
    terminate(&third).await;
    assert_eq!(code_of(third).await, Some(143));

    let (fifth, _) = started(exec(&scratch, 7)).await;
    assert_eq!(code_of(fourth).await, Some(0), "it has no connection");
    assert!(!is_last(&mut Wire::connect(orders(&ready)).await).await);
    terminate(&fifth).await;
    assert_eq!(code_of(fifth).await, Some(143));
    is_gone(&socket(&scratch)).await;
}

/// The former one serves as before, and the new application never runs.
#[tokio::test]
async fn an_application_whose_sidecar_cannot_take_over_never_runs() {
    let (scratch, app) = (Scratch::new(), Backend::echo().await);
    file(&scratch, app.address, "");
    let (mut former, ready) = started(exec(&scratch, 4)).await;
    for (more, program, code, why) in [
        ("inbund: off\n", "touch", 1, "has no key `inbund`"),
        (
            "identity: { directory: none }\n",
            "touch",
            1,
            "the sidecar is not ready after 300ms: waiting for certificates: ",
        ),
        ("", "no-such-program", 127, "there is no such program"),
    ] {
        file(&scratch, app.address, more);
        let mut short = Command::new(binary());
        short.args(["exec", "--timeout", "300ms", "-c"]).arg(scratch.path().join("pillion.yaml"));
        short.arg("--takeover").arg(socket(&scratch)).args(["--", program]).arg(scratch.path().join("ran"));
        let output = run(short).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), &*output.stdout), (Some(code), &b""[..]), "{said}");
        assert!(said.contains(why), "{said}");
        assert!(!is_last(&mut Wire::connect(orders(&ready)).await).await);
    }
    assert!(!scratch.path().join("ran").exists());
    former.write("\n");
    assert_eq!(code_of(former).await, Some(4));
}
