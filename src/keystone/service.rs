//! What did the operator decide about one service?
//!
//! The options are openstacksdk's: in a cloud's entry they have the service's type or one of its aliases in front, with
//! `_` for `-` (`compute_region_name`, `volume_api_version`). Each is looked up by itself, under the name that was
//! asked for, the official type, then the aliases in their order.

use std::borrow::Cow;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::{Config, Interface, Token, service_type};
use crate::upstream::BaseUrl;

/// One service's options, as far as they are given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceOptions {
    /// `_service_type`: what the catalog calls it.
    pub service_type: Option<String>,
    /// `_service_name`: which of several services of that type it is, by the catalog's name. A service
    /// without a name fits too.
    pub service_name: Option<String>,
    /// `_region_name`: its own region, in place of the cloud's.
    pub region: Option<String>,
    /// `_interface`: its interfaces in order of preference, in place of the cloud's. None if it is empty.
    pub interfaces: Vec<Interface>,
    /// `_api_version`: the major version for requests that name none.
    pub api_version: Option<u32>,
    /// `_default_microversion`: `2.79` or `latest`, for requests that name none.
    pub microversion: Option<String>,
    /// When to try again.
    pub retries: Retries,
    /// How much it may be asked.
    pub limits: Limits,
}

/// How much a service may be asked, by which options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// `rate_limit`, which is a number of requests per second: the time from one to the next.
    pub pace: Option<Duration>,
    /// `concurrency`: how many requests may be under way until their answers begin.
    pub concurrency: Option<u32>,
}

/// How often a request goes out again, by which options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retries {
    /// `connect_retries`: how often where no connection came about.
    pub connect: Option<u32>,
    /// `connect_retry_delay`: how long to wait before each; without it [`FIRST_DELAY`], doubling.
    pub connect_delay: Option<Duration>,
    /// `status_code_retries`: how often after an answer with one of the statuses.
    pub status: Option<u32>,
    /// `status_code_retry_delay`: how long to wait before each, if the service does not say.
    pub status_delay: Option<Duration>,
    /// `retriable_status_codes`; without them [`RETRIABLE`].
    pub statuses: Option<Vec<u16>>,
}

/// keystoneauth's statuses.
pub const RETRIABLE: [u16; 2] = [429, 503];

/// keystoneauth's first delay, and its longest one.
pub const FIRST_DELAY: Duration = Duration::from_millis(500);
/// The longest delay, whoever chose it.
pub const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// What the path of an endpoint override may hold, as keystoneauth fills it in.
pub const PROJECT_ID: &str = "%(project_id)s";
/// See [`PROJECT_ID`].
pub const USER_ID: &str = "%(user_id)s";

/// Which id an endpoint override still wants: `project_id`.
pub fn wanted_id(url: &BaseUrl) -> Option<&'static str> {
    let wanted = [(PROJECT_ID, "project_id"), (USER_ID, "user_id")];
    wanted.into_iter().find(|(template, _)| url.path().contains(template)).map(|(_, id)| id)
}

impl Config {
    /// The same for a token: its project's id and its user's are put into the endpoint overrides that want them. Where
    /// it has no such id, they go on wanting it.
    pub fn of_token(&self, token: &Token) -> Cow<'_, Self> {
        if self.endpoint_overrides.values().all(|url| wanted_id(url).is_none()) {
            return Cow::Borrowed(self);
        }
        // What is no plain word would change the path's meaning.
        let is_plain = |id: &&str| {
            !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        let mut filled = self.clone();
        for url in filled.endpoint_overrides.values_mut() {
            for (template, named) in [(PROJECT_ID, &token.project), (USER_ID, &token.user)] {
                if let Some(id) = named.as_ref().map(|named| named.id.as_str()).filter(is_plain) {
                    *url = url.with_path(&url.path().replace(template, id));
                }
            }
        }
        Cow::Owned(filled)
    }

