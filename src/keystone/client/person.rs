//! Logins that need a person: gone through once, and the token that they leave is found by others.

use std::time::{Duration, SystemTime};

use http::header::DATE;
use http::{Method, StatusCode};

use super::federated::{Given, REFRESH_GRANT};
use super::{Api, Client, Credentials, now};
use crate::keystone::callback::{self, Brought, Callback, Wanted};
use crate::keystone::federation::{
    self, Challenge, CodeSource, Federated, Grant, OAuthClient, ProviderEndpoint,
};
use crate::keystone::provider::{self, Device, ProviderError};
use crate::keystone::{
    AuthError, Kept, LoginId, Person, Place, Scope, Secret, Token, TokenId, proof, protocol,
};
use crate::{private, secret};

/// RFC 8628, section 3.4.
const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// RFC 6749, section 4.1.3.
const CODE_GRANT: &str = "authorization_code";

/// How much longer to wait between questions when the provider asks for that (RFC 8628, section 3.5).
const SLOWER: Duration = Duration::from_secs(5);

/// Tells a person what to do: in words, and the address that a browser should open.
pub type Tell<'a> = dyn FnMut(&str, &str) + Send + 'a;

impl Client {
    /// What a person's login left behind, which is read each time: there may be a new one. Where it is about to end
    /// or Keystone `refused` it, and the identity provider lets it be renewed, it is renewed.
    pub(super) async fn left_behind(
        &self,
        api: &Api,
        person: &Person,
        refused: Option<&TokenId>,
    ) -> Result<Kept, AuthError> {
        let now = SystemTime::now();
        let kept = load(person).await?;
        let is_refused = refused == Some(&kept.token);
        let is_good = kept.left(now).is_some() && !is_refused;
        if kept.refresh.is_some() && (kept.is_due(now) || is_refused) {
            // Whoever waits for it may go away; what the provider gives is good once, and must not get lost.
            let (client, api, refused) = (self.clone(), api.clone(), refused.cloned());
            let whose = person.clone();
            let renewing = tokio::spawn(async move { client.renew(&api, &whose, refused.as_ref()).await });
            match renewing.await.unwrap_or(Err(AuthError::Stopped)) {
                Err(error) if is_good => {
                    let (cloud, error) = (&person.cloud, secret::causes(&error));
                    tracing::warn!(
                        cloud,
                        error,
                        "the login was not renewed so far, and serves until its end"
                    );
                }
                renewed => return renewed,
            }
        }
        if !is_good {
            return Err(AuthError::LoginRequired { cloud: person.cloud.clone() });
        }
        if kept.ends_soon(now) {
            tracing::warn!(
                cloud = person.cloud,
                seconds_left = kept.left(now).unwrap_or_default().as_secs(),
                "the login ends soon, and it takes a person to renew it: run `keyway login` again"
            );
        }
        Ok(kept)
    }

    /// Renews what was left behind, unless another keyway just did.
    async fn renew(&self, api: &Api, person: &Person, refused: Option<&TokenId>) -> Result<Kept, AuthError> {
        let required = || AuthError::LoginRequired { cloud: person.cloud.clone() };
        let (Credentials::Federated(federated), Some(place)) = (&self.identity.method, &person.place) else {
            return Err(required());
        };
        let client = federated.person_client().ok_or_else(required)?;
        // One at a time here, and of all keyways.
        let _turn = self.kept.lock().await;
        let Some(_lock) = place.lock().await.map_err(no_place)? else {
            // What renews a login is good once: two that show it end it.
            let why = "another keyway renews the login just now, and takes long".to_owned();
            return Err(AuthError::NoSecret { why });
        };
        let mut kept = load(person).await?;
        let is_good = |kept: &Kept, at| kept.left(at).is_some() && refused != Some(&kept.token);
        let at = SystemTime::now();
        let Some(refresh) = kept.refresh.clone().filter(|_| kept.is_due(at) || !is_good(&kept, at)) else {
            return if is_good(&kept, at) { Ok(kept) } else { Err(required()) };
        };
        let fields = vec![("refresh_token", refresh.expose())];
        let given = self.within_deadline(self.ask_for_token(client, REFRESH_GRANT, fields)).await;
        let (access, next) = match given {
            Ok(given) => given,
            Err(AuthError::Provider(error @ ProviderError::Refused { code: Some("invalid_grant"), .. })) => {
                tracing::warn!(
                    cloud = person.cloud,
                    error = secret::causes(&error),
                    "the login can't be renewed any more: run `keyway login` before it ends"
                );
                kept.refresh = None;
                save(place, &kept).await?;
                return if is_good(&kept, at) { Ok(kept) } else { Err(required()) };
            }
            Err(error) => return Err(error),
        };
        // Some give another one each time, and the old one is good for nothing then. It must not get lost, whatever
        // Keystone says.
        kept.refresh = next.or(kept.refresh);
        save(place, &kept).await?;
        let token = self.within_deadline(self.exchange_for_unscoped(api, federated, &access)).await?;
        let left = token.life_left(now().at).unwrap_or_default();
        let since = SystemTime::now();
        let user = token.user.map(|user| user.name);
        let kept = Kept { token: token.id, user, since, ends: since + left, ..kept };
        save(place, &kept).await?;
        tracing::info!(cloud = person.cloud, lifetime_s = left.as_secs(), "the login was renewed");
        Ok(kept)
    }

