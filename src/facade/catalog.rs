//! What does a client's catalog say, so that all that it does comes to keyway?
//!
//! Each endpoint keeps its path, region, interface and ids, and moves to keyway's `/origin/{id}/`; Keystone's
//! own become the facade. Whether keyway may send a token there is not asked here: a request says so. What
//! the operator wants clients to see instead ([`View`]) is done on the way.

use serde_json::{Value, json};

use super::View;
use super::documents::Version;
use crate::keystone::service::wanted_id;
use crate::keystone::{self, Interface, service_type};
use crate::proxy::origins;
use crate::upstream::BaseUrl;

/// Where the clients' catalog leads to, and what is in it.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// Keystone's root: `http://localhost:8180/cloud/lab/identity`.
    pub keystone: &'a str,
    /// Where the other services are.
    pub services: &'a Services,
    /// The API that the client speaks, whose URL the identity endpoints have.
    pub version: Version,
    /// What the operator decided.
    pub view: Option<&'a View>,
    /// The only region that the client's own URL of Keystone names.
    pub region: Option<&'a str>,
    /// The regions that this client may know of; empty for all.
    pub regions: &'a [String],
}

/// How a client finds the services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Services {
    /// Behind this and `/origin/{id}`: `http://localhost:8180`, `http://localhost:8180/cloud/lab`.
    Origins(String),
    /// Each at a listener of its own, and nowhere else: the root of its endpoint, and where that is.
    Alone(Vec<(BaseUrl, String)>),
}

impl Services {
    /// The URL of an endpoint as a client asks keyway for it; what follows the origin stays as it is. `None` for
    /// what is no URL that keyway could send a token to, or what it does not serve.
    pub fn local(&self, url: &str) -> Option<String> {
        let (origin, path) = split(url)?;
        let origin = origin.origin();
        match self {
            Self::Origins(root) => Some(format!("{root}/origin/{}{path}", origins::id(origin))),
            Self::Alone(services) => services.iter().find_map(|(root, local)| {
                let rest = path.strip_prefix(root.path()).filter(|_| root.origin() == origin)?;
                (rest.is_empty() || rest.starts_with('/')).then(|| format!("{local}{rest}"))
            }),
        }
    }
}

/// The catalog of a token of this cloud ([`keystone::Config::of_token`]), in v3's shape, as a client gets it.
pub fn localize(catalog: &Value, cloud: &keystone::Config, shown: Shown<'_>) -> Value {
    let mut services: Vec<Value> = catalog.as_array().cloned().unwrap_or_default();
    override_endpoints(&mut services, cloud);
    if let Some(view) = shown.view {
        let hidden =
            |service: &Value| view.hidden.iter().any(|hidden| service_type::same(hidden, kind(service)));
        services.retain(|service| !hidden(service));
        for legacy in &view.legacy_types {
            add_legacy(&mut services, legacy);
        }
    }
    let region = shown.region.or(shown.view.and_then(|view| view.region.as_deref()));
    let interface = shown.view.and_then(|view| view.interface);
    services.retain_mut(|service| {
        let identity = service_type::same(kind(service), "identity");
        let Some(endpoints) = endpoints_of(service).filter(|all| !all.is_empty()) else {
            return true;
        };
        if !shown.regions.is_empty() {
            let may_know = |region: &str| shown.regions.iter().any(|known| known == region);
            endpoints.retain(|endpoint| region_of(endpoint).is_some_and(may_know));
        }
        if let Some(region) = region {
            endpoints.retain(|endpoint| region_of(endpoint) == Some(region));
        }
        if let Some(interface) = interface {
            *endpoints = endpoints.iter().flat_map(|endpoint| alone(endpoint, interface)).collect();
        }
        endpoints.retain_mut(|endpoint| {
            let Some(url) = endpoint["url"].as_str() else { return true };
            let local = if identity { keystone_url(url, shown) } else { shown.services.local(url) };
            let served = local.is_some() || matches!(shown.services, Services::Origins(_));
            if let Some(local) = local {
                endpoint["url"] = local.into();
            }
            served
        });
        !endpoints.is_empty()
    });
    services.into()
}

