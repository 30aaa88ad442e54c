//! `limits` and `drain`: what connections from downstream may take, and how they end.

use std::time::Duration;

use crate::file;
use crate::shape::Typed;
use crate::value::{Count, Pause, Size};
use crate::words::Auto;
use pillion_model::listener::{DownstreamLimits, Drain};

pub(super) fn drain(file: file::Drain) -> Drain {
    let default = Drain::default();
    let timeout = file.timeout.map_or(default.timeout, |Typed(timeout)| timeout);
    let delay = match file.delay {
        Some(Typed(delay)) => delay.set().map_or(Duration::ZERO, |Pause(delay)| delay),
        None => default.delay.min(timeout), // who is in a hurry need not say so twice
    };
    Drain { delay, timeout }
}

/// The defaults' reasons stand at the fields of [`DownstreamLimits`].
pub(super) fn limits(file: file::Limits) -> DownstreamLimits {
    let default = DownstreamLimits::default();
    // auto is all there is
    let file::Limits { max_memory: None | Some(Typed(Auto)), header_bytes: bytes, header_count, .. } = file;
    DownstreamLimits {
        header_bytes: bytes
            .map_or(default.header_bytes, |Typed(Size(bytes))| u32::try_from(bytes).unwrap_or(u32::MAX)),
        header_count: header_count.map_or(default.header_count, |Typed(Count(most))| most),
        header_timeout: file.header_timeout.map_or(default.header_timeout, |Typed(time)| time),
        idle_timeout: file.idle_timeout.map_or(default.idle_timeout, |Typed(time)| time),
        via_passes: file.via_passes.map_or(default.via_passes, |Typed(Count(most))| most),
    }
}
