//! What does one cloud's entry mean, and is it complete?
//!
//! The rules are keystoneauth's and openstacksdk's. Login options may stand under `auth` or beside it;
//! `tenant` is the old word for `project`; a domain that is given with a project is also the user's
//! and the project's. One rule is the `openstack` command's: where an Identity v3 name needs a domain
//! and none is given, it is the domain with the id `default`.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde_json::{Map, Value};
use zeroize::Zeroize as _;

use super::problems::{ENVIRONMENT, Problems};
use super::{Env, exposure, value};
use crate::keystone::credentials::AllowHttp;
use crate::keystone::{
    ApplicationCredential, Auth, Config, Domain, Identity, IdentityVersion, Interface, Method, Project,
    Scope, Secret, User,
};
use crate::secret;
use crate::upstream::{BaseUrl, Scheme, tls};

/// The values of `auth_type` that keyway knows.
const AUTH_TYPES: &str = "password, v3password, v2password, token, v3token, v2token, v3applicationcredential, \
                          admin_token (token_endpoint)";

/// Options that win beside `auth` over those in it; for all others it is the other way round.
const TOP_FIRST: [&str; 11] = [
    "domain_id",
    "domain_name",
    "user_domain_id",
    "user_domain_name",
    "project_domain_id",
    "project_domain_name",
    "project_id",
    "project_name",
    "tenant_id",
    "tenant_name",
    "token",
];

/// Options that end in `_endpoint` but belong to a login.
const LOGIN_ENDPOINTS: [&str; 5] = [
    "oauth2_endpoint",
    "access_token_endpoint",
    "discovery_endpoint",
    "device_authorization_endpoint",
    "service_provider_endpoint",
];

/// One cloud as written: `OS_*` variables (in small letters, without `OS_`), or an entry of
/// clouds.yaml with all that applies to it.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) values: Map<String, Value>,
    pub(super) place: Place,
}

/// There may be a password in it.
impl Drop for Entry {
    fn drop(&mut self) {
        secret::wipe_members(&mut self.values);
        if let Place::File(FilePlace { secure: Some((_, document)), .. }) = &mut self.place {
            secret::wipe(document);
        }
    }
}

/// Where an entry stands.
#[derive(Clone)]
pub(super) enum Place {
    Environment,
    File(FilePlace),
}

/// clouds.yaml, and the secure.yaml that was merged over it.
#[derive(Clone)]
pub(super) struct FilePlace {
    pub(super) path: PathBuf,
    pub(super) secure: Option<(PathBuf, Value)>,
}

impl Entry {
    /// Where a person finds or writes an option: source and key.
    pub(super) fn name_of(&self, option: &str, in_auth: bool) -> (String, String) {
        match &self.place {
            Place::Environment => (ENVIRONMENT.to_owned(), format!("OS_{}", option.to_ascii_uppercase())),
            Place::File(place) => {
                let mut path = vec!["clouds", &self.name];
                path.extend(in_auth.then_some("auth"));
                path.push(option);
                let source = match &place.secure {
                    Some((secure, document)) if holds(document, &path) => secure,
                    _ => &place.path,
                };
                (source.display().to_string(), path.join("."))
            }
        }
    }
}

fn holds(document: &Value, path: &[&str]) -> bool {
    let found = path.iter().try_fold(document, |value, name| {
        value
            .as_object()?
            .iter()
            .find(|(key, _)| key.replace('-', "_") == name.replace('-', "_"))
            .map(|(_, v)| v)
    });
    found.is_some()
}

/// Whether a variable (in small letters, without `OS_`) says where to log in or as whom.
pub(super) fn is_login(key: &str) -> bool {
    let exact =
        ["auth_url", "auth_type", "auth_plugin", "username", "user_id", "user_name", "password", "token"];
    exact.contains(&key)
        || ["auth_token", "endpoint", "project_id", "project_name", "tenant_id", "tenant_name"].contains(&key)
        || key.starts_with("application_credential_")
}

