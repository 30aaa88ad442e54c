//! `kill -TERM` under load, with the built binary: no request is lost that another sidecar could have served.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use http::Request;

use crate::support::backend::Backend;
use crate::support::certs::{Authority, spiffe};
use crate::support::http2::{Client, Piped, collect};
use crate::support::sidecar::{Pair, Plan, Sidecar};
use crate::support::wire::Wire;
use crate::support::{eventually, soon};

const DRAIN: &str = "drain: { delay: 200ms, timeout: 10s }";
const POST: &str = "POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 4\r\n\r\nbody";

/// Clients that send requests until they are stopped. Every answer must be 200.
struct Load {
    stops: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn on(sidecar: &Sidecar) -> Self {
        let (stops, answers) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let to = sidecar.outbound();
        let mut clients = Vec::new();
        for _ in 0..6 {
            let (stops, answers) = (stops.clone(), answers.clone());
            clients.push(tokio::spawn(async move {
                let mut wire = Wire::connect(to).await;
                while !stops.load(Relaxed) {
                    let answer = wire.ask(POST).await;
                    assert_eq!((answer.status(), answer.text().as_str()), (200, "body"), "{}", answer.head);
                    answers.fetch_add(1, Relaxed);
                    if answer.header("connection") == Some("close") {
                        wire = Wire::connect(to).await; // as every HTTP client does
                    }
                }
            }));
        }
        let (stopping, counted) = (stops.clone(), answers.clone());
        clients.push(tokio::spawn(async move {
            let mut client = Client::connect(to).await;
            while !stopping.load(Relaxed) {
                let get = Request::get("http://orders/").body(Piped::empty()).expect("a request");
                let Ok(answer) = client.try_send(get).await else {
                    client = Client::connect(to).await; // GOAWAY: the request was not sent, or will not be processed
                    continue;
                };
                assert_eq!(answer.status(), 200);
                collect(answer.into_body()).await;
                counted.fetch_add(1, Relaxed);
            }
        }));
        Self { stops, answers, clients }
    }

    /// Waits until this many further answers have come.
    async fn goes_on(&self, further: usize) {
        let before = self.answers.load(Relaxed);
        eventually("further answers", async || {
            (self.answers.load(Relaxed) >= before + further).then_some(())
        })
        .await;
    }

    async fn stop(self) {
        self.stops.store(true, Relaxed);
        for client in self.clients {
            soon("the end of a client", client).await.expect("every answer was a good one");
        }
    }
}

async fn one_of_two_ends() {
    let app = Backend::echo().await;
    let authority = Authority::new();
    let start = || Plan::application(app.address, "").with(DRAIN).identified(&authority, "orders").start();
    let (mut leaves, stays) = (start().await, start().await);
    let endpoints = format!("endpoints: [\"{}\", \"{}\"]", leaves.inbound(), stays.inbound());
    let orders = format!("{endpoints}, tls: \"{}\"", spiffe("orders"));
    let caller = Plan::caller(&orders).identified(&authority, "web").start().await;
    let load = Load::on(&caller);
    load.goes_on(200).await;
    leaves.signal("TERM");
    load.goes_on(200).await;
    assert_eq!(leaves.exit().await.code(), Some(0));
    load.goes_on(200).await;
    load.stop().await;
}

#[tokio::test]
async fn one_of_two_application_sidecars_ends_under_load_and_no_request_fails() {
    one_of_two_ends().await;
}

#[tokio::test]
#[ignore = "the same twenty times"]
async fn twenty_application_sidecars_end_under_load_and_no_request_fails() {
    for _ in 0..20 {
        one_of_two_ends().await;
    }
}

/// The sidecar of the caller, whose clients reconnect when they are asked to.
#[tokio::test(flavor = "multi_thread")]
async fn the_callers_sidecar_ends_after_its_clients_and_fails_no_request() {
    let app = Backend::echo().await;
    let mut pair = Pair::ending(app.address, "", "drain: { delay: 200ms, timeout: 60s }").await;
    let caller = &mut pair.caller;
    let load = Load::on(caller);
    load.goes_on(200).await;
    caller.signal("TERM");
    eventually("readiness to fail", async || (caller.page("/ready").await.0 == 503).then_some(())).await;
    load.goes_on(500).await;
    assert!(caller.exited().is_none(), "the application still calls");
    load.stop().await;
    assert_eq!(caller.exit().await.code(), Some(0));
}
