//! The corpus of certificates: each is shown by a client to our server and by a server to our client, and is accepted or
//! refused as the SPIFFE standards say (SPIFFE-ID, 2; X.509-SVID, 2 to 5). openssl's verdict is beside ours.
//!
//! A row has the name of the case, what the peer shows, our verdict (its cause, a part of its text, and what the peer
//! learns from the alert), and openssl's verdict about the path, which does not know identities.

mod keys;
mod make;

use std::sync::LazyLock;

use pillion_testkit::Scratch;
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CustomExtension, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyPair,
    KeyUsagePurpose, NameConstraints, SerialNumber,
};
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;

use self::make::{
    Authority, Change, Shown, by_openssl, der, host, openssl, pem, replaced, uri_and_host, uri_constraint,
    uris,
};
use super::*;
use crate::verify::ClientVerifier;

/// Our verdict about a peer.
#[derive(Debug, Clone, Copy)]
enum Ours {
    Admitted,
    /// The cause, a part of the text, and the cause that the peer reads from the alert.
    Refused(&'static str, &'static str, &'static str),
}

/// openssl's verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Theirs {
    Ok,
    Refuses,
    /// It has none, for instance because its client shows no such thing.
    None,
}

use Ours::{Admitted, Refused};
use Theirs::{Ok as Good, Refuses};

struct Row {
    name: &'static str,
    peer: Shown,
    /// The trust bundle of the judge.
    bundle: Vec<CertificateDer<'static>>,
    /// The revocation lists of the judge, PEM.
    lists: Option<String>,
    ours: Ours,
    theirs: Theirs,
}

/// The root of most rows.
static ROOT: LazyLock<Authority> = LazyLock::new(|| Authority::root("root", &|_| {}));
/// A CA below the root.
static MIDDLE: LazyLock<Authority> = LazyLock::new(|| ROOT.below("middle", &|_| {}));

fn row(name: &'static str, peer: Shown, ours: Ours, theirs: Theirs) -> Row {
    Row { name, peer, bundle: vec![ROOT.der.clone()], lists: None, ours, theirs }
}

/// A row about the identity alone.
fn named(name: &'static str, uri: &[u8], ours: Ours) -> Row {
    let peer = ROOT.leaf(&|it| it.custom_extensions = vec![uris(&[uri])]);
    row(name, peer, ours, Good)
}

fn leaf(name: &'static str, change: Change<'_>, ours: Ours, theirs: Theirs) -> Row {
    row(name, ROOT.leaf(change), ours, theirs)
}

fn below(name: &'static str, ca: &Authority, ours: Ours, theirs: Theirs) -> Row {
    row(name, ca.leaf(&|_| {}), ours, theirs)
}

const fn no_identity(words: &'static str) -> Ours {
    Refused("no identity", words, "not acceptable")
}

const fn not_spiffe(words: &'static str) -> Ours {
    no_identity(words)
}

const OTHER_DOMAIN: Ours =
    Refused("another trust domain", "expected any identity of the trust domain", "not acceptable");
const UNKNOWN: Ours = Refused("unknown CA", "unknown issuer", "unknown CA");
const EXPIRED: Ours = Refused("expired", "expired at", "expired");
const TOO_LONG: Ours = Refused("path too long", "too long", "unknown CA");
const NOT_CA: Ours = Refused("not a CA", "may not sign others", "unknown CA");
const WEAK: Ours = Refused("signature not accepted", "algorithm that is not accepted", "bad certificate");
const WEAK_KEY: Ours = Refused("key not accepted", "is not accepted", "not acceptable");
const REVOKED: Ours = Refused("revoked", "has been revoked", "revoked");
const MALFORMED: Ours = Refused("not readable", "not well formed", "bad certificate");

