//! Reloads of files that appear, change, are invalid or disappear, and of the listeners that they configure.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;

use tokio::net::TcpStream;

use crate::support::backend::{Backend, free};
use crate::support::certs::Authority;
use crate::support::eventually;
use crate::support::sidecar::{Plan, Sidecar};
use crate::support::wire::{Message, Wire};

/// A caller's sidecar; its service `orders` is an echo server.
async fn caller(app: &Backend) -> Sidecar {
    Plan::calling(app.address, "timeout: 10s").start().await
}

/// The configuration with a longer timeout.
fn changed(sidecar: &Sidecar) -> String {
    let (before, after) = ("timeout: 10s", "timeout: 20s");
    let yaml = sidecar.configuration();
    assert!(yaml.contains(before), "{yaml}");
    yaml.replace(before, after)
}

async fn is_served(wire: &mut Wire) {
    let answer = wire.get("orders", "/").await;
    assert_eq!(answer.status(), 200, "{}", answer.head);
}

async fn generation(sidecar: &Sidecar) -> f64 {
    sidecar.scrape().await.sum("pillion_config_generation", &[])
}

/// The numbers of applied, unchanged and refused reloads.
async fn reloads(sidecar: &Sidecar) -> [u32; 3] {
    let scrape = sidecar.scrape().await;
    ["applied", "unchanged", "refused"].map(|outcome| {
        let count = scrape.sum("pillion_config_reloads_total", &[("outcome", outcome)]);
        format!("{count}").parse().expect("a whole number")
    })
}

#[tokio::test]
async fn a_config_map_whose_link_is_swapped_is_reloaded_without_a_signal() {
    let app = Backend::echo().await;
    let sidecar = caller(&app).await;
    let at = |name: &str| sidecar.directory().join(name);
    for (set, yaml) in [("..1", sidecar.configuration()), ("..2", changed(&sidecar))] {
        fs::create_dir(at(set)).expect("a directory for a set");
        fs::write(at(set).join("pillion.yaml"), yaml).expect("a file of the set");
    }
    symlink("..1", at("..data")).expect("a link");
    symlink("..data/pillion.yaml", at("link")).expect("a link");
    fs::rename(at("link"), at("pillion.yaml")).expect("a link in the place of the file");
    let mut wire = Wire::connect(sidecar.orders()).await;
    is_served(&mut wire).await;

    symlink("..2", at("..data_tmp")).expect("a link");
    fs::rename(at("..data_tmp"), at("..data")).expect("a swap");
    fs::remove_dir_all(at("..1")).expect("the old set goes");
    sidecar.reloaded("applied", 0).await;
    is_served(&mut wire).await;
    assert_eq!((reloads(&sidecar).await, generation(&sidecar).await), ([1, 0, 0], 2.0));
}

#[tokio::test]
async fn a_bad_file_is_reported_and_the_old_one_stays_in_use() {
    let app = Backend::echo().await;
    let sidecar = caller(&app).await;
    let (good, mut wire) = (changed(&sidecar), Wire::connect(sidecar.orders()).await);
    is_served(&mut wire).await;
    let taken = format!("services:\n  taken: {{ listen: \"{}\", ", app.address);
    let bad = [
        (format!("{good}}}: [\n"), "pillion.yaml:"),
        (format!("{good}inbund: off\n"), "did you mean `inbound`"),
        (
            good.replace("services:\n", &format!("{taken}endpoints: [\"{}\"] }}\n", app.address)),
            "services.taken.listen",
        ),
        (good.replace("access_log: {", "access_log: { sample: 50%,"), "which takes a restart"),
    ];
    for (number, (yaml, expected)) in (0..).zip(bad) {
        sidecar.configure(&yaml);
        sidecar.signal("HUP");
        sidecar.reloaded("refused", number).await;
        is_served(&mut wire).await;
        is_served(&mut Wire::connect(sidecar.orders()).await).await;
        let is_logged = async || {
            let errors = sidecar.errors();
            (errors.contains("the old one stays") && errors.contains(expected)).then_some(())
        };
        eventually(&format!("{expected} in {}", sidecar.errors()), is_logged).await;
    }
    assert_eq!(generation(&sidecar).await, 1.0);
    sidecar.configure(&good);
    sidecar.reloaded("applied", 0).await;
    is_served(&mut wire).await;
    assert_eq!(generation(&sidecar).await, 2.0);
}

