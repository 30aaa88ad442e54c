//! `inbound.authorization` with real certificates, clients and servers.

use std::net::SocketAddr;
use std::process::Command;

use crate::support::backend::Backend;
use crate::support::certs::{Authority, spiffe};
use crate::support::curl::curl;
use crate::support::servers::Server;
use crate::support::sidecar::{Plan, Sidecar};
use crate::support::tools::{printed, require};
use crate::support::wire::Wire;
use crate::support::{Scratch, eventually, soon};

/// The sidecar of the application and those of two callers.
struct Shop {
    orders: Sidecar,
    web: Sidecar,
    batch: Sidecar,
}

impl Shop {
    async fn start(app: SocketAddr, inbound: &str, service: &str) -> Self {
        let authority = Authority::new();
        let orders = Plan::application(app, inbound).identified(&authority, "orders").start().await;
        let caller = |account| {
            let service = format!("tls: \"{}\"{service}", spiffe("orders"));
            Plan::calling(orders.inbound(), &service).identified(&authority, account).start()
        };
        let (web, batch) = (caller("web").await, caller("batch").await);
        Self { orders, web, batch }
    }
}

/// The status that curl gets.
async fn status(at: SocketAddr, path: &str, more: &[&str]) -> String {
    let mut command = curl();
    command.args(["-o", "/dev/null", "-w", "%{http_code}", "--path-as-is"]).args(more);
    command.arg(format!("http://{at}{path}"));
    printed(command).await
}

fn reads(from: &str) -> String {
    format!(
        "rules: [{{ name: web-reads, from: [\"{}\"], methods: [GET], paths: [\"/api/*\"] }}]",
        spiffe(from)
    )
}

#[tokio::test]
async fn web_may_read_and_not_write_and_batch_may_nothing() {
    if !require("curl") {
        return;
    }
    let app = Backend::echo().await;
    let inbound = format!("mtls: permissive, authorization: {{ {} }}", reads("web"));
    let mut shop = Shop::start(app.address, &inbound, "").await;
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        assert_eq!(status(shop.web.orders(), "/api/orders", &[version]).await, "200", "{version}");
        // Without content: curl 7.88 may fail where an answer over HTTP/2 comes before the content was sent.
        let post = [version, "-X", "POST"];
        assert_eq!(status(shop.web.orders(), "/api/orders", &post).await, "403", "{version}");
        assert_eq!(status(shop.web.orders(), "/api/../admin", &[version]).await, "403", "{version}");
        assert_eq!(status(shop.batch.orders(), "/api/orders", &[version]).await, "403", "{version}");
        assert_eq!(status(shop.orders.inbound(), "/api/orders", &[version]).await, "403", "in plaintext");
    }
    assert_eq!(app.requests().len(), 2);
    for (rule, decision) in [("web-reads", "allowed"), ("default", "denied")] {
        let line = shop.orders.log_line().await;
        assert_eq!((line["rule"].as_str(), line["authorization"].as_str()), (Some(rule), Some(decision)));
    }
    let metrics = shop.orders.scrape().await;
    let sum = |labels: &[(&str, &str)]| metrics.sum("pillion_authorization_total", labels);
    assert_eq!(sum(&[("rule", "web-reads"), ("decision", "allowed"), ("mode", "enforce")]), 2.0);
    assert_eq!(sum(&[("rule", "default"), ("decision", "denied"), ("mode", "enforce")]), 8.0);
}

#[tokio::test]
async fn curl_with_a_certificate_of_its_own_is_judged_by_it() {
    if !require("curl") {
        return;
    }
    let (app, authority) = (Backend::echo().await, Authority::new());
    let inbound = format!("authorization: {{ {} }}", reads("web"));
    let orders = Plan::application(app.address, &inbound).identified(&authority, "orders").start().await;
    for (account, expected) in [("web", "200"), ("batch", "403")] {
        let scratch = Scratch::new();
        let files = scratch.path().join(account);
        authority.issue_into(&files, account);
        let mut command = curl();
        command.args(["-k", "-o", "/dev/null", "-w", "%{http_code}", "--cert"]).arg(files.join("tls.crt"));
        command.arg("--key").arg(files.join("tls.key")).arg(format!("https://{}/api/a", orders.inbound()));
        assert_eq!(printed(command).await, expected, "{account}");
    }
}