/// The catalog of v2.0: one entry for each region, with all its interfaces.
pub fn in_v2(catalog: &Value) -> Value {
    let mut services = Vec::new();
    for service in items(catalog) {
        let mut regions: Vec<Value> = Vec::new();
        for endpoint in items(&service["endpoints"]) {
            let Some(interface) = endpoint["interface"].as_str() else { continue };
            let key = format!("{interface}URL");
            let region = region_of(endpoint);
            // Two endpoints of one kind in one region are two entries.
            let entry = regions
                .iter_mut()
                .find(|entry| entry["region"].as_str() == region && entry.get(&key).is_none());
            match entry {
                Some(entry) => entry[key] = endpoint["url"].clone(),
                None => regions.push(json!({"id": endpoint["id"], "region": region, key: endpoint["url"]})),
            }
        }
        services.push(json!({
            "type": service["type"],
            "name": service.get("name").cloned().unwrap_or_else(|| "".into()),
            "endpoints": regions,
            "endpoints_links": [],
        }));
    }
    services.into()
}

/// The same, each entry by itself with its service.
pub fn endpoints_v2(catalog: &Value) -> Vec<Value> {
    let mut endpoints = Vec::new();
    for service in items(&in_v2(catalog)) {
        for endpoint in items(&service["endpoints"]) {
            let mut endpoint = endpoint.clone();
            endpoint["type"] = service["type"].clone();
            endpoint["name"] = service["name"].clone();
            endpoints.push(endpoint);
        }
    }
    endpoints
}

/// Puts the operator's endpoint overrides in: they stand for the cloud's own region, with each interface
/// that is there, as [`keystone::catalog::choose`] has it. A service that the catalog lacks is added.
fn override_endpoints(services: &mut Vec<Value>, cloud: &keystone::Config) {
    for (overridden, url) in &cloud.endpoint_overrides {
        if wanted_id(url).is_some() {
            continue;
        }
        let url = url.to_string();
        let mut known = false;
        for service in services.iter_mut() {
            if !overrides(cloud, overridden, kind(service)) {
                continue;
            }
            let own = cloud
                .region_of(overridden)
                .map(str::to_owned)
                .or_else(|| items(&service["endpoints"]).first().and_then(region_of).map(str::to_owned));
            for endpoint in endpoints_of(service).into_iter().flatten() {
                if endpoint.is_object() && region_of(endpoint) == own.as_deref() {
                    endpoint["url"] = url.as_str().into();
                    known = true;
                }
            }
        }
        if !known {
            let id = format!("keyway-{overridden}");
            let region = cloud.region_of(overridden);
            let endpoint = json!({"id": format!("{id}-public"), "interface": "public",
                                  "region": region, "region_id": region, "url": url});
            services.push(json!({"id": id, "type": overridden, "name": overridden, "endpoints": [endpoint]}));
        }
    }
}

/// Whether an override is the one that counts for a service of that type.
fn overrides(cloud: &keystone::Config, overridden: &str, kind: &str) -> bool {
    let first = service_type::candidates(kind)
        .find_map(|name| cloud.endpoint_overrides.keys().find(|key| service_type::same(key, name)));
    first.is_some_and(|first| first == overridden)
}

/// Lists a service once more under another of its names, unless it has that already.
fn add_legacy(services: &mut Vec<Value>, legacy: &str) {
    if services.iter().any(|service| service_type::same(kind(service), legacy)) {
        return;
    }
    let like = service_type::candidates(legacy)
        .find_map(|name| services.iter().find(|service| service_type::same(kind(service), name)));
    let Some(mut copy) = like.cloned() else { return };
    copy["type"] = legacy.into();
    mark(&mut copy, legacy);
    for endpoint in endpoints_of(&mut copy).into_iter().flatten() {
        mark(endpoint, legacy);
    }
    services.push(copy);
}

/// An endpoint that stands for all three interfaces, if it is the one that is shown.
fn alone(endpoint: &Value, shown: Interface) -> Vec<Value> {
    if endpoint["interface"].as_str().and_then(|name| name.parse().ok()) != Some(shown) {
        return Vec::new();
    }
    let of = |interface: Interface| {
        let mut copy = endpoint.clone();
        if interface != shown {
            copy["interface"] = interface.as_str().into();
            mark(&mut copy, interface.as_str());
        }
        copy
    };
    [Interface::Public, Interface::Internal, Interface::Admin].map(of).into()
}

