//! Logins by SAML without a browser: the service provider before Keystone turns an assertion into a session, and
//! Keystone gives an unscoped token to whoever has one.
//!
//! The steps are fixed, whatever is answered: each place is asked once, and no redirect is followed. The password goes
//! to `identity_provider_url` alone, and what comes of it to Keystone's own origin.

use std::fmt::Write as _;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};

use super::federated::not_accepted;
use super::{Api, Client, now, request};
use crate::keystone::federation::{Federated, ProviderUser};
use crate::keystone::protocol::{self, bad_reply};
use crate::keystone::provider::{self, ProviderError, ProviderUrl};
use crate::keystone::saml::{self, AuthnRequest, Cookies, PAOS, PAOS_VERSIONS, TokenRequest, Unusable};
use crate::keystone::{AuthError, Token, proof, token};
use crate::private;

impl Client {
    /// By SAML's profile for enhanced clients (ECP): the service provider's question goes to the identity provider,
    /// and its answer back.
    pub(super) async fn log_in_by_saml(
        &self,
        api: &Api,
        federated: &Federated,
        user: &ProviderUser,
    ) -> Result<Token, AuthError> {
        let password = proof::read(&user.password).await?;
        let mut cookies = Cookies::default();
        let asked = self.send(&api.base, at_door(api, federated, &cookies)).await?;
        cookies.take(asked.headers());
        let question = read_question(&asked)?;
        let keystone = api.base.origin();
        let Some(consumer) = ProviderUrl::target_at(keystone, &question.consumer) else {
            return Err(bad_reply(format!(
                "the service provider in front of Keystone wants the identity provider's answer elsewhere than at \
                 {keystone}, and gets none; set auth_url to the name under which it knows itself"
            )));
        };

        let (shown, basic) = token::basic(&user.username, &password);
        let mut carried = post(user.endpoint.target(), "text/xml; charset=utf-8", question.envelope.clone());
        carried.headers_mut().insert(AUTHORIZATION, basic);
        let answer = self.ask_provider(&user.endpoint, "identity_provider_url", carried).await?;
        let secrets = [password.expose(), shown.expose()];
        let read = question.answer(answer.body(), &secrets);
        if read == Err(Unusable::OtherConsumer) && answer.status() == StatusCode::OK {
            // Whatever comes of it: it is for the service provider's log.
            let mut fault = post(&consumer, PAOS, saml::fault());
            cookies.put(fault.headers_mut());
            let _ = self.send(&api.base, fault).await;
        }
        let envelope = of_provider(user, &answer, read, &secrets)?;
        self.enter(api, federated, post(&consumer, PAOS, envelope), cookies).await
    }

    /// By WS-Trust, as AD FS has it: the identity provider gives an assertion to whoever asks with a password.
    pub(super) async fn log_in_by_trust(
        &self,
        api: &Api,
        federated: &Federated,
        user: &ProviderUser,
        service_provider: &ProviderUrl,
        entity_id: &str,
    ) -> Result<Token, AuthError> {
        let password = proof::read(&user.password).await?;
        let to = format!("{}{}", user.endpoint.origin(), user.endpoint.target());
        let id = private::random::<16>().iter().fold(String::new(), |mut id, byte| {
            let _ = write!(id, "{byte:02x}");
            id
        });
        let asked = TokenRequest {
            to: &to,
            applies_to: entity_id,
            username: &user.username,
            password: &password,
            id: &id,
        };
        let envelope = asked.envelope(SystemTime::now()).ok_or_else(|| AuthError::NoSecret {
            why: "the password, or username or service_provider_entity_id, has a control character, which XML has no \
                  place for"
                .to_owned(),
        })?;
        let asked = post(user.endpoint.target(), "application/soap+xml; charset=utf-8", envelope);
        let answer = self.ask_provider(&user.endpoint, "identity_provider_url", asked).await?;
        let secrets = [password.expose()];
        let form = of_provider(user, &answer, saml::sign_in(answer.body(), &secrets), &secrets)?;
        let asked = post(service_provider.target(), "application/x-www-form-urlencoded", form);
        self.enter(api, federated, asked, Cookies::default()).await
    }

