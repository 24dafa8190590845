//! Where is a service?
//!
//! A [`Catalog`] is what came with a token, in the shape of Identity v3 or v2.0. An endpoint is
//! chosen as keystoneauth chooses it: by type or alias, region and interface, where the asked type
//! itself wins over its aliases and an earlier interface over a later one. What can't be found says
//! what there is instead. [`choose`] adds what a cloud's operator decided.

use std::fmt;

use serde_json::Value;

use super::service::wanted_id;
use super::{Auth, Config, Interface, service_type};
use crate::upstream::BaseUrl;

/// The services of one token.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    endpoints: Vec<Endpoint>,
    /// One endpoint for everything that may be asked for; `endpoints` holds nothing else then.
    single: bool,
}

/// One URL of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The service's type as the catalog has it, which may be an alias; `*` where one endpoint
    /// serves every service.
    pub service_type: String,
    /// The service's name, such as `nova`; empty where the catalog has none.
    pub service_name: String,
    /// The region, where it has one.
    pub region: Option<String>,
    /// For whom it is; `None` for an interface that is not one of the three.
    pub interface: Option<Interface>,
    /// The URL, or the text in the catalog that is none, fit to be shown.
    pub url: Result<BaseUrl, String>,
}

impl Endpoint {
    /// Whether its service may be the one with that name: an older catalog has none.
    fn may_have_name(&self, name: Option<&str>) -> bool {
        name.is_none_or(|name| self.service_name.is_empty() || self.service_name == name)
    }

    /// The URL.
    ///
    /// # Errors
    /// [`NoEndpoint::BadUrl`] when the catalog's text is no URL that a token may be sent to.
    pub fn base_url(&self) -> Result<&BaseUrl, NoEndpoint> {
        self.url.as_ref().map_err(|text| NoEndpoint::BadUrl {
            service: self.service_type.clone(),
            region: self.region.clone(),
            text: text.clone(),
        })
    }
}

/// Why there is no endpoint, and what there is instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEndpoint {
    /// The token has no catalog at all.
    #[error(
        "the token came without a catalog, most likely because it has no scope; name a project to log in to"
    )]
    NoCatalog,
    /// No service by that type, alias or name.
    #[error("the catalog has no service `{asked}`; it has {}", List(available))]
    NoService {
        /// What was asked for.
        asked: String,
        /// The official types of the services that have endpoints.
        available: Vec<String>,
    },
    /// The service is not in that region.
    #[error("the catalog has no `{service}` in region `{asked}`; it has it in {}", List(available))]
    NoRegion {
        /// The service, as asked for.
        service: String,
        /// The region asked for.
        asked: String,
        /// The regions in which the service is.
        available: Vec<String>,
    },
    /// The service has other interfaces only (in that region, if one was asked for).
    #[error(
        "the catalog has no {} endpoint of `{service}`; choose an interface of {}",
        List(asked),
        List(available)
    )]
    NoInterface {
        /// The service, as asked for.
        service: String,
        /// The interfaces asked for.
        asked: Vec<String>,
        /// The interfaces that there are.
        available: Vec<String>,
    },
    /// The services of that type have other names, and the operator chose one by its name.
    #[error(
        "the catalog has no `{service}` with the name `{asked}`; it has {}: change the cloud's `{}_service_name`",
        List(available),
        service.replace('-', "_")
    )]
    NoName {
        /// The service, as asked for.
        service: String,
        /// The name that the operator chose.
        asked: String,
        /// The names that there are.
        available: Vec<String>,
    },
    /// The service has other versions than the one that the operator chose.
    #[error(
        "`{service}` offers no version {asked}; it offers {}: name one of these in the path, or change the \
         cloud's `{}_api_version`",
        List(available),
        service.replace('-', "_")
    )]
    NoVersion {
        /// The service, by its official type.
        service: String,
        /// The major version that the operator chose.
        asked: u32,
        /// The versions that the service offers.
        available: Vec<String>,
    },
    /// The operator's endpoint override wants an id that the token has not.
    #[error(
        "the cloud's `{}_endpoint_override` wants a {wanted}, and the token has none: log in for a project, or \
         write the id out",
        service.replace('-', "_")
    )]
    NoId {
        /// The service, as the operator wrote it.
        service: String,
        /// `project_id` or `user_id`.
        wanted: &'static str,
    },
    /// The catalog's text is no URL that a token may be sent to.
    #[error(
        "the catalog's URL of `{service}` is not usable: `{text}`; have the catalog corrected, or set \
         the cloud's `{}_endpoint_override`",
        service.replace('-', "_")
    )]
    BadUrl {
        /// The service's type in the catalog.
        service: String,
        /// The endpoint's region.
        region: Option<String>,
        /// What the catalog has.
        text: String,
    },
}