/// Makes the id of a copy its own, and the same whenever it is made.
fn mark(copy: &mut Value, what: &str) {
    if let Some(id) = copy["id"].as_str() {
        copy["id"] = format!("{id}-{what}").into();
    }
}

/// Keystone's own URL: with a version if it had one, but the one that the client speaks.
fn keystone_url(url: &str, shown: Shown<'_>) -> Option<String> {
    let (_, path) = split(url)?;
    let bare = path.trim_end_matches('/');
    let versioned = ["/v3", "/v2.0"].iter().any(|version| bare.ends_with(version));
    let slash = if path.ends_with('/') { "/" } else { "" };
    let version = if versioned { shown.version.path() } else { "" };
    Some(format!("{}{version}{slash}", shown.keystone))
}

/// The origin of a URL, and all that follows it.
fn split(url: &str) -> Option<(BaseUrl, &str)> {
    let authority = url.find("://")? + 3;
    let end = url[authority..].find(['/', '?', '#']).map_or(url.len(), |end| authority + end);
    Some((BaseUrl::parse(&url[..end]).ok()?, &url[end..]))
}

fn kind(service: &Value) -> &str {
    service["type"].as_str().unwrap_or_default()
}

/// What comes from a peer need not be a service at all.
fn endpoints_of(service: &mut Value) -> Option<&mut Vec<Value>> {
    service.get_mut("endpoints")?.as_array_mut()
}

