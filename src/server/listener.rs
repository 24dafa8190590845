//! Listening sockets: one per worker on the same address, so that the kernel spreads the clients.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpSocket;

const BACKLOG: u32 = 4096;

/// Binds `count` listeners to one address (SO_REUSEPORT). Port 0 takes a free port, the same for all.
/// They are std sockets, so that each worker can take its own into its runtime.
///
/// # Errors
/// The address is in use, by a process of whatever user, or not this machine's.
pub fn bind(address: SocketAddr, count: usize) -> io::Result<Vec<std::net::TcpListener>> {
    // SO_REUSEPORT would let a second keyway of the same user share the port in silence, and each
    // of them would get half of the clients. A socket without it finds out; it never listens.
    let probe = socket(address, false)?;
    let address = probe.local_addr()?;
    drop(probe);
    let listen = |_| socket(address, true)?.listen(BACKLOG)?.into_std();
    (0..count.max(1)).map(listen).collect()
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(shared)?;
    socket.bind(address)?;
    Ok(socket)
}
