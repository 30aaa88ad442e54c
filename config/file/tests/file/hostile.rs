//! No file may end the process or keep it busy.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use pillion_config::{Fault, load, parse};
use pillion_model::SpiffeId;
use proptest::prelude::*;

use crate::bad;

/// Debug builds are some twenty times slower than release builds, on machines that also run other tests.
const QUICK: Duration = Duration::from_secs(if cfg!(debug_assertions) { 60 } else { 1 });

fn refused_quickly(source: &str) {
    let started = Instant::now();
    let refused = parse(source, Path::new("")).is_err();
    let name: String = source.chars().take(30).collect();
    assert!(refused, "{name}");
    assert!(started.elapsed() < QUICK, "{name} took {:?}", started.elapsed());
}

#[test]
fn absurd_nesting_is_refused_quickly() {
    for sign in ["[", "{", "- ", "? ", "a: [", "a:\n", "{a: ", "&a [", "!a [", "- [", "[{a: ", ": "] {
        refused_quickly(&sign.repeat(100_000));
    }
    refused_quickly(&(0..2000).map(|n| " ".repeat(n) + "a:\n").collect::<String>());
    refused_quickly(&format!("routes: {}{}", "[".repeat(200), "]".repeat(200)));
}

#[test]
fn alias_bombs_are_refused_quickly() {
    let mut bomb = "l0: &l0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..30 {
        bomb += &format!("l{n}: &l{n} [{}]\n", vec![format!("*l{}", n - 1); 9].join(", "));
    }
    refused_quickly(&format!("{bomb}services: *l29\n"));
    refused_quickly(&format!("{bomb}inbound: {{ probes: *l29 }}\n"));
    let endpoints = format!("&e [{}]", vec!["10.0.0.1:80"; 1000].join(", "));
    let services: String = (0..5000).map(|n| format!("  s{n}: {{ endpoints: *e, x: 1 }}\n")).collect();
    refused_quickly(&format!("services:\n  a: {{ endpoints: {endpoints} }}\n{services}"));
}

/// Aliases multiply texts with variables, and keys whose feature does not exist yet, as they multiply other values.
#[test]
fn alias_bombs_with_variables_are_refused_quickly() {
    let mut bomb = "l0: &l0 [\"${A:-x}\", x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..30 {
        bomb += &format!("l{n}: &l{n} [{}]\n", vec![format!("*l{}", n - 1); 9].join(", "));
    }
    for key in ["services: *l29", "routes: *l29", "inbound: { probes: *l29 }", "identity: { crl: *l29 }"] {
        refused_quickly(&format!("{bomb}{key}\n"));
    }
    refused_quickly(&format!("workers: \"{}\"", "${A:-".repeat(500_000)));
    let texts = vec!["\"${A:-x}${B:-y}\""; 150_000].join(", ");
    refused_quickly(&format!("services: {{ a: {{ endpoints: [10.0.0.1:80], hosts: [{texts}] }} }}"));
}

#[test]
fn files_above_4_mib_are_refused() {
    refused_quickly(&"#".repeat(4 * 1024 * 1024 + 1));
    assert!(bad(&" ".repeat(5 << 20)).to_string().contains("4 MiB"));
}

#[test]
fn a_large_file_full_of_faults_is_refused_quickly() {
    refused_quickly(&(0..100_000).map(|n| format!("k{n}: 1\n")).collect::<String>());
    refused_quickly(&format!("services: {{ {} }}", "a: {}, ".repeat(100_000)));
    let listens: String = (0..20_000).map(|n| format!("  s{n}: {{ listen: 127.0.0.1:9 }}\n")).collect();
    refused_quickly(&format!("services:\n{listens}"));
    let ports: String = (1..=65_535).map(|n| format!("    {n}: {{ listen: 0.0.0.0:{n} }}\n")).collect();
    refused_quickly(&format!("inbound:\n  ports:\n{ports}"));
    let addresses = vec!["10.96.0.0/16"; 100_000].join(", ");
    refused_quickly(&format!("services: {{ a: {{ endpoints: [10.0.0.1:80], addresses: [{addresses}] }} }}"));
}

#[test]
fn a_large_file_full_of_routes_is_read_quickly() {
    let services: String = (0..2000).map(|n| format!("  s{n}: {{ endpoints: [10.0.0.1:80] }}\n")).collect();
    let routes = |route: &dyn Fn(usize) -> String| {
        let routes: String = (0..20_000).map(|n| format!("- {{ {} }}\n", route(n))).collect();
        format!("services:\n{services}routes:\n{routes}")
    };
    refused_quickly(&routes(&|n| format!("hosts: s{n}, to: stranger{n}")));
    refused_quickly(&routes(&|n| format!("name: a, hosts: a.{}{n}, to: s1", "b.".repeat(40))));
    refused_quickly(&routes(&|n| format!("hosts: s{n}, to: s1, retry: {{ attempts: 0 }}")));
    let labels = "a.".repeat(60);
    let good = routes(&|n| format!("hosts: [\"*\", \"*.{labels}x{n}\"], to: s1, timeout: 1s"));
    let started = Instant::now();
    assert!(parse(&good, Path::new("")).is_ok());
    assert!(started.elapsed() < QUICK, "took {:?}", started.elapsed());
}

