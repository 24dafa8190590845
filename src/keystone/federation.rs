//! How does one log in by way of an identity provider?
//!
//! A federated login gets an access token or an assertion from an [identity provider](super::provider), which Keystone
//! exchanges for an unscoped token. Here is what an operator says about that.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ring::digest;

use super::{MutualAuth, Passcode, Person, ProviderUrl, Secret, Source};
use crate::private;
use crate::upstream::Origin;

/// What a path segment may hold as it is (RFC 3986, section 2.3).
const SEGMENT: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A login at an identity provider that Keystone trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Federated {
    /// Keystone's name of the identity provider.
    pub identity_provider: String,
    /// Keystone's name of the protocol.
    pub protocol: String,
    /// How one gets what Keystone wants to see.
    pub grant: Grant,
    /// Who goes through it, where it takes somebody.
    pub person: Person,
}

/// How an access token comes about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// `v3oidcaccesstoken`: somebody else got it.
    AccessToken(Source),
    /// `v3oidcpassword`: for a user's password (RFC 6749, section 4.3).
    Password {
        /// The client that asks.
        client: OAuthClient,
        /// The user's name at the identity provider.
        username: String,
        /// The password there.
        password: Source,
        /// The name of the form's field for a one-time passcode, and where the passcode comes from.
        otp: Option<(String, Passcode)>,
    },
    /// `v3samlpassword`: for a user's password, by SAML's profile for clients without a browser (ECP).
    Saml(ProviderUser),
    /// `v3adfspassword`: for a user's password, by WS-Trust.
    Adfs {
        /// The user.
        user: ProviderUser,
        /// Where the service provider before Keystone takes assertions.
        service_provider: ProviderUrl,
        /// The service provider's name of itself.
        entity_id: String,
    },
    /// `v3oidcclientcredentials`: the client is the user (RFC 6749, section 4.4).
    ClientCredentials(OAuthClient),
    /// `v3oidcdeviceauthz`: for a person who agrees to it in any browser (RFC 8628).
    Device {
        /// The client that asks.
        client: OAuthClient,
        /// Where a login begins.
        endpoint: ProviderEndpoint,
        /// How the client shows that it is the one that began.
        challenge: Option<Challenge>,
    },
    /// `v3oidcauthcode`: for a code that a person's browser brings (RFC 6749, section 4.1).
    Code {
        /// The client that asks.
        client: OAuthClient,
        /// Where the browser brings it, as the identity provider knows it.
        redirect_uri: Option<String>,
        /// Where the code comes from.
        from: CodeSource,
    },
    /// `v3fedkerb`: no token at all; Keystone's own server looks at a Kerberos ticket of the user that keyway runs as.
    Kerberos(MutualAuth),
    /// `v3websso`: Keystone sends a person's browser to the identity provider, and the token to this machine.
    WebSso {
        /// What the browser calls this machine; a name or an address of loopback.
        redirect_host: String,
        /// Where the token is waited for.
        redirect_port: u16,
        /// How long.
        login_timeout: Duration,
        /// What tells several users' logins apart; nobody checks it.
        username: Option<String>,
    },
}

/// A user of an identity provider of SAML's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderUser {
    /// Where the identity provider logs users in.
    pub endpoint: ProviderUrl,
    /// The user's name there.
    pub username: String,
    /// The password there.
    pub password: Source,
}

/// Where the code of [`Grant::Code`] comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CodeSource {
    /// Somebody wrote it down.
    Given(Source),
    /// A browser brings it.
    Browser {
        /// Where the person's login begins.
        authorization: ProviderEndpoint,
        /// This machine, as the browser calls it: `redirect_uri`.
        redirect: ProviderUrl,
        /// How long it is waited for.
        login_timeout: Duration,
    },
}

/// How a client shows that a login is its own (RFC 7636, section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// It shows the same text twice.
    Plain,
    /// It shows a text whose SHA-256 hash it showed at first.
    S256,
}

impl Challenge {
    /// Its name in requests and in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::S256 => "S256",
        }
    }

    /// What is shown at first for this verifier.
    fn of(self, verifier: &Secret) -> String {
        match self {
            Self::Plain => verifier.expose().to_owned(),
            Self::S256 => {
                URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, verifier.expose().as_bytes()))
            }
        }
    }
}

