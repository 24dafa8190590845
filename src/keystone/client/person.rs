//! Logins that need a person: gone through once, and the token that they leave is found by others.

use std::time::{Duration, SystemTime};

use http::header::DATE;
use http::{Method, StatusCode};

use super::{Api, Client, now};
use crate::keystone::callback::{self, Brought, Callback, Wanted};
use crate::keystone::federation::{
    self, Challenge, CodeSource, Device, Federated, Grant, OAuthClient, ProviderEndpoint, ProviderError,
};
use crate::keystone::{AuthError, Kept, Secret, Token, TokenId, proof, protocol};
use crate::secret;

/// RFC 8628, section 3.4.
const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// RFC 6749, section 4.1.3.
const CODE_GRANT: &str = "authorization_code";

/// How much longer to wait between questions when the provider asks for that (RFC 8628, section 3.5).
const SLOWER: Duration = Duration::from_secs(5);

impl Client {
    /// The token that a person's login left behind, which is read each time: there may be a new one.
    pub(super) async fn left_behind(
        &self,
        federated: &Federated,
        refused: Option<&TokenId>,
    ) -> Result<TokenId, AuthError> {
        let cloud = federated.cloud.clone();
        let Some(place) = federated.place.clone() else {
            return Err(AuthError::LoginRequired { cloud });
        };
        let loaded =
            tokio::task::spawn_blocking(move || place.load()).await.map_err(|_| AuthError::Stopped)?;
        let kept = loaded.map_err(|error| AuthError::NoSecret { why: secret::causes(&error) })?;
        let now = SystemTime::now();
        let kept = kept.filter(|kept| refused != Some(&kept.token));
        let Some((kept, left)) = kept.and_then(|kept| kept.left(now).map(|left| (kept, left))) else {
            return Err(AuthError::LoginRequired { cloud });
        };
        if kept.ends_soon(now) {
            tracing::warn!(
                cloud,
                seconds_left = left.as_secs(),
                "the login ends soon, and it takes a person to renew it: run `keyway login` again"
            );
        }
        Ok(kept.token)
    }

    /// Goes through a login that needs a person, who is told what to do by `tell`.
    ///
    /// # Errors
    /// See [`AuthError`]; [`AuthError::LoginRequired`] for a login that keyway does by itself.
    pub async fn log_in_with_person(
        &self,
        federated: &Federated,
        tell: &mut (dyn FnMut(&str) + Send),
    ) -> Result<Kept, AuthError> {
        let api = self.within_deadline(self.api()).await?;
        let (token, left) = match &federated.grant {
            Grant::Device { client, endpoint, challenge } => {
                let access = self.ask_device(client, endpoint, *challenge, tell).await?;
                let token = self.exchange_for_unscoped(&api, federated, &access);
                let token = self.within_deadline(token).await?;
                let left = token.life_left(now().at).unwrap_or_default();
                (token, left)
            }
            Grant::Code { client, redirect_uri, from } => {
                let access = self.ask_with_code(client, redirect_uri.as_deref(), from, tell).await?;
                let token = self.exchange_for_unscoped(&api, federated, &access);
                let token = self.within_deadline(token).await?;
                let left = token.life_left(now().at).unwrap_or_default();
                (token, left)
            }
            Grant::WebSso { redirect_host, redirect_port, login_timeout, .. } => {
                let other = "redirect_port (and Keystone's trusted_dashboard)";
                let callback = listen(redirect_host, *redirect_port, callback::PATH, other).await?;
                let start = format!("{}{}", api.base, federated.browser_path(&callback.address()));
                tell(&format!("To log in, open {start} in a browser on this machine."));
                let brought = callback.wait(&Wanted::Token(api.base.origin().clone()), *login_timeout).await;
                let Some(Brought::Token(token)) = brought else {
                    let where_else = format!("Keystone's trusted_dashboard has {}", callback.address());
                    return Err(nothing_came(*login_timeout, &where_else));
                };
                self.within_deadline(self.look_at(&api, token)).await?
            }
            Grant::AccessToken(_)
            | Grant::Password { .. }
            | Grant::Saml(_)
            | Grant::Adfs { .. }
            | Grant::Kerberos(_)
            | Grant::ClientCredentials(_) => {
                return Err(AuthError::LoginRequired { cloud: federated.cloud.clone() });
            }
        };
        let since = SystemTime::now();
        let user = token.user.map(|user| user.name);
        Ok(Kept { token: token.id, user, since, ends: since + left })
    }

