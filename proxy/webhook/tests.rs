//! The webhook over TLS, with clients as slow as an attacker in the cluster may be.

use pillion_testkit::Scratch;
use pillion_tls::admission::ClientStream;
use pillion_tls::client::{AlpnOffer, ClientTls, Purpose};
use pillion_tls::identity::issue::Ca;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::*;

const CLOSE: &str = "connection: close\r\n";
const NAME: &str = "pillion-webhook.pillion.svc";

struct Running {
    address: SocketAddr,
    ends: Arc<Notify>,
    /// Ends the time in which it goes on answering.
    leaves: Arc<Notify>,
    serving: JoinHandle<()>,
    _scratch: Scratch,
}

/// The time for clients in tests that are not about it: no machine is so busy that it passes.
const LONG: Duration = Duration::from_secs(3600);
/// The memory of one answer to the largest question.
const ANSWER_BYTES: usize = 72 << 20;
/// A test that hangs ends here.
const HANGS: Duration = Duration::from_secs(60);

impl Running {
    async fn start() -> Self {
        let (scratch, ca) = (Scratch::new(), Ca::generate("cluster.local").expect("a CA"));
        let id = "spiffe://cluster.local/ns/pillion/sa/webhook".parse().expect("an identity");
        let issued = ca.issue(&id, &[NAME.to_owned()], Duration::from_secs(3600)).expect("a certificate");
        let files = KeyPair {
            certificate: scratch.write("tls.crt", issued.certificate),
            key: scratch.write("tls.key", issued.key),
        };
        let any = "127.0.0.1:0".parse().expect("an address");
        let mut webhook = Webhook::bind(any, files, "pillion:0.1.0").await.expect("it starts");
        webhook.reviewer.patience = LONG;
        let (ends, leaves) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (ended, left) = (ends.clone().notified_owned(), leaves.clone().notified_owned());
        let address = webhook.address().expect("an address");
        let serving = tokio::spawn(webhook.serve(ended, left));
        Self { address, ends, leaves, serving, _scratch: scratch }
    }

    async fn connect(&self) -> Wire {
        let tls = ClientTls::unverified(NAME, AlpnOffer::Http1).expect("TLS");
        let stream = TcpStream::connect(self.address).await.expect("it listens");
        Wire(tls.connect(stream, Purpose::Http1).await.expect("a handshake").0)
    }

    /// A client that has begun its question, and does not go on.
    async fn slow(&self) -> Wire {
        let mut wire = self.connect().await;
        let head = "POST /inject HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\nexpect: 100-continue\r\n\r\n";
        wire.send(head).await;
        let mut said = [0; 25];
        wire.0.read_exact(&mut said).await.expect("it reads the question");
        assert_eq!(&said, b"HTTP/1.1 100 Continue\r\n\r\n");
        wire.send("half").await;
        wire
    }
}

struct Wire(ClientStream<TcpStream>);

impl Wire {
    async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.expect("sent");
    }

    /// What comes until the connection is closed.
    async fn rest(&mut self) -> String {
        let mut all = Vec::new();
        drop(self.0.read_to_end(&mut all).await); // a connection that is cut is an end too
        String::from_utf8(all).expect("text")
    }

    /// Whether nothing has come, and the connection is open.
    async fn is_silent(&mut self) -> bool {
        let mut byte = [0; 1];
        tokio::select! {
            biased;
            _read = self.0.read(&mut byte) => false,
            () = std::future::ready(()) => true,
        }
    }

    async fn is_well(&mut self) -> bool {
        self.send("GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        self.rest().await.starts_with("HTTP/1.1 200 ")
    }

    /// Asks with this further line of the head, and waits for the end of the connection.
    async fn ask_about_a_pod(&mut self, more: &str) -> String {
        let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "a" }, "spec": { "containers": [{ "name": "a" }] } });
        let request = json!({ "uid": "1", "object": pod });
        let review =
            json!({ "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request })
                .to_string();
        let length = review.len();
        self.send(&format!(
            "POST /inject HTTP/1.1\r\nhost: a\r\n{more}content-length: {length}\r\n\r\n{review}"
        ))
        .await;
        self.rest().await
    }
}

/// Whether an answer adds the sidecar.
fn adds(answer: &str) -> bool {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    head.starts_with("HTTP/1.1 200 ") && body["response"]["patch"].is_string()
}

#[tokio::test]
async fn slow_clients_take_no_place_for_answers() {
    let running = Running::start().await;
    let mut slow = Vec::new();
    for _ in 0..2 * AT_ONCE {
        slow.push(running.slow().await);
    }
    let mut other = running.connect().await;
    let answer = timeout(HANGS, other.ask_about_a_pod(CLOSE)).await.expect("slow clients hold no place");
    assert!(adds(&answer), "{answer}");
    for wire in &mut slow {
        assert!(wire.is_silent().await, "the answer came while the slow clients were still asking");
    }
}

