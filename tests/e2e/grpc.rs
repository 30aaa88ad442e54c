//! gRPC with the library grpcio as client and as server.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};

use tokio::sync::mpsc;

use crate::support::backend::Backend;
use crate::support::http2::{self, Client, Piped};
use crate::support::sidecar::{Pair, Plan};
use crate::support::soon;
use crate::support::tools::require_python;

/// A Python script with pipes for input and output; its errors go to the standard error of the test.
pub(crate) struct Script {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::UnboundedReceiver<String>,
}

impl Script {
    pub(crate) fn start(name: &str, arguments: &[&str]) -> Self {
        let path = format!("{}/tests/support/{name}", env!("CARGO_MANIFEST_DIR"));
        let mut python = Command::new("python3");
        python.arg("-u").arg(path).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = python.spawn().expect("python3 starts");
        let (sender, lines) = mpsc::unbounded_channel();
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { stdin: child.stdin.take(), child, lines }
    }

    /// The next line. `None` when the script has ended.
    pub(crate) async fn line(&mut self) -> Option<String> {
        soon("a line of the script", self.lines.recv()).await
    }

    async fn says(&mut self, expected: &str) {
        assert_eq!(self.line().await.as_deref(), Some(expected));
    }

    fn tell(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("a pipe");
        writeln!(stdin, "{line}").expect("a script that listens");
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub(crate) async fn server() -> (Script, SocketAddr) {
    let mut server = Script::start("grpc_server.py", &[]);
    let line = server.line().await.expect("a port");
    let port = line.strip_prefix("port ").and_then(|port| port.parse().ok()).expect("a port");
    (server, SocketAddr::from(([127, 0, 0, 1], port)))
}

/// Every kind of call, in the order of the script.
#[tokio::test]
async fn grpcio_talks_to_grpcio_through_the_pair() {
    if !require_python("grpc") {
        return;
    }
    let (mut server, app) = server().await;
    let pair = Pair::start(app, "", "").await;
    let mut client = Script::start("grpc_client.py", &[&pair.caller.orders().to_string()]);
    client.says("unary hello").await;
    client.says("server streaming a|b|c").await;
    client.says("client streaming a+b+c").await;
    client.says("both A|B").await;
    client.says("turn by turn Q0 Q1 Q2 Q3 Q4 OK").await;

    client.says("remaining as given").await;
    client.says("deadline DEADLINE_EXCEEDED").await;
    server.says("waiting").await;
    server.says("cancelled").await;
    client.tell("go on");

    server.says("waiting").await;
    client.tell("now");
    client.says("cancelling now").await;
    client.says("cancelled True").await;
    server.says("cancelled").await;

    client.says("large 20971520 True").await;
    let details = r"[('x-detail', '42'), ('x-detail-bin', b'\x00\xff')]";
    client.says(&format!("trailers only FAILED_PRECONDITION no, because: 100% ü {details}")).await;
    client.says("partly one two DATA_LOSS the rest is lost").await;
    client.says("unknown method UNIMPLEMENTED").await;

    client.says("flood 10000 {100}").await;
    client.says("drink 1000000").await;
    assert_eq!(client.line().await, None);
    for (status, calls) in [("9", 1), ("15", 1), ("12", 1)] {
        let labels = [("direction", "inbound"), ("service", "app"), ("grpc_status", status)];
        pair.application.counted(calls, &labels).await;
    }
}

/// Each sidecar subtracts the time that it has used, and the application gets the rest.
#[tokio::test]
async fn a_deadline_is_passed_on_reduced() {
    let (app, _task) = http2::application(async |request| {
        let left = request.headers()["grpc-timeout"].clone();
        let mut answer = http::Response::new(Piped::empty());
        answer.headers_mut().insert("x-left", left);
        answer
    })
    .await;
    let pair = Pair::start(app, "", "").await;
    let mut request = http2::grpc("orders", Piped::empty());
    request.headers_mut().insert("grpc-timeout", http::HeaderValue::from_static("60S"));
    let answer = Client::connect(pair.caller.outbound()).await.send(request).await;
    let left = answer.headers()["x-left"].to_str().expect("text");
    let left = left.strip_suffix('u').and_then(|left| left.parse::<u64>().ok()).expect("microseconds");
    assert!((1..60_000_000).contains(&left), "{left}");
}

/// A sidecar keeps the caller's deadline even when neither the caller nor the application does.
#[tokio::test]
async fn a_deadline_ends_a_call_that_the_caller_waits_for() {
    let stall = Backend::stall().await;
    let caller = Plan::calling(stall.address, "retry: off").start().await;
    let mut request = http2::grpc("orders", Piped::empty());
    request.headers_mut().insert("grpc-timeout", http::HeaderValue::from_static("200m"));
    let answer = Client::connect(caller.outbound()).await.send(request).await;
    assert_eq!(answer.headers()["grpc-status"], "4", "{answer:?}");
}

#[tokio::test]
async fn an_unreachable_application_is_unavailable_for_grpcio() {
    if !require_python("grpc") {
        return;
    }
    let caller = Plan::calling(crate::support::backend::nobody(), "retry: off").start().await;
    let script = "import grpc, sys\n\
                  channel = grpc.insecure_channel(sys.argv[1], options=[('grpc.enable_http_proxy', 0)])\n\
                  try:\n    channel.unary_unary('/zoo.Zoo/Unary')(b'', timeout=20)\n\
                  except grpc.RpcError as error:\n    print(error.code().name, error.details())\n";
    let mut python = Command::new("python3");
    python.args(["-c", script, &caller.orders().to_string()]);
    let output = crate::support::tools::printed(python).await;
    assert!(output.starts_with("UNAVAILABLE pillion: connect_refused: "), "{output}");
}
