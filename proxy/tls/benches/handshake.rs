//! Measures what a handshake costs the server: `cargo bench -p pillion-tls --bench handshake [-- ROW [BATCHES]]`.
//!
//! Client and server are in memory. The server has a thread of its own, whose CPU time is read from `/proc`, so that
//! neither the client's work nor a busy machine counts. All rows use the same cryptography (TLS 1.3, X25519, ECDSA
//! P-256, AES-128) and 32 clients, each with its own certificate, which verify the server as a sidecar does.
//!
//! To count instructions with valgrind, build with `CARGO_PROFILE_BENCH_STRIP=none`, and run a row of the binary under
//! `valgrind --tool=callgrind --toggle-collect='*server_turn*'`.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use pillion_model::identity::{TlsPolicy, TlsVersion};
use pillion_tls::identity::credentials::Credentials;
use pillion_tls::identity::issue::Ca;
use pillion_tls::provider;
use pillion_tls::server::{accept, server_config};
use pillion_tls::verify::{Expected, ServerVerifier, Trust};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::SingleCertAndKey;
use rustls::{CipherSuite, ClientConfig, HandshakeKind, ServerConfig};
use tokio::io::{DuplexStream, duplex};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

const POLICY: TlsPolicy = TlsPolicy { min_version: TlsVersion::Tls13, post_quantum: false };
const CLIENTS: usize = 32;

/// The name, whether clients resume sessions, and whether the server has seen a client's certificate before. Clients of
/// the row `openssl` offer AES-256 first, as that library does.
const ROWS: [(&str, bool, bool); 6] = [
    ("bare", false, true),
    ("bare-resumed", true, true),
    ("first", false, false),
    ("known", false, true),
    ("openssl", false, true),
    ("resumed", true, true),
];

type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;
type Accepting = Box<dyn Fn(DuplexStream) -> Serving>;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let only = arguments.first();
    let batches = arguments.get(1).and_then(|text| text.parse().ok()).unwrap_or(40);
    pillion_tls::gather_entropy();
    let (mesh, thread) = (Mesh::new(), ServerThread::start());
    for (row, resumes, known) in ROWS.into_iter().filter(|(row, ..)| only.is_none_or(|only| only == row)) {
        let clients = mesh.clients(resumes, row == "openssl");
        let mut accepting = mesh.accepting(row);
        let mut per_handshake = Vec::with_capacity(batches);
        thread.batch(&accepting, &clients, false); // a warm-up that is not counted
        for _ in 0..batches {
            if !known {
                accepting = mesh.accepting(row);
            }
            per_handshake.push(thread.batch(&accepting, &clients, resumes));
        }
        per_handshake.sort_by(f64::total_cmp);
        let (least, middle) = (per_handshake[0], per_handshake[batches / 2]);
        println!("{row:12} {middle:7.1} us of CPU per handshake (least {least:.1})");
    }
}

/// A CA, a server's credentials and its clients' credentials.
struct Mesh {
    server: Credentials,
    clients: Vec<Credentials>,
}

impl Mesh {
    fn new() -> Self {
        let ca = Ca::generate("cluster.local").expect("a CA");
        let issue = |path: String| {
            let id = format!("spiffe://cluster.local/{path}").parse().expect("a SPIFFE ID");
            ca.issue(&id, &[], Duration::from_secs(3600)).expect("issued").credentials().expect("usable")
        };
        let clients = (0..CLIENTS).map(|number| issue(format!("ns/default/sa/client-{number}"))).collect();
        Self { server: issue("ns/default/sa/server".to_owned()), clients }
    }

    fn clients(&self, resumes: bool, aes_256_first: bool) -> Vec<TlsConnector> {
        let mut provider = CryptoProvider::clone(&provider::provider(&POLICY));
        if aes_256_first {
            provider
                .cipher_suites
                .sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_256_GCM_SHA384);
        }
        let provider = Arc::new(provider);
        let connector = |own: &Credentials| {
            let provider = provider.clone();
            let expected = Expected::TrustDomains(vec!["cluster.local".to_owned()]);
            let verifier = ServerVerifier::new(Trust::of(own), expected, own, &provider);
            let mut config = ClientConfig::builder_with_provider(provider)
                .with_protocol_versions(provider::versions(&POLICY))
                .expect("TLS 1.3 is built in")
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
                .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own.key.clone())));
            if !resumes {
                config.resumption = Resumption::disabled();
            }
            config.alpn_protocols = vec![b"pillion-h2".to_vec()];
            TlsConnector::from(Arc::new(config))
        };
        self.clients.iter().map(connector).collect()
    }

    fn accepting(&self, row: &str) -> Accepting {
        if row.starts_with("bare") {
            let acceptor = TlsAcceptor::from(self.bare());
            return Box::new(move |io| {
                let accepted = acceptor.accept(io);
                Box::pin(async move { drop(accepted.await.expect("a handshake")) })
            });
        }
        let config = server_config(&self.server, &POLICY).expect("a server config");
        Box::new(move |io| {
            let accepted = accept(config.clone(), io);
            Box::pin(async move { drop(accepted.await.expect("a handshake")) })
        })
    }

    /// A server of plain rustls, with one root.
    fn bare(&self) -> Arc<ServerConfig> {
        let provider = provider::provider(&POLICY);
        let roots = self.server.roots.clone();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(provider::versions(&POLICY))
            .expect("TLS 1.3 is built in")
            .with_client_cert_verifier(verifier.build().expect("a root"))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(self.server.key.clone())));
        config.alpn_protocols = vec![b"pillion-h2".to_vec()];
        Arc::new(config)
    }
}

