//! Balancers that hash requests, and where endpoints are.

use std::time::Duration;

use pillion_model::cluster::{HashKey, LoadBalancer};

use crate::{good, messages, warnings};

fn service(keys: &str) -> String {
    format!("services:\n  a:\n    endpoints: [10.0.0.1:80]\n    {keys}\n")
}

fn balancer(value: &str) -> LoadBalancer {
    good(&service(&format!("load_balancer: {value}"))).clusters.remove(0).load_balancer
}

#[test]
fn a_balancer_that_hashes_says_by_what() {
    let ring = |key| LoadBalancer::RingHash(Box::new(key));
    let maglev = |key| LoadBalancer::Maglev(Box::new(key));
    let cookie = |ttl| HashKey::Cookie { name: "sid".into(), ttl };
    assert_eq!(balancer("{ ring_hash: { header: X-User } }"), ring(HashKey::Header("x-user".into())));
    assert_eq!(balancer("{ ring_hash: { source: true } }"), ring(HashKey::Source));
    assert_eq!(balancer("{ maglev: { path: on, source: off } }"), maglev(HashKey::Path));
    assert_eq!(balancer("{ maglev: { cookie: sid } }"), maglev(cookie(None)));
    let an_hour = Some(Duration::from_secs(3600));
    assert_eq!(balancer("{ maglev: { cookie: { name: sid, ttl: 1h } } }"), maglev(cookie(an_hour)));
    assert_eq!(balancer("{ maglev: { cookie: { name: sid, ttl: off } } }"), maglev(cookie(None)));
}

#[test]
fn a_service_replaces_the_balancer_of_defaults_as_a_whole() {
    let defaults = "defaults: { load_balancer: { ring_hash: { header: x-user } } }\n";
    let of_a = |keys: &str| good(&(defaults.to_owned() + &service(keys))).clusters.remove(0).load_balancer;
    assert_eq!(of_a("tls: off"), LoadBalancer::RingHash(Box::new(HashKey::Header("x-user".into()))));
    assert_eq!(
        of_a("load_balancer: { maglev: { path: on } }"),
        LoadBalancer::Maglev(Box::new(HashKey::Path))
    );
    assert_eq!(of_a("load_balancer: random"), LoadBalancer::Random);
}

#[test]
fn each_mistake_in_a_balancer_that_hashes_is_a_fault() {
    let cases = [
        ("maglev", "4:20 services.a.load_balancer is maglev, without what requests are hashed by"),
        ("{}", "4:5 services.a.load_balancer is an empty block"),
        ("{ maglev: {} }", "4:22 services.a.load_balancer.maglev does not say what requests are hashed by"),
        (
            "{ maglev: { source: off } }",
            "4:22 services.a.load_balancer.maglev does not say what requests are hashed by",
        ),
        (
            "{ ring_hash: { header: x-user, path: on } }",
            "4:22 services.a.load_balancer.ring_hash has more than one of",
        ),
        (
            "{ ring_hash: { path: on }, maglev: { path: on } }",
            "4:5 services.a.load_balancer has both `ring_hash` and `maglev`",
        ),
        ("{ maglev: { cookies: sid } }", "4:32 services.a.load_balancer.maglev has no key `cookies`"),
        ("{ maglev: { cookie: { ttl: 1h } } }", "4:32 services.a.load_balancer.maglev.cookie needs `name`"),
        (
            "{ maglev: { cookie: { name: sid, ttl: 500ms } } }",
            "4:58 services.a.load_balancer.maglev.cookie.ttl is 500ms, too short",
        ),
        ("{ maglev: { cookie: __Host-sid } }", "4:40 services.a.load_balancer.maglev.cookie has a prefix"),
        ("{ maglev: { header: host } }", "4:40 services.a.load_balancer.maglev.header is `host`"),
    ];
    for (value, expected) in cases {
        let messages = messages(&service(&format!("load_balancer: {value}")));
        assert!(
            messages.iter().any(|fault| fault.starts_with(expected)),
            "{value}{messages:#?}\nexpected {expected}"
        );
    }
}

#[test]
fn there_is_a_warning_where_opaque_connections_are_hashed_by_what_they_do_not_have() {
    let warned = |by: &str| {
        let keys = format!("protocol: tcp\n    load_balancer: {{ ring_hash: {{ {by} }} }}");
        warnings(&service(&keys)).iter().filter(|fault| fault.path.ends_with("load_balancer")).count()
    };
    assert_eq!([warned("header: x-user"), warned("cookie: sid"), warned("path: on")], [1, 1, 1]);
    assert_eq!(warned("source: on"), 0);
}

#[test]
fn endpoints_have_zones_and_priorities() {
    let source = "services:\n  a:\n    endpoints:\n      - { address: 10.0.0.1:80, zone: a, priority: 1 }\n      \
                  - { address: 10.0.0.2:80, zone: a }\n      - 10.0.0.3:80\n";
    let config = good(source);
    let [first, second, third] = &config.clusters[0].endpoints[..] else { unreachable!("three") };
    assert_eq!((first.zone.as_deref(), first.priority), (Some("a"), 1));
    assert_eq!((third.zone.as_deref(), third.priority), (None, 0));
    let [one, other] = [first, second].map(|endpoint| endpoint.zone.as_ref().expect("a zone"));
    assert!(std::sync::Arc::ptr_eq(one, other), "one string for one zone");
    let path = |source: &str| warnings(source).into_iter().map(|fault| fault.path).collect::<Vec<_>>();
    assert_eq!(path(source), ["services.a.endpoints"], "this sidecar's zone is not known");
    assert_eq!(path(&format!("workload: {{ zone: a }}\n{source}")), [""; 0]);
    let messages = messages(&source.replace("priority: 1", "priority: 128"));
    assert!(messages.len() == 1 && messages[0].contains("priority"), "{messages:?}");
}
