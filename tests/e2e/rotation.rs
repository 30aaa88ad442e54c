//! Rotations of leaf, bundle and root on sockets, while requests come at a steady rate: no request fails, and what has been
//! replaced or revoked is out.
//!
//! The short version runs everywhere; `tests/long/rotation.sh` runs the long one with a release build.

use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use pillion_testkit::agent::{Agent, Svid};
use tokio::time::Instant;

use crate::support::application::application;
use crate::support::backend::Backend;
use crate::support::certs::{Authority, Secret, spiffe};
use crate::support::load::{Load, Size};
use crate::support::sidecar::{Plan, Sidecar};
use crate::support::wire::Wire;
use crate::support::{Scratch, eventually};

/// The identity of `account` by `signs`, with trust in both authorities.
fn between(signs: &Authority, other: &Authority, account: &str) -> Svid {
    let issued = signs.issue(account);
    let bundle = [&issued.bundle, other.certificate()].concat();
    Svid::from_pem(&spiffe(account), &issued.certificate, &issued.key, &bundle)
}

async fn generation(of: &Sidecar) -> f64 {
    of.scrape().await.sum("pillion_config_generation", &[])
}

/// Issues an identity, and waits until the sidecar uses it.
async fn issue(agent: &Agent, to: &Sidecar, svid: Svid) {
    let before = generation(to).await;
    agent.say(svid);
    eventually("the new identity", async || (generation(to).await > before).then_some(())).await;
}

fn identity(socket: &Path) -> String {
    format!("identity: {{ workload_api: \"unix://{}\" }}", socket.display())
}

/// Leaf and bundle take turns: first a new leaf by the authority that is trusted already, then a bundle with the next
/// authority in place of the oldest one. So each two rotations replace a root. The sidecars rotate one after the other.
async fn rotations_fail_no_request(rotations: usize, size: Size) {
    let (scratch, app) = (Scratch::new(), application().await);
    let (mut old, mut new) = (Authority::new(), Authority::new());
    let start = |account: &'static str| {
        let socket = scratch.path().join(account);
        let agent = Agent::new(between(&old, &new, account));
        let listening = agent.listen(&socket);
        (agent, listening, identity(&socket))
    };
    let (orders, web) = (start("orders"), start("web"));
    let application = Plan::application(app.0, "").with(&orders.2).start().await;
    let service = format!("tls: \"{}\", retry: off, connect_timeout: 20s", spiffe("orders"));
    let caller = Plan::calling(application.inbound(), &service).with(&web.2).start().await;
    let load = Load::start([caller.outbound(), caller.orders()], size).await;
    load.goes_on(size.rate as usize).await;
    let began = Instant::now();
    for rotation in 0..rotations {
        let is_leaf = rotation % 2 == 0;
        if !is_leaf {
            old = std::mem::replace(&mut new, Authority::new());
        }
        let (signs, other) = if is_leaf { (&new, &old) } else { (&old, &new) };
        issue(&orders.0, &application, between(signs, other, "orders")).await;
        issue(&web.0, &caller, between(signs, other, "web")).await;
        load.goes_on(4).await;
    }
    let took = began.elapsed();
    let tally = load.stop().await;
    let (answers, failures) = (tally.answers.load(Relaxed), tally.failures.lock().clone());
    println!(
        "{rotations} rotations of both sidecars in {took:.1?}: {answers} answers, {} failures",
        failures.len()
    );
    assert!(failures.is_empty(), "{failures:#?}");
    let handshakes = application.scrape().await.sum("pillion_tls_handshakes_total", &[("outcome", "ok")]);
    assert!(handshakes >= rotations as f64, "each rotation makes new connections: {handshakes}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotations_of_leaf_and_bundle_fail_no_request() {
    let (rotations, size) = match std::env::var_os("PILLION_TEST_FULL") {
        None => (60, Size { rate: 200, clients: 10, streams: 2 }),
        Some(_) => (1000, Size { rate: 1000, clients: 50, streams: 10 }),
    };
    rotations_fail_no_request(rotations, size).await;
}

/// Trust in both roots, then certificates of the new one, then trust in the new one alone, in the files of both sidecars.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_is_replaced_in_the_files_of_both_sidecars_and_the_old_one_is_out() {
    let (old, new, app) = (Authority::new(), Authority::new(), application().await);
    let application = Plan::application(app.0, "").identified(&old, "orders").start().await;
    let service = format!("tls: \"{}\", retry: off, connect_timeout: 20s", spiffe("orders"));
    let calling = |by: &Authority| Plan::calling(application.inbound(), &service).identified(by, "web");
    let (caller, stale) = (calling(&old).start().await, calling(&old).start().await);
    assert_eq!(Wire::connect(stale.orders()).await.get("orders", "/").await.status(), 200);
    let sidecars = [(&application, "orders"), (&caller, "web")];
    let mut secrets =
        sidecars.map(|(of, account)| Secret::of(of.directory().join("certs"), &old.issue(account)));
    let size = Size { rate: 200, clients: 10, streams: 2 };
    let load = Load::start([caller.outbound(), caller.orders()], size).await;
    let both = [old.certificate(), new.certificate()].concat();
    for (signs, trusts) in [(&old, &*both), (&new, &*both), (&new, new.certificate())] {
        for ((of, account), secret) in sidecars.into_iter().zip(&mut secrets) {
            let before = generation(of).await;
            let issued = signs.issue(account);
            secret.swap(&pillion_tls::identity::issue::IssuedPem { bundle: trusts.to_owned(), ..issued });
            eventually("the new files", async || (generation(of).await > before).then_some(())).await;
            load.goes_on(20).await;
        }
    }
    let tally = load.stop().await;
    let failures = tally.failures.lock().clone();
    assert!(failures.is_empty(), "{failures:#?}");
    let mut wire = Wire::connect(stale.orders()).await;
    let answer = wire.get("orders", "/").await;
    assert_eq!(
        answer.status(),
        502,
        "the server is by a root that this caller does not trust: {}",
        answer.text()
    );
}

/// The caller's list changes while a connection to the server waits in its pool.
#[tokio::test]
async fn a_revoked_server_is_out_with_its_pooled_connection() {
    let (authority, app) = (Authority::new(), Backend::echo().await);
    let plan = Plan::application(app.address, "").identified(&authority, "orders");
    let certificate = String::from_utf8(plan.certificate()).expect("PEM");
    let application = plan.start().await;
    let service = format!("tls: \"{}\"", spiffe("orders"));
    let caller = Plan::calling(application.inbound(), &service).identified(&authority, "web").start().await;
    let mut wire = Wire::connect(caller.orders()).await;
    for _ in 0..3 {
        assert_eq!(wire.get("orders", "/").await.status(), 200);
    }
    let handshakes = application.scrape().await.sum("pillion_tls_handshakes_total", &[("outcome", "ok")]);
    assert_eq!(handshakes, 1.0, "the connection is pooled");
    std::fs::write(caller.directory().join("certs/ca.crl"), authority.revoking(&certificate))
        .expect("a file");
    let began = Instant::now();
    let answer = eventually("the refusal", async || {
        let answer = wire.get("orders", "/").await;
        (answer.status() != 200).then_some(answer)
    })
    .await;
    println!("the revoked server was out after {:.1?}", began.elapsed());
    assert!(answer.status() == 502 && answer.text().contains("revoked"), "{}", answer.text());
    let hits = app.requests().len();
    for _ in 0..3 {
        assert_eq!(Wire::connect(caller.orders()).await.get("orders", "/").await.status(), 502);
    }
    assert_eq!(app.requests().len(), hits, "no session is resumed either");
}
