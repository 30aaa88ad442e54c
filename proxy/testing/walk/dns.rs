//! Keys of the DNS proxy. The in-memory network has no datagrams, so the questions use TCP.

use serde_json::{Value, json};

use super::super::dns::{ask, name_server};
use super::super::mesh::{A, Mesh, at};
use super::{Key, Row, key, shows};

pub(super) fn rows() -> Vec<Row> {
    vec![
        shows("dns", ["off", "{ \"upstream\": \"10.0.0.8:53\" }"], answers),
        shows("dns.listen", ["10.9.0.1:1", "[\"10.9.0.2:1\"]"], answers),
        shows("dns.upstream", ["10.0.0.8:53", "[\"10.0.0.9:53\"]"], answers),
        shows("dns.virtual_addresses", ["on", "off"], answers),
    ]
}

/// The answers of each listener for a service's name and for another name.
async fn answers(key: Key) -> String {
    let mesh = Mesh::default();
    name_server(&mesh, "10.0.0.8:53", "192.0.2.8");
    name_server(&mesh, "10.0.0.9:53", "192.0.2.9");
    let mut file: Value = key::caller(json!({ "endpoints": [A] }));
    if key.path != "dns" {
        file["dns"] = json!({ "listen": "127.0.0.1:15053", "upstream": "10.0.0.8:53" });
    }
    let sidecar = key.start(&mesh, file, None);
    let mut answers = Vec::new();
    for place in ["10.9.0.1:1", "10.9.0.2:1", "127.0.0.1:15053"] {
        if mesh.memory.connect(at(place)).await.is_ok() {
            let of = |name: &'static str| ask(&mesh, place, name);
            answers.push(format!("{place}: {} {}", of("orders.").await, of("other.").await));
        }
    }
    format!("{answers:?} of {}", sidecar.addresses)
}
