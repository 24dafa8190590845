//! With what does a cloud's entry log in, and for what?

use serde_json::Value;

use super::{Reader, Written};
use crate::keystone::{
    ApplicationCredential, Auth, Domain, Identity, IdentityVersion, Method, MutualAuth, Passcode, Person,
    Project, Scope, Source, User, kerberos, totp,
};
use crate::upstream::{BaseUrl, Scheme};

/// What shows who we are, before its options are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Password,
    Token,
    ApplicationCredential,
    Totp,
    MultiFactor,
    OAuth2,
    OAuth2Mtls,
    Kerberos,
    OAuth1,
    Federated(Federation),
    Tokenless,
    Fixed,
    Basic,
    Nothing,
}

/// How an identity provider is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Federation {
    Password,
    ClientCredentials,
    AccessToken,
    Device,
    Code,
    WebSso,
    Kerberos,
    Saml,
    Adfs,
}

/// The values of `auth_type` that keyway knows, as keystoneauth calls its plugins, and the Identity API that
/// each of them belongs to.
const AUTH_TYPES: [(&str, Kind, Option<IdentityVersion>); 27] = [
    ("password", Kind::Password, None),
    ("v3password", Kind::Password, Some(IdentityVersion::V3)),
    ("v2password", Kind::Password, Some(IdentityVersion::V2)),
    ("token", Kind::Token, None),
    ("v3token", Kind::Token, Some(IdentityVersion::V3)),
    ("v2token", Kind::Token, Some(IdentityVersion::V2)),
    ("v3applicationcredential", Kind::ApplicationCredential, Some(IdentityVersion::V3)),
    ("v3totp", Kind::Totp, Some(IdentityVersion::V3)),
    ("v3multifactor", Kind::MultiFactor, Some(IdentityVersion::V3)),
    ("v3oauth2clientcredential", Kind::OAuth2, Some(IdentityVersion::V3)),
    ("v3oauth2mtlsclientcredential", Kind::OAuth2Mtls, Some(IdentityVersion::V3)),
    ("v3oauth1", Kind::OAuth1, Some(IdentityVersion::V3)),
    ("v3oidcpassword", Kind::Federated(Federation::Password), Some(IdentityVersion::V3)),
    ("v3oidcclientcredentials", Kind::Federated(Federation::ClientCredentials), Some(IdentityVersion::V3)),
    ("v3oidcaccesstoken", Kind::Federated(Federation::AccessToken), Some(IdentityVersion::V3)),
    ("v3oidcdeviceauthz", Kind::Federated(Federation::Device), Some(IdentityVersion::V3)),
    ("v3oidcauthcode", Kind::Federated(Federation::Code), Some(IdentityVersion::V3)),
    ("v3websso", Kind::Federated(Federation::WebSso), Some(IdentityVersion::V3)),
    ("v3kerberos", Kind::Kerberos, Some(IdentityVersion::V3)),
    ("v3fedkerb", Kind::Federated(Federation::Kerberos), Some(IdentityVersion::V3)),
    ("v3samlpassword", Kind::Federated(Federation::Saml), Some(IdentityVersion::V3)),
    ("v3adfspassword", Kind::Federated(Federation::Adfs), Some(IdentityVersion::V3)),
    ("v3tokenlessauth", Kind::Tokenless, Some(IdentityVersion::V3)),
    ("admin_token", Kind::Fixed, None),
    ("token_endpoint", Kind::Fixed, None),
    ("http_basic", Kind::Basic, None),
    ("none", Kind::Nothing, None),
];

/// The methods that `auth_methods` may combine, as keystoneauth calls their plugins.
const COMBINABLE: [(&str, Kind); 4] = [
    ("v3password", Kind::Password),
    ("v3totp", Kind::Totp),
    ("v3token", Kind::Token),
    ("v3applicationcredential", Kind::ApplicationCredential),
];

impl Kind {
    /// Whether this build has it.
    fn is_built(self) -> bool {
        cfg!(feature = "kerberos") || !matches!(self, Self::Kerberos | Self::Federated(Federation::Kerberos))
    }
}

