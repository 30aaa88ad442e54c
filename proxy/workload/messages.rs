//! The messages of the X.509-SVID profile (SPIFFE Workload API, 5.1), with the fields that are used.

use std::collections::BTreeMap;
use std::fmt;

use pillion_grpc::prost;
use zeroize::Zeroize as _;

#[derive(Clone, PartialEq, prost::Message)]
#[prost(prost_path = "pillion_grpc::prost")]
pub(crate) struct X509SvidRequest {}

/// Everything that is current. What an earlier message had, and this one has not, is no longer so.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(prost_path = "pillion_grpc::prost")]
pub(crate) struct X509SvidResponse {
    /// The first is the default identity.
    #[prost(message, repeated, tag = "1")]
    pub(crate) svids: Vec<X509Svid>,
    /// Revocation lists in DER.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub(crate) crl: Vec<Vec<u8>>,
    /// The bundles of other trust domains in DER, by the SPIFFE ID of the trust domain.
    #[prost(btree_map = "string, bytes", tag = "3")]
    pub(crate) federated_bundles: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(prost_path = "pillion_grpc::prost")]
#[prost(skip_debug)]
pub(crate) struct X509Svid {
    #[prost(string, tag = "1")]
    pub(crate) spiffe_id: String,
    /// Certificates in DER, the workload's own first.
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) x509_svid: Vec<u8>,
    /// PKCS #8 in DER.
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) x509_svid_key: Vec<u8>,
    /// The bundle of the own trust domain: certificates in DER.
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) bundle: Vec<u8>,
}

impl Drop for X509Svid {
    fn drop(&mut self) {
        self.x509_svid_key.zeroize();
    }
}

/// Leaves out the key, which must not appear in logs.
impl fmt::Debug for X509Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Svid").field("spiffe_id", &self.spiffe_id).finish_non_exhaustive()
    }
}
