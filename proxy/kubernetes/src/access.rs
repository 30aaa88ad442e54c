//! Where the API server is, and by what the sidecar is known there: the service account of its pod, or a kubeconfig.
//!
//! Files that are named are read by the caller, anew for each question, because tokens and certificates are rotated.

use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use zeroize::Zeroizing;

/// Where Kubernetes mounts the service account of a pod.
pub const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// How the API server is reached.
#[derive(Debug, PartialEq, Eq)]
pub struct Access {
    pub is_tls: bool,
    /// A name, or an IP address without brackets.
    pub host: String,
    pub port: u16,
    /// What all paths begin with: empty, or `/…` without a slash at the end.
    pub prefix: String,
    /// The name that the server's certificate must have, where it is not `host`.
    pub server_name: Option<String>,
    /// The authorities that the server's certificate must be by. `None`: those of the system.
    pub authorities: Option<Secret>,
    pub token: Option<Secret>,
    /// Our own certificate and its key.
    pub own: Option<(Secret, Secret)>,
}

/// A value, or the file that has it.
#[derive(PartialEq, Eq)]
pub enum Secret {
    File(PathBuf),
    Value(Zeroizing<Vec<u8>>),
}

/// Leaves out the value, which must not appear in logs.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Value(_) => f.write_str("Value(…)"),
        }
    }
}

/// Why it is not known how the API server is reached.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    #[error(
        "there is no Kubernetes API server to ask: neither KUBERNETES_SERVICE_HOST (in a pod) nor KUBECONFIG is set"
    )]
    Nowhere,
    #[error("KUBERNETES_SERVICE_PORT is `{0}`, which is no port")]
    BadPort(String),
    #[error("the kubeconfig has no `current-context`")]
    NoContext,
    #[error("the kubeconfig has no {kind} `{name}`, which `{by}` names")]
    Lacks { kind: &'static str, name: String, by: &'static str },
    #[error("the kubeconfig's server `{0}` is no URL with https:// or http://")]
    BadServer(String),
    #[error("the kubeconfig's `{0}` is not base64")]
    NotBase64(&'static str),
    #[error("the kubeconfig's {kind} `{name}` has `{key}`, which is not supported: {help}")]
    NotSupported { kind: &'static str, name: String, key: &'static str, help: &'static str },
    #[error("the kubeconfig's user `{0}` has `{1}` without `{2}`")]
    HalfAPair(String, &'static str, &'static str),
    #[error(
        "the kubeconfig's server `{0}` is asked in plaintext, which would show the token to others; write https://"
    )]
    PlainToken(String),
}

const EXEC: &str = "the sidecar runs no programs; write a token to a file, and its name as `tokenFile`";
const OTHER: &str = "use `token`, `tokenFile`, or `client-certificate` with `client-key`";
const NO_PROXY: &str = "the sidecar connects to the API server itself";
const INSECURE: &str =
    "the token could be read by whoever answers; name the server's `certificate-authority`";

/// The keys that change who asks, or how, and that are not supported.
const REFUSED: [(&str, &str, &str); 8] = [
    ("user", "exec", EXEC),
    ("user", "auth-provider", EXEC),
    ("user", "username", OTHER),
    ("user", "password", OTHER),
    ("user", "as", OTHER),
    ("user", "as-groups", OTHER),
    ("cluster", "proxy-url", NO_PROXY),
    ("cluster", "insecure-skip-tls-verify", INSECURE),
];

impl Access {
    /// What every client in a pod uses: the variables `KUBERNETES_SERVICE_HOST` and `…_PORT`, and the files of the service
    /// account.
    ///
    /// # Errors
    /// The port is none.
    pub fn in_pod(host: &str, port: Option<&str>, account: &Path) -> Result<Self, AccessError> {
        let port = port.unwrap_or("443");
        let port = port.parse().map_err(|_no_number| AccessError::BadPort(port.to_owned()))?;
        Ok(Self {
            is_tls: true,
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            prefix: String::new(),
            server_name: None,
            authorities: Some(Secret::File(account.join("ca.crt"))),
            token: Some(Secret::File(account.join("token"))),
            own: None,
        })
    }

    /// By kubeconfigs, each with its folder, where its relative paths start. Of several, the first that says something
    /// counts.
    ///
    /// # Errors
    /// The current context is not complete, or asks for something that the sidecar does not do.
    pub fn by_kubeconfig(files: &[(PathBuf, Value)]) -> Result<Self, AccessError> {
        let current = files.iter().find_map(|(_, of)| text(of, "current-context"));
        let context = current.ok_or(AccessError::NoContext)?;
        let find = |kind, name: &str, by| {
            found(files, kind, name).ok_or_else(|| AccessError::Lacks { kind, name: name.to_owned(), by })
        };
        let (_, context) = find("context", context, "current-context")?;
        let cluster = text(context, "cluster").unwrap_or_default();
        let (folder, of) = find("cluster", cluster, "context")?;
        refuse(of, "cluster", cluster)?;
        let mut access = Self::of_server(text(of, "server").unwrap_or_default())?;
        access.server_name = text(of, "tls-server-name").map(str::to_owned);
        access.authorities = secret(of, folder, "certificate-authority", "certificate-authority-data")?;
        if let Some(user) = text(context, "user") {
            let (folder, of) = find("user", user, "context")?;
            refuse(of, "user", user)?;
            access.known_as(of, folder, user)?;
        }
        Ok(access)
    }

