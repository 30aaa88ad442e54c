//! The targets besides its own that a successful request with an unsafe method invalidates: those that its answer
//! names in `Location` and `Content-Location`, if they are of the same origin (RFC 9111, 4.4).

use http::Uri;

use crate::key::{self, KeyRef};

/// The target that `reference` names, seen from the target of the request, if it is of the same host. A reference with
/// dot segments names nothing here: origins rarely write one, and what is not invalidated grows old by itself.
pub fn same_origin(reference: &[u8], of: KeyRef<'_>) -> Option<Vec<u8>> {
    let reference = reference.trim_ascii();
    let end = reference.iter().position(|byte| *byte == b'#').unwrap_or(reference.len());
    let reference = reference.get(..end)?;
    let target = match reference {
        [] => of.target.to_vec(),
        [b'/', b'/', ..] => {
            let whole = [b"http:", reference].concat();
            absolute(&whole, of)?
        }
        [b'/', ..] => reference.to_vec(),
        _ if reference.windows(3).any(|window| window == b"://") => absolute(reference, of)?,
        _ => relative(reference, of)?,
    };
    let has_dots = target.split(|byte| matches!(byte, b'/' | b'?')).any(|part| matches!(part, b"." | b".."));
    (!has_dots).then_some(target)
}

fn absolute(reference: &[u8], of: KeyRef<'_>) -> Option<Vec<u8>> {
    let uri = Uri::try_from(reference).ok()?;
    let host = key::host(uri.authority()?.as_str().as_bytes());
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    host.eq_ignore_ascii_case(of.host).then(|| target.as_bytes().to_vec())
}

/// A reference without a scheme and a path from the root, which stands beside the request's own path.
fn relative(reference: &[u8], of: KeyRef<'_>) -> Option<Vec<u8>> {
    let path = of.target.split(|byte| *byte == b'?').next()?;
    if reference.starts_with(b"?") {
        return Some([path, reference].concat());
    }
    let colon = reference.iter().position(|byte| *byte == b':').unwrap_or(usize::MAX);
    let slash = reference.iter().position(|byte| *byte == b'/').unwrap_or(usize::MAX);
    if colon < slash {
        return None; // another scheme
    }
    let folder = path.iter().rposition(|byte| *byte == b'/')?;
    Some([path.get(..=folder)?, reference].concat())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OF: KeyRef<'_> = KeyRef { host: b"orders:8080", target: b"/a/b?c=d" };

    #[test]
    fn a_reference_of_the_same_host_names_a_target() {
        for (reference, expected) in [
            ("/x?y=z#f", Some("/x?y=z")),
            ("x", Some("/a/x")),
            ("?y", Some("/a/b?y")),
            ("", Some("/a/b?c=d")),
            ("http://ORDERS:8080/x", Some("/x")),
            ("https://orders:8080", Some("/")),
            ("//orders:8080/x", Some("/x")),
            ("http://orders/x", None),
            ("http://other/x", None),
            ("//other/x", None),
            ("mailto:a", None),
            ("../x", None),
            ("/a/./x", None),
        ] {
            let found = same_origin(reference.as_bytes(), OF);
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{reference}");
        }
    }

    #[test]
    fn the_usual_port_is_no_other_host() {
        let of = KeyRef { host: key::host(b"orders:80"), target: b"/" };
        assert_eq!(same_origin(b"http://orders/x", of).as_deref(), Some(&b"/x"[..]));
        assert_eq!(same_origin(b"//orders:80/x", of).as_deref(), Some(&b"/x"[..]));
        assert_eq!(same_origin(b"http://orders:8080/x", of), None);
    }

    proptest! {
        #[test]
        fn any_reference_is_read_without_a_panic(reference in proptest::collection::vec(any::<u8>(), 0..60)) {
            drop(same_origin(&reference, OF));
        }
    }
}
