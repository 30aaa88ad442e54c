//! `workload`, `identity` and `tls` of the whole sidecar.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use pillion_model::Workload;
use pillion_model::identity::{Crl, Files, Identity, TlsPolicy, TlsVersion, WorkloadApi};
use serde_json::Value;

use super::{Block, Static, field};
use crate::page::{Page, Scopes};
use crate::reading::{Entry, Node, Reading};
use crate::value::{OffOr, Opt, Text};
use crate::words::{EndpointSocket, PostQuantum, TrustDomain};
use crate::{schema, spell};

pub(super) static WORKLOAD: Static<Workload> = Static::new(|| {
    Block::new(Workload::default)
        .word::<Opt<Text>>("name", field!(name), "The workload's name.")
        .word::<Opt<Text>>("namespace", field!(namespace), "Its namespace.")
        .word::<Opt<Text>>("zone", field!(zone), "The zone in which the workload runs.")
});

pub(super) static TLS: Static<TlsPolicy> = Static::new(|| {
    Block::new(TlsPolicy::default)
        .word::<TlsVersion>("min_version", field!(min_version), "The lowest TLS version that is accepted.")
        .word::<PostQuantum>(
            "post_quantum",
            field!(post_quantum),
            "The post-quantum key exchange: prefer, or off.",
        )
});

/// Where the certificates are, as the file says it: in a directory, file by file, or at a Workload API.
#[derive(Default)]
struct Keys {
    directory: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
    trust_bundle: Option<String>,
    crl: Option<String>,
    workload_api: Option<PathBuf>,
    trust_domain: Option<String>,
    federation: BTreeMap<String, String>,
    max_connection_age: Option<Duration>,
}

static FILES: Static<Keys> = Static::new(|| {
    Block::new(Keys::default)
        .word::<Opt<Text>>(
            "directory",
            field!(directory),
            "A folder with tls.crt, tls.key and ca.crt, as cert-manager writes them; in place of the single files.",
        )
        .word::<Opt<Text>>("certificate", field!(certificate), "The certificate and its chain, PEM.")
        .word::<Opt<Text>>("key", field!(key), "The certificate's key, PEM.")
        .word::<Opt<Text>>("trust_bundle", field!(trust_bundle), "The authorities to trust, PEM.")
        .word::<Opt<Text>>(
            "crl",
            field!(crl),
            "The list of revoked certificates, which must exist. Default: ca.crl of `directory`, if it exists.",
        )
        .word::<Opt<EndpointSocket>>(
            "workload_api",
            field!(workload_api),
            "The Unix socket of a SPIFFE Workload API, in place of all files: it brings the certificate, its key and the trust \
             bundles, those of other trust domains too.",
        )
        .word::<Opt<TrustDomain>>(
            "trust_domain",
            field!(trust_domain),
            "The trust domain. Default: that of the certificate's SPIFFE ID.",
        )
        .key(
            "federation",
            "The trust bundles (PEM) of other trust domains, whose workloads are admitted too. A peer is verified with \
             the bundle of its own trust domain alone.",
            || schema::entries::<TrustDomain>(schema::word::<Text>()),
            |files: &mut Keys, node, reading| files.federation = federation(node, reading),
            |_, _, _| {}, // told by `tell`, which has resolved the paths
        )
        .word::<OffOr<Duration>>(
            "max_connection_age",
            field!(max_connection_age),
            "After a change of certificates, bundles, revocation lists or `tls`, a peer's connection ends with its first answer \
             at or beyond this age.",
        )
});