impl Grant {
    /// Whether it needs a person, so that what came of it is left for others.
    pub fn is_interactive(&self) -> bool {
        match self {
            Self::Device { .. } | Self::WebSso { .. } | Self::Code { .. } => true,
            Self::Password { otp, .. } => matches!(otp, Some((_, Passcode::Typed(_)))),
            Self::AccessToken(_)
            | Self::ClientCredentials(_)
            | Self::Saml(_)
            | Self::Adfs { .. }
            | Self::Kerberos(_) => false,
        }
    }

    /// What tells its logins from others at the same identity provider.
    pub(super) fn label(&self) -> Vec<String> {
        match self {
            Self::Device { client, .. } => vec!["device".to_owned(), client.id.clone(), client.scope.clone()],
            Self::Code { client, .. } => vec!["code".to_owned(), client.id.clone(), client.scope.clone()],
            Self::WebSso { username, .. } => {
                ["websso"].into_iter().chain(username.as_deref()).map(str::to_owned).collect()
            }
            Self::Password { client, username, .. } => {
                vec!["password".to_owned(), client.id.clone(), client.scope.clone(), username.clone()]
            }
            Self::AccessToken(_)
            | Self::Saml(_)
            | Self::Adfs { .. }
            | Self::Kerberos(_)
            | Self::ClientCredentials(_) => Vec::new(),
        }
    }
}

/// A client of an identity provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OAuthClient {
    /// Its id.
    pub id: String,
    /// Its secret; a public client has none.
    pub secret: Option<Source>,
    /// What it asks for: words with a space between them.
    pub scope: String,
    /// Where tokens are issued.
    pub token_endpoint: ProviderEndpoint,
    /// What of the answer Keystone gets.
    pub token_kind: TokenKind,
}

/// Where an identity provider serves what is asked of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProviderEndpoint {
    /// The operator says where.
    At(ProviderUrl),
    /// The discovery document here says where.
    Discovered(ProviderUrl),
}

/// Which token of an identity provider's answer Keystone gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenKind {
    /// The access token.
    #[default]
    Access,
    /// The id token (OpenID Connect Core 1.0, section 2).
    Id,
}

impl TokenKind {
    /// The member of the answer that it is.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Access => "access_token",
            Self::Id => "id_token",
        }
    }
}

impl Federated {
    /// The path, below Keystone's version, where an access token becomes an unscoped token.
    pub(super) fn path(&self) -> String {
        format!(
            "/OS-FEDERATION/identity_providers/{}/protocols/{}/auth",
            utf8_percent_encode(&self.identity_provider, &SEGMENT),
            utf8_percent_encode(&self.protocol, &SEGMENT)
        )
    }

    /// The path, below Keystone's version, where a browser's login begins whose token goes to `origin`.
    pub(super) fn browser_path(&self, origin: &str) -> String {
        format!(
            "/auth/OS-FEDERATION/identity_providers/{}/protocols/{}/websso?origin={}",
            utf8_percent_encode(&self.identity_provider, &SEGMENT),
            utf8_percent_encode(&self.protocol, &SEGMENT),
            utf8_percent_encode(origin, NON_ALPHANUMERIC)
        )
    }

    /// Whose password it shows, and where.
    pub(super) fn account(&self) -> Option<(&Origin, &str)> {
        match &self.grant {
            Grant::Password { client, username, .. } => {
                let (ProviderEndpoint::At(url) | ProviderEndpoint::Discovered(url)) = &client.token_endpoint;
                Some((url.origin(), username))
            }
            Grant::Saml(user) | Grant::Adfs { user, .. } => Some((user.endpoint.origin(), &user.username)),
            Grant::AccessToken(_)
            | Grant::ClientCredentials(_)
            | Grant::Kerberos(_)
            | Grant::Device { .. }
            | Grant::Code { .. }
            | Grant::WebSso { .. } => None,
        }
    }

