//! `limits`, `drain` and `explain`: values that contradict each other or are out of range.

use crate::fault::Faults;
use crate::listener::{DownstreamLimits, Drain, MaxMemory};
use crate::path::Trail;
use crate::telemetry::Explain;

pub(super) fn drain(drain: &Drain, at: &Trail<'_>, faults: &mut Faults) {
    let Drain { delay, timeout } = *drain;
    if timeout >= delay {
        return;
    }
    // the key that has its default is not reported, as the operator did not write it
    if timeout == Drain::default().timeout {
        faults
            .error(&at.key("delay"), format!("is {delay:?}, above `timeout` ({timeout:?})"))
            .help("write `timeout` too; both count from SIGTERM")
            .depends_on(&at.key("timeout"));
    } else {
        faults
            .error(&at.key("timeout"), format!("is {timeout:?}, below `delay` ({delay:?})"))
            .help("both count from SIGTERM: what is in flight after `delay` has until `timeout`")
            .depends_on(&at.key("delay"));
    }
}

pub(super) fn explain(explain: &Explain, at: &Trail<'_>, faults: &mut Faults) {
    if !Explain::KEEP.contains(&explain.keep) {
        faults
            .error(&at.key("keep"), format!("is {} bytes, out of range", explain.keep))
            .help("from 64KiB to 64MiB, or `explain: off`");
    }
}

pub(super) fn downstream(limits: &DownstreamLimits, at: &Trail<'_>, faults: &mut Faults) {
    if let MaxMemory::Bytes(bytes @ ..MaxMemory::LEAST) = limits.max_memory {
        faults
            .error(
                &at.key("max_memory"),
                format!("is {bytes} bytes, which is too little for the sidecar itself"),
            )
            .help("16MiB or more, auto, or off");
    }
    let bytes = limits.header_bytes;
    if !DownstreamLimits::HEADER_BYTES.contains(&bytes) {
        faults
            .error(&at.key("header_bytes"), format!("is {bytes} bytes, out of range"))
            .help("from 8KiB to 1MiB");
    }
}
