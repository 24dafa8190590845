//! Listening sockets. TCP: one per worker on the same address, so that the kernel spreads the clients.
//! A socket file: one socket that all workers accept from.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::{TcpListener, TcpSocket, UnixListener};

use super::io::Stream;
use super::{Address, Config};

const BACKLOG: u32 = 4096;

/// A bound socket that no worker has taken yet.
#[derive(Debug)]
pub struct Socket {
    kind: Bound,
    address: Address,
}

#[derive(Debug)]
enum Bound {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener, Arc<SocketFile>),
}

/// A socket file that is removed when nobody accepts from it any more.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and number of the file; another one of this name is not ours.
    identity: (u64, u64),
}

/// A socket in a worker's runtime.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, #[expect(dead_code, reason = "held for its drop")] Arc<SocketFile>),
}

/// Who connected.
#[derive(Clone, Copy, Debug)]
pub(super) enum Peer {
    Address(IpAddr),
    /// By uid and gid; `None` if the system does not say.
    User(Option<(u32, u32)>),
}

/// Binds a listener `count` times. Port 0 takes a free port, the same for all.
///
/// # Errors
/// The address is in use, by a process of whatever user, or not this machine's; the socket file is
/// in use, or something else is in its place.
pub fn bind(config: &Config, count: usize) -> io::Result<Vec<Socket>> {
    match &config.address {
        Address::Tcp(address) => bind_tcp(*address, count),
        Address::Unix(path) => bind_unix(path, config.mode, count),
    }
}

impl Socket {
    /// Where it is, with the port that it got.
    pub fn address(&self) -> &Address {
        &self.address
    }

    pub(super) fn listen(self) -> io::Result<Listener> {
        match self.kind {
            Bound::Tcp(socket) => TcpListener::from_std(socket).map(Listener::Tcp),
            Bound::Unix(socket, file) => Ok(Listener::Unix(UnixListener::from_std(socket)?, file)),
        }
    }
}

impl Listener {
    pub(super) async fn accept(&self) -> io::Result<(Stream, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Stream::Tcp(stream), Peer::Address(peer.ip())))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let user = stream.peer_cred().ok().map(|peer| (peer.uid(), peer.gid()));
                Ok((Stream::Unix(stream), Peer::User(user)))
            }
        }
    }
}

fn bind_tcp(address: SocketAddr, count: usize) -> io::Result<Vec<Socket>> {
    // SO_REUSEPORT would let a second keyway of the same user share the port in silence, and each
    // of them would get half of the clients. A socket without it finds out; it never listens.
    let probe = socket(address, false)?;
    let address = probe.local_addr()?;
    drop(probe);
    let listen = |_| {
        let kind = Bound::Tcp(socket(address, true)?.listen(BACKLOG)?.into_std()?);
        Ok(Socket { kind, address: address.into() })
    };
    (0..count.max(1)).map(listen).collect()
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(shared)?;
    socket.bind(address)?;
    Ok(socket)
}

/// A socket whose file will have this mode, less the umask, from its first moment on: Linux gives the
/// file the mode of the socket. Changing the umask for a moment would do it too, but for every file that
/// any thread creates meanwhile.
fn unix_socket(mode: u32) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode & 0o777))?;
    Ok(socket)
}

fn bind_unix(path: &Path, mode: u32, count: usize) -> io::Result<Vec<Socket>> {
    let address = SocketAddrUnix::new(path)?;
    let listening = unix_socket(mode)?;
    if let Err(error) = rustix::net::bind(&listening, &address) {
        if error != rustix::io::Errno::ADDRINUSE {
            return Err(error.into());
        }
        let found = fs::symlink_metadata(path)?;
        if !found.file_type().is_socket() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
        }
        match rustix::net::connect(unix_socket(mode)?, &address) {
            Err(rustix::io::Errno::CONNREFUSED) => {}
            // Somebody listens there, or a queue of clients waits for somebody.
            Ok(()) | Err(rustix::io::Errno::AGAIN) => return Err(io::ErrorKind::AddrInUse.into()),
            Err(error) => return Err(error.into()),
        }
        tracing::info!(path = %path.display(), "nobody listens at this socket file any more: it is replaced");
        let file = SocketFile { path: path.to_owned(), identity: (found.dev(), found.ino()) };
        drop(file);
        rustix::net::bind(&listening, &address)?;
    }
    let found = fs::symlink_metadata(path)?;
    let file = SocketFile { path: path.to_owned(), identity: (found.dev(), found.ino()) };
    if found.mode() & 0o777 != mode & 0o777 {
        // The umask took bits away that were asked for.
        fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o777))?;
    }
    rustix::net::listen(&listening, BACKLOG.cast_signed())?;
    let listening = std::os::unix::net::UnixListener::from(listening);
    let file = Arc::new(file);
    let share = |_| {
        let kind = Bound::Unix(listening.try_clone()?, Arc::clone(&file));
        Ok(Socket { kind, address: Address::Unix(path.to_owned()) })
    };
    (0..count.max(1)).map(share).collect()
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        match fs::symlink_metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == self.identity => {}
            _ => return,
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a socket file could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise 10.
    #[test]
    fn a_socket_file_is_never_open_to_others_not_even_before_anybody_listens() {
        let home = tempfile::tempdir().expect("a directory");
        for mode in [0o600, 0o400] {
            let path = home.path().join(format!("{mode:o}.sock"));
            let socket = unix_socket(mode).expect("a socket");
            let address = SocketAddrUnix::new(&path).expect("a short path");
            rustix::net::bind(&socket, &address).expect("a free name");
            let found = fs::symlink_metadata(&path).expect("the file is there");
            assert_eq!(found.mode() & 0o777, mode);
        }
    }
}