#[tokio::test]
async fn a_file_that_is_deleted_is_refused_and_one_that_comes_back_is_applied() {
    let app = Backend::echo().await;
    let sidecar = caller(&app).await;
    let (same, other) = (sidecar.configuration(), changed(&sidecar));
    let mut wire = Wire::connect(sidecar.orders()).await;
    for (round, (yaml, outcome)) in (0..).zip([(same, "unchanged"), (other, "applied")]) {
        fs::remove_file(sidecar.directory().join("pillion.yaml")).expect("its file");
        sidecar.reloaded("refused", round).await;
        is_served(&mut wire).await;
        sidecar.configure(&yaml);
        sidecar.reloaded(outcome, 0).await;
        is_served(&mut wire).await;
    }
    assert_eq!(reloads(&sidecar).await, [1, 1, 2]);
}

/// Editors, full disks and templates may leave a part of a strict sidecar's file. The test writes it in place, as they
/// do.
#[tokio::test]
async fn c1_a_strict_sidecar_whose_file_is_emptied_or_cut_stays_strict() {
    let app = Backend::echo().await;
    let sidecar = Plan::application(app.address, "").identified(&Authority::new(), "orders").start().await;
    let good = sidecar.configuration();
    let without_identity = good.replace("identity: { directory: certs }", "");
    assert_ne!(good, without_identity);
    let half = &good[..good.len() / 2];
    let cuts = ["", "\n", "# later\n", "---\n", "null\n", "\u{feff}", &without_identity, half, "identity:\n"];
    for (round, cut) in (0..).zip(cuts) {
        fs::write(sidecar.directory().join("pillion.yaml"), cut).expect("its file");
        sidecar.reloaded("refused", round).await;
        let answer = Wire::connect(sidecar.inbound()).await.get("orders", "/").await;
        assert!(answer.status() == 403 && answer.head.contains("mtls_required"), "{cut:?} {}", answer.head);
    }
    assert_eq!(app.connections(), 0);
}

#[tokio::test]
async fn c1_a_reload_that_weakens_mtls_causes_a_warning() {
    let app = Backend::echo().await;
    let sidecar = Plan::application(app.address, "").identified(&Authority::new(), "orders").start().await;
    let good = sidecar.configuration();
    apply(&sidecar, &good.replace("inbound: {", "inbound: { mtls: permissive,")).await;
    let expected = "protects less: inbound.mtls: permissive instead of strict";
    eventually("a warning", async || sidecar.errors().contains(expected).then_some(())).await;
    assert_eq!(Wire::connect(sidecar.inbound()).await.get("orders", "/").await.status(), 200);
}

#[tokio::test]
async fn a_signal_with_nothing_changed_is_an_unchanged_reload() {
    let app = Backend::echo().await;
    let sidecar = caller(&app).await;
    let mut wire = Wire::connect(sidecar.orders()).await;
    is_served(&mut wire).await;
    for before in 0..3 {
        sidecar.signal("HUP");
        sidecar.reloaded("unchanged", before).await;
    }
    is_served(&mut wire).await;
    assert_eq!((reloads(&sidecar).await, generation(&sidecar).await), ([0, 3, 0], 1.0));
    assert_eq!(app.connections(), 1, "the pool is the same");
}

/// Writes this file, and waits until it is applied.
async fn apply(sidecar: &Sidecar, yaml: &str) {
    let before = sidecar.reloads("applied").await;
    sidecar.configure(yaml);
    sidecar.signal("HUP");
    sidecar.reloaded("applied", before).await;
}

/// Waits until the address refuses connections.
async fn is_refused(address: SocketAddr) {
    let probe = async || TcpStream::connect(address).await.is_err().then_some(());
    eventually("a refused connection", probe).await;
}

#[tokio::test]
async fn a_listener_is_added_and_removed_and_its_connections_stay() {
    let app = Backend::echo().await;
    let sidecar = caller(&app).await;
    let (before, port) = (sidecar.configuration(), free());
    let service = |listen: &str| {
        let extra = format!("services:\n  extra: {{ {listen}endpoints: [\"{}\"] }}\n", app.address);
        before.replace("services:\n", &extra)
    };
    apply(&sidecar, &service(&format!("listen: \"{port}\", "))).await;
    let mut wire = Wire::connect(port).await;
    is_served(&mut wire).await;

    apply(&sidecar, &service("")).await;
    is_refused(port).await;
    is_served(&mut wire).await;

    apply(&sidecar, &service(&format!("listen: \"{port}\", "))).await;
    is_served(&mut Wire::connect(port).await).await;
    is_served(&mut wire).await;
}

