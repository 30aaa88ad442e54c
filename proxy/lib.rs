//! Pillion, a layer-4/7 service-mesh sidecar proxy: one binary beside one application.
//!
//! This page is the map: read it, then follow a connection or a request from file to file. `docs/architecture.md` says
//! why the code is divided into these crates. A service of the configuration file is called a cluster in the code as
//! soon as it has endpoints, pools, limits and outlier detection.
//!
//! # The life of a connection
//! 1. [`app`] builds clusters and credentials from a checked configuration ([`pillion_model`]), binds every address
//!    through [`pillion_base::net`], and starts a thread for each worker. Each worker has its own listeners, timers and
//!    pools. The kernel spreads connections over the workers (SO_REUSEPORT, set so that no other sidecar can join).
//! 2. A reload opens and closes a worker's listeners (`app::worker`, [`listening`]). One accept loop
//!    ([`pillion_base::accept`]) hands each connection to [`serve`](pillion_sidecar::serve). That counts the connection
//!    against its limit, and spawns a task that owns it:
//!    [`Outbound::serve`](pillion_sidecar::outbound::Outbound::serve) or
//!    [`Inbound::serve`](pillion_sidecar::inbound::Inbound::serve). While it is open, the connection holds a
//!    [`Place`](pillion_sidecar::connection::Place): its permit, and its count in the drain. A
//!    [`Destination`](pillion_sidecar::connection::Destination) says where the connection goes, as far as this is known
//!    before its bytes are read: to the service of a service's own port, to the original destination of a redirected
//!    connection ([`state`](pillion_sidecar::state)), or to the destination that each request names.
//! 3. Outbound: [`outbound`](pillion_sidecar::outbound) closes connections from other hosts. Inbound:
//!    [`inbound`](pillion_sidecar::inbound) makes the TLS handshake ([`pillion_tls`]), which proves the peer's SPIFFE
//!    ID. On a strict port, a plaintext HTTP/1 client gets an answer with the reason; every plaintext connection is
//!    closed. The current rules, those of authorization too, apply: they are read again after each wait on the client,
//!    with each request, before an application is dialled early, and before opaque bytes are carried. A peer with a
//!    certificate is judged anew before its next opaque bytes when the rules have changed.
//! 4. Unless the protocol is declared, [`detect`](pillion_sidecar::detect) finds it: by the first bytes, or because the
//!    server speaks first. Bytes that any HTTP server might read as a request are HTTP, which is served or refused.
//!    Each side does this in its `decide`: it examines the connection and acts by the current configuration, until
//!    there is a [`Next`](pillion_sidecar::serve::Next), which is HTTP or opaque bytes.
//! 5. An opaque connection goes to [`tcp`](pillion_sidecar::tcp): it dials an endpoint, and further ones where
//!    [`retry`](pillion_upstream::cluster::retry) allows it; [`relay`](pillion_base::relay) carries bytes both ways.
//!    The connection has [`Facts`](pillion_sidecar::exchange::Facts), as a request has, with an attempt for each dial.
//!    Every connection that the sidecar makes, for HTTP too, is a [`Leg`](pillion_base::net::Leg): its source address
//!    tells the redirect rules of a pod which side made it. If wrong rules bring such a connection back,
//!    [`returning`](pillion_base::net::returning) recognises it.
//! 6. HTTP goes to [`http::server`](pillion_sidecar::http::server). HTTP/1:
//!    [`http::h1_server`](pillion_sidecar::http::h1_server), one task, which reads a head, carries the request and
//!    writes its answer. A connection that waits holds no buffer, and the drain does not wait for one that has been
//!    idle for a second. `pillion_http1` does the framing, here and ([`pillion_http::h1`]) towards endpoints. HTTP/2:
//!    [`http::h2_server`](pillion_sidecar::http::h2_server), with a task for each stream. It uses [`pillion_http::h2`],
//!    which uses the crate `h2`, here and towards endpoints.
//! 7. Each request goes through the stack of its direction, below. A request that becomes a tunnel
//!    ([`http::tunnel`](pillion_sidecar::http::tunnel)) ends as opaque bytes. When the [`drain`](pillion_base::drain)
//!    begins, answers announce that their connection will close. Later, the inbound side refuses new requests
//!    ([`layers::closing`](pillion_sidecar::layers::closing)). The process ends when no connection is at work any more.
//!
//! # The life of a request
//! These are the steps of the outbound side, from the application to a service
//! ([`outbound::stack`](pillion_sidecar::outbound::stack)). The inbound side differs in four points:
//! [`closing`](pillion_sidecar::layers::closing) comes before the route, no route changes a request, a single attempt
//! has no timeout, and a request is sent again only where the application had just closed the connection that was taken
//! from its pool.
//! 1. `http::h1_server::carrying`, or `http::h2_server::carry` for a stream of HTTP/2, makes a
//!    [`Call`](pillion_sidecar::http::Call) (the request with its context) and an
//!    [`Exchange`](pillion_sidecar::http::Exchange) (what is known of it, with its
//!    [`attempts`](pillion_sidecar::exchange::attempts), until the last byte of its answer).
//! 2. [`record`](pillion_sidecar::layers::record) sees the end of every exchange: it makes the metrics and the access
//!    line.
//! 3. [`rescue`](pillion_sidecar::layers::rescue) turns errors into answers that say why
//!    ([`answer`](pillion_sidecar::http::answer), [`error`](pillion_base::error)).
//! 4. [`route`](pillion_sidecar::layers::route) finds the [`Route`](pillion_sidecar::state::Route), and applies
//!    authorization rules (inbound, `pillion_authz`) and rate limits; from here on the call has its policy. A route may
//!    also answer itself, or change headers of the answer.
//! 5. [`headers`](pillion_sidecar::layers::headers) adds the headers that the next hop needs, and removes those that it
//!    must not trust.
//! 6. [`timeout`](pillion_sidecar::layers::timeout) bounds all attempts together.
//! 7. [`amend`](pillion_sidecar::layers::amend) applies what a route does to a request: injected faults, a rewrite,
//!    changed headers, a copy to a mirror.
//! 8. [`cache`](pillion_sidecar::layers::cache) answers from the cache of the service, if it has one, and keeps answers
//!    there (`pillion_cache`).
//! 9. [`retry`](pillion_sidecar::layers::retry) sends the request again where
//!    [`verdict`](pillion_sidecar::layers::verdict) allows it.
//! 10. [`timeout`](pillion_sidecar::layers::timeout) bounds a single attempt.
//! 11. [`limit`](pillion_sidecar::layers::limit) bounds the requests that are under way at once.
//! 12. [`dispatch`](pillion_sidecar::dispatch) picks an endpoint ([`balance`](pillion_upstream::cluster::balance)),
//!     takes a connection to it ([`lease`](pillion_upstream::lease): from its [`pool`](pillion_upstream::pool), or a
//!     new one), sends, and tells the endpoint's outlier detection how it went.
//! 13. The answer passes back through the layers. Its body has a tail ([`pillion_http::body`]), which holds the
//!     connection, permits and counters until the answer's last byte, and then ends the exchange.
//!
//! # What changes while it runs
//! - A new configuration becomes a new snapshot ([`state`](pillion_sidecar::state)), which [`app`] swaps in as a whole.
//!   Clusters and routes that did not change are the same objects in both.
//! - An update of one service's endpoints ([`update`](pillion_upstream::cluster::update), from any source) replaces
//!   that cluster's set of endpoints ([`set`](pillion_upstream::cluster::set)) in place, and touches nothing else.
//! - A new set of certificates, bundles and revocation lists, from files or from a SPIFFE Workload API (`workload`), makes
//!   a new snapshot with new TLS settings, which is swapped in as a whole, too.
//! - A health check of one endpoint ([`health`](pillion_upstream::cluster::health)) changes that endpoint alone. One
//!   checker for the whole process (`app::checks`) runs beside the data path.
//!
//! - Above `limits.max_memory`, `app::memory` empties caches, and closes and refuses connections, as [`pillion_base::memory::shedding`]
//!   decides. It runs beside the data path.
//!
//! # Crates
//! Each crate may use those to its right, and an import in the other direction does not compile: `pillion` ([`cli`] →
//! [`app`] → `admin`, `explained`, `preflight`, `dns`, `workload`, `traces`, `api_server`, `webhook`) → [`pillion_sidecar`] → [`pillion_upstream`] → [`pillion_cache`] → [`pillion_http`] → [`pillion_tls`] →
//! [`pillion_base`] → [`pillion_telemetry`] → [`pillion_model`]. Ten crates are outside this line: [`pillion_companion`], above [`pillion_upstream`], gives companions of the application their threads (`app::companions`) and connects to servers that the operator names by URL; [`pillion_sync`], above that, keeps files as a source has them, and [`pillion_logs`] ships log files; [`pillion_config`]
//! reads the file into the model; `pillion_authz`, below [`pillion_sidecar`], judges by authorization rules;
//! `pillion_grpc`, below it too, makes calls of gRPC over tonic's framing;
//! `pillion_kubernetes`, which `api_server` uses, makes endpoints of EndpointSlices;
//! `pillion_init` installs the kernel's redirect rules before the sidecar runs; [`pillion_inject`] writes the sidecar into manifests of
//! Kubernetes; `pillion_http1`, the HTTP/1 engine without sockets, is below [`pillion_http`]. hyper serves the admin and metrics
//! ports, and sends health probes; no request of the data path passes through it. Within a crate, `lib.rs` lists the
//! modules from top to bottom, and `tests/e2e/house.rs` fails on an import of a module that is higher up
//! (`pillion_config` alone has no such order).
//!
//! What runs inside a CONNECT enters the outbound side again, through a function that the side gives to its route
//! layer.
//!
//! `api_server` watches the EndpointSlices of Kubernetes on the thread that keeps the sidecar up to date. A watch that ends, and a
//! server that is away, change no endpoint.
//!
//! Spans are made from the timelines of requests that are traced ([`pillion_sidecar::traces`] decides which), and are sent by
//! `traces`, beside the data path. `preflight` judges what is wrong
//! around the sidecar (`pillion check --live`).
//!
//! `manager` tells systemd when the sidecar serves, reads its configuration anew, drains, and has a successor.
//!
//! [`takeover`] gives the listeners to a successor, and takes them from a predecessor (`--takeover`); accepted connections stay.
//!
//! The DNS proxy (`dns`) has a thread of its own. It answers for services from the same snapshot; a virtual address in
//! an answer leads the connection to its service.
//!
//! # What is deliberately absent
//! - The data path reads no file and no YAML, and holds no lock across an await.
//! - A connection that waits, undecided or idle, holds no buffer.
//! - Layers hold no state, and do not depend on the stack of one direction; decisions (`verdict`, `cluster::*`) take
//!   `now` and data.
//! - No queue, buffer or set of labels is without a bound, and no wait on a peer is without a deadline.
//! - There is no `unsafe` in these crates, except the one call of [`pillion_base::memory::program`].
#[cfg(test)]
mod testing;
#[doc(hidden)]
pub mod bench;
pub mod cli;
pub mod app;
pub(crate) mod admin;
pub(crate) mod explained;
pub(crate) mod preflight;
pub(crate) mod dns;
pub(crate) mod workload;
pub(crate) mod traces;
pub(crate) mod api_server;
pub(crate) mod takeover;
pub(crate) mod webhook;
pub(crate) mod listening;
pub(crate) mod manager;

pub use pillion_base::memory::allocator::set as give_memory_back_by;