    fn of_server(url: &str) -> Result<Self, AccessError> {
        let bad = || AccessError::BadServer(url.to_owned());
        let (is_tls, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err(bad()),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let usual = if is_tls { 443 } else { 80 };
        let (host, port) = split(authority, usual).ok_or_else(bad)?;
        let is_host = |host: &str| {
            host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:".contains(&byte))
                && !host.is_empty()
        };
        let is_path = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-~:".contains(&byte);
        if !is_host(host) || !path.bytes().all(is_path) {
            return Err(bad());
        }
        let path = path.trim_end_matches('/');
        let prefix = if path.is_empty() { String::new() } else { format!("/{path}") };
        let host = host.to_owned();
        Ok(Self { is_tls, host, port, prefix, server_name: None, authorities: None, token: None, own: None })
    }

    fn known_as(&mut self, user: &Value, folder: &Path, name: &str) -> Result<(), AccessError> {
        let written =
            text(user, "token").map(|token| Secret::Value(Zeroizing::new(token.as_bytes().to_vec())));
        let file = text(user, "tokenFile").map(|file| Secret::File(folder.join(file)));
        self.token = file.or(written); // kubectl prefers the file, too
        let certificate = secret(user, folder, "client-certificate", "client-certificate-data")?;
        let key = secret(user, folder, "client-key", "client-key-data")?;
        self.own = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => {
                return Err(AccessError::HalfAPair(name.to_owned(), "client-certificate", "client-key"));
            }
            (None, Some(_)) => {
                return Err(AccessError::HalfAPair(name.to_owned(), "client-key", "client-certificate"));
            }
        };
        let is_here = self.host == "localhost"
            || self.host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if self.token.is_some() && !self.is_tls && !is_here {
            return Err(AccessError::PlainToken(self.host.clone()));
        }
        Ok(())
    }

    /// The host as it stands in a URL, with the port.
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

fn split(authority: &str, usual: u16) -> Option<(&str, u16)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        return match port.strip_prefix(':') {
            Some(port) => Some((host, port.parse().ok()?)),
            None => port.is_empty().then_some((host, usual)),
        };
    }
    match authority.split_once(':') {
        Some((host, port)) if !port.contains(':') => Some((host, port.parse().ok()?)),
        Some(_) => None,
        None => Some((authority, usual)),
    }
}

fn text<'a>(of: &'a Value, key: &str) -> Option<&'a str> {
    of.get(key).and_then(Value::as_str).filter(|text| !text.is_empty())
}

/// The context, cluster or user of a name, with the folder of its file.
fn found<'a>(files: &'a [(PathBuf, Value)], kind: &str, name: &str) -> Option<(&'a Path, &'a Value)> {
    let list = format!("{kind}s");
    files.iter().find_map(|(folder, of)| {
        let all = of.get(&list)?.as_array()?;
        let entry = all.iter().find(|entry| text(entry, "name") == Some(name))?;
        Some((&**folder, entry.get(kind)?))
    })
}

fn refuse(of: &Value, kind: &'static str, name: &str) -> Result<(), AccessError> {
    let is_off = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => matches!(&**text, "" | "false"),
        _ => false,
    };
    let is_set = |key: &str| of.get(key).is_some_and(|value| !is_off(value));
    match REFUSED.into_iter().find(|(of, key, _)| *of == kind && is_set(key)) {
        Some((_, key, help)) => Err(AccessError::NotSupported { kind, name: name.to_owned(), key, help }),
        None => Ok(()),
    }
}

