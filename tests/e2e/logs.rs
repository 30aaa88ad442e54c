//! The access log of real processes: its formats, its rotation, and what stands in no log.

use std::path::Path;

use crate::support::backend::Backend;
use crate::support::certs::{Authority, spiffe};
use crate::support::eventually;
use crate::support::sidecar::{Plan, Sidecar};
use crate::support::wire::Wire;

const ADDRESSES: &str =
    "admin: { listen: 127.0.0.1:0 }\nmetrics: { listen: 127.0.0.1:0 }\ndrain: { delay: off }\n";

/// A caller's sidecar that logs into a file.
async fn caller(app: &Backend, access_log: &str) -> Sidecar {
    Plan::exactly(&format!(
        "{ADDRESSES}inbound: off\noutbound: {{ listen: 127.0.0.1:0 }}\n\
         services: {{ orders: {{ listen: 127.0.0.1:0, endpoints: [\"{}\"] }} }}\n\
         access_log: {{ path: access.log, {access_log} }}\n",
        app.address
    ))
    .start()
    .await
}

fn lines(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Sends a request for each id, and returns the ids.
async fn asked(client: &mut Wire, ids: impl Iterator<Item = u32>) -> Vec<String> {
    let ids: Vec<String> = ids.map(|id| format!("r-{id}")).collect();
    for id in &ids {
        let request = format!("GET / HTTP/1.1\r\nhost: orders\r\nx-request-id: {id}\r\n\r\n");
        assert_eq!(client.ask(&request).await.status(), 200);
    }
    ids
}

#[tokio::test]
async fn sigusr1_opens_a_log_that_was_moved_away_again_and_no_line_is_lost() {
    let app = Backend::echo().await;
    let mut sidecar = caller(&app, "format: \"%REQ(X-REQUEST-ID)%\"").await;
    let [log, moved] = ["access.log", "access.log.1"].map(|name| sidecar.directory().join(name));
    let mut client = Wire::connect(sidecar.orders()).await;

    let before = asked(&mut client, 0..50).await;
    eventually("the first lines", async || (lines(&log) == before).then_some(())).await;
    std::fs::rename(&log, &moved).expect("moves");
    sidecar.signal("USR1");
    // nothing is logged meanwhile, so that only the signal can make the new file
    eventually("the new file", async || log.exists().then_some(())).await;
    let after = asked(&mut client, 50..100).await;
    eventually("the lines of the new file", async || (lines(&log) == after).then_some(())).await;
    assert_eq!(lines(&moved), before);
    sidecar.signal("TERM");
    assert!(sidecar.exit().await.success());
    assert_eq!(lines(&log), after);
}

#[tokio::test]
async fn sigusr1_without_an_access_log_changes_nothing() {
    let app = Backend::echo().await;
    let sidecar = Plan::exactly(&format!(
        "{ADDRESSES}inbound: off\noutbound: {{ listen: 127.0.0.1:0 }}\n\
         services: {{ orders: {{ listen: 127.0.0.1:0, endpoints: [\"{}\"] }} }}\n",
        app.address
    ))
    .start()
    .await;
    sidecar.signal("USR1");
    eventually("the signal", async || sidecar.errors().contains("SIGUSR1 does nothing").then_some(())).await;
    asked(&mut Wire::connect(sidecar.orders()).await, 0..1).await;
}

#[tokio::test]
async fn text_and_templates_have_headers_of_requests_and_of_answers() {
    let answer = "HTTP/1.1 200 OK\r\nx-made-by: shop\r\ncontent-length: 2\r\n\r\nok";
    let app = Backend::saying(answer).await;
    let request =
        "GET /a?b=1 HTTP/1.1\r\nhost: orders\r\nreferer: http://a/\"\r\nuser-agent: one two\r\n\r\n";
    for (format, begin, end) in [
        ("text", "127.0.0.1 - - [", "] \"GET /a?b=1 HTTP/1.1\" 200 2 \"http://a/\\x22\" \"one two\""),
        (
            "\"%REQ(X-NONE?:PATH)% %REQ(USER-AGENT)% %RESP(X-MADE-BY):3% %RESPONSE_CODE_DETAILS%\"",
            "/a?b=1 one\\x20two sho ",
            "via_upstream",
        ),
    ] {
        let sidecar = caller(&app, &format!("format: {format}")).await;
        let log = sidecar.directory().join("access.log");
        assert_eq!(Wire::connect(sidecar.orders()).await.ask(request).await.status(), 200);
        let line = eventually("a line", async || lines(&log).pop()).await;
        assert!(line.starts_with(begin) && line.ends_with(end), "{format}: {line}");
    }
}

/// Over HTTP/2 between the sidecars, too, whose headers are kept in another form.
#[tokio::test]
async fn text_names_the_verified_peer_as_the_user() {
    let app = Backend::echo().await;
    let authority = Authority::new();
    let application = Plan::exactly(&format!(
        "{ADDRESSES}outbound: off\ninbound: {{ listen: 127.0.0.1:0, app: \"{}\" }}\n\
         access_log: {{ path: access.log, format: text }}\n",
        app.address
    ));
    let application = application.identified(&authority, "orders").start().await;
    let service = format!("tls: \"{}\", protocol: http2", spiffe("orders"));
    let caller = Plan::calling(application.inbound(), &service).identified(&authority, "web").start().await;
    let request = "GET /a HTTP/1.1\r\nhost: orders\r\nuser-agent: one two\r\n\r\n";
    assert_eq!(Wire::connect(caller.orders()).await.ask(request).await.status(), 200);
    let log = application.directory().join("access.log");
    let line = eventually("a line", async || lines(&log).pop()).await;
    let begin = format!("127.0.0.1 - {} [", spiffe("web"));
    assert!(line.starts_with(&begin), "{line}");
    assert!(line.ends_with("] \"GET /a HTTP/2\" 200 0 \"-\" \"one two\""), "{line}");
}

/// Every secret that a pair of sidecars has, or that passes through it.
#[tokio::test]
async fn no_log_of_a_pair_has_a_secret_at_any_level() {
    const SECRETS: [&str; 6] = [
        "bearer-of-the-client",
        "cookie-of-the-client",
        "cookie-of-the-answer",
        "body-of-the-client",
        "body-of-the-answer",
        "token-of-the-operator",
    ];
    let answer = "HTTP/1.1 200 OK\r\nset-cookie: id=cookie-of-the-answer\r\ncontent-length: 18\r\n\r\nbody-of-the-answer";
    let app = Backend::saying(answer).await;
    let authority = Authority::new();
    let logged = |plan: Plan, account| {
        plan.with("access_log: { path: stdout }\nadmin: { listen: 127.0.0.1:0, token: \"token-of-the-operator\" }\n")
            .identified(&authority, account)
            .env("PILLION_LOG", Path::new("trace,h2=trace,rustls=trace,hyper=trace,hyper_util=trace,tokio_rustls=trace"))
    };
    let bare = "metrics: { listen: 127.0.0.1:0 }\ndrain: { delay: off }\n";
    let application = Plan::exactly(&format!(
        "{bare}outbound: off\ninbound: {{ listen: 127.0.0.1:0, app: \"{}\" }}\n",
        app.address
    ));
    let application = logged(application, "orders").start().await;
    let caller = Plan::exactly(&format!(
        "{bare}inbound: off\noutbound: {{ listen: 127.0.0.1:0 }}\nservices: {{ orders: {{ listen: 127.0.0.1:0, \
         endpoints: [\"{}\"], tls: \"{}\" }} }}\n",
        application.inbound(),
        spiffe("orders")
    ));
    let mut caller = logged(caller, "web").start().await;
    let request = "POST /a?key=in-the-query HTTP/1.1\r\nhost: orders\r\nauthorization: Bearer bearer-of-the-client\r\n\
                   cookie: id=cookie-of-the-client\r\ncontent-length: 18\r\n\r\nbody-of-the-client";
    assert_eq!(Wire::connect(caller.orders()).await.ask(request).await.status(), 200);
    for sidecar in [&caller, &application] {
        let reload = format!(
            "POST /reload HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer token-of-the-operator\r\ncontent-length: 0\r\n\r\n",
            sidecar.admin()
        );
        assert_eq!(Wire::connect(sidecar.admin()).await.ask(&reload).await.status(), 200);
    }
    let line = caller.log_line().await;
    assert_eq!(line["path"], "/a?key=in-the-query", "the access log has the query, as the documents say");

    for sidecar in [&caller, &application] {
        eventually("the end of the request", async || {
            sidecar.errors().contains("request ended").then_some(())
        })
        .await;
        let log = sidecar.errors();
        assert!(log.contains("TRACE"), "the log has every level");
        let key = std::fs::read_to_string(sidecar.directory().join("certs/tls.key")).expect("its key");
        let key_lines = key.lines().filter(|line| !line.starts_with("-----"));
        for secret in SECRETS.into_iter().chain(["in-the-query"]).chain(key_lines) {
            assert!(!log.contains(secret), "{secret} stands in the log");
        }
        assert!(!SECRETS.iter().any(|secret| line.to_string().contains(secret)), "{line}");
    }
}
