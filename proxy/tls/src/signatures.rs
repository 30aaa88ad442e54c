//! The functions by which rustls asks a verifier about the signatures of a handshake. They are the same in every verifier.

/// Judges them by the algorithms of a field, or as the verifier in a field does.
macro_rules! signatures {
    (by $($algorithms:tt).+) => {
        signatures!(@ self, message, certificate, signed:
            rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.$($algorithms).+),
            rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.$($algorithms).+),
            self.$($algorithms).+.supported_schemes());
    };
    (by $($algorithms:tt).+ then $then:ident) => {
        signatures!(@ self, message, certificate, signed:
            self.$then(rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.$($algorithms).+)),
            self.$then(rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.$($algorithms).+)),
            self.$($algorithms).+.supported_schemes());
    };
    (as $verifier:ident) => {
        signatures!(@ self, message, certificate, signed:
            self.$verifier.verify_tls12_signature(message, certificate, signed),
            self.$verifier.verify_tls13_signature(message, certificate, signed),
            self.$verifier.supported_verify_schemes());
    };
    (@ $self:ident, $message:ident, $certificate:ident, $signed:ident: $tls12:expr, $tls13:expr, $schemes:expr) => {
        fn verify_tls12_signature(
            &$self,
            $message: &[u8],
            $certificate: &rustls::pki_types::CertificateDer<'_>,
            $signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            $tls12
        }

        fn verify_tls13_signature(
            &$self,
            $message: &[u8],
            $certificate: &rustls::pki_types::CertificateDer<'_>,
            $signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            $tls13
        }

        fn supported_verify_schemes(&$self) -> Vec<rustls::SignatureScheme> {
            $schemes
        }
    };
}
pub(crate) use signatures;
