//! The absolute names that a name may stand for, by the `search` and `ndots` of resolv.conf. Pure.

use hickory_resolver::proto::rr::Name;

/// The number of search domains that are tried. Kubernetes allows 32.
const MOST_DOMAINS: usize = 32;

/// The absolute names in the order of the look-ups. A name that ends with a dot stands only for itself. A name with at
/// least `ndots` dots is tried as it is before the search domains, and any other name after them.
pub(super) fn candidates(name: &Name, ndots: usize, search: &[Name]) -> Vec<Name> {
    let itself = absolute(name);
    if name.is_fqdn() || name.is_localhost() {
        return vec![itself];
    }
    let dots = usize::from(name.num_labels()).saturating_sub(1);
    let found = search.iter().take(MOST_DOMAINS).filter_map(|domain| within(name, domain));
    let mut all: Vec<Name> = Vec::new();
    let itself = std::iter::once(itself);
    let in_order: Vec<Name> =
        if dots >= ndots { itself.chain(found).collect() } else { found.chain(itself).collect() };
    for candidate in in_order {
        if !all.contains(&candidate) {
            all.push(candidate);
        }
    }
    all
}

pub(super) fn absolute(name: &Name) -> Name {
    let mut name = name.clone();
    name.set_fqdn(true);
    name
}

/// `None` when the result is too long for a name.
fn within(name: &Name, domain: &Name) -> Option<Name> {
    name.clone().append_domain(domain).ok().map(|name| absolute(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_searched_by_search_and_ndots_of_resolv_conf() {
        let search = ["shop.svc.cluster.local", "svc.cluster.local", "shop.svc.cluster.local."];
        let search = search.map(|domain| Name::from_str_relaxed(domain).unwrap());
        let cases: [(&str, usize, &[&str]); 5] = [
            ("orders", 5, &["orders.shop.svc.cluster.local.", "orders.svc.cluster.local.", "orders."]),
            ("a.b", 1, &["a.b.", "a.b.shop.svc.cluster.local.", "a.b.svc.cluster.local."]),
            ("a.b", 2, &["a.b.shop.svc.cluster.local.", "a.b.svc.cluster.local.", "a.b."]),
            ("orders.", 5, &["orders."]),
            ("localhost", 5, &["localhost."]),
        ];
        for (name, ndots, expected) in cases {
            let name = Name::from_str_relaxed(name).unwrap();
            let asked: Vec<String> =
                candidates(&name, ndots, &search).iter().map(ToString::to_string).collect();
            assert_eq!(asked, expected, "{name} with ndots {ndots}");
        }
    }

    #[test]
    fn a_name_too_long_for_a_search_domain_is_tried_only_as_it_is() {
        let long =
            Name::from_str_relaxed(["a".repeat(60), "b".repeat(60), "c".repeat(60)].join(".")).unwrap();
        let domain = Name::from_str_relaxed(["d".repeat(60), "e".repeat(60)].join(".")).unwrap();
        assert_eq!(candidates(&long, 5, &[domain]), [absolute(&long)]);
    }
}
