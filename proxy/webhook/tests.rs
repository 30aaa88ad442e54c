//! The webhook over TLS, with clients as slow as an attacker in the cluster may be.

use pillion_testkit::Scratch;
use pillion_tls::admission::ClientStream;
use pillion_tls::client::{AlpnOffer, ClientTls, Purpose};
use pillion_tls::identity::issue::Ca;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
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
        let webhook = Webhook::bind(any, files, "pillion:0.1.0").await.expect("it starts");
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
        let mut said = [0; 12];
        wire.0.read_exact(&mut said).await.expect("it reads the question");
        assert_eq!(&said, b"HTTP/1.1 100");
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
    for _ in 0..AT_ONCE {
        slow.push(running.slow().await);
    }
    let answer = running.connect().await.ask_about_a_pod(CLOSE).await;
    assert!(adds(&answer), "{answer}");
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
    let oldest = slow.first_mut().expect("one").rest().await;
    assert!(!oldest.contains("HTTP/1.1 200 "), "{oldest}");
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
