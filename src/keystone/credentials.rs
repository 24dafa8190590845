//! What a cloud's operator gave keyway to log in with, checked.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::{Federated, MutualAuth, Person, Place, Retries, ServiceOptions};
use crate::keystone::service::Limits;
pub use crate::secret::{Secret, Source};
use crate::upstream::{BaseUrl, tls};

/// One cloud: how to log in, and how to choose among its endpoints.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its name in clouds.yaml (`envvars` for `OS_*`): the `{cloud}` of addresses and metrics.
    pub name: String,
    /// How to get a token.
    pub auth: Auth,
    /// Region of the catalog; `None` takes the first endpoint that fits, as keystoneauth does.
    pub region: Option<String>,
    /// Interfaces in order of preference; never empty.
    pub interfaces: Vec<Interface>,
    /// `<service>_endpoint_override`, by service type as the operator wrote it, with `-` for `_`. Some want an id
    /// that comes with the token, see [`Config::of_token`].
    pub endpoint_overrides: BTreeMap<String, BaseUrl>,
    /// What else is decided for one service, by service type in the same way.
    pub services: BTreeMap<String, ServiceOptions>,
    /// When a request to any service goes out again.
    pub retries: Retries,
    /// How much each service may be asked that says nothing else.
    pub limits: Limits,
    /// How long a service or Keystone may be silent where it is waited for, in place of what holds for all clouds.
    pub api_timeout: Option<Duration>,
    /// TLS towards Keystone and the services.
    pub tls: tls::Config,
    /// Plain-http origins that may get a token although `auth_url` is https.
    pub allow_http: AllowHttp,
}

impl Config {
    /// One with nothing but a name and a login: public endpoints as the catalog has them.
    pub fn new(name: &str, auth: Auth) -> Self {
        Self {
            name: name.to_owned(),
            auth,
            region: None,
            interfaces: vec![Interface::Public],
            endpoint_overrides: BTreeMap::new(),
            services: BTreeMap::new(),
            retries: Retries::default(),
            limits: Limits::default(),
            api_timeout: None,
            tls: tls::Config::default(),
            allow_http: AllowHttp::Never,
        }
    }

    /// The login that needs a person, and where its token lies; `None` for a cloud that needs nobody.
    pub fn by_person(&self) -> Option<(&Identity, &Place)> {
        let Auth::Identity(identity) = &self.auth else { return None };
        Some((identity, identity.method.person()?.place.as_ref()?))
    }
}

/// Which plain-http endpoints may get a token where `auth_url` is https.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AllowHttp {
    /// None.
    #[default]
    Never,
    /// Those of the named service types or origins (`http://host:port`).
    Only(Vec<String>),
}

/// How a cloud's token comes about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// From Keystone, by logging in.
    Identity(Identity),
    /// `auth_type: admin_token` (old name `token_endpoint`): a fixed token for one endpoint, which
    /// serves every service. No Keystone, no catalog, no renewal.
    Fixed {
        /// The endpoint of every service.
        endpoint: BaseUrl,
        /// The token.
        token: Source,
    },
    /// `auth_type: http_basic`: a user and a password, shown to the services themselves.
    Basic {
        /// The endpoint of every service; without one, only endpoint overrides lead anywhere.
        endpoint: Option<BaseUrl>,
        /// Who; without a colon.
        username: String,
        /// The password.
        password: Source,
    },
    /// `auth_type: none`: services that ask nobody who they are.
    None {
        /// See [`Auth::Basic`].
        endpoint: Option<BaseUrl>,
    },
    /// `auth_type: v3tokenlessauth`: Keystone itself, which knows the client certificate, and is told
    /// with each request what it is for.
    Tokenless {
        /// Keystone's, with its version.
        auth_url: BaseUrl,
        /// A project or a domain.
        scope: Scope,
    },
}

impl Auth {
    /// Where it begins: the only address that everything is sent to, or Keystone's. `None` where nothing but
    /// endpoint overrides lead anywhere.
    pub fn url(&self) -> Option<&BaseUrl> {
        match self {
            Self::Identity(Identity { auth_url: url, .. })
            | Self::Fixed { endpoint: url, .. }
            | Self::Tokenless { auth_url: url, .. } => Some(url),
            Self::Basic { endpoint, .. } | Self::None { endpoint } => endpoint.as_ref(),
        }
    }
}

/// A login at Keystone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// As given: with or without a version at its end.
    pub auth_url: BaseUrl,
    /// Which Identity API to speak.
    pub version: IdentityVersion,
    /// With what.
    pub method: Method,
    /// For what.
    pub scope: Scope,
}

