//! Federated logins: an identity provider gives a token, and Keystone exchanges it for an unscoped one.

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};

use super::{Api, Client, now, request};
use crate::keystone::federation::{Federated, Grant, OAuthClient, ProviderEndpoint};
use crate::keystone::protocol::Sent;
use crate::keystone::provider::{self, Document, ProviderError, ProviderUrl};
use crate::keystone::{AuthError, MutualAuth, Passcode, Secret, Token, TokenId, proof, protocol, token};

/// What an identity provider gave: a token for Keystone, and maybe what gets another one without a person.
pub(super) type Given = (TokenId, Option<Secret>);

/// The longest answer of an identity provider that is read.
const LONGEST_ANSWER: usize = 1 << 20;

/// RFC 6749, section 6.
pub(super) const REFRESH_GRANT: &str = "refresh_token";

/// Of the time for a login, each of the two questions to the identity provider may take a third.
const STEPS: u32 = 3;

impl Client {
    /// Logs in anew at the identity provider, and with what that gives at Keystone.
    pub(super) async fn log_in_federated(
        &self,
        api: &Api,
        federated: &Federated,
    ) -> Result<Token, AuthError> {
        match &federated.grant {
            Grant::Saml(user) => self.log_in_by_saml(api, federated, user).await,
            Grant::Adfs { user, service_provider, entity_id } => {
                self.log_in_by_trust(api, federated, user, service_provider, entity_id).await
            }
            Grant::Kerberos(mutual) => self.log_in_federated_by_ticket(api, federated, *mutual).await,
            _ => {
                let (access, _) = self.ask_without_person(federated).await?;
                self.exchange_for_unscoped(api, federated, &access).await
            }
        }
    }

    /// The access token that the identity provider gives for what the configuration has. Where none is part of a
    /// login, or a person has to be there, there is none.
    pub(super) async fn ask_without_person(&self, federated: &Federated) -> Result<Given, AuthError> {
        match &federated.grant {
            Grant::AccessToken(source) => {
                let secret = proof::read(source).await?;
                let access = TokenId::new(secret.expose().trim()).map_err(|_| AuthError::NoSecret {
                    why: "access_token is no token: it must be visible ASCII without spaces in it".to_owned(),
                })?;
                Ok((access, None))
            }
            Grant::Password { client, username, password, otp } => {
                let password = proof::read(password).await?;
                let mut fields = vec![
                    ("username", username.as_str()),
                    ("password", password.expose()),
                    ("scope", &client.scope),
                ];
                let passcode = match otp {
                    Some((name, passcode)) => Some((name, self.passcode(passcode).await?)),
                    None => None,
                };
                if let Some((name, passcode)) = &passcode {
                    fields.push((name, passcode.expose()));
                }
                let token = self.ask_for_token(client, "password", fields).await;
                if let Some((_, passcode)) = passcode
                    && !matches!(&token, Err(AuthError::Provider(ProviderError::Unreachable { .. })))
                {
                    self.note_used(passcode);
                }
                token
            }
            Grant::ClientCredentials(client) => {
                self.ask_for_token(client, "client_credentials", vec![("scope", &client.scope)]).await
            }
            Grant::Saml(_)
            | Grant::Adfs { .. }
            | Grant::Kerberos(_)
            | Grant::Device { .. }
            | Grant::WebSso { .. }
            | Grant::Code { .. } => Err(AuthError::LoginRequired { cloud: federated.person.cloud.clone() }),
        }
    }

    /// A one-time passcode that was not shown yet.
    async fn passcode(&self, passcode: &Passcode) -> Result<Secret, AuthError> {
        let (code, next) = proof::passcode(passcode, self.used().as_ref()).await?;
        if self.was_used(&code) {
            return Err(AuthError::PasscodeUsed { wait: next });
        }
        Ok(code)
    }

    /// Has Keystone look at what the identity provider gave.
    pub(super) async fn exchange_for_unscoped(
        &self,
        api: &Api,
        federated: &Federated,
        access: &TokenId,
    ) -> Result<Token, AuthError> {
        let mut request = request(Method::POST, &api.base, &federated.path(), Bytes::new());
        request.headers_mut().insert(AUTHORIZATION, access.with_scheme("Bearer"));
        let sent = now();
        let answer = self.send(&api.base, request).await?;
        read_unscoped(&answer, sent, &[access.expose()], "access tokens (OAuth 2.0)")
    }

    /// Shows a Kerberos ticket where others show what an identity provider gave.
    async fn log_in_federated_by_ticket(
        &self,
        api: &Api,
        federated: &Federated,
        mutual: MutualAuth,
    ) -> Result<Token, AuthError> {
        let request = request(Method::GET, &api.base, &federated.path(), Bytes::new());
        let sent = now();
        let answer = self.send_with_ticket(&api.base, request, mutual).await?;
        read_unscoped(&answer, sent, &[], "Kerberos tickets (Negotiate)")
    }