/// The server's ends of a batch of handshakes. `None` for a handshake that has ended.
type Batch = Vec<Option<Serving>>;

/// Polls the server's ends of a batch on a thread of its own, and gives them back.
struct ServerThread {
    turns: SyncSender<Batch>,
    done: Receiver<Batch>,
    schedstat: String,
}

impl ServerThread {
    fn start() -> Self {
        let (turns, work) = sync_channel::<Batch>(0);
        let (finished, done) = sync_channel(1);
        let (named, name) = sync_channel(1);
        std::thread::spawn(move || {
            let link = std::fs::read_link("/proc/thread-self").expect("/proc");
            named.send(format!("/proc/{}/schedstat", link.display())).expect("the bench waits");
            for mut batch in work {
                batch.iter_mut().for_each(server_turn);
                finished.send(batch).expect("the bench waits");
            }
        });
        Self { turns, done, schedstat: name.recv().expect("a thread") }
    }

    /// Microseconds of the server's CPU for each handshake. The thread waits whenever its time is read, so that the
    /// kernel has counted all of it.
    fn batch(&self, accepting: &Accepting, clients: &[TlsConnector], resumes: bool) -> f64 {
        let before = self.cpu_us();
        let (mut connecting, mut serving) = (Vec::new(), Batch::new());
        for connector in clients {
            let (near, far) = duplex(64 * 1024);
            let name = ServerName::try_from("server.default").expect("a name");
            connecting.push(Client::Connecting(Box::pin(connector.connect(name, near))));
            serving.push(Some(accepting(far)));
        }
        while serving.iter().any(Option::is_some) {
            connecting.iter_mut().for_each(Client::turn);
            self.turns.send(serving).expect("the thread is there");
            serving = self.done.recv().expect("the thread is there");
        }
        for client in connecting {
            client.end(resumes);
        }
        (self.cpu_us() - before) / clients.len() as f64
    }

    fn cpu_us(&self) -> f64 {
        std::thread::sleep(Duration::from_millis(1)); // the thread is about to wait for the next batch
        let text = std::fs::read_to_string(&self.schedstat).expect("/proc");
        let nanoseconds: f64 = text.split(' ').next().and_then(|first| first.parse().ok()).expect("a number");
        nanoseconds / 1000.0
    }
}

#[inline(never)]
fn server_turn(serving: &mut Option<Serving>) {
    let turn = |serving: &mut Serving| serving.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    if serving.as_mut().map(turn).is_some_and(|turn| turn.is_ready()) {
        *serving = None;
    }
}

enum Client {
    Connecting(Pin<Box<tokio_rustls::Connect<DuplexStream>>>),
    Connected(Box<TlsStream<DuplexStream>>),
}

impl Client {
    fn turn(&mut self) {
        let Self::Connecting(connecting) = self else { return };
        if let Poll::Ready(connected) = connecting.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            *self = Self::Connected(Box::new(connected.expect("a handshake")));
        }
    }

    /// Reads the tickets, which come after the handshake.
    fn end(self, resumes: bool) {
        let Self::Connected(mut stream) = self else { unreachable!("the server has ended its handshake") };
        let kind = stream.get_ref().1.handshake_kind();
        assert_eq!(kind == Some(HandshakeKind::Resumed), resumes, "{kind:?}");
        let mut room = [0; 1];
        let mut room = tokio::io::ReadBuf::new(&mut room);
        let mut context = Context::from_waker(Waker::noop());
        let _ended = tokio::io::AsyncRead::poll_read(Pin::new(&mut stream), &mut context, &mut room);
        assert!(stream.get_ref().1.tls13_tickets_received() > 0, "a ticket");
    }
}
