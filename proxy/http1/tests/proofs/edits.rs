//! Compares edited fields with a plain list of lines that is edited in the same way.

use pillion_http1::{Client, Fields, FromClient, Known, Length, Limits, Names, Server};
use proptest::prelude::*;

use crate::drive::pairs;

#[derive(Debug, Clone)]
enum Edit {
    Set(Known, &'static str),
    Append(Known, &'static str),
    AppendNamed(&'static str, &'static str),
    Remove(Known),
    RemoveAll(Known, Known),
    RemoveNamed(&'static str),
}

const KNOWN: [Known; 5] = [Known::XRequestId, Known::Accept, Known::Via, Known::XForwardedFor, Known::Expect];
const NAMES: [&str; 6] = ["X-Request-ID", "aCCept", "via", "X-Other", "x-other", "Expect"];
const VALUES: [&str; 4] = ["", "1", "some value", "a,b"];

fn edit() -> impl Strategy<Value = Edit> {
    let known = || proptest::sample::select(KNOWN.to_vec());
    let (name, value) =
        (|| proptest::sample::select(NAMES.to_vec()), || proptest::sample::select(VALUES.to_vec()));
    prop_oneof![
        (known(), value()).prop_map(|(name, value)| Edit::Set(name, value)),
        (known(), value()).prop_map(|(name, value)| Edit::Append(name, value)),
        (name(), value()).prop_map(|(name, value)| Edit::AppendNamed(name, value)),
        known().prop_map(Edit::Remove),
        (known(), known()).prop_map(|(one, other)| Edit::RemoveAll(one, other)),
        name().prop_map(Edit::RemoveNamed),
    ]
}

type Lines = Vec<(String, String)>;

fn is(line: &(String, String), name: &str) -> bool {
    line.0.eq_ignore_ascii_case(name)
}

fn edit_lines(lines: &mut Lines, edit: &Edit) {
    let line = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    match edit {
        Edit::Set(name, value) => {
            let name = name.as_str();
            match lines.iter().position(|other| is(other, name)) {
                None => lines.push(line(name, value)),
                Some(first) => {
                    lines[first].1 = (*value).to_owned();
                    let mut place = 0;
                    lines.retain(|other| {
                        place += 1;
                        place - 1 == first || !is(other, name)
                    });
                }
            }
        }
        Edit::Append(name, value) => lines.push(line(name.as_str(), value)),
        Edit::AppendNamed(name, value) => lines.push(line(name, value)),
        Edit::Remove(name) => lines.retain(|other| !is(other, name.as_str())),
        Edit::RemoveAll(one, two) => {
            lines.retain(|other| !is(other, one.as_str()) && !is(other, two.as_str()))
        }
        Edit::RemoveNamed(name) => lines.retain(|other| !is(other, name)),
    }
}

fn edit_fields(fields: &mut Fields, edit: &Edit) {
    match edit {
        Edit::Set(name, value) => fields.set(*name, value.as_bytes()).unwrap(),
        Edit::Append(name, value) => fields.append(*name, value.as_bytes()).unwrap(),
        Edit::AppendNamed(name, value) => fields.append_named(name.as_bytes(), value.as_bytes()).unwrap(),
        Edit::Remove(name) => {
            let is_there = fields.has(*name);
            assert_eq!(fields.remove(*name), is_there);
        }
        Edit::RemoveAll(one, two) => fields.remove_all(Names::of(&[*one, *two])),
        Edit::RemoveNamed(name) => {
            let is_there = fields.find(name).is_some();
            let removed = fields.remove_where(|_, other| other.eq_ignore_ascii_case(name.as_bytes()));
            assert_eq!(removed, is_there);
        }
    }
}

fn read(text: &str) -> Fields {
    match Server::new().read(text.as_bytes(), &Limits::default()) {
        Ok((_, FromClient::Head(head))) => head.fields,
        other => panic!("{text:?}: {other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn edited_fields_are_equal_to_an_edited_list_of_lines(
        came in proptest::collection::vec((proptest::sample::select(NAMES.to_vec()), proptest::sample::select(VALUES.to_vec()), any::<bool>()), 0..6),
        edits in proptest::collection::vec(edit(), 0..8),
    ) {
        let mut lines: Lines = vec![("Host".to_owned(), "a".to_owned())];
        lines.extend(came.iter().map(|(name, value, _)| ((*name).to_owned(), (*value).to_owned())));
        let loose = |is_loose: &bool| if *is_loose { " \t" } else { " " };
        let text: String = came.iter().map(|(name, value, is_loose)| format!("{name}:{}{value}\r\n", loose(is_loose))).collect();
        let mut fields = read(&format!("GET / HTTP/1.1\r\nHost: a\r\n{text}\r\n"));
        for edit in &edits {
            edit_lines(&mut lines, edit);
            edit_fields(&mut fields, edit);
            prop_assert_eq!(pairs(&fields), lines.clone());
            for name in KNOWN {
                let count = lines.iter().filter(|line| is(line, name.as_str())).count();
                prop_assert_eq!((fields.has(name), fields.has_several(name)), (count > 0, count > 1), "{:?}", name);
            }
        }
        let mut out = Vec::new();
        Client::new().write_head(&http::Method::GET, "/", &fields, Length::Empty, &mut out).unwrap();
        prop_assert_eq!(pairs(&read(std::str::from_utf8(&out).unwrap())), lines);
    }
}