    /// A service's option, under the first of its names that has it.
    fn option<'a, T: ?Sized>(
        &'a self,
        service: &str,
        of: impl Fn(&'a ServiceOptions) -> Option<&'a T>,
    ) -> Option<&'a T> {
        if self.services.is_empty() {
            return None;
        }
        service_type::candidates(service).find_map(|name| {
            let named = self.services.iter().filter(|(known, _)| service_type::same(known, name));
            named.map(|(_, options)| options).find_map(&of)
        })
    }

    /// What the catalog calls a service: its `_service_type`, else the name itself.
    pub fn type_of<'a>(&'a self, service: &'a str) -> &'a str {
        self.option(service, |options| options.service_type.as_deref()).unwrap_or(service)
    }

    /// A service's `_service_name`.
    pub fn name_of(&self, service: &str) -> Option<&str> {
        self.option(service, |options| options.service_name.as_deref())
    }

    /// A service's region: its own, else the cloud's.
    pub fn region_of(&self, service: &str) -> Option<&str> {
        self.option(service, |options| options.region.as_deref()).or(self.region.as_deref())
    }

    /// A service's interfaces in order of preference: its own, else the cloud's.
    pub fn interfaces_of(&self, service: &str) -> &[Interface] {
        let own = self.option(service, |options| {
            Some(&options.interfaces[..]).filter(|interfaces| !interfaces.is_empty())
        });
        own.unwrap_or(&self.interfaces)
    }

    /// The major version that a service's `_api_version` chooses for requests that name none. For an alias
    /// with a version in it, such as `volumev2`, there is none but the catalog's: a client that writes that
    /// did not leave the choice to anybody.
    pub fn api_version_of(&self, service: &str) -> Option<u32> {
        let number = service.rsplit_once('v').map_or("", |(_, number)| number);
        if number.parse::<u32>().is_ok() && service_type::is_known(service) {
            return None;
        }
        self.option(service, |options| options.api_version.as_ref()).copied()
    }

    /// The fields that say a service's default microversion, for a service that the catalog or the client
    /// calls by these names. Empty where there is none.
    pub fn microversion_of(&self, names: [&str; 2]) -> Vec<(HeaderName, HeaderValue)> {
        let found =
            names.iter().find_map(|name| self.option(name, |options| options.microversion.as_deref()));
        // Each service has a word of its own for itself there, and the older ones have a field of their own. What
        // the catalog has may be a vendor's word, or stand for every service.
        let known = names.iter().find(|name| service_type::is_known(name));
        let official =
            service_type::canonical(known.or(names.iter().find(|name| **name != "*")).unwrap_or(&names[0]));
        let (word, own) = match &*official {
            "compute" => ("compute", Some("x-openstack-nova-api-version")),
            "baremetal" => ("baremetal", Some("x-openstack-ironic-api-version")),
            "baremetal-introspection" => {
                ("baremetal-introspection", Some("x-openstack-ironic-inspector-api-version"))
            }
            "shared-file-system" => ("shared-file-system", Some("x-openstack-manila-api-version")),
            "block-storage" => ("volume", None),
            "container-infrastructure-management" => ("container-infra", None),
            "application-container" => ("container", None),
            other => (other, None),
        };
        let Some(version) = found else { return Vec::new() };
        let field = |name: &'static str, value: String| {
            HeaderValue::try_from(value).ok().map(|value| (HeaderName::from_static(name), value))
        };
        let common = field("openstack-api-version", format!("{word} {version}"));
        common.into_iter().chain(own.and_then(|own| field(own, version.to_owned()))).collect()
    }

    /// How much a service that has these names may be asked. `None` where there is no limit.
    pub fn limits_of(&self, names: [&str; 2]) -> Option<Limits> {
        let own = |of: fn(&ServiceOptions) -> Option<&Duration>| {
            names.iter().find_map(|name| self.option(name, of)).copied()
        };
        let pace = own(|options| options.limits.pace.as_ref()).or(self.limits.pace);
        let slots =
            names.iter().find_map(|name| self.option(name, |options| options.limits.concurrency.as_ref()));
        let concurrency = slots.copied().or(self.limits.concurrency);
        (pace.is_some() || concurrency.is_some()).then_some(Limits { pace, concurrency })
    }

    /// When a request to a service that has these names goes out again. `None` where never.
    pub fn retries_of(&self, names: [&str; 2]) -> Option<Retries> {
        fn either<'a, T: ?Sized>(
            cloud: &'a Config,
            names: [&str; 2],
            of: impl Fn(&'a Retries) -> Option<&'a T> + Copy,
        ) -> Option<&'a T> {
            let own = names.iter().find_map(|name| cloud.option(name, |options| of(&options.retries)));
            own.or_else(|| of(&cloud.retries))
        }
        let retries = Retries {
            connect: either(self, names, |retries| retries.connect.as_ref()).copied(),
            connect_delay: either(self, names, |retries| retries.connect_delay.as_ref()).copied(),
            status: either(self, names, |retries| retries.status.as_ref()).copied(),
            status_delay: either(self, names, |retries| retries.status_delay.as_ref()).copied(),
            statuses: either(self, names, |retries| retries.statuses.as_ref()).cloned(),
        };
        let any = [retries.connect, retries.status].into_iter().flatten().any(|times| times > 0);
        any.then_some(retries)
    }
}

