//! End-to-end tests on real sockets: processes of the built binary, hostile peers, and common clients.
//!
//! Tests wait for events and use short configured limits. No test sleeps for a fixed time to get its result.

#[path = "../support/mod.rs"]
mod support;

mod admin;
mod alerts;
mod authorization;
mod authorizer;
mod bench;
mod cache;
mod checks;
mod clients;
mod cuts;
mod dashboard;
mod dns;
mod documents;
mod drain;
mod early;
mod exec;
mod explain;
mod grafana;
mod grpc;
mod hardened;
mod headers;
mod house;
mod init;
mod inject;
mod injected;
mod isolation;
mod kubernetes;
mod lenient;
mod lifecycle;
mod logs;
mod loops;
mod many;
mod measured;
mod merged;
mod matrix;
mod memory;
mod opaque;
mod outside;
mod packages;
mod pods;
mod policy;
mod probes;
mod process;
mod production;
mod prometheus;
mod redirect;
mod refused;
mod reload;
mod rotation;
mod status;
mod streaming;
mod sync;
mod takeover;
mod tokens;
mod top;
mod traces;
mod transparent;
mod tunnels;
mod versions;
mod walk;
mod webhook;
mod workload;
