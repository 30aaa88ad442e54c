//! The executable: exit codes, signals, output, start and end.

use std::net::SocketAddr;
use std::process::{Command, Output};
use std::time::Duration;

use tokio::time::Instant;

use crate::support::backend::{Backend, free, nobody};
use crate::support::certs::Authority;
use crate::support::launched::Launched;
use crate::support::program::Program;
use crate::support::sidecar::{Pair, Plan, Sidecar, memory_kib};
use crate::support::tools::{require, run};
use crate::support::wire::Wire;
use crate::support::{Scratch, eventually, soon};

/// A drain with a long timeout, for tests that do not wait for its end.
const SOON: &str = "drain: { delay: off, timeout: 20s }";

async fn pillion(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
    command.args(words);
    run(command).await
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn no_arguments_print_a_short_help() {
    let output = pillion(&[]).await;
    assert_eq!(output.status.code(), Some(0));
    let help = text(&output.stdout);
    for command in ["pillion demo", "pillion run", "pillion check"] {
        assert!(help.contains(command), "{help}");
    }
}

#[tokio::test]
async fn wrong_usage_is_exit_code_2() {
    for words in [&["frobnicate"][..], &["run", "--frobnicate"], &["check"], &["run", "--app", "x"]] {
        let output = pillion(words).await;
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{words:?}: {output:?}");
    }
}

#[tokio::test]
async fn the_version_is_one_line() {
    let output = pillion(&["--version"]).await;
    assert_eq!(text(&output.stdout), format!("pillion {}\n", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn check_and_run_report_faults_of_a_file_with_their_places_alike() {
    let scratch = Scratch::new();
    let file =
        scratch.write("bad.yaml", "outbound: off\ninbund: off\nservices:\n  a: { endpoints: [1.2.3.4] }\n");
    let file = file.to_str().expect("a path that is text");
    let (check, refused) = (pillion(&["check", "-c", file]).await, pillion(&["run", "-c", file]).await);
    assert_eq!((check.status.code(), refused.status.code()), (Some(1), Some(1)));
    let output = text(&check.stderr);
    for place in [":2:1: error: ", ":4:"] {
        assert!(output.contains(&format!("{file}{place}")), "{output}");
    }
    assert!(output.contains("help: ") && output.contains("inbound"), "{output}");
    assert_eq!(text(&refused.stderr), output, "the same text from both");
    assert!(refused.stdout.is_empty(), "not ready: {refused:?}");
}

#[tokio::test]
async fn c11_a_log_that_cannot_be_written_is_named_once_with_its_cause_and_warned_of_by_check() {
    let scratch = Scratch::new();
    let file = scratch.write(
        "pillion.yaml",
        "inbound: off\noutbound: { listen: 127.0.0.1:0 }\nadmin: { listen: 127.0.0.1:0 }\nmetrics: off\n\
         access_log: { path: logs/access.log }\n",
    );
    let (log, file) = (scratch.path().join("logs/access.log"), file.to_str().expect("text"));
    let refused = pillion(&["run", "-c", file]).await;
    let output = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1));
    let line = format!(
        "access_log.path: cannot write to {}: No such file or directory (os error 2)\n",
        log.display()
    );
    assert!(output.ends_with(&line), "{output}");

    let warned = pillion(&["check", "-c", file]).await;
    let output = text(&warned.stdout);
    assert_eq!(warned.status.code(), Some(0), "{warned:?}");
    assert!(output.contains(&format!("{file}:5:21: warning: access_log.path: the folder ")), "{output}");
    assert!(output.ends_with(": valid\n"), "{output}");
}

/// The lines of a JSON log, each parsed.
fn records(log: &str) -> Vec<serde_json::Value> {
    let record = |line| serde_json::from_str(line).unwrap_or_else(|error| unreachable!("{error}: {line}"));
    log.lines().map(record).collect()
}

#[tokio::test]
async fn as_json_all_faults_of_a_file_are_one_record() {
    let scratch = Scratch::new();
    let file = scratch.write("bad.yaml", "inbund: off\nservices:\n  a: { endpoints: [1.2.3.4] }\n");
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
    command.args(["run", "-c"]).arg(&file).env("PILLION_LOG_FORMAT", "json");
    let refused = run(command).await;
    assert_eq!(refused.status.code(), Some(1));
    let records = records(&text(&refused.stderr));
    let [record] = &records[..] else { unreachable!("{records:?}") };
    let message = record["message"].as_str().expect("text");
    assert_eq!(record["level"], "ERROR", "{record}");
    assert!(message.contains("bad.yaml:1:1: error: ") && message.contains("bad.yaml:3:"), "{message}");
}

#[tokio::test]
async fn as_json_every_line_is_a_record_and_ready_is_one_of_them() {
    let mut prefix = Command::new("env");
    prefix.arg("PILLION_LOG_FORMAT=json");
    let yaml =
        "inbound: off\noutbound: { listen: 127.0.0.1:0 }\nadmin: { listen: 127.0.0.1:0 }\nmetrics: off\n";
    let sidecar = Launched::start(prefix, yaml, None).await;
    sidecar.has_logged("\"ready\"").await;
    let records = records(&sidecar.errors());
    let ready = records.iter().find(|record| record["message"] == "ready").expect("the ready record");
    let outbound = sidecar.address("outbound").to_string();
    assert!(ready["addresses"].as_str().expect("text").contains(&format!("outbound={outbound}")), "{ready}");
    assert!(records.iter().all(|record| record["timestamp"].is_string() && record["level"].is_string()));
}

#[tokio::test]
async fn c11_a_cause_is_printed_once() {
    let scratch = Scratch::new();
    let file = scratch.write(
        "pillion.yaml",
        "inbound: off\noutbound: { listen: 127.0.0.1:0 }\nadmin: { listen: 127.0.0.1:0 }\nmetrics: off\nservices:\n\
         \u{20} a: { endpoints: [10.0.0.1:80], tls: { mode: simple, sni: a, trust_bundle: absent.pem } }\n",
    );
    let refused = pillion(&["run", "-c", file.to_str().expect("text")]).await;
    let output = text(&refused.stderr);
    assert_eq!(output.matches("No such file").count(), 1, "{output}");
    assert!(output.contains("services.a.tls") && output.contains("absent.pem"), "{output}");
}

/// `pillion schema | head -2`, and other commands with much output.
#[tokio::test]
async fn c12_a_reader_that_closes_the_pipe_early_causes_no_error() {
    let scratch = Scratch::new();
    let file = scratch.write("good.yaml", "inbound: off\nservices:\n  a: { endpoints: [\"10.0.0.1:80\"] }\n");
    let file = file.to_str().expect("text");
    for words in [&["schema"][..], &[], &["check", "-c", file], &["init", "--plan"], &["demo"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader); // before the first byte is written
        let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
        command.args(words).stdout(writer);
        let output = run(command).await;
        let is_logged = text(&output.stderr).to_lowercase().contains("pipe");
        assert!(output.status.code() == Some(0) && !is_logged, "{words:?}: {output:?}");
    }
}

#[tokio::test]
async fn a_good_file_is_valid() {
    let scratch = Scratch::new();
    let file = scratch.write("good.yaml", "inbound: off\nservices:\n  a: { endpoints: [\"10.0.0.1:80\"] }\n");
    let output = pillion(&["check", "-c", file.to_str().expect("text")]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[tokio::test]
async fn the_schema_is_printed_as_json_with_every_block_of_the_file() {
    let output = pillion(&["schema"]).await;
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    for block in ["identity", "inbound", "outbound", "services", "routes", "drain", "limits"] {
        assert!(schema["properties"][block].is_object(), "{block}");
    }
}

#[tokio::test]
async fn a_file_that_is_missing_and_a_port_that_is_taken_are_exit_code_1() {
    let missing = pillion(&["run", "-c", "/nowhere/pillion.yaml"]).await;
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("/nowhere/pillion.yaml"));

    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("a bound socket").to_string();
    let words = ["run", "--inbound", "127.0.0.1:0", "--outbound", &address, "--admin", "127.0.0.1:0"];
    let output = pillion(&words).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains(&address), "{output:?}");
}

/// Both sidecars have one user and several workers. The kernel would let them share a port if both set SO_REUSEPORT.
#[tokio::test]
async fn c2_a_second_sidecar_on_a_port_of_the_first_does_not_start() {
    let first = Plan::new(
        "workers: 2\ninbound: { listen: 127.0.0.1:0, ports: { 8080: { listen: 0.0.0.0:0 } } }\n\
         outbound: { listen: 127.0.0.1:0 }\n\
         services:\n  orders: { listen: 127.0.0.1:0, endpoints: [\"127.0.0.1:1\"] }",
    );
    let first = first.start().await;
    let (_, port) = first.ready.rsplit_once(':').expect("the port of `port.8080`");
    let scratch = Scratch::new();
    for taken in [
        format!("inbound: {{ listen: \"{}\" }}", first.inbound()),
        format!("inbound: {{ listen: \"0.0.0.0:{}\" }}", first.inbound().port()),
        format!("inbound: {{ listen: 127.0.0.1:{port} }}"),
        format!("inbound: off\noutbound: {{ listen: \"{}\" }}", first.outbound()),
        format!(
            "inbound: off\nservices: {{ a: {{ listen: \"{}\", endpoints: [10.0.0.1:80] }} }}",
            first.orders()
        ),
        format!("inbound: off\nadmin: {{ listen: \"{}\" }}", first.admin()),
        format!("inbound: off\nmetrics: {{ listen: \"0.0.0.0:{}\" }}", first.metrics().port()),
    ] {
        let free = [
            ("outbound:", "outbound: { listen: 127.0.0.1:0 }\n"),
            ("admin:", "admin: { listen: 127.0.0.1:0 }\n"),
            ("metrics:", "metrics: { listen: 127.0.0.1:0 }\n"),
        ];
        let rest: String =
            free.iter().filter(|(key, _)| !taken.contains(key)).map(|(_, line)| *line).collect();
        let file = scratch.write("pillion.yaml", format!("workers: 2\n{taken}\n{rest}"));
        let output = pillion(&["run", "-c", file.to_str().expect("text")]).await;
        let errors = text(&output.stderr);
        assert!(
            output.status.code() == Some(1) && errors.contains("cannot listen on"),
            "{taken}: {output:?}"
        );
        assert!(errors.contains("Address already in use"), "{errors}");
    }
}

#[tokio::test]
async fn the_ready_line_names_every_address() {
    let sidecar = Plan::new(
        "inbound: { listen: 127.0.0.1:0 }\noutbound: { listen: [\"127.0.0.1:0\", \"127.0.0.1:0\"] }\n\
         services:\n  orders: { listen: 127.0.0.1:0, endpoints: [\"127.0.0.1:1\"] }",
    );
    let sidecar = sidecar.start().await;
    let words: Vec<&str> = sidecar.ready.split([' ', '=']).step_by(2).collect();
    assert_eq!(sidecar.ready.split(' ').next(), Some("ready"));
    let kinds: Vec<&str> = sidecar
        .ready
        .split(' ')
        .skip(1)
        .filter_map(|word| word.split_once('='))
        .map(|(kind, _)| kind)
        .collect();
    assert_eq!(kinds, ["inbound", "outbound", "admin", "metrics", "service.orders"], "{words:?}");
    assert!(!sidecar.ready.contains(":0 ") && !sidecar.ready.ends_with(":0"), "{}", sidecar.ready);
    let outbound =
        sidecar.ready.split(' ').find_map(|word| word.strip_prefix("outbound=")).expect("outbound");
    assert_eq!(outbound.split(',').count(), 2);
}

#[tokio::test]
async fn c17_a_start_is_one_line_with_version_file_and_listeners() {
    let plan = Plan::new("inbound: { listen: 127.0.0.1:0 }\noutbound: { listen: 127.0.0.1:0 }");
    let sidecar = plan.identified(&Authority::new(), "orders").start().await;
    let line = async || sidecar.errors().lines().next().map(str::to_owned);
    let line = eventually("the first line of the log", line).await;
    let file = sidecar.directory().join("pillion.yaml");
    let listening = sidecar.ready.strip_prefix("ready ").expect("a ready line");
    for output in [env!("CARGO_PKG_VERSION"), file.to_str().expect("text"), listening, "started"] {
        assert!(line.contains(output), "{output}: {line}");
    }
    eventually("the end of the certificate", async || {
        sidecar.errors().contains("certificates are in use ends=").then_some(())
    })
    .await;
}

/// The ready line is printed after the sockets accept: a program that reads the line may connect at once.
#[tokio::test]
async fn idle_memory_and_time_to_readiness_are_small() {
    let app = Backend::echo().await;
    let started = Instant::now();
    let pair = Pair::start(app.address, "", "").await;
    let took = started.elapsed();
    assert_eq!(Wire::connect(pair.caller.outbound()).await.get("orders", "/").await.status(), 200);
    let build = if cfg!(debug_assertions) { "unoptimised" } else { "optimised" };
    println!(
        "two sidecars, their CA and certificates: ready after {took:?} ({build}; 50 ms each are allowed)"
    );
    println!("RSS: caller {} KiB, application {} KiB", pair.caller.rss_kib(), pair.application.rss_kib());
}

/// The kernel maps most of the program while it starts. The sidecar gives those pages back, and still works.
#[tokio::test]
async fn the_pages_of_the_program_that_only_the_start_needed_are_given_back() {
    let app = Backend::echo().await;
    let pair = Pair::start(app.address, "", "").await;
    for sidecar in [&pair.caller, &pair.application] {
        let of_files = || memory_kib(sidecar.pid(), "RssFile:");
        let most = memory_kib(sidecar.pid(), "VmHWM:");
        eventually("mapped pages of files", async || (of_files() < most / 2).then_some(())).await;
        println!("most {most}, now {}", of_files());
    }
    assert_eq!(Wire::connect(pair.caller.outbound()).await.get("orders", "/").await.status(), 200);
}

/// The first signal lets a request finish, new connections are refused, and the exit code is 0.
#[tokio::test]
async fn sigterm_ends_after_the_requests_in_flight() {
    let app = Backend::holding().await;
    let mut pair = Pair::ending(app.address, "", SOON).await;
    let mut client = Wire::connect(pair.caller.outbound()).await;
    client.send("POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 0\r\n\r\n").await;
    app.has_requests(1).await;
    assert_eq!(pair.caller.page("/ready").await.0, 200);
    for sidecar in [&mut pair.caller, &mut pair.application] {
        sidecar.signal("TERM");
        let page = eventually("readiness to fail", async || {
            let page = sidecar.page("/ready").await;
            (page.0 == 503).then_some(page)
        });
        assert!(page.await.1.contains("draining"));
        assert!(sidecar.exited().is_none(), "a request is in flight");
        assert_eq!(sidecar.page("/live").await.0, 200);
    }
    app.release();
    let answer = client.answer().await;
    assert_eq!((answer.status(), answer.text().as_str()), (200, "done"));
    drop(client);
    for sidecar in [&mut pair.caller, &mut pair.application] {
        assert_eq!(sidecar.exit().await.code(), Some(0));
    }
}

/// A keep-alive connection without a request does not delay the end.
#[tokio::test]
async fn an_idle_connection_does_not_hold_up_the_end() {
    let app = Backend::echo().await;
    let mut caller = Plan::calling(app.address, "").with(SOON).start().await;
    let mut client = Wire::connect(caller.outbound()).await;
    assert_eq!(client.get("orders", "/").await.status(), 200);
    caller.signal("TERM");
    assert_eq!(caller.exit().await.code(), Some(0));
    assert!(soon("the end of the connection", client.rest()).await.is_empty());
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let app = Backend::stall().await;
    let mut caller = Plan::calling(app.address, "timeout: off").start().await;
    let mut client = Wire::connect(caller.outbound()).await;
    client.send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
    app.has_requests(1).await;
    caller.signal("TERM");
    eventually("readiness to fail", async || (caller.page("/ready").await.0 == 503).then_some(())).await;
    let second = Instant::now();
    caller.signal("TERM");
    let status = caller.exit().await;
    assert!(second.elapsed() < Duration::from_secs(10), "long before the drain's own end");
    println!("a second signal: {status}");
}

#[tokio::test]
async fn the_access_log_is_json_on_standard_output() {
    let app = Backend::echo().await;
    let mut pair = Pair::start(app.address, "", "").await;
    let post =
        "POST /path?q=1 HTTP/1.1\r\nhost: orders\r\nx-request-id: r-1\r\ncontent-length: 5\r\n\r\nhello";
    assert_eq!(Wire::connect(pair.caller.outbound()).await.ask(post).await.text(), "hello");
    let (caller, application) = (pair.caller.log_line().await, pair.application.log_line().await);
    for (line, direction, service) in [(&caller, "outbound", "orders"), (&application, "inbound", "app")] {
        let expected = serde_json::json!({
            "direction": direction, "service": service, "method": "POST", "path": "/path?q=1", "host": "orders",
            "status": 200, "request_id": "r-1", "bytes_in": 5, "bytes_out": 5, "attempts": 1,
        });
        for (key, value) in expected.as_object().expect("an object") {
            assert_eq!(&line[key], value, "{key} of {line}");
        }
        assert!(line["duration_us"].is_u64() && line["time"].is_string(), "{line}");
    }
    assert_eq!(application["peer"], "spiffe://cluster.local/ns/default/sa/web");
    assert_eq!(caller["reason"], serde_json::Value::Null);
}

/// Two requests on one connection: the log has Pillion's decisions for each, and no records of its libraries.
#[tokio::test]
async fn c7_debug_logs_the_decisions_about_a_request() {
    let app = Backend::echo().await;
    let mut debug = Command::new("env");
    debug.arg("PILLION_LOG=debug");
    let yaml = format!(
        "inbound: off\noutbound: {{ listen: 127.0.0.1:0 }}\nadmin: {{ listen: 127.0.0.1:0 }}\nmetrics: off\n\
         services: {{ orders: {{ endpoints: [\"{}\"] }} }}\n",
        app.address
    );
    let sidecar = Launched::start(debug, &yaml, None).await;
    let mut client = Wire::connect(sidecar.address("outbound")).await;
    for id in ["one", "two"] {
        let request = format!("GET /a?secret=1 HTTP/1.1\r\nhost: orders\r\nx-request-id: {id}\r\n\r\n");
        assert_eq!(client.ask(&request).await.status(), 200);
    }
    sidecar.has_logged("request ended request=\"two\"").await;
    let log = sidecar.errors();
    let endpoint = app.address;
    for line in [
        "protocol detected direction=\"outbound\"".to_owned(),
        "route chosen request=\"one\"".to_owned(),
        "path=\"/a\" service=\"orders\"".to_owned(),
        format!("connection opened service=\"orders\" endpoint={endpoint}"),
        format!(
            "try sent request=\"one\" attempt=1 service=\"orders\" endpoint={endpoint} connection=\"new\""
        ),
        format!("try answered request=\"one\" endpoint={endpoint} status=200"),
        "request ended request=\"one\" status=200".to_owned(),
        format!(
            "try sent request=\"two\" attempt=1 service=\"orders\" endpoint={endpoint} connection=\"reused\""
        ),
    ] {
        assert!(log.contains(&line), "{line}\n{log}");
    }
    assert!(!log.contains("secret"), "{log}");
    for line in log.lines() {
        let target = line.split_whitespace().nth(2).unwrap_or_default();
        assert!(target.starts_with("pillion"), "{line}");
    }
}

/// Checks what a sidecar exposes.
async fn promtool(sidecar: &Sidecar) {
    let scratch = Scratch::new();
    let file = scratch.write("metrics", &sidecar.scrape().await.text);
    let mut lint = Command::new("sh");
    lint.arg("-c").arg(r#"promtool check metrics < "$0""#).arg(file);
    let output = run(lint).await;
    let said = text(&[output.stdout, output.stderr].concat());
    assert!(output.status.success() && said.is_empty(), "{said}");
}

/// Services and routes of which each is in another state of traffic management.
fn in_every_state(app: SocketAddr, silent: SocketAddr, dead: SocketAddr) -> String {
    format!(
        r#"
workload: {{ zone: a }}
inbound: off
outbound: {{ listen: 127.0.0.1:0 }}
services:
  ejected: {{ endpoints: ["{dead}", "{app}"], load_balancer: round_robin, outlier_detection: {{ consecutive_errors: 1, base_ejection: 1h }} }}
  hedged: {{ endpoints: ["{silent}", "{app}"], load_balancer: round_robin, retry: {{ hedge_after: 1ms }} }}
  adaptive: {{ endpoints: ["{app}"], circuit_breaker: {{ adaptive: gradient }} }}
  zones: {{ endpoints: [{{ address: "{app}", zone: a }}, {{ address: "{silent}", zone: b }}], slow_start: 1s }}
  failover: {{ endpoints: [{{ address: "{dead}" }}, {{ address: "{app}", priority: 1 }}], outlier_detection: {{ consecutive_errors: 1, base_ejection: 1h }} }}
  unhealthy: {{ endpoints: ["{dead}"], health_check: {{ tcp: true, interval: 1s, timeout: 1s }} }}
  hashed: {{ endpoints: ["{app}"], load_balancer: {{ ring_hash: {{ header: x-user }} }} }}
  full: {{ endpoints: ["{app}"], circuit_breaker: {{ max_pending_requests: 0 }} }}
  shadow: {{ endpoints: ["{app}"] }}
routes:
  - {{ name: mirrored, hosts: [mirrored], to: adaptive, mirror: {{ service: shadow, share: 100% }} }}
  - {{ name: aborted, hosts: [aborted], to: adaptive, fault: {{ abort: {{ status: 503, share: 100% }} }} }}
  - {{ name: limited, hosts: [limited], to: adaptive, rate_limit: {{ requests: 1, per: 1h }} }}
"#
    )
}

#[tokio::test]
async fn promtool_finds_no_fault_in_any_state_of_traffic_management() {
    if !require("promtool") {
        return;
    }
    let (app, silent) = (Backend::echo().await, Backend::stall().await);
    let sidecar = Plan::new(&in_every_state(app.address, silent.address, nobody())).start().await;
    let mut wire = Wire::connect(sidecar.outbound()).await;
    let hosts = [
        "ejected", "hedged", "adaptive", "zones", "failover", "hashed", "full", "mirrored", "aborted",
        "limited",
    ];
    for host in hosts.iter().chain(&hosts) {
        wire.get(host, "/").await;
    }
    let states: [(&str, &[(&str, &str)]); 10] = [
        ("pillion_endpoint_ejections_total", &[("service", "ejected")]),
        ("pillion_endpoints", &[("service", "failover"), ("state", "ejected")]),
        ("pillion_retries_total", &[("service", "hedged"), ("outcome", "hedged")]),
        ("pillion_circuit_breaker_limit", &[("service", "adaptive"), ("limit", "requests")]),
        ("pillion_requests_total", &[("service", "failover"), ("status", "200")]),
        ("pillion_requests_total", &[("service", "shadow"), ("route", "mirrored#mirror")]),
        ("pillion_requests_total", &[("route", "aborted"), ("reason", "fault_injected")]),
        ("pillion_requests_total", &[("route", "limited"), ("reason", "rate_limited")]),
        ("pillion_circuit_breaker_rejections_total", &[("service", "full"), ("limit", "pending")]),
        ("pillion_requests_total", &[("service", "unhealthy"), ("reason", "all_unhealthy")]),
    ];
    for (name, labels) in states {
        eventually(&format!("{name} {labels:?}"), async || {
            if labels.contains(&("service", "unhealthy")) {
                Wire::connect(sidecar.outbound()).await.get("unhealthy", "/").await;
            }
            (sidecar.scrape().await.sum(name, labels) > 0.0).then_some(())
        })
        .await;
    }
    promtool(&sidecar).await;
}

#[tokio::test]
async fn promtool_finds_no_fault() {
    if !require("promtool") {
        return;
    }
    let app = Backend::flaky().await;
    let pair = Pair::start(app.address, "", "").await;
    for host in ["orders", "orders", "nowhere"] {
        Wire::connect(pair.caller.outbound()).await.get(host, "/").await;
    }
    for sidecar in [&pair.caller, &pair.application] {
        promtool(sidecar).await;
    }
}

/// The metrics port offers no page that changes state.
#[tokio::test]
async fn the_metrics_port_changes_nothing() {
    let sidecar = Plan::new("inbound: off\noutbound: { listen: 127.0.0.1:0 }").start().await;
    assert_eq!(sidecar.page("/live").await.0, 200);
    assert_eq!(sidecar.page("/ready").await.0, 200);
    for path in ["/config", "/quitquitquit", "/drain", "/"] {
        assert_eq!(sidecar.page(path).await.0, 404, "{path}");
    }
    let answer = Wire::connect(sidecar.metrics()).await.ask("POST /ready HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(answer.status(), 405);
}

/// (256 - 64) / 2 inbound connections are allowed; the hundredth is closed.
#[tokio::test]
async fn c8_too_few_descriptors_are_logged_at_start_and_when_a_connection_is_closed() {
    let (scratch, inbound, app) = (Scratch::new(), free(), Backend::deaf().await);
    let file = scratch.write(
        "pillion.yaml",
        format!(
            "inbound: {{ listen: \"{inbound}\", app: \"{app}\" }}\noutbound: {{ listen: 127.0.0.1:0 }}\n\
             admin: {{ listen: 127.0.0.1:0 }}\nmetrics: {{ listen: 127.0.0.1:0 }}\n",
            app = app.address
        ),
    );
    let mut command = Command::new("sh");
    command
        .args(["-c", r#"ulimit -n 256 && exec "$0" run -c "$1""#, env!("CARGO_BIN_EXE_pillion")])
        .arg(file);
    let mut sidecar = Program::start(command);
    sidecar.line().await;
    let says = async |what: &str| {
        eventually(what, async || sidecar.errors().contains(what).then_some(())).await;
    };
    says("only 256 file descriptors may be open").await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(tokio::net::TcpStream::connect(inbound).await.expect("it listens"));
    }
    says("the limit of open connections is reached").await;
}

/// `pillion certs` makes files that the configuration accepts.
#[tokio::test]
async fn a_sidecar_without_its_certificates_says_that_it_is_ready_when_they_come() {
    let (scratch, metrics) = (Scratch::new(), free());
    let file = scratch.write(
        "pillion.yaml",
        format!(
            "identity: {{ directory: certs }}\ninbound: off\noutbound: {{ listen: 127.0.0.1:0 }}\n\
             admin: {{ listen: 127.0.0.1:0 }}\nmetrics: {{ listen: \"{metrics}\" }}\n"
        ),
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
    command.arg("run").arg("-c").arg(file);
    let mut sidecar = Program::start(command);
    let waits = async || {
        let mut wire = Wire::new(tokio::net::TcpStream::connect(metrics).await.ok()?);
        Some(wire.get("pillion", "/ready").await).filter(|answer| answer.text().contains("certificates"))
    };
    let answer = eventually("the sidecar says what it waits for", waits).await;
    assert_eq!(answer.status(), 503);
    assert!(sidecar.is_silent(), "not ready, and no line that says so");
    Authority::new().issue_into(&scratch.path().join("certs"), "web");
    let ready = sidecar.line().await;
    assert!(ready.starts_with("ready outbound=127.0.0.1:"), "{ready}");
    assert_eq!(Wire::connect(metrics).await.get("pillion", "/ready").await.status(), 200);
}

#[tokio::test]
async fn certificates_of_the_command_line_carry_a_pair() {
    let scratch = Scratch::new();
    let path = |name: &str| scratch.path().join(name).to_str().expect("text").to_owned();
    let (ca, web) = (path("ca"), path("web"));
    let made = pillion(&["certs", "ca", "--out", &ca, "--trust-domain", "cluster.local"]).await;
    assert!(made.status.success(), "{made:?}");
    let id = "spiffe://cluster.local/ns/default/sa/web";
    let issued = pillion(&["certs", "issue", "--ca", &ca, "--spiffe-id", id, "--out", &web]).await;
    assert!(issued.status.success(), "{issued:?}");
    let app = Backend::echo().await;
    let identity = format!("identity: {{ directory: \"{web}\" }}");
    let application = Plan::application(app.address, "").with(&identity).start().await;
    let caller =
        Plan::calling(application.inbound(), &format!("tls: \"{id}\"")).with(&identity).start().await;
    assert_eq!(Wire::connect(caller.outbound()).await.get("orders", "/").await.status(), 200);
    let stranger = Plan::calling(application.inbound(), "retry: off").identified(&Authority::new(), "web");
    let answer = Wire::connect(stranger.start().await.outbound()).await.get("orders", "/").await;
    assert_eq!(answer.status(), 502);
}
