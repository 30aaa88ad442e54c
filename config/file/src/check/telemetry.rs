//! `admin`, `metrics` and `access_log`.

use super::listener::listen;
use super::{Remarks, Surroundings, Trail};
use crate::file;
use crate::shape::Typed;
use crate::value::{Count, OffOr, Share};
use crate::words::{AlwaysErrors, Json};
use pillion_model::telemetry::{AccessLog, Admin, LogPath, Metrics};

pub(super) fn admin(file: Option<file::Admin>) -> Admin {
    Admin { listen: listen(file.unwrap_or_default().listen, Admin::default().listen) }
}

pub(super) fn metrics(
    file: Option<OffOr<file::Metrics>>,
    at: &Trail<'_>,
    remarks: &mut Remarks,
) -> Option<Metrics> {
    let file = file.unwrap_or_default().set()?;
    remarks.unless_off(&at.key("merge"), &file.merge);
    remarks.unless_off(&at.key("compatibility"), &file.compatibility);
    let default = Metrics::default();
    Some(Metrics {
        listen: listen(file.listen, default.listen),
        max_series: file.max_series.map_or(default.max_series, |Typed(Count(most))| most as usize),
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