    /// Asks Keystone what a token is that somebody brought, and what is left of its life: it need not be new.
    async fn look_at(&self, api: &Api, id: TokenId) -> Result<(Token, Duration), AuthError> {
        let sent = now();
        let answer = self.ask_about(Method::GET, api, &id).await?;
        if answer.status() != StatusCode::OK {
            return Err(protocol::refusal(
                &answer,
                "the question what the browser's token is",
                &[id.expose()],
            ));
        }
        let token = protocol::read_v3_document(&answer, Some(id), sent)?;
        let date = answer.headers().get(DATE).and_then(|date| date.to_str().ok());
        let date = date.and_then(|date| httpdate::parse_http_date(date).ok()).unwrap_or(sent.wall);
        let ends = token.expires_at.and_then(|at| u64::try_from(at).ok()).unwrap_or_default();
        let left =
            (SystemTime::UNIX_EPOCH + Duration::from_secs(ends)).duration_since(date).unwrap_or_default();
        let left = left.min(token.lifetime());
        Ok((token, left))
    }

    /// A token for a code, which a browser brings or somebody wrote down (RFC 6749, section 4.1).
    async fn ask_with_code(
        &self,
        client: &OAuthClient,
        redirect_uri: Option<&str>,
        from: &CodeSource,
        tell: &mut (dyn FnMut(&str) + Send),
    ) -> Result<TokenId, AuthError> {
        let tokens = &client.token_endpoint;
        let tokens = self.find(tokens, CODE_GRANT, "token_endpoint", "access_token_endpoint").await?;
        let (verifier, nonce) = (federation::verifier(), federation::verifier());
        let (code, is_ours) = match from {
            CodeSource::Given(source) => (proof::read(source).await?, false),
            CodeSource::Browser { authorization, redirect, login_timeout } => {
                let member = "authorization_endpoint";
                let begin = self.find(authorization, CODE_GRANT, member, member).await?;
                let here = redirect.origin();
                let callback = listen(here.host(), here.port(), redirect.target(), "redirect_uri").await?;
                let state = federation::verifier();
                let challenge = federation::challenge_fields(Challenge::S256, &verifier);
                let mut fields = vec![
                    ("response_type", "code"),
                    ("client_id", &client.id),
                    ("redirect_uri", redirect_uri.unwrap_or_default()),
                    ("scope", &client.scope),
                    ("state", state.expose()),
                    ("nonce", nonce.expose()),
                ];
                fields.extend(challenge.iter().map(|(name, value)| (*name, value.as_str())));
                tell(&format!("To log in, open {} in a browser on this machine.", begin.with_query(&fields)));
                match callback.wait(&Wanted::Code(state), *login_timeout).await {
                    Some(Brought::Code(code)) => (code, true),
                    Some(Brought::No(error)) => {
                        return Err(federation::declined(begin.origin(), &error).into());
                    }
                    Some(Brought::Token(_)) | None => {
                        let where_else =
                            format!("the identity provider lets this client use {}", callback.address());
                        return Err(nothing_came(*login_timeout, &where_else));
                    }
                }
            }
        };
        let secret = self.client_secret(client).await?;
        let mut fields = vec![("grant_type", CODE_GRANT), ("code", code.expose())];
        fields.extend(redirect_uri.map(|uri| ("redirect_uri", uri)));
        fields.extend(is_ours.then(|| ("code_verifier", verifier.expose())));
        fields.extend(secret.is_none().then_some(("client_id", client.id.as_str())));
        let answer =
            self.post_form(&tokens, "access_token_endpoint", client, secret.as_ref(), &fields).await?;
        let mut secrets: Vec<_> = secret.iter().map(Secret::expose).collect();
        secrets.extend([code.expose(), verifier.expose()]);
        let token = federation::read_token(tokens.origin(), &answer, client.token_kind, &secrets)?;
        if is_ours {
            federation::check_nonce(tokens.origin(), &answer, &nonce)?;
        }
        Ok(token)
    }