#[tokio::test]
async fn slow_clients_lose_their_connections_to_others_the_oldest_first() {
    let running = Running::start().await;
    let mut slow = Vec::new();
    for _ in 0..CONNECTIONS {
        slow.push(running.slow().await);
    }
    let answer = running.connect().await.ask_about_a_pod(CLOSE).await;
    assert!(adds(&answer), "{answer}");
    let [oldest, second, .., last] = &mut slow[..] else { panic!("many") };
    assert_eq!(oldest.rest().await, "", "it is cut without an answer");
    for wire in [second, last] {
        wire.send(&"x".repeat(1000 - "half".len())).await;
        let mut said = [0; 12];
        timeout(HANGS, wire.0.read_exact(&mut said))
            .await
            .expect("an answer")
            .expect("it keeps its connection");
        assert_eq!(&said, b"HTTP/1.1 400", "no review, and read to its end");
    }
}

/// A client and the task that answers it, without TLS and with the clock of the test.
fn plain(patience: Duration) -> (DuplexStream, watch::Sender<bool>, JoinHandle<()>) {
    let (near, far) = duplex(1 << 16);
    let (ending, ended) = watch::channel(false);
    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    let reviewer = Reviewer { image: "pillion:1".into(), at_once, patience, is_leaving: Arc::default() };
    let client = Arc::new(Clients::default()).enter();
    let answering = tokio::spawn(async move { answer_questions(far, &client, &reviewer, ended).await });
    (near, ending, answering)
}

const PROBE: &str = "GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n";

async fn is_answered(wire: &mut DuplexStream) -> bool {
    let mut said = Vec::new();
    while !said.ends_with(b"ok\n") {
        if wire.read_buf(&mut said).await.expect("read") == 0 {
            return false;
        }
    }
    true
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_kept_longer_than_an_api_server_keeps_it_and_a_head_has_ten_seconds() {
    let (mut wire, _ending, answering) = plain(PATIENCE);
    for _ in 0..3 {
        wire.write_all(PROBE.as_bytes()).await.expect("sent");
        assert!(is_answered(&mut wire).await);
        tokio::time::sleep(Duration::from_secs(95)).await;
    }
    let since = Instant::now();
    wire.write_all(b"GET /he").await.expect("sent");
    assert!(!is_answered(&mut wire).await);
    assert!(since.elapsed() >= PATIENCE && since.elapsed() < 2 * PATIENCE, "{:?}", since.elapsed());
    answering.await.expect("it ends");

    let (mut silent, _ending, _answering) = plain(PATIENCE);
    let since = Instant::now();
    assert!(!is_answered(&mut silent).await);
    assert!(since.elapsed() < 2 * PATIENCE, "the first head has no longer: {:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_old_connection_is_closed_with_an_answer() {
    let (mut wire, _ending, _answering) = plain(PATIENCE);
    let since = Instant::now();
    while since.elapsed() <= LIFETIME {
        wire.write_all(PROBE.as_bytes()).await.expect("sent");
        assert!(is_answered(&mut wire).await);
        tokio::time::sleep(Duration::from_secs(95)).await;
    }
    wire.write_all(PROBE.as_bytes()).await.expect("sent");
    let mut said = String::new();
    wire.read_to_string(&mut said).await.expect("text");
    assert!(said.contains("\r\nconnection: close\r\n") && said.ends_with("ok\n"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_head_that_has_begun_at_the_end_is_answered() {
    let (mut wire, ending, answering) = plain(PATIENCE);
    wire.write_all(PROBE.as_bytes()).await.expect("sent");
    assert!(is_answered(&mut wire).await);
    let (first, rest) = PROBE.split_at(10);
    wire.write_all(first.as_bytes()).await.expect("sent");
    tokio::time::sleep(PAUSE).await;
    ending.send_replace(true);
    tokio::time::sleep(PAUSE).await;
    wire.write_all(rest.as_bytes()).await.expect("sent");
    assert!(is_answered(&mut wire).await);
    answering.await.expect("it ends");
}

/// Kubernetes ends a process that takes more than its limit, and with it every answer.
#[test]
fn the_memory_limit_of_the_deployment_has_room_for_all_bounds() {
    let answers = AT_ONCE * ANSWER_BYTES;
    let unanswered = clients::MOST_BYTES + clients::MOST_WAITING;
    // TLS has a record of 16 KiB on each side, and hyper its buffers
    let connections = CONNECTIONS * (2 * HEAD_BYTES + 2 * (16 << 10));
    let program = 32 << 20;
    let needed = answers + unanswered + connections + program;
    let values = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/webhook/chart/values.yaml");
    let values = std::fs::read_to_string(values).expect("the chart");
    let limit = values.split("limits: { memory: ").nth(1).and_then(|rest| rest.split_once("Mi"));
    let limit: usize = limit.and_then(|(limit, _)| limit.parse().ok()).expect("a limit in Mi");
    assert!(needed <= limit << 20, "{needed} bytes, and the limit is {limit}Mi");
}

#[tokio::test]
async fn a_webhook_that_is_asked_to_end_fails_its_probe_and_answers_until_others_know() {
    let running = Running::start().await;
    assert!(running.connect().await.is_well().await);
    let mut kept = running.connect().await;
    running.ends.notify_one();
    while running.connect().await.is_well().await {}
    for wire in [&mut kept, &mut running.connect().await] {
        let answer = wire.ask_about_a_pod("").await;
        assert!(adds(&answer) && answer.contains("\r\nconnection: close\r\n"), "{answer}");
    }
    assert!(!running.serving.is_finished());
    let idle = running.connect().await;
    running.leaves.notify_one();
    running.serving.await.expect("it ends");
    drop(idle);
}
