//! `${NAME}` and `${NAME:-default}` in a whole file: where they are replaced, and that they never become structure.

use std::path::Path;
use std::time::Duration;

use pillion_config::{Errors, Fault, parse, parse_with};
use pillion_model::Config;
use pillion_model::cluster::UpstreamTls;
use pillion_model::policy::{RetryCondition, Timeout};

fn environment(name: &str) -> Option<String> {
    let value = match name {
        "N" => "4",
        "POD" => "web-7",
        "IP" => "10.0.0.1",
        "TIME" => "3s",
        "OFF" => "off",
        "EMPTY" => "",
        "NULL" => "null",
        "LIST" => "[10.0.0.1:80, 10.0.0.2:80]",
        "BLOCK" => "{ mode: simple }",
        "LINES" => "web\nworkers: 64",
        "ALIAS" => "*e",
        "AGAIN" => "${POD}",
        _ => return None,
    };
    Some(value.to_owned())
}

fn parsed(source: &str) -> Result<(Config, Vec<Fault>), Errors> {
    parse_with(source, Path::new("/etc/pillion"), &environment)
}

fn good(source: &str) -> Config {
    let complaints = crate::editor::complaints(source);
    assert!(complaints.is_empty(), "{source}\n{complaints:#?}");
    match parsed(source) {
        Ok((config, _)) => config,
        Err(errors) => unreachable!("{source}\n{errors}"),
    }
}

/// `LINE:COL MESSAGE. HELP` of each fault.
fn messages(source: &str) -> Vec<String> {
    let text = |fault: &Fault| {
        let help = fault.help.as_deref().unwrap_or_default();
        format!("{}:{} {}. {help}", fault.line, fault.column, fault.message)
    };
    parsed(source).expect_err("a faulty file").faults.iter().map(text).collect()
}

fn name(source: &str) -> Option<String> {
    good(source).workload.name
}

