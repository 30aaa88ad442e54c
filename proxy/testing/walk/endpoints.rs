//! Keys that say where a service is.

use std::net::SocketAddr;

use hickory_resolver::proto::rr::RecordType;
use serde_json::json;

use super::super::backend::OK;
use super::super::kubernetes;
use super::super::mesh::{A, B, Mesh, Watch, secs};
use super::key::caller;
use super::sides::listens;
use super::upstream::{BY_A, BY_B, GET, answer_to, send};
use super::{Key, Row, shows};
use crate::app::DnsSource;
use pillion_testkit::Scratch;
use pillion_upstream::cluster::update::EndpointSource as _;
use pillion_upstream::discovery::testing::{DnsServer, Script};
use pillion_upstream::discovery::{Files, Resolver};

pub(super) fn rows() -> Vec<Row> {
    let key = |key: &str| format!("services.*.{key}");
    vec![
        shows(key("hosts"), ["orders", "[\"shop\", \"*.shop\"]"], answer_for_orders),
        shows(key("addresses"), ["10.96.0.10:80", "[\"10.97.0.0/16\"]"], result_for_an_address),
        shows(key("listen"), ["10.9.0.1:1", "[\"10.9.0.2:1\"]"], listens),
        shows(key("endpoints"), ["[\"10.0.0.1:80\"]", "[\"10.0.0.2:80\"]"], who_answers),
        shows(key("endpoints[].address"), ["10.0.0.1:80", "10.0.0.2:80"], who_answers),
        shows(key("endpoints[].weight"), ["1", "9"], how_often_the_first),
        shows(key("endpoints[].zone"), ["a", "b"], who_answers_in_zone_a),
        shows(key("endpoints[].priority"), ["0", "2"], who_answers_before_priority_1),
        shows(key("endpoints.dns"), ["a.test:80", "b.test:80"], owner_of_the_name),
        shows(key("endpoints.srv"), ["_http._tcp.a.test", "_http._tcp.b.test"], target_of_the_srv_record),
        shows(key("endpoints.kubernetes"), ["a.shop:80", "b.shop:80"], addresses_in_kubernetes),
        shows(key("endpoints.port"), ["15006", "15007"], addresses_in_kubernetes),
        shows(key("endpoints.refresh"), ["5s", "60s"], when_a_change_is_learnt),
    ]
}

async fn answer_for_orders(key: Key) -> String {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A] }));
    answer_to(&mut sidecar.client().await, GET).await
}

async fn result_for_an_address(key: Key) -> String {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A] }));
    let mut client = sidecar.redirected("10.96.0.10:80").await;
    answer_to(&mut client, "GET / HTTP/1.1\r\nhost: 10.96.0.10\r\n\r\n").await
}

async fn who_answers(key: Key) -> String {
    let mesh = Mesh::default();
    let (_a, _b) = (mesh.answering(A, BY_A), mesh.answering(B, BY_B));
    let sidecar = key.caller(&mesh, json!({}));
    answer_to(&mut sidecar.client().await, GET).await
}

async fn who_answers_in_zone_a(key: Key) -> String {
    let mesh = Mesh::default();
    let (a, _b) = (mesh.answering(A, BY_A), mesh.answering(B, BY_B));
    let endpoints = json!([{ "address": A }, { "address": B, "zone": "c" }]);
    let mut file = caller(json!({ "endpoints": endpoints, "load_balancer": "round_robin" }));
    file["workload"] = json!({ "zone": "a" });
    let sidecar = key.start(&mesh, file, None);
    send(&sidecar, 20).await;
    format!("{} of 20", a.hits())
}

async fn who_answers_before_priority_1(key: Key) -> String {
    let mesh = Mesh::default();
    let (a, _b) = (mesh.answering(A, BY_A), mesh.answering(B, BY_B));
    let endpoints = json!([{ "address": A }, { "address": B, "priority": 1 }]);
    let sidecar = key.caller(&mesh, json!({ "endpoints": endpoints }));
    send(&sidecar, 20).await;
    format!("{} of 20", a.hits())
}

async fn how_often_the_first(key: Key) -> String {
    let mesh = Mesh::default();
    let (a, _b) = (mesh.answering(A, BY_A), mesh.answering(B, BY_B));
    let endpoints = json!([{ "address": A }, { "address": B }]);
    let sidecar = key.caller(&mesh, json!({ "endpoints": endpoints, "load_balancer": "round_robin" }));
    send(&sidecar, 20).await;
    format!("{} of 20", a.hits())
}

/// A sidecar with a hosts file. Returns which server answers, and after how many steps of ten seconds the file's next
/// content is used.
async fn by_hosts_file(key: Key, hosts: [&str; 2]) -> (String, u64) {
    let mesh = Mesh::default();
    let (_a, _b) = (mesh.answering(A, BY_A), mesh.answering(B, BY_B));
    let scratch = Scratch::new();
    let files =
        Files { resolv_conf: scratch.path("none"), hosts: scratch.write("hosts", hosts[0]), port: 53 };
    let sidecar = key.caller(&mesh, json!({ "endpoints": { "dns": "a.test:80" } }));
    let mut names = DnsSource::of(Resolver::of(files));
    names.follow(sidecar.controller.config());
    names.first(&sidecar.controller).await;
    let mut client = sidecar.client().await;
    let first = client.get("/").await.body;
    scratch.write("hosts", hosts[1]);
    let watch = Watch::start();
    while client.get("/").await.body == first && watch.seconds() < 200 {
        let news = tokio::time::timeout(secs(10), names.next()).await;
        if let Ok(Some(update)) = news {
            sidecar.controller.learn(update);
        }
    }
    (first, watch.seconds() / 20)
}

async fn owner_of_the_name(key: Key) -> String {
    let hosts = "10.0.0.1 a.test\n10.0.0.2 b.test\n";
    by_hosts_file(key, [hosts, "10.0.0.2 a.test\n10.0.0.1 b.test\n"]).await.0
}

/// A real DNS server answers, so the clock must run.
async fn target_of_the_srv_record(key: Key) -> String {
    tokio::time::resume();
    let server = DnsServer::start().await;
    for (name, target, address) in [("a", "one.test.", A), ("b", "two.test.", B)] {
        let address: SocketAddr = address.parse().expect("an address");
        let record = Script::Services(vec![(0, 1, address.port(), target)]);
        server.say_of(&format!("_http._tcp.{name}.test."), RecordType::SRV, record);
        server.say(target, &Script::Records(vec![address.ip()]));
    }
    let mesh = Mesh::default();
    let (_a, _b) = (mesh.answering(A, BY_A), mesh.answering(B, BY_B));
    let sidecar = key.caller(&mesh, json!({ "endpoints": {} }));
    let (resolver, _folder) = server.resolver("", "");
    let mut names = DnsSource::of(resolver);
    names.follow(sidecar.controller.config());
    loop {
        let update = names.next().await.expect("news");
        let is_known = !update.endpoints.is_empty();
        sidecar.controller.learn(update);
        if is_known {
            break;
        }
    }
    sidecar.client().await.get("/").await.body
}

async fn addresses_in_kubernetes(key: Key) -> String {
    let mesh = Mesh::default();
    let sidecar = key.caller(&mesh, json!({ "endpoints": { "kubernetes": "a.shop:80" } }));
    kubernetes::addresses(mesh, sidecar).await.join(" ")
}

async fn when_a_change_is_learnt(key: Key) -> String {
    let (_, twenties) = by_hosts_file(key, ["10.0.0.1 a.test\n", "10.0.0.2 a.test # moved\n"]).await;
    format!("{twenties} times 20 s")
}