#[tokio::test]
async fn c2_a_reload_that_wants_another_sidecar_s_port_is_refused() {
    let app = Backend::echo().await;
    let first = Plan::calling(app.address, "").with("workers: 2").start().await;
    let second = Plan::calling(app.address, "").with("workers: 2").start().await;
    let (good, taken) = (second.configuration(), first.orders().to_string());
    second.configure(
        &good.replace("orders: { listen: 127.0.0.1:0", &format!("orders: {{ listen: \"{taken}\"")),
    );
    second.signal("HUP");
    second.reloaded("refused", 0).await;
    let is_logged = async || second.errors().contains(&format!("cannot listen on {taken}")).then_some(());
    eventually("the refusal", is_logged).await;
    assert_eq!(generation(&second).await, 1.0);
    is_served(&mut Wire::connect(second.orders()).await).await;
}

/// The sidecar's own listeners do not block each other: one may take an address that another one holds.
#[tokio::test]
async fn c2_a_reload_may_narrow_an_address_that_the_sidecar_itself_holds() {
    let app = Backend::echo().await;
    let port = free().port();
    let sidecar = Plan::calling(app.address, "").with("workers: 2").start().await;
    let file = |listen: &str| {
        sidecar
            .configuration()
            .replace("orders: { listen: 127.0.0.1:0", &format!("orders: {{ listen: {listen}"))
    };
    apply(&sidecar, &file(&format!("\"0.0.0.0:{port}\""))).await;
    is_served(&mut Wire::connect(([127, 0, 0, 1], port).into()).await).await;
    let narrow = sidecar.configuration().replace("\"0.0.0.0:", "\"127.0.0.1:");
    apply(&sidecar, &narrow).await;
    is_served(&mut Wire::connect(([127, 0, 0, 1], port).into()).await).await;
}

#[tokio::test]
async fn connections_to_the_port_of_a_removed_service_get_an_error() {
    let app = Backend::echo().await;
    let sidecar = caller(&app).await;
    let (before, port) = (sidecar.configuration(), free());
    let extra = format!("services:\n  extra: {{ listen: \"{port}\", endpoints: [\"{}\"] }}\n", app.address);
    apply(&sidecar, &before.replace("services:\n", &extra)).await;
    let mut wire = Wire::connect(port).await;
    is_served(&mut wire).await;
    apply(&sidecar, &before).await;
    is_refused(port).await;
    let answer = wire.get("orders", "/").await;
    assert_eq!((answer.status(), code(&answer)), (404, Some("no_route".to_owned())), "{}", answer.head);
}

/// The code in `Proxy-Status`.
fn code(answer: &Message) -> Option<String> {
    let (_, details) = answer.header("proxy-status")?.split_once("details=\"")?;
    Some(details.split_once(':')?.0.to_owned())
}

#[tokio::test]
async fn a_service_that_is_renamed_serves_on_at_its_port_under_the_new_name() {
    let app = Backend::echo().await;
    let sidecar = caller(&app).await;
    let port = free();
    let before = sidecar
        .configuration()
        .replace("orders: { listen: 127.0.0.1:0", &format!("orders: {{ listen: \"{port}\""));
    apply(&sidecar, &before).await;
    let mut wire = Wire::connect(port).await;
    is_served(&mut wire).await;

    apply(&sidecar, &before.replace("orders:", "purchases:")).await;
    is_served(&mut Wire::connect(port).await).await;
    sidecar.counted(1, &[("service", "purchases"), ("status", "200")]).await;
    let mut by_host = Wire::connect(sidecar.outbound()).await;
    let answer = by_host.get("purchases", "/").await;
    assert_eq!(answer.status(), 200, "{}", answer.head);
    assert_eq!(by_host.get("orders", "/").await.status(), 404, "no service has this name any more");
    let answer = wire.get("orders", "/").await; // accepted under the old name, which the connection keeps
    assert_eq!((answer.status(), code(&answer)), (404, Some("no_route".to_owned())), "{}", answer.head);
}

#[tokio::test]
async fn a_removed_endpoint_keeps_requests_under_way_and_no_idle_connection() {
    let (leaves, stays) = (Backend::echo().await, Backend::echo().await);
    let sidecar = caller(&leaves).await;
    let mut under_way = Wire::connect(sidecar.orders()).await;
    under_way.send("POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 4\r\n\r\nbo").await;
    eventually("the begun request", async || (leaves.connections() == 1).then_some(())).await;
    is_served(&mut Wire::connect(sidecar.orders()).await).await;
    assert_eq!(leaves.connections(), 2);

    let yaml = sidecar.configuration();
    apply(&sidecar, &yaml.replace(&leaves.address.to_string(), &stays.address.to_string())).await;
    leaves.has_ended(1).await;
    let answer = under_way.ask("dy").await;
    assert_eq!((answer.status(), answer.text().as_str()), (200, "body"), "{}", answer.head);
    leaves.has_ended(2).await;
    is_served(&mut under_way).await;
    assert_eq!((leaves.connections(), stays.connections()), (2, 1));
}
