//! Which services does a cloud have, and under which addresses here?

use serde::Serialize;

use crate::gateway::may_carry_token;
use crate::keystone::{self, Token, service_type};
use crate::route::encode;

/// One service in one region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// The official service type.
    #[serde(rename = "type")]
    pub service_type: String,
    /// The catalog's name of it, such as `nova`.
    pub name: String,
    /// Its region, where it has one.
    pub region: Option<String>,
    /// The path at keyway: `/compute`, `/cloud/lab/region/two/image`.
    pub path: String,
    /// The endpoint that requests go to.
    pub upstream: Option<String>,
    /// Why there is none, or why it gets no token.
    pub problem: Option<String>,
}

/// The services that a token's catalog offers through the interfaces of `cloud`: those of the
/// cloud's own region first, then what only other regions have, sorted by type.
pub fn entries(cloud: &keystone::Config, is_default: bool, token: &Token) -> Vec<Entry> {
    let cloud = &*cloud.of_token(token);
    let prefix = if is_default { String::new() } else { format!("/cloud/{}", encode(&cloud.name)) };
    let mut entries = Vec::new();
    for service in token.catalog.service_types() {
        let official = service_type::canonical(service).into_owned();
        if official == "*" || entries.iter().any(|entry: &Entry| entry.service_type == official) {
            continue;
        }
        entries.push(entry(cloud, token, &official, None, format!("{prefix}/{official}")));
    }
    for service in cloud.endpoint_overrides.keys() {
        let official = service_type::canonical(service).into_owned();
        if !entries.iter().any(|entry: &Entry| entry.service_type == official) {
            entries.push(entry(cloud, token, &official, None, format!("{prefix}/{official}")));
        }
    }
    let own = entries.len();
    for region in token.catalog.regions() {
        for index in 0..own {
            let official = entries[index].service_type.clone();
            let here = entries[index].region.as_deref() == Some(region);
            if here || keystone::catalog::choose(cloud, &token.catalog, &official, Some(region)).is_err() {
                continue;
            }
            let path = format!("{prefix}/region/{}/{official}", encode(region));
            entries.push(entry(cloud, token, &official, Some(region), path));
        }
    }
    entries[..own].sort_by(|a, b| a.service_type.cmp(&b.service_type));
    entries
}

fn entry(
    cloud: &keystone::Config,
    token: &Token,
    service: &str,
    region: Option<&str>,
    path: String,
) -> Entry {
    let name = token
        .catalog
        .endpoints()
        .find(|endpoint| service_type::canonical(&endpoint.service_type) == service)
        .map_or_else(String::new, |endpoint| endpoint.service_name.clone());
    let entry = |region: Option<&str>, upstream, problem| Entry {
        service_type: service.to_owned(),
        name,
        region: region.map(str::to_owned),
        path,
        upstream,
        problem,
    };
    match keystone::catalog::choose(cloud, &token.catalog, service, region) {
        Ok(found) => {
            let allowed = may_carry_token(cloud, found.url, found.service_type);
            let problem = (!allowed).then(|| {
                format!(
                    "plain http although Keystone is https: no token; allow_http = [\"{service}\"] allows it"
                )
            });
            entry(found.region, Some(found.url.to_string()), problem)
        }
        Err(error) => entry(region, None, Some(error.to_string())),
    }
}
