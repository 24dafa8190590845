//! Which places does a cloud consist of?
//!
//! A place is an origin (scheme, host and port) that the catalog or the configuration names, and
//! nothing else is ever asked: neither for a link nor for an `/origin/{id}/` of a client's. What lies
//! there belongs to the endpoints at that origin, each with all that is below its root, since
//! services refer to more than their endpoint's own path: version documents, nova's bookmarks, other
//! projects' accounts.

use std::net::Ipv6Addr;
use std::sync::Arc;

use super::rewrite::Base;
use crate::keystone::service::wanted_id;
use crate::keystone::{self, Auth, Token};
use crate::route::encode;
use crate::upstream::{BaseUrl, Origin};

/// The origins of one token's catalog, and of its cloud's configuration.
#[derive(Debug, Default)]
pub struct Origins {
    places: Vec<Arc<Place>>,
}

/// One origin, and what is there.
#[derive(Debug)]
pub struct Place {
    id: String,
    origin: Origin,
    entries: Vec<Entry>,
    /// Paths and the entries that they belong to; of those that match, the first one counts.
    prefixes: Vec<(String, usize)>,
}

/// One endpoint at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The type in the catalog or of the override; `*` where one endpoint serves every service.
    pub service_type: String,
    /// The region, where it has one.
    pub region: Option<String>,
    /// The endpoint.
    pub url: BaseUrl,
    /// Its path, taken apart.
    pub base: Base,
}

/// An origin's name in a path, such as `http-10.0.0.1-8774`: every origin has one of its own, and it is
/// the same wherever and whenever it is asked for. An IPv6 address has `.` for each `:`.
pub fn id(origin: &Origin) -> String {
    let (scheme, port) = (origin.scheme().as_str(), origin.port());
    let host = match origin.host().parse::<Ipv6Addr>() {
        Ok(address) => {
            let short = address.to_string();
            // `::ffff:1.2.3.4` would look like `::ffff:1:2:3:4`.
            let whole = || address.segments().map(|segment| format!("{segment:x}")).join(":");
            if short.contains('.') { whole() } else { short }.replace(':', ".")
        }
        Err(_) => {
            let name = encode(origin.host());
            // No name has a capital here, so this one is no address's.
            let like_address = name.replace('.', ":").parse::<Ipv6Addr>().is_ok();
            if like_address { format!("N.{name}") } else { name }
        }
    };
    format!("{scheme}-{host}-{port}")
}

impl Origins {
    /// Every endpoint of the catalog, whatever its interface and region, the cloud's endpoint overrides,
    /// and `auth_url`. A catalog's URL that is none counts for nothing.
    pub fn new(cloud: &keystone::Config, token: &Token) -> Self {
        let listed = token.catalog.endpoints().filter_map(|endpoint| {
            let url = endpoint.url.as_ref().ok()?;
            Some((endpoint.service_type.as_str(), endpoint.region.as_deref(), url))
        });
        let cloud = cloud.of_token(token);
        let overrides = cloud.endpoint_overrides.iter().filter(|(_, url)| wanted_id(url).is_none());
        let overrides = overrides.map(|(name, url)| (name.as_str(), cloud.region_of(name), url));
        let identity = match &cloud.auth {
            Auth::Identity(identity) => Some(("identity", None, &identity.auth_url)),
            _ => None,
        };
        let project = token.project.as_ref().map(|project| project.id.as_str());
        Self::of(listed.chain(overrides).chain(identity), project)
    }

    /// Those of endpoints, each with its service's type and its region; `project` is the token's.
    pub fn of<'a>(
        endpoints: impl IntoIterator<Item = (&'a str, Option<&'a str>, &'a BaseUrl)>,
        project: Option<&str>,
    ) -> Self {
        let mut places: Vec<Place> = Vec::new();
        for (service_type, region, url) in endpoints {
            let id = id(url.origin());
            let index = places.iter().position(|place| place.id == id).unwrap_or_else(|| {
                let origin = url.origin().clone();
                places.push(Place { id, origin, entries: Vec::new(), prefixes: Vec::new() });
                places.len() - 1
            });
            let entry = Entry {
                service_type: service_type.to_owned(),
                region: region.map(str::to_owned),
                url: url.clone(),
                base: Base::new(url.path(), project),
            };
            if !places[index].entries.contains(&entry) {
                places[index].entries.push(entry);
            }
        }
        places.iter_mut().for_each(Place::index);
        Self { places: places.into_iter().map(Arc::new).collect() }
    }

