//! Keys of `routes`, except `retry`, which a service has as well.

use serde_json::{Value, json};

use super::super::mesh::{A, B, Mesh, Sidecar, Watch, settle};
use super::upstream::{BY_A, BY_B, GET, answer_to, time_without_answer};
use super::{Key, Row, key, only, shows};

pub(super) fn rows() -> Vec<Row> {
    let path = |key: &str| format!("routes[].{key}");
    vec![
        shows("routes", ["off", "[{ \"hosts\": [\"orders\"], \"to\": \"other\" }]"], who_answers),
        shows(path("name"), ["one", "two"], the_label_of_a_route),
        shows(path("hosts"), ["orders", "[\"other\"]"], who_answers),
        shows(path("match.path.exact"), ["/v2/x", "/v2"], who_answers),
        shows(path("match.path.prefix"), ["/v2", "/v3"], who_answers),
        shows(path("match.path.regex"), ["/v[0-9]/x", "/v[0-9]"], who_answers),
        shows(path("match.methods"), ["GET", "[\"PUT\", \"POST\"]"], who_answers),
        shows(path("match.headers.*"), ["jo-ann", "jo"], who_answers),
        shows(path("match.headers.*.exact"), ["jo-ann", "jo"], who_answers),
        shows(path("match.headers.*.prefix"), ["jo", "ann"], who_answers),
        shows(path("match.headers.*.regex"), ["jo-.*", "jo"], who_answers),
        shows(path("match.headers.*.present"), ["true", "false"], who_answers),
        shows(path("match.query.*"), ["1%2", "1"], who_answers),
        shows(path("match.query.*.exact"), ["1%2", "1"], who_answers),
        shows(path("match.query.*.prefix"), ["1", "2"], who_answers),
        shows(path("match.query.*.regex"), ["1.2", "1"], who_answers),
        shows(path("match.query.*.present"), ["true", "false"], who_answers),
        shows(path("to"), ["orders", "[\"other\"]"], who_answers),
        shows(path("to.service"), ["orders", "other"], who_answers),
        only(path("to.weight"), "1", "0"), // of one service alone a weight says nothing
        shows(path("to[].service"), ["orders", "other"], who_answers),
        shows(path("to[].weight"), ["0", "1000000"], whether_the_first_of_two_has_some),
        shows(path("timeout"), ["3s", "5s"], time_without_answer),
        shows(path("mirror"), ["off", "{ \"service\": \"other\" }"], both_sides),
        shows(path("mirror.service"), ["orders", "other"], both_sides),
        shows(path("mirror.share"), ["0%", "100%"], both_sides),
        shows(path("fault"), ["off", "{ \"abort\": { \"status\": 500 } }"], both_sides),
        shows(path("fault.delay"), ["off", "{ \"time\": \"1s\" }"], both_sides),
        shows(path("fault.delay.time"), ["1s", "2s"], both_sides),
        shows(path("fault.delay.share"), ["0%", "100%"], both_sides),
        shows(path("fault.abort"), ["off", "{ \"status\": 500 }"], both_sides),
        shows(path("fault.abort.status"), ["500", "501"], both_sides),
        shows(path("fault.abort.grpc"), ["NOT_FOUND", "internal"], both_sides),
        shows(path("fault.abort.share"), ["0%", "100%"], both_sides),
        shows(path("rewrite.prefix"), ["/a", "/b"], both_sides),
        shows(path("rewrite.host"), ["a", "b:80"], both_sides),
        shows(path("redirect.path"), ["/a", "/b"], both_sides),
        shows(path("redirect.host"), ["a", "b:80"], both_sides),
        shows(path("redirect.scheme"), ["http", "https"], both_sides),
        shows(path("redirect.status"), ["301", "308"], both_sides),
        shows(path("respond.status"), ["200", "201"], both_sides),
        shows(path("respond.body"), ["a", "b"], both_sides),
        shows(path("request_headers.set.*"), ["a", "b"], both_sides),
        shows(path("request_headers.add.*"), ["a", "b"], both_sides),
        shows(path("request_headers.remove"), ["x-test", "[\"x-other\"]"], both_sides),
        shows(path("response_headers.set.*"), ["a", "b"], both_sides),
        shows(path("response_headers.add.*"), ["a", "b"], both_sides),
        shows(path("response_headers.remove"), ["content-type", "[\"x-other\"]"], both_sides),
        shows(path("rate_limit"), ["off", "{ \"requests\": 1 }"], three_at_once),
        shows(path("rate_limit.requests"), ["1", "2"], three_at_once),
        shows(path("rate_limit.per"), ["10s", "20s"], three_at_once),
        shows(path("rate_limit.burst"), ["1", "2"], three_at_once),
    ]
}

