//! Pillion, a layer-4/7 service-mesh sidecar proxy: one binary beside one application.
//!
//! This page is the map. Read it, then follow a request file by file.
//!
//! # The life of a connection
//! 1. [`app`] builds clusters and credentials from a checked configuration (`pillion_model`), binds every address
//!    through [`net`], and starts a thread for each worker. A worker has listeners, timers and pools of its own;
//!    the kernel spreads connections over workers (SO_REUSEPORT, and no other sidecar can join).
//! 2. [`serve`] accepts, counts the connection against its limit, and spawns a task that owns it. What is known of
//!    its destination without its bytes is a [`connection::Destination`]: a service's own port, or the address that it
//!    was redirected from ([`state`]), or nothing.
//! 3. Outbound: [`outbound`] turns away other hosts. Inbound: [`inbound`] shakes hands ([`tls`]) and knows the
//!    peer's SPIFFE ID from then on; plaintext on a strict port hears why it is refused, and is closed.
//! 4. Unless it was declared, [`detect`] tells what is spoken: by first bytes, or because the server speaks first. What
//!    any HTTP server might read as a request is HTTP, to be served or refused: no peer gets around its rules.
//! 5. What is opaque goes to [`tcp`]: an endpoint is dialled, and [`relay`] carries bytes both ways. Every connection
//!    that we make ourselves, for HTTP too, is a [`net::Leg`]: which address it comes from tells a pod's rules whose it is,
//!    and [`net::returning`] knows it, should wrong rules bring it back.
//! 6. HTTP goes to [`http::server`]. HTTP/1: hyper reads it behind [`http::guard`], which bounds how long a client may
//!    dawdle and puts a connection aside that has been idle for a second; it holds no buffer until its next request.
//!    HTTP/2: [`http::h2`], on the crate of that name, here and towards endpoints.
//! 7. Each request goes through the stack of its direction, below. One that becomes a tunnel ([`http::tunnel`]) ends
//!    as opaque bytes. When the [`runtime::drain`] begins, answers say goodbye; later inbound refuses what is new
//!    ([`layers::closing`]), and the process ends when no connection is at work any more.
//!
//! # The life of a request
//! Outbound, from the application to a service ([`outbound::stack`]); inbound is the same without the tries:
//! 1. `http::server::handle` makes a [`http::Call`] (the request and what travels with it) and an
//!    [`http::Exchange`] (what is known of it, until the last byte of its answer).
//! 2. [`layers::record`] sees every ending: metrics and access line come from here.
//! 3. [`layers::rescue`] turns errors into answers that say why ([`http::answer`], [`error`]).
//! 4. [`layers::route`] finds the [`state::Route`]; from here on policy travels with the call.
//! 5. [`layers::headers`] adds what the next hop must know and removes what it must not believe.
//! 6. [`layers::timeout`] bounds all tries together.
//! 7. [`layers::retry`] sends again what may be sent again; [`layers::verdict`] says what that is.
//! 8. [`layers::timeout`] bounds a single try.
//! 9. [`layers::limit`] admits at most so many at once.
//! 10. [`dispatch`] picks an endpoint ([`cluster::balance`]), leases a connection ([`http::upstream`]), sends, and
//!     tells the endpoint's outlier detection how it went.
//! 11. The answer climbs back. What must last until its final byte (connection, permits, counters) rides on its
//!     body as one tail ([`http::body`]), and ends the exchange when that ends.
//!
//! # What changes while it runs
//! - A new configuration becomes a new snapshot ([`state`]), which [`app`] swaps in as a whole. Clusters and routes that
//!   nothing concerns are the same objects in both.
//! - News of one service's endpoints ([`cluster::update`], whoever brings it) replaces that cluster's set of endpoints
//!   ([`cluster::set`]) in place. Nothing else is looked at.
//!
//! # Floors
//! Arrows point down, nothing looks up: `main` → [`cli`] → [`app`] → [`admin`], [`dns`] | [`inbound`], [`outbound`] →
//! [`layers`], [`dispatch`], [`tcp`], [`serve`] → [`detect`], [`state`] → [`cluster`], [`discovery`] → [`http`],
//! [`tls`], [`identity`], [`relay`], [`net`] → [`telemetry`], [`runtime`], [`error`] → `pillion_config`, `pillion_model`,
//! `pillion_init`. What travels with a request points up, as data: a call carries its route, an exchange its worker
//! and connection, a lease its cluster.
//! One thing comes back: what runs inside a CONNECT enters [`outbound`] again.
//!
//! Beside them, on a thread of its own, stands [`dns`]: what the application asks for before it connects. Its answers
//! for services come from the same snapshot, whose virtual addresses lead the connection back to the service.
//!
//! # What is deliberately absent
//! - The data path reads no file and no YAML, and holds no lock across an await.
//! - A connection that waits, undecided or idle, holds no buffer.
//! - `layers` hold no state and name no direction's stack; decisions (`verdict`, `cluster::*`) take `now` and data.
//! - Queues, buffers and label sets have bounds, and so has every wait on a peer.
//! - `unsafe` is nowhere in this crate.
//! - Rules of the kernel: `pillion_init` (in `proxy/init`) installs what brings connections here, before this runs.
pub mod app;
pub mod cli;

pub(crate) mod admin;
#[doc(hidden)]
pub mod bench;
pub(crate) mod dns;
pub(crate) mod listening;
#[cfg(test)]
mod testing;