    /// See [`Method::person`](super::Method::person).
    pub(super) fn person(&self) -> Option<&Person> {
        self.grant.is_interactive().then_some(&self.person)
    }

    /// See [`Method::wants_passcode`](super::Method::wants_passcode).
    pub(super) fn wants_passcode(&self) -> bool {
        matches!(self.grant, Grant::Password { otp: Some((_, Passcode::Typed(_))), .. })
    }

    /// See [`Method::with_passcode`](super::Method::with_passcode).
    pub(super) fn set_passcode(&mut self, typed: &Secret) {
        if let Grant::Password { otp: Some((_, passcode @ Passcode::Typed(_))), .. } = &mut self.grant {
            *passcode = Passcode::Given(typed.clone().into());
        }
    }

    /// What tells its logins at one Keystone from others.
    pub(super) fn label(&self) -> Vec<String> {
        let mut label = vec![self.identity_provider.clone(), self.protocol.clone()];
        label.extend(self.grant.label());
        label
    }

    /// The client that a person's login was done with, where it has one: what the provider gives to renew that
    /// login is good for this client alone.
    pub(super) fn person_client(&self) -> Option<&OAuthClient> {
        match &self.grant {
            Grant::Device { client, .. } | Grant::Code { client, .. } => Some(client),
            Grant::Password { client, .. } => Some(client).filter(|_| self.wants_passcode()),
            Grant::AccessToken(_)
            | Grant::ClientCredentials(_)
            | Grant::Saml(_)
            | Grant::Adfs { .. }
            | Grant::Kerberos(_)
            | Grant::WebSso { .. } => None,
        }
    }

    /// Where its secrets come from.
    pub(super) fn sources(&self) -> Vec<&Source> {
        let mut sources = Vec::new();
        match &self.grant {
            Grant::AccessToken(token) => sources.push(token),
            Grant::Password { client, password, otp, .. } => {
                sources.extend(&client.secret);
                sources.push(password);
                sources.extend(otp.as_ref().and_then(|(_, passcode)| passcode.source()));
            }
            Grant::Saml(user) | Grant::Adfs { user, .. } => sources.push(&user.password),
            Grant::ClientCredentials(client) | Grant::Device { client, .. } => sources.extend(&client.secret),
            Grant::Code { client, from, .. } => {
                sources.extend(&client.secret);
                if let CodeSource::Given(code) = from {
                    sources.push(code);
                }
            }
            Grant::Kerberos(_) | Grant::WebSso { .. } => {}
        }
        sources
    }

    /// Whether what it shows is good for one login only.
    pub(super) fn is_one_time(&self) -> bool {
        matches!(self.grant, Grant::Password { otp: Some(_), .. })
    }
}

/// What a client shows first and last of a login that is its own; nothing without a method.
pub(super) fn verifier() -> Secret {
    // 32 bytes are the least (RFC 7636, section 7.1).
    let bytes = private::random::<42>();
    Secret::new(URL_SAFE_NO_PAD.encode(bytes))
}

/// The fields that begin such a login.
pub(super) fn challenge_fields(challenge: Challenge, verifier: &Secret) -> [(&'static str, String); 2] {
    [("code_challenge_method", challenge.as_str().to_owned()), ("code_challenge", challenge.of(verifier))]
}

/// Whether a client asks for what gets it tokens when the person is not there (OpenID Connect Core 1.0, section 11).
pub(super) fn is_offline(scope: &str) -> bool {
    scope.split(' ').any(|word| word == "offline_access")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_a_login_holds_any_name_as_one_segment() {
        let path = |identity_provider: &str, protocol: &str| {
            let grant = Grant::AccessToken(Secret::new("t").into());
            Federated {
                identity_provider: identity_provider.to_owned(),
                protocol: protocol.to_owned(),
                grant,
                person: Person::of("c"),
            }
            .path()
        };
        assert_eq!(
            path("my-idp", "openid"),
            "/OS-FEDERATION/identity_providers/my-idp/protocols/openid/auth"
        );
        assert_eq!(
            path("a/b c", "?é"),
            "/OS-FEDERATION/identity_providers/a%2Fb%20c/protocols/%3F%C3%A9/auth"
        );
    }
}
