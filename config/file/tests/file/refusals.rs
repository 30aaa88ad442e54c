//! The full example of the public interface loads; keys whose feature does not exist yet are refused by name.

use crate::bad;

const FULL: &str = include_str!("interface.yaml");

#[test]
fn the_full_example_loads() {
    crate::loaded(FULL);
}

/// Values that the full example has only in comments, or not at all.
#[test]
fn the_alternatives_of_the_public_interface_are_refused_by_name() {
    let cases = [("access_log: { format: logfmt }".to_owned(), "access_log.format")];
    for (source, key) in cases {
        let errors = bad(&source);
        let refused = errors.faults.iter().any(|f| f.path == key && f.message.ends_with("not supported yet"));
        assert!(refused, "{source}\n{errors}");
    }
}

#[test]
fn keys_of_a_route_that_are_off_or_empty_are_not_refused() {
    crate::loaded(
        "services: { a: { endpoints: [10.0.0.1:80] } }\n\
         routes: [{ hosts: [a], to: a, match: { query: {} }, mirror: off, fault: off, rewrite: {}, \
         request_headers: {}, response_headers: {}, rate_limit: off, retry: { hedge_after: off } }]\n",
    );
}

#[test]
fn keys_that_are_off_or_empty_are_not_refused() {
    crate::loaded(
        "defaults: {}\nroutes: []\ndns: off\n\
         inbound: { rate_limit: off, probes: [] }\n\
         metrics: { merge: [], compatibility: [] }\n\
         services:\n  a:\n    endpoints: [10.0.0.1:80]\n    addresses: []\n    health_check: off\n    slow_start: off\n    \
         retry: { hedge_after: off }\n    circuit_breaker: { adaptive: off, max_connections_per_endpoint: false }\n    \
         outlier_detection: { error_rate: off, gateway_errors: off, connect_failures: off }\n",
    );
}
