//! Measures the cost of a full handshake for the inbound side: `cargo bench --bench handshake [-- ROUNDS]`.
//!
//! Rows: the floor, which is rustls alone with its own verification of the client's chain; the inbound side for a
//! client that connects again; and for a client that it has never seen. The handshakes are mutual TLS 1.3 with X25519
//! and P-256, without resumption, in memory. There are no sockets, and only the server's part is timed. Rounds are
//! interleaved.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pillion_model::identity::{TlsPolicy, TlsVersion};
use pillion_tls::identity::credentials::Credentials;
use pillion_tls::identity::issue::{Ca, IssuedPem};
use pillion_tls::server::{accept, server_config};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::DuplexStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

const HANDSHAKES: u32 = 50;
const POLICY: TlsPolicy = TlsPolicy { min_version: TlsVersion::Tls13, post_quantum: false };
const HOST: &str = "orders";

type Accepting = Pin<Box<dyn Future<Output = anyhow::Result<()>>>>;

fn main() -> anyhow::Result<()> {
    let rounds = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(21);
    let ca = Ca::generate("cluster.local")?;
    let (server, client) = (identity(&ca, HOST)?, client(&identity(&ca, "web")?)?);
    let (certificate, key, bundle) = (&server.certificate, &server.key, &server.bundle);
    let credentials = Credentials::from_pem(certificate.as_bytes(), key.as_bytes(), bundle.as_bytes())?;
    let (bare, inbound) = (bare(&server)?, server_config(&credentials, &POLICY)?);
    let mut rows = [("floor", vec![]), ("a known client", vec![]), ("a new client", vec![])];
    for _ in 0..rounds {
        let [floor, known, new] = &mut rows;
        floor.1.push(round(&client, |io| Ok(by_rustls(bare.clone(), io)))?);
        known.1.push(round(&client, |io| Ok(by_inbound(inbound.clone(), io)))?);
        // a new configuration has not seen any client
        new.1.push(round(&client, |io| Ok(by_inbound(server_config(&credentials, &POLICY)?, io)))?);
    }
    for (name, mut times) in rows {
        times.sort_by(f64::total_cmp);
        let (least, middle, most) = (times[0], times[times.len() / 2], times[times.len() - 1]);
        println!("{name:16} {middle:7.1} us ({least:.1} to {most:.1})");
    }
    Ok(())
}

fn by_rustls(config: Arc<ServerConfig>, io: DuplexStream) -> Accepting {
    Box::pin(async move { Ok(TlsAcceptor::from(config).accept(io).await.map(drop)?) })
}

fn by_inbound(config: Arc<ServerConfig>, io: DuplexStream) -> Accepting {
    Box::pin(async move { Ok(accept(config, io).await.map(drop)?) })
}

/// The microseconds of the server's part of a handshake.
fn round(
    client: &Arc<ClientConfig>,
    server: impl Fn(DuplexStream) -> anyhow::Result<Accepting>,
) -> anyhow::Result<f64> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut spent = Duration::ZERO;
    for _ in 0..HANDSHAKES {
        let (near, far) = tokio::io::duplex(64 * 1024);
        spent += runtime.block_on(shake(client.clone(), near, server(far)?))?;
    }
    Ok(spent.as_secs_f64() * 1e6 / f64::from(HANDSHAKES))
}

async fn shake(
    client: Arc<ClientConfig>,
    io: DuplexStream,
    mut server: Accepting,
) -> anyhow::Result<Duration> {
    let mut spent = Duration::ZERO;
    let timed = poll_fn(|context| {
        let began = Instant::now();
        let accepted = server.as_mut().poll(context);
        spent += began.elapsed();
        accepted
    });
    let connector = TlsConnector::from(client);
    let (connected, accepted) = tokio::join!(connector.connect(ServerName::try_from(HOST)?, io), timed);
    connected?;
    accepted?;
    Ok(spent)
}

fn identity(ca: &Ca, name: &str) -> anyhow::Result<IssuedPem> {
    let id = format!("spiffe://cluster.local/ns/default/sa/{name}").parse()?;
    Ok(ca.issue(&id, &[name.to_owned()], Duration::from_secs(3600))?)
}

/// rustls with X25519 alone.
fn provider() -> Arc<CryptoProvider> {
    let kx_groups = vec![aws_lc_rs::kx_group::X25519];
    Arc::new(CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() })
}

type Parts = (Arc<RootCertStore>, Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn parts(pem: &IssuedPem) -> anyhow::Result<Parts> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.bundle.as_bytes())?)?;
    let chain = CertificateDer::pem_slice_iter(pem.certificate.as_bytes()).collect::<Result<_, _>>()?;
    Ok((Arc::new(roots), chain, PrivateKeyDer::from_pem_slice(pem.key.as_bytes())?))
}

fn bare(pem: &IssuedPem) -> anyhow::Result<Arc<ServerConfig>> {
    let (roots, chain, key) = parts(pem)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build()?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier);
    let mut config = builder.with_single_cert(chain, key)?;
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn client(pem: &IssuedPem) -> anyhow::Result<Arc<ClientConfig>> {
    let (roots, chain, key) = parts(pem)?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots);
    let mut config = builder.with_client_auth_cert(chain, key)?;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}
