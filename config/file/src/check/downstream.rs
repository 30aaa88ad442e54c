//! `limits` and `drain`: what connections from downstream may take, and how they end.

use std::time::Duration;

use super::{Remarks, Trail};
use crate::file;
use crate::shape::Typed;
use crate::value::{Count, Pause, Size};
use crate::words::Auto;
use pillion_model::listener::{DownstreamLimits, Drain};

/// hyper reads an HTTP/1 head into no less.
const LEAST_HEADER_BYTES: u64 = 8 * 1024;

/// A hundred connections that hold back the end of such a head already are a hundred MiB.
const MOST_HEADER_BYTES: u64 = 1024 * 1024;

/// The defaults' reasons stand at the fields of [`Drain`].
pub(super) fn drain(file: file::Drain, at: &Trail<'_>, remarks: &mut Remarks) -> Drain {
    let default = Drain::default();
    let timeout = file.timeout.map_or(default.timeout, |Typed(timeout)| timeout);
    let delay = match file.delay {
        Some(Typed(delay)) => delay.set().map_or(Duration::ZERO, |Pause(delay)| delay),
        None => default.delay.min(timeout), // who is in a hurry need not say so twice
    };
    if timeout < delay && file.timeout.is_some() {
        remarks
            .error(&at.key("timeout"), format!("is {timeout:?}, below `delay` ({delay:?})"))
            .help("both count from SIGTERM: what is in flight after `delay` has until `timeout`");
    } else if timeout < delay {
        remarks
            .error(&at.key("delay"), format!("is {delay:?}, above `timeout` ({timeout:?})"))
            .help("write `timeout` too; both count from SIGTERM");
    }
    Drain { delay, timeout }
}

/// The defaults' reasons stand at the fields of [`DownstreamLimits`].
pub(super) fn limits(file: file::Limits, at: &Trail<'_>, remarks: &mut Remarks) -> DownstreamLimits {
    let default = DownstreamLimits::default();
    // auto is all there is
    let file::Limits { max_memory: None | Some(Typed(Auto)), header_bytes: bytes, header_count, .. } = file;
    DownstreamLimits {
        header_bytes: bytes.map_or(default.header_bytes, |Typed(bytes)| {
            header_bytes(bytes, &at.key("header_bytes"), remarks)
        }),
        header_count: header_count.map_or(default.header_count, |Typed(Count(most))| most),
        header_timeout: file.header_timeout.map_or(default.header_timeout, |Typed(time)| time),
        idle_timeout: file.idle_timeout.map_or(default.idle_timeout, |Typed(time)| time),
        via_passes: file.via_passes.map_or(default.via_passes, |Typed(Count(most))| most),
    }
}

fn header_bytes(Size(bytes): Size, at: &Trail<'_>, remarks: &mut Remarks) -> u32 {
    if !(LEAST_HEADER_BYTES..=MOST_HEADER_BYTES).contains(&bytes) {
        remarks.error(at, format!("is {bytes} bytes, out of range")).help("from 8KiB to 1MiB");
    }
    bytes.clamp(LEAST_HEADER_BYTES, MOST_HEADER_BYTES) as u32
}
