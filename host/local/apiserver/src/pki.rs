//! The server's certificate authority and certificate, which are generated at every start.
//!
//! The private keys are kept in memory only. Only the authority's certificate is written to a file, with which
//! clients verify the server.

use std::net::IpAddr;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

/// The `Host` names that the server accepts besides its address; the certificate contains them.
pub(crate) const NAMES: [&str; 4] =
    ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];

/// The TLS configuration of the listener, and the certificate that its clients need.
pub(crate) struct ApiServerTlsConfig {
    /// The authority's certificate, PEM.
    pub(crate) authority_pem: String,
    /// The listener's configuration; ALPN offers HTTP/2 and HTTP/1.1.
    pub(crate) tls: Arc<ServerConfig>,
}

/// The error of generating the certificates.
#[derive(Debug, thiserror::Error)]
pub enum CertificateGenerationError {
    /// A key or certificate could not be generated.
    #[error("cannot generate a certificate")]
    Generate(#[from] rcgen::Error),
    /// The TLS library refused the generated key or certificate.
    #[error("cannot configure TLS")]
    Configure(#[from] rustls::Error),
}

/// Generates an authority and a certificate for `address`.
pub(crate) fn generate(address: IpAddr) -> Result<ApiServerTlsConfig, CertificateGenerationError> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "tholepin-local");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;

    let mut names = vec![address.to_string()];
    names.extend(NAMES.map(str::to_owned));
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, "tholepin-apiserver");
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &authority)?;

    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone(), authority.der().clone()], private)?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(ApiServerTlsConfig { authority_pem: authority.pem(), tls: Arc::new(tls) })
}
