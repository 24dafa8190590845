//! How many connections are there, and how many does one client have? Counted over all workers, and
//! touched only when a connection comes or goes.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::connection::lock;

/// A clone shares it.
#[derive(Clone, Debug, Default)]
pub struct Clients(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    open: AtomicUsize,
    by_client: Mutex<HashMap<IpAddr, usize>>,
}

/// An open connection; gone when dropped.
#[derive(Debug)]
pub(super) struct Opened(Clients);

/// A connection's place in the count; gone when dropped.
#[derive(Debug)]
pub(super) struct Place {
    clients: Clients,
    client: IpAddr,
}

impl Clients {
    /// How many connections are open.
    pub(super) fn open(&self) -> usize {
        self.0.open.load(Ordering::Relaxed)
    }

    /// One more is.
    pub(super) fn opened(&self) -> Opened {
        self.0.open.fetch_add(1, Ordering::Relaxed);
        Opened(self.clone())
    }

    /// One more connection, unless the client has `limit` of them already.
    pub(super) fn enter(&self, address: IpAddr, limit: usize) -> Option<Place> {
        let client = client(address);
        let mut counts = lock(&self.0.by_client);
        let count = counts.entry(client).or_insert(0);
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Place { clients: self.clone(), client })
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = lock(&self.clients.0.by_client);
        let Entry::Occupied(mut count) = counts.entry(self.client) else { return };
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }
}

/// Whoever has one IPv6 address has the whole network of 64 bits.
fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise 58.
    #[test]
    fn a_client_has_so_many_connections_and_not_one_more() {
        let clients = Clients::default();
        let enter = |address: &str| clients.enter(address.parse().expect("an address"), 2);
        let first = enter("192.0.2.1").expect("there is room");
        let _second = enter("::ffff:192.0.2.1").expect("there is room");
        assert!(enter("192.0.2.1").is_none());
        assert!(enter("192.0.2.2").is_some());
        drop(first);
        assert!(enter("192.0.2.1").is_some());

        let _networks = [enter("2001:db8::1"), enter("2001:db8::ffff:1")];
        assert!(enter("2001:db8::2").is_none());
        assert!(enter("2001:db8:0:1::2").is_some());
    }

    #[test]
    fn who_has_no_connection_takes_no_memory() {
        let clients = Clients::default();
        drop(clients.enter("192.0.2.1".parse().expect("an address"), 1));
        assert!(lock(&clients.0.by_client).is_empty());
    }
}
