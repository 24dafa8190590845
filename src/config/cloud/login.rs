//! With what does a cloud's entry log in, and for what?

use super::{Reader, Written};
use crate::keystone::{
    ApplicationCredential, Auth, Domain, Identity, IdentityVersion, Method, Project, Scope, Secret, User,
};
use crate::upstream::BaseUrl;

/// The values of `auth_type` that keyway knows.
const AUTH_TYPES: &str = "password, v3password, v2password, token, v3token, v2token, v3applicationcredential, \
                          admin_token (token_endpoint)";

/// What proves who we are, before its options are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Password,
    Token,
    ApplicationCredential,
    Fixed,
}

impl Reader<'_> {
    pub(super) fn login(&mut self) -> Option<Auth> {
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
}