fn federation(node: &Node<'_>, reading: &mut Reading<'_>) -> BTreeMap<String, String> {
    let bundle = |(TrustDomain(domain), entry): (TrustDomain, Entry<'_>), reading: &mut Reading<'_>| {
        let Text(file) = entry.value.word(reading)?;
        Some((domain, file))
    };
    node.map(reading).into_iter().filter_map(|entry| bundle(entry, reading)).collect()
}

pub(super) fn schema() -> Option<Value> {
    FILES.schema()
}

pub(super) fn read(node: &Node<'_>, reading: &mut Reading<'_>) -> Option<Identity> {
    let keys = FILES.read_new(node, reading);
    let Some(socket) = keys.workload_api.clone() else {
        return read_files(keys, node, reading).map(Identity::Files);
    };
    if let Some(key) = keys.first_of_files() {
        node.remark(&format!("has `workload_api` and `{key}`"), reading).help(
            "keep one of the two: a Workload API brings the certificate, its key, revocation lists and the trust bundles of \
             all trust domains",
        );
    }
    let Keys { trust_domain, max_connection_age, .. } = keys;
    Some(Identity::WorkloadApi(WorkloadApi { socket, trust_domain, max_connection_age }))
}

fn read_files(files: Keys, node: &Node<'_>, reading: &mut Reading<'_>) -> Option<Files> {
    let resolve = |name: &str| -> PathBuf { reading.folder.join(name) };
    let [certificate, key, trust_bundle] = match files.names() {
        Ok(names) => names.map(|name| resolve(&name)),
        Err(gap) => {
            node.remark(&gap.what, reading).help(gap.help);
            reading.remarks.lacks(&node.at);
            return None;
        }
    };
    let crl = match (&files.crl, &files.directory) {
        // A CRL that is configured must exist. That of a directory may be absent, because Secrets with certificates
        // rarely hold one.
        (Some(crl), _) => Crl::Required(resolve(crl)),
        (None, Some(directory)) => Crl::IfPresent(resolve(&format!("{directory}/ca.crl"))),
        (None, None) => Crl::None,
    };
    let federation = files.federation.iter().map(|(domain, file)| (domain.clone(), resolve(file))).collect();
    let Keys { trust_domain, max_connection_age, .. } = files;
    let source = Files { certificate, key, trust_bundle, crl, federation, trust_domain, max_connection_age };
    if let Some(own) = source.trust_domain.as_ref().filter(|own| source.federation.contains_key(*own)) {
        node.remark(&format!("has the own trust domain {own} in `federation`"), reading)
            .help("the bundle of the own trust domain is `trust_bundle`");
    }
    Some(source)
}

struct Gap {
    what: String,
    help: &'static str,
}

impl Keys {
    /// The first key that only an identity from files has.
    fn first_of_files(&self) -> Option<&'static str> {
        let table = [
            ("directory", self.directory.is_some()),
            ("certificate", self.certificate.is_some()),
            ("key", self.key.is_some()),
            ("trust_bundle", self.trust_bundle.is_some()),
            ("crl", self.crl.is_some()),
            ("federation", !self.federation.is_empty()),
        ];
        table.into_iter().find(|(_, is_written)| *is_written).map(|(key, _)| key)
    }

    /// The paths of certificate, key and bundle: given singly, or under cert-manager's names in a directory.
    fn names(&self) -> Result<[String; 3], Gap> {
        let single = [&self.certificate, &self.key, &self.trust_bundle];
        let gap = |what: &str, help| Err(Gap { what: what.to_owned(), help });
        match (&self.directory, single.map(Clone::clone)) {
            (Some(directory), [None, None, None]) => {
                Ok(["tls.crt", "tls.key", "ca.crt"].map(|name| format!("{directory}/{name}")))
            }
            (Some(_), _) => gap("has `directory` and single files", "keep one of the two"),
            (None, [Some(certificate), Some(key), Some(bundle)]) => Ok([certificate, key, bundle]),
            (None, [None, None, None]) => gap(
                "does not say where the certificates are",
                "write { directory: certs }, or { workload_api: unix:///run/spire/agent.sock }",
            ),
            (None, _) => gap(&format!("lacks {}", missing(single)), "single files need all three"),
        }
    }
}

fn missing(single: [&Option<String>; 3]) -> String {
    let names = ["`certificate`", "`key`", "`trust_bundle`"].into_iter().zip(single);
    let missing: Vec<_> = names.filter(|(_, file)| file.is_none()).map(|(name, _)| name).collect();
    missing.join(" and ")
}

pub(super) fn tell(identity: Option<&Identity>, at: &Scopes<'_>, page: &mut Page<'_>) {
    let at = &at.key("identity");
    let (age, domain) = match identity {
        None => return page.tell(at, Value::Null),
        Some(Identity::WorkloadApi(api)) => {
            page.tell(&at.key("workload_api"), api.to_string());
            (api.max_connection_age, &api.trust_domain)
        }
        Some(Identity::Files(files)) => {
            tell_files(files, at, page);
            (files.max_connection_age, &files.trust_domain)
        }
    };
    page.tell(&at.key("trust_domain"), domain.clone());
    page.tell(&at.key("max_connection_age"), age.map_or_else(|| "off".into(), spell::duration));
}

fn tell_files(files: &Files, at: &Scopes<'_>, page: &mut Page<'_>) {
    let Files { certificate, key, trust_bundle, crl, federation, .. } = files;
    let directory = at.key("directory");
    for (name, file) in [("certificate", certificate), ("key", key), ("trust_bundle", trust_bundle)] {
        page.tell_or(&at.key(name), &directory, spell::path(file));
    }
    match crl {
        Crl::None => page.tell(&at.key("crl"), Value::Null),
        Crl::IfPresent(file) => {
            page.tell_or(&at.key("crl"), &directory, format!("{} (where it exists)", file.display()));
        }
        Crl::Required(file) => page.tell_or(&at.key("crl"), &directory, spell::path(file)),
    }
    let bundles: serde_json::Map<_, _> =
        federation.iter().map(|(domain, file)| (domain.clone(), spell::path(file))).collect();
    page.tell(&at.key("federation"), Value::from(bundles));
}
