//! Certificate authorities and vendor certificates, good and bad ones.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tempfile::TempDir;

/// How long certificates are valid, in days.
const DAYS: u16 = 90;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

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
        // OpenSSL takes a certificate whose issuer has the same name for signed by itself.
        params.distinguished_name.push(DnType::CommonName, "authority of the test");
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
        self.server_of(certificate, &[&TLS13, &TLS12])
    }

    /// As [`Issuer::server`], with these versions alone.
    ///
    /// # Panics
    /// When the system gives no randomness.
    #[must_use]
    pub fn server_of(
        &self,
        certificate: Certificate,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ServerConfig> {
        let (signed, key) = self.sign(certificate, DAYS);
        let chain = vec![CertificateDer::from(signed)];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        Arc::new(config)
    }

    /// A certificate and its private key in PEM, valid for so many days.
    ///
    /// # Panics
    /// When the system gives no randomness.
    #[must_use]
    pub fn pem_of(&self, certificate: Certificate, days: u16) -> (String, String) {
        let (signed, key) = self.sign(certificate, days);
        (signed.pem(), key.serialize_pem())
    }

    /// The TLS side of an agent that trusts this authority alone and remembers its sessions; with a certificate of
    /// `shows`, where it shows one.
    ///
    /// # Panics
    /// When the system gives no randomness.
    #[must_use]
    pub fn client(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        shows: Option<&Issuer>,
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        Arc::new(match shows {
            None => builder.with_no_client_auth(),
            Some(issuer) => {
                let (signed, key) = issuer.sign(Certificate::Good, DAYS);
                let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
                builder.with_client_auth_cert(vec![CertificateDer::from(signed)], key).unwrap()
            }
        })
    }

    fn sign(&self, certificate: Certificate, days: u16) -> (rcgen::Certificate, KeyPair) {
        let name = if certificate == Certificate::OtherName { "api.example.org" } else { "localhost" };
        let names = vec![name.to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        let today = SystemTime::now();
        let day = Duration::from_secs(24 * 60 * 60);
        params.not_before = (today - day).into();
        params.not_after = (today + day * u32::from(days)).into();
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
        (signed, key)
    }
}

/// An authority, and a certificate by it in files for `[proxy.tls]`.
pub struct TlsFiles {
    /// The authority.
    pub issuer: Issuer,
    dir: TempDir,
}

impl Default for TlsFiles {
    fn default() -> TlsFiles {
        TlsFiles::new()
    }
}

impl TlsFiles {
    /// A new authority and a good certificate.
    ///
    /// # Panics
    /// When the files cannot be written.
    #[must_use]
    pub fn new() -> TlsFiles {
        let files = TlsFiles { issuer: Issuer::new(), dir: tempfile::tempdir().unwrap() };
        let (cert, key) = files.issuer.pem_of(Certificate::Good, DAYS);
        std::fs::write(files.path("cert.pem"), cert).unwrap();
        std::fs::write(files.path("key.pem"), key).unwrap();
        files.issuer.write_to(files.path("ca.pem").as_ref());
        files
    }

    /// `cert.pem`, `key.pem` or `ca.pem`, or a file that is not there yet.
    ///
    /// # Panics
    /// When the temporary directory has an odd name.
    #[must_use]
    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// The line of `[proxy]` that names them, and `more`.
    #[must_use]
    pub fn line(&self, more: &str) -> String {
        let (cert, key) = (self.path("cert.pem"), self.path("key.pem"));
        format!("tls = {{ cert_file = \"{cert}\", key_file = \"{key}\"{more} }}")
    }

    /// An agent that trusts the authority.
    #[must_use]
    pub fn client(&self) -> Arc<ClientConfig> {
        self.issuer.client(&[&TLS13, &TLS12], None)
    }
}
