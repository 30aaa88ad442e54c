//! `pillion policy record` beside a real pair, and the sidecar with the rules that it has written.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};

use crate::support::backend::Backend;
use crate::support::certs::{Authority, spiffe};
use crate::support::launched::binary;
use crate::support::sidecar::{Plan, Sidecar};
use crate::support::soon;
use crate::support::tools::printed;
use crate::support::wire::Wire;

/// A recording that is under way.
struct Recording(Child);

impl Recording {
    /// Waits until it has begun.
    async fn start(of: &Sidecar, more: &[&str]) -> Self {
        let mut command = Command::new(binary());
        command.args(["policy", "record", "--admin", &format!("http://{}", of.admin())]).args(more);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a process");
        let errors = child.stderr.take().expect("a pipe");
        let first = tokio::task::spawn_blocking(move || {
            let (mut errors, mut line) = (BufReader::new(errors), String::new());
            errors.read_line(&mut line).expect("a line");
            (line, errors.into_inner())
        });
        let (line, errors) = soon("the beginning of the recording", first).await.expect("no panic");
        child.stderr = Some(errors);
        assert!(line.starts_with("recording what comes"), "{line}");
        Self(child)
    }

    /// Sends SIGINT, as Ctrl-C does.
    async fn interrupt(self) -> Output {
        let mut kill = Command::new("sh");
        kill.args(["-c", &format!("kill -INT {}", self.0.id())]);
        printed(kill).await;
        let ended = tokio::task::spawn_blocking(|| self.0.wait_with_output());
        soon("the end of the recording", ended).await.expect("no panic").expect("an end")
    }
}

async fn run(words: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(words);
    tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("a process")
}

const INBOUND: &str = "inbound:\n  listen: 127.0.0.1:0\n  mtls: permissive\n";

/// The sidecar of the application, those of its callers `web` and `batch`, and its application.
struct Shop {
    orders: Sidecar,
    web: Sidecar,
    batch: Sidecar,
    app: Backend,
}

impl Shop {
    async fn start() -> Self {
        let (app, authority) = (Backend::echo().await, Authority::new());
        let yaml = format!("outbound: off\n{INBOUND}  app: \"{}\"\n", app.address);
        let orders = Plan::new(&yaml).identified(&authority, "orders").start().await;
        let caller = |account| {
            let service = format!("tls: \"{}\"", spiffe("orders"));
            Plan::calling(orders.inbound(), &service).identified(&authority, account).start()
        };
        let (web, batch) = (caller("web").await, caller("batch").await);
        Self { orders, web, batch, app }
    }

    /// The traffic of the recording. The last caller has no identity.
    async fn usual(&self) -> Vec<u16> {
        let mut statuses = Vec::new();
        for (at, method, path) in [
            (self.web.orders(), "GET", "/api/users/1"),
            (self.web.orders(), "GET", "/api/users/2/orders"),
            (self.web.orders(), "HEAD", "/api/users/3"),
            (self.web.orders(), "POST", "/jobs"),
            (self.batch.orders(), "GET", "/reports?year=2026"),
            (self.orders.inbound(), "GET", "/healthz"),
        ] {
            statuses.push(status(at, method, path).await);
        }
        statuses
    }
}

async fn status(at: SocketAddr, method: &str, path: &str) -> u16 {
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: orders\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    let mut wire = Wire::connect(at).await;
    wire.send(&request).await;
    let head = soon("a head", wire.head()).await.expect("an answer");
    head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
}

#[tokio::test]
async fn the_rules_of_a_recording_let_its_traffic_pass_and_nothing_else() {
    let shop = Shop::start().await;
    let file = shop.orders.directory().join("policy.yaml");
    let name = file.display().to_string();
    assert_eq!(status(shop.web.orders(), "GET", "/before").await, 200);
    let recording = Recording::start(&shop.orders, &["-o", &name]).await;
    assert_eq!(shop.usual().await, [200; 6]);
    let second = run(&["policy", "record", "--admin", &format!("http://{}", shop.orders.admin())]).await;
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success() && said.contains("another `pillion policy record`"), "{said}");
    let ended = recording.interrupt().await;
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(status(shop.web.orders(), "GET", "/after").await, 200);

    let text = std::fs::read_to_string(&file).expect("a document");
    assert!(
        text.contains("mode: audit") && text.contains("127.0.0.1") && !text.contains("/before"),
        "{text}"
    );
    for line in ["GET /healthz to port", "\"/api/users/*\"", "\"/jobs\"", "\"/reports\"", "\"GET\", \"HEAD\""]
    {
        assert!(text.contains(line), "{line} in {text}");
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains("callers without an identity"), "{said}");
    let checked = run(&["check", "-c", &name]).await;
    let printed = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success() && !printed.contains("warning"), "{printed}\n{text}");

    let (_, rules) = text.split_once("inbound:\n").expect("a document");
    let rules = rules.replace("    mode: audit\n", "");
    shop.orders.configure(&shop.orders.configuration().replace(INBOUND, &format!("{INBOUND}{rules}")));
    shop.orders.reloaded("applied", 0).await;
    assert_eq!(shop.usual().await, [200, 200, 200, 200, 200, 403], "{text}");
    let hits = shop.app.requests().len();
    for (at, method, path) in [
        (&shop.web, "POST", "/api/users/1"),
        (&shop.web, "GET", "/api/users"),
        (&shop.web, "GET", "/before"),
        (&shop.web, "GET", "/reports"),
        (&shop.batch, "GET", "/api/users/1"),
        (&shop.batch, "HEAD", "/reports"),
    ] {
        assert_eq!(status(at.orders(), method, path).await, 403, "{method} {path}\n{text}");
    }
    assert_eq!(shop.app.requests().len(), hits);
}

