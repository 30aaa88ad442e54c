//! A port of a Service of Kubernetes: `orders.shop:8080`.

use super::split_port;
use crate::value::{BadWord, Word, leaves};
use pillion_model::text::shortened;

/// The Service `name` in `namespace`, and one of its ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServicePort {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) port: u16,
}

impl Word for ServicePort {
    const EXPECTED: &'static str = "a Service, its namespace and a port of it (\"orders.shop:8080\")";

    fn parse(text: &str) -> Result<Self, BadWord> {
        let is = |why: &str| BadWord::new(format!("is `{}`, {why}", shortened(text)));
        let (host, port) = split_port(text).unwrap_or((text, None));
        let labels: Vec<&str> = host.split('.').collect();
        if !labels.iter().all(|label| is_label(label)) || host.parse::<std::net::Ipv4Addr>().is_ok() {
            return Err(BadWord::not(text, Self::EXPECTED));
        }
        match (&*labels, port) {
            ([name, namespace], Some(port)) => {
                Ok(Self { name: (*name).into(), namespace: (*namespace).into(), port })
            }
            ([_, _], None) => Err(is("which lacks a port")
                .help(format!("add the port of the Service, as its clients call it: \"{host}:8080\""))),
            ([name], port) => Err(is("which lacks the namespace")
                .help(format!("write \"{name}.default:{}\"", port.unwrap_or(8080)))),
            ([name, namespace, ..], port) => {
                let port = port.unwrap_or(8080);
                Err(is("which is a name in DNS").help(format!("write \"{name}.{namespace}:{port}\"")))
            }
            ([], _) => Err(BadWord::not(text, Self::EXPECTED)),
        }
    }
}

/// Whether a text is a label of DNS (RFC 1123), as names of Services and namespaces are.
fn is_label(text: &str) -> bool {
    let is_sound = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(is_sound)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

leaves!(ServicePort: |ServicePort { name, namespace, port }| format!("{name}.{namespace}:{port}").into());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_has_a_namespace_and_a_port() {
        let parsed = ServicePort::parse("orders.shop:8080");
        let expected = ServicePort { name: "orders".into(), namespace: "shop".into(), port: 8080 };
        assert_eq!(parsed, Ok(expected));
        for (text, help) in [
            ("orders.shop", "\"orders.shop:8080\""),
            ("orders:80", "write \"orders.default:80\""),
            ("orders.shop.svc.cluster.local:80", "write \"orders.shop:80\""),
        ] {
            let bad = ServicePort::parse(text).unwrap_err();
            assert!(format!("{bad:?}").contains(&help.replace('"', "\\\"")), "{bad:?}");
        }
        for text in [
            "",
            ":80",
            "Orders.shop:80",
            "a/b.shop:80",
            "a?.shop:80",
            "-a.shop:80",
            "10.0.0.1:80",
            "[::1]:80",
        ] {
            assert!(ServicePort::parse(text).is_err(), "{text}");
        }
        assert!(ServicePort::parse("orders.shop:0").is_err() && ServicePort::parse("a.b:x").is_err());
        assert!(ServicePort::parse(&format!("{}.b:80", "a".repeat(64))).is_err());
    }
}