    /// Asks the identity provider for a token by this grant.
    pub(super) async fn ask_for_token(
        &self,
        client: &OAuthClient,
        grant: &'static str,
        mut fields: Vec<(&str, &str)>,
    ) -> Result<Given, AuthError> {
        let endpoint = &client.token_endpoint;
        // Whoever gave a refresh token takes it, whatever the document lists.
        let listed = Some(grant).filter(|grant| *grant != REFRESH_GRANT);
        let endpoint = self.find(endpoint, listed, "token_endpoint", "access_token_endpoint").await?;
        fields.push(("grant_type", grant));
        let secret = self.client_secret(client).await?;
        if secret.is_none() {
            fields.push(("client_id", &client.id));
        }
        let answer =
            self.post_form(&endpoint, "access_token_endpoint", client, secret.as_ref(), &fields).await?;
        // Names and ids are no secrets; whatever else was sent is taken for one.
        let known = ["grant_type", "scope", "username", "client_id"];
        let mut secrets: Vec<_> =
            fields.iter().filter(|(name, _)| !known.contains(name)).map(|(_, value)| *value).collect();
        secrets.extend(secret.as_ref().map(Secret::expose));
        let token = provider::read_token(endpoint.origin(), &answer, client.token_kind, &secrets)?;
        Ok((token, provider::read_refresh(&answer)))
    }

    pub(super) async fn client_secret(&self, client: &OAuthClient) -> Result<Option<Secret>, AuthError> {
        match &client.secret {
            Some(source) => proof::read(source).await.map(Some),
            None => Ok(None),
        }
    }

    /// Where the provider serves this: the configuration says it in `option`, or its document in `member`.
    pub(super) async fn find(
        &self,
        endpoint: &ProviderEndpoint,
        grant: Option<&str>,
        member: &str,
        option: &str,
    ) -> Result<ProviderUrl, AuthError> {
        match endpoint {
            ProviderEndpoint::At(url) => Ok(url.clone()),
            ProviderEndpoint::Discovered(discovery) => {
                let document = self.discover(discovery).await?;
                if let Some(grant) = grant {
                    document.check_grant(grant)?;
                }
                Ok(document.endpoint(member, option)?)
            }
        }
    }

    pub(super) async fn discover(&self, discovery: &ProviderUrl) -> Result<Document, AuthError> {
        let request = Request::builder().uri(discovery.target()).header(ACCEPT, "application/json");
        let request = request.body(Bytes::new()).expect("its target was parsed as one");
        let answer = self.ask_provider(discovery, "discovery_endpoint", request).await?;
        Ok(Document::read(discovery, &answer)?)
    }

    /// Posts a form as this client: with its id and secret as a user's name and password, if it has one.
    pub(super) async fn post_form(
        &self,
        endpoint: &ProviderUrl,
        option: &'static str,
        client: &OAuthClient,
        secret: Option<&Secret>,
        fields: &[(&str, &str)],
    ) -> Result<Response<Bytes>, AuthError> {
        let request =
            Request::builder().method(Method::POST).uri(endpoint.target()).header(ACCEPT, "application/json");
        let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        let mut request = request.body(provider::form(fields)).expect("its target was parsed as one");
        if let Some(secret) = secret {
            let (_, value): (_, HeaderValue) = token::basic(&client.id, secret);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        self.ask_provider(endpoint, option, request).await
    }

    pub(super) async fn ask_provider(
        &self,
        url: &ProviderUrl,
        option: &'static str,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>, AuthError> {
        let host = || url.origin().to_string();
        let after = self.deadline / STEPS;
        match tokio::time::timeout(after, self.exchange(url.origin(), request, LONGEST_ANSWER)).await {
            Err(_) => Err(ProviderError::Timeout { host: host(), after }.into()),
            Ok(Err(cause)) => {
                Err(ProviderError::Unreachable { host: host(), option, cause: cause.into() }.into())
            }
            Ok(Ok(answer)) => Ok(answer),
        }
    }
}

/// The unscoped token that Keystone gave, or why it did not. `taken` is what the server in front of it has to take.
fn read_unscoped(
    answer: &Response<Bytes>,
    sent: Sent,
    secrets: &[&str],
    taken: &str,
) -> Result<Token, AuthError> {
    if matches!(answer.status(), StatusCode::CREATED | StatusCode::OK) {
        return protocol::read_v3_token(answer, sent);
    }
    Err(match not_accepted(answer, secrets) {
        AuthError::BadReply { .. } if answer.status().is_redirection() => AuthError::BadReply {
            what: format!(
                "Keystone answered the federated login with a redirect to a login page; this protocol is for browsers \
                 there, so check protocol, and that the server in front of Keystone takes {taken} for it"
            ),
        },
        other => other,
    })
}

/// What a refusal of Keystone's means, or of the server in front of it, for what the identity provider gave.
pub(super) fn not_accepted(answer: &Response<Bytes>, secrets: &[&str]) -> AuthError {
    match protocol::refusal(answer, "the federated login", secrets) {
        AuthError::Rejected { status, message } => ProviderError::NotAccepted { status, message }.into(),
        AuthError::BadReply { .. } if answer.status() == StatusCode::NOT_FOUND => AuthError::BadReply {
            what: "Keystone knows no such identity_provider and protocol, or no federation at all (404); check both"
                .to_owned(),
        },
        other => other,
    }
}
