//! Ships the log files of the application, as a logging sidecar does: a companion, beside the data path.
//!
//! [`ship`] follows the configuration and has a task for each sink ([`pace`]), which reads the files for itself ([`tail`]),
//! writes records as the sink takes them ([`encode`]), sends them ([`delivery`]) and notes in the [`catalog`] of files how
//! far it is. The [`checkpoint`] keeps that over restarts. What a sink cannot take waits in the files: no queue grows, and a
//! sink that stalls holds nothing but its own batch.
//!
//! What lines mean is decided in pure modules: [`lines`], [`group`] (partial lines and stack traces), [`record`] with
//! [`json`], [`logfmt`], [`cri`], [`moment`] and [`level`]; and what has become of a file in [`rotation`].
//!
//! Deliberately not here: queues between sinks, and changes of what an application wrote beyond `drop` and `fields`.

pub mod ship;
mod pace;
mod delivery;
mod tail;
mod watch;
mod catalog;
mod checkpoint;
mod rotation;
mod glob;
mod encode;
mod record;
mod group;
mod cri;
mod logfmt;
mod level;
mod moment;
mod json;
mod lines;
