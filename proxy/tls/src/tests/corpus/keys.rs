//! The formats of our own files: which keys and certificates are loaded, and what the refusal says.

use rcgen::{KeyPair, SignatureAlgorithm};

use super::make::{Shown, open, pem};
use super::{Credentials, ROOT};

/// A workload's files, in PEM.
struct Files {
    certificate: String,
    key: String,
    bundle: String,
}

fn files(shown: &Shown) -> Files {
    let (certificate, key) = (shown.certificates_pem(), shown.key_pem.clone());
    Files { certificate, key, bundle: pem("CERTIFICATE", &ROOT.der) }
}

fn usual() -> Files {
    files(&ROOT.leaf(&|_| {}))
}

fn of(algorithm: &'static SignatureAlgorithm) -> Shown {
    ROOT.leaf_by(algorithm)
}

/// The key inside a PKCS #8 structure: PKCS #1 for RSA, SEC1 for elliptic curves.
fn inner(pkcs8: &[u8]) -> Vec<u8> {
    let (version_and_more, _) = open(pkcs8);
    let (_, algorithm_and_more) = open(version_and_more);
    let (_, key) = open(algorithm_and_more);
    open(key).0.to_vec()
}

fn with_inner(label: &str, algorithm: &'static SignatureAlgorithm) -> Files {
    let shown = of(algorithm);
    Files { key: pem(label, &inner(&shown.key)), ..files(&shown) }
}

type Row = (&'static str, Files, Result<(), &'static str>);

fn keys() -> Vec<Row> {
    let usual_key = usual();
    let other = KeyPair::generate().expect("a key").serialize_pem();
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let formerly = "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n\
                    -----END EC PRIVATE KEY-----\n";
    let (first, second) = (usual(), usual());
    let two_keys = |first: &str, second: &str| format!("{first}{second}");
    let together = usual();
    vec![
        ("PKCS #8 on P-256", usual(), Ok(())),
        ("PKCS #8 on P-384", files(&of(&rcgen::PKCS_ECDSA_P384_SHA384)), Ok(())),
        ("PKCS #8 on P-521", files(&of(&rcgen::PKCS_ECDSA_P521_SHA512)), Ok(())),
        ("PKCS #8, Ed25519", files(&of(&rcgen::PKCS_ED25519)), Ok(())),
        ("PKCS #8, RSA", files(&of(&rcgen::PKCS_RSA_SHA256)), Ok(())),
        ("PKCS #1", with_inner("RSA PRIVATE KEY", &rcgen::PKCS_RSA_SHA256), Ok(())),
        ("SEC1 on P-256", with_inner("EC PRIVATE KEY", &rcgen::PKCS_ECDSA_P256_SHA256), Ok(())),
        ("SEC1 on P-384", with_inner("EC PRIVATE KEY", &rcgen::PKCS_ECDSA_P384_SHA384), Ok(())),
        (
            "parameters of the curve before the key, as openssl writes them",
            Files {
                key: format!(
                    "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n{}",
                    usual_key.key
                ),
                ..usual_key
            },
            Ok(()),
        ),
        ("encrypted, PKCS #8", Files { key: encrypted.to_owned(), ..usual() }, Err("is encrypted")),
        (
            "encrypted, as older programs write it",
            Files { key: formerly.to_owned(), ..usual() },
            Err("is encrypted"),
        ),
        ("its own first of two", Files { key: two_keys(&first.key, &other), ..first }, Ok(())),
        (
            "its own second of two",
            Files { key: two_keys(&other, &second.key), ..second },
            Err("does not belong to the first certificate"),
        ),
        (
            "the certificate in the key's file",
            Files { key: format!("{}{}", together.certificate, together.key), ..together },
            Ok(()),
        ),
        (
            "a certificate in place of the key",
            Files { key: usual().certificate, ..usual() },
            Err("holds no private key"),
        ),
        ("cut off", Files { key: usual().key[..60].to_owned(), ..usual() }, Err("is not valid PEM")),
    ]
}

fn texts() -> Vec<Row> {
    let every = |change: fn(&str) -> String| {
        let Files { certificate, key, bundle } = usual();
        Files { certificate: change(&certificate), key: change(&key), bundle: change(&bundle) }
    };
    let doubled = |change: fn(String) -> String| {
        let files = usual();
        let bundle = format!("{}{}", change(files.bundle.clone()), files.bundle);
        Files { bundle, ..files }
    };
    let (leaf, chain) = (usual().certificate, usual());
    vec![
        ("lines that end with CR LF", every(|text| text.replace('\n', "\r\n")), Ok(())),
        (
            "text before and after",
            every(|text| format!("Subject: CN=web\n    Validity: long\n\n{text}\nand more\n")),
            Ok(()),
        ),
        ("no line end at the end", every(|text| text.trim_end().to_owned()), Ok(())),
        ("a byte order mark", every(|text| format!("\u{feff}{text}")), Ok(())),
        (
            "one line of base64",
            every(|text| {
                let lines: Vec<_> = text.trim_end().lines().collect();
                let (first, last) = (lines[0], lines[lines.len() - 1]);
                format!("{first}\n{}\n{last}\n", lines[1..lines.len() - 1].concat())
            }),
            Ok(()),
        ),
        (
            "the first CA of two after spaces",
            doubled(|ca| format!("  {ca}")),
            Err("1 of 2 blocks `CERTIFICATE`"),
        ),
        (
            "the first CA of two under another label",
            doubled(|ca| ca.replace(" CERTIFICATE", " TRUSTED CERTIFICATE")),
            Err("1 of 2 blocks `CERTIFICATE`"),
        ),
        (
            "two CAs joined without a line end between them",
            doubled(|ca| ca.trim_end().to_owned()),
            Err("1 of 2 blocks `CERTIFICATE`"),
        ),
        (
            "a byte order mark between two CAs",
            doubled(|ca| format!("{ca}\u{feff}")),
            Err("1 of 2 blocks `CERTIFICATE`"),
        ),
        (
            "an intermediate joined to the own certificate without a line end between them",
            Files { certificate: format!("{}{}", chain.certificate.trim_end(), chain.bundle), ..chain },
            Err("1 of 2 blocks `CERTIFICATE`"),
        ),
        (
            "a certificate request in the trust bundle",
            doubled(|ca| ca.replace(" CERTIFICATE", " CERTIFICATE REQUEST")),
            Ok(()),
        ),
        ("the same CA twice", doubled(|ca| ca), Ok(())),
        (
            "DER in place of PEM",
            Files { certificate: "0\u{82}\u{1}".to_owned(), ..usual() },
            Err("holds no certificate"),
        ),
        (
            "a workload's certificate in the trust bundle",
            Files { bundle: leaf, ..usual() },
            Err("is not a CA's"),
        ),
    ]
}

#[test]
fn our_own_files_are_loaded_in_every_usual_format_and_a_refusal_says_what_to_do() {
    let mut faults = Vec::new();
    for (name, files, expected) in keys().into_iter().chain(texts()) {
        let Files { certificate, key, bundle } = &files;
        let loaded = Credentials::from_pem(certificate.as_bytes(), key.as_bytes(), bundle.as_bytes());
        match (loaded.map(drop).map_err(|error| error.to_string()), expected) {
            (Ok(()), Ok(())) => {}
            (Err(error), Err(words)) if error.contains(words) => {}
            (loaded, expected) => faults.push(format!("{name}: {loaded:?}, expected {expected:?}")),
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
