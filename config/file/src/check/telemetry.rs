//! `admin`, `metrics` and `access_log`.

use std::net::Ipv4Addr;

use super::listener::{everywhere, listen};
use super::{Remarks, Surroundings, Trail};
use crate::file;
use crate::shape::Typed;
use crate::value::{Count, OffOr, Share};
use crate::words::{AlwaysErrors, Json};
use pillion_model::telemetry::{AccessLog, Admin, LogPath, Metrics};

const ADMIN_PORT: u16 = 15000;
const METRICS_PORT: u16 = 15020;

/// Some 10 MB of series; a mesh of a hundred services with a dozen peers stays below.
const MAX_SERIES: usize = 20_000;

/// Loopback alone: it can change things.
pub(super) fn admin(file: Option<file::Admin>, at: &Trail<'_>, remarks: &mut Remarks) -> Admin {
    let own = vec![(Ipv4Addr::LOCALHOST, ADMIN_PORT).into()];
    Admin { listen: listen(file.unwrap_or_default().listen, own, at, remarks) }
}

pub(super) fn metrics(
    file: Option<OffOr<file::Metrics>>,
    at: &Trail<'_>,
    remarks: &mut Remarks,
) -> Option<Metrics> {
    let file = file.unwrap_or_default().set()?;
    remarks.unless_off(&at.key("merge"), &file.merge);
    remarks.unless_off(&at.key("compatibility"), &file.compatibility);
    Some(Metrics {
        listen: listen(file.listen, everywhere(METRICS_PORT), at, remarks),
        max_series: file.max_series.map_or(MAX_SERIES, |Typed(Count(most))| most as usize),
    })
}

pub(super) fn access_log(
    file: Option<OffOr<file::AccessLog>>,
    around: &Surroundings<'_>,
) -> Option<AccessLog> {
    // json is all there is
    let file::AccessLog { path, format: None | Some(Typed(Json)), sample, always } = file?.set()?;
    let path = match path.map_or(LogPath::Stdout, |Typed(path)| path) {
        LogPath::File(path) => LogPath::File(around.folder.join(path)),
        stream => stream,
    };
    Some(AccessLog {
        path,
        sample: sample.map_or(1.0, |Typed(Share(share))| share),
        always_errors: always.is_none_or(|Typed(AlwaysErrors(always))| always),
    })
}
