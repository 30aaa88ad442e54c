//! Makes credentials of an answer, by the same rules as of files.

use std::collections::BTreeMap;

use pillion_model::identity::{BadSpiffeId, SpiffeId};
use pillion_model::text::shortened;
use pillion_tls::identity::credentials::{Credentials, CredentialsError, Svid};

use super::messages::{X509Svid, X509SvidResponse};

/// Why an answer cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadAnswer {
    #[error("it has no SVID")]
    NoSvid,
    #[error("its SVID lacks {0}, which every SVID has (SPIFFE Workload API, 5.2.1)")]
    Lacks(&'static str),
    #[error("{id:?} is not a SPIFFE ID: {fault}")]
    BadId { id: String, fault: BadSpiffeId },
    #[error("its certificate is of {certified}, and its SVID of {named}")]
    OtherId { certified: SpiffeId, named: SpiffeId },
    #[error("it has SVIDs of two trust domains, {0} and {1}")]
    TwoDomains(String, String),
    #[error("the key {key:?} of federated_bundles is not a trust domain: {fault}")]
    BadDomain { key: String, fault: BadSpiffeId },
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

/// The credentials of the default identity. `now` is in Unix seconds.
pub(super) fn read(
    answer: &X509SvidResponse,
    trust_domain: Option<&str>,
    now: i64,
) -> Result<Credentials, BadAnswer> {
    let svid = answer.svids.first().ok_or(BadAnswer::NoSvid)?;
    refuse_gaps(svid)?;
    let named = id(&svid.spiffe_id)?;
    for other in answer.svids.iter().skip(1) {
        let other = id(&other.spiffe_id)?;
        if other.trust_domain() != named.trust_domain() {
            let [one, two] = [&named, &other].map(|id| id.trust_domain().to_owned());
            return Err(BadAnswer::TwoDomains(one, two));
        }
    }
    let federated = federated(&answer.federated_bundles, named.trust_domain())?;
    let parts = Svid {
        chain: &svid.x509_svid,
        key: &svid.x509_svid_key,
        bundle: &svid.bundle,
        federated: &federated,
        lists: &answer.crl,
    };
    let own = Credentials::from_svid(&parts, trust_domain, now)?;
    match own.id == named {
        true => Ok(own),
        false => Err(BadAnswer::OtherId { certified: own.id, named }),
    }
}

fn refuse_gaps(svid: &X509Svid) -> Result<(), BadAnswer> {
    let X509Svid { spiffe_id, x509_svid, x509_svid_key, bundle } = svid;
    let table = [
        ("spiffe_id", spiffe_id.is_empty()),
        ("x509_svid", x509_svid.is_empty()),
        ("x509_svid_key", x509_svid_key.is_empty()),
        ("bundle", bundle.is_empty()),
    ];
    match table.into_iter().find(|(_, is_empty)| *is_empty) {
        Some((field, _)) => Err(BadAnswer::Lacks(field)),
        None => Ok(()),
    }
}

fn id(text: &str) -> Result<SpiffeId, BadAnswer> {
    text.parse().map_err(|fault| BadAnswer::BadId { id: shortened(text), fault })
}

/// The bundles by trust domain. The keys are SPIFFE IDs of trust domains; some servers leave the scheme out. The bundle
/// of the own trust domain is that of the SVID.
fn federated(bundles: &BTreeMap<String, Vec<u8>>, own: &str) -> Result<BTreeMap<String, Vec<u8>>, BadAnswer> {
    let mut federated = BTreeMap::new();
    for (key, der) in bundles {
        let domain = key.strip_prefix("spiffe://").unwrap_or(key);
        pillion_model::identity::check_trust_domain(domain)
            .map_err(|fault| BadAnswer::BadDomain { key: shortened(key), fault })?;
        if domain != own {
            federated.insert(domain.to_owned(), der.clone());
        }
    }
    Ok(federated)
}