    /// All of them.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.places.iter().map(Arc::as_ref)
    }

    /// The place of that [`id`].
    pub fn place(&self, id: &str) -> Option<&Arc<Place>> {
        self.places.iter().find(|place| place.id == id)
    }

    /// The place at an origin, whatever lies there.
    pub fn at(&self, origin: &Origin) -> Option<&Arc<Place>> {
        self.places.iter().find(|place| place.entries.iter().any(|entry| entry.url.origin() == origin))
    }

    /// Whether the host and port of a reference may be those of a place, whatever its scheme. There may be
    /// fewer than it says, and no more.
    pub fn may_have(&self, authority: &[u8]) -> bool {
        self.places.iter().any(|place| {
            let (host, default) = (place.origin.host().as_bytes(), place.origin.has_default_port());
            if authority.len() <= host.len() && !default {
                return false;
            }
            let authority = authority.strip_prefix(b"[").unwrap_or(authority);
            let Some((its_host, port)) = authority.split_at_checked(host.len()) else { return false };
            its_host.eq_ignore_ascii_case(host)
                && match port.strip_prefix(b"]").unwrap_or(port) {
                    b"" | b":" => default,
                    port => {
                        let port = port.strip_prefix(b":").and_then(|port| std::str::from_utf8(port).ok());
                        let port = port.and_then(|port| port.parse::<u16>().ok());
                        port.is_some_and(|port| default || port == place.origin.port())
                    }
                }
        })
    }
}

