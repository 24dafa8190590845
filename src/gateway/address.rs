//! How did a client address a request, and where does it find everything else?
//!
//! What refers to keyway in an answer has to be good for the client that reads it: it may know this
//! machine by another name, and it may have come by a listener or a host name at which there is one
//! service only.

use std::net::IpAddr;

use http::header;
use http::request::Parts;

use super::Door;
use crate::entry;
use crate::route::{Form, Route};
use crate::upstream::Scheme;

/// How a request was addressed.
#[derive(Clone, Copy, Debug)]
pub struct Address<'a> {
    /// What the client wrote before the path at the service: `/compute`, `/cloud/lab/origin/http-h-80`.
    /// Empty where the listener or the host name stands for the service.
    pub prefix: &'a str,
    /// Where that path starts at the service.
    pub form: Form,
    /// The scheme of the listener that it came by.
    pub scheme: Scheme,
    /// The host and port that the client used, if they can be written again.
    pub authority: Option<&'a str>,
    door: &'a Door,
    main: &'a Door,
}

impl<'a> Address<'a> {
    /// The address of a request that came by `door`; `main` is where every service is served.
    pub fn new(main: &'a Door, door: &'a Door, route: &Route<'a>, parts: &'a Parts) -> Self {
        let authority = match parts.uri.authority() {
            Some(authority) => Some(authority.as_str()),
            None => parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()),
        };
        Self {
            prefix: if route.form == Form::Root { "" } else { route.prefix },
            form: route.form,
            scheme: door.scheme,
            authority: authority.filter(|authority| !authority.is_empty()),
            door,
            main,
        }
    }

    /// `http://127.0.0.1:8180/compute`: what the path at the service follows. Without a host that the
    /// client used, it starts with the path.
    pub fn base(&self) -> String {
        match self.authority {
            Some(authority) => format!("{}://{authority}{}", self.scheme.as_str(), self.prefix),
            None => self.prefix.to_owned(),
        }
    }

    /// `http://127.0.0.1:8180`: what a path with any prefix follows, as this client reaches it. `None` if it
    /// does not: it came by a listener of one service, and the ordinary one is a socket file.
    pub fn ordinary(&self) -> Option<String> {
        let authority = self.authority?;
        let (host, port) = entry::split(authority.as_bytes()).ok()?;
        let below = entry::below_localhost(host).is_some();
        if self.door.pinned.is_none() {
            let scheme = self.scheme.as_str();
            return Some(match (below, port) {
                (false, _) => format!("{scheme}://{authority}"),
                (true, Some(port)) => format!("{scheme}://localhost:{port}"),
                (true, None) => format!("{scheme}://localhost"),
            });
        }
        let main = self.main.address.tcp()?;
        let host = if below { "localhost" } else { host };
        let elsewhere = address_of(host).is_some_and(|own| !main.ip().is_unspecified() && own != main.ip());
        let there = format!("{host}:{}", main.port());
        if elsewhere || !self.main.entry.has(&there) {
            return Some(self.main.url());
        }
        Some(format!("{}://{there}", self.main.scheme.as_str()))
    }
}

/// The IP address that a host is, if it is one.
fn address_of(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::Request;

    use super::*;
    use crate::facade::Logins;

    fn door(address: &str, hosts: &[&str], pinned: Option<&str>, tls: bool) -> Door {
        let address: crate::server::Address = address.parse().expect(address);
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        let config = entry::Config { hosts, ..entry::Config::default() };
        Door {
            name: "main".into(),
            logins: Logins::default(),
            attempts: Arc::default(),
            url: address.url(tls),
            pinned: pinned.map(str::to_owned),
            scheme: if tls { Scheme::Https } else { Scheme::Http },
            entry: entry::Entry::new(&config, &address, tls),
            policy: None,
            address,
        }
    }

    /// What [`Address::base`] and [`Address::ordinary`] are for a client that wrote `host`.
    #[track_caller]
    fn check(main: &Door, door: &Door, host: &str, base: &str, ordinary: Option<&str>) {
        let (parts, ()) =
            Request::builder().uri("/image/v2").header("host", host).body(()).unwrap().into_parts();
        let route = match &door.pinned {
            Some(pinned) => Route::at_root(pinned, "/image/v2").unwrap(),
            None if entry::split(host.as_bytes())
                .is_ok_and(|(host, _)| entry::below_localhost(host).is_some()) =>
            {
                Route::at_root("/compute", "/image/v2").unwrap()
            }
            None => Route::parse("/image/v2").unwrap(),
        };
        let address = Address::new(main, door, &route, &parts);
        assert_eq!((address.base().as_str(), address.ordinary().as_deref()), (base, ordinary), "{host}");
    }

    #[test]
    fn an_ordinary_listener_is_where_the_client_found_it() {
        let main = door("127.0.0.1:8180", &["keyway.example"], None, false);
        for host in ["127.0.0.1:8180", "LocalHost:8180", "localhost", "keyway.example:8180"] {
            let url = format!("http://{host}");
            check(&main, &main, host, &format!("{url}/image"), Some(&url));
        }
        let second = door("10.0.0.7:443", &["keyway.example"], None, true);
        check(
            &main,
            &second,
            "keyway.example",
            "https://keyway.example/image",
            Some("https://keyway.example"),
        );
        let socket = door("unix:/run/k.sock", &[], None, false);
        check(&socket, &socket, "localhost", "http://localhost/image", Some("http://localhost"));
    }

    #[test]
    fn below_a_services_host_name_there_is_the_ordinary_one() {
        let main = door("127.0.0.1:8180", &[], None, false);
        let expected = Some("http://localhost:8180");
        check(&main, &main, "compute.localhost:8180", "http://compute.localhost:8180", expected);
        check(&main, &main, "Compute.lab.LocalHost.:8180", "http://Compute.lab.LocalHost.:8180", expected);
        check(&main, &main, "compute.localhost", "http://compute.localhost", Some("http://localhost"));
    }

    #[test]
    fn a_listener_of_one_service_leads_to_the_main_one() {
        let main = door("127.0.0.1:8180", &["keyway.example"], None, false);
        let nova = door("127.0.0.1:8774", &["keyway.example", "nova.example"], Some("/compute"), false);
        for (host, ordinary) in [
            ("127.0.0.1:8774", "http://127.0.0.1:8180"),
            ("localhost:8774", "http://localhost:8180"),
            ("localhost", "http://localhost:8180"),
            ("image.localhost:8774", "http://localhost:8180"),
            ("keyway.example:8774", "http://keyway.example:8180"),
            // No name of the main listener's, or an address at which it is not.
            ("nova.example:8774", "http://127.0.0.1:8180"),
            ("[::1]:8774", "http://127.0.0.1:8180"),
            ("127.0.0.2:8774", "http://127.0.0.1:8180"),
        ] {
            check(&main, &nova, host, &format!("http://{host}"), Some(ordinary));
        }
        let open = door("[::]:443", &[], None, true);
        check(&open, &nova, "[::1]:8774", "http://[::1]:8774", Some("https://[::1]:443"));
        let socket = door("unix:/run/k.sock", &[], None, false);
        check(&socket, &nova, "127.0.0.1:8774", "http://127.0.0.1:8774", None);
    }
}
