//! From what was typed to a [`Config`]: defaults, ranges, cross references.
//!
//! Collects every fault, not only the first: a faulty key is remarked on and its default taken, so
//! that the rest can be looked at too. One small file per section.

mod cluster;
mod defaults;
mod dns;
mod downstream;
mod identity;
mod listener;
mod policy;
mod probes;
mod routes;
mod telemetry;
mod trail;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use crate::file::{self, File};
use crate::place::Tree;
use crate::shape::Typed;
use crate::translate::add_faults_of_model;
use crate::value::{AutoOr, Count, Text};
use defaults::Defaults;
use pillion_model::{Cluster, Config, Trail, Workload};

pub(crate) use trail::{Remark, Remarks};

/// What a section needs to know beside its own keys.
struct Surroundings<'a> {
    /// Relative paths start here.
    folder: &'a Path,
    /// Whether the file gives this workload an identity, readable or not.
    identity: bool,
}

impl Surroundings<'_> {
    fn resolve(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }
}

/// `unread` are the keys whose values could not be read: remarks about what they leave open are not
/// worth telling beside the faults that are told already.
pub(crate) fn check(file: File, folder: &Path, unread: Vec<String>, tree: &Tree) -> (Config, Vec<Remark>) {
    let mut remarks = Remarks::new(unread);
    let around = Surroundings { folder, identity: file.identity.is_some() || remarks.is_unread("identity") };
    let (config, defaults) = sections(file, &around, &mut remarks);
    add_faults_of_model(&config, defaults.as_ref(), tree, &mut remarks);
    (config, remarks.into_list())
}

/// The configuration, and a service that has what the file's `defaults` say.
fn sections(file: File, around: &Surroundings<'_>, remarks: &mut Remarks) -> (Config, Option<Cluster>) {
    let root = Trail::root();
    refuse_unbuilt(&file, remarks);
    version(file.version, remarks);
    let defaults = file.defaults.map(|it| Defaults::checked(it, &root.key("defaults"), around, remarks));
    let of_defaults = defaults.as_ref().map(|defaults| defaults.cluster.clone());
    let services = cluster::services(file.services, defaults, &root.key("services"), around, remarks);
    let routes = routes::routes(file.routes, &services, &root.key("routes"), remarks);
    let config = Config {
        workload: workload(file.workload.unwrap_or_default()),
        identity: file.identity.and_then(|it| identity::source(it, &root.key("identity"), around, remarks)),
        tls: identity::policy(file.tls.unwrap_or_default()),
        inbound: listener::inbound(file.inbound, &root.key("inbound"), around, remarks),
        outbound: listener::outbound(file.outbound),
        clusters: services.into_iter().map(|served| served.cluster).collect(),
        routes,
        dns: dns::dns(file.dns, around),
        admin: telemetry::admin(file.admin),
        metrics: telemetry::metrics(file.metrics, &root.key("metrics"), remarks),
        access_log: telemetry::access_log(file.access_log, around),
        drain: downstream::drain(file.drain.unwrap_or_default()),
        limits: downstream::limits(file.limits.unwrap_or_default()),
        workers: workers(file.workers),
    };
    (config, of_defaults)
}

fn refuse_unbuilt(file: &File, remarks: &mut Remarks) {
    remarks.unless_off(&Trail::root().key("tracing"), &file.tracing);
}

fn version(version: Option<Typed<file::AnyCount>>, remarks: &mut Remarks) {
    if let Some(Typed(Count(other))) = version.filter(|Typed(Count(n))| *n != 1) {
        remarks
            .error(&Trail::root().key("version"), format!("is {other}, which this release does not know"))
            .help("write 1");
    }
}

fn workload(workload: file::Workload) -> Workload {
    let text = |word: Option<Typed<Text>>| word.map(|Typed(Text(text))| text);
    Workload { name: text(workload.name), namespace: text(workload.namespace), zone: text(workload.zone) }
}

fn workers(workers: Option<Typed<AutoOr<Count<1, 1024>>>>) -> Option<NonZeroUsize> {
    let Typed(AutoOr(Some(Count(threads)))) = workers? else { return None };
    NonZeroUsize::new(threads as usize)
}
