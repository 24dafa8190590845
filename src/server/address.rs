//! Where a listener is.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// An address of this machine, written `127.0.0.1:8180`, `[::1]:8180` or `unix:/run/keyway.sock`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An IP address and a port; port 0 is one that the system chooses.
    Tcp(SocketAddr),
    /// A socket file.
    Unix(PathBuf),
}

impl Address {
    /// The IP address and port, unless it is a socket file.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// How a client names it: `http://127.0.0.1:8180`; for a socket file, what it is asked for there.
    pub fn url(&self, tls: bool) -> String {
        let scheme = if tls { "https" } else { "http" };
        match self {
            Self::Tcp(address) => format!("{scheme}://{address}"),
            Self::Unix(_) => format!("{scheme}://localhost"),
        }
    }

    /// Only this machine reaches it.
    pub fn is_local(&self) -> bool {
        self.tcp().is_none_or(|address| address.ip().to_canonical().is_loopback())
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return if path.is_absolute() && path.file_name().is_some() {
                Ok(Self::Unix(path))
            } else {
                Err(format!("`{text}` names no socket file: write unix:/absolute/path"))
            };
        }
        text.parse().map(Self::Tcp).map_err(|_| {
            format!("`{text}` is no address and port, such as 127.0.0.1:8180, and no unix:/path")
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
