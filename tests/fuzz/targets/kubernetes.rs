//! What an API server of Kubernetes sends: whatever it is, the objects of a stream do not depend on where it is cut, and each is
//! an event or refused. Events never cause a panic, and what they make of a namespace is bounded by them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion_kubernetes::frames::Frames;
use pillion_kubernetes::merge::{Here, Wanted};
use pillion_kubernetes::namespace::Namespace;
use pillion_kubernetes::objects::{Kind, event, page, status};

const MOST: usize = 4096;

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, source) = input;
    let mut whole = Frames::new(MOST);
    let found = whole.take(source);
    let mut pieces = Frames::new(MOST);
    let parts: Result<Vec<_>, _> =
        source.chunks(usize::from(cut).max(1)).map(|part| pieces.take(part)).collect();
    if let (Ok(found), Ok(parts)) = (&found, &parts) {
        assert_eq!(*found, parts.concat());
    }
    assert_eq!(found.is_ok(), parts.is_ok());
    for kind in Kind::ALL {
        let mut namespace = Namespace::default();
        namespace.follow("orders");
        namespace.begin_list(kind);
        if let Ok(page) = page(kind, source, Some("node")) {
            namespace.take_page(page);
        }
        Kind::ALL.into_iter().for_each(|kind| namespace.begin_list(kind));
        Kind::ALL.into_iter().for_each(|kind| namespace.end_list(kind));
        for bytes in found.iter().flatten() {
            if let Ok(event) = event(kind, bytes, Some("node")) {
                namespace.apply(kind, event);
            }
        }
        let here = Here { zone: Some("a") };
        let merged = namespace.endpoints("orders", "orders", Wanted { port: 80, dialled: None }, here);
        let merged = merged.expect("both kinds were listed");
        assert_eq!(merged.endpoints.is_empty(), merged.problem.is_some());
        status(500, source);
    }
});