fn identities() -> Vec<Row> {
    let long = |segments: usize| format!("{WEB}/{}", vec!["a123456789"; segments].join("/"));
    let most = format!("{WEB}/{}", "a".repeat(2048 - WEB.len() - 1));
    let too_much = format!("{most}a");
    vec![
        named("a SPIFFE ID", WEB.as_bytes(), Admitted),
        named("of another trust domain", b"spiffe://elsewhere.test/web", OTHER_DOMAIN),
        named("a trust domain that ends with ours", b"spiffe://not-cluster.local/web", OTHER_DOMAIN),
        named("a trust domain that begins with ours", b"spiffe://cluster.local.test/web", OTHER_DOMAIN),
        named("a trailing dot in the trust domain", b"spiffe://cluster.local./web", OTHER_DOMAIN),
        named("a dot where ours has another character", b"spiffe://cluster-local/web", OTHER_DOMAIN),
        named(
            "an upper-case trust domain",
            b"spiffe://Cluster.Local/web",
            not_spiffe("a trust domain has only"),
        ),
        named("an upper-case scheme", b"SPIFFE://cluster.local/web", not_spiffe("begins with spiffe://")),
        named("another scheme", b"https://cluster.local/web", not_spiffe("begins with spiffe://")),
        named("no trust domain", b"spiffe:///web", not_spiffe("the trust domain is empty")),
        named("no path", b"spiffe://cluster.local", no_identity("it has no path")),
        named("a path of one slash", b"spiffe://cluster.local/", not_spiffe("a path segment is empty")),
        named("a trailing slash", b"spiffe://cluster.local/web/", not_spiffe("a path segment is empty")),
        named(
            "an empty path segment",
            b"spiffe://cluster.local/ns//web",
            not_spiffe("a path segment is empty"),
        ),
        named("a dot segment", b"spiffe://cluster.local/ns/./web", not_spiffe("a path segment is . or ..")),
        named("two dots", b"spiffe://cluster.local/ns/../web", not_spiffe("a path segment is . or ..")),
        named("a segment of three dots", b"spiffe://cluster.local/.../web", Admitted),
        named("percent-encoding", b"spiffe://cluster.local/%77eb", not_spiffe("a path segment has only")),
        named("a query", b"spiffe://cluster.local/web?a=b", not_spiffe("a path segment has only")),
        named("a fragment", b"spiffe://cluster.local/web#a", not_spiffe("a path segment has only")),
        named("a port", b"spiffe://cluster.local:443/web", not_spiffe("a trust domain has only")),
        named("user information", b"spiffe://web@cluster.local/web", not_spiffe("a trust domain has only")),
        named("regex characters", b"spiffe://cluster.local/ns/.*", not_spiffe("a path segment has only")),
        named(
            "a regex of alternatives",
            b"spiffe://cluster.local/(web|orders)",
            not_spiffe("a path segment has only"),
        ),
        named("an upper-case path", b"spiffe://cluster.local/Web", Admitted),
        named("a space", b"spiffe://cluster.local/a web", not_spiffe("a path segment has only")),
        named("a NUL", b"spiffe://cluster.local/web\0x", not_spiffe("a path segment has only")),
        named(
            "non-ASCII in UTF-8",
            "spiffe://cluster.local/w\u{e9}b".as_bytes(),
            no_identity("not a SPIFFE ID"),
        ),
        named("bytes that are no text", b"spiffe://cluster.local/\xff", no_identity("not a SPIFFE ID")),
        named("many segments", long(20).as_bytes(), Admitted),
        named("2048 bytes", most.as_bytes(), Admitted),
        named("2049 bytes", too_much.as_bytes(), not_spiffe("at most 2048 bytes")),
        named("an empty URI", b"", not_spiffe("begins with spiffe://")),
    ]
}

fn names() -> Vec<Row> {
    let with = |extension: fn() -> CustomExtension| {
        move |it: &mut rcgen::CertificateParams| it.custom_extensions = vec![extension()]
    };
    vec![
        leaf(
            "two SPIFFE IDs",
            &with(|| uris(&[WEB.as_bytes(), ORDERS.as_bytes()])),
            no_identity("2 URIs"),
            Good,
        ),
        leaf(
            "the same SPIFFE ID twice",
            &with(|| uris(&[WEB.as_bytes(), WEB.as_bytes()])),
            no_identity("2 URIs"),
            Good,
        ),
        leaf(
            "a SPIFFE ID and another URI",
            &with(|| uris(&[WEB.as_bytes(), b"https://a.test/"])),
            no_identity("2 URIs"),
            Good,
        ),
        leaf(
            "a SPIFFE ID and a URI that is no text",
            &with(|| uris(&[WEB.as_bytes(), b"\xff"])),
            no_identity("2 URIs"),
            Good,
        ),
        leaf("a SPIFFE ID and a host", &with(|| uri_and_host(WEB.as_bytes(), b"web.shop")), Admitted, Good),
        leaf("a host alone", &with(|| host(b"web.shop")), no_identity("no SPIFFE ID"), Good),
        leaf(
            "a SPIFFE ID as the name of a host",
            &with(|| host(WEB.as_bytes())),
            no_identity("no SPIFFE ID"),
            Good,
        ),
        leaf("no names", &|it| it.custom_extensions.clear(), no_identity("no SPIFFE ID"), Good),
        leaf(
            "a SPIFFE ID as the common name",
            &|it| {
                it.custom_extensions.clear();
                it.distinguished_name.push(DnType::CommonName, WEB);
            },
            no_identity("no SPIFFE ID"),
            Good,
        ),
    ]
}

