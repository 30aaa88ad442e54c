//! The cryptography that a policy allows: key exchanges, cipher suites and TLS versions.
//!
//! The provider is always passed to rustls explicitly: a process-wide default could be set by any dependency.

use std::sync::Arc;

use pillion_model::identity::{TlsPolicy, TlsVersion};
use rustls::crypto::aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::version::{TLS12, TLS13};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

/// Post-quantum key exchange first if the policy wants it: traffic that is recorded today then stays secret from future
/// quantum computers. It costs 1.2 KB more in each direction; with it a handshake takes about as much CPU as plain
/// X25519 in another library.
const HYBRID: &[&dyn SupportedKxGroup] = &[X25519MLKEM768, X25519, SECP256R1, SECP384R1];
const CLASSIC: &[&dyn SupportedKxGroup] = &[X25519, SECP256R1, SECP384R1];

/// AES-128 before AES-256: it has 10 rounds instead of 14 for each block, and neither is breakable. The AES-256 suites
/// also use SHA-384, for which few CPUs have instructions, where the others use SHA-256; that makes up a tenth of a
/// handshake.
const AES_128: [SupportedCipherSuite; 3] = [
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
];

const NEWEST: &[&SupportedProtocolVersion] = &[&TLS13];
const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

/// The cryptography that `policy` allows, the preferred suites and groups first.
pub fn provider(policy: &TlsPolicy) -> Arc<CryptoProvider> {
    let groups = if policy.post_quantum { HYBRID } else { CLASSIC };
    let mut provider = any();
    provider.kx_groups = groups.to_vec();
    provider.cipher_suites.sort_by_key(|suite| !AES_128.contains(suite));
    Arc::new(provider)
}

/// The cryptography for work that no policy restricts, such as loading keys.
pub fn any() -> CryptoProvider {
    default_provider()
}

pub fn versions(policy: &TlsPolicy) -> &'static [&'static SupportedProtocolVersion] {
    match policy.min_version {
        TlsVersion::Tls12 => BOTH,
        TlsVersion::Tls13 => NEWEST,
    }
}