/// Shows `a, b, c`, or that there is nothing.
struct List<'a>(&'a [String]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("none") } else { f.write_str(&self.0.join(", ")) }
    }
}

impl Catalog {
    /// Reads `token.catalog` of Identity v3. What is no endpoint in there is passed over.
    pub fn from_v3(catalog: &Value) -> Self {
        let mut endpoints = Vec::new();
        for service in items(catalog) {
            for endpoint in items(&service["endpoints"]) {
                endpoints.extend(read_endpoint(
                    service,
                    text(&endpoint["region_id"]).or_else(|| text(&endpoint["region"])),
                    text(&endpoint["interface"]).and_then(|interface| interface.parse().ok()),
                    &endpoint["url"],
                ));
            }
        }
        Self { endpoints, single: false }
    }

    /// Reads `access.serviceCatalog` of Identity v2.0. Some servers write an empty one as `{}`.
    pub fn from_v2(catalog: &Value) -> Self {
        let mut endpoints = Vec::new();
        for service in items(catalog) {
            for endpoint in items(&service["endpoints"]) {
                for (key, interface) in [
                    ("publicURL", Interface::Public),
                    ("internalURL", Interface::Internal),
                    ("adminURL", Interface::Admin),
                ] {
                    let region = text(&endpoint["region"]).or_else(|| text(&endpoint["region_id"]));
                    endpoints.extend(read_endpoint(service, region, Some(interface), &endpoint[key]));
                }
            }
        }
        Self { endpoints, single: false }
    }

    /// A catalog in which every service, whatever its name, is at one URL.
    pub fn single(url: BaseUrl) -> Self {
        let endpoint = Endpoint {
            service_type: "*".to_owned(),
            service_name: String::new(),
            region: None,
            interface: None,
            url: Ok(url),
        };
        Self { endpoints: vec![endpoint], single: true }
    }

    /// Of Keystone alone, whatever the interface.
    pub fn identity(url: &BaseUrl) -> Self {
        let endpoint = |interface| Endpoint {
            service_type: "identity".to_owned(),
            service_name: "keystone".to_owned(),
            region: None,
            interface: Some(interface),
            url: Ok(url.clone()),
        };
        let endpoints = [Interface::Public, Interface::Internal, Interface::Admin].map(endpoint);
        Self { endpoints: endpoints.into(), single: false }
    }

    /// Whether there is nothing in it, as with an unscoped token.
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// Whether one endpoint serves every service.
    pub fn is_single(&self) -> bool {
        self.single
    }

