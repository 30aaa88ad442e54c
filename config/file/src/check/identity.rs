//! `identity` and `tls`: where the certificates are, and what TLS is spoken at least.

use super::{Remarks, Surroundings, Trail};
use crate::file;
use crate::shape::Typed;
use crate::value::Text;
use crate::words::{PostQuantum, TrustDomain};
use pillion_model::identity::{Crl, Source, TlsPolicy, TlsVersion};

pub(super) fn source(
    file: file::Identity,
    at: &Trail<'_>,
    around: &Surroundings<'_>,
    remarks: &mut Remarks,
) -> Option<Source> {
    remarks.not_yet(&at.key("workload_api"), &file.workload_api);
    let [certificate, key, trust_bundle] = match files(&file) {
        Ok(files) => files.map(|name| around.resolve(&name)),
        // the API alone is complete, and is refused above
        Err(_) if file.workload_api.is_some() => {
            remarks.lacks(at);
            return None;
        }
        Err(Gap { what, help }) => {
            remarks.error(at, what).help(help);
            remarks.lacks(at);
            return None;
        }
    };
    Some(Source {
        certificate,
        key,
        trust_bundle,
        crl: crl(&file, around),
        trust_domain: file.trust_domain.map(|Typed(TrustDomain(name))| name),
    })
}

/// What is written has to be there. Beside `directory`, too: Secrets of certificates rarely hold a CRL.
fn crl(file: &file::Identity, around: &Surroundings<'_>) -> Crl {
    match (&file.crl, &file.directory) {
        (Some(Typed(Text(crl))), _) => Crl::Required(around.resolve(crl)),
        (None, Some(Typed(Text(directory)))) => {
            Crl::IfPresent(around.resolve(&format!("{directory}/ca.crl")))
        }
        (None, None) => Crl::None,
    }
}

struct Gap {
    what: String,
    help: &'static str,
}

/// Certificate, key and bundle: file by file, or by the names that cert-manager gives them in a directory.
fn files(file: &file::Identity) -> Result<[String; 3], Gap> {
    let single = [&file.certificate, &file.key, &file.trust_bundle];
    let written = single.into_iter().flatten().count();
    match (&file.directory, written) {
        (Some(Typed(Text(directory))), 0) => {
            Ok(["tls.crt", "tls.key", "ca.crt"].map(|name| format!("{directory}/{name}")))
        }
        (Some(_), _) => {
            Err(Gap { what: "has `directory` and single files".into(), help: "keep one of the two" })
        }
        (None, 3) => {
            Ok(single.map(|name| name.as_ref().map_or_else(String::new, |Typed(Text(name))| name.clone())))
        }
        (None, 0) => Err(Gap {
            what: "does not say where the certificates are".into(),
            help: "write { directory: certs }",
        }),
        (None, _) => {
            Err(Gap { what: format!("lacks {}", missing(single)), help: "single files need all three" })
        }
    }
}

fn missing(single: [&Option<Typed<Text>>; 3]) -> String {
    let names = ["`certificate`", "`key`", "`trust_bundle`"].into_iter().zip(single);
    let missing: Vec<_> = names.filter(|(_, file)| file.is_none()).map(|(name, _)| name).collect();
    missing.join(" and ")
}

/// TLS 1.2 still is what some callers have; post-quantum key exchange costs nothing when a peer lacks it.
pub(super) fn policy(file: file::Tls) -> TlsPolicy {
    TlsPolicy {
        min_version: file.min_version.map_or(TlsVersion::Tls12, |Typed(version)| version),
        post_quantum: file.post_quantum.is_none_or(|Typed(PostQuantum(prefer))| prefer),
    }
}