/// The Identity API to speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdentityVersion {
    /// Whatever `auth_url` ends with or its version document offers; v3 where both are there.
    #[default]
    Discover,
    /// `POST /v2.0/tokens`.
    V2,
    /// `POST /v3/auth/tokens`.
    V3,
}

/// What proves who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    /// A user's password.
    Password {
        /// Whose.
        user: User,
        /// The password.
        password: Source,
    },
    /// A token, which is exchanged for one with the scope; it can't outlive the one given.
    Token(Source),
    /// An application credential, which brings its own scope.
    ApplicationCredential {
        /// Which one.
        which: ApplicationCredential,
        /// Its secret.
        secret: Source,
    },
    /// A code that is good for half a minute, and once.
    Totp {
        /// Whose.
        user: User,
        /// Where the code comes from.
        passcode: Passcode,
    },
    /// Several of the others: Keystone's rules for the user want more than one.
    MultiFactor {
        /// What is shown at once.
        shown: Vec<Method>,
        /// What is shown if Keystone asks for it with a receipt.
        spare: Vec<Method>,
    },
    /// An application credential as an OAuth 2.0 client: services get an access token beside the token.
    OAuth2 {
        /// Where access tokens are issued.
        endpoint: BaseUrl,
        /// The client's id, which is the application credential's.
        client_id: String,
        /// Its secret.
        client_secret: Source,
    },
    /// An OAuth 2.0 client that Keystone knows by its TLS certificate. Its access token is the token too.
    OAuth2Mtls {
        /// Where access tokens are issued.
        endpoint: BaseUrl,
        /// The client's id.
        client_id: String,
    },
    /// A Kerberos ticket of the user that keyway runs as.
    Kerberos(MutualAuth),
    /// What a user let a consumer do (OAuth 1.0), which brings its own project.
    OAuth1 {
        /// The consumer's id.
        consumer_key: String,
        /// Its secret.
        consumer_secret: Source,
        /// The access token's id.
        access_key: String,
        /// Its secret.
        access_secret: Source,
    },
    /// What an identity provider gives, which Keystone exchanges for an unscoped token.
    Federated(Box<Federated>),
}

/// Where a code of [`Method::Totp`] comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passcode {
    /// Somebody writes it down for each login.
    Given(Source),
    /// It is computed (RFC 6238) from the secret that Keystone has too, in base32.
    Computed(Source),
    /// A person types it.
    Typed(Person),
}

/// Which application credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApplicationCredential {
    /// By id.
    Id(String),
    /// By name, which is unique per user only.
    Name {
        /// Its name.
        name: String,
        /// Its owner.
        user: User,
    },
}

/// A user, by id or by name. Identity v2.0 knows no domains.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum User {
    /// By id.
    Id(String),
    /// By name.
    Name {
        /// The name.
        name: String,
        /// Its domain; Keystone's v3 wants one.
        domain: Option<Domain>,
    },
}

/// What a token is good for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Nothing asked: the user's default project, the application credential's own, or the only
    /// tenant that an Identity v2.0 user has.
    Default,
    /// Explicitly no scope.
    Unscoped,
    /// A project (v2.0: a tenant).
    Project(Project),
    /// A domain.
    Domain(Domain),
    /// The whole system (`system_scope: all`).
    System,
    /// What another user entrusted to this one, by the trust's id.
    Trust(String),
}

/// For people and logs: `project demo`, `domain default`, `the system`.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the default scope"),
            Self::Unscoped => f.write_str("no scope"),
            Self::Project(Project::Id(name) | Project::Name { name, .. }) => write!(f, "project {name}"),
            Self::Domain(Domain::Id(name) | Domain::Name(name)) => write!(f, "domain {name}"),
            Self::System => f.write_str("the system"),
            Self::Trust(id) => write!(f, "trust {id}"),
        }
    }
}

/// A project, by id or by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Project {
    /// By id.
    Id(String),
    /// By name.
    Name {
        /// The name.
        name: String,
        /// Its domain; absent for v2.0 only.
        domain: Option<Domain>,
    },
}

/// A domain, by id or by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Domain {
    /// By id.
    Id(String),
    /// By name.
    Name(String),
}

/// An endpoint's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Interface {
    /// For everyone.
    Public,
    /// For services and neighbours.
    Internal,
    /// For operators.
    Admin,
}

impl Interface {
    /// As the v3 catalog writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Internal => "internal",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Interface {
    type Err = String;

    /// Reads `public` or `publicURL`, in any case.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().trim_end_matches("url") {
            "public" => Ok(Self::Public),
            "internal" => Ok(Self::Internal),
            "admin" => Ok(Self::Admin),
            _ => Err(format!("`{text}` is no interface: public, internal or admin")),
        }
    }
}