    /// Every endpoint, in the catalog's order.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter()
    }

    /// The types of the services that have endpoints, as the catalog has them, each once.
    pub fn service_types(&self) -> Vec<&str> {
        distinct(self.endpoints.iter().map(|endpoint| endpoint.service_type.as_str()))
    }

    /// The official types of the services that have endpoints, sorted, each once.
    pub fn official_types(&self) -> Vec<String> {
        let names = self.service_types().into_iter();
        let mut official: Vec<_> = names.map(|name| service_type::canonical(name).into_owned()).collect();
        official.sort();
        official.dedup();
        official
    }

    /// The regions in which there are endpoints, each once.
    pub fn regions(&self) -> Vec<&str> {
        distinct(self.endpoints.iter().filter_map(|endpoint| endpoint.region.as_deref()))
    }

    /// Chooses the endpoint of a service, given by type, alias, or the catalog's own name for it. No
    /// region takes the first endpoint that fits; of the interfaces the first that exists is taken. With a `name`,
    /// only services that are called so count, and those without any.
    ///
    /// # Errors
    /// What is missing, and what there is instead.
    pub fn endpoint(
        &self,
        service: &str,
        name: Option<&str>,
        region: Option<&str>,
        interfaces: &[Interface],
    ) -> Result<&Endpoint, NoEndpoint> {
        if let [only] = &self.endpoints[..]
            && self.single
        {
            return Ok(only);
        }
        if self.is_empty() {
            return Err(NoEndpoint::NoCatalog);
        }
        let in_region = |endpoint: &Endpoint| region.is_none() || endpoint.region.as_deref() == region;
        // Region and interface come first, so that a type without an endpoint there does not hide an
        // alias that has one.
        let fits = |endpoint: &Endpoint| in_region(endpoint) && endpoint.may_have_name(name);
        let find = |matches: &dyn Fn(&Endpoint) -> bool| {
            interfaces.iter().find_map(|interface| {
                self.endpoints.iter().find(|endpoint| {
                    endpoint.interface == Some(*interface) && fits(endpoint) && matches(endpoint)
                })
            })
        };
        let by_type = service_type::candidates(service)
            .find_map(|name| find(&|endpoint| service_type::same(&endpoint.service_type, name)));
        let named = |endpoint: &Endpoint| service_type::same(&endpoint.service_name, service);
        let found = by_type.or_else(|| find(&named));
        if let Some(endpoint) = found {
            endpoint.base_url()?;
            return Ok(endpoint);
        }
        Err(self.why_not(service, name, region, interfaces))
    }

    fn why_not(
        &self,
        service: &str,
        name: Option<&str>,
        region: Option<&str>,
        interfaces: &[Interface],
    ) -> NoEndpoint {
        let of_type = |endpoint: &&Endpoint| service_type::related(&endpoint.service_type, service);
        let of_name = |endpoint: &&Endpoint| service_type::same(&endpoint.service_name, service);
        let mut endpoints: Vec<_> = self.endpoints.iter().filter(of_type).collect();
        if endpoints.is_empty() {
            endpoints = self.endpoints.iter().filter(of_name).collect();
        }
        if endpoints.is_empty() {
            return NoEndpoint::NoService { asked: service.to_owned(), available: self.official_types() };
        }
        if let Some(asked) = name
            && !endpoints.iter().any(|endpoint| endpoint.may_have_name(name))
        {
            let available = distinct(endpoints.iter().map(|endpoint| endpoint.service_name.as_str()));
            return NoEndpoint::NoName {
                service: service.to_owned(),
                asked: asked.to_owned(),
                available: available.into_iter().map(str::to_owned).collect(),
            };
        }
        endpoints.retain(|endpoint| endpoint.may_have_name(name));
        if let Some(asked) = region
            && !endpoints.iter().any(|endpoint| endpoint.region.as_deref() == Some(asked))
        {
            let available = distinct(endpoints.iter().filter_map(|endpoint| endpoint.region.as_deref()));
            return NoEndpoint::NoRegion {
                service: service.to_owned(),
                asked: asked.to_owned(),
                available: available.into_iter().map(str::to_owned).collect(),
            };
        }
        let here =
            endpoints.iter().filter(|endpoint| region.is_none() || endpoint.region.as_deref() == region);
        let available = distinct(here.filter_map(|endpoint| endpoint.interface).map(Interface::as_str));
        NoEndpoint::NoInterface {
            service: service.to_owned(),
            asked: interfaces.iter().map(ToString::to_string).collect(),
            available: available.into_iter().map(str::to_owned).collect(),
        }
    }
}

/// Where requests for a service go, and what the cloud calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination<'a> {
    /// The type in the catalog or of the override.
    pub service_type: &'a str,
    /// The region of the endpoint, where it has one.
    pub region: Option<&'a str>,
    /// The endpoint.
    pub url: &'a BaseUrl,
}