fn validity() -> Vec<Row> {
    const MINUTE: Duration = Duration::from_secs(60);
    let now = OffsetDateTime::now_utc;
    vec![
        leaf("expired", &|it| it.not_after = now() - MINUTE, EXPIRED, Refuses),
        leaf(
            "expired since two seconds",
            &|it| it.not_after = now() - Duration::from_secs(2),
            EXPIRED,
            Refuses,
        ),
        leaf(
            "of the future",
            &|it| it.not_before = now() + MINUTE,
            Refused("not valid yet", "only from", "expired"),
            Refuses,
        ),
        leaf(
            "ends before it begins",
            &|it| (it.not_before, it.not_after) = (now() + HOUR, now() - HOUR),
            Refused("not valid yet", "ends before it begins", "expired"),
            Refuses,
        ),
        below(
            "an intermediate that has expired",
            &ROOT.below("old", &|it| it.not_after = now() - MINUTE),
            EXPIRED,
            Refuses,
        ),
    ]
}

fn uses() -> Vec<Row> {
    use ExtendedKeyUsagePurpose as Purpose;
    use KeyUsagePurpose::{CrlSign, DigitalSignature, KeyAgreement, KeyCertSign, KeyEncipherment};
    let usage = |usages: &'static [KeyUsagePurpose]| {
        move |it: &mut rcgen::CertificateParams| it.key_usages = usages.to_vec()
    };
    let purpose = |purposes: &[Purpose]| {
        let purposes = purposes.to_vec();
        move |it: &mut rcgen::CertificateParams| it.extended_key_usages = purposes.clone()
    };
    let signer = no_identity("allows it to sign");
    let wrong_purpose = Refused("wrong key usage", "another purpose", "unsupported certificate");
    vec![
        leaf("no key usage", &usage(&[]), Admitted, Good),
        leaf(
            "a key usage for keys too",
            &usage(&[DigitalSignature, KeyEncipherment, KeyAgreement]),
            Admitted,
            Good,
        ),
        leaf("may sign certificates", &usage(&[DigitalSignature, KeyCertSign]), signer, Good),
        leaf("may sign revocation lists", &usage(&[DigitalSignature, CrlSign]), signer, Good),
        leaf(
            "may not sign handshakes",
            &usage(&[KeyEncipherment]),
            no_identity("lacks digitalSignature"),
            Refuses,
        ),
        leaf("no extended key usage", &purpose(&[]), Admitted, Good),
        leaf("for code", &purpose(&[Purpose::CodeSigning]), wrong_purpose, Refuses),
        leaf("for any purpose, which names neither side", &purpose(&[Purpose::Any]), wrong_purpose, Refuses),
        leaf(
            "a CA's certificate as a workload's",
            &|it| {
                it.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                it.key_usages = vec![DigitalSignature, KeyCertSign];
            },
            Refused("a CA's certificate", "a CA's certificate", "unsupported certificate"),
            Good,
        ),
        leaf("no basic constraints", &|it| it.is_ca = IsCa::NoCa, Admitted, Good),
        leaf(
            "an unknown critical extension",
            &|it| {
                let mut unknown =
                    CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
                unknown.set_criticality(true);
                it.custom_extensions.push(unknown);
            },
            Refused("not readable", "critical extension", "bad certificate"),
            Refuses,
        ),
        leaf(
            "an unknown extension that is not critical",
            &|it| {
                let unknown = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
                it.custom_extensions.push(unknown);
            },
            Admitted,
            Good,
        ),
    ]
}

/// The object identifier of ecdsa-with-SHA256, and two of the same length: ecdsa-with-SHA224, and none that exists.
const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const ECDSA_SHA224: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x01];
const UNKNOWN_OID: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x7f];

fn algorithms() -> Vec<Row> {
    let rsa_ca =
        ROOT.with_key("rsa", KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).expect("a key"), &|_| {});
    let ed25519 =
        ROOT.with_key("ed25519", KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key"), &|_| {});
    let edited =
        |from: &'static [u8], to: &'static [u8]| ROOT.leaf(&|_| {}).edited(|der| replaced(der, from, to));
    vec![
        row("a key on P-384", ROOT.leaf_by(&rcgen::PKCS_ECDSA_P384_SHA384), Admitted, Good),
        row("a key on P-521", ROOT.leaf_by(&rcgen::PKCS_ECDSA_P521_SHA512), Admitted, Good),
        row("an Ed25519 key", ROOT.leaf_by(&rcgen::PKCS_ED25519), Admitted, Good),
        row("an RSA key", ROOT.leaf_by(&rcgen::PKCS_RSA_SHA256), Admitted, Good),
        below("signed with RSA", &rsa_ca, Admitted, Good),
        below("signed with Ed25519", &ed25519, Admitted, Good),
        row("signed with SHA-224", edited(ECDSA_SHA256, ECDSA_SHA224), WEAK, Refuses),
        row("signed with an unknown algorithm", edited(ECDSA_SHA256, UNKNOWN_OID), WEAK, Refuses),
    ]
}

