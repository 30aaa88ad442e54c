//! `inbound.probes` as it is typed.

use serde::Deserialize;
use serde_json::Value;

use crate::schema::{self, Described};
use crate::shape::{NotYet, Shape, Typed, shaped};
use crate::value::{BadWord, Port, on_off};
use crate::words::{GrpcService, ProbeName, ProbePath};

blocks! {
    Probe {
        /// What comes behind /probe/ on the metrics port.
        name: Typed<ProbeName>,
        /// The application's port.
        port: Typed<Port>,
        /// Asked for with GET; its status is the answer's.
        path: Typed<ProbePath>,
        /// 200 when the port takes a connection, else 503.
        tcp: Typed<bool>,
        /// 200 when gRPC's health service says that this service is SERVING, else 503. "" is the server as a whole.
        grpc: Typed<GrpcService>,
    }
}

/// In the file's order.
#[derive(Debug, Clone)]
pub(crate) struct Probes(pub(crate) Vec<Probe>);

impl<'de> Shape<'de> for Probes {
    const EXPECTED: &'static str = "a list of probes";
    type List = Vec<Probe>;
    type Block = NotYet;

    /// `off` is as good as an empty list.
    fn word(text: &str) -> Result<Self, BadWord> {
        match on_off(text) {
            Some(false) => Ok(Self(Vec::new())),
            _ => Err(BadWord::not(text, Self::EXPECTED)),
        }
    }

    fn list(list: Vec<Probe>) -> Result<Self, BadWord> {
        Ok(Self(list))
    }
}

shaped!(Probes);
