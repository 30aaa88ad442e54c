//! Tests of files that change in every usual way.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use proptest::prelude::*;
use time::OffsetDateTime;

use super::*;
use crate::identity::issue::{Ca, CertificateRequest, IssuedPem};
use pillion_testkit::Scratch;

const WEB: &str = "spiffe://cluster.local/ns/default/sa/web";
const DAY: Duration = Duration::from_secs(86_400);

fn ca() -> Ca {
    Ca::generate("cluster.local").expect("a CA")
}

fn web(ca: &Ca) -> IssuedPem {
    ca.issue(&WEB.parse().expect("an ID"), &[], DAY).expect("issued")
}

fn between(ca: &Ca, not_before: OffsetDateTime, not_after: OffsetDateTime) -> IssuedPem {
    let uris = vec![WEB.to_owned()];
    ca.sign(&CertificateRequest { uris, hosts: Vec::new(), not_before, not_after }).expect("signed")
}

fn source(scratch: &Scratch, crl: Crl) -> Files {
    Files {
        certificate: scratch.path("tls.crt"),
        key: scratch.path("tls.key"),
        trust_bundle: scratch.path("ca.crt"),
        crl,
        federation: BTreeMap::new(),
        trust_domain: None,
        max_connection_age: None,
    }
}

fn write(scratch: &Scratch, pem: &IssuedPem) {
    scratch.write("tls.crt", &pem.certificate);
    scratch.write("tls.key", &pem.key);
    scratch.write("ca.crt", &pem.bundle);
}

/// The outcome as one word, with the reason of a refusal.
fn outcome_text(outcome: Outcome) -> String {
    match outcome {
        Outcome::Same => "same".to_owned(),
        Outcome::Swapped(_) => "swapped".to_owned(),
        Outcome::Refused(why) if why.is_missing() => format!("missing: {why}"),
        Outcome::Refused(why) => format!("refused: {why}"),
    }
}

/// The result of two checks: the second one sees that the files did not change in between.
fn looked(rotating: &mut Rotating, now: SystemTime) -> String {
    let [first, second] = [(); 2].map(|()| outcome_text(rotating.look(now)));
    assert!(first == "same" || second == "same", "{first}, then {second}");
    if first == "same" { second } else { first }
}

#[test]
fn the_bundle_of_another_trust_domain_is_watched_and_a_missing_or_bad_one_keeps_the_set_in_use() {
    let (scratch, now) = (Scratch::new(), SystemTime::now());
    write(&scratch, &web(&ca()));
    let bundle = |domain: &str| Ca::generate(domain).expect("a CA").certificate_pem().to_owned();
    let federation = BTreeMap::from([("partner.example".to_owned(), scratch.path("partner.crt"))]);
    let mut rotating = Rotating::new(Files { federation, ..source(&scratch, Crl::None) });
    let outcome = looked(&mut rotating, now);
    assert!(outcome.starts_with("missing: ") && outcome.contains("partner.crt"), "{outcome}");
    scratch.write("partner.crt", bundle("partner.example"));
    assert_eq!(looked(&mut rotating, now), "swapped");
    scratch.write("partner.crt", "no PEM");
    let outcome = looked(&mut rotating, now);
    assert!(outcome.starts_with("refused: ") && outcome.contains("partner.crt is empty"), "{outcome}");
    scratch.write("partner.crt", bundle("partner.example"));
    assert_eq!(looked(&mut rotating, now), "swapped", "another CA");
    std::fs::remove_file(scratch.path("partner.crt")).expect("removed");
    assert!(looked(&mut rotating, now).starts_with("missing: "));
}

#[test]
fn a_set_that_is_written_file_by_file_is_missing_until_complete_and_swapped_once() {
    let (scratch, pem) = (Scratch::new(), web(&ca()));
    let mut rotating = Rotating::new(source(&scratch, Crl::None));
    let mut look = || looked(&mut rotating, SystemTime::now());
    for (name, text, missing) in [
        ("none", "", "tls.crt"),
        ("tls.crt", &*pem.certificate, "tls.key"),
        ("tls.key", "\n", "tls.key is empty"),
        ("tls.key", &pem.key, "ca.crt"),
    ] {
        scratch.write(name, text);
        let outcome = look();
        assert!(outcome.starts_with("missing: ") && outcome.contains(missing), "{outcome}");
        assert_eq!(look(), "same");
    }
    scratch.write("ca.crt", &pem.bundle);
    assert_eq!([look(), look()], ["swapped", "same"]);
}

#[test]
fn half_a_new_set_is_refused_once_and_the_complete_set_is_swapped() {
    let (scratch, ca) = (Scratch::new(), ca());
    let (old, new) = (web(&ca), web(&ca));
    let mut rotating = Rotating::new(source(&scratch, Crl::None));
    let mut look = || looked(&mut rotating, SystemTime::now());
    write(&scratch, &old);
    assert_eq!(look(), "swapped");
    scratch.write("tls.crt", &new.certificate);
    let half = look();
    assert!(half.starts_with("refused: ") && half.contains("does not belong to"), "{half}");
    assert_eq!(look(), "same");
    scratch.write("tls.key", &new.key);
    assert_eq!([look(), look()], ["swapped", "same"]);
}

#[test]
fn an_expired_set_is_refused_and_a_return_to_the_set_in_use_is_no_change() {
    let (scratch, ca, now) = (Scratch::new(), ca(), OffsetDateTime::now_utc());
    let good = web(&ca);
    let mut rotating = Rotating::new(source(&scratch, Crl::None));
    let mut look = || looked(&mut rotating, SystemTime::now());
    write(&scratch, &good);
    assert_eq!(look(), "swapped");
    write(&scratch, &between(&ca, now - 2 * DAY, now - DAY));
    assert!(look().contains("expired at"));
    write(&scratch, &good);
    assert_eq!(look(), "same");
}