/// Chooses where requests for a service go: an endpoint override of the cloud, else the catalog,
/// else, for Keystone itself, `auth_url`. `cloud` is [that of the token](Config::of_token).
/// `region` is the one that was asked for; without it the cloud's own for that service counts. An
/// override stands for that own region only: who asks for another region gets the catalog's
/// endpoint there. The cloud's options for the service say which interfaces there are to choose
/// from, and by which type and name the catalog has it.
///
/// # Errors
/// What is missing, and what there is instead.
pub fn choose<'a>(
    cloud: &'a Config,
    catalog: &'a Catalog,
    service: &str,
    region: Option<&str>,
) -> Result<Destination<'a>, NoEndpoint> {
    let own = cloud.region_of(service);
    let region = region.or(own);
    if region == own {
        let overridden = service_type::candidates(service).find_map(|name| {
            cloud.endpoint_overrides.iter().find(|(overridden, _)| service_type::same(overridden, name))
        });
        if let Some((service_type, url)) = overridden {
            if let Some(wanted) = wanted_id(url) {
                return Err(NoEndpoint::NoId { service: service_type.clone(), wanted });
            }
            return Ok(Destination { service_type, region: own, url });
        }
    }
    let (wanted, interfaces) = (cloud.type_of(service), cloud.interfaces_of(service));
    let missing = match catalog.endpoint(wanted, cloud.name_of(service), region, interfaces) {
        Ok(endpoint) => {
            return Ok(Destination {
                service_type: &endpoint.service_type,
                region: endpoint.region.as_deref(),
                url: endpoint.base_url()?,
            });
        }
        Err(missing) => missing,
    };
    let is_keystone = ["identity", "keystone"].iter().any(|name| service_type::same(name, service));
    let is_absent = matches!(missing, NoEndpoint::NoCatalog | NoEndpoint::NoService { .. });
    match &cloud.auth {
        Auth::Identity(identity) if is_keystone && is_absent => {
            Ok(Destination { service_type: "identity", region: None, url: &identity.auth_url })
        }
        // It is in no region.
        Auth::Tokenless { auth_url, .. } if is_keystone => {
            Ok(Destination { service_type: "identity", region: None, url: auth_url })
        }
        _ => Err(missing),
    }
}

/// The elements of an array; nothing for anything else.
fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A text that is there and not empty.
fn text(value: &Value) -> Option<&str> {
    value.as_str().map(str::trim).filter(|text| !text.is_empty())
}

fn read_endpoint(
    service: &Value,
    region: Option<&str>,
    interface: Option<Interface>,
    url: &Value,
) -> Option<Endpoint> {
    let written = text(url)?;
    let url = if written.contains("%(") || written.contains("$(") {
        Err(presentable(written))
    } else {
        BaseUrl::parse(written).map_err(|why| format!("{} ({why})", presentable(written)))
    };
    Some(Endpoint {
        service_type: text(&service["type"]).or_else(|| text(&service["name"]))?.to_owned(),
        service_name: text(&service["name"]).unwrap_or_default().to_owned(),
        region: region.map(str::to_owned),
        interface,
        url,
    })
}

/// What may be shown of a text that is no URL: short, on one line, and without a password.
fn presentable(text: &str) -> String {
    let text = match text.rsplit_once('@') {
        Some((before, after)) => {
            let scheme = before.find("://").map_or("", |at| &before[..at + 3]);
            format!("{scheme}***@{after}")
        }
        None => text.to_owned(),
    };
    text.chars().filter(|char| !char.is_control()).take(200).collect()
}

