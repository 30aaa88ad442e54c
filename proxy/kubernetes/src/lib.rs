//! Endpoints from the EndpointSlices of Kubernetes (discovery.k8s.io/v1).
//!
//! Pure: bytes, `now` and random numbers come in; questions and endpoints go out. The process asks the API server
//! (`kubernetes` in `pillion-process`).
//!
//! - [`access`]: where the API server is, and by what the sidecar is known there.
//! - [`follow`]: the order of questions for one kind of objects: a list in pages, then watches, and a new list where the
//!   server has forgotten what happened since.
//! - [`frames`] and [`objects`]: the bytes of an answer become objects.
//! - [`namespace`]: the objects of one namespace, and the endpoints of its services.
//! - [`merge`]: the slices of one service become its endpoints.
//!
//! Deliberately absent: a client library. `kube` with `k8s-openapi` brings a second HTTP client, a pool and the types of the
//! whole API, by estimate two MB of the static binary, which has 16. What is needed of them is this crate and
//! `api_server`, by estimate 100 KB, over the connections that are in the tree.
//!
//! Modules are listed from top to bottom: each may use those below it.

pub mod access;
pub mod follow;
pub mod frames;
pub mod namespace;
pub mod merge;
pub mod objects;