fn region_of(endpoint: &Value) -> Option<&str> {
    endpoint["region_id"].as_str().or_else(|| endpoint["region"].as_str())
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::keystone::{Auth, Identity, IdentityVersion, Method, Scope, Secret};

    const ROOT: &str = "http://localhost:8180";

    fn cloud(region: Option<&str>, overrides: &[(&str, &str)]) -> keystone::Config {
        let url = |text| BaseUrl::parse(text).unwrap();
        let auth = Auth::Identity(Identity {
            auth_url: url("https://keystone.example:5000/v3"),
            version: IdentityVersion::Discover,
            method: Method::Token(Secret::new("t").into()),
            scope: Scope::Default,
        });
        keystone::Config {
            region: region.map(str::to_owned),
            endpoint_overrides: overrides
                .iter()
                .map(|(name, text)| ((*name).to_owned(), url(text)))
                .collect(),
            ..keystone::Config::new("lab", auth)
        }
    }

    fn endpoint(id: &str, interface: &str, region: &str, url: &str) -> Value {
        json!({"id": id, "interface": interface, "region": region, "region_id": region, "url": url, "x": 1})
    }

    fn catalog() -> Value {
        json!([
            {"id": "1", "type": "identity", "name": "keystone", "endpoints": [
                endpoint("1a", "public", "One", "https://keystone.example:5000/v3"),
                endpoint("1b", "internal", "One", "http://10.0.0.1:5000"),
                endpoint("1c", "admin", "One", "http://10.0.0.1:35357/identity/v2.0/")]},
            {"id": "2", "type": "compute", "name": "nova", "extra": {"kept": true}, "endpoints": [
                endpoint("2a", "public", "One", "https://Nova.example/v2.1/164b"),
                endpoint("2b", "internal", "One", "http://10.0.0.1:8774/v2.1/164b"),
                endpoint("2c", "public", "Two", "http://[2001:DB8::1]:8774/v2.1")]},
            {"id": "3", "type": "block-storage", "name": "cinder", "endpoints": [
                endpoint("3a", "public", "One", "https://cinder.example:443/v3/")]},
            {"id": "4", "type": "object-store", "name": "swift", "endpoints": [
                endpoint("4a", "public", "One", "http://swift.example:8080/v1/AUTH_%(tenant_id)s"),
                endpoint("4b", "admin", "One", "swift.example/v1")]},
            {"id": "5", "type": "dns", "endpoints": []},
        ])
    }

    fn shown<'a>(view: Option<&'a View>, region: Option<&'a str>) -> Shown<'a> {
        static SERVICES: LazyLock<Services> = LazyLock::new(|| Services::Origins(ROOT.to_owned()));
        let keystone = "http://localhost:8180/identity";
        Shown { keystone, services: &SERVICES, version: Version::V3, view, region, regions: &[] }
    }

    fn seen(view: View) -> Value {
        localize(&catalog(), &cloud(None, &[]), shown(Some(&view), None))
    }

    /// Type, id, interface, region and URL of each endpoint, on a line.
    fn lines(catalog: &Value) -> Vec<String> {
        let mut lines = Vec::new();
        for service in items(catalog) {
            for endpoint in items(&service["endpoints"]) {
                let text = |name: &str| endpoint[name].as_str().unwrap_or("-");
                let (id, interface) = (text("id"), text("interface"));
                let url = text("url").replace(ROOT, "");
                lines.push(format!("{} {id} {interface} {} {url}", kind(service), text("region_id")));
            }
        }
        lines
    }

    #[test]
    fn every_endpoint_moves_to_keyway_and_keeps_all_else() {
        let local = localize(&catalog(), &cloud(None, &[]), shown(None, None));
        assert_eq!(
            lines(&local),
            [
                "identity 1a public One /identity/v3",
                "identity 1b internal One /identity",
                "identity 1c admin One /identity/v3/",
                "compute 2a public One /origin/https-nova.example-443/v2.1/164b",
                "compute 2b internal One /origin/http-10.0.0.1-8774/v2.1/164b",
                "compute 2c public Two /origin/http-2001.db8..1-8774/v2.1",
                "block-storage 3a public One /origin/https-cinder.example-443/v3/",
                "object-store 4a public One /origin/http-swift.example-8080/v1/AUTH_%(tenant_id)s",
                "object-store 4b admin One swift.example/v1",
            ]
        );
        assert_eq!(local[1]["extra"], json!({"kept": true}));
        assert_eq!((&local[1]["endpoints"][0]["x"], &local[1]["name"]), (&json!(1), &json!("nova")));
        assert_eq!(local[4], catalog()[4], "a service without endpoints stays");
        let keystone = "https://h/cloud/lab/identity";
        let elsewhere = Shown { keystone, version: Version::V2, ..shown(None, None) };
        let local = localize(&catalog(), &cloud(None, &[]), elsewhere);
        assert_eq!(local[0]["endpoints"][0]["url"], "https://h/cloud/lab/identity/v2.0");
    }

    #[test]
    fn where_services_have_listeners_only_the_others_are_left_out() {
        let at = |url: &str, local: &str| (BaseUrl::parse(url).unwrap(), local.to_owned());
        let services = Services::Alone(vec![
            at("https://nova.example", "http://127.0.0.1:8774"),
            at("https://cinder.example/v", "http://127.0.0.1:8776"),
        ]);
        let keystone = "http://127.0.0.1:5000";
        let local = localize(
            &catalog(),
            &cloud(None, &[]),
            Shown { keystone, services: &services, ..shown(None, None) },
        );
        assert_eq!(
            lines(&local),
            [
                "identity 1a public One http://127.0.0.1:5000/v3",
                "identity 1b internal One http://127.0.0.1:5000",
                "identity 1c admin One http://127.0.0.1:5000/v3/",
                "compute 2a public One http://127.0.0.1:8774/v2.1/164b",
            ]
        );
    }

    #[test]
    fn legacy_types_are_copies_with_ids_of_their_own() {
        let legacy_types = ["volumev3", "volume", "compute", "sharev2"].map(str::to_owned).into();
        let local = seen(View { legacy_types, ..View::default() });
        let of = |kind: &str| -> Vec<String> {
            lines(&local).into_iter().filter(|line| line.starts_with(&format!("{kind} "))).collect()
        };
        assert_eq!(of("volumev3"), ["volumev3 3a-volumev3 public One /origin/https-cinder.example-443/v3/"]);
        assert_eq!(of("volume"), ["volume 3a-volume public One /origin/https-cinder.example-443/v3/"]);
        assert_eq!(of("compute").len(), 3, "it is there already");
        assert_eq!(of("sharev2"), [""; 0], "there is no such service");
        let ids: Vec<_> = items(&local).iter().map(|service| service["id"].as_str().unwrap()).collect();
        assert_eq!(ids, ["1", "2", "3", "4", "5", "3-volumev3", "3-volume"]);
    }

    #[test]
    fn a_view_hides_services_and_shows_one_interface_and_region() {
        let hidden = vec!["object_store".to_owned(), "identity".to_owned()];
        let local = seen(View { hidden, region: Some("Two".to_owned()), ..View::default() });
        assert_eq!(lines(&local), ["compute 2c public Two /origin/http-2001.db8..1-8774/v2.1"]);

        let local = seen(View { interface: Some(Interface::Internal), ..View::default() });
        let url = "/origin/http-10.0.0.1-8774/v2.1/164b";
        assert_eq!(
            lines(&local),
            [
                "identity 1b-public public One /identity".to_owned(),
                "identity 1b internal One /identity".to_owned(),
                "identity 1b-admin admin One /identity".to_owned(),
                format!("compute 2b-public public One {url}"),
                format!("compute 2b internal One {url}"),
                format!("compute 2b-admin admin One {url}"),
            ]
        );
        let in_path = localize(&catalog(), &cloud(None, &[]), shown(None, Some("Two")));
        assert_eq!(lines(&in_path).len(), 1);
    }

    #[test]
    fn an_override_stands_for_the_clouds_own_region() {
        let overrides = [
            ("compute", "https://n.example/nova"),
            ("volume", "https://c.example/v3"),
            ("rating", "https://r.example"),
        ];
        let own = localize(&catalog(), &cloud(Some("Two"), &overrides), shown(None, None));
        let lines_of = |catalog: &Value, kind: &str| -> Vec<String> {
            lines(catalog).into_iter().filter(|line| line.starts_with(kind)).collect()
        };
        assert_eq!(
            lines_of(&own, "compute"),
            [
                "compute 2a public One /origin/https-nova.example-443/v2.1/164b",
                "compute 2b internal One /origin/http-10.0.0.1-8774/v2.1/164b",
                "compute 2c public Two /origin/https-n.example-443/nova",
            ]
        );
        assert_eq!(
            lines_of(&own, "rating"),
            ["rating keyway-rating-public public Two /origin/https-r.example-443"]
        );
        let first = localize(&catalog(), &cloud(None, &overrides), shown(None, None));
        assert_eq!(
            lines_of(&first, "block-storage"),
            ["block-storage 3a public One /origin/https-c.example-443/v3"]
        );
        assert_eq!(
            lines_of(&first, "compute")[2],
            "compute 2c public Two /origin/http-2001.db8..1-8774/v2.1"
        );
    }

    #[test]
    fn v2_has_one_entry_for_each_region() {
        let v2 = in_v2(&json!([
            {"type": "compute", "name": "nova", "endpoints": [
                endpoint("a", "public", "One", "u1"), endpoint("b", "internal", "One", "u2"),
                endpoint("c", "admin", "One", "u3"), endpoint("d", "public", "Two", "u4"),
                endpoint("e", "public", "One", "u5")]},
            {"type": "dns", "endpoints": []},
        ]));
        assert_eq!(
            v2,
            json!([
                {"type": "compute", "name": "nova", "endpoints_links": [], "endpoints": [
                    {"id": "a", "region": "One", "publicURL": "u1", "internalURL": "u2", "adminURL": "u3"},
                    {"id": "d", "region": "Two", "publicURL": "u4"},
                    {"id": "e", "region": "One", "publicURL": "u5"}]},
                {"type": "dns", "name": "", "endpoints_links": [], "endpoints": []},
            ])
        );
        assert_eq!(in_v2(&json!({})), json!([]));
    }

    #[test]
    fn what_is_no_catalog_is_an_empty_one() {
        for odd in [json!(null), json!({}), json!("x"), json!([])] {
            assert_eq!(localize(&odd, &cloud(None, &[]), shown(None, None)), json!([]));
        }
        let odd = json!([1, null, {"type": 5, "endpoints": [1, {"url": 5}, {"url": "http://h"}]}, {"endpoints": 5}]);
        let local = localize(&odd, &cloud(None, &[]), shown(None, None));
        assert_eq!(
            local[2]["endpoints"],
            json!([1, {"url": 5}, {"url": format!("{ROOT}/origin/http-h-80")}])
        );
    }
}