#[test]
fn faults_of_variables_are_reported_at_their_places_all_at_once() {
    let source = "\
workload: { name: \"${ABSENT}\", zone: 'a-${' }
services:
  a:
    endpoints: [\"${IP}:80\", \"${ALSO_ABSENT}:80\"]
    hosts: [a, \"${}\"]
    timeout: ${1X}
";
    assert_eq!(
        messages(source),
        [
            "1:19 workload.name uses `${ABSENT}`, which is not set. set it, or give a default: ${ABSENT:-…}",
            "1:38 workload.zone has a `${` without its `}`. write ${NAME} or ${NAME:-default}; write $$ for a dollar sign",
            "4:29 services.a.endpoints[1] uses `${ALSO_ABSENT}`, which is not set. \
             set it, or give a default: ${ALSO_ABSENT:-…}",
            "5:16 services.a.hosts[1] has `${}`, which is no variable. \
             write ${NAME} or ${NAME:-default}, names with letters, digits and _; write $$ for a dollar sign",
            "6:14 services.a.timeout has `${1X}`, which is no variable. \
             write ${NAME} or ${NAME:-default}, names with letters, digits and _; write $$ for a dollar sign",
        ]
    );
}

#[test]
fn a_fault_in_the_value_of_a_variable_names_the_variable() {
    assert_eq!(
        messages("workers: \"${POD}\""),
        ["1:10 workers is `web-7`, which is not a whole number. it comes from `${POD}`"]
    );
    assert_eq!(
        messages("services:\n  a:\n    endpoints: [\"${IP}\"]\n"),
        ["3:17 services.a.endpoints[0] is `10.0.0.1`, which is not an address. \
             add the port: 10.0.0.1:8080; it comes from `${IP}`"]
    );
}

#[test]
fn variables_are_replaced_in_every_style_of_text() {
    for source in [
        "workload: { name: \"${POD}\" }",
        "workload: { name: '${POD}' }",
        "workload:\n  name: ${POD}\n",
        "workload: { name: \"${ABSENT:-web-7}\" }",
        "workload:\n  name: ${ABSENT:-${POD}}\n",
        "workload:\n  name: >-\n    ${POD}\n",
        "workload:\n  name: &n ${POD}\n  zone: *n\n",
        "workload: { name: !!str \"${POD}\" } # ${ABSENT}",
        "workload: { zone: &n web-7, name: \"${POD}\" }",
    ] {
        assert_eq!(name(source).as_deref(), Some("web-7"), "{source}");
    }
    assert_eq!(name("workload: { name: \"a-${POD}-${N}-${ABSENT:-{b}}\" }").unwrap(), "a-web-7-4-{b}");
    assert_eq!(name("workload: { name: \"$${POD} costs $5, $$\" }").unwrap(), "${POD} costs $5, $");
}

/// In flow style, YAML reads the braces of a variable without quotes as a block.
#[test]
fn in_flow_style_yaml_reads_an_unquoted_variable_as_a_block() {
    let messages = messages("workload: { name: ${POD} }");
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert!(messages[0].starts_with("1:"), "{messages:?}");
    assert!(messages[0].contains("quotes"), "{messages:?}");
}

#[test]
fn a_value_that_is_a_variable_is_parsed_like_a_written_value() {
    let config = good(
        "workers: \"${N}\"\nversion: ${ONE:-1}\ninbound: ${OFF}\nadmin: { listen: \"127.0.0.1:${PORT:-0}\" }\n\
         services:\n  a:\n    endpoints: [\"${IP}:80\", { address: \"${IP}:81\", weight: \"${N}\" }]\n    \
         timeout: ${TIME}\n    tls: '${OFF}'\n    retry: { attempts: \"${N}\", on: [\"${X:-409}\", reset] }\n    \
         max_duration: ${ABSENT:-off}\n",
    );
    assert_eq!((config.workers.unwrap().get(), config.inbound), (4, None));
    let cluster = &config.clusters[0];
    assert_eq!(cluster.endpoints[1].weight.get(), 4);
    assert_eq!(
        (cluster.timeouts.request, cluster.timeouts.max_duration),
        (Timeout::Set(Duration::from_secs(3)), None)
    );
    assert_eq!(cluster.tls, UpstreamTls::Off);
    let retry = cluster.retry.as_ref().unwrap();
    assert_eq!(retry.attempts, 4);
    assert_eq!(retry.conditions, [RetryCondition::Status(409), RetryCondition::Reset]);
    assert_eq!(
        good("services: { a: { endpoints: [\"${IP}:80\"], retry: \"${OFF}\" } }").clusters[0].retry,
        None
    );
}

#[test]
fn an_empty_default_leaves_the_key_out_and_an_empty_variable_does_not() {
    let service =
        |timeout: &str| format!("services: {{ a: {{ endpoints: [10.0.0.1:80], timeout: {timeout} }} }}");
    for nothing in ["\"${ABSENT:-}\"", "'${EMPTY:-}'", "\"${ABSENT:-null}\"", "\"${ABSENT:-~}\""] {
        let timeouts = &good(&service(nothing)).clusters[0].timeouts;
        assert_eq!(timeouts.request, Timeout::Default);
    }
    for text in ["\"${EMPTY}\"", "\"${NULL}\"", "\"${NULL:-1s}\""] {
        assert_eq!(messages(&service(text)).len(), 1, "{text}");
    }
    // an empty variable must not allow more peers
    let tls = "identity: { directory: c }\nservices: { a: { endpoints: [10.0.0.1:80], tls: { identities: \"${EMPTY}\" } } }";
    assert!(messages(tls)[0].starts_with("2:63 services.a.tls.identities is ``"), "{:?}", messages(tls));
}

#[test]
fn keys_are_never_replaced() {
    assert_eq!(
        messages("\"${POD}\": 1\nservices: { \"${POD}\": { endpoints: [10.0.0.1:80] } }"),
        [
            "1:1 the file has no key `${POD}`. variables are replaced in values alone, never in keys",
            "2:13 services has a key that is `${POD}`, which is not a service's name. \
             variables are replaced in values alone, never in keys",
        ]
    );
    assert_eq!(messages("inbound: { ports: { \"${N}\": {} } }").len(), 1);
    // the same text is once a key and once a value
    assert_eq!(messages("services: { &n \"${POD}\": { endpoints: [10.0.0.1:80], hosts: [*n] } }").len(), 1);
}

#[test]
fn the_value_of_a_variable_never_becomes_structure() {
    for source in [
        "services: { a: { endpoints: \"${LIST}\" } }",
        "services: { a: { endpoints: [\"${LIST}\"] } }",
        "services: { a: { endpoints: [10.0.0.1:80], tls: \"${BLOCK}\" } }",
        "services: { a: { endpoints: [10.0.0.1:80], connection: \"${BLOCK}\" } }",
        "services: { a: { endpoints: [10.0.0.1:80], connection: \"${ABSENT:-{ idle_timeout: 1s }}\" } }",
        "services: { a: { endpoints: &e [10.0.0.1:80] }, b: { endpoints: \"${ALIAS}\" } }",
        "services: \"${BLOCK}\"",
        "\"${BLOCK}\"",
    ] {
        assert_eq!(messages(source).len(), 1, "{source}");
    }
    let config = good("workload: { name: \"${LINES}\", zone: \"${LIST}\" }");
    assert_eq!(config.workload.name.as_deref(), Some("web\nworkers: 64"));
    assert_eq!((config.workload.zone.as_deref(), config.workers), (Some("[10.0.0.1:80, 10.0.0.2:80]"), None));
    // variables in the value of a variable are not replaced
    assert_eq!(name("workload: { name: \"${AGAIN}\" }").as_deref(), Some("${POD}"));
}

#[test]
fn paths_of_variables_start_at_the_file_s_folder_too() {
    let identity = good("identity: { directory: \"${ABSENT:-certs}/${POD}\" }").identity.unwrap();
    assert_eq!(identity.files().unwrap().key, Path::new("/etc/pillion/certs/web-7/tls.key"));
}

#[test]
fn a_warning_about_a_variable_has_its_place() {
    let source = "services:\n  a:\n    endpoints: [\"10.0.0.1:80\"]\n    timeout: ${TIME}\n    retry: { per_try_timeout: \"${TIME}\" }\n";
    let warnings = parsed(source).unwrap().1;
    assert_eq!((warnings.len(), warnings[0].line, warnings[0].column), (1, 5, 31));
}

#[test]
fn a_dollar_sign_in_a_comment_changes_nothing() {
    let samples =
        [include_str!("../../../samples/pillion.yaml"), include_str!("../../../samples/caller.yaml")];
    for sample in samples {
        assert_eq!(good(sample), good(&format!("{sample}\n# ${{ABSENT}} $$\n")));
    }
    let shared: String = (0..100).map(|n| format!("  s{n}: {{ endpoints: *e }}\n")).collect();
    let endpoints = vec!["10.0.0.1:80"; 100].join(", ");
    good(&format!("services:\n  a: {{ endpoints: &e [{endpoints}] }}\n{shared}# $\n"));
}

#[test]
fn the_variables_of_the_process_are_used_by_default() {
    let source = "workload: { name: \"${CARGO_PKG_NAME}\" }";
    let config = parse(source, Path::new("")).expect("cargo sets it for tests").0;
    assert_eq!(config.workload.name.as_deref(), Some("pillion-config"));
}

#[test]
fn a_small_file_cannot_grow_without_bound() {
    let long = |_: &str| Some("x".repeat(100_000));
    let source = format!(
        "services: {{ a: {{ endpoints: [10.0.0.1:80], hosts: [{}] }} }}",
        "\"${X}\", ".repeat(10_000)
    );
    let errors = parse_with(&source, Path::new(""), &long).unwrap_err();
    assert!(errors.to_string().len() < 1_000_000);
    let names = format!("workload: {{ name: \"{}\" }}", "${X}".repeat(1000));
    let errors = parse_with(&names, Path::new(""), &long).unwrap_err();
    assert!(errors.to_string().contains("longer than 4 MiB"), "{}", errors.faults[0]);
}
