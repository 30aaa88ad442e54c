//! `sync`: keeps files beside the application as a source has them, as a configuration sidecar does.
//!
//! - [`keeper`]: the entries of a configuration, each with a task of its own, on the companion's thread.
//! - [`follower`]: the life of one entry: waits for news, and takes each version or refuses it.
//! - [`source`]: waits for news of one source: [`consul`], [`etcd`], [`web`] and [`files`] say, without connections, what
//!   to ask and what an answer means; [`asker`] asks.
//! - [`target`] writes a version whole or not at all, [`check`] judges it before it takes its place, and [`change`] tells
//!   the application.
//! - [`bounded`] reads lists and numbers of answers within bounds.
//! - [`command`] runs a program of the operator; [`pace`] says how long to wait; [`walk`] lists and opens files within
//!   bounds; [`version`] is the content, with its
//!   bounds.
//!
//! Deliberately not here: what a content means, and any way to write to a source.
//!
//! Modules are listed from top to bottom: each may use those below it.

pub mod keeper;
mod follower;
mod source;
mod consul;
mod etcd;
mod web;
mod files;
mod target;
mod check;
mod change;
mod command;
mod asker;
mod pace;
mod walk;
mod bounded;
mod version;
