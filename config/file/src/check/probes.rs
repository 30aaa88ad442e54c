//! `inbound.probes`: what the application is asked, and under which name.

use super::{Remarks, Trail};
use crate::file;
use crate::shape::Typed;
use crate::value::Port;
use crate::words::{GrpcService, ProbeName, ProbePath};
use pillion_model::listener::{Probe, Question};

pub(super) fn probes(file: Option<file::Probes>, at: &Trail<'_>, remarks: &mut Remarks) -> Vec<Probe> {
    let list = file.map(|file::Probes(list)| list).unwrap_or_default();
    list.into_iter().enumerate().map(|(nth, file)| probe(file, &at.index(nth), remarks)).collect()
}

fn probe(file: file::Probe, at: &Trail<'_>, remarks: &mut Remarks) -> Probe {
    const HELP: &str = "{ name: app-live, port: 8080, path: /healthz }";
    if file.name.is_none() {
        remarks.error(at, "needs `name`").help(HELP);
        remarks.lacks(&at.key("name"));
    }
    if file.port.is_none() {
        remarks.error(at, "needs `port`").help(HELP);
        remarks.lacks(&at.key("port"));
    }
    Probe {
        name: file.name.map(|Typed(ProbeName(name))| name).unwrap_or_default(),
        port: file.port.map(|Typed(Port(port))| port).unwrap_or_default(),
        asks: question(file.path, file.tcp, file.grpc, at, remarks),
    }
}

fn question(
    path: Option<Typed<ProbePath>>,
    tcp: Option<Typed<bool>>,
    grpc: Option<Typed<GrpcService>>,
    at: &Trail<'_>,
    remarks: &mut Remarks,
) -> Question {
    let path = path.map(|Typed(ProbePath(path))| Question::Http { path });
    let tcp = tcp.filter(|Typed(asked)| *asked).map(|_| Question::Tcp);
    let grpc = grpc.map(|Typed(GrpcService(service))| Question::Grpc { service });
    let mut written = [path, tcp, grpc].into_iter().flatten();
    match (written.next(), written.next()) {
        (Some(one), None) => one,
        (None, _) => {
            remarks
                .error(at, "asks nothing")
                .help("write one of path: /healthz, tcp: true, grpc: shop.Orders");
            Question::Tcp
        }
        (Some(one), Some(_)) => {
            remarks
                .error(at, "has more than one of `path`, `tcp` and `grpc`")
                .help("keep one; another probe of its own name may ask the other");
            one
        }
    }
}
