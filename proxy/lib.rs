//! Pillion, a layer-4/7 service-mesh sidecar proxy: one binary beside one application.
//!
//! This page is the map. Read it, then follow a connection or a request file by file. The crates are the floors of the
//! house; `docs/architecture.md` says why they are cut as they are. What the file calls a service is a cluster in the code
//! from the moment at which it is put to work: its endpoints, pools, limits and standing.
//!
//! # The life of a connection
//! 1. [`app`] builds clusters and credentials from a checked configuration ([`pillion_model`]), binds every address
//!    through [`pillion_base::net`], and starts a thread for each worker. A worker has listeners, timers and pools of its
//!    own; the kernel spreads connections over workers (SO_REUSEPORT, and no other sidecar can join).
//! 2. A worker's listeners come and go with the configuration (`app::worker`, [`listening`]). One accept loop
//!    ([`pillion_base::accept`]) hands each connection to [`serve`](pillion_sidecar::serve), which counts it against its limit
//!    and spawns a task that owns it: [`Outbound::serve`](pillion_sidecar::outbound::Outbound::serve) or
//!    [`Inbound::serve`](pillion_sidecar::inbound::Inbound::serve). A [`Place`](pillion_sidecar::connection::Place) is what
//!    it takes up meanwhile: its permit, and its count in the drain. What is known of where it goes without its bytes is a
//!    [`Destination`](pillion_sidecar::connection::Destination): a service's own port, or the original destination of a
//!    redirected connection ([`state`](pillion_sidecar::state)), or nothing.
//! 3. Outbound: [`outbound`](pillion_sidecar::outbound) turns away other hosts. Inbound:
//!    [`inbound`](pillion_sidecar::inbound) shakes hands ([`pillion_tls`]) and knows the peer's SPIFFE ID from then on;
//!    plaintext on a strict port is told why it is refused, and is closed. It is judged by the rules of the moment: they are
//!    read again after each wait on the client, with each request, and before opaque bytes pass.
//! 4. Unless it was declared, [`detect`](pillion_sidecar::detect) tells what is spoken: by first bytes, or because the
//!    server speaks first. What any HTTP server might read as a request is HTTP, to be served or refused. Each side does
//!    this in its `decide`: it looks at the connection, and acts by the configuration of that moment, until it is a
//!    [`Next`](pillion_sidecar::serve::Next), which is HTTP or opaque bytes.
//! 5. What is opaque goes to [`tcp`](pillion_sidecar::tcp): an endpoint is dialled, and others as
//!    [`retry`](pillion_upstream::cluster::retry) allows; [`relay`](pillion_base::relay) carries bytes both ways. What is
//!    known of it stands in the [`Facts`](pillion_sidecar::exchange::Facts) that a request has, too, with an attempt for
//!    each dial. Every connection that we make ourselves, for HTTP too, is a
//!    [`Leg`](pillion_base::net::Leg): the address that it comes from tells a pod's rules which side made it, and
//!    [`returning`](pillion_base::net::returning) knows it, should wrong rules bring it back.
//! 6. HTTP goes to [`http::server`](pillion_sidecar::http::server). HTTP/1:
//!    [`http::h1_server`](pillion_sidecar::http::h1_server), one task, which reads a head, carries the request and writes
//!    its answer; a connection that waits holds no buffer, and one that has been idle for a second no timer. It stands on
//!    `pillion_http1`, here and ([`pillion_http::h1`]) towards endpoints. HTTP/2:
//!    [`http::h2_server`](pillion_sidecar::http::h2_server), with a task for each stream. It stands on [`pillion_http::h2`],
//!    which stands on the crate `h2`, here and towards endpoints.
//! 7. Each request goes through the stack of its direction, below. One that becomes a tunnel
//!    ([`http::tunnel`](pillion_sidecar::http::tunnel)) ends as opaque bytes. When the [`drain`](pillion_base::drain)
//!    begins, answers say goodbye; later inbound refuses what is new ([`layers::closing`](pillion_sidecar::layers::closing)),
//!    and the process ends when no connection is at work any more.
//!
//! # The life of a request
//! Outbound, from the application to a service ([`outbound::stack`](pillion_sidecar::outbound::stack)); inbound is the
//! same with [`closing`](pillion_sidecar::layers::closing) before the route, without the bound of a single attempt, and
//! with a retry only where the application had just closed the connection that was taken from its pool:
//! 1. `http::h1_server::carrying`, or `http::h2_server::carry` for a stream of HTTP/2, makes a
//!    [`Call`](pillion_sidecar::http::Call) (the request and what travels with it) and an
//!    [`Exchange`](pillion_sidecar::http::Exchange) (what is known of it, with its
//!    [`attempts`](pillion_sidecar::exchange::attempts), until the last byte of its answer).
//! 2. [`record`](pillion_sidecar::layers::record) sees every ending: metrics and access line come from here.
//! 3. [`rescue`](pillion_sidecar::layers::rescue) turns errors into answers that say why
//!    ([`answer`](pillion_sidecar::http::answer), [`error`](pillion_base::error)).
//! 4. [`route`](pillion_sidecar::layers::route) finds the [`Route`](pillion_sidecar::state::Route); from here on policy
//!    travels with the call.
//! 5. [`headers`](pillion_sidecar::layers::headers) adds what the next hop must know and removes what it must not believe.
//! 6. [`timeout`](pillion_sidecar::layers::timeout) bounds all attempts together.
//! 7. [`retry`](pillion_sidecar::layers::retry) sends again what may be sent again;
//!    [`verdict`](pillion_sidecar::layers::verdict) says what that is.
//! 8. [`timeout`](pillion_sidecar::layers::timeout) bounds a single attempt.
//! 9. [`limit`](pillion_sidecar::layers::limit) admits at most so many at once.
//! 10. [`dispatch`](pillion_sidecar::dispatch) picks an endpoint ([`balance`](pillion_upstream::cluster::balance)), takes
//!     a connection to it ([`lease`](pillion_upstream::lease): from its [`pool`](pillion_upstream::pool), or a new one),
//!     sends, and tells the endpoint's outlier detection how it went.
//! 11. The answer climbs back. What must last until its final byte (connection, permits, counters) rides on its body as
//!     one tail ([`pillion_http::body`]), and ends the exchange when that ends.
//!
//! # What changes while it runs
//! - A new configuration becomes a new snapshot ([`state`](pillion_sidecar::state)), which [`app`] swaps in as a whole.
//!   Clusters and routes that nothing concerns are the same objects in both.
//! - News of one service's endpoints ([`update`](pillion_upstream::cluster::update), whoever brings it) replaces that
//!   cluster's set of endpoints ([`set`](pillion_upstream::cluster::set)) in place. Nothing else is looked at.
//!
//! # Floors
//! Arrows point down, and an import that looks up does not compile: `pillion` ([`cli`] → [`app`] → `admin`, `dns`) →
//! [`pillion_sidecar`] → [`pillion_upstream`] → [`pillion_http`] → [`pillion_tls`] → [`pillion_base`] →
//! [`pillion_telemetry`] → [`pillion_model`]. Beside them stand [`pillion_config`], which reads the file into the model, and
//! `pillion_init`, which installs the rules of the kernel that bring connections here before this runs. Below
//! [`pillion_http`] stands `pillion_http1`, the HTTP/1 engine without sockets. hyper serves the admin and metrics ports
//! and asks probes; no request of the data path passes through it. Within a crate, `lib.rs` lists the modules from top to
//! bottom, and `tests/e2e/house.rs` fails on an import that looks up (`pillion_config` alone has no such order).
//!
//! What runs inside a CONNECT enters the outbound side again, through a function that the side gives to its route layer.
//!
//! The DNS proxy (`dns`) has a thread of its own. Its answers for services come from the same snapshot, whose virtual
//! addresses lead the connection back to the service.
//!
//! # What is deliberately absent
//! - The data path reads no file and no YAML, and holds no lock across an await.
//! - A connection that waits, undecided or idle, holds no buffer.
//! - Layers hold no state and name no direction's stack; decisions (`verdict`, `cluster::*`) take `now` and data.
//! - Queues, buffers and label sets have bounds, and so has every wait on a peer.
//! - `unsafe` is nowhere in these crates.
#[cfg(test)]
mod testing;
#[doc(hidden)]
pub mod bench;
pub mod cli;
pub mod app;
pub(crate) mod admin;
pub(crate) mod dns;
pub(crate) mod listening;