/// What only openssl makes.
fn old_algorithms() -> Vec<Row> {
    let made = |name, key: &[&str], digest, ours, theirs| {
        by_openssl(&ROOT, key, digest).map(|peer| row(name, peer, ours, theirs))
    };
    let p256: &[&str] = &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
    let secp256k1: &[&str] = &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp256k1"];
    let rsa_1024: &[&str] = &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"];
    let rows = [
        made("signed by openssl", p256, "-sha256", Admitted, Good),
        made("signed with SHA-1", p256, "-sha1", WEAK, Good),
        made("an RSA key of 1024 bits", rsa_1024, "-sha256", WEAK_KEY, Good),
        made("a key on secp256k1", secp256k1, "-sha256", WEAK_KEY, Good),
        made("an Ed448 key", &["genpkey", "-algorithm", "ED448"], "-sha256", WEAK_KEY, Good),
    ];
    rows.into_iter().flatten().collect()
}

/// A workload below `levels` of CAs, each with a name that `width` certificates have, and none below a root.
fn branching(levels: usize, width: usize) -> Shown {
    let named = |level: usize| Authority::root(&format!("level {level}"), &|_| {});
    let of = |level: usize| {
        let above = named(level + 1);
        (0..width).map(move |_| above.below(&format!("level {level}"), &|_| {}).der.clone())
    };
    named(0).leaf(&|_| {}).with((0..levels).flat_map(of))
}

/// A workload below CAs that have the name of the root, and that no root has signed.
fn namesakes(count: usize) -> Shown {
    let namesake = Authority::root("root", &|_| {});
    namesake.leaf(&|_| {}).with((0..count).map(|_| namesake.below("root", &|_| {}).der.clone()))
}

/// A workload whose path has `levels` of CAs, each of which two others have signed.
fn crossed(levels: usize) -> Shown {
    let again = |key: &KeyPair| KeyPair::from_pem(&key.serialize_pem()).expect("the key");
    let pair = |of: &[Authority; 2], level: usize| {
        let (key, name) = (KeyPair::generate().expect("a key"), format!("crossed {level}"));
        of.each_ref().map(|above| above.with_key(&name, again(&key), &|_| {}))
    };
    let first = ROOT.below("first", &|_| {});
    let mut shown = first.path();
    let last = (0..levels).fold([Authority::root("stranger", &|_| {}), first], |above, level| {
        let both = pair(&above, level);
        shown.extend(both.each_ref().map(|ca| ca.der.clone()));
        both
    });
    let mut leaf = last[0].leaf(&|_| {});
    leaf.chain.truncate(1);
    leaf.with(shown)
}

