//! Where is the store?

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// Servers that may be asked.
const MOST_NODES: usize = 32;

/// `redis://host:port/database`, `rediss://` with TLS, `redis+sentinel://host:port,host:port/name/database`,
/// `redis+cluster://host:port,host:port`, `unix:/path?db=database`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Who is asked.
    pub place: Place,
    /// With TLS.
    pub tls: bool,
    /// The number of the database.
    pub database: u16,
}

/// Who is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// One server.
    Server(String, u16),
    /// One server of this machine, by its socket file.
    Socket(PathBuf),
    /// Whom these sentinels call the master of this name.
    Sentinel(Vec<(String, u16)>, String),
    /// A cluster that has these servers among others.
    Cluster(Vec<(String, u16)>),
}

impl Address {
    /// Whether what is said on the way there stays on this machine.
    pub fn is_local(&self) -> bool {
        let nodes = match &self.place {
            Place::Socket(_) => return true,
            Place::Server(host, port) => &vec![(host.clone(), *port)],
            Place::Sentinel(nodes, _) | Place::Cluster(nodes) => nodes,
        };
        nodes.iter().all(|(host, _)| {
            host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        })
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("unix:") {
            let (path, query) = rest.split_once('?').unwrap_or((rest, "db=0"));
            let path = path.strip_prefix("//").unwrap_or(path);
            if !path.starts_with('/') || path.len() < 2 {
                return Err("names no socket file: write unix:/path/to/redis.sock".to_owned());
            }
            let database = query
                .strip_prefix("db=")
                .ok_or_else(|| "has something else than ?db=NUMBER behind the path: remove it".to_owned())?;
            return Ok(Self {
                place: Place::Socket(PathBuf::from(path)),
                tls: false,
                database: number(database)?,
            });
        }
        let unknown = || {
            "is no address of a store: write redis://host:6379, rediss:// for TLS, redis+sentinel://host,host/NAME, \
             redis+cluster://host,host, or unix:/path/to/redis.sock"
                .to_owned()
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(unknown)?;
        let (scheme, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
        let tls = match scheme {
            "redis" | "valkey" => false,
            "rediss" | "valkeys" => true,
            _ => return Err(unknown()),
        };
        if rest.contains('@') {
            return Err("has a user or a password in it, which are shown with addresses: write tokens.store_user, and \
                        tokens.store_password_file, _command or _credential"
                .to_owned());
        }
        if rest.contains(['?', '#']) {
            return Err("has options behind it: remove them, tokens.store_* are keyway's".to_owned());
        }
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = path.trim_end_matches('/');
        let port = if kind == "sentinel" { SENTINEL_PORT } else { REDIS_PORT };
        let nodes = hosts.split(',').map(|node| self::node(node, port)).collect::<Result<Vec<_>, _>>()?;
        if nodes.len() > MOST_NODES {
            return Err(format!("has more than {MOST_NODES} hosts: name some of them"));
        }
        let (place, database) = match kind {
            "" => match <[_; 1]>::try_from(nodes) {
                Ok([(host, port)]) => (Place::Server(host, port), path),
                Err(_) => {
                    return Err(
                        "has several hosts: write redis+sentinel:// or redis+cluster:// for them".to_owned()
                    );
                }
            },
            "sentinel" => {
                let (name, database) = path.split_once('/').unwrap_or((path, ""));
                if name.is_empty() {
                    return Err("does not say which master: write redis+sentinel://host,host/NAME".to_owned());
                }
                (Place::Sentinel(nodes, name.to_owned()), database)
            }
            "cluster" if path.is_empty() => (Place::Cluster(nodes), ""),
            "cluster" => {
                return Err("names a database, of which a cluster has one only: remove it".to_owned());
            }
            _ => return Err(unknown()),
        };
        let database = if database.is_empty() { 0 } else { number(database)? };
        Ok(Self { place, tls, database })
    }
}

fn node(text: &str, default: u16) -> Result<(String, u16), String> {
    let wrong = || "has a host that is none: write host:port, or [address]:port for IPv6".to_owned();
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
            (
                host,
                rest.strip_prefix(':').or(if rest.is_empty() { Some("") } else { None }).ok_or_else(wrong)?,
            )
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if host.is_empty() || !(text.starts_with('[') || host.bytes().all(is_name)) {
        return Err(wrong());
    }
    let port = match port {
        "" => default,
        port => port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?,
    };
    Ok((host.to_owned(), port))
}

fn number(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| "has a database that is no number: write redis://host:6379/0".to_owned())
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "rediss" } else { "redis" };
        let list = |f: &mut fmt::Formatter<'_>, nodes: &[(String, u16)]| {
            for (index, (host, port)) in nodes.iter().enumerate() {
                let comma = if index == 0 { "" } else { "," };
                match host.contains(':') {
                    true => write!(f, "{comma}[{host}]:{port}")?,
                    false => write!(f, "{comma}{host}:{port}")?,
                }
            }
            Ok(())
        };
        match &self.place {
            Place::Socket(path) => return write!(f, "unix:{}?db={}", path.display(), self.database),
            Place::Server(host, port) => {
                write!(f, "{scheme}://")?;
                list(f, &[(host.clone(), *port)])?;
            }
            Place::Sentinel(nodes, name) => {
                write!(f, "{scheme}+sentinel://")?;
                list(f, nodes)?;
                write!(f, "/{name}")?;
            }
            Place::Cluster(nodes) => {
                write!(f, "{scheme}+cluster://")?;
                return list(f, nodes);
            }
        }
        write!(f, "/{}", self.database)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_who_is_asked_and_how() {
        for (text, shown) in [
            ("redis://cache", "redis://cache:6379/0"),
            ("valkey://cache", "redis://cache:6379/0"),
            ("rediss://cache:1/3", "rediss://cache:1/3"),
            ("redis://[::1]:7/", "redis://[::1]:7/0"),
            ("redis+sentinel://a,b:1/main", "redis+sentinel://a:26379,b:1/main/0"),
            ("rediss+sentinel://a/main/2", "rediss+sentinel://a:26379/main/2"),
            ("redis+cluster://a,10.0.0.1:1", "redis+cluster://a:6379,10.0.0.1:1"),
            ("unix:/run/redis.sock", "unix:/run/redis.sock?db=0"),
            ("unix:///run/redis.sock?db=2", "unix:/run/redis.sock?db=2"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(shown.parse::<Address>().unwrap(), address, "{shown}");
        }
        let local = |text: &str| text.parse::<Address>().unwrap().is_local();
        assert!(
            local("unix:/r")
                && local("redis://127.0.0.1")
                && local("redis://localhost")
                && local("redis://[::1]")
        );
        assert!(!local("redis://cache") && !local("redis+cluster://127.0.0.1,cache"));
    }

    // Promise 76.
    #[test]
    fn what_is_no_address_is_told_without_a_word_of_it() {
        for (text, expected) in [
            ("", "is no address"),
            ("hunter2", "is no address"),
            ("http://hunter2", "is no address"),
            ("redis+hunter2://a", "is no address"),
            ("redis://:hunter2@a", "a user or a password"),
            ("redis://a?password=hunter2", "options"),
            ("redis://a,b", "several hosts"),
            ("redis://", "a host that is none"),
            ("redis://a:hunter2", "a host that is none"),
            ("redis://a:0", "a host that is none"),
            ("redis://hun ter2", "a host that is none"),
            ("redis://[hunter2]", "a host that is none"),
            ("redis://[::1]hunter2", "a host that is none"),
            ("redis://a/hunter2", "a database"),
            ("redis+sentinel://a", "which master"),
            ("redis+cluster://a/1", "a database"),
            ("unix:hunter2", "no socket file"),
            ("unix:/r?password=hunter2", "?db="),
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.contains(expected) && !error.contains("hunter2"), "{text}: {error}");
        }
    }
}
