//! `[cloud.NAME]` in keyway.toml: what keyway does with a cloud, which clouds.yaml has no words for.

use super::clouds::{Clouds, Served};
use super::file::File;
use super::policy::{self, Policies};
use super::problems::Problems;
use super::{Config, facade};
use crate::facade::View;
use crate::keystone::credentials::AllowHttp;
use crate::keystone::{self, service_type};
use crate::upstream::{BaseUrl, Scheme};

/// The tables of clouds that there are not. Where the file does not say which clouds are served, those of others may be
/// there for another day.
pub(super) fn misplaced<'a>(
    file: &'a File,
    served: &Served<keystone::Config>,
    clouds: &mut Clouds<'_>,
) -> Vec<&'a str> {
    let listed = |name: &String| file.clouds.iter().flatten().any(|listed| listed == name);
    let mut is_elsewhere = |name: &String| !served.by_file && (listed(name) || clouds.knows(name));
    let names = file.cloud_tables.keys();
    names.filter(|name| !served.names.contains(name) && !is_elsewhere(name)).map(String::as_str).collect()
}

/// Notes what is said of clouds that are not served.
pub(super) fn check_names(
    file: &File,
    served: &Served<keystone::Config>,
    misplaced: &[&str],
    identities: &[crate::identity::Config],
    problems: &mut Problems,
) {
    for (name, cloud) in file.pinned_clouds() {
        if !served.names.is_empty() && !served.names.iter().any(|known| known == cloud) {
            let served = served.names.join(", ");
            let message =
                format!("no such cloud is served, only {served}: correct the name, or serve the cloud");
            problems.add(file.path.display(), format!("listener.{name}.cloud"), message);
        }
    }
    for identity in identities {
        let unknown = identity.rights.clouds.iter().find(|cloud| !served.names.contains(cloud));
        if let Some(cloud) = unknown.filter(|_| !served.names.is_empty()) {
            let served = served.names.join(", ");
            let message =
                format!("no cloud `{cloud}` is served, only {served}: correct the name, or serve the cloud");
            problems.add(file.path.display(), format!("identity.{}.clouds", identity.name), message);
        }
    }
    for name in misplaced {
        let message = if served.names.is_empty() {
            "no such cloud is served: remove the table".to_owned()
        } else {
            let served = served.names.join(", ");
            format!("no such cloud is served, only {served}: correct the name, or remove the table")
        };
        problems.add(file.path.display(), format!("cloud.{name}"), message);
    }
}

impl Config {
    /// `[cloud.NAME]`, for clouds that are served and for others.
    pub(super) fn read_cloud_tables(&mut self, file: &File, policies: &Policies, problems: &mut Problems) {
        for (name, options) in &file.cloud_tables {
            let mut problem = |option: &str, message: String| {
                problems.add(file.path.display(), format!("cloud.{name}.{option}"), message);
            };
            let mut allowed = Vec::new();
            for text in options.list("allow_http") {
                match plain_http(text) {
                    Ok(text) => allowed.push(text),
                    Err(message) => problem("allow_http", message),
                }
            }
            let mut raw = Vec::new();
            for text in options.list("raw_links") {
                match if text == "*" { Ok(text.to_owned()) } else { policy::service(text) } {
                    Ok(service) => raw.push(service_type::canonical(&service).into_owned()),
                    Err(message) => problem("raw_links", message),
                }
            }
            if !raw.is_empty() {
                self.raw_links.insert(name.clone(), raw);
            }
            let cloud = self.clouds.iter_mut().find(|cloud| cloud.name == *name);
            match options.text("policy").map(|policy| policies.named(policy)) {
                Some(Ok(Some(policy))) if cloud.is_some() => {
                    self.cloud_policies.insert(name.clone(), policy);
                }
                Some(Err(message)) => problem("policy", message),
                _ => {}
            }
            let view = facade::view(options, &mut problem);
            let Some(cloud) = cloud else { continue };
            if !allowed.is_empty() {
                cloud.allow_http = AllowHttp::Only(allowed);
            }
            if view != View::default() {
                self.facade.clouds.insert(name.clone(), view);
            }
        }
    }
}

/// An entry of `allow_http`: a service type, or an origin in its normal form.
fn plain_http(text: &str) -> Result<String, String> {
    if text.contains("://") {
        let url = BaseUrl::parse(text).map_err(|error| match text.contains('@') {
            // There may be a password before it.
            true => error.to_string(),
            false => format!("`{text}`: {error}"),
        })?;
        if url.origin().scheme() != Scheme::Http {
            return Err(format!("`{text}` is not plain http, so it needs no permission: remove it"));
        }
        if !url.path().is_empty() {
            return Err(format!("`{text}` has a path: write {}", url.origin()));
        }
        return Ok(url.origin().to_string());
    }
    let is_type =
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    if is_type {
        Ok(text.to_ascii_lowercase().replace('_', "-"))
    } else {
        Err(format!(
            "`{text}` is neither a service type, such as image, nor an origin, such as http://host:9292"
        ))
    }
}
