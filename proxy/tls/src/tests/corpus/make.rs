//! Makes the certificates of the corpus: with rcgen, and byte by byte where rcgen makes only well-formed ones.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pillion_testkit::Scratch;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SerialNumber, SignatureAlgorithm,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;

use super::super::{HOUR, WEB};

/// A CA, its certificate, and those that lead from it to a root, the nearest first.
pub(super) struct Authority {
    pub(super) issuer: Issuer<'static, KeyPair>,
    pub(super) der: CertificateDer<'static>,
    is_root: bool,
    above: Vec<CertificateDer<'static>>,
}

/// What a peer shows, and the key of it.
#[derive(Clone)]
pub(super) struct Shown {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: Vec<u8>,
    /// What rcgen signed with, for the formats of keys.
    pub(super) key_pem: String,
}

pub(super) type Change<'a> = &'a dyn Fn(&mut CertificateParams);

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if !name.is_empty() {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    params.not_before = OffsetDateTime::now_utc() - HOUR;
    params.not_after = OffsetDateTime::now_utc() + HOUR;
    params.use_authority_key_identifier_extension = true;
    params
}

pub(super) fn ca_params(name: &str, change: Change<'_>) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    change(&mut params);
    params
}

pub(super) fn leaf_params(change: Change<'_>) -> CertificateParams {
    let mut params = params("");
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.custom_extensions = vec![uris(&[WEB.as_bytes()])];
    change(&mut params);
    params
}

impl Authority {
    pub(super) fn root(name: &str, change: Change<'_>) -> Self {
        let (params, key) = (ca_params(name, change), KeyPair::generate().expect("a key"));
        let der = params.self_signed(&key).expect("signed").der().clone();
        Self { issuer: Issuer::new(params, key), der, is_root: true, above: Vec::new() }
    }

    pub(super) fn below(&self, name: &str, change: Change<'_>) -> Self {
        self.with_key(name, KeyPair::generate().expect("a key"), change)
    }

    pub(super) fn with_key(&self, name: &str, key: KeyPair, change: Change<'_>) -> Self {
        let params = ca_params(name, change);
        let der = params.signed_by(&key, &self.issuer).expect("signed").der().clone();
        Self { issuer: Issuer::new(params, key), der, is_root: false, above: self.path() }
    }

    /// The certificates that a workload below this CA shows after its own.
    pub(super) fn path(&self) -> Vec<CertificateDer<'static>> {
        match self.is_root {
            true => Vec::new(),
            false => [std::slice::from_ref(&self.der), &self.above].concat(),
        }
    }

    pub(super) fn leaf(&self, change: Change<'_>) -> Shown {
        self.leaf_of(&KeyPair::generate().expect("a key"), change)
    }

    pub(super) fn leaf_by(&self, algorithm: &'static SignatureAlgorithm) -> Shown {
        self.leaf_of(&KeyPair::generate_for(algorithm).expect("a key"), &|_| {})
    }

    pub(super) fn leaf_of(&self, key: &KeyPair, change: Change<'_>) -> Shown {
        let own = leaf_params(change).signed_by(key, &self.issuer).expect("signed").der().clone();
        let chain = std::iter::once(own).chain(self.path()).collect();
        Shown { chain, key: key.serialize_der(), key_pem: key.serialize_pem() }
    }

    /// A list that revokes these serial numbers, in PEM.
    pub(super) fn revoking(&self, serials: &[u64], next_update: OffsetDateTime) -> String {
        let this_update = OffsetDateTime::now_utc().min(next_update) - HOUR;
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: this_update,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update,
            next_update,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).expect("signed").pem().expect("PEM")
    }
}

impl Shown {
    /// Changes the bytes of the own certificate, whose signature is then wrong.
    pub(super) fn edited(mut self, edit: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Self {
        self.chain[0] = edit(self.chain[0].to_vec()).into();
        self
    }

    pub(super) fn reordered(mut self, order: &[usize]) -> Self {
        self.chain = order.iter().map(|&index| self.chain[index].clone()).collect();
        self
    }

    pub(super) fn with(mut self, more: impl IntoIterator<Item = CertificateDer<'static>>) -> Self {
        self.chain.extend(more);
        self
    }

    pub(super) fn certificates_pem(&self) -> String {
        self.chain.iter().map(|der| pem("CERTIFICATE", der)).collect()
    }
}

/// One element of DER.
pub(super) fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).expect("a small content").to_be_bytes();
    let length = match length {
        [0, 0, 0, low @ 0..=0x7f] => vec![low],
        [0, 0, 0, low] => vec![0x81, low],
        [0, 0, high, low] => vec![0x82, high, low],
        [_, middle, high, low] => vec![0x83, middle, high, low],
    };
    [&[tag], &*length, content].concat()
}

