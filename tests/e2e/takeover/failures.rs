//! A takeover that does not succeed leaves the former sidecar serving as before.

use std::process::Command;

use crate::support::backend::Backend;
use crate::support::certs::Authority;
use crate::support::eventually;
use crate::support::sidecar::{Plan, Sidecar, Starting};
use crate::support::tools::available;
use crate::support::wire::Wire;

async fn former(app: &Backend) -> Sidecar {
    let plan = Plan::calling(app.address, "protocol: http1, tls: off");
    plan.with("drain: { delay: 0s, timeout: 10s }").with_takeover().start().await
}

/// It accepts and answers, on a connection that stays open, and it would hand over to another successor.
async fn serves(sidecar: &Sidecar) {
    for address in [sidecar.outbound(), sidecar.orders()] {
        let answer = Wire::connect(address).await.ask("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
        assert_eq!((answer.status(), answer.header("connection")), (200, None), "{}", answer.head);
    }
    assert_eq!(sidecar.page("/ready").await.0, 200);
}

#[tokio::test]
async fn a_bad_file_and_an_address_in_use_end_the_new_one_alone() {
    let app = Backend::echo().await;
    let mut former = former(&app).await;
    let good = former.configuration();
    let taken = format!("  taken: {{ listen: \"{}\", endpoints: [\"{}\"] }}\n", app.address, app.address);
    for (yaml, why) in [
        (format!("{good}inbund: off\n"), "inbund"),
        (
            good.replace("services:\n", &format!("services:\n{taken}")),
            "services.taken.listen: cannot listen on",
        ),
    ] {
        former.configure(&yaml);
        let (code, log) = former.succeed_by(None).refused().await;
        assert_eq!(code, Some(1), "{log}");
        assert!(log.contains(why), "{log}");
        serves(&former).await;
    }
    former.configure(&good);
    let successor = former.successor().await;
    assert_eq!(former.exit().await.code(), Some(0));
    serves(&successor).await;
}

/// A successor that waits for its certificates. One that comes before the end of another one is noticed is refused.
async fn next_that_waits(former: &Sidecar) -> Starting {
    eventually("a successor waits", async || {
        let successor = former.succeed_by(None);
        match successor.has_said_one_of(["not ready yet", "another takeover is under way"]).await {
            0 => Some(successor),
            _refused => None,
        }
    })
    .await
}

/// The new one waits for its certificates, and has copies of all listeners meanwhile.
#[tokio::test]
async fn a_successor_that_is_killed_before_it_is_ready_changes_nothing_and_only_one_may_get_ready() {
    let (app, authority) = (Backend::echo().await, Authority::new());
    let mut former = former(&app).await;
    let yaml = former.configuration();
    former.configure(&(yaml.clone() + "identity: { directory: later }\n"));
    for signal in ["KILL", "TERM"] {
        let waits = next_that_waits(&former).await;
        let (code, log) = former.succeed_by(None).refused().await;
        assert_eq!(code, Some(1));
        assert!(log.contains("serves on: another takeover is under way"), "{log}");
        serves(&former).await;
        waits.signal(signal);
        waits.refused().await;
        serves(&former).await;
    }
    let waits = next_that_waits(&former).await;
    authority.issue_into(&former.directory().join("later"), "web");
    let successor = waits.ready().await;
    assert_eq!(former.exit().await.code(), Some(0));
    assert_eq!(successor.page("/ready").await.0, 200);
}

#[tokio::test]
async fn a_successor_serves_in_the_place_of_one_that_died_or_was_told_to_end() {
    for signal in ["KILL", "TERM"] {
        let (app, authority) = (Backend::echo().await, Authority::new());
        let mut former = former(&app).await;
        let yaml = former.configuration();
        former.configure(&(yaml.clone() + "identity: { directory: later }\n"));
        let waits = former.succeed_by(None);
        waits.has_said("not ready yet").await;
        former.signal(signal);
        former.exit().await;
        let early = tokio::net::TcpStream::connect(former.orders()).await.expect("the socket still listens");
        authority.issue_into(&former.directory().join("later"), "web");
        let successor = waits.ready().await;
        let answer = Wire::new(early).ask("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
        assert_eq!(answer.status(), 200, "{}", answer.head);
        serves(&successor).await;
        let next = successor.successor().await;
        serves(&next).await;
    }
}

/// Standard output is a full device for the successor, which then serves all the same.
#[tokio::test]
async fn a_successor_whose_ready_line_cannot_be_written_serves_on() {
    let app = Backend::echo().await;
    let mut former = former(&app).await;
    let mut full = Command::new("sh");
    full.args(["-c", "exec \"$0\" \"$@\" >/dev/full"]);
    let successor = former.succeed_by(Some(full));
    successor.has_said("the ready line cannot be written").await;
    assert_eq!(former.exit().await.code(), Some(0));
    serves(&former).await; // at the addresses of the former one
}

#[tokio::test]
async fn another_user_gets_no_listener() {
    if !available("root", std::fs::read_dir("/root").is_ok()) {
        return;
    }
    let app = Backend::echo().await;
    let former = former(&app).await;
    let mut nobody = Command::new("setpriv");
    nobody.args(["--reuid", "65534", "--clear-groups"]);
    let (code, log) = former.succeed_by(Some(nobody)).refused().await;
    assert_eq!(code, Some(1));
    assert!(log.contains("cannot ask the sidecar at"), "{log}");
    serves(&former).await;
}