/// The value of the key that holds it, else the file of the other key. kubectl prefers the value, too.
fn secret(
    of: &Value,
    folder: &Path,
    file: &'static str,
    data: &'static str,
) -> Result<Option<Secret>, AccessError> {
    if let Some(data_text) = text(of, data) {
        let decoded = STANDARD.decode(data_text.trim()).map_err(|_bad| AccessError::NotBase64(data))?;
        return Ok(Some(Secret::Value(Zeroizing::new(decoded))));
    }
    Ok(text(of, file).map(|file| Secret::File(folder.join(file))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn kubeconfig(cluster: &Value, user: &Value) -> (PathBuf, Value) {
        let file = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "dev",
            "contexts": [{ "name": "dev", "context": { "cluster": "kind", "user": "me" } }],
            "clusters": [{ "name": "kind", "cluster": cluster }],
            "users": [{ "name": "me", "user": user }],
        });
        ("/home/me/.kube".into(), file)
    }

    fn access(cluster: &Value, user: &Value) -> Result<Access, AccessError> {
        Access::by_kubeconfig(&[kubeconfig(cluster, user)])
    }

    fn file(path: &str) -> Option<Secret> {
        Some(Secret::File(path.into()))
    }

    #[test]
    fn a_pod_has_the_files_of_its_service_account() {
        let access = Access::in_pod("10.96.0.1", Some("6443"), Path::new(SERVICE_ACCOUNT)).unwrap();
        assert_eq!((access.is_tls, access.authority()), (true, "10.96.0.1:6443".to_owned()));
        assert_eq!(access.token, file("/var/run/secrets/kubernetes.io/serviceaccount/token"));
        assert_eq!(access.authorities, file("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"));
        let six = Access::in_pod("[fd00::1]", None, Path::new("/a")).unwrap();
        assert_eq!(six.authority(), "[fd00::1]:443");
        assert!(Access::in_pod("10.96.0.1", Some("x"), Path::new("/a")).is_err());
    }

    #[test]
    fn a_kubeconfig_names_files_from_its_own_folder_or_has_values_in_base64() {
        let cluster =
            json!({ "server": "https://kube.example:6443/k8s/c-1/", "certificate-authority": "ca.crt" });
        let user = json!({ "tokenFile": "/run/token", "token": "old" });
        let by_files = access(&cluster, &user).unwrap();
        assert_eq!((&*by_files.host, by_files.port, &*by_files.prefix), ("kube.example", 6443, "/k8s/c-1"));
        assert_eq!(
            (by_files.authorities, by_files.token),
            (file("/home/me/.kube/ca.crt"), file("/run/token"))
        );

        let cluster = json!({ "server": "https://[fd00::1]", "certificate-authority-data": "Y2E=",
            "certificate-authority": "ca.crt", "tls-server-name": "kube", "insecure-skip-tls-verify": "false" });
        let user = json!({ "client-certificate-data": "Y2VydA==", "client-key-data": "a2V5" });
        let by_values = access(&cluster, &user).unwrap();
        let value = |text: &str| Secret::Value(Zeroizing::new(text.as_bytes().to_vec()));
        assert_eq!(by_values.authority(), "[fd00::1]:443");
        assert_eq!(by_values.authorities, Some(value("ca")));
        assert_eq!((by_values.own, by_values.token), (Some((value("cert"), value("key"))), None));
        assert_eq!(by_values.server_name.as_deref(), Some("kube"));
        assert_eq!(format!("{:?}", value("key")), "Value(…)");
    }

    #[test]
    fn several_files_complete_each_other() {
        let first = ("/a".into(), json!({ "current-context": "dev" }));
        let second = kubeconfig(&json!({ "server": "http://127.0.0.1:8001" }), &json!({ "token": "x" }));
        let access = Access::by_kubeconfig(&[first, second]).unwrap();
        assert_eq!((access.is_tls, access.authority()), (false, "127.0.0.1:8001".to_owned()));
    }

    #[test]
    fn what_is_not_supported_or_incomplete_is_refused_with_a_sentence() {
        let (good, none) = (json!({ "server": "https://kube.example" }), json!({}));
        for (cluster, user, expected) in [
            (
                &good,
                &json!({ "exec": { "command": "aws" } }),
                "`exec`, which is not supported: the sidecar runs no",
            ),
            (&good, &json!({ "auth-provider": { "name": "gcp" } }), "`auth-provider`"),
            (&good, &json!({ "username": "a", "password": "b" }), "use `token`, `tokenFile`"),
            (&good, &json!({ "client-certificate": "a" }), "`client-certificate` without `client-key`"),
            (&good, &json!({ "client-key-data": "YQ==" }), "`client-key` without `client-certificate`"),
            (&json!({ "server": "https://a", "insecure-skip-tls-verify": true }), &none, "name the server's"),
            (&json!({ "server": "https://a", "proxy-url": "http://b" }), &none, "`proxy-url`"),
            (&json!({ "server": "https://a", "certificate-authority-data": "?" }), &none, "is not base64"),
            (&json!({ "server": "kube.example" }), &none, "no URL with https://"),
            (&json!({ "server": "https://a b" }), &none, "no URL with https://"),
            (&json!({ "server": "https://a:b" }), &none, "no URL with https://"),
            (&json!({ "server": "https://fd00::1" }), &none, "no URL with https://"),
            (&json!({}), &none, "no URL with https://"),
            (&json!({ "server": "http://kube.example" }), &json!({ "token": "x" }), "asked in plaintext"),
        ] {
            let why = access(cluster, user).unwrap_err().to_string();
            assert!(why.contains(expected), "{why}");
        }
        let why = |of: Value| Access::by_kubeconfig(&[("/".into(), of)]).unwrap_err().to_string();
        assert!(why(json!({})).contains("no `current-context`"));
        assert!(why(json!({ "current-context": "dev" })).contains("no context `dev`"));
        assert!(why(json!([])).contains("no `current-context`"));
    }
}
