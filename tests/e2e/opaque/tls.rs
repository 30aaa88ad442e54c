//! An application with its own TLS: the client verifies the application's certificate, and no sidecar can read the
//! bytes.

use std::net::SocketAddr;
use std::process::Command;

use super::{Way, connections};
use crate::support::curl::curl;
use crate::support::servers::{SHOP, Server};
use crate::support::tools::{printed, require, run};

fn get(nginx: &Server, at: SocketAddr, path: &str) -> Command {
    let mut get = curl();
    get.arg("--cacert").arg(nginx.authority()).arg("--connect-to").arg(format!("{SHOP}:443:{at}"));
    get.arg(format!("https://{SHOP}{path}"));
    get
}

#[tokio::test]
async fn curl_verifies_the_certificate_of_nginx_through_both_sidecars() {
    if !require("curl") {
        return;
    }
    let file = "a line of text\n".repeat(100_000);
    let Some(nginx) = Server::nginx(file.as_bytes()).await else { return };
    for way in Way::ALL {
        let pair = way.pair(nginx.address).await;
        for (version, output) in [("--http1.1", "HTTP/1.1"), ("--http2", "HTTP/2.0")] {
            let mut get = get(&nginx, pair.caller.orders(), "/");
            get.arg(version);
            assert_eq!(printed(get).await, format!("{output} {SHOP} {SHOP}"), "{way:?}");
        }
        assert!(printed(get(&nginx, pair.caller.orders(), "/file")).await == file, "{way:?}");

        let mut trusts_nobody = get(&nginx, pair.caller.orders(), "/");
        trusts_nobody.args(["--cacert", "/dev/null"]);
        let refused = run(trusts_nobody).await;
        assert!(matches!(refused.status.code(), Some(60 | 77)), "{way:?}: {refused:?}");

        let caller = pair.caller.scrape().await;
        let detected = [("direction", "outbound"), ("verdict", "tls")];
        let expected = if way == Way::Declared { 0.0 } else { 3.0 };
        assert!(caller.sum("pillion_detections_total", &detected) >= expected, "{way:?}\n{}", caller.text);
        let http = ["http1", "http2"].map(|protocol| connections(&caller, &[("protocol", protocol)]));
        assert_eq!(http, [0.0; 2], "{way:?}: opaque to both\n{}", caller.text);
        let application = pair.application.scrape().await;
        let arrived = [("protocol", "tcp"), ("outcome", "ok"), ("tls", way.tls())];
        assert!(connections(&application, &arrived) >= 3.0, "{way:?}\n{}", application.text);
    }
}
