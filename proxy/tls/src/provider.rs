//! The cryptography, by policy: which key exchanges, ciphers and versions are offered.
//!
//! Always handed to rustls by name: a process-wide default could be set, or set twice, by any dependency.

use std::sync::Arc;

use pillion_model::identity::{TlsPolicy, TlsVersion};
use rustls::crypto::aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::version::{TLS12, TLS13};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

/// Post-quantum first where wanted: recorded today, it stays unread tomorrow. Costs 1.2 KB more each way, and
/// CPU per handshake about as another library's plain X25519.
const HYBRID: &[&dyn SupportedKxGroup] = &[X25519MLKEM768, X25519, SECP256R1, SECP384R1];
const CLASSIC: &[&dyn SupportedKxGroup] = &[X25519, SECP256R1, SECP384R1];

/// Before AES-256: four rounds of fourteen less per block, and nobody breaks either. And before its SHA-384, for which
/// few machines have instructions, where SHA-256 has them: that is a tenth of a handshake.
const AES_128: [SupportedCipherSuite; 3] = [
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
];

const NEWEST: &[&SupportedProtocolVersion] = &[&TLS13];
const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

/// What `policy` allows, preferred first.
pub fn provider(policy: &TlsPolicy) -> Arc<CryptoProvider> {
    let groups = if policy.post_quantum { HYBRID } else { CLASSIC };
    let mut provider = any();
    provider.kx_groups = groups.to_vec();
    provider.cipher_suites.sort_by_key(|suite| !AES_128.contains(suite));
    Arc::new(provider)
}

/// For what no policy touches: loading keys.
pub fn any() -> CryptoProvider {
    default_provider()
}

pub fn versions(policy: &TlsPolicy) -> &'static [&'static SupportedProtocolVersion] {
    match policy.min_version {
        TlsVersion::Tls12 => BOTH,
        TlsVersion::Tls13 => NEWEST,
    }
}