fn chains() -> Vec<Row> {
    let deep = |depth: usize| {
        (0..depth)
            .fold(None, |ca: Option<Authority>, level| {
                let ca = ca.as_ref().unwrap_or(&ROOT);
                Some(ca.below(&format!("level {level}"), &|_| {}))
            })
            .expect("at least one")
    };
    let two = || MIDDLE.below("second", &|_| {}).leaf(&|_| {});
    let stranger = Authority::root("stranger", &|_| {});
    let namesake = Authority::root("root", &|_| {});
    // a CA whose key two roots have signed, and whose workload shows only the path to the stranger, or both
    let (key, again) = (KeyPair::generate().expect("a key"), |key: &KeyPair| {
        KeyPair::from_pem(&key.serialize_pem()).expect("the key")
    });
    let (to_stranger, to_us) =
        (stranger.with_key("crossed", again(&key), &|_| {}), ROOT.with_key("crossed", key, &|_| {}));
    let (theirs, ours) = (to_stranger.leaf(&|_| {}), to_stranger.leaf(&|_| {}).with([to_us.der.clone()]));
    let plain = |it: &mut rcgen::CertificateParams| it.is_ca = IsCa::ExplicitNoCa;
    let no_signing = |it: &mut rcgen::CertificateParams| it.key_usages = vec![KeyUsagePurpose::CrlSign];
    vec![
        below("one intermediate", &MIDDLE, Admitted, Good),
        row("two intermediates", two(), Admitted, Good),
        row("the intermediates in the wrong order", two().reordered(&[0, 2, 1]), Admitted, Good),
        row("an intermediate twice", two().reordered(&[0, 1, 1, 2, 2]), Admitted, Good),
        row("an intermediate is missing", two().reordered(&[0, 1]), UNKNOWN, Refuses),
        row("all intermediates are missing", two().reordered(&[0]), UNKNOWN, Refuses),
        row(
            "the workload's own is not the first",
            two().reordered(&[1, 0, 2]),
            Refused("a CA's certificate", "must come first", "unsupported certificate"),
            Refuses,
        ),
        row("the root as well", MIDDLE.leaf(&|_| {}).with([ROOT.der.clone()]), Admitted, Good),
        row("a stranger's CA as well", MIDDLE.leaf(&|_| {}).with([stranger.der.clone()]), Admitted, Good),
        below("six intermediates", &deep(6), Admitted, Good),
        below("seven intermediates", &deep(7), TOO_LONG, Good),
        // webpki would take 340 steps to find that none of them leads to a root
        row("four levels of four CAs each that lead nowhere", branching(4, 4), TOO_LONG, Refuses),
        row("a CA of the root's name 33 times", namesakes(33), TOO_LONG, Refuses),
        row("three intermediates that two CAs have signed each", crossed(3), Admitted, Theirs::None),
        below("a CA that we do not know", &stranger, UNKNOWN, Refuses),
        below(
            "a CA of the same name with another key",
            &namesake,
            Refused("unknown CA", "with another key", "unknown CA"),
            Refuses,
        ),
        row("a CA that two roots have signed, by the path to the other", theirs, UNKNOWN, Refuses),
        // openssl tries only the first path
        row("a CA that two roots have signed, by both paths", ours, Admitted, Refuses),
        row("signed by itself", self_signed(), UNKNOWN, Refuses),
        below("a workload as the CA", &ROOT.below("web", &plain), NOT_CA, Refuses),
        below("a CA that may not sign by its key usage", &ROOT.below("web", &no_signing), NOT_CA, Refuses),
        below(
            "a CA of path length 0",
            &ROOT.below("short", &|it| it.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))),
            Admitted,
            Good,
        ),
        below(
            "a CA below a CA of path length 0",
            &ROOT
                .below("short", &|it| it.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)))
                .below("more", &|_| {}),
            Refused("path too long", "path length", "unknown CA"),
            Refuses,
        ),
        below(
            "a CA with the SPIFFE ID of its trust domain",
            &ROOT.below("own", &|it| it.custom_extensions = vec![uris(&[b"spiffe://cluster.local"])]),
            Admitted,
            Good,
        ),
        below(
            "a CA with the SPIFFE ID of another trust domain",
            &ROOT.below("own", &|it| it.custom_extensions = vec![uris(&[b"spiffe://elsewhere.test"])]),
            Admitted,
            Good,
        ),
        below(
            "a CA with the SPIFFE ID of a workload",
            &ROOT.below("own", &|it| it.custom_extensions = vec![uris(&[ORDERS.as_bytes()])]),
            Admitted,
            Good,
        ),
    ]
}

fn self_signed() -> Shown {
    let key = KeyPair::generate().expect("a key");
    let own =
        make::leaf_params(&|it| it.distinguished_name.push(DnType::CommonName, "web")).self_signed(&key);
    let chain = vec![own.expect("signed").der().clone()];
    Shown { chain, key: key.serialize_der(), key_pem: key.serialize_pem() }
}

fn constraints() -> Vec<Row> {
    let dns = |permitted: bool, name: &'static str| {
        move |it: &mut rcgen::CertificateParams| {
            let (listed, none) = (vec![GeneralSubtree::DnsName(name.to_owned())], Vec::new());
            let (permitted_subtrees, excluded_subtrees) =
                if permitted { (listed, none) } else { (none, listed) };
            it.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees });
        }
    };
    let uri = |permitted, name: &'static [u8]| {
        move |it: &mut rcgen::CertificateParams| it.custom_extensions = vec![uri_constraint(permitted, name)]
    };
    let hosted = |ca: &Authority| {
        ca.leaf(&|it| it.custom_extensions = vec![uri_and_host(WEB.as_bytes(), b"web.shop")])
    };
    let excluded = Refused("name constraint", "exclude one of its names", "not acceptable");
    let unjudged = Refused("name constraint", "name constraints for URIs", "not acceptable");
    vec![
        below(
            "a CA for other hosts, and no host",
            &ROOT.below("c", &dns(true, "elsewhere.test")),
            Admitted,
            Good,
        ),
        row("a CA for this host", hosted(&ROOT.below("c", &dns(true, "shop"))), Admitted, Good),
        row(
            "a CA for other hosts",
            hosted(&ROOT.below("c", &dns(true, "elsewhere.test"))),
            excluded,
            Refuses,
        ),
        row("a CA without this host", hosted(&ROOT.below("c", &dns(false, "shop"))), excluded, Refuses),
        below(
            "a CA for the URIs of our trust domain",
            &ROOT.below("c", &uri(true, b"cluster.local")),
            unjudged,
            Good,
        ),
        below(
            "a CA for the URIs of another trust domain",
            &ROOT.below("c", &uri(true, b"elsewhere.test")),
            unjudged,
            Refuses,
        ),
        below(
            "a CA without the URIs of our trust domain",
            &ROOT.below("c", &uri(false, b"cluster.local")),
            unjudged,
            Refuses,
        ),
        {
            let root = Authority::root("constrained", &uri(true, b"cluster.local"));
            let bundle = vec![root.der.clone()];
            Row { bundle, ..below("a root for the URIs of our trust domain", &root, unjudged, Good) }
        },
    ]
}