impl Retries {
    /// Whether an answer with that status is worth another attempt.
    pub fn is_retriable(&self, status: u16) -> bool {
        self.statuses.as_deref().unwrap_or(&RETRIABLE).contains(&status)
    }

    /// How long to wait before the attempt after `done` earlier ones: always `fixed`, or longer each time.
    pub fn delay(fixed: Option<Duration>, done: u32) -> Duration {
        let growing = || FIRST_DELAY.saturating_mul(1 << done.min(16));
        fixed.filter(|fixed| !fixed.is_zero()).unwrap_or_else(growing).min(LONGEST_DELAY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keystone::catalog::tests::config;

    fn with(services: &[(&str, ServiceOptions)]) -> Config {
        let services = services.iter().map(|(name, options)| ((*name).to_owned(), options.clone())).collect();
        Config { services, ..config() }
    }

    #[test]
    fn ids_of_the_token_are_put_into_overrides_that_want_them() {
        let url = |text| BaseUrl::parse(text).unwrap();
        let named = |id: &str| {
            Some(crate::keystone::Named {
                id: id.to_owned(),
                name: String::new(),
                domain_id: None,
                domain_name: None,
            })
        };
        let mut token = crate::keystone::Token::fixed(
            crate::keystone::TokenId::new("t").unwrap(),
            crate::keystone::Catalog::default(),
            std::time::Instant::now(),
        );
        let mut cloud = config();
        cloud.endpoint_overrides.insert("dns".to_owned(), url("https://d.example/v2"));
        assert!(matches!(cloud.of_token(&token), Cow::Borrowed(_)));
        cloud.endpoint_overrides.insert(
            "object-store".to_owned(),
            url("https://s.example/AUTH_%(project_id)s/%(user_id)s/%(project_id)s"),
        );
        for (project, user, path) in [
            (named("p1"), named("u_-2"), "/AUTH_p1/u_-2/p1"),
            (None, named("u2"), "/AUTH_%(project_id)s/u2/%(project_id)s"),
            (named("p1"), named(".."), "/AUTH_p1/%(user_id)s/p1"),
            (named("a/b"), named(""), "/AUTH_%(project_id)s/%(user_id)s/%(project_id)s"),
        ] {
            (token.project, token.user) = (project, user);
            let filled = cloud.of_token(&token);
            assert_eq!(filled.endpoint_overrides["object-store"].path(), path);
            assert_eq!(filled.endpoint_overrides["dns"].path(), "/v2");
        }
        let why = crate::keystone::catalog::choose(&cloud, &token.catalog, "object-store", None).unwrap_err();
        assert!(
            why.to_string().starts_with("the cloud's `object_store_endpoint_override` wants a project_id")
        );
    }

    #[test]
    fn an_option_is_looked_up_by_itself_under_each_name_of_the_service() {
        let cloud = with(&[
            (
                "volume",
                ServiceOptions { region: Some("Two".to_owned()), api_version: Some(2), ..Default::default() },
            ),
            (
                "block-storage",
                ServiceOptions {
                    api_version: Some(3),
                    interfaces: vec![Interface::Admin],
                    ..Default::default()
                },
            ),
        ]);
        for name in ["block-storage", "block_storage", "volumev3"] {
            assert_eq!(cloud.region_of(name), Some("Two"), "{name}");
            assert_eq!(cloud.interfaces_of(name), [Interface::Admin], "{name}");
        }
        assert_eq!(cloud.api_version_of("block-storage"), Some(3));
        assert_eq!(cloud.api_version_of("volume"), Some(2), "the asked name comes first");
        assert_eq!(cloud.api_version_of("volumev2"), None, "it has a version itself");
        assert_eq!((cloud.region_of("compute"), cloud.api_version_of("compute")), (Some("RegionOne"), None));
        assert_eq!(cloud.interfaces_of("compute"), [Interface::Public]);
    }

    #[track_caller]
    fn check_microversion(service: &str, version: &str, fields: &[(&str, &str)]) {
        let options = ServiceOptions { microversion: Some(version.to_owned()), ..Default::default() };
        let cloud = with(&[(service, options)]);
        let got = cloud.microversion_of([service, service]);
        let got: Vec<_> = got.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(got, fields);
    }

    #[test]
    fn a_microversion_is_said_in_the_words_of_its_service() {
        check_microversion(
            "compute",
            "2.79",
            &[("openstack-api-version", "compute 2.79"), ("x-openstack-nova-api-version", "2.79")],
        );
        check_microversion(
            "bare-metal",
            "latest",
            &[("openstack-api-version", "baremetal latest"), ("x-openstack-ironic-api-version", "latest")],
        );
        check_microversion(
            "share",
            "2.65",
            &[
                ("openstack-api-version", "shared-file-system 2.65"),
                ("x-openstack-manila-api-version", "2.65"),
            ],
        );
        check_microversion("volumev3", "3.60", &[("openstack-api-version", "volume 3.60")]);
        check_microversion("container-infra", "1.9", &[("openstack-api-version", "container-infra 1.9")]);
        check_microversion("placement", "1.39", &[("openstack-api-version", "placement 1.39")]);
        check_microversion("metric", "1.1", &[("openstack-api-version", "metric 1.1")]);
        assert!(config().microversion_of(["compute", "compute"]).is_empty());
        let options = ServiceOptions { microversion: Some("2.79".to_owned()), ..Default::default() };
        let cloud = with(&[("compute", options)]);
        for kind in ["compute_legacy", "*", "compute"] {
            assert_eq!(cloud.microversion_of([kind, "compute"])[0].1, "compute 2.79", "{kind}");
        }
    }

    #[test]
    fn retries_are_the_services_own_else_the_clouds_one_by_one() {
        let own = Retries { connect: Some(0), statuses: Some(vec![500]), ..Retries::default() };
        let cloud = Config {
            retries: Retries { connect: Some(3), status: Some(2), ..Retries::default() },
            ..with(&[("image", ServiceOptions { retries: own, ..Default::default() })])
        };
        let image = cloud.retries_of(["image", "glance"]).unwrap();
        assert_eq!((image.connect, image.status), (Some(0), Some(2)));
        assert!(image.is_retriable(500) && !image.is_retriable(503));
        let compute = cloud.retries_of(["compute", "compute"]).unwrap();
        assert_eq!(compute.connect, Some(3));
        assert!(compute.is_retriable(503) && compute.is_retriable(429) && !compute.is_retriable(500));
        assert_eq!(config().retries_of(["image", "image"]), None);
    }

    #[test]
    fn delays_grow_unless_one_is_given_and_end_somewhere() {
        let seconds =
            |fixed: Option<f64>, done| Retries::delay(fixed.map(Duration::from_secs_f64), done).as_secs_f64();
        assert_eq!([0, 1, 2, 3].map(|done| seconds(None, done)), [0.5, 1.0, 2.0, 4.0]);
        assert_eq!(seconds(None, 99), 60.0);
        assert_eq!([0, 5].map(|done| seconds(Some(0.25), done)), [0.25, 0.25]);
        assert_eq!(seconds(Some(0.0), 1), 1.0, "as in keystoneauth, 0 is none");
    }
}
