//! Keys of `routes`, but for `retry`, which a service has too.

use serde_json::{Value, json};

use super::super::mesh::{A, B, Mesh, Sidecar};
use super::upstream::{BY_A, BY_B, GET, time_without_answer, told};
use super::{Key, Row, key, only, shows};

pub(super) fn rows() -> Vec<Row> {
    let path = |key: &str| format!("routes[].{key}");
    vec![
        shows("routes", ["off", "[{ \"hosts\": [\"orders\"], \"to\": \"other\" }]"], who_answers),
        shows(path("name"), ["one", "two"], the_label_of_a_route),
        shows(path("hosts"), ["orders", "[\"other\"]"], who_answers),
        shows(path("match.path.exact"), ["/v2/x", "/v2"], who_answers),
        shows(path("match.path.prefix"), ["/v2", "/v3"], who_answers),
        shows(path("match.methods"), ["GET", "[\"PUT\", \"POST\"]"], who_answers),
        shows(path("match.headers.*"), ["jo-ann", "jo"], who_answers),
        shows(path("match.headers.*.exact"), ["jo-ann", "jo"], who_answers),
        shows(path("match.headers.*.prefix"), ["jo", "ann"], who_answers),
        shows(path("match.headers.*.present"), ["true", "false"], who_answers),
        shows(path("to"), ["orders", "[\"other\"]"], who_answers),
        shows(path("to.service"), ["orders", "other"], who_answers),
        only(path("to.weight"), "1", "0"), // of one service alone a weight says nothing
        shows(path("to[].service"), ["orders", "other"], who_answers),
        shows(path("to[].weight"), ["0", "1000000"], whether_the_first_of_two_has_some),
        shows(path("timeout"), ["3s", "5s"], time_without_answer),
    ]
}

fn two_services(key: &Key, mesh: &Mesh, route: Value) -> Sidecar {
    let mut file = key::caller(json!({ "endpoints": [A] }));
    file["services"]["other"] = json!({ "endpoints": [B] });
    file["routes"] = json!([route]);
    key.start(mesh, file, None)
}

async fn who_answers(key: Key) -> String {
    let mesh = Mesh::default();
    let (_a, _b) = (mesh.answering(A, BY_A), mesh.answering(B, BY_B));
    let sidecar = two_services(&key, &mesh, json!({ "hosts": ["orders"], "to": "other" }));
    told(&mut sidecar.client().await, "GET /v2/x HTTP/1.1\r\nhost: orders\r\nx-test: jo-ann\r\n\r\n").await
}

async fn the_label_of_a_route(key: Key) -> String {
    let mesh = Mesh::default();
    let _b = mesh.answering(B, BY_B);
    let sidecar = two_services(&key, &mesh, json!({ "hosts": ["orders"], "to": "other" }));
    told(&mut sidecar.client().await, GET).await;
    format!("{} of one", sidecar.sum("pillion_requests_total route=one"))
}

async fn whether_the_first_of_two_has_some(key: Key) -> String {
    let mesh = Mesh::default();
    let (a, _b) = (mesh.answering(A, BY_A), mesh.answering(B, BY_B));
    let to = json!([{ "service": "orders" }, { "service": "other" }]);
    let sidecar = two_services(&key, &mesh, json!({ "hosts": ["orders"], "to": to }));
    let mut client = sidecar.client().await;
    for _ in 0..20 {
        client.get("/").await;
    }
    format!("{}", a.hits() > 0)
}