impl Reader<'_> {
    pub(super) fn login(&mut self) -> Option<Auth> {
        let auth_type = self.text(&["auth_type", "auth_plugin"]);
        let (kind, version) = match &auth_type {
            None => (self.likely_kind(), None),
            // As openstacksdk reads it.
            Some(at) if at.text == "None" => (Kind::Nothing, None),
            Some(at) => match AUTH_TYPES.iter().find(|(name, ..)| *name == at.text) {
                Some((_, kind, version)) if kind.is_built() => (*kind, *version),
                Some(_) => {
                    self.problem_at(at, format!("`{}` {}", at.text, kerberos::MISSING));
                    return None;
                }
                None => {
                    let names = AUTH_TYPES.iter().filter(|(_, kind, _)| kind.is_built());
                    let names: Vec<_> = names.map(|(name, ..)| *name).collect();
                    let message = format!("`{}` is not supported: there is {}", at.text, names.join(", "));
                    self.problem_at(at, message);
                    return None;
                }
            },
        };
        match kind {
            Kind::Fixed => return self.fixed(),
            Kind::Basic => return self.basic(),
            Kind::Nothing => return self.endpoint("none").map(|endpoint| Auth::None { endpoint }),
            _ => {}
        }
        let auth_url = self.auth_url();
        let version = self.version(kind, version, auth_url.as_ref());
        if kind == Kind::Tokenless {
            return self.tokenless(auth_url);
        }
        let method = self.method(kind, version);
        let mut method = method.map(|method| self.with_spare(method, version));
        if method.as_ref().is_some_and(|method| method.wants_passcode() && !method.takes_scope()) {
            // There would be a login, and so a passcode, for each token.
            let message = "missing: what is combined with it here can't do with one passcode for all projects, so set \
                           totp_secret (or totp_secret_file), or passcode_file";
            self.missing("passcode", message);
            method = None;
        }
        let bound = match &method {
            Some(method) => !method.takes_scope(),
            None => {
                matches!(kind, Kind::ApplicationCredential | Kind::OAuth2 | Kind::OAuth2Mtls | Kind::OAuth1)
            }
        };
        let scope = self.scope(bound, version);
        Some(Auth::Identity(Identity { auth_url: auth_url?.1, version, method: method?, scope }))
    }

    /// What `auth_type` would be, by what there is.
    fn likely_kind(&mut self) -> Kind {
        if self.has(&["application_credential_id", "application_credential_name"]) {
            Kind::ApplicationCredential
        } else if self.has_secret(&["token", "auth_token"]) && !self.has_secret(&["password"]) {
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
        let token = self.secret(
            &["token", "auth_token"],
            "missing: auth_type admin_token needs the token, or token_file or token_command",
        );
        let endpoint = endpoint.and_then(|at| self.url(&at));
        Some(Auth::Fixed { endpoint: endpoint?, token: token? })
    }

    fn basic(&mut self) -> Option<Auth> {
        let endpoint = self.endpoint("http_basic");
        let username = self.text(&["username", "user_name"]);
        match &username {
            None => self.missing("username", "missing: auth_type http_basic needs a user"),
            Some(at) if at.text.contains(':') => {
                self.problem_at(at, "has a colon, which HTTP's Basic authentication can't tell from the one before the password");
            }
            Some(_) => {}
        }
        let password =
            self.secret(&["password"], "missing: auth_type http_basic needs a password, or password_file");
        Some(Auth::Basic { endpoint: endpoint?, username: username?.text, password: password? })
    }

    /// The endpoint of every service, where no Keystone names them. Overrides may do without it. `None`: there
    /// is a problem.
    fn endpoint(&mut self, auth_type: &str) -> Option<Option<BaseUrl>> {
        let Some(at) = self.text(&["endpoint"]) else {
            if self.has_override() {
                return Some(None);
            }
            let message = format!(
                "missing: auth_type {auth_type} needs the URL that serves all requests, or an endpoint override \
                 (such as baremetal_endpoint_override) for each service"
            );
            self.missing("endpoint", &message);
            return None;
        };
        self.url(&at).map(Some)
    }

    fn tokenless(&mut self, auth_url: Option<(Written, BaseUrl)>) -> Option<Auth> {
        if !self.has(&["cert"]) {
            let (source, key) = self.entry.name_of("cert", false);
            let message = "missing: auth_type v3tokenlessauth logs in by a client certificate";
            self.problems.add(source, key, message);
        }
        let scope = self.scope(false, IdentityVersion::V3);
        let texts = match &scope {
            Scope::Project(Project::Id(text)) | Scope::Domain(Domain::Id(text) | Domain::Name(text)) => {
                vec![text]
            }
            Scope::Project(Project::Name { name, domain }) => match domain {
                Some(Domain::Id(text) | Domain::Name(text)) => vec![name, text],
                None => vec![name],
            },
            Scope::Default | Scope::Unscoped | Scope::System | Scope::Trust(_) => {
                let message =
                    "missing: auth_type v3tokenlessauth needs a project or a domain, and nothing else";
                self.missing("project_id", message);
                return None;
            }
        };
        if texts.iter().any(|text| text.bytes().any(|byte| !(b' '..=b'~').contains(&byte))) {
            let message = "missing: no header field can hold the names that are there, so use ids";
            self.missing("project_id", message);
        }
        let (at, url) = auth_url?;
        if url.origin().scheme() != Scheme::Https {
            self.problem_at(
                &at,
                "is plain http, where nobody sees the client certificate of v3tokenlessauth: use https",
            );
        }
        // keystoneauth takes the URL as it is, and finds nothing where the version is missing.
        let auth_url =
            if url.path().ends_with("/v3") { url } else { url.with_path(&format!("{}/v3", url.path())) };
        Some(Auth::Tokenless { auth_url, scope })
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
                let user = self.required_user(version);
                let password = self.secret(
                    &["password"],
                    "missing: set it (for clouds.yaml, best in secure.yaml), or password_file or password_command",
                );
                Some(Method::Password { user: user?, password: password? })
            }
            Kind::Token => {
                let token = self.secret(
                    &["token", "auth_token"],
                    "missing: auth_type token needs a token, or token_file",
                )?;
                Some(Method::Token(token))
            }
            Kind::ApplicationCredential => {
                let which = match self.text(&["application_credential_id"]) {
                    Some(id) => Some(ApplicationCredential::Id(id.text)),
                    None => self.named_credential(),
                };
                let secret = self.secret(
                    &["application_credential_secret"],
                    "missing: set it to the secret that was shown when the credential was made, or \
                     application_credential_secret_file",
                );
                Some(Method::ApplicationCredential { which: which?, secret: secret? })
            }
            Kind::Totp => {
                let user = self.required_user(version);
                let passcode = self.passcode();
                Some(Method::Totp { user: user?, passcode: passcode? })
            }
            Kind::MultiFactor => {
                let kinds = self.auth_methods()?;
                let shown: Vec<_> = kinds.into_iter().map(|kind| self.method(kind, version)).collect();
                Some(Method::MultiFactor {
                    shown: shown.into_iter().collect::<Option<_>>()?,
                    spare: Vec::new(),
                })
            }
            Kind::OAuth2 | Kind::OAuth2Mtls => self.oauth2(kind),
            Kind::Kerberos => self.mutual_auth().map(Method::Kerberos),
            Kind::OAuth1 => self.oauth1(),
            Kind::Federated(kind) => self.federated(kind),
            Kind::Tokenless | Kind::Fixed | Kind::Basic | Kind::Nothing => None,
        }
    }

    /// The same method with what else there is to show, should Keystone ask for it: the password beside a
    /// passcode, or the other way round.
    fn with_spare(&mut self, method: Method, version: IdentityVersion) -> Method {
        let shown = match method {
            Method::MultiFactor { shown, .. } => shown,
            Method::Password { .. } | Method::Totp { .. } if version != IdentityVersion::V2 => vec![method],
            _ => return method,
        };
        let (mut password, mut passcode) = (false, false);
        for method in &shown {
            password |= matches!(method, Method::Password { .. });
            passcode |= matches!(method, Method::Totp { .. });
        }
        let mut spare = Vec::new();
        if !password && self.has_secret(&["password"]) && self.has_user() {
            spare.extend(self.method(Kind::Password, version));
        }
        if !passcode
            && (self.has_secret(&["passcode"]) || self.has_secret(&["totp_secret"]))
            && self.has_user()
        {
            spare.extend(self.method(Kind::Totp, version));
        }
        match <[Method; 1]>::try_from(shown) {
            Ok([only]) if spare.is_empty() => only,
            Ok([only]) => Method::MultiFactor { shown: vec![only], spare },
            Err(shown) => Method::MultiFactor { shown, spare },
        }
    }

    /// What `v3multifactor` combines: a list, or names with commas between them.
    fn auth_methods(&mut self) -> Option<Vec<Kind>> {
        let key = "auth_methods";
        let written = [(true, self.auth.get(key)), (false, self.entry.values.get(key))];
        let written = written.into_iter().find_map(|(in_auth, value)| Some((in_auth, value?)));
        let (in_auth, names): (bool, Vec<String>) = match written {
            Some((in_auth, Value::String(text))) if !text.is_empty() => {
                (in_auth, text.split(',').map(|name| name.trim().to_owned()).collect())
            }
            Some((in_auth, Value::Array(items))) => (
                in_auth,
                items.iter().map(|item| item.as_str().unwrap_or_default().trim().to_owned()).collect(),
            ),
            Some((in_auth, _)) => (in_auth, Vec::new()),
            None => (true, Vec::new()),
        };
        let (source, key) = self.entry.name_of(key, in_auth);
        let known: Vec<_> = COMBINABLE.iter().map(|(name, _)| *name).collect();
        let known = known.join(", ");
        if names.is_empty() {
            let message =
                format!("missing: auth_type v3multifactor needs a list of methods; there is {known}");
            self.problems.add(source, key, message);
            return None;
        }
        let mut kinds = Vec::new();
        for name in names {
            let message = match COMBINABLE.iter().find(|(known, _)| *known == name) {
                Some((_, kind)) if !kinds.contains(kind) => {
                    kinds.push(*kind);
                    continue;
                }
                Some(_) => format!("`{name}` is there twice: remove one of them"),
                None => format!("`{name}` can't be combined: there is {known}"),
            };
            self.problems.add(source, key, message);
            return None;
        }
        Some(kinds)
    }

    /// Where a one-time passcode comes from. Without a word about that, a person types it.
    pub(super) fn passcode(&mut self) -> Option<Passcode> {
        let passcode = self.has_secret(&["passcode"]);
        if !self.has_secret(&["totp_secret"]) {
            if !passcode {
                return Some(Passcode::Typed(Person::of(&self.entry.name)));
            }
            return self.secret(&["passcode"], "missing").map(Passcode::Given);
        }
        let source = self.secret(&["totp_secret"], "missing")?;
        if passcode {
            let message = "passcode is set too: remove one of them";
            self.missing("totp_secret", message);
            return None;
        }
        if let Source::Given(secret) = &source
            && !totp::is_secret(secret.expose())
        {
            let message = "is not in base32 (letters and the digits 2 to 7), as Keystone's credential of type totp has it";
            self.missing("totp_secret", message);
            return None;
        }
        Some(Passcode::Computed(source))
    }

    fn oauth2(&mut self, kind: Kind) -> Option<Method> {
        let endpoint = self.text(&["oauth2_endpoint"]);
        if endpoint.is_none() {
            let message = "missing: set it to where access tokens are issued, such as \
                           https://cloud.example:5000/v3/OS-OAUTH2/token";
            self.missing("oauth2_endpoint", message);
        }
        let client_id = self.required(&["oauth2_client_id"], "missing: set it to the client's id");
        let url = endpoint.as_ref().and_then(|at| self.url(at));
        if kind == Kind::OAuth2 {
            let client_secret = self.secret(
                &["oauth2_client_secret"],
                "missing: set it to the client's secret, or oauth2_client_secret_file",
            );
            return Some(Method::OAuth2 {
                endpoint: url?,
                client_id: client_id?,
                client_secret: client_secret?,
            });
        }
        if !self.has(&["cert"]) {
            let (source, key) = self.entry.name_of("cert", false);
            let message = "missing: auth_type v3oauth2mtlsclientcredential logs in by a client certificate";
            self.problems.add(source, key, message);
        }
        if let (Some(at), Some(url)) = (&endpoint, &url)
            && url.origin().scheme() != Scheme::Https
        {
            self.problem_at(at, "is plain http, where nobody sees the client certificate: use https");
        }
        Some(Method::OAuth2Mtls { endpoint: url?, client_id: client_id? })
    }

    /// Whether the server has to show who it is, in any case as keystoneauth takes it.
    pub(super) fn mutual_auth(&mut self) -> Option<MutualAuth> {
        let Some(at) = self.text(&["mutual_auth"]) else { return Some(MutualAuth::default()) };
        let found = MutualAuth::ALL.into_iter().find(|known| known.as_str().eq_ignore_ascii_case(&at.text));
        if found.is_none() {
            self.problem_at(&at, format!("`{}` is neither required, optional nor disabled", at.text));
        }
        found
    }

    fn oauth1(&mut self) -> Option<Method> {
        let consumer_key = self.required(
            &["consumer_key"],
            "missing: set it to the consumer's id, as `openstack consumer list` has it",
        );
        let consumer_secret = self.secret(
            &["consumer_secret"],
            "missing: set it to the consumer's secret, or consumer_secret_file",
        );
        let access_key = self.required(
            &["access_key"],
            "missing: set it to the id of the access token, as `openstack access token create` prints it",
        );
        let access_secret = self.secret(
            &["access_secret"],
            "missing: set it to the secret that was shown with the access token, or access_secret_file",
        );
        Some(Method::OAuth1 {
            consumer_key: consumer_key?,
            consumer_secret: consumer_secret?,
            access_key: access_key?,
            access_secret: access_secret?,
        })
    }

    fn required_user(&mut self, version: IdentityVersion) -> Option<User> {
        let user = self.user(version);
        if user.is_none() {
            self.missing("username", "missing: set it, or user_id");
        }
        user
    }

    fn has_user(&mut self) -> bool {
        self.text(&["user_id", "username", "user_name"]).is_some()
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

    /// What the token should be good for. `bound`: the login says that by itself.
    fn scope(&mut self, bound: bool, version: IdentityVersion) -> Scope {
        let project_id = self.text(&["project_id", "tenant_id"]);
        let project_name = self.text(&["project_name", "tenant_name"]);
        let system = self.text(&["system_scope"]);
        let has_project = project_id.is_some() || project_name.is_some();
        let domain_id = self.text(&["domain_id"]).filter(|_| !has_project);
        let domain_name = self.text(&["domain_name"]).filter(|_| !has_project);
        let unscoped = self.boolean("unscoped", false);
        let trust = self.text(&["trust_id"]);

        let project = project_id.as_ref().or(project_name.as_ref());
        let domain = domain_id.as_ref().or(domain_name.as_ref());
        let asked: Vec<_> =
            [project, domain, system.as_ref(), trust.as_ref()].into_iter().flatten().collect();
        if bound {
            for at in asked {
                let ignored = format!(
                    "{}: {}: ignored, since what it logs in with brings its own project",
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
        } else if let Some(trust) = trust {
            Scope::Trust(trust.text)
        } else if unscoped {
            Scope::Unscoped
        } else {
            Scope::Default
        }
    }
}
