//! PEM files: certificates, keys, and how they looked when they were read.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keybrake_proto::config::{Tls, TlsVersion};
use keybrake_proto::time::UnixMicros;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{InconsistentKeys, RootCertStore, SupportedProtocolVersion};

/// Why files for TLS cannot be used. Each text names the key of the configuration, the file and what to do.
#[derive(Debug)]
pub(crate) enum TlsError {
    /// It is not there, or is no PEM.
    Unreadable { key: &'static str, path: PathBuf, problem: String },
    /// It is PEM and holds nothing of what is needed.
    Empty { key: &'static str, path: PathBuf, needs: &'static str },
    /// The private key is not the certificate's.
    Mismatch { cert: PathBuf, key: PathBuf },
    /// What is in it cannot be used.
    Refused { key: &'static str, path: PathBuf, problem: String },
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::Unreadable { key, path, problem } => {
                write!(f, "{key} {} cannot be read: {problem}", path.display())
            }
            TlsError::Empty { key, path, needs } => {
                write!(f, "{key} {} holds {needs}", path.display())
            }
            TlsError::Mismatch { cert, key } => write!(
                f,
                "the private key in {} is not that of the first certificate in {}; replace both files",
                key.display(),
                cert.display()
            ),
            TlsError::Refused { key, path, problem } => {
                write!(f, "{key} {} cannot be used: {problem}", path.display())
            }
        }
    }
}

impl std::error::Error for TlsError {}

/// How files looked: one that is replaced or rewritten looks different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Look(Vec<Option<[i64; 4]>>);

impl Look {
    pub(super) fn at(config: &Tls) -> Look {
        let files = [Some(&config.cert_file), Some(&config.key_file), config.client_ca_file.as_ref()];
        let look = |path: &PathBuf| {
            let file = std::fs::metadata(path).ok()?;
            let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
            Some([file.mtime(), file.mtime_nsec(), number(file.ino()), number(file.size())])
        };
        Look(files.into_iter().map(|path| path.and_then(look)).collect())
    }
}

/// What the files hold.
pub(super) struct Loaded {
    pub(super) certified: Arc<CertifiedKey>,
    /// Until when the proxy's own certificate is valid; `None` where that cannot be read.
    pub(super) expires_at: Option<UnixMicros>,
    /// The authorities that vouch for agents, as they stand in the file.
    pub(super) client_roots: Option<Vec<CertificateDer<'static>>>,
}

impl Loaded {
    /// Reads all files; they fit together.
    pub(super) fn read(config: &Tls) -> Result<Loaded, TlsError> {
        let chain = certificates("cert_file", &config.cert_file)?;
        let expires_at = chain.first().and_then(expires_at);
        let key = key(&config.key_file)?;
        let provider = rustls::crypto::ring::default_provider();
        let certified = CertifiedKey::from_der(chain, key, &provider).map_err(|error| {
            let (cert, key) = (config.cert_file.clone(), config.key_file.clone());
            if error == rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) {
                return TlsError::Mismatch { cert, key };
            }
            TlsError::Refused { key: "key_file", path: key, problem: error.to_string() }
        })?;
        let client_roots = match &config.client_ca_file {
            Some(path) => Some(certificates("client_ca_file", path)?),
            None => None,
        };
        Ok(Loaded { certified: Arc::new(certified), expires_at, client_roots })
    }

    /// What agents' certificates are checked against, where they need one.
    pub(super) fn client_verifier(
        &self,
        config: &Tls,
    ) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
        let (Some(path), Some(certificates)) = (&config.client_ca_file, &self.client_roots) else {
            return Ok(None);
        };
        let roots = trusting("client_ca_file", path, certificates)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        let refused =
            |problem: String| TlsError::Refused { key: "client_ca_file", path: path.clone(), problem };
        verifier.map(Some).map_err(|error| refused(error.to_string()))
    }
}

/// The versions that are spoken.
pub(super) fn versions(min: TlsVersion) -> Vec<&'static SupportedProtocolVersion> {
    match min {
        TlsVersion::Tls12 => vec![&TLS13, &TLS12],
        TlsVersion::Tls13 => vec![&TLS13],
    }
}

/// The authorities in a file.
pub(super) fn roots(key: &'static str, path: &Path) -> Result<RootCertStore, TlsError> {
    trusting(key, path, &certificates(key, path)?)
}

fn trusting(
    key: &'static str,
    path: &Path,
    certificates: &[CertificateDer<'static>],
) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        let added = roots.add(certificate.clone());
        added.map_err(|error| TlsError::Refused {
            key,
            path: path.to_owned(),
            problem: error.to_string(),
        })?;
    }
    Ok(roots)
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |error| unreadable(key, path, &error);
    let found = CertificateDer::pem_file_iter(path).map_err(unreadable)?;
    let found = found.collect::<Result<Vec<_>, pem::Error>>().map_err(unreadable)?;
    match found.as_slice() {
        [] => {
            let needs = "no certificate; give a PEM file";
            Err(TlsError::Empty { key, path: path.to_owned(), needs })
        }
        [..] => Ok(found),
    }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| {
        if matches!(error, pem::Error::NoItemsFound) {
            let needs = "no private key, or an encrypted one; give a PEM file with a private key that is not encrypted";
            return TlsError::Empty { key: "key_file", path: path.to_owned(), needs };
        }
        unreadable("key_file", path, &error)
    })
}

/// Without the offending bytes: they may be those of a key.
fn unreadable(key: &'static str, path: &Path, error: &pem::Error) -> TlsError {
    let problem =
        if let pem::Error::Io(error) = error { io_problem(error) } else { "it is not PEM".to_owned() };
    TlsError::Unreadable { key, path: path.to_owned(), problem }
}

fn io_problem(error: &io::Error) -> String {
    // The system's text without its number.
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// Until when a certificate is valid.
fn expires_at(certificate: &CertificateDer<'_>) -> Option<UnixMicros> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default();
    Some(UnixMicros::default().plus_seconds(seconds))
}
