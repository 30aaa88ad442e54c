//! `tls` of a port: TLS for clients outside the mesh.

use pillion_model::identity::KeyPair;
use pillion_model::listener::{ClientCertificates, PortTls};
use serde_json::Value;

use super::{Block, Static, field};
use crate::page::{Page, Scopes};
use crate::reading::{Node, Reading, Shape};
use crate::schema;
use crate::spell;
use crate::value::{BadWord, Opt, Text, on_off};
use crate::words::{ClientMode, chosen};

const EXPECTED: &str = "{ certificate: site.crt, key: site.key }, or a list of these";

/// A certificate, and what holds for all certificates of the port.
struct TlsBlock {
    certificate: Option<String>,
    key: Option<String>,
    client: ClientMode,
    trust_bundle: Option<String>,
}

static TLS: Static<TlsBlock> = Static::new(|| {
    Block::new(|| TlsBlock { certificate: None, key: None, client: ClientMode::Off, trust_bundle: None })
        .word::<Opt<Text>>(
            "certificate",
            field!(certificate),
            "The certificate and its chain, PEM. Of a list, the one is shown whose names have the name that a client asks \
             for (SNI), else the first.",
        )
        .word::<Opt<Text>>("key", field!(key), "The certificate's key, PEM.")
        .word::<ClientMode>(
            "client",
            field!(client),
            "Whether clients show certificates: off; request, where they have one; require. Of a list, in its first item.",
        )
        .word::<Opt<Text>>(
            "trust_bundle",
            field!(trust_bundle),
            "The authorities of clients' certificates, PEM. Of a list, in its first item.",
        )
});

pub(super) fn schema() -> Option<Value> {
    let list = schema::list_of(TLS.schema());
    schema::any_of([schema::defined("off"), TLS.schema(), list, schema::left_open()])
}

pub(super) fn read(node: &Node<'_>, reading: &mut Reading<'_>) -> Option<PortTls> {
    let blocks: Vec<TlsBlock> = match node.shape(EXPECTED, reading)? {
        Shape::Word(leaf) if on_off(&leaf.text) == Some(false) => return None,
        Shape::Word(leaf) => {
            node.parsed::<()>(&leaf, Err(BadWord::not(&leaf.text, EXPECTED)), reading);
            return None;
        }
        Shape::Block => vec![block(node, reading)],
        Shape::List => node.items(reading, |item, reading| Some(block(item, reading))),
    };
    let folder = reading.folder;
    let pair = |of: &TlsBlock| {
        let (certificate, key) = (of.certificate.as_ref()?, of.key.as_ref()?);
        Some(KeyPair { certificate: folder.join(certificate), key: folder.join(key) })
    };
    let certificates: Vec<KeyPair> = blocks.iter().filter_map(pair).collect();
    let Some(first) = blocks.first() else {
        node.remark("has no certificate", reading).help(EXPECTED);
        return None;
    };
    let trust_bundle = first.trust_bundle.as_ref().map(|path| folder.join(path));
    let clients = match (first.client, trust_bundle) {
        (ClientMode::Off, None) => ClientCertificates::Off,
        (ClientMode::Off, Some(_)) => {
            node.remark("has `trust_bundle`, but asks clients for no certificate", reading)
                .help("write client: require, or client: request");
            return None;
        }
        (_, None) => {
            node.remark("asks clients for certificates, but lacks `trust_bundle`", reading)
                .help("write trust_bundle: clients-ca.crt, the authorities of these certificates");
            return None;
        }
        (ClientMode::Request, Some(trust_bundle)) => ClientCertificates::Request { trust_bundle },
        (ClientMode::Require, Some(trust_bundle)) => ClientCertificates::Require { trust_bundle },
    };
    if blocks.iter().skip(1).any(|block| block.client != ClientMode::Off || block.trust_bundle.is_some()) {
        node.remark("has `client` or `trust_bundle` in a further item", reading)
            .help("they hold for all certificates of the port: write them in the first item");
        return None;
    }
    (!certificates.is_empty()).then_some(PortTls { certificates, clients })
}

fn block(node: &Node<'_>, reading: &mut Reading<'_>) -> TlsBlock {
    let block = TLS.read_new(node, reading);
    for (name, is_there) in [("certificate", block.certificate.is_some()), ("key", block.key.is_some())] {
        if !is_there {
            node.lacks(name, "{ certificate: site.crt, key: site.key }", reading);
        }
    }
    block
}

pub(super) fn tell(tls: &PortTls, at: &Scopes<'_>, page: &mut Page<'_>) {
    let PortTls { certificates, clients } = tls;
    let (client, trust_bundle) = match clients {
        ClientCertificates::Off => (ClientMode::Off, None),
        ClientCertificates::Request { trust_bundle } => (ClientMode::Request, Some(trust_bundle)),
        ClientCertificates::Require { trust_bundle } => (ClientMode::Require, Some(trust_bundle)),
    };
    for (nth, pair) in certificates.iter().enumerate() {
        let at = if certificates.len() == 1 { at.key("tls") } else { at.key("tls").index(nth) };
        page.tell(&at.key("certificate"), spell::path(&pair.certificate));
        page.tell(&at.key("key"), spell::path(&pair.key));
        if nth == 0 {
            page.tell(&at.key("client"), chosen(&client));
            page.tell(&at.key("trust_bundle"), trust_bundle.map_or(Value::Null, |path| spell::path(path)));
        }
    }
}
