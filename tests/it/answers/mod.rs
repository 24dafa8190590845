//! What comes back from services that are slow, wrong, hostile, or in a hurry, byte by byte.

mod attempts;
mod crossing;
mod limits;
mod links;
mod secrets;
mod stalled;
mod streams;
mod wrong;

use std::time::Duration;

use keyway::demo::{self, Cloud};
use keyway::keystone;

use crate::support::direct::{Keyway, fixed_cloud, point};
use crate::support::frames;
use crate::support::raw::{Pattern, Peer, Upstream, within};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &str = "GET /svc/a HTTP/1.1\r\nHost: localhost\r\n\r\n";
const MIB: usize = 1 << 20;

async fn start() -> (Upstream, Keyway) {
    let service = Upstream::start().await;
    let keyway = Keyway::before(&service);
    (service, keyway)
}

/// The same with a service that may do nothing for a second at most.
async fn start_impatient() -> (Upstream, Keyway) {
    let service = Upstream::start().await;
    let keyway = Keyway::start_with(fixed_cloud(&service.url()), |config| {
        config.timeouts.response = Duration::from_secs(1);
    });
    (service, keyway)
}

fn h2_cloud(service: &frames::Service) -> keystone::Config {
    keystone::Config { tls: service.trusted(), ..fixed_cloud(&service.url()) }
}

/// keyway in front of an HTTP/2 service.
async fn start_h2() -> (frames::Service, Keyway) {
    let service = frames::Service::start().await;
    let keyway = Keyway::start(h2_cloud(&service));
    (service, keyway)
}

/// A cloud with a Keystone, whose object store is the test's.
async fn with_keystone(url: &str) -> Cloud {
    let cloud = Cloud::start(demo::Config::default()).await.expect("loopback has free ports");
    point(&cloud, "object-store", url);
    cloud
}

/// A client after a first request on a connection that keyway keeps, and that connection.
async fn warm(service: &Upstream, keyway: &Keyway) -> (Peer, Peer) {
    let mut client = keyway.connect().await;
    client.send(GET).await;
    let (server, _) = service.answer(OK).await;
    client.response().await;
    (client, server)
}

fn put(length: usize) -> String {
    format!("PUT /svc/box/o HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n")
}

fn post(length: usize) -> String {
    format!("POST /svc/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n")
}

fn body(length: usize) -> Vec<u8> {
    Pattern::new().start(length)
}

/// The end of a connection, and whether what came before it is an answer with a proper end.
async fn looks_whole(client: &mut Peer) -> bool {
    let rest = within("the end of the connection", client.rest()).await;
    rest.ends_with(b"0\r\n\r\n")
}