#[test]
fn a_revocation_list_that_appears_disappears_or_breaks_is_noticed_and_a_required_one_is_awaited() {
    let (scratch, ca) = (Scratch::new(), ca());
    let list = ca.revoke(&[vec![1]], OffsetDateTime::now_utc() + DAY).expect("a list");
    let other = self::ca().revoke(&[vec![1]], OffsetDateTime::now_utc() + DAY).expect("a list");
    let path = scratch.path("ca.crl");
    write(&scratch, &web(&ca));
    let mut optional = Rotating::new(source(&scratch, Crl::IfPresent(path.clone())));
    let mut required = Rotating::new(source(&scratch, Crl::Required(path.clone())));
    let mut look = || [&mut optional, &mut required].map(|one| looked(one, SystemTime::now()));
    let [without, awaited] = look();
    assert!(
        without == "swapped" && awaited.starts_with("missing: ") && awaited.contains("ca.crl"),
        "{awaited}"
    );
    scratch.write("ca.crl", &list);
    assert_eq!(look(), ["swapped", "swapped"]);
    scratch.write("ca.crl", &list[..list.len() / 2]);
    assert!(look().iter().all(|outcome| outcome.contains("not valid PEM")));
    scratch.write("ca.crl", "no list");
    assert!(look().iter().all(|outcome| outcome.contains("holds no list")));
    scratch.write("ca.crl", other);
    assert!(
        look().iter().all(|outcome| outcome.contains("no CA of that name in the trust bundle signed it"))
    );
    fs::remove_file(&path).expect("removed");
    let [without, awaited] = look();
    assert!(without == "swapped" && awaited.starts_with("missing: "), "{without} {awaited}");
}

#[test]
fn a_secret_that_is_replaced_by_its_symlink_is_noticed() {
    let (scratch, ca) = (Scratch::new(), ca());
    for name in ["one", "two"] {
        let folder = scratch.path(name);
        fs::create_dir(&folder).expect("a folder");
        let pem = web(&ca);
        for (name, text) in [("tls.crt", pem.certificate), ("tls.key", pem.key), ("ca.crt", pem.bundle)] {
            fs::write(folder.join(name), text).expect("written");
        }
    }
    let (data, next) = (scratch.path("..data"), scratch.path("next"));
    symlink(scratch.path("one"), &data).expect("linked");
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        symlink(format!("..data/{name}"), scratch.path(name)).expect("linked");
    }
    let mut rotating = Rotating::new(source(&scratch, Crl::None));
    let later = SystemTime::now() + Duration::from_secs(60);
    let mut look = || looked(&mut rotating, later);
    assert_eq!([look(), look()], ["swapped", "same"]);
    symlink(scratch.path("two"), &next).expect("linked");
    fs::rename(&next, &data).expect("swapped");
    assert_eq!([look(), look()], ["swapped", "same"]);
}

#[test]
fn half_a_bundle_that_can_be_read_is_not_put_to_use_while_it_is_being_written() {
    let (scratch, ca, other) = (Scratch::new(), ca(), self::ca());
    let mut pem = web(&ca);
    pem.bundle = format!("{}{}", pem.bundle, other.certificate_pem());
    write(&scratch, &pem);
    let (mut rotating, now) = (Rotating::new(source(&scratch, Crl::None)), SystemTime::now());
    assert_eq!(outcome_text(rotating.look(now)), "swapped");
    scratch.write("ca.crt", ca.certificate_pem());
    assert_eq!(outcome_text(rotating.look(now)), "same");
    scratch.write("ca.crt", &pem.bundle);
    assert_eq!(
        [(); 2].map(|()| outcome_text(rotating.look(now))),
        ["same", "same"],
        "the file was still being written"
    );
    scratch.write("ca.crt", ca.certificate_pem());
    assert_eq!(
        [(); 2].map(|()| outcome_text(rotating.look(now))),
        ["same", "swapped"],
        "the file did not change any more"
    );
}

#[test]
fn a_set_that_is_not_valid_yet_is_tried_again_when_its_time_has_come() {
    let seen = fingerprint(1);
    let mut rotation = Rotation::default();
    assert_eq!(rotation.look(&seen, 0), KnownOrNew::Load);
    rotation.refused(seen.clone(), Some(100));
    assert_eq!((rotation.look(&seen, 99), rotation.look(&seen, 100)), (KnownOrNew::Same, KnownOrNew::Load));
}

fn fingerprint(content: u8) -> Fingerprint {
    Fingerprint(vec![Some(Content::Bytes([content; 32])); 4])
}

proptest! {
    /// Sets have numbers, and odd ones are bad. In every order the set in use is the last good one seen, each change is
    /// reported once, and content that does not change is not reported again.
    #[test]
    fn the_last_good_set_is_in_use_and_each_change_is_reported_once(sets in prop::collection::vec(0..6_u8, 1..40)) {
        let mut rotation = Rotation::default();
        let (mut in_use, mut before) = (None, None);
        for set in sets {
            let seen = fingerprint(set);
            let verdict = rotation.look(&seen, 0);
            let is_new = before != Some(set) && in_use != Some(set);
            prop_assert_eq!(verdict == KnownOrNew::Load, is_new);
            if verdict == KnownOrNew::Load {
                if set % 2 == 0 {
                    rotation.loaded(seen);
                    in_use = Some(set);
                } else {
                    rotation.refused(seen, None);
                }
            }
            before = Some(set);
            prop_assert_eq!(&rotation.good, &in_use.map(fingerprint));
        }
    }
}
