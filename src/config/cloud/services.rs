//! Which endpoints does a cloud's entry choose, and what else does it decide for one service?

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use serde_json::Value;

use super::{Reader, Written};
use zeroize::Zeroize as _;

use crate::keystone::service::{Limits, PROJECT_ID, USER_ID, wanted_id};
use crate::keystone::{Interface, Retries, ServiceOptions, service_type};
use crate::upstream::BaseUrl;

/// Options that end in `_endpoint` but belong to a login.
const LOGIN_ENDPOINTS: [&str; 6] = [
    "authorization_endpoint",
    "oauth2_endpoint",
    "access_token_endpoint",
    "discovery_endpoint",
    "device_authorization_endpoint",
    "service_provider_endpoint",
];

/// What options of one service end in, besides those for its endpoint. The old word for the interface
/// stands first, so that the new one wins.
const OPTIONS: [&str; 12] = [
    "_endpoint_type",
    "_interface",
    "_region_name",
    "_service_type",
    "_service_name",
    "_api_version",
    "_default_microversion",
    "_connect_retries",
    "_connect_retry_delay",
    "_status_code_retries",
    "_status_code_retry_delay",
    "_retriable_status_codes",
];

/// How much services may be asked: for all of them, by service, or with a service's type in front.
const RATE_LIMIT: &str = "rate_limit";
const CONCURRENCY: &str = "concurrency";

/// The highest and the lowest rate that anyone means, requests per second.
const RATES: std::ops::RangeInclusive<f64> = 0.001..=100_000.0;
/// The most requests that anyone lets be under way.
const MOST_AT_ONCE: u32 = 100_000;

/// Options that end in `_timeout` but are no service's.
const NO_SERVICE: [&str; 2] = ["api_timeout", "login_timeout"];
/// The shortest and the longest timeout that anyone means, seconds.
const TIMEOUTS: std::ops::RangeInclusive<f64> = 0.1..=86_400.0;

/// The most attempts and the longest delay in seconds that anyone means.
const MOST_RETRIES: u32 = 100;
const LONGEST_DELAY: f64 = 60.0;