/// Audit and its end, on connections that stay open.
#[tokio::test]
async fn a_reload_turns_audit_into_enforcement() {
    let app = Backend::echo().await;
    let inbound = format!("authorization: {{ mode: audit, {} }}", reads("web"));
    let shop = Shop::start(app.address, &inbound, "").await;
    let mut batch = Wire::connect(shop.batch.orders()).await;
    assert_eq!(batch.get("orders", "/api/a").await.status(), 200);
    let metrics = shop.orders.scrape().await;
    let would = [("rule", "default"), ("decision", "would_deny"), ("mode", "audit")];
    assert_eq!(metrics.sum("pillion_authorization_total", &would), 1.0);
    shop.orders.configure(&shop.orders.configuration().replace("mode: audit, ", ""));
    shop.orders.reloaded("applied", 0).await;
    assert_eq!(batch.get("orders", "/api/a").await.status(), 403);
    let web = reads("batch");
    shop.orders.configure(&shop.orders.configuration().replace(&reads("web"), &web));
    eventually("batch may read", async || {
        (batch.get("orders", "/api/a").await.status() == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn redis_answers_the_peer_that_a_rule_names_by_its_port_and_no_other() {
    if !require("redis-cli") {
        return;
    }
    let Some(redis) = Server::redis().await else { return };
    let port = redis.address.port();
    for declared in ["", "protocol: tcp, "] {
        let rules = format!("rules: [{{ name: db, from: [\"{}\"], ports: [{port}] }}]", spiffe("web"));
        let shop =
            Shop::start(redis.address, &format!("{declared}authorization: {{ {rules} }}"), ", protocol: tcp")
                .await;
        let ping = |at: SocketAddr| {
            let mut sh = Command::new("sh");
            let text = format!("redis-cli -h {} -p {} PING 2>&1 || true", at.ip(), at.port());
            sh.args(["-c", &text]);
            printed(sh)
        };
        assert_eq!(ping(shop.web.orders()).await, "PONG\n", "{declared}");
        assert!(!ping(shop.batch.orders()).await.contains("PONG"), "{declared}");
        let metrics = shop.orders.scrape().await;
        let denied = [("rule", "default"), ("decision", "denied")];
        assert!(metrics.sum("pillion_authorization_total", &denied) >= 1.0, "{declared}");
    }
}

/// Targets that some server reads as a path in `/admin`, or that look as if one might.
fn confusions() -> Vec<String> {
    const DOTS: [&str; 18] = [
        "..",
        "%2e%2e",
        "%2E.",
        ".%2e",
        "%252e%252e",
        "..;",
        "..;a=b",
        "%2e%2e;",
        "..%3b",
        "..%00",
        "..%20",
        "%c0%ae%c0%ae",
        "%e0%80%ae.",
        "..%5c",
        "..\\",
        "%uff0e%uff0e",
        "...",
        "..%09",
    ];
    const SLASHES: [&str; 10] = ["/", "//", "/./", "%2f", "%2F", "%252f", "\\", "%5c", "/;/", "%c0%af"];
    const NAMES: [&str; 14] = [
        "/admin/x",
        "/admin",
        "//admin/x",
        "/./admin/x",
        "/%61dmin/x",
        "/adm%69n/x",
        "/%2561dmin/x",
        "/admin;/x",
        "/admin;a=b/x",
        "/;/admin/x",
        "/admin%3b/x",
        "/admin%2fx",
        "/admin%00/x",
        "/admin\\x",
    ];
    let climbs = DOTS.iter().flat_map(|dots| {
        SLASHES.iter().flat_map(move |slash| {
            [format!("/public/{dots}{slash}admin/x"), format!("/public{slash}{dots}{slash}admin/x")]
        })
    });
    let plain = NAMES.iter().flat_map(|name| [(*name).to_owned(), format!("/public/..{name}")]);
    let absolute = NAMES.iter().map(|name| format!("http://a{name}"));
    let odd = [
        "http://a/public/../admin/x",
        "http://a//admin/x",
        "http://a@b/admin/x",
        "http://a?/public/../admin",
        "http:///admin/x",
        "https://a/admin/x",
        "/public/x?/../../admin/x",
        "/public/%3f/../../admin/x",
        "/public/x%23/../../admin/x",
        "/public/x#/../../admin/x",
        "/public/a/b/../../../admin/x",
        "public/../admin/x",
        "*",
        "/public/x",
        "/public/",
        "/public/%C3%A4;a=b",
    ];
    climbs.chain(plain).chain(absolute).chain(odd.map(str::to_owned)).collect()
}

/// The path that a server says it has seen, decoded as its own tools do.
fn seen(answers: &str) -> Option<String> {
    let (_, rest) = answers.split_once(" path=[")?;
    rest.split_once("]\n").or_else(|| rest.split_once("]\r")).map(|(path, _)| path.to_owned())
}

/// Whether a path leads to `/admin`, read by somebody who ignores parameters, spaces and empty
/// segments.
fn leads_to_admin(path: &str) -> bool {
    let mut names: Vec<&str> = Vec::new();
    for name in path.split(['/', '\\']).map(|name| name.split(';').next().unwrap_or_default()) {
        match name.trim_matches(|c: char| c.is_whitespace() || c == '\0') {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    names.first() == Some(&"admin")
}

async fn asked(at: SocketAddr, target: &str) -> String {
    let mut wire = Wire::connect(at).await;
    wire.send(format!("GET {target} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")).await;
    let (answers, _is_reset) = soon("the connection ends", wire.ends()).await;
    String::from_utf8_lossy(&answers).into_owned()
}

/// The slash may be kept or not; a rule may allow what is public, or deny what is not.
#[tokio::test]
async fn no_target_leads_a_server_to_a_path_that_is_not_allowed() {
    let Some(servers) = Server::lenient().await else { return };
    for (name, server) in servers {
        let mut confused = 0;
        for target in confusions() {
            let direct = asked(server.address, &target).await;
            confused += usize::from(seen(&direct).is_some_and(|path| leads_to_admin(&path)));
        }
        assert!(
            confused > 10,
            "{name} sees /admin {confused} times without a sidecar, so the corpus proves little"
        );
        for slash in ["reject", "keep"] {
            for rules in [
                "rules: [{ name: public, paths: [\"/public/*\"] }]",
                "default: allow, rules: [{ name: no, action: deny, paths: [/admin, \"/admin/*\"] }]",
            ] {
                through(name, &server, &format!("encoded_slash: {slash}, {rules}")).await;
            }
        }
    }
}

async fn through(name: &str, server: &Server, rules: &str) {
    let sidecar = Plan::application(server.address, &format!("authorization: {{ {rules} }}")).start().await;
    let mut passed = 0;
    for target in confusions() {
        let answers = asked(sidecar.inbound(), &target).await;
        let Some(path) = seen(&answers) else { continue };
        passed += 1;
        assert!(!leads_to_admin(&path), "{name} behind {rules} sees {path} of {target}");
        let is_public = path.starts_with("/public/") || rules.contains("default: allow");
        assert!(is_public, "{name} behind {rules} sees {path} of {target}");
    }
    assert!(passed > 2, "{name} behind {rules} sees nothing");
}