/// A route as the key is in: with what else it needs.
fn route_for(key: &Key) -> Value {
    let mut route = json!({ "hosts": ["orders"] });
    if key.path.contains("redirect") {
        route["redirect"] = if key.path.ends_with("status") { json!({ "path": "/new" }) } else { json!({}) };
    } else if key.path.contains("respond.") {
        route["respond"] = json!({ "status": 200 });
    } else {
        route["to"] = "orders".into();
    }
    match key.path.trim_start_matches("routes[].") {
        "mirror.share" => route["mirror"] = json!({ "service": "other" }),
        "fault.delay.share" => route["fault"] = json!({ "delay": { "time": "2s" } }),
        "fault.abort.share" => route["fault"] = json!({ "abort": { "status": 500 } }),
        limit if limit.starts_with("rate_limit.") => route["rate_limit"] = json!({ "requests": 1 }),
        _ => {}
    }
    route
}

/// The answer to the caller and the requests that services get, without the parts that differ each time.
async fn both_sides(key: Key) -> String {
    let mesh = Mesh::default();
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: text/plain\r\n\r\nok";
    let (a, b) = (mesh.answering(A, answer), mesh.answering(B, BY_B));
    let sidecar = two_services(&key, &mesh, route_for(&key));
    let (mut client, watch) = (sidecar.client().await, Watch::start());
    let answer = client.ask("GET /x HTTP/1.1\r\nhost: orders\r\nx-test: 1\r\n\r\n").await;
    let took = watch.seconds();
    settle().await;
    let same = |head: &str| {
        head.lines().filter(|line| !line.starts_with("x-request-id")).collect::<Vec<_>>().join("|")
    };
    let asked: Vec<String> =
        a.requests().iter().chain(&b.requests()).map(|asked| same(&asked.head)).collect();
    format!("{} {} after {took} s; {asked:?} {}", same(&answer.head), answer.body, b.hits())
}

pub(super) async fn three_at_once(key: Key) -> String {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, BY_A);
    let sidecar = match key.path.starts_with("inbound") {
        true => key.application(&mesh, json!({ "app": A, "rate_limit": { "requests": 1 } })),
        false => two_services(&key, &mesh, route_for(&key)),
    };
    let mut client = sidecar.client().await;
    let mut answers = Vec::new();
    for _ in 0..3 {
        let answer = client.get("/").await;
        answers.push(format!("{:?} {:?}", answer.status(), answer.header("retry-after")));
    }
    answers.join(", ")
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
    answer_to(
        &mut sidecar.client().await,
        "GET /v2/x?x-test=1%2 HTTP/1.1\r\nhost: orders\r\nx-test: jo-ann\r\n\r\n",
    )
    .await
}

async fn the_label_of_a_route(key: Key) -> String {
    let mesh = Mesh::default();
    let _b = mesh.answering(B, BY_B);
    let sidecar = two_services(&key, &mesh, json!({ "hosts": ["orders"], "to": "other" }));
    answer_to(&mut sidecar.client().await, GET).await;
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