fn distinct<'a>(items: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for item in items {
        if !seen.contains(&item) {
            seen.push(item);
        }
    }
    seen
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;
    use crate::keystone::{Secret, ServiceOptions};

    const PUBLIC: &[Interface] = &[Interface::Public];

    /// The shape of Keystone 29 (2026.1), with two regions, and with what odd catalogs have.
    pub(in crate::keystone) fn v3() -> Value {
        let endpoint = |interface: &str, region: &str, url: &str| json!({"id": "8a78", "interface": interface, "region_id": region, "region": region, "url": url});
        json!([
            {"id": "1", "type": "placement", "name": "placement", "endpoints": [
                endpoint("public", "RegionOne", "http://127.0.0.1:8778"),
                endpoint("internal", "RegionOne", "http://127.0.0.1:8778")]},
            {"id": "2", "type": "compute", "name": "nova", "endpoints": [
                endpoint("internal", "RegionOne", "http://10.0.0.1:8774/v2.1"),
                endpoint("public", "RegionOne", "http://127.0.0.1:8774/v2.1"),
                endpoint("public", "RegionTwo", "http://localhost:8774/v2.1/164b")]},
            {"id": "3", "type": "volumev2", "name": "cinderv2", "endpoints": [
                endpoint("public", "RegionOne", "http://127.0.0.1:8776/v2/164b"),
                endpoint("public", "RegionTwo", "http://127.0.0.2:8776/v2/164b")]},
            {"id": "4", "type": "volumev3", "name": "cinderv3", "endpoints": [
                endpoint("public", "RegionOne", "http://127.0.0.1:8776/v3/164b")]},
            {"id": "5", "type": "load-balancer", "name": "octavia", "endpoints": []},
            {"id": "6", "type": "dns", "endpoints": [{"interface": "public", "url": "http://127.0.0.1:9001/", "region": "RegionOne"}]},
            {"id": "7", "type": "rax:database", "name": "Cloud_DB", "endpoints": [
                endpoint("public", "RegionOne", "http://127.0.0.1:1/v1")]},
            {"id": "8", "type": "search", "name": "searchlight", "endpoints": [endpoint("public", "RegionOne", "")]},
            {"id": "9", "type": "object-store", "name": "swift", "endpoints": [
                endpoint("public", "RegionOne", "http://127.0.0.1:8080/v1/AUTH_%(project_id)s"),
                endpoint("internal", "RegionOne", "http://me:secret@h/v1"),
                endpoint("admin", "RegionOne", "swift.example")]},
        ])
    }

    #[track_caller]
    fn check(service: &str, region: Option<&str>, interfaces: &[Interface], expected: &str) {
        let catalog = Catalog::from_v3(&v3());
        match catalog.endpoint(service, None, region, interfaces) {
            Ok(endpoint) => assert_eq!(endpoint.base_url().unwrap().to_string(), expected),
            Err(missing) => panic!("{missing}"),
        }
    }

    #[track_caller]
    fn check_missing(service: &str, region: Option<&str>, interfaces: &[Interface], expected: &str) {
        let catalog = Catalog::from_v3(&v3());
        let missing = catalog.endpoint(service, None, region, interfaces).expect_err(service);
        assert_eq!(missing.to_string(), expected);
    }

    #[test]
    fn a_service_is_found_by_type_alias_or_name() {
        check("compute", None, PUBLIC, "http://127.0.0.1:8774/v2.1");
        check("Compute", None, PUBLIC, "http://127.0.0.1:8774/v2.1");
        check("nova", None, PUBLIC, "http://127.0.0.1:8774/v2.1");
        check("rax:database", None, PUBLIC, "http://127.0.0.1:1/v1");
        check("cloud-db", None, PUBLIC, "http://127.0.0.1:1/v1");
        check("dns", Some("RegionOne"), PUBLIC, "http://127.0.0.1:9001");
    }

    #[test]
    fn the_asked_type_wins_then_the_first_alias_that_has_an_endpoint() {
        check("volumev2", None, PUBLIC, "http://127.0.0.1:8776/v2/164b");
        check("block-storage", None, PUBLIC, "http://127.0.0.1:8776/v3/164b");
        check("block_storage", Some("RegionTwo"), PUBLIC, "http://127.0.0.2:8776/v2/164b");
        check("volume", None, PUBLIC, "http://127.0.0.1:8776/v3/164b");
        check("cinderv2", None, PUBLIC, "http://127.0.0.1:8776/v2/164b");
    }

    #[test]
    fn the_first_interface_that_exists_is_taken() {
        let both = &[Interface::Admin, Interface::Internal, Interface::Public];
        check("compute", None, both, "http://10.0.0.1:8774/v2.1");
        check("compute", Some("RegionTwo"), both, "http://localhost:8774/v2.1/164b");
    }

    #[test]
    fn what_is_missing_says_what_there_is() {
        check_missing(
            "metric",
            None,
            PUBLIC,
            "the catalog has no service `metric`; it has block-storage, compute, dns, object-store, placement, \
             rax:database",
        );
        check_missing(
            "compute",
            Some("RegionThree"),
            PUBLIC,
            "the catalog has no `compute` in region `RegionThree`; it has it in RegionOne, RegionTwo",
        );
        check_missing(
            "compute",
            Some("RegionTwo"),
            &[Interface::Internal, Interface::Admin],
            "the catalog has no internal, admin endpoint of `compute`; choose an interface of public",
        );
        let empty = Catalog::from_v3(&json!([]));
        assert_eq!(empty.endpoint("compute", None, None, PUBLIC), Err(NoEndpoint::NoCatalog));
    }

    #[test]
    fn a_url_that_is_none_matters_only_when_it_is_chosen_and_shows_no_password() {
        check_missing(
            "object-store",
            None,
            PUBLIC,
            "the catalog's URL of `object-store` is not usable: `http://127.0.0.1:8080/v1/AUTH_%(project_id)s`; \
             have the catalog corrected, or set the cloud's `object_store_endpoint_override`",
        );
        let catalog = Catalog::from_v3(&v3());
        let missing = catalog.endpoint("swift", None, None, &[Interface::Admin]).unwrap_err().to_string();
        assert!(missing.contains("`swift.example (not an absolute URL)`"), "{missing}");
        let missing = catalog.endpoint("swift", None, None, &[Interface::Internal]).unwrap_err().to_string();
        assert!(missing.contains("http://***@h/v1") && !missing.contains("secret"), "{missing}");
    }

    #[test]
    fn a_v2_catalog_is_read() {
        // Keystone 12 (Pike).
        let catalog = Catalog::from_v2(&json!([
            {"endpoints": [{"adminURL": "http://127.0.0.1:9294", "region": "RegionOne", "id": "28f0",
                "internalURL": "http://127.0.0.1:9294", "publicURL": "http://127.0.0.1:9294"}],
             "endpoints_links": [], "type": "image", "name": "glance"},
            {"endpoints": [{"adminURL": "http://127.0.0.1:35357/v2.0", "region": "RegionOne",
                "internalURL": "http://127.0.0.1:5001/v2.0", "publicURL": "http://127.0.0.1:5001/v2.0"}],
             "endpoints_links": [], "type": "identity", "name": "keystone"}
        ]));
        let admin = catalog.endpoint("identity", None, Some("RegionOne"), &[Interface::Admin]).unwrap();
        assert_eq!(admin.base_url().unwrap().to_string(), "http://127.0.0.1:35357/v2.0");
        assert_eq!(catalog.service_types(), ["image", "identity"]);
        assert_eq!(catalog.regions(), ["RegionOne"]);
    }

    #[test]
    fn what_is_no_catalog_is_an_empty_one() {
        for odd in
            [json!({}), json!(null), json!("x"), json!([1, null, {"type": "compute"}, {"endpoints": 5}])]
        {
            assert!(Catalog::from_v2(&odd).is_empty(), "{odd}");
            assert!(Catalog::from_v3(&odd).is_empty(), "{odd}");
        }
    }

    #[test]
    fn a_single_endpoint_serves_every_service() {
        let url = BaseUrl::parse("http://127.0.0.1:6385").unwrap();
        let catalog = Catalog::single(url.clone());
        for service in ["baremetal", "anything"] {
            let endpoint = catalog.endpoint(service, None, Some("any"), PUBLIC).unwrap();
            assert_eq!(endpoint.base_url(), Ok(&url));
        }
    }

    /// A cloud that says nothing about any service.
    pub(in crate::keystone) fn config() -> Config {
        let auth_url = BaseUrl::parse("http://127.0.0.1:5000/v3").unwrap();
        let auth = Auth::Identity(crate::keystone::Identity {
            auth_url,
            version: crate::keystone::IdentityVersion::Discover,
            method: crate::keystone::Method::Token(Secret::new("t").into()),
            scope: crate::keystone::Scope::Default,
        });
        Config { region: Some("RegionOne".to_owned()), ..Config::new("lab", auth) }
    }

    #[test]
    fn an_override_wins_and_keystone_is_found_without_a_catalog() {
        let url = |text| BaseUrl::parse(text).unwrap();
        let mut cloud = config();
        cloud.endpoint_overrides.insert("volume".to_owned(), url("http://10.0.0.9/volume"));
        let catalog = Catalog::from_v3(&v3());
        let chosen = |cloud: &Config, catalog: &Catalog, service: &str, region: Option<&str>| {
            choose(cloud, catalog, service, region).map(|destination| destination.url.to_string())
        };
        assert_eq!(chosen(&cloud, &catalog, "block-storage", None).unwrap(), "http://10.0.0.9/volume");
        let elsewhere = chosen(&cloud, &catalog, "block-storage", Some("RegionTwo")).unwrap();
        assert_eq!(elsewhere, "http://127.0.0.2:8776/v2/164b");
        assert_eq!(chosen(&cloud, &catalog, "compute", None).unwrap(), "http://127.0.0.1:8774/v2.1");
        assert_eq!(chosen(&cloud, &catalog, "identity", None).unwrap(), "http://127.0.0.1:5000/v3");
        let empty = Catalog::default();
        assert_eq!(chosen(&cloud, &empty, "identity", None).unwrap(), "http://127.0.0.1:5000/v3");
        assert_eq!(chosen(&cloud, &empty, "compute", None), Err(NoEndpoint::NoCatalog));

        cloud.auth = Auth::Fixed { endpoint: url("http://10.0.0.7"), token: Secret::new("t").into() };
        let single = Catalog::single(url("http://10.0.0.7"));
        assert_eq!(chosen(&cloud, &single, "identity", None).unwrap(), "http://10.0.0.7");
    }

    #[test]
    fn a_services_options_choose_its_endpoint() {
        let catalog = Catalog::from_v3(&v3());
        let chosen = |service: &str, change: &dyn Fn(&mut ServiceOptions), region: Option<&str>| {
            let mut options = ServiceOptions::default();
            change(&mut options);
            let cloud = Config { services: [(service.to_owned(), options)].into(), ..config() };
            choose(&cloud, &catalog, service, region)
                .map(|found| found.url.to_string())
                .map_err(|why| why.to_string())
        };
        let two = |options: &mut ServiceOptions| options.region = Some("RegionTwo".to_owned());
        assert_eq!(chosen("compute", &two, None).unwrap(), "http://localhost:8774/v2.1/164b");
        assert_eq!(chosen("compute", &two, Some("RegionOne")).unwrap(), "http://127.0.0.1:8774/v2.1");
        let inside = |options: &mut ServiceOptions| {
            options.interfaces = vec![Interface::Admin, Interface::Internal];
        };
        assert_eq!(chosen("compute", &inside, None).unwrap(), "http://10.0.0.1:8774/v2.1");
        let old = |options: &mut ServiceOptions| options.service_type = Some("volumev2".to_owned());
        assert_eq!(chosen("block-storage", &old, None).unwrap(), "http://127.0.0.1:8776/v2/164b");
        let odd = |options: &mut ServiceOptions| options.service_type = Some("rax:database".to_owned());
        assert_eq!(chosen("database", &odd, None).unwrap(), "http://127.0.0.1:1/v1");
        let named = |options: &mut ServiceOptions| options.service_name = Some("cinderv2".to_owned());
        assert_eq!(chosen("block-storage", &named, None).unwrap(), "http://127.0.0.1:8776/v2/164b");
        assert_eq!(chosen("dns", &named, None).unwrap(), "http://127.0.0.1:9001", "it has no name");
        let wrong = |options: &mut ServiceOptions| options.service_name = Some("nova2".to_owned());
        assert_eq!(
            chosen("compute", &wrong, None).unwrap_err(),
            "the catalog has no `compute` with the name `nova2`; it has nova: change the cloud's \
             `compute_service_name`"
        );
    }

    #[test]
    fn an_override_stands_for_the_services_own_region() {
        let catalog = Catalog::from_v3(&v3());
        let url = BaseUrl::parse("http://10.0.0.9").unwrap();
        let two = ServiceOptions { region: Some("RegionTwo".to_owned()), ..ServiceOptions::default() };
        let cloud = Config {
            services: [("compute".to_owned(), two)].into(),
            endpoint_overrides: [("compute".to_owned(), url.clone())].into(),
            ..config()
        };
        let found = choose(&cloud, &catalog, "compute", None).unwrap();
        assert_eq!((found.url, found.region), (&url, Some("RegionTwo")));
        let found = choose(&cloud, &catalog, "compute", Some("RegionOne")).unwrap();
        assert_eq!(found.url.to_string(), "http://127.0.0.1:8774/v2.1");
    }
}