    /// Hands an assertion to the service provider, and asks Keystone with the session that this opens.
    async fn enter(
        &self,
        api: &Api,
        federated: &Federated,
        mut assertion: Request<Bytes>,
        mut cookies: Cookies,
    ) -> Result<Token, AuthError> {
        cookies.put(assertion.headers_mut());
        let mut sent = now();
        let mut answer = self.send(&api.base, assertion).await?;
        cookies.take(answer.headers());
        // Where a redirect leads is no matter: Keystone's address is known.
        if leads_on(&answer) {
            if cookies.is_empty() {
                return Err(bad_reply(
                    "the service provider in front of Keystone took the identity provider's assertion and opened no \
                     session (no cookie); is its address right, and the protocol?",
                ));
            }
            sent = now();
            answer = self.send(&api.base, at_door(api, federated, &cookies)).await?;
            if leads_on(&answer) {
                return Err(bad_reply(format!(
                    "Keystone answered {} and gave no token, as if the service provider in front of it had opened no \
                     session; is protocol right, and is the session's cookie good for Keystone's path?",
                    answer.status()
                )));
            }
        }
        if is_token(&answer) {
            return protocol::read_v3_token(&answer, sent);
        }
        if matches!(answer.status(), StatusCode::BAD_REQUEST | StatusCode::INTERNAL_SERVER_ERROR) {
            return Err(bad_reply(format!(
                "Keystone, or the service provider in front of it, answered the identity provider's assertion with {}; \
                 its log says why: often a clock, a certificate, or metadata that is not up to date",
                answer.status()
            )));
        }
        Err(not_accepted(&answer, &cookies.values()))
    }
}

/// Asks for the unscoped token, as a client that can carry envelopes.
fn at_door(api: &Api, federated: &Federated, cookies: &Cookies) -> Request<Bytes> {
    let mut request = request(Method::GET, &api.base, &federated.path(), Bytes::new());
    let headers = request.headers_mut();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, application/vnd.paos+xml"));
    headers.insert("paos", HeaderValue::from_static(PAOS_VERSIONS));
    cookies.put(headers);
    request
}

fn post(target: &str, content_type: &'static str, body: Bytes) -> Request<Bytes> {
    let request = Request::post(target).header(ACCEPT, "*/*").header(CONTENT_TYPE, content_type);
    request.body(body).expect("its target was parsed as one")
}

fn is_token(answer: &Response<Bytes>) -> bool {
    matches!(answer.status(), StatusCode::CREATED | StatusCode::OK)
        && answer.headers().contains_key("x-subject-token")
}

/// Whether it is no token, and nothing went wrong.
fn leads_on(answer: &Response<Bytes>) -> bool {
    !is_token(answer) && (answer.status().is_success() || answer.status().is_redirection())
}

fn is_question(answer: &Response<Bytes>) -> bool {
    answer.status() == StatusCode::OK && media_type(answer.headers()).eq_ignore_ascii_case(PAOS)
}

fn media_type(headers: &HeaderMap) -> &str {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim()
}

/// What the service provider wants to know of the identity provider.
fn read_question(answer: &Response<Bytes>) -> Result<AuthnRequest, AuthError> {
    if is_question(answer) {
        return AuthnRequest::read(answer.body()).map_err(|error| {
            bad_reply(format!("the service provider in front of Keystone began the login with {error}"))
        });
    }
    match not_accepted(answer, &[]) {
        other if other.retry_after().is_some() || matches!(other, AuthError::Unavailable { .. }) => {
            Err(other)
        }
        other if answer.status() == StatusCode::NOT_FOUND => Err(other),
        _ => Err(bad_reply(format!(
            "Keystone answered the login with {} and without a question for the identity provider; check protocol, and \
             that the service provider in front of Keystone (mod_auth_mellon, Shibboleth) has SAML's profile ECP for it",
            answer.status()
        ))),
    }
}

/// The document that was made of the identity provider's answer, unless its status says something else.
fn of_provider(
    user: &ProviderUser,
    answer: &Response<Bytes>,
    read: Result<Bytes, Unusable>,
    secrets: &[&str],
) -> Result<Bytes, ProviderError> {
    let from = user.endpoint.origin();
    let (host, status) = (from.to_string(), answer.status());
    let is_busy = matches!(status.as_u16(), 429 | 502..=504);
    let (code, message) = match read {
        Ok(document) if status == StatusCode::OK => return Ok(document),
        // Faults come with 500. One may be something else than a wrong password; but an account that gets locked
        // is worse than a login that is not tried again.
        Err(Unusable::Declined { code, message }) if !is_busy => (code, message),
        _ if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => (None, None),
        Err(Unusable::OtherConsumer) if status == StatusCode::OK => {
            let what = "gave an answer for another address than the service provider in front of Keystone has, so it \
                        was thrown away; bring the metadata that the two have of each other up to date"
                .to_owned();
            return Err(ProviderError::BadReply { host, what });
        }
        Err(Unusable::Other(what)) if status == StatusCode::OK => {
            let what = format!("answered the login with {what}; is identity_provider_url right?");
            return Err(ProviderError::BadReply { host, what });
        }
        _ => return Err(provider::refusal(from, answer, "the login", secrets)),
    };
    Err(ProviderError::RefusedUser { host, status: status.as_u16(), code, message })
}