/// Checks an entry. `None` means that there are problems.
pub(super) fn check(
    entry: &Entry,
    env: &Env,
    problems: &mut Problems,
    warnings: &mut Vec<String>,
) -> Option<Config> {
    let before = problems.len();
    let empty = Map::new();
    let auth = match entry.values.get("auth") {
        Some(Value::Object(auth)) => auth,
        None | Some(Value::Null) => &empty,
        Some(_) => {
            let (source, key) = entry.name_of("auth", false);
            problems.add(source, key, "not a mapping: write auth_url and the other values below it");
            &empty
        }
    };
    let mut reader = Reader { entry, auth, env, problems, warnings };
    let auth = reader.login();
    let region = reader.text(&["region_name"]);
    let interfaces = reader.interfaces();
    let endpoint_overrides = reader.endpoint_overrides();
    let tls = reader.tls();
    let region = region.map(|region| region.text.split(',').next().unwrap_or_default().trim().to_owned());
    if let Some(Auth::Identity(Identity { auth_url, .. }) | Auth::Fixed { endpoint: auth_url, .. }) = &auth {
        reader.warn_of_plain_http(auth_url);
    }
    if problems.len() > before {
        return None;
    }
    Some(Config {
        name: entry.name.clone(),
        auth: auth?,
        region: region.filter(|region| !region.is_empty()),
        interfaces,
        endpoint_overrides,
        tls,
        allow_http: AllowHttp::Never,
    })
}

/// Reads one entry's options, and notes what is wrong with them.
struct Reader<'a> {
    entry: &'a Entry,
    auth: &'a Map<String, Value>,
    env: &'a Env,
    problems: &'a mut Problems,
    warnings: &'a mut Vec<String>,
}

/// An option's value, and what its place is called.
struct Written {
    text: String,
    source: String,
    key: String,
}

/// What proves who we are, before its options are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Password,
    Token,
    ApplicationCredential,
    Fixed,
}