/// The content of one element, and what follows the element.
pub(super) fn open(element: &[u8]) -> (&[u8], &[u8]) {
    let (head, length) = match element[1] {
        short @ 0..=0x7f => (2, usize::from(short)),
        0x81 => (3, usize::from(element[2])),
        _ => (4, usize::from(element[2]) * 256 + usize::from(element[3])),
    };
    element[head..].split_at(length)
}

const SUBJECT_ALT_NAME: [u64; 4] = [2, 5, 29, 17];
const NAME_CONSTRAINTS: [u64; 4] = [2, 5, 29, 30];
const URI: u8 = 0x86;
const DNS: u8 = 0x82;
const SEQUENCE: u8 = 0x30;

/// The alternative names of a certificate: only URIs, which may be any bytes.
pub(super) fn uris(names: &[&[u8]]) -> CustomExtension {
    names_of(names.iter().map(|name| der(URI, name)).collect())
}

/// A URI and a host name.
pub(super) fn uri_and_host(uri: &[u8], host: &[u8]) -> CustomExtension {
    names_of(vec![der(URI, uri), der(DNS, host)])
}

pub(super) fn host(name: &[u8]) -> CustomExtension {
    names_of(vec![der(DNS, name)])
}

fn names_of(names: Vec<Vec<u8>>) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(&SUBJECT_ALT_NAME, der(SEQUENCE, &names.concat()));
    extension.set_criticality(true);
    extension
}

/// Name constraints of a CA for URIs: `permitted` or excluded.
pub(super) fn uri_constraint(permitted: bool, host: &[u8]) -> CustomExtension {
    let subtrees = der(if permitted { 0xa0 } else { 0xa1 }, &der(SEQUENCE, &der(URI, host)));
    let mut extension = CustomExtension::from_oid_content(&NAME_CONSTRAINTS, der(SEQUENCE, &subtrees));
    extension.set_criticality(true);
    extension
}

/// Replaces each `from` by `to`, which has the same length.
pub(super) fn replaced(mut bytes: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    let places: Vec<_> = bytes.windows(from.len()).enumerate().filter(|(_, it)| *it == from).collect();
    let places: Vec<_> = places.into_iter().map(|(place, _)| place).collect();
    assert!(!places.is_empty(), "the bytes are there");
    for place in places {
        bytes[place..place + from.len()].copy_from_slice(to);
    }
    bytes
}

pub(super) fn pem(label: &str, der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let lines: Vec<_> =
        encoded.as_bytes().chunks(64).map(|line| str::from_utf8(line).expect("text")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// Runs openssl. `None` where it is not installed, or refuses to make what is asked for.
pub(super) fn openssl(folder: &Scratch, arguments: &[&str]) -> Option<std::process::Output> {
    let command = std::process::Command::new("openssl").args(arguments).current_dir(folder.path("")).output();
    match command {
        Ok(output) => Some(output),
        Err(_absent) => {
            let must = std::env::var("PILLION_TEST_REQUIRE").is_ok_and(|tools| tools == "all");
            assert!(!must, "openssl is missing, and PILLION_TEST_REQUIRE=all");
            None
        }
    }
}

/// A workload's certificate with a key, or by a digest, that only openssl makes.
pub(super) fn by_openssl(root: &Authority, key: &[&str], digest: &str) -> Option<Shown> {
    let folder = Scratch::new();
    let write = |name: &str, text: &str| std::fs::write(folder.path(name), text).expect("written");
    write("ca.crt", &pem("CERTIFICATE", &root.der));
    write("ca.key", &root.issuer.key().serialize_pem());
    let extensions = format!(
        "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nsubjectAltName=critical,URI:{WEB}\n"
    );
    write("extensions", &extensions);
    let run = |arguments: &[&str]| {
        let output = openssl(&folder, arguments)?;
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Some(())
    };
    run(&[key, &["-out", "key"]].concat())?;
    run(&["req", "-new", "-key", "key", "-subj", "/CN=web", "-out", "request"])?;
    run(&[
        "x509",
        "-req",
        "-in",
        "request",
        "-CA",
        "ca.crt",
        "-CAkey",
        "ca.key",
        "-set_serial",
        "7",
        "-days",
        "1",
        "-extfile",
        "extensions",
        digest,
        "-out",
        "crt",
    ])?;
    let own = CertificateDer::from_pem_file(folder.path("crt")).expect("a certificate");
    let key_pem = std::fs::read_to_string(folder.path("key")).expect("a key");
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
        .map_or_else(|_| Vec::new(), |key| key.secret_der().to_vec());
    Some(Shown { chain: vec![own], key, key_pem })
}
