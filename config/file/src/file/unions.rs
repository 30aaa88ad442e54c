//! The keys that take more than one kind of value: which kind means what.

use std::path::PathBuf;

use serde::Deserialize;

use super::{
    Balancer, Endpoint, EndpointBlock, Endpoints, HashBalancer, LearntEndpoints, Methods, NameServers,
    TlsBlock, UpstreamTls,
};
use crate::shape::{NotYet, Shape, Typed, shaped};
use crate::value::{BadWord, OffOr, Word, on_off};
use crate::words::{DnsName, Method, NameServer, Target, TlsMode};
use pillion_model::cluster::LoadBalancer;
use pillion_model::identity::SpiffeId;

impl<'de> Shape<'de> for Endpoints {
    const EXPECTED: &'static str = "a list of endpoints, or { dns: … }";
    type List = Vec<Endpoint>;
    type Block = LearntEndpoints;

    fn word(text: &str) -> Result<Self, BadWord> {
        let must = BadWord::new("must be a list of endpoints, or { dns: … }");
        Err(match (Target::parse(text), DnsName::parse(text)) {
            (Ok(_), _) => must.help(format!("write [\"{text}\"]")),
            (_, Ok(_)) => must.help(format!("write {{ dns: \"{text}\" }}")),
            (Err(bad), _) => bad,
        })
    }

    fn list(list: Vec<Endpoint>) -> Result<Self, BadWord> {
        Ok(Self::Static(list))
    }

    fn block(block: LearntEndpoints) -> Result<Self, BadWord> {
        Ok(Self::Learnt(block))
    }
}

impl<'de> Shape<'de> for Endpoint {
    const EXPECTED: &'static str = "an address, or { address: …, weight: … }";
    type List = NotYet;
    type Block = EndpointBlock;

    fn word(text: &str) -> Result<Self, BadWord> {
        Target::parse(text).map(Self::Address)
    }

    fn block(block: EndpointBlock) -> Result<Self, BadWord> {
        Ok(Self::Full(block))
    }
}

impl<'de> Shape<'de> for UpstreamTls {
    const EXPECTED: &'static str = "mutual, simple, off, a SPIFFE ID, or { mode: … }";
    type List = NotYet;
    type Block = TlsBlock;

    fn word(text: &str) -> Result<Self, BadWord> {
        match text.starts_with("spiffe:") {
            true => SpiffeId::parse(text).map(Self::Identity),
            false => TlsMode::parse(text).map(Self::Mode),
        }
    }

    fn block(block: TlsBlock) -> Result<Self, BadWord> {
        Ok(Self::Full(block))
    }
}

impl<'de> Shape<'de> for Balancer {
    const EXPECTED: &'static str = LoadBalancer::EXPECTED;
    type List = NotYet;
    type Block = HashBalancer;

    fn word(text: &str) -> Result<Self, BadWord> {
        LoadBalancer::parse(text).map(Self::Word)
    }

    fn block(block: HashBalancer) -> Result<Self, BadWord> {
        Ok(Self::Hash(block))
    }
}

impl Methods {
    const SETS: [(&'static str, Self); 3] = [
        ("idempotent", Self::Idempotent),
        ("idempotent_or_keyed", Self::IdempotentOrKeyed),
        ("all", Self::All),
    ];

    pub(crate) fn words() -> impl Iterator<Item = &'static str> {
        Self::SETS.into_iter().map(|(word, _)| word)
    }
}

impl<'de> Shape<'de> for Methods {
    const EXPECTED: &'static str = "idempotent, idempotent_or_keyed, all, or a list of methods";
    type List = Vec<Typed<Method>>;
    type Block = NotYet;

    fn word(text: &str) -> Result<Self, BadWord> {
        if let Some((_, set)) = Self::SETS.iter().find(|(word, _)| *word == text) {
            return Ok(set.clone());
        }
        match text {
            _ if Method::parse(text).is_ok() => {
                Err(BadWord::new("must be a list").help(format!("write [{text}]")))
            }
            _ => Err(BadWord::not(text, <Self as Shape<'de>>::EXPECTED)),
        }
    }

    fn list(list: Vec<Typed<Method>>) -> Result<Self, BadWord> {
        Ok(Self::List(list.into_iter().map(|Typed(method)| method).collect()))
    }
}

/// `off`, or a block of keys. `on` says nothing about what is in the block.
impl<'de, T: Deserialize<'de>> Shape<'de> for OffOr<T> {
    const EXPECTED: &'static str = "`off` or a block of keys";
    type List = NotYet;
    type Block = T;

    fn word(text: &str) -> Result<Self, BadWord> {
        match on_off(text) {
            Some(false) => Ok(Self::Off),
            _ => Err(BadWord::not(text, "`off` or a block of keys")),
        }
    }

    fn block(block: T) -> Result<Self, BadWord> {
        Ok(Self::Set(block))
    }
}

/// A path has no colon and does not begin as an address does: what looks like one is meant as one.
impl<'de> Shape<'de> for NameServers {
    const EXPECTED: &'static str = "a file (/etc/resolv.conf), or addresses (\"10.96.0.10:53\")";
    type List = Vec<Typed<NameServer>>;
    type Block = NotYet;

    fn word(text: &str) -> Result<Self, BadWord> {
        let is_address = text.contains(':') || text.starts_with(|c: char| c == '[' || c.is_ascii_digit());
        match text {
            _ if is_address => NameServer::parse(text).map(|NameServer(server)| Self::List(vec![server])),
            "" => Err(BadWord::new("is empty")),
            _ if on_off(text).is_some() => Err(BadWord::not(text, <Self as Shape<'de>>::EXPECTED)),
            _ => Ok(Self::File(PathBuf::from(text))),
        }
    }

    fn list(list: Vec<Typed<NameServer>>) -> Result<Self, BadWord> {
        Ok(Self::List(list.into_iter().map(|Typed(NameServer(server))| server).collect()))
    }
}

shaped!(Endpoints, Endpoint, UpstreamTls, Balancer, Methods, NameServers);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OffOr<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::shape::read(deserializer)
    }
}
