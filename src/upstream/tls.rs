//! Whom does keyway believe to be the server it asked for?

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use zeroize::Zeroizing;

/// TLS towards one cloud: `verify`, `cacert`, `insecure`, `cert` and `key` of clouds.yaml.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// PEM file of the authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Accept any certificate. Never the default; warned of at each start.
    pub insecure: bool,
    /// PEM files of the client's certificate chain and of its private key (the key may be in the
    /// certificate's file).
    pub client_cert: Option<(PathBuf, Option<PathBuf>)>,
}

/// Why a [`Config`] can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A PEM file is missing, unreadable or not PEM.
    #[error("{path} can't be read as PEM: {source}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// A PEM file without a single certificate.
    #[error("{path} holds no certificate")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// No authority is trusted at all.
    #[error("no certificate authority found on this system; install ca-certificates or set `cacert`")]
    NoRoots,
    /// rustls refused a certificate or key.
    #[error("{path}: {source}")]
    Rustls {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

impl Config {
    /// Reads the files and makes rustls' configuration: TLS 1.2 and 1.3, ALPN `h2` and `http/1.1`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn load(&self) -> Result<Arc<ClientConfig>, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("ring serves TLS 1.2 and 1.3");
        let builder = if self.insecure {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAny(provider)))
        } else {
            builder.with_root_certificates(self.roots()?)
        };
        let mut config = match &self.client_cert {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let chain = certificates(cert)?;
                let key = key.as_ref().unwrap_or(cert);
                // What becomes of the key itself is rustls' matter; its text is ours.
                let text = std::fs::read(key).map(Zeroizing::new);
                let der = text
                    .map_err(rustls::pki_types::pem::Error::Io)
                    .and_then(|text| PrivateKeyDer::from_pem_slice(&text))
                    .map_err(|source| pem(key, source))?;
                builder
                    .with_client_auth_cert(chain, der)
                    .map_err(|source| Error::Rustls { path: cert.clone(), source })?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    fn roots(&self) -> Result<RootCertStore, Error> {
        let mut roots = RootCertStore::empty();
        match &self.ca_file {
            Some(path) => {
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(|source| Error::Rustls { path: path.clone(), source })?;
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if roots.is_empty() {
                    return Err(Error::NoRoots);
                }
            }
        }
        Ok(roots)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|source| pem(path, source))?;
    if found.is_empty() {
        return Err(Error::Empty { path: path.to_owned() });
    }
    Ok(found)
}

fn pem(path: &Path, source: rustls::pki_types::pem::Error) -> Error {
    Error::Pem { path: path.to_owned(), source }
}

/// `insecure: true`: any certificate will do, as long as its owner can sign with it.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
