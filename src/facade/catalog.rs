//! What does a client's catalog say, so that all that it does comes to keyway?
//!
//! Each endpoint keeps its path, region, interface and ids, and moves to keyway's `/origin/{id}/`; Keystone's
//! own become the facade. Whether keyway may send a token there is not asked here: a request says so. What
//! the operator wants clients to see instead ([`View`]) is done on the way.

use serde_json::{Value, json};

use super::View;
use super::documents::Version;
use crate::keystone::{self, Interface, service_type};
use crate::proxy::origins;
use crate::upstream::BaseUrl;

/// Where the clients' catalog leads to, and what is in it.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// What comes before `/origin/{id}` and `/identity`: `http://localhost:8180` or
    /// `http://localhost:8180/cloud/lab`.
    pub root: &'a str,
    /// The API that the client speaks, whose URL the identity endpoints have.
    pub version: Version,
    /// What the operator decided.
    pub view: Option<&'a View>,
    /// The only region that the client's own URL of Keystone names.
    pub region: Option<&'a str>,
}

/// The catalog of a token of this cloud, in v3's shape, as a client gets it.
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
        let Some(endpoints) = service["endpoints"].as_array_mut().filter(|all| !all.is_empty()) else {
            return true;
        };
        if let Some(region) = region {
            endpoints.retain(|endpoint| region_of(endpoint) == Some(region));
        }
        if let Some(interface) = interface {
            *endpoints = endpoints.iter().flat_map(|endpoint| alone(endpoint, interface)).collect();
        }
        for endpoint in endpoints.iter_mut() {
            let Some(url) = endpoint["url"].as_str() else { continue };
            let local = if identity { keystone_url(url, shown) } else { local_url(url, shown.root) };
            if let Some(local) = local {
                endpoint["url"] = local.into();
            }
        }
        !endpoints.is_empty()
    });
    services.into()
}

/// The URL of an endpoint as a client asks keyway for it: only scheme, host and port are others. `None` for
/// what is no URL that keyway could send a token to.
pub fn local_url(url: &str, root: &str) -> Option<String> {
    let (origin, path) = split(url)?;
    Some(format!("{root}/origin/{}{path}", origins::id(origin.origin())))
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
        let url = url.to_string();
        let mut known = false;
        for service in services.iter_mut() {
            if !overrides(cloud, overridden, kind(service)) {
                continue;
            }
            let own = cloud
                .region
                .clone()
                .or_else(|| items(&service["endpoints"]).first().and_then(region_of).map(str::to_owned));
            for endpoint in service["endpoints"].as_array_mut().into_iter().flatten() {
                if region_of(endpoint) == own.as_deref() {
                    endpoint["url"] = url.as_str().into();
                    known = true;
                }
            }
        }
        if !known {
            let id = format!("keyway-{overridden}");
            let endpoint = json!({"id": format!("{id}-public"), "interface": "public",
                                  "region": cloud.region, "region_id": cloud.region, "url": url});
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
    for endpoint in copy["endpoints"].as_array_mut().into_iter().flatten() {
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
    Some(format!("{}/identity{version}{slash}", shown.root))
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

fn region_of(endpoint: &Value) -> Option<&str> {
    endpoint["region_id"].as_str().or_else(|| endpoint["region"].as_str())
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
