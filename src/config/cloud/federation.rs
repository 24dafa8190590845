//! With what does a cloud's entry log in at an identity provider?

use std::time::Duration;

use super::login::Federation;
use super::{Reader, Written};
use crate::keystone::provider::is_loopback;
use crate::keystone::{
    Challenge, CodeSource, Federated, Grant, Method, OAuthClient, Person, ProviderEndpoint, ProviderUrl,
    ProviderUser, Source, TokenKind,
};
use crate::upstream::{BaseUrl, Scheme};

/// Fields of a token request that are taken.
const FIELDS: [&str; 6] = ["grant_type", "username", "password", "scope", "client_id", "client_secret"];

impl Reader<'_> {
    /// A federated login. `None`: there is a problem.
    pub(super) fn federated(&mut self, kind: Federation) -> Option<Method> {
        let identity_provider = self.segment(
            "identity_provider",
            "missing: set it to Keystone's name of the identity provider, as `openstack identity provider list` has it",
        );
        let protocol = self.segment(
            "protocol",
            "missing: set it to the name of the identity provider's protocol at Keystone, which often is openid or saml2",
        );
        let grant = match kind {
            Federation::AccessToken => self
                .secret(
                    &["access_token"],
                    "missing: auth_type v3oidcaccesstoken needs an access token of the identity provider, or \
                     access_token_file",
                )
                .map(Grant::AccessToken),
            Federation::Password => self.provider_password(),
            Federation::ClientCredentials => {
                let client = self.client(true);
                client.map(Grant::ClientCredentials)
            }
            Federation::Device => self.device(),
            Federation::Code => self.code(),
            Federation::WebSso => self.websso(),
            Federation::Kerberos => self.mutual_auth().map(Grant::Kerberos),
            Federation::Saml => self.saml(),
            Federation::Adfs => self.adfs(),
        };
        let (identity_provider, protocol) = (identity_provider?, protocol?);
        let person = Person::of(&self.entry.name);
        let federated = Federated { identity_provider, protocol, grant: grant?, person };
        Some(Method::Federated(Box::new(federated)))
    }

    fn provider_password(&mut self) -> Option<Grant> {
        let client = self.client(false);
        let username = self.required(
            &["username", "user_name"],
            "missing: auth_type v3oidcpassword needs the user's name at the identity provider",
        );
        let password = self.secret(
            &["password"],
            "missing: set it to the password at the identity provider (for clouds.yaml, best in secure.yaml), or \
             password_file",
        );
        let otp = match self.text(&["idp_otp_key"]) {
            None => None,
            Some(at) if FIELDS.contains(&at.text.as_str()) => {
                let message = format!(
                    "`{}` is another field of the request: set it to the name of the provider's field for one-time \
                     passcodes, such as totp",
                    at.text
                );
                self.problem_at(&at, message);
                return None;
            }
            Some(at) => Some((at.text, self.passcode()?)),
        };
        Some(Grant::Password { client: client?, username: username?, password: password?, otp })
    }

    fn saml(&mut self) -> Option<Grant> {
        let user = self.provider_user(
            "where the identity provider takes SAML's requests of clients (ECP), such as \
                                       https://idp.example/idp/profile/SAML2/SOAP/ECP",
        );
        if let Some(at) = self.text(&["username", "user_name"])
            && at.text.contains(':')
        {
            self.problem_at(
                &at,
                "has a colon, which HTTP's Basic authentication can't tell from the one before the password",
            );
        }
        user.map(Grant::Saml)
    }

    fn adfs(&mut self) -> Option<Grant> {
        let user = self.provider_user(
            "where AD FS takes WS-Trust's requests with a user's name, such as \
                                       https://adfs.example/adfs/services/trust/13/usernamemixed",
        );
        let service_provider = match self.text(&["service_provider_endpoint"]) {
            None => {
                let message = "missing: set it to where the service provider in front of Keystone takes assertions, such \
                               as https://cloud.example:5000/Shibboleth.sso/ADFS";
                self.missing("service_provider_endpoint", message);
                None
            }
            Some(at) => {
                let url = self.provider_url(&at);
                let keystone = self.text(&["auth_url"]).and_then(|at| BaseUrl::parse(&at.text).ok());
                if let (Some(url), Some(keystone)) = (&url, keystone)
                    && url.origin() != keystone.origin()
                {
                    let message = format!(
                        "is not at auth_url's scheme, host and port ({}), where the session that it opens is needed",
                        keystone.origin()
                    );
                    self.problem_at(&at, message);
                    return None;
                }
                url
            }
        };
        let entity_id = self.required(
            &["service_provider_entity_id"],
            "missing: set it to the service provider's name of itself (its entity id), as AD FS knows it",
        );
        Some(Grant::Adfs { user: user?, service_provider: service_provider?, entity_id: entity_id? })
    }

    fn provider_user(&mut self, what: &str) -> Option<ProviderUser> {
        let endpoint = match self.text(&["identity_provider_url"]) {
            Some(at) => self.provider_url(&at),
            None => {
                self.missing("identity_provider_url", &format!("missing: set it to {what}"));
                None
            }
        };
        let username = self.required(
            &["username", "user_name"],
            "missing: set it to the user's name at the identity provider",
        );
        let password = self.secret(
            &["password"],
            "missing: set it to the password at the identity provider (for clouds.yaml, best in secure.yaml), or \
             password_file",
        );
        Some(ProviderUser { endpoint: endpoint?, username: username?, password: password? })
    }

    fn device(&mut self) -> Option<Grant> {
        let client = self.client(false);
        let challenge = match self.text(&["code_challenge_method"]) {
            None => Some(None),
            Some(at) => {
                let found =
                    [Challenge::Plain, Challenge::S256].into_iter().find(|known| known.as_str() == at.text);
                if found.is_none() {
                    self.problem_at(&at, format!("`{}` is neither S256 nor plain", at.text));
                }
                found.map(Some)
            }
        };
        let endpoint =
            self.person_endpoint("device_authorization_endpoint", "the identity provider gives out codes");
        Some(Grant::Device { client: client?, endpoint: endpoint?, challenge: challenge? })
    }

    fn code(&mut self) -> Option<Grant> {
        let client = self.client(false);
        let redirect = self.text(&["redirect_uri"]);
        let redirect_uri = redirect.as_ref().map(|at| at.text.clone());
        let names = ["code", "authorization_code"];
        if self.has_secret(&names) {
            let code = self.secret(&names, "missing").map(CodeSource::Given);
            return Some(Grant::Code { client: client?, redirect_uri, from: code? });
        }
        let authorization =
            self.person_endpoint("authorization_endpoint", "people log in at the identity provider");
        let login_timeout = self.login_timeout();
        let Some(at) = redirect else {
            let message = "missing: set it to an address on this machine that the identity provider knows for this \
                           client, such as http://localhost:9990/callback, so that keyway login can take the code there";
            self.missing("redirect_uri", message);
            return None;
        };
        let local = ProviderUrl::parse(&at.text)
            .ok()
            .filter(|url| url.origin().scheme() == Scheme::Http && !url.target().contains('?'));
        if local.is_none() {
            let message = "is no http address on this machine, such as http://localhost:9990/callback";
            self.problem_at(&at, message);
        }
        let (authorization, redirect, login_timeout) = (authorization?, local?, login_timeout?);
        let from = CodeSource::Browser { authorization, redirect, login_timeout };
        Some(Grant::Code { client: client?, redirect_uri, from })
    }

    /// Where a person's login begins: what is wrong with the document's address was told with the client.
    fn person_endpoint(&mut self, option: &str, what: &str) -> Option<ProviderEndpoint> {
        match (self.text(&[option]), self.text(&["discovery_endpoint"])) {
            (Some(at), _) => self.provider_url(&at).map(ProviderEndpoint::At),
            (None, Some(at)) => ProviderUrl::parse(&at.text).ok().map(ProviderEndpoint::Discovered),
            (None, None) => {
                if self.has(&["access_token_endpoint"]) {
                    self.missing(
                        option,
                        &format!("missing: set it to where {what}, or set discovery_endpoint"),
                    );
                }
                None
            }
        }
    }

    fn login_timeout(&mut self) -> Option<Duration> {
        let seconds = self.number("login_timeout", 60, 3600)?;
        Some(Duration::from_secs(seconds.into()))
    }

    fn number(&mut self, option: &str, default: u16, most: u16) -> Option<u16> {
        let Some(at) = self.text(&[option]) else { return Some(default) };
        let number = at.text.parse().ok().filter(|number| (1..=most).contains(number));
        if number.is_none() {
            self.problem_at(&at, format!("`{}` is no number from 1 to {most}", at.text));
        }
        number
    }

    fn websso(&mut self) -> Option<Grant> {
        let redirect_host = match self.text(&["redirect_host"]) {
            None => Some("localhost".to_owned()),
            // As it is in a URL.
            Some(at) if at.text == "::1" => Some("[::1]".to_owned()),
            Some(at) if is_loopback(&at.text) || at.text == "[::1]" => Some(at.text),
            Some(at) => {
                let message = format!("`{}` is not this machine: localhost, 127.0.0.1 or [::1]", at.text);
                self.problem_at(&at, message);
                None
            }
        };
        let redirect_port = self.number("redirect_port", 9990, u16::MAX);
        let login_timeout = self.login_timeout();
        let username = self.text(&["username", "user_name"]).map(|at| at.text);
        Some(Grant::WebSso {
            redirect_host: redirect_host?,
            redirect_port: redirect_port?,
            login_timeout: login_timeout?,
            username,
        })
    }

    /// A client of the identity provider; with a secret, if it must have one.
    fn client(&mut self, must_have_secret: bool) -> Option<OAuthClient> {
        let id = self.required(
            &["client_id"],
            "missing: set it to the id under which the identity provider knows this client",
        );
        let secret = if must_have_secret || self.has_secret(&["client_secret"]) {
            let message = "missing: set it to the client's secret (for clouds.yaml, best in secure.yaml), or \
                           client_secret_file";
            // Two that contradict each other are a problem, too, not a client without a secret.
            Some(self.secret(&["client_secret"], message))
        } else {
            None
        };
        let scope = self.text(&["openid_scope", "scope"]).map_or("openid profile".to_owned(), |at| at.text);
        let token_kind = match self.text(&["access_token_type"]) {
            None => Some(TokenKind::Access),
            Some(at) => {
                let found =
                    [TokenKind::Access, TokenKind::Id].into_iter().find(|kind| kind.as_str() == at.text);
                if found.is_none() {
                    self.problem_at(&at, format!("`{}` is neither access_token nor id_token", at.text));
                }
                found
            }
        };
        let token_endpoint = self.provider_endpoint("access_token_endpoint");
        let secret: Option<Source> = match secret {
            Some(secret) => Some(secret?),
            None => None,
        };
        Some(OAuthClient { id: id?, secret, scope, token_endpoint: token_endpoint?, token_kind: token_kind? })
    }

    /// Where the identity provider serves something: an option says it, or its discovery document.
    fn provider_endpoint(&mut self, option: &str) -> Option<ProviderEndpoint> {
        let discovery = self.text(&["discovery_endpoint"]);
        // What is written is right or wrong, whether it is needed or not.
        let discovery = discovery.map(|at| self.provider_url(&at));
        if let Some(at) = self.text(&[option]) {
            let url = self.provider_url(&at).map(ProviderEndpoint::At);
            return url.filter(|_| !matches!(discovery, Some(None)));
        }
        match discovery {
            Some(url) => url.map(ProviderEndpoint::Discovered),
            None => {
                let message = "missing: set it to the identity provider's discovery document, such as \
                               https://idp.example/.well-known/openid-configuration";
                self.missing("discovery_endpoint", &format!("{message}, or set {option}"));
                None
            }
        }
    }

    fn provider_url(&mut self, at: &Written) -> Option<ProviderUrl> {
        // The value itself may hold a password, in its userinfo: it is not shown.
        match ProviderUrl::parse(&at.text) {
            Ok(url) => Some(url),
            Err(error) => {
                self.problem_at(
                    at,
                    format!("no usable URL: {error}; write for example https://idp.example/token"),
                );
                None
            }
        }
    }

    /// A name that becomes a segment of a path.
    fn segment(&mut self, option: &str, message: &str) -> Option<String> {
        let Some(at) = self.text(&[option]) else {
            self.missing(option, message);
            return None;
        };
        if matches!(at.text.as_str(), "." | "..") {
            self.problem_at(&at, "is no name that a path can hold");
            return None;
        }
        Some(at.text)
    }
}
