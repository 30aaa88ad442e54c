//! An identity from a SPIFFE Workload API.

use std::path::Path;
use std::time::Duration;

use pillion_model::identity::{Identity, WorkloadApi};

use crate::{bad, good};

const API: &str = "workload_api: unix:///run/spire/agent.sock";

fn identity(keys: &str) -> Identity {
    good(&format!("identity: {{ {keys} }}")).identity.expect("an identity")
}

#[test]
fn a_workload_api_has_a_socket_and_the_keys_that_files_have_too() {
    let plain =
        WorkloadApi { socket: "/run/spire/agent.sock".into(), trust_domain: None, max_connection_age: None };
    assert_eq!(identity(API), Identity::WorkloadApi(plain.clone()));
    assert_eq!(
        identity("workload_api: \"unix:/run/spire/agent.sock\""),
        Identity::WorkloadApi(plain.clone())
    );
    let (trust_domain, max_connection_age) = (Some("shop.example".into()), Some(Duration::from_secs(60)));
    let full = WorkloadApi { trust_domain, max_connection_age, ..plain };
    let keys = format!("{API}, trust_domain: shop.example, max_connection_age: 60s");
    assert_eq!(identity(&keys), Identity::WorkloadApi(full));
}

#[test]
fn a_workload_api_is_told_as_it_is_written() {
    let text = format!("identity: {{ {API} }}");
    let (config, _) = pillion_config::parse(&text, Path::new("")).unwrap();
    let written = pillion_config::Written { name: "p.yaml", text: &text };
    let told = pillion_config::effective(&config, Some(written), &[]);
    let told: Vec<_> = told.iter().filter(|setting| setting.key.starts_with("identity")).collect();
    let values: Vec<_> = told.iter().map(|setting| format!("{} {}", setting.key, setting.value)).collect();
    assert_eq!(
        values,
        [
            "identity.workload_api \"unix:///run/spire/agent.sock\"",
            "identity.trust_domain null",
            "identity.max_connection_age \"off\"",
        ]
    );
}

#[test]
fn the_identity_comes_from_a_workload_api_or_from_files() {
    for key in [
        "directory: certs",
        "certificate: a",
        "key: a",
        "trust_bundle: a",
        "crl: a",
        "federation: { partner.example: a }",
    ] {
        let errors = bad(&format!("identity: {{ {API}, {key} }}"));
        let [fault] = errors.faults.as_slice() else { unreachable!("{errors}") };
        let name = key.split(':').next().unwrap();
        assert!(fault.message.contains(&format!("has `workload_api` and `{name}`")), "{fault}");
        assert!(fault.help.as_deref().unwrap_or_default().contains("keep one of the two"), "{fault}");
    }
}

#[test]
fn an_address_that_is_no_absolute_path_of_a_unix_socket_is_a_fault_with_help() {
    let long = format!("unix:///{}", "x".repeat(107));
    for (address, what, help) in [
        ("/run/spire/agent.sock", "is not the address of a Unix socket", "unix:///run/spire/agent.sock"),
        ("unix://run/spire/agent.sock", "without an absolute path", "unix:///run/spire/agent.sock"),
        ("unix:agent.sock", "without an absolute path", "unix:///run/spire/agent.sock"),
        ("unix:", "without an absolute path", "unix:///run/spire/agent.sock"),
        ("unix:///run/agent.sock?x=y", "has no query", "unix:///run/spire/agent.sock"),
        ("tcp://127.0.0.1:8081", "over TCP is not supported", "give the Unix socket"),
        (&long, "path is too long", "107 bytes"),
    ] {
        let errors = bad(&format!("identity: {{ workload_api: \"{address}\" }}"));
        let [fault] = errors.faults.as_slice() else { unreachable!("{errors}") };
        assert!(fault.message.contains(what), "{fault}");
        assert!(fault.help.as_deref().unwrap_or_default().contains(help), "{fault}");
    }
}

/// Its bundles may come later, while those of files are known.
#[test]
fn a_service_of_another_trust_domain_is_no_fault_with_a_workload_api() {
    let service = "services: { a: { endpoints: [10.0.0.1:80], tls: \"spiffe://partner.example/a\" } }";
    good(&format!("identity: {{ {API}, trust_domain: cluster.local }}\n{service}"));
    bad(&format!("identity: {{ directory: certs, trust_domain: cluster.local }}\n{service}"));
}