impl Place {
    /// Its name in a path, see [`id`].
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it is.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The endpoints there, in the catalog's order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The endpoint that a path belongs to, as an index into [`Place::entries`]: the one whose own path,
    /// version or root is the longest part of it, up to the border of a segment. `path` is empty or
    /// starts with `/`, and has no query.
    pub fn entry(&self, path: &str) -> Option<usize> {
        let holds = |prefix: &str| {
            path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.prefixes.iter().find(|(prefix, _)| holds(prefix)).map(|(_, entry)| *entry)
    }

    /// Sorts what the paths begin with: the longest first, and of the same length the endpoint's own
    /// path before a version and a version before a root that several may share.
    fn index(&mut self) {
        let mut prefixes = Vec::new();
        for (index, entry) in self.entries.iter().enumerate() {
            let (path, root) = (entry.url.path().to_owned(), entry.base.root().to_owned());
            let versioned = format!("{root}{}", entry.base.version());
            for (rank, prefix) in [path, versioned, root].into_iter().enumerate() {
                prefixes.push((prefix, rank, index));
            }
        }
        prefixes.sort_by(|(a, a_rank, _), (b, b_rank, _)| b.len().cmp(&a.len()).then(a_rank.cmp(b_rank)));
        for (prefix, _, index) in prefixes {
            if !self.prefixes.iter().any(|(known, _)| *known == prefix) {
                self.prefixes.push((prefix, index));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::keystone::{Catalog, Identity, IdentityVersion, Method, Scope, Secret, TokenId};

    const PROJECT: &str = "0123456789abcdef0123456789abcdef";
    const OTHER: &str = "fedcba9876543210fedcba9876543210";

    fn url(text: &str) -> BaseUrl {
        BaseUrl::parse(text).expect(text)
    }

    fn cloud(overrides: &[(&str, &str)]) -> keystone::Config {
        let auth = Auth::Identity(Identity {
            auth_url: url("https://keys.example:5000/v3"),
            version: IdentityVersion::Discover,
            method: Method::Token(Secret::new("t").into()),
            scope: Scope::Default,
        });
        keystone::Config {
            endpoint_overrides: overrides
                .iter()
                .map(|(name, text)| ((*name).to_owned(), url(text)))
                .collect(),
            ..keystone::Config::new("lab", auth)
        }
    }

    fn token(services: &[(&str, &str)]) -> Token {
        let services: Vec<_> = services
            .iter()
            .map(|(name, url)| {
                let endpoint =
                    json!({"interface": "internal", "region": "R", "url": url.replace("{p}", PROJECT)});
                json!({"type": name, "name": name, "endpoints": [endpoint]})
            })
            .collect();
        let catalog = Catalog::from_v3(&json!(services));
        let mut token = Token::fixed(TokenId::new("t").unwrap(), catalog, Instant::now());
        let named = keystone::Named {
            id: PROJECT.to_owned(),
            name: "demo".to_owned(),
            domain_id: None,
            domain_name: None,
        };
        token.project = Some(named);
        token
    }

    /// Which service a path at `http://h:80` belongs to.
    #[track_caller]
    fn check(services: &[(&str, &str)], paths: &[(&str, Option<&str>)]) {
        let origins = Origins::new(&cloud(&[]), &token(services));
        let place = origins.place("http-h-80").expect("somebody is there");
        assert_eq!((place.id(), place.origin()), ("http-h-80", url("http://h").origin()));
        for (path, service) in paths {
            let path = path.replace("{p}", PROJECT).replace("{o}", OTHER);
            let found = place.entry(&path).map(|index| place.entries()[index].service_type.as_str());
            assert_eq!(found, *service, "{path}");
        }
    }

    #[test]
    fn every_origin_has_a_readable_name_of_its_own() {
        for (text, expected) in [
            ("http://10.0.0.1:8774/v2.1", "http-10.0.0.1-8774"),
            ("https://Cloud.Example/compute", "https-cloud.example-443"),
            ("https://cloud.example:443", "https-cloud.example-443"),
            ("http://my-cloud.example", "http-my-cloud.example-80"),
            ("http://[::1]:5000/v3", "http-..1-5000"),
            ("http://[2001:DB8::a]:80", "http-2001.db8..a-80"),
            ("http://[2001:db8:0:0:0:0:0:a]", "http-2001.db8..a-80"),
            ("http://[::1.2.3.4]", "http-..102.304-80"),
            ("http://[::1:2:3:4]", "http-..1.2.3.4-80"),
            ("http://[::ffff:1.2.3.4]", "http-0.0.0.0.0.ffff.102.304-80"),
            ("http://[::ffff:1:2:3:4]", "http-..ffff.1.2.3.4-80"),
            ("http://2001.db8..a", "http-N.2001.db8..a-80"),
            ("http://a.b.c.d.e.f.0.1", "http-N.a.b.c.d.e.f.0.1-80"),
            ("http://n.a.b.c.d.e.f.0.1", "http-n.a.b.c.d.e.f.0.1-80"),
            ("http://h!x", "http-h%21x-80"),
        ] {
            assert_eq!(id(url(text).origin()), expected, "{text}");
        }
    }

    #[test]
    fn services_of_one_host_are_told_apart_by_their_paths() {
        let devstack = [
            ("compute", "http://h/compute/v2.1"),
            ("volumev2", "http://h/volume/v2/{p}"),
            ("block-storage", "http://h/volume/v3/{p}"),
            ("image", "http://h/image/"),
            ("placement", "http://h/compute/placement"),
        ];
        check(
            &devstack,
            &[
                ("/compute/v2.1/servers", Some("compute")),
                ("/compute/v2.1", Some("compute")),
                ("/compute/v2.1/", Some("compute")),
                ("/compute/servers/1", Some("compute")),
                ("/compute", Some("compute")),
                ("/compute/", Some("compute")),
                ("/compute//v2.1", Some("compute")),
                ("/compute/placement/usages", Some("placement")),
                ("/compute/placementx", Some("compute")),
                ("/computex/v2.1", None),
                ("/comput", None),
                ("/%63ompute/v2.1", None),
                ("/Compute/v2.1", None),
                ("/volume/v3/{p}/volumes", Some("block-storage")),
                ("/volume/v3/{o}/volumes", Some("block-storage")),
                ("/volume/v2/{o}/volumes", Some("volumev2")),
                ("/volume/v1", Some("volumev2")),
                ("/volume/v33", Some("volumev2")),
                ("/image/v2/images", Some("image")),
                ("/image", Some("image")),
                ("/", None),
                ("", None),
                ("//compute", None),
                ("/dashboard", None),
            ],
        );
    }

    #[test]
    fn an_endpoint_at_the_top_has_what_no_other_has() {
        check(
            &[
                ("s3", "http://h"),
                ("compute", "http://h/compute/v2.1"),
                ("object-store", "http://h/v1/AUTH_{p}"),
            ],
            &[
                ("/", Some("s3")),
                ("", Some("s3")),
                ("/box/v1", Some("s3")),
                ("/compute/servers/1", Some("compute")),
                ("/computex", Some("s3")),
                ("/v1/AUTH_{o}/box", Some("object-store")),
                ("/v1", Some("object-store")),
                ("//v1", Some("s3")),
            ],
        );
        check(
            &[("network", "http://h/v2.0/"), ("compute", "http://h/v2.1/")],
            &[("/v2.1/x", Some("compute")), ("/v2.0", Some("network")), ("/v3", Some("network"))],
        );
    }

    #[test]
    fn overrides_and_keystones_own_address_are_places_too() {
        let services = [("compute", "http://h:8774/v2.1"), ("image", "$(host)s"), ("dns", "ftp://h/x")];
        let overridden = cloud(&[("image", "http://[::1]:9292/image")]);
        let origins = Origins::new(&overridden, &token(&services));
        let of = |id: &str, path: &str| {
            let place = origins.place(id)?;
            place.entry(path).map(|index| place.entries()[index].service_type.clone())
        };
        assert_eq!(of("http-..1-9292", "/image/v2/images").as_deref(), Some("image"));
        assert_eq!(of("http-..1-9292", "/v2/images"), None);
        assert_eq!(of("https-keys.example-5000", "/v3/auth").as_deref(), Some("identity"));
        assert_eq!(of("http-h-8774", "/").as_deref(), Some("compute"));
        for unknown in ["http-h-80", "https-h-8774", "http-H-8774", "http-h-08774", "ftp-h-21", "h", ""] {
            assert!(origins.place(unknown).is_none(), "{unknown}");
        }
        assert_eq!(origins.places.len(), 3);
    }

    #[test]
    fn an_endpoint_counts_once_for_all_its_interfaces() {
        let services =
            [("compute", "http://h/v2.1"), ("compute", "http://h:80/v2.1/"), ("compute", "http://h/v2")];
        let origins = Origins::new(&cloud(&[]), &token(&services));
        assert_eq!(origins.place("http-h-80").map(|place| place.entries().len()), Some(2));
    }

    proptest! {
        #[test]
        fn no_two_origins_share_a_name(
            hosts in prop::collection::vec("[a-c]{1,2}(\\.[a-c0-2]{1,2}){0,8}|\\[(:(:[0-2a]{1,2}){1,4}|[0-2a](:[0-2]){7})\\]|\\[::[0-2]\\.0\\.0\\.[0-2]\\]", 2),
            ports in prop::collection::vec(80u16..82, 2),
        ) {
            let origin = |index: usize| url(&format!("http://{}:{}", hosts[index], ports[index])).origin().clone();
            let (one, two) = (origin(0), origin(1));
            let address = |origin: &Origin| origin.host().parse::<Ipv6Addr>().ok();
            let same_host = match (address(&one), address(&two)) {
                (None, None) => one.host() == two.host(),
                (one, two) => one == two,
            };
            prop_assert_eq!(id(&one) == id(&two), same_host && one.port() == two.port());
        }
    }
}
