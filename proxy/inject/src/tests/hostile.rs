//! What hostile and damaged texts cost.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

#[test]
fn hostile_texts_end_soon() {
    let bomb: String = (1..40).map(|n| format!("  a{n}: &a{n} [*a{p}, *a{p}, *a{p}]\n", p = n - 1)).collect();
    let bomb = format!(
        "apiVersion: v1\nkind: Pod\nx:\n  a0: &a0 [x]\n{bomb}spec: {{ containers: [{{ name: a }}] }}\n"
    );
    let merges: String =
        (1..40).map(|n| format!("  a{n}: &a{n} {{ <<: [*a{p}, *a{p}], k{n}: 1 }}\n", p = n - 1)).collect();
    let merges = format!("apiVersion: v1\nkind: Pod\nx:\n  a0: &a0 {{ k0: 1 }}\n{merges}");
    let texts = [
        "[".repeat(1_000_000),
        "{\"a\":".repeat(1_000_000),
        "- ".repeat(1_000_000),
        "? ".repeat(1_000_000),
        "a:\n".repeat(100_000),
        (0..5000).map(|n| format!("{}a:\n", " ".repeat(n))).collect(),
        bomb,
        merges,
        "x".repeat((32 << 20) + 1),
        "&a [*a]".to_owned(),
        "kind: Pod\napiVersion: v1\nspec: *nothing\n".to_owned(),
        "\"".to_owned(),
        "%YAML 9.9\n---\nkind: !!binary Pod\n".to_owned(),
    ];
    for text in texts {
        let began = Instant::now();
        let _either = inject("f", &text, &options());
        assert!(began.elapsed() < Duration::from_secs(60), "{}", &text[..text.len().min(40)]);
    }
}

#[test]
fn aliases_of_long_texts_expand_to_no_more_than_a_bound() {
    let long = "x".repeat(500_000);
    let many = |alias: &str, count: usize| vec![alias; count].join(", ");
    let document = |anchored: &str, count: usize| {
        let pod = "apiVersion: v1\nkind: Pod\nmetadata: { name: a }\nspec: { containers: [{ name: a }] }\n";
        format!("{pod}x: &long {anchored}\ny: [{}]\n", many("*long", count))
    };
    for anchored in [long.clone(), format!("{{ {long}: }}"), format!("{{ ? {long} : 1, b: 2 }}")] {
        let told = refused(&document(&anchored, 20_000));
        assert!(told.contains("the aliases of this document expand to too much"), "{told}");
        injected(&document(&anchored, 20));
    }
    let merges =
        format!("{}z: {{ <<: [{}] }}\n", document(&format!("{{ {long}: 1 }}"), 1), many("*long", 200));
    assert!(refused(&merges).contains("expand to too much"));
    let documents = vec![document(&long, 100); 2].join("---\n");
    assert!(refused(&documents).contains("expand to too much"), "documents share the bound");
}

#[test]
fn many_documents_with_many_containers_take_no_square_of_time() {
    let containers: String = (0..500).map(|n| format!("    - name: c{n}\n      image: i\n")).collect();
    let one = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: a }}\nspec:\n  containers:\n{containers}---\n"
    );
    let began = Instant::now();
    assert_eq!(injected(&one.repeat(20)).matches("name: pillion\n").count(), 20);
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[test]
fn one_pod_of_many_entries_takes_no_square_of_time() {
    let annotations: String = (0..20_000).map(|n| format!("    a{n}: b\n    pillion.io/a{n}: b\n")).collect();
    let containers: Vec<String> =
        (0..4_000).map(|n| format!("{{\"name\":\"c{n}\",\"volumeMounts\":[{{\"name\":\"x\"}}]}}")).collect();
    let json = format!(
        "{{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{{\"annotations\":{{\"pillion.io/log-volume\":\"/x\"}}}},\"spec\":{{\"containers\":[{}]}}}}",
        containers.join(",")
    );
    let began = Instant::now();
    let faults = inject("f", &pod(&annotations), &options()).expect_err("unknown annotations").faults;
    assert_eq!(faults.len(), 20);
    injected(&pod(&annotations.replace("    pillion.io/", "    other.io/")));
    assert_eq!(injected(&json).matches("pillion-logs").count(), 4_002);
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

proptest! {
    /// A damaged manifest is refused, or is changed so that a second run changes nothing.
    #[test]
    fn a_damaged_text_causes_no_panic(
        nth in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        sign in prop::sample::select(vec!["", " ", "\n", "\t", "{", "]", ":", "- ", "\"", "#", "&a ", "*a", "|", "ä", "\r", "---\n", "0"]),
    ) {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/in");
        let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        let text = std::fs::read_to_string(nth.get(&files)).unwrap();
        let places: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        let at = *at.get(&places);
        let end = at + text[at..].chars().next().unwrap().len_utf8();
        let damaged = format!("{}{sign}{}", &text[..at], &text[end..]);
        if let Ok(new) = inject("f", &damaged, &options()) {
            prop_assert_eq!(&injected(&new.text), &new.text);
        }
    }
}
