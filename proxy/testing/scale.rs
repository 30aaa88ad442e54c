//! What a change costs with many services: it touches only what it concerns.

use std::sync::Arc;

use pillion_model::{Endpoint, EndpointUpdate};

use super::backend::OK;
use super::mesh::{A, B, C, Mesh, Sidecar, at, caller, pass, settle};
use super::peer::Peer;
use pillion_sidecar::state::{Route, Snapshot};
use pillion_upstream::cluster::endpoint::Endpoint as Served;
use pillion_upstream::cluster::set::EndpointSet;

/// `orders` and a hundred other services.
fn many(orders: &str) -> String {
    let others =
        (0..100).map(|nth| format!("  other-{nth}: {{ endpoints: [10.9.{nth}.1:80, 10.9.{nth}.2:80] }}\n"));
    others.fold(caller(orders), |text, line| text + &line)
}

fn snapshot(sidecar: &Sidecar) -> Arc<Snapshot> {
    sidecar.controller.store().load_full()
}

fn route(sidecar: &Sidecar, service: &str) -> Arc<Route> {
    snapshot(sidecar).services.get(service).expect("a service of this name").clone()
}

fn endpoints(sidecar: &Sidecar, service: &str) -> Arc<EndpointSet> {
    Arc::clone(&route(sidecar, service).cluster.endpoints())
}

fn endpoint(set: &EndpointSet, address: &str) -> Arc<Served> {
    set.all.iter().find(|endpoint| endpoint.address == at(address)).expect("an endpoint there").clone()
}

fn update(addresses: &[&str]) -> EndpointUpdate {
    EndpointUpdate::known("orders", addresses.iter().map(|address| Endpoint::at(at(address))))
}

#[tokio::test(start_paused = true)]
async fn c18_an_endpoint_update_replaces_one_set_and_nothing_else() {
    let mesh = Mesh::default();
    let sidecar = mesh.sidecar(&many("endpoints: { dns: \"orders:80\" }"), None);
    sidecar.controller.learn(update(&[A, B]));
    let (before, set) = (snapshot(&sidecar), endpoints(&sidecar, "orders"));
    let others: Vec<_> = (0..100).map(|nth| endpoints(&sidecar, &format!("other-{nth}"))).collect();

    sidecar.controller.learn(update(&[B, C]));
    assert!(Arc::ptr_eq(&before, &snapshot(&sidecar)), "hosts, addresses and routes are the very same");
    let next = endpoints(&sidecar, "orders");
    assert!(!Arc::ptr_eq(&set, &next));
    assert!(
        Arc::ptr_eq(&endpoint(&set, B), &endpoint(&next, B)),
        "an endpoint that remains keeps its pool, its load and its health"
    );
    for (nth, other) in others.iter().enumerate() {
        assert!(Arc::ptr_eq(other, &endpoints(&sidecar, &format!("other-{nth}"))));
    }

    sidecar.controller.learn(update(&[B, C]));
    assert!(Arc::ptr_eq(&next, &endpoints(&sidecar, "orders")), "an equal update changes nothing");
}

#[tokio::test(start_paused = true)]
async fn c18_an_endpoint_that_leaves_by_an_update_finishes_what_it_has_begun() {
    let mesh = Mesh::default();
    let a = mesh.scripted(A, |mut peer: Peer, _| async move {
        while peer.message().await.is_some() {
            pass(5).await;
            drop(peer.try_send(OK).await);
        }
    });
    let b = mesh.answering(B, OK);
    let sidecar = mesh.sidecar(&many("endpoints: { dns: \"orders:80\" }"), None);
    sidecar.controller.learn(update(&[A]));
    let (mut early, mut late) = (sidecar.client().await, sidecar.client().await);
    early.send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
    settle().await;
    sidecar.controller.learn(update(&[B]));
    assert_eq!(late.get("/").await.body, "ok");
    assert_eq!((a.hits(), b.hits()), (1, 1), "it gets no new request");
    assert_eq!(sidecar.sum("pillion_endpoints service=orders state=draining"), 1);
    assert_eq!(early.answer().await.body, "ok");
    settle().await;
    assert_eq!(sidecar.sum("pillion_endpoints service=orders state=draining"), 0, "it is no longer busy");
    pass(2).await;
    assert_eq!((a.open(), b.open()), (0, 1), "and its connections are closed when they are idle");
}

