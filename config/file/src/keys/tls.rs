//! `tls` of a service: how its endpoints authenticate, and whether we authenticate to them.

use std::path::PathBuf;

use pillion_model::cluster::{Cluster, UpstreamTls};
use pillion_model::identity::{KeyPair, SpiffeId};
use serde_json::Value;

use super::{Block, Static, field};
use crate::page::{Page, Scopes};
use crate::reading::{Node, Reading, Shape};
use crate::schema::{self, Described};
use crate::spell;
use crate::value::{Opt, Text, Word};
use crate::words::{Sni, TlsMode, chosen};

/// The word for the authorities that the system trusts. A file of this name is written as `./system`.
const SYSTEM: &str = "system";

const EXPECTED: &str = "mutual, simple, off, a SPIFFE ID, or { mode: … }";

struct TlsBlock {
    mode: TlsMode,
    identities: Option<Vec<SpiffeId>>,
    sni: Option<String>,
    trust_bundle: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
}

static TLS: Static<TlsBlock> = Static::new(|| {
    Block::new(|| TlsBlock::of(TlsMode::Mutual))
        .word::<TlsMode>("mode", field!(mode), "mutual; simple; or off.")
        .key(
            "identities",
            "The identities that endpoints may have. Default: any identity of the own trust domain.",
            schema::words::<SpiffeId>,
            |tls: &mut TlsBlock, node, reading| tls.identities = node.words(reading),
            |_, _, _| {},
        )
        .word::<Opt<Sni>>("sni", field!(sni), "The server name in the TLS handshake.")
        .word::<Opt<Text>>(
            "trust_bundle",
            field!(trust_bundle),
            "The certificate authorities that are trusted, PEM. Default: those of `identity`, and with mode: simple \
             those of the system (`system`).",
        )
        .word::<Opt<Text>>(
            "certificate",
            field!(certificate),
            "With mode: simple, the certificate that is shown to this service alone, with its chain, PEM. Default: none.",
        )
        .word::<Opt<Text>>("key", field!(key), "The key of `certificate`, PEM.")
});

impl TlsBlock {
    fn of(mode: TlsMode) -> Self {
        Self { mode, identities: None, sni: None, trust_bundle: None, certificate: None, key: None }
    }
}

/// The default: mutual if this workload has an identity.
pub(super) fn unwritten(has_identity: bool) -> UpstreamTls {
    match has_identity {
        true => UpstreamTls::Mutual { identities: Vec::new(), sni: None, trust_bundle: None },
        false => UpstreamTls::Off,
    }
}

pub(super) fn schema() -> Option<Value> {
    schema::any_of([TlsMode::described(), SpiffeId::described(), schema::left_open(), TLS.schema()])
}

pub(super) fn read(cluster: &mut Cluster, node: &Node<'_>, reading: &mut Reading<'_>) {
    let block = match node.shape(EXPECTED, reading) {
        None => return,
        Some(Shape::Word(leaf)) => {
            let word = match leaf.text.starts_with("spiffe:") {
                true => SpiffeId::parse(&leaf.text)
                    .map(|id| TlsBlock { identities: Some(vec![id]), ..TlsBlock::of(TlsMode::Mutual) }),
                false => TlsMode::parse(&leaf.text).map(TlsBlock::of),
            };
            node.parsed(&leaf, word, reading)
        }
        Some(Shape::List) => return node.mismatch(EXPECTED, reading),
        Some(Shape::Block) => Some(TLS.read_new(node, reading)),
    };
    if let Some(block) = block {
        cluster.tls = checked(block, node, reading);
    }
}

fn checked(block: TlsBlock, node: &Node<'_>, reading: &mut Reading<'_>) -> UpstreamTls {
    let TlsBlock { mode, identities, sni, trust_bundle, certificate, key } = block;
    let senseless = |key: &str, what: &str, reading: &mut Reading<'_>| {
        if let Some(node) = node.child(key, reading) {
            node.remark(what, reading);
        }
    };
    if mode != TlsMode::Mutual {
        senseless("identities", "is possible with mode: mutual only", reading);
    }
    let own = match (certificate, key) {
        (None, None) => None,
        (Some(certificate), Some(key)) => {
            Some(KeyPair { certificate: reading.folder.join(certificate), key: reading.folder.join(key) })
        }
        (certificate, _) => {
            let missing = if certificate.is_some() { "key" } else { "certificate" };
            node.lacks(missing, "{ mode: simple, certificate: client.crt, key: client.key }", reading);
            None
        }
    };
    if own.is_some() && mode != TlsMode::Simple {
        let why =
            "is possible with mode: simple only; with mode: mutual the certificate of `identity` is shown";
        senseless("certificate", why, reading);
    }
    if mode == TlsMode::Off {
        senseless("sni", "is not possible with mode: off", reading);
        senseless("trust_bundle", "is not possible with mode: off", reading);
    }
    let is_system = trust_bundle.as_deref() == Some(SYSTEM);
    if is_system && mode == TlsMode::Mutual {
        senseless("trust_bundle", "is `system`, which is possible with mode: simple only", reading);
    }
    let trust_bundle: Option<PathBuf> =
        trust_bundle.filter(|_| !is_system).map(|path| reading.folder.join(path));
    match mode {
        TlsMode::Off => UpstreamTls::Off,
        TlsMode::Simple => UpstreamTls::Simple { sni, trust_bundle, own },
        TlsMode::Mutual => {
            UpstreamTls::Mutual { identities: identities.unwrap_or_default(), sni, trust_bundle }
        }
    }
}

pub(super) fn tell(cluster: &Cluster, at: &Scopes<'_>, page: &mut Page<'_>) {
    let at = &at.whole("tls");
    let (mode, identities, sni, trust_bundle) = match &cluster.tls {
        UpstreamTls::Off => (TlsMode::Off, &[][..], &None, &None),
        UpstreamTls::Simple { sni, trust_bundle, .. } => (TlsMode::Simple, &[][..], sni, trust_bundle),
        UpstreamTls::Mutual { identities, sni, trust_bundle } => {
            (TlsMode::Mutual, &identities[..], sni, trust_bundle)
        }
    };
    page.tell_or(&at.key("mode"), at, chosen(&mode));
    let list = at.key("identities");
    for (nth, id) in identities.iter().enumerate() {
        page.tell_or(&list.index(nth), at, id.as_str());
    }
    if mode != TlsMode::Off {
        page.tell(&at.key("sni"), sni.clone());
        let usual = if mode == TlsMode::Simple { SYSTEM.into() } else { Value::Null };
        page.tell(&at.key("trust_bundle"), trust_bundle.as_deref().map_or(usual, spell::path));
    }
    if let UpstreamTls::Simple { own, .. } = &cluster.tls {
        let file = |path: Option<&PathBuf>| path.map_or(Value::Null, |path| spell::path(path));
        page.tell(&at.key("certificate"), file(own.as_ref().map(|own| &own.certificate)));
        page.tell(&at.key("key"), file(own.as_ref().map(|own| &own.key)));
    }
}