impl Reader<'_> {
    pub(super) fn interfaces(&mut self) -> Vec<Interface> {
        let found = ["interface", "endpoint_type"].into_iter().find_map(|key| self.interfaces_at(key));
        found.filter(|interfaces| !interfaces.is_empty()).unwrap_or_else(|| vec![Interface::Public])
    }

    /// A word or a list, each interface once. `None` where nothing is written.
    fn interfaces_at(&mut self, key: &str) -> Option<Vec<Interface>> {
        let texts: Vec<String> = match self.entry.values.get(key) {
            Some(Value::String(text)) if !text.is_empty() => vec![text.clone()],
            Some(Value::Array(items)) => {
                items.iter().map(|item| item.as_str().unwrap_or_default().to_owned()).collect()
            }
            None | Some(Value::Null | Value::String(_)) => return None,
            Some(_) => vec![String::new()],
        };
        let mut interfaces = Vec::new();
        for text in texts {
            match text.parse() {
                Ok(interface) if interfaces.contains(&interface) => {}
                Ok(interface) => interfaces.push(interface),
                Err(message) => {
                    let (source, key) = self.entry.name_of(key, false);
                    self.problems.add(source, key, message);
                }
            }
        }
        Some(interfaces)
    }

    /// Whether there is an endpoint override.
    pub(super) fn has_override(&mut self) -> bool {
        let is_override = |key: &String| {
            key.ends_with("_endpoint_override")
                || key.ends_with("_endpoint") && !LOGIN_ENDPOINTS.contains(&key.as_str())
        };
        let mut keys = self.entry.values.keys().filter(|key| is_override(key));
        keys.any(|key| self.entry.values[key].as_str().is_some_and(|url| !url.is_empty()))
    }

    /// `has_ids`: tokens are for a project and a user.
    pub(super) fn endpoint_overrides(&mut self, has_ids: bool) -> BTreeMap<String, BaseUrl> {
        let mut overrides = BTreeMap::new();
        // The longer form wins, so it comes last.
        for suffix in ["_endpoint", "_endpoint_override"] {
            for key in self.entry.values.keys() {
                let Some(service) = key.strip_suffix(suffix).filter(|service| !service.is_empty()) else {
                    continue;
                };
                if LOGIN_ENDPOINTS.contains(&key.as_str()) {
                    continue;
                }
                if let Some(url) = self.text(&[key]).and_then(|at| self.endpoint_override(at, has_ids)) {
                    overrides.insert(service.replace('_', "-"), url);
                }
            }
        }
        overrides
    }

    /// A URL in whose path ids may be wanted: as keystoneauth writes that, or as catalogs do.
    fn endpoint_override(&mut self, mut at: Written, has_ids: bool) -> Option<BaseUrl> {
        for id in ["project_id", "tenant_id", "user_id"] {
            let wanted = if id == "user_id" { USER_ID } else { PROJECT_ID };
            for form in [format!("%({id})s"), format!("$({id})s")] {
                at.text = at.text.replace(&form, wanted);
            }
        }
        let mut rest = at.text.replace(PROJECT_ID, "").replace(USER_ID, "");
        let is_plain = rest == at.text;
        if ["%(", "$("].iter().any(|template| rest.contains(template)) {
            let message =
                "nothing else can be put into it than %(project_id)s and %(user_id)s: write the URL out";
            self.problem_at(&at, message);
            rest.zeroize();
            return None;
        }
        rest.zeroize();
        let url = self.url_of(&at)?;
        if !is_plain && !has_ids {
            self.problem_at(&at, "no id can be put into it without a login at Keystone: write it out");
            return None;
        }
        if !is_plain && wanted_id(&url).is_none() {
            self.problem_at(&at, "ids can be put into its path only: write the host out");
            return None;
        }
        Some(url)
    }

    /// The options with a service's type in front, by that type.
    pub(super) fn services(&mut self) -> BTreeMap<String, ServiceOptions> {
        let mut services: BTreeMap<String, ServiceOptions> = BTreeMap::new();
        let mut unknown: Vec<&str> = Vec::new();
        for suffix in OPTIONS {
            for key in self.entry.values.keys() {
                let Some(service) = key.strip_suffix(suffix).filter(|service| !service.is_empty()) else {
                    continue;
                };
                if !self.is_written(key) {
                    continue;
                }
                if !service_type::is_known(service) && !unknown.contains(&service) {
                    unknown.push(service);
                    self.warnings.push(format!(
                        "cloud {}: {key} is for a service of exactly this type: `{service}` is no type or alias of \
                         OpenStack's",
                        self.entry.name
                    ));
                }
                let options = services.entry(service.replace('_', "-")).or_default();
                self.service_option(key, suffix, options);
            }
        }
        for (service, options) in &services {
            let prefix = service.replace('-', "_");
            self.check_retries(&format!("{prefix}_"), &options.retries, true);
        }
        for (option, suffix) in [(RATE_LIMIT, "_rate_limit"), (CONCURRENCY, "_concurrency")] {
            let mut written: Vec<(String, Written)> = Vec::new();
            for key in self.entry.values.keys() {
                if let Some(service) = key.strip_suffix(suffix).filter(|service| !service.is_empty()) {
                    written.extend(self.text(&[key]).map(|at| (service.to_owned(), at)));
                }
            }
            if let Some(Value::Object(members)) = self.entry.values.get(option) {
                for (service, value) in members {
                    let (source, key) = self.entry.name_of(option, false);
                    let text = match value {
                        Value::Null => continue,
                        Value::String(text) => text.clone(),
                        other => other.to_string(),
                    };
                    written
                        .push((service.clone(), Written { text, source, key: format!("{key}.{service}") }));
                }
            }
            for (service, at) in written {
                let mut limits = Limits::default();
                self.limit(option, &at, &mut limits);
                let own = &mut services.entry(service.replace('_', "-")).or_default().limits;
                (own.pace, own.concurrency) =
                    (limits.pace.or(own.pace), limits.concurrency.or(own.concurrency));
            }
        }
        services.retain(|_, options| *options != ServiceOptions::default());
        services
    }

    /// Retries of services that say nothing else.
    pub(super) fn retries(&mut self) -> Retries {
        let mut options = ServiceOptions::default();
        for suffix in OPTIONS.into_iter().filter(|suffix| suffix.contains("_retr")) {
            let key = &suffix[1..];
            if self.is_written(key) {
                self.service_option(key, suffix, &mut options);
            }
        }
        self.check_retries("", &options.retries, false);
        options.retries
    }

    /// `api_timeout`, or in its place what has a service's name in front: like openstacksdk, keyway knows one for all
    /// services of a cloud.
    pub(super) fn api_timeout(&mut self) -> Option<Duration> {
        let own = |key: &&String| key.ends_with("_timeout") && !NO_SERVICE.contains(&key.as_str());
        let mut keys: Vec<_> = self.entry.values.keys().filter(own).collect();
        keys.retain(|key| self.is_written(key));
        if keys.len() > 1 {
            self.warnings.push(format!(
                "cloud {}: there is one timeout for all services of a cloud, so of {} the longest counts",
                self.entry.name,
                keys.iter().map(|key| key.as_str()).collect::<Vec<_>>().join(" and ")
            ));
        }
        let read = |reader: &mut Self, key: &str| {
            let at = reader.text(&[key])?;
            let seconds = at.text.parse::<f64>().ok().filter(|seconds| TIMEOUTS.contains(seconds));
            if seconds.is_none() {
                let message = format!(
                    "`{}` is no timeout: {} to {} seconds",
                    at.text,
                    TIMEOUTS.start(),
                    TIMEOUTS.end()
                );
                reader.problem_at(&at, message);
            }
            seconds.map(Duration::from_secs_f64)
        };
        let all = read(self, "api_timeout");
        let longest = keys.into_iter().filter_map(|key| read(self, key)).max();
        longest.or(all)
    }

    /// How much services may be asked that say nothing else.
    pub(super) fn limits(&mut self) -> Limits {
        let mut limits = Limits::default();
        for option in [RATE_LIMIT, CONCURRENCY] {
            if !matches!(self.entry.values.get(option), Some(Value::Object(_)))
                && let Some(at) = self.text(&[option])
            {
                self.limit(option, &at, &mut limits);
            }
        }
        limits
    }

    /// Reads a number; 0 is no limit.
    fn limit(&mut self, option: &str, at: &Written, limits: &mut Limits) {
        if option == CONCURRENCY {
            match at.text.parse() {
                Ok(0) => {}
                Ok(most) if most <= MOST_AT_ONCE => limits.concurrency = Some(most),
                _ => self.problem_at(
                    at,
                    format!("`{}` is no number of requests at a time: 1 to {MOST_AT_ONCE}, or 0", at.text),
                ),
            }
            return;
        }
        match at.text.parse::<f64>() {
            Ok(0.0) => {}
            Ok(rate) if RATES.contains(&rate) => limits.pace = Some(Duration::from_secs_f64(1.0 / rate)),
            _ => self.problem_at(
                at,
                format!(
                    "`{}` is no number of requests per second: {} to {}, or 0",
                    at.text,
                    RATES.start(),
                    RATES.end()
                ),
            ),
        }
    }

    fn is_written(&self, key: &str) -> bool {
        match self.entry.values.get(key) {
            None | Some(Value::Null) => false,
            Some(Value::String(text)) => !text.is_empty(),
            Some(_) => true,
        }
    }

    /// Reads the option at `key`, which has a value.
    fn service_option(&mut self, key: &str, suffix: &str, options: &mut ServiceOptions) {
        match suffix {
            "_interface" | "_endpoint_type" => {
                options.interfaces = self.interfaces_at(key).unwrap_or_default();
            }
            "_retriable_status_codes" => options.retries.statuses = self.statuses_at(key),
            _ => {
                let Some(at) = self.text(&[key]) else { return };
                match suffix {
                    "_region_name" => options.region = Some(at.text),
                    "_service_type" => options.service_type = Some(at.text),
                    "_service_name" => options.service_name = Some(at.text),
                    "_api_version" => self.api_version(&at, key, options),
                    "_default_microversion" => {
                        let version = self.understood(&at, microversion(&at.text));
                        if let (Some(version), Some(implied)) = (&version, &options.microversion)
                            && version != implied
                        {
                            let prefix = key.strip_suffix(suffix).unwrap_or_default();
                            self.problem_at(
                                &at,
                                format!(
                                    "`{version}`, but {prefix}_api_version is the microversion {implied}: remove one of them"
                                ),
                            );
                        }
                        options.microversion = version;
                    }
                    "_connect_retries" => options.retries.connect = self.understood(&at, times(&at.text)),
                    "_connect_retry_delay" => {
                        options.retries.connect_delay = self.understood(&at, delay(&at.text));
                    }
                    "_status_code_retries" => options.retries.status = self.understood(&at, times(&at.text)),
                    _ => options.retries.status_delay = self.understood(&at, delay(&at.text)),
                }
            }
        }
    }

    fn understood<T>(&mut self, at: &Written, outcome: Result<T, impl Display>) -> Option<T> {
        outcome.map_err(|message| self.problem_at(at, message)).ok()
    }

    /// `2` is a major version; `2.79` is a microversion of it, as openstacksdk has it, since no API has such
    /// a number in its path that could be chosen.
    fn api_version(&mut self, at: &Written, key: &str, options: &mut ServiceOptions) {
        // What it means for the login, and whether it means anything, is the login's question.
        let identity = key == "identity_api_version";
        let text = if identity { at.text.trim_start_matches('v') } else { &at.text };
        if text == "latest" {
            self.warnings.push(format!(
                "cloud {}: {} says nothing: a request without a version gets the catalog's, else the service's \
                 current one",
                self.entry.name, at.key
            ));
            return;
        }
        match numbers(text) {
            Some((major, 0)) => options.api_version = Some(major),
            Some((major, minor)) => {
                options.api_version = Some(major);
                options.microversion = (!identity).then(|| format!("{major}.{minor}"));
            }
            None if identity => {}
            None => self.problem_at(
                at,
                format!(
                    "`{}` is no API version: write a number such as 2, or 2.79 for a microversion",
                    at.text
                ),
            ),
        }
    }

    /// A list, or numbers with commas between them.
    fn statuses_at(&mut self, key: &str) -> Option<Vec<u16>> {
        let texts: Vec<String> = match self.entry.values.get(key)? {
            Value::Array(items) => items
                .iter()
                .map(|item| match item {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                })
                .collect(),
            _ => self.text(&[key])?.text.split(',').map(str::to_owned).collect(),
        };
        let (source, name) = self.entry.name_of(key, false);
        let mut statuses = Vec::new();
        for text in texts {
            match text.trim().parse::<u16>() {
                Ok(401) => self.problems.add(
                    &source,
                    &name,
                    "401 can't be among them: keyway answers it with a new token and one more attempt",
                ),
                Ok(status @ 400..=599) => statuses.push(status),
                _ => {
                    let message = format!("`{}` is no status of an error: 400 to 599", text.trim());
                    self.problems.add(&source, &name, message);
                }
            }
        }
        Some(statuses)
    }

    /// Warns of what has no effect because the number of attempts is missing.
    fn check_retries(&mut self, prefix: &str, own: &Retries, falls_back: bool) {
        let given = |reader: &Self, key: &str| falls_back && reader.is_written(key);
        let needs = [
            ("connect_retry_delay", own.connect_delay.is_some(), "connect_retries", own.connect),
            ("status_code_retry_delay", own.status_delay.is_some(), "status_code_retries", own.status),
            ("retriable_status_codes", own.statuses.is_some(), "status_code_retries", own.status),
        ];
        for (key, has, count, times) in needs {
            let alone = has && times.is_none() && !given(self, count);
            // Above all services, it may be meant for the one that has a number.
            let elsewhere = || self.entry.values.keys().any(|other| other.ends_with(&format!("_{count}")));
            if alone && (falls_back || !elsewhere()) {
                self.warnings.push(format!(
                    "cloud {}: {prefix}{key} has no effect without {prefix}{count}",
                    self.entry.name
                ));
            }
        }
    }
}

/// `2.79` as numbers; the second one is 0 where there is none.
fn numbers(text: &str) -> Option<(u32, u32)> {
    let number = |text: &str| {
        let plain = (1..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| text.parse().ok()).flatten()
    };
    match text.split_once('.') {
        Some((major, minor)) => Some((number(major)?, number(minor)?)),
        None => Some((number(text)?, 0)),
    }
}

fn microversion(text: &str) -> Result<String, String> {
    match numbers(text) {
        _ if text == "latest" => Ok(text.to_owned()),
        Some((major, minor)) => Ok(format!("{major}.{minor}")),
        None => Err(format!("`{text}` is no microversion: write for example 2.79, or latest")),
    }
}

fn times(text: &str) -> Result<u32, String> {
    let times = text.parse().ok().filter(|times| *times <= MOST_RETRIES);
    times.ok_or_else(|| format!("`{text}` is no number of attempts: 0 to {MOST_RETRIES}"))
}

fn delay(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.0..=LONGEST_DELAY).contains(seconds));
    let delay = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    delay.ok_or_else(|| format!("`{text}` is no delay: 0 to {LONGEST_DELAY} seconds"))
}