fn revocations() -> Vec<Row> {
    let serial = |number: u64| {
        move |it: &mut rcgen::CertificateParams| it.serial_number = Some(SerialNumber::from(number))
    };
    let (soon, past) = (tomorrow(), OffsetDateTime::now_utc() - HOUR);
    let middle = ROOT.below("revocable", &serial(77));
    let listed = |row: Row, lists: &[String]| Row { lists: Some(lists.concat()), ..row };
    let one = |name, number, ours, theirs| leaf(name, &serial(number), ours, theirs);
    let (of_root, of_middle) =
        (|number: &[u64]| ROOT.revoking(number, soon), |number: &[u64]| middle.revoking(number, soon));
    let two = |name, number, ours, theirs| row(name, middle.leaf(&serial(number)), ours, theirs);
    let mut rows = vec![
        listed(one("not on the list", 6, Admitted, Good), &[of_root(&[5])]),
        listed(one("on the list", 5, REVOKED, Refuses), &[of_root(&[5])]),
        listed(one("on an outdated list", 5, REVOKED, Refuses), &[ROOT.revoking(&[5], past)]),
        listed(one("not on an outdated list", 6, Admitted, Refuses), &[ROOT.revoking(&[5], past)]),
        listed(two("an intermediate on the list", 6, REVOKED, Refuses), &[of_root(&[77]), of_middle(&[])]),
        listed(two("on the list of an intermediate", 5, REVOKED, Refuses), &[of_root(&[]), of_middle(&[5])]),
        listed(
            two("the serial on the list of another CA", 5, Admitted, Good),
            &[of_root(&[5]), of_middle(&[])],
        ),
    ];
    rows.extend(two_roots());
    rows
}

/// A CA that two roots of the bundle have signed, with one list of each root.
fn two_roots() -> [Row; 3] {
    let serial = |number: u64| {
        move |it: &mut rcgen::CertificateParams| it.serial_number = Some(SerialNumber::from(number))
    };
    let other = Authority::root("other", &|_| {});
    let key = KeyPair::generate().expect("a key");
    let again = KeyPair::from_pem(&key.serialize_pem()).expect("the key");
    let (by_root, by_other) =
        (ROOT.with_key("crossed", key, &serial(77)), other.with_key("crossed", again, &serial(88)));
    let peer = by_root.leaf(&|_| {}).with([by_other.der.clone()]);
    let lists = |of_root: &[u64], of_other: &[u64]| {
        let soon = tomorrow();
        let lists =
            [ROOT.revoking(of_root, soon), other.revoking(of_other, soon), by_root.revoking(&[], soon)];
        Some(lists.concat())
    };
    let bundle = vec![ROOT.der.clone(), other.der.clone()];
    let with = |name, ours, theirs, lists| Row {
        bundle: bundle.clone(),
        lists,
        ..row(name, peer.clone(), ours, theirs)
    };
    [
        with("a CA that two roots have signed, with two lists", Admitted, Good, lists(&[], &[])),
        with("a CA that two roots have signed, revoked by both", REVOKED, Refuses, lists(&[77], &[88])),
        // openssl tries only the first path
        with("a CA that two roots have signed, revoked by one", Admitted, Refuses, lists(&[77], &[])),
    ]
}

fn encodings() -> Vec<Row> {
    let good = || ROOT.leaf(&|_| {});
    let junk = Shown { chain: vec![vec![0xff; 100].into()], ..good() };
    let empty = Shown { chain: vec![Vec::new().into()], ..good() };
    let padding = |bytes: usize| {
        move |it: &mut rcgen::CertificateParams| {
            it.custom_extensions.push(CustomExtension::from_oid_content(
                &[1, 3, 6, 1, 4, 1, 99999, 2],
                der(4, &vec![0; bytes]),
            ));
        }
    };
    vec![
        row("garbage", junk, MALFORMED, Theirs::None),
        row("nothing", empty, MALFORMED, Theirs::None),
        row(
            "cut off",
            good().edited(|mut der| {
                der.truncate(der.len() - 1);
                der
            }),
            MALFORMED,
            Theirs::None,
        ),
        row(
            "a byte after its end",
            good().edited(|mut der| {
                der.push(0);
                der
            }),
            MALFORMED,
            Theirs::None,
        ),
        row(
            "another byte in its signature",
            good().edited(|mut der| {
                let last = der.len() - 1;
                der[last] ^= 1;
                der
            }),
            Refused("unknown CA", "with another key", "unknown CA"),
            Refuses,
        ),
        row(
            "another name under its signature",
            good().edited(|der| replaced(der, b"sa/web", b"sa/wob")),
            Refused("unknown CA", "with another key", "unknown CA"),
            Refuses,
        ),
        leaf(
            "an extension twice",
            &|it| it.custom_extensions = vec![uris(&[WEB.as_bytes()]), uris(&[WEB.as_bytes()])],
            MALFORMED,
            Theirs::None,
        ),
        row("garbage as an intermediate", good().with([vec![0xff; 100].into()]), Admitted, Theirs::None),
        leaf("ten kilobytes more", &padding(10 * 1024), Admitted, Good),
    ]
}