#[tokio::test]
async fn a_recording_that_cannot_begin_says_why() {
    let shop = Shop::start().await;
    let admin = format!("http://{}", shop.orders.admin());
    for (words, expected) in [
        (["--admin", "http://127.0.0.1:1", "--for", "1s"], "cannot be asked (see --admin)"),
        (["--admin", &admin, "-o", "/nowhere/policy.yaml"], "/nowhere/policy.yaml cannot be written"),
    ] {
        let refused = run(&[&["policy", "record"][..], &words].concat()).await;
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(said.contains(expected), "{said}");
    }
    let refused = run(&["policy", "record", "--admin", "127.0.0.1:15000"]).await;
    assert_eq!(refused.status.code(), Some(2));
    let ended = run(&["policy", "record", "--admin", &admin, "--for", "100ms"]).await;
    assert!(
        ended.status.success() && String::from_utf8_lossy(&ended.stdout).contains("rules: []"),
        "{ended:?}"
    );
}

#[tokio::test]
async fn a_recording_that_finds_nothing_leaves_its_file_as_it_was() {
    let shop = Shop::start().await;
    let admin = format!("http://{}", shop.orders.admin());
    let (new, known) = (shop.orders.directory().join("new.yaml"), shop.orders.directory().join("known.yaml"));
    std::fs::write(&known, "rules of before").expect("a file");
    let first = Recording::start(&shop.orders, &[]).await;
    let forgets = Backend::serving(async |mut wire, _, _| {
        let asked = wire.message().await.expect("a request");
        wire.send(match asked.head.contains("id=") {
            true => "HTTP/1.1 410 Gone\r\ncontent-length: 5\r\n\r\ngone\n",
            false => "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{\"id\": 1}",
        })
        .await;
    })
    .await;
    let lost = format!("http://{}", forgets.address);
    for (admin, expected) in [(&admin, "another `pillion policy record`"), (&lost, "nothing is written")] {
        for file in [&new, &known] {
            let name = file.display().to_string();
            let ended = run(&["policy", "record", "--admin", admin, "-o", &name]).await;
            let said = String::from_utf8_lossy(&ended.stderr);
            assert!(ended.status.code() == Some(1) && said.contains(expected), "{said}");
        }
        assert!(!new.exists(), "{expected}");
        assert_eq!(std::fs::read_to_string(&known).expect("a file"), "rules of before", "{expected}");
    }
    assert!(first.interrupt().await.status.success());
    let name = known.display().to_string();
    let quiet = run(&["policy", "record", "--admin", &admin, "--for", "1ms", "-o", &name]).await;
    let said = String::from_utf8_lossy(&quiet.stderr);
    assert!(quiet.status.code() == Some(1) && said.contains("left as it was"), "{said}");
    assert_eq!(std::fs::read_to_string(&known).expect("a file"), "rules of before");
}

#[tokio::test]
async fn a_recording_needs_the_token_of_the_admin_port() {
    let yaml = "admin: { listen: 127.0.0.1:0, token: a-token-of-32-bytes-and-no-less-a }\nmetrics: off\noutbound: off\n\
                inbound: { listen: 127.0.0.1:0, app: 127.0.0.1:9 }\n";
    let sidecar = Plan::exactly(yaml).start().await;
    let admin = format!("http://{}", sidecar.admin());
    let words = ["policy", "record", "--admin", &admin, "--for", "100ms"];
    let refused = run(&words).await;
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(1) && said.contains("PILLION_ADMIN_TOKEN"), "{said}");
    let mut command = Command::new(binary());
    command.args(words).env("PILLION_ADMIN_TOKEN", "a-token-of-32-bytes-and-no-less-a");
    let written =
        tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("a process");
    assert!(written.status.success(), "{written:?}");
}
