//! The webhook's certificate, which is read again when its files change.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use pillion_model::identity::{KeyPair, TlsPolicy};
use pillion_tls::files::{Content, Looked};
use pillion_tls::identity::pair::Pair;
use pillion_tls::identity::unix_now;
use pillion_tls::provider;
use rustls::ServerConfig;
use rustls::sign::SingleCertAndKey;
use tokio_rustls::TlsAcceptor;

/// The time between two looks at the files. A new certificate must be the same in two of them, as it may still be written.
const EVERY: Duration = Duration::from_millis(500);
/// A chain of certificates has some KiB.
const MOST_BYTES: u64 = 1 << 20;

/// The certificate in use, and its files.
pub(super) struct Secured {
    files: KeyPair,
    now: ArcSwap<ServerConfig>,
}

impl Secured {
    /// # Errors
    /// The files cannot be read, or do not belong together.
    pub(super) fn load(files: KeyPair) -> anyhow::Result<Self> {
        let pair = Pair::load(&files, None, unix_now())?;
        Ok(Self { now: ArcSwap::from(config(&pair)?), files })
    }

    /// Takes new connections with the certificate of this moment.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.now.load_full())
    }

    /// Follows the files. A pair that cannot be used changes nothing, and is told once.
    pub(super) async fn watch(self: Arc<Self>) {
        let look = |path: &Path| Looked::new(path, MOST_BYTES);
        let mut looked = [look(&self.files.certificate), look(&self.files.key)];
        let mut known: [Content; 2] = looked.each_mut().map(|file| file.look(SystemTime::now()));
        let mut seen = known;
        loop {
            tokio::time::sleep(EVERY).await;
            let found = looked.each_mut().map(|file| file.look(SystemTime::now()));
            let stands_still = found == seen;
            seen = found;
            if !stands_still || found == known {
                continue;
            }
            known = found;
            match Pair::load(&self.files, None, unix_now())
                .map_err(anyhow::Error::from)
                .and_then(|pair| config(&pair))
            {
                Ok(config) => {
                    self.now.store(config);
                    tracing::info!(certificate = %self.files.certificate.display(), "the certificate has been replaced");
                }
                Err(error) => tracing::warn!("the new certificate is not used: {error:#}"),
            }
        }
    }
}

fn config(pair: &Pair) -> anyhow::Result<Arc<ServerConfig>> {
    let policy = TlsPolicy::default();
    let mut config = ServerConfig::builder_with_provider(provider::provider(&policy))
        .with_protocol_versions(provider::versions(&policy))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(pair.key.clone())));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