    /// A token for a person who agrees to it in a browser, anywhere (RFC 8628).
    async fn ask_device(
        &self,
        client: &OAuthClient,
        endpoint: &ProviderEndpoint,
        challenge: Option<Challenge>,
        tell: &mut (dyn FnMut(&str) + Send),
    ) -> Result<TokenId, AuthError> {
        let option = "device_authorization_endpoint";
        let endpoint = self.find(endpoint, DEVICE_GRANT, option, option).await?;
        let tokens = &client.token_endpoint;
        let tokens = self.find(tokens, DEVICE_GRANT, "token_endpoint", "access_token_endpoint").await?;
        let secret = self.client_secret(client).await?;
        let verifier = challenge.map(|challenge| (challenge, federation::verifier()));
        let shown =
            verifier.as_ref().map(|(challenge, verifier)| federation::challenge_fields(*challenge, verifier));
        // Some want the id here whatever else shows who asks.
        let mut fields = vec![("client_id", client.id.as_str()), ("scope", &client.scope)];
        fields.extend(shown.iter().flatten().map(|(name, value)| (*name, value.as_str())));
        let answer = self.post_form(&endpoint, option, client, secret.as_ref(), &fields).await?;
        let mut secrets: Vec<_> = secret.iter().map(Secret::expose).collect();
        secrets.extend(verifier.iter().map(|(_, verifier)| verifier.expose()));
        let device = Device::read(endpoint.origin(), &answer, now().at, &secrets)?;

        let Device { address, user_code, .. } = &device;
        tell(&match &device.complete {
            Some(complete) => {
                format!(
                    "To log in, open {complete} in a browser.\nOr open {address} and enter the code {user_code}"
                )
            }
            None => format!("To log in, open {address} in a browser and enter the code {user_code}"),
        });
        let mut fields = vec![
            ("grant_type", DEVICE_GRANT),
            ("device_code", device.code.expose()),
            ("client_id", client.id.as_str()),
        ];
        fields.extend(verifier.iter().map(|(_, verifier)| ("code_verifier", verifier.expose())));
        secrets.push(device.code.expose());
        let mut interval = device.interval;
        loop {
            tokio::time::sleep(interval).await;
            if now().at >= device.ends {
                let (host, code) = (tokens.origin().to_string(), Some("expired_token"));
                return Err(ProviderError::Refused { host, status: 400, code, message: None }.into());
            }
            let answer =
                self.post_form(&tokens, "access_token_endpoint", client, secret.as_ref(), &fields).await;
            let error = match answer {
                Ok(answer) => match federation::error_code(answer.body()).as_deref() {
                    Some("authorization_pending") => continue,
                    Some("slow_down") => {
                        interval += SLOWER;
                        continue;
                    }
                    _ => {
                        match federation::read_token(tokens.origin(), &answer, client.token_kind, &secrets) {
                            Ok(token) => return Ok(token),
                            Err(error) => error,
                        }
                    }
                },
                Err(AuthError::Provider(error)) => error,
                Err(error) => return Err(error),
            };
            // It may come back before the code is over.
            if !error.is_temporary() {
                return Err(error.into());
            }
            interval += SLOWER;
        }
    }

    /// Revokes a token, which vouches for itself. One that is over or unknown is as good as revoked.
    ///
    /// # Errors
    /// See [`AuthError`].
    pub async fn revoke(&self, token: &TokenId) -> Result<(), AuthError> {
        self.within_deadline(async {
            let api = self.api().await?;
            let answer = self.ask_about(Method::DELETE, &api, token).await?;
            match answer.status() {
                StatusCode::NO_CONTENT
                | StatusCode::OK
                | StatusCode::UNAUTHORIZED
                | StatusCode::NOT_FOUND => Ok(()),
                _ => Err(protocol::refusal(&answer, "the revocation of a token", &[token.expose()])),
            }
        })
        .await
    }
}

/// Listens for a browser; `option` is what names another port.
async fn listen(host: &str, port: u16, path: &str, option: &str) -> Result<Callback, AuthError> {
    Callback::bind(host, port, path).await.map_err(|error| AuthError::NoBrowser {
        why: format!(
            "keyway can't listen at {host} port {port} ({error}); stop what does, or set {option} to another one"
        ),
    })
}

fn nothing_came(within: Duration, where_else: &str) -> AuthError {
    AuthError::NoBrowser {
        why: format!(
            "no browser brought a token within {} s; try again, set login_timeout if that is too short, and see that \
             {where_else}",
            within.as_secs()
        ),
    }
}
