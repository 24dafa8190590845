//! TLS of a listener: its certificate, and whose certificates it takes from clients.

use std::path::PathBuf;

/// The files of a listener's TLS, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The certificate chain, the listener's own first.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities whose client certificates are demanded; without it, none is asked for.
    pub client_ca: Option<PathBuf>,
}
