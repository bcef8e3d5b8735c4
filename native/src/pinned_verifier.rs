//! Verification of a server whose certificate authority is known by its fingerprint alone.

use std::sync::Arc;

use aws_lc_rs::digest::{digest, SHA256};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{
    verify_tls12_signature, verify_tls13_signature, CryptoProvider, WebPkiSupportedAlgorithms,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// Bytes of a SHA-256 fingerprint.
pub const FINGERPRINT: usize = 32;
/// Certificates of a chain that are compared with the fingerprint. An edge sends two.
const MAX_CHAIN: usize = 8;

/// A verifier that takes the one certificate of the chain that has the fingerprint as the only trust anchor.
///
/// The fingerprint alone proves nothing, because certificates are public: the leaf must be signed by that
/// certificate, be valid now and have the server's name.
#[derive(Debug)]
pub struct PinnedVerifier {
    fingerprint: [u8; FINGERPRINT],
    provider: Arc<CryptoProvider>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PinnedVerifier {
    /// Create a verifier for the SHA-256 fingerprint of a certificate in DER.
    pub fn new(fingerprint: [u8; FINGERPRINT], provider: Arc<CryptoProvider>) -> Self {
        let algorithms = provider.signature_verification_algorithms;
        Self {
            fingerprint,
            provider,
            algorithms,
        }
    }

    /// Return the store with the pinned certificate, if the chain has it.
    fn roots(&self, chain: &[CertificateDer<'_>]) -> Result<RootCertStore, Error> {
        let pinned = chain
            .iter()
            .take(MAX_CHAIN)
            .find(|each| digest(&SHA256, each.as_ref()).as_ref() == self.fingerprint)
            .ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(pinned.clone().into_owned())?;
        Ok(roots)
    }
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let roots = Arc::new(self.roots(intermediates)?);
        WebPkiServerVerifier::builder_with_provider(roots, self.provider.clone())
            .build()
            .map_err(|error| Error::General(error.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