#[tokio::test(start_paused = true)]
async fn c18_an_update_carries_the_properties_of_each_endpoint() {
    use pillion_model::endpoint::Health;
    use pillion_upstream::cluster::balance::Candidate as _;

    let mesh = Mesh::default();
    let sidecar = mesh.sidecar(&many("endpoints: { dns: \"orders:80\" }"), None);
    let said = Endpoint {
        weight: 3.try_into().expect("not zero"),
        zone: Some("a".into()),
        priority: 1,
        health: Health::Draining,
        metadata: Some(Arc::new([("version".to_owned(), "2".to_owned())].into())),
        ..Endpoint::at(at(A))
    };
    sidecar.controller.learn(EndpointUpdate::known("orders", [said.clone()]));
    let set = endpoints(&sidecar, "orders");
    assert_eq!(set.said.endpoints[..], [said]);
    assert_eq!(endpoint(&set, A).weight().get(), 3);
}

#[tokio::test(start_paused = true)]
async fn c18_a_reload_that_changes_one_service_leaves_the_clusters_of_all_others() {
    let mesh = Mesh::default();
    let mut sidecar = mesh.sidecar(&many("endpoints: [10.0.0.1:80]"), None);
    let others: Vec<_> = (0..100).map(|nth| route(&sidecar, &format!("other-{nth}"))).collect();
    let (orders, set) = (route(&sidecar, "orders"), endpoints(&sidecar, "orders"));
    sidecar.reload(&many("endpoints: [10.0.0.1:80, 10.0.0.2:80], timeout: 3s")).expect("a good file");
    assert!(!Arc::ptr_eq(&orders.cluster, &route(&sidecar, "orders").cluster));
    assert!(Arc::ptr_eq(&endpoint(&set, A), &endpoint(&endpoints(&sidecar, "orders"), A)));
    for (nth, other) in others.iter().enumerate() {
        assert!(Arc::ptr_eq(other, &route(&sidecar, &format!("other-{nth}"))));
    }
}

#[tokio::test(start_paused = true)]
async fn c18_only_used_endpoints_have_a_pool_that_is_swept() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let sidecar = mesh.sidecar(&many("endpoints: [10.0.0.1:80]"), None);
    let pools = &sidecar.controller.store().pools;
    assert_eq!(pools.count(), 0);
    let mut clients = [sidecar.client().await, sidecar.client().await];
    for client in &mut clients {
        assert_eq!(client.get("/").await.body, "ok");
    }
    assert_eq!(pools.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn c18_a_snapshot_that_is_still_read_is_freed_by_the_task_that_replaced_it() {
    let mesh = Mesh::default();
    let mut sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let read = snapshot(&sidecar);
    sidecar.reload(&caller("endpoints: [10.0.0.2:80]")).expect("a good file");
    let alive = Arc::downgrade(&read);
    drop(read);
    assert!(alive.upgrade().is_some(), "its last reader frees nothing");
    sidecar.controller.free_former();
    assert!(alive.upgrade().is_none());
}

#[tokio::test(start_paused = true)]
async fn an_address_that_is_listed_twice_has_two_endpoints() {
    let one = at(A);
    let mesh = Mesh::default();
    let sidecar = mesh.sidecar(&many("endpoints: { dns: \"orders:80\" }"), None);
    sidecar.controller.learn(EndpointUpdate::known("orders", [Endpoint::at(one), Endpoint::at(one)]));
    let set = endpoints(&sidecar, "orders");
    assert_eq!(set.all.len(), 2);
    assert_ne!(set.all[0].id, set.all[1].id);
    sidecar.controller.learn(EndpointUpdate::known("orders", [Endpoint::at(one)]));
    let next = endpoints(&sidecar, "orders");
    assert_eq!(next.all.len(), 1);
    assert!(Arc::ptr_eq(&next.all[0], &set.all[0]));
}

#[tokio::test(start_paused = true)]
async fn c18_services_that_no_route_names_share_the_rules_of_all_hosts() {
    let routes = "routes:\n  - { hosts: [\"*\"], match: { path: { prefix: /a } }, to: orders }\n  - { hosts: [other-7], to: orders }\n";
    let sidecar = Mesh::default().sidecar(&(many("endpoints: [10.0.0.1:80]") + routes), None);
    let rules = |service: &str| route(&sidecar, service).rules.clone();
    assert!(Arc::ptr_eq(&rules("other-1"), &rules("other-99")));
    assert_eq!((rules("other-1").all().len(), rules("other-7").all().len()), (1, 2));
    assert!(
        Arc::ptr_eq(&rules("other-1").all()[0], &rules("other-7").all()[0]),
        "each route is compiled once"
    );
}