#[test]
fn text_that_is_not_utf_8_is_refused_at_its_place() {
    let file = std::env::temp_dir().join(format!("pillion-config-{}.yaml", std::process::id()));
    std::fs::File::create(&file).and_then(|mut f| f.write_all(b"version: 1\nworkers: \xff\xfe\n")).unwrap();
    let message = load(&file).unwrap_err().to_string();
    std::fs::remove_file(&file).unwrap();
    assert!(message.ends_with(":2:10: error: the file is not UTF-8. help: save it as UTF-8"), "{message}");
}

#[test]
fn four_mib_that_are_not_utf_8_are_refused_quickly() {
    let file = std::env::temp_dir().join(format!("pillion-config-large-{}.yaml", std::process::id()));
    let mut bytes = b"workers: 1\n".repeat(300_000);
    bytes.push(0xff);
    std::fs::write(&file, bytes).unwrap();
    let started = Instant::now();
    let fault = load(&file).unwrap_err().faults.remove(0);
    std::fs::remove_file(&file).unwrap();
    assert_eq!((fault.line, fault.column), (300_001, 1));
    assert!(started.elapsed() < QUICK, "took {:?}", started.elapsed());
}

#[test]
fn a_device_without_an_end_is_refused() {
    if Path::new("/dev/zero").exists() {
        assert!(load(Path::new("/dev/zero")).is_err());
    }
}

const FULL: &str = include_str!("interface.yaml");
const SAMPLE: &str = include_str!("../../../samples/pillion.yaml");

/// Replaces, doubles or removes the byte at each of some places.
fn mutated(source: &str, changes: &[(usize, u8, u8)]) -> String {
    let mut bytes = source.as_bytes().to_vec();
    for (place, kind, byte) in changes {
        let at = place % bytes.len().max(1);
        match kind % 4 {
            0 => bytes[at] = *byte,
            1 => bytes.insert(at, *byte),
            2 => drop(bytes.remove(at)),
            _ => bytes.insert(at, bytes[at]),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether the fault is in a line of the file or right after the last line, and in the line or right after its end.
fn stands_within(fault: &Fault, source: &str) -> bool {
    // lines as YAML counts them: a carriage return alone also ends one
    let lines: Vec<&str> =
        source.split('\n').flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r')).collect();
    let line = lines.get(fault.line.wrapping_sub(1)).copied().unwrap_or_default();
    let lines = lines.len() + 1;
    (1..=lines).contains(&fault.line) && (1..=line.chars().count() + 1).contains(&fault.column)
}

/// Bytes in which the characters of YAML's syntax are more frequent than by chance.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![any::<u8>(), prop::sample::select(b"[]{}:,-?&*!|>'\"%@`#\n\t ~<".to_vec())]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_mangled_file_neither_panics_nor_takes_long(
        full in any::<bool>(),
        changes in prop::collection::vec((any::<usize>(), any::<u8>(), byte()), 1..12),
    ) {
        let source = mutated(if full { FULL } else { SAMPLE }, &changes);
        let started = Instant::now();
        if let Err(errors) = parse(&source, Path::new("")) {
            prop_assert!(!errors.faults.is_empty() && !errors.to_string().is_empty());
            for fault in &errors.faults {
                prop_assert!(stands_within(fault, &source), "{}\n{}", fault, source);
            }
        }
        prop_assert!(started.elapsed() < QUICK);
    }

    #[test]
    fn random_yaml_syntax_neither_panics_nor_takes_long(bytes in prop::collection::vec(byte(), 0..200)) {
        let started = Instant::now();
        drop(parse(&String::from_utf8_lossy(&bytes), Path::new("")));
        prop_assert!(started.elapsed() < QUICK);
    }

    #[test]
    fn a_spiffe_id_is_displayed_as_it_was_parsed(
        domain in "[a-z0-9._-]{1,40}",
        path in prop::collection::vec("[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,10}", 0..5),
    ) {
        let uri = path.iter().fold(format!("spiffe://{domain}"), |uri, segment| uri + "/" + segment);
        let id: SpiffeId = uri.parse().unwrap();
        prop_assert_eq!(id.to_string(), uri.as_str());
        prop_assert_eq!(id.trust_domain(), domain.as_str());
        prop_assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), uri);
    }

    #[test]
    fn no_text_makes_a_spiffe_id_panic(text in ".{0,60}") {
        if let Ok(id) = text.parse::<SpiffeId>() {
            prop_assert_eq!(id.as_str(), text.as_str());
        }
    }
}