fn corpus() -> Vec<Row> {
    let groups = [
        identities(),
        names(),
        validity(),
        uses(),
        algorithms(),
        old_algorithms(),
        chains(),
        constraints(),
        revocations(),
        encodings(),
    ];
    groups.into_iter().flatten().collect()
}

/// What judges the peer of a row: a workload below the root of the row's bundle, or below our usual root.
fn judge(row: &Row) -> Credentials {
    let own = ROOT.leaf(&|it| it.custom_extensions = vec![uri_and_host(ORDERS.as_bytes(), b"orders.shop")]);
    let bundle: String = row.bundle.iter().map(|der| pem("CERTIFICATE", der)).collect();
    let own =
        Credentials::from_pem(own.certificates_pem().as_bytes(), own.key_pem.as_bytes(), bundle.as_bytes());
    let own = own.expect("usable");
    match &row.lists {
        Some(lists) => rotation::with(&own, lists),
        None => own,
    }
}

/// The peer of a row, which trusts what the judge trusts, and our root.
fn peer(row: &Row, judge: &Credentials) -> Credentials {
    let key = rustls::pki_types::PrivateKeyDer::try_from(row.peer.key.clone());
    let key = key.ok().and_then(|key| provider::any().key_provider.load_private_key(key).ok());
    let key = key.unwrap_or_else(|| judge.key.key.clone()); // a key that no TLS library of ours can use
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ROOT.der.clone()).expect("a root");
    let key = Arc::new(CertifiedKey::new(row.peer.chain.clone(), key));
    Credentials { key, roots: Arc::new(roots), revocations: Arc::from([]), ..judge.clone() }
}

/// What the judge says of the peer, and what the peer learns.
type Heard = (Result<(), TlsError>, Result<(), TlsError>);

async fn as_client(row: &Row) -> Heard {
    let judge = judge(row);
    let (served, called) =
        shake(serve(&judge), &client(&peer(row, &judge), &mutual(&[]), AlpnOffer::Auto)).await;
    (served.map(drop), called.map(drop))
}

async fn as_server(row: &Row) -> Heard {
    let judge = judge(row);
    let (served, called) =
        shake(serve(&peer(row, &judge)), &client(&judge, &mutual(&[]), AlpnOffer::Auto)).await;
    (called.map(drop), served.map(drop))
}

fn check(row: &Row, side: &str, (judged, learnt): Heard) -> Result<(), String> {
    let name = row.name;
    match (row.ours, judged) {
        (Admitted, Ok(())) => Ok(()),
        (Admitted, Err(error)) => Err(format!("{name}, as {side}: refused: {} ({error})", error.cause)),
        (Refused(..), Ok(())) => Err(format!("{name}, as {side}: admitted")),
        (Refused(cause, words, alert), Err(error)) => {
            let learnt = learnt.err().map_or("nothing", |error| error.cause);
            // the outcome of the metric is `identity` for these, and `failed` for others
            let is_identity = matches!(cause, "no identity" | "another trust domain");
            let is_said = error.cause == cause && error.detail.contains(words);
            match is_said && learnt == alert && error.is_identity_mismatch() == is_identity {
                true => Ok(()),
                false => {
                    Err(format!("{name}, as {side}: {} ({error}); the peer learns: {learnt}", error.cause))
                }
            }
        }
    }
}

/// The verifier of hosts is rustls' own, which would look for a path before anything else is asked.
#[tokio::test]
async fn a_host_whose_certificates_have_many_branches_is_refused_before_a_path_is_looked_for() {
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    let provider = Arc::new(provider::any());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ROOT.der.clone()).expect("a root");
    let roots = Arc::new(roots);
    let inner = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone()).build();
    let revocations = crate::revocation::Revocations::new(None, provider.signature_verification_algorithms);
    let verifier = crate::verify::Revoking { inner: inner.expect("a verifier"), roots, revocations };
    let (shown, name) = (branching(4, 4), "orders.shop".try_into().expect("a name"));
    let (own, above) = shown.chain.split_first().expect("the own certificate");
    let judged = async { verifier.verify_server_cert(own, above, &name, &[], UnixTime::now()) };
    let (verdict, notes) = crate::notes::noting(judged).await;
    assert!(verdict.is_err());
    assert_eq!(notes.rejection.map(|rejection| rejection.cause()), Some("path too long"));
}

