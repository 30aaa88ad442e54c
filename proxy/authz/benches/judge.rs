//! Measures the cost of a decision: run `cargo bench -p pillion-authz --bench judge -- NAME CALLS` in callgrind with two
//! numbers of calls, and take the difference. Without a name it prints the nanoseconds of each case.

use std::hint::black_box;
use std::time::Instant;

use pillion_authz::keys::KeySet;
use pillion_authz::token::Verifier;
use pillion_authz::{Asked, Engine, Facts, Headers};
use pillion_model::authorization::path::JudgedPath;
use pillion_model::authorization::{
    Action, Authorization, Conditions, EncodedSlash, Jwks, Jwt, PathPattern, PeerPattern, Rule,
};
use pillion_testkit::jwt::Issuer;
use serde_json::json;

struct None;

impl Headers for None {
    fn values(&self, _: &str, _: &mut dyn FnMut(&[u8], bool)) {}
}

/// Rules of one kind: each with a peer of its own, one peer with a path for each rule, patterns for peers, paths alone.
fn rules(kind: &str, count: usize) -> Authorization {
    let rule = |nth: usize| {
        let peer = match kind {
            "peers" => Some(format!("spiffe://cluster.local/ns/shop/sa/web-{nth}")),
            "below" => Some(format!("spiffe://cluster.local/ns/shop-{nth}/*")),
            "paths" => Some("spiffe://cluster.local/ns/shop/sa/web-7".to_owned()),
            _ => Option::None,
        };
        let path =
            if kind == "peers" || kind == "below" { "/api/*".to_owned() } else { format!("/api/v{nth}/*") };
        let when = Conditions {
            from: peer.iter().map(|peer| PeerPattern::new(peer).expect("a pattern")).collect(),
            methods: vec!["GET".to_owned(), "HEAD".to_owned()],
            paths: vec![PathPattern::new(&path).expect("a pattern")],
            ..Conditions::default()
        };
        Rule { name: nth.to_string(), action: Action::Allow, when, not: Option::None }
    };
    Authorization { rules: (0..count).map(rule).collect(), ..Authorization::default() }
}

fn case(kind: &str, count: usize) -> (String, Box<dyn FnMut()>) {
    let engine = Engine::new(&rules(kind, count));
    let peer = match kind {
        "below" => "spiffe://cluster.local/ns/shop-7/sa/web",
        _ => "spiffe://cluster.local/ns/shop/sa/web-7",
    };
    let peer = peer.parse().expect("an ID");
    let call = move || {
        let path = JudgedPath::of(black_box("/api/v7/orders"), EncodedSlash::Reject).expect("a clear path");
        let request = Some(Asked {
            method: "GET",
            path: Some(&path),
            host: Option::None,
            headers: &None,
            claims: Option::None,
        });
        let source = std::net::Ipv4Addr::LOCALHOST.into();
        let verdict = engine.judge(&Facts { peer: Some(&peer), source, port: 8080, request });
        assert_eq!(verdict.rule, Some(7));
    };
    (format!("{kind}-{count}"), Box::new(call))
}

/// What the signature of a token costs.
fn token(issuer: &Issuer) -> (String, Box<dyn FnMut()>) {
    const NOW: u64 = 1_800_000_000;
    let keys = KeySet::read(issuer.jwks().as_bytes()).expect("a set of keys");
    let (jwks, header) = (Jwks::File("jwks.json".into()), Jwt::HEADER.to_owned());
    let (issued_by, audiences) = ("https://id.example".to_owned(), vec!["orders".to_owned()]);
    let jwt = Jwt { issuer: issued_by, audiences, jwks, header, required: true, forward: false };
    let verifier = Verifier::new(&jwt, &Authorization::default());
    let claims = json!({ "iss": "https://id.example", "aud": "orders", "sub": "svc-a", "exp": NOW + 60 });
    let token = issuer.token(&claims);
    let call = move || {
        verifier.verify(black_box(token.as_bytes()), &keys, NOW).expect("a good token");
    };
    (issuer.algorithm().to_owned(), Box::new(call))
}

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let (name, calls) = (args.next(), args.next().and_then(|calls| calls.parse().ok()));
    let run = |(this, mut call): (String, Box<dyn FnMut()>), usual: u32| {
        if name.as_ref().is_some_and(|name| *name != this) {
            return;
        }
        let calls = calls.unwrap_or(usual);
        let started = Instant::now();
        (0..calls).for_each(|_| call());
        println!("{this}: {} ns", started.elapsed().as_nanos() / u128::from(calls.max(1)));
    };
    for kind in ["peers", "below", "paths", "only-paths"] {
        for count in [10, 10_000] {
            run(case(kind, count), 1_000_000);
        }
    }
    for issuer in [Issuer::es256(), Issuer::rsa(), Issuer::ed25519()] {
        run(token(&issuer), 20_000);
    }
}
