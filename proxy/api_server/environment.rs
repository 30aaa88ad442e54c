//! Finds the API server: by what Kubernetes gives to a pod, else by `KUBECONFIG`. Everything is read anew for each question,
//! because tokens, certificates and kubeconfigs are replaced while the sidecar runs.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use pillion_kubernetes::access::{Access, AccessError, SERVICE_ACCOUNT, Secret};
use zeroize::Zeroizing;

/// 1 MiB: a kubeconfig of some hundred clusters. Certificates and tokens take a few KiB.
const MOST_BYTES: u64 = 1024 * 1024;

/// The variables and files by which the API server is found, and the node.
#[derive(Debug, Clone)]
pub(crate) struct Environment {
    pub(crate) host: Option<String>,
    pub(crate) port: Option<String>,
    pub(crate) kubeconfig: Option<OsString>,
    /// The folder of the service account.
    pub(crate) account: PathBuf,
    /// The node of the pod, for topology hints.
    pub(crate) node: Option<String>,
}

/// Why the API server is not known, or not how to ask it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotFound {
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("{path} cannot be read: {source}{help}", path = .path.display())]
    Unreadable { path: PathBuf, source: io::Error, help: &'static str },
    #[error("the kubeconfig {path} is not valid: {why}", path = .path.display())]
    BadYaml { path: PathBuf, why: String },
    #[error("{} has more than {} KiB", .0.display(), MOST_BYTES / 1024)]
    TooLong(PathBuf),
}

impl Environment {
    pub(crate) fn of_process() -> Self {
        let text = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            host: text("KUBERNETES_SERVICE_HOST"),
            port: text("KUBERNETES_SERVICE_PORT"),
            kubeconfig: std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty()),
            account: SERVICE_ACCOUNT.into(),
            node: text("NODE_NAME"),
        }
    }

    /// A pod without a service account uses `KUBECONFIG` where that is set. Blocks on file IO.
    pub(super) fn access(&self) -> Result<Access, NotFound> {
        let in_pod =
            self.host.as_ref().filter(|_| self.kubeconfig.is_none() || self.account.join("token").exists());
        match (in_pod, &self.kubeconfig) {
            (Some(host), _) => Ok(Access::in_pod(host, self.port.as_deref(), &self.account)?),
            (None, Some(files)) => {
                let files = std::env::split_paths(files).filter(|path| !path.as_os_str().is_empty());
                let files = files.map(|path| kubeconfig(&path)).collect::<Result<Vec<_>, _>>()?;
                Ok(Access::by_kubeconfig(&files)?)
            }
            (None, None) => Err(AccessError::Nowhere.into()),
        }
    }
}

fn kubeconfig(path: &Path) -> Result<(PathBuf, serde_json::Value), NotFound> {
    let bytes = file(path)?;
    let text = String::from_utf8_lossy(&bytes);
    let value = pillion_config::document(&text);
    let value = value.map_err(|why| NotFound::BadYaml { path: path.to_owned(), why })?;
    Ok((path.parent().map(Path::to_owned).unwrap_or_default(), value))
}

/// The value, which is read where a file has it. Blocks on file IO.
pub(super) fn read(secret: &Secret) -> Result<Zeroizing<Vec<u8>>, NotFound> {
    match secret {
        Secret::Value(value) => Ok(value.clone()),
        Secret::File(path) => file(path),
    }
}

fn file(path: &Path) -> Result<Zeroizing<Vec<u8>>, NotFound> {
    let bytes = || {
        let file = File::open(path)?;
        let size = file.metadata()?.len().min(MOST_BYTES);
        let mut bytes = Zeroizing::new(Vec::with_capacity(size as usize + 1)); // it does not grow, which would leave copies
        file.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
        Ok::<_, io::Error>(bytes)
    };
    let bytes = bytes().map_err(|source| {
        let is_missing = source.kind() == io::ErrorKind::NotFound && path.starts_with(SERVICE_ACCOUNT);
        let help = if is_missing { "; does the pod have `automountServiceAccountToken: false`?" } else { "" };
        NotFound::Unreadable { path: path.to_owned(), source, help }
    })?;
    match bytes.len() as u64 > MOST_BYTES {
        true => Err(NotFound::TooLong(path.to_owned())),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use pillion_testkit::Scratch;

    use super::*;

    fn environment(scratch: &Scratch, host: Option<&str>, kubeconfig: Option<&str>) -> Environment {
        Environment {
            host: host.map(str::to_owned),
            port: None,
            kubeconfig: kubeconfig
                .map(|files| std::env::join_paths(files.split(' ').map(|file| scratch.path(file))).unwrap()),
            account: scratch.path("account"),
            node: None,
        }
    }

    const CONTEXT: &str = "current-context: dev\ncontexts: [{ name: dev, context: { cluster: kind } }]\n";

    #[test]
    fn a_pod_goes_before_a_kubeconfig_unless_it_has_no_service_account() {
        let scratch = Scratch::new();
        scratch.write(
            "config",
            format!("{CONTEXT}clusters: [{{ name: kind, cluster: {{ server: \"https://kube\" }} }}]\n"),
        );
        let host = |host, kubeconfig| {
            environment(&scratch, host, kubeconfig)
                .access()
                .map(|access| access.host)
                .map_err(|why| why.to_string())
        };
        assert_eq!(host(Some("10.96.0.1"), None), Ok("10.96.0.1".into()));
        assert_eq!(host(Some("10.96.0.1"), Some("config")), Ok("kube".into()));
        std::fs::create_dir(scratch.path("account")).unwrap();
        scratch.write("account/token", "t");
        assert_eq!(host(Some("10.96.0.1"), Some("config")), Ok("10.96.0.1".into()));
        assert!(host(None, None).unwrap_err().contains("nor KUBECONFIG is set"));
    }

    #[test]
    fn kubeconfigs_complete_each_other_and_bad_ones_are_named() {
        let scratch = Scratch::new();
        scratch.write("one", CONTEXT);
        scratch.write("two", "clusters: [{ name: kind, cluster: { server: \"https://kube\" } }]\n");
        scratch.write("bad", "a: [");
        let of = |files| environment(&scratch, None, Some(files)).access();
        assert_eq!(of("one two").unwrap().host, "kube");
        assert!(of("one").unwrap_err().to_string().contains("no cluster `kind`"));
        let why = of("bad").unwrap_err().to_string();
        assert!(why.contains("/bad is not valid: line "), "{why}");
        assert!(of("none").unwrap_err().to_string().contains("/none cannot be read"));
    }
}
