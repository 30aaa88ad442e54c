//! The identity of a caller without a sidecar, and its handshake with the application's sidecar.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Alpn;
use crate::support::certs::Authority;
use crate::support::soon;

pub(super) struct Credentials {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Credentials {
    pub(super) fn issued_by(authority: &Authority, account: &str) -> Self {
        let issued = authority.issue(account);
        let chain = CertificateDer::pem_slice_iter(issued.certificate.as_bytes());
        Self {
            chain: chain.collect::<Result<_, _>>().expect("certificates"),
            key: PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("a key"),
        }
    }

    pub(super) async fn shake_hands(
        &self,
        stream: TcpStream,
        alpn: Alpn,
    ) -> impl AsyncRead + AsyncWrite + Unpin + Send + use<> {
        let connector = TlsConnector::from(Arc::new(self.config(alpn)));
        let name = ServerName::try_from("orders").expect("a name");
        soon("a handshake", connector.connect(name, stream)).await.expect("a server that lets it in")
    }

    fn config(&self, alpn: Alpn) -> ClientConfig {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config =
            ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let config = config.expect("versions that the provider has").dangerous();
        let config = config.with_custom_certificate_verifier(Arc::new(Anybody(provider)));
        let mut config =
            config.with_client_auth_cert(self.chain.clone(), self.key.clone_key()).expect("a key that fits");
        config.alpn_protocols = match alpn {
            Alpn::H2 => vec![b"h2".to_vec()],
            Alpn::Http1 => vec![b"http/1.1".to_vec()],
            Alpn::Nothing => vec![],
        };
        config
    }
}

/// A client that does not check SPIFFE IDs, like `curl --insecure`.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
