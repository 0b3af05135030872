//! Certificate authorities and vendor certificates, good and bad ones.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A certificate authority of the test.
pub struct Issuer {
    issuer: rcgen::Issuer<'static, KeyPair>,
    pem: String,
}

/// Which certificate a vendor shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certificate {
    /// The right one, for `localhost`.
    Good,
    /// Of the same authority, for another name.
    OtherName,
    /// Of the same authority, for `localhost`, until 2001.
    Expired,
    /// For `localhost`, signed by itself.
    SelfSigned,
}

impl Default for Issuer {
    fn default() -> Issuer {
        Issuer::new()
    }
}

impl Issuer {
    /// A new authority.
    ///
    /// # Panics
    /// When the system gives no randomness.
    #[must_use]
    pub fn new() -> Issuer {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Issuer { issuer: rcgen::Issuer::new(params, key), pem }
    }

    /// Writes the authority's certificate where `ca_file` may point.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn write_to(&self, path: &Path) {
        std::fs::write(path, &self.pem).unwrap();
    }

    /// The TLS side of a vendor that shows this certificate.
    ///
    /// # Panics
    /// When the system gives no randomness.
    #[must_use]
    pub fn server(&self, certificate: Certificate) -> Arc<ServerConfig> {
        let name = if certificate == Certificate::OtherName { "api.example.org" } else { "localhost" };
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if certificate == Certificate::Expired {
            params.not_before = date_time_ymd(2000, 1, 1);
            params.not_after = date_time_ymd(2001, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let signed = if certificate == Certificate::SelfSigned {
            params.self_signed(&key).unwrap()
        } else {
            params.signed_by(&key, &self.issuer).unwrap()
        };
        let chain = vec![CertificateDer::from(signed)];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        Arc::new(config)
    }
}