    /// Goes through a login that needs a person, who is told what to do by `tell`. A passcode that one types is in
    /// the credentials already (see [`Method::with_passcode`](crate::keystone::Method::with_passcode)).
    ///
    /// # Errors
    /// See [`AuthError`].
    pub async fn log_in_with_person(&self, tell: &mut Tell<'_>) -> Result<Kept, AuthError> {
        let api = self.within_deadline(self.api()).await?;
        let (token, left, refresh) = match &self.identity.method {
            Credentials::Federated(federated) => self.log_in_at_provider(&api, federated, tell).await?,
            _ => {
                let showing =
                    async { self.present(&api, self.factors().await?, Some(&Scope::Unscoped)).await };
                let token = self.within_deadline(showing).await?;
                let left = token.life_left(now().at).unwrap_or_default();
                (token, left, None)
            }
        };
        let since = SystemTime::now();
        let user = token.user.map(|user| user.name);
        let login = LoginId::random();
        Ok(Kept { login, token: token.id, refresh, user, since, ends: since + left })
    }

    /// The unscoped token, what is left of its life, and what renews it.
    async fn log_in_at_provider(
        &self,
        api: &Api,
        federated: &Federated,
        tell: &mut Tell<'_>,
    ) -> Result<(Token, Duration, Option<Secret>), AuthError> {
        let (access, refresh) = match &federated.grant {
            Grant::Device { client, endpoint, challenge } => {
                self.ask_device(client, endpoint, *challenge, tell).await?
            }
            Grant::Code { client, redirect_uri, from } => {
                self.ask_with_code(client, redirect_uri.as_deref(), from, tell).await?
            }
            Grant::WebSso { redirect_host, redirect_port, login_timeout, .. } => {
                let other = "redirect_port (and Keystone's trusted_dashboard)";
                let callback = listen(redirect_host, *redirect_port, callback::PATH, other).await?;
                let start = format!("{}{}", api.base, federated.browser_path(&callback.address()));
                tell(&format!("To log in, open {start} in a browser on this machine."), &start);
                let brought = callback.wait(&Wanted::Token(api.base.origin().clone()), *login_timeout).await;
                let Some(Brought::Token(token)) = brought else {
                    let where_else = format!("Keystone's trusted_dashboard has {}", callback.address());
                    return Err(nothing_came(*login_timeout, &where_else));
                };
                let (token, left) = self.within_deadline(self.look_at(api, token)).await?;
                return Ok((token, left, None));
            }
            Grant::Saml(_) | Grant::Adfs { .. } | Grant::Kerberos(_) => {
                return Err(AuthError::LoginRequired { cloud: federated.person.cloud.clone() });
            }
            Grant::AccessToken(_) | Grant::Password { .. } | Grant::ClientCredentials(_) => {
                self.within_deadline(self.ask_without_person(federated)).await?
            }
        };
        let token = self.within_deadline(self.exchange_for_unscoped(api, federated, &access)).await?;
        let left = token.life_left(now().at).unwrap_or_default();
        Ok((token, left, refresh))
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
        tell: &mut Tell<'_>,
    ) -> Result<Given, AuthError> {
        let tokens = &client.token_endpoint;
        let tokens = self.find(tokens, Some(CODE_GRANT), "token_endpoint", "access_token_endpoint").await?;
        let (verifier, nonce) = (federation::verifier(), federation::verifier());
        let (code, is_ours) = match from {
            CodeSource::Given(source) => (proof::read(source).await?, false),
            CodeSource::Browser { authorization, redirect, login_timeout } => {
                let member = "authorization_endpoint";
                let begin = self.find(authorization, Some(CODE_GRANT), member, member).await?;
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
                if federation::is_offline(&client.scope) {
                    // Else it is ignored (OpenID Connect Core 1.0, section 11).
                    fields.push(("prompt", "consent"));
                }
                let address = begin.with_query(&fields);
                tell(&format!("To log in, open {address} in a browser on this machine."), &address);
                match callback.wait(&Wanted::Code(state), *login_timeout).await {
                    Some(Brought::Code(code)) => (code, true),
                    Some(Brought::No(error)) => {
                        return Err(provider::declined(begin.origin(), &error).into());
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
        let token = provider::read_token(tokens.origin(), &answer, client.token_kind, &secrets)?;
        if is_ours {
            provider::check_nonce(tokens.origin(), &answer, &nonce)?;
        }
        Ok((token, provider::read_refresh(&answer)))
    }

    /// A token for a person who agrees to it in a browser, anywhere (RFC 8628).
    async fn ask_device(
        &self,
        client: &OAuthClient,
        endpoint: &ProviderEndpoint,
        challenge: Option<Challenge>,
        tell: &mut Tell<'_>,
    ) -> Result<Given, AuthError> {
        let option = "device_authorization_endpoint";
        let endpoint = self.find(endpoint, Some(DEVICE_GRANT), option, option).await?;
        let tokens = &client.token_endpoint;
        let tokens = self.find(tokens, Some(DEVICE_GRANT), "token_endpoint", "access_token_endpoint").await?;
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
        match &device.complete {
            Some(complete) => tell(
                &format!(
                    "To log in, open {complete} in a browser.\nOr open {address} and enter the code {user_code}"
                ),
                complete,
            ),
            None => {
                let text = format!("To log in, open {address} in a browser and enter the code {user_code}");
                tell(&text, address);
            }
        }
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
                Ok(answer) => match provider::error_code(answer.body()).as_deref() {
                    Some("authorization_pending") => continue,
                    Some("slow_down") => {
                        interval += SLOWER;
                        continue;
                    }
                    _ => match provider::read_token(tokens.origin(), &answer, client.token_kind, &secrets) {
                        Ok(token) => return Ok((token, provider::read_refresh(&answer))),
                        Err(error) => error,
                    },
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

    /// Has Keystone revoke what a login left, and the identity provider what renews it, as far as that can be done.
    ///
    /// # Errors
    /// See [`AuthError`].
    pub async fn revoke_login(&self, kept: &Kept) -> Result<(), AuthError> {
        let at_keystone = self.revoke(&kept.token).await;
        let at_provider = self.revoke_refresh(kept).await;
        at_keystone.and(at_provider)
    }

    async fn revoke_refresh(&self, kept: &Kept) -> Result<(), AuthError> {
        let (Credentials::Federated(federated), Some(refresh)) = (&self.identity.method, &kept.refresh)
        else {
            return Ok(());
        };
        let Some(client) = federated.person_client() else { return Ok(()) };
        let ProviderEndpoint::Discovered(discovery) = &client.token_endpoint else { return Ok(()) };
        self.within_deadline(async {
            let document = self.discover(discovery).await?;
            // RFC 7009; not every provider has it.
            let member = "revocation_endpoint";
            let Ok(endpoint) = document.endpoint(member, member) else { return Ok(()) };
            let secret = self.client_secret(client).await?;
            let mut fields = vec![("token", refresh.expose()), ("token_type_hint", "refresh_token")];
            fields.extend(secret.is_none().then_some(("client_id", client.id.as_str())));
            let answer = self.post_form(&endpoint, member, client, secret.as_ref(), &fields).await?;
            if answer.status() == StatusCode::OK {
                return Ok(());
            }
            let mut secrets = vec![refresh.expose()];
            secrets.extend(secret.as_ref().map(Secret::expose));
            let asked = "the revocation of what renews the login";
            Err(provider::refusal(endpoint.origin(), &answer, asked, &secrets).into())
        })
        .await
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

/// What a person's login left behind.
async fn load(person: &Person) -> Result<Kept, AuthError> {
    let required = || AuthError::LoginRequired { cloud: person.cloud.clone() };
    let place = person.place.clone().ok_or_else(required)?;
    let loaded = tokio::task::spawn_blocking(move || place.load()).await.map_err(|_| AuthError::Stopped)?;
    loaded.map_err(no_place)?.ok_or_else(required)
}

async fn save(place: &Place, kept: &Kept) -> Result<(), AuthError> {
    let (place, kept) = (place.clone(), kept.clone());
    let saved = tokio::task::spawn_blocking(move || place.save(&kept)).await;
    saved.map_err(|_| AuthError::Stopped)?.map_err(no_place)
}

fn no_place(error: private::Error) -> AuthError {
    AuthError::NoSecret { why: secret::causes(&error) }
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
