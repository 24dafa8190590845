//! TLS of a listener: its certificate, and whose certificates it takes from clients.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

/// The files of a listener's TLS, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The certificate chain, the listener's own first.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Whose certificates clients show; without it, none is asked for.
    pub clients: Option<Clients>,
}

/// Which certificates a listener takes from clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clients {
    /// The authorities, PEM.
    pub ca: PathBuf,
    /// Their lists of revoked certificates (RFC 5280), PEM. A certificate of an authority without a list in it counts
    /// as not revoked; a list that is over its time is no list.
    pub crl: Option<PathBuf>,
    /// A client without a certificate gets in, too; it has to show something else.
    pub optional: bool,
}

/// Why a listener's TLS files are of no use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It can't be read.
    #[error("{} can't be read ({source}); correct its path or its permissions", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others than its owner can read the key.
    #[error("{} can be read by others than its owner (mode {mode:o}); run chmod 600 on it", .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It holds nothing of the kind.
    #[error("{} holds no {what} in PEM form; put one there, or correct the path", .path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// It is malformed.
    #[error("{} is malformed ({source}); replace it", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// Certificate and key are of no use together.
    #[error("the certificate in {} and the key in {} do not work together ({source}); use a pair", .cert.display(), .key.display())]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

impl Clients {
    /// Those of these authorities, every client.
    pub fn of(ca: PathBuf) -> Self {
        Self { ca, crl: None, optional: false }
    }
}

/// A listener's TLS, ready for use.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What handshakes need.
    pub server: Arc<ServerConfig>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
}

impl Loaded {
    /// Whether a client that showed these certificates when it connected would get in with them now.
    pub fn takes(&self, shown: &[CertificateDer<'static>]) -> bool {
        let (Some(clients), Some((own, others))) = (&self.clients, shown.split_first()) else { return false };
        clients.verify_client_cert(own, others, UnixTime::now()).is_ok()
    }
}

impl Config {
    /// Reads the files. TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1; with `clients`, a client without a
    /// certificate of these authorities gets nowhere, unless that is optional, and no session is resumed.
    ///
    /// # Errors
    /// See [`Error`]; each names its file.
    pub fn load(&self) -> Result<Arc<Loaded>, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("ring has all suites of TLS 1.2 and 1.3");
        let clients = match &self.clients {
            None => None,
            Some(Clients { ca, crl, optional }) => {
                let mut roots = RootCertStore::empty();
                let malformed = |path: &PathBuf| {
                    let path = path.clone();
                    move |source| Error::Malformed { path, source }
                };
                for authority in certificates(ca)? {
                    roots.add(authority).map_err(malformed(ca))?;
                }
                let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                if let Some(crl) = crl {
                    let lists = revocation_lists(crl)?;
                    verifier = verifier.with_crls(lists).allow_unknown_revocation_status();
                    verifier = verifier.enforce_revocation_expiration();
                }
                if *optional {
                    verifier = verifier.allow_unauthenticated();
                }
                let general = |error: VerifierBuilderError| rustls::Error::General(error.to_string());
                Some(verifier.build().map_err(|error| {
                    let path = if matches!(error, VerifierBuilderError::InvalidCrl(_)) {
                        crl.as_ref()
                    } else {
                        None
                    };
                    malformed(path.unwrap_or(ca))(general(error))
                })?)
            }
        };
        let builder = match &clients {
            None => builder.with_no_client_auth(),
            Some(clients) => builder.with_client_cert_verifier(Arc::clone(clients)),
        };
        let pair = builder.with_single_cert(certificates(&self.cert)?, key(&self.key)?);
        let mut config =
            pair.map_err(|source| Error::Pair { cert: self.cert.clone(), key: self.key.clone(), source })?;
        if self.clients.is_some() {
            // A resumed session brings the certificate as it once was: neither its end nor the lists of revoked ones
            // would be looked at again, however long that is ago.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(Loaded { server: Arc::new(config), clients }))
    }
}

fn revocation_lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, Error> {
    let text = fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) | Err(pem::Error::NoItemsFound) => {
            Err(Error::Empty { path: path.to_owned(), what: "list of revoked certificates" })
        }
        Err(error) => Err(malformed(path, &error)),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) | Err(pem::Error::NoItemsFound) => {
            Err(Error::Empty { path: path.to_owned(), what: "certificate" })
        }
        Err(error) => Err(malformed(path, &error)),
    }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let read = |source| Error::Read { path: path.to_owned(), source };
    // The file that is read is the one whose mode was looked at.
    let mut file = File::open(path).map_err(read)?;
    let mode = file.metadata().map_err(read)?.mode() & 0o777;
    if mode & 0o007 != 0 {
        return Err(Error::Exposed { path: path.to_owned(), mode });
    }
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(read)?;
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => Err(Error::Empty { path: path.to_owned(), what: "private key" }),
        Err(error) => Err(malformed(path, &error)),
    }
}

/// Without a word of the file's text, which may be a key.
fn malformed(path: &Path, error: &pem::Error) -> Error {
    let what = match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no end",
        pem::Error::Base64Decode(_) => "a section is not base64",
        _ => "no PEM",
    };
    Error::Malformed { path: path.to_owned(), source: rustls::Error::General(what.to_owned()) }
}