/// So is the verifier of clients outside the mesh.
#[tokio::test]
async fn a_client_outside_the_mesh_with_many_branches_is_refused_before_a_path_is_looked_for() {
    use rustls::server::danger::ClientCertVerifier as _;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ROOT.der.clone()).expect("a root");
    let verifier = crate::outside::Clients::new(&Arc::new(roots), &Arc::new(provider::any()), false);
    let verifier = verifier.expect("a verifier");
    let shown = branching(4, 4);
    let (own, above) = shown.chain.split_first().expect("the own certificate");
    let judged = async { verifier.verify_client_cert(own, above, UnixTime::now()) };
    let (verdict, notes) = crate::notes::noting(judged).await;
    assert!(verdict.is_err());
    assert_eq!(notes.rejection.map(|rejection| rejection.cause()), Some("path too long"));
}

#[tokio::test]
async fn each_certificate_of_the_corpus_is_judged_as_the_standard_says_and_the_peer_learns_why() {
    let mut faults = Vec::new();
    let corpus = corpus();
    for row in &corpus {
        faults.extend(check(row, "client", as_client(row).await).err());
        faults.extend(check(row, "server", as_server(row).await).err());
    }
    assert!(corpus.len() >= 60, "{}", corpus.len());
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), 2 * corpus.len(), faults.join("\n"));
}

/// openssl's verdict about the path of a row, and its words. `None` where it is not installed.
fn by_openssl_verify(row: &Row) -> Option<(Theirs, String)> {
    let folder = Scratch::new();
    let all = |certificates: &[CertificateDer<'static>]| -> String {
        certificates.iter().map(|der| pem("CERTIFICATE", der)).collect()
    };
    folder.write("bundle", all(&row.bundle));
    folder.write("leaf", all(&row.peer.chain[..1]));
    folder.write("others", all(&row.peer.chain[1..]));
    let mut arguments = vec!["verify", "-purpose", "sslclient", "-CAfile", "bundle"];
    if row.peer.chain.len() > 1 {
        arguments.extend(["-untrusted", "others"]);
    }
    if let Some(lists) = &row.lists {
        folder.write("lists", lists);
        arguments.extend(["-CRLfile", "lists", "-crl_check_all"]);
    }
    arguments.push("leaf");
    let output = openssl(&folder, &arguments)?;
    let words = String::from_utf8_lossy(&output.stderr)
        .lines()
        .find(|line| line.starts_with("error"))
        .unwrap_or("OK")
        .to_owned();
    Some((if output.status.success() { Good } else { Refuses }, words))
}

#[test]
fn openssl_says_of_each_path_what_the_corpus_says_it_does() {
    let mut faults = Vec::new();
    for row in corpus().iter().filter(|row| row.theirs != Theirs::None) {
        let Some((verdict, words)) = by_openssl_verify(row) else { return println!("skipped: no openssl") };
        println!("{:<60} ours: {:?}; openssl: {words}", row.name, row.ours);
        if verdict != row.theirs {
            faults.push(format!("{}: {words}", row.name));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A chain of two, and the verifier that accepts it undamaged.
static WHOLE: LazyLock<(Vec<CertificateDer<'static>>, ClientVerifier)> = LazyLock::new(|| {
    let row = below("one intermediate", &MIDDLE, Admitted, Good);
    let verifier = ClientVerifier::new(&judge(&row), &provider::any());
    (row.peer.chain, verifier)
});

proptest! {
    #[test]
    fn a_chain_with_any_damage_is_refused_and_never_panics(
        damage in prop::collection::vec((0..2_usize, any::<prop::sample::Index>(), 1..=u8::MAX), 1..5),
        cut in prop::option::of((0..2_usize, any::<prop::sample::Index>())),
    ) {
        let (whole, verifier) = &*WHOLE;
        let mut chain: Vec<Vec<u8>> = whole.iter().map(|der| der.to_vec()).collect();
        for (which, place, change) in damage {
            let at = place.index(chain[which].len());
            chain[which][at] ^= change;
        }
        if let Some((which, place)) = cut {
            let length = place.index(chain[which].len());
            chain[which].truncate(length);
        }
        let chain: Vec<CertificateDer<'_>> = chain.into_iter().map(Into::into).collect();
        let is_whole = &chain == whole; // one damage may undo another
        let judged = verifier.verify_client_cert(&chain[0], &chain[1..], UnixTime::now());
        prop_assert_eq!(judged.is_ok(), is_whole);
    }
}