impl Reader<'_> {
    /// An option that has a value, by any of its names: the first name wins. An empty value is none.
    fn text(&mut self, names: &[&str]) -> Option<Written> {
        for name in names {
            let mut places = [(true, self.auth.get(*name)), (false, self.entry.values.get(*name))];
            if TOP_FIRST.contains(name) {
                places.reverse();
            }
            for (in_auth, value) in places {
                match value {
                    None | Some(Value::Null) => {}
                    Some(Value::String(text)) if text.is_empty() => {}
                    Some(Value::String(text)) => {
                        let (source, key) = self.entry.name_of(name, in_auth);
                        return Some(Written { text: text.clone(), source, key });
                    }
                    Some(_) => {
                        let (source, key) = self.entry.name_of(name, in_auth);
                        self.problems.add(source, key, "a list or a mapping where one value belongs");
                    }
                }
            }
        }
        None
    }

    /// Whether an option has a value, which may be a secret.
    fn has(&mut self, names: &[&str]) -> bool {
        let found = self.text(names);
        let has = found.is_some();
        found.into_iter().for_each(|mut found| found.text.zeroize());
        has
    }

    fn problem_at(&mut self, at: &Written, message: impl std::fmt::Display) {
        self.problems.add(&at.source, &at.key, message);
    }

    /// Notes that a login option is missing, under the name that it should have.
    fn missing(&mut self, option: &str, message: &str) {
        let (source, key) = self.entry.name_of(option, true);
        self.problems.add(source, key, message);
    }

    fn required(&mut self, names: &[&str], message: &str) -> Option<String> {
        let found = self.text(names);
        if found.is_none() {
            self.missing(names[0], message);
        }
        found.map(|found| found.text)
    }

    fn url(&mut self, at: &Written) -> Option<BaseUrl> {
        // The value itself may hold a password, in its userinfo: it is not shown.
        if at.text.contains('{') || at.text.contains("%(") || at.text.contains("$(") {
            self.problem_at(at, "templates in URLs are not supported yet: write the URL out");
            return None;
        }
        match BaseUrl::parse(&at.text) {
            Ok(url) => Some(url),
            Err(error) => {
                self.problem_at(
                    at,
                    format!("no usable URL: {error}; write for example https://cloud.example:5000"),
                );
                None
            }
        }
    }

    fn boolean(&mut self, name: &str, default: bool) -> bool {
        let Some(at) = self.text(&[name]) else { return default };
        value::boolean(&at.text).unwrap_or_else(|message| {
            self.problem_at(&at, message);
            default
        })
    }

    fn login(&mut self) -> Option<Auth> {
        let auth_type = self.text(&["auth_type", "auth_plugin"]);
        let (kind, version) = match auth_type.as_ref().map(|at| at.text.as_str()) {
            None => (self.likely_kind(), None),
            Some("password") => (Kind::Password, None),
            Some("v3password") => (Kind::Password, Some(IdentityVersion::V3)),
            Some("v2password") => (Kind::Password, Some(IdentityVersion::V2)),
            Some("token") => (Kind::Token, None),
            Some("v3token") => (Kind::Token, Some(IdentityVersion::V3)),
            Some("v2token") => (Kind::Token, Some(IdentityVersion::V2)),
            Some("v3applicationcredential") => (Kind::ApplicationCredential, Some(IdentityVersion::V3)),
            Some("admin_token" | "token_endpoint") => (Kind::Fixed, None),
            Some(other) => {
                let message = format!("`{other}` is not supported: there is {AUTH_TYPES}");
                let at = auth_type.as_ref().expect("it has a value");
                self.problem_at(at, message);
                return None;
            }
        };
        if kind == Kind::Fixed {
            return self.fixed();
        }
        let auth_url = self.auth_url();
        let version = self.version(kind, version, auth_url.as_ref());
        let method = self.method(kind, version);
        let scope = self.scope(kind, version);
        Some(Auth::Identity(Identity { auth_url: auth_url?.1, version, method: method?, scope }))
    }

    /// What `auth_type` would be, by what there is.
    fn likely_kind(&mut self) -> Kind {
        if self.has(&["application_credential_id", "application_credential_name"]) {
            Kind::ApplicationCredential
        } else if self.has(&["token", "auth_token"]) && !self.has(&["password"]) {
            Kind::Token
        } else {
            Kind::Password
        }
    }

    fn fixed(&mut self) -> Option<Auth> {
        let endpoint = self.text(&["endpoint"]);
        if endpoint.is_none() {
            self.missing("endpoint", "missing: auth_type admin_token needs the URL that serves all requests");
        }
        let token = self.required(&["token", "auth_token"], "missing: auth_type admin_token needs the token");
        let endpoint = endpoint.and_then(|at| self.url(&at));
        Some(Auth::Fixed { endpoint: endpoint?, token: Secret::new(token?) })
    }

    fn auth_url(&mut self) -> Option<(Written, BaseUrl)> {
        let Some(at) = self.text(&["auth_url"]) else {
            self.missing(
                "auth_url",
                "missing: set it to Keystone's URL, such as https://cloud.example:5000/v3",
            );
            return None;
        };
        let url = self.url(&at)?;
        Some((at, url))
    }

    /// The Identity API to speak: `auth_type` says it, or `identity_api_version`, or the URL's end.
    fn version(
        &mut self,
        kind: Kind,
        by_type: Option<IdentityVersion>,
        auth_url: Option<&(Written, BaseUrl)>,
    ) -> IdentityVersion {
        let by_key = match self.text(&["identity_api_version"]) {
            None => None,
            Some(at) => match at.text.trim_start_matches('v').split('.').next() {
                Some("2") => Some(IdentityVersion::V2),
                Some("3") => Some(IdentityVersion::V3),
                _ => {
                    self.problem_at(&at, format!("`{}` is no Identity API version: 3 or 2.0", at.text));
                    None
                }
            },
        };
        let by_url = auth_url.and_then(|(_, url)| match url.path().rsplit('/').next() {
            Some("v3") => Some(IdentityVersion::V3),
            Some("v2.0") => Some(IdentityVersion::V2),
            _ => None,
        });
        let explicit = by_type.or(by_key);
        if let (Some(explicit), Some(by_url), Some((at, url))) = (explicit, by_url, auth_url)
            && explicit != by_url
        {
            let (wanted, named) = match explicit {
                IdentityVersion::V2 => {
                    ("v2.0", if by_type.is_some() { "auth_type" } else { "identity_api_version" })
                }
                _ => ("v3", if by_type.is_some() { "auth_type" } else { "identity_api_version" }),
            };
            let end = url.path().rsplit('/').next().unwrap_or_default();
            self.problem_at(
                at,
                format!("ends in /{end}, but {named} asks for Identity {wanted}: change one of them"),
            );
        }
        let version = explicit.or(by_url).unwrap_or_default();
        if kind != Kind::ApplicationCredential {
            return version;
        }
        if version == IdentityVersion::V2 {
            self.missing(
                "application_credential_id",
                "Identity v2.0 has no application credentials: use a v3 auth_url, and no identity_api_version",
            );
        }
        IdentityVersion::V3
    }

    fn method(&mut self, kind: Kind, version: IdentityVersion) -> Option<Method> {
        match kind {
            Kind::Password => {
                let user = self.user(version);
                if user.is_none() {
                    self.missing("username", "missing: set it, or user_id");
                }
                let password =
                    self.required(&["password"], "missing: set it (for clouds.yaml, best in secure.yaml)");
                Some(Method::Password { user: user?, password: Secret::new(password?) })
            }
            Kind::Token => {
                let token =
                    self.required(&["token", "auth_token"], "missing: auth_type token needs a token")?;
                Some(Method::Token(Secret::new(token)))
            }
            Kind::ApplicationCredential => {
                let which = match self.text(&["application_credential_id"]) {
                    Some(id) => Some(ApplicationCredential::Id(id.text)),
                    None => self.named_credential(),
                };
                let secret = self.required(
                    &["application_credential_secret"],
                    "missing: set it to the secret that was shown when the credential was made",
                );
                Some(Method::ApplicationCredential { which: which?, secret: Secret::new(secret?) })
            }
            Kind::Fixed => None,
        }
    }

    fn named_credential(&mut self) -> Option<ApplicationCredential> {
        let Some(name) = self.text(&["application_credential_name"]) else {
            self.missing(
                "application_credential_id",
                "missing: set it, or application_credential_name and the user",
            );
            return None;
        };
        let user = self.user(IdentityVersion::V3);
        if user.is_none() {
            let message = "missing: an application credential's name is unique per user only, so set username or \
                           user_id, or use application_credential_id";
            self.missing("username", message);
        }
        Some(ApplicationCredential::Name { name: name.text, user: user? })
    }

    fn user(&mut self, version: IdentityVersion) -> Option<User> {
        if let Some(id) = self.text(&["user_id"]) {
            return Some(User::Id(id.text));
        }
        let name = self.text(&["username", "user_name"])?.text;
        // Without a project, `domain_*` is the scope; with one, it stands for the user's domain too.
        let shared = self.has_project();
        let domain = self.domain(version, "user_domain", shared);
        Some(User::Name { name, domain })
    }

    fn has_project(&mut self) -> bool {
        self.text(&["project_id", "tenant_id", "project_name", "tenant_name"]).is_some()
    }

    /// The domain of a name. Identity v2.0 has none.
    fn domain(&mut self, version: IdentityVersion, prefix: &str, shared: bool) -> Option<Domain> {
        if version == IdentityVersion::V2 {
            return None;
        }
        let prefixes = [Some(prefix), shared.then_some("domain"), Some("default_domain")];
        for prefix in prefixes.into_iter().flatten() {
            if let Some(id) = self.text(&[&format!("{prefix}_id")]) {
                return Some(Domain::Id(id.text));
            }
            if let Some(name) = self.text(&[&format!("{prefix}_name")]) {
                return Some(Domain::Name(name.text));
            }
        }
        Some(Domain::Id("default".to_owned()))
    }

    fn scope(&mut self, kind: Kind, version: IdentityVersion) -> Scope {
        let project_id = self.text(&["project_id", "tenant_id"]);
        let project_name = self.text(&["project_name", "tenant_name"]);
        let system = self.text(&["system_scope"]);
        let has_project = project_id.is_some() || project_name.is_some();
        let domain_id = self.text(&["domain_id"]).filter(|_| !has_project);
        let domain_name = self.text(&["domain_name"]).filter(|_| !has_project);
        let unscoped = self.boolean("unscoped", false);
        if let Some(at) = self.text(&["trust_id"]) {
            self.problem_at(&at, "trusts are not supported yet: remove it");
        }

        let project = project_id.as_ref().or(project_name.as_ref());
        let domain = domain_id.as_ref().or(domain_name.as_ref());
        let asked: Vec<_> = [project, domain, system.as_ref()].into_iter().flatten().collect();
        if kind == Kind::ApplicationCredential {
            for at in asked {
                let ignored = format!(
                    "{}: {}: ignored, since an application credential brings its own project",
                    at.source, at.key
                );
                self.warnings.push(ignored);
            }
            return Scope::Default;
        }
        if let Some(at) = &system
            && at.text != "all"
        {
            self.problem_at(at, format!("`{}` is no system scope: the only one is `all`", at.text));
        }
        if let [first, others @ ..] = asked.as_slice() {
            for other in others {
                let message =
                    format!("one login has one scope, and {} asks for another: remove one", first.key);
                self.problem_at(other, message);
            }
            if unscoped {
                let message = "`unscoped` is set too: remove one";
                self.problem_at(first, message);
            }
        }
        if version == IdentityVersion::V2 {
            for at in [domain, system.as_ref()].into_iter().flatten() {
                let message = "Identity v2.0 has neither domains nor a system scope: remove it, or use v3";
                self.problem_at(at, message);
            }
            if let (Some(id), Some(name)) = (&project_id, &project_name) {
                let message = format!(
                    "Identity v2.0 takes a tenant's id or its name, and {} is set too: remove one",
                    name.key
                );
                self.problem_at(id, message);
            }
        }

        if let Some(id) = project_id {
            Scope::Project(Project::Id(id.text))
        } else if let Some(name) = project_name {
            let domain = self.domain(version, "project_domain", true);
            Scope::Project(Project::Name { name: name.text, domain })
        } else if let Some(id) = domain_id {
            Scope::Domain(Domain::Id(id.text))
        } else if let Some(name) = domain_name {
            Scope::Domain(Domain::Name(name.text))
        } else if system.is_some() {
            Scope::System
        } else if unscoped {
            Scope::Unscoped
        } else {
            Scope::Default
        }
    }

    fn interfaces(&mut self) -> Vec<Interface> {
        let mut interfaces = Vec::new();
        for key in ["interface", "endpoint_type"] {
            let texts: Vec<String> = match self.entry.values.get(key) {
                Some(Value::String(text)) if !text.is_empty() => vec![text.clone()],
                Some(Value::Array(items)) => {
                    items.iter().map(|item| item.as_str().unwrap_or_default().to_owned()).collect()
                }
                None | Some(Value::Null | Value::String(_)) => continue,
                Some(_) => vec![String::new()],
            };
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
            break;
        }
        if interfaces.is_empty() {
            interfaces.push(Interface::Public);
        }
        interfaces
    }

    fn endpoint_overrides(&mut self) -> BTreeMap<String, BaseUrl> {
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
                if let Some(url) = self.text(&[key]).and_then(|at| self.url(&at)) {
                    overrides.insert(service.replace('_', "-"), url);
                }
            }
        }
        overrides
    }

    fn tls(&mut self) -> tls::Config {
        let verify = self.boolean("verify", true);
        let insecure = self.boolean("insecure", false) || !verify;
        if insecure {
            let cloud = &self.entry.name;
            let warning = format!(
                "cloud {cloud}: certificates are not checked (insecure, or verify: false): whoever is on the way can \
                 take the password and the token"
            );
            self.warnings.push(warning);
        }
        let ca_file = match self.text(&["cacert"]) {
            Some(at) if !insecure => self.file(&at),
            _ => None,
        };
        let cert = self.text(&["cert"]);
        let key = self.text(&["key"]);
        if let (None, Some(key)) = (&cert, &key) {
            self.problem_at(key, "a key without a certificate: set `cert` too, or remove it");
        }
        let key_file = key.as_ref().and_then(|at| self.file(at));
        let client_cert = cert.and_then(|at| self.file(&at)).map(|cert| (cert, key_file));
        if let Some((cert, key)) = &client_cert {
            let (option, file) = match key {
                Some(key) => ("key", key),
                None => ("cert", cert),
            };
            if let Err(message) = exposure::check_key(file, self.env, self.warnings) {
                let (source, option) = self.entry.name_of(option, false);
                self.problems.add(source, option, message);
            }
        }
        tls::Config { ca_file, insecure, client_cert }
    }

    /// A file that is there and can be read.
    fn file(&mut self, at: &Written) -> Option<PathBuf> {
        let path = self.env.path(&at.text);
        match fs::File::open(&path).and_then(|file| file.metadata()) {
            Ok(metadata) if metadata.is_file() => Some(path),
            Ok(_) => {
                self.problem_at(at, format!("{} is not a file", path.display()));
                None
            }
            Err(error) => {
                self.problem_at(at, format!("{} cannot be read: {error}", path.display()));
                None
            }
        }
    }

    fn warn_of_plain_http(&mut self, url: &BaseUrl) {
        let origin = url.origin();
        let local = origin.host() == "localhost"
            || origin.host().parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        if origin.scheme() == Scheme::Http && !local {
            self.warnings.push(format!(
                "cloud {}: {origin} is plain http: credentials and tokens cross the network in the clear",
                self.entry.name
            ));
        }
    }
}
