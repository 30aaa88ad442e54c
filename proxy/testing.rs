//! The proxy's stories: whole sidecars on a network in memory, under a paused clock.
//!
//! A [`mesh::Mesh`] starts sidecars from the text of a configuration, exactly as they start on the real network,
//! on the runtime of the test. Back-ends are scripts over a byte stream ([`backend`], [`http2`]), clients count
//! bytes ([`peer`]). No test here waits: time passes when every task waits for it.
//!
//! Deliberately absent: sockets, threads, real time. `tests/` has those.

mod backend;
mod bench;
mod http2;
mod logged;
mod mesh;
mod peer;

mod admin;
mod authorization;
mod balancing;
mod blame;
mod caching;
mod client_gone;
mod codes;
mod crowds;
mod cuts;
mod destinations;
mod detection;
mod dns;
mod draining;
mod early_answers;
mod explain;
mod ext_authz;
mod families;
mod forms;
mod framing;
mod garbage;
mod grpc;
mod heads;
mod hedges;
mod health_checks;
mod http2_bounds;
mod http2_streams;
mod layers_inbound;
mod layers_outbound;
mod kubernetes;
mod known_bugs;
mod istio;
mod limits;
mod long_lived;
mod memory_limit;
mod merge;
mod mtls;
mod never_opaque;
mod outliers;
mod outside;
mod patience;
mod peer_reason;
mod pool_http1;
mod pool_http2;
mod probes;
mod redials;
mod refused;
mod regressions;
mod reload;
mod replaced;
mod replay;
mod resets;
mod retries;
mod route_actions;
mod rotation;
mod routes;
mod rules;
mod scale;
mod series;
mod serving_http1;
mod simulation;
mod spelling;
mod strangers;
mod timelines;
mod timeouts;
mod tokens;
mod traces;
mod tunnels;
mod unfinished;
mod unserved;
mod versions;
mod walk;
mod workload;
